"""What people ask of the fleet, and what it says of itself: videos to annotate, pipelines by name, limits, workers."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from db.catalogue import batches, lock_annotations, lock_with_spans, make_current, observed, reopen, utc_now
from db.errors import Cancelled, Expired, PipelineUnknown
from db.forgotten import kept_out, let_nobody_forget
from db.identity import Source
from db.jobs import TO_ANNOTATE, TO_FINISH, TO_PLAN, UNFINISHED, WORKER_SEEN_SECONDS
from db.leases import FREE
from db.rows import JOB_KINDS, Annotation, FleetStatus, Pipeline, SeenWorker, Submitted, Worker, columns_of
from db.session import Database
from db.statements import unix_now, upsert
from db.tables import annotations, pipeline_names, pipelines, source_limits, spans, videos, workers

SECONDS_PER_PRIORITY = 600.0  # of waiting that one point of priority is worth
_ROWS_PER_INSERT = 500
_ROWS_PER_CHANGE = 1000
_FORGOTTEN_SECONDS = 7 * 86_400.0
_LAST_CHARACTER = "\U0010ffff"
_LENGTHS_SAMPLED = 1000  # videos, of which lengths are known, to estimate the others by
_QUEUED = sa.table("queued_seconds", sa.column("seconds"))  # the view


class Fleet(Database):
    """The fleet as its operators see it."""

    def submit(
        self, pipeline_id: int, sources: Sequence[Source], priority: int = 0, *, again: bool = True
    ) -> Submitted:
        """Ask the fleet for the annotation of videos.

        What is asked for already keeps its place, unless the new one is better; what is done becomes current again;
        what is kept out, since it was forgotten, is left out.

        Args:
            sources: no uri may come twice.
            priority: higher goes first; each point is worth `SECONDS_PER_PRIORITY` of waiting.
            again: whether those that failed are to be tried again; those whose results were erased are not.
        """
        counts = dict.fromkeys((field.name for field in fields(Submitted)), 0)
        for start in range(0, len(sources), _ROWS_PER_INSERT):
            some = sources[start : start + _ROWS_PER_INSERT]
            with self.writing() as connection:
                for outcome in _submit(connection, pipeline_id, some, priority, again):
                    counts[outcome] += 1
        return Submitted(**counts)

    def asked_for(self, pipeline_id: int, versions: Mapping[str, str]) -> set[str]:
        """Those uris whose latest version, the one given, has been asked of this pipeline, whatever became of it.

        What is kept out counts as asked for: there is nothing to do about it. One that is marked as gone is left out:
        if it is there again, submitting it says so.
        """
        query = (
            sa.select(videos.c.uri, videos.c.version)
            .join(annotations, annotations.c.video_id == videos.c.id)
            .where(annotations.c.pipeline_id == pipeline_id, annotations.c.version == videos.c.version)
            .where(videos.c.gone_at.is_(None))
        )
        found: set[str] = set()
        with self.reading() as connection:
            for some in batches(versions):
                rows = connection.execute(query.where(videos.c.uri.in_(some)))
                found |= {uri for uri, version in rows if versions[uri] == version}
                found |= kept_out(connection, some)
        return found

    def ended(self, pipeline_id: int, versions: Mapping[str, str]) -> dict[str, Annotation]:
        """For each uri whose given version this pipeline is through with, well or not, its annotation."""
        query = (
            sa.select(videos.c.uri, *columns_of(annotations, Annotation))
            .join(annotations, annotations.c.video_id == videos.c.id)
            .where(annotations.c.pipeline_id == pipeline_id, annotations.c.status.in_(("done", "failed")))
        )
        found: dict[str, Annotation] = {}
        with self.reading() as connection:
            for some in batches(versions):
                for row in connection.execute(query.where(videos.c.uri.in_(some))):
                    annotation = Annotation(**{k: v for k, v in row._mapping.items() if k != "uri"})
                    if versions[row.uri] == annotation.version:
                        found[row.uri] = annotation
        return found

    def retry(self, uris: Sequence[str] = (), code: str | None = None) -> int:
        """Put failed annotations of videos' latest versions back into the queue; how many.

        Those of pipelines that no worker can build, since `moodreel annotate` made them, stay as they are; but if their
        results were erased because of their age, `moodreel annotate` may make them again.

        Args:
            uris: of videos, or of folders for all that lies below them; none: all.
            code: only what failed for this reason; None: for any but that it was cancelled, or erased because of its
                age.
        """
        code_is = annotations.c.error_code
        reason = code_is == code if code else code_is.not_in((Cancelled.code, Expired.code))
        buildable = sa.select(pipelines.c.id).where(pipelines.c.options.is_not(sa.null()))
        asked = annotations.c.queue_key.is_not(None)
        ours = sa.or_(asked, annotations.c.pipeline_id.in_(buildable), code_is == Expired.code)
        now = sa.case((annotations.c.pipeline_id.in_(buildable), unix_now(self.engine.dialect.name)))
        place = sa.func.coalesce(annotations.c.queue_key, now)
        count = 0
        for some in self._batches(chosen(uris).where(annotations.c.status == "failed", reason, ours)):
            with self.writing() as connection:
                limits = limit_prefixes(connection)
                for limit, ids in _by_limit(some, limits).items():
                    count += reopen(connection, ids, attempts=0, queue_key=place, limited_by=limit)
        return count

    def cancel(self, uris: Sequence[str] = ()) -> int:
        """Take annotations that are not done out of the queue, and from those who work on them; how many.

        Args:
            uris: of videos, or of folders for all that lies below them; none: all.
        """
        unfinished = annotations.c.status.in_(UNFINISHED), annotations.c.queue_key.is_not(None)
        ended = {"status": "failed", "error_code": Cancelled.code, "error_message": "cancelled on request"}
        count = 0
        for some in self._batches(chosen(uris).where(*unfinished)):
            with self.writing() as connection:
                lock_with_spans(connection, list(some))
                of_them = sa.update(spans).where(spans.c.annotation_id.in_(some))
                connection.execute(of_them.where(spans.c.sent_at.is_not(None)).values(sent_at=None))
                held = of_them.where(spans.c.status == "running")
                connection.execute(held.values(**FREE, status="pending", epoch=spans.c.epoch + 1))
                these = sa.update(annotations).where(annotations.c.id.in_(some), *unfinished)
                changes = {"completed_at": utc_now(), "sent_at": None, "epoch": annotations.c.epoch + 1}
                count += connection.execute(these.values(**FREE, **ended, **changes)).rowcount
        return count

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
        """Let no more than so many jobs read at once from where URIs begin like this; None: as many as there are.

        Where prefixes begin with each other, a video keeps to the limits of all that its URI begins with.
        """
        if max_running is None:
            # First nothing may be noted as held by what is to go, since of that it would never be the turn.
            self._note_limits(prefix, set(self.source_limits()) - {prefix})
            with self.writing() as connection:
                connection.execute(sa.delete(source_limits).where(source_limits.c.prefix == prefix))
                limits = list(connection.execute(sa.select(source_limits.c.prefix)).scalars())
                rest = connection.execute(_not_done(annotations.c.limited_by == prefix))
                _note_limits(connection, {row.id: row.uri for row in rest}, limits)
            return
        with self.writing() as connection:
            new = upsert(connection, source_limits).values(prefix=prefix, max_running=max_running)
            connection.execute(new.on_conflict_do_update(index_elements=["prefix"], set_={"max_running": max_running}))
        self._note_limits(prefix, self.source_limits())

    def _note_limits(self, prefix: str, limits: Collection[str]) -> None:
        for some in self._batches(_not_done(lies_below(prefix))):
            with self.writing() as connection:
                _note_limits(connection, some, limits)

    def _batches(self, query: sa.Select[tuple[int, str]]) -> Iterator[dict[int, str]]:
        """URIs by annotation, in the order of the latter, as many at a time as one transaction should change."""
        with self.reading() as connection:
            found = iter(connection.execute(query.order_by(annotations.c.id)).all())
        while some := {row.id: row.uri for row in islice(found, _ROWS_PER_CHANGE)}:
            yield some

    def source_limits(self) -> dict[str, int]:
        """All limits, by prefix."""
        query = sa.select(source_limits.c.prefix, source_limits.c.max_running).order_by(source_limits.c.prefix)
        with self.reading() as connection:
            return dict(connection.execute(query).all())

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

    def queued_seconds(self) -> float:
        """Seconds of video that are not annotated yet, as the view of this name counts them."""
        with self.reading() as connection:
            return float(connection.execute(sa.select(_QUEUED.c.seconds)).scalar_one())

    def fleet(self, window_seconds: float = 600.0) -> FleetStatus:
        """What is before the fleet and how fast it goes.

        Args:
            window_seconds: over how long a time the speed is measured; less where the first work is not so long ago.
        """
        with self.reading() as connection:
            now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
            load = _load(connection, now)
            span_count, seconds, n_videos, since = _speed(connection, now, window_seconds)
            failed = (
                sa.select(annotations.c.error_code, sa.func.count())
                .join(videos, sa.and_(videos.c.id == annotations.c.video_id, videos.c.version == annotations.c.version))
                .where(annotations.c.status == "failed", annotations.c.queue_key.is_not(None))
                .group_by(annotations.c.error_code)
            )
            failures: dict[str, int] = dict(connection.execute(failed).all())
        per_second = seconds / since if span_count else 0.0
        return FleetStatus(
            jobs=load.jobs,
            queue_videos=load.videos,
            queue_seconds=load.seconds,
            videos_per_hour=3600 * n_videos / since,
            video_seconds_per_hour=3600 * per_second,
            eta_seconds=load.seconds / per_second if per_second else None,
            window_seconds=since,
            failures=failures,
            workers=tuple(self.workers()),
        )


def _submit(
    connection: sa.Connection, pipeline_id: int, sources: Sequence[Source], priority: int, again: bool
) -> list[str]:
    let_nobody_forget(connection)
    left_out = kept_out(connection, [source.uri for source in sources])
    sources = [source for source in sources if source.uri not in left_out]
    limits = limit_prefixes(connection)
    ids = _seen(connection, sources)
    seen = [Seen(ids[source.uri], source.uri, source.version) for source in sources]
    return [*ask(connection, pipeline_id, seen, limits, priority, again=again), *["forgotten"] * len(left_out)]


@dataclass(frozen=True)
class Seen:
    """A video in the latest version that was seen, which is that of its row."""

    id: int
    uri: str
    version: str


def ask(
    connection: sa.Connection,
    pipeline_id: int,
    seen: Sequence[Seen],
    limits: Collection[str],
    priority: int,
    *,
    again: bool,
) -> list[str]:
    """Ask for the annotation of videos, as `Fleet.submit` does; what became of each, in the words of `Submitted`."""
    now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
    queue_key = now - SECONDS_PER_PRIORITY * priority
    place = {"queue_key": queue_key, "priority": priority}
    wanted = {(video.id, video.version): _narrowest(limits, video.uri) for video in seen}
    fresh = {"pipeline_id": pipeline_id, "status": "pending", "attempts": 0, "created_at": utc_now(), **place}
    made: set[int] = set()
    for limit, some in _by_limit({video.id: video.uri for video in seen}, limits).items():
        values = [sa.literal(value) for value in fresh.values()]
        of_some = sa.select(videos.c.id, videos.c.version, sa.literal(limit), *values).where(videos.c.id.in_(some))
        new = upsert(connection, annotations).on_conflict_do_nothing()
        new = new.from_select(["video_id", "version", "limited_by", *fresh], of_some.order_by(videos.c.id))
        made |= set(connection.execute(new.returning(annotations.c.id)).scalars())
    outcomes = ["new"] * len(made)
    if len(made) < len(wanted):
        key = annotations.c.video_id, annotations.c.version
        known = sa.select(*(annotations.c[name] for name in ("id", "status", "error_code", "queue_key")), *key)
        known = known.where(annotations.c.pipeline_id == pipeline_id, sa.tuple_(*key).in_(list(wanted)))
        found = connection.execute(known.order_by("id")).all()
        changing = [row.id for row in found if row.id not in made and row.status != "done"]
        lock_with_spans(connection, changing)
        for row in found:
            if row.id not in made:
                limited = {"limited_by": wanted[row.video_id, row.version]}
                outcomes.append(_ask_again(connection, row, place | limited, again))
    return outcomes


def _seen(connection: sa.Connection, sources: Sequence[Source]) -> dict[str, int]:
    """Ids of videos by uri; those that are new, have changed or are back are recorded, the others left alone."""
    query = sa.select(videos.c.uri, videos.c.id, videos.c.version, videos.c.size_bytes, videos.c.gone_at)
    known = {row.uri: row for row in connection.execute(query.where(videos.c.uri.in_([s.uri for s in sources])))}
    rows = [
        {"uri": source.uri, "version": source.version, "size_bytes": source.size_bytes}
        for source in sorted(sources, key=attrgetter("uri"))  # in one order, lest two that submit wait for each other
        if source.uri not in known or known[source.uri][2:] != (source.version, source.size_bytes, None)
    ]
    return {uri: row.id for uri, row in known.items()} | (observed(connection, rows) if rows else {})


def _ask_again(connection: sa.Connection, known: Any, place: Mapping[str, Any], again: bool) -> str:
    if known.status == "done":
        make_current(connection, known.id)
        return "done"
    if known.status == "failed" and (not again or known.error_code == Expired.code):
        return "failed"
    if known.status == "failed":
        reopen(connection, [known.id], attempts=0)
    if known.queue_key is None or known.queue_key > place["queue_key"]:
        connection.execute(sa.update(annotations).where(annotations.c.id == known.id).values(**place))
    return "again" if known.status == "failed" else "waiting"


def limit_prefixes(connection: sa.Connection) -> list[str]:
    """Prefixes of all sources with limits; none comes or goes until the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE source_limits IN SHARE MODE")
    return list(connection.execute(sa.select(source_limits.c.prefix)).scalars())


