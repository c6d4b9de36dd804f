"""The fleet's queue: which jobs are due, who may have them, and what becomes of those that come to nothing.

A job is a row: an annotation that is to be planned or finished, or one of its spans. Messages only hint at rows, so
that a queue that loses, doubles or delays them changes nothing but the time. `take_due` chooses what to send messages
for; `claim_step` and `claim_span` decide, when a message arrives, whether there is anything to do. Attempts are counted
by the claim, before the work starts, so that work which kills its worker is counted too. All times are of the
database's clock.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from db.catalogue import utc_now
from db.errors import WorkerDied
from db.leases import FREE, Leases, held_step, mine, take
from db.rows import (
    FINISH,
    PLAN,
    SPAN,
    Annotation,
    Assignment,
    DueJob,
    Job,
    Pipeline,
    SpanClaim,
    StepClaim,
    Video,
    columns_of,
)
from db.statements import unix_now
from db.tables import annotations, pipelines, source_limits, spans, videos, windows

Claim = SpanClaim | StepClaim

FAILED, AGAIN, LOST = "failed", "again", "lost"  # what may become of a job that failed


class Jobs(Leases):
    """Annotations and spans as jobs of many workers."""

    def outstanding(self) -> int:
        """For how many jobs a message is on its way that nobody has acted on."""
        with self.reading() as connection:
            return sum(
                connection.execute(
                    sa.select(sa.func.count()).select_from(table).where(table.c.sent_at.is_not(None))
                ).scalar_one()
                for table in (annotations, spans)
            )

    def take_due(self, room: int, resend_seconds: float) -> list[DueJob]:
        """Choose the jobs whose turn it is, and mark them as sent; the messages are the caller's to send.

        What finishes a video comes first; else the lowest `queue_key`: the time of the request, less 600 s for each
        point of priority. So high priority overtakes, and nothing waits forever. Jobs that would read from a source
        which has all the readers that it may have are left for later. Two schedulers choose different jobs.

        Args:
            room: how many, at most.
            resend_seconds: a job that was sent so long ago, and that nobody has taken since, is sent again.
        """
        if room <= 0:
            return []
        with self.writing() as connection:
            now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
            limits = _free_readers(connection, now)
            full = [prefix for prefix, free in limits.items() if free <= 0]
            found = [
                *connection.execute(_finishes(now, resend_seconds, room)),
                *sorted(
                    [
                        *connection.execute(_plans(now, resend_seconds, room, full)),
                        *connection.execute(_spans(now, resend_seconds, room, full)),
                    ],
                    key=lambda row: (row.queue_key, row.annotation_id, row.span_index or 0),
                ),
            ]
            chosen = list(_within(limits, found))[:room]
            for table, key in (
                (annotations, (annotations.c.id,)),
                (spans, (spans.c.annotation_id, spans.c.span_index)),
            ):
                rows = [row for row in chosen if (row.kind == SPAN) == (table is spans)]
                ids = [(row.annotation_id, row.span_index)[: len(key)] for row in rows]
                if ids:
                    connection.execute(sa.update(table).where(sa.tuple_(*key).in_(ids)).values(sent_at=now))
        return [
            DueJob(Job(row.kind, row.annotation_id, row.span_index), row.priority, row.sent_at is not None)
            for row in chosen
        ]

    def unsend(self, jobs: Sequence[Job]) -> None:
        """Forget that jobs were sent, because the broker would not take them."""
        with self.writing() as connection:
            for job in jobs:
                connection.execute(sa.update(_table(job)).where(*_key(job)).values(sent_at=None))

    def assignment(self, annotation_id: int) -> Assignment | None:
        """What a job is about; None if its annotation is gone."""
        kinds = ((annotations, Annotation), (videos, Video), (pipelines, Pipeline))
        chosen = [columns_of(table, kind) for table, kind in kinds]
        query = (
            sa.select(annotations.c.priority, *(column for columns in chosen for column in columns))
            .join(videos, videos.c.id == annotations.c.video_id)
            .join(pipelines, pipelines.c.id == annotations.c.pipeline_id)
            .where(annotations.c.id == annotation_id)
        )
        with self.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        values = iter(row[1:])
        made = [
            kind(**{column.name: next(values) for column in columns})
            for (_, kind), columns in zip(kinds, chosen, strict=True)
        ]
        return Assignment(annotation=made[0], priority=row[0], video=made[1], pipeline=made[2])

    def claim_step(self, job: Job, owner: str, lease_seconds: float, max_claims: int) -> StepClaim | None:
        """Take the planning or finishing of an annotation; None if there is nothing to do, or somebody does it.

        One that has been claimed `max_claims` times in vain fails instead, as `worker_died`.
        """
        plans = job.kind == PLAN
        with self.writing() as connection:
            now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
            ready = annotations.c.status == "pending" if plans else _spans_are_done()
            statement = (
                sa.update(annotations)
                .where(annotations.c.id == job.annotation_id, ready, *_free(annotations, now))
                .values(
                    lease_owner=owner,
                    lease_until=now + lease_seconds,
                    epoch=annotations.c.epoch + 1,
                    claims=annotations.c.claims + 1,
                    attempts=annotations.c.attempts + int(plans),
                    started_at=sa.func.coalesce(annotations.c.started_at, utc_now()),
                    sent_at=None,
                )
                .returning(annotations.c.epoch, annotations.c.claims)
            )
            row = connection.execute(statement).first()
            if row is None:
                return None
            if row.claims > max_claims:
                _fail(connection, job.annotation_id, WorkerDied.code, _DIED.format(what=job.kind, n=max_claims))
                return None
        return StepClaim(
            kind=job.kind, annotation_id=job.annotation_id, owner=owner, epoch=row.epoch, claims=row.claims
        )

    def claim_span(self, job: Job, owner: str, lease_seconds: float, max_attempts: int) -> SpanClaim | None:
        """Take one span; None if it is done or somebody does it.

        One that has been claimed `max_attempts` times in vain fails instead, with its annotation: for the reason of its
        last failure, or else as `worker_died`.
        """
        assert job.span_index is not None
        with self.writing() as connection:
            now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
            query = (
                sa.select(spans.c.attempts, spans.c.error_code, spans.c.error_message)
                .join(annotations, annotations.c.id == spans.c.annotation_id)
                .where(*_key(job), annotations.c.status.in_(("planned", "running")))
                .where(sa.or_(spans.c.status == "pending", spans.c.status == "running"), *_free(spans, now))
                .with_for_update(of=spans)
            )
            row = connection.execute(query).first()
            if row is None:
                return None
            if row.attempts >= max_attempts:
                said = (row.error_code, row.error_message)
                died = (WorkerDied.code, _DIED.format(what=f"span {job.span_index}", n=max_attempts))
                connection.execute(sa.update(spans).where(*_key(job)).values(**FREE, status="failed", sent_at=None))
                _fail(connection, job.annotation_id, *(said if row.error_code else died))
                return None
            statement = take(job.annotation_id, job.span_index, owner, now + lease_seconds)
            taken = connection.execute(statement).one()
            connection.execute(
                sa.update(annotations)
                .where(annotations.c.id == job.annotation_id, annotations.c.status == "planned")
                .values(status="running")
            )
        return SpanClaim(owner=owner, **taken._mapping)

    def renew_all(self, claims: Collection[Claim], lease_seconds: float) -> list[Claim]:
        """Keep jobs for longer; those that are no longer their owner's are returned."""
        if not claims:
            return []
        kept: set[tuple[str, int, int]] = set()
        with self.writing() as connection:
            until = unix_now(connection.dialect.name) + lease_seconds
            # One by one and in one order, so that no two transactions wait for each other's rows.
            for claim in sorted(claims, key=_place):
                held = _held(claim).values(lease_until=until)
                if connection.execute(held).rowcount == 1:
                    kept.add(_place(claim))
        return [claim for claim in claims if _place(claim) not in kept]

    def give_back(self, claim: Claim, delay_seconds: float = 0.0) -> None:
        """Give a job back undone, uncounted; nothing happens if it is somebody else's by now."""
        with self.writing() as connection:
            later = unix_now(connection.dialect.name) + delay_seconds if delay_seconds else None
            if isinstance(claim, SpanClaim):
                values = {"status": "pending", "attempts": spans.c.attempts - 1}
            else:
                values = {"claims": annotations.c.claims - 1}
            connection.execute(_held(claim).values(**FREE, **values, available_at=later))

    def fail_job(
        self,
        claim: Claim,
        code: str,
        message: str,
        *,
        permanent: bool,
        max_attempts: int,
        delay_seconds: float,
        discard: bool = False,
    ) -> str:
        """A job came to nothing: it is tried again later, or its annotation fails.

        Args:
            code, message: why.
            permanent: whether trying again is of no use.
            max_attempts: how often it may be tried.
            delay_seconds: how long to wait before the next attempt.
            discard: whether what the spans stored is worth nothing, so that a retry begins anew.

        Returns:
            `failed`, `again`, or `lost` if it was no longer the claim's.
        """
        attempts = claim.attempts if isinstance(claim, SpanClaim) else claim.claims
        final = permanent or attempts >= max_attempts
        with self.writing() as connection:
            later = None if final else unix_now(connection.dialect.name) + delay_seconds
            values: dict[str, Any] = {"available_at": later}
            if isinstance(claim, SpanClaim):
                values |= {"status": "failed" if final else "pending", "error_code": code, "error_message": message}
            if connection.execute(_held(claim).values(**FREE, **values)).rowcount != 1:
                return LOST
            if final:
                _fail(connection, claim.annotation_id, code, message)
            if discard:
                for table in (windows, spans):
                    connection.execute(sa.delete(table).where(table.c.annotation_id == claim.annotation_id))
        return FAILED if final else AGAIN


