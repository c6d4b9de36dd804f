"""Messages through a real Redis: their order, what they carry, and a broker that refuses, hangs, forgets or is gone."""

import json
import time
from collections.abc import Iterator

import pytest

from db.errors import BadOption, BrokerUnreachable
from db.identity import Source
from db.rows import FINISH, PLAN, SPAN, DueJob, Job, Worker
from db.store import Store
from scheduler.feeder import Feeder
from scheduler.queue import Queue
from tests.servers import RedisServer
from worker.broker import make_app

SOON_SECONDS = 6.0  # within which a broker that does not answer must be noticed


@pytest.fixture
def queue(redis_server: RedisServer) -> Iterator[Queue]:
    opened = Queue(redis_server.url)
    yield opened
    opened.close()


def due(kind: str, number: int, priority: int = 0, resent: bool = False) -> DueJob:
    return DueJob(Job(kind, number, 3 if kind == SPAN else None), priority, resent)


def body(message) -> tuple[str, list]:
    """A message's task and arguments."""
    import base64

    arguments, keywords, _ = json.loads(base64.b64decode(json.loads(message.raw)["body"]))
    assert keywords == {}
    return message.task, arguments


def test_each_message_carries_one_id_and_no_password(redis_server, queue):
    queue.send([due(PLAN, 17), due(SPAN, 17), due(FINISH, 17)])
    messages = [redis_server.take() for _ in range(3)]
    assert {(task, *arguments) for task, arguments in map(body, messages)} == {
        ("plan", "17"),
        ("annotate_span", "17/3"),
        ("finish", "17"),
    }
    password = redis_server.url.partition("@")[0].rpartition(":")[2].encode()
    assert len(password) > 8
    for message in messages:
        assert password not in message.raw
        assert json.loads(message.raw)["content-type"] == "application/json"
        assert json.loads(message.raw)["headers"]["ignore_result"] is True


def test_what_finishes_goes_first_then_by_priority_and_what_was_passed_over_is_so_once(redis_server, queue):
    queue.send([due(PLAN, 1, -1), due(PLAN, 2), due(PLAN, 3, 7), due(PLAN, 4), due(FINISH, 5, -1)])
    queue.send([due(SPAN, 6, -1, resent=True)])
    assert queue.depth() == 6
    order = [body(redis_server.take())[1][0] for _ in range(6)]
    assert order == ["5", "6/3", "3", "2", "4", "1"]
    assert queue.depth() == 0


def test_a_consumer_gets_the_lists_in_the_same_order(redis_server, queue):
    """What a worker's own transport makes of the lists, not only what Redis holds."""
    queue.send([due(PLAN, 1, -1), due(PLAN, 2), due(PLAN, 3, 7), due(FINISH, 4)])
    with make_app(redis_server.url).connection_for_read() as connection, connection.SimpleQueue("moodreel") as simple:
        assert [simple.get(timeout=10).payload[0][0] for _ in range(4)] == ["4", "3", "2", "1"]


def refused(what) -> str:
    """What a broker's refusal says; it must come soon."""
    began = time.monotonic()
    with pytest.raises(BrokerUnreachable) as caught:
        what()
    assert time.monotonic() - began < SOON_SECONDS
    return str(caught.value)


@pytest.mark.parametrize("fault", ["stop", "kill", "pause", "oom"])
def test_a_broker_that_is_gone_hangs_or_refuses_is_noticed_soon_and_used_again_when_it_is_back(
    fault, redis_server, queue
):
    queue.send([due(PLAN, 1)])
    hurt = {"oom": lambda: redis_server.refuse_writes(True)}.get(fault) or getattr(redis_server, fault)
    heal = {"oom": lambda: redis_server.refuse_writes(False), "pause": redis_server.resume}
    hurt()
    for _ in range(2):
        said = refused(lambda: queue.send([due(PLAN, 2)]))
        assert redis_server.url.partition("@")[0] not in said
    refused(queue.depth)
    heal.get(fault, redis_server.start)()
    queue.send([due(PLAN, 3)])
    ids = {body(redis_server.take())[1][0] for _ in range(queue.depth())}
    assert {"1", "3"} <= ids


def test_a_hung_broker_is_noticed_by_a_new_connection_too(redis_server):
    redis_server.pause()
    fresh = Queue(redis_server.url)
    refused(lambda: fresh.send([due(PLAN, 1)]))
    redis_server.resume()
    fresh.send([due(PLAN, 1)])


def test_a_wrong_password_is_refused_without_being_told(redis_server):
    said = refused(Queue(redis_server.url.replace("redis://:", "redis://:wr0ng")).depth)
    assert "wr0ng" not in said
    assert "127.0.0.1" in said


def test_after_a_flush_messages_still_arrive(redis_server, queue):
    queue.send([due(PLAN, 1)])
    redis_server.flush()
    assert queue.depth() == 0
    queue.send([due(PLAN, 2)])
    assert queue.depth() == 1
    assert body(redis_server.take()) == ("plan", ["2"])


@pytest.mark.parametrize(
    "url", ["amqp://guest@localhost//", "localhost:6379", "redis://:a#b@localhost:1/0", "redis://localhost/zero", ""]
)
def test_a_url_that_names_no_redis_is_a_wrong_option_and_is_not_repeated(url):
    with pytest.raises(BadOption) as caught:
        Queue(url)
    assert "a#b" not in str(caught.value)


def test_celerys_own_environment_does_not_lead_messages_astray(redis_server, monkeypatch):
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_WRITE_URL", "CELERY_BROKER_READ_URL"):
        monkeypatch.setenv(name, "redis://nowhere.invalid/0")
    queue = Queue(redis_server.url)
    queue.send([due(PLAN, 1)])
    assert queue.depth() == 1


# --- with the feeder ------------------------------------------------------------------------------------------------


def submitted(store: Store, n: int) -> None:
    pipeline_id = store.register_pipeline("d", "w", "compact", {})
    store.submit(pipeline_id, [Source(f"/{number}.mp4", "1", 1000, 0.0) for number in range(n)], 0)


def test_flushed_and_stolen_messages_are_sent_again(store, redis_server, queue):
    submitted(store, 6)
    feeder = Feeder(store, queue, lost_seconds=0.3)
    feeder.tick()
    redis_server.flush()
    feeder.tick()
    time.sleep(0.4)
    feeder.tick()
    assert queue.depth() == 6
    redis_server.take()  # by a worker that dies before it claims the job
    feeder.tick()
    time.sleep(0.4)
    feeder.tick()
    assert queue.depth() >= 6


def test_a_refusing_broker_leaves_the_rows_to_be_sent_later(store, redis_server, queue):
    submitted(store, 3)
    store.beat(Worker(name="w", kind="worker", host="h", pid=1, version="1", slots=2))
    feeder = Feeder(store, queue)
    redis_server.refuse_writes(True)
    refused(feeder.tick)
    assert store.outstanding() == 0
    redis_server.refuse_writes(False)
    feeder.tick()
    assert (queue.depth(), store.outstanding()) == (3, 3)