def _narrowest(limits: Collection[str], uri: str) -> str:
    """The longest prefix that a URI begins with; empty without any."""
    return max((prefix for prefix in limits if uri.startswith(prefix)), key=len, default="")


def _by_limit(uris: Mapping[int, str], limits: Collection[str]) -> dict[str, list[int]]:
    """Annotations or videos, of which these are the URIs, by the limit that holds for them."""
    found: dict[str, list[int]] = defaultdict(list)
    for key, uri in uris.items():
        found[_narrowest(limits, uri)].append(key)
    return found


def _note_limits(connection: sa.Connection, uris: Mapping[int, str], limits: Collection[str]) -> None:
    """Note on annotations, of which these are the URIs, by which limit they are held."""
    lock_annotations(connection, list(uris))
    for limit, ids in _by_limit(uris, limits).items():
        other = sa.update(annotations).where(annotations.c.id.in_(ids), annotations.c.limited_by != limit)
        connection.execute(other.values(limited_by=limit))


def _not_done(condition: sa.ColumnElement[bool]) -> sa.Select[tuple[int, str]]:
    query = sa.select(annotations.c.id, videos.c.uri).join(videos, videos.c.id == annotations.c.video_id)
    return query.where(annotations.c.status != "done", condition)


def lies_below(prefix: str) -> sa.ColumnElement[bool]:
    """A video's URI begins like this; the index, which is in the order of bytes, is of use for it."""
    within = videos.c.uri >= prefix, videos.c.uri <= prefix + _LAST_CHARACTER
    return sa.and_(*within, sa.func.substr(videos.c.uri, 1, len(prefix)) == prefix)


