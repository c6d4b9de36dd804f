"""From a clip that arrives to its rows, in seconds, with a running fleet of one scheduler and one worker on the CPU.

    python -m tests.benchmarks.latency --clips 10 [--source s3]

Clips of five seconds are put, one after another, into a folder that `moodreel watch` looks at, or into a bucket that a
queue tells it of. Printed are the medians and the longest, from the moment at which the whole clip is there: until it
was found and asked for, until it was probed and planned, and until its timeline could be queried. Fails if the longest
exceeds `--bound`.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table

from tests import archive
from tests.running_fleet import Fleet, wait_until
from tests.servers import ObjectStore

EVERY_SECONDS = 0.5  # between two looks
CLIP_SECONDS = 5.0
N_BEFORE = 3  # clips among which are voices and faces
WAIT_SECONDS = 120.0
BUCKET = "incoming"
STEPS = {
    "found": "SELECT COUNT(*) FROM annotations a JOIN videos v ON v.id = a.video_id WHERE v.uri = '{uri}'",
    "planned": "SELECT COUNT(*) FROM spans s JOIN annotations a ON a.id = s.annotation_id"
    " JOIN videos v ON v.id = a.video_id WHERE v.uri = '{uri}'",
    "rows": "SELECT COUNT(*) FROM timeline WHERE video = '{uri}'",
}


class Source(Protocol):
    """Where clips arrive."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What leads the fleet there."""
        ...

    @property
    def watched(self) -> tuple[str, ...]:
        """What `moodreel watch` is given besides its options."""
        ...

    def put(self, clip: Path, name: str) -> str:
        """Let a clip arrive, all at once; its URI."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """Clips arrive in a folder, by being renamed into it."""

    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        return {}

    @property
    def watched(self) -> tuple[str, ...]:
        return str(self.folder), "--settle", "0"

    def put(self, clip: Path, name: str) -> str:
        arrives = self.folder / name
        waits = arrives.with_name(f".{name}")
        waits.write_bytes(clip.read_bytes())
        waits.rename(arrives)
        return str(arrives)


@dataclass(frozen=True)
class BucketSource:
    """Clips arrive in a bucket, which tells a queue of them."""

    server: ObjectStore
    queue_url: str

    @property
    def environment(self) -> Mapping[str, str]:
        return self.server.environment

    @property
    def watched(self) -> tuple[str, ...]:
        return f"s3://{BUCKET}/", "--events", self.queue_url

    def put(self, clip: Path, name: str) -> str:
        self.server.client("s3").put_object(Bucket=BUCKET, Key=name, Body=clip.read_bytes())
        return f"s3://{BUCKET}/{name}"


@contextmanager
def folder_source(folder: Path) -> Iterator[Source]:
    """A folder below another."""
    incoming = folder / "incoming"
    incoming.mkdir()
    yield FolderSource(incoming)


@contextmanager
def bucket_source(folder: Path) -> Iterator[Source]:
    """A bucket of a server whose log lies in a folder."""
    with ObjectStore(folder) as server:
        yield BucketSource(server, server.bucket_with_events(BUCKET))


SOURCES: dict[str, Callable[[Path], AbstractContextManager[Source]]] = {"folder": folder_source, "s3": bucket_source}


def measure(fleet: Fleet, source: Source, clips: list[Path]) -> dict[str, list[float]]:
    """For each step, how long after its arrival each clip had made it, seconds."""
    took: dict[str, list[float]] = {step: [] for step in STEPS}
    for number, clip in enumerate(clips):
        uri = source.put(clip, f"{clip.stem}-{number}{clip.suffix}")
        began = time.monotonic()
        for step, query in STEPS.items():
            asked = query.format(uri=uri)
            wait_until(lambda asked=asked: fleet.rows(asked)[0][0] > 0, WAIT_SECONDS, every_seconds=0.02)  # type: ignore[misc]
            took[step].append(time.monotonic() - began)
    return took


def run(n_clips: int, kind: str) -> dict[str, list[float]]:
    """Start a fleet, let some clips go before, so that all models are loaded, and measure the others."""
    with tempfile.TemporaryDirectory(prefix="moodreel-") as name:
        folder = Path(name)
        clips = archive.make(folder / "clips", n_clips + N_BEFORE, (CLIP_SECONDS, CLIP_SECONDS))
        with SOURCES[kind](folder) as source, Fleet(folder, source.environment) as fleet:
            fleet.run("pipelines", "add", "usual")
            watching = ("--pipeline", "usual", "--every", EVERY_SECONDS)
            fleet.service("scheduler", "watch", *source.watched, *watching).start()
            fleet.service("worker", "work", "--device", "cpu", "--slots", 1).start()
            measure(fleet, source, clips[:N_BEFORE])
            return measure(fleet, source, clips[N_BEFORE:])


def main() -> int:
    """Measure, print, and compare with the bound; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--source", choices=SOURCES, default=os.environ.get("SOURCE", "folder"))
    parser.add_argument("--bound", type=float, default=30.0, help="most that any clip may take, seconds")
    options = parser.parse_args()
    took = run(options.clips, options.source)
    table = Table(title=f"{options.clips} clips of {CLIP_SECONDS:g} s, source: {options.source}", box=None)
    for title in ("until", "median, s", "longest, s"):
        table.add_column(title, justify="left" if title == "until" else "right")
    for step, seconds in took.items():
        table.add_row(step, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}")
    Console().print(table)
    return 0 if max(took["rows"]) <= options.bound else 1


if __name__ == "__main__":
    sys.exit(main())
