"""How long the fleet's questions take on PostgreSQL, with a million videos asked for and many of them begun.

    python -m tests.benchmarks.queue --asked 1000000 --begun 100000

Prints the median of each, and fails where an index that it ought to use is not used.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from db.identity import Source
from db.rows import FINISH, PLAN, SPAN, Job, Worker
from db.store import Store
from tests.benchmarks.fusing import databases

RUNS = 20
ROOM = 256  # messages, as for 128 slots
SPANS = 3  # of each video that is begun
LEASED = 1000  # spans at work
READY = 200  # videos of which only the finishing is missing
SOURCES = ("/nas/", "/nas/slow/", "/disk/")

# Most that each may take, milliseconds; None: no bound.
BOUNDS: dict[str, float | None] = {
    "take_due": 20.0,
    "take_due, sources full": 20.0,
    "take_due, all backed off": None,
    "outstanding": 5.0,
    "claim_step plan": 5.0,
    "claim_span": 5.0,
    "claim_step finish": 5.0,
    "renew_all of 16": 20.0,
    "give_back": 5.0,
    "fail_job": 5.0,
    "fleet": 1000.0,
    "status": None,
    "submit of 500 known": None,
    "cancel of one": None,
    "limit_source, anew": None,
}


def ask(store: Store, count: int) -> float:
    """Ask for videos, a quarter of them on a slow share; rows a second."""
    pipeline_id = store.register_pipeline("d", "w", "bench", {})
    began = time.perf_counter()
    for first in range(0, count, 10_000):
        numbers = range(first, min(first + 10_000, count))
        store.submit(pipeline_id, [Source(_uri(n), "1", 10_000_000, 0.0) for n in numbers], n_priority(first))
    return count / (time.perf_counter() - began)


def n_priority(first: int) -> int:
    return first // 10_000 % 3 - 1


def _uri(number: int) -> str:
    folder = SOURCES[1] if number % 4 == 0 else SOURCES[0]
    return f"{folder}{number // 1000}/{number}.mp4"


BEGUN = (
    "UPDATE annotations SET status = 'running', epoch = 1, attempts = 1 WHERE id <= {begun}",
    """INSERT INTO spans (annotation_id, span_index, first_window, last_window, start_seconds, end_seconds, status,
        epoch, attempts, windows_done, completed_at)
    SELECT id, s, s * 600, (s + 1) * 600, s * 600, (s + 1) * 600,
        CASE WHEN s = 0 THEN 'done' ELSE 'pending' END, 1, 0, 0,
        CASE WHEN s = 0 THEN EXTRACT(EPOCH FROM clock_timestamp()) - random() * 86400 END
    FROM annotations, generate_series(0, {spans} - 1) s WHERE id <= {begun}""",
    """UPDATE spans SET status = 'running', lease_owner = 'w', attempts = 1,
        lease_until = EXTRACT(EPOCH FROM clock_timestamp()) + 36000
    WHERE span_index = 1 AND annotation_id <= {leased}""",
    "UPDATE spans SET status = 'done' WHERE annotation_id > {begun} - {ready}",
    "UPDATE annotations SET spans_done_at = 0 WHERE id > {begun} - {ready} AND id <= {begun}",
    "UPDATE videos SET duration_seconds = 1800 WHERE id <= {begun}",
)


def begin(store: Store, count: int) -> None:
    """Let the first so many videos be planned, and one span of each be done."""
    with store.writing() as connection:
        for statement in BEGUN:
            numbers = {"begun": count, "spans": SPANS, "leased": min(LEASED, count), "ready": min(READY, count // 10)}
            connection.execute(sa.text(statement.format(**numbers)))


def timed(do: Callable[[], Any], runs: int = RUNS) -> list[float]:
    """Milliseconds of each run."""
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        do()
        took.append(1000 * (time.perf_counter() - began))
    return took


def measure(store: Store, begun: int) -> dict[str, list[float]]:
    """Milliseconds of each question, `RUNS` times."""
    found: dict[str, list[float]] = {}
    store.beat(Worker(name="w", kind="worker", host="h", pid=1, version="0", slots=128))
    found["take_due"] = timed(lambda: store.take_due(ROOM, 300.0))
    found["outstanding"] = timed(store.outstanding)
    plans = iter(range(begun + 1, begun + 1000))
    claims: list[Any] = []
    found["claim_step plan"] = timed(lambda: claims.append(store.claim_step(Job(PLAN, next(plans)), "o", 60.0, 5)))
    spans = iter(range(min(LEASED, begun) + 1, begun))
    found["claim_span"] = timed(lambda: claims.append(store.claim_span(Job(SPAN, next(spans), 1), "o", 60.0, 5)))
    finishes = iter(range(begun - min(READY, begun // 10) + 1, begun))
    found["claim_step finish"] = timed(
        lambda: claims.append(store.claim_step(Job(FINISH, next(finishes)), "o", 60.0, 5))
    )
    assert None not in claims
    found["renew_all of 16"] = timed(lambda: store.renew_all(claims[RUNS : RUNS + 16], 60.0))
    held = iter(claims)
    found["give_back"] = timed(lambda: store.give_back(next(held)))
    found["fail_job"] = timed(
        lambda: store.fail_job(
            next(held), "internal", "x", permanent=False, max_attempts=5, delay_seconds=60.0, discard=False
        )
    )
    found["fleet"] = timed(store.fleet, 5)
    found["status"] = timed(store.status, 3)
    known = [Source(_uri(n), "1", 10_000_000, 0.0) for n in range(500)]
    found["submit of 500 known"] = timed(lambda: store.submit(1, known))
    found["cancel of one"] = timed(lambda: store.cancel([_uri(777)]), 3)
    found["limit_source, anew"] = timed(lambda: store.limit_source(SOURCES[0], 200), 1)
    store.limit_source(SOURCES[1], 50)
    found["take_due, sources full"] = timed(lambda: store.take_due(ROOM, 300.0))
    return found


PARTIAL = (
    "ix_annotations_to_plan",
    "ix_annotations_to_annotate",
    "ix_annotations_to_finish",
    "ix_annotations_sent_at",
    "ix_annotations_lease_until",
    "ix_spans_sent_at",
    "ix_spans_lease_until",
)


@contextmanager
def explained(store: Store) -> Iterator[list[str]]:
    """The plans of all queries that are made meanwhile."""
    plans: list[str] = []

    def explain(connection: sa.Connection, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "WITH")):
            told = cursor.connection.cursor().execute("EXPLAIN " + statement, parameters)
            plans.append(statement + "\n" + "\n".join(row[0] for row in told))

    sa.event.listen(store.engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        sa.event.remove(store.engine, "before_cursor_execute", explain)


def scans(store: Store) -> tuple[set[str], list[str]]:
    """The partial indexes that choosing uses, and the plans that read a whole table."""
    with explained(store) as plans:
        store.take_due(ROOM, 300.0)
        store.outstanding()
    used = {name for name in PARTIAL if any(name in plan for plan in plans)}
    return used, [plan for plan in plans if "Seq Scan on annotations" in plan or "Seq Scan on spans" in plan]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asked", type=int, default=1_000_000)
    parser.add_argument("--begun", type=int, default=100_000)
    options = parser.parse_args()
    console = Console()
    with databases() as urls, Store(urls["PostgreSQL"], lock_timeout_seconds=60.0) as store:
        speed = ask(store, options.asked)
        console.print(f"submit: {options.asked:,} videos, {speed:,.0f} a second")
        begin(store, options.begun)
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
        found = measure(store, options.begun)
        used, whole = scans(store)
    table = Table("question", "median, ms", "largest, ms", "bound, ms")
    slow = []
    for name, took in found.items():
        bound, median = BOUNDS[name], statistics.median(took)
        slow += [name] if bound is not None and median > bound else []
        table.add_row(name, f"{median:.1f}", f"{max(took):.1f}", "" if bound is None else f"{bound:.0f}")
    console.print(table)
    for plan in whole:
        console.print(plan)
    unused = [name for name in PARTIAL if name not in used]
    console.print(f"too slow: {', '.join(slow) or 'nothing'}; indexes not used: {', '.join(unused) or 'none'}")
    return int(bool(slow or unused or whole))


if __name__ == "__main__":
    sys.exit(main())