_DIED = "{what} was begun {n} times, and each time its worker died or fell silent."


def _table(job: Job) -> sa.Table:
    return spans if job.kind == SPAN else annotations


def _key(job: Job) -> tuple[sa.ColumnElement[bool], ...]:
    if job.kind == SPAN:
        return spans.c.annotation_id == job.annotation_id, spans.c.span_index == job.span_index
    return (annotations.c.id == job.annotation_id,)


def _place(claim: Claim) -> tuple[str, int, int]:
    if isinstance(claim, SpanClaim):
        return SPAN, claim.annotation_id, claim.span_index
    return claim.kind, claim.annotation_id, 0


def _held(claim: Claim) -> sa.Update:
    """A change to a job under its claim."""
    if isinstance(claim, SpanClaim):
        return mine(claim)
    return held_step(claim)


def _free(table: sa.Table, now: float) -> tuple[sa.ColumnElement[bool], ...]:
    """Nobody holds the job, and it need not wait any longer."""
    return (
        sa.or_(table.c.lease_until.is_(None), table.c.lease_until <= now),
        sa.or_(table.c.available_at.is_(None), table.c.available_at <= now),
    )


def _spans_are_done() -> sa.ColumnElement[bool]:
    of_it = spans.c.annotation_id == annotations.c.id
    return sa.and_(
        annotations.c.status.in_(("planned", "running")),
        sa.exists().where(of_it),
        ~sa.exists().where(of_it, spans.c.status != "done"),
    )


