"""What travels between the store and its callers: small values, one for each kind of row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True, kw_only=True)
class MediaFacts:
    """What opening a video tells about it; None: not known."""

    recorded_at: datetime | None = None  # aware
    recorded_at_source: str | None = None  # 'container', 'object' or 'file'
    container: str | None = None
    duration_seconds: float | None = None  # as the container states it
    width: int | None = None  # as displayed, pixels
    height: int | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    has_audio: bool | None = None
    has_video: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Video(MediaFacts):
    """One video, at the latest version seen."""

    id: int
    uri: str
    version: str
    size_bytes: int
    current_annotation_id: int | None  # what the views show
    gone_at: datetime | None  # when it was found to be gone from there


@dataclass(frozen=True, kw_only=True)
class Quarantined(MediaFacts):
    """A video that failed: at which version, why, and what opening it told, if it got so far.

    Attributes:
        code, message: a failure's code and sentence, of `db.errors`.
        attempts: how often it was begun.
        in_fleet: whether `moodreel retry` puts it back into a queue; else `moodreel annotate` tries it again.
    """

    uri: str
    version: str
    size_bytes: int
    code: str
    message: str
    attempts: int
    failed_at: datetime
    in_fleet: bool


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One version of a video under one pipeline."""

    id: int
    video_id: int
    version: str
    pipeline_id: int
    source_annotation_id: int | None  # whose windows were fused anew for this one; None: its own
    status: str  # 'pending', 'planned', 'running', 'done' or 'failed'
    attempts: int
    error_code: str | None
    error_message: str | None
    warning_code: str | None
    warning_message: str | None
    duration_seconds: float | None  # true end, once done

    @property
    def warning(self) -> tuple[str, str] | None:
        """Code and sentence, for what is wrong with it although it is done."""
        return None if self.warning_code is None else (self.warning_code, self.warning_message or "")


@dataclass(frozen=True, kw_only=True)
class PlannedSpan:
    """A stretch of a video, the unit of work."""

    span_index: int
    first_window: int
    last_window: int | None  # exclusive; None: to the true end
    start_seconds: float
    end_seconds: float | None  # None: the true end


@dataclass(frozen=True, kw_only=True)
class Span(PlannedSpan):
    """A span and how far it has come."""

    status: str  # 'pending', 'running', 'done' or 'failed'
    lease_owner: str | None
    epoch: int
    attempts: int
    windows_done: int  # windows stored, from the first one on
    true_end_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class SpanClaim(PlannedSpan):
    """A span that is its owner's for as long as the epoch stands."""

    annotation_id: int
    owner: str
    epoch: int
    attempts: int  # this one included
    windows_done: int  # stored under earlier claims: work may go on at first_window + windows_done


@dataclass(frozen=True)
class Job:
    """One thing to do: to plan or to finish an annotation, or to annotate one of its spans.

    Attributes:
        kind: `plan`, `annotate_span` or `finish`, which is the name of its task too.
        annotation_id: of the annotation.
        span_index: of the span; None for the other kinds.
    """

    kind: str
    annotation_id: int
    span_index: int | None = None

    @property
    def id(self) -> str:
        """What its message carries: `17`, or `17/3` for a span."""
        return str(self.annotation_id) if self.span_index is None else f"{self.annotation_id}/{self.span_index}"

    @classmethod
    def of(cls, kind: str, job_id: str) -> "Job":
        """The job that a message means.

        Raises:
            ValueError: there can be none with this id.
        """
        annotation_id, has_span, span_index = job_id.partition("/")
        if bool(has_span) != (kind == SPAN):
            raise ValueError(f"no job {kind} has the id {job_id!r}")
        return cls(kind, int(annotation_id), int(span_index) if has_span else None)


PLAN, SPAN, FINISH = JOB_KINDS = ("plan", "annotate_span", "finish")


