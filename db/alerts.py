"""Alert rules, an emotion at a level for so long, and what they raised. `db.events` stores that, as annotations end."""

from dataclasses import asdict

import sqlalchemy as sa

from db.catalogue import utc_now
from db.rows import AlertRule, ShownAlert, columns_of
from db.session import Database
from db.statements import lock_in_order, upsert
from db.tables import UtcDateTime, alert_rules, annotations, pipeline_names, raised_alerts, videos
from db.views import VIEW_COLUMNS

_SHOWN = sa.table(
    "alerts",
    *(sa.column(name) for name in VIEW_COLUMNS["alerts"] if name != "raised_at"),
    sa.column("raised_at", UtcDateTime),
)


class Alerts(Database):
    """Rules, and the alerts that they raised."""

    def add_rule(self, rule: AlertRule) -> bool:
        """Let a rule hold for annotations that are completed from now on; False: its name is another's."""
        values = {**asdict(rule), "created_at": utc_now()}
        del values["id"]
        with self.writing() as connection:
            new = upsert(connection, alert_rules).values(values).on_conflict_do_nothing()
            return connection.execute(new.returning(alert_rules.c.id)).first() is not None

    def remove_rule(self, name: str) -> bool:
        """Forget a rule and what it raised; whether there was one."""
        named = alert_rules.c.name == name
        with self.writing() as connection:
            lock_in_order(connection, alert_rules, named)  # so that nothing more is raised by it
            of_it = sa.select(alert_rules.c.id).where(named).scalar_subquery()
            lock_in_order(connection, raised_alerts, raised_alerts.c.rule_id == of_it)
            return connection.execute(sa.delete(alert_rules).where(named)).rowcount == 1

    def rules(self) -> list[AlertRule]:
        """All rules, by name."""
        query = sa.select(*columns_of(alert_rules, AlertRule)).order_by(alert_rules.c.name)
        with self.reading() as connection:
            return [AlertRule(**row._mapping) for row in connection.execute(query)]

    def rules_for(self, annotation_id: int) -> list[AlertRule]:
        """The rules that hold for an annotation: for its video, and for its pipeline."""
        prefix = alert_rules.c.source_prefix
        named = sa.select(pipeline_names.c.pipeline_id).where(pipeline_names.c.name == alert_rules.c.pipeline)
        query = (
            sa.select(*columns_of(alert_rules, AlertRule))
            .select_from(alert_rules)
            .join(annotations, annotations.c.id == annotation_id)
            .join(videos, videos.c.id == annotations.c.video_id)
            .where(sa.func.substr(videos.c.uri, 1, sa.func.length(prefix)) == prefix)
            .where(sa.or_(alert_rules.c.pipeline.is_(None), named.scalar_subquery() == annotations.c.pipeline_id))
            .order_by(alert_rules.c.id)
        )
        with self.reading() as connection:
            return [AlertRule(**row._mapping) for row in connection.execute(query)]

    def alerts(self, rule: str | None = None, uri: str | None = None, limit: int = 50) -> list[ShownAlert]:
        """Alerts of the videos' current annotations, the latest first."""
        query = sa.select(_SHOWN).order_by(
            _SHOWN.c.raised_at.desc(), _SHOWN.c.video, _SHOWN.c.rule, _SHOWN.c.start_seconds
        )
        for column, value in ((_SHOWN.c.rule, rule), (_SHOWN.c.video, uri)):
            if value is not None:
                query = query.where(column == value)
        with self.reading() as connection:
            return [ShownAlert(**row._mapping) for row in connection.execute(query.limit(limit))]
