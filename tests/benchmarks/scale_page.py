"""docs/scale.md, out of what scale.py measured."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.benchmarks.simulation import PLAN

MAX_WAITING = 0.05
NOT_READING = ("audio model", "face network", "windows, rows, database, finish")  # of the stages; the others are
WORKERS = (10, 64, 500)


@dataclass(frozen=True)
class Archive:
    """What the arithmetic is about; the reader's own numbers go here.

    Attributes:
        hours: of video.
        hours_per_video: mean length.
        gpu_speed: seconds of video a second that a worker with one GPU does. Not measured: an assumption.
        gpu_slots: spans at once in such a worker.
        gpu_hour, core_hour, gigabyte_month: example prices.
    """

    hours: float = 1e6
    hours_per_video: float = 1.0
    gpu_speed: float = 200.0
    gpu_slots: int = 4
    gpu_hour: float = 2.0
    core_hour: float = 0.04
    gigabyte_month: float = 0.1


def arithmetic(found: dict[str, Any], archive: Archive) -> dict[str, float]:
    """Figures for an archive, out of what was measured for a span and for a row.

    Args:
        found: keys as in scale.json.
    """
    hop_seconds, span_seconds = PLAN.hop_ms / 1000, PLAN.span_ms / 1000
    busiest = max(found["runs"], key=lambda run: run["spans_per_second"])
    per_span = busiest["per_span"]
    runs = found["annotate"]["runs"]
    longest = max(runs, key=lambda run: run["seconds"])
    every = {height: sum(stages.values()) for height, stages in found["annotate"]["stages"].items()}
    others = {h: sum(stages[name] for name in NOT_READING) for h, stages in found["annotate"]["stages"].items()}
    reading = {height: every[height] - others[height] for height in every}
    picture_factor = every["1080p"] / every["360p"]
    hours, videos = archive.hours, archive.hours / archive.hours_per_video
    spans, rows = hours * 3600 / span_seconds, hours * 3600 / hop_seconds
    size = {name: table["bytes"] / table["rows"] for name, table in found["tables"].items()}
    segments_per_window = found["tables"]["segments"]["rows"] / found["tables"]["fused_windows"]["rows"]
    stored = {
        "windows": rows * size["windows"],
        "fused_windows": rows * size["fused_windows"],
        "segments": rows * segments_per_window * size["segments"],
        "spans": spans * size["spans"],
        "annotations": videos * size["annotations"],
        "videos": videos * size["videos"],
    }
    total = sum(stored.values())
    return {
        "videos": videos,
        "spans": spans,
        "messages": spans + 2 * videos,
        "rows": rows,
        "segments": rows * segments_per_window,
        **{f"bytes_{name}": value for name, value in stored.items()},
        "bytes": total,
        "wal_bytes": spans * per_span["wal_bytes"],
        "transactions": spans * per_span["transactions"],
        "postgresql_core_hours": spans * per_span["postgresql_cpu"] / 3600,
        "core_hours": hours * longest["cpu_seconds"] / longest["seconds"],
        "gpu_hours": hours / archive.gpu_speed,
        "reading_core_hours": hours * reading["360p"],
        "reading_cores_per_gpu": archive.gpu_speed * reading["360p"],
        "large_picture_factor": picture_factor,
        "cpu_speed": longest["speed"],
        "cpu_run_hours": longest["seconds"] / 3600,
        "cpu_price": hours * longest["cpu_seconds"] / longest["seconds"] * archive.core_hour,
        "gpu_price": hours / archive.gpu_speed * archive.gpu_hour,
        "reading_price": hours * reading["360p"] * archive.core_hour,
        "storage_price_month": total / 1e9 * archive.gigabyte_month,
    }


def page(found: dict[str, Any], archive: Archive | None = None) -> str:
    """The page; keys as in scale.json."""
    archive = archive or Archive()
    runs, figures = found["runs"], arithmetic(found, archive)
    parts = [
        "# Scale",
        _machine(found),
        "## Simulated workers",
        _method(),
        _waiting(runs),
        _verdict(runs),
        "## What it costs the servers",
        "Cores: CPU seconds a second. *Others* is what all else on the machine used meanwhile; where it is much, the "
        "waiting above is partly for the CPU. Milliseconds and counts are for one span, with its share of planning, "
        "finishing, heartbeats and the scheduler's questions.",
        _cores(runs),
        _load(runs),
        _rounds(runs),
        "## What limits it",
        _limits(found),
        f"## {archive.hours:,.0f} hours",
        _assumptions(found, archive, figures),
        _amounts(figures),
        _sizes(found),
        _fleets(found, archive, figures),
        _money(archive, figures),
        "## What to change then",
        _changes(found, figures),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machine(found: dict[str, Any]) -> str:
    machine = found["machine"]
    return (
        f"Written by `make scale` on {machine['date']}; the figures are also in [scale.json](scale.json). "
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, on which everything ran: servers, "
        f"scheduler and workers. PostgreSQL {machine['postgresql']}, Redis {machine['redis_server']}, Python "
        f"{machine['python']}, Celery {machine['celery']}, SQLAlchemy {machine['sqlalchemy']}, psycopg "
        f"{machine['psycopg']}. The load average before it was {machine['load_before']:.1f}."
    )


def _method() -> str:
    return (
        "One redis-server with an append-only file; one PostgreSQL with its usual settings (fsync on), but for the "
        "number of connections; one `moodreel watch`; and worker processes with one slot each. A worker is what "
        "`moodreel work` starts, but for this: no file is opened, and decoding and models are replaced by waiting for "
        "the seconds that the table names (each run of 120 windows up to 20 % more or less) and by made-up rows. "
        "Messages, claims, leases, heartbeats, checkpoints with all their windows, fusion and publishing are the real "
        "ones. Videos are an hour long, so each has six spans of ten minutes (`pipelines add --span 600`). The "
        "processes are forked from one that has imported everything. Measured is the full swing: from some seconds "
        "after the last worker has begun its first job."
    )


def _waiting(runs: Sequence[dict[str, Any]]) -> str:
    head = ("workers, seconds a span", "spans/s", "video h/h", "models", "database", "rest of a job", "waiting", "")
    rows = [
        (
            _name(run),
            f"{run['spans_per_second']:.2f}",
            f"{run['spans_per_second'] * PLAN.span_ms / 1000:,.0f}",
            *(f"{run['shares'][name]:.1%}" for name in ("simulated", "database", "other", "waiting")),
            "" if run["shares"]["waiting"] <= MAX_WAITING else "above 5 %",
        )
        for run in runs
    ]
    said = (
        "*Models* is the simulated work; *database* is the time inside a job that passes in its transactions; "
        "*waiting* is all time outside a job: for a message, and for the claim. A real worker decodes and judges on "
        "while windows are stored, a simulated one does not."
    )
    return _table(head, rows) + "\n\n" + said


def _name(run: dict[str, Any]) -> str:
    return f"{run['workers']}, {run['span_seconds']:g} s"


def _verdict(runs: Sequence[dict[str, Any]]) -> str:
    longest = max(run["span_seconds"] for run in runs)
    said = [
        f"with {run['workers']} workers they wait {run['shares']['waiting']:.1%} of the time"
        for run in runs
        if run["span_seconds"] == longest
    ]
    is_met = all(run["shares"]["waiting"] <= MAX_WAITING for run in runs if run["span_seconds"] == longest)
    return (
        f"Target: at most {MAX_WAITING:.0%} waiting where a span takes as long as it takes in earnest. At "
        f"{longest:g} s a span, about that of one CPU worker, {' and '.join(said)}: {'met' if is_met else 'missed'}."
    )


def _cores(runs: Sequence[dict[str, Any]]) -> str:
    names = ("postgresql", "redis", "feeder", "workers", "others")
    head = ("workers, seconds a span", "PostgreSQL", "Redis", "scheduler", "workers", "others")
    return _table(head, [(_name(run), *(f"{run['cores'][name]:.2f}" for name in names)) for run in runs])


def _load(runs: Sequence[dict[str, Any]]) -> str:
    head = (
        "workers, seconds a span",
        *("PostgreSQL ms", "transactions", "rows written", "log KiB"),
        *("Redis commands", "scheduler ms", "worker ms"),
        *("connections", "Redis MB"),
    )
    rows = [
        (
            _name(run),
            f"{1000 * run['per_span']['postgresql_cpu']:.1f}",
            f"{run['per_span']['transactions']:.1f}",
            f"{run['per_span']['row_writes']:,.0f}",
            f"{run['per_span']['wal_bytes'] / 1024:.0f}",
            f"{run['per_span']['redis_commands']:.0f}",
            f"{1000 * run['per_span']['feeder_cpu']:.1f}",
            f"{1000 * run['per_span']['workers_cpu']:.1f}",
            str(run["connections"]),
            f"{run['redis_bytes'] / 1e6:.1f}",
        )
        for run in runs
    ]
    return _table(head, rows)


def _rounds(runs: Sequence[dict[str, Any]]) -> str:
    videos, longest = max(run["videos"] for run in runs), max(run["tick_seconds_max"] for run in runs)
    low, high = (choose(run["tick_seconds"] for run in runs) for choose in (min, max))
    return (
        f"A round of the scheduler, in which it looks at Redis, chooses what is due out of {videos:,} videos and sends "
        f"messages, took {1000 * low:.0f} to {1000 * high:.0f} ms (medians of the runs), at most "
        f"{1000 * longest:.0f} ms. At most {max(run['messages_waiting'] for run in runs)} messages waited in Redis at "
        "once: it holds a few for each slot, however long the queue is."
    )


def _limits(found: dict[str, Any]) -> str:
    busiest = max(found["runs"], key=lambda run: run["spans_per_second"])
    per_span, cores = busiest["per_span"], found["machine"]["cores"]
    ours = sum(busiest["cores"][name] for name in ("postgresql", "redis", "feeder", "workers"))
    by_name = {"PostgreSQL": "postgresql_cpu", "a scheduler": "feeder_cpu", "Redis": "redis_cpu"}
    by_name |= {"the workers' own code, but for media and models": "workers_cpu"}
    rows = [
        (
            name,
            f"{1000 * per_span[key]:.2f}",
            f"{1 / per_span[key]:,.0f}",
            f"{PLAN.span_ms / 1000 / per_span[key]:,.0f}",
        )
        for name, key in by_name.items()
    ]
    return (
        f"The most that went through here was {busiest['spans_per_second']:.0f} spans a second ({_name(busiest)}), "
        f"with {ours:.1f} of the {cores} cores used by servers, scheduler and workers, and "
        f"{busiest['cores']['others']:.1f} by other programs: it is these cores that were at their end, and most of "
        "the waiting is for them. By the CPU that each took for a span then, one core could carry:\n\n"
        + _table(("", "ms a span", "spans/s with one core", "video h/h"), rows)
        + "\n\nPostgreSQL uses a core for each connection at work, so it grows with its machine until the disk is at "
        "its end; a scheduler and Redis use one core each."
    )


def _assumptions(found: dict[str, Any], archive: Archive, figures: dict[str, float]) -> str:
    machine = found["annotate"]["machine"]
    return (
        f"Measured: bytes, transactions and CPU seconds of PostgreSQL (above, the busiest run); the compact preset on "
        f"the CPU ({figures['cpu_speed']:.1f} seconds of video a second on {machine['cores']} cores, 360p, "
        f"{figures['cpu_run_hours']:g} h, from [performance.md](performance.md)). **Assumed**, for you to replace "
        "(`Archive` in `tests/benchmarks/scale_page.py`): videos of "
        f"{archive.hours_per_video:g} h; windows every second; {archive.gpu_speed:g} seconds of video a second for a "
        f"worker with one GPU and {archive.gpu_slots} slots, which nobody has measured; prices of "
        f"{archive.gpu_hour:g} for a GPU hour, {archive.core_hour:g} for the hour of a core and "
        f"{archive.gigabyte_month:g} for a GB and month, which are examples. With *V* for a worker's speed: a span "
        "takes 600 x slots / V seconds in its slot, N workers finish N x V / 600 spans a second, and the archive takes "
        "hours / (N x V) hours."
    )


def _amounts(figures: dict[str, float]) -> str:
    rows = [
        ("videos, annotations", f"{figures['videos']:,.0f}", "hours / hours a video"),
        ("spans", f"{figures['spans']:,.0f}", "6 an hour"),
        ("messages", f"{figures['messages']:,.0f}", "one for each span, two for each video"),
        ("rows of `windows`, and of `fused_windows`", f"{figures['rows']:,.0f}", "3600 / hop an hour"),
        ("rows of `segments`", f"{figures['segments']:,.0f}", "as in the made-up videos: a scene of 40 s"),
        ("database", f"{figures['bytes'] / 1e12:.2f} TB", "rows x bytes, below"),
        ("written to the log", f"{figures['wal_bytes'] / 1e12:.2f} TB", "for a span, above; freed as it goes"),
        ("transactions", f"{figures['transactions']:,.0f}", "for a span, above"),
        ("PostgreSQL's CPU", f"{figures['postgresql_core_hours']:,.0f} core hours", "for a span, above"),
        ("workers, CPU only", f"{figures['core_hours']:,.0f} core hours", "CPU seconds a second of video, 360p"),
        ("workers with GPUs", f"{figures['gpu_hours']:,.0f} GPU hours", "hours / V"),
        ("and their cores", f"{figures['reading_core_hours']:,.0f} core hours", "reading: decoding, detectors, 360p"),
    ]
    note = (
        f"Pictures of 1080p take {figures['large_picture_factor']:.1f} times the CPU of 360p. A GPU at that speed "
        f"needs {figures['reading_cores_per_gpu']:.0f} cores beside it, since decoding and the detectors run on the "
        "CPU: fewer cores, and they decide V."
    )
    lines = ["| | | how |", "| --- | ---: | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n\n" + note


def _sizes(found: dict[str, Any]) -> str:
    rows = [
        (
            f"`{name}`",
            f"{table['rows']:,}",
            f"{table['bytes'] / table['rows']:.0f}",
            f"{(table['bytes'] - table['bytes_without_indexes']) / table['rows']:.0f}",
            f"{table['updates'] / table['rows']:.1f}",
            f"{table['hot_updates'] / table['updates']:.0%}" if table["updates"] else "",
        )
        for name, table in found["tables"].items()
    ]
    head = ("table", "rows measured", "bytes a row", "of these, indexes", "updates a row", "of these, in place")
    return (
        _table(head, rows)
        + "\n\nMeasured after the run that stored most, with the dead rows that it left. Of `videos`, `annotations` "
        "and `spans` many are only waiting; updates in place (heap-only) touch no index."
    )


def _fleets(found: dict[str, Any], archive: Archive, figures: dict[str, float]) -> str:
    busiest = max(found["runs"], key=lambda run: run["spans_per_second"])
    rows = []
    for kind, speed, slots in (("CPU", figures["cpu_speed"], 1), ("GPU", archive.gpu_speed, archive.gpu_slots)):
        for workers in WORKERS:
            spans = workers * speed * 1000 / PLAN.span_ms
            rows.append(
                (
                    f"{workers} with a {kind}",
                    f"{PLAN.span_ms / 1000 * slots / speed:.0f}",
                    f"{spans:.1f}",
                    f"{spans * PLAN.windows_per_span:,.0f}",
                    f"{spans * busiest['per_span']['postgresql_cpu']:.2f}",
                    f"{spans * busiest['per_span']['wal_bytes'] / 1e6:.1f}",
                    f"{spans * busiest['per_span']['feeder_cpu']:.2f}",
                    f"{archive.hours / (workers * speed) / 24:,.1f}",
                )
            )
    head = (
        *("workers", "seconds a span", "spans/s", "windows/s", "PostgreSQL cores", "log MB/s", "scheduler cores"),
        "days",
    )
    return (
        f"More than {busiest['spans_per_second']:.1f} spans a second did not pass here, where workers and servers "
        f"shared {found['machine']['cores']} cores; what lies beyond is worked out from CPU seconds, not measured.\n\n"
        + _table(head, rows)
    )


def _money(archive: Archive, figures: dict[str, float]) -> str:
    rows = [
        ("CPU only", f"{figures['cpu_price']:,.0f}", "core hours x price"),
        ("GPUs", f"{figures['gpu_price']:,.0f}", "hours / V x price of a GPU hour"),
        ("the GPUs' cores", f"{figures['reading_price']:,.0f}", "core hours of reading x price"),
        ("storage, each month", f"{figures['storage_price_month']:,.0f}", "GB x price"),
    ]
    lines = ["| money, at the example prices | | how |", "| --- | ---: | --- |"]
    saved = (figures["core_hours"] - figures["reading_core_hours"]) / archive.hours * archive.core_hour
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + (
        "\n\nWith the compact preset, whose models are small, a GPU only takes over what is not reading: it pays from "
        f"V = {archive.gpu_hour / saved:,.0f} on at these prices. Presets with large models are another matter."
    )


def _changes(found: dict[str, Any], figures: dict[str, float]) -> str:
    runs = found["runs"]
    most = max(runs, key=lambda run: run["connections"])
    per_worker = most["connections"] / most["workers"]
    spans = found["tables"]["spans"]
    return "\n".join(
        [
            f"- **Connections.** {most['workers']} worker processes held {most['connections']} of them "
            f"({per_worker:.1f} each: jobs, heartbeat, sign of life), and PostgreSQL lets in 100 unless told "
            f"otherwise: from {90 / per_worker:.0f} worker processes on raise `max_connections`. Hundreds of workers "
            "want a pooler before PostgreSQL (not measured); `SET lock_timeout`, which moodreel says for each "
            "connection, is a session's, so pool sessions, or set it for the role.",
            f"- **Tables.** `windows` and `fused_windows` reach {figures['bytes_windows'] / 1e9:,.0f} and "
            f"{figures['bytes_fused_windows'] / 1e9:,.0f} GB. Their key begins with the annotation and there is no "
            "other index, so they can be partitioned by a hash of it, which keeps vacuum, backup and indexes to pieces "
            "of a size (not measured).",
            "- **Vacuum.** Windows are written once and need none but against wraparound. `spans` is what changes: "
            f"{spans['updates'] / max(1, spans['rows']):.1f} updates for each row here, waiting ones included. A table "
            "of millions wants `autovacuum_vacuum_scale_factor = 0.01` of its own, as does `annotations` (not "
            "measured).",
            "- **Storing.** Windows already go in by COPY, 120 at a time. Leave `synchronous_commit` on: a crash that "
            "forgets a claim would let two workers have the same epoch.",
            "- **Scheduler.** Several may run at once. One was enough for all that this machine carried.",
            f"- **Redis** needs {max(run['redis_bytes'] for run in runs) / 1e6:.0f} MB and one core's share, whatever "
            "the archive: it never holds more than some messages for each slot.",
        ]
    )


def as_json(found: dict[str, Any], archive: Archive | None = None) -> dict[str, Any]:
    """The document: what was measured, what was assumed, and what follows."""
    archive = archive or Archive()
    return found | {"assumed": asdict(archive), "follows": arithmetic(found, archive)}
