"""What many workers need: a queue in the rows, leases for planning and finishing, limits, and who is at work.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")

# Added as they stand, since SQLite adds columns one by one and their rules only with them; and rebuilding a table that
# others point at would delete what points at it.
_COLUMNS = {
    "pipelines": ("options JSON",),
    "annotations": (
        "priority INTEGER DEFAULT '0' NOT NULL",
        "queue_key DOUBLE",
        "available_at DOUBLE",
        "sent_at DOUBLE",
        "lease_owner TEXT",
        "lease_until DOUBLE"
        " CONSTRAINT ck_annotations_lease_owner_with_lease_until CHECK ((lease_owner IS NULL) = (lease_until IS NULL))",
        "epoch INTEGER DEFAULT '0' NOT NULL CONSTRAINT ck_annotations_epoch_range CHECK (epoch >= 0)",
        "claims INTEGER DEFAULT '0' NOT NULL CONSTRAINT ck_annotations_claims_range CHECK (claims >= 0)",
        "spans_done_at DOUBLE",
        "limited_by TEXT DEFAULT '' NOT NULL",
    ),
    "spans": (
        "available_at DOUBLE",
        "sent_at DOUBLE",
        "completed_at DOUBLE",
        "error_code TEXT",
        "error_message TEXT"
        " CONSTRAINT ck_spans_error_code_with_error_message CHECK ((error_code IS NULL) = (error_message IS NULL))",
    ),
}
_INDEXES = (
    (
        *("to_plan", "annotations", ["limited_by", "queue_key", "pipeline_id"]),
        "queue_key IS NOT NULL AND status = 'pending'",
    ),
    (
        *("to_annotate", "annotations", ["limited_by", "queue_key", "pipeline_id"]),
        "queue_key IS NOT NULL AND status IN ('planned', 'running') AND spans_done_at IS NULL",
    ),
    (
        *("to_finish", "annotations", ["queue_key"]),
        "queue_key IS NOT NULL AND status IN ('planned', 'running') AND spans_done_at IS NOT NULL",
    ),
    ("sent_at", "annotations", ["sent_at"], "sent_at IS NOT NULL"),
    ("lease_until", "annotations", ["lease_until"], "lease_until IS NOT NULL"),
    ("completed_at", "annotations", ["completed_at"], None),
    ("sent_at", "spans", ["sent_at"], "sent_at IS NOT NULL"),
    ("lease_until", "spans", ["lease_until"], "lease_until IS NOT NULL"),
    ("completed_at", "spans", ["completed_at"], None),
)

_COMMENTS = {
    "pipelines": {
        "options": "what a worker builds it from; NULL: no worker was asked to",
    },
    "annotations": {
        "priority": "whoever asked for it gave it; higher goes first",
        "queue_key": "the fleet takes the lowest first; NULL: not asked of the fleet",
        "available_at": "not before this; unix time by the database's clock, seconds",
        "sent_at": "a message for it is on its way since; unix time by the database's clock, seconds",
        "lease_owner": "who plans or finishes it",
        "lease_until": "until when; unix time by the database's clock, seconds",
        "epoch": "fencing token: raised by every claim",
        "claims": "of planning or finishing, whichever is next, that came to nothing",
        "spans_done_at": "all its spans are done, and finishing is next, since;"
        " unix time by the database's clock, seconds",
        "limited_by": "longest prefix of source_limits that its URI begins with",
    },
    "spans": {
        "available_at": "not before this; unix time by the database's clock, seconds",
        "sent_at": "a message for it is on its way since; unix time by the database's clock, seconds",
        "completed_at": "when it was done; unix time by the database's clock, seconds",
        "error_code": "why the last attempt failed, if it could be told",
    },
    "pipeline_names": {
        "name": "what people call a pipeline",
    },
    "source_limits": {
        "prefix": "how the URIs of the source begin",
        "max_running": "jobs that may read from it at once",
    },
    "workers": {
        "name": "as lease_owner has it",
        "version": "of moodreel",
        "device": "where its models run; NULL: it has none",
        "started_at": "unix time by the database's clock, seconds",
        "seen_at": "unix time by the database's clock, seconds",
        "slots": "jobs that it does at once",
        "running": "jobs that it is doing",
        "spans_done": "since it started",
        "seconds_done": "of video, since it started",
        "state": "what it says of itself, for people",
        "pipelines": "ids of those that it works on; NULL: all but those that it refuses",
        "refused": "ids of those that it cannot compute; NULL: none",
    },
}


# Those that only `finish` was missing for.
_SPANS_DONE = """
UPDATE annotations SET spans_done_at = 0
WHERE status <> 'done'
    AND EXISTS (SELECT 1 FROM spans WHERE spans.annotation_id = annotations.id)
    AND NOT EXISTS (SELECT 1 FROM spans WHERE spans.annotation_id = annotations.id AND spans.status <> 'done')
"""


def _at_least_0(table: str, column: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} >= 0", name=op.f(f"ck_{table}_{column}_range"))


def upgrade() -> None:
    double = sa.Double().compile(dialect=op.get_bind().dialect)
    for table, columns in _COLUMNS.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} ADD COLUMN {column.replace('DOUBLE', double)}")
    op.execute(_SPANS_DONE)
    for name, table, names, where in _INDEXES:
        condition = sa.text(where) if where else None
        op.create_index(op.f(f"ix_{table}_{name}"), table, names, sqlite_where=condition, postgresql_where=condition)
    op.create_table(
        "pipeline_names",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("pipeline_id", Key, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pipeline_names")),
        sa.ForeignKeyConstraint(
            ["pipeline_id"], ["pipelines.id"], name=op.f("fk_pipeline_names_pipeline_id"), ondelete="CASCADE"
        ),
    )
    op.create_index(op.f("ix_pipeline_names_pipeline_id"), "pipeline_names", ["pipeline_id"])
    op.create_table(
        "source_limits",
        sa.Column("prefix", sa.Text, nullable=False),
        sa.Column("max_running", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("prefix", name=op.f("pk_source_limits")),
        _at_least_0("source_limits", "max_running"),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("kind", "host")),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("device", sa.Text),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("started_at", "seen_at")),
        *(
            sa.Column(name, sa.Integer, server_default="0", nullable=False)
            for name in ("slots", "running", "spans_done")
        ),
        sa.Column("seconds_done", sa.Double, server_default="0", nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        *(sa.Column(name, sa.JSON) for name in ("pipelines", "refused")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
        sa.CheckConstraint("kind IN ('worker', 'scheduler')", name=op.f("ck_workers_kind_known")),
        *(_at_least_0("workers", name) for name in ("slots", "running", "spans_done", "seconds_done")),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table, comments in _COMMENTS.items():
            for column, comment in comments.items():
                op.execute("COMMENT ON COLUMN {}.{} IS '{}'".format(table, column, comment.replace("'", "''")))


def downgrade() -> None:
    for table in ("workers", "source_limits", "pipeline_names"):
        op.drop_table(table)
    for name, table, _, _ in _INDEXES:
        op.drop_index(op.f(f"ix_{table}_{name}"), table)
    for table, columns in _COLUMNS.items():
        for column in reversed(columns):
            op.execute(f"ALTER TABLE {table} DROP COLUMN {column.split()[0]}")
