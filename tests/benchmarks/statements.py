"""What a run of `moodreel annotate` spends in the database: `python -m tests.benchmarks.statements ARGUMENT...`.

It runs the command line with these arguments in this process and prints, as the last line, what it took as JSON: the
whole run's seconds, those inside transactions (from BEGIN to the end of COMMIT, with the building of statements, the
reading of rows, and the waiting for locks), and of these, those in which the driver ran statements. Transactions of
several threads at once count each by itself, so the share is never said too small.

`planted` makes a database in which many videos are done already, for runs that have nothing left to do.
"""

import io
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.identity import Source
from db.session import Database
from db.store import Store
from db.tables import annotations, pipelines, segments, videos
from scheduler import cli

_LOCK = threading.Lock()


class Spent:
    """Sums seconds and counts, in all threads."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.times: Counter[str] = Counter()

    def add(self, name: str, seconds: float) -> None:
        with _LOCK:
            self.seconds[name] += seconds
            self.times[name] += 1

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)


def watch(spent: Spent) -> None:
    """Time every transaction and statement of this process from now on."""
    for name in ("reading", "writing"):
        setattr(Database, name, _timed(getattr(Database, name), spent))
    started = threading.local()  # a thread runs one statement at a time

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def before(*_: Any) -> None:
        started.at = time.perf_counter()

    @sa.event.listens_for(sa.Engine, "after_cursor_execute")
    def after(*_: Any) -> None:
        spent.add("statements", time.perf_counter() - started.at)


def _timed(transaction: Callable[[Any], AbstractContextManager[Any]], spent: Spent) -> Callable[[Any], Any]:
    @contextmanager
    def timed(database: Database) -> Iterator[sa.Connection]:
        with spent.timing("transactions"), transaction(database) as connection:
            yield connection

    return timed


def planted(folder: Path, count: int, url: str, recipe: Any) -> None:
    """Make files of a few bytes in a folder, and a database in which a recipe has annotated each.

    Each has one segment, without an emotion.
    """
    folder.mkdir()
    sources = []
    for number in range(count):
        path = folder / f"{number:06}.mp4"
        path.write_bytes(b"%d" % number)
        sources.append(Source.of(path, path.stat()))
    identity, now = recipe.identity, sa.func.current_timestamp()
    with Store(url) as store, store.writing() as connection:
        pipeline = {"digest": identity.digest, "windows_digest": identity.windows_digest, "name": identity.name}
        connection.execute(sa.insert(pipelines).values(id=1, config=identity.config, created_at=now, **pipeline))
        ids = range(1, count + 1)
        rows = [
            {"id": i, "uri": s.uri, "version": s.version, "size_bytes": s.size_bytes}
            for i, s in zip(ids, sources, strict=True)
        ]
        connection.execute(sa.insert(videos).values(created_at=now, updated_at=now), rows)
        rows = [{"id": i, "video_id": i, "version": s.version} for i, s in zip(ids, sources, strict=True)]
        done = {"pipeline_id": 1, "status": "done", "attempts": 1, "duration_seconds": 2.0}
        connection.execute(sa.insert(annotations).values(created_at=now, completed_at=now, **done), rows)
        connection.execute(sa.update(videos).values(current_annotation_id=videos.c.id))
        piece = {"segment_index": 0, "start_seconds": 0.0, "end_seconds": 2.0, "emotion": None}
        connection.execute(sa.insert(segments).values(piece), [{"annotation_id": i} for i in ids])


def _run(arguments: Sequence[str]) -> None:
    """The command line, which may leave by its exit status.

    Raises:
        SystemExit: with another status than 0.
    """
    try:
        cli.main(arguments)
    except SystemExit as stop:
        if stop.code:
            raise


def main(*arguments: str) -> None:
    """Run, and print what it took."""
    spent = Spent()
    watch(spent)
    with redirect_stdout(io.StringIO()), spent.timing("run"):
        _run(arguments)
    print(json.dumps({"seconds": spent.seconds, "times": spent.times}))


if __name__ == "__main__":
    main(*sys.argv[1:])
