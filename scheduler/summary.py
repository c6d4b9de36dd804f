"""What `moodreel annotate` says when it is done: strips, a table, one line of counts; or all of it as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.errors import FAILURES, MoodreelError
from db.rows import Segment
from db.store import Store
from scheduler.cli import print_json
from scheduler.progress import short
from scheduler.render import clock, legend, strip

DONE, SKIPPED, FAILED, ELSEWHERE = "done", "skipped", "failed", "elsewhere"
LOOK_OF_STATUS = {DONE: "green", SKIPPED: "cyan", FAILED: "red", ELSEWHERE: "yellow"}
MAX_STRIPS = 20  # more videos than this are left to `moodreel timeline`
MAX_ROWS = 40


@dataclass(frozen=True)
class Line:
    """One video in the summary, or a path that led to none (then without a name)."""

    name: str
    status: str
    error: MoodreelError | None = None
    warning: tuple[str, str] | None = None


class Summary:
    """What came out, of which no more is kept than is shown; that may be a million videos.

    Args:
        as_json: whether it is to be one document, of all videos.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._counts = dict.fromkeys(LOOK_OF_STATUS, 0)
        self._named = 0
        self._all: list[Line] = []
        self._rows: list[Line] = []
        self._done: list[Line] = []

    def add(self, line: Line) -> None:
        """One more."""
        self._counts[line.status] += 1
        self._named += bool(line.name)
        if self._as_json:
            self._all.append(line)
        elif line.name and len(self._rows) < MAX_ROWS:
            self._rows.append(line)
        if line.status == DONE and len(self._done) < MAX_STRIPS:
            self._done.append(line)

    @property
    def is_well(self) -> bool:
        """Whether all videos are done."""
        return not self._counts[FAILED] and not self._counts[ELSEWHERE]

    def show(self, store: Store) -> None:
        """Print it."""
        if self._as_json:
            print_json({"videos": [_entry(store, line) for line in self._all], **self._counts})
            return
        console = Console()
        _strips(console, store, self._done)
        console.print(_table(store, self._rows))
        if self._named > MAX_ROWS:
            console.print(f"... and {self._named - MAX_ROWS} more", style="dim")
        said = Text(", ").join(Text(f"{n} {status}", LOOK_OF_STATUS[status]) for status, n in self._counts.items() if n)
        console.print(said, Text(f"in {store.name}"), soft_wrap=True)


def _strips(console: Console, store: Store, lines: Sequence[Line]) -> None:
    timelines = {line.name: store.timeline(line.name) for line in lines}
    for name, pieces in timelines.items():
        length = clock(pieces[-1].end_seconds) if pieces else ""
        console.print(Text(short(name), style="bold"), Text(length, style="dim"))
        console.print(strip(pieces, min(console.width, 100)))
    if timelines:
        console.print(legend(piece for pieces in timelines.values() for piece in pieces), "\n")


def _table(store: Store, lines: Sequence[Line]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("video", "status", "length", "mostly", "segments"):
        table.add_column(name, justify="right" if name in ("length", "segments") else "left")
    for line in lines:
        pieces = store.timeline(line.name) if line.status in (DONE, SKIPPED) else []
        status = Text(line.error.code if line.error else line.status, style=LOOK_OF_STATUS[line.status])
        length = clock(pieces[-1].end_seconds) if pieces else "-"
        table.add_row(Text(short(line.name)), status, length, _dominant(pieces), str(len(pieces) or "-"))
    return table


def _dominant(pieces: Sequence[Segment]) -> str:
    """As the view `video_summary` has it, which would be asked once for each line."""
    seconds: dict[str, float] = {}
    for piece in pieces:
        if piece.emotion:
            seconds[piece.emotion] = seconds.get(piece.emotion, 0.0) + piece.end_seconds - piece.start_seconds
    return max(seconds, key=lambda name: seconds[name]) if seconds else "-"


def _entry(store: Store, line: Line) -> dict[str, Any]:
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
    return entry
