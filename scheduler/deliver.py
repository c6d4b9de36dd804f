"""Posts events to hooks, beside the feeder and never in its way, until they have arrived or a day has passed.

At least once: a receiver that answers too late, or a scheduler that dies in between, makes for a second post under the
same `webhook-id`. After a failure a hook rests, each time for longer, and so does the event, so that neither a receiver
that is away nor one event that it cannot take holds up the rest.
"""

import http.client
import logging
import random
import time
from dataclasses import replace
from threading import Event, Thread

from db.errors import BadOption, DatabaseError, DatabaseNewer, HookRefused
from db.events import GIVE_UP_SECONDS
from db.rows import Delivery, HeldHook
from db.store import Store
from scheduler.metrics import Metrics
from scheduler.webhook import TOTAL_SECONDS, Answer, post

TICK_SECONDS = 1.0
LEASE_SECONDS = 3 * TOTAL_SECONDS
SENDERS = 4  # hooks that are posted to at once
# After the first failure, and how much longer each time, up to a quarter of an hour for a hook, three for an event.
FIRST_SECONDS, FACTOR, REST_SECONDS, DELAY_SECONDS = 5.0, 3.0, 900.0, 10_800.0
KEEP_DELIVERED_SECONDS, KEEP_DEAD_SECONDS = 7 * 86_400.0, 30 * 86_400.0
CLEAN_SECONDS = 3600.0
GONE = 410

_log = logging.getLogger(__name__)


def back_off(attempts: int, longest_seconds: float) -> float:
    """How long to wait after so many attempts that failed, seconds, give or take a fifth."""
    return float(min(longest_seconds, FIRST_SECONDS * FACTOR ** min(attempts - 1, 20)) * random.uniform(0.8, 1.2))


class Deliverer:
    """Posts what waits for hooks.

    Several may run at once, in one scheduler or in many: each hook is one's at a time.

    Args:
        store: where the events are.
        owner: what this one is called, unlike any other.
        metrics: what counts them.
    """

    def __init__(self, store: Store, owner: str, metrics: Metrics | None = None) -> None:
        self._store, self._owner, self._metrics = store, owner, metrics or Metrics()
        self._cleaned_at = float("-inf")

    def run(self, stop: Event) -> None:
        """Post until told to stop, whatever the database and the receivers do.

        Raises:
            DatabaseNewer: the database has tables that this moodreel does not know.
        """
        at_work: list[Thread] = []
        while not stop.is_set():
            at_work = [thread for thread in at_work if thread.is_alive()]
            try:
                for hook in self._store.take_hooks(self._owner, LEASE_SECONDS, SENDERS - len(at_work)):
                    # A daemon: told to stop, it waits for no receiver, whose hook is free when the lease runs out.
                    at_work.append(Thread(target=self._serve, args=(hook, stop), daemon=True))
                    at_work[-1].start()
                self._clean()
            except DatabaseNewer:
                raise
            except DatabaseError as error:
                _log.warning("hooks were not looked at: %s", error, extra={"code": error.code})
            stop.wait(TICK_SECONDS)

    def _serve(self, hook: HeldHook, stop: Event) -> None:
        """Post all that waits for one hook, or until one event does not arrive."""
        try:
            self.post_all(hook, stop)
        except DatabaseError as error:  # the lease runs out, and what was posted last is posted again
            _log.warning("hook %d was left alone: %s", hook.id, error, extra={"code": error.code})

    def post_all(self, hook: HeldHook, stop: Event) -> int:
        """Post what waits for a hook that is held, until told to stop; how many arrived.

        Raises:
            DatabaseError: the database cannot be asked, or told what became of an event.
        """
        arrived = 0
        while not stop.is_set():
            delivery = self._store.next_delivery(hook, LEASE_SECONDS)
            if delivery is None:
                return arrived
            if not self._post(hook, delivery):
                return arrived
            arrived, hook = arrived + 1, replace(hook, failures=0)
        self._store.release_hook(hook)
        return arrived

    def _post(self, hook: HeldHook, delivery: Delivery) -> bool:
        answer, problem = None, ""
        try:
            answer = post(hook, delivery.event_id, delivery.body)
        except (OSError, http.client.HTTPException, HookRefused, BadOption) as error:
            problem = str(error) or type(error).__name__
        if answer is None or not answer.is_success:
            self._failed(hook, delivery, answer, problem or f"it answered {answer.status if answer else None}")
            return False
        self._store.delivered(hook, delivery, answer.status)
        self._metrics.posted("delivered")
        return True

    def _failed(self, hook: HeldHook, delivery: Delivery, answer: Answer | None, error: str) -> None:
        told = {"hook": hook.id, "event": delivery.event_id, "attempt": delivery.attempts}
        if answer is not None and answer.status == GONE:
            dead = self._store.disable_hook(hook, "it answered 410 Gone")
            _log.warning("hook %d is gone, and is used no more", hook.id, extra=told)
        else:
            status, asked = (None, None) if answer is None else (answer.status, answer.retry_after_seconds)
            rest = max(min(asked or 0.0, DELAY_SECONDS), back_off(hook.failures + 1, REST_SECONDS))
            dead = self._store.not_delivered(
                hook,
                delivery,
                status,
                error,
                delay_seconds=max(rest, back_off(delivery.attempts, DELAY_SECONDS)),
                rest_seconds=rest,
                give_up_seconds=GIVE_UP_SECONDS,
            )
            _log.warning("hook %d: %s; posted again in %.0f s", hook.id, error, rest, extra=told)
        self._metrics.posted("failed")
        self._metrics.posted("dead", dead)

    def _clean(self) -> None:
        if time.monotonic() - self._cleaned_at >= CLEAN_SECONDS:
            self._cleaned_at = time.monotonic()
            self._store.forget_deliveries(KEEP_DELIVERED_SECONDS, KEEP_DEAD_SECONDS)
