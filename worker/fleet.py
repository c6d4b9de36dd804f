"""A worker of the fleet: does the jobs that messages hint at, if their rows say that there is anything to do.

    plan            the video is probed and cut into spans
    annotate_span   one span's windows, in checkpoints
    finish          from the stored windows to the published timeline

Each job is claimed first, with its attempt counted; every write is fenced by the claim's epoch. So a message that comes
twice, late or never, and a worker that dies or wakes up after its lease is gone, leave the rows as in a quiet run.
"""

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from types import TracebackType
from typing import Self, TypeVar

import db.rows
from db.errors import (
    BrokerUnreachable,
    Cancelled,
    ChangedWhileReading,
    DatabaseError,
    DatabaseLocked,
    DatabaseUnreachable,
    DeviceUnavailable,
    EquipmentError,
    Forgotten,
    Internal,
    Interrupted,
    LeaseLost,
    MoodreelError,
    NoStreams,
    OutOfMemory,
    PathMissing,
    PipelineMismatch,
    SourceUnreachable,
    Undecodable,
)
from db.identity import ObjectName, Source
from db.jobs import AGAIN, Claim
from db.rows import FINISH, PLAN, SPAN, Assignment, Job, SpanClaim, StepClaim
from db.store import Store
from models.errors import ModelError
from worker import logs, metrics
from worker.finish import Finishing, fuse_claimed, publish
from worker.heartbeat import Heartbeat, Held
from worker.limits import DEFAULT_LIMITS, Limits
from worker.pipeline import new_owner
from worker.protocol import Event, Progress
from worker.reader import ReaderPool
from worker.recipe import Recipe
from worker.recognizers import Recognizers, as_moodreel_error
from worker.source import latest, opened, require_place
from worker.span import SpanRun, facts, planned, read_request

RETRY_SECONDS, MAX_RETRY_SECONDS = 2.0, 300.0  # before the second attempt; doubled for each one more
REFUSED_SECONDS, MAX_REFUSED_SECONDS = 15.0, 1800.0  # before a job that this worker cannot do is offered again
TROUBLE_SECONDS = 60.0  # until a worker looks again whether it can do what it refused
MAX_PASS_SECONDS = 60.0  # that a slot rests for which there are only messages for others
SETTLE_SECONDS = 30.0  # for which a file must not have been written to
BROKEN_VIDEOS = 8  # that fail in a row for no reason of theirs, after which a process counts as broken
GIVE_BACK_SECONDS = 5.0  # after being told to stop, until a job is given back although it does not get on
BEAT_SECONDS = 5.0

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class FleetOptions:
    """How a worker works.

    Attributes:
        device: auto, cpu or cuda.
        dtype: as `worker.recognizers.Recognizers` takes it.
        decoder, limits: as `worker.reader.Reader` takes them.
        slots: jobs at once, each with a decoding child of its own.
        pipelines: names of those that it works on; none: all.
        lease_seconds: after so long without a heartbeat others may take its jobs.
        stall_seconds: a job that has not got on for so long is let go.
        max_attempts: how often a job may be tried.
    """

    device: str = "auto"
    dtype: str = "auto"
    decoder: str = "cpu"
    limits: Limits = DEFAULT_LIMITS
    slots: int = 1
    pipelines: tuple[str, ...] = ()
    lease_seconds: float = 60.0
    stall_seconds: float = 120.0
    max_attempts: int = 5


class Models:
    """Recipes and resident models of the pipelines that this worker is asked for, each built once.

    Pipelines that make the same windows share their models.
    """

    def __init__(self, device: str, dtype: str = "auto") -> None:
        self._device, self._dtype = device, dtype
        self._lock = threading.Lock()
        self._recipes: dict[str, Recipe] = {}
        self._recognizers: dict[str, Recognizers] = {}

    def recipe(self, pipeline: db.rows.Pipeline) -> Recipe:
        """The recipe of a pipeline, with the weights of this machine.

        Raises:
            PipelineMismatch: it would give other numbers than those that were asked for.
        """
        with self._lock:
            if pipeline.digest not in self._recipes:
                self._recipes[pipeline.digest] = _build(pipeline)
            return self._recipes[pipeline.digest]

    def recognizers(self, pipeline: db.rows.Pipeline) -> Recognizers:
        """The models of a pipeline.

        Raises:
            PipelineMismatch, WeightsMissing, DeviceUnavailable: they are not to be had here.
        """
        recipe = self.recipe(pipeline)
        with self._lock:
            if pipeline.windows_digest not in self._recognizers:
                models = Recognizers(recipe, self._device, self._dtype)
                models.prepare()
                self._recognizers[pipeline.windows_digest] = models
            return self._recognizers[pipeline.windows_digest]

    @property
    def device(self) -> str | None:
        """Where the models run; None as long as there are none."""
        return next((models.device for models in self._recognizers.values()), None)

    @property
    def moved_at(self) -> float:
        """When one of them last answered, by the monotonic clock."""
        return max((models.moved_at for models in list(self._recognizers.values())), default=0.0)

    def stop(self) -> None:
        """Judge nothing more; whoever waits for a row gets `Interrupted`."""
        for models in list(self._recognizers.values()):
            models.stop()

    def close(self) -> None:
        for models in self._recognizers.values():
            models.__exit__(None, None, None)


