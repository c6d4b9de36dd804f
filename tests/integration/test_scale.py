"""The fleet of the scale benchmark does its work, and the page says what was measured."""

import json
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.store import Store
from tests.benchmarks.scale import CannotMeasure, Case, database, fleet, measure, run, servers, submit
from tests.benchmarks.scale_page import Archive, arithmetic, as_json, page
from tests.benchmarks.simulation import VIDEO_SECONDS
from tests.database import missing
from tests.servers import ServerMissing


@pytest.fixture(scope="module")
def running():
    if not Path("/proc/self/stat").exists():
        missing("the benchmark reads /proc, which only Linux has")
    try:
        with servers() as started:
            yield started
    except ServerMissing as reason:
        missing(str(reason))


def test_simulated_workers_leave_the_rows_of_real_ones(running):
    case = Case(workers=3, span_seconds=0.2, warm_seconds=0.0, seconds=0.0, videos=5)
    with database(running) as url, Store(url) as store:
        submit(store, case.videos)
        with fleet(case, running, url) as started:
            until = time.monotonic() + 20
            while store.status().annotations != {"done": 5}:
                assert time.monotonic() < until, store.fleet()
                time.sleep(0.1)
            notes = [one[-1] for one in started.worker_notes()]
        with store.reading() as connection:
            spans = connection.execute(sa.text("SELECT status, attempts, COUNT(*) FROM spans GROUP BY 1, 2")).all()
            (windows,) = connection.execute(sa.text("SELECT COUNT(*) FROM windows")).one()
            assert [tuple(row) for row in spans] == [("done", 1, 30)]
            assert windows == 5 * VIDEO_SECONDS
        assert store.timeline("/simulated/0000004.mp4")[-1].end_seconds == VIDEO_SECONDS
    assert len(notes) == 3
    assert sum(note["simulated"] for note in notes) == pytest.approx(30 * 0.2, rel=0.3)


def test_a_queue_that_runs_dry_is_no_measurement(running):
    with pytest.raises(CannotMeasure, match="ran dry"):
        run(Case(workers=1, span_seconds=0.0, warm_seconds=0.0, seconds=1.0, videos=1), running)


def test_the_page_says_what_was_measured(running):
    case = Case(workers=2, span_seconds=0.5, warm_seconds=0.5, seconds=3.0, videos=200)
    found = measure((case,), running, lambda line: None)
    assert json.loads(json.dumps(as_json(found))) == as_json(found)
    (one,) = found["runs"]
    assert 0 < one["spans"] == pytest.approx(one["spans_per_second"] * 3, rel=0.2)
    assert sum(one["shares"].values()) == pytest.approx(1.0)
    assert one["shares"]["simulated"] > 0.5
    # 600 windows, and the fused ones of videos that were finished; less where spans that ended had been begun before.
    assert 200 < one["per_span"]["row_writes"] < 4000
    assert one["messages_waiting"] >= 2
    text = page(found)
    assert "| 2, 0.5 s |" in text
    assert "6,000,000" in text


def test_the_arithmetic_follows_the_archive():
    found = json.loads((Path(__file__).parents[2] / "docs" / "scale.json").read_text())
    one, two = (arithmetic(found, Archive(hours=hours, hours_per_video=0.5, gpu_speed=100.0)) for hours in (1.0, 2.0))
    assert (one["videos"], one["spans"], one["rows"], one["messages"]) == (2, 6, 3600, 10)
    assert one["gpu_hours"] == 0.01
    assert two["bytes"] == pytest.approx(2 * one["bytes"])
    assert one["bytes"] > 3600 * 16 * 8  # sixteen probabilities of eight bytes in each window
