"""The commands `explain` and `quarantine`: what a failure's code means, and which videos failed."""

import difflib
import shlex
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.errors import FAILURES, BadOption, FailureCode
from db.identity import ObjectName, path_of, printable
from db.rows import Quarantined
from scheduler.cli import print_json
from scheduler.operate import uri_given
from scheduler.render import clock
from scheduler.show import open_existing


def known_code(code: str) -> FailureCode:
    """A code of the list of failures.

    Raises:
        BadOption: it is not on it.
    """
    if code not in FAILURES:
        like = difflib.get_close_matches(code, FAILURES, n=1)
        hint = f"Did you mean {like[0]}?" if like else "`moodreel explain` lists all codes."
        raise BadOption(f"there is no failure code {printable(code)}", hint=hint)
    return FAILURES[code]


def lasting(failure: FailureCode) -> str:
    """Whether trying again can help."""
    return "permanent" if failure.permanent else "transient"


def show_codes(code: str | None, as_json: bool) -> None:
    """Print what a code means, or all codes.

    Raises:
        BadOption: there is no such code.
    """
    if code is None:
        if as_json:
            print_json([asdict(failure) for failure in FAILURES.values()])
            return
        table = Table("code", "", "what it means", box=None, pad_edge=False)
        for failure in FAILURES.values():
            table.add_row(failure.code, lasting(failure), failure.meaning)
        Console().print(table)
        return
    failure = known_code(code)
    if as_json:
        print_json(asdict(failure))
        return
    again = {
        "permanent": "permanent: the same input fails in the same way again, so nothing tries it unasked",
        "transient": "transient: workers of the fleet try again by themselves, a few times, later each time",
    }
    lines = (failure.meaning, again[lasting(failure)], f"What to do: {failure.what_to_do}")
    Console().print(Text(failure.code, style="bold"), *map(Text, lines), sep="\n", soft_wrap=True)


def again_with(entry: Quarantined) -> str:
    """The command that tries a video again."""
    if not entry.in_fleet:
        name = entry.uri if ObjectName.of(entry.uri) else path_of(entry.uri)
        return f"moodreel annotate {shlex.quote(printable(name))}"
    code = f" --code {entry.code}" if entry.code == "cancelled" else ""
    return f"moodreel retry {shlex.quote(printable(entry.uri))}{code}"


def show_quarantine(db_url: str, names: Sequence[str], code: str | None, limit: int, as_json: bool) -> None:
    """Print videos that failed, the latest first.

    Raises:
        BadOption: there is no such code, or something is nobody's name.
    """
    if code is not None:
        known_code(code)
    with open_existing(db_url) as store:
        entries = store.quarantined([uri_given(name) for name in names], code, limit + 1)
    more, entries = len(entries) > limit, entries[:limit]
    if as_json:
        print_json([_document(entry) for entry in entries])
        return
    console = Console()
    for entry in entries:
        said = (
            f"  {entry.message}",
            f"  {entry.failed_at:%Y-%m-%d %H:%M} UTC, attempts: {entry.attempts}, {lasting(FAILURES[entry.code])}; "
            f"{_known(entry)}",
            f"  {FAILURES[entry.code].what_to_do}",
        )
        console.print(Text(entry.code, style="red"), Text(printable(entry.uri), style="bold"), soft_wrap=True)
        console.print(*(Text(printable(line)) for line in said), sep="\n", soft_wrap=True)
        console.print(Text("  again: "), Text(again_with(entry), style="cyan"), sep="", soft_wrap=True)
    if more:
        console.print(Text(f"There are more; --limit {10 * limit} shows more of them."))
    if not entries:
        console.print("nothing")


def _known(entry: Quarantined) -> str:
    """What is known of the file."""
    size = f"{entry.size_bytes:,} bytes"
    if entry.container is None:
        return f"{size}, never opened"
    picture = f"{entry.video_codec} {entry.width}x{entry.height}" if entry.has_video else "no pictures"
    sound = str(entry.audio_codec) if entry.has_audio else "no sound"
    length = "" if entry.duration_seconds is None else f", {clock(entry.duration_seconds)} long"
    return f"{size}, {entry.container}: {picture}, {sound}{length}"


def _document(entry: Quarantined) -> dict[str, object]:
    """An entry as JSON has it: what opening the file told under `probe`, which is null if it never came to that."""
    found = asdict(entry)
    probe = {name: found.pop(name) for name in _PROBED}
    if probe["recorded_at"] is not None:
        probe["recorded_at"] = probe["recorded_at"].isoformat()
    found["failed_at"] = entry.failed_at.isoformat()
    failure = FAILURES[entry.code]
    return {
        **found,
        "permanent": failure.permanent,
        "what_to_do": failure.what_to_do,
        "again": again_with(entry),
        "probe": probe if entry.container is not None else None,
    }


_PROBED = (
    *("container", "duration_seconds", "width", "height", "video_codec", "audio_codec", "has_audio", "has_video"),
    *("recorded_at", "recorded_at_source"),
)
