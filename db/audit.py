"""The audit: who asked for what, and what became of it. It is only ever added to, which the database itself sees to.

No video's name is kept here, since it might be forgotten later: videos stand here by the hashes of their URIs, folders
and prefixes as they are.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from db.fleet import lies_below
from db.forgotten import hash_of, key_of
from db.identity import spellings
from db.rows import AuditEntry, columns_of
from db.session import Database
from db.statements import unix_now
from db.tables import audit, audit_outcomes, videos


class Audit(Database):
    """Who asked for what."""

    @contextmanager
    def audited(self, actor: str, action: str, subject: Mapping[str, Any]) -> Iterator[dict[str, int]]:
        """Record a request before it is carried out, and after it how many of what were changed.

        Args:
            actor: who asks.
            action: for what, in a word or two.
            subject: of what, JSON values; videos as `named` gives them.

        Yields:
            The counts, for the caller to fill. If an error leaves the block, the request stands there without them.
        """
        with self.writing() as connection:
            audit_id = record(connection, actor, action, subject)
        counts: dict[str, int] = {}
        yield counts
        with self.writing() as connection:
            record_outcome(connection, audit_id, counts)

    def named(self, uris: Sequence[str]) -> dict[str, list[str]]:
        """How the audit names what URIs stand for: `videos` by hashes, and the `prefixes` of all that lies below."""
        names, prefixes = self.told_apart(uris)
        with self.writing() as connection:
            key = key_of(connection)
        return {"videos": [hash_of(name, key) for name in names], "prefixes": prefixes}

    def veiled(self, sql: str) -> str:
        """An SQL text in which hashes stand for the names of videos, where these are whole literals."""
        literals = {found.replace("''", "'"): found for found in re.findall(r"'((?:[^']|'')*)'", sql)}
        with self.writing() as connection:
            key = key_of(connection)
            known = connection.execute(sa.select(videos.c.uri).where(videos.c.uri.in_(list(literals)))).scalars()
            for uri in known:
                sql = sql.replace(f"'{literals[uri]}'", f"'{hash_of(uri, key)}'")
        return sql

    def told_apart(self, uris: Sequence[str]) -> tuple[list[str], list[str]]:
        """Which URIs are names of videos, and the prefixes that the others mean.

        What ends with a slash is a prefix, and so is what videos lie below, unless there is a video of this name.
        """
        names: list[str] = []
        prefixes: list[str] = []
        with self.reading() as connection:
            for uri in uris:
                if uri.endswith("/") or _is_folder(connection, uri):
                    prefixes += spellings(uri.rstrip("/") + "/")
                else:
                    names.append(uri)
        return names, prefixes

    def audit_entries(self, *, uri: str | None = None, action: str | None = None, limit: int = 50) -> list[AuditEntry]:
        """The latest entries, in the order of time.

        Args:
            uri: only of what was asked of this very video; what was asked of a prefix is left out.
            action: only of this kind.
            limit: how many, at most.
        """
        query = sa.select(*columns_of(audit, AuditEntry), *columns_of(audit_outcomes, AuditEntry))
        query = query.outerjoin(audit_outcomes, audit_outcomes.c.audit_id == audit.c.id).order_by(audit.c.id.desc())
        if action is not None:
            query = query.where(audit.c.action == action)
        if uri is not None:
            with self.writing() as connection:
                name_hash = hash_of(uri, key_of(connection))
            query = query.where(sa.cast(audit.c.subject, sa.Text).contains(name_hash))
        with self.reading() as connection:
            return [AuditEntry(**row._mapping) for row in connection.execute(query.limit(limit))][::-1]


def record(connection: sa.Connection, actor: str, action: str, subject: Mapping[str, Any]) -> int:
    """Record a request; its id."""
    row = {"asked_at": _now(connection), "actor": actor, "action": action, "subject": dict(subject)}
    return int(connection.execute(sa.insert(audit).values(row).returning(audit.c.id)).scalar_one())


def record_outcome(connection: sa.Connection, audit_id: int, counts: Mapping[str, int]) -> None:
    """Record that a request was carried through."""
    row = {"audit_id": audit_id, "done_at": _now(connection), "counts": dict(counts)}
    connection.execute(sa.insert(audit_outcomes).values(row))


def _now(connection: sa.Connection) -> datetime:
    return datetime.fromtimestamp(connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one(), UTC)


def _is_folder(connection: sa.Connection, uri: str) -> bool:
    if connection.execute(sa.select(videos.c.id).where(videos.c.uri == uri)).first() is not None:
        return False
    below = (lies_below(prefix) for prefix in spellings(uri + "/"))
    return connection.execute(sa.select(videos.c.id).where(sa.or_(*below)).limit(1)).first() is not None
