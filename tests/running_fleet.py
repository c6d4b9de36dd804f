"""A fleet on this machine for tests: real servers, and the real commands as processes that can be killed.

Knows nothing of pytest. The processes are found again by a mark in their environment, so that none outlives its fleet,
whatever was killed above it.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import sqlalchemy as sa

from tests.servers import PostgresServer, RedisServer

ROOT = Path(__file__).parent.parent
POISON = ROOT / "tests" / "poison"
MARK = "MOODREEL_TEST_FLEET"
WORKER, DECODER = "worker.serve", "worker.decoder"  # modules, as they stand on command lines


class Service:
    """A command that runs until it is ended, and its log.

    Args:
        command: with its arguments.
        environment: of the process.
        log: file that its output is added to.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self._command, self._environment, self.log = command, environment, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def kill(self) -> None:
        """End the process itself without a word (SIGKILL); those that it started stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self, timeout_seconds: float = 60.0) -> int:
        """Ask it to end (SIGTERM); its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout_seconds)

    def said(self) -> str:
        """All that it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def children(self, module: str) -> list[int]:
        """Processes below it that run a module."""
        return [pid for pid in _below(self.pid) if module in _command_line(pid)]


class Fleet:
    """Servers, and what works with them; a context manager that ends all of it.

    Args:
        folder: for data and logs; its path must be short, since a socket's path has 107 bytes.
        environment: what processes get besides, or instead of, what this process has.

    Raises:
        tests.servers.ServerMissing: a server is not installed.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        for name in ("redis", "pg"):
            (folder / name).mkdir()
        self.redis, self.postgres = RedisServer(folder / "redis"), PostgresServer(folder / "pg")
        self._extra = environment or {}
        self._mark = uuid.uuid4().hex
        self.db_url = ""

    def __enter__(self) -> Self:
        self.redis.start()
        self.postgres.start()
        self.db_url = self.postgres.create_database("fleet")
        self._engine = sa.create_engine(self.db_url, poolclass=sa.NullPool)
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.redis.stop()
        self.postgres.stop()

    @property
    def environment(self) -> dict[str, str]:
        """What every process of the fleet gets."""
        paths = [str(POISON), str(ROOT), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",  # several processes share the cores
            "MOODREEL_DB": self.db_url,
            "MOODREEL_BROKER": self.redis.url,
            MARK: self._mark,
            **self._extra,
        }

    def run(self, *arguments: object, status: int = 0) -> str:
        """Run a command of moodreel to its end; what it printed.

        Args:
            status: the exit status that it must have.

        Raises:
            RuntimeError: it has another one.
        """
        command = moodreel(*arguments)
        ran = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if ran.returncode != status:
            raise RuntimeError(f"moodreel {' '.join(command[1:])}: exit status {ran.returncode}\n{ran.stderr}")
        return ran.stdout

    def service(self, name: str, *arguments: object, **environment: str) -> Service:
        """A command of moodreel that runs on; not started yet."""
        return Service(moodreel(*arguments), self.environment | environment, self.folder / f"{name}.log")

    def rows(self, query: str) -> list[tuple]:
        """Ask the database; while it is away, wait for it."""
        for _ in range(300):
            try:
                with self._engine.connect() as connection:
                    return [tuple(row) for row in connection.exec_driver_sql(query)]
            except sa.exc.OperationalError:
                time.sleep(0.1)
        raise TimeoutError("the database has been away for 30 s")

    def unfinished(self) -> int:
        """How many annotations are neither done nor failed."""
        return int(self.rows("SELECT COUNT(*) FROM annotations WHERE status NOT IN ('done', 'failed')")[0][0])

    def await_videos(self, count: int, timeout_seconds: float) -> None:
        """Wait until so many videos have been asked for.

        Raises:
            TimeoutError: they have not.
        """
        wait_until(lambda: self.rows("SELECT COUNT(*) FROM annotations")[0][0] >= count, timeout_seconds)

    def finish(self, timeout_seconds: float) -> None:
        """Wait until all that was submitted is done or has failed.

        Raises:
            TimeoutError: it is not; the message says where it stands.
        """
        try:
            wait_until(lambda: self.unfinished() == 0, timeout_seconds)
        except TimeoutError:
            raise TimeoutError(f"after {timeout_seconds:g} s:\n{self.standing()}") from None

    def standing(self) -> str:
        """What is not done yet, and why, for people."""
        unfinished = self.rows(
            "SELECT a.id, v.uri, a.status, a.attempts, a.error_code, s.span_index, s.status, s.attempts, s.epoch,"
            " s.lease_owner, s.sent_at, s.available_at FROM annotations a JOIN videos v ON v.id = a.video_id"
            " LEFT JOIN spans s ON s.annotation_id = a.id AND s.status <> 'done'"
            " WHERE a.status NOT IN ('done', 'failed') ORDER BY a.id LIMIT 20"
        )
        logs = [f"{log.name}:\n{log.read_text(errors='replace')[-3000:]}" for log in sorted(self.folder.glob("*.log"))]
        return "\n".join([*map(str, unfinished), *logs])

    def _processes(self) -> Iterator[int]:
        """All that carries this fleet's mark."""
        wanted = f"{MARK}={self._mark}".encode()
        for pid in _pids():
            with suppress(OSError):
                if pid != os.getpid() and wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    yield pid


def moodreel(*arguments: object) -> list[str]:
    """A command of moodreel, as it is started."""
    return [str(Path(sys.executable).with_name("moodreel")), *map(str, arguments)]


def wait_until(condition: Callable[[], bool], timeout_seconds: float, every_seconds: float = 0.1) -> None:
    """Wait for something to become true.

    Raises:
        TimeoutError: it has not.
    """
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_seconds:g} s in vain")
        time.sleep(every_seconds)


def _pids() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def _below(pid: int) -> list[int]:
    """All processes that a process has started, and those that these have."""
    parents: dict[int, list[int]] = {}
    for child in _pids():
        with suppress(OSError, ValueError, IndexError):
            status = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            if status[0] != "Z":
                parents.setdefault(int(status[1]), []).append(child)
    found = list(parents.get(pid, []))
    for child in found:
        found += parents.get(child, [])
    return found


def _command_line(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []
