"""The store: all that moodreel writes to and reads from its database, each method one transaction.

    with Store("moodreel.db") as store:
        video_id = store.observe(uri, version, size_bytes, facts)
        annotation = store.request(video_id, version, store.register_pipeline(digest, name, config))
        store.begin_attempt(annotation.id)
        store.plan(annotation.id, spans)
        while claim := store.claim(annotation.id, owner, lease_seconds):
            store.checkpoint(claim, rows)        # again and again, with store.renew_all([claim], lease_seconds) beside
            store.complete_span(claim, true_end_seconds)
        store.finish(annotation.id, fused, segments, ...)

Safe to use from several threads and several processes. Knows no tensors: rows come and go as tuples of plain numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from db.alerts import Alerts
from db.backfill import Backfill
from db.catalogue import Catalogue, lock_annotations, make_current, utc_now
from db.erasing import Erasing
from db.errors import Expired, Internal, LeaseLost
from db.events import raise_alerts, tell_done
from db.fleet import Fleet
from db.forgotten import gone
from db.hooks import Hooks
from db.jobs import Jobs
from db.leases import FREE, end_step
from db.presence import Presence
from db.quarantine import Quarantine
from db.retention import Retention
from db.roles import Roles
from db.rows import RaisedAlert, Segment, Status, StepClaim, columns_of
from db.statements import insert_rows
from db.tables import (
    FUSED_COLUMNS,
    SCORES,
    WINDOW_COLUMNS,
    annotations,
    fused_windows,
    pipelines,
    segments,
    spans,
    videos,
    windows,
)

_SEGMENT_COLUMNS = ("segment_index", *(field.name for field in fields(Segment)))


class Store(Catalogue, Presence, Jobs, Fleet, Quarantine, Backfill, Erasing, Retention, Hooks, Alerts, Roles):
    """A database of moodreel's; see `Database` for arguments and errors."""

    def windows(self, annotation_id: int) -> list[tuple[Any, ...]]:
        """What the spans stored, in the order of time; each row in the order of WINDOW_COLUMNS."""
        query = sa.select(*(windows.c[name] for name in WINDOW_COLUMNS))
        query = query.where(windows.c.annotation_id == _owner(annotation_id)).order_by(windows.c.window_index)
        with self.reading() as connection:
            return [tuple(row) for row in connection.execute(query)]

    def scores(self, annotation_id: int) -> list[tuple[float | None, ...]]:
        """The sixteen probabilities of each window, voice's and then face's, in the order of time.

        Read straight through the driver, which is twice as fast: all windows of a video pass here to be fused.

        Raises:
            Forgotten: the annotation is gone.
        """
        names = ", ".join((*SCORES["audio"], *SCORES["video"]))
        with self.reading() as connection:
            owner_id = _owner_id(connection, annotation_id)
            cursor = connection.connection.cursor()
            cursor.execute(f"SELECT {names} FROM windows WHERE annotation_id = {owner_id} ORDER BY window_index")
            return list(cursor.fetchall())

    def finish(
        self,
        annotation_id: int,
        fused: Sequence[Sequence[Any]],
        timeline: Sequence[Segment],
        *,
        duration_seconds: float,
        provenance: Mapping[str, Any],
        keep_windows: int | None = None,
        claim: StepClaim | None = None,
        source_annotation_id: int | None = None,
        alerts: Sequence[RaisedAlert] = (),
    ) -> None:
        """Complete an annotation, in one transaction: all of it becomes visible as done, or nothing.

        Running it again with other fused rows and segments is re-fusing; it replaces the former ones.

        Args:
            annotation_id: whose spans are all done.
            fused: one row for each window, in the order of FUSED_COLUMNS.
            timeline: segments, in the order of time.
            duration_seconds: where the video truly ends.
            provenance: device, dtype, batch size, version: what does not belong to the digest.
            keep_windows: how many windows lie before the true end; those after it are deleted.
            claim: the step, as claimed; it ends with this.
            source_annotation_id: whose windows were fused, where the annotation has none of its own.
            alerts: what rules tell of the timeline.

        Raises:
            LeaseLost: the step is no longer the claim's, or somebody makes windows of its own for the annotation.
            Forgotten: the annotation is gone.
            Internal: a span is not done, or windows are missing, or not each of them was fused.
        """
        with self.writing() as connection:
            made_of = source_annotation_id or connection.execute(sa.select(_owner(annotation_id))).scalar()
            lock_annotations(connection, [annotation_id, made_of or annotation_id])
            if claim is not None:
                end_step(connection, claim)
            if source_annotation_id is not None:
                _set_source(connection, annotation_id, source_annotation_id)
            owner_id = _owner_id(connection, annotation_id)
            _require_spans_done(connection, owner_id)
            if owner_id == annotation_id:
                _cut_windows(connection, annotation_id, keep_windows, duration_seconds)
            _require_no_gap(connection, owner_id, fused, keep_windows)
            _replace_results(connection, annotation_id, fused, timeline)
            _set_done(connection, annotation_id, duration_seconds, provenance, _warning(connection, owner_id))
            make_current(connection, annotation_id)
            raise_alerts(connection, annotation_id, alerts)
            tell_done(connection, annotation_id, timeline, len(fused))

    def states(self, annotation_id: int) -> set[str]:
        """Every state, of sound or picture, that a window of an annotation has."""
        query = sa.select(windows.c.audio_state, windows.c.video_state).distinct()
        with self.reading() as connection:
            rows = connection.execute(query.where(windows.c.annotation_id == _owner(annotation_id))).all()
        return {state for row in rows for state in row}

    def timeline(self, uri: str) -> list[Segment]:
        """A video's current segments, in the order of time; none if it has no current annotation."""
        query = (
            sa.select(*columns_of(segments, Segment))
            .join(videos, videos.c.current_annotation_id == segments.c.annotation_id)
            .where(videos.c.uri == uri)
            .order_by(segments.c.segment_index)
        )
        with self.reading() as connection:
            return [Segment(**row._mapping) for row in connection.execute(query)]

    def status(self) -> Status:
        latest = annotations.join(
            videos, sa.and_(videos.c.id == annotations.c.video_id, videos.c.version == annotations.c.version)
        )
        said = sa.case((annotations.c.error_code == Expired.code, Expired.code), else_=annotations.c.status)
        by_status = sa.select(said.label("said"), sa.func.count()).select_from(latest).group_by("said")
        current = annotations.join(videos, videos.c.current_annotation_id == annotations.c.id)
        seconds = sa.select(sa.func.coalesce(sa.func.sum(annotations.c.duration_seconds), 0.0)).select_from(current)
        by_pipeline = (
            sa.select(pipelines.c.name + " " + pipelines.c.digest, sa.func.count(annotations.c.id))
            .outerjoin(
                annotations, sa.and_(annotations.c.pipeline_id == pipelines.c.id, annotations.c.status == "done")
            )
            .group_by(pipelines.c.name, pipelines.c.digest)
        )
        by_code = sa.text("SELECT code, COUNT(*) FROM failures WHERE severity = 'failed' GROUP BY code")
        with self.reading() as connection:
            n_videos, n_gone = connection.execute(
                sa.select(sa.func.count(), sa.func.count(videos.c.gone_at)).select_from(videos)
            ).one()
            return Status(
                videos=n_videos,
                gone=n_gone,
                annotations=dict(connection.execute(by_status).all()),
                failures=dict(connection.execute(by_code).all()),
                annotated_seconds=connection.execute(seconds).scalar_one(),
                pipelines=dict(connection.execute(by_pipeline).all()),
            )


