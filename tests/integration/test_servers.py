"""The servers of the fleet's tests do what they are asked to: die, come back, forget, refuse, show their messages."""

import tempfile
import threading
import time
from pathlib import Path

import kombu
import pytest
import redis
import sqlalchemy as sa

from tests.servers import PostgresServer, RedisServer


def send(server: RedisServer, name: str, task_id: str) -> None:
    with kombu.Connection(server.url) as connection, connection.SimpleQueue("moodreel") as queue:
        queue.put([[name], {}, {}], headers={"task": name, "id": task_id})


def received(server: RedisServer, timeout_seconds: float = 0.5) -> list[str]:
    found = []
    with kombu.Connection(server.url) as connection, connection.SimpleQueue("moodreel") as queue:
        while True:
            try:
                message = queue.get(timeout=timeout_seconds)
            except queue.Empty:
                return found
            message.ack()
            found.append(message.headers["id"])


def test_what_redis_was_told_survives_its_death_but_not_a_flush(redis_server):
    with redis_server.client() as client:
        client.set("name", "value")
    redis_server.kill()
    with pytest.raises(redis.ConnectionError), redis_server.client() as client:
        client.ping()
    redis_server.start()
    with redis_server.client() as client:
        assert client.get("name") == b"value"
        redis_server.flush()
        assert client.get("name") is None


def test_redis_that_is_out_of_memory_refuses_to_write(redis_server):
    with redis_server.client() as client:
        redis_server.refuse_writes(True)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.lpush("list", "value")
        redis_server.refuse_writes(False)
        assert client.lpush("list", "value") == 1


def test_redis_lets_nobody_in_without_the_password(redis_server):
    _, _, address = redis_server.url.rpartition("@")
    with redis.Redis.from_url(f"redis://{address}") as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_redis_that_is_paused_answers_when_it_goes_on(redis_server):
    redis_server.pause()
    threading.Timer(0.5, redis_server.resume).start()
    began = time.monotonic()
    with redis_server.client() as client:
        assert client.ping()
    assert time.monotonic() - began > 0.3


def test_messages_can_be_taken_delayed_and_doubled(redis_server):
    assert redis_server.take(timeout_seconds=0.1) is None
    for task_id in "abc":
        send(redis_server, "plan", task_id)
    lost, delayed = redis_server.take(), redis_server.take()
    assert (lost.task, delayed.task) == ("plan", "plan")
    redis_server.put(delayed)
    redis_server.put(delayed.copy())
    assert received(redis_server) == ["c", "b", "b"]


def test_a_message_is_taken_while_a_worker_waits_for_it(redis_server):
    """The worker is asked to wait first, and asks again every second."""
    got: list[str] = []
    worker = threading.Thread(target=lambda: got.extend(received(redis_server, timeout_seconds=4.0)))
    worker.start()
    time.sleep(0.5)
    taken: list[object] = []
    thief = threading.Thread(target=lambda: taken.append(redis_server.take(timeout_seconds=4.0)))
    thief.start()
    time.sleep(1.5)
    send(redis_server, "plan", "a")
    thief.join()
    worker.join()
    assert taken[0] is not None
    assert got == []


@pytest.mark.usefixtures("postgresql_server")  # says where PostgreSQL is not installed
def test_committed_rows_survive_a_restart_at_the_same_address():
    with tempfile.TemporaryDirectory(prefix="moodreel-") as folder, PostgresServer(Path(folder)) as server:
        engine = sa.create_engine(server.create_database("kept"))
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE numbers AS SELECT generate_series(1, 1000) AS n")
        open_one = engine.connect()
        open_one.exec_driver_sql("INSERT INTO numbers VALUES (1001)")  # never committed
        server.restart()
        with pytest.raises(sa.exc.OperationalError):
            open_one.exec_driver_sql("SELECT 1")
        open_one.invalidate()
        open_one.close()
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT COUNT(*), MAX(n) FROM numbers").one() == (1000, 1000)
        engine.dispose()
