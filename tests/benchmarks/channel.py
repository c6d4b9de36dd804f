"""Arrays from a child to its parent, over the socket and through the ring: `python -m tests.benchmarks.channel`.

A child process sends one kind of message as fast as it can; the parent receives. Both ways take turns, so that whatever
else the machine does meets both; what is printed are medians. It needs Linux.
"""

import argparse
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.processes import ROOT
from worker.channel import Channel
from worker.protocol import Picture, Progress, Sound
from worker.reader import RING_BYTES
from worker.ring import Ring, shared_memory

SEND = "import sys; from tests.benchmarks.channel import send; send(sys.argv[1], *map(int, sys.argv[2:]))"


def _pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape, np.uint8)


# What is sent, and how often in one run.
KINDS: dict[str, tuple[Callable[[], Sound | Picture], int]] = {
    "grey face, 48 x 48": (lambda: Picture(0, 0.0, 0.0, "face", 1, crop=_pixels(48, 48)), 20_000),
    "face in colour, 48 x 48": (lambda: Picture(0, 0.0, 0.0, "face", 1, crop=_pixels(48, 48, 3)), 20_000),
    "sound, 1 s": (lambda: Sound(0, np.linspace(-1, 1, 16_000, dtype=np.float32)), 10_000),
    "picture, 224 x 224": (lambda: Picture(0, 0.0, 0.0, "no_face", frame=_pixels(224, 224, 3)), 5_000),
}


@dataclass(frozen=True)
class Run:
    """What sending many arrays took.

    Attributes:
        wall_seconds: from the first array's arrival to the last's.
        cpu_seconds: of parent and child together, in user and system mode.
    """

    wall_seconds: float
    cpu_seconds: float


MEASURED = ("wall_seconds", "cpu_seconds")


def send(kind: str, count: int, sock: int, memory: int) -> None:
    """The child: send a message `count` times, and once more before, then the CPU seconds that it took."""
    channel = Channel(socket.socket(fileno=sock), Ring(memory) if memory >= 0 else None)
    message = KINDS[kind][0]()
    channel.send(message)
    before = _cpu_seconds()
    for _ in range(count):
        channel.send(message)
    channel.send(Progress(_cpu_seconds() - before))


def receive(kind: str, ring_bytes: int) -> Run:
    """Start a child and receive all that it sends; without a ring if that has no bytes."""
    count = KINDS[kind][1]
    ours, theirs = socket.socketpair()
    memory = shared_memory(ring_bytes) if ring_bytes else None
    named, passed = (-1, []) if memory is None else (memory, [memory])
    command = [sys.executable, "-c", SEND, kind, str(count), str(theirs.fileno()), str(named)]
    with theirs:
        child = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno(), *passed])
    channel = Channel(ours, None if memory is None else Ring(memory))
    for descriptor in passed:
        os.close(descriptor)
    channel.receive()
    started, before = time.perf_counter(), _cpu_seconds()
    for _ in range(count):
        channel.receive()
    wall, used = time.perf_counter() - started, _cpu_seconds() - before
    last = channel.receive()
    assert isinstance(last, Progress)
    channel.close()
    child.wait()
    return Run(wall, used + last.t_seconds)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def compare(kind: str, repeats: int, ring_bytes: int) -> str:
    """A line of the table for one kind of message."""
    make, count = KINDS[kind]
    message = make()
    arrays = [value for value in vars(message).values() if isinstance(value, np.ndarray)]
    megabytes = sum(array.nbytes for array in arrays) * count / 1e6
    runs = [(receive(kind, 0), receive(kind, ring_bytes)) for _ in range(repeats)]
    ways = []
    for way in zip(*runs, strict=True):
        wall, cpu = (statistics.median(getattr(run, name) for run in way) for name in MEASURED)
        ways.append(f"{count / wall:7,.0f}/s {megabytes / wall:6,.0f} MB/s {cpu / count * 1e6:6.1f} us")
    faster, cheaper = (statistics.median(getattr(a, name) / getattr(b, name) for a, b in runs) for name in MEASURED)
    return f"{kind:24} | {' | '.join(ways)} | {faster:5.2f} x {cheaper:5.2f} x"


def main() -> None:
    """Print a table: arrays and megabytes a second, CPU time of both processes for an array, and how they compare."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.channel")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ring-bytes", type=int, default=RING_BYTES)
    options = parser.parse_args()
    print(f"{'':24} | {'socket':^33} | {'ring':^33} | faster, less CPU time")
    for kind in KINDS:
        print(compare(kind, options.repeats, options.ring_bytes), flush=True)


if __name__ == "__main__":
    main()
