"""One video's way from its URI to its rows, top to bottom: record, plan, claim, read, windows, checkpoint, finish."""

import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from db.errors import (
    ChangedWhileReading,
    CredentialsRejected,
    DatabaseError,
    DatabaseLocked,
    EquipmentError,
    Forgotten,
    Interrupted,
    LeaseLost,
    MoodreelError,
    NoStreams,
    SourceUnreachable,
    Undecodable,
)
from db.identity import ObjectName, Source
from db.rows import SpanClaim
from db.store import Store
from worker.finish import Finishing, publish, register
from worker.heartbeat import Heartbeat
from worker.protocol import Event, Progress
from worker.reader import ReaderPool
from worker.recipe import Recipe
from worker.recognizers import Recognizers, as_moodreel_error
from worker.source import latest, opened
from worker.span import SpanRun, facts, planned, read_request

LEASE_SECONDS = 120.0
MAX_CHILDREN = 4
MAX_VERSIONS = 3  # of one object, that are begun one after another as it is replaced

DONE, FAILED, ELSEWHERE = "done", "failed", "elsewhere"


@dataclass(frozen=True)
class Outcome:
    """How one video ended.

    Attributes:
        status: `done`, `failed`, or `elsewhere` if another process holds the rest of it.
        error: why it failed.
        warning: code and sentence, for what is wrong although it is done.
    """

    source: Source
    status: str
    error: MoodreelError | None = None
    warning: tuple[str, str] | None = None


# Called with a source, how many seconds of it are done, and how long it is (None: not known).
Report = Callable[[Source, float, float | None], None]