def chosen(uris: Sequence[str]) -> sa.Select[tuple[int, str]]:
    """Annotations of the latest versions of these videos, or of those below these folders; of all, without any."""
    latest = sa.and_(videos.c.id == annotations.c.video_id, videos.c.version == annotations.c.version)
    query = sa.select(annotations.c.id, videos.c.uri).join(videos, latest)
    if not uris:
        return query
    below = [lies_below(uri.rstrip("/") + "/") for uri in uris]
    return query.where(sa.or_(videos.c.uri.in_(uris), *below))


@dataclass(frozen=True)
class _Load:
    """What is before the fleet: how many videos and seconds of them, and jobs by kind and state."""

    videos: int
    seconds: float
    jobs: dict[str, int]


def _load(connection: sa.Connection, now: float) -> _Load:
    guess = sa.func.coalesce(videos.c.duration_seconds, videos.c.size_bytes * seconds_per_byte(connection))
    of_video = annotations.join(videos, videos.c.id == annotations.c.video_id)
    to_plan = sa.select(*_states(annotations, now), sa.func.count(), sa.func.sum(guess)).select_from(of_video)
    end = sa.func.coalesce(spans.c.end_seconds, videos.c.duration_seconds, spans.c.start_seconds)
    left = sa.case((end > spans.c.start_seconds, end - spans.c.start_seconds), else_=0.0)
    to_annotate = (
        sa.select(*_states(spans, now), sa.func.count(sa.distinct(annotations.c.id)), sa.func.sum(left))
        .select_from(of_video.join(spans, spans.c.annotation_id == annotations.c.id))
        .where(spans.c.status.in_(("pending", "running")))
    )
    to_finish = sa.select(*_states(annotations, now), sa.func.count(), sa.literal(0.0)).select_from(annotations)
    waiting, sent, running, n_videos, seconds = zip(
        connection.execute(to_plan.where(TO_PLAN)).one(),
        connection.execute(to_annotate.where(TO_ANNOTATE)).one(),
        connection.execute(to_finish.where(TO_FINISH)).one(),
        strict=True,
    )
    jobs = dict(zip(JOB_KINDS, waiting, strict=True)) | {"sent": sum(sent), "running": sum(running)}
    return _Load(sum(n_videos), float(sum(value or 0.0 for value in seconds)), jobs)


