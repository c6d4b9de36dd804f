"""The reader alone, with one child and with two: `python -m tests.benchmarks.reader_alone CLIP [--runs N]`.

One child reads the whole clip; then two read a half each, at the same time. Each child decodes with one thread and
looks and listens as it does for `moodreel annotate` with the compact preset; this process only takes what they send.
Both take turns, so that whatever else the machine does meets both; what is printed are medians, as JSON. It needs two
idle cores.
"""

import argparse
import json
import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.benchmarks.processes import cpu_seconds
from worker.protocol import Probe, ReadRequest
from worker.reader import Reader

RUNS = 3


def measure(path: Path, runs: int = RUNS) -> dict[str, Any]:
    """What reading a clip takes with one child and with two.

    Returns:
        `two_children`: how much faster two are than one. Under `one` and `two`: seconds on the clock for the whole
        clip, and CPU milliseconds for each second of video, of the children and of this process.
    """
    found: dict[str, list[dict[str, float]]] = {"one": [], "two": []}
    with ExitStack() as stack:
        readers = [stack.enter_context(Reader(threads=1)) for _ in range(2)]
        seconds = _warm_up(path, readers)
        for _ in range(runs):
            found["one"].append(_read(path, readers[:1], seconds))
            found["two"].append(_read(path, readers, seconds))
    middle = {
        name: {key: statistics.median(each[key] for each in took) for key in took[0]} for name, took in found.items()
    }
    faster = middle["one"]["wall_seconds"] / middle["two"]["wall_seconds"]
    return {"clip": path.name, "seconds": seconds, "runs": runs, "two_children": faster, **middle}


def _warm_up(path: Path, readers: list[Reader]) -> float:
    """Start the children and let them load their detectors; the clip's length in seconds."""
    probe: Probe | None = None
    with path.open("rb") as file:
        for reader in readers:
            probe = reader.probe(file.fileno(), path.name)
            _take(path, reader, ReadRequest(end_seconds=2.0))
    if probe is None or not probe.duration_seconds:
        raise SystemExit(f"{path}: its length is not known")
    return probe.duration_seconds


def _read(path: Path, readers: list[Reader], seconds: float) -> dict[str, float]:
    """Read a clip in as many parts as there are readers."""
    borders = [seconds * n / len(readers) for n in range(len(readers))]
    parts = zip(borders, [*borders[1:], None], strict=True)
    children = [reader.child_pid for reader in readers if reader.child_pid is not None]
    before, ours, started = sum(map(cpu_seconds, children)), _own_cpu_seconds(), time.perf_counter()
    with ThreadPoolExecutor(len(readers)) as pool:
        requests = [ReadRequest(start_seconds=start, end_seconds=end) for start, end in parts]
        list(pool.map(_take, [path] * len(readers), readers, requests))
    return {
        "wall_seconds": time.perf_counter() - started,
        "children_cpu_ms": (sum(map(cpu_seconds, children)) - before) * 1000 / seconds,
        "parent_cpu_ms": (_own_cpu_seconds() - ours) * 1000 / seconds,
    }


def _own_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _take(path: Path, reader: Reader, request: ReadRequest) -> None:
    with path.open("rb") as file:
        for _ in reader.read(file.fileno(), path.name, request):
            pass


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    print(json.dumps(measure(options.clip, options.runs), indent=2))


if __name__ == "__main__":
    main()