class Pipeline:
    """Annotates videos on this machine with one copy of each model and several decoding children.

    Args:
        store: where the rows go.
        recipe: what is computed.
        device: auto, cpu or cuda.
        dtype: as `worker.recognizers.Recognizers` takes it.
        children: how many files are decoded at once; by default one for each core, at most `MAX_CHILDREN`.

    Raises:
        WeightsMissing, DeviceUnavailable: the recipe cannot be computed here.
    """

    def __init__(
        self, store: Store, recipe: Recipe, device: str = "auto", children: int | None = None, dtype: str = "auto"
    ) -> None:
        self._store, self._recipe = store, recipe
        self._children = children or min(MAX_CHILDREN, os.cpu_count() or 1)
        self._models = Recognizers(recipe, device, dtype)
        self._models.prepare()
        self._pipeline_id = register(store, recipe.identity)
        self._owner = new_owner()
        self._stop = threading.Event()
        self._readers = ReaderPool()
        self._heartbeat = Heartbeat(store, LEASE_SECONDS)

    def __enter__(self) -> Self:
        self._heartbeat.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeat.__exit__()
        self._models.__exit__(kind, error, trace)
        self._readers.__exit__(kind, error, trace)

    def annotate(self, sources: Sequence[Source], report: Report = lambda *_: None) -> Generator[Outcome, None, None]:
        """Annotate videos, several at a time; outcomes come as they are ready.

        Leaving the iterator early, as Ctrl-C does, gives the spans under way back to the database, and is the end of
        this pipeline's work.

        Raises:
            EquipmentError, DatabaseError: nothing can be annotated here at all. (A store that does not answer costs
                only the videos in it.)
        """
        with ThreadPoolExecutor(min(self._children, max(1, len(sources))), "annotate") as pool:
            waiting = [pool.submit(self._annotate, source, report) for source in sources]
            try:
                for future in as_completed(waiting):
                    yield future.result()
            except BaseException:
                self._stop.set()
                self._models.stop()  # or a slow model would first work off all that is queued
                for future in waiting:
                    future.cancel()
                raise

    def _annotate(self, source: Source, report: Report) -> Outcome:
        """Annotate a video; one that is replaced meanwhile, as it then is. A file may still be being written."""
        for _ in range(MAX_VERSIONS):
            outcome = self._annotate_version(source, report)
            if not isinstance(outcome.error, ChangedWhileReading) or ObjectName.of(source.uri) is None:
                break
        return outcome

    def _annotate_version(self, source: Source, report: Report) -> Outcome:
        annotation_id = None
        failure: MoodreelError
        try:
            source = latest(source)
            video_id = self._store.observe(source.uri, source.version, source.size_bytes)
            annotation = self._store.request(video_id, source.version, self._pipeline_id)
            if annotation.status == DONE:
                return Outcome(source, DONE)
            annotation_id = annotation.id
            self._store.begin_attempt(annotation_id)
            self._work_off(source, annotation_id, report)
            return self._publish(source, annotation_id)
        except LeaseLost:
            if annotation_id is None or self._store.assignment(annotation_id) is not None:
                return Outcome(source, ELSEWHERE)
            failure = Forgotten(f"{source.uri}: it was forgotten while it was being annotated")
        except (Interrupted, CredentialsRejected):
            raise
        except Exception as error:
            if isinstance(error, EquipmentError) and not isinstance(error, SourceUnreachable):
                raise
            if isinstance(error, DatabaseError) and not isinstance(error, DatabaseLocked):
                raise
            failure = as_moodreel_error(error, source.uri)
        self._record(annotation_id, failure)
        return Outcome(source, FAILED, failure)

    def _record(self, annotation_id: int | None, failure: MoodreelError) -> None:
        """Write a failure down, as far as the database lets itself be written to."""
        if annotation_id is not None:
            with suppress(DatabaseLocked):
                discard = isinstance(failure, NoStreams | Undecodable)
                self._store.fail(annotation_id, failure.code, str(failure), discard=discard)

    def _work_off(self, source: Source, annotation_id: int, report: Report) -> None:
        """Plan a video's spans and do those that nobody has done or is doing."""
        with opened(source) as file, self._readers.reader() as reader:
            probe = reader.probe(file, source.uri)
            self._store.plan(annotation_id, planned(self._recipe.plan, probe), facts=facts(probe, source))
            while claim := self._claim(annotation_id):
                with self._holding(claim):
                    request = read_request(claim, self._recipe)
                    streams = {"has_audio": probe.has_audio, "has_video": probe.has_video}
                    run = SpanRun(claim, self._recipe, self._models, **streams)
                    with closing(reader.read(file, source.uri, request)) as events:
                        for rows in run.rows(self._watched(events, source, probe.duration_seconds, report)):
                            self._store.checkpoint(claim, rows)
                    self._store.complete_span(claim, run.true_end_seconds, run.warning)

    def _claim(self, annotation_id: int) -> SpanClaim | None:
        dead = [owner for owner in self._store.lease_owners(annotation_id) if is_dead(owner)]
        return self._store.claim(annotation_id, self._owner, LEASE_SECONDS, dead)

    @contextmanager
    def _holding(self, claim: SpanClaim) -> Iterator[None]:
        """Keep the lease meanwhile, and give the span back if it is not done in the end."""
        try:
            with self._heartbeat.holding(claim):  # a lease that is lost shows itself at the next write
                yield
        except BaseException:
            with suppress(DatabaseError):  # it would hide what went wrong; the lease runs out by itself
                self._store.give_back(claim)
            raise

    def _watched(
        self, events: Iterator[Event], source: Source, duration_seconds: float | None, report: Report
    ) -> Iterator[Event]:
        """Pass events on, tell how far they have come, and stop where a stop was asked for."""
        for event in events:
            if self._stop.is_set():
                raise Interrupted("stopped on request")
            if isinstance(event, Progress):
                report(source, event.t_seconds, duration_seconds)
            yield event

    def _publish(self, source: Source, annotation_id: int) -> Outcome:
        """Finish a video once all its spans are done.

        Raises:
            NoStreams, Undecodable: there was nothing in it, or nothing that could be read.
        """
        if self._store.annotation(annotation_id).status == DONE:  # by another process meanwhile
            return Outcome(source, DONE)
        finishing, provenance = Finishing.of(self._recipe.config), self._models.provenance()
        if not publish(self._store, annotation_id, source.uri, finishing, provenance):
            return Outcome(source, ELSEWHERE)
        return Outcome(source, DONE, warning=self._store.annotation(annotation_id).warning)


_OWNERS_HERE: set[str] = set()


def new_owner() -> str:
    """A name for leases that says which process holds them."""
    owner = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"
    _OWNERS_HERE.add(owner)
    return owner


def is_dead(owner: str) -> bool:
    """Whether a lease's owner is a process of this machine that is gone. Of other machines nothing is known."""
    host, _, rest = owner.rpartition(":")[0].rpartition(":")
    if host != socket.gethostname() or not rest.isdigit():
        return False
    if int(rest) == os.getpid():
        return owner not in _OWNERS_HERE
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
