"""What a chaos run is drawn from its seed, and what has been struck is put right before it is struck again."""

import time
from collections import Counter

import pytest

from scheduler.ingest import EventQueue, names_in
from tests.chaos.compare import Comparison
from tests.chaos.faults import BucketChaos, Chaos, schedule
from tests.chaos.run import Outcome, videos_for
from tests.chaos.sources import BUCKET, Bucket


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


class FleetOf:
    """One that has annotated these versions of videos."""

    def __init__(self, versions: dict[str, str] | None = None) -> None:
        self.versions = versions or {}

    def rows(self, query: str) -> list[tuple]:
        return [*self.versions.items()] if "version" in query else [(len(self.versions),)]

    def unfinished(self) -> int:
        return 0


@pytest.fixture
def bucket(object_store, tmp_path):
    """Two videos that are to arrive, the second in an earlier version."""
    videos, earlier = tmp_path / "videos", tmp_path / "earlier.mkv"
    for name in ("a.mp4", "000/b.mkv"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).write_text(name)
    earlier.write_text("earlier")
    return Bucket(object_store, None, videos, {"000/b.mkv": earlier}, seed=1)


@pytest.fixture
def content(object_store):
    """What the bucket holds."""
    s3 = object_store.client("s3")
    return lambda key: s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()


def heard(object_store, bucket: Bucket) -> list[str]:
    """Names of the objects that the fleet has been told of."""
    queue = EventQueue(bucket.give(None, "chaos")[2])
    messages = [message for _ in range(4) for message in queue.receive()]
    queue.delete(messages)
    return sorted(name.key for message in messages for name in names_in(message.body))


def test_objects_arrive_in_their_earlier_versions_and_are_replaced(object_store, bucket, content, monkeypatch):
    monkeypatch.setattr("scheduler.ingest.WAIT_SECONDS", 0)
    assert bucket.replaceable() == []
    for n_left in (1, 0):
        bucket.step(FleetOf())
        assert bucket.is_filling == bool(n_left)
    bucket.step(FleetOf())
    assert (content("a.mp4"), content("000/b.mkv")) == (b"a.mp4", b"earlier")
    assert heard(object_store, bucket) == ["000/b.mkv", "a.mp4"]
    etags = object_store.client("s3").list_objects_v2(Bucket=BUCKET)["Contents"]
    earlier = FleetOf({f"s3://{BUCKET}/{one['Key']}": one["ETag"].strip('"') for one in etags})
    assert not bucket.is_over(earlier)  # one is to be replaced yet
    (uri,) = bucket.replaceable()
    bucket.replace(uri)
    etag = object_store.client("s3").head_object(Bucket=BUCKET, Key="000/b.mkv")["ETag"].strip('"')
    assert not bucket.is_over(earlier)
    assert bucket.is_over(FleetOf(earlier.versions | {uri: etag}))
    assert (uri, content("000/b.mkv"), bucket.replaceable()) == (f"s3://{BUCKET}/000/b.mkv", b"000/b.mkv", [])
    bucket.take_event()
    bucket.forward()
    assert heard(object_store, bucket) == []


def test_an_event_that_is_taken_is_one_of_what_is_there_and_changes_nothing(object_store, bucket, content, monkeypatch):
    monkeypatch.setattr("scheduler.ingest.WAIT_SECONDS", 0)
    for _ in range(3):
        bucket.step(FleetOf())
    heard(object_store, bucket)
    body = bucket.take_event()
    assert (content("a.mp4"), content("000/b.mkv")) == (b"a.mp4", b"earlier")
    for _ in range(2):
        bucket.send_event(body)
    (name,) = names_in(body)
    assert heard(object_store, bucket) == [name.key] * 2


@pytest.mark.parametrize(("left", "differences", "passed"), [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_a_run_passes_if_everything_happened_and_the_rows_are_the_same(left, differences, passed):
    outcome = Outcome(7, 40, 16, Counter({"Redis killed": 2}), left, Comparison(16, 300, [], differences))
    assert outcome.passed is passed
    assert str(outcome).startswith("chaos, seed 7: 40 spans of 16 videos, 2 faults (Redis killed 2x)")
    assert ("faults never came to pass" in str(outcome)) == bool(left)
