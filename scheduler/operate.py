"""The commands that operators give the fleet: `limit`, `retry`, `cancel` and `health`."""

import socket
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.errors import FAILURES, BadOption
from db.identity import printable, uri_of
from db.store import Store
from scheduler.actor import actor
from scheduler.cli import print_json, stderr
from scheduler.show import open_existing
from scheduler.submit import warn_if_nobody_feeds


def set_limit(db_url: str, prefix: str | None, max_running: int | None, *, remove: bool, as_json: bool) -> None:
    """Set, remove or show limits.

    Raises:
        BadOption: --remove without a prefix, or with a number, or where there is no limit.
    """
    if remove and (prefix is None or max_running is not None):
        raise BadOption("--remove takes a PREFIX and no N")
    with open_existing(db_url) as store:
        begins = None if prefix is None else prefix_given(prefix)
        if begins is not None and remove and begins not in store.source_limits():
            raise BadOption(f"there is no limit for {printable(begins)}")
        if begins is not None and (remove or max_running is not None):
            with store.audited(actor(), "limit", {"prefix": begins, "max_running": max_running}):
                store.limit_source(begins, max_running)
        limits = store.source_limits()
    shown = limits if begins is None or remove else {begins: limits[begins]} if begins in limits else {}
    if as_json:
        print_json(shown)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("below")
    table.add_column("jobs at once", justify="right")
    for name, n in shown.items():
        table.add_row(Text(printable(name)), str(n))
    Console().print(table if shown else "no limits")


def retry_failed(db_url: str, names: Sequence[str], code: str | None, *, every: bool) -> None:
    """Put failed videos back into the queue, and say how many.

    Raises:
        BadOption: it is not said which, or there is no such code.
    """
    _require_choice(names, every or code is not None, "--code or --all")
    if every and names:
        raise BadOption("name the videos, or give --all")
    if code is not None and code not in FAILURES:
        raise BadOption(
            f"there is no failure code {printable(code)}", hint="`moodreel status` shows those that occurred."
        )
    with open_existing(db_url) as store:
        uris = [uri_given(name) for name in names]
        with store.audited(actor(), "retry", {**store.named(uris), "code": code}) as counts:
            counts["annotations"] = n = store.retry(uris, code)
        said = f"{n} put back into the queue; spans that were done stay done" if n else "nothing of that has failed"
        Console().print(Text(said), soft_wrap=True)
        if n:
            warn_if_nobody_feeds(store)


def cancel_waiting(db_url: str, names: Sequence[str], *, every: bool) -> None:
    """Take videos out of the queue, and say how many.

    Raises:
        BadOption: it is not said which.
    """
    _require_choice(names, every, "--all")
    if every and names:
        raise BadOption("name the videos, or give --all")
    with open_existing(db_url) as store:
        uris = [uri_given(name) for name in names]
        with store.audited(actor(), "cancel", store.named(uris)) as counts:
            counts["annotations"] = n = store.cancel(uris)
    said = (
        f"{n} cancelled; workers let go of them with their next heartbeat" if n else "nothing of that is in the queue"
    )
    Console().print(Text(said), soft_wrap=True)


def is_healthy(db_url: str) -> bool:
    """Whether a worker or scheduler of this host has shown itself lately; says so if not."""
    host = socket.gethostname()
    with Store(db_url, create=False) as store:
        found = [worker for worker in store.workers() if worker.host == host]
    if not found:
        stderr().print(Text(f"No worker or scheduler of {host} has shown itself in the last minute."), soft_wrap=True)
    return bool(found)


def _require_choice(names: Sequence[str], otherwise: bool, options: str) -> None:
    if not names and not otherwise:
        raise BadOption(f"name the videos or folders, or give {options}")


def uri_given(name: str) -> str:
    """The URI that a path or a URI means; a slash at its end stays.

    Raises:
        BadOption: it is nobody's name.
    """
    _require_name(name)
    if "://" in name:
        return name
    return uri_of(name).rstrip("/") + "/" if name.endswith("/") else uri_of(name)


def prefix_given(name: str) -> str:
    """How URIs begin that lie below a folder, or that begin like this.

    Raises:
        BadOption: it is nobody's name.
    """
    _require_name(name)
    return name if "://" in name else uri_of(name).rstrip("/") + "/"


def _require_name(name: str) -> None:
    if not name:  # as of a variable that is not set; as a path it would mean the folder that one is in
        raise BadOption("a name is empty")
    if "://" in name and any("\ud800" <= c <= "\udfff" for c in name):
        raise BadOption(f"{printable(name)} is not UTF-8")
