"""Many workers, schedulers and operators on one queue: nobody has another's job, nothing is lost, nobody gets stuck."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from db.errors import DatabaseLocked, LeaseLost
from db.rows import FINISH, PLAN, SPAN, Job, MediaFacts, SpanClaim
from db.store import Store
from tests.database import fused_row, planned, segment, window_row
from tests.fleet import due, pipeline, plan, rows, source, submit, take_span

SECONDS = 6.0
VIDEOS = 150
WORKERS = 8
ATTEMPTS = 1000  # nothing here is to be given up


class Bed:
    """Threads that share a store, until told to stop; what went wrong in any of them is raised in the end."""

    def __init__(self, store):
        self.store, self.stop, self.wrong = store, threading.Event(), []
        self.messages, self.lock = [], threading.Lock()
        self.held, self.counts = set(), Counter()

    def run(self, act, name):
        chance = random.Random(name)
        while not self.stop.is_set() and not self.wrong:
            try:
                act(chance, name)
            except DatabaseLocked:
                self.counts["locked"] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
                self.wrong.append(error)

    def feed(self, chance, name):
        """A scheduler, some of whose messages get lost or doubled."""
        for item in self.store.take_due(30, 0.5):
            self.counts["sent"] += 1
            copies = chance.choice((0, 1, 1, 1, 2))
            with self.lock:
                self.messages += [item.job] * copies
        time.sleep(0.01)

    def work(self, chance, name):
        with self.lock:
            job = self.messages.pop(chance.randrange(len(self.messages))) if self.messages else None
        if job is None:
            time.sleep(0.005)
            return
        take = self.store.claim_span if job.kind == SPAN else self.store.claim_step
        claim = take(job, name, 60.0, ATTEMPTS)
        if claim is not None:
            with self.holding(job, claim):
                self.do(chance, job, claim)

    @contextmanager
    def holding(self, job, claim):
        """Whoever holds a job is alone: his epoch is nobody else's, before or after."""
        with self.lock:
            if (job, claim.epoch) in self.held:
                self.wrong.append(AssertionError(f"{job} was claimed twice under {claim.epoch}"))
            self.held.add((job, claim.epoch))
            self.counts["claims"] += 1
        try:
            yield
        except LeaseLost:
            self.counts["lost"] += 1
        except DatabaseLocked:
            self.counts["locked"] += 1
            self.store.give_back(claim)

    def do(self, chance, job, claim):
        store, fate = self.store, chance.random()
        if chance.random() < 0.3:
            store.renew_all([claim], 60.0)
        if fate < 0.1:
            store.fail_job(
                claim, "internal", "x", permanent=False, max_attempts=ATTEMPTS, delay_seconds=0.05, discard=fate < 0.02
            )
        elif fate < 0.2:
            store.give_back(claim)
        elif job.kind == PLAN:
            store.plan(claim.annotation_id, planned(0, 2, 4), claim, MediaFacts(has_audio=True))
        elif isinstance(claim, SpanClaim):
            store.checkpoint(claim, [window_row(claim.first_window + index) for index in (0, 1)])
            store.complete_span(claim)
        else:
            made = [fused_row(index) for index in range(6)]
            facts = {"duration_seconds": 7.0, "provenance": {}}
            store.finish(claim.annotation_id, made, [segment(0.0, 7.0)], **facts, claim=claim)
            self.counts["finished"] += 1

    def cancel(self, chance, name):
        uris = [f"v{chance.randrange(VIDEOS)}" for _ in range(5)]
        self.counts["cancelled"] += self.store.cancel(uris)
        time.sleep(0.05)
        self.store.retry(code="cancelled")
        self.store.submit(pipeline(self.store), [source(uri) for uri in set(uris)], chance.randrange(3))

    def watch(self, chance, name):
        self.store.fleet()
        self.store.limit_source("v1", chance.choice((5, 50, None)))
        time.sleep(0.2)


def test_many_at_once_do_everything_once(migrated_url):
    with Store(migrated_url, lock_timeout_seconds=20.0) as store:
        submit(store, *(f"v{index}" for index in range(VIDEOS)))
        bed = Bed(store)
        roles = [(bed.work, f"w{index}") for index in range(WORKERS)]
        roles += [(bed.feed, "s1"), (bed.feed, "s2"), (bed.cancel, "c"), (bed.watch, "x")]
        with ThreadPoolExecutor(len(roles)) as pool:
            for role in roles:
                pool.submit(bed.run, *role)
            bed.stop.wait(SECONDS)
            bed.stop.set()
        assert bed.wrong == []
        print(store.engine.dialect.name, dict(bed.counts))
        assert bed.counts["claims"] > 50
        assert bed.counts["locked"] == 0  # one order of locks: nothing waits for what waits for it
        _finish_the_rest(bed)
        assert {row[0] for row in rows(store, "SELECT status FROM annotations")} == {"done"}
        assert rows(store, "SELECT COUNT(*), SUM(CASE WHEN status = 'done' THEN 1 ELSE 0 END) FROM spans") == [
            (3 * VIDEOS, 3 * VIDEOS)
        ]
        assert rows(store, "SELECT COUNT(*) FROM windows") == [(6 * VIDEOS,)]
        assert store.outstanding() == 0


