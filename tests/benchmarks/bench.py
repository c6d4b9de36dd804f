"""Measures moodreel on this machine and writes docs/performance.md and docs/performance.json: `make bench`.

    python -m tests.benchmarks.bench                     all of it, about 35 minutes on two idle cores
    python -m tests.benchmarks.bench --only runs,peers   these parts anew; the others stay as they are in the JSON
    python -m tests.benchmarks.bench --quick             about one minute, printed only
    python -m tests.benchmarks.bench --page              nothing; writes the page anew out of the JSON and the ledger

It needs Linux, whose /proc it reads. Clips are made once and kept; so are the environments of the other programs, which
come from a package index. It fails if the clips' windows show too few faces or too little speech to say anything about
a real talk.
"""

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from tests.benchmarks import floor, fusing, peers, statements
from tests.benchmarks.clips import ENCODE_SECONDS, clip, megabits_per_second
from tests.benchmarks.page import LEDGER, headline, page
from tests.benchmarks.processes import ROOT, Failed, Usage, moodreel, run, run_and_listen
from tests.fetch_media import cache_folder

MIN_SHARE = 0.9  # of a clip's windows with a face, and with speech
DOCS = ROOT / "docs"

MODELS_READY = """
import numpy as np
from worker.recipe import Recipe
from worker.recognizers import Recognizers
with Recognizers(Recipe(), "cpu") as models:
    voice = models.submit_audio(np.zeros(32_000, np.float32), np.array(32_000, np.int64))
    models.submit_face(np.zeros((48, 48), np.uint8)).result(), voice.result()
"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """A clip that is annotated.

    Attributes:
        codec, height, seconds: of the clip.
        times: how often, in turn with bare decoding.
    """

    codec: str
    height: int
    seconds: int
    times: int = 1


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        runs: whole runs against bare decoding.
        encode_seconds: length of the encode that clips repeat.
        floor_times: how often each of FFmpeg's thread settings is tried.
        memory_seconds: the two lengths, at the first run's size, whose peaks of memory are compared.
        rivals: the clip that moodreel annotates beside other programs, in turn with them.
        rival_seconds: of what they get, who are slower.
        stage_repeats: so many encodes are taken apart into stages, at least 2; one more warms up.
        reader: the clip that the reader alone reads, with one child and with two.
        n_windows: in the databases.
        n_finished: videos of which nothing is left to do.
        start_repeats: how often short commands run.
    """

    runs: tuple[Case, ...]
    rivals: Case
    reader: Case
    encode_seconds: int = ENCODE_SECONDS
    rival_seconds: int = ENCODE_SECONDS
    floor_times: int = 2
    memory_seconds: tuple[int, int] = (300, 7200)
    stage_repeats: int = 2
    n_windows: int = 100_000
    n_finished: int = 10_000
    start_repeats: int = 3

    def clip(self, case: Case, seconds: int | None = None) -> Path:
        """A case's clip, or one like it of another length."""
        return clip(case.height, seconds or case.seconds, self.encode_seconds, case.codec)


FULL = Plan(
    runs=(
        Case("h264", 360, 30, 3),
        Case("h264", 1080, 30, 3),
        Case("h264", 360, 600, 3),
        Case("h264", 1080, 600, 3),
        Case("hevc", 1080, 600),
        Case("vp9", 1080, 600),
        Case("av1", 1080, 600),
        Case("h264", 360, 300),
        Case("h264", 360, 7200),
    ),
    rivals=Case("h264", 1080, 300, 2),
    reader=Case("h264", 1080, 300, 3),
)
QUICK = Plan(
    runs=(Case("h264", 360, 30),),
    rivals=Case("h264", 360, 30),
    reader=Case("h264", 360, 30),
    floor_times=1,
    n_windows=20_000,
    n_finished=1000,
    start_repeats=1,
)
QUICK_PARTS = ("runs", "stages", "start_up", "database")


