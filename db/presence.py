"""Which videos are still where they were found."""

from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa

from db.catalogue import batches, utc_now
from db.session import Database
from db.tables import videos

_LAST_CHARACTER = "\U0010ffff"
_ROWS_PER_QUERY = 5000


class Presence(Database):
    """Videos that come and go. What is known of one that is gone stays; being seen again ends it."""

    def mark_gone(self, uris: Sequence[str]) -> set[str]:
        """Note that videos are no longer where they were; those of which that is news."""
        gone: set[str] = set()
        now = utc_now()
        for some in batches(uris):
            # Locked in one order, that of those who submit, lest two wait for each other.
            there = sa.select(videos.c.id).where(videos.c.uri.in_(some), videos.c.gone_at.is_(None))
            with self.writing() as connection:
                ids = list(connection.execute(there.order_by(videos.c.uri).with_for_update()).scalars())
                marked = sa.update(videos).where(videos.c.id.in_(ids)).values(gone_at=now, updated_at=now)
                gone |= set(connection.execute(marked.returning(videos.c.uri)).scalars())
        return gone

    def changed(self, versions: Mapping[str, str]) -> set[str]:
        """Those uris that are known, but in another version than the one given, or as gone."""
        query = sa.select(videos.c.uri, videos.c.version, videos.c.gone_at)
        with self.reading() as connection:
            return {
                uri
                for some in batches(versions)
                for uri, version, gone_at in connection.execute(query.where(videos.c.uri.in_(some)))
                if versions[uri] != version or gone_at
            }

    def present(self, prefix: str, after: str, upto: str | None) -> Iterator[str]:
        """URIs that begin like this and are not known to be gone, in the order of their bytes.

        Args:
            prefix: how they begin.
            after: only those behind this one.
            upto: only those up to this one; None: all.
        """
        query = sa.select(videos.c.uri).where(
            videos.c.uri >= prefix,
            videos.c.uri <= (prefix + _LAST_CHARACTER if upto is None else upto),
            videos.c.gone_at.is_(None),
        )
        while True:
            with self.reading() as connection:
                page = query.where(videos.c.uri > after).order_by(videos.c.uri).limit(_ROWS_PER_QUERY)
                found = list(connection.execute(page).scalars())
            if not found:
                return
            yield from found
            after = found[-1]