@dataclass(frozen=True)
class DueJob:
    """A job whose turn it is.

    Attributes:
        priority: of its annotation.
        resent: whether a message was sent for it before, which nobody acted on.
    """

    job: Job
    priority: int
    resent: bool


@dataclass(frozen=True, kw_only=True)
class StepClaim:
    """The planning or finishing of an annotation, its owner's for as long as the epoch stands."""

    kind: str
    annotation_id: int
    owner: str
    epoch: int
    claims: int  # of this step, this one included


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A pipeline as it was registered."""

    id: int
    digest: str
    windows_digest: str
    name: str
    config: Mapping[str, Any]
    options: Mapping[str, Any] | None  # what a worker builds it from


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a job is about."""

    annotation: Annotation
    priority: int
    video: Video  # at the latest version, which may have left the annotation's behind
    pipeline: Pipeline


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What became of videos that were asked for."""

    new: int = 0
    waiting: int = 0  # asked for before, and not done yet
    done: int = 0
    again: int = 0  # had failed, and are tried again
    failed: int = 0  # had failed, and stay so
    forgotten: int = 0  # are kept out


@dataclass(frozen=True, kw_only=True)
class Load:
    """So much video: of how many videos, and how long together, as far as that is known."""

    videos: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Erased:
    """How many rows of what were erased; with `videos` at 0, these stay and can be annotated again.

    Attributes:
        events: that still waited for their hooks, and are not posted any more.
    """

    videos: int = 0
    annotations: int = 0
    windows: int = 0
    events: int = 0

    def __add__(self, other: "Erased") -> "Erased":
        return Erased(
            videos=self.videos + other.videos,
            annotations=self.annotations + other.annotations,
            windows=self.windows + other.windows,
            events=self.events + other.events,
        )


@dataclass(frozen=True, kw_only=True)
class RetentionRule:
    """How long results are kept; of rules whose prefixes a URI begins with the longest counts.

    Attributes:
        prefix: how the URIs begin that it is about; empty: of all.
        max_age_seconds: None: for ever.
        counted_from: `recorded`, when the video was (where that is not known, as `annotated`); or `annotated`, when
            its windows were complete.
        forgets: whether the videos are forgotten too.
    """

    prefix: str
    max_age_seconds: float | None
    counted_from: str = "recorded"
    forgets: bool = False


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """Who asked for what.

    Attributes:
        subject: of what; videos by their hashes.
        done_at, counts: when it was carried through, and how many of what were changed; None: it was not, or not yet.
    """

    id: int
    asked_at: datetime
    actor: str
    action: str
    subject: Mapping[str, Any]
    done_at: datetime | None
    counts: Mapping[str, int] | None


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A process of the fleet, as it last showed itself.

    Attributes:
        pipelines: ids of those that it works on; None: all but those that it refuses.
        refused: ids of those that it cannot compute; None: none.
    """

    name: str
    kind: str  # 'worker' or 'scheduler'
    host: str
    pid: int
    version: str
    device: str | None = None
    slots: int = 0
    running: int = 0
    spans_done: int = 0
    seconds_done: float = 0.0
    state: str = "running"
    pipelines: Sequence[int] | None = None
    refused: Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True)
class SeenWorker(Worker):
    """A process of the fleet, and how long ago it showed itself, seconds."""

    seen_seconds_ago: float
    up_seconds: float


