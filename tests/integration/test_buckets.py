"""Buckets on a real server over HTTP: searched for videos, and watched by listings and by events."""

import logging
import random
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from db.errors import AccessDenied, BadOption
from db.identity import ObjectName, Source
from db.store import Store
from scheduler import buckets as watching
from scheduler.buckets import BucketWatcher
from scheduler.ingest import EventQueue, Ingest
from scheduler.objects import look_at
from scheduler.sources import find
from scheduler.wanted import Wanted, moment_of
from tests.fleet import rows
from tests.servers import ObjectStore
from tests.unit.test_ingest import ODD_KEYS, TEST_EVENT, direct, through_sns
from worker import objects

BUCKET = "archive"
PLACE = ObjectName(BUCKET, "in/")


class Bucket:
    """A bucket with a queue that its events go to, if they do."""

    def __init__(self, server: ObjectStore) -> None:
        self.s3, self.sqs = clients(server)
        self.s3.create_bucket(Bucket=BUCKET)

    def put(self, key: str, body: bytes = b"video", **options: str) -> str:
        """The object's version."""
        return self.s3.put_object(Bucket=BUCKET, Key=key, Body=body, **options)["ETag"].strip('"')

    def delete(self, key: str) -> None:
        self.s3.delete_object(Bucket=BUCKET, Key=key)

    def queue(self, *, notified: bool = False, hidden_seconds: int = 30) -> str:
        """The URL of a queue."""
        settings = {"VisibilityTimeout": str(hidden_seconds)}
        url = self.sqs.create_queue(QueueName="events", Attributes=settings)["QueueUrl"]
        if notified:
            arn = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            told = {"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
            self.s3.put_bucket_notification_configuration(
                Bucket=BUCKET, NotificationConfiguration={"QueueConfigurations": [told]}
            )
        return url

    def send(self, url: str, *bodies: str) -> None:
        for body in bodies:
            self.sqs.send_message(QueueUrl=url, MessageBody=body)


@cache
def clients(server: ObjectStore) -> tuple[Any, Any]:
    """Of S3 and SQS; making them takes a while."""
    return server.client("s3"), server.client("sqs")


@pytest.fixture
def bucket(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr("scheduler.ingest.WAIT_SECONDS", 0)
    return Bucket(object_store)


def found(*places: str, **wanted) -> list[str]:
    """Keys of what is found, and codes of what is wrong."""
    items = find([f"s3://{BUCKET}/{place}" for place in places], Wanted(**wanted))
    return [ObjectName.of(item.uri).key if isinstance(item, Source) else item.code for item in items]


# --- searching --------------------------------------------------------------------------------------------------------


def test_objects_are_found_with_their_versions(bucket):
    etag = bucket.put("in/a.mp4")
    (source,) = find([f"s3://{BUCKET}"])
    assert (source.uri, source.version, source.size_bytes) == (f"s3://{BUCKET}/in/a.mp4", etag, 5)
    assert abs(source.modified_at_seconds - time.time()) < 60


def test_a_place_is_an_object_or_how_keys_begin(bucket):
    for key in (
        "in/a",
        "in/a.mp4",
        "in/ab.mp4",
        "in/a/b.mp4",
        "in/a.txt",
        "in/folder/",
        "in/.hidden.mp4",
        "in/.x/c.mp4",
    ):
        bucket.put(key)
    everything = ["in/a.mp4", "in/a/b.mp4", "in/ab.mp4"]
    assert found("") == found("in") == found("in/") == everything
    assert found("in/a.") == ["in/a.mp4"]
    assert found("in/a") == ["in/a"]  # the object itself, whatever its name
    assert found("in/a.txt") == ["in/a.txt"]
    assert found("in/.hidden.mp4") == ["in/.hidden.mp4"]
    assert found("in/.x/") == ["in/.x/c.mp4"]


def test_a_folder_that_was_made_as_an_object_is_searched(bucket):
    for key in ("in/", "in/a.mp4", "in/b.mp4"):
        bucket.put(key)
    assert found("in/") == ["in/a.mp4", "in/b.mp4"]


def test_places_may_overlap(bucket):
    for key in ("in/a.mp4", "in/b/c.mp4", "in/d.txt"):
        bucket.put(key)
    assert found("in/", "in/b/", "in/a.mp4", "") == ["in/a.mp4", "in/b/c.mp4"]
    assert found("in/d.txt", "in/a.mp4", "in/", "in/d.txt") == ["in/d.txt", "in/a.mp4", "in/b/c.mp4"]


def test_odd_keys(bucket):
    keys = sorted(f"in/{key}" for key in ODD_KEYS)
    for key in keys:
        bucket.put(key)
    assert found("in/") == found(*keys) == keys


def test_a_name_that_is_not_utf8_is_no_objects(bucket):
    assert found("in/\udcff") == ["not_readable"]


def test_what_is_wanted_of_a_bucket(bucket):
    for key, size in (("a.mp4", 10), ("b.MKV", 2000), ("c.txt", 2000)):
        bucket.put(key, b"x" * size)
    assert found("", suffixes=frozenset({".mkv", ".txt"})) == ["b.MKV", "c.txt"]
    assert found("", min_bytes=11) == ["b.MKV"]
    assert found("", newer_than=moment_of("1h"), max_bytes=10) == ["a.mp4"]
    assert found("", older_than=moment_of("1h")) == ["no_videos"]
    assert found("c.txt", min_bytes=10_000) == ["c.txt"]


def test_what_is_archived_is_told_of_once_for_each_place(bucket):
    for key, tier in (("a", "GLACIER"), ("b", "DEEP_ARCHIVE"), ("c", "STANDARD"), ("d", "GLACIER_IR")):
        bucket.put(f"{key}.mp4", StorageClass=tier)
    *sources, error = find([f"s3://{BUCKET}"])
    assert [source.uri[-5] for source in sources] == ["c", "d"]
    assert error.code == "object_archived"
    assert str(error) == "s3://archive/a.mp4: lies in an archive tier, and so do 1 others in this place"


def test_what_is_not_there_is_told_of(bucket):
    bucket.put("in/a.txt")
    assert found("gone.mp4") == ["path_missing"]
    assert found("in/") == ["no_videos"]
    (error,) = find(["s3://no-such-bucket/x"])
    assert (error.code, str(error)) == ("bucket_missing", "s3://no-such-bucket: there is no such bucket")
    (error,) = find(["s3://Not A Bucket"])
    assert error.code == "not_readable"


def test_without_credentials(bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (error,) = find([f"s3://{BUCKET}"])
    assert error.code == "credentials_rejected"


def test_out_of_reach(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(objects, "MAX_ATTEMPTS", 1)
    (error,) = find([f"s3://{BUCKET}"])
    assert error.code == "source_unreachable"
    assert "127.0.0.1:9" in str(error)


@contextmanager
def store_that_answers(*, status: int = 200, code: str = "", n_keys: int = 0) -> Iterator[ThreadingHTTPServer]:
    """A store that refuses every listing for one reason; or that has so many keys, a thousand on each page.

    Nothing but listings is allowed.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            if url.path.count("/") > 1:
                self.refuse()
                return
            self.server.payers.append(self.headers["x-amz-request-payer"])
            first = int(query.get("continuation-token", ["0"])[0])
            keys = range(first, min(first + 1000, n_keys))
            more = f"<NextContinuationToken>{keys.stop}</NextContinuationToken>" if keys.stop < n_keys else ""
            body = (
                f"<Error><Code>{code}</Code><Message>so it is</Message></Error>"
                if code
                else (
                    f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}"
                    + "".join(
                        f"<Contents><Key>in/{n:07}.mp4</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                        f"<ETag>&quot;{n:032}&quot;</ETag><Size>1000</Size><StorageClass>STANDARD</StorageClass></Contents>"
                        for n in keys
                    )
                    + "</ListBucketResult>"
                )
            )
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def do_HEAD(self) -> None:
            self.refuse()

        def refuse(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.payers = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def lead_to(monkeypatch: pytest.MonkeyPatch, server: ThreadingHTTPServer) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    objects.client.cache_clear()


@pytest.mark.parametrize(
    ("status", "code", "ours"),
    [
        (403, "AccessDenied", "access_denied"),
        (404, "NoSuchBucket", "bucket_missing"),
        *((403, code, "credentials_rejected") for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch")),
        (400, "ExpiredToken", "credentials_rejected"),
        (503, "SlowDown", "source_slow_down"),
        (500, "InternalError", "source_unreachable"),
    ],
)
def test_what_a_store_refuses(object_store, monkeypatch, status, code, ours):
    monkeypatch.setattr(objects, "MAX_ATTEMPTS", 1)
    with store_that_answers(status=status, code=code) as server:
        lead_to(monkeypatch, server)
        (error,) = find(["s3://archive/in/"])
    assert error.code == ours
    assert "s3://archive" in str(error)


def test_who_asks_pays_if_told_to(object_store, monkeypatch):
    monkeypatch.setenv("MOODREEL_S3_REQUEST_PAYER", "requester")
    with store_that_answers(n_keys=1) as server:
        lead_to(monkeypatch, server)
        assert found("in/") == ["in/0000000.mp4"]
        assert server.payers == ["requester"]


def test_a_long_listing_takes_constant_memory(object_store, monkeypatch):
    with store_that_answers(n_keys=100_000) as server:
        lead_to(monkeypatch, server)
        used_bytes = {n: resident_bytes() for n, _ in enumerate(find(["s3://archive/in/"]), 1) if n % 10_000 == 0}
    assert max(used_bytes) == 100_000
    assert max(used_bytes.values()) - used_bytes[10_000] < 3 << 20  # of which a set of hashes alone would take more


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# --- watching ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick_store(tmp_path: Path) -> Iterator[Store]:
    """An empty store in SQLite, where it does not matter which database it is."""
    with Store(str(tmp_path / "quick.db")) as opened:
        yield opened


def watcher(store: Store, *places: ObjectName, **wanted) -> BucketWatcher:
    store.name_pipeline("compact", store.register_pipeline("d" * 8, "w", "compact", {}), {})
    return BucketWatcher(store, places or (PLACE,), None, 5, Wanted(**wanted))


def known(store: Store) -> dict[str, tuple[str, bool]]:
    """Version of each video, and whether it is gone, by key."""
    query = "SELECT uri, version, gone_at IS NOT NULL FROM videos ORDER BY uri"
    return {ObjectName.of(uri).key: (version, bool(gone)) for uri, version, gone in rows(store, query)}


def versions(store: Store) -> list[tuple[str, str]]:
    """Key and version of each annotation."""
    query = "SELECT v.uri, a.version FROM annotations a JOIN videos v ON v.id = a.video_id ORDER BY a.id"
    return [(ObjectName.of(uri).key, version) for uri, version in rows(store, query)]


def test_listings_find_what_is_new_and_changed_and_gone(bucket, store):
    watched = watcher(store)
    one, two, _ = (bucket.put(key, key.encode()) for key in ("in/a.mp4", "in/b.mp4", "out/c.mp4"))
    assert [watched.reconcile() for _ in range(2)] == [True, True]
    assert known(store) == {"in/a.mp4": (one, False), "in/b.mp4": (two, False)}
    (due, _) = store.take_due(10, 60.0)
    assert due.priority == 5
    changed = bucket.put("in/a.mp4", b"another")
    bucket.delete("in/b.mp4")
    watched.reconcile()
    assert known(store) == {"in/a.mp4": (changed, False), "in/b.mp4": (two, True)}
    bucket.put("in/b.mp4", b"in/b.mp4")
    watched.reconcile()
    assert known(store)["in/b.mp4"] == (two, False)
    assert versions(store) == [("in/a.mp4", one), ("in/b.mp4", two), ("in/a.mp4", changed)]


def test_gone_is_only_what_the_store_does_not_have(bucket, quick_store, monkeypatch):
    """However the listing and the database differ: filters, other places, a listing that lacks something."""
    quick_store.observe(f"s3://{BUCKET}/in/late.mp4", bucket.put("in/late.mp4"), 5)
    quick_store.observe(f"s3://{BUCKET}/in/small.mp4", bucket.put("in/small.mp4", b"x"), 1)
    quick_store.observe(f"s3://{BUCKET}/other/x.mp4", "1", 5)
    quick_store.observe("/local/in/x.mp4", "1", 5)
    sound = watching.listed

    def lacking(place: ObjectName):
        return (found for found in sound(place) if not found.name.key.endswith("late.mp4"))

    monkeypatch.setattr(watching, "listed", lacking)
    watched = watcher(quick_store, min_bytes=2)
    assert watched.reconcile()
    assert quick_store.status().gone == 0
    quick_store.observe(f"s3://{BUCKET}/in/really.mp4", "1", 5)
    watched.reconcile()
    gone = rows(quick_store, "SELECT uri FROM videos WHERE gone_at IS NOT NULL")
    assert gone == [(f"s3://{BUCKET}/in/really.mp4",)]


def test_a_bucket_that_cannot_be_listed_means_nothing_and_is_told_of_once(bucket, quick_store, caplog):
    bucket.put("in/a.mp4")
    watched = watcher(quick_store, ObjectName("missing", ""), PLACE)
    caplog.set_level(logging.WARNING)
    assert [watched.reconcile() for _ in range(2)] == [False, False]
    (told,) = [record.getMessage() for record in caplog.records]
    assert told == "bucket_missing: s3://missing: there is no such bucket; what is in the database stays"
    assert list(known(quick_store)) == ["in/a.mp4"]
    bucket.delete("in/a.mp4")
    bucket.s3.delete_bucket(Bucket=BUCKET)
    watched.reconcile()
    assert quick_store.status().gone == 0


def test_what_failed_or_was_cancelled_stays_so(bucket, quick_store):
    bucket.put("in/a.mp4")
    watcher(quick_store).reconcile()
    quick_store.cancel()
    watcher(quick_store).reconcile()
    assert quick_store.status().annotations == {"failed": 1}


def test_archived_objects_are_left_out_until_they_are_restored(bucket, quick_store, caplog):
    bucket.put("in/a.mp4", StorageClass="GLACIER")
    watched = watcher(quick_store)
    caplog.set_level(logging.WARNING)
    watched.reconcile()
    watched.reconcile()
    assert known(quick_store) == {}
    (told,) = [record.getMessage() for record in caplog.records]
    assert "1 objects lie in an archive tier" in told
    assert watched.settle({ObjectName(BUCKET, "in/a.mp4")}) == {}
    assert known(quick_store) == {}
    bucket.s3.restore_object(Bucket=BUCKET, Key="in/a.mp4", RestoreRequest={"Days": 1})
    bucket.s3.head_object(Bucket=BUCKET, Key="in/a.mp4")  # which ends it, on this server
    watched.settle({ObjectName(BUCKET, "in/a.mp4")})
    assert list(known(quick_store)) == ["in/a.mp4"]


def drain(bucket: Bucket, url: str, ingest: Ingest) -> None:
    """Take messages until the queue is empty, hidden ones included."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    until = time.monotonic() + 300.0
    while any(map(int, bucket.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"].values())):
        assert time.monotonic() < until, "messages are left"
        ingest.take()


def test_events_of_200_objects_doubled_and_out_of_order(bucket, postgresql_url):
    """With changes and deletions in between, and two schedulers that take them at once."""
    with Store(postgresql_url) as store:
        follow_200_objects(bucket, store)


def follow_200_objects(bucket: Bucket, store: Store) -> None:
    told: list[str] = []  # keys, as often as something is told of them
    there: dict[str, str] = {}
    for n in range(200):
        key = f"in/{n:03} + ü.mp4"
        there[key] = bucket.put(key, key.encode())
        if n % 5 == 0:
            there[key] = bucket.put(key, b"changed " + key.encode())
            told.append(key)
        if n % 7 == 0:
            bucket.delete(key)
            del there[key]
            told.append(key)
        told += [key, key]
    shuffle = random.Random(7).shuffle
    shuffle(told)
    events = [direct(*told[start : start + 4]) for start in range(0, len(told), 4)]
    events += [TEST_EVENT, through_sns(TEST_EVENT), *map(through_sns, events[::4]), *events[::3]]
    shuffle(events)
    url = bucket.queue()
    for start in range(0, len(events), 10):
        entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(events[start : start + 10])]
        bucket.sqs.send_message_batch(QueueUrl=url, Entries=entries)
    together(*(partial(drain, bucket, url, Ingest(EventQueue(url), watcher(store))) for _ in range(2)))
    assert known(store) == {key: (etag, False) for key, etag in there.items()}
    assert sorted(versions(store)) == sorted(there.items())


def together(*jobs: Callable[[], object]) -> None:
    """Do all of these at once, and raise what one of them raises."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for job in [pool.submit(job) for job in jobs]:
            job.result()


def test_a_life_by_events(bucket, quick_store):
    url = bucket.queue(notified=True)
    ingest = Ingest(EventQueue(url), watcher(quick_store))
    drain(bucket, url, ingest)
    one = bucket.put("in/a.mp4", b"one")
    bucket.put("out/a.mp4")
    bucket.put("in/a.txt")
    drain(bucket, url, ingest)
    assert known(quick_store) == {"in/a.mp4": (one, False)}
    bucket.delete("in/a.mp4")
    drain(bucket, url, ingest)
    assert known(quick_store) == {"in/a.mp4": (one, True)}
    two = bucket.put("in/a.mp4", b"two")
    drain(bucket, url, ingest)
    assert known(quick_store) == {"in/a.mp4": (two, False)}
    bucket.put("in/a.mp4", b"one")
    drain(bucket, url, ingest)
    assert known(quick_store) == {"in/a.mp4": (one, False)}
    assert versions(quick_store) == [("in/a.mp4", one), ("in/a.mp4", two)]


def test_odd_keys_by_events(bucket, quick_store):
    url = bucket.queue(notified=True)
    there = {key: (bucket.put(key), False) for key in (f"in/{key}" for key in ODD_KEYS)}
    drain(bucket, url, Ingest(EventQueue(url), watcher(quick_store)))
    assert known(quick_store) == there
    for key in there:
        bucket.delete(key)
    drain(bucket, url, Ingest(EventQueue(url), watcher(quick_store)))
    assert known(quick_store) == {key: (etag, True) for key, (etag, _) in there.items()}


def test_a_late_look_of_one_scheduler_does_not_outlast_the_truth(bucket, store, monkeypatch):
    """One that has looked is held up; meanwhile the object is replaced, or put back, and another one stores that."""
    key = "in/a.mp4"
    name = ObjectName(BUCKET, key)
    sound = watching.look_at

    def settle_late(change) -> None:
        looks = []

        def late(looked: ObjectName):
            seen = sound(looked)
            looks.append(seen)
            if len(looks) == 1:
                monkeypatch.setattr(watching, "look_at", sound)
                change()
                watcher(store).settle({name})
                monkeypatch.setattr(watching, "look_at", late)
            return seen

        monkeypatch.setattr(watching, "look_at", late)
        watcher(store).settle({name})
        monkeypatch.setattr(watching, "look_at", sound)

    bucket.put(key, b"one")
    settle_late(lambda: bucket.put(key, b"two"))
    two = bucket.put(key, b"two")
    assert known(store) == {key: (two, False)}
    bucket.delete(key)
    settle_late(lambda: bucket.put(key, b"two"))
    assert known(store) == {key: (two, False)}
    settle_late(lambda: bucket.delete(key))
    assert known(store) == {key: (two, True)}


def test_two_listings_at_once_make_one_annotation_of_each_version(bucket, store):
    for n in range(50):
        bucket.put(f"in/{n}.mp4", str(n).encode())
    together(*(watcher(store).reconcile for _ in range(2)))
    assert len(known(store)) == len(versions(store)) == 50


def test_a_message_whose_object_may_not_be_looked_at_stays(bucket, quick_store, monkeypatch):
    url = bucket.queue(hidden_seconds=1)
    bucket.send(url, direct("in/a.mp4"), "poison")
    with store_that_answers(status=403, code="AccessDenied") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        objects.client.cache_clear()
        assert Ingest(EventQueue(url), watcher(quick_store)).take() == 0
    time.sleep(1.1)
    left = bucket.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert sorted(message["Body"] for message in left) == sorted([direct("in/a.mp4"), "poison"])


def test_who_may_not_see_what_is_missing_learns_it_from_a_listing(object_store, quick_store, monkeypatch):
    """Where s3:ListBucket is allowed below a prefix only, S3 denies what is not there as it denies the rest."""
    quick_store.observe("s3://archive/in/0000000.mp4", "1", 5)
    quick_store.observe("s3://archive/in/gone.mp4", "1", 5)
    there, gone = (ObjectName(BUCKET, f"in/{key}.mp4") for key in ("0000000", "gone"))
    with store_that_answers(n_keys=3) as server:
        lead_to(monkeypatch, server)
        (refused,) = watcher(quick_store).settle({there, gone}).items()
    assert (refused[0], refused[1].code) == (there, "access_denied")
    assert known(quick_store) == {"in/0000000.mp4": ("1", False), "in/gone.mp4": ("1", True)}


def test_what_is_missing_is_told_by_one_entry_of_a_listing(bucket, monkeypatch):
    """Not by all of a million objects whose names begin like that of the missing one."""
    for n in range(5):
        bucket.put(f"in/a.mp4.{n}.mp4", b"x")

    def denied(name):
        raise AccessDenied(f"{name.uri}: denied")

    asked = []
    s3 = objects.client("s3")
    s3.meta.events.register("provide-client-params.s3.ListObjectsV2", lambda params, **_: asked.append(params))
    monkeypatch.setattr(objects, "head", denied)
    assert look_at(ObjectName(BUCKET, "in/a.mp4")) is None
    assert [params["MaxKeys"] for params in asked] == [1]
    bucket.put("in/a.mp4", b"x")
    with pytest.raises(AccessDenied):
        look_at(ObjectName(BUCKET, "in/a.mp4"))
    assert len(asked) == 2


def test_a_queue_that_is_not_there(bucket, quick_store):
    url = bucket.queue() + "-none"
    with pytest.raises(BadOption, match="there is no such queue"):
        Ingest(EventQueue(url), watcher(quick_store)).take()
