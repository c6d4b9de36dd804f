"""What the decoding child's sandbox costs: a child's start, and the reading of a clip, with it and without it in turn.

    python -m tests.benchmarks.sandbox [--pairs 15]

CPU seconds of the child, by the kernel's account: less moved by what else the machine does than time on the wall.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import click

from tests.clips import Pictures, Track, steady, write
from worker import sandbox
from worker.limits import DEFAULT_LIMITS
from worker.protocol import ReadRequest
from worker.reader import Reader

SECONDS = 60.0
WITHOUT = """
import sys
if "worker.decoder" in sys.orig_argv:
    from worker import sandbox
    sandbox.begin = sandbox.confine = lambda *_, **__: {}
"""


@contextmanager
def _without(folder: Path, is_without: bool) -> Iterator[None]:
    """Children that are started here give up nothing: Python runs the file when it starts."""
    (folder / "sitecustomize.py").write_text(WITHOUT)
    if is_without:
        sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if is_without:
            sys.path.remove(str(folder))


def _measured(path: Path) -> tuple[float, float, float]:
    """Wall seconds to a new child's first answer; CPU seconds of that; CPU seconds of reading a clip."""
    with Reader() as reader, path.open("rb") as file:
        began = time.perf_counter()
        reader.probe(file.fileno(), path.name)
        wall = time.perf_counter() - began
        assert reader.child_pid is not None
        clock = ((~reader.child_pid) << 3) | 2
        started = time.clock_gettime(clock)
        for _ in reader.read(file.fileno(), path.name, ReadRequest()):
            pass
        return wall, started, time.clock_gettime(clock) - started


@click.command(help=__doc__)
@click.option("--pairs", default=15, show_default=True, help="How often each is measured.")
def main(pairs: int) -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write(folder / "a.mp4", Pictures(steady(SECONDS), width=640, height=360), [Track(seconds=SECONDS)])
        found: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
        for _ in range(pairs):
            for is_without in (False, True):
                with _without(folder, is_without):
                    found[is_without].append(_measured(path))
    for place, (what, factor, unit) in enumerate(
        [("start, wall", 1e3, "ms"), ("start, CPU", 1e3, "ms"), (f"reading {SECONDS:g} s, CPU", 1.0, "s")]
    ):
        ours, theirs = (factor * median(one[place] for one in found[side]) for side in (False, True))
        # The median of the differences within pairs: what the machine did meanwhile is in both of a pair.
        extra = factor * median(a[place] - b[place] for a, b in zip(found[False], found[True], strict=True))
        print(
            f"{what}: {ours:.3f} {unit} with, {theirs:.3f} {unit} without, {extra:+.3f} {unit} ({extra / theirs:+.2%})"
        )
    began = time.perf_counter()
    sandbox.begin(DEFAULT_LIMITS.memory_bytes)
    sandbox.confine(DEFAULT_LIMITS)
    print(f"giving up itself: {1e3 * (time.perf_counter() - began):.2f} ms")


if __name__ == "__main__":
    main()