def _due(kind: str, table: sa.Table, now: float, resend_seconds: float, room: int) -> sa.Select[Any]:
    """The next jobs of one kind: unclaimed, not waiting, and without a message on its way."""
    span_index = spans.c.span_index if table is spans else sa.null().label("span_index")
    return (
        sa.select(
            sa.literal(kind).label("kind"),
            annotations.c.id.label("annotation_id"),
            span_index,
            annotations.c.queue_key,
            annotations.c.priority,
            table.c.sent_at,
            videos.c.uri,
        )
        .select_from(annotations)
        .join(videos, videos.c.id == annotations.c.video_id)
        .where(annotations.c.queue_key.is_not(None), *_free(table, now))
        .where(sa.or_(table.c.sent_at.is_(None), table.c.sent_at <= now - resend_seconds))
        .order_by(annotations.c.queue_key, annotations.c.id)
        .limit(room)
        # Weaker than an exclusive lock, which rows being stored for the annotation would have to wait for.
        .with_for_update(of=table, skip_locked=True, key_share=True)
    )


def _plans(now: float, resend_seconds: float, room: int, full: Collection[str]) -> sa.Select[Any]:
    query = _due(PLAN, annotations, now, resend_seconds, room).where(annotations.c.status == "pending")
    return query.where(*(~_below(prefix) for prefix in full))


