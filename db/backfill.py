"""Backfill: which videos of an archive lack a pipeline's annotation, by a condition in SQL, and asking for them.

The condition is the user's own SQL. It is put, in brackets, into a question that can change nothing: PostgreSQL is told
that the transaction only reads, SQLite asks an authorizer about whatever the statement does. So the worst that it can
do is to take long, for which there is a limit.
"""

import sqlite3
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from db.errors import BadOption, Cancelled, Expired
from db.fleet import Seen, ask, limit_prefixes, seconds_per_byte
from db.forgotten import kept_out, let_nobody_forget
from db.rows import Load, Submitted
from db.session import Database
from db.tables import annotations, videos

LIMIT_SECONDS = 600.0  # for one question
_ROWS_AT_ONCE = 10_000  # that are fetched
_STEPS = 100_000  # of SQLite's virtual machine, between two looks at the clock
_ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
# What SQLite says of a statement that is wrong, not allowed, or took too long.
_SQLITE_COMPLAINTS = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_TOOBIG)
# What PostgreSQL says: unsupported, cardinality, data, read only, syntax or names, limits; and of one that was ended.
_CLASSES = ("0A", "21", "22", "25", "42", "54")
_ENDED = "57014"


class Backfill(Database):
    """Annotations that an archive lacks."""

    def lacking(self, pipeline_id: int, where: str | None = None, limit: int | None = None) -> "array[int]":
        """Ids of the videos that lack an annotation by a pipeline, eight bytes each.

        Left out are those that are gone, and those whose latest version the fleet was asked for already, or that
        failed, or that expired.

        Args:
            where: a condition on the columns of the view `archive`; None: of all.
            limit: how many, at most.

        Raises:
            BadOption: the database does not understand the condition, or it takes too long.
        """
        query = _lacking(pipeline_id, where).with_only_columns(videos.c.id).order_by(videos.c.id).limit(limit)
        found = array("q")
        with self._harmless() as connection:
            rows = connection.execute(query, execution_options={"yield_per": _ROWS_AT_ONCE})
            found.extend(rows.scalars())
        return found

    def lacking_load(self, pipeline_id: int, where: str | None = None, limit: int | None = None) -> Load:
        """How much there is to do; the length of what was never opened is estimated by its size.

        See `lacking` for arguments and errors.
        """
        with self.reading() as connection:
            per_byte = seconds_per_byte(connection)
        length = sa.func.coalesce(videos.c.duration_seconds, videos.c.size_bytes * per_byte)
        some = _lacking(pipeline_id, where).with_only_columns(length.label("seconds"))
        found = some.order_by(videos.c.id).limit(limit).subquery()
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(found.c.seconds), 0.0)).select_from(found)
        with self._harmless() as connection:
            n, seconds = connection.execute(query).one()
        return Load(videos=n, seconds=float(seconds))

    def failed_before(self, pipeline_id: int) -> int:
        """How many videos' latest versions failed under a pipeline, other than by being cancelled or by their age."""
        latest = sa.and_(videos.c.id == annotations.c.video_id, videos.c.version == annotations.c.version)
        query = sa.select(sa.func.count()).select_from(annotations.join(videos, latest))
        query = query.where(annotations.c.pipeline_id == pipeline_id, annotations.c.status == "failed")
        query = query.where(annotations.c.error_code.not_in((Cancelled.code, Expired.code)))
        with self.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def ask_for(self, pipeline_id: int, video_ids: Sequence[int], priority: int) -> Submitted:
        """Ask the fleet for the annotation of videos as they were last seen, in one transaction."""
        query = sa.select(videos.c.id, videos.c.uri, videos.c.version).where(videos.c.id.in_(video_ids))
        with self.writing() as connection:
            let_nobody_forget(connection)
            limits = limit_prefixes(connection)
            seen = [Seen(*row) for row in connection.execute(query.order_by(videos.c.id))]
            left_out = kept_out(connection, [video.uri for video in seen])
            seen = [video for video in seen if video.uri not in left_out]
            outcomes = ask(connection, pipeline_id, seen, limits, priority, again=False) if seen else []
        outcomes += ["forgotten"] * len(left_out)
        return Submitted(**{outcome: outcomes.count(outcome) for outcome in set(outcomes)})

    @contextmanager
    def _harmless(self) -> Iterator[sa.Connection]:
        """A transaction in which a stranger's SQL can change nothing, nor take longer than `LIMIT_SECONDS`.

        Raises:
            BadOption: what was asked is not understood, not allowed, or took too long.
        """
        with self.reading() as connection:
            try:
                if connection.dialect.name == "postgresql":
                    connection.exec_driver_sql("SET TRANSACTION READ ONLY")
                    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {round(LIMIT_SECONDS * 1000)}")
                    yield connection
                else:
                    with _authorized(connection):
                        yield connection
            except sa.exc.DBAPIError as error:
                if not _is_complaint(error.orig):
                    raise
                reason = str(error.orig).strip().partition("\n")[0]
                hint = "It is SQL, on the columns of the view archive, like: duration_seconds > 60"
                raise BadOption(f"The database does not take this condition: {reason}", hint) from error


@contextmanager
def _authorized(connection: sa.Connection) -> Iterator[None]:
    driver: Any = connection.connection.driver_connection
    until = time.monotonic() + LIMIT_SECONDS
    driver.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
    driver.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
    try:
        yield
    finally:
        driver.set_authorizer(None)
        driver.set_progress_handler(None, 0)


def _is_complaint(error: BaseException | None) -> bool:
    """Whether a driver complains of what it was asked, not of the database."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_COMPLAINTS
    state = getattr(error, "sqlstate", None) or ""
    return state.startswith(_CLASSES) or state == _ENDED


def _lacking(pipeline_id: int, where: str | None) -> sa.Select[Any]:
    asked = annotations.c.queue_key.is_not(None)
    ended = annotations.c.status.in_(("done", "failed"))
    query = sa.select(videos).where(
        videos.c.gone_at.is_(None),
        ~sa.exists().where(
            annotations.c.video_id == videos.c.id,
            annotations.c.version == videos.c.version,
            annotations.c.pipeline_id == pipeline_id,
            sa.or_(asked, ended),
        ),
    )
    if where is None:
        return query
    # Its colons are its own. A comment at its end does not reach the bracket. That there are values to be sent beside
    # the statement keeps drivers from taking more than one.
    condition = sa.text("(\n" + where.replace(":", "\\:") + "\n)")
    chosen = sa.select(sa.column("video_id", sa.BigInteger)).select_from(sa.table("archive")).where(condition)
    return query.where(videos.c.id.in_(chosen))
