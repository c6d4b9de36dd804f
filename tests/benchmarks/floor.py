"""The floor: every frame of a file, decoded in order with PyAV, and nothing done with it.

    python -m tests.benchmarks.floor CLIP THREAD_TYPE THREADS [--sound]

FFmpeg decodes no faster than with the fastest of its settings, which is not the same for every codec, size and machine:
`fastest` tries them.
"""

import argparse
import itertools
import sys
from pathlib import Path

import av

from tests.benchmarks.processes import run

THREAD_TYPES = ("AUTO", "FRAME", "SLICE")
THREADS = (1, 2, 0)  # 0: FFmpeg counts the cores

Setting = tuple[str, int]


def command(clip: Path, setting: Setting, *, sound: bool = False) -> list[str]:
    """The command that decodes a clip."""
    options = ["--sound"] if sound else []
    return [sys.executable, "-m", "tests.benchmarks.floor", str(clip), setting[0], str(setting[1]), *options]


def settings() -> list[Setting]:
    """What can be told apart: with one thread its type does not matter."""
    found = itertools.product(THREAD_TYPES, THREADS)
    return [(kind, threads) for kind, threads in found if threads != 1 or kind == THREAD_TYPES[0]]


def fastest(clip: Path, times: int) -> tuple[Setting, dict[str, float]]:
    """The setting that decodes a clip's pictures in the least time, and the seconds that each took at best."""
    took: dict[Setting, list[float]] = {setting: [] for setting in settings()}
    for _ in range(times):
        for setting, seconds in took.items():
            seconds.append(run(command(clip, setting)).wall_seconds)
    best = {setting: min(seconds) for setting, seconds in took.items()}
    return min(best, key=lambda setting: best[setting]), {f"{k} {n}": seconds for (k, n), seconds in best.items()}


def decode(clip: str, thread_type: str, threads: int, *, sound: bool) -> None:
    """Decode all frames of the first picture stream, and all sound if that is wanted."""
    with av.open(clip) as file:
        pictures = file.streams.video[0]
        pictures.thread_type, pictures.thread_count = thread_type, threads
        for _ in file.decode(pictures, *(file.streams.audio if sound else ())):
            pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clip")
    parser.add_argument("thread_type", choices=THREAD_TYPES)
    parser.add_argument("threads", type=int)
    parser.add_argument("--sound", action="store_true")
    chosen = parser.parse_args()
    decode(chosen.clip, chosen.thread_type, chosen.threads, sound=chosen.sound)
