"""One video's way from its URI to its rows, top to bottom: record, plan, claim, read, windows, checkpoint, finish."""

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from worker.lending import Lender
from worker.limits import DEFAULT_LIMITS, Limits
from worker.memory import give_back_freed_memory
from worker.protocol import Event, Progress
from worker.reader import Reader, ReaderPool
from worker.recipe import Recipe
from worker.recognizers import Recognizers, as_moodreel_error
from worker.sharing import Sharing, Video
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
        decoder, limits: as `worker.reader.Reader` takes them.
        children: how many spans are read at once; by default one for each core, at most `MAX_CHILDREN`.

    Raises:
        WeightsMissing, DeviceUnavailable: the recipe cannot be computed here.
    """

    def __init__(
        self,
        store: Store,
        recipe: Recipe,
        device: str = "auto",
        children: int | None = None,
        dtype: str = "auto",
        decoder: str = "cpu",
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._store, self._recipe = store, recipe
        self._children = children or min(MAX_CHILDREN, os.cpu_count() or 1)
        self._models = Recognizers(recipe, device, dtype)
        self._models.prepare()
        self._pipeline_id = register(store, recipe.identity)
        self._owner = new_owner()
        self._stop = threading.Event()
        self._readers, self._decoder = ReaderPool(decoder=decoder, limits=limits), decoder
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

    def annotate(self, sources: Iterable[Source], report: Report = lambda *_: None) -> Generator[Outcome, None, None]:
        """Annotate videos, and the spans of each, several at a time; outcomes come as they are ready.

        Sources are taken as their turn comes. Leaving the iterator early, as Ctrl-C does, gives the spans under way
        back to the database, and is the end of this pipeline's work.

        Raises:
            EquipmentError, DatabaseError: nothing can be annotated here at all. (A store that does not answer costs
                only the videos in it.)
        """
        sharing = Sharing(sources)
        ended: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()
        with ThreadPoolExecutor(self._children, "annotate") as pool:
            try:
                for _ in range(self._children):
                    pool.submit(self._work, sharing, report, ended.put)
                yield from _outcomes(ended, self._children)
            except BaseException:
                self._stop.set()
                self._models.stop()  # or a slow model would first work off all that is queued
                sharing.stop()
                raise

    def _work(self, sharing: Sharing, report: Report, tell: Callable[[Outcome | BaseException | None], None]) -> None:
        """One thread: work on videos for as long as there are any. None tells that there are none any more."""
        try:
            while (video := sharing.next()) is not None:
                if (outcome := self._take_part(video, sharing, report)) is not None:
                    tell(outcome)
        except BaseException as error:  # noqa: BLE001 - whoever iterates gets it, whatever it is
            tell(error)
        else:
            tell(None)

    def _take_part(self, video: Video, sharing: Sharing, report: Report) -> Outcome | None:
        """Work on a video; how it ended, if nobody else works on it any more.

        An object that is replaced meanwhile is begun anew, as it then is. A file may still be being written.
        """
        while True:
            error = None
            try:
                self._work_off(video, sharing, report)
            except Exception as failure:  # noqa: BLE001 - what becomes of it is decided once, by who leaves last
                error = failure
            if not sharing.leave(video, error):
                return None
            outcome = self._ended(video)
            is_replaced = isinstance(outcome.error, ChangedWhileReading) and ObjectName.of(video.source.uri) is not None
            if not is_replaced or video.n_versions == MAX_VERSIONS:
                sharing.settled(video)
                return outcome
            video = sharing.anew(video)

    def _ended(self, video: Video) -> Outcome:
        """Publish a video of which no more is to be done, or write down why it failed."""
        source, annotation_id = video.source, video.annotation_id
        failure: MoodreelError
        try:
            if video.error is not None:
                raise video.error
            assert annotation_id is not None
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

    def _work_off(self, video: Video, sharing: Sharing, report: Report) -> None:
        """Do spans of a video until none is to spare; who comes first begins it and plans them."""
        if video.annotation_id is None and self._begin(video):
            return
        assert video.annotation_id is not None
        with opened(video.source) as file, self._readers.reader() as reader:
            if video.probe is None:
                probe = reader.probe(file, video.source.uri)
                spans, known = planned(self._recipe.plan, probe), facts(probe, video.source)
                sharing.planned(video, probe, self._store.plan(video.annotation_id, spans, facts=known))
            while (claim := self._claim(video.annotation_id)) is not None:
                with self._holding(claim):
                    self._annotate_span(claim, video, reader, file, report)
                if not sharing.another(video):
                    return

    def _begin(self, video: Video) -> bool:
        """Ask for a video's annotation, as the video is now, since it may have waited long; whether it is done."""
        source = video.source = latest(video.source)
        video_id = self._store.observe(source.uri, source.version, source.size_bytes)
        annotation = self._store.request(video_id, source.version, self._pipeline_id)
        video.annotation_id = annotation.id
        if annotation.status != DONE:
            self._store.begin_attempt(annotation.id)
        return annotation.status == DONE

    def _annotate_span(
        self, claim: SpanClaim, video: Video, reader: Reader, file: int | Lender, report: Report
    ) -> None:
        assert video.probe is not None
        streams = {"has_audio": video.probe.has_audio, "has_video": video.probe.has_video}
        run = SpanRun(claim, self._recipe, self._models, **streams)
        with closing(reader.read(file, video.source.uri, read_request(claim, self._recipe))) as events:
            for rows in run.rows(self._watched(events, claim, video, report)):
                self._store.checkpoint(claim, rows)
        self._store.complete_span(claim, run.true_end_seconds, run.warning)
        video.read(claim, None)
        give_back_freed_memory()

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

    def _watched(self, events: Iterator[Event], claim: SpanClaim, video: Video, report: Report) -> Iterator[Event]:
        """Pass events on, tell how far they have come, and stop where a stop was asked for or the video failed."""
        assert video.probe is not None
        for event in events:
            if self._stop.is_set() or video.error is not None:
                raise Interrupted("stopped on request")
            if isinstance(event, Progress):
                report(video.source, video.read(claim, event.t_seconds), video.probe.duration_seconds)
            yield event

    def _publish(self, source: Source, annotation_id: int) -> Outcome:
        """Finish a video once all its spans are done.

        Raises:
            NoStreams, Undecodable: there was nothing in it, or nothing that could be read.
        """
        if self._store.annotation(annotation_id).status == DONE:  # by another process meanwhile
            return Outcome(source, DONE)
        finishing = Finishing.of(self._recipe.config)
        provenance = self._models.provenance() | {"decoder": self._decoder}
        if not publish(self._store, annotation_id, source.uri, finishing, provenance):
            return Outcome(source, ELSEWHERE)
        return Outcome(source, DONE, warning=self._store.annotation(annotation_id).warning)


def _outcomes(ended: "queue.SimpleQueue[Outcome | BaseException | None]", n_threads: int) -> Iterator[Outcome]:
    """What threads tell, until all of them are through; an error of any of them is raised at once."""
    while n_threads:
        match ended.get():
            case None:
                n_threads -= 1
            case Outcome() as outcome:
                yield outcome
            case BaseException() as error:
                raise error


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
