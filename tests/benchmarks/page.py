"""docs/performance.md, out of what bench.py measured and of the ledger."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.peers import PEERS
from tests.benchmarks.stages import READING, REST_OF_READING, ROWS

LEDGER = "performance-ledger.md"  # in docs/: what was changed and what it did, kept by hand
FUSED_TARGETS = {"SQLite": 80_000, "PostgreSQL": 30_000}  # windows fused anew in a second
START_UP = {
    "help_seconds": ("`moodreel --help`", 0.3),
    "skip_seconds": ("`moodreel annotate` on a video that is done", None),
    "skip_many_seconds": ("the same on a folder of {skip_many_videos:,} that are done", 5.0),
    "models_seconds": ("until both models have answered for the first time", 3.0),
}  # what it is called, and seconds that are allowed
STAGES = (*READING, REST_OF_READING, "audio model", "face network", ROWS)
NOT_MEASURED = "not measured"

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """A number with a target.

    Attributes:
        says: what it is.
        limit: at most, or at least, this.
        at_most: which of them.
        look: its format.
        of: the number, from what was measured.
    """

    says: str
    limit: float
    at_most: bool
    look: str
    of: Callable[[Numbers], float | None]

    def met(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


def _run(found: Numbers, height: int) -> Numbers | None:
    """The H.264 run that speaks for a size: of those that were repeated, if there are, the longest."""
    alike = [run for run in found.get("runs", ()) if (run["codec"], run["height"]) == ("h264", height)]
    return max(alike, key=lambda run: (run["runs"] > 1, run["seconds"]), default=None)


def _of_run(height: int, name: str) -> Callable[[Numbers], float | None]:
    return lambda found: (_run(found, height) or {}).get(name)


def _over(part: str) -> Callable[[Numbers], float | None]:
    """How many times faster than the fastest of the others."""
    return lambda found: min((other["times"] for other in found.get(part, {}).get("others", {}).values()), default=None)


def _database_share(found: Numbers) -> float | None:
    seconds = found.get("database", {}).get("seconds")
    return seconds and seconds["transactions"] / seconds["run"]


TARGETS = {
    "over_decode_1080p": Target(
        "1080p25 H.264: wall time over bare decoding of all pictures", 1.2, True, ".2f", _of_run(1080, "over_decode")
    ),
    "realtime_1080p": Target("1080p25 H.264: video seconds per second", 15, False, ".1f", _of_run(1080, "speed")),
    "realtime_360p": Target("360p25 H.264: video seconds per second", 50, False, ".1f", _of_run(360, "speed")),
    "over_naive": Target("times faster than the obvious program, 1080p", 6, False, ".1f", _over("obvious")),
    "over_peers": Target("times faster than the fastest peer that runs, 1080p", 5, False, ".1f", _over("peers")),
    "memory_growth": Target(
        "peak memory at 2 hours over that at 5 minutes, 360p",
        1.05,
        True,
        ".3f",
        lambda found: (found.get("memory") or {}).get("ratio"),
    ),
    "database_share": Target("share of a run's wall time in the database", 0.02, True, ".2%", _database_share),
    "two_children": Target(
        "the reader alone, 1080p, one decoding thread a child: two children over one",
        1.7,
        False,
        ".2f",
        lambda found: found.get("reader", {}).get("two_children"),
    ),
}


def headline(found: Numbers) -> dict[str, float | None]:
    """The numbers that have a target; None for what was not measured."""
    return {name: target.of(found) for name, target in TARGETS.items()}


def page(found: Numbers, ledger: str) -> str:
    """The page.

    Args:
        found: keys as in performance.json.
        ledger: what was changed and what it did, in Markdown.
    """
    parts = [
        "# Performance",
        "Written by `make bench`; all figures are also in [performance.json](performance.json). `python -m "
        f"tests.benchmarks.bench --only PART,...` measures parts anew ({', '.join(found['machine']) or 'none yet'}); "
        "`--quick` takes about a minute. All of it is about the compact preset on the CPU, windows of 2 s every 1 s.",
        _machines(found["machine"]),
        "## Targets",
        _targets(found),
        "## The clips",
        _clips(found.get("runs", ())),
        "## Whole runs and the floor",
        "`moodreel annotate` from its start to its end, one video into an empty SQLite file; in turn with it, the "
        "*floor*: a program that decodes every picture of the same file in order with PyAV and does nothing with it, "
        "with the fastest of FFmpeg's thread settings (`python -m tests.benchmarks.floor`; AUTO, FRAME and SLICE with "
        "1, 2 and 0 threads were tried on 30 seconds of each kind). Medians where there are several runs. The ratio is "
        "moodreel's wall time over the floor's; below 1 moodreel is done before all pictures could be decoded, because "
        "it leaves out what nobody looks at. Memory is the highest sum over the process tree of proportional set sizes "
        "(a page that two processes share counts once), looked at four times a second. *Others* is how much of the "
        "machine's CPU time other processes used meanwhile, the measuring itself (1 to 4 %) included: where it is "
        "more, an idle machine is faster.",
        _runs(found.get("runs", ())),
        _memory(found.get("memory")),
        "## Other programs",
        "Each gets the first 30 seconds of the clip that moodreel annotates whole, in turn with it. Moodreel's time is "
        "from its start to its end, loading included; theirs begins when their models are loaded and warm.",
        _obvious(found.get("obvious", {})),
        _peers(found.get("peers", {})),
        "## The reader alone",
        _reader(found.get("reader", {})),
        "## Start-up",
        _start_up(found.get("start_up", {})),
        "## Where the time goes",
        "CPU milliseconds for each second of video, on one core, with the models loaded. Of one real run each, the "
        "models' calls are timed by their thread's CPU clock, and what the main process uses besides is *windows, "
        "rows, database, finish*. What the decoding child uses is taken apart by reading the clip once more in one "
        "process, one thread decoding, with the parts timed in the same way; the last line of reading is the rest of "
        "what the child used. `python -m tests.benchmarks.stages`.",
        _stages(found.get("stages", {})),
        "## Databases",
        _database(found.get("database", {})),
        "Windows a second: stored in runs of 120, as `annotate` stores them, each in a transaction; and fused anew end "
        "to end (read, fused, smoothed, segments and fused windows written) on one long video whose emotion changes "
        "every 40 windows; the median of three fusion rules. PostgreSQL runs on the same machine with its usual "
        "settings.",
        _databases(found.get("databases", {})),
        "## What was changed and what it did",
        ledger.strip(),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return f"{NOT_MEASURED.capitalize()}."
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machines(machines: Mapping[str, Numbers]) -> str:
    """The machine of each group of parts that were measured on a like one."""
    alike: dict[str, list[str]] = {}
    for part, machine in machines.items():
        says = (
            f"{machine['date']}, {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, no GPU "
            f"used; Python {machine['python']}, torch {machine['torch']}, onnxruntime {machine['onnxruntime']}, PyAV "
            f"{machine['av']}"
        )
        alike.setdefault(says, []).append(f"{part} ({machine['load_before']:.1f})")
    return "\n".join(f"- {says}. Load average before each part: {', '.join(parts)}." for says, parts in alike.items())


def _targets(found: Numbers) -> str:
    rows = []
    for name, target in TARGETS.items():
        value = found.get(name)
        limit = f"{'at most' if target.at_most else 'at least'} {_limit(target)}"
        verdict = NOT_MEASURED if value is None else "met" if target.met(value) else "**missed**"
        rows.append((target.says, f"`{name}`", limit, "-" if value is None else format(value, target.look), verdict))
    return _table(("", "in the JSON", "target", "measured", ""), rows)


def _limit(target: Target) -> str:
    return f"{target.limit:.0%}" if target.look.endswith("%") else f"{target.limit:g}"


def _clips(runs: Sequence[Numbers]) -> str:
    kinds = {(run["codec"], run["height"]): run for run in runs}
    rows = [
        (
            f"{_codec(codec)} {height}p",
            f"{run['megabits_per_second']:.1f}",
            f"{run['shares']['face_ok']:.1%}",
            f"{run['shares']['voice_ok']:.1%}",
        )
        for (codec, height), run in kinds.items()
    ]
    return (
        "A real talk of 8.7 s (240 lines, 12 pictures a second), played again and again into a 30-second encode of 25 "
        "pictures a second with a key frame every 250, and AAC; longer files repeat its packets. Shown as it is, half "
        "of its pictures would be copies, which cost a decoder next to nothing; so the camera moves slowly, by parts "
        "of a pixel, and has noise (standard deviation 3.5 of 255): each picture is one of its own. With that, x264 as "
        "`ffmpeg` uses it by default (preset medium, crf 23) makes of 1080p what is given below; 3 to 8 Mbit/s are "
        "usual for real footage. The other codecs are encoded with fast presets, asked for 3 Mbit/s. Shares are of "
        "windows whose state is `ok`; below 90 % the benchmark fails.\n\n"
        + _table(("clip", "Mbit/s, pictures", "windows with a face", "windows with speech"), rows)
    )


def _codec(name: str) -> str:
    return {"h264": "H.264"}.get(name, name.upper())


def _runs(runs: Sequence[Numbers]) -> str:
    head = (
        "clip", "runs", "video s per s", "wall s", "floor, wall s", "ratio", "floor with sound", "threads of the floor",
        "CPU s per video s", "peak memory", "others",
    )  # fmt: skip
    rows = [
        (
            f"{_codec(r['codec'])} {r['height']}p, {_length(r['seconds'])}",
            str(r["runs"]),
            f"{r['speed']:.1f}",
            f"{r['wall_seconds']:.1f}",
            f"{r['floor']['wall_seconds']:.1f}",
            f"{r['over_decode']:.2f}",
            f"{r['floor']['with_sound_wall_seconds']:.1f}",
            r["floor"]["setting"],
            f"{r['cpu_seconds'] / r['seconds']:.3f}",
            f"{r['peak_bytes'] / 1e6:.0f} MB",
            f"{r['others_share']:.0%}",
        )
        for r in runs
    ]
    return _table(head, rows)


def _length(seconds: int) -> str:
    for name, unit in (("h", 3600), ("min", 60)):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def _memory(memory: Numbers | None) -> str:
    if memory is None:
        return f"How memory grows with the length: {NOT_MEASURED}."
    (short, long), (less, more) = memory["seconds"], memory["peak_bytes"]
    return (
        f"Peak memory at 360p: {less / 1e6:.0f} MB for {_length(short)}, {more / 1e6:.0f} MB for {_length(long)}: "
        f"{memory['ratio']:.3f} times as much."
    )


def _obvious(found: Numbers) -> str:
    said = (
        "**The obvious program** (`python -m tests.benchmarks.obvious`): for each window seek, decode from the key "
        "frame, find the faces on each of its pictures (five a second) with the MTCNN package at the settings that "
        "moodreel began with, read each largest face with the same network one by one, and hear the sound with the "
        "same voice model in transformers' audio-classification pipeline. Three things are made easier for it: FFmpeg "
        "decodes with threads, the detector sees 640 pixels, and the feature extractor is told not to pad each window "
        "to Whisper's 30 s. The head of our voice model has no "
        "class in transformers; the pipeline gets one written around transformers' own encoder."
    )
    return f"{said}\n\n{_race(found)}"


def _peers(found: Numbers) -> str:
    versions, broken = found.get("versions", {}), found.get("broken", {})
    lines = []
    for name, peer in PEERS.items():
        state = f"version {versions[name]}" if name in versions else NOT_MEASURED
        if name in broken:
            state = f"cannot run here: `{broken[name]}`"
        lines.append(f"- `{name}`: {peer.how}; {state}.")
    return (
        "**Peers** from PyPI, each in an environment of its own (`tests/benchmarks/peers.py`), given "
        "five pictures a second, on the CPU, with the weights that their packages carry. They read faces only; "
        "moodreel hears the sound in the same time.\n\n" + "\n".join(lines) + f"\n\n{_race(found)}"
    )


def _race(found: Numbers) -> str:
    if not found.get("others"):
        return f"{NOT_MEASURED.capitalize()}."
    rows = [
        (f"moodreel, {found['height']}p, {_length(found['seconds'])}", f"{found['speed']:.1f}", "", ""),
        *(
            (name, f"{o['speed']:.2f}", f"{o['peak_bytes'] / 1e6:.0f} MB", f"{o['times']:.1f}")
            for name, o in found["others"].items()
        ),
    ]
    return _table((f"medians of {found['runs']}", "video s per s", "peak memory", "moodreel is faster, times"), rows)


def _reader(found: Numbers) -> str:
    if not found:
        return f"{NOT_MEASURED.capitalize()}."
    rows = [
        (
            said,
            f"{found[name]['wall_seconds']:.1f}",
            f"{found[name]['children_cpu_ms']:.1f}",
            f"{found[name]['parent_cpu_ms']:.2f}",
        )
        for name, said in (("one", "one child, the whole clip"), ("two", "two children, half of it each, at once"))
    ]
    return (
        f"Decoding, both detectors and the way to the parent, one decoding thread a child, no models behind it, on "
        f"{_length(round(found['seconds']))} (`python -m tests.benchmarks.reader_alone`); medians of {found['runs']}. "
        f"Two children are {found['two_children']:.2f} times as fast as one.\n\n"
        + _table(("", "wall s", "children, CPU ms per video s", "parent, CPU ms per video s"), rows)
    )


def _start_up(found: Numbers) -> str:
    rows = [
        (
            name.format(**found),
            f"{found[key]:.2f}",
            "" if limit is None else f"at most {limit:g}{'' if found[key] <= limit else ' (missed)'}",
        )
        for key, (name, limit) in START_UP.items()
        if key in found
    ]
    return _table(("", "seconds", "target"), rows)


def _stages(stages: Mapping[str, Mapping[str, float]]) -> str:
    if not stages:
        return _table((), ())
    rows = [(name, *(f"{1000 * spent.get(name, 0.0):.1f}" for spent in stages.values())) for name in STAGES]
    rows.append(("all", *(f"{1000 * sum(spent.values()):.1f}" for spent in stages.values())))
    return _table(("stage", *stages), rows)


def _database(found: Numbers) -> str:
    if not found:
        return f"What a run spends in the database: {NOT_MEASURED}."
    seconds, times = found["seconds"], found["times"]
    return (
        f"In one run of {found['height']}p, {_length(found['video_seconds'])}, {times['transactions']} transactions "
        f"took {seconds['transactions']:.2f} s of {seconds['run']:.1f} s, from BEGIN to the end of COMMIT, with the "
        "building of statements, the reading of rows and the waiting for locks, the threads' times added up: "
        f"{seconds['transactions'] / seconds['run']:.2%}. The driver ran {times['statements']} statements in "
        f"{seconds['statements']:.2f} s of that. `python -m tests.benchmarks.statements`."
    )


def _databases(databases: Mapping[str, Mapping[str, float]]) -> str:
    head = ("", "stored", "fused anew", "target")
    rows = [
        (
            name,
            f"{rates['checkpoint_windows_per_second']:,.0f}",
            f"{rates['fuse_windows_per_second']:,.0f}",
            f"{FUSED_TARGETS[name]:,}{'' if rates['fuse_windows_per_second'] >= FUSED_TARGETS[name] else ' (missed)'}",
        )
        for name, rates in databases.items()
    ]
    return _table(head, rows)
