"""The feeder: keeps a short queue of messages before the workers, from the long one in the database.

Rows are marked as sent first, then the messages are sent. Whatever happens in between, or to the messages, is found by
comparing the two. A worker takes a message only when it has a free slot (prefetch is off), acknowledges it at once and
claims the row, which takes milliseconds; the claim ends the mark. So a row that is marked has its message in Redis, but
for these milliseconds. If for some seconds Redis holds fewer messages than there are marks, messages were lost: by a
flush, a restart, or a worker that died between taking one and claiming its row. Then what has been marked for that long
is sent again, at the most so much that Redis is as full as it should be. Some of it may get a second message; whoever
takes that finds the row claimed and does nothing.

Where messages and marks are many but do not belong together, comparing counts shows nothing; so a mark that is
`RESEND_SECONDS` old does not count anyway.
"""

import logging
import os
import socket
import time
from collections.abc import Sequence
from importlib.metadata import version
from threading import Event
from typing import Protocol

from db.errors import BrokerUnreachable, DatabaseError, DatabaseNewer
from db.rows import DueJob, Worker
from db.store import Store
from scheduler.metrics import Metrics

TICK_SECONDS, IDLE_SECONDS = 0.25, 1.0
BEAT_SECONDS = 10.0
RESEND_SECONDS = 300.0
LOST_SECONDS = 5.0
MIN_MESSAGES = 16  # in Redis, so that the first workers find something to do
MAX_BACKOFF_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Messages(Protocol):
    """What the feeder needs of the queue; see `scheduler.queue.Queue`."""

    def send(self, due: Sequence[DueJob]) -> None: ...
    def depth(self) -> int: ...


class Feeder:
    """Sends messages for the jobs whose turn it is.

    Several may run at once: they choose different jobs.

    Args:
        store: where the jobs are.
        queue: where the messages go.
        metrics: what counts them.
        lost_seconds: for how long messages must be missing before they count as lost.
        resend_seconds: after how long a message counts as lost anyway.
    """

    def __init__(
        self,
        store: Store,
        queue: Messages,
        metrics: Metrics | None = None,
        *,
        lost_seconds: float = LOST_SECONDS,
        resend_seconds: float = RESEND_SECONDS,
    ) -> None:
        self._store, self._queue, self._metrics = store, queue, metrics or Metrics()
        self._lost_seconds, self._resend_seconds = lost_seconds, resend_seconds
        self._short_since: float | None = None  # since when Redis holds fewer messages than there are marks
        self._beaten_at = float("-inf")
        self._state = "feeding"
        self.name = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"

    def tick(self) -> int:
        """Send what is due, as far as there is room; how many messages are on their way now.

        Raises:
            BrokerUnreachable: what was not sent is no longer marked as sent.
            DatabaseError: nothing was sent, or it is marked as sent and will be sent again.
        """
        depth = self._queue.depth()
        outstanding = self._store.outstanding()  # after the depth: what is claimed in between is not missed
        self._metrics.broker_is(True)
        wanted = max(MIN_MESSAGES, 2 * self._store.slots())
        if self._are_lost(outstanding, depth):
            room, resend_seconds = wanted - depth, self._lost_seconds
        else:
            room, resend_seconds = wanted - max(outstanding, depth), self._resend_seconds
        due = self._store.take_due(room, resend_seconds) if room > 0 else []
        for position, item in enumerate(due):
            try:
                self._queue.send([item])
            except BrokerUnreachable:
                self._store.unsend([left.job for left in due[position:]])
                raise
            self._metrics.sent([item])
        if again := sum(item.resent for item in due):
            _log.warning("%d messages were lost or not acted on, and are sent again", again)
        return outstanding + len(due)

    def _are_lost(self, outstanding: int, depth: int) -> bool:
        now = time.monotonic()
        if depth >= outstanding:
            self._short_since = None
            return False
        if self._short_since is None:
            self._short_since = now
        return now - self._short_since >= self._lost_seconds

    def run(self, stop: Event) -> None:
        """Feed the workers until told to stop, whatever the database and the broker do.

        Raises:
            DatabaseNewer: the database has tables that this moodreel does not know.
        """
        pause = TICK_SECONDS
        try:
            while not stop.is_set():
                try:
                    self._beat()
                    is_busy = self.tick() > 0
                    self._say("feeding")
                    pause = TICK_SECONDS if is_busy else min(IDLE_SECONDS, 2 * pause)
                except DatabaseNewer:
                    raise
                except (BrokerUnreachable, DatabaseError) as error:
                    self._say(error.code)
                    self._metrics.broker_is(not isinstance(error, BrokerUnreachable))
                    pause = min(MAX_BACKOFF_SECONDS, 2 * pause)
                    _log.warning("%s; tried again in %g s", error, pause, extra={"code": error.code})
                stop.wait(pause)
        finally:
            self._leave()

    def _say(self, state: str) -> None:
        """What this scheduler is at, which `moodreel status` shows."""
        if state != self._state:
            _log.info("%s", state)
            self._state = state
            self._beaten_at = float("-inf")  # tell it with the next round

    def _beat(self) -> None:
        if time.monotonic() - self._beaten_at < BEAT_SECONDS:
            return
        self._store.beat(
            Worker(
                name=self.name,
                kind="scheduler",
                host=socket.gethostname(),
                pid=os.getpid(),
                version=version("moodreel"),
                state=self._state,
            )
        )
        self._beaten_at = time.monotonic()

    def _leave(self) -> None:
        try:
            self._store.leave(self.name)
        except DatabaseError as error:
            _log.warning("left without a word: %s", error)