@dataclass(frozen=True, kw_only=True)
class FleetStatus:
    """What the fleet has before it, and how fast it goes.

    Attributes:
        jobs: how many wait, by kind; `sent`: of which a message is on its way; `running`: under a lease.
        queue_seconds: of video that is not annotated yet; what was not probed yet is estimated by its size.
        videos_per_hour, video_seconds_per_hour: by what was done in the last `window_seconds`.
        eta_seconds: until the queue is empty at this speed; None: nothing was done lately.
    """

    jobs: Mapping[str, int] = field(default_factory=dict)
    queue_videos: int
    queue_seconds: float
    videos_per_hour: float
    video_seconds_per_hour: float
    eta_seconds: float | None
    window_seconds: float
    failures: Mapping[str, int] = field(default_factory=dict)
    workers: tuple[SeenWorker, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NewHook:
    """Where events are to be posted.

    Attributes:
        secret: what is posted is signed with; `whsec_` and base64. It is never shown.
        events: kinds of `db.tables.HOOK_EVENTS`.
        source_prefix: of videos whose URIs begin like this; empty: of all.
        insecure_http: whether http will do, on a private network.
        link_local: whether link-local addresses may be posted to.
    """

    url: str
    secret: str = field(repr=False)
    events: tuple[str, ...]
    source_prefix: str = ""
    insecure_http: bool = False
    link_local: bool = False


@dataclass(frozen=True, kw_only=True)
class HeldHook(NewHook):
    """A hook that a scheduler posts to, for as long as its lease lasts.

    Attributes:
        failures: attempts in a row that failed.
    """

    id: int
    owner: str
    failures: int


@dataclass(frozen=True, kw_only=True)
class Hook:
    """A hook as people see it, without its secret.

    Attributes:
        disabled_why: why nothing is posted there any more; None: it is.
        pending, dead: how many events wait for it, and how many were given up.
    """

    id: int
    url: str
    events: tuple[str, ...]
    source_prefix: str
    insecure_http: bool
    link_local: bool
    disabled_why: str | None
    failures: int
    pending: int
    dead: int


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """An event that is to be posted to a hook, or was.

    Attributes:
        event_id: what the receiver knows it by, however often it is posted.
        status: `pending`, `delivered` or `dead`.
        answer: status code of the last answer.
        age_seconds: since it happened.
    """

    id: int
    hook_id: int
    event: str
    event_id: str
    annotation_id: int | None
    body: str
    status: str
    attempts: int
    answer: int | None
    error: str | None
    age_seconds: float


@dataclass(frozen=True, kw_only=True)
class AlertRule:
    """An emotion, valence or arousal at a level for so long.

    Attributes:
        measure: one of `db.words.MEASURES`.
        below: whether it must fall to the level, not rise to it.
        min_seconds: for how long without a break.
        source_prefix: of videos whose URIs begin like this; empty: of all.
        pipeline: of annotations by the pipeline of this name; None: by any.
    """

    name: str
    measure: str
    level: float
    below: bool = False
    min_seconds: float = 0.0
    source_prefix: str = ""
    pipeline: str | None = None
    id: int = 0  # 0: not stored yet


@dataclass(frozen=True, kw_only=True)
class RaisedAlert:
    """A stretch of a timeline that a rule tells of.

    Attributes:
        peak: the highest value in it, or the lowest where the rule is below.
    """

    rule_id: int
    start_seconds: float
    end_seconds: float
    peak: float


@dataclass(frozen=True, kw_only=True)
class ShownAlert:
    """An alert as the view `alerts` shows it."""

    video: str
    rule: str
    measure: str
    start_seconds: float
    end_seconds: float
    peak: float
    raised_at: datetime


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of the timeline with one emotion; None: neither voice nor face said anything."""

    start_seconds: float
    end_seconds: float
    emotion: str | None
    confidence: float | None
    valence: float | None
    arousal: float | None


@dataclass(frozen=True, kw_only=True)
class Status:
    """The database in figures."""

    videos: int
    gone: int  # of these, no longer where they were
    annotations: dict[str, int]  # of the videos' latest versions, by status; expired ones by themselves
    failures: dict[str, int]  # as the view `failures` shows them, by code
    annotated_seconds: float  # of the current annotations
    pipelines: dict[str, int]  # annotations that are done, by "name digest"


def columns_of(table: sa.Table, kind: type) -> list[sa.Column[Any]]:
    """The columns of a table that a dataclass has fields for."""
    return [table.c[field.name] for field in fields(kind) if field.name in table.c]
