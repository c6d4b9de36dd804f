"""Measures the fleet with simulated workers and writes docs/scale.md and docs/scale.json: `make scale`.

    python -m tests.benchmarks.scale            all of it, about ten minutes on two cores
    python -m tests.benchmarks.scale --quick    one short run, printed only

A real redis-server, a real PostgreSQL and a real scheduler; workers as `simulation.py` says. It needs Linux, whose
/proc it reads. It fails if a job fails or the queue runs dry.
"""

import argparse
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.identity import Source
from db.store import Store
from tests.benchmarks import simulation
from tests.benchmarks.bench import machine
from tests.benchmarks.processes import ROOT, busy_seconds, tree, tree_cpu_seconds
from tests.benchmarks.scale_page import as_json, page
from tests.servers import PostgresServer, RedisServer, ServerMissing
from worker.finish import register
from worker.recipe import Recipe

PATIENCE_SECONDS = 120.0  # for servers and workers to start, and for what is awaited in between
BACKLOG_VIDEOS = 20_000  # that wait behind those being annotated, so that choosing the next one costs something
MAX_CONNECTIONS = 400  # of PostgreSQL, which lets in 100 unless told otherwise
TABLES = ("windows", "fused_windows", "segments", "spans", "annotations", "videos")


class CannotMeasure(Exception):  # noqa: N818 - as in db/errors.py
    """A run did not go as it must to be measured."""


@dataclass(frozen=True)
class Case:
    """One fleet.

    Attributes:
        workers: processes, with one slot each.
        span_seconds: what a span of ten minutes takes them, but for the database.
        warm_seconds: after the last worker has shown itself, before measuring.
        seconds: measured.
        videos: in the queue.
    """

    workers: int
    span_seconds: float
    warm_seconds: float
    seconds: float
    videos: int = BACKLOG_VIDEOS


FULL = (
    Case(10, 50.0, 10.0, 100.0),
    Case(64, 50.0, 10.0, 100.0),
    Case(10, 10.0, 8.0, 40.0),
    Case(64, 10.0, 8.0, 40.0),
    Case(64, 4.0, 8.0, 40.0),
    Case(64, 2.0, 8.0, 30.0),
    Case(64, 0.0, 8.0, 30.0),
)
QUICK = (Case(8, 2.0, 3.0, 10.0),)


@dataclass(frozen=True)
class Servers:
    """The servers of a fleet."""

    postgresql: PostgresServer
    redis: RedisServer


@contextmanager
def servers() -> Iterator[Servers]:
    """A PostgreSQL with its usual settings, but for the number of connections; and a Redis.

    Raises:
        ServerMissing: one of them is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="moodreel-") as folder:
        for name in ("pg", "redis"):
            Path(folder, name).mkdir()
        with (
            PostgresServer(Path(folder, "pg"), {"max_connections": MAX_CONNECTIONS}) as postgresql,
            RedisServer(Path(folder, "redis")) as redis,
        ):
            postgresql.restart()  # or it would not know of them
            yield Servers(postgresql, redis)


def _wait_for(condition: Callable[[], Any], what: str) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > until:
            raise CannotMeasure(f"waited {PATIENCE_SECONDS:g} s for {what}")
        time.sleep(0.1)


@contextmanager
def database(servers: Servers) -> Iterator[str]:
    """URL of an empty database."""
    name = f"scale_{secrets.token_hex(4)}"
    try:
        yield servers.postgresql.create_database(name)
    finally:
        servers.postgresql.drop_database(name)


def submit(store: Store, videos: int) -> None:
    """Ask for the annotation of simulated videos."""
    recipe = Recipe(plan=simulation.PLAN)
    pipeline_id = register(store, recipe.identity)
    store.name_pipeline("simulated", pipeline_id, recipe.options)
    for first in range(0, videos, 1000):
        names = [f"/simulated/{number:07}.mp4" for number in range(first, min(first + 1000, videos))]
        store.submit(pipeline_id, [Source(name, "1", 500_000_000, 0.0) for name in names])


@dataclass(frozen=True)
class Fleet:
    """The processes of a run, and where they note down what they do."""

    case: Case
    notes: Path
    workers_pid: int
    feeder_pid: int

    def worker_notes(self) -> Iterator[list[dict[str, Any]]]:
        """What each worker process noted, in the order of time."""
        for path in self.notes.glob("*.worker"):
            yield [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def feeder_notes(self) -> list[dict[str, float]]:
        """One for each of the scheduler's rounds."""
        text = (self.notes / "feeder").read_text()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@contextmanager
