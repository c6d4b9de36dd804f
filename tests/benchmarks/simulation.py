"""A fleet without models and media, for `scale.py`: real consumers, claims, leases, rows and fusion.

    python -m tests.benchmarks.simulation workers < SETTINGS     worker processes, until SIGTERM
    python -m tests.benchmarks.simulation feeder ARGUMENT...     `moodreel watch ARGUMENT...`, which times its rounds

A worker process is `worker.serve` as it is, but for what `_simulate` replaces: no file is opened, and instead of
decoding and models there are waiting and made-up rows. Processes are forked from one that has imported all, so that 64
of them start within seconds on a small machine.
"""

import io
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from db.rows import SPAN, StepClaim
from tests.benchmarks.fusing import timeline
from worker.protocol import Event, Probe, Progress, ReadRequest
from worker.span import CHECKPOINT_WINDOWS
from worker.supervise import WorkOptions
from worker.windows import WindowPlan

PLAN = WindowPlan(span_ms=600_000)  # `moodreel pipelines add --span 600`
VIDEO_SECONDS = 3600.0  # of each simulated video: six spans
JITTER = 0.2  # a span takes so much less or more than it should, so that workers do not march in step
NOTE_SECONDS = 0.5
STATES = ("job", "simulated", "database")


@dataclass(frozen=True)
class Settings:
    """What `workers` reads.

    Attributes:
        work: options of each worker process.
        workers: how many processes.
        span_seconds: how long decoding and models take for a span of ten minutes.
        notes: folder for what the processes note down.
    """

    work: dict[str, Any]
    workers: int
    span_seconds: float
    notes: str


