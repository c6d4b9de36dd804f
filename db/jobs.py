"""The fleet's queue: which jobs are due, who may have them, and what becomes of those that come to nothing.

A job is a row: an annotation that is to be planned or finished, or one of its spans. Messages only hint at rows, so
that a queue that loses, doubles or delays them changes nothing but the time. `take_due` chooses what to send messages
for; `claim_step` and `claim_span` decide, when a message arrives, whether there is anything to do. Attempts are counted
by the claim, before the work starts, so that work which kills its worker is counted too. All times are of the
database's clock.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa

from db.catalogue import discard_spans, lock_with_spans, utc_now
from db.errors import WorkerDied
from db.events import tell_failed
from db.leases import FREE, Leases, held_step, mine, one_less, take
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
from db.tables import annotations, pipelines, source_limits, spans, videos, workers

Claim = SpanClaim | StepClaim

WORKER_SEEN_SECONDS = 60.0  # after which a worker that has not shown itself counts as gone
BEGUN = ("planned", "running")  # statuses of annotations
UNFINISHED = ("pending", *BEGUN)
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
        which has all the readers that it may have are left for later, and so are those of pipelines that no worker
        which is there does; where no worker is there at all, any job will do. Two schedulers choose different jobs.

        Args:
            room: how many, at most.
            resend_seconds: a job that was sent so long ago, and that nobody has taken since, is due again; so it is
                no longer `outstanding`, whether there is room for it or not.
        """
        with self.writing() as connection:
            _one_at_a_time(connection)
            now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
            unanswered = _unmark(connection, now - resend_seconds)
            chosen = _chosen(connection, now, room) if room > 0 else []
            _mark(connection, chosen, now)
        return [
            DueJob(
                Job(row.kind, row.annotation_id, row.span_index),
                row.priority,
                (row.annotation_id, row.span_index) in unanswered,
            )
            for row in chosen
        ]

    def unsend(self, jobs: Sequence[Job]) -> None:
        """Forget that jobs were sent, because the broker would not take them."""
        with self.writing() as connection:
            for job in sorted(jobs, key=_place):
                connection.execute(_answered(job))

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
                connection.execute(_answered(job))
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
                .where(*_key(job), annotations.c.status.in_(BEGUN))
                .where(sa.or_(spans.c.status == "pending", spans.c.status == "running"), *_free(spans, now))
                # The annotation too, so that it is not cancelled or failed in the same moment.
                .with_for_update(of=(spans, annotations), key_share=True)
            )
            row = connection.execute(query).first()
            if row is None:
                connection.execute(_answered(job))
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
        lost: list[Claim] = []
        if not claims:
            return lost
        with self.writing() as connection:
            until = unix_now(connection.dialect.name) + lease_seconds
            # One by one and in the one order, so that no two transactions wait for each other's rows.
            for claim in sorted(claims, key=_place):
                if connection.execute(_held(claim).values(lease_until=until)).rowcount != 1:
                    lost.append(claim)
        return [claim for claim in claims if claim in lost]

    def give_back(self, claim: Claim, delay_seconds: float = 0.0) -> None:
        """Give a job back undone, uncounted; nothing happens if it is somebody else's by now."""
        with self.writing() as connection:
            later = unix_now(connection.dialect.name) + delay_seconds if delay_seconds else None
            if isinstance(claim, SpanClaim):
                values = {"status": "pending", "attempts": one_less(spans.c.attempts)}
            else:
                values = {"claims": one_less(annotations.c.claims)}
                if claim.kind == PLAN:
                    values["attempts"] = one_less(annotations.c.attempts)
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
            discard: whether what the spans stored is worth nothing if it fails, so that whoever retries begins anew.

        Returns:
            `failed`, `again`, or `lost` if it was no longer the claim's.
        """
        with self.writing() as connection:
            if discard:
                lock_with_spans(connection, [claim.annotation_id])
            values: dict[str, Any] = {"available_at": unix_now(connection.dialect.name) + delay_seconds}
            if isinstance(claim, SpanClaim):
                values |= {"status": "pending", "error_code": code, "error_message": message}
                count = spans.c.attempts
            else:
                count = annotations.c.claims
            attempts = connection.execute(_held(claim).values(**FREE, **values).returning(count)).scalar()
            if attempts is None:
                return LOST
            final = permanent or attempts >= max_attempts
            if final:
                if isinstance(claim, SpanClaim):
                    connection.execute(sa.update(spans).where(*_key(claim)).values(status="failed"))
                _fail(connection, claim.annotation_id, code, message)
                if discard:
                    discard_spans(connection, claim.annotation_id)
        return FAILED if final else AGAIN


# In the words of the partial indexes, with no parameters, so that these serve whatever plan a database keeps.
_ASKED = annotations.c.queue_key.is_not(None)
_BEGUN = sa.and_(_ASKED, annotations.c.status.in_([sa.literal_column(f"'{status}'") for status in BEGUN]))
TO_PLAN = sa.and_(_ASKED, annotations.c.status == sa.literal_column("'pending'"))
TO_ANNOTATE = sa.and_(_BEGUN, annotations.c.spans_done_at.is_(None))
TO_FINISH = sa.and_(_BEGUN, annotations.c.spans_done_at.is_not(None))

_CHOOSING_LOCK = 0x6D6F6F65  # the key under which PostgreSQL keeps two schedulers apart
_DIED = "{what} was begun {n} times, and each time its worker died or fell silent."


def _table(job: Job) -> sa.Table:
    return annotations if job.span_index is None else spans


def _values(job: Job) -> tuple[int, ...]:
    """Of its row's primary key."""
    return (job.annotation_id,) if job.span_index is None else (job.annotation_id, job.span_index)


