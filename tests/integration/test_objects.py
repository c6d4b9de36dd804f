"""Objects of buckets, read from a real server over HTTP, through a proxy that does what networks and stores do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from db.errors import (
    ChangedWhileReading,
    CredentialsRejected,
    EmptyFile,
    NotReadable,
    ObjectArchived,
    PathMissing,
    SourceSlowDown,
    SourceUnreachable,
)
from db.identity import ObjectName, Source
from tests.clips import Pictures, Track, board_reader, steady, write
from tests.faulty_store import DENIED, EXPIRED, SLOW_DOWN
from worker import objects, read_ahead
from worker.protocol import Event, Progress, ReadRequest
from worker.reader import Reader
from worker.source import latest, opened, require_place

ROOT = Path(__file__).parent.parent.parent
ODD_KEYS = (
    "a b.mp4",
    "a+b.mp4",
    "films/für élise – 電影 🎬.mp4",
    "line\nbreak.mp4",
    "%41.mp4",
    "a//b?c=d#e&f.mp4",
    "~'(*)!.mp4",
)


@pytest.fixture
def bucket(object_store):
    """Puts objects into a bucket; gives what they are then."""
    object_store.client("s3").create_bucket(Bucket="archive")

    def put(key: str, content: bytes | Path) -> Source:
        body = content.read_bytes() if isinstance(content, Path) else content
        object_store.client("s3").put_object(Bucket="archive", Key=key, Body=body)
        return objects.described(ObjectName("archive", key))

    return put


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    monkeypatch.setattr(objects, "BREAK_SECONDS", 0.01)


@pytest.fixture
def small_blocks(monkeypatch):
    """Short clips are fetched in many requests, as long films are."""
    monkeypatch.setattr(read_ahead, "MIN_BLOCK_BYTES", 1 << 14)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with board_reader() as reader:
        yield reader


# Name, what the muxer is told, and whether sound and pictures take turns in the file.
CLIPS = {
    "index at the end": ("a.mp4", "aac", {}, True),
    "index at the start": ("a.mp4", "aac", {"movflags": "faststart"}, True),
    "sound behind all pictures": ("a.mov", "pcm_s16le", {}, False),
    "matroska": ("a.mkv", "aac", {}, True),
    "transport stream": ("a.ts", "aac", {}, True),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    """Eight seconds each."""
    made = {}
    for kind, (name, codec, options, interleave) in CLIPS.items():
        path = tmp_path_factory.mktemp("clips") / name
        track = Track(codec=codec, seconds=8.0)
        made[kind] = write(path, Pictures(steady(8)), [track], container=options, interleave=interleave)
    return made


@pytest.fixture(scope="module")
def clip(clips) -> Path:
    """Of 2 MB, most of it sound."""
    return clips["sound behind all pictures"]


def read(reader: Reader, source: Source, **request: float) -> list[Event]:
    with opened(source) as file, closing(reader.read(file, source.uri, ReadRequest(**request))) as events:
        return [event for event in events if not isinstance(event, Progress)]


def same(ours: list[Event], theirs: list[Event]) -> bool:
    """Whether two readings gave the same, bit by bit."""
    return len(ours) == len(theirs) and all(
        type(mine) is type(other)
        and all(np.array_equal(getattr(mine, name), getattr(other, name)) for name in vars(mine))
        for mine, other in zip(ours, theirs, strict=True)
    )


def test_the_clients_reach_the_server_that_the_environment_names(object_store):
    object_store.client("s3").create_bucket(Bucket="archive")
    assert [found["Name"] for found in objects.client("s3").list_buckets()["Buckets"]] == ["archive"]
    object_store.client("sqs").create_queue(QueueName="events")
    assert len(objects.client("sqs").list_queues()["QueueUrls"]) == 1
    assert objects.client("s3") is objects.client("s3")


@pytest.mark.parametrize("kind", CLIPS)
def test_an_object_reads_as_a_file_does(kind, clips, bucket, reader, small_blocks):
    path = clips[kind]
    file, kept = Source.of(path, path.stat()), bucket("films/a", path)
    with opened(file) as one, opened(kept) as other:
        assert reader.probe(other, kept.uri) == reader.probe(one, file.uri)
    for request in ({}, {"start_seconds": 4.0, "end_seconds": 6.0}):
        ours, theirs = read(reader, kept, **request), read(reader, file, **request)
        assert len(ours) > 10
        assert same(ours, theirs)


def test_a_real_clip_reads_as_a_file_does(media, bucket, reader):
    path = media / "obama_speech.mp4"
    assert same(read(reader, bucket("speech.mp4", path)), read(reader, Source.of(path, path.stat())))


@pytest.mark.parametrize("key", ODD_KEYS)
def test_an_object_is_found_under_any_key(key, bucket):
    source = bucket(key, b"content of " + key.encode())
    assert source.uri == f"s3://archive/{key}"
    assert latest(source) == source
    require_place(source.uri)
    assert b"".join(objects.chunks(source, 0, source.size_bytes)) == b"content of " + key.encode()


def test_the_child_has_no_credentials_no_address_and_nothing_but_its_sockets(clip, bucket, reader, faulty_store):
    source = bucket("secret-name.mov", clip)
    with opened(source) as file, closing(reader.read(file, source.uri, ReadRequest())) as events:
        next(events)
        child = Path("/proc", str(reader.child_pid))
        told = (child / "environ").read_bytes() + (child / "cmdline").read_bytes()
        links = {os.readlink(link).partition(":")[0] for link in (child / "fd").iterdir()}
    known = ("AWS_", "an-id", "a-secret", "archive", "secret-name", "http:", str(faulty_store.url).rpartition(":")[2])
    assert not [word for word in known if word.encode() in told]
    assert links <= {"socket", "/dev/null", "/memfd", "anon_inode"} | {link for link in links if "/tmp" in link}


def test_a_body_that_breaks_off_is_continued(clip, bucket, reader, faulty_store, small_blocks):
    source = bucket("a.mov", clip)
    whole = read(reader, Source.of(clip, clip.stat()))
    faulty_store.n_broken = 8
    assert same(read(reader, source), whole)
    assert faulty_store.n_broken <= 0


def test_bodies_that_never_come_whole_are_the_stores_fault(clip, bucket, reader, faulty_store):
    source = bucket("a.mov", clip)
    with opened(source) as file:
        faulty_store.n_broken = 10_000
        with (
            pytest.raises(SourceUnreachable, match="break off"),
            closing(reader.read(file, source.uri, ReadRequest(start_seconds=6.0))) as events,
        ):
            list(events)


def test_a_storm_of_slow_down_is_waited_out(clip, bucket, reader, faulty_store):
    source = bucket("a.mov", clip)
    faulty_store.n_slowed = objects.MAX_ATTEMPTS - 1
    assert same(read(reader, source), read(reader, Source.of(clip, clip.stat())))
    assert faulty_store.n_requests > 25


@pytest.mark.parametrize(
    ("refusal", "kind", "said"),
    [
        (SLOW_DOWN, SourceSlowDown, "s3://archive: the store asks for fewer requests"),
        (EXPIRED, CredentialsRejected, "s3://archive: the store does not accept the credentials .ExpiredToken"),
        (DENIED, NotReadable, "s3://archive/a.mov: the store refuses it .AccessDenied"),
        (
            (500, "InternalError", "We encountered an internal error."),
            SourceUnreachable,
            "s3://archive: the store fails",
        ),
        (
            (404, "NoSuchKey", "The specified key does not exist."),
            PathMissing,
            "s3://archive/a.mov: the object is gone",
        ),
        ((404, "NoSuchBucket", "It does not exist."), SourceUnreachable, "s3://archive: there is no such bucket"),
        ((403, "InvalidObjectState", "Not valid for its storage class."), ObjectArchived, "a.mov: InvalidObjectState"),
        ((412, "PreconditionFailed", "It did not hold."), ChangedWhileReading, "a.mov: the object was replaced"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_store_that_refuses_is_named_as_such_at_first_and_midway(
    refusal, kind, said, clip, bucket, reader, faulty_store, small_blocks
):
    source = bucket("a.mov", clip)
    faulty_store.refuses = refusal
    with pytest.raises(kind, match=said), opened(source):
        pass
    faulty_store.refuses = None
    with opened(source) as file:
        faulty_store.on_get = lambda path: setattr(faulty_store, "refuses", refusal)
        with pytest.raises(kind, match=said), closing(reader.read(file, source.uri, ReadRequest())) as events:
            list(events)
    faulty_store.refuses, faulty_store.on_get = None, lambda path: None
    assert len(read(reader, source, end_seconds=2.0)) > 5, "the reader is good for the next job"


def test_a_look_at_an_object_says_why_it_is_refused_although_its_answer_has_no_text(bucket, faulty_store):
    source = bucket("a.mov", b"x")
    for refusal, kind in ((EXPIRED, CredentialsRejected), (DENIED, NotReadable), (SLOW_DOWN, SourceSlowDown)):
        faulty_store.refuses = refusal
        with pytest.raises(kind):
            latest(source)
    assert "requester" in NotReadable("x", objects._ALLOW).hint


def test_credentials_are_looked_for_anew_once_they_were_rejected(bucket, faulty_store, monkeypatch):
    source = bucket("a.mov", b"x")
    faulty_store.refuses = EXPIRED
    with pytest.raises(CredentialsRejected):
        latest(source)
    faulty_store.refuses = None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-new-id")
    assert latest(source) == source
    assert "Credential=a-new-id/" in faulty_store.requests[-1][1]["Authorization"]


def test_without_credentials_it_is_said_that_there_are_none(bucket, monkeypatch):
    source = bucket("a.mov", b"x")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    objects.client.cache_clear()
    with pytest.raises(CredentialsRejected, match="Unable to locate credentials"), opened(source):
        pass


def test_a_store_that_is_not_there_is_unreachable(bucket, monkeypatch):
    source = bucket("a.mov", b"x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    objects.client.cache_clear()
    with pytest.raises(SourceUnreachable, match="s3://archive: Could not connect"):
        latest(source)


def test_a_store_that_gives_no_bytes_is_unreachable_and_no_broken_decoder(clip, bucket, faulty_store, small_blocks):
    source = bucket("a.mov", clip)
    with board_reader() as reader, opened(source) as file:
        reader.probe(file, source.uri)
        reader._child.channel._socket.settimeout(1.0)  # no sooner, since a child takes a while to start
        faulty_store.latency_seconds = 5.0
        with pytest.raises(SourceUnreachable, match="no bytes came"):
            list(reader.read(file, source.uri, ReadRequest()))


def test_an_object_that_is_gone_or_empty_or_replaced_is_said_to_be(bucket, object_store):
    source = bucket("a.mp4", b"one")
    bucket("a.mp4", b"two")
    with pytest.raises(ChangedWhileReading), opened(source):
        pass
    assert latest(source).version != source.version
    object_store.client("s3").delete_object(Bucket="archive", Key="a.mp4")
    assert latest(source) == source
    with pytest.raises(PathMissing), opened(source):
        pass
    with pytest.raises(EmptyFile), opened(bucket("empty.mp4", b"")):
        pass


def test_a_store_that_knows_no_conditions_mixes_no_versions(bucket, faulty_store):
    source = bucket("a.mp4", b"one")
    faulty_store.hold("/archive/a.mp4")  # what answers from now on looks at no If-Match
    assert b"".join(objects.chunks(source, 1, 2)) == b"ne"
    bucket("a.mp4", b"two")
    faulty_store.hold("/archive/a.mp4")
    with pytest.raises(ChangedWhileReading):
        list(objects.chunks(source, 1, 2))


def test_who_pays_is_said_where_it_must_be(bucket, faulty_store, monkeypatch):
    source = bucket("a.mp4", b"one")
    assert "x-amz-request-payer" not in faulty_store.requests[-1][1]
    monkeypatch.setenv("MOODREEL_S3_REQUEST_PAYER", "requester")
    latest(source)
    list(objects.chunks(source, 0, 3))
    assert [headers.get("x-amz-request-payer") for _, headers in faulty_store.requests[-2:]] == ["requester"] * 2


CHILD = """
import resource, sys
from worker.decoder_open import LentFile
lent, count = LentFile(int(sys.argv[1])), 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
while part := lent.read(65536):
    count += len(part)
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
PARENT = """
import resource, subprocess, sys
from db.identity import ObjectName, Source
from worker.source import opened
etag, size_bytes, child = sys.argv[1:]
with opened(Source.of_object(ObjectName("archive", "large"), etag, int(size_bytes), 0.0)) as file, file.lent() as loan:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    subprocess.run([sys.executable, "-c", child, str(loan.descriptor)], pass_fds=[loan.descriptor], check=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_object(faulty_store):
    etag = faulty_store.hold("/archive/large", bytes(200 << 20))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PARENT, etag, str(200 << 20), CHILD]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    count, childs_kb, parents_kb = map(int, ran.stdout.split())
    assert count == 200 << 20
    assert max(childs_kb, parents_kb) < 80 << 10, "each sees the same memory"
