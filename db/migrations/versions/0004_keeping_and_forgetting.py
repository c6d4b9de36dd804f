"""What keeping, forgetting and accounting for it need: names that are kept out, rules of retention, an audit.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")

_AUDIT = ("audit", "audit_outcomes")

_REFUSAL = """
CREATE FUNCTION moodreel_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is only ever added to' USING ERRCODE = 'integrity_constraint_violation';
END $$
"""


def upgrade() -> None:
    op.create_table(
        "hash_key",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False, comment="1: there is one key"),
        sa.Column("key", sa.Text, nullable=False, comment="under which names of videos are hashed, hexadecimal"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hash_key")),
        sa.CheckConstraint("id = 1", name=op.f("ck_hash_key_only_one")),
    )
    op.create_table(
        "forgotten_names",
        sa.Column("hash", sa.Text, nullable=False, comment="HMAC-SHA256 of a URI that is kept out, under hash_key"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_forgotten_names")),
    )
    op.create_table(
        "forgotten_prefixes",
        sa.Column("prefix", sa.Text, nullable=False, comment="URIs that begin like this are kept out"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("prefix", name=op.f("pk_forgotten_prefixes")),
    )
    op.create_table(
        "retention_rules",
        sa.Column(
            *("prefix", sa.Text),
            nullable=False,
            comment="of URIs that begin like this, and like no longer one",
        ),
        sa.Column("max_age_seconds", sa.Double, comment="how long results are kept; NULL: for ever"),
        sa.Column("counted_from", sa.Text, nullable=False, comment="recorded: of the video; annotated: its completion"),
        sa.Column("forgets", sa.Boolean, nullable=False, comment="whether the videos are forgotten too"),
        sa.PrimaryKeyConstraint("prefix", name=op.f("pk_retention_rules")),
        sa.CheckConstraint("max_age_seconds > 0", name=op.f("ck_retention_rules_max_age_seconds_range")),
        sa.CheckConstraint(
            "counted_from IN ('recorded', 'annotated')", name=op.f("ck_retention_rules_counted_from_known")
        ),
        sa.CheckConstraint("forgets IN (FALSE, TRUE)", name=op.f("ck_retention_rules_forgets_known")),
    )
    op.create_table(
        "audit",
        sa.Column("id", Key, nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False, comment="by the database's clock"),
        sa.Column("actor", sa.Text, nullable=False, comment="who asked"),
        sa.Column("action", sa.Text, nullable=False, comment="for what"),
        sa.Column("subject", sa.JSON, nullable=False, comment="of what; videos by their hashes, never by their names"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_table(
        "audit_outcomes",
        sa.Column("audit_id", Key, autoincrement=False, nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=False, comment="by the database's clock"),
        sa.Column("counts", sa.JSON, nullable=False, comment="how many of what were changed"),
        sa.PrimaryKeyConstraint("audit_id", name=op.f("pk_audit_outcomes")),
        sa.ForeignKeyConstraint(["audit_id"], ["audit.id"], name=op.f("fk_audit_outcomes_audit_id")),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_REFUSAL)
        for table in _AUDIT:
            op.execute(
                f"CREATE TRIGGER {table}_is_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
                " FOR EACH STATEMENT EXECUTE FUNCTION moodreel_refuse()"
            )
        return
    for table in _AUDIT:
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_is_kept_from_{change.lower()} BEFORE {change} ON {table}"
                " BEGIN SELECT RAISE(ABORT, 'the audit is only ever added to'); END"
            )


def downgrade() -> None:
    for table in ("audit_outcomes", "audit", "retention_rules", "forgotten_prefixes", "forgotten_names", "hash_key"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION moodreel_refuse()")
