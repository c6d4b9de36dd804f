"""The benchmark runs, says all that it promises, and the page in docs/ says what the document beside it says."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import peers
from tests.benchmarks.bench import DOCS, Bench, Case, Plan, complete, measure
from tests.benchmarks.page import LEDGER, TARGETS, page
from tests.benchmarks.processes import Usage, run_and_listen
from tests.benchmarks.statements import planted
from tests.database import missing
from worker.recipe import Recipe

SMALL = Case("h264", 180, 4)
TINY = Plan(
    runs=(SMALL,),
    rivals=SMALL,
    reader=SMALL,
    encode_seconds=4,
    rival_seconds=4,
    floor_times=1,
    memory_seconds=(4, 4),
    n_windows=500,
    n_finished=20,
    start_repeats=1,
)
HALVES = ("start_up", "stages"), ("databases", "runs")  # measured at once; of the other parts, see below
LEDGER_TEXT = "| change | should gain | gained |"


@pytest.fixture(scope="module")
def found(media):
    if not Path("/proc/self/smaps_rollup").exists():
        missing("the benchmark reads /proc, which only Linux has")
    TINY.clip(SMALL)
    with ThreadPoolExecutor(len(HALVES)) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # side by side, more would only get in each other's way
        one, other = pool.map(lambda parts: measure(TINY, parts, lambda line: None), HALVES)
    return complete(one | other | {"machine": one["machine"] | other["machine"]}, TINY.memory_seconds)


def test_the_document_is_complete(found):
    assert json.loads(json.dumps(found)) == found
    assert found.keys() == {*TARGETS, "machine", "memory", *chain(*HALVES)}
    assert complete(found | dict.fromkeys(TARGETS), TINY.memory_seconds) == found, "numbers of before would stay"
    (run,) = found["runs"]
    assert run["speed"] == pytest.approx(4 / run["wall_seconds"])
    assert run["over_decode"] == pytest.approx(run["wall_seconds"] / run["floor"]["wall_seconds"])
    assert run["floor"]["setting"] in run["floor"]["tried_seconds"]
    assert run["peak_bytes"] > 200e6  # torch alone is that large, and the child is another process
    assert found["memory"]["ratio"] == 1.0
    assert found["start_up"]["help_seconds"] < found["start_up"]["models_seconds"]
    assert found["databases"].keys() == {"SQLite", "PostgreSQL"}


def test_the_stages_add_up(found):
    stages = found["stages"]["180p"]
    assert all(stages[name] > 0 for name in ("demux", "decode", "scale and convert", "audio model", "face network"))
    assert stages["face detector"] > 0 < stages["voice detector"]
    assert sum(stages.values()) < found["runs"][0]["cpu_seconds"] / 4  # which pays for the start as well


def test_the_obvious_program_sees_and_hears_as_much(tmp_path, media, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    class Known(Bench):
        def annotate(self, path):
            return Usage(wall_seconds=0.5, cpu_seconds=1.0, peak_bytes=1, others_share=0.0), path

    found = Known(TINY, tmp_path, lambda line: None).obvious()
    other = found["others"]["obvious"]
    assert other["windows"] == other["windows_with_face"] == 4
    assert other["pictures"] == 35
    assert found["speed"] == 8
    assert other["times"] == pytest.approx(8 * other["seconds"] / 4)
    assert complete({"machine": {}, "obvious": found}, (1, 2))["over_naive"] == other["times"]


def test_the_obvious_program_hears_with_the_same_model():
    from models.audio import AudioEmotionModel
    from models.presets import COMPACT_AUDIO
    from models.taxonomy import EMOTIONS
    from tests.benchmarks.obvious import voice_pipeline

    sound = np.random.default_rng(0).normal(scale=0.1, size=32_000).astype(np.float32)
    ours = AudioEmotionModel.load(COMPACT_AUDIO.folder, window_seconds=2.0).predict(sound[None], np.array([32_000]))[0]
    heard = {one["label"]: one["score"] for one in voice_pipeline()(sound, top_k=None)}
    assert [heard[emotion] for emotion in EMOTIONS] == pytest.approx(ours.tolist(), abs=1e-4)


def test_time_in_the_database_is_counted(tmp_path):
    folder, database = tmp_path / "videos", str(tmp_path / "done.db")
    planted(folder, 20, database, Recipe())
    command = [sys.executable, "-m", "tests.benchmarks.statements", "annotate", "--db", database, str(folder)]
    _, said = run_and_listen(command)
    assert 0 < said["seconds"]["statements"] < said["seconds"]["transactions"] < said["seconds"]["run"]
    document = complete({"machine": {}, "database": {"height": 180, "video_seconds": 4, **said}}, (1, 2))
    assert document["database_share"] == said["seconds"]["transactions"] / said["seconds"]["run"]
    assert f"{said['times']['statements']} statements" in page(document, LEDGER_TEXT)


def test_the_page_says_it(found):
    text = page(found, LEDGER_TEXT)
    assert all(name in text for name in [*found["stages"]["180p"], *found["databases"], "H.264 180p, 4 s"])
    assert LEDGER_TEXT in text


def test_the_page_names_every_target_and_peer_and_whether_it_was_met():
    limits = {
        "over_decode_1080p": "at most 1.2",
        "realtime_1080p": "at least 15",
        "realtime_360p": "at least 50",
        "over_naive": "at least 6",
        "over_peers": "at least 5",
        "memory_growth": "at most 1.05",
        "database_share": "at most 2%",
        "two_children": "at least 1.7",
    }
    good = {name: target.limit for name, target in TARGETS.items()}
    assert good.keys() == limits.keys()
    for numbers, verdict in ((good, "met"), (dict.fromkeys(good), "not measured")):
        lines = page({"machine": {}, **numbers}, "").splitlines()
        for name, limit in limits.items():
            (line,) = (line for line in lines if f"`{name}`" in line)
            assert f"| {limit} |" in line
            assert line.endswith(f"| {verdict} |")
    missed = page({"machine": {}, **good, "realtime_1080p": 14.9, "memory_growth": 1.06}, "")
    assert missed.count("**missed**") == 2
    assert all(f"`{name}`" in missed for name in peers.PEERS)


def test_the_page_is_what_the_document_says():
    document = json.loads((DOCS / "performance.json").read_text())
    assert complete(document, (300, 7200)) == document
    assert page(document, (DOCS / LEDGER).read_text()) == (DOCS / "performance.md").read_text()
