"""Roles of PostgreSQL for those who work with a database and need not own it: each may do what it must, and no more."""

from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from db.errors import BadOption
from db.session import Database
from db.views import VIEW_COLUMNS

SCHEDULER, WORKER, ANALYST, SCALER = "moodreel_scheduler", "moodreel_worker", "moodreel_analyst", "moodreel_scaler"
ROLES: Mapping[str, str] = {
    SCHEDULER: "plans, sends, posts to hooks, forgets; reads and writes all tables, changes none",
    WORKER: "annotates; as the scheduler, but the secrets of hooks are not its business",
    ANALYST: "asks questions: reads the views, writes nothing, and no question takes longer than five minutes",
    SCALER: "reads the length of the queue, for an autoscaler",
}
SCALED_BY = "queued_seconds"
HOOKS_KNOWN_TO_WORKERS = "id, source_prefix, on_done, on_failed, on_alert, disabled_at"


class Roles(Database):
    """Making roles."""

    def make_roles(self, passwords: Mapping[str, str]) -> list[str]:
        """Make those roles that there are not, and grant all of them what they need, now and after migrations.

        Doing it again changes nothing, but that it grants the views again that a migration has made anew.

        Args:
            passwords: of roles, whether they are new or not. They are sent as SCRAM verifiers, so that no log of the
                server has them. A role without one cannot log in by password yet.

        Returns:
            The roles that are new.

        Raises:
            BadOption: the database is an SQLite file, whose rights are the file's.
        """
        if self.engine.dialect.name != "postgresql":
            raise BadOption(f"{self.name} is an SQLite file, which has no roles: its permissions say who may do what.")
        with self.writing() as connection:
            known = set(connection.execute(sa.text("SELECT rolname FROM pg_roles")).scalars())
            new = [role for role in ROLES if role not in known]
            for statement in statements(str(self.engine.url.database), new):
                connection.exec_driver_sql(statement)
            driver: Any = connection.connection.driver_connection
            for role, password in passwords.items():
                verifier = driver.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
                connection.exec_driver_sql(f"ALTER ROLE {role} PASSWORD '{verifier.decode()}'")
        return new


def statements(database: str, new: list[str]) -> Iterator[str]:
    """What makes the roles, as SQL, for the owner of the tables to run.

    Args:
        database: its name.
        new: the roles that are not there yet.
    """
    name = '"' + database.replace('"', '""') + '"'
    everyone, writers = ", ".join(ROLES), f"{SCHEDULER}, {WORKER}"
    for role in new:
        yield f"CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT"
    yield f"GRANT CONNECT ON DATABASE {name} TO {everyone}"
    yield f"GRANT USAGE ON SCHEMA public TO {everyone}"
    yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {writers}"
    yield f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {writers}"
    # What migrations add.
    changes = "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT"
    yield f"{changes} SELECT, INSERT, UPDATE, DELETE ON TABLES TO {writers}"
    yield f"{changes} USAGE ON SEQUENCES TO {writers}"
    # Workers write down what is to be posted, and need no secret for that.
    yield f"REVOKE SELECT, INSERT, UPDATE, DELETE ON hooks FROM {WORKER}"
    yield f"GRANT SELECT ({HOOKS_KNOWN_TO_WORKERS}) ON hooks TO {WORKER}"
    yield f"GRANT UPDATE (lease_until) ON hooks TO {WORKER}"  # which PostgreSQL asks of whoever locks a row
    yield f"GRANT SELECT ON {', '.join(view for view in VIEW_COLUMNS if view != SCALED_BY)} TO {ANALYST}"
    yield f"GRANT SELECT ON {SCALED_BY} TO {SCALER}"
    for role in (ANALYST, SCALER):
        for setting in ("default_transaction_read_only = on", "statement_timeout = '5min'"):
            yield f"ALTER ROLE {role} IN DATABASE {name} SET {setting}"