def fleet(case: Case, servers: Servers, db_url: str) -> Iterator[Fleet]:
    """A scheduler and workers, which end at the end.

    Raises:
        CannotMeasure: they ended too early, or badly.
    """
    with tempfile.TemporaryDirectory(prefix="moodreel-") as folder, Path(folder, "log").open("wb") as log:
        notes = Path(folder)
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "NOTES": str(notes / "feeder")}
        command = [sys.executable, "-m", "tests.benchmarks.simulation"]
        common: dict[str, Any] = {"cwd": ROOT, "env": environment, "stdout": log, "stderr": log}
        common["start_new_session"] = True  # for which Linux may keep a share of the CPU
        feeder = subprocess.Popen([*command, "feeder", "--db", db_url, "--broker", servers.redis.url], **common)
        workers = subprocess.Popen([*command, "workers"], stdin=subprocess.PIPE, **common)
        processes = (workers, feeder)
        try:
            assert workers.stdin is not None
            with workers.stdin as stdin:
                stdin.write(simulation.settings_for(db_url, servers.redis.url, case.workers, case.span_seconds, notes))
            yield Fleet(case, notes, workers.pid, feeder.pid)
            if any(process.poll() is not None for process in processes):
                raise CannotMeasure("a process of the fleet ended too early")
        except BaseException:
            log.flush()
            sys.stderr.write((notes / "log").read_text()[-4000:])
            raise
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                if process.returncode is None:
                    for pid in reversed(tree(process.pid)):
                        os.kill(pid, signal.SIGKILL)
                    process.wait()


def run(case: Case, servers: Servers) -> dict[str, Any]:
    """One fleet at work, measured once it is in full swing.

    Raises:
        CannotMeasure: a job failed, or there was not enough to do.
    """
    servers.redis.flush()
    with database(servers) as url, Store(url) as store:
        submit(store, case.videos)
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")
        with fleet(case, servers, url) as running:
            _wait_for(lambda: _have_begun(running), f"{case.workers} workers")
            time.sleep(case.warm_seconds)
            before = _look(store, servers, running)
            peaks = _watch(case.seconds, store, servers)
            after = _look(store, servers, running)
            if not store.fleet().jobs.get("plan"):
                raise CannotMeasure(f"{case}: the queue ran dry")
            found = _measured(running, before, after) | peaks
        status = store.status()
        if status.failures:
            raise CannotMeasure(f"jobs failed: {status.failures}")
        return found | {"tables": _tables(store)}


def _have_begun(running: Fleet) -> bool:
    began = [bool(notes) and notes[-1]["job"] > 0 for notes in running.worker_notes()]
    return len(began) == running.case.workers and all(began)


def _look(store: Store, servers: Servers, running: Fleet) -> dict[str, float]:
    """Counters as they are now."""
    with store.reading() as connection:
        commits, rows = connection.exec_driver_sql(
            "SELECT xact_commit, tup_inserted + tup_updated + tup_deleted FROM pg_stat_database"
            " WHERE datname = current_database()"
        ).one()
        wal = connection.exec_driver_sql("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')").scalar_one()
    with servers.redis.client() as broker:
        info = broker.info()
    return {
        "at": time.monotonic(),
        "transactions": float(commits),
        "row_writes": float(rows),
        "wal_bytes": float(wal),
        "redis_commands": float(info["total_commands_processed"]),
        "redis_cpu": info["used_cpu_sys"] + info["used_cpu_user"],
        "postgresql_cpu": tree_cpu_seconds(servers.postgresql.pid),
        "feeder_cpu": tree_cpu_seconds(running.feeder_pid),
        "workers_cpu": tree_cpu_seconds(running.workers_pid),
        "measuring_cpu": sum(os.times()[:2]),
        "busy": busy_seconds(),
    }


def _watch(seconds: float, store: Store, servers: Servers) -> dict[str, int]:
    """Wait, and see how large what should stay small becomes."""
    connections = redis_bytes = messages = 0
    until = time.monotonic() + seconds
    with servers.redis.client() as broker:
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(2.0, left))
            with store.reading() as connection:
                query = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database()"
                connections = max(connections, connection.exec_driver_sql(query).scalar_one() - 1)  # but ours
            redis_bytes = max(redis_bytes, broker.info("memory")["used_memory"])
            messages = max(messages, sum(broker.llen(key) for key in broker.keys("moodreel*")))
    return {"connections": connections, "redis_bytes": redis_bytes, "messages_waiting": messages}


