"""What the scheduler counts, for Prometheus."""

import logging
from collections.abc import Sequence
from threading import Event

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, start_http_server

from db.errors import BadOption, DatabaseError, Expired
from db.rows import JOB_KINDS, DueJob
from db.store import Store
from db.words import ANNOTATION_STATUSES

REFRESH_SECONDS = 15.0  # between counts of the whole queue, which cost the database something

_log = logging.getLogger(__name__)


class Metrics:
    """The scheduler's counters and gauges."""

    def __init__(self) -> None:
        self.registry = mine = CollectorRegistry()
        self._queue_seconds = Gauge("moodreel_queue_seconds", "Seconds of video not annotated yet.", registry=mine)
        self._queue_jobs = Gauge("moodreel_queue_jobs", "Jobs that wait, by kind.", ["kind"], registry=mine)
        self._sent = Counter("moodreel_messages_sent_total", "Messages sent to workers.", ["kind"], registry=mine)
        self._resent = Counter("moodreel_messages_resent_total", "Of these, sent again.", registry=mine)
        self._workers = Gauge("moodreel_workers", "Workers seen in the last minute.", registry=mine)
        self._annotations = Gauge(
            "moodreel_annotations", "Latest versions of videos, by status.", ["status"], registry=mine
        )
        self._broker_up = Gauge("moodreel_broker_up", "Whether the broker takes messages.", registry=mine)
        self._posts = Counter("moodreel_hook_posts_total", "Posts to hooks, by outcome.", ["outcome"], registry=mine)
        for outcome in ("delivered", "failed", "dead"):
            self._posts.labels(outcome)  # so that the first of them is an increase too
        self._events = Counter(
            "moodreel_bucket_messages_total", "Messages of buckets taken, by outcome.", ["outcome"], registry=mine
        )
        for outcome in ("done", "left"):
            self._events.labels(outcome)
        self._hook_events = Gauge("moodreel_hook_events", "Events that wait for their hooks.", registry=mine)
        self._hook_seconds = Gauge("moodreel_hook_wait_seconds", "How long the oldest of them waits.", registry=mine)

    def sent(self, due: Sequence[DueJob]) -> None:
        """Messages were sent."""
        for item in due:
            self._sent.labels(item.job.kind).inc()
        self._resent.inc(sum(item.resent for item in due))

    def broker_is(self, up: bool) -> None:
        """The broker took messages, or did not."""
        self._broker_up.set(up)

    def posted(self, outcome: str, count: int = 1) -> None:
        """Events were posted to hooks: `delivered`, `failed`, or `dead`, which is given up."""
        self._posts.labels(outcome).inc(count)

    def took(self, outcome: str, count: int) -> None:
        """Messages of buckets were taken from their queue: `done`, or `left` to it, which gives them again."""
        self._events.labels(outcome).inc(count)

    def refresh(self, store: Store) -> None:
        """Count anew.

        Raises:
            DatabaseError: the database cannot be asked.
        """
        fleet, status = store.fleet(), store.status()
        self._queue_seconds.set(store.queued_seconds())
        events, seconds = store.hook_backlog()
        self._hook_events.set(events)
        self._hook_seconds.set(seconds)
        for kind in JOB_KINDS:
            self._queue_jobs.labels(kind).set(fleet.jobs.get(kind, 0))
        self._workers.set(sum(worker.kind == "worker" for worker in fleet.workers))
        for name in (*ANNOTATION_STATUSES, Expired.code):
            self._annotations.labels(name).set(status.annotations.get(name, 0))

    def serve(self, port: int, host: str) -> None:
        """Let Prometheus read them.

        Raises:
            BadOption: nothing can listen there.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]
        try:
            start_http_server(port, host, registry=self.registry)
        except (OSError, OverflowError) as error:
            raise BadOption(f"no metrics can be served at {host}:{port}: {error}") from error

    def run(self, store: Store, stop: Event) -> None:
        """Count anew every now and then, until told to stop."""
        while not stop.is_set():
            try:
                self.refresh(store)
            except DatabaseError as error:
                _log.warning("the queue could not be counted: %s", error)
            stop.wait(REFRESH_SECONDS)