def _owner(annotation_id: int) -> sa.ScalarSelect[int]:
    """The annotation whose windows an annotation is made of: itself, unless it only fuses another's anew."""
    owner = sa.func.coalesce(annotations.c.source_annotation_id, annotations.c.id)
    return sa.select(owner).where(annotations.c.id == annotation_id).scalar_subquery()


def _owner_id(connection: sa.Connection, annotation_id: int) -> int:
    found = connection.execute(sa.select(_owner(annotation_id))).scalar()
    if found is None:
        raise gone(annotation_id)
    return int(found)


def _set_source(connection: sa.Connection, annotation_id: int, source_annotation_id: int) -> None:
    of_it = sa.update(annotations).where(annotations.c.id == annotation_id)
    has_none = ~sa.exists().where(spans.c.annotation_id == annotation_id)
    if connection.execute(of_it.where(has_none).values(source_annotation_id=source_annotation_id)).rowcount != 1:
        raise LeaseLost(f"Somebody makes windows of its own for annotation {annotation_id}.")


def _require_spans_done(connection: sa.Connection, annotation_id: int) -> None:
    # Its row is locked, so that of two that finish the same annotation the second one waits.
    query = sa.select(spans.c.status, sa.func.count()).where(spans.c.annotation_id == annotation_id)
    counts: dict[str, int] = dict(connection.execute(query.group_by(spans.c.status)).all())
    if set(counts) != {"done"}:
        raise Internal(f"Annotation {annotation_id} cannot be finished: its spans are {counts or 'not planned'}.")


