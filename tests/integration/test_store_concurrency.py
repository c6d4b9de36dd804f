"""Several processes and threads on one database: each span is done once, nobody waits for ever, rows go in fast."""

import multiprocessing
import sqlite3
import threading
import time

import pytest

from db.errors import DatabaseLocked
from db.store import Store
from tests.database import NOTHING, planned, requested, window_row

N_SPANS = 24


def _work(url, annotation_id, owner, both, done):
    with Store(url, lock_timeout_seconds=30.0) as store:
        both.wait()
        claim = store.claim(annotation_id, owner, 60.0)
        both.wait()  # each holds one before either takes a second
        while claim:
            first = claim.first_window
            store.checkpoint(claim, [window_row(first, face_count=claim.epoch), window_row(first + 1)])
            store.complete_span(claim)
            done.put((owner, claim.span_index))
            claim = store.claim(annotation_id, owner, 60.0)


def test_two_processes_share_the_spans(migrated_url):
    spawn = multiprocessing.get_context("spawn")
    both, done = spawn.Barrier(2), spawn.Queue()
    with Store(migrated_url) as store:
        annotation_id = requested(store)
        store.plan(annotation_id, planned(*range(0, 2 * N_SPANS, 2)))
        workers = [spawn.Process(target=_work, args=(migrated_url, annotation_id, owner, both, done)) for owner in "ab"]
        for worker in workers:
            worker.start()
        claims = [done.get(timeout=60) for _ in range(N_SPANS)]
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]
        assert sorted(index for _, index in claims) == list(range(N_SPANS))
        assert {owner for owner, _ in claims} == {"a", "b"}
        assert {(span.status, span.epoch) for span in store.spans(annotation_id)} == {("done", 1)}
        assert [row[0] for row in store.windows(annotation_id)] == list(range(2 * N_SPANS))


def test_a_heartbeat_thread_beside_checkpoints(migrated_url):
    with Store(migrated_url) as store:
        annotation_id = requested(store)
        store.plan(annotation_id, planned(0))
        claim = store.claim(annotation_id, "worker", 60.0)
        stopped, failures = threading.Event(), []

        def beat():
            while not stopped.wait(0.002):
                try:
                    assert store.renew_all([claim], 60.0) == []
                except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
                    failures.append(error)

        thread = threading.Thread(target=beat)
        thread.start()
        for index in range(50):
            store.checkpoint(claim, [window_row(index)])
        stopped.set()
        thread.join()
        assert failures == []
        assert store.spans(annotation_id)[0].windows_done == 50


def test_a_killed_worker_leaves_a_span_for_the_next(migrated_url):
    spawn = multiprocessing.get_context("spawn")
    with Store(migrated_url) as store:
        annotation_id = requested(store)
        store.plan(annotation_id, planned(0))
        held = spawn.Event()
        worker = spawn.Process(target=_claim_and_hang, args=(migrated_url, annotation_id, held))
        worker.start()
        assert held.wait(60)
        worker.kill()
        worker.join(60)
        assert store.claim(annotation_id, "next", 60.0) is None
        claim = store.claim(annotation_id, "next", 60.0, dead_owners=store.lease_owners(annotation_id))
        assert (claim.epoch, claim.attempts, claim.windows_done) == (2, 2, 1)


def _claim_and_hang(url, annotation_id, held):
    with Store(url) as store:
        claim = store.claim(annotation_id, "killed", 3600.0)
        store.checkpoint(claim, [window_row(0)])
        held.set()
        threading.Event().wait(60)


def test_a_store_gives_up_on_a_lock_within_its_timeout(tmp_path):
    path = tmp_path / "m.db"
    with Store(str(path), lock_timeout_seconds=0.3) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = time.perf_counter()
        with pytest.raises(DatabaseLocked):
            store.observe("a.mp4", "1", 1)
        assert 0.2 < time.perf_counter() - began < 3.0
        other.execute("ROLLBACK")
        other.close()
        store.observe("a.mp4", "1", 1)


# Windows a second that even a busy machine manages; an idle one does ten times as many.
LEAST_SPEED = {"sqlite": 10_000, "postgresql": 1_000}


def test_checkpoints_are_fast(migrated_url, record_property):
    """600 windows at a time: a small part of what recognising them takes, on either database."""
    eighths = (0.125,) * 8
    with Store(migrated_url) as store:
        annotation_id = requested(store)
        store.plan(annotation_id, planned(0))
        claim = store.claim(annotation_id, "worker", 60.0)
        batches = [
            [window_row(index, eighths, eighths if index % 3 else NOTHING) for index in range(at, at + 600)]
            for at in range(0, 12_000, 600)
        ]
        began = time.perf_counter()
        for batch in batches:
            store.checkpoint(claim, batch)
        seconds = time.perf_counter() - began
        print(f"{store.engine.dialect.name}: {12_000 / seconds:,.0f} windows/s")
        record_property("windows_per_second", 12_000 / seconds)
        assert 12_000 / seconds > LEAST_SPEED[store.engine.dialect.name]
        assert len(store.windows(annotation_id)) == 12_000
