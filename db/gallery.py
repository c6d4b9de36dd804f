"""What the report and the served page show: lists of videos with filters, and all that is known of one of them.

Everything is read, nothing written: `read_only` lets the database itself refuse writes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa

from db.session import Database
from db.tables import SCORES, annotations, fused_windows, pipelines, segments, videos, windows
from db.words import EMOTIONS

# What a video may be filtered by, beside the status of its newest annotation.
STATES: tuple[str, ...] = ("done", "failed", "unfinished", "gone", "no_speech", "no_face", "unreadable", "absent")
SORTS: tuple[str, ...] = ("name", "newest recorded", "newest annotated", "longest", "most pleasant", "least pleasant")
_WITHIN = 500  # videos whose segments one query asks for


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Which videos, and in which order; None or an empty text: all.

    Attributes:
        text: part of the URI, in upper or lower case.
        emotion: of at least one segment.
        state: one of `STATES`.
        pipeline: the digest of the current annotation's.
        since: first day of recording, UTC.
        until: last day of recording, UTC.
        sort: one of `SORTS`.
    """

    text: str = ""
    emotion: str | None = None
    state: str | None = None
    pipeline: str | None = None
    since: date | None = None
    until: date | None = None
    sort: str = "name"


@dataclass(frozen=True)
class Shown:
    """One video as a list shows it."""

    id: int
    uri: str
    annotation_id: int | None
    source_annotation_id: int | None
    duration_seconds: float | None
    recorded_at: datetime | None
    annotated_at: datetime | None
    pipeline: str | None
    pipeline_digest: str | None
    has_video: bool | None
    gone_at: datetime | None


def read_only(database: Database) -> None:
    """Let the database refuse whatever a connection of this engine would write from now on."""

    def limit(connection: Any, _record: Any) -> None:
        if database.engine.dialect.name == "sqlite":
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.read_only = True  # psycopg begins each transaction so

    sa.event.listen(database.engine, "connect", limit)
    database.engine.dispose()


def count(connection: sa.Connection, wish: Wish) -> int:
    """How many videos there are like this."""
    return connection.execute(sa.select(sa.func.count()).select_from(_JOINED).where(*_conditions(wish))).scalar_one()


def listed(connection: sa.Connection, wish: Wish, limit: int, offset: int = 0) -> list[Shown]:
    """Those videos, `limit` of them from `offset` on."""
    query = _SHOWN.where(*_conditions(wish)).order_by(*_order(wish.sort)).limit(limit).offset(offset)
    return [Shown(*row) for row in connection.execute(query)]


def one(connection: sa.Connection, video_id: int) -> Shown | None:
    """One video by its id."""
    row = connection.execute(_SHOWN.where(videos.c.id == video_id)).one_or_none()
    return Shown(*row) if row else None


def pipelines_shown(connection: sa.Connection) -> list[tuple[str, str]]:
    """Digest and name of every pipeline that there is."""
    rows = connection.execute(sa.select(pipelines.c.digest, pipelines.c.name).order_by(pipelines.c.id))
    return [(digest, name) for digest, name in rows]


def segments_of(connection: sa.Connection, ids: Sequence[int]) -> dict[int, list[Any]]:
    """Segments of annotations in time: start, end, emotion, confidence, valence, arousal."""
    found: dict[int, list[Any]] = {annotation_id: [] for annotation_id in ids}
    names = ("annotation_id", "start_seconds", "end_seconds", "emotion", "confidence", "valence", "arousal")
    columns = [segments.c[name] for name in names]
    for first in range(0, len(ids), _WITHIN):
        within = segments.c.annotation_id.in_(ids[first : first + _WITHIN])
        for row in connection.execute(
            sa.select(*columns).where(within).order_by(segments.c.annotation_id, segments.c.segment_index)
        ):
            found[row[0]].append(tuple(row[1:]))
    return found