def _answered(job: Job) -> sa.Update:
    """The change that forgets that a job was sent."""
    table = _table(job)
    return sa.update(table).where(*_key(job), table.c.sent_at.is_not(None)).values(sent_at=None)


def _key(job: Job | SpanClaim) -> tuple[sa.ColumnElement[bool], ...]:
    if job.span_index is not None:
        return spans.c.annotation_id == job.annotation_id, spans.c.span_index == job.span_index
    return (annotations.c.id == job.annotation_id,)


def _place(job: Job | Claim) -> tuple[bool, int, int]:
    """In which order jobs are changed: spans before annotations, each by their keys."""
    if isinstance(job, StepClaim) or job.span_index is None:
        return True, job.annotation_id, 0
    return False, job.annotation_id, job.span_index


def _held(claim: Claim) -> sa.Update:
    """A change to a job under its claim."""
    if isinstance(claim, SpanClaim):
        return mine(claim)
    return held_step(claim)


def _free(table: sa.Table, now: float) -> tuple[sa.ColumnElement[bool], ...]:
    """Nobody holds the job, and it need not wait any longer."""
    return (
        sa.or_(table.c.lease_until.is_(None), table.c.lease_until <= now - _apart(table)),
        sa.or_(table.c.available_at.is_(None), table.c.available_at <= now),
    )


def _apart(table: sa.Table) -> sa.ColumnElement[Any]:
    """For how long after its lease a job is left alone whose workers keep falling silent, seconds.

    What kills a worker takes along whatever else is under way there. Were all of that handed out again together, it
    would die together again, and innocent videos would fail with the one that kills. So from the second time on each
    waits for a while of its own, another one each time.
    """
    if table is spans:
        count, number = spans.c.attempts, 7919 * spans.c.annotation_id + 104_729 * spans.c.span_index
    else:
        count, number = annotations.c.claims, 7919 * annotations.c.id
    share = sa.cast((number + 31 * table.c.epoch) % 1000, sa.Double) / 1000.0
    longest = sa.case((count < 2, 0.0), (count == 2, 60.0), (count == 3, 120.0), else_=240.0)
    return share * longest


def _spans_are_done() -> sa.ColumnElement[bool]:
    of_it = spans.c.annotation_id == annotations.c.id
    return sa.and_(
        annotations.c.status.in_(BEGUN),
        sa.exists().where(of_it),
        ~sa.exists().where(of_it, spans.c.status != "done"),
    )


