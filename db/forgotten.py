"""Names that are kept out, since somebody had them forgotten; and hashes, which stand for names that must not be kept.

The key of the hashes is in the same database. So whoever has the database can find out whether a name that he guesses
is among those forgotten, but cannot read any of them; and a hash says nothing without the key.
"""

import hashlib
import hmac
import secrets
from collections.abc import Collection

import sqlalchemy as sa

from db.errors import Forgotten
from db.statements import upsert
from db.tables import forgotten_names, forgotten_prefixes, hash_key

_KEY_BYTES = 32
_FORGETTING_LOCK = 0x6D6F6F66  # the key under which PostgreSQL keeps those who take in from those who forget


def kept_out(connection: sa.Connection, uris: Collection[str]) -> set[str]:
    """Those uris that nothing may be taken in under."""
    prefixes = tuple(connection.execute(sa.select(forgotten_prefixes.c.prefix)).scalars())
    found = {uri for uri in uris if uri.startswith(prefixes)}
    key = connection.execute(sa.select(hash_key.c.key)).scalar()
    if key is not None:
        by_hash = {hash_of(uri, key): uri for uri in uris}
        query = sa.select(forgotten_names.c.hash).where(forgotten_names.c.hash.in_(list(by_hash)))
        found |= {by_hash[name_hash] for name_hash in connection.execute(query).scalars()}
    return found


def gone(annotation_id: int) -> Forgotten:
    """What to raise where an annotation is not there any more."""
    return Forgotten(f"Annotation {annotation_id} is gone: its video was forgotten.")


def hash_of(uri: str, key: str) -> str:
    """What stands for a URI."""
    return hmac.new(bytes.fromhex(key), uri.encode(), hashlib.sha256).hexdigest()


def key_of(connection: sa.Connection) -> str:
    """The key of this database's hashes, made if there is none."""
    new = upsert(connection, hash_key).values(id=1, key=secrets.token_hex(_KEY_BYTES))
    connection.execute(new.on_conflict_do_nothing())
    return str(connection.execute(sa.select(hash_key.c.key)).scalar_one())


def let_nobody_forget(connection: sa.Connection) -> None:
    """Let nothing be forgotten until this transaction ends; before it looks what is kept out, and locks anything.

    Otherwise a video that one transaction takes in while another one forgets it would stay.
    """
    if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(_FORGETTING_LOCK)))


def let_nobody_take_in(connection: sa.Connection) -> None:
    """Wait for those who take videos in, and let nobody begin to until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_FORGETTING_LOCK)))