def _finish_the_rest(bed):
    """One quiet worker ends it; leases of those who stopped in the middle have been given up."""
    store, chance = bed.store, random.Random(0)
    chance.random = lambda: 1.0  # no more mishaps
    store.limit_source("v1", None)
    store.retry(code="cancelled")
    for table in ("annotations", "spans"):
        with store.writing() as connection:
            over = f"UPDATE {table} SET available_at = NULL, lease_until = lease_until * 0"
            connection.execute(sa.text(over))
    for _ in range(1000):
        jobs = [item.job for item in store.take_due(100, -1.0)]
        if not jobs:
            return
        for job in jobs:
            bed.messages = [job]
            bed.work(chance, "last")
    pytest.fail("the queue does not become empty")


def test_two_schedulers_choose_different_jobs(migrated_url):
    with Store(migrated_url, lock_timeout_seconds=30.0) as store:
        ids = submit(store, *(f"v{index}" for index in range(100)))
        for annotation_id in ids[:20]:
            plan(store, annotation_id, 0, 10)
        both = threading.Barrier(2)

        def choose():
            both.wait()
            return [item.job for _ in range(10) for item in store.take_due(6, 300.0)]

        with ThreadPoolExecutor(2) as pool:
            first, second = (future.result() for future in [pool.submit(choose), pool.submit(choose)])
        assert len(first) + len(second) == len({*first, *second}) == 120
        assert store.outstanding() == 120


def test_two_schedulers_together_keep_to_a_limit(migrated_url):
    with Store(migrated_url, lock_timeout_seconds=30.0) as store:
        submit(store, *(f"/nas/{index}" for index in range(50)))
        store.limit_source("/nas/", 5)
        with ThreadPoolExecutor(4) as pool:
            chosen = list(pool.map(lambda _: due(store, room=3), range(8)))
        assert sum(map(len, chosen)) == 5


def test_choosing_does_not_hold_up_rows_being_stored(postgresql_url):
    """COPY checks that its annotation is there, under a lock which the choice of that very annotation must not bar."""
    with Store(postgresql_url, lock_timeout_seconds=10.0) as store:
        (annotation_id,) = submit(store, "a")
        plan(store, annotation_id, 0, 2)
        claim = take_span(store, annotation_id, 0)
        for lock in ("annotations", "spans WHERE span_index = 1"):
            with store.writing() as connection:
                connection.execute(sa.text(f"SELECT 1 FROM {lock} FOR NO KEY UPDATE"))
                began = time.perf_counter()
                store.checkpoint(claim, [window_row(0)])
                assert time.perf_counter() - began < 5.0


def test_choosing_passes_by_what_a_worker_is_changing(postgresql_url):
    with Store(postgresql_url, lock_timeout_seconds=2.0) as store:
        first, second = submit(store, "a", "b")
        with store.writing() as connection:
            connection.execute(sa.text(f"UPDATE annotations SET attempts = 0 WHERE id = {first}"))
            assert due(store) == [f"plan {second}"]
        assert due(store) == [f"plan {first}"]


def test_cancelling_while_a_job_is_taken(postgresql_url):
    """A claim in the same moment either comes first and is undone, or finds nothing to do."""
    with Store(postgresql_url, lock_timeout_seconds=10.0) as store:
        for turn in range(30):
            (annotation_id,) = submit(store, f"v{turn}")
            plan(store, annotation_id, 0, 2)
            both, jobs = threading.Barrier(3), [Job(SPAN, annotation_id, span) for span in (0, 1)]

            def claim(job, both=both):
                both.wait()
                return store.claim_span(job, "w", 60.0, ATTEMPTS)

            def cancel(both=both, turn=turn):
                both.wait()
                return store.cancel([f"v{turn}"])

            with ThreadPoolExecutor(3) as pool:
                claims = [pool.submit(claim, job) for job in jobs]
                assert pool.submit(cancel).result() == 1
                taken = [found for future in claims if (found := future.result())]
            assert store.renew_all(taken, 60.0) == taken
            assert {span.status for span in store.spans(annotation_id)} == {"pending"}


def test_the_last_two_spans_end_at_once(migrated_url):
    """Neither may overlook the other: somebody has to make finishing due."""
    with Store(migrated_url, lock_timeout_seconds=30.0) as store:
        for turn in range(20):
            (annotation_id,) = submit(store, f"v{turn}")
            plan(store, annotation_id, 0, 2)
            claims = [take_span(store, annotation_id, span) for span in (0, 1)]
            both = threading.Barrier(2)

            def complete(claim, both=both):
                both.wait()
                store.complete_span(claim)

            with ThreadPoolExecutor(2) as pool:
                list(pool.map(complete, claims))
            assert due(store) == [f"{FINISH} {annotation_id}"]
