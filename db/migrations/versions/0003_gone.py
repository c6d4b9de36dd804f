"""Which videos are gone from where they were; and names in the order of their bytes, in which buckets are listed.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COMMENT = "when it was found to be gone from there; NULL: it is there"


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def upgrade() -> None:
    op.add_column("videos", sa.Column("gone_at", sa.DateTime(timezone=True), comment=_COMMENT))
    if _is_postgresql():  # SQLite compares bytes anyway
        op.execute('ALTER TABLE videos ALTER COLUMN uri TYPE TEXT COLLATE "C"')


def downgrade() -> None:
    if _is_postgresql():
        op.execute('ALTER TABLE videos ALTER COLUMN uri TYPE TEXT COLLATE "default"')
    op.execute("ALTER TABLE videos DROP COLUMN gone_at")
