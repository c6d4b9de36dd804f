"""The command `moodreel annotate`: find, skip what is done, annotate the rest, show what came out."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from db.errors import BadOption, DatabaseLocked, Forgotten, LeaseLost, MoodreelError
from db.identity import Source
from db.store import Store
from scheduler.cli import EXIT_FAILED, EXIT_INTERRUPTED, stderr
from scheduler.progress import bars
from scheduler.render import complain
from scheduler.sources import ANY, Spool, find
from scheduler.submit import batches
from scheduler.summary import DONE, ELSEWHERE, FAILED, SKIPPED, Line, Summary
from scheduler.wanted import Wanted
from worker.limits import DEFAULT_LIMITS, Limits


@dataclass(frozen=True)
class AnnotateOptions:
    """What the user asked for."""

    db_url: str
    window_seconds: float
    hop_seconds: float
    fusion_rule: str | None
    device: str
    as_json: bool
    preset: str = "compact"
    audio_model: str | None = None
    video_model: str | None = None
    label_map: str | None = None
    span_seconds: float = 150.0
    adapt: bool = True
    wanted: Wanted = ANY
    dtype: str = "auto"
    decoder: str = "cpu"
    limits: Limits = DEFAULT_LIMITS


def run(paths: Sequence[str], options: AnnotateOptions) -> int:
    """Annotate and print; returns the exit status.

    Raises:
        MoodreelError: a wrong option, or something without which no video can be annotated.
    """
    recipe = recipe_of(options)
    summary = Summary(as_json=options.as_json)
    with _second_interrupt_exits(), Store(options.db_url) as store:
        try:
            for line in _lines(store, recipe, paths, options):
                summary.add(line)
        except KeyboardInterrupt:
            stderr().print("Interrupted. What is done is kept; the same command carries on from here.")
            return EXIT_INTERRUPTED
        summary.show(store)
    return 0 if summary.is_well else EXIT_FAILED


def _lines(store: Store, recipe: Any, paths: Sequence[str], options: AnnotateOptions) -> Iterator[Line]:
    """Every video's line: the skipped ones and those whose windows are there, then the others as they are done."""
    with Spool() as todo:
        for found in batches(find(paths, options.wanted)):
            for item in found:
                if isinstance(item, MoodreelError):
                    line = Line("", FAILED, error=item)
                    _complain(stderr(), line)
                    yield line
            sources = [item for item in found if isinstance(item, Source)]
            done = store.finished(recipe.identity.digest, {source.uri: source.version for source in sources})
            yield from (Line(source.uri, SKIPPED) for source in sources if source.uri in done)
            fused = _fuse_anew(store, recipe, [source for source in sources if source.uri not in done])
            for line in fused.values():
                _complain(stderr(), line)
                yield line
            todo.add([source for source in sources if source.uri not in done and source.uri not in fused])
        yield from _annotate(store, recipe, todo, options)


@contextmanager
def _second_interrupt_exits() -> Iterator[None]:
    """Let the first Ctrl-C stop in good order, and a second one at once; then leases tell that their owner is dead."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def recipe_of(options: AnnotateOptions) -> Any:
    """The pipeline that the options describe.

    Raises:
        BadOption: a value is out of range, or a model's labels cannot be mapped.
        WeightsMissing: the models are not in place.
    """
    from dataclasses import replace

    from db.errors import WeightsMissing
    from models.errors import LabelError, ModelError
    from models.presets import preset_of
    from worker.recipe import Recipe
    from worker.windows import WindowPlan

    try:
        plan = WindowPlan(
            _whole_ms("--window", options.window_seconds),
            _whole_ms("--hop", options.hop_seconds),
            _whole_ms("--span", options.span_seconds),
        )
        label_map = Path(options.label_map) if options.label_map else None
        preset = preset_of(options.preset, _absolute(options.audio_model), _absolute(options.video_model), label_map)
        fusion = replace(preset.fusion, rule=options.fusion_rule) if options.fusion_rule else preset.fusion
        recipe = Recipe(preset, plan, fusion, adapt=options.adapt)
        recipe.config  # noqa: B018 - missing weights show themselves here, before any file is opened
        return recipe
    except (ValueError, LabelError) as error:
        raise BadOption(str(error)) from error
    except ModelError as error:
        raise WeightsMissing(str(error)) from error


def _absolute(ref: str | None) -> str | None:
    """A checkpoint's folder by its whole path, since workers may look for it from elsewhere; a hub's id as it is."""
    return os.path.abspath(ref) if ref is not None and os.path.isdir(ref) else ref


def _whole_ms(option: str, seconds: float) -> int:
    try:
        return round(seconds * 1000)
    except (ValueError, OverflowError) as error:
        raise BadOption(f"{option} must be a number of seconds, got {seconds}") from error


def _fuse_anew(store: Store, recipe: Any, sources: Sequence[Source]) -> dict[str, Line]:
    """Finish those videos whose windows are there, from a pipeline that differs only in what comes after them."""
    windows = store.windows_of(recipe.identity.windows_digest, {source.uri: source.version for source in sources})
    if not windows:
        return {}
    from worker.finish import fuse_anew

    lines: dict[str, Line] = {}
    for source in sources:
        if source.uri in windows:
            with suppress(LeaseLost, DatabaseLocked, Forgotten):  # then it goes the long way
                store.observe(source.uri, source.version, source.size_bytes)
                done = store.annotation(fuse_anew(store, windows[source.uri], recipe.identity))
                lines[source.uri] = Line(source.uri, DONE, warning=done.warning)
    return lines


def _annotate(store: Store, recipe: Any, todo: Spool, options: AnnotateOptions) -> Iterator[Line]:
    if not todo:
        return
    from worker.pipeline import Pipeline

    with (
        Pipeline(
            store, recipe, options.device, dtype=options.dtype, decoder=options.decoder, limits=options.limits
        ) as pipeline,
        bars(stderr(), len(todo), quiet=options.as_json) as progress,
        closing(pipeline.annotate(todo, progress.report)) as outcomes,
    ):
        for outcome in outcomes:
            progress.finish(outcome.source)
            line = Line(outcome.source.uri, outcome.status, outcome.error, outcome.warning)
            _complain(progress.console, line)
            yield line


def _complain(console: Console, line: Line) -> None:
    if line.error is not None:
        complain(console, line.error.code, str(line.error), line.error.hint)
    elif line.warning is not None:
        complain(console, line.warning[0], f"{line.name}: {line.warning[1]}")
    elif line.status == ELSEWHERE:
        complain(console, ELSEWHERE, f"{line.name}: another moodreel process is working on it")
