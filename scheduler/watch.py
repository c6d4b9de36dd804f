"""The command `moodreel watch`: the scheduler as a service. It feeds the workers, and finds new and changed videos."""

import logging
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event, Thread

from db.errors import BadOption, DatabaseError, DatabaseNewer, MoodreelError, NoVideos, PipelineUnknown
from db.identity import ObjectName, Source
from db.rows import Pipeline
from db.store import Store
from scheduler.buckets import BucketWatcher
from scheduler.cli import EXIT_FAILED
from scheduler.deliver import Deliverer
from scheduler.feeder import Feeder
from scheduler.ingest import EventQueue, Ingest
from scheduler.metrics import Metrics
from scheduler.queue import Queue
from scheduler.retention import Keeper
from scheduler.sources import ANY, find
from scheduler.submit import batches
from scheduler.wanted import Wanted

STOP_SECONDS = 10.0  # for threads to end; one may hang for ever, in a share that does not answer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """What the user asked for; see `moodreel watch --help`."""

    db_url: str
    broker_url: str
    folders: tuple[str, ...] = ()
    pipeline: str | None = None
    priority: int = 5
    every_seconds: float = 10.0
    settle_seconds: float = 5.0
    wanted: Wanted = ANY
    events: str | None = None
    reconcile_every_seconds: float = 6 * 3600.0
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    log_format: str = "json"

    @property
    def places(self) -> tuple[ObjectName, ...]:
        """Those of the folders that are of buckets."""
        return tuple(place for folder in self.folders if (place := ObjectName.of(folder)))

    @property
    def local_folders(self) -> tuple[str, ...]:
        """The others."""
        return tuple(folder for folder in self.folders if not ObjectName.of(folder))


def run(options: WatchOptions) -> int:
    """Feed and watch until SIGTERM or SIGINT; returns the exit status.

    Raises:
        BadOption: the broker's URL or the metrics' address cannot be used, or there is no bucket to have events of.
        PipelineUnknown: there are folders to watch, but the pipeline is not registered.
        DatabaseError: the database cannot be opened.
    """
    from worker import logs

    stop, metrics = Event(), Metrics()
    with Store(options.db_url) as store:
        queue = Queue(options.broker_url)
        feeder = Feeder(store, queue, metrics)
        deliverer = Deliverer(store, feeder.name, metrics)
        jobs: list[Callable[[], object]] = [
            lambda: feeder.run(stop),
            lambda: deliverer.run(stop),
            lambda: Keeper(store).run(stop),
        ]
        folders, places = options.local_folders, options.places
        if options.events and not places:
            raise BadOption("--events tells of buckets, and none is to be watched", "Name s3://BUCKET/PREFIX too.")
        if folders or places:
            pipeline = store.pipeline_named(options.pipeline)
        if folders:
            watcher = Watcher(store, pipeline, options)
            jobs.append(lambda: watcher.run(stop))
        if places:
            buckets = BucketWatcher(store, places, options.pipeline, options.priority, options.wanted)
            every_seconds = options.reconcile_every_seconds if options.events else options.every_seconds
            jobs.append(lambda: buckets.run(stop, every_seconds))
        if options.events:
            ingest = Ingest(EventQueue(options.events), buckets, metrics)
            jobs.append(lambda: ingest.run(stop))
        if options.metrics_port is not None:
            metrics.serve(options.metrics_port, options.metrics_host)
            jobs.append(lambda: metrics.run(store, stop))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        logs.set_up(options.log_format)
        _log.info("started", extra={"database": store.name, "folders": list(options.folders)})
        all_is_well = together(jobs, stop)
        queue.close()
    _log.info("stopped")
    return 0 if all_is_well else EXIT_FAILED


