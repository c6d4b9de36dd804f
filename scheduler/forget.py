"""The commands `moodreel forget` and `moodreel remember`."""

import sys
from collections.abc import Sequence

import click
from rich.console import Console
from rich.text import Text

from db.errors import BadOption
from db.identity import printable, spellings
from scheduler.actor import actor
from scheduler.operate import uri_given
from scheduler.show import open_existing


def forget(db_url: str, given: Sequence[str], *, yes: bool) -> None:
    """Erase videos and keep their names out, after having asked.

    Raises:
        BadOption: there is no terminal to ask on, and nobody said yes beforehand.
    """
    with open_existing(db_url) as store:
        names, prefixes = store.told_apart([uri_given(name) for name in given])
        load = store.meant(names, prefixes)
        plain = [prefix for prefix in prefixes if not prefix.startswith("file://")] or prefixes
        below = f"all below {', '.join(map(printable, plain))}" if prefixes else ""
        what = " and ".join(part for part in (f"{len(names)} by name" if names else "", below) if part)
        _say(f"To forget: {what}. {load.videos} videos of that are in {store.name}, {_hours(load.seconds)} in length.")
        if not yes:
            _ask()
        erased = store.forget(names, prefixes, actor())
    _say(
        f"Erased for good: {erased.videos} videos, {erased.annotations} annotations, {erased.windows} windows."
        " Nothing is taken in under these names any more."
    )
    if erased.events:
        _say(f"{erased.events} events of them still waited for their hooks, and are not posted any more.")
    _say("Backups, logs and the videos themselves are not touched: see docs/operations.md.")


def _ask() -> None:
    if not sys.stdin.isatty():
        raise BadOption("this cannot be undone, and there is no terminal to ask on", hint="Say --yes.")
    click.confirm("This cannot be undone. Erase all that is known of them?", abort=True)


def remember(db_url: str, given: Sequence[str]) -> None:
    """Let videos be taken in again.

    Raises:
        BadOption: what keeps one of them out is a prefix that was not named.
    """
    with open_existing(db_url) as store:
        uris = [uri_given(name) for name in given]
        kept_out = store.forgotten_prefixes()
        meant = {spelling for uri in uris for spelling in spellings(uri.rstrip("/") + "/")}
        for uri in uris:
            if wider := next((p for p in kept_out if uri.startswith(p) and p not in meant), None):
                raise BadOption(
                    f"{printable(uri)} lies below {printable(wider)}, all of which was forgotten",
                    hint=f"moodreel remember {printable(wider)}",
                )
        n = store.remember(uris, [prefix for prefix in kept_out if prefix in meant], actor())
    _say("They may be taken in again." if n else "Nothing of that was forgotten.")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} hours"


def _say(sentence: str) -> None:
    Console().print(Text(sentence), soft_wrap=True)
