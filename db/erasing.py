"""Forgetting on request: a video's rows are erased for good, and its name is kept out.

First the names are kept out, then the rows are erased, a few videos in each transaction. Whoever takes videos in looks
first what is kept out, and is waited for; so nothing comes back that was there, and a request that was cut short is
simply made again. Whoever works on a video that is erased finds his claim gone with the next thing that he writes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import sqlalchemy as sa

from db.audit import Audit
from db.catalogue import batches, lock_with_spans, utc_now
from db.errors import DatabaseLocked
from db.fleet import lies_below
from db.forgotten import hash_of, key_of, let_nobody_take_in
from db.rows import Erased, Load
from db.statements import lock_in_order, upsert
from db.tables import (
    annotations,
    forgotten_names,
    forgotten_prefixes,
    hook_deliveries,
    metadata,
    raised_alerts,
    spans,
    videos,
    windows,
)

VIDEOS_AT_ONCE = 20  # an hour of each is some 150,000 rows
_PATIENCE_MILLISECONDS = 500  # with those who read while SQLite's log is emptied
_TRIES = 3  # at some videos that others work on

# Whatever belongs to an annotation, of whichever table: spans first, since these are what everybody locks first.
_OF_ANNOTATION = sorted(
    (
        key.parent
        for table in metadata.tables.values()
        for key in table.foreign_keys
        if key.column is annotations.c.id and key.ondelete == "CASCADE" and table is not annotations
    ),
    key=lambda column: column.table is not spans,
)
_CHANGED_BESIDE = (hook_deliveries, raised_alerts)  # by others who need not lock the annotation


class Erasing(Audit):
    """Forgetting videos."""

    def forget(self, names: Sequence[str], prefixes: Sequence[str], actor: str) -> Erased:
        """Erase videos for good, and take nothing in under these names any more.

        Args:
            names: URIs; only hashes of them are kept.
            prefixes: how the URIs begin of all that is meant; these are kept as they are.
            actor: who asks.
        """
        with self.writing() as connection:
            key = key_of(connection)
        hashes = [hash_of(name, key) for name in names]
        with self.audited(actor, "forget", {"videos": hashes, "prefixes": list(prefixes)}) as counts:
            with self.writing() as connection:
                let_nobody_take_in(connection)
                keep_out(connection, hashes, prefixes)
            erased = Erased()
            for condition in _meant(names, prefixes):
                erased += self._erase_all(condition)
            self._clean_up()
            counts |= asdict(erased)
        return erased

    def remember(self, names: Sequence[str], prefixes: Sequence[str], actor: str) -> int:
        """Let videos be taken in again under names that are kept out; how many names and prefixes these were."""
        with self.writing() as connection:
            key = key_of(connection)
        hashes = [hash_of(name, key) for name in names]
        with self.audited(actor, "remember", {"videos": hashes, "prefixes": list(prefixes)}) as counts:
            with self.writing() as connection:
                n = 0
                for some in batches(hashes):
                    forgotten = sa.delete(forgotten_names).where(forgotten_names.c.hash.in_(some))
                    n += connection.execute(forgotten).rowcount
                below = sa.delete(forgotten_prefixes).where(forgotten_prefixes.c.prefix.in_(prefixes))
                n += connection.execute(below).rowcount
            counts["names"] = n
        return n

    def forgotten_prefixes(self) -> list[str]:
        """All prefixes that are kept out."""
        query = sa.select(forgotten_prefixes.c.prefix).order_by(forgotten_prefixes.c.prefix)
        with self.reading() as connection:
            return list(connection.execute(query).scalars())

    def meant(self, names: Sequence[str], prefixes: Sequence[str]) -> Load:
        """How much there is of these videos."""
        count, total = 0, 0.0
        figures = sa.func.count(), sa.func.coalesce(sa.func.sum(videos.c.duration_seconds), 0.0)
        with self.reading() as connection:
            for condition in _meant(names, prefixes):
                n, seconds = connection.execute(sa.select(*figures).where(condition)).one()
                count, total = count + n, total + seconds
        return Load(videos=count, seconds=total)

    def _erase_all(self, condition: sa.ColumnElement[bool]) -> Erased:
        query = sa.select(videos.c.id).where(condition).order_by(videos.c.id).limit(VIDEOS_AT_ONCE)
        erased, last = Erased(), -1
        while True:
            with self.reading() as connection:
                ids = list(connection.execute(query.where(videos.c.id > last)).scalars())
            if not ids:
                return erased
            erased += self._erase_some(ids)
            last = ids[-1]

    def _erase_some(self, video_ids: Sequence[int]) -> Erased:
        for tries_left in reversed(range(_TRIES)):
            try:
                with self.writing() as connection:
                    return erase_videos(connection, video_ids)
            except DatabaseLocked:  # by those who work on them just now
                if not tries_left:
                    raise
        raise AssertionError  # not reached

    def _clean_up(self) -> None:
        """Let nothing that was erased stay behind in SQLite's log; where others are reading, it goes when they end."""
        if self.engine.dialect.name != "sqlite":
            return
        connection = self.engine.raw_connection()
        connection.detach()  # from the pool, since it is a less patient one from here on
        try:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout = {_PATIENCE_MILLISECONDS}")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()


