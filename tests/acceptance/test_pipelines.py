"""`moodreel pipelines add`, where the weights are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from db.store import Store
from worker.recipe import Recipe

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def moodreel(tmp_path: Path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from scheduler.cli import main; main()", "pipelines", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_a_pipeline_is_registered_once_and_a_worker_can_build_it(moodreel, tmp_path):
    for _ in range(2):
        ran = moodreel("add", "fine", "--window", "3", "--hop", "0.5", "--span", "60", "--fusion", "average")
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.startswith("fine is compact 3s/0.5s average ")
    with Store(str(tmp_path / "moodreel.db")) as store:
        (known,) = store.named_pipelines().values()
    recipe = Recipe.from_options(known.options)
    assert recipe.identity.digest == known.digest
    assert (recipe.plan.window_ms, recipe.plan.hop_ms, recipe.plan.span_ms) == (3000, 500, 60_000)
    (told,) = json.loads(moodreel("list", "--json").stdout)
    assert (told["pipeline"], told["digest"]) == ("fine", known.digest)


def test_a_name_moves_only_if_that_is_asked_for(moodreel, tmp_path):
    moodreel("add", "archive")
    refused = moodreel("add", "archive", "--window", "3")
    assert refused.returncode == 2
    assert "--replace" in refused.stderr
    with Store(str(tmp_path / "moodreel.db")) as store:
        assert store.pipeline_named("archive").config["plan"]["window_ms"] == 2000
    assert moodreel("add", "archive", "--window", "3", "--replace").stdout.startswith("archive now means compact 3s/1s")
    with Store(str(tmp_path / "moodreel.db")) as store:
        assert store.pipeline_named("archive").config["plan"]["window_ms"] == 3000
    assert moodreel("add", "again", "--window", "3").returncode == 0


@pytest.mark.parametrize(
    "arguments", [["x", "--window", "99"], ["x", "--span", "1"], ["x", "--preset", "paper"], [""], ["a\nb"]]
)
def test_what_cannot_be_registered_leaves_no_database(moodreel, tmp_path, arguments):
    ran = moodreel("add", *arguments)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "moodreel.db").exists()
