"""Hooks: where events are posted, who posts there, and what becomes of each event.

`db.events` writes the events. A scheduler takes a hook under a lease and posts what waits for it, one event after
another; so two schedulers never post to one hook at once, and a hook that hangs holds up no other. An event may still
be posted twice, where a scheduler dies between the answer and writing it down. All times are of the database's clock.

Whoever changes rows of both tables changes the hook first, and several events in the order of their ids, so that no two
transactions wait for each other.
"""

from typing import Any

import sqlalchemy as sa

from db.catalogue import utc_now
from db.rows import Delivery, HeldHook, Hook, NewHook, columns_of
from db.session import Database
from db.statements import lock_in_order, unix_now
from db.tables import hook_deliveries, hooks
from db.words import HOOK_EVENTS

_FREE = {"lease_owner": None, "lease_until": None}
_WAITS = hook_deliveries.c.status == sa.literal_column("'pending'")  # in the words of the partial index


class Hooks(Database):
    """Hooks and their events."""

    def add_hook(self, hook: NewHook) -> int:
        """Let events be posted somewhere from now on; the hook's id."""
        values = {
            "url": hook.url,
            "secret": hook.secret,
            **{f"on_{event}": event in hook.events for event in HOOK_EVENTS},
            "source_prefix": hook.source_prefix,
            "insecure_http": hook.insecure_http,
            "link_local": hook.link_local,
            "created_at": utc_now(),
        }
        with self.writing() as connection:
            return int(connection.execute(sa.insert(hooks).values(values).returning(hooks.c.id)).scalar_one())

    def remove_hook(self, hook_id: int) -> bool:
        """Forget a hook, and what waits for it; whether there was one."""
        with self.writing() as connection:
            lock_in_order(connection, hooks, hooks.c.id == hook_id)  # so that nothing more is written for it
            lock_in_order(connection, hook_deliveries, hook_deliveries.c.hook_id == hook_id)
            return connection.execute(sa.delete(hooks).where(hooks.c.id == hook_id)).rowcount == 1

    def hooks(self) -> list[Hook]:
        """All hooks, without their secrets."""
        counts = {
            status: sa.select(sa.func.count())
            .where(hook_deliveries.c.hook_id == hooks.c.id, hook_deliveries.c.status == status)
            .scalar_subquery()
            .label(status)
            for status in ("pending", "dead")
        }
        flags = [hooks.c[f"on_{event}"] for event in HOOK_EVENTS]
        query = sa.select(*columns_of(hooks, Hook), *flags, *counts.values()).order_by(hooks.c.id)
        with self.reading() as connection:
            return [_with_events(Hook, row._mapping) for row in connection.execute(query)]

    def hook(self, hook_id: int) -> HeldHook | None:
        """A hook with its secret; nobody's lease."""
        with self.reading() as connection:
            row = connection.execute(_held().where(hooks.c.id == hook_id)).first()
        return None if row is None else _with_events(HeldHook, {**row._mapping, "owner": ""})

    def deliveries(self, hook_id: int | None = None, status: str | None = None, limit: int = 20) -> list[Delivery]:
        """Events that were posted or wait for it, the newest first."""
        with self.reading() as connection:
            query = _deliveries(connection).order_by(hook_deliveries.c.id.desc()).limit(limit)
            if hook_id is not None:
                query = query.where(hook_deliveries.c.hook_id == hook_id)
            if status is not None:
                query = query.where(hook_deliveries.c.status == status)
            return [Delivery(**row._mapping) for row in connection.execute(query)]

    def post_again(self, hook_id: int) -> int:
        """Let what was given up of a hook's events be posted after all, and the hook be used again; how many."""
        with self.writing() as connection:
            now = unix_now(connection.dialect.name)
            used = {"disabled_at": None, "disabled_why": None, "failures": 0, "resting_until": None}
            connection.execute(sa.update(hooks).where(hooks.c.id == hook_id).values(**used))
            dead = hook_deliveries.c.hook_id == hook_id, hook_deliveries.c.status == "dead"
            lock_in_order(connection, hook_deliveries, *dead)
            anew = {"status": "pending", "completed_at": None, "created_at": now, "available_at": now}
            return connection.execute(sa.update(hook_deliveries).where(*dead).values(**anew)).rowcount

    def take_hooks(self, owner: str, lease_seconds: float, limit: int) -> list[HeldHook]:
        """Hooks that have something waiting and that nobody else posts to, which are the owner's from now on."""
        with self.writing() as connection:
            now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
            waiting = sa.exists().where(
                hook_deliveries.c.hook_id == hooks.c.id, _WAITS, hook_deliveries.c.available_at <= now
            )
            free = (
                sa.select(hooks.c.id)
                .where(hooks.c.disabled_at.is_(None), waiting)
                .where(sa.or_(hooks.c.lease_until.is_(None), hooks.c.lease_until <= now))
                .where(sa.or_(hooks.c.resting_until.is_(None), hooks.c.resting_until <= now))
                .order_by(hooks.c.resting_until.nulls_first(), hooks.c.id)
                .limit(limit)
                .with_for_update(skip_locked=True, key_share=True)
            )
            ids = list(connection.execute(free).scalars())
            if not ids:
                return []
            taken = sa.update(hooks).where(hooks.c.id.in_(ids))
            connection.execute(taken.values(lease_owner=owner, lease_until=now + lease_seconds))
            found = connection.execute(_held().where(hooks.c.id.in_(ids)).order_by(hooks.c.id))
            return [_with_events(HeldHook, {**row._mapping, "owner": owner}) for row in found]

    def next_delivery(self, hook: HeldHook, lease_seconds: float) -> Delivery | None:
        """The event that is to be posted next, with a new lease on the hook and the attempt counted; None: no more.

        None too if the hook is no longer the owner's.
        """
        with self.writing() as connection:
            now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
            kept = _mine(hook).where(hooks.c.disabled_at.is_(None)).values(lease_until=now + lease_seconds)
            if connection.execute(kept).rowcount != 1:
                return None
            waiting = _deliveries(connection).where(
                hook_deliveries.c.hook_id == hook.id, _WAITS, hook_deliveries.c.available_at <= now
            )
            row = connection.execute(
                waiting.order_by(hook_deliveries.c.available_at, hook_deliveries.c.id).limit(1)
            ).first()
            if row is None:
                connection.execute(_mine(hook).values(**_FREE))
                return None
            this = sa.update(hook_deliveries).where(hook_deliveries.c.id == row.id)
            connection.execute(this.values(attempts=hook_deliveries.c.attempts + 1))
        return Delivery(**{**row._mapping, "attempts": row.attempts + 1})

    def delivered(self, hook: HeldHook, delivery: Delivery, answer: int) -> None:
        """An event has arrived."""
        with self.writing() as connection:
            now = unix_now(connection.dialect.name)
            connection.execute(_mine(hook).values(failures=0, resting_until=None))
            this = sa.update(hook_deliveries).where(hook_deliveries.c.id == delivery.id)
            connection.execute(this.values(status="delivered", completed_at=now, answer=answer, error=None))

    def not_delivered(
        self,
        hook: HeldHook,
        delivery: Delivery,
        answer: int | None,
        error: str,
        *,
        delay_seconds: float,
        rest_seconds: float,
        give_up_seconds: float,
    ) -> int:
        """An event has not arrived; how many are given up, because they have waited for too long by now.

        The hook is given back, and nothing is posted there for a while.

        Args:
            answer, error: what the receiver said, and what went wrong.
            delay_seconds: before this event is posted again.
            rest_seconds: before anything is posted to the hook again.
            give_up_seconds: how old events may become.
        """
        with self.writing() as connection:
            now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
            rest = {"failures": hooks.c.failures + 1, "resting_until": now + rest_seconds}
            connection.execute(_mine(hook).values(**rest, **_FREE))
            this = hook_deliveries.c.id == delivery.id
            late = hook_deliveries.c.created_at <= now - give_up_seconds
            lock_in_order(connection, hook_deliveries, hook_deliveries.c.hook_id == hook.id, _WAITS, sa.or_(this, late))
            tried = sa.update(hook_deliveries).where(this, _WAITS)
            connection.execute(tried.values(available_at=now + delay_seconds, answer=answer, error=error))
            return _give_up(connection, hook.id, late)

    def disable_hook(self, hook: HeldHook, why: str) -> int:
        """Post nothing to a hook any more; how many events are given up."""
        with self.writing() as connection:
            off = {"disabled_at": utc_now(), "disabled_why": why, **_FREE}
            connection.execute(_mine(hook).values(**off))
            lock_in_order(connection, hook_deliveries, hook_deliveries.c.hook_id == hook.id, _WAITS)
            return _give_up(connection, hook.id, sa.true(), error=why)

    def release_hook(self, hook: HeldHook) -> None:
        """Let others post to a hook."""
        with self.writing() as connection:
            connection.execute(_mine(hook).values(**_FREE))

    def hook_backlog(self) -> tuple[int, float]:
        """How many events wait for hooks that are in use, and for how long the oldest has, seconds."""
        with self.reading() as connection:
            now = unix_now(connection.dialect.name)
            oldest = sa.func.coalesce(now - sa.func.min(hook_deliveries.c.created_at), 0.0)
            used = hook_deliveries.c.hook_id.in_(sa.select(hooks.c.id).where(hooks.c.disabled_at.is_(None)))
            count, seconds = connection.execute(sa.select(sa.func.count(), oldest).where(_WAITS, used)).one()
        return int(count), float(seconds)

    def forget_deliveries(self, delivered_seconds: float, dead_seconds: float) -> int:
        """Delete events that were delivered, or given up, so long ago; how many."""
        with self.writing() as connection:
            now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
            old = sa.or_(
                *(
                    sa.and_(hook_deliveries.c.status == status, hook_deliveries.c.completed_at < now - seconds)
                    for status, seconds in (("delivered", delivered_seconds), ("dead", dead_seconds))
                )
            )
            lock_in_order(connection, hook_deliveries, old)
            return connection.execute(sa.delete(hook_deliveries).where(old)).rowcount


