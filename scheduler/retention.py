"""Retention: the command `moodreel retention`, and what the scheduler does about it by itself."""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from threading import Event

from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.errors import BadOption, DatabaseError, DatabaseNewer
from db.identity import printable
from db.rows import Erased, RetentionRule
from db.store import Store
from scheduler.actor import actor
from scheduler.cli import print_json
from scheduler.operate import prefix_given
from scheduler.show import open_existing

EVERY_SECONDS = 600.0  # the scheduler looks what is overdue
PAUSE_SECONDS = 0.1  # between two steps, so that others get at the database
SECONDS = {"h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0, "y": 365 * 86_400.0}
FOREVER = "forever"

_log = logging.getLogger(__name__)


class Keeper:
    """Erases what is overdue, in small steps, whenever the scheduler runs.

    Args:
        store: where the rules are, and the results.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def run(self, stop: Event) -> None:
        """Look again and again, until told to stop, whatever the database does.

        Raises:
            DatabaseNewer: the database has tables that this moodreel does not know.
        """
        while not stop.is_set():
            try:
                for rule, erased in applied(self._store, stop):
                    _log.info("erased by age", extra={"below": rule.prefix, **asdict(erased)})
            except DatabaseNewer:
                raise
            except DatabaseError as error:
                _log.warning("nothing could be erased: %s", error, extra={"code": error.code})
            stop.wait(EVERY_SECONDS)


def applied(store: Store, stop: Event) -> Iterator[tuple[RetentionRule, Erased]]:
    """Erase all that is overdue now, step by step; what each step erased."""
    for rule in store.retention_rules():
        last_id: int | None = -1 if rule.max_age_seconds is not None else None
        while last_id is not None and not stop.is_set():
            step = store.erase_overdue(rule, actor(), last_id)
            if step.erased != Erased():
                yield rule, step.erased
            last_id = step.last_id
            stop.wait(PAUSE_SECONDS)


def age_seconds(text: str) -> float | None:
    """An age like 12h, 90d, 6w or 2y in seconds; None: forever.

    Raises:
        BadOption: it is none.
    """
    if text == FOREVER:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hdwy])", text)
    seconds = float(found[1]) * SECONDS[found[2]] if found else 0.0
    if not 0 < seconds < 1000 * SECONDS["y"]:
        raise BadOption(f"an age is like 12h, 90d, 6w, 2y, or {FOREVER}; got {printable(text)}")
    return seconds


def set_rule(db_url: str, prefix: str, age: str, counted_from: str, *, forgets: bool) -> None:
    """Let a rule hold from now on.

    Raises:
        BadOption: the age cannot be understood.
    """
    rule = RetentionRule(
        prefix=_prefix(prefix), max_age_seconds=age_seconds(age), counted_from=counted_from, forgets=forgets
    )
    with Store(db_url) as store:
        with store.audited(actor(), "retention set", asdict(rule)):
            store.set_retention(rule)
        found = 0 if rule.max_age_seconds is None else store.overdue(rule).videos
    said = f"; {found} videos are overdue: `moodreel watch` erases by and by, `moodreel retention apply` at once"
    Console().print(Text(_told(rule) + (said if found else "")), soft_wrap=True)


def remove_rule(db_url: str, prefix: str) -> None:
    """Let a rule hold no longer.

    Raises:
        BadOption: there is none with this prefix.
    """
    begins = _prefix(prefix)
    with open_existing(db_url) as store:
        if all(rule.prefix != begins for rule in store.retention_rules()):
            raise BadOption(f"there is no rule for {printable(begins) or 'all videos'}")
        with store.audited(actor(), "retention remove", {"prefix": begins}):
            store.remove_retention(begins)


def show_rules(db_url: str, as_json: bool) -> None:
    """List the rules."""
    with open_existing(db_url) as store:
        rules = store.retention_rules()
    if as_json:
        print_json([asdict(rule) for rule in rules])
        return
    for rule in rules:
        Console().print(Text(_told(rule)), soft_wrap=True)
    if not rules:
        Console().print("no rules: everything is kept forever")


def apply(db_url: str, *, dry_run: bool, as_json: bool) -> None:
    """Erase what is overdue, or say what that would be."""
    with open_existing(db_url) as store:
        if dry_run:
            rules = [rule for rule in store.retention_rules() if rule.max_age_seconds is not None]
            overdue = {rule: store.overdue(rule) for rule in rules}
            if as_json:
                print_json([{"prefix": rule.prefix, **asdict(load)} for rule, load in overdue.items()])
            else:
                rows = [(_told(rule), f"{n.videos:,}", f"{n.seconds / 3600:,.1f}") for rule, n in overdue.items()]
                Console().print(_table(("overdue", "videos", "hours"), rows) if rows else "no rules")
            return
        total = Erased()
        for _, erased in applied(store, Event()):
            total += erased
    if as_json:
        print_json(asdict(total))
    else:
        said = f"Erased: {total.annotations} annotations, {total.windows} windows; {total.videos} videos forgotten."
        if total.events:
            said += f" {total.events} events still waited for their hooks, and are not posted any more."
        Console().print(Text(said), soft_wrap=True)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _told(rule: RetentionRule) -> str:
    below = f"below {printable(rule.prefix)}" if rule.prefix else "everywhere"
    if rule.max_age_seconds is None:
        return f"{below}: kept forever"
    what = "videos are forgotten" if rule.forgets else "results are erased"
    return f"{below}: {what} {rule.max_age_seconds / 86_400:g} days after they were {rule.counted_from}"


def _prefix(name: str) -> str:
    """How the URIs begin that a rule is about; a star stands for all."""
    return "" if name == "*" else prefix_given(name)