def _measured(running: Fleet, before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    case, passed = running.case, {name: after[name] - before[name] for name in before}
    shares: Counter[str] = Counter()
    jobs: Counter[str] = Counter()
    for notes in running.worker_notes():
        inside = [note for note in notes if before["at"] <= note["at"] <= after["at"]]
        first, last = inside[0], inside[-1]
        for state in simulation.STATES:
            shares[state] += (last[state] - first[state]) / (last["at"] - first["at"]) / case.workers
        jobs.update(last["jobs"])
        jobs.subtract(first["jobs"])
    bad = {job: count for job, count in jobs.items() if count and not job.endswith(" done")}
    if bad:
        raise CannotMeasure(f"{case}: jobs went wrong: {bad}")
    spans = jobs["annotate_span done"]
    if not spans:
        raise CannotMeasure(f"{case}: no span was done meanwhile")
    ticks = [tick for tick in running.feeder_notes() if before["at"] <= tick["at"] <= after["at"]]
    cores = {name: passed[f"{name}_cpu"] / passed["at"] for name in ("postgresql", "redis", "feeder", "workers")}
    ours = sum(passed[f"{name}_cpu"] for name in (*cores, "measuring"))
    return {
        **{name: value for name, value in asdict(case).items() if name != "warm_seconds"},
        "spans": spans,
        "spans_per_second": spans / passed["at"],
        "shares": {
            "simulated": shares["simulated"],
            "database": shares["database"],
            "other": shares["job"] - shares["simulated"] - shares["database"],
            "waiting": 1 - shares["job"],
        },
        "cores": cores | {"others": (passed["busy"] - ours) / passed["at"]},
        "per_span": {name: passed[name] / spans for name in passed if name not in ("at", "busy", "measuring_cpu")},
        "transactions_per_second": passed["transactions"] / passed["at"],
        "redis_commands_per_second": passed["redis_commands"] / passed["at"],
        "tick_seconds": statistics.median(tick["seconds"] for tick in ticks),
        "tick_seconds_max": max(tick["seconds"] for tick in ticks),
        "ticks_per_second": len(ticks) / passed["at"],
    }


def _tables(store: Store) -> dict[str, dict[str, float]]:
    """Rows of each table, and its bytes with and without indexes."""
    found = {}
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM")
        for name in TABLES:
            rows, total, heap, updates, hot = connection.exec_driver_sql(
                f"SELECT (SELECT COUNT(*) FROM {name}), pg_total_relation_size(relid), pg_table_size(relid),"
                f" n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = '{name}'"
            ).one()
            sizes = {"bytes": total, "bytes_without_indexes": heap}
            found[name] = {"rows": rows, **sizes, "updates": updates, "hot_updates": hot}
    return found


def measure(cases: tuple[Case, ...], servers: Servers, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Everything, as the JSON document has it.

    Raises:
        CannotMeasure: a run did not go as it must.
    """
    started = time.perf_counter()
    found: dict[str, Any] = {"machine": machine("celery", "psycopg", "redis", "sqlalchemy"), "runs": []}
    engine = sa.create_engine(servers.postgresql.url, poolclass=sa.NullPool)
    with engine.connect() as connection, servers.redis.client() as broker:
        found["machine"]["postgresql"] = connection.exec_driver_sql("SHOW server_version").scalar_one()
        found["machine"]["redis_server"] = broker.info("server")["redis_version"]
    for case in cases:
        one = run(case, servers)
        found["runs"].append(one)
        say(_line(one))
    best = max(found["runs"], key=lambda one: one["tables"]["windows"]["rows"])
    found["tables"] = best["tables"]
    for one in found["runs"]:
        del one["tables"]
    measured = json.loads((ROOT / "docs" / "performance.json").read_text())
    found["annotate"] = {name: measured[name] for name in ("runs", "stages")} | {"machine": measured["machine"]["runs"]}
    found["machine"]["measured_in_seconds"] = round(time.perf_counter() - started)
    return found


def _line(one: dict[str, Any]) -> str:
    shares = ", ".join(f"{name} {share:.1%}" for name, share in one["shares"].items())
    cores = ", ".join(f"{name} {used:.2f}" for name, used in one["cores"].items())
    return (
        f"{one['workers']} workers, {one['span_seconds']:g} s a span: {one['spans_per_second']:.2f} spans/s; {shares}; "
        f"cores: {cores}; PostgreSQL {1000 * one['per_span']['postgresql_cpu']:.1f} ms, "
        f"{one['per_span']['transactions']:.1f} transactions, {one['per_span']['wal_bytes'] / 1024:.0f} KiB of log, "
        f"{one['per_span']['redis_commands']:.0f} Redis commands a span; round {1000 * one['tick_seconds']:.1f} ms, "
        f"at most {1000 * one['tick_seconds_max']:.0f} ms; {one['connections']} connections"
    )


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short run; writes no page")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and workers end too
    try:
        with servers() as started:
            found = measure(QUICK if options.quick else FULL, started, lambda line: print(line, flush=True))
    except (CannotMeasure, ServerMissing) as error:
        sys.exit(str(error))
    if options.quick:
        print(page(found))
        return
    docs = ROOT / "docs"
    (docs / "scale.json").write_text(json.dumps(as_json(found), indent=2) + "\n")
    (docs / "scale.md").write_text(page(found))
    print(f"written: {docs / 'scale.md'} and scale.json")


if __name__ == "__main__":
    main()