@dataclass
class Bench:
    """Measures parts of a plan; each method but `annotate` gives what the JSON document has under its name.

    Attributes:
        folder: for databases.
        say: told of each result.
    """

    plan: Plan
    folder: Path
    say: Say = print
    _numbers: Any = field(default_factory=count)

    def annotate(self, path: Path) -> tuple[Usage, Path]:
        """Annotate a clip into a database of its own."""
        database = self.folder / f"{next(self._numbers)}.db"
        return run(moodreel("annotate", "--device", "cpu", "--db", database, path)), database

    def runs(self) -> list[dict[str, Any]]:
        """Whole runs in turn with bare decoding of the same file; medians."""
        fastest: dict[tuple[str, int], tuple[floor.Setting, dict[str, float]]] = {}
        found = []
        for case in self.plan.runs:
            kind = case.codec, case.height
            if kind not in fastest:
                fastest[kind] = floor.fastest(self.plan.clip(case, self.plan.encode_seconds), self.plan.floor_times)
                self.say(f"{case.codec} {case.height}p, bare decoding: {fastest[kind]}")
            found.append(self._run(case, *fastest[kind]))
            self.say(json.dumps(found[-1]))
        return found

    def _run(self, case: Case, setting: floor.Setting, tried: dict[str, float]) -> dict[str, Any]:
        path = self.plan.clip(case)
        ours, pictures = [], []
        for _ in range(case.times):
            usage, database = self.annotate(path)
            ours.append(usage)
            pictures.append(run(floor.command(path, setting)))
        both = run(floor.command(path, setting, sound=True))  # once: it tells what sound adds, and no target
        shares = _shares(database)
        if min(shares.values()) < MIN_SHARE:
            raise SystemExit(f"{path}: its windows show too little: {shares}, wanted {MIN_SHARE}")
        middle, bare = _medians(ours), _medians(pictures)
        return {
            "codec": case.codec,
            "height": case.height,
            "seconds": case.seconds,
            "runs": case.times,
            "megabits_per_second": megabits_per_second(path),
            "shares": shares,
            "speed": case.seconds / middle["wall_seconds"],
            **middle,
            "all_wall_seconds": [usage.wall_seconds for usage in ours],
            "floor": {
                "setting": f"{setting[0]} {setting[1]}",
                "tried_seconds": tried,
                "wall_seconds": bare["wall_seconds"],
                "cpu_seconds": bare["cpu_seconds"],
                "with_sound_wall_seconds": both.wall_seconds,
            },
            "over_decode": middle["wall_seconds"] / bare["wall_seconds"],
        }

    def obvious(self) -> dict[str, Any]:
        """The obvious program in turn with moodreel."""
        command = [sys.executable, "-m", "tests.benchmarks.obvious"]
        return self._race({"obvious": lambda path: [*command, str(path)]})

    def peers(self) -> dict[str, Any]:
        """Other programs in turn with moodreel; of those that do not run, why."""
        folder, ready, broken = cache_folder() / "bench" / "peers", {}, {}
        short = self.plan.clip(self.plan.rivals, self.plan.encode_seconds)
        for name in peers.PEERS:
            try:
                run(peers.command(name, folder, short))
                ready[name] = lambda path, name=name: peers.command(name, folder, path)
            except subprocess.CalledProcessError as error:
                broken[name] = _reason((error.stderr or str(error)).strip().splitlines()[-1])
            except Failed as error:
                broken[name] = _reason(str(error).partition("exited with ")[2])
            self.say(f"{name}: {broken.get(name, 'runs')}")
        found = self._race(ready)
        found["versions"] = {name: peers.version(name, folder) for name in ready}
        return found | {"broken": broken}

    def _race(self, rivals: dict[str, Callable[[Path], Sequence[str]]]) -> dict[str, Any]:
        """Moodreel, from its start to its end, in turn with others, whose loading is not counted."""
        case, seconds = self.plan.rivals, self.plan.rival_seconds
        ours: list[Usage] = []
        theirs: dict[str, list[dict[str, Any]]] = {name: [] for name in rivals}
        for _ in range(case.times):
            ours.append(self.annotate(self.plan.clip(case))[0])
            for name, command in rivals.items():
                usage, said = run_and_listen(command(self.plan.clip(case, seconds)))
                theirs[name].append(said | {"peak_bytes": usage.peak_bytes})
                self.say(f"{name}: {said}")
        speed = case.seconds / statistics.median(usage.wall_seconds for usage in ours)
        found: dict[str, Any] = {"height": case.height, "seconds": case.seconds, "runs": case.times, "speed": speed}
        for name, took in theirs.items():
            middle = {key: statistics.median(each[key] for each in took) for key in took[0]}
            their_speed = seconds / middle["seconds"]
            found.setdefault("others", {})[name] = middle | {"speed": their_speed, "times": speed / their_speed}
        return found

    def stages(self) -> dict[str, dict[str, float]]:
        """CPU seconds for a second of video, by height and stage."""
        cases = {case.height: case for case in reversed(self.plan.runs) if case.codec == "h264"}
        seconds = self.plan.encode_seconds * self.plan.stage_repeats
        heights = sorted(cases)
        first = self.plan.clip(cases[heights[0]], self.plan.encode_seconds)
        clips = [self.plan.clip(cases[height], seconds) for height in heights]
        command = [sys.executable, "-m", "tests.benchmarks.stages", *map(str, (first, *clips))]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ran = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        said = json.loads(ran.stdout.splitlines()[-1])
        return {
            f"{height}p": {stage: spent / seconds for stage, spent in said[str(path)].items()}
            for height, path in zip(heights, clips, strict=True)
        }

    def database(self) -> dict[str, Any]:
        """What a run spends in the database."""
        first = self.plan.runs[0]
        case = max((c for c in self.plan.runs if c.height == first.height), key=lambda c: (c.times, c.seconds))
        arguments = ["annotate", "--device", "cpu", "--db", self.folder / "statements.db", self.plan.clip(case)]
        _, said = run_and_listen([sys.executable, "-m", "tests.benchmarks.statements", *map(str, arguments)])
        return {"height": case.height, "video_seconds": case.seconds, **said}

    def databases(self) -> dict[str, Any]:
        """Windows a second, stored and fused anew."""
        with fusing.databases() as urls:
            return {name: fusing.measure(url, self.plan.n_windows) for name, url in urls.items()}

    def start_up(self) -> dict[str, float]:
        """Seconds of short commands; medians."""
        from worker.recipe import Recipe

        many, one = self.folder / "many", self.folder / "one"
        statements.planted(many, self.plan.n_finished, str(many.with_suffix(".db")), Recipe())
        statements.planted(one, 1, str(one.with_suffix(".db")), Recipe())
        commands: dict[str, list[str]] = {
            "help_seconds": moodreel("--help"),
            "skip_seconds": moodreel("annotate", "--db", one.with_suffix(".db"), one),
            "skip_many_seconds": moodreel("annotate", "--db", many.with_suffix(".db"), many),
            "models_seconds": [sys.executable, "-c", MODELS_READY],
        }
        took = {
            name: statistics.median(run(command).wall_seconds for _ in range(self.plan.start_repeats))
            for name, command in commands.items()
        }
        return took | {"skip_many_videos": self.plan.n_finished}

    def reader(self) -> dict[str, Any]:
        """The reader alone, with one child and with two."""
        case = self.plan.reader
        command = ["-m", "tests.benchmarks.reader_alone", self.plan.clip(case), "--runs", case.times]
        return run_and_listen([sys.executable, *map(str, command)])[1]


