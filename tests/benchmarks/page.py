"""docs/performance.md, out of what bench.py measured."""

from collections.abc import Sequence
from typing import Any

MAX_MEMORY_RATIO = 1.1
TARGETS = {"SQLite": 80_000, "PostgreSQL": 30_000}  # windows fused anew in a second


def page(found: dict[str, Any]) -> str:
    """The page; keys as in performance.json."""
    parts = [
        "# Performance",
        _machine(found["machine"]),
        _clips(found["clips"]),
        "## Whole runs",
        "`moodreel annotate` with the compact preset on the CPU, from its start to its end, one video into an empty "
        "SQLite file; medians. Memory is the highest sum over the process tree of proportional set sizes (a page that "
        "two processes share counts once), looked at four times a second. *Others* is how much of the machine's CPU "
        "time other processes used meanwhile, the measuring itself (1 to 4 %) included: where it is more, an idle "
        "machine is faster.",
        _runs(found["runs"]),
        _memory(found["memory"]),
        "## Start-up",
        _start_up(found["start_up"]),
        "## Where the time goes",
        "CPU milliseconds for each second of video, on one core, with the models loaded. Of one real run each, the "
        "models' calls are timed by their thread's CPU clock, and what the main process uses besides is *windows, "
        "rows, database, finish*. What the decoding child uses is taken apart by reading the clip once more in "
        "one process with the detectors and the conversion timed in the same way, and once more with nothing but "
        "decoding; the last line of reading is the rest of it. Where reading is slower, the network needs more "
        "for each face, probably because fewer of them meet in a batch.",
        _stages(found["stages"]),
        "## Databases",
        "Windows a second: stored in runs of 120, as `annotate` stores them, each in a transaction; and fused anew end "
        "to end (read, fused, smoothed, segments and fused windows written) on one long video whose emotion changes "
        "every 40 windows; the median of three fusion rules. PostgreSQL runs on the same machine with its usual "
        "settings.",
        _databases(found["databases"]),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machine(machine: dict[str, Any]) -> str:
    return (
        f"Written by `make bench` on {machine['date']}; the figures are also in [performance.json](performance.json). "
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, no GPU used; Python "
        f"{machine['python']}, torch {machine['torch']}, onnxruntime {machine['onnxruntime']}, PyAV {machine['av']}. "
        f"The load average before it was {machine['load_before']:.1f}."
    )


def _clips(clips: dict[str, dict[str, float]]) -> str:
    shares = "; ".join(f"{n}: face {s['face_ok']:.1%}, voice {s['voice_ok']:.1%}" for n, s in clips.items())
    return (
        "The clips are a real talk of 8.7 s (12 pictures a second), played again and again into a 30-second encode "
        "(H.264, 25 pictures a second, a key frame every 250; AAC); longer files repeat its packets. Shares of windows "
        f"whose state is `ok`: {shares}."
    )


def _runs(runs: Sequence[dict[str, Any]]) -> str:
    head = ("picture, length", "runs", "video s per s", "wall s", "CPU s per video s", "peak memory", "others")
    rows = [
        (
            f"{r['height']}p, {_length(r['seconds'])}",
            str(r["runs"]),
            f"{r['speed']:.2f}",
            f"{r['wall_seconds']:.1f}",
            f"{r['cpu_seconds'] / r['seconds']:.3f}",
            f"{r['peak_bytes'] / 1e6:.0f} MB",
            f"{r['others_share']:.0%}",
        )
        for r in runs
    ]
    return _table(head, rows)


def _length(seconds: int) -> str:
    return f"{seconds} s" if seconds < 60 else f"{seconds // 60} min"


def _memory(memory: dict[str, Any]) -> str:
    (short, long), ratio = memory["seconds"], memory["ratio"]
    if short == long:
        return "How memory grows with the length was not measured."
    verdict = "within" if ratio <= MAX_MEMORY_RATIO else "above"
    return (
        f"Peak memory at {_length(long)} by that at {_length(short)}: {ratio:.2f}, "
        f"{verdict} the target of at most {MAX_MEMORY_RATIO}."
    )


def _start_up(start_up: dict[str, float]) -> str:
    said = {
        "help_seconds": "`moodreel --help`",
        "skip_seconds": "`moodreel annotate` on a video that is done",
        "models_seconds": "until both models have answered for the first time",
    }
    return _table(("", "seconds"), [(said[name], f"{value:.2f}") for name, value in start_up.items()])


def _stages(stages: dict[str, dict[str, float]]) -> str:
    names = max(stages.values(), key=len)
    order = (
        "demux and decode",
        "scale and convert",
        "face detector",
        "voice detector",
        "resample, send, and what is left of reading",
        "audio model",
        "face network",
        "windows, rows, database, finish",
    )
    rows = [(name, *(f"{1000 * s[name]:.1f}" for s in stages.values())) for name in order if name in names]
    rows.append(("all", *(f"{1000 * sum(s.values()):.1f}" for s in stages.values())))
    return _table(("stage", *stages), rows)


def _databases(databases: dict[str, dict[str, float]]) -> str:
    head = ("", "stored", "fused anew", "target")
    rows = [
        (
            name,
            f"{rates['checkpoint_windows_per_second']:,.0f}",
            f"{rates['fuse_windows_per_second']:,.0f}",
            f"{TARGETS[name]:,}{'' if rates['fuse_windows_per_second'] >= TARGETS[name] else ' (missed)'}",
        )
        for name, rates in databases.items()
    ]
    return _table(head, rows)
