"""What people ask of the fleet, and what it says of itself: videos to annotate, pipelines by name, limits, workers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from db.catalogue import batches, make_current, observed, reopen, utc_now
from db.errors import Cancelled, PipelineUnknown
from db.identity import Source
from db.leases import FREE
from db.rows import FleetStatus, Pipeline, SeenWorker, Submitted, Worker, columns_of
from db.session import Database
from db.statements import unix_now, upsert
from db.tables import annotations, pipeline_names, pipelines, source_limits, spans, videos, workers

SECONDS_PER_PRIORITY = 600.0  # of waiting that one point of priority is worth
WORKER_SEEN_SECONDS = 60.0  # after which a worker that has not shown itself counts as gone
_ROWS_PER_INSERT = 500
_FORGOTTEN_SECONDS = 7 * 86_400.0
_LENGTHS_SAMPLED = 1000  # videos, of which lengths are known, to estimate the others by


class Fleet(Database):
    """The fleet as its operators see it."""

    def submit(
        self, pipeline_id: int, sources: Sequence[Source], priority: int = 0, *, again: bool = True
    ) -> Submitted:
        """Ask the fleet for the annotation of videos.

        What is asked for already keeps its place, unless the new one is better; what is done becomes current again.

        Args:
            sources: no uri may come twice.
            priority: higher goes first; each point is worth `SECONDS_PER_PRIORITY` of waiting.
            again: whether those that failed are to be tried again.
        """
        counts = dict.fromkeys((field.name for field in fields(Submitted)), 0)
        for start in range(0, len(sources), _ROWS_PER_INSERT):
            some = sources[start : start + _ROWS_PER_INSERT]
            with self.writing() as connection:
                for outcome in _submit(connection, pipeline_id, some, priority, again):
                    counts[outcome] += 1
        return Submitted(**counts)

    def asked_for(self, pipeline_id: int, versions: Mapping[str, str]) -> set[str]:
        """Those uris whose given version has been asked of this pipeline before, whatever became of it."""
        query = (
            sa.select(videos.c.uri, annotations.c.version)
            .join(annotations, annotations.c.video_id == videos.c.id)
            .where(annotations.c.pipeline_id == pipeline_id)
        )
        with self.reading() as connection:
            return {
                uri
                for some in batches(versions)
                for uri, version in connection.execute(query.where(videos.c.uri.in_(some)))
                if versions[uri] == version
            }

    def retry(self, uris: Sequence[str] = (), code: str | None = None) -> int:
        """Put failed annotations of videos' latest versions back into the queue; how many.

        Args:
            uris: of videos, or of folders for all that lies below them; none: all.
            code: only what failed for this reason; None: for any reason but having been cancelled.
        """
        reason = annotations.c.error_code == code if code else annotations.c.error_code != Cancelled.code
        query = _chosen(uris).where(annotations.c.status == "failed", reason)
        with self.writing() as connection:
            now = unix_now(connection.dialect.name)
            ids = list(connection.execute(query).scalars())
            for annotation_id in ids:
                reopen(connection, annotation_id)
                asked = sa.update(annotations).where(annotations.c.id == annotation_id)
                connection.execute(asked.where(annotations.c.queue_key.is_(None)).values(queue_key=now))
        return len(ids)

    def cancel(self, uris: Sequence[str] = ()) -> int:
        """Take annotations that are not done out of the queue, and from those who work on them; how many.

        Args:
            uris: of videos, or of folders for all that lies below them; none: all.
        """
        unfinished = annotations.c.status.in_(("pending", "planned", "running"))
        query = _chosen(uris).where(unfinished, annotations.c.queue_key.is_not(None))
        ended = {"status": "failed", "error_code": Cancelled.code, "error_message": "cancelled on request"}
        with self.writing() as connection:
            ids = list(connection.execute(query.with_for_update(of=annotations)).scalars())
            for annotation_id in ids:
                connection.execute(
                    sa.update(annotations)
                    .where(annotations.c.id == annotation_id)
                    .values(**FREE, **ended, completed_at=utc_now(), sent_at=None, epoch=annotations.c.epoch + 1)
                )
                of_it = sa.update(spans).where(spans.c.annotation_id == annotation_id)
                connection.execute(of_it.values(sent_at=None))
                held = of_it.where(spans.c.status == "running")
                connection.execute(held.values(**FREE, status="pending", epoch=spans.c.epoch + 1))
        return len(ids)

    def name_pipeline(self, name: str, pipeline_id: int, options: Mapping[str, Any]) -> bool:
        """Call a pipeline by a name, which moves if it was another's; whether it did.

        Args:
            options: what a worker builds the pipeline from.
        """
        known = sa.select(pipeline_names.c.pipeline_id).where(pipeline_names.c.name == name)
        with self.writing() as connection:
            before = connection.execute(known).scalar()
            new = upsert(connection, pipeline_names).values(name=name, pipeline_id=pipeline_id, created_at=utc_now())
            connection.execute(
                new.on_conflict_do_update(index_elements=["name"], set_={"pipeline_id": new.excluded.pipeline_id})
            )
            connection.execute(sa.update(pipelines).where(pipelines.c.id == pipeline_id).values(options=dict(options)))
        return before not in (None, pipeline_id)

    def named_pipelines(self) -> dict[str, Pipeline]:
        """All pipelines that have names, by these."""
        query = sa.select(pipeline_names.c.name.label("called"), *columns_of(pipelines, Pipeline)).join(
            pipelines, pipelines.c.id == pipeline_names.c.pipeline_id
        )
        with self.reading() as connection:
            rows = connection.execute(query.order_by(pipeline_names.c.name)).all()
        columns = [field.name for field in fields(Pipeline)]
        return {row.called: Pipeline(**{name: row._mapping[name] for name in columns}) for row in rows}

    def pipeline_named(self, name: str | None) -> Pipeline:
        """The pipeline with a name; without one, the only one that there is.

        Raises:
            PipelineUnknown: none has this name; or there are several, or none, to choose from.
        """
        known = self.named_pipelines()
        if name is None and len(known) == 1:
            return next(iter(known.values()))
        if name is None:
            said = f"name one of {', '.join(known)} with --pipeline" if known else "no pipeline is registered"
            raise PipelineUnknown(f"Which pipeline? {said}.")
        if name not in known:
            raise PipelineUnknown(f"There is no pipeline {name!r} in {self.name}.")
        return known[name]

    def limit_source(self, prefix: str, max_running: int | None) -> None:
        """Let no more than so many jobs read at once from where URIs begin like this; None: as many as there are."""
        with self.writing() as connection:
            if max_running is None:
                connection.execute(sa.delete(source_limits).where(source_limits.c.prefix == prefix))
                return
            new = upsert(connection, source_limits).values(prefix=prefix, max_running=max_running)
            connection.execute(new.on_conflict_do_update(index_elements=["prefix"], set_={"max_running": max_running}))

    def source_limits(self) -> dict[str, int]:
        """All limits, by prefix."""
        query = sa.select(source_limits.c.prefix, source_limits.c.max_running).order_by(source_limits.c.prefix)
        with self.reading() as connection:
            return dict(connection.execute(query).tuples().all())

    def beat(self, worker: Worker) -> None:
        """Let a worker or scheduler show that it is there."""
        with self.writing() as connection:
            now = unix_now(connection.dialect.name)
            new = upsert(connection, workers).values(**asdict(worker), started_at=now, seen_at=now)
            changes = {name: new.excluded[name] for name in (*asdict(worker), "seen_at") if name != "name"}
            connection.execute(new.on_conflict_do_update(index_elements=["name"], set_=changes))
            connection.execute(sa.delete(workers).where(workers.c.seen_at < now - _FORGOTTEN_SECONDS))

    def leave(self, name: str) -> None:
        """A worker or scheduler goes in good order."""
        with self.writing() as connection:
            connection.execute(sa.delete(workers).where(workers.c.name == name))

    def workers(self, within_seconds: float = WORKER_SEEN_SECONDS) -> list[SeenWorker]:
        """Workers and schedulers that have shown themselves lately."""
        with self.reading() as connection:
            now = unix_now(connection.dialect.name)
            query = (
                sa.select(
                    *columns_of(workers, Worker),
                    (now - workers.c.seen_at).label("seen_seconds_ago"),
                    (workers.c.seen_at - workers.c.started_at).label("up_seconds"),
                )
                .where(workers.c.seen_at > now - within_seconds)
                .order_by(workers.c.kind.desc(), workers.c.name)
            )
            return [SeenWorker(**row._mapping) for row in connection.execute(query)]

    def slots(self) -> int:
        """How many jobs all workers that are there can do at once."""
        return sum(worker.slots for worker in self.workers() if worker.kind == "worker")

    def fleet(self, window_seconds: float = 600.0) -> FleetStatus:
        """What is before the fleet and how fast it goes.

        Args:
            window_seconds: over how long a time the speed is measured; less where the first work is not so long ago.
        """
        with self.reading() as connection:
            now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
            jobs = _jobs(connection, now)
            queue_videos, queue_seconds = _queue(connection)
            span_count, seconds, n_videos, since = _speed(connection, now, window_seconds)
            failed = (
                sa.select(annotations.c.error_code, sa.func.count())
                .join(videos, sa.and_(videos.c.id == annotations.c.video_id, videos.c.version == annotations.c.version))
                .where(annotations.c.status == "failed", annotations.c.queue_key.is_not(None))
                .group_by(annotations.c.error_code)
            )
            failures: dict[str, int] = dict(connection.execute(failed).tuples().all())
        per_second = seconds / since if span_count else 0.0
        return FleetStatus(
            jobs=jobs,
            queue_videos=queue_videos,
            queue_seconds=queue_seconds,
            videos_per_hour=3600 * n_videos / since,
            video_seconds_per_hour=3600 * per_second,
            eta_seconds=queue_seconds / per_second if per_second else None,
            window_seconds=since,
            failures=failures,
            workers=tuple(self.workers()),
        )


def _submit(
    connection: sa.Connection, pipeline_id: int, sources: Sequence[Source], priority: int, again: bool
) -> list[str]:
    now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
    queue_key = now - SECONDS_PER_PRIORITY * priority
    ids = observed(connection, [{"uri": s.uri, "version": s.version, "size_bytes": s.size_bytes} for s in sources])
    wanted = [(ids[source.uri], source.version) for source in sources]
    asked = {"pipeline_id": pipeline_id, "priority": priority, "queue_key": queue_key}
    rows = [
        {"video_id": video_id, "version": version, "status": "pending", "attempts": 0, "created_at": utc_now(), **asked}
        for video_id, version in wanted
    ]
    new = upsert(connection, annotations).values(rows).on_conflict_do_nothing().returning(annotations.c.id)
    made = set(connection.execute(new).scalars())
    outcomes = ["new"] * len(made)
    if len(made) < len(wanted):
        version = sa.tuple_(annotations.c.video_id, annotations.c.version)
        known = sa.select(annotations.c.id, annotations.c.status).where(
            annotations.c.pipeline_id == pipeline_id, version.in_(wanted)
        )
        for annotation_id, status in connection.execute(known).all():
            if annotation_id not in made:
                outcomes.append(_ask_again(connection, annotation_id, status, queue_key, priority, again))
    return outcomes


def _ask_again(
    connection: sa.Connection, annotation_id: int, status: str, queue_key: float, priority: int, again: bool
) -> str:
    if status == "done":
        make_current(connection, annotation_id)
        return "done"
    if status == "failed" and not again:
        return "failed"
    if status == "failed":
        reopen(connection, annotation_id)
    place = sa.or_(annotations.c.queue_key.is_(None), annotations.c.queue_key > queue_key)
    connection.execute(
        sa.update(annotations)
        .where(annotations.c.id == annotation_id, place)
        .values(queue_key=queue_key, priority=priority)
    )
    return "again" if status == "failed" else "waiting"


def _chosen(uris: Sequence[str]) -> sa.Select[Any]:
    """Annotations of the latest versions of these videos, or of those below these folders; of all, without any."""
    query = sa.select(annotations.c.id).join(
        videos, sa.and_(videos.c.id == annotations.c.video_id, videos.c.version == annotations.c.version)
    )
    if not uris:
        return query
    below = [
        sa.func.substr(videos.c.uri, 1, len(folder)) == folder for uri in uris for folder in [uri.rstrip("/") + "/"]
    ]
    return query.where(sa.or_(videos.c.uri.in_(uris), *below))


def _jobs(connection: sa.Connection, now: float) -> dict[str, int]:
    """Jobs that wait by kind, those of which a message is on its way, and those under a lease."""
    unfinished = annotations.c.queue_key.is_not(None), annotations.c.status.in_(("pending", "planned", "running"))
    is_open = spans.c.status.in_(("pending", "running"))
    query = (
        sa.select(
            sa.func.count().filter(spans.c.status == "pending"),
            sa.func.count().filter(spans.c.sent_at.is_not(None)),
            sa.func.count().filter(spans.c.status == "running", spans.c.lease_until > now),
        )
        .select_from(annotations)
        .join(spans, spans.c.annotation_id == annotations.c.id)
        .where(*unfinished, is_open)
    )
    waiting, sent, running = connection.execute(query).one()
    steps = (
        sa.select(
            sa.func.count().filter(annotations.c.status == "pending"),
            sa.func.count().filter(annotations.c.sent_at.is_not(None)),
            sa.func.count().filter(annotations.c.lease_until > now),
        )
        .select_from(annotations)
        .where(*unfinished)
    )
    unplanned, steps_sent, steps_running = connection.execute(steps).one()
    return {
        "plan": unplanned,
        "annotate_span": waiting,
        "sent": sent + steps_sent,
        "running": running + steps_running,
    }


def _queue(connection: sa.Connection) -> tuple[int, float]:
    """How many videos, and how many seconds of video, are not annotated yet."""
    known = (
        sa.select(videos.c.duration_seconds, videos.c.size_bytes)
        .where(videos.c.duration_seconds.is_not(None))
        .order_by(videos.c.id.desc())
        .limit(_LENGTHS_SAMPLED)
        .subquery()
    )
    length, size = connection.execute(
        sa.select(sa.func.sum(known.c.duration_seconds), sa.func.sum(known.c.size_bytes))
    ).one()
    seconds_per_byte = length / float(size) if size else 0.0
    of_fleet = annotations.c.queue_key.is_not(None)
    guess = sa.func.coalesce(videos.c.duration_seconds, videos.c.size_bytes * seconds_per_byte)
    unplanned = (
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(guess), 0.0))
        .select_from(annotations)
        .join(videos, videos.c.id == annotations.c.video_id)
        .where(of_fleet, annotations.c.status == "pending")
    )
    end = sa.func.coalesce(spans.c.end_seconds, videos.c.duration_seconds, spans.c.start_seconds)
    left = (
        sa.select(
            sa.func.count(sa.distinct(annotations.c.id)),
            sa.func.coalesce(sa.func.sum(end - spans.c.start_seconds), 0.0),
        )
        .select_from(annotations)
        .join(videos, videos.c.id == annotations.c.video_id)
        .join(spans, spans.c.annotation_id == annotations.c.id)
        .where(of_fleet, annotations.c.status.in_(("planned", "running")), spans.c.status.in_(("pending", "running")))
    )
    counts, seconds = zip(connection.execute(unplanned).one(), connection.execute(left).one(), strict=True)
    return sum(counts), float(sum(seconds))


def _speed(connection: sa.Connection, now: float, window_seconds: float) -> tuple[int, float, int, float]:
    """Spans, seconds of video and videos done lately, and in how many seconds."""
    end = sa.func.coalesce(spans.c.true_end_seconds, spans.c.end_seconds, spans.c.start_seconds)
    lately = (
        sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(end - spans.c.start_seconds), 0.0),
            sa.func.min(spans.c.completed_at),
        )
        .select_from(spans)
        .join(annotations, annotations.c.id == spans.c.annotation_id)
        .where(spans.c.completed_at > now - window_seconds, annotations.c.queue_key.is_not(None))
    )
    n_spans, seconds, first = connection.execute(lately).one()
    done = (
        sa.select(sa.func.count())
        .select_from(annotations)
        .where(annotations.c.queue_key.is_not(None), annotations.c.status == "done")
        .where(annotations.c.completed_at > datetime.fromtimestamp(now - window_seconds, UTC))
    )
    since = min(window_seconds, max(1.0, now - first)) if first is not None else window_seconds
    return n_spans, float(seconds), connection.execute(done).scalar_one(), since
