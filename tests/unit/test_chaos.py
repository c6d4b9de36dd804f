"""What a chaos run is drawn from its seed, and what has been struck is put right before it is struck again."""

import time
from collections import Counter

import pytest

from tests.chaos.compare import Comparison
from tests.chaos.faults import BucketChaos, Chaos, schedule
from tests.chaos.run import Outcome, videos_for


class FakeRedis:
    """Says what was done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def kill(self) -> None:
        self.done.append("kill")

    def start(self) -> None:
        self.done.append("start")

    def flush(self) -> None:
        self.done.append("flush")


class FakeFleet:
    def __init__(self) -> None:
        self.redis = FakeRedis()


@pytest.mark.parametrize("kinds", [Chaos.kinds, BucketChaos.kinds], ids=["folder", "bucket"])
def test_the_same_seed_gives_the_same_faults_and_every_kind_comes(kinds):
    assert schedule(200, 7, kinds) == schedule(200, 7, kinds) != schedule(200, 8, kinds)
    counts = Counter(kind for _, kind in schedule(200, 7, kinds))
    assert counts.keys() == kinds.keys()
    assert max(counts.values()) - min(counts.values()) <= 1


def test_faults_come_one_after_the_other_while_there_is_work_left():
    shares = [share for share, _ in schedule(200, 7, Chaos.kinds)]
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] <= 0.9


def test_an_archive_has_the_spans_that_were_asked_for():
    assert videos_for(1, 7) == 1
    assert 300 < videos_for(1000, 7) < 500


def test_nothing_is_struck_again_before_it_is_put_right(monkeypatch):
    fleet = FakeFleet()
    chaos = Chaos(fleet, [], None, seed=1, lease_seconds=1.0)
    assert chaos.strike("Redis killed")
    assert not chaos.strike("Redis flushed")
    now = time.monotonic() + 10
    monkeypatch.setattr(time, "monotonic", lambda: now)
    chaos.mend()
    assert chaos.strike("Redis flushed")
    assert fleet.redis.done == ["kill", "start", "flush"]
    assert chaos.struck == {"Redis killed": 1, "Redis flushed": 1}


@pytest.mark.parametrize(("left", "differences", "passed"), [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_a_run_passes_if_everything_happened_and_the_rows_are_the_same(left, differences, passed):
    outcome = Outcome(7, 40, 16, Counter({"Redis killed": 2}), left, Comparison(16, 300, [], differences))
    assert outcome.passed is passed
    assert str(outcome).startswith("chaos, seed 7: 40 spans of 16 videos, 2 faults (Redis killed 2x)")
    assert ("faults never came to pass" in str(outcome)) == bool(left)
