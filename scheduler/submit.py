"""The command `moodreel submit`: find videos and put them into the fleet's queue."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TypeVar

from rich.console import Console

from db.errors import DatabaseLocked, DatabaseUnreachable, MoodreelError
from db.identity import Source
from db.rows import Pipeline, Submitted
from db.store import Store
from scheduler.actor import actor
from scheduler.cli import EXIT_FAILED, print_json, stderr
from scheduler.progress import bars
from scheduler.render import complain
from scheduler.show import open_existing
from scheduler.sources import ANY, find
from scheduler.wanted import Wanted

SOURCES_AT_ONCE = 500
POLL_SECONDS = 2.0

_T = TypeVar("_T")


def run(
    paths: Sequence[str],
    db_url: str,
    pipeline: str | None,
    priority: int,
    *,
    wait: bool,
    as_json: bool,
    wanted: Wanted = ANY,
) -> int:
    """Submit and print what became of it; returns the exit status.

    Raises:
        PipelineUnknown: no pipeline has this name, or there are several to choose from.
        DatabaseError: the database refuses; what was submitted until then stays in the queue.
    """
    errors: list[MoodreelError] = []
    total = Submitted()
    awaited: dict[str, Source] = {}
    with open_existing(db_url) as store:
        chosen = store.pipeline_named(pipeline)
        subject = {"pipeline": chosen.digest, "priority": priority}
        with store.audited(actor(), "submit", subject) as counts:
            for some in batches(find(paths, wanted)):
                sources = [item for item in some if isinstance(item, Source)]
                for error in (item for item in some if isinstance(item, MoodreelError)):
                    errors.append(error)
                    complain(stderr(), error.code, str(error), error.hint)
                total = plus(total, store.submit(chosen.id, sources, priority))
                awaited |= {source.uri: source for source in sources} if wait else {}
            counts |= asdict(total)
        if not as_json:
            Console().print(describe(total), highlight=False)
        warn_if_nobody_feeds(store)
        ended = _wait(store, chosen, awaited, quiet=as_json)
    if as_json:
        told = [{"code": error.code, "message": str(error)} for error in errors]
        document = {"pipeline": chosen.name, "digest": chosen.digest, **asdict(total), "errors": told}
        print_json({**document, "ended": ended} if wait else document)
    elif wait:
        Console().print(", ".join(f"{n} {status}" for status, n in ended.items()), highlight=False)
    return EXIT_FAILED if errors or ended["failed"] else 0


def _wait(store: Store, pipeline: Pipeline, awaited: dict[str, Source], *, quiet: bool) -> dict[str, int]:
    """Wait until all of them are through, complaining of those that failed; how many are done and failed."""
    counts = {"done": 0, "failed": 0}
    with bars(stderr(), len(awaited), quiet=quiet) as progress:
        while awaited:
            began = time.monotonic()
            try:
                ended = store.ended(pipeline.id, {uri: source.version for uri, source in awaited.items()})
            except (DatabaseUnreachable, DatabaseLocked) as error:
                complain(progress.console, error.code, f"{error}; asked again")
                ended = {}
            for uri, annotation in ended.items():
                counts[annotation.status] += 1
                progress.finish(awaited.pop(uri))
                if annotation.status == "failed":
                    message = annotation.error_message or ""
                    said = message if uri in message else f"{uri}: {message}"
                    complain(progress.console, annotation.error_code or "", said)
            if awaited:
                time.sleep(max(POLL_SECONDS, 10 * (time.monotonic() - began)))
    return counts


def batches(items: Iterable[_T]) -> Iterator[list[_T]]:
    """So many at a time that none of them takes the database long."""
    waiting = iter(items)
    while some := list(islice(waiting, SOURCES_AT_ONCE)):
        yield some


def plus(one: Submitted, other: Submitted) -> Submitted:
    """What became of both."""
    return Submitted(**{name: n + getattr(other, name) for name, n in asdict(one).items()})


def describe(total: Submitted) -> str:
    """Counts for people."""
    said = {"new": "new", "waiting": "in the queue already", "again": "tried again", "done": "done already"}
    told = ", ".join(f"{getattr(total, name)} {words}" for name, words in said.items())
    return f"{told}; {total.forgotten} left out, since they were forgotten" if total.forgotten else told


def warn_if_nobody_feeds(store: Store) -> None:
    """Say so where no scheduler has shown itself lately."""
    if not any(worker.kind == "scheduler" for worker in store.workers()):
        stderr().print(
            "No scheduler is running: nothing will be handed out until `moodreel watch` runs.",
            style="yellow",
            soft_wrap=True,
        )
