"""Keeps the rows as the buckets are: by listing them, and by looking at those objects that something happened to.

Whatever is written about an object that somebody else may be writing about too, another scheduler for one, is followed
by another look at it. So whoever writes last has looked last, and the row ends up as the object is.
"""

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from multiprocessing.pool import ThreadPool
from threading import Event

from db.errors import DatabaseError, DatabaseNewer, EquipmentError, MoodreelError, PipelineUnknown
from db.identity import ObjectName, Source, printable
from db.store import Store
from scheduler.objects import Found, is_wanted, lies_in, listed, look_at
from scheduler.submit import batches
from scheduler.wanted import Wanted

LOOKS_AT_ONCE = 8
AGAIN_SECONDS = 60.0  # after a listing that failed

_log = logging.getLogger(__name__)


class BucketWatcher:
    """Submits what is new or changed in buckets, and marks as gone what is not there any more.

    Remembers nothing of any object, so that there may be any number of them.

    Args:
        store: where to submit.
        places: objects, or how the names of those to watch begin.
        pipeline: the name of the pipeline; None: the only one.
        priority: of what is submitted.
        wanted: which objects.
    """

    def __init__(
        self, store: Store, places: Sequence[ObjectName], pipeline: str | None, priority: int, wanted: Wanted
    ) -> None:
        self._store, self._pipeline, self._priority = store, pipeline, priority
        self._places = tuple(dict.fromkeys(places))
        self._wanted = wanted.as_search()
        self._complaints: set[str] = set()  # what was wrong with the last listing

    def run(self, stop: Event, every_seconds: float) -> None:
        """List again and again, until told to stop, whatever the store and the database do.

        Raises:
            DatabaseNewer: the database has tables that this moodreel does not know.
        """
        while not stop.is_set():
            began, is_complete = time.monotonic(), False
            try:
                is_complete = self.reconcile(stop)
            except DatabaseNewer:
                raise
            except (DatabaseError, PipelineUnknown) as error:
                _log.warning("listed in vain: %s", error, extra={"code": error.code})
            if is_complete:
                _log.debug("listed", extra={"seconds": round(time.monotonic() - began, 3)})
            stop.wait(every_seconds if is_complete else min(AGAIN_SECONDS, every_seconds))

    def reconcile(self, stop: Event | None = None) -> bool:
        """List all places, submit what the database does not have, and mark what is gone; whether all was listed.

        Raises:
            DatabaseError: the database refuses.
            PipelineUnknown: the pipeline is not registered.
        """
        failures: list[str] = []
        archived: list[str] = []
        for place in self._places:
            try:
                if n_archived := self._reconcile(place, stop):
                    archived.append(f"{printable(place.uri)}: {n_archived} objects lie in an archive tier")
            except (DatabaseError, PipelineUnknown):
                raise
            except MoodreelError as error:
                failures.append(f"{error.code}: {error}")
        complaints = {*failures, *archived}
        for complaint in sorted(complaints - self._complaints):
            _log.warning("%s; what is in the database stays", complaint)
        self._complaints = complaints
        return not failures

    def _reconcile(self, place: ObjectName, stop: Event | None) -> int:
        """List one place; how many videos of it cannot be read for being in an archive."""
        after, n_archived = "", 0
        for some in batches(listed(place)):
            if stop is not None and stop.is_set():
                return n_archived
            wanted = [found for found in some if self._is_wanted(found, place)]
            n_archived += sum(found.is_archived for found in wanted)
            self._take([found.source for found in wanted if not found.is_archived])
            uris = {found.name.uri for found in some}
            upto = max(uris)
            self._check(uri for uri in self._store.present(place.uri, after, upto) if uri not in uris)
            after = max(after, upto)
        self._check(self._store.present(place.uri, after, None))
        return n_archived

    def _take(self, sources: Sequence[Source]) -> None:
        """Submit what a listing brought; what the database has in another version is looked at first."""
        pipeline = self._store.pipeline_named(self._pipeline)
        versions = {source.uri: source.version for source in sources}
        asked = self._store.asked_for(pipeline.id, versions)
        changed = self._store.changed({uri: version for uri, version in versions.items() if uri not in asked})
        self._submit(pipeline.id, [s for s in sources if s.uri not in asked and s.uri not in changed])
        self._check(changed)

    def _check(self, uris: Iterable[str]) -> None:
        """Look at objects which are not as the database has them; something may have come since the listing.

        Raises:
            EquipmentError: the store is out of reach.
        """
        for some in batches(uris):
            refused = self.settle(_named(some))
            for error in refused.values():
                if isinstance(error, EquipmentError):
                    raise error
            for name, error in islice(refused.items(), 1):
                what = f"{len(refused)} objects may not be looked at, such as {printable(name.uri)}"
                _log.warning("%s: %s", what, error, extra={"code": error.code})

    def settle(self, names: Collection[ObjectName]) -> dict[ObjectName, MoodreelError]:
        """Let the rows say of these objects what is there now; those that could not be looked at, and why.

        Raises:
            DatabaseError: the database refuses.
            PipelineUnknown: the pipeline is not registered.
        """
        refused: dict[ObjectName, MoodreelError] = {}
        written: dict[ObjectName, Found | None] = {}
        left = set(names)
        while left:
            now = _look(left)
            refused |= {name: found for name, found in now.items() if isinstance(found, MoodreelError)}
            seen = {name: found for name, found in now.items() if not isinstance(found, MoodreelError)}
            left = self._write({k: found for k, found in seen.items() if k not in written or written[k] != found})
            written |= {name: seen[name] for name in left}
        return refused

    def _write(self, seen: Mapping[ObjectName, Found | None]) -> set[ObjectName]:
        """Store what is there now; the objects of which that was news."""
        gone = self._store.mark_gone([name.uri for name, found in seen.items() if found is None])
        for uri in sorted(gone):
            _log.info("gone", extra={"video": uri})
        there = [found for found in seen.values() if found and any(self._is_wanted(found, p) for p in self._places)]
        for found in there:
            if found.is_archived:
                _log.info("lies in an archive tier", extra={"video": found.name.uri})
        sources = [found.source for found in there if not found.is_archived]
        pipeline = self._store.pipeline_named(self._pipeline)
        asked = self._store.asked_for(pipeline.id, {source.uri: source.version for source in sources})
        new = [source for source in sources if source.uri not in asked]
        self._submit(pipeline.id, new)
        return _named(gone) | _named(source.uri for source in new)

    def _submit(self, pipeline_id: int, sources: Sequence[Source]) -> None:
        self._store.submit(pipeline_id, sources, self._priority, again=False)
        for source in sources:
            _log.info("submitted", extra={"video": source.uri, "version": source.version})

    def is_watched(self, name: ObjectName) -> bool:
        """Whether an object lies in one of the places."""
        return any(lies_in(name, place) for place in self._places)

    def _is_wanted(self, found: Found, place: ObjectName) -> bool:
        return found.name == place or is_wanted(found, place, self._wanted)


def _look(names: Collection[ObjectName]) -> dict[ObjectName, Found | MoodreelError | None]:
    def look(name: ObjectName) -> Found | MoodreelError | None:
        try:
            return look_at(name)
        except MoodreelError as error:
            return error

    first, *rest = names
    found = {first: look(first)}  # alone, since it may have to make the client that all of them share
    if rest:
        with ThreadPool(min(LOOKS_AT_ONCE, len(rest))) as pool:
            found |= zip(rest, pool.map(look, rest), strict=True)
    return found


def _named(uris: Iterable[str]) -> set[ObjectName]:
    return {name for uri in uris if (name := ObjectName.of(uri))}
