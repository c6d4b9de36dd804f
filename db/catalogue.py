"""Videos, pipelines, and which of the one have been annotated with which of the other."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import sqlalchemy as sa

from db.errors import Expired, Forgotten
from db.events import tell_failed
from db.forgotten import gone, kept_out, let_nobody_forget
from db.leases import FREE
from db.rows import Annotation, MediaFacts, Video, columns_of
from db.session import Database
from db.statements import unix_now, upsert
from db.tables import annotations, pipelines, spans, videos, windows

_URIS_PER_QUERY = 5000  # SQLite takes 32,766 parameters, PostgreSQL 65,535


def utc_now() -> datetime:
    return datetime.now(UTC)


def make_current(connection: sa.Connection, annotation_id: int) -> None:
    """Let the views show this annotation, unless it is not of its video's latest version."""
    chosen = (
        sa.select(annotations.c.video_id, annotations.c.version).where(annotations.c.id == annotation_id).subquery()
    )
    connection.execute(
        sa.update(videos)
        .where(videos.c.id == chosen.c.video_id, videos.c.version == chosen.c.version)
        .values(current_annotation_id=annotation_id)
    )


class Catalogue(Database):
    """What is there to annotate, and what has been asked for."""

    def observe(self, uri: str, version: str, size_bytes: int, facts: MediaFacts | None = None) -> int:
        """Record that a video was seen, and return its id.

        Seeing the same version again adds facts and takes none away; a new version starts afresh, without a current
        annotation. Either way it is no longer gone. The uri must be valid Unicode, so a file name that is not must be
        quoted first.

        Raises:
            Forgotten: nothing is to be taken in under this name.
        """
        row = {"uri": uri, "version": version, "size_bytes": size_bytes, **asdict(facts or MediaFacts())}
        with self.writing() as connection:
            let_nobody_forget(connection)
            if kept_out(connection, [uri]):
                raise Forgotten(f"{uri}: it was forgotten on request, and nothing is taken in under this name")
            return observed(connection, [row])[uri]

    def video(self, uri: str) -> Video | None:
        query = sa.select(*columns_of(videos, Video)).where(videos.c.uri == uri)
        with self.reading() as connection:
            row = connection.execute(query).first()
        return Video(**row._mapping) if row else None

    def annotated_uris(self) -> list[str]:
        """The videos that have a current annotation, in the order of their names."""
        query = sa.select(videos.c.uri).where(videos.c.current_annotation_id.is_not(None)).order_by(videos.c.uri)
        with self.reading() as connection:
            return list(connection.execute(query).scalars())

    def register_pipeline(self, digest: str, windows_digest: str, name: str, config: Mapping[str, Any]) -> int:
        """The id of the pipeline with this digest, recorded if it is new.

        Args:
            digest: of everything that decides the numbers.
            windows_digest: of what decides `windows`, leaving out how they are fused and smoothed.
            name: for people.
            config: what the digests were made of, JSON values.
        """
        query = sa.select(pipelines.c.id).where(pipelines.c.digest == digest)
        with self.reading() as connection:
            known = connection.execute(query).scalar()
        if known is not None:
            return int(known)
        values = {
            "digest": digest,
            "windows_digest": windows_digest,
            "name": name,
            "config": dict(config),
            "created_at": utc_now(),
        }
        with self.writing() as connection:
            connection.execute(upsert(connection, pipelines).values(values).on_conflict_do_nothing())
            return int(connection.execute(query).scalar_one())

    def finished(self, digest: str, versions: Mapping[str, str]) -> set[str]:
        """Those uris whose latest version, the one given, this pipeline has already annotated.

        Each of them is no longer gone, and becomes current again if another pipeline's annotation was; unless its
        results were erased because of their age. A uri whose given version is not the one last observed is left out.
        """
        found: set[str] = set()
        moved: list[int] = []
        back: list[str] = []
        with self.reading() as connection:
            for uri, version, annotation_id, status, current_id, gone_at in self._done(connection, digest, versions):
                if versions[uri] == version:
                    found.add(uri)
                    moved += [annotation_id] if status == "done" and annotation_id != current_id else []
                    back += [uri] if gone_at else []
        if moved or back:
            with self.writing() as connection:
                for annotation_id in moved:
                    make_current(connection, annotation_id)
                for uri in back:
                    connection.execute(sa.update(videos).where(videos.c.uri == uri).values(gone_at=None))
        return found

    def _done(
        self, connection: sa.Connection, digest: str, versions: Mapping[str, str]
    ) -> Iterator[tuple[str, str, int, str, int | None, datetime | None]]:
        annotation = annotations.c.id, annotations.c.status
        current = videos.c.current_annotation_id, videos.c.gone_at
        query = (
            sa.select(videos.c.uri, videos.c.version, *annotation, *current)
            .join(annotations, annotations.c.video_id == videos.c.id)
            .join(pipelines, pipelines.c.id == annotations.c.pipeline_id)
            .where(
                pipelines.c.digest == digest,
                annotations.c.version == videos.c.version,
                sa.or_(annotations.c.status == "done", annotations.c.error_code == Expired.code),
            )
        )
        for some in batches(versions):
            yield from connection.execute(query.where(videos.c.uri.in_(some)))

    def request(
        self, video_id: int, version: str, pipeline_id: int, source_annotation_id: int | None = None
    ) -> Annotation:
        """The annotation of this version with this pipeline, made if there is none.

        A failed one becomes pending again, with its attempts kept, or planned if only its finishing is missing; a
        complete one becomes current again.

        Args:
            source_annotation_id: a complete annotation of the same version whose windows are to be fused anew for this
                one; None: it is to have windows of its own. While somebody makes them, it stays as it is.

        Raises:
            Forgotten: the video is gone.
        """
        key = {"video_id": video_id, "version": version, "pipeline_id": pipeline_id}
        video = sa.select(videos.c.id).where(videos.c.id == video_id).with_for_update(read=True, key_share=True)
        with self.writing() as connection:
            if connection.execute(video).scalar() is None:
                raise Forgotten(f"Video {video_id} is gone: it was forgotten.")
            new = upsert(connection, annotations).values(status="pending", attempts=0, created_at=utc_now(), **key)
            connection.execute(new.on_conflict_do_nothing())
            (key_of_it,) = connection.execute(sa.select(annotations.c.id).filter_by(**key)).scalars()
            lock_with_spans(connection, [key_of_it])
            query = sa.select(*columns_of(annotations, Annotation)).filter_by(**key).with_for_update(key_share=True)
            found = Annotation(**connection.execute(query).one()._mapping)
            if found.status == "failed":
                reopen(connection, [found.id])
                found = Annotation(**connection.execute(query).one()._mapping)
            elif found.status == "done":
                make_current(connection, found.id)
            differs = found.status != "done" and found.source_annotation_id != source_annotation_id
            if differs and not _is_held(connection, found.id):
                discard_spans(connection, found.id)
                of_found = sa.update(annotations).where(annotations.c.id == found.id)
                connection.execute(of_found.values(source_annotation_id=source_annotation_id, status="pending"))
                found = Annotation(**connection.execute(query).one()._mapping)
        return found

    def windows_of(self, windows_digest: str, versions: Mapping[str, str]) -> dict[str, int]:
        """For each uri whose given version has complete windows with this digest, their annotation."""
        query = (
            sa.select(videos.c.uri, annotations.c.version, annotations.c.id)
            .join(annotations, annotations.c.video_id == videos.c.id)
            .join(pipelines, pipelines.c.id == annotations.c.pipeline_id)
            .where(
                pipelines.c.windows_digest == windows_digest,
                annotations.c.status == "done",
                annotations.c.source_annotation_id.is_(None),
            )
        )
        found: dict[str, int] = {}
        with self.reading() as connection:
            for some in batches(versions):
                for uri, version, annotation_id in connection.execute(query.where(videos.c.uri.in_(some))):
                    if versions[uri] == version:
                        found[uri] = annotation_id
        return found

    def pipeline_config(self, annotation_id: int) -> dict[str, Any]:
        """The configuration of the pipeline that an annotation belongs to."""
        query = sa.select(pipelines.c.config).join(annotations, annotations.c.pipeline_id == pipelines.c.id)
        with self.reading() as connection:
            return dict(connection.execute(query.where(annotations.c.id == annotation_id)).scalar_one())

    def annotation(self, annotation_id: int) -> Annotation:
        """An annotation as it is now.

        Raises:
            Forgotten: it is gone.
        """
        query = sa.select(*columns_of(annotations, Annotation)).where(annotations.c.id == annotation_id)
        with self.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise gone(annotation_id)
        return Annotation(**row._mapping)

    def begin_attempt(self, annotation_id: int) -> int:
        """Count an attempt before its work starts, so that one which kills its worker is counted too; the new count.

        Raises:
            Forgotten: the annotation is gone.
        """
        started_at = sa.func.coalesce(annotations.c.started_at, utc_now())
        statement = (
            sa.update(annotations)
            .where(annotations.c.id == annotation_id)
            .values(attempts=annotations.c.attempts + 1, started_at=started_at)
            .returning(annotations.c.attempts)
        )
        with self.writing() as connection:
            attempts = connection.execute(statement).scalar()
        if attempts is None:
            raise gone(annotation_id)
        return int(attempts)

    def fail(self, annotation_id: int, code: str, message: str, *, discard: bool = False) -> bool:
        """Record why an annotation failed; False, and nothing recorded, if it is done: done stays done.

        Args:
            discard: whether what its spans stored is worth nothing, so that the next attempt begins anew.
        """
        statement = (
            sa.update(annotations)
            .where(annotations.c.id == annotation_id, annotations.c.status != "done")
            .values(**FREE, status="failed", error_code=code, error_message=message, completed_at=utc_now())
        )
        with self.writing() as connection:
            if discard:
                lock_with_spans(connection, [annotation_id])
            recorded = connection.execute(statement).rowcount == 1
            if recorded and discard:
                discard_spans(connection, annotation_id)
            if recorded:
                tell_failed(connection, annotation_id)
        return recorded


