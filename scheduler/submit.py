"""The command `moodreel submit`: find videos and put them into the fleet's queue."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TypeVar

from rich.console import Console

from db.errors import MoodreelError
from db.identity import Source
from db.rows import Submitted
from db.store import Store
from scheduler.cli import EXIT_FAILED, print_json, stderr
from scheduler.render import complain
from scheduler.show import open_existing
from scheduler.sources import find

SOURCES_AT_ONCE = 500

_T = TypeVar("_T")


def run(paths: Sequence[str], db_url: str, pipeline: str | None, priority: int, *, as_json: bool) -> int:
    """Submit and print what became of it; returns the exit status.

    Raises:
        PipelineUnknown: no pipeline has this name, or there are several to choose from.
        DatabaseError: the database refuses; what was counted until then is in the queue.
    """
    errors: list[MoodreelError] = []
    total = Submitted()
    with open_existing(db_url) as store:
        chosen = store.pipeline_named(pipeline)
        for some in batches(find(paths)):
            sources = [item for item in some if isinstance(item, Source)]
            for error in (item for item in some if isinstance(item, MoodreelError)):
                errors.append(error)
                complain(stderr(), error.code, str(error), error.hint)
            total = plus(total, store.submit(chosen.id, sources, priority))
        warn_if_nobody_feeds(store)
    if as_json:
        told = [{"code": error.code, "message": str(error)} for error in errors]
        print_json({"pipeline": chosen.name, "digest": chosen.digest, **asdict(total), "errors": told})
    else:
        Console().print(describe(total), highlight=False)
    return EXIT_FAILED if errors else 0


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
    return ", ".join(f"{getattr(total, name)} {words}" for name, words in said.items())


def warn_if_nobody_feeds(store: Store) -> None:
    """Say so where no scheduler has shown itself lately."""
    if not any(worker.kind == "scheduler" for worker in store.workers()):
        stderr().print(
            "No scheduler is running: nothing will be handed out until `moodreel watch` runs.", style="yellow"
        )
