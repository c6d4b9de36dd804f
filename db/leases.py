"""Spans: who works on which, until when, and that nobody writes under a lease that he no longer holds.

Every claim raises the span's epoch, and every write says which epoch it is made under. A worker that stalled, lost its
lease and wakes up again thus finds its epoch gone and writes nothing. All times are of the database's clock.

Whoever changes rows of both tables locks spans first and annotations after them, several in the order of their keys, so
that no two transactions wait for each other.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from db.errors import ChangedWhileReading, Internal, LeaseLost
from db.forgotten import gone
from db.rows import MediaFacts, PlannedSpan, Span, SpanClaim, StepClaim, columns_of
from db.session import Database
from db.statements import insert_rows, unix_now, upsert
from db.tables import WINDOW_COLUMNS, annotations, spans, videos, windows

WindowRow = Sequence[Any]  # in the order of WINDOW_COLUMNS; None for what is not known, never NaN


class Leases(Database):
    """The spans of annotations as jobs."""

    def plan(
        self,
        annotation_id: int,
        planned: Sequence[PlannedSpan],
        claim: StepClaim | None = None,
        facts: MediaFacts | None = None,
    ) -> list[Span]:
        """Give an annotation its spans; those it has already stay as they are, done ones done.

        One that is done meanwhile, or that only fuses another's windows anew, gets none.

        Args:
            claim: the planning, as claimed; it ends with this.
            facts: what probing the video told; it is added to what is known.

        Raises:
            LeaseLost: the planning is no longer the claim's.
            ChangedWhileReading: another version of the video has been seen since, which the facts are not of.
            Forgotten: the annotation is gone.
        """
        wants_spans = (
            sa.select(annotations.c.epoch)
            .where(annotations.c.id == annotation_id, annotations.c.source_annotation_id.is_(None))
            .where(annotations.c.status != "done")
            .with_for_update(key_share=True)
        )
        started = sa.update(annotations).where(annotations.c.id == annotation_id, annotations.c.status == "pending")
        with self.writing() as connection:
            if claim is not None:
                end_step(connection, claim)
            if facts is not None:
                _add_facts(connection, annotation_id, facts)
            epoch = connection.execute(wants_spans).scalar()
            if planned and epoch is not None:
                new = {"annotation_id": annotation_id, "epoch": epoch, "status": "pending"}
                new |= {"attempts": 0, "windows_done": 0}
                rows = [asdict(span) | new for span in planned]
                connection.execute(upsert(connection, spans).on_conflict_do_nothing(), rows)
                connection.execute(started.values(status="planned"))
        return self.spans(annotation_id)

    def spans(self, annotation_id: int) -> list[Span]:
        query = sa.select(*columns_of(spans, Span)).where(spans.c.annotation_id == annotation_id)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(spans.c.span_index)).all()
        return [Span(**row._mapping) for row in rows]

    def lease_owners(self, annotation_id: int) -> set[str]:
        """Who holds spans of an annotation, whether their leases have run out or not."""
        query = sa.select(spans.c.lease_owner).where(
            spans.c.annotation_id == annotation_id, spans.c.lease_owner.is_not(None)
        )
        with self.reading() as connection:
            return set(connection.execute(query).scalars())

    def claim(
        self, annotation_id: int, owner: str, lease_seconds: float, dead_owners: Collection[str] = ()
    ) -> SpanClaim | None:
        """Take the next span that nobody holds, and count the attempt; None if there is none.

        Args:
            annotation_id: whose spans.
            owner: who claims, unique among all that may be at work.
            lease_seconds: after so long without `renew_all` others may take the span.
            dead_owners: owners known to be gone, whose leases need not run out first.
        """
        now = unix_now(self.engine.dialect.name)
        abandoned = sa.or_(spans.c.lease_until <= now, spans.c.lease_owner.in_(dead_owners))
        next_free = (
            sa.select(spans.c.span_index)
            .join(annotations, annotations.c.id == spans.c.annotation_id)
            .where(spans.c.annotation_id == annotation_id, annotations.c.status.in_(("planned", "running")))
            .where(sa.or_(spans.c.status == "pending", sa.and_(spans.c.status == "running", abandoned)))
            .order_by(spans.c.span_index)
            .limit(1)
            .with_for_update(of=spans, skip_locked=True)  # PostgreSQL; on SQLite there is one writer anyway
        )
        with self.writing() as connection:
            span_index = connection.execute(next_free).scalar()
            if span_index is None:
                return None
            row = connection.execute(take(annotation_id, span_index, owner, now + lease_seconds)).one()
            connection.execute(
                sa.update(annotations)
                .where(annotations.c.id == annotation_id, annotations.c.status == "planned")
                .values(status="running")
            )
        return SpanClaim(owner=owner, **row._mapping)

    def checkpoint(self, claim: SpanClaim, rows: Sequence[WindowRow]) -> None:
        """Store windows of a span, over those stored before under the same index.

        Args:
            claim: the span, as claimed.
            rows: in the order of WINDOW_COLUMNS, by rising index, following the last checkpoint's or from the first.

        Raises:
            LeaseLost: somebody else has claimed the span since; nothing is stored.
            Internal: a window is not the span's.
        """
        if not rows:
            return
        first, last = rows[0][0], rows[-1][0]
        if first < claim.first_window or (claim.last_window is not None and last >= claim.last_window):
            raise Internal(
                f"Windows {first} to {last} are not all in span {claim.span_index} of {claim.annotation_id}."
            )
        with self.writing() as connection:
            _write(connection, claim, windows_done=last + 1 - claim.first_window)
            insert_rows(connection, windows, WINDOW_COLUMNS, claim.annotation_id, rows, replace=True)

    def complete_span(
        self, claim: SpanClaim, true_end_seconds: float | None = None, warning: tuple[str, str] | None = None
    ) -> None:
        """The span is done; the last one says where the video truly ends.

        Args:
            true_end_seconds: where the video ends, if the span reached that.
            warning: code and sentence, if part of the span could not be read; `finish` passes it on.

        Raises:
            LeaseLost: somebody else has claimed it since.
        """
        code, message = warning or (None, None)
        end = {"true_end_seconds": true_end_seconds, "warning_code": code, "warning_message": message}
        with self.writing() as connection:
            now = unix_now(connection.dialect.name)
            _write(connection, claim, **FREE, **end, status="done", completed_at=now)
            _note_if_last(connection, claim.annotation_id)


FREE: dict[str, Any] = {"lease_owner": None, "lease_until": None}


def one_less(count: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """A count without the claim that is given back; it may have been set to 0 since."""
    return sa.case((count > 0, count - 1), else_=0)


def take(annotation_id: int, span_index: int, owner: str, until: sa.ColumnElement[float] | float) -> Any:
    """The change that claims a span."""
    return (
        sa.update(spans)
        .where(spans.c.annotation_id == annotation_id, spans.c.span_index == span_index)
        .values(
            status="running",
            lease_owner=owner,
            lease_until=until,
            epoch=spans.c.epoch + 1,
            attempts=spans.c.attempts + 1,
            sent_at=None,
        )
        .returning(*columns_of(spans, SpanClaim))
    )


def mine(claim: SpanClaim) -> sa.Update:
    """A change to a span under its claim; it changes no row if the claim no longer stands."""
    return sa.update(spans).where(
        spans.c.annotation_id == claim.annotation_id,
        spans.c.span_index == claim.span_index,
        spans.c.epoch == claim.epoch,
        spans.c.lease_owner == claim.owner,
        spans.c.status == "running",
    )


def held_step(claim: StepClaim) -> sa.Update:
    """A change to an annotation under the claim of its planning or finishing."""
    return sa.update(annotations).where(
        annotations.c.id == claim.annotation_id,
        annotations.c.epoch == claim.epoch,
        annotations.c.lease_owner == claim.owner,
    )


def end_step(connection: sa.Connection, claim: StepClaim) -> None:
    """Let planning or finishing be over, in the transaction that stores what came of it.

    Raises:
        LeaseLost: somebody else has claimed it since.
    """
    ended = held_step(claim).values(**FREE, claims=0, available_at=None)
    if connection.execute(ended).rowcount != 1:
        raise LeaseLost(f"The {claim.kind} of annotation {claim.annotation_id} is no longer {claim.owner}'s.")


def _add_facts(connection: sa.Connection, annotation_id: int, facts: MediaFacts) -> None:
    """Record what is known of an annotation's video.

    Raises:
        ChangedWhileReading: the annotation is not of its latest version.
        Forgotten: the annotation is gone.
    """
    known = {name: value for name, value in asdict(facts).items() if value is not None}
    of_it = sa.select(annotations.c.video_id, annotations.c.version).where(annotations.c.id == annotation_id)
    same = sa.update(videos).where(sa.tuple_(videos.c.id, videos.c.version).in_(of_it))
    if connection.execute(same.values(**known, updated_at=datetime.now(UTC))).rowcount != 1:
        if connection.execute(sa.select(annotations.c.id).where(annotations.c.id == annotation_id)).first() is None:
            raise gone(annotation_id)
        raise ChangedWhileReading(f"Annotation {annotation_id} is not of the latest version of its video.")


def _note_if_last(connection: sa.Connection, annotation_id: int) -> None:
    """Note on the annotation that all its spans are done, if they are."""
    # The row is locked before the spans are looked at, so that of two that end at once the second one sees the first.
    of_it = annotations.c.id == annotation_id
    connection.execute(sa.select(annotations.c.id).where(of_it).with_for_update(key_share=True))
    left = sa.exists().where(spans.c.annotation_id == annotation_id, spans.c.status != "done")
    now = unix_now(connection.dialect.name)
    connection.execute(sa.update(annotations).where(of_it, ~left).values(spans_done_at=now))


def _write(connection: sa.Connection, claim: SpanClaim, **values: Any) -> None:
    """Change the span under the claim's epoch; the row stays locked until the transaction ends, which fences it all."""
    if connection.execute(mine(claim).values(**values)).rowcount != 1:
        raise LeaseLost(
            f"Span {claim.span_index} of annotation {claim.annotation_id} is no longer {claim.owner}'s:"
            f" its lease ran out and it was claimed again."
        )
