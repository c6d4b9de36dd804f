"""The command `moodreel annotate`: find, skip what is done, annotate the rest, show what came out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from db.errors import FAILURES, BadOption, MoodreelError
from db.identity import Source, path_of
from db.store import Store
from scheduler.cli import EXIT_FAILED, EXIT_INTERRUPTED, print_json, stderr
from scheduler.render import clock, complain, legend, printable, strip
from scheduler.sources import find

DONE, SKIPPED, FAILED, ELSEWHERE = "done", "skipped", "failed", "elsewhere"
LOOK_OF_STATUS = {DONE: "green", SKIPPED: "cyan", FAILED: "red", ELSEWHERE: "yellow"}
MAX_STRIPS = 20  # more videos than this are left to `moodreel timeline`
MAX_ROWS = 40


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


@dataclass(frozen=True)
class Line:
    """One video or path in the summary."""

    name: str
    status: str
    error: MoodreelError | None = None
    warning: tuple[str, str] | None = None


def run(paths: Sequence[str], options: AnnotateOptions) -> int:
    """Annotate and print; returns the exit status.

    Raises:
        MoodreelError: a wrong option, or something without which no video can be annotated.
    """
    recipe = recipe_of(options)
    found = list(find(paths))
    sources = [item for item in found if isinstance(item, Source)]
    lines = [Line("", FAILED, error=item) for item in found if isinstance(item, MoodreelError)]
    with Store(options.db_url) as store:
        done = store.finished(recipe.identity.digest, {source.uri: source.version for source in sources})
        lines += [Line(source.uri, SKIPPED) for source in sources if source.uri in done]
        try:
            todo = [source for source in sources if source.uri not in done]
            lines += _fuse_anew(store, recipe, todo)
            handled = {line.name for line in lines}
            todo = [source for source in todo if source.uri not in handled]
            for line in _annotate(store, recipe, todo, options):
                lines.append(line)
                _complain(line)
        except KeyboardInterrupt:
            stderr().print("Interrupted. What is done is kept; the same command carries on from here.")
            return EXIT_INTERRUPTED
        for item in found:
            if isinstance(item, MoodreelError):
                _complain(Line("", FAILED, error=item))
        _summarise(store, sources, lines, options)
    return EXIT_FAILED if any(line.status == FAILED for line in lines) else 0


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
        plan = WindowPlan(_whole_ms("--window", options.window_seconds), _whole_ms("--hop", options.hop_seconds))
        label_map = Path(options.label_map) if options.label_map else None
        preset = preset_of(options.preset, options.audio_model, options.video_model, label_map)
        fusion = replace(preset.fusion, rule=options.fusion_rule) if options.fusion_rule else preset.fusion
        recipe = Recipe(preset, plan, fusion)
        recipe.config  # noqa: B018 - missing weights show themselves here, before any file is opened
        return recipe
    except (ValueError, LabelError) as error:
        raise BadOption(str(error)) from error
    except ModelError as error:
        raise WeightsMissing(str(error)) from error


def _whole_ms(option: str, seconds: float) -> int:
    try:
        return round(seconds * 1000)
    except (ValueError, OverflowError) as error:
        raise BadOption(f"{option} must be a number of seconds, got {seconds}") from error


def _fuse_anew(store: Store, recipe: Any, todo: Sequence[Source]) -> list[Line]:
    """Videos whose windows are there already, from a pipeline that differs only in what comes after them."""
    windows = store.windows_of(recipe.identity.windows_digest, {source.uri: source.version for source in todo})
    if windows:
        from importlib.metadata import version

        from worker.finish import fuse_anew

        for annotation_id in windows.values():
            fuse_anew(store, annotation_id, recipe.identity, provenance={"moodreel": version("moodreel")})
    return [Line(uri, DONE) for uri in windows]


def _annotate(store: Store, recipe: Any, todo: Sequence[Source], options: AnnotateOptions) -> Iterator[Line]:
    if not todo:
        return
    from worker.pipeline import Pipeline

    with Pipeline(store, recipe, options.device) as pipeline, _progress(len(todo), options.as_json) as bars:
        for outcome in pipeline.annotate(todo, bars.report):
            bars.finish(outcome.source)
            yield Line(outcome.source.uri, outcome.status, outcome.error, outcome.warning)


class Bars(Protocol):
    """Progress over videos and within each video."""

    def report(self, source: Source, done_seconds: float, total_seconds: float | None) -> None: ...
    def finish(self, source: Source) -> None: ...


class NoBars:
    """For pipes and logs."""

    def report(self, source: Source, done_seconds: float, total_seconds: float | None) -> None:
        """Say nothing."""

    def finish(self, source: Source) -> None:
        """Say nothing."""


class TerminalBars:
    """One bar over all videos with the time that is left, and one for each video under way."""

    def __init__(self, progress: Progress, n_videos: int) -> None:
        self._progress = progress
        self._all = progress.add_task("all videos", total=n_videos)
        self._tasks: dict[str, tuple[TaskID, float]] = {}
        self._finished = 0

    def report(self, source: Source, done_seconds: float, total_seconds: float | None) -> None:
        """A reader has come this far in a video."""
        task, _ = self._tasks.get(source.uri) or (self._progress.add_task(_short(source.uri), total=total_seconds), 0.0)
        share = min(1.0, done_seconds / total_seconds) if total_seconds else 0.0
        self._tasks[source.uri] = (task, share)
        self._progress.update(task, completed=done_seconds)
        self._show()

    def finish(self, source: Source) -> None:
        """A video has ended, well or not."""
        self._finished += 1
        if (bar := self._tasks.pop(source.uri, None)) is not None:
            self._progress.remove_task(bar[0])
        self._show()

    def _show(self) -> None:
        under_way = sum(share for _, share in list(self._tasks.values()))
        self._progress.update(self._all, completed=self._finished + under_way)


@contextmanager
def _progress(n_videos: int, quiet: bool) -> Iterator[Bars]:
    console = stderr()
    if quiet or not console.is_terminal:
        yield NoBars()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield TerminalBars(progress, n_videos)


def _complain(line: Line) -> None:
    if line.error is not None:
        complain(stderr(), line.error)
    elif line.warning is not None:
        stderr().print(Text(f"{line.warning[0]}: {printable(line.name)}: {line.warning[1]}"), soft_wrap=True)
    elif line.status == ELSEWHERE:
        stderr().print(Text(f"{printable(line.name)}: another moodreel process is working on it"), soft_wrap=True)


def _summarise(store: Store, sources: Sequence[Source], lines: Sequence[Line], options: AnnotateOptions) -> None:
    if options.as_json:
        print_json(_as_json(store, lines))
        return
    console = Console()
    shown = [line for line in lines if line.status == DONE][:MAX_STRIPS]
    timelines = {line.name: store.timeline(line.name) for line in shown}
    for name, pieces in timelines.items():
        length = clock(pieces[-1].end_seconds) if pieces else ""
        console.print(Text(_short(name), style="bold"), Text(length, style="dim"))
        console.print(strip(pieces, min(console.width, 100)))
    if shown:
        console.print(legend(piece for pieces in timelines.values() for piece in pieces), "\n")
    console.print(_table(store, [line for line in lines if line.name][:MAX_ROWS]))
    counts = {status: sum(line.status == status for line in lines) for status in LOOK_OF_STATUS}
    words = [f"[{LOOK_OF_STATUS[status]}]{n} {status}[/]" for status, n in counts.items() if n]
    console.print(", ".join(words), f"in {printable(options.db_url)}", highlight=False)


def _table(store: Store, lines: Sequence[Line]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("video", "status", "length", "mostly", "segments"):
        table.add_column(name, justify="right" if name in ("length", "segments") else "left")
    for line in lines:
        pieces = store.timeline(line.name) if line.status in (DONE, SKIPPED) else []
        status = Text(line.error.code if line.error else line.status, style=LOOK_OF_STATUS[line.status])
        length = clock(pieces[-1].end_seconds) if pieces else "-"
        table.add_row(_short(line.name), status, length, _dominant(pieces), str(len(pieces) or "-"))
    return table


def _dominant(pieces: Sequence[Any]) -> str:
    seconds: dict[str, float] = {}
    for piece in pieces:
        if piece.emotion:
            seconds[piece.emotion] = seconds.get(piece.emotion, 0.0) + piece.end_seconds - piece.start_seconds
    return max(seconds, key=lambda name: seconds[name]) if seconds else "-"


def _short(uri: str) -> str:
    return printable(PurePath(path_of(uri)).name.encode("utf-8", "backslashreplace").decode())


def _as_json(store: Store, lines: Sequence[Line]) -> dict[str, Any]:
    from dataclasses import asdict

    videos = []
    for line in lines:
        entry: dict[str, Any] = {"video": line.name or None, "status": line.status}
        if line.error is not None:
            entry["error"] = {
                "code": line.error.code,
                "message": str(line.error),
                "what_to_do": line.error.hint or FAILURES[line.error.code].what_to_do,
            }
        if line.warning is not None:
            entry["warning"] = {"code": line.warning[0], "message": line.warning[1]}
        if line.status == DONE:
            entry["timeline"] = [asdict(piece) for piece in store.timeline(line.name)]
        videos.append(entry)
    counts = {status: sum(line.status == status for line in lines) for status in LOOK_OF_STATUS}
    return {"videos": videos, **counts}
