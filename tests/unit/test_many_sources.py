"""`moodreel annotate` of very many videos: what waits and what is done takes little memory."""

import tracemalloc

import pytest

from db.identity import ObjectName, Source
from db.store import Store
from scheduler import sources
from scheduler.sources import Spool
from scheduler.summary import DONE, FAILED, MAX_ROWS, SKIPPED, Line, Summary


def found(n: int) -> Source:
    return Source.of_object(
        ObjectName("archive", f"2026/interviews/clip-{n:07d}.mp4"), f"{n:032x}", 1000 + n, 1.7e9 + n
    )


@pytest.mark.parametrize("spooled_bytes", [1000, 10_000_000])
def test_what_is_spooled_comes_back_in_its_order(monkeypatch, spooled_bytes):
    monkeypatch.setattr(sources, "SPOOLED_BYTES", spooled_bytes)
    with Spool() as spool:
        assert (len(spool), list(spool)) == (0, [])
        for first in range(0, 1000, 100):
            spool.add([found(n) for n in range(first, first + 100)])
            spool.add([])
        assert len(spool) == 1000
        assert list(spool) == [found(n) for n in range(1000)]


def test_what_waits_takes_little_memory(monkeypatch):
    monkeypatch.setattr(sources, "SPOOLED_BYTES", 1_000_000)
    tracemalloc.start()
    try:
        with Spool() as spool:
            for first in range(0, 20_000, 500):
                spool.add([found(n) for n in range(first, first + 500)])
            assert sum(1 for _ in spool) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000  # as objects, they take 8 MB
    finally:
        tracemalloc.stop()


def test_of_what_is_done_no_more_is_kept_than_is_shown(tmp_path, capsys):
    summary = Summary(as_json=False)
    tracemalloc.start()
    try:
        for n in range(20_000):
            summary.add(Line(f"/v/{n}.mp4", DONE if n % 2 else SKIPPED))
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert summary.is_well
    summary.add(Line("", FAILED))
    assert not summary.is_well
    with Store(str(tmp_path / "m.db")) as store:
        summary.show(store)
    said = capsys.readouterr().out
    assert f"... and {20_000 - MAX_ROWS} more" in said
    assert "10000 done, 10000 skipped, 1 failed in" in said