def windows_of(connection: sa.Connection, video: Shown) -> Iterator[Any]:
    """A video's windows in time: start, end, states of voice and face, then eight probabilities of each side."""
    columns = [windows.c[name] for name in ("start_seconds", "end_seconds", "audio_state", "video_state")]
    columns += [windows.c[name] for name in (*SCORES["audio"], *SCORES["video"])]
    columns += [fused_windows.c[name] for name in SCORES["fused"]]
    fused = sa.and_(
        fused_windows.c.annotation_id == video.annotation_id, fused_windows.c.window_index == windows.c.window_index
    )
    query = sa.select(*columns).select_from(windows.outerjoin(fused_windows, fused))
    own = windows.c.annotation_id == (video.source_annotation_id or video.annotation_id)
    yield from connection.execute(query.where(own).order_by(windows.c.window_index))


_JOINED = videos.outerjoin(annotations, annotations.c.id == videos.c.current_annotation_id).outerjoin(
    pipelines, pipelines.c.id == annotations.c.pipeline_id
)
_DURATION = sa.func.coalesce(annotations.c.duration_seconds, videos.c.duration_seconds)
_SHOWN = sa.select(
    videos.c.id,
    videos.c.uri,
    annotations.c.id,
    annotations.c.source_annotation_id,
    _DURATION,
    videos.c.recorded_at,
    annotations.c.completed_at,
    pipelines.c.name,
    pipelines.c.digest,
    videos.c.has_video,
    videos.c.gone_at,
).select_from(_JOINED)


def _order(sort: str) -> tuple[Any, ...]:
    length = segments.c.end_seconds - segments.c.start_seconds
    valence = (
        sa.select(
            sa.func.sum(segments.c.valence * length) / sa.func.sum(sa.case((segments.c.valence.is_not(None), length)))
        )
        .where(segments.c.annotation_id == videos.c.current_annotation_id)
        .scalar_subquery()
    )
    orders = {
        "name": (),
        "newest recorded": (videos.c.recorded_at.desc().nulls_last(),),
        "newest annotated": (annotations.c.completed_at.desc().nulls_last(),),
        "longest": (_DURATION.desc().nulls_last(),),
        "most pleasant": (valence.desc().nulls_last(),),
        "least pleasant": (valence.asc().nulls_last(),),
    }
    return (*orders[sort], videos.c.uri)


def _conditions(wish: Wish) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wish.text:
        found.append(sa.func.lower(videos.c.uri).contains(wish.text.lower(), autoescape=True))
    if wish.emotion in EMOTIONS:
        found.append(_some(segments, segments.c.emotion == wish.emotion, videos.c.current_annotation_id))
    if wish.state:
        found.append(_in_state(wish.state))
    if wish.pipeline:
        found.append(pipelines.c.digest == wish.pipeline)
    if wish.since:
        found.append(videos.c.recorded_at >= _midnight(wish.since))
    if wish.until:
        found.append(videos.c.recorded_at < _midnight(wish.until + timedelta(days=1)))
    return found


def _in_state(state: str) -> sa.ColumnElement[bool]:
    newest = annotations.alias("newest")
    latest = [newest.c.video_id == videos.c.id, newest.c.version == videos.c.version]
    if state == "done":
        return videos.c.current_annotation_id.is_not(None)
    if state == "gone":
        return videos.c.gone_at.is_not(None)
    if state == "failed":
        return sa.exists().where(*latest, newest.c.status == "failed")
    if state == "unfinished":
        return sa.exists().where(*latest, newest.c.status.in_(("pending", "planned", "running")))
    seen = sa.func.coalesce(annotations.c.source_annotation_id, annotations.c.id)
    return _some(windows, sa.or_(windows.c.audio_state == state, windows.c.video_state == state), seen)


def _some(table: sa.Table, condition: sa.ColumnElement[bool], annotation_id: Any) -> sa.ColumnElement[bool]:
    return sa.exists().where(table.c.annotation_id == annotation_id, condition)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