def _one_at_a_time(connection: sa.Connection) -> None:
    """Let two schedulers choose one after the other, so that together they keep to the limits of sources."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CHOOSING_LOCK)))


def _unmark(connection: sa.Connection, before: float) -> set[tuple[int, int | None]]:
    """Let jobs count as not sent whose messages nobody acted on; annotation and span of each."""
    found: set[tuple[int, int | None]] = set()
    for table in (spans, annotations):
        key = list(table.primary_key)
        old = sa.select(*key).where(table.c.sent_at <= before).with_for_update(skip_locked=True, key_share=True)
        unmarked = sa.update(table).where(sa.tuple_(*key).in_(old)).values(sent_at=None).returning(*key)
        found |= {(row[0], row[1] if table is spans else None) for row in connection.execute(unmarked)}
    return found


def _mark(connection: sa.Connection, chosen: Sequence[Any], now: float) -> None:
    jobs = [Job(row.kind, row.annotation_id, row.span_index) for row in chosen]
    for table in (spans, annotations):
        keys = [_values(job) for job in jobs if _table(job) is table]
        if keys:
            these = sa.tuple_(*table.primary_key).in_(keys)
            connection.execute(sa.update(table).where(these).values(sent_at=now))


def _chosen(connection: sa.Connection, now: float, room: int) -> list[Any]:
    """The jobs whose turn it is, as far as the limits of their sources let them in."""
    pipeline_ids = _at_work(connection, now)
    free = _free_readers(connection, now)
    found = [row for key in pipeline_ids for row in connection.execute(_finishes(now, room, key))]
    found = sorted(found, key=_turn)[:room]
    readers: list[Any] = []
    for source in {"", *free}:
        let_in = min([room - len(found), *(free[prefix] for prefix in free if source.startswith(prefix))])
        if let_in > 0:
            for query in (_plans, _spans):
                for key in pipeline_ids:
                    readers += connection.execute(query(now, source, let_in, key)).all()
    readers.sort(key=_turn)
    return [*found, *islice(_within(free, readers), room - len(found))]


def _turn(row: Any) -> tuple[float, int, int]:
    return row.queue_key, row.annotation_id, row.span_index or 0


def _at_work(connection: sa.Connection, now: float) -> Sequence[int | None]:
    """The pipelines that workers which are there do; None alone stands for all, seen to or not."""
    seen = workers.c.seen_at > now - WORKER_SEEN_SECONDS
    query = sa.select(workers.c.pipelines, workers.c.refused).where(workers.c.kind == "worker", seen)
    found = connection.execute(query.where(workers.c.slots > 0)).all()  # one that is being shut down has none
    if not found or any(row.pipelines is None and not row.refused for row in found):
        return [None]
    known = connection.execute(sa.select(pipelines.c.id).where(pipelines.c.options.is_not(sa.null()))).scalars()
    return [
        key
        for key in known
        if any((row.pipelines is None or key in row.pipelines) and key not in (row.refused or ()) for row in found)
    ]


def _due(
    kind: str, table: sa.Table, now: float, room: int, pipeline_id: int | None, where: sa.ColumnElement[bool]
) -> sa.Select[Any]:
    """The next jobs of one kind, of one pipeline or any: unclaimed, not waiting, and without a message on its way."""
    if pipeline_id is not None:
        where = sa.and_(where, annotations.c.pipeline_id == pipeline_id)
    span_index = spans.c.span_index if table is spans else sa.null().label("span_index")
    return (
        sa.select(
            sa.literal(kind).label("kind"),
            annotations.c.id.label("annotation_id"),
            span_index,
            annotations.c.queue_key,
            annotations.c.priority,
            annotations.c.limited_by,
        )
        .where(where, table.c.sent_at.is_(None), *_free(table, now))
        .order_by(annotations.c.queue_key, annotations.c.id)
        .limit(room)
        # Weaker than an exclusive lock, which rows being stored for the annotation would have to wait for.
        .with_for_update(of=table, skip_locked=True, key_share=True)
    )


def _plans(now: float, source: str, room: int, pipeline_id: int | None = None) -> sa.Select[Any]:
    return _due(PLAN, annotations, now, room, pipeline_id, TO_PLAN).where(annotations.c.limited_by == source)


def _spans(now: float, source: str, room: int, pipeline_id: int | None = None) -> sa.Select[Any]:
    query = _due(SPAN, spans, now, room, pipeline_id, TO_ANNOTATE)
    query = query.join(spans, spans.c.annotation_id == annotations.c.id)
    query = query.where(annotations.c.limited_by == source, spans.c.status.in_(("pending", "running")))
    return query.order_by(spans.c.span_index)


def _finishes(now: float, room: int, pipeline_id: int | None = None) -> sa.Select[Any]:
    query = _due(FINISH, annotations, now, room, None, TO_FINISH)
    if pipeline_id is None:
        return query
    # The sum keeps a planner from reading all annotations of the pipeline, where few are to be finished.
    return query.where(annotations.c.pipeline_id + 0 == pipeline_id)


def _free_readers(connection: sa.Connection, now: float) -> dict[str, int]:
    """For each source with a limit, how many jobs more may read from it now."""
    limits: dict[str, int] = dict(
        connection.execute(sa.select(source_limits.c.prefix, source_limits.c.max_running)).all()
    )
    if not limits:
        return {}
    plans = sa.select(annotations.c.limited_by).where(annotations.c.status == "pending")
    # One by one: few spans are sent or at work, but a join of the two would tempt a planner to read all annotations.
    of_it = annotations.c.id == spans.c.annotation_id
    of_spans = sa.select(sa.select(annotations.c.limited_by).where(of_it).scalar_subquery().label("limited_by"))
    reading = sa.union_all(
        *(
            query.where(reads)
            for query, table in ((plans, annotations), (of_spans, spans))
            for reads in (table.c.sent_at.is_not(None), sa.and_(table.c.lease_until > now, table.c.sent_at.is_(None)))
        )
    ).subquery()
    counts = sa.select(reading.c.limited_by, sa.func.count()).group_by(reading.c.limited_by)
    for source, count in connection.execute(counts):
        for prefix in limits:
            limits[prefix] -= count if source.startswith(prefix) else 0
    return limits


def _within(free: dict[str, int], rows: Iterable[Any]) -> Iterator[Any]:
    """Those jobs, in their order, that the limits of their sources still let in."""
    for row in rows:
        concerned = [prefix for prefix in free if row.limited_by.startswith(prefix)]
        if all(free[prefix] > 0 for prefix in concerned):
            for prefix in concerned:
                free[prefix] -= 1
            yield row


def _fail(connection: sa.Connection, annotation_id: int, code: str, message: str) -> None:
    """Let an annotation fail, unless it has ended already: the first reason stays."""
    failed = (
        sa.update(annotations)
        .where(annotations.c.id == annotation_id, annotations.c.status.in_(UNFINISHED))
        .values(**FREE, status="failed", error_code=code, error_message=message, completed_at=utc_now(), sent_at=None)
    )
    if connection.execute(failed).rowcount == 1:
        tell_failed(connection, annotation_id)
