"""What the processes of a fleet hold: memory, descriptors, children, shared memory. Of the kernel's own account."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.running_fleet import DECODER, WORKER, Service

MEMORY_GROWTH = 0.10  # of the workers' own memory; what allocators keep settles late
MEMORY_SLACK_MB = 48.0


@dataclass(frozen=True)
class Held:
    """What two workers hold together, or a median of that.

    Attributes:
        memory_mb: of the processes with the models: anonymous memory, which no other process shares.
        children_mb: the same of the decoding children.
        descriptors: open, of the processes with the models.
        children: decoding children.
        dead: children that ended and were not waited for.
        segments: shared memory that is mapped or open, counted once in each process.
        threads: of the processes with the models.
        processes: ids of the processes with the models.
    """

    memory_mb: float
    children_mb: float
    descriptors: float
    children: float
    dead: float
    segments: float
    threads: float
    processes: tuple[int, ...]

    @classmethod
    def by(cls, workers: list[Service]) -> "Held":
        """What they hold now."""
        serving = [pid for worker in workers for pid in worker.children(WORKER)]
        decoding = [pid for worker in workers for pid in worker.children(DECODER)]
        segments = sum(_text(f"/proc/{pid}/maps").count("/memfd:moodreel-") for pid in serving)
        return cls(
            memory_mb=sum(map(_anonymous_mb, serving)),
            children_mb=sum(map(_anonymous_mb, decoding)),
            descriptors=sum(len(_listed(f"/proc/{pid}/fd")) for pid in serving),
            children=len(decoding),
            dead=sum(_n_dead(pid) for pid in serving),
            segments=segments,
            threads=sum(len(_listed(f"/proc/{pid}/task")) for pid in serving),
            processes=tuple(serving),
        )

    @classmethod
    def median(cls, some: list["Held"]) -> "Held":
        """Of each figure; the processes are those of the last."""
        names = ("memory_mb", "children_mb", "descriptors", "children", "dead", "segments", "threads")
        return cls(*(median(getattr(one, name) for one in some) for name in names), processes=some[-1].processes)

    def leaks_until(self, after: "Held") -> list[str]:
        """What has grown by more than it may."""
        bounds = {
            "memory_mb": self.memory_mb * (1 + MEMORY_GROWTH) + MEMORY_SLACK_MB,
            "children_mb": self.children_mb * 1.5 + 100.0,  # they are replaced, and read other files each time
            "descriptors": self.descriptors + 8,  # connections to the servers come and go
            "children": self.children + 1,  # that a job has just replaced one
            "dead": self.dead + 1,
            "segments": self.segments + 2,
            "threads": self.threads + 2,
        }
        grown = [
            f"{name}: {getattr(self, name):g} before, {getattr(after, name):g} after, at most {most:g}"
            for name, most in bounds.items()
            if getattr(after, name) > most
        ]
        if set(after.processes) != set(self.processes):
            grown.append(f"processes were replaced: {self.processes} before, {after.processes} after")
        return grown

    def __str__(self) -> str:
        return (
            f"{self.memory_mb:.0f} MB in {len(self.processes)} processes with models, {self.children_mb:.0f} MB in "
            f"{self.children:g} decoding children, {self.descriptors:g} descriptors, {self.segments:g} segments of "
            f"shared memory, {self.threads:g} threads, {self.dead:g} dead children"
        )


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(errors="replace")
    return ""


def _listed(path: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(path)
    return []


def _anonymous_mb(pid: int) -> float:
    lines = [line for line in _text(f"/proc/{pid}/status").splitlines() if line.startswith("RssAnon")]
    return sum(int(line.split()[1]) for line in lines) / 1024


def _n_dead(pid: int) -> int:
    """Children of a process that have ended and were not waited for."""
    children = [child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in _text(str(task)).split()]
    return sum(_text(f"/proc/{child}/stat").rpartition(")")[2].split()[:1] == ["Z"] for child in children)
