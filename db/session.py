"""Opening a database: its URL, its settings, its transactions, its schema, and what its errors mean.

Knows no table but Alembic's own. Every transaction of moodreel goes through `Database.reading` or `Database.writing`.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast

import sqlalchemy as sa

from db.errors import (
    BadOption,
    DatabaseError,
    DatabaseFull,
    DatabaseLocked,
    DatabaseNewer,
    DatabaseUnreachable,
    MoodreelError,
)

REVISIONS: tuple[str, ...] = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
)  # oldest first; named here so that opening a database need not import Alembic
_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x6D6F6F64  # "mood": the key under which PostgreSQL keeps two migrations apart
_WRITES = "moodreel_writes"


class Database:
    """A database whose tables are those of this moodreel; a context manager that closes it.

    Args:
        url: an SQLAlchemy URL of SQLite or PostgreSQL, or the path of an SQLite file.
        lock_timeout_seconds: how long to wait for others before giving up with `DatabaseLocked`.
        create: whether an SQLite file that is not there is made.

    Raises:
        BadOption: the URL cannot be understood.
        DatabaseError: it cannot be opened or migrated; see the subclasses.
    """

    def __init__(self, url: str, *, lock_timeout_seconds: float = 10.0, create: bool = True) -> None:
        self.engine = open_engine(url, lock_timeout_seconds=lock_timeout_seconds, create=create)
        self.name = database_name(self.engine)
        try:
            migrate(self.engine)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One transaction that sees one state of the database and writes nothing."""
        with _transaction(self.engine, writes=False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction, committed at the end, rolled back if an error leaves it."""
        with _transaction(self.engine, writes=True) as connection:
            yield connection


def open_engine(url: str, *, lock_timeout_seconds: float = 10.0, create: bool = True) -> sa.Engine:
    """An engine with moodreel's settings; nothing is opened yet. See `Database` for arguments and errors."""
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        _check_path(Path(parsed.database or ""), create)
        return _sqlite_engine(parsed, lock_timeout_seconds)
    return _postgresql_engine(parsed, lock_timeout_seconds)


def database_name(engine: sa.Engine) -> str:
    """The database as messages name it: an SQLite file's path, or a URL without its password."""
    if engine.dialect.name == "sqlite":
        return str(engine.url.database)
    return engine.url.difference_update_query(["password", "sslpassword"]).render_as_string(hide_password=True)


def migrate(engine: sa.Engine) -> None:
    """Bring the schema up to date, from whatever revision it has, or from nothing.

    Several processes may call this at once: the first one migrates, the others wait and find it done.

    Raises:
        DatabaseNewer: the schema is of a revision that this moodreel does not know.
        DatabaseError: the database cannot be opened, or refuses.
    """
    with _transaction(engine, writes=False) as connection:
        if _revision(connection) == REVISIONS[-1]:
            return
    with _transaction(engine, writes=True, rebuilds=True) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        if _revision(connection) != REVISIONS[-1]:
            _upgrade(connection)


def _parse(url: str) -> sa.URL:
    if "://" not in url:
        return sa.URL.create("sqlite", database=os.path.expanduser(url))
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # SQLAlchemy's own message may quote the URL with its password.
        raise BadOption("The database URL cannot be understood.", hint=_URL_HINT) from None
    backend = parsed.get_backend_name()
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise BadOption(f"A {backend} URL names neither an SQLite file nor a PostgreSQL database.", hint=_URL_HINT)
    return parsed


_URL_HINT = "Use a file's path, sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/NAME."


def _check_path(path: Path, create: bool) -> None:
    if path.is_dir():
        raise DatabaseUnreachable(f"The database {path} is a folder, not a file.")
    if not path.parent.is_dir():
        raise DatabaseUnreachable(f"The database {path} cannot be opened: there is no folder {path.parent}.")
    if not create and not path.exists():
        raise DatabaseUnreachable(f"There is no database {path}.", hint="`moodreel annotate` makes one.")


def _sqlite_engine(url: sa.URL, lock_timeout_seconds: float) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": lock_timeout_seconds})

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # Python's driver must not begin transactions on its own; see `begin`
        connection.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for each other
        connection.execute("PRAGMA synchronous = NORMAL")  # safe with WAL: only power loss can undo a last commit
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A transaction that reads first and writes later fails at once, without waiting, if another one wrote in
        # between. So a writer takes the lock at its beginning, where it can wait.
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


# So that a server that drops packets without a word is noticed within half a minute; seconds, times, milliseconds.
_KEEPALIVE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# The same in the other direction, for the server; seconds, seconds, times.
_SERVER_KEEPALIVE = {"tcp_keepalives_idle": 10, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}
_IDLE_MILLISECONDS = 60_000  # in a transaction; nothing of moodreel's pauses in one for even a second


def _postgresql_engine(url: sa.URL, lock_timeout_seconds: float) -> sa.Engine:
    try:
        # No more connections than threads ask at once, which are few; none of them need wait for another's.
        engine = sa.create_engine(url, connect_args=_KEEPALIVE, pool_pre_ping=True, max_overflow=-1)
    except ImportError:
        raise BadOption("PostgreSQL needs the package psycopg.", hint="pip install 'psycopg[binary]'") from None

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.execute(f"SET lock_timeout = {round(lock_timeout_seconds * 1000)}")
        connection.execute("SET timezone = 'UTC'")
        # A client whose machine is gone must not keep its locks: what it left open is ended, and it is asked now and
        # then whether it is still there. On a Unix socket the latter means nothing, and is allowed.
        connection.execute(f"SET idle_in_transaction_session_timeout = {_IDLE_MILLISECONDS}")
        for name, value in _SERVER_KEEPALIVE.items():
            connection.execute(f"SET {name} = {value}")
        connection.commit()

    return engine


@contextmanager
def _transaction(engine: sa.Engine, *, writes: bool, rebuilds: bool = False) -> Iterator[sa.Connection]:
    """A transaction.

    Args:
        writes: whether it may write.
        rebuilds: whether it may drop tables that others refer to, and make them anew.
    """
    try:
        with engine.connect().execution_options(**{_WRITES: writes}) as connection:
            if rebuilds and engine.dialect.name == "sqlite":
                _let_tables_be_rebuilt(connection)
            with connection.begin():
                yield connection
    except sa.exc.DBAPIError as error:
        raise _translated(error, database_name(engine)) from error
    except engine.dialect.loaded_dbapi.Error as error:  # from a cursor that was used past SQLAlchemy
        wrapped = sa.exc.DBAPIError.instance(None, None, error, engine.dialect.loaded_dbapi.Error)
        raise _translated(cast("sa.exc.DBAPIError", wrapped), database_name(engine)) from error


def _let_tables_be_rebuilt(connection: sa.Connection) -> None:
    """Let SQLite drop a table without deleting what refers to it; which no transaction that has begun can change."""
    driver: Any = connection.connection.driver_connection
    connection.detach()  # from the pool, whose connections all see to foreign keys
    driver.execute("PRAGMA foreign_keys = OFF")


def _revision(connection: sa.Connection) -> str | None:
    """The schema's revision, None for a database without tables of ours.

    Raises:
        DatabaseNewer: a revision that this moodreel does not know.
    """
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if found is not None and found not in REVISIONS:
        name = database_name(connection.engine)
        raise DatabaseNewer(
            f"The database {name} has the schema {found!r}, which is newer than this moodreel's {REVISIONS[-1]!r}."
        )
    return found


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    from db.views import create_views, drop_views

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    drop_views(connection)
    command.upgrade(config, "head")
    create_views(connection)


_LOCKED_SQLSTATES = ("55P03", "40P01", "40001")  # lock not available, deadlock, serialization failure
_FULL_SQLSTATE = "53100"
# Connection lost, too many connections, shut down by an administrator or after a crash, starting up.
_UNREACHABLE_SQLSTATES = ("08", "53300", "57P01", "57P02", "57P03")
# What is wrong with what was to be stored or asked. Anything else is wrong with the database: it would befall any row.
_ROW_ERRORS = (sa.exc.IntegrityError, sa.exc.DataError)


def _translated(error: sa.exc.DBAPIError, name: str) -> MoodreelError:
    """What a driver's error means to the user."""
    cause = error.orig
    reason = str(cause).strip().partition("\n")[0]
    if isinstance(cause, sqlite3.Error):
        return _translated_sqlite(error, reason, name)
    state = getattr(cause, "sqlstate", None)
    if state in _LOCKED_SQLSTATES:
        return DatabaseLocked(f"The database {name} is locked: {reason}")
    if state == _FULL_SQLSTATE:
        return DatabaseFull(f"There is no space left for the database {name}: {reason}")
    is_lost = isinstance(error, sa.exc.OperationalError) and (error.connection_invalidated or state is None)
    if is_lost or (state or "").startswith(_UNREACHABLE_SQLSTATES):
        return DatabaseUnreachable(f"The database {name} does not answer: {reason}")
    if isinstance(error, _ROW_ERRORS) or state is None:
        return DatabaseError(f"The database {name} refused: {reason}")
    return DatabaseUnreachable(f"The database {name} does not work: {reason}")


def _translated_sqlite(error: sa.exc.DBAPIError, reason: str, name: str) -> MoodreelError:
    primary = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # the low byte; the rest are finer reasons
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseLocked(f"The database {name} is locked by another program.")
    if primary == sqlite3.SQLITE_CANTOPEN:
        return DatabaseUnreachable(f"The database {name} cannot be opened: {reason}.")
    if primary == sqlite3.SQLITE_NOTADB:
        return DatabaseError(f"{name} is not an SQLite database.", hint="Name another file with `--db`.")
    if primary == sqlite3.SQLITE_FULL:
        return DatabaseFull(f"There is no space left for the database {name}.")
    if isinstance(error, _ROW_ERRORS) or not primary:
        return DatabaseError(f"The database {name} refused: {reason}.")
    return DatabaseUnreachable(f"The database {name} does not work: {reason}.")
