"""The command `moodreel audit`: who asked for what."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from db.identity import printable
from db.rows import AuditEntry
from scheduler.cli import print_json
from scheduler.operate import uri_given
from scheduler.show import open_existing

_SHOWN = 12  # hexadecimal digits of a hash


def show(db_url: str, name: str | None, action: str | None, limit: int, as_json: bool) -> None:
    """Print the latest entries, in the order of time."""
    with open_existing(db_url) as store:
        uri = None if name is None else uri_given(name)
        entries = store.audit_entries(uri=uri, action=action, limit=limit)
    if as_json:
        moments = ("asked_at", "done_at")
        print_json(
            [asdict(entry) | {m: t and t.isoformat() for m in moments if (t := getattr(entry, m))} for entry in entries]
        )
        return
    for entry in entries:
        Console().print(Text(printable(_line(entry))), soft_wrap=True)
    if not entries:
        Console().print("nothing")


def _line(entry: AuditEntry) -> str:
    when = entry.asked_at.strftime("%Y-%m-%d %H:%M:%S")
    asked = f"{when}  {entry.actor}  {entry.action}  {_told(_short(entry.subject))}"
    if entry.counts is None:
        return f"{asked}  (not carried through)"
    return f"{asked}  ({_told({name: n for name, n in entry.counts.items() if n}) or 'nothing to count'})"


def _short(subject: Mapping[str, Any]) -> dict[str, Any]:
    """A subject with its hashes and digests cut."""
    shown = dict(subject)
    if "videos" in shown:
        shown["videos"] = [part[:_SHOWN] for part in shown["videos"]]
    if "pipeline" in shown:
        shown["pipeline"] = shown["pipeline"][:_SHOWN]
    return shown


def _told(values: Mapping[str, Any]) -> str:
    said = {name: " ".join(value) if isinstance(value, list) else value for name, value in values.items()}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in said.items() if value not in (None, ""))
