"""The scheduler's environment has no torch, no media library and no arrays; what needs them says so in a sentence."""

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from rich.console import Console

from db.errors import FAILURES
from scheduler.cli import WORKER_PACKAGES
from scheduler.show import _counts

ROOT = Path(__file__).parent.parent.parent
OWN = {"db", "models", "worker", "scheduler"}
HIDE = "import sys; sys.modules.update(dict.fromkeys({names!r})); "


def scheduling(program: str, *arguments: str, cwd: Path = ROOT, hidden: frozenset[str] = WORKER_PACKAGES):
    """Run Python where a worker's packages cannot be imported."""
    command = [sys.executable, "-c", HIDE.format(names=sorted(hidden)) + program, *arguments]
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), "HOME": str(cwd)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def moodreel(*arguments: str, cwd: Path):
    return scheduling("from scheduler.cli import main; main()", *arguments, cwd=cwd)


def requirements(extra: str | None = None) -> set[str]:
    """The names of what moodreel requires, as it is installed: by itself, or for an extra."""
    wanted = [line for line in requires("moodreel") if ("extra ==" in line) == (extra is not None)]
    return {re.split(r"[^\w.-]", line)[0] for line in wanted if extra is None or re.search(f"extra == .{extra}.", line)}


def imported(folder: str) -> set[str]:
    """Every package that a folder's modules import, inside functions too."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / folder).rglob("*.py") if "training" not in path.parts]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - OWN


def test_the_base_requirements_are_the_schedulers():
    base = requirements()
    assert base == {
        "alembic",
        "boto3",
        "celery",
        "click",
        "prometheus-client",
        "python-json-logger",
        "redis",
        "rich",
        "sqlalchemy",
    }
    assert requirements("worker") >= {"torch", "transformers", "av", "numpy", "onnxruntime"}
    assert not base & requirements("worker")


def test_every_package_that_the_base_does_not_bring_is_known_as_a_workers():
    base = {
        "alembic",
        "boto3",
        "botocore",
        "celery",
        "click",
        "kombu",
        "prometheus_client",
        "pythonjsonlogger",
        "redis",
        "rich",
        "sqlalchemy",
    }
    assert imported("worker") | imported("models") <= WORKER_PACKAGES | base
    assert imported("worker") | imported("models") >= WORKER_PACKAGES
    assert imported("db") <= {"alembic", "sqlalchemy"}


def test_every_module_of_db_and_scheduler_can_be_imported_without_a_workers_packages():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("db", "scheduler")
        for path in (ROOT / folder).glob("*.py")
        if path.stem != "__init__"
    ]
    assert len(modules) > 15
    ran = scheduling(f"import importlib; [importlib.import_module(name) for name in {modules!r}]")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("arguments", [["annotate", "a.mp4"], ["fuse", "--all"]], ids=["annotate", "fuse"])
def test_a_command_that_needs_a_worker_says_what_to_install(arguments, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    ran = moodreel(*arguments, cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        "moodreel: numpy is not installed, and this command needs it",
        "  Install them: pip install 'moodreel[worker]'. [not_installed]",
    ]
    assert not (tmp_path / "moodreel.db").exists()


@pytest.mark.parametrize("side", ["audio", "video"])
def test_training_says_what_to_install(side, tmp_path):
    command = ("train", side, "--model", "x", "--data", ".", "--out", "out")
    ran = scheduling("from scheduler.cli import main; main()", *command, hidden=frozenset({"accelerate"}), cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        "moodreel: accelerate is not installed, and training needs that",
        "  Install what training needs: pip install 'moodreel[training]'. [not_installed]",
    ]
    everything = WORKER_PACKAGES | {"accelerate"}
    ran = scheduling("from scheduler.cli import main; main()", *command, hidden=everything, cwd=tmp_path)
    assert "torch, transformers, accelerate" in ran.stderr


def test_a_module_of_moodreel_that_is_missing_is_no_matter_of_installing(tmp_path):
    ran = scheduling("from scheduler.cli import main; main()", "status", hidden=frozenset({"scheduler.show"}))
    assert ran.returncode == 1
    assert "ModuleNotFoundError" in ran.stderr
    assert "pip install" not in ran.stderr


def test_what_needs_no_worker_works_without_its_packages(tmp_path):
    assert moodreel("migrate", cwd=tmp_path).returncode == 0
    ran = moodreel("status", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["videos"] == 0
    assert moodreel("--help", cwd=tmp_path).returncode == 0


def test_the_doctor_says_that_a_scheduler_does_not_annotate(tmp_path):
    ran = moodreel("doctor", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    findings = {finding["check"]: finding["says"] for finding in json.loads(ran.stdout)}
    assert findings["worker"].startswith("not installed")
    assert "pip install 'moodreel[worker]'" in findings["worker"]
    assert {"python", "moodreel", "celery", "redis", "database"} <= set(findings)
    assert not {"torch", "device", "weights", "decoding"} & set(findings)


def test_the_extra_that_is_to_be_installed_is_not_swallowed_as_markup(tmp_path):
    assert "pip install 'moodreel[worker]'" in " ".join(moodreel("doctor", cwd=tmp_path).stdout.split())
    console = Console(width=120)
    with console.capture() as capture:
        console.print(
            _counts("failures", {"not_installed": 1}, {"not_installed": FAILURES["not_installed"].what_to_do})
        )
    assert "pip install 'moodreel[worker]'" in capture.get()
