"""Questions in SQL, which read and change nothing: by the database's own means, not by looking at their text.

PostgreSQL: a transaction that is read-only before the question is known, with a time limit of the server's, under the
rights of `pg_read_all_data` where the role may take those, and by a cursor, which takes one SELECT and nothing else.
SQLite: a connection that cannot write (mode=ro, query_only), and an authorizer that the engine asks about each step.

What a superuser's functions do beside the tables (files of the server, other sessions) no transaction forbids: ask as
`moodreel_analyst`, whom `moodreel roles` makes, where questions come from people who are not trusted.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from db.errors import MoodreelError, QueryFailed, QueryRefused
from db.session import database_name, open_engine

FETCHED = 1000  # rows at a time
_STEPS = 10_000  # of SQLite's virtual machine, between two looks at the clock
# Of SQLite's actions: what a question consists of.
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "edit", "readfile", "writefile"}


@dataclass(frozen=True)
class Answer:
    """What a question found.

    Attributes:
        columns: their names.
        rows: to be read once, within the `asked` block.
    """

    columns: Sequence[str]
    rows: Iterator[tuple[Any, ...]]


@contextmanager
def asked(
    url: str, sql: str, values: Mapping[str, Any], timeout_seconds: float, *, explain: bool = False
) -> Iterator[Answer]:
    """Ask a question.

    Args:
        url: of the database, as `db.session.Database` takes it; it must be there.
        sql: one SELECT; `:name` stands for a value.
        values: by name.
        timeout_seconds: for all of it.
        explain: say how the database would answer, instead of doing so.

    Raises:
        QueryRefused: it would change something, is more than one statement, or may not be asked.
        QueryFailed: the database does not understand it, or it takes too long.
        DatabaseError: the database cannot be opened.
    """
    engine = open_engine(url, create=False)
    try:
        ask = _of_sqlite if engine.dialect.name == "sqlite" else _of_postgresql
        with ask(engine, sql, values, timeout_seconds, explain) as answer:
            yield answer
    finally:
        engine.dispose()


@contextmanager
def _of_sqlite(
    engine: sa.Engine, sql: str, values: Mapping[str, Any], timeout_seconds: float, explain: bool
) -> Iterator[Answer]:
    path = quote(str(Path(str(engine.url.database)).absolute()))
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    with closing(connection):
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()  # or it is no database
        until = time.monotonic() + timeout_seconds
        connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
        connection.set_authorizer(_authorize)
        try:
            cursor = connection.execute(f"EXPLAIN QUERY PLAN {sql}" if explain else sql, values)
            if cursor.description is None:
                raise QueryRefused("That is no question: it returns no rows.")
            yield Answer([column[0] for column in cursor.description], _fetched(cursor))
        except sqlite3.Error as error:
            raise _sqlite_failure(error, timeout_seconds) from error


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action not in _ALLOWED or (action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FORBIDDEN_FUNCTIONS):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _sqlite_failure(error: sqlite3.Error, timeout_seconds: float) -> MoodreelError:
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_INTERRUPT:
        return QueryFailed(f"The question was not answered within {timeout_seconds:g} s.")
    refused = code in (sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY)
    if refused or isinstance(error, sqlite3.ProgrammingError | sqlite3.Warning):
        return QueryRefused(f"The database refuses that: {error}.")
    return QueryFailed(f"The database does not answer that: {error}.")


@contextmanager
def _of_postgresql(
    engine: sa.Engine, sql: str, values: Mapping[str, Any], timeout_seconds: float, explain: bool
) -> Iterator[Answer]:
    psycopg: Any = engine.dialect.loaded_dbapi
    milliseconds = max(1, round(timeout_seconds * 1000))
    try:
        connection = engine.raw_connection()
    except sa.exc.DBAPIError as error:
        raise QueryFailed(f"The database {database_name(engine)} does not answer: {error.orig}") from error
    try:
        driver: Any = connection.driver_connection
        driver.read_only = True
        with driver.transaction(force_rollback=True):
            driver.execute(f"SET LOCAL statement_timeout = {milliseconds}")
            driver.execute("SET LOCAL idle_in_transaction_session_timeout = '5min'")
            try:
                with driver.transaction():
                    driver.execute("SET LOCAL ROLE pg_read_all_data")
            except psycopg.Error:
                pass  # a role of few rights already
            driver.execute("SELECT 1 FROM pg_class LIMIT 1")  # from here on nothing can make the transaction writable
            question, given = _positional(sql, values)
            with driver.cursor() if explain else driver.cursor(name="question") as cursor:
                if explain:
                    cursor.execute(f"EXPLAIN {question}", given, prepare=True)  # which takes one statement only
                else:
                    cursor.itersize = FETCHED
                    cursor.execute(question, given)
                if cursor.description is None:
                    raise QueryRefused("That is no question: it returns no rows.")
                yield Answer([column.name for column in cursor.description], iter(cursor))
    except psycopg.Error as error:
        raise _postgresql_failure(error, timeout_seconds) from error
    finally:
        connection.detach()
        connection.close()


def _positional(sql: str, values: Mapping[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """A question with `:name` as psycopg takes it."""
    if not values:
        return sql, None
    text = sa.text(sql).bindparams(**values)
    return str(text.compile(dialect=sa.make_url("postgresql+psycopg://").get_dialect()())), dict(values)


def _postgresql_failure(error: Any, timeout_seconds: float) -> MoodreelError:
    state, said = error.sqlstate or "", str(error).strip().partition("\n")[0]
    if state == "57014":
        return QueryFailed(f"The question was not answered within {timeout_seconds:g} s.")
    # Read-only, not allowed, no cursor of that, more than one statement, a wrong kind of command.
    if state in ("25006", "42501", "0A000", "42P11") or "multiple commands" in said or "cursor" in said:
        return QueryRefused(f"The database refuses that: {said}.")
    if not state.startswith("42") and state[:2] in ("08", "57"):
        return QueryFailed(f"The database does not answer: {said}.")
    if state == "42601" and not said.lower().startswith("syntax error at end"):
        return QueryRefused(f"The database refuses that; a question is one SELECT: {said}.")
    return QueryFailed(f"The database does not answer that: {said}.")


def _fetched(cursor: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(FETCHED):
        yield from rows
