"""CPU seconds that each stage takes for a second of video, on one core: `python -m tests.benchmarks.stages CLIP...`.

The real pipeline annotates each clip, in this process and its decoding child, with its models loaded before. Here the
models' calls are timed by their thread's CPU clock; what this process uses besides is rows, database and finishing.
What the child uses is taken apart by reading the clip once more in this process, with its parts timed the same way, one
thread decoding. bench.py starts it with OMP_NUM_THREADS=1: other threads' time would not be seen.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from db.identity import Source
from db.store import Store
from models.audio import AudioEmotionModel
from models.expression import ExpressionModel
from models.voice import VoiceDetector
from scheduler.sources import find
from tests.benchmarks.processes import cpu_seconds, tree
from worker.decoder import SpanReader, StreamReader, Tools
from worker.decoder_faces import FaceWatcher
from worker.decoder_media import Media
from worker.decoder_open import DescriptorFile
from worker.decoder_video import Converter
from worker.pipeline import Pipeline
from worker.protocol import ReadRequest
from worker.reader import LISTENER, WATCHER
from worker.recipe import Recipe

READING = ("demux", "decode", "scale and convert", "face detector", "voice detector")  # and what is left of it:
REST_OF_READING = "resample, send, and what is left of reading"
ROWS = "windows, rows, database, finish"
THREADS = 1  # that decode: others' time would not be seen

SPENT: Counter[str] = Counter()  # CPU seconds by stage


def time_calls(cls: type, method: str, stage: str) -> None:
    """Add what each call of a method takes to a stage."""
    original = getattr(cls, method)

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.thread_time()
        try:
            return original(*args, **kwargs)
        finally:
            SPENT[stage] += time.thread_time() - started

    setattr(cls, method, timed)


def time_steps(cls: type, method: str, stage: str) -> None:
    """Add what each step of a generator takes to a stage."""
    original = getattr(cls, method)

    def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
        steps, ended = original(*args, **kwargs), object()
        while True:
            started = time.thread_time()
            step = next(steps, ended)
            SPENT[stage] += time.thread_time() - started
            if step is ended:
                return
            yield step

    setattr(cls, method, timed)


def time_everything() -> None:
    """Time the stages that are one class's work."""
    time_steps(Media, "packets", "demux")
    time_calls(StreamReader, "_decode", "decode")
    time_calls(Converter, "convert", "scale and convert")
    time_calls(FaceWatcher, "look", "face detector")
    time_calls(VoiceDetector, "feed", "voice detector")
    time_calls(VoiceDetector, "flush", "voice detector")
    time_calls(AudioEmotionModel, "predict", "audio model")
    time_calls(ExpressionModel, "predict", "face network")


def read(path: Path, tools: Tools) -> None:
    """Read a file as the decoding child does, without sending anything."""
    with path.open("rb") as file, contextlib.closing(Media(DescriptorFile(file.fileno()), THREADS)) as media:
        for _ in SpanReader(media, ReadRequest(), tools).events():
            pass


def source_of(path: Path) -> Source:
    """A file as the pipeline takes it."""
    (source,) = (item for item in find([str(path)]) if isinstance(item, Source))
    return source


def stages(path: Path, pipeline: Pipeline, tools: Tools) -> dict[str, float]:
    """CPU seconds of each stage for one file."""
    SPENT.clear()
    source = source_of(path)
    (child,) = tree(os.getpid())[1:]
    started, child_started = time.process_time(), cpu_seconds(child)
    assert [outcome.status for outcome in pipeline.annotate([source])] == ["done"]
    parent, child_used = time.process_time() - started, cpu_seconds(child) - child_started
    SPENT[ROWS] = parent - SPENT["audio model"] - SPENT["face network"]
    read(path, tools)
    SPENT[REST_OF_READING] = child_used - sum(SPENT[stage] for stage in READING)
    return dict(SPENT)


def main(first: str, *clips: str) -> None:
    """Print the seconds of each clip but the first, which only warms up, as JSON. No clip may come twice."""
    time_everything()
    tools = Tools(LISTENER, WATCHER, THREADS)
    read(Path(first), tools)
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(str(Path(folder, "stages.db"))) as store,
        Pipeline(store, Recipe(), "cpu", children=1) as pipeline,
    ):
        list(pipeline.annotate([source_of(Path(first))]))
        print(json.dumps({clip: stages(Path(clip), pipeline, tools) for clip in clips}))


if __name__ == "__main__":
    main(*sys.argv[1:])
