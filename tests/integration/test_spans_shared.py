"""The spans of one video are read by several children at once, and nothing else changes."""

import shutil
import threading
import time
from contextlib import closing
from itertools import pairwise

import pytest

import worker.reader
from db.errors import DatabaseLocked
from db.identity import Source
from db.store import Store
from tests import instant
from tests.clips import Pictures, Track, steady, write
from worker.pipeline import DONE, FAILED, Outcome, Pipeline

SECONDS, SPAN_SECONDS = 20.0, 4  # five spans
TABLES = {
    "videos": "uri, version, duration_seconds, container, current_annotation_id",
    "annotations": "id, status, attempts, error_code, duration_seconds",
    "spans": "annotation_id, span_index, status, attempts, epoch, windows_done, true_end_seconds, lease_owner",
    "windows": "*",
    "fused_windows": "*",
    "segments": "*",
}


@pytest.fixture(autouse=True)
def instant_models(monkeypatch):
    instant.install(monkeypatch)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("clip") / "a.mp4", Pictures(steady(SECONDS)), [Track(seconds=SECONDS)])
    return Source.of(path, path.stat())


@pytest.fixture
def children(monkeypatch):
    """The children that are started."""
    started = []

    class Child(worker.child.Child):
        def __init__(self, *arguments):
            started.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr(worker.reader, "Child", Child)
    return started


def pipeline(store, children):
    return Pipeline(store, instant.recipe(SPAN_SECONDS), "cpu", children=children)


def contents(store):
    with store.reading() as connection:
        return {
            table: sorted(map(tuple, connection.exec_driver_sql(f"SELECT {columns} FROM {table}")))
            for table, columns in TABLES.items()
        }


def meeting(monkeypatch, store, name, n_threads):
    """Let the first calls of a method wait for each other: so many spans must be under way at once."""
    real, barrier, calls = getattr(store, name), threading.Barrier(n_threads), []

    def meet(*arguments):
        calls.append(arguments)
        if len(calls) <= n_threads:
            barrier.wait(30)
        return real(*arguments)

    monkeypatch.setattr(store, name, meet)


def test_three_children_leave_the_rows_of_one(tmp_path, clip, monkeypatch, children):
    found = []
    for n_children in (1, 3):
        with Store(str(tmp_path / f"{n_children}.db")) as store, pipeline(store, n_children) as running:
            meeting(monkeypatch, store, "complete_span", n_children)
            assert [outcome.status for outcome in running.annotate([clip])] == [DONE]
            found.append(contents(store))
    assert found[0] == found[1]
    assert (len(found[0]["spans"]), len(found[0]["windows"])) == (5, 20)
    assert {row[4:6] for row in found[0]["windows"]} == {("ok", "ok")}
    assert len(children) == 1 + 3


def test_a_video_of_one_span_gets_one_child(tmp_path, clip, children):
    with Store(str(tmp_path / "a.db")) as store, Pipeline(store, instant.recipe(600), "cpu", children=3) as running:
        assert [outcome.status for outcome in running.annotate([clip])] == [DONE]
    assert len(children) == 1


def test_a_fault_in_one_span_stops_the_others_and_fails_the_video_once(tmp_path, clip, monkeypatch):
    monkeypatch.setattr("worker.span.CHECKPOINT_WINDOWS", 1)
    with Store(str(tmp_path / "a.db")) as store, pipeline(store, 2) as running:
        both, given_back = threading.Barrier(2), threading.Event()
        real_checkpoint, real_give_back = store.checkpoint, store.give_back

        def checkpoint(claim, rows):
            if not given_back.is_set():
                both.wait(30)
            if claim.span_index == 0:
                raise DatabaseLocked("planted")
            assert given_back.wait(30)
            time.sleep(0.2)
            real_checkpoint(claim, rows)

        def give_back(*arguments):
            real_give_back(*arguments)
            given_back.set()

        monkeypatch.setattr(store, "checkpoint", checkpoint)
        monkeypatch.setattr(store, "give_back", give_back)
        (outcome,) = running.annotate([clip])
        assert (outcome.status, outcome.error.code) == (FAILED, "database_locked")
        spans = store.spans(1)
        assert [(span.status, span.attempts, span.lease_owner) for span in spans] == [("pending", 0, None)] * 5
        assert [span.epoch for span in spans] == [1, 1, 0, 0, 0]
        assert store.status().failures == {"database_locked": 1}
        monkeypatch.setattr(store, "checkpoint", real_checkpoint)
        assert [outcome.status for outcome in running.annotate([clip])] == [DONE]