class Meter:
    """How long this process's slots have been in each state, all together; and how many jobs they did."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = time.monotonic()
        self._active = dict.fromkeys(STATES, 0)
        self._seconds = dict.fromkeys(STATES, 0.0)
        self.jobs: Counter[str] = Counter()
        self._mine = threading.local()

    @contextmanager
    def during(self, state: str) -> Iterator[None]:
        """The calling thread is in a state meanwhile."""
        self._change(state, 1)
        try:
            yield
        finally:
            self._change(state, -1)

    @contextmanager
    def job(self) -> Iterator[None]:
        """The calling thread does a job meanwhile."""
        self._mine.is_job = True
        try:
            with self.during("job"):
                yield
        finally:
            self._mine.is_job = False

    @property
    def is_in_job(self) -> bool:
        """Whether the calling thread does a job."""
        return getattr(self._mine, "is_job", False)

    def _change(self, state: str, by: int) -> None:
        with self._lock:
            self._advance()
            self._active[state] += by

    def _advance(self) -> None:
        now = time.monotonic()
        for state, count in self._active.items():
            self._seconds[state] += count * (now - self._at)
        self._at = now

    def note(self) -> dict[str, Any]:
        """Seconds so far by state, and jobs so far by kind and outcome."""
        with self._lock:
            self._advance()
            return {"at": self._at, **self._seconds, "jobs": dict(self.jobs)}


@dataclass(frozen=True)
class _Judged:
    """An event in the place of sound and pictures: a run of windows is ready."""


class _Readers:
    """In the place of `ReaderPool`."""

    def __init__(self, span_seconds: float, meter: Meter, **_options: Any) -> None:
        self._seconds_per_run = span_seconds * CHECKPOINT_WINDOWS / (PLAN.span_ms / 1000)
        self._meter = meter

    def __exit__(self, *_: object) -> None:
        pass

    @contextmanager
    def reader(self) -> Iterator["_Readers"]:
        yield self

    def probe(self, descriptor: int, name: str) -> Probe:
        promised = {"container": "mov,mp4", "duration_seconds": VIDEO_SECONDS, "seekable": True}
        return Probe(**promised, has_audio=True, has_video=True)

    def read(self, descriptor: int, name: str, request: ReadRequest) -> Iterator[Event | _Judged]:
        """Wait as long as it would take; at least once a second something moves."""
        while True:
            left = self._seconds_per_run * random.uniform(1 - JITTER, 1 + JITTER)
            while left > 0:
                step = min(1.0, left)
                with self._meter.during("simulated"):
                    time.sleep(step)
                left -= step
                yield Progress(0.0)
            yield _Judged()


class _Run:
    """In the place of `SpanRun`."""

    def __init__(self, rows: list[tuple[Any, ...]], claim: Any, *_: object, **__: object) -> None:
        self._rows = rows[claim.first_window : claim.last_window]
        self.true_end_seconds = VIDEO_SECONDS if claim.last_window is None else None
        self.warning = None

    def rows(self, events: Iterator[_Judged]) -> Iterator[list[tuple[Any, ...]]]:
        for first, _ in zip(range(0, len(self._rows), CHECKPOINT_WINDOWS), events, strict=False):
            yield self._rows[first : first + CHECKPOINT_WINDOWS]


class _Recognizers:
    """In the place of `Recognizers`."""

    device, moved_at = "cpu", 0.0

    def __init__(self, *_: object) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def prepare(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def provenance(self) -> dict[str, Any]:
        return {"device": "none"}


def _simulate(settings: Settings, meter: Meter) -> None:
    """Replace what opens files, decodes and judges; and time jobs and what they ask of the database."""
    import db.store
    import worker.fleet

    class TimedStore(db.store.Store):
        @contextmanager
        def reading(self) -> Iterator[Any]:
            with meter.during("database") if meter.is_in_job else nullcontext(), super().reading() as connection:
                yield connection

        @contextmanager
        def writing(self) -> Iterator[Any]:
            with meter.during("database") if meter.is_in_job else nullcontext(), super().writing() as connection:
                yield connection

    class TimedWorker(worker.fleet.FleetWorker):
        def _ended(self, held: Any, assignment: Any) -> str:
            with meter.job():
                outcome = super()._ended(held, assignment)
            kind = held.claim.kind if isinstance(held.claim, StepClaim) else SPAN
            meter.jobs[f"{kind} {outcome}"] += 1
            return outcome

    rows = timeline(round(VIDEO_SECONDS))
    replaced: dict[str, Any] = {
        "latest": lambda source: source,
        "require_place": lambda uri: None,
        "opened": lambda source: nullcontext(-1),
        "ReaderPool": partial(_Readers, settings.span_seconds, meter),
        "SpanRun": partial(_Run, rows),
        "Recognizers": _Recognizers,
        "FleetWorker": TimedWorker,
    }
    for name, value in replaced.items():
        assert hasattr(worker.fleet, name)
        setattr(worker.fleet, name, value)
    db.store.Store = TimedStore  # type: ignore[misc]


def workers(settings: Settings) -> None:
    """Fork the worker processes, and end them at SIGTERM."""
    for name in ("celery.worker", "psycopg", "worker.tasks"):  # once for all
        import_module(name)
    serve = import_module("worker.serve")
    meter = Meter()
    _simulate(settings, meter)
    listening, speaking = os.pipe()
    children = []
    for number in range(settings.workers):
        child = os.fork()
        if child == 0:
            _serve(settings, meter, number, speaking, serve.main)
        children.append(child)

    def stop(*_: object) -> None:
        for child in children:
            os.kill(child, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=_listen, args=(listening,), daemon=True).start()
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(max(map(abs, ended)))


def _listen(descriptor: int) -> None:
    while os.read(descriptor, 65536):
        pass


def _serve(settings: Settings, meter: Meter, number: int, speaking: int, main: Callable[[], None]) -> None:
    """Be a worker process; never returns."""
    code: Any = 1
    try:
        sys.argv = ["worker.serve", "--progress", str(speaking), "--number", str(number)]
        sys.stdin = io.StringIO(json.dumps(settings.work))
        threading.Thread(target=_note, args=(Path(settings.notes, f"{number}.worker"), meter), daemon=True).start()
        main()
    except SystemExit as end:
        code = end.code
    finally:
        os._exit(code if isinstance(code, int) else int(code is not None))


def _note(path: Path, meter: Meter) -> None:
    with path.open("a", buffering=1) as notes:
        while True:
            notes.write(json.dumps(meter.note()) + "\n")
            time.sleep(NOTE_SECONDS)


def feeder(arguments: list[str]) -> None:
    """`moodreel watch`, which notes down how long its rounds take, in the file that $NOTES names."""
    import scheduler.cli
    import scheduler.feeder

    tick = scheduler.feeder.Feeder.tick
    notes = open(os.environ["NOTES"], "a", buffering=1)  # noqa: SIM115 - until the process ends

    def timed(self: scheduler.feeder.Feeder) -> int:
        began, used = time.monotonic(), time.thread_time()
        result = tick(self)
        spent = {"at": began, "seconds": time.monotonic() - began, "cpu_seconds": time.thread_time() - used}
        notes.write(json.dumps(spent) + "\n")
        return result

    scheduler.feeder.Feeder.tick = timed  # type: ignore[method-assign]
    sys.argv = ["moodreel", "watch", *arguments]
    scheduler.cli.main()


def settings_for(db_url: str, broker_url: str, workers: int, span_seconds: float, notes: Path) -> bytes:
    """What `workers` reads, for processes of one slot each."""
    work = WorkOptions(db_url, broker_url, slots=1, device="cpu", grace_seconds=0.2)
    return json.dumps(asdict(Settings(asdict(work), workers, span_seconds, str(notes)))).encode()


if __name__ == "__main__":
    if sys.argv[1] == "workers":
        workers(Settings(**json.load(sys.stdin)))
    else:
        feeder(sys.argv[2:])
