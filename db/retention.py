"""Retention: how long results are kept, by where the videos are; and erasing what is older, a little at a time.

An annotation whose results are erased stays as a row that failed, with the code `expired`: so nobody takes it for
something that is still to be done.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from db.audit import Audit, record, record_outcome
from db.catalogue import lock_with_spans, shut_out, utc_now
from db.erasing import erase_results, erase_videos, keep_out, overwrite_what_is_deleted
from db.errors import Expired
from db.events import GIVE_UP_SECONDS
from db.fleet import lies_below
from db.forgotten import hash_of, key_of, let_nobody_take_in
from db.identity import spellings
from db.leases import FREE
from db.rows import Erased, Load, RetentionRule, columns_of
from db.statements import unix_now, upsert
from db.tables import annotations, hook_deliveries, retention_rules, videos

_ANNOTATIONS_AT_ONCE = 20  # of an hour each, some 150,000 rows


@dataclass(frozen=True)
class Progress:
    """How far a round has come.

    Attributes:
        erased: by its last step.
        last_id: the annotation that it came to; None: the round is over.
    """

    erased: Erased
    last_id: int | None


class Retention(Audit):
    """Rules of retention, and what they say."""

    def retention_rules(self) -> list[RetentionRule]:
        """All rules, by prefix."""
        with self.reading() as connection:
            return _rules(connection)

    def set_retention(self, rule: RetentionRule) -> None:
        """Let a rule hold from now on, in place of the one with the same prefix."""
        with self.writing() as connection:
            new = upsert(connection, retention_rules).values(**asdict(rule))
            changes = {name: value for name, value in asdict(rule).items() if name != "prefix"}
            connection.execute(new.on_conflict_do_update(index_elements=["prefix"], set_=changes))

    def remove_retention(self, prefix: str) -> bool:
        """Let the rule with this prefix hold no longer; whether there was one."""
        gone = sa.delete(retention_rules).where(retention_rules.c.prefix == prefix)
        with self.writing() as connection:
            return connection.execute(gone).rowcount == 1

    def overdue(self, rule: RetentionRule) -> Load:
        """How much there is to erase by a rule, beside all the others."""
        rules = self.retention_rules()
        with self.reading() as connection:
            due = _overdue(connection, rule, rules).subquery()
            length = sa.func.max(due.c.duration_seconds).label("seconds")
            each = sa.select(due.c.video_id, length).group_by(due.c.video_id).subquery()
            figures = sa.func.count(), sa.func.coalesce(sa.func.sum(each.c.seconds), 0.0)
            n, seconds = connection.execute(sa.select(*figures).select_from(each)).one()
        return Load(videos=n, seconds=seconds)

    def erase_overdue(self, rule: RetentionRule, actor: str, last_id: int = -1) -> Progress:
        """Erase a little of what a rule says, in one transaction with its entry in the audit.

        Args:
            rule: with an age.
            actor: who does.
            last_id: what the step before returned; -1: begin a round.
        """
        with self.writing() as connection:
            if rule.forgets:
                let_nobody_take_in(connection)
            rules = _rules(connection)  # as they are now that nothing is waited for
            if rule not in rules:
                return Progress(Erased(), None)
            overdue = _overdue(connection, rule, rules)
            next_ones = overdue.where(annotations.c.id > last_id).order_by(annotations.c.id)
            seen = connection.execute(next_ones.limit(_ANNOTATIONS_AT_ONCE)).all()
            if not seen:
                return Progress(Erased(), None)
            last_id = seen[-1].id
            ids = _with_them(connection, rule, seen)
            lock_with_spans(connection, ids, to_erase=True)
            # Another scheduler may be at the same round, and somebody may have retried them.
            due = connection.execute(overdue.where(annotations.c.id.in_([row.id for row in seen]))).all()
            if not due:
                return Progress(Erased(), last_id)
            overwrite_what_is_deleted(connection)
            if rule.forgets:
                erased = _forget(connection, {row.video_id: row.uri for row in due})
            else:
                erased = _expire(connection, _with_them(connection, rule, due), rule)
            audit_id = record(connection, actor, "retention applied", asdict(rule))
            record_outcome(connection, audit_id, asdict(erased))
        return Progress(erased, last_id)


def _rules(connection: sa.Connection) -> list[RetentionRule]:
    query = sa.select(*columns_of(retention_rules, RetentionRule)).order_by(retention_rules.c.prefix)
    return [RetentionRule(**row._mapping) for row in connection.execute(query)]


def _overdue(
    connection: sa.Connection, rule: RetentionRule, rules: Sequence[RetentionRule]
) -> sa.Select[tuple[int, int, str, float]]:
    """Annotations with windows of their own that a rule wants erased, for as long as no rule with a longer prefix is.

    Where the videos are to be forgotten too, those that failed count as well, and nothing newer may be there. Where
    not, those are left for later of which, or of what was fused anew from which, a hook is still to be told.
    """
    assert rule.max_age_seconds is not None
    now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
    before = datetime.fromtimestamp(now - rule.max_age_seconds, UTC)
    longer = [other.prefix for other in rules if len(other.prefix) > len(rule.prefix)]
    is_recorded = rule.counted_from == "recorded"
    moment = sa.func.coalesce(videos.c.recorded_at, annotations.c.completed_at)
    query = (
        sa.select(annotations.c.id, annotations.c.video_id, videos.c.uri, annotations.c.duration_seconds)
        .join(videos, videos.c.id == annotations.c.video_id)
        .where(
            annotations.c.status.in_(("done", "failed") if rule.forgets else ("done",)),
            annotations.c.source_annotation_id.is_(None),
            (moment if is_recorded else annotations.c.completed_at) < before,
            sa.or_(*(lies_below(spelling) for spelling in spellings(rule.prefix))),
            *(~lies_below(spelling) for prefix in longer for spelling in spellings(prefix)),
        )
    )
    if rule.forgets:
        other = annotations.alias()
        newer = sa.or_(other.c.completed_at.is_(None), other.c.completed_at >= before)
        own = other.c.source_annotation_id.is_(None)
        is_newest = ~sa.exists().where(other.c.video_id == annotations.c.video_id, own, newer)
        return query.where(sa.or_(videos.c.recorded_at.is_not(None), is_newest) if is_recorded else is_newest)
    told_of = annotations.alias()
    waiting = (
        sa.select(sa.func.coalesce(told_of.c.source_annotation_id, told_of.c.id))
        .join(hook_deliveries, hook_deliveries.c.annotation_id == told_of.c.id)
        .where(hook_deliveries.c.status == sa.literal_column("'pending'"))  # in the words of the partial index
        .where(hook_deliveries.c.created_at > now - GIVE_UP_SECONDS)
    )
    return query.where(annotations.c.id.not_in(waiting))


def _with_them(connection: sa.Connection, rule: RetentionRule, due: Sequence[Any]) -> Sequence[int]:
    """Annotations that are overdue, and those that go with them: of the same videos, or fused anew from theirs."""
    ids = [row.id for row in due]
    query = sa.select(annotations.c.id).order_by(annotations.c.id)
    if rule.forgets:
        query = query.where(annotations.c.video_id.in_([row.video_id for row in due]))
    else:
        query = query.where(sa.or_(annotations.c.id.in_(ids), annotations.c.source_annotation_id.in_(ids)))
    return connection.execute(query).scalars().all()


def _forget(connection: sa.Connection, uris: dict[int, str]) -> Erased:
    key = key_of(connection)
    keep_out(connection, [hash_of(uri, key) for uri in uris.values()])
    return erase_videos(connection, sorted(uris))


def _expire(connection: sa.Connection, ids: Sequence[int], rule: RetentionRule) -> Erased:
    """Erase the results of annotations."""
    shut_out(connection, ids)
    results = erase_results(connection, ids)
    assert rule.max_age_seconds is not None
    days = rule.max_age_seconds / 86_400
    said = f"its results were kept for {days:g} days, as the rule for {rule.prefix or 'all videos'} says"
    values = {
        **FREE,
        **dict.fromkeys(("source_annotation_id", "spans_done_at", "sent_at", "warning_code", "warning_message")),
        "status": "failed",
        "error_code": Expired.code,
        "error_message": said,
        "completed_at": utc_now(),
    }
    n = connection.execute(sa.update(annotations).where(annotations.c.id.in_(ids)).values(values)).rowcount
    latest = (
        sa.select(annotations.c.id)
        .where(annotations.c.video_id == videos.c.id, annotations.c.version == videos.c.version)
        .where(annotations.c.status == "done")
        .order_by(annotations.c.completed_at.desc(), annotations.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    shown = sa.update(videos).where(videos.c.current_annotation_id.in_(ids))
    connection.execute(shown.values(current_annotation_id=latest))
    return Erased(annotations=n) + results
