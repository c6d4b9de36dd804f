"""What people see in the terminal: the coloured strip of a timeline, tables, progress."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.identity import printable

# Colour and letter of each emotion; the letter carries the strip where there is no colour.
LOOKS: dict[str, tuple[str, str]] = {
    "neutral": ("grey62", "n"),
    "calm": ("dark_cyan", "c"),
    "happy": ("gold1", "H"),
    "sad": ("dodger_blue2", "S"),
    "angry": ("red3", "A"),
    "fearful": ("medium_purple3", "F"),
    "disgust": ("chartreuse4", "D"),
    "surprised": ("dark_orange", "U"),
}
NOTHING = ("grey23", "·")
DARK = {"dodger_blue2", "red3", "chartreuse4", "grey23"}


class Piece(Protocol):
    """A stretch of a timeline."""

    @property
    def start_seconds(self) -> float: ...
    @property
    def end_seconds(self) -> float: ...
    @property
    def emotion(self) -> str | None: ...
    @property
    def confidence(self) -> float | None: ...


def clock(seconds: float) -> str:
    """Seconds as 0:07.5 or 1:02:03.0."""
    tenths = round(seconds * 10)
    hours, rest = divmod(tenths, 36_000)
    minutes, tenths = divmod(rest, 600)
    tail = f"{tenths / 10:04.1f}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def strip(pieces: Sequence[Piece], width: int) -> Text:
    """A timeline as a line of coloured letters, each as long in time as the next; it shows what lies at its middle."""
    line = Text()
    end = pieces[-1].end_seconds if pieces else 0.0
    current = 0
    for column in range(width if pieces else 0):
        moment = (column + 0.5) * end / width
        while pieces[current].end_seconds <= moment and current < len(pieces) - 1:
            current += 1
        colour, letter = LOOKS.get(pieces[current].emotion or "", NOTHING)
        line.append(letter, style=f"{_ink(colour)} on {colour}")
    return line


def _ink(colour: str) -> str:
    """What can be read on a colour."""
    return "white" if colour in DARK else "black"


def legend(pieces: Iterable[Piece]) -> Text:
    """What the colours and letters of a strip of these pieces mean."""
    present = {piece.emotion for piece in pieces}
    line = Text()
    for name, (colour, letter) in LOOKS.items():
        if name in present:
            line.append(f" {letter} ", style=f"{_ink(colour)} on {colour}").append(f" {name}  ")
    if None in present:
        line.append(f" {NOTHING[1]} ", style=f"{_ink(NOTHING[0])} on {NOTHING[0]}").append(" nobody seen or heard")
    return line


def timeline_table(pieces: Iterable[Piece]) -> Table:
    """Segments, one a row."""
    table = Table(box=None, pad_edge=False)
    for name in ("from", "to", "emotion", "confidence"):
        table.add_column(name, justify="left" if name == "emotion" else "right")
    for piece in pieces:
        colour, _ = LOOKS.get(piece.emotion or "", NOTHING)
        table.add_row(
            clock(piece.start_seconds),
            clock(piece.end_seconds),
            Text(piece.emotion or "-", style=colour),
            "-" if piece.confidence is None else f"{piece.confidence:.0%}",
        )
    return table


def complain(console: Console, code: str, message: str, hint: str = "") -> None:
    """One clear sentence with its code, and what to do where that is known."""
    console.print(Text(code, style="red"), Text(printable(message)), sep=": ", soft_wrap=True)
    if hint:
        console.print(Text(f"  {printable(hint)}"), soft_wrap=True)
