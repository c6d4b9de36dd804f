"""How fast saved questions are answered, over 10 million windows (PostgreSQL) and 1 million (SQLite): `make questions`.

    python -m tests.benchmarks.questions                    both databases, into docs/questions.md and questions.json
    python -m tests.benchmarks.questions --windows 20000    both at this size, printed only

The archive is made in the database itself: videos of an hour, whose emotion changes every 40 windows, each annotated
twice. Each question is asked three times; the median counts, the first one warms caches. The plans are those that
`EXPLAIN` gives.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from db.asking import asked
from db.questions import QUESTIONS
from db.store import Store
from db.words import EMOTIONS
from tests.benchmarks.bench import machine
from tests.benchmarks.processes import ROOT
from tests.servers import PostgresServer

WINDOWS_A_VIDEO, SCENE_WINDOWS = 3600, 40
SIZES = {"PostgreSQL": 10_000_000, "SQLite": 1_000_000}
TIMES, LIMIT_SECONDS = 3, 600.0
PAGE = ROOT / "docs" / "questions.md"
VALUES = {"video": "/archive/00000007.mp4"}
DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "'8GB'"}
DURABLE |= {"checkpoint_timeout": "'30min'"}  # that the archive is made sooner; questions write nothing


def _series(dialect: str, name: str, count: int) -> str:
    """The numbers from 0 on, as a table with a column of this name."""
    if dialect == "postgresql":
        return f"(SELECT {name} FROM generate_series(0, {count - 1}) {name}) {name}_series"
    counted = f"WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < {count - 1})"
    return f"({counted} SELECT n AS {name} FROM s) {name}_series"


def _scores(label: str) -> str:
    """Eight probabilities, of which that of `label`, a number in SQL, is high."""
    return ", ".join(f"CASE WHEN {label} = {k} THEN 0.79 ELSE 0.03 END" for k in range(len(EMOTIONS)))


def _verdict(label: str) -> str:
    names = " ".join(f"WHEN {k} THEN '{name}'" for k, name in enumerate(EMOTIONS))
    return f"CASE {label} {names} END, 0.79, ({label} - 3.5) / 4.0, (3.5 - {label}) / 4.0"


def fill(store: Store, n_windows: int) -> int:
    """Make an archive of at least so many windows; how many they are."""
    dialect, n_videos = store.engine.dialect.name, -(-n_windows // WINDOWS_A_VIDEO)
    seconds = WINDOWS_A_VIDEO + 1.0
    scene = f"CAST(w / {SCENE_WINDOWS} AS INTEGER)" if dialect == "sqlite" else f"(w / {SCENE_WINDOWS})"
    label = f"((a.id * 7 + {scene} * (3 + a.id % 2)) % 8)"
    moment = (
        "'2020-01-01 00:00:00+00'::timestamptz + v * interval '18 hours'"
        if dialect == "postgresql"
        else "datetime('2020-01-01', '+' || (v * 18) || ' hours')"
    )
    number = "lpad(v::text, 8, '0')" if dialect == "postgresql" else "printf('%08d', v)"
    old, new = (store.register_pipeline(f"d{n}", f"w{n}", "compact", {}) for n in (1, 2))
    windows_of = f"annotations a CROSS JOIN {_series(dialect, 'w', WINDOWS_A_VIDEO)}"
    n_scenes = -(-WINDOWS_A_VIDEO // SCENE_WINDOWS)
    statements = [
        "INSERT INTO videos (uri, version, size_bytes, recorded_at, recorded_at_source, created_at, updated_at)"
        f" SELECT '/archive/' || {number} || '.mp4', '1', 1000000000, {moment}, 'container', {moment}, {moment}"
        f" FROM {_series(dialect, 'v', n_videos)}",
        *(
            "INSERT INTO annotations (video_id, version, pipeline_id, status, attempts, duration_seconds, created_at,"
            f" started_at, completed_at) SELECT id, '1', {pipeline}, 'done', 1, {seconds}, created_at, created_at,"
            f" updated_at FROM videos"
            for pipeline in (old, new)
        ),
        f"UPDATE videos SET current_annotation_id = (SELECT id FROM annotations WHERE video_id = videos.id"
        f" AND pipeline_id = {new})",
        f"INSERT INTO windows SELECT a.id, w, w, w + 2.0, CASE WHEN w % 11 = 0 THEN 'no_speech' ELSE 'ok' END, 'ok',"
        f" 0.9, 1.0, 1 + w % 3 / 2, {_none_where('w % 11 = 0', _scores(label))},"
        f" {_scores(f'(({label} + w % 13 / 12) % 8)')} FROM {windows_of} WHERE a.pipeline_id = {new}",
        f"INSERT INTO fused_windows SELECT a.id, w, {_verdict(label)}, {_scores(label)} FROM {windows_of}"
        f" WHERE a.pipeline_id = {new}",
        f"INSERT INTO segments SELECT a.id, w, w * {SCENE_WINDOWS}.0, (w + 1) * {SCENE_WINDOWS}.0,"
        f" {_verdict('((a.id * 7 + w * (3 + a.id % 2)) % 8)')}"
        f" FROM annotations a CROSS JOIN {_series(dialect, 'w', n_scenes)}",
    ]
    for statement in statements:
        with store.writing() as connection:
            connection.exec_driver_sql(statement.replace("%", "%%") if dialect == "postgresql" else statement)
    return n_videos * WINDOWS_A_VIDEO


def _none_where(condition: str, scores: str) -> str:
    return ", ".join(f"CASE WHEN {condition} THEN NULL ELSE {score} END" for score in scores.split(", "))


def measure(url: str, n_windows: int) -> dict[str, Any]:
    """Seconds of filling, and of each question with its plan."""
    began = time.perf_counter()
    with Store(url) as store:
        count = fill(store, n_windows)
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")
        dialect = store.engine.dialect.name
    filled = time.perf_counter() - began
    print(f"{dialect}: {count:,} windows in {filled:.0f} s", flush=True)
    found: dict[str, Any] = {}
    for question in QUESTIONS.values():
        given = question.given({name: VALUES[name] for name in question.values if name in VALUES})
        took, n_rows = [], 0
        for _ in range(TIMES):
            started = time.perf_counter()
            with asked(url, question.text(dialect), given, LIMIT_SECONDS) as answer:
                n_rows = sum(1 for _ in answer.rows)
            took.append(time.perf_counter() - started)
            if sum(took) > 60:
                break
        with asked(url, question.text(dialect), given, LIMIT_SECONDS, explain=True) as answer:
            plan = ["  ".join(map(str, row if dialect == "postgresql" else row[3:])) for row in answer.rows]
        found[question.name] = {"seconds": statistics.median(took), "rows": n_rows, "plan": plan}
        print(f"  {question.name}: {found[question.name]['seconds']:.3f} s, {n_rows} rows", flush=True)
    return {"windows": count, "filled_seconds": filled, "questions": found}


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """An empty database of each kind."""
    with tempfile.TemporaryDirectory(prefix="moodreel-") as folder:
        (Path(folder) / "pg").mkdir()
        with PostgresServer(Path(folder) / "pg", DURABLE) as server:
            yield {"SQLite": str(Path(folder) / "questions.db"), "PostgreSQL": server.create_database("questions")}


def page(found: dict[str, Any]) -> str:
    """docs/questions.md."""
    here = found["machine"]
    seconds = {kind: {name: q["seconds"] for name, q in found[kind]["questions"].items()} for kind in SIZES}
    sizes = ", ".join(f"{kind}: {found[kind]['windows']:,} windows" for kind in SIZES)
    parts = [
        "# How fast questions are answered",
        "",
        "Written by `make questions`; all figures are also in [questions.json](questions.json). Videos of an hour,",
        f"each annotated twice; {sizes}. Medians of three, in seconds.",
        f"{here['date']}, {here['cores']} cores ({here['cpu']}), {here['memory_gib']} GiB; PostgreSQL has a new",
        "server's settings for memory. The questions themselves: [sql.md](sql.md).",
        "",
        "| question | PostgreSQL | SQLite |",
        "|---|---:|---:|",
        *(f"| {name} | {seconds['PostgreSQL'][name]:.3f} | {seconds['SQLite'][name]:.3f} |" for name in QUESTIONS),
        "",
        "## Plans",
        "",
    ]
    for name in QUESTIONS:
        for kind in SIZES:
            parts += [f"{name}, {kind}:", "", "```", *found[kind]["questions"][name]["plan"], "```", ""]
    return "\n".join(parts)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--windows", type=int, help="so many on both; prints, writes nothing")
    given = parser.parse_args().windows
    with databases() as urls:
        found: dict[str, Any] = {kind: measure(url, given or SIZES[kind]) for kind, url in urls.items()}
    found["machine"] = machine("sqlalchemy")
    if given is None:
        PAGE.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        PAGE.write_text(page(found))
        print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
