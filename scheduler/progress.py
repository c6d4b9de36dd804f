"""Progress over videos and within each, with the time that is left; nothing where there is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from db.identity import Source, path_of, printable


def short(uri: str) -> str:
    """A video's file name, as it can be printed."""
    return printable(PurePath(path_of(uri)).name)


class Bars:
    """No bars, for pipes and logs.

    Attributes:
        console: where to say something meanwhile.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def report(self, source: Source, done_seconds: float, total_seconds: float | None) -> None:
        """A reader has come this far in a video."""

    def finish(self, source: Source) -> None:
        """A video has ended, well or not."""


class TerminalBars(Bars):
    """One bar over all videos, and one for each video under way."""

    def __init__(self, progress: Progress, n_videos: int) -> None:
        super().__init__(progress.console)
        self._progress = progress
        self._all = progress.add_task("all videos", total=n_videos)
        self._tasks: dict[str, tuple[TaskID, float]] = {}
        self._finished = 0

    def report(self, source: Source, done_seconds: float, total_seconds: float | None) -> None:
        """A reader has come this far in a video."""
        task, _ = self._tasks.get(source.uri) or (self._progress.add_task(short(source.uri), total=total_seconds), 0.0)
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
def counter(console: Console, what: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar that is moved on by so many, with the time that is left; on a terminal, unless quiet is asked for."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda n: progress.advance(task, n)


@contextmanager
def bars(console: Console, n_videos: int, *, quiet: bool) -> Iterator[Bars]:
    """Bars on a terminal; elsewhere, and where quiet is asked for, none."""
    if quiet or not console.is_terminal:
        yield Bars(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield TerminalBars(progress, n_videos)
