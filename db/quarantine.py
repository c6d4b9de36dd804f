"""The quarantine: videos that failed, why, and what is known of them."""

from collections.abc import Sequence

import sqlalchemy as sa

from db.errors import Cancelled, Expired
from db.fleet import chosen
from db.rows import MediaFacts, Quarantined, columns_of
from db.session import Database
from db.tables import annotations, pipelines, videos


class Quarantine(Database):
    """Looking at what failed."""

    def quarantined(self, uris: Sequence[str] = (), code: str | None = None, limit: int = 50) -> list[Quarantined]:
        """Annotations of videos' latest versions that failed, the latest first.

        Args:
            uris: of videos, or of folders for all that lies below them; none: all.
            code: only what failed for this reason; None: for any but that it was cancelled, or erased by its age.
            limit: at most so many.
        """
        code_is = annotations.c.error_code
        reason = code_is == code if code else code_is.not_in((Cancelled.code, Expired.code))
        in_fleet = sa.or_(annotations.c.queue_key.is_not(None), pipelines.c.options.is_not(sa.null()))
        query = (
            chosen(uris)
            .with_only_columns(
                *(videos.c.uri, videos.c.size_bytes, annotations.c.version, annotations.c.attempts),
                annotations.c.error_code.label("code"),
                annotations.c.error_message.label("message"),
                annotations.c.completed_at.label("failed_at"),
                in_fleet.label("in_fleet"),
                *columns_of(videos, MediaFacts),
            )
            .join(pipelines, pipelines.c.id == annotations.c.pipeline_id)
            .where(annotations.c.status == "failed", reason)
            .order_by(annotations.c.completed_at.desc(), annotations.c.id.desc())
            .limit(limit)
        )
        with self.reading() as connection:
            return [Quarantined(**row._mapping) for row in connection.execute(query)]
