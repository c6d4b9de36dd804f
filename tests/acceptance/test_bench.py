"""The benchmark runs, and says all that it promises."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.bench import Plan, measure
from tests.benchmarks.page import page
from tests.database import missing

TINY = Plan(((180, 4, 1),), encode_seconds=4, n_windows=500, start_repeats=1)


@pytest.fixture(scope="module")
def found(media):
    if not Path("/proc/self/smaps_rollup").exists():
        missing("the benchmark reads /proc, which only Linux has")
    return measure(TINY, lambda line: None)


def test_the_document_is_complete(found):
    assert json.loads(json.dumps(found)) == found
    assert found.keys() == {"machine", "runs", "clips", "memory", "start_up", "stages", "databases"}
    (run,) = found["runs"]
    assert run["speed"] == pytest.approx(4 / run["wall_seconds"])
    assert run["peak_bytes"] > 200e6  # torch alone is that large, and the child is another process
    assert found["memory"]["ratio"] == 1.0
    assert found["start_up"]["help_seconds"] < found["start_up"]["models_seconds"]
    assert found["databases"].keys() == {"SQLite", "PostgreSQL"}


def test_the_stages_add_up(found):
    stages = found["stages"]["180p"]
    assert stages["face detector"] > stages["voice detector"] > 0
    assert all(stages[name] > 0 for name in ("audio model", "face network", "demux and decode", "scale and convert"))
    assert sum(stages.values()) < found["runs"][0]["cpu_seconds"] / 4  # which pays for the start as well


def test_the_page_says_it(found):
    text = page(found)
    assert all(name in text for name in [*found["stages"]["180p"], *found["databases"], "180p, 4 s"])