def _held() -> sa.Select[Any]:
    return sa.select(*columns_of(hooks, HeldHook), *(hooks.c[f"on_{event}"] for event in HOOK_EVENTS))


def _with_events(kind: type, row: Any) -> Any:
    """A hook of its row, whose flags become the kinds of its events."""
    rest = {name: value for name, value in row.items() if not name.startswith("on_")}
    return kind(**rest, events=tuple(event for event in HOOK_EVENTS if row[f"on_{event}"]))


def _mine(hook: HeldHook) -> sa.Update:
    """A change to a hook that is held; it changes nothing if it is somebody else's by now."""
    return sa.update(hooks).where(hooks.c.id == hook.id, hooks.c.lease_owner == hook.owner)


def _deliveries(connection: sa.Connection) -> sa.Select[Any]:
    age = unix_now(connection.dialect.name) - hook_deliveries.c.created_at
    return sa.select(*columns_of(hook_deliveries, Delivery), age.label("age_seconds"))


def _give_up(connection: sa.Connection, hook_id: int, which: sa.ColumnElement[bool], error: str | None = None) -> int:
    now = unix_now(connection.dialect.name)
    said = {} if error is None else {"error": error}
    these = sa.update(hook_deliveries).where(hook_deliveries.c.hook_id == hook_id, _WAITS, which)
    return connection.execute(these.values(status="dead", completed_at=now, **said)).rowcount
