"""Keeps the leases of the jobs that this process is doing, for as long as they get on.

A job that makes no progress is let go: its lease runs out, and somebody else takes it. So a worker is judged by what
comes out of it, not by whether its process is there.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from db.errors import DatabaseError, LeaseLost
from db.jobs import Claim
from db.store import Store

PATIENCE = 5  # times the usual, with a job that may be waiting for models

_log = logging.getLogger(__name__)


class Held:
    """One job under way.

    Attributes:
        claim: what it was claimed with.
        moved_at: when it last got on, by the monotonic clock.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.moved_at = time.monotonic()
        self._lost = threading.Event()

    def moved(self) -> None:
        """The job got on.

        Raises:
            LeaseLost: it is somebody else's by now.
        """
        self.moved_at = time.monotonic()
        if self._lost.is_set():
            raise LeaseLost(f"Annotation {self.claim.annotation_id} is no longer {self.claim.owner}'s.")

    def lose(self) -> None:
        """Somebody else has it, or it was cancelled: whoever works on it hears of it when it next gets on."""
        self._lost.set()


class Heartbeat:
    """Renews the leases of all jobs under way, four times in each lease; a context manager.

    Args:
        store: where the leases are.
        lease_seconds: how long a lease lasts.
        stall_seconds: a job that has not got on for so long is let go; infinite: none is.
        models_moved_at: when a model last answered, by the monotonic clock. A job that waits for models gets on with
            it; but not for longer than `PATIENCE` times as long as any other.
    """

    def __init__(
        self,
        store: Store,
        lease_seconds: float,
        stall_seconds: float = math.inf,
        models_moved_at: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._store, self._lease_seconds, self._stall_seconds = store, lease_seconds, stall_seconds
        self._models_moved_at = models_moved_at
        self._held: set[Held] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @contextmanager
    def holding(self, claim: Claim) -> Iterator[Held]:
        """Keep a job's lease meanwhile."""
        held = Held(claim)
        with self._lock:
            self._held.add(held)
        try:
            yield held
        finally:
            with self._lock:
                self._held.discard(held)

    @property
    def running(self) -> int:
        """How many jobs are under way."""
        return len(self._held)

    @property
    def moving(self) -> list[Held]:
        """Jobs that get on."""
        with self._lock:
            held = list(self._held)
        models_moved_at, now = self._models_moved_at(), time.monotonic()

        def gets_on(job: Held) -> bool:
            silent_seconds = now - job.moved_at
            by_models = max(silent_seconds / PATIENCE, now - models_moved_at)
            return min(silent_seconds, by_models) <= self._stall_seconds

        return [job for job in held if gets_on(job)]

    @property
    def is_stalled(self) -> bool:
        """Whether a job has not got on for too long, or leases are no longer renewed."""
        return len(self.moving) < len(self._held) or not (self._thread.is_alive() or self._over.is_set())

    def _run(self) -> None:
        while not self._over.wait(self._lease_seconds / 4):
            moving = {job.claim: job for job in self.moving}
            try:
                lost = self._store.renew_all(list(moving), self._lease_seconds)
            except DatabaseError as error:
                _log.warning("leases could not be renewed: %s", error)
                continue  # there is time for more than one try before the leases run out
            for claim in lost:
                moving[claim].lose()