PARTS = ("start_up", "stages", "databases", "database", "reader", "runs", "obvious", "peers")


def measure(
    plan: Plan, parts: Sequence[str] = PARTS, say: Say = print, before: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """These parts, as the JSON document has them, each with the machine as it was.

    Args:
        before: how long parts took before, seconds, from which is said how much time is left.

    Raises:
        SystemExit: a command fails, or a clip shows too little.
    """
    found: dict[str, Any] = {"machine": {}}
    with tempfile.TemporaryDirectory(prefix="moodreel-") as folder:
        bench = Bench(plan, Path(folder), say)
        for number, part in enumerate(parts):
            left = [(before or {}).get(name) for name in parts[number:]]
            known = f", {sum(filter(None, left)) / 60:.0f} minutes left" if all(left) else ""
            say(f"part {number + 1} of {len(parts)}{known}: {part}")
            here, started = machine("torch", "onnxruntime", "av", "sqlalchemy"), time.perf_counter()
            found[part] = getattr(bench, part)()
            found["machine"][part] = here | {"measured_in_seconds": round(time.perf_counter() - started)}
            say(f"{part}: {found[part]}")
    return found


def complete(found: dict[str, Any], memory_seconds: tuple[int, int]) -> dict[str, Any]:
    """What was measured, with what follows from it, the numbers that have a target first."""
    found = found | {"memory": _memory(found.get("runs", ()), memory_seconds)}
    numbers = headline(found)
    return numbers | {name: value for name, value in found.items() if name not in numbers}


def machine(*packages: str) -> dict[str, Any]:
    """What it was measured on, with the versions of packages."""
    cpu = next(line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "load_before": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _medians(usages: Sequence[Usage]) -> dict[str, float]:
    return {name: statistics.median(asdict(usage)[name] for usage in usages) for name in asdict(usages[0])}


def _shares(database: Path) -> dict[str, float]:
    query = "SELECT AVG(video_state = 'ok'), AVG(audio_state = 'ok') FROM windows"
    with sqlite3.connect(database) as db:
        return dict(zip(("face_ok", "voice_ok"), db.execute(query).fetchone(), strict=True))


def _memory(runs: Sequence[dict[str, Any]], lengths_seconds: tuple[int, int]) -> dict[str, Any] | None:
    """The peaks of two runs of the first one's kind; None if they are not both there."""
    kinds = {r["seconds"]: r["peak_bytes"] for r in runs if (r["codec"], r["height"]) == ("h264", runs[0]["height"])}
    if not set(lengths_seconds) <= kinds.keys():
        return None
    peaks = [kinds[seconds] for seconds in lengths_seconds]
    return {"seconds": list(lengths_seconds), "peak_bytes": peaks, "ratio": peaks[1] / peaks[0]}


def _reason(said: str) -> str:
    """What a program said before it gave up, in plain letters and without this machine's folders."""
    return " ".join(said.replace(str(Path.home()), "~").encode("ascii", "ignore").decode().split())


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--quick", action="store_true", help="one short clip and few parts; writes nothing")
    chosen.add_argument("--only", metavar="PART,...", help=f"measure these of {', '.join(PARTS)}; keep the others")
    chosen.add_argument("--page", action="store_true", help="measure nothing; write the page anew")
    options = parser.parse_args()
    say = lambda line: print(line, flush=True)  # noqa: E731
    ledger = (DOCS / LEDGER).read_text()
    if options.quick:
        print(page(complete(measure(QUICK, QUICK_PARTS, say), QUICK.memory_seconds), ledger))
        return
    document = DOCS / "performance.json"
    parts = () if options.page else options.only.split(",") if options.only else PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    found = json.loads(document.read_text()) if document.is_file() else {"machine": {}}
    took = {part: where["measured_in_seconds"] for part, where in found["machine"].items() if part in PARTS}
    new = measure(FULL, parts, say, took)
    found = complete(found | new | {"machine": found["machine"] | new["machine"]}, FULL.memory_seconds)
    document.write_text(json.dumps(found, indent=2) + "\n")
    (DOCS / "performance.md").write_text(page(found, ledger))
    print(f"written: {DOCS / 'performance.md'} and performance.json")


if __name__ == "__main__":
    main()
