"""What tells others: hooks and what is to be posted to them, alert rules and what they raised.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Moment = sa.DateTime(timezone=True)

_CLOCK = "unix time by the database's clock, seconds"


def _check(table: str, name: str, rule: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(rule, name=op.f(f"ck_{table}_{name}"))


def _truths(table: str, *columns: str) -> list[sa.CheckConstraint]:
    return [_check(table, f"{column}_known", f"{column} IN (FALSE, TRUE)") for column in columns]


def _flags(**comments: str) -> list[sa.Column[bool]]:
    return [sa.Column(name, sa.Boolean, nullable=False, comment=comment) for name, comment in comments.items()]


def _prefix() -> sa.Column[str]:
    comment = "of videos whose URIs begin like this"
    return sa.Column("source_prefix", sa.Text, server_default=sa.text("''"), nullable=False, comment=comment)


def _to(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], name=op.f(f"fk_{table}_{column}"), ondelete="CASCADE")


def upgrade() -> None:
    op.create_table(
        "hooks",
        sa.Column("id", Key, nullable=False),
        sa.Column("url", sa.Text, nullable=False, comment="where events are posted"),
        sa.Column(
            *("secret", sa.Text),
            nullable=False,
            comment="signs what is posted, so it stands here as it is; whsec_...",
        ),
        *_flags(
            on_done="whether events of the kind done go there",
            on_failed="whether events of the kind failed go there",
            on_alert="whether events of the kind alert go there",
        ),
        _prefix(),
        *_flags(
            insecure_http="whether http will do, on a private network",
            link_local="whether link-local addresses may be posted to",
        ),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("disabled_at", Moment, comment="nothing is posted there any more since"),
        sa.Column("disabled_why", sa.Text),
        sa.Column("failures", sa.Integer, server_default="0", nullable=False, comment="attempts in a row that failed"),
        sa.Column("resting_until", sa.Double, comment=f"after failures nothing is posted there before this; {_CLOCK}"),
        sa.Column("lease_owner", sa.Text, comment="the scheduler that posts there"),
        sa.Column("lease_until", sa.Double, comment=f"until when; {_CLOCK}"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hooks")),
        *_truths("hooks", "on_done", "on_failed", "on_alert", "insecure_http", "link_local"),
        _check("hooks", "failures_range", "failures >= 0"),
        _check("hooks", "disabled_at_with_disabled_why", "(disabled_at IS NULL) = (disabled_why IS NULL)"),
        _check("hooks", "lease_owner_with_lease_until", "(lease_owner IS NULL) = (lease_until IS NULL)"),
    )
    op.create_table(
        "hook_deliveries",
        sa.Column("id", Key, nullable=False),
        sa.Column("hook_id", Key, nullable=False),
        sa.Column("event_key", sa.Text, nullable=False, comment="what happened, once for each hook"),
        sa.Column(
            *("event_id", sa.Text), nullable=False, comment="what the receiver knows it by, however often it is posted"
        ),
        sa.Column("event", sa.Text, nullable=False, comment="kind"),
        sa.Column("annotation_id", Key),
        sa.Column("body", sa.Text, nullable=False, comment="what is posted, JSON"),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, server_default="0", nullable=False, comment="of posting it"),
        sa.Column("created_at", sa.Double, nullable=False, comment=_CLOCK),
        sa.Column("available_at", sa.Double, comment=f"not before this; {_CLOCK}"),
        sa.Column("completed_at", sa.Double, comment=f"when it was delivered or given up; {_CLOCK}"),
        sa.Column("answer", sa.Integer, comment="status code of the last answer"),
        sa.Column("error", sa.Text, comment="what went wrong last"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hook_deliveries")),
        _to("hook_deliveries", "hook_id", "hooks.id"),
        _to("hook_deliveries", "annotation_id", "annotations.id"),
        sa.UniqueConstraint("hook_id", "event_key", name=op.f("uq_hook_deliveries_hook_id_event_key")),
        _check("hook_deliveries", "event_known", "event IN ('done', 'failed', 'alert')"),
        _check("hook_deliveries", "status_known", "status IN ('pending', 'delivered', 'dead')"),
        _check("hook_deliveries", "attempts_range", "attempts >= 0"),
        _check("hook_deliveries", "pending_without_end", "(status = 'pending') = (completed_at IS NULL)"),
    )
    pending = sa.text("status = 'pending'")
    op.create_index(
        op.f("ix_hook_deliveries_pending"),
        "hook_deliveries",
        ["hook_id", "available_at"],
        sqlite_where=pending,
        postgresql_where=pending,
    )
    for column in ("annotation_id", "completed_at"):
        op.create_index(op.f(f"ix_hook_deliveries_{column}"), "hook_deliveries", [column])
    op.create_table(
        "alert_rules",
        sa.Column("id", Key, nullable=False),
        sa.Column("name", sa.Text, nullable=False, comment="what people call it"),
        sa.Column("measure", sa.Text, nullable=False, comment="an emotion, valence or arousal"),
        sa.Column("level", sa.Double, nullable=False, comment="that it must reach"),
        *_flags(below="whether it must fall to the level, not rise to it"),
        sa.Column("min_seconds", sa.Double, nullable=False, comment="for how long without a break, seconds"),
        _prefix(),
        sa.Column("pipeline", sa.Text, comment="of annotations by the pipeline of this name; NULL: by any"),
        sa.Column("created_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_rules")),
        _to("alert_rules", "pipeline", "pipeline_names.name"),
        sa.UniqueConstraint("name", name=op.f("uq_alert_rules_name")),
        _check(
            *("alert_rules", "measure_known"),
            "measure IN ('neutral', 'calm', 'happy', 'sad', 'angry', 'fearful', 'disgust', 'surprised', 'valence',"
            " 'arousal')",
        ),
        _check("alert_rules", "level_range", "level >= -1 AND level <= 1"),
        *_truths("alert_rules", "below"),
        _check("alert_rules", "min_seconds_range", "min_seconds >= 0"),
    )
    op.create_table(
        "raised_alerts",
        sa.Column("annotation_id", Key, nullable=False),
        sa.Column("rule_id", Key, nullable=False),
        sa.Column("start_seconds", sa.Double, nullable=False, comment="start of the stretch, seconds"),
        sa.Column("end_seconds", sa.Double, nullable=False, comment="end of the stretch, seconds"),
        sa.Column(
            *("peak", sa.Double),
            nullable=False,
            comment="highest value in it, or the lowest where the rule is below",
        ),
        sa.Column("raised_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("annotation_id", "rule_id", "start_seconds", name=op.f("pk_raised_alerts")),
        _to("raised_alerts", "annotation_id", "annotations.id"),
        _to("raised_alerts", "rule_id", "alert_rules.id"),
        _check("raised_alerts", "start_seconds_range", "start_seconds >= 0"),
        _check("raised_alerts", "start_before_end", "start_seconds < end_seconds"),
        _check("raised_alerts", "peak_range", "peak >= -1 AND peak <= 1"),
    )
    op.create_index(op.f("ix_raised_alerts_rule_id"), "raised_alerts", ["rule_id"])


def downgrade() -> None:
    for table in ("raised_alerts", "alert_rules", "hook_deliveries", "hooks"):
        op.drop_table(table)