def together(jobs: Sequence[Callable[[], object]], stop: Event) -> bool:
    """Run each in a thread of its own until told to stop; False if one of them broke, which stops the others."""
    broken: list[Exception] = []

    def run_one(job: Callable[[], object]) -> None:
        try:
            job()
        except MoodreelError as error:
            _log.critical("%s", error, extra={"code": error.code})
            broken.append(error)
        except Exception as error:  # noqa: BLE001 - a service that does half of its work must end, and be started anew
            _log.critical("the scheduler went wrong", exc_info=error)
            broken.append(error)
        finally:
            stop.set()

    threads = [Thread(target=run_one, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    stop.wait()
    until = time.monotonic() + STOP_SECONDS
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return not broken


class Watcher:
    """Finds new and changed videos in folders, and submits them.

    Of each video it remembers 64 bits: a hash of URI and version. What it has not seen before is asked of the database;
    what is not known there either must be the same in two looks, and not have been written to just now.

    Args:
        store: where to submit.
        pipeline: for which.
        options: which folders, and how.
    """

    def __init__(self, store: Store, pipeline: Pipeline, options: WatchOptions) -> None:
        self._store, self._pipeline, self._options = store, pipeline, options
        self._known: set[int] = set()  # submitted, in this version
        self._waiting: set[int] = set()  # found by the last look, not submitted yet
        self._complaints: set[str] = set()  # what was wrong at the last look

    def run(self, stop: Event) -> None:
        """Look again and again, until told to stop, whatever the database does.

        Raises:
            DatabaseNewer: the database has tables that this moodreel does not know.
        """
        while not stop.is_set():
            try:
                self.look(stop)
            except DatabaseNewer:
                raise
            except (DatabaseError, PipelineUnknown) as error:
                _log.warning("looked in vain: %s", error, extra={"code": error.code})
            stop.wait(self._options.every_seconds)

    def look(self, stop: Event | None = None) -> int:
        """Look once; how many videos were submitted.

        What was known and is not there any more is forgotten here, and only here: the database keeps it.
        """
        pipeline = self._store.pipeline_named(self._options.pipeline)
        if pipeline.id != self._pipeline.id:  # the name means another one by now
            _log.info("the pipeline is another one now: %s", pipeline.name)
            self._pipeline, self._known = pipeline, set()
        known: set[int] = set()
        waiting: set[int] = set()
        complaints: set[str] = set()
        submitted = 0
        for some in batches(find(self._options.local_folders, self._options.wanted)):
            if stop is not None and stop.is_set():
                return submitted
            complaints |= self._complain([item for item in some if isinstance(item, MoodreelError)])
            found = {_key(item): item for item in some if isinstance(item, Source)}
            known |= found.keys() & self._known
            ready = self._ready({key: item for key, item in found.items() if key not in self._known})
            submitted += self._submit([found[key] for key, is_ready in ready.items() if is_ready])
            known |= {key for key, is_ready in ready.items() if is_ready is not False}
            waiting |= {key for key, is_ready in ready.items() if is_ready is False}
        self._known, self._waiting, self._complaints = known, waiting, complaints
        return submitted

    def _ready(self, found: dict[int, Source]) -> dict[int, bool | None]:
        """Whether each of these may be submitted now; None: it was, long ago."""
        fresh = {source.uri: source.version for key, source in found.items() if key not in self._waiting}
        asked = self._store.asked_for(self._pipeline.id, fresh) if fresh else set()
        return {
            key: None if source.uri in asked else key in self._waiting and self._is_settled(source)
            for key, source in found.items()
        }

    def _is_settled(self, source: Source) -> bool:
        return not 0 <= time.time() - source.modified_at_seconds < self._options.settle_seconds

    def _submit(self, sources: list[Source]) -> int:
        done = self._store.submit(self._pipeline.id, sources, self._options.priority, again=False)
        for source in sources:
            _log.info("submitted", extra={"video": source.uri, "version": source.version})
        return done.new + done.waiting + done.done + done.failed

    def _complain(self, errors: Sequence[MoodreelError]) -> set[str]:
        """Log what is wrong with paths, each complaint once for as long as it lasts."""
        said = {f"{error.code}: {error}" for error in errors if not isinstance(error, NoVideos)}
        for complaint in sorted(said - self._complaints):
            _log.warning("%s; what is in the database stays", complaint)
        return said


def _key(source: Source) -> int:
    return hash((source.uri, source.version))
