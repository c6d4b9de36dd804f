"""Messages of buckets: what they say, and what becomes of them."""

import json
import logging
from urllib.parse import quote_plus

import pytest

from db.errors import AccessDenied, DatabaseLocked, SourceUnreachable
from db.identity import ObjectName
from scheduler.ingest import Ingest, Message, names_in
from scheduler.metrics import Metrics

ODD_KEYS = [
    "a b.mp4",
    "a+b.mp4",
    "100%.mp4",
    "ü/\U0001f600.mp4",
    "new\nline.mp4",
    "%20.mp4",
    "a?b#c&d=e.mp4",
    "'\"<>.mp4",
]


def record(key: str, event: str = "ObjectCreated:Put", bucket: str = "archive") -> dict:
    """As S3 makes it, save for what nobody reads here."""
    entity = {"key": quote_plus(key, safe="/"), "size": 3, "eTag": "0f3a", "sequencer": "0055AED6DCD90281E5"}
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventName": event,
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": bucket}, "object": entity},
    }


def direct(*keys: str) -> str:
    return json.dumps({"Records": [record(key) for key in keys]})


def through_sns(body: str) -> str:
    return json.dumps({"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:x:1:t", "Message": body})


def through_event_bridge(key: str) -> str:
    entity = {"key": key, "size": 3, "etag": "0f3a", "sequencer": "00617F08299329D189"}
    said = {"version": "0", "bucket": {"name": "archive"}, "object": entity, "reason": "PutObject"}
    return json.dumps({"version": "0", "source": "aws.s3", "detail-type": "Object Created", "detail": said})


TEST_EVENT = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "archive", "RequestId": "5582815E"})


@pytest.mark.parametrize("key", ODD_KEYS)
@pytest.mark.parametrize(
    "form",
    [
        direct,
        lambda key: through_sns(direct(key)),
        through_event_bridge,
        lambda key: through_sns(through_event_bridge(key)),
    ],
    ids=["s3", "s3 by sns", "eventbridge", "eventbridge by sns"],
)
def test_every_form_names_the_object_by_its_raw_key(form, key):
    assert names_in(form(key)) == {ObjectName("archive", key)}


@pytest.mark.parametrize("form", [direct, through_event_bridge])
def test_a_name_that_is_no_unicode_names_nothing(form):
    assert names_in(form("x.mp4").replace("x.mp4", r"\ud800.mp4")) == set()


def test_one_message_may_tell_of_many_objects_or_twice_of_one():
    assert names_in(direct("a", "b", "a")) == {ObjectName("archive", "a"), ObjectName("archive", "b")}


@pytest.mark.parametrize(
    "body", [TEST_EVENT, through_sns(TEST_EVENT), '{"Records": []}', direct("folder/"), direct("\0")]
)
def test_a_message_may_tell_of_nothing(body):
    assert names_in(body) == set()


@pytest.mark.parametrize(
    "body",
    [
        *("", "hello", "null", "[]", "{}", '"x"', '{"Records": {}}', '{"Records": [{}]}', '{"Records": [null]}'),
        '{"Records": [{"s3": {"bucket": {"name": 1}, "object": {"key": "a"}}}]}',
        '{"source": "aws.ec2", "detail": {"bucket": {"name": "b"}, "object": {"key": "a"}}}',
        through_sns("hello"),
        '{"Type": "SubscriptionConfirmation", "SubscribeURL": "https://sns.example/", "Message": "You have chosen"}',
        "[" * 100_000,
    ],
)
def test_what_is_no_notification_is_refused(body):
    with pytest.raises(ValueError, match=r"^\w"):
        names_in(body)


class Queue:
    """A queue in memory: what is received and not deleted comes again, as when its time is up."""

    url = "the queue"

    def __init__(self, *bodies: str) -> None:
        self.messages = [Message(str(n), f"receipt {n}", body) for n, body in enumerate(bodies)]

    def receive(self) -> list[Message]:
        return self.messages[:10]

    def delete(self, messages) -> None:
        self.messages = [message for message in self.messages if message not in messages]


class Buckets:
    """Settles what it is asked for, save for what it refuses."""

    def __init__(self, **refused) -> None:
        self.refused, self.settled = refused, []

    def is_watched(self, name: ObjectName) -> bool:
        return name.bucket == "archive"

    def settle(self, names):
        self.settled.append({name.key for name in names})
        if "database" in self.refused:
            raise self.refused["database"]
        return {name: self.refused[name.key] for name in names if name.key in self.refused}


def test_messages_are_counted():
    metrics = Metrics()
    Ingest(Queue("hello", direct("a"), direct("b")), Buckets(b=AccessDenied("may not")), metrics).take()
    with pytest.raises(DatabaseLocked):
        Ingest(Queue(direct("a"), TEST_EVENT), Buckets(database=DatabaseLocked("no")), metrics).take()
    taken = [
        metrics.registry.get_sample_value("moodreel_bucket_messages_total", {"outcome": outcome})
        for outcome in ("done", "left")
    ]
    assert taken == [1, 4]


def test_messages_are_deleted_when_their_rows_are_stored():
    queue, buckets = Queue(direct("a", "b"), direct("a"), TEST_EVENT), Buckets()
    assert Ingest(queue, buckets).take() == 3
    assert buckets.settled == [{"a", "b"}]
    assert queue.messages == []


def test_messages_stay_when_the_database_refuses():
    queue = Queue(direct("a"), TEST_EVENT)
    with pytest.raises(DatabaseLocked):
        Ingest(queue, Buckets(database=DatabaseLocked("no"))).take()
    assert len(queue.messages) == 2


def test_a_store_that_is_out_of_reach_keeps_its_messages_only():
    queue, buckets = Queue(direct("a", "b"), direct("b")), Buckets(a=SourceUnreachable("no"))
    with pytest.raises(SourceUnreachable):
        Ingest(queue, buckets).take()
    assert [message.body for message in queue.messages] == [direct("a", "b")]


def test_poison_is_left_to_the_queue_and_told_of_once(caplog):
    queue, buckets = Queue("hello", direct("a", "secret"), direct("b")), Buckets(secret=AccessDenied("may not"))
    ingest = Ingest(queue, buckets)
    assert [ingest.take() for _ in range(3)] == [1, 0, 0]
    assert [message.id for message in queue.messages] == ["0", "1"]
    assert [record.getMessage() for record in caplog.records] == [
        "a message of the queue: Expecting value: line 1 column 1 (char 0): hello",
        "a message of the queue: may not",
    ]


def test_what_is_not_watched_is_dropped_and_told_of_once_for_each_bucket(caplog):
    other = [json.dumps({"Records": [record(key, bucket="other")]}) for key in ("a", "b")]
    queue, buckets = Queue(*other, direct("c")), Buckets()
    assert Ingest(queue, buckets).take() == 3
    assert buckets.settled == [{"c"}]
    assert [record.getMessage() for record in caplog.records] == [
        "a message of the queue: s3://other/a is not watched; it and its like are dropped"
    ]


def test_memory_of_complaints_is_bounded(caplog, monkeypatch):
    monkeypatch.setattr("scheduler.ingest._REMEMBERED", 2)
    caplog.set_level(logging.WARNING)
    ingest = Ingest(Queue("x", "y", "z"), Buckets())
    ingest.take()
    assert len(ingest._told) == 2