def test_whoever_leaves_early_gives_every_span_back(tmp_path, clip, monkeypatch):
    monkeypatch.setattr("worker.span.CHECKPOINT_WINDOWS", 1)
    other = Source(clip.uri + ".missing", "1", 1, 0.0)
    with Store(str(tmp_path / "a.db")) as store:
        entered, go_on = threading.Semaphore(0), threading.Event()
        real = store.checkpoint

        def checkpoint(claim, rows):
            entered.release()
            assert go_on.wait(30)
            real(claim, rows)

        monkeypatch.setattr(store, "checkpoint", checkpoint)
        with pipeline(store, 3) as running, closing(running.annotate([other, clip])) as outcomes:
            assert next(outcomes).error.code == "path_missing"
            for _ in range(3):
                assert entered.acquire(timeout=30)
            (annotation,) = (number for number in (1, 2) if store.spans(number))  # whoever began first has 1
            held = [span.lease_owner for span in store.spans(annotation)]
            threading.Timer(0.3, go_on.set).start()
        assert sum(owner is not None for owner in held) == 3
        assert {(span.status, span.lease_owner) for span in store.spans(annotation)} == {("pending", None)}
        monkeypatch.setattr(store, "checkpoint", real)
        with pipeline(store, 3) as running:
            assert [outcome.status for outcome in running.annotate([clip])] == [DONE]


def test_a_file_that_is_replaced_while_its_spans_are_read_is_not_mixed(tmp_path, clip, monkeypatch):
    """The child that opens it anew finds another version."""
    path = tmp_path / "a.mp4"
    shutil.copy(clip.uri, path)
    source = Source.of(path, path.stat())
    with Store(str(tmp_path / "a.db")) as store, pipeline(store, 2) as running:
        real = store.plan

        def plan(*arguments, **options):
            (tmp_path / "b.mp4").write_bytes(path.read_bytes()[:-1])
            (tmp_path / "b.mp4").replace(path)
            return real(*arguments, **options)

        monkeypatch.setattr(store, "plan", plan)
        (outcome,) = running.annotate([source])
        assert (outcome.status, outcome.error.code) == (FAILED, "changed_while_reading")
        assert store.status().failures == {"changed_while_reading": 1}


def test_progress_counts_what_all_children_have_read(tmp_path, clip, monkeypatch):
    instant.install(monkeypatch, watcher="tests.instant:SlowWatcher")
    told = []
    with Store(str(tmp_path / "a.db")) as store, pipeline(store, 2) as running:
        list(running.annotate([clip], lambda _, done, total: told.append((done, total))))
    done = [seconds for seconds, _ in told]
    assert all(earlier <= later + 0.5 for earlier, later in pairwise(done))
    assert SECONDS - SPAN_SECONDS < max(done) <= SECONDS
    assert all(total == pytest.approx(SECONDS, abs=0.1) for _, total in told)


def test_no_more_videos_are_begun_than_there_are_children(tmp_path, monkeypatch):
    """There may be a million of them."""
    taken, begun, go_on = [], [], threading.Event()

    def many():
        for number in range(50):
            taken.append(number)
            yield Source(f"/{number}.mp4", "1", 1, 0.0)

    def look():
        begun.append(len(taken))
        go_on.set()

    monkeypatch.setattr(Pipeline, "_work_off", lambda *_: go_on.wait(30))
    monkeypatch.setattr(Pipeline, "_ended", lambda _, video: Outcome(video.source, DONE))
    with Store(str(tmp_path / "a.db")) as store, pipeline(store, 2) as running:
        threading.Timer(0.5, look).start()
        assert len(list(running.annotate(many()))) == 50
    assert begun == [2]