def observed(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Record videos as `Catalogue.observe` does, many at a time; their ids by uri, of which none may come twice.

    Whether they are kept out is for the caller to see, in the same transaction.
    """
    now = utc_now()
    statement = upsert(connection, videos)
    new = statement.excluded
    same = videos.c.version == new.version
    kept = {
        name: sa.case((same, sa.func.coalesce(new[name], videos.c[name])), else_=new[name])
        for name in (field.name for field in fields(MediaFacts))
    }
    changes = {
        "version": new.version,
        "size_bytes": new.size_bytes,
        "updated_at": new.updated_at,
        "gone_at": None,
        "current_annotation_id": sa.case((same, videos.c.current_annotation_id), else_=None),
        **kept,
    }
    statement = statement.on_conflict_do_update(index_elements=["uri"], set_=changes)
    values = [{**row, "created_at": now, "updated_at": now} for row in rows]
    found = connection.execute(statement.returning(videos.c.uri, videos.c.id), values)
    return {uri: int(key) for uri, key in found}


def _is_held(connection: sa.Connection, annotation_id: int) -> bool:
    """Whether somebody has a lease on one of an annotation's spans."""
    now = unix_now(connection.dialect.name)
    held = sa.select(spans.c.span_index).where(spans.c.annotation_id == annotation_id, spans.c.lease_until > now)
    return connection.execute(held.limit(1)).first() is not None


def discard_spans(connection: sa.Connection, annotation_id: int) -> None:
    """Forget an annotation's spans and what they stored, so that it has to be planned anew."""
    lock_with_spans(connection, [annotation_id])
    shut_out(connection, [annotation_id])
    connection.execute(sa.update(annotations).where(annotations.c.id == annotation_id).values(spans_done_at=None))
    for table in (windows, spans):
        connection.execute(sa.delete(table).where(table.c.annotation_id == annotation_id))


def shut_out(connection: sa.Connection, ids: Sequence[int]) -> None:
    """Let nobody who works on annotations, or on spans of theirs, write any more, nor to the spans that come after.

    These begin above every epoch that there was.
    """
    of_it = sa.select(sa.func.coalesce(sa.func.max(spans.c.epoch), 0)).where(spans.c.annotation_id == annotations.c.id)
    highest = of_it.scalar_subquery()
    higher = sa.case((annotations.c.epoch > highest, annotations.c.epoch), else_=highest) + 1
    connection.execute(sa.update(annotations).where(annotations.c.id.in_(ids)).values(epoch=higher))


def batches(uris: Iterable[str]) -> Iterator[list[str]]:
    """As many at a time as a query takes."""
    waiting = iter(uris)
    while some := list(islice(waiting, _URIS_PER_QUERY)):
        yield some


def lock_with_spans(connection: sa.Connection, ids: Sequence[int], *, to_erase: bool = False) -> None:
    """Keep others from these annotations and from those of their spans that are not done.

    The order is that of everybody: spans first, then annotations. Spans that are planned while the annotations are
    waited for may be somebody's by then who waits for his annotation: all is let go, and locked once more.

    Args:
        to_erase: nobody may write what refers to the annotations either.
    """
    if connection.dialect.name == "sqlite":
        return  # whoever writes is alone
    key = spans.c.annotation_id, spans.c.span_index
    unfinished = sa.select(*key).where(key[0].in_(ids), spans.c.status != "done").order_by(*key)
    while True:
        with connection.begin_nested() as savepoint:
            locked = connection.execute(unfinished.with_for_update(key_share=True)).all()
            lock_annotations(connection, ids, to_erase=to_erase)
            if connection.execute(unfinished).all() == locked:
                return
            savepoint.rollback()


def lock_annotations(connection: sa.Connection, ids: Sequence[int], *, to_erase: bool = False) -> None:
    """Keep others from these annotations, in the order that everybody keeps to: after their spans, by their ids.

    Args:
        to_erase: nobody may write what refers to them either.
    """
    query = sa.select(annotations.c.id).where(annotations.c.id.in_(ids)).order_by(annotations.c.id)
    connection.execute(query.with_for_update(key_share=not to_erase)).all()


def reopen(connection: sa.Connection, ids: Sequence[int], **changes: Any) -> int:
    """Let failed annotations be tried again, from what their spans have done already; how many there were.

    Args:
        changes: other columns of theirs to set.
    """
    lock_with_spans(connection, ids)
    of_them = sa.update(spans).where(spans.c.annotation_id.in_(ids))
    anew = dict.fromkeys(("available_at", "sent_at", "error_code", "error_message"))
    connection.execute(of_them.where(spans.c.status == "failed").values(status="pending"))
    connection.execute(of_them.where(spans.c.status != "done").values(**anew, attempts=0))
    cleared = dict.fromkeys(
        ("error_code", "error_message", "warning_code", "warning_message", "completed_at", "available_at", "sent_at")
    )
    status = sa.case((annotations.c.spans_done_at.is_not(None), "planned"), else_="pending")
    failed = sa.update(annotations).where(annotations.c.id.in_(ids), annotations.c.status == "failed")
    return connection.execute(failed.values(**FREE, **cleared, **changes, status=status, claims=0)).rowcount