def keep_out(connection: sa.Connection, hashes: Sequence[str], prefixes: Sequence[str] = ()) -> None:
    """Take nothing in any more under names with these hashes, or that begin like this."""
    now = utc_now()
    for column, values in ((forgotten_names.c.hash, hashes), (forgotten_prefixes.c.prefix, prefixes)):
        rows = [{column.name: value, "created_at": now} for value in values]
        if rows:
            connection.execute(upsert(connection, column.table).on_conflict_do_nothing(), rows)


def erase_videos(connection: sa.Connection, video_ids: Sequence[int]) -> Erased:
    """Erase videos with all that was ever found out about them."""
    overwrite_what_is_deleted(connection)
    of_them = sa.select(annotations.c.id).where(annotations.c.video_id.in_(video_ids)).order_by(annotations.c.id)
    ids = list(connection.execute(of_them).scalars())
    results = erase_results(connection, ids)
    n_annotations = connection.execute(sa.delete(annotations).where(annotations.c.id.in_(ids))).rowcount
    n_videos = connection.execute(sa.delete(videos).where(videos.c.id.in_(video_ids))).rowcount
    return Erased(videos=n_videos, annotations=n_annotations) + results


def erase_results(connection: sa.Connection, annotation_ids: Sequence[int]) -> Erased:
    """Erase what annotations consist of; how many windows, and how many events that waited.

    The order is that in which everybody locks.
    """
    lock_with_spans(connection, annotation_ids, to_erase=True)  # who finishes one locks it before he writes its rows
    for table in _CHANGED_BESIDE:
        lock_in_order(connection, table, table.c.annotation_id.in_(annotation_ids))
    waiting = hook_deliveries.c.annotation_id.in_(annotation_ids), hook_deliveries.c.status == "pending"
    n_events = connection.execute(sa.select(sa.func.count()).select_from(hook_deliveries).where(*waiting)).scalar_one()
    deleted = {
        column.table: connection.execute(sa.delete(column.table).where(column.in_(annotation_ids))).rowcount
        for column in _OF_ANNOTATION
    }
    return Erased(windows=deleted[windows], events=n_events)


def overwrite_what_is_deleted(connection: sa.Connection) -> None:
    """Let SQLite overwrite with zeros what this connection deletes."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete = ON")


def _meant(names: Sequence[str], prefixes: Sequence[str]) -> Iterator[sa.ColumnElement[bool]]:
    for some in batches(names):
        yield videos.c.uri.in_(some)
    for prefix in prefixes:
        yield lies_below(prefix)