def _build(pipeline: db.rows.Pipeline) -> Recipe:
    if pipeline.options is None:
        raise PipelineMismatch(f"The pipeline {pipeline.name} was never registered by `moodreel pipelines add`.")
    try:
        recipe = Recipe.from_options(pipeline.options)
        here = recipe.identity
    except (KeyError, TypeError, ValueError, ModelError) as error:
        raise PipelineMismatch(f"The pipeline {pipeline.name} cannot be built here: {error}") from error
    if here.digest != pipeline.digest:
        names = sorted({*here.config, *pipeline.config})
        differs = ", ".join(name for name in names if here.config.get(name) != pipeline.config.get(name))
        raise PipelineMismatch(
            f"The pipeline {pipeline.name} was registered as {pipeline.digest[:12]}, but here it is {here.digest[:12]}:"
            f" {differs} differ."
        )
    return recipe


class FleetWorker:
    """Does jobs, several at once, with one copy of each model; a context manager.

    Args:
        store: where the rows are.
        options: how it works.
    """

    def __init__(self, store: Store, options: FleetOptions) -> None:
        self._store, self._options = store, options
        self.owner = new_owner()
        self._models = Models(options.device, options.dtype)
        self._readers = ReaderPool(decoder=options.decoder, limits=options.limits)
        self._heartbeat = Heartbeat(store, options.lease_seconds, options.stall_seconds, lambda: self._models.moved_at)
        self._draining, self._stopping = threading.Event(), threading.Event()
        self._spans_done, self._seconds_done = 0, 0.0
        self._troubles: dict[int | str, tuple[float, str]] = {}  # by pipeline or folder: until when, and what it is
        self._passed_on = 0  # messages in a row that are for others
        self._broke: set[int] = set()  # annotations that failed in a row, for no reason of theirs
        self._is_broken = False
        self.is_connected: Callable[[], bool] = lambda: True  # to the broker
        self._lock = threading.Lock()
        self._beats = threading.Thread(target=self._beat, name="beat", daemon=True)
        metrics.in_flight.set_function(lambda: self._heartbeat.running)

    def __enter__(self) -> Self:
        self._heartbeat.__enter__()
        self._beats.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._beats.join()
        self._heartbeat.__exit__()
        self._models.close()
        self._readers.__exit__(kind, error, trace)
        with suppress(DatabaseError):
            self._store.leave(self.owner)

    @property
    def is_stalled(self) -> bool:
        """Whether a job makes no progress, or the process is of no use any more, so that it had better be replaced."""
        return self._is_broken or self._heartbeat.is_stalled

    def check(self) -> None:
        """See whether the pipelines can be computed here.

        Raises:
            PipelineUnknown: one that was named is not registered.
            EquipmentError: one that was named, or every one there is, cannot be computed.
        """
        known = self._store.named_pipelines()
        if not known:
            _log.warning("no pipeline is registered yet: there is nothing to do before `moodreel pipelines add NAME`")
        for name in self._options.pipelines:
            self._models.recognizers(self._store.pipeline_named(name))
        refused = []
        for name in () if self._options.pipelines else known:
            try:
                self._models.recognizers(known[name])
            except EquipmentError as error:
                refused.append(error)
                self._refuse(known[name].id, error)
        if refused and len(refused) == len(known):
            raise refused[0]

    def drain(self) -> None:
        """Begin nothing new; what is under way goes on."""
        self._draining.set()

    def stop(self) -> None:
        """Give back what is under way: when it next gets on, or in some seconds all the same."""
        self._draining.set()
        self._stopping.set()
        self._models.stop()
        timer = threading.Timer(GIVE_BACK_SECONDS, self.give_back_all)
        timer.daemon = True
        timer.start()

    def give_back_all(self) -> None:
        """Let go of the jobs that get on, uncounted, and begin nothing new. What they still write is refused."""
        self._draining.set()
        for held in self._heartbeat.moving:
            held.lose()
            with suppress(DatabaseError):  # then its lease runs out
                self._store.give_back(held.claim)

    def run(self, kind: str, job_id: str) -> None:
        """Do a job, if there is anything to do. Raises nothing: what becomes of it stands in its row."""
        with logs.about(job=kind, id=job_id):
            try:
                self._run(Job.of(kind, job_id))
            except DatabaseError as error:
                _log.error("the database failed, and the job is left to its lease: %s", error)
            except Exception:  # noqa: BLE001 - a thread of the pool, which has nobody to tell
                _log.exception("the job is left to its lease")

    def _run(self, job: Job) -> None:
        assignment = self._patiently(lambda: self._store.assignment(job.annotation_id))
        if self._draining.is_set() or assignment is None:
            return
        if not self._is_ours(assignment.pipeline) or assignment.pipeline.id in self._active():
            self._pass_on(job)
            return
        claim = self._patiently(lambda: self._claim(job))
        if claim is None:
            _log.debug("nothing to do")
            return
        began = time.monotonic()
        about = {"annotation": job.annotation_id, "span": job.span_index, "video": assignment.video.uri}
        with logs.about(**about, epoch=claim.epoch), self._heartbeat.holding(claim) as held:
            outcome = self._ended(held, assignment)
        if job.kind == SPAN:
            metrics.spans.labels(outcome).inc()
            metrics.span_seconds.observe(time.monotonic() - began)

    def _pass_on(self, job: Job) -> None:
        """Leave a job to others: its message is sent again at once, and this slot takes no other one for a while."""
        self._store.unsend([job])
        self._passed_on += 1
        _log.debug("left to others")
        self._draining.wait(min(MAX_PASS_SECONDS, 2.0 ** min(self._passed_on, 10)))

    def _claim(self, job: Job) -> Claim | None:
        claim = self._store.claim_span if job.kind == SPAN else self._store.claim_step
        return claim(job, self.owner, self._options.lease_seconds, self._options.max_attempts)

    def _ended(self, held: Held, assignment: Assignment) -> str:
        """Do a claimed job, and see to what becomes of it; how it ended, in a word."""
        began = time.monotonic()
        try:
            self._do(held, assignment)
        except (LeaseLost, Forgotten) as error:
            return self._let_go(held.claim, error)
        except Exception as error:  # noqa: BLE001 - whatever a video sets off is its own failure
            return self._went_wrong(held.claim, assignment, error)
        self._broke.clear()
        self._passed_on = 0
        self._troubles.pop(assignment.pipeline.id, None)
        _log.info("done", extra={"seconds": round(time.monotonic() - began, 3)})
        return "done"

    def _let_go(self, claim: Claim, error: LeaseLost | Forgotten) -> str:
        """A job that is not ours any more: because it was forgotten, cancelled, given back, or taken by another."""
        try:
            now = self._store.annotation(claim.annotation_id)
        except Forgotten:
            _log.info("forgotten")
            return "forgotten"
        if now.error_code == Cancelled.code:
            _log.info("cancelled")
            return "cancelled"
        if self._draining.is_set():
            _log.info("given back")
            return "given back"
        metrics.leases_lost.inc()
        _log.warning("somebody else has it by now: %s", error)
        return "lost"

    def _went_wrong(self, claim: Claim, assignment: Assignment, error: Exception) -> str:
        """Charge a failure to the video, or give the job back where it is not the video's."""
        if not isinstance(error, MoodreelError):
            _log.error("went wrong", exc_info=error)
        failure = error if isinstance(error, SourceUnreachable) else as_moodreel_error(error, assignment.video.uri)
        match failure:
            case Interrupted():
                delay = 0.0
            case EquipmentError():
                # The longer, the more often: many such jobs must not keep the others from their turn.
                delay = min(MAX_REFUSED_SECONDS, REFUSED_SECONDS * 2.0 ** min(claim.epoch - 1, 10))
                self._refuse(assignment.pipeline.id, failure)
                self._is_broken |= isinstance(failure, DeviceUnavailable)
            case DatabaseUnreachable() | DatabaseLocked():
                delay = REFUSED_SECONDS
            case _Unsettled():
                delay = SETTLE_SECONDS
            case _:
                self._suspect_itself(assignment.annotation.id, failure)
                return self._failed(claim, failure)
        self._store.give_back(claim, delay)
        _log.info("given back: %s", failure, extra={"code": failure.code})
        return "refused" if isinstance(failure, EquipmentError) else "given back"

    def _suspect_itself(self, annotation_id: int, failure: MoodreelError) -> None:
        """Of many videos in a row that fail for no reason of theirs, the reason is this process: let it be replaced."""
        if isinstance(failure, Internal | OutOfMemory):
            self._broke.add(annotation_id)
            self._is_broken |= len(self._broke) >= BROKEN_VIDEOS

    def _failed(self, claim: Claim, failure: MoodreelError) -> str:
        # A file that is missing may only not be there yet, as this machine sees its share.
        permanent = (failure.permanent and not isinstance(failure, PathMissing)) or isinstance(failure, _Superseded)
        attempts = claim.attempts if isinstance(claim, SpanClaim) else claim.claims
        delay = min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2.0 ** (attempts - 1)) * random.uniform(0.75, 1.25)
        became = self._patiently(
            lambda: self._store.fail_job(
                claim,
                failure.code,
                str(failure),
                permanent=permanent,
                max_attempts=self._options.max_attempts,
                delay_seconds=delay,
                discard=isinstance(failure, NoStreams | Undecodable),
            )
        )
        metrics.failures.labels(failure.code).inc()
        extra = {"code": failure.code, "attempt": attempts, "became": became}
        again = f"; attempt {attempts}, again in {delay:.0f} s" if became == AGAIN else ""
        _log.warning("failed: %s%s", failure, again, extra=extra)
        return became

    def _do(self, held: Held, assignment: Assignment) -> None:
        if isinstance(held.claim, SpanClaim):
            self._annotate_span(held.claim, held, assignment)
        elif held.claim.kind == PLAN:
            self._plan(held.claim, assignment)
        elif held.claim.kind == FINISH:
            self._finish(held.claim, assignment)

    def _is_ours(self, pipeline: db.rows.Pipeline) -> bool:
        ours = self._ours()
        return ours is None or pipeline.id in ours

    def _ours(self) -> list[int] | None:
        """Ids of the pipelines that it was started for; None: all."""
        if not self._options.pipelines:
            return None
        known = self._store.named_pipelines()
        return [known[name].id for name in self._options.pipelines if name in known]

    def _plan(self, claim: StepClaim, assignment: Assignment) -> None:
        """Probe a video and cut it into spans; or, where its windows are there already, only fuse them anew.

        Raises:
            _Superseded: another version of the video has been seen since this one was asked for.
        """
        recipe, annotation = self._models.recipe(assignment.pipeline), assignment.annotation
        source = self._source(assignment)
        if assignment.video.version != annotation.version:
            # Though the file is this one again: whoever wants that asks again, which makes it the latest.
            raise _Superseded(f"{source.uri}: another version of it was asked for since")
        windows = self._store.windows_of(assignment.pipeline.windows_digest, {source.uri: source.version})
        if windows and not self._store.spans(annotation.id):
            fuse_claimed(self._store, claim, windows[source.uri], recipe.identity)
            return
        with opened(source) as file, self._readers.reader() as reader:
            probe = reader.probe(file, source.uri)
        spans, known = planned(recipe.plan, probe), facts(probe, source)
        self._patiently(lambda: self._store.plan(annotation.id, spans, claim, known))

    def _source(self, assignment: Assignment) -> Source:
        """The file or object as it is now.

        Raises:
            _Superseded: it is not the version that was asked for; what it is now is asked for in its place.
            _Unsettled: the file is being written to. (An object is replaced at once, as a whole.)
            NotReadable, ObjectArchived: the object cannot be looked at.
            SourceUnreachable: the place where it lies is not to be seen from here.
        """
        video, asked = assignment.video, assignment.annotation.version
        require_place(video.uri)
        source = latest(Source(video.uri, asked, video.size_bytes, 0.0))
        if source.version != asked:
            is_file = ObjectName.of(video.uri) is None
            if is_file and abs(time.time() - source.modified_at_seconds) < SETTLE_SECONDS:
                raise _Unsettled(f"{video.uri}: the file is being written to")
            self._store.submit(assignment.pipeline.id, [source], assignment.priority)
            raise _Superseded(f"{video.uri} has changed; what it is now is annotated instead")
        return source

    def _annotate_span(self, claim: SpanClaim, held: Held, assignment: Assignment) -> None:
        video = assignment.video
        recipe, models = self._models.recipe(assignment.pipeline), self._models.recognizers(assignment.pipeline)
        source = self._source(assignment)
        if video.has_audio is None or video.has_video is None:
            raise ChangedWhileReading(f"{video.uri}: the file changed after it was probed")
        run = SpanRun(claim, recipe, models, has_audio=video.has_audio, has_video=video.has_video)
        with (
            opened(source) as file,
            self._readers.reader() as reader,
            closing(reader.read(file, source.uri, read_request(claim, recipe))) as events,
        ):
            for rows in run.rows(self._watched(events, held)):
                self._patiently(partial(self._store.checkpoint, claim, rows))
                held.moved()
        self._patiently(lambda: self._store.complete_span(claim, run.true_end_seconds, run.warning))
        end = claim.end_seconds if run.true_end_seconds is None else run.true_end_seconds
        seconds = max(0.0, (end or 0.0) - claim.start_seconds)
        metrics.video_seconds.inc(seconds)
        with self._lock:
            self._spans_done, self._seconds_done = self._spans_done + 1, self._seconds_done + seconds

    def _watched(self, events: Iterator[Event], held: Held) -> Iterator[Event]:
        """Pass events on for as long as the job is ours and nobody asked for a stop."""
        for event in events:
            if self._stopping.is_set():
                raise Interrupted("stopped on request")
            held.moved()
            if not isinstance(event, Progress):
                yield event

    def _finish(self, claim: StepClaim, assignment: Assignment) -> None:
        recipe, models = self._models.recipe(assignment.pipeline), self._models.recognizers(assignment.pipeline)
        finishing = Finishing.of(recipe.config)
        provenance = models.provenance() | {"decoder": self._options.decoder}
        publish(self._store, assignment.annotation.id, assignment.video.uri, finishing, provenance, claim)

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        """Ask the database, and if it is away or busy ask again for as long as a lease may last.

        What is asked may have been done although the answer was lost; asked twice it does no harm.
        """
        until, wait = time.monotonic() + self._options.lease_seconds, 0.1
        while True:
            try:
                return ask()
            except (DatabaseUnreachable, DatabaseLocked) as error:
                if time.monotonic() + wait > until:
                    raise
                _log.warning("the database is asked again: %s", error)
            time.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2.0, 2 * wait)

    def _refuse(self, pipeline_id: int, error: EquipmentError) -> None:
        key = str(error) if isinstance(error, SourceUnreachable) else pipeline_id
        if self._active().get(key) != str(error):
            _log.error("refused: %s %s", error, error.hint, extra={"code": error.code})
        self._troubles[key] = (time.monotonic() + TROUBLE_SECONDS, str(error))

    def _active(self) -> dict[int | str, str]:
        """What this worker cannot do at present, and why: pipelines by their ids, and folders."""
        now = time.monotonic()
        return {key: reason for key, (until, reason) in list(self._troubles.items()) if until > now}

    def _beat(self) -> None:
        while True:
            try:
                self._store.beat(self._as_row())
            except DatabaseError as error:
                _log.warning("could not show itself: %s", error)
            except Exception:  # noqa: BLE001 - the next time may do
                _log.exception("could not show itself")
            if self._stopping.wait(BEAT_SECONDS):
                return

    def _as_row(self) -> db.rows.Worker:
        troubles = self._active()
        state = f"refuses: {'; '.join(dict.fromkeys(troubles.values()))}" if troubles else "running"
        if not self.is_connected():
            state = BrokerUnreachable.code
        if self._draining.is_set():
            state = "draining"
        takes_nothing = state in (BrokerUnreachable.code, "draining")
        return db.rows.Worker(
            name=self.owner,
            kind="worker",
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version("moodreel"),
            device=self._models.device,
            slots=0 if takes_nothing else self._options.slots,
            running=self._heartbeat.running,
            spans_done=self._spans_done,
            seconds_done=self._seconds_done,
            state=state,
            pipelines=self._ours(),
            refused=[key for key in troubles if isinstance(key, int)] or None,
        )


class _Unsettled(ChangedWhileReading):
    """The file is being written to: it is not looked at before it has come to rest."""


class _Superseded(ChangedWhileReading):
    """The file changed, and what it was cannot be annotated any more."""