def _cut_windows(
    connection: sa.Connection, annotation_id: int, keep_windows: int | None, duration_seconds: float
) -> None:
    """Let no window lie or reach beyond the true end, which a span in the middle does not know when it stores them."""
    mine = windows.c.annotation_id == annotation_id
    if keep_windows is not None:
        connection.execute(sa.delete(windows).where(mine, windows.c.window_index >= keep_windows))
    over = sa.update(windows).where(mine, windows.c.end_seconds > duration_seconds)
    connection.execute(over.values(end_seconds=duration_seconds))


def _require_no_gap(
    connection: sa.Connection, annotation_id: int, fused: Sequence[Sequence[Any]], keep_windows: int | None
) -> None:
    query = sa.select(sa.func.count(), sa.func.max(windows.c.window_index)).where(
        windows.c.annotation_id == annotation_id
    )
    count, last = connection.execute(query).one()
    wanted = (last or 0) + 1 if keep_windows is None else keep_windows
    if count != wanted:
        raise Internal(f"Annotation {annotation_id} cannot be finished: {count} of its {wanted} windows are stored.")
    if [row[0] for row in fused] != list(range(count)):
        raise Internal(f"Annotation {annotation_id} cannot be finished: {len(fused)} of {count} windows are fused.")


def _replace_results(
    connection: sa.Connection, annotation_id: int, fused: Sequence[Sequence[Any]], timeline: Sequence[Segment]
) -> None:
    for table in (fused_windows, segments):
        connection.execute(sa.delete(table).where(table.c.annotation_id == annotation_id))
    insert_rows(connection, fused_windows, FUSED_COLUMNS, annotation_id, fused)
    values = attrgetter(*_SEGMENT_COLUMNS[1:])
    rows = [(index, *values(segment)) for index, segment in enumerate(timeline)]
    insert_rows(connection, segments, _SEGMENT_COLUMNS, annotation_id, rows)


def _warning(connection: sa.Connection, annotation_id: int) -> tuple[str, str] | None:
    """What the spans could not read: the last one's code, since that says how the file ends, and all they say."""
    query = sa.select(spans.c.warning_code, spans.c.warning_message).where(spans.c.annotation_id == annotation_id)
    query = query.where(spans.c.warning_code.is_not(None)).order_by(spans.c.span_index)
    found = [tuple(row) for row in connection.execute(query)]
    return (found[-1][0], " ".join(dict.fromkeys(message for _, message in found))) if found else None


def _set_done(
    connection: sa.Connection,
    annotation_id: int,
    duration_seconds: float,
    provenance: Mapping[str, Any],
    warning: tuple[str, str] | None,
) -> None:
    values: dict[str, Any] = {
        "status": "done",
        "error_code": None,
        "error_message": None,
        "duration_seconds": duration_seconds,
        "provenance": dict(provenance),
        "completed_at": utc_now(),
        "sent_at": None,
        **FREE,
    }
    values["warning_code"], values["warning_message"] = warning or (None, None)
    connection.execute(sa.update(annotations).where(annotations.c.id == annotation_id).values(values))