def _states(table: sa.Table, now: float) -> list[sa.ColumnElement[int]]:
    """How many jobs wait, how many of them with a message on its way, and how many are under a lease."""
    held = sa.and_(table.c.lease_until.is_not(None), table.c.lease_until > now)
    return [sa.func.count().filter(condition) for condition in (~held, table.c.sent_at.is_not(None), held)]


def seconds_per_byte(connection: sa.Connection) -> float:
    """Of videos whose length is known: of some that were done last, and of some that are being annotated."""
    ended = sa.select(annotations.c.video_id).order_by(annotations.c.completed_at.desc())
    ended = ended.where(annotations.c.completed_at.is_not(None))
    begun = sa.select(annotations.c.video_id).where(TO_ANNOTATE)
    some = sa.union(*(sa.select(query.limit(_LENGTHS_SAMPLED).subquery()) for query in (ended, begun))).subquery()
    query = (
        sa.select(sa.func.sum(videos.c.duration_seconds), sa.func.sum(videos.c.size_bytes))
        .join(some, some.c.video_id == videos.c.id)
        .where(videos.c.duration_seconds.is_not(None))
    )
    length, size = connection.execute(query).one()
    return float(length) / float(size) if size else 0.0


def _speed(connection: sa.Connection, now: float, window_seconds: float) -> tuple[int, float, int, float]:
    """Spans, seconds of video and videos done lately, and in how many seconds."""
    end = sa.func.coalesce(spans.c.true_end_seconds, spans.c.end_seconds, spans.c.start_seconds)
    lately = (
        sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(end - spans.c.start_seconds), 0.0),
            sa.func.min(annotations.c.started_at),
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
    since = min(window_seconds, max(1.0, now - first.timestamp())) if first is not None else window_seconds
    return n_spans, float(seconds), connection.execute(done).scalar_one(), since
