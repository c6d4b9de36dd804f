"""Leases are kept for jobs that get on, and for no others."""

import time

import pytest

from db.errors import LeaseLost
from db.rows import Job
from tests.fleet import plan, submit
from worker.heartbeat import PATIENCE, Heartbeat

LEASE_SECONDS, STALL_SECONDS = 0.4, 0.5


@pytest.fixture
def claim(store):
    plan(store, submit(store, "a.mp4")[0])
    return store.claim_span(Job("annotate_span", 1, 0), "me", LEASE_SECONDS, 5)


def is_taken(store):
    return store.claim_span(Job("annotate_span", 1, 0), "another", 60.0, 5) is not None


def test_a_job_that_gets_on_keeps_its_lease(store, claim):
    with Heartbeat(store, LEASE_SECONDS, STALL_SECONDS) as heartbeat, heartbeat.holding(claim) as held:
        for _ in range(15):
            time.sleep(0.1)
            held.moved()
        assert not heartbeat.is_stalled
        assert not is_taken(store)


def test_a_job_that_does_not_get_on_loses_it(store, claim):
    with Heartbeat(store, LEASE_SECONDS, STALL_SECONDS) as heartbeat, heartbeat.holding(claim):
        time.sleep(1.6)
        assert heartbeat.is_stalled
        assert is_taken(store)


def test_a_job_may_wait_for_models_that_answer_but_not_forever(store, claim):
    """It may hang in a share, while models answer the other jobs of its process all the time."""
    with (
        Heartbeat(store, LEASE_SECONDS, STALL_SECONDS, models_moved_at=time.monotonic) as heartbeat,
        heartbeat.holding(claim),
    ):
        time.sleep(2 * STALL_SECONDS)
        assert not heartbeat.is_stalled
        time.sleep(PATIENCE * STALL_SECONDS)
        assert heartbeat.is_stalled
        assert is_taken(store)


def test_who_works_on_a_job_that_was_cancelled_hears_of_it(store, claim):
    with Heartbeat(store, LEASE_SECONDS, STALL_SECONDS) as heartbeat, heartbeat.holding(claim) as held:
        store.cancel()
        time.sleep(LEASE_SECONDS)
        with pytest.raises(LeaseLost):
            held.moved()
