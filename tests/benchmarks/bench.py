"""Measures moodreel on this machine and writes docs/performance.md and docs/performance.json: `make bench`.

    python -m tests.benchmarks.bench            all of it, about ten minutes on two cores
    python -m tests.benchmarks.bench --quick    one 30-second clip, printed only

It needs Linux, whose /proc it reads. It fails if the clips' windows show too few faces or too little speech to say
anything about a real talk.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks import fusing
from tests.benchmarks.clips import ENCODE_SECONDS, clip
from tests.benchmarks.page import page
from tests.benchmarks.processes import ROOT, moodreel, run

MIN_SHARE = 0.9  # of a clip's windows with a face, and with speech

MODELS_READY = """
import numpy as np
from worker.recipe import Recipe
from worker.recognizers import Recognizers
with Recognizers(Recipe(), "cpu") as models:
    voice = models.submit_audio(np.zeros(32_000, np.float32), np.array(32_000, np.int64))
    models.submit_face(np.zeros((48, 48), np.uint8)).result(), voice.result()
"""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        runs: picture height, seconds of video and number of runs. Starting is measured with the first; the two longest
            of its height tell how memory grows.
        encode_seconds: length of the encode that clips repeat.
        stage_repeats: so many of them are taken apart into stages.
        n_windows: in the databases.
        start_repeats: how often short commands run.
    """

    runs: tuple[tuple[int, int, int], ...]
    encode_seconds: int = ENCODE_SECONDS
    stage_repeats: int = 2
    n_windows: int = 100_000
    start_repeats: int = 3


FULL = Plan(((360, 30, 3), (1080, 30, 3), (360, 300, 1), (1080, 300, 1), (360, 3600, 1)))
QUICK = Plan(((360, 30, 1),), n_windows=20_000, start_repeats=1)


def measure(plan: Plan, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Everything, as the JSON document has it.

    Raises:
        SystemExit: a command fails, or a clip shows too little.
    """
    started = time.perf_counter()
    found: dict[str, Any] = {"machine": machine("torch", "onnxruntime", "av", "sqlalchemy")}
    with tempfile.TemporaryDirectory(prefix="moodreel-") as folder:
        found["runs"] = [_annotate(plan, *each, Path(folder), say) for each in plan.runs]
        found["clips"] = {f"{r['height']}p": r.pop("shares") for r in found["runs"]}
        found["memory"] = _memory(found["runs"])
        found["start_up"] = _start_up(plan, Path(folder))
        say(f"start-up: {found['start_up']}")
    found["stages"] = _stages(plan)
    say(f"stages: {found['stages']}")
    with fusing.databases() as urls:
        found["databases"] = {name: fusing.measure(url, plan.n_windows) for name, url in urls.items()}
    say(f"databases: {found['databases']}")
    found["machine"]["measured_in_seconds"] = round(time.perf_counter() - started)
    return found


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


def _annotate(
    plan: Plan, height: int, seconds: int, times: int, folder: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Annotate a clip anew several times; medians."""
    path, usages = clip(height, seconds, plan.encode_seconds), []
    for number in range(times):
        database = folder / f"{height}-{seconds}-{number}.db"
        usages.append(run(moodreel("annotate", "--device", "cpu", "--db", database, path)))
    middle = {name: statistics.median(asdict(u)[name] for u in usages) for name in asdict(usages[0])}
    shares = _shares(database)
    if min(shares.values()) < MIN_SHARE:
        raise SystemExit(f"{path}: its windows show too little: {shares}, wanted {MIN_SHARE}")
    speed = seconds / middle["wall_seconds"]
    say(
        f"{height}p, {seconds} s: {speed:.2f} video seconds a second, {middle['peak_bytes'] / 1e6:.0f} MB, "
        f"face ok in {shares['face_ok']:.1%}, voice ok in {shares['voice_ok']:.1%} of windows, "
        f"others used {middle['others_share']:.0%} of the machine"
    )
    return {"height": height, "seconds": seconds, "runs": times, "speed": speed, **middle, "shares": shares}


def _shares(database: Path) -> dict[str, float]:
    query = "SELECT AVG(video_state = 'ok'), AVG(audio_state = 'ok') FROM windows"
    with sqlite3.connect(database) as db:
        return dict(zip(("face_ok", "voice_ok"), db.execute(query).fetchone(), strict=True))


def _memory(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The peaks of the longest run and of the next shorter one with the same picture."""
    same = sorted((r for r in runs if r["height"] == runs[0]["height"]), key=lambda r: r["seconds"])
    shorter, longest = same[-2:] if len(same) > 1 else (same[0], same[0])
    return {
        "seconds": [shorter["seconds"], longest["seconds"]],
        "peak_bytes": [shorter["peak_bytes"], longest["peak_bytes"]],
        "ratio": longest["peak_bytes"] / shorter["peak_bytes"],
    }


def _start_up(plan: Plan, folder: Path) -> dict[str, float]:
    height, seconds, _ = plan.runs[0]
    skip = moodreel("annotate", "--db", folder / f"{height}-{seconds}-0.db", clip(height, seconds, plan.encode_seconds))
    commands = {
        "help_seconds": moodreel("--help"),
        "skip_seconds": skip,
        "models_seconds": [sys.executable, "-c", MODELS_READY],
    }
    return {
        name: statistics.median(run(command).wall_seconds for _ in range(plan.start_repeats))
        for name, command in commands.items()
    }


def _stages(plan: Plan) -> dict[str, dict[str, float]]:
    """CPU seconds for a second of video, by height and stage."""
    heights = sorted({height for height, _, _ in plan.runs})
    seconds = plan.encode_seconds * plan.stage_repeats
    first, *clips = (
        clip(heights[0], plan.encode_seconds, plan.encode_seconds),
        *(clip(height, seconds, plan.encode_seconds) for height in heights),
    )
    command = [sys.executable, "-m", "tests.benchmarks.stages", *map(str, (first, *clips))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    said = json.loads(ran.stdout.splitlines()[-1])
    return {
        f"{height}p": {stage: spent / seconds for stage, spent in said[str(path)].items()}
        for height, path in zip(heights, clips, strict=True)
    }


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short clip; writes no page")
    options = parser.parse_args()
    found = measure(QUICK if options.quick else FULL, lambda line: print(line, flush=True))
    if options.quick:
        print(page(found))
        return
    docs = ROOT / "docs"
    (docs / "performance.json").write_text(json.dumps(found, indent=2) + "\n")
    (docs / "performance.md").write_text(page(found))
    print(f"written: {docs / 'performance.md'} and performance.json")


if __name__ == "__main__":
    main()
