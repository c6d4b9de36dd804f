"""What `moodreel work` is: a light process that starts one worker process for each GPU, or one for the CPU.

It replaces those that die, and kills and replaces those that make no progress: a process tells each second whether its
jobs get on, so one that hangs in a driver, is stopped, or waits for a model that never answers is noticed by that, or
by its silence. It loads no model itself and survives whatever they do.
"""

import json
import logging
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from db.session import open_engine
from worker import logs
from worker.broker import check_url
from worker.limits import DEFAULT_LIMITS, Limits

SERVE = ("-m", "worker.serve")
ALIVE, STALLED = b".", b"!"
EXIT_REFUSED = 3  # nothing that this machine could do; starting it again would not help
DEFAULT_CPU_SLOTS, DEFAULT_GPU_SLOTS = 2, 4
MARGIN_SECONDS = 15.0  # for giving jobs back and saying goodbye, after the grace period
KILL_SECONDS = 5.0  # for a killed process to be gone
MAX_PAUSE_SECONDS = 60.0  # before a process that keeps dying is started again

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkOptions:
    """What `moodreel work` was asked for.

    Attributes:
        slots: jobs at once in each process; None: as suits the device.
        processes: how many; None: one for each GPU, or one.
        grace_seconds: how long jobs may go on after SIGTERM before they are given back.
        stall_seconds: without progress, after which a job is let go and its process replaced.
        metrics_port: of the first process; the next ones have the next ports; None: none is opened.
    """

    db_url: str
    broker_url: str
    slots: int | None = None
    processes: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    decoder: str = "cpu"
    pipelines: Sequence[str] = ()
    lease_seconds: float = 60.0
    grace_seconds: float = 60.0
    stall_seconds: float = 120.0
    max_attempts: int = 5
    limits: Limits = DEFAULT_LIMITS
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    log_format: str = "json"


def supervise(options: WorkOptions) -> int:
    """Run worker processes until SIGTERM or Ctrl-C; the exit status.

    The first signal lets jobs go on for the grace period, a second one ends all at once.

    Raises:
        BadOption, DatabaseUnreachable: the broker or the database cannot be what the options say.
    """
    check_url(options.broker_url)
    open_engine(options.db_url).dispose()
    logs.set_up(options.log_format)
    gpus = [] if options.device == "cpu" else visible_gpus()
    count = options.processes or max(1, len(gpus))
    processes = [_Process(options, number, gpus[number % len(gpus)] if gpus else None) for number in range(count)]
    asked: list[int] = []  # signals so far

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    try:
        while not asked:
            for process in processes:
                process.watch()
            if all(process.refused for process in processes):
                return EXIT_REFUSED
            time.sleep(0.2)
    finally:
        _log.info("stopping: jobs under way have %g s", options.grace_seconds)
        _end(processes, options.grace_seconds + MARGIN_SECONDS, asked)
    return 0


def _end(processes: list["_Process"], patience_seconds: float, asked: list[int]) -> None:
    """Let processes end in good order; at a second signal, or when it takes too long, at once."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + patience_seconds
    while len(asked) < 2 and time.monotonic() < until and any(process.is_there for process in processes):
        time.sleep(0.1)
    for process in processes:
        process.kill()


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name and name != "-1"]
    count = sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in Path("/dev").glob("nvidia*"))
    return [str(number) for number in range(count)]  # CUDA counts those that it sees, whatever their devices' numbers


class _Process:
    """One worker process, started again as often as need be."""

    def __init__(self, options: WorkOptions, number: int, gpu: str | None) -> None:
        self._number, self._gpu, self._stall_seconds = number, gpu, options.stall_seconds
        slots = options.slots or (DEFAULT_CPU_SLOTS if gpu is None else DEFAULT_GPU_SLOTS)
        self._options = json.dumps(asdict(options) | {"slots": slots}).encode()
        self._process: subprocess.Popen[bytes] | None = None
        self._progress = -1
        self._started_at = self._heard_at = self._start_at = 0.0
        self._pause_seconds = 0.0
        self.refused = False

    def watch(self) -> None:
        """Start it if it is not there, and replace it if it makes no progress."""
        if self._process is None:
            if not self.refused and time.monotonic() >= self._start_at:
                self._start()
            return
        said = os.read(self._progress, 1024) if select.select([self._progress], [], [], 0)[0] else b""
        if said:
            self._heard_at = time.monotonic()
        status = self._process.poll()
        if status is not None:
            self._ended(status)
        elif said.endswith(STALLED) or time.monotonic() - self._heard_at > self._stall_seconds:
            _log.error("worker process %d makes no progress and is replaced", self._process.pid)
            self.kill()
            self._ended(-signal.SIGKILL)

    def _start(self) -> None:
        self._progress, theirs = os.pipe()
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": self._gpu} if self._gpu is not None else {})
        command = [sys.executable, *SERVE, "--progress", str(theirs), "--number", str(self._number)]
        self._started_at = self._heard_at = time.monotonic()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # on which Celery says what the logs say too
                env=environment,
                pass_fds=[theirs],
                start_new_session=True,  # Ctrl-C comes to the supervisor alone, which tells the others
            )
        except OSError as error:
            _log.error("no worker process can be started: %s", error)
            os.close(self._progress)
            self._pause()
            return
        finally:
            os.close(theirs)
        assert self._process.stdin is not None
        # Not on the command line, where others could read passwords. If it dies meanwhile, `watch` sees to that.
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(self._options)
        _log.info("worker process %d started", self._process.pid)

    def _ended(self, status: int) -> None:
        assert self._process is not None
        self.refused = status == EXIT_REFUSED
        self._pause()
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        again = "" if self.refused else f"; another one starts in {self._pause_seconds:.0f} s"
        _log.error("worker process %d ended with %s%s", self._process.pid, how, again)
        os.close(self._progress)
        self._process = None

    def _pause(self) -> None:
        """The longer, the more often it died soon after it was started."""
        lasted = time.monotonic() - self._started_at
        self._pause_seconds = 0.0 if lasted > 60 else min(MAX_PAUSE_SECONDS, max(1.0, 2 * self._pause_seconds))
        self._start_at = time.monotonic() + self._pause_seconds

    @property
    def is_there(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> None:
        """Let it end in good order."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End it at once. A stopped process dies of this too; one that a driver holds does when that lets go of it."""
        if self._process is not None and self._process.poll() is None:
            _log.error("worker process %d is killed", self._process.pid)
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_SECONDS)