def _spans(now: float, resend_seconds: float, room: int, full: Collection[str]) -> sa.Select[Any]:
    query = _due(SPAN, spans, now, resend_seconds, room).join(spans, spans.c.annotation_id == annotations.c.id)
    query = query.where(annotations.c.status.in_(("planned", "running")), spans.c.status.in_(("pending", "running")))
    return query.where(*(~_below(prefix) for prefix in full)).order_by(spans.c.span_index)


def _finishes(now: float, resend_seconds: float, room: int) -> sa.Select[Any]:
    return _due(FINISH, annotations, now, resend_seconds, room).where(_spans_are_done())


def _below(prefix: str) -> sa.ColumnElement[bool]:
    return sa.func.substr(videos.c.uri, 1, len(prefix)) == prefix


def _free_readers(connection: sa.Connection, now: float) -> dict[str, int]:
    """For each source with a limit, how many jobs more may read from it now."""
    limits: dict[str, int] = dict(
        connection.execute(sa.select(source_limits.c.prefix, source_limits.c.max_running)).tuples().all()
    )
    if not limits:
        return {}
    reads = (
        sa.select(videos.c.uri)
        .join(annotations, annotations.c.video_id == videos.c.id)
        .where(annotations.c.status == "pending")
        .where(sa.or_(annotations.c.sent_at.is_not(None), annotations.c.lease_until > now))
    )
    read_spans = (
        sa.select(videos.c.uri)
        .join(annotations, annotations.c.video_id == videos.c.id)
        .join(spans, spans.c.annotation_id == annotations.c.id)
        .where(sa.or_(spans.c.sent_at.is_not(None), spans.c.lease_until > now))
    )
    for (uri,) in connection.execute(reads.union_all(read_spans)):
        for prefix in limits:
            limits[prefix] -= uri.startswith(prefix)
    return limits


def _within(free: dict[str, int], rows: Sequence[Any]) -> Iterator[Any]:
    """Those jobs, in their order, that the limits of their sources still let in."""
    for row in rows:
        concerned = [prefix for prefix in free if row.kind != FINISH and row.uri.startswith(prefix)]
        counted = row.sent_at is not None  # it is among those that read already
        if counted or all(free[prefix] > 0 for prefix in concerned):
            for prefix in concerned:
                free[prefix] -= not counted
            yield row


def _mark_sent(connection: sa.Connection, rows: Sequence[Any], now: float) -> None:
    span_keys = [(row.annotation_id, row.span_index) for row in rows if row.kind == SPAN]
    of_spans = sa.tuple_(spans.c.annotation_id, spans.c.span_index).in_(span_keys)
    of_steps = annotations.c.id.in_([row.annotation_id for row in rows if row.kind != SPAN])
    connection.execute(sa.update(spans).where(of_spans).values(sent_at=now))
    connection.execute(sa.update(annotations).where(of_steps).values(sent_at=now))


def _fail(connection: sa.Connection, annotation_id: int, code: str, message: str) -> None:
    connection.execute(
        sa.update(annotations)
        .where(annotations.c.id == annotation_id, annotations.c.status != "done")
        .values(**FREE, status="failed", error_code=code, error_message=message, completed_at=utc_now(), sent_at=None)
    )
