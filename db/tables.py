"""The tables, and the rules that make impossible rows impossible.

`windows` holds what each modality saw, written once by its spans; `fused_windows` and `segments` hold what `finish`
makes of it, so that fusing anew leaves the large table alone. Times are seconds since the start of the container, as
DOUBLE PRECISION; probabilities lie between 0 and 1, and a label that a model does not know is NULL. The migrations
carry their own copy of all this, since a migration must not change when the tables do; a test keeps the two equal.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import sqlalchemy as sa

from db import comments
from db.words import (
    ANNOTATION_STATUSES,
    AUDIO_STATES,
    DELIVERY_STATUSES,
    EMOTIONS,
    HOOK_EVENTS,
    MEASURES,
    RECORDED_AT_SOURCES,
    RETENTION_CLOCKS,
    SPAN_STATUSES,
    VIDEO_STATES,
    WORKER_KINDS,
)

# Columns of one window as its span stores it, and of one fused window, without the annotation that they belong to.
SCORES = {modality: tuple(f"{modality}_{name}" for name in EMOTIONS) for modality in ("audio", "video", "fused")}
WINDOW_COLUMNS: tuple[str, ...] = (
    *("window_index", "start_seconds", "end_seconds", "audio_state", "video_state"),
    *("speech_share", "face_share", "face_count"),
    *SCORES["audio"],
    *SCORES["video"],
)
FUSED_COLUMNS: tuple[str, ...] = ("window_index", "emotion", "confidence", "valence", "arousal", *SCORES["fused"])

# Of which annotations the fleet's indexes are; `db.jobs` asks in the same words.
_ASKED = "queue_key IS NOT NULL"
_BEGUN = f"{_ASKED} AND status IN ('planned', 'running')"
_TURN = ("queue_key", "pipeline_id")  # the latter so that jobs which no worker does are passed over in the index

SUM_TOLERANCE = 0.01  # a row of probabilities sums to 1; models in half precision come this close


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware datetime, in UTC; SQLite, which knows no time zones, stores it as UTC text."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None or value.tzinfo:
            return value
        return value.replace(tzinfo=UTC)


# SQLite numbers only INTEGER PRIMARY KEY by itself, and gives the number of a deleted last row to the next one. Tables
# whose rows are deleted while others still know them by their numbers say `sqlite_autoincrement`, so that it does not.
Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")

_Uri = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")  # in the order of bytes, as SQLite has it anyway

_Json = sa.JSON(none_as_null=True)

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _one_of(column: str, values: Iterable[str]) -> sa.CheckConstraint:
    quoted = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({quoted})", name=f"{column}_known")


def _at_least(column: str, least: int = 0) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} >= {least}", name=f"{column}_range")


def _between(column: str, low: int, high: int) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} >= {low} AND {column} <= {high}", name=f"{column}_range")


def _truth(column: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} IN (FALSE, TRUE)", name=f"{column}_known")


def _both_or_neither(one: str, other: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"({one} IS NULL) = ({other} IS NULL)", name=f"{one}_with_{other}")


def _ordered() -> tuple[sa.CheckConstraint, ...]:
    return _at_least("start_seconds"), sa.CheckConstraint("start_seconds < end_seconds", name="start_before_end")


def _time(name: str, comment: str, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=nullable, comment=f"{comment}, seconds")


def _moment(name: str, comment: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double, comment=f"{comment}; unix time by the database's clock, seconds")


def _counter(name: str, comment: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0", comment=comment)


def _source_prefix(comment: str) -> sa.Column[str]:
    return sa.Column("source_prefix", sa.Text, nullable=False, server_default=sa.text("''"), comment=comment)


def _partial_index(name: str, where: str, *columns: str) -> sa.Index:
    """An index over those rows only that still have something before them."""
    return sa.Index(name, *columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _scores(modality: str) -> list[sa.Column[float]]:
    return [
        sa.Column(f"{modality}_{name}", sa.Double, comment=f"probability of {name}; NULL: the model does not know it")
        for name in EMOTIONS
    ]


def _scored(modality: str, present: str) -> list[sa.CheckConstraint]:
    """The rules of eight probabilities: each within 0 and 1, there if and only if `present` holds, summing to 1."""
    columns = SCORES[modality]
    total = " + ".join(f"COALESCE({column}, 0)" for column in columns)
    return [
        *(_between(column, 0, 1) for column in columns),
        sa.CheckConstraint(f"({present}) = (COALESCE({', '.join(columns)}) IS NOT NULL)", name=f"{modality}_present"),
        sa.CheckConstraint(f"NOT ({present}) OR ABS({total} - 1) <= {SUM_TOLERANCE}", name=f"{modality}_sum"),
    ]


def _verdict() -> tuple[sa.Column[str] | sa.Column[float] | sa.CheckConstraint, ...]:
    """Emotion, confidence, valence and arousal: all there, or all NULL where nothing could be seen or heard."""
    return (
        sa.Column("emotion", sa.Text, comment="most probable emotion; NULL: neither voice nor face said anything"),
        sa.Column("confidence", sa.Double, comment="probability of that emotion"),
        sa.Column("valence", sa.Double, comment="from -1 unpleasant to 1 pleasant, derived from the probabilities"),
        sa.Column("arousal", sa.Double, comment="from -1 calm to 1 excited, derived from the probabilities"),
        _one_of("emotion", EMOTIONS),
        _between("confidence", 0, 1),
        _between("valence", -1, 1),
        _between("arousal", -1, 1),
        *(_both_or_neither("emotion", other) for other in ("confidence", "valence", "arousal")),
    )


videos = sa.Table(
    "videos",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("uri", _Uri, nullable=False, unique=True, comment="where the video is"),
    sa.Column("version", sa.Text, nullable=False, comment="latest version seen: size and mtime, VersionId or ETag"),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("recorded_at", UtcDateTime, comment="when it was recorded"),
    sa.Column("recorded_at_source", sa.Text, comment="what recorded_at was read from"),
    sa.Column("container", sa.Text, comment="container format"),
    _time("duration_seconds", "length as the container states it; the annotation has the true one", nullable=True),
    sa.Column("width", sa.Integer, comment="as displayed, pixels"),
    sa.Column("height", sa.Integer, comment="as displayed, pixels"),
    sa.Column("video_codec", sa.Text),
    sa.Column("audio_codec", sa.Text),
    sa.Column("has_audio", sa.Boolean, comment="NULL: not looked into yet"),
    sa.Column("has_video", sa.Boolean, comment="NULL: not looked into yet"),
    sa.Column(
        "current_annotation_id",
        Key,
        sa.ForeignKey("annotations.id", ondelete="SET NULL", use_alter=True),
        index=True,
        comment="most recently completed annotation of the latest version: what the views show",
    ),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("gone_at", UtcDateTime, comment="when it was found to be gone from there; NULL: it is there"),
    *(_at_least("size_bytes"), _at_least("duration_seconds"), _at_least("width", 1), _at_least("height", 1)),
    *(_truth("has_audio"), _truth("has_video")),
    _one_of("recorded_at_source", RECORDED_AT_SOURCES),
    _both_or_neither("recorded_at", "recorded_at_source"),
    sqlite_autoincrement=True,
)

pipelines = sa.Table(
    "pipelines",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False, unique=True, comment="hash of all that makes the numbers"),
    sa.Column("windows_digest", sa.Text, nullable=False, index=True, comment="hash of all that makes the windows"),
    sa.Column("name", sa.Text, nullable=False, comment="preset, window, hop and fusion, for people"),
    sa.Column("config", sa.JSON, nullable=False, comment="all that the digest was made of"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("options", sa.JSON, comment="what a worker builds it from; NULL: no worker was asked to"),
)

pipeline_names = sa.Table(
    "pipeline_names",
    metadata,
    sa.Column("name", sa.Text, primary_key=True, comment="what people call a pipeline"),
    sa.Column("pipeline_id", Key, sa.ForeignKey("pipelines.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

annotations = sa.Table(
    "annotations",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("video_id", Key, sa.ForeignKey("videos.id", ondelete="CASCADE"), nullable=False),
    sa.Column("version", sa.Text, nullable=False, comment="the version of the video that was annotated"),
    sa.Column("pipeline_id", Key, sa.ForeignKey("pipelines.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column(
        "source_annotation_id",
        Key,
        sa.ForeignKey("annotations.id", ondelete="CASCADE"),
        index=True,
        comment="whose windows were fused anew for this one; NULL: its own",
    ),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, comment="counted before the work starts"),
    sa.Column("error_code", sa.Text, comment="why it failed; see the list of failures"),
    sa.Column("error_message", sa.Text),
    sa.Column("warning_code", sa.Text, comment="what is wrong with it although it is done"),
    sa.Column("warning_message", sa.Text),
    _time("duration_seconds", "true end of the video, known once all spans are done", nullable=True),
    sa.Column("provenance", sa.JSON, comment="device, dtype, batch size, version of moodreel: not part of the digest"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("started_at", UtcDateTime, comment="when the first attempt began"),
    sa.Column("completed_at", UtcDateTime, comment="when it was done or failed"),
    _counter("priority", "whoever asked for it gave it; higher goes first"),
    sa.Column("queue_key", sa.Double, comment="the fleet takes the lowest first; NULL: not asked of the fleet"),
    _moment("available_at", "not before this"),
    _moment("sent_at", "a message for it is on its way since"),
    sa.Column("lease_owner", sa.Text, comment="who plans or finishes it"),
    _moment("lease_until", "until when"),
    _counter("epoch", "fencing token: raised by every claim"),
    _counter("claims", "of planning or finishing, whichever is next, that came to nothing"),
    _moment("spans_done_at", "all its spans are done, and finishing is next, since"),
    sa.Column(
        "limited_by",
        sa.Text,
        nullable=False,
        server_default=sa.text("''"),
        comment="longest prefix of source_limits that its URI begins with",
    ),
    sa.UniqueConstraint("video_id", "version", "pipeline_id"),
    *(_at_least("epoch"), _at_least("claims")),
    _both_or_neither("lease_owner", "lease_until"),
    _partial_index("ix_annotations_to_plan", f"{_ASKED} AND status = 'pending'", "limited_by", *_TURN),
    _partial_index("ix_annotations_to_annotate", f"{_BEGUN} AND spans_done_at IS NULL", "limited_by", *_TURN),
    _partial_index("ix_annotations_to_finish", f"{_BEGUN} AND spans_done_at IS NOT NULL", "queue_key"),
    _partial_index("ix_annotations_sent_at", "sent_at IS NOT NULL", "sent_at"),
    _partial_index("ix_annotations_lease_until", "lease_until IS NOT NULL", "lease_until"),
    sa.Index("ix_annotations_completed_at", "completed_at"),
    _one_of("status", ANNOTATION_STATUSES),
    _at_least("attempts"),
    _at_least("duration_seconds"),
    _both_or_neither("error_code", "error_message"),
    _both_or_neither("warning_code", "warning_message"),
    sa.CheckConstraint("(status = 'failed') = (error_code IS NOT NULL)", name="failed_with_error"),
    sa.CheckConstraint("(status IN ('done', 'failed')) = (completed_at IS NOT NULL)", name="ended_with_time"),
    sa.CheckConstraint("status <> 'done' OR duration_seconds IS NOT NULL", name="done_with_duration"),
    sqlite_autoincrement=True,
)

spans = sa.Table(
    "spans",
    metadata,
    sa.Column("annotation_id", Key, sa.ForeignKey("annotations.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("span_index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("first_window", sa.Integer, nullable=False),
    sa.Column("last_window", sa.Integer, comment="exclusive; NULL: to the true end"),
    _time("start_seconds", "start of the first window"),
    _time("end_seconds", "end of the span; NULL: the true end", nullable=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("lease_owner", sa.Text, comment="who works on it"),
    sa.Column("lease_until", sa.Double, comment="unix time by the database's clock, seconds"),
    sa.Column("epoch", sa.Integer, nullable=False, comment="fencing token: raised by every claim"),
    sa.Column("attempts", sa.Integer, nullable=False, comment="claims that were not given back"),
    sa.Column("windows_done", sa.Integer, nullable=False, comment="windows stored so far, from the first one on"),
    _time("true_end_seconds", "where the video ended, as found by the span that reached it", nullable=True),
    sa.Column("warning_code", sa.Text, comment="what could not be read of it"),
    sa.Column("warning_message", sa.Text),
    _moment("available_at", "not before this"),
    _moment("sent_at", "a message for it is on its way since"),
    _moment("completed_at", "when it was done"),
    sa.Column("error_code", sa.Text, comment="why the last attempt failed, if it could be told"),
    sa.Column("error_message", sa.Text),
    _one_of("status", SPAN_STATUSES),
    *(_at_least(name) for name in ("span_index", "first_window", "epoch", "attempts", "windows_done")),
    *_ordered(),
    _at_least("true_end_seconds"),
    _both_or_neither("last_window", "end_seconds"),
    _both_or_neither("lease_owner", "lease_until"),
    _both_or_neither("warning_code", "warning_message"),
    sa.CheckConstraint("first_window < last_window", name="first_before_last"),
    sa.CheckConstraint("windows_done <= last_window - first_window", name="windows_done_within"),
    sa.CheckConstraint("(status = 'running') = (lease_owner IS NOT NULL)", name="running_with_lease"),
    _both_or_neither("error_code", "error_message"),
    _partial_index("ix_spans_sent_at", "sent_at IS NOT NULL", "sent_at"),
    _partial_index("ix_spans_lease_until", "lease_until IS NOT NULL", "lease_until"),
    sa.Index("ix_spans_completed_at", "completed_at"),
)

windows = sa.Table(
    "windows",
    metadata,
    sa.Column("annotation_id", Key, sa.ForeignKey("annotations.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("window_index", sa.Integer, primary_key=True, autoincrement=False),
    _time("start_seconds", "start"),
    _time("end_seconds", "end"),
    sa.Column("audio_state", sa.Text, nullable=False),
    sa.Column("video_state", sa.Text, nullable=False),
    sa.Column("speech_share", sa.Double, comment="share of the window with speech"),
    sa.Column("face_share", sa.Double, comment="share of the window's pictures with a face"),
    sa.Column("face_count", sa.Integer, comment="largest number of faces seen at once"),
    *_scores("audio"),
    *_scores("video"),
    *(_at_least("window_index"), *_ordered(), _at_least("face_count")),
    *(_between("speech_share", 0, 1), _between("face_share", 0, 1)),
    *(_one_of("audio_state", AUDIO_STATES), _one_of("video_state", VIDEO_STATES)),
    *_scored("audio", "audio_state = 'ok'"),
    *_scored("video", "video_state = 'ok'"),
)

fused_windows = sa.Table(
    "fused_windows",
    metadata,
    sa.Column("annotation_id", Key, sa.ForeignKey("annotations.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("window_index", sa.Integer, primary_key=True, autoincrement=False),
    *_verdict(),
    *_scores("fused"),
    _at_least("window_index"),
    *_scored("fused", "emotion IS NOT NULL"),
)

segments = sa.Table(
    "segments",
    metadata,
    sa.Column("annotation_id", Key, sa.ForeignKey("annotations.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("segment_index", sa.Integer, primary_key=True, autoincrement=False),
    _time("start_seconds", "start"),
    _time("end_seconds", "end"),
    *_verdict(),
    *(_at_least("segment_index"), *_ordered()),
)

source_limits = sa.Table(
    "source_limits",
    metadata,
    sa.Column("prefix", sa.Text, primary_key=True, comment="how the URIs of the source begin"),
    sa.Column("max_running", sa.Integer, nullable=False, comment="jobs that may read from it at once"),
    _at_least("max_running"),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("name", sa.Text, primary_key=True, comment="as lease_owner has it"),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("version", sa.Text, nullable=False, comment="of moodreel"),
    sa.Column("device", sa.Text, comment="where its models run; NULL: it has none"),
    sa.Column("started_at", sa.Double, nullable=False, comment="unix time by the database's clock, seconds"),
    sa.Column("seen_at", sa.Double, nullable=False, comment="unix time by the database's clock, seconds"),
    _counter("slots", "jobs that it does at once"),
    _counter("running", "jobs that it is doing"),
    _counter("spans_done", "since it started"),
    sa.Column("seconds_done", sa.Double, nullable=False, server_default="0", comment="of video, since it started"),
    sa.Column("state", sa.Text, nullable=False, comment="what it says of itself, for people"),
    sa.Column("pipelines", _Json, comment="ids of those that it works on; NULL: all but those that it refuses"),
    sa.Column("refused", _Json, comment="ids of those that it cannot compute; NULL: none"),
    _one_of("kind", WORKER_KINDS),
    *(_at_least(name) for name in ("slots", "running", "spans_done", "seconds_done")),
)

hash_key = sa.Table(
    "hash_key",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False, comment="1: there is one key"),
    sa.Column("key", sa.Text, nullable=False, comment="under which names of videos are hashed, hexadecimal"),
    sa.CheckConstraint("id = 1", name="only_one"),
)

forgotten_names = sa.Table(
    "forgotten_names",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True, comment="HMAC-SHA256 of a URI that is kept out, under hash_key"),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

forgotten_prefixes = sa.Table(
    "forgotten_prefixes",
    metadata,
    sa.Column("prefix", sa.Text, primary_key=True, comment="URIs that begin like this are kept out"),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

retention_rules = sa.Table(
    "retention_rules",
    metadata,
    sa.Column("prefix", sa.Text, primary_key=True, comment="of URIs that begin like this, and like no longer one"),
    sa.Column("max_age_seconds", sa.Double, comment="how long results are kept; NULL: for ever"),
    sa.Column("counted_from", sa.Text, nullable=False, comment="recorded: of the video; annotated: its completion"),
    sa.Column("forgets", sa.Boolean, nullable=False, comment="whether the videos are forgotten too"),
    sa.CheckConstraint("max_age_seconds > 0", name="max_age_seconds_range"),
    _one_of("counted_from", RETENTION_CLOCKS),
    sa.CheckConstraint("forgets IN (FALSE, TRUE)", name="forgets_known"),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("asked_at", UtcDateTime, nullable=False, comment="by the database's clock"),
    sa.Column("actor", sa.Text, nullable=False, comment="who asked"),
    sa.Column("action", sa.Text, nullable=False, comment="for what"),
    sa.Column("subject", sa.JSON, nullable=False, comment="of what; videos by their hashes, never by their names"),
)

audit_outcomes = sa.Table(
    "audit_outcomes",
    metadata,
    sa.Column("audit_id", Key, sa.ForeignKey("audit.id"), primary_key=True, autoincrement=False),
    sa.Column("done_at", UtcDateTime, nullable=False, comment="by the database's clock"),
    sa.Column("counts", sa.JSON, nullable=False, comment="how many of what were changed"),
)

hooks = sa.Table(
    "hooks",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("url", sa.Text, nullable=False, comment="where events are posted"),
    sa.Column("secret", sa.Text, nullable=False, comment="signs what is posted, so it stands here as it is; whsec_..."),
    *(
        sa.Column(f"on_{name}", sa.Boolean, nullable=False, comment=f"whether events of the kind {name} go there")
        for name in HOOK_EVENTS
    ),
    _source_prefix("of videos whose URIs begin like this"),
    sa.Column("insecure_http", sa.Boolean, nullable=False, comment="whether http will do, on a private network"),
    sa.Column("link_local", sa.Boolean, nullable=False, comment="whether link-local addresses may be posted to"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("disabled_at", UtcDateTime, comment="nothing is posted there any more since"),
    sa.Column("disabled_why", sa.Text),
    _counter("failures", "attempts in a row that failed"),
    _moment("resting_until", "after failures nothing is posted there before this"),
    sa.Column("lease_owner", sa.Text, comment="the scheduler that posts there"),
    _moment("lease_until", "until when"),
    *(_truth(name) for name in (*(f"on_{name}" for name in HOOK_EVENTS), "insecure_http", "link_local")),
    _at_least("failures"),
    _both_or_neither("disabled_at", "disabled_why"),
    _both_or_neither("lease_owner", "lease_until"),
    sqlite_autoincrement=True,
)

hook_deliveries = sa.Table(
    "hook_deliveries",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("hook_id", Key, sa.ForeignKey("hooks.id", ondelete="CASCADE"), nullable=False),
    sa.Column("event_key", sa.Text, nullable=False, comment="what happened, once for each hook"),
    sa.Column("event_id", sa.Text, nullable=False, comment="what the receiver knows it by, however often it is posted"),
    sa.Column("event", sa.Text, nullable=False, comment="kind"),
    sa.Column("annotation_id", Key, sa.ForeignKey("annotations.id", ondelete="CASCADE"), index=True),
    sa.Column("body", sa.Text, nullable=False, comment="what is posted, JSON"),
    sa.Column("status", sa.Text, nullable=False),
    _counter("attempts", "of posting it"),
    sa.Column("created_at", sa.Double, nullable=False, comment="unix time by the database's clock, seconds"),
    _moment("available_at", "not before this"),
    _moment("completed_at", "when it was delivered or given up"),
    sa.Column("answer", sa.Integer, comment="status code of the last answer"),
    sa.Column("error", sa.Text, comment="what went wrong last"),
    sa.UniqueConstraint("hook_id", "event_key"),
    _one_of("event", HOOK_EVENTS),
    _one_of("status", DELIVERY_STATUSES),
    _at_least("attempts"),
    sa.CheckConstraint("(status = 'pending') = (completed_at IS NULL)", name="pending_without_end"),
    _partial_index("ix_hook_deliveries_pending", "status = 'pending'", "hook_id", "available_at"),
    sa.Index("ix_hook_deliveries_completed_at", "completed_at"),
    sqlite_autoincrement=True,
)

alert_rules = sa.Table(
    "alert_rules",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True, comment="what people call it"),
    sa.Column("measure", sa.Text, nullable=False, comment="an emotion, valence or arousal"),
    sa.Column("level", sa.Double, nullable=False, comment="that it must reach"),
    sa.Column("below", sa.Boolean, nullable=False, comment="whether it must fall to the level, not rise to it"),
    _time("min_seconds", "for how long without a break"),
    _source_prefix("of videos whose URIs begin like this"),
    sa.Column(
        "pipeline",
        sa.Text,
        sa.ForeignKey("pipeline_names.name", ondelete="CASCADE"),
        comment="of annotations by the pipeline of this name; NULL: by any",
    ),
    sa.Column("created_at", UtcDateTime, nullable=False),
    _one_of("measure", MEASURES),
    _between("level", -1, 1),
    _truth("below"),
    _at_least("min_seconds"),
    sqlite_autoincrement=True,
)

raised_alerts = sa.Table(
    "raised_alerts",
    metadata,
    sa.Column("annotation_id", Key, sa.ForeignKey("annotations.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("rule_id", Key, sa.ForeignKey("alert_rules.id", ondelete="CASCADE"), primary_key=True, index=True),
    sa.Column("start_seconds", sa.Double, primary_key=True, comment="start of the stretch, seconds"),
    _time("end_seconds", "end of the stretch"),
    sa.Column("peak", sa.Double, nullable=False, comment="highest value in it, or the lowest where the rule is below"),
    sa.Column("raised_at", UtcDateTime, nullable=False),
    *_ordered(),
    _between("peak", -1, 1),
)

for _table in metadata.tables.values():
    _table.comment = comments.TABLES[_table.name]
    for _name, _meaning in comments.COLUMNS.get(_table.name, {}).items():
        _table.c[_name].comment = _meaning
