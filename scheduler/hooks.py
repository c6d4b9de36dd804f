"""The commands below `moodreel hooks`."""

import http.client
import os
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.errors import BadOption, HookFailed, HookUnknown
from db.events import body_of
from db.identity import printable
from db.rows import HeldHook, NewHook
from db.store import Store
from db.words import HOOK_EVENTS
from scheduler.actor import actor
from scheduler.cli import print_json
from scheduler.operate import prefix_given
from scheduler.show import open_existing
from scheduler.webhook import addresses, check_url, key_of, post, without_secrets


def add(
    db_url: str,
    url: str,
    events: str,
    source: str,
    *,
    secret_env: str | None,
    secret_file: str | None,
    insecure_http: bool,
    link_local: bool,
) -> None:
    """Store a hook, and say its number.

    Raises:
        BadOption: the URL, the kinds of events or the secret cannot be used.
        HookRefused: nothing may be posted to its host.
    """
    kinds = tuple(dict.fromkeys(kind.strip() for kind in events.split(",") if kind.strip()))
    if not kinds or not set(kinds) <= set(HOOK_EVENTS):
        raise BadOption(f"--events takes {', '.join(HOOK_EVENTS)}, not {printable(events)!r}")
    secret = _secret(secret_env, secret_file)
    key_of(secret)
    parts = check_url(url, insecure_http=insecure_http)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        addresses(parts.hostname or "", port, public_too=parts.scheme == "https", link_local=link_local)
    except OSError as error:  # it may be up only later, and is checked again before each post
        Console(stderr=True).print(Text(f"{printable(parts.hostname or '')} is not found: {error}"), soft_wrap=True)
    hook = NewHook(
        url=url,
        secret=secret,
        events=kinds,
        source_prefix=prefix_given(source) if source else "",
        insecure_http=insecure_http,
        link_local=link_local,
    )
    subject = {"url": without_secrets(url), "events": list(kinds), "prefix": hook.source_prefix}
    with Store(db_url) as store, store.audited(actor(), "hooks add", subject) as counts:
        counts["hook"] = number = store.add_hook(hook)
    Console().print(Text(f"hook {number}: {', '.join(kinds)} to {url}; moodreel hooks test {number}"), soft_wrap=True)


def _secret(variable: str | None, file: str | None) -> str:
    """The secret, of where it was said to be.

    Raises:
        BadOption: it was not said where, or it is not there.
    """
    if (variable is None) == (file is None):
        raise BadOption("name the secret's place by --secret-env NAME or --secret-file FILE")
    if variable is not None:
        if variable not in os.environ:
            raise BadOption(f"there is no environment variable {printable(variable)}")
        return os.environ[variable].strip()
    try:
        return Path(str(file)).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise BadOption(f"the secret cannot be read from {printable(str(file))}") from None


def show(db_url: str, as_json: bool) -> None:
    """List the hooks, without their secrets."""
    with open_existing(db_url) as store:
        found = store.hooks()
    if as_json:
        print_json([asdict(hook) for hook in found])
        return
    table = Table(box=None, pad_edge=False)
    for title in ("hook", "url", "events", "source", "secret"):
        table.add_column(title)
    for title in ("waiting", "given up"):
        table.add_column(title, justify="right")
    table.add_column("")
    for hook in found:
        row = (str(hook.id), hook.url, ",".join(hook.events), hook.source_prefix or "all", "whsec_...")
        state = f"disabled: {hook.disabled_why}" if hook.disabled_why else f"{hook.failures} failures in a row"
        said = state if hook.disabled_why or hook.failures else ""
        table.add_row(*(Text(printable(cell)) for cell in (*row, str(hook.pending), str(hook.dead), said)))
    Console().print(table if found else "no hooks; `moodreel hooks add URL` makes one")


def remove(db_url: str, number: int) -> None:
    """Forget a hook.

    Raises:
        HookUnknown: there is none of this number.
    """
    with open_existing(db_url) as store:
        subject = _subject(store, number)
        with store.audited(actor(), "hooks remove", subject) as counts:
            counts["hooks"] = int(store.remove_hook(number))
    Console().print(f"hook {number} is removed")


def try_out(db_url: str, number: int) -> None:
    """Post an event that tells of nothing, and say what was answered.

    Raises:
        HookUnknown: there is none of this number.
        HookFailed: the post did not arrive, or was not taken.
    """
    with open_existing(db_url) as store:
        hook = _known(store, number)
    event_id = uuid.uuid4().hex
    body = body_of("hook.test", event_id, datetime.now(UTC).isoformat(), {"hook": number})
    try:
        answer = post(hook, event_id, body)
    except (OSError, http.client.HTTPException) as error:
        raise HookFailed(f"Hook {number} was not reached: {error or type(error).__name__}.") from error
    if not answer.is_success:
        raise HookFailed(f"Hook {number} answered {answer.status}.")
    Console().print(f"hook {number} answered {answer.status}")


def show_deliveries(db_url: str, number: int | None, status: str | None, limit: int, as_json: bool) -> None:
    """List events and what became of them."""
    with open_existing(db_url) as store:
        found = store.deliveries(number, status, limit)
    if as_json:
        print_json([asdict(delivery) for delivery in found])
        return
    table = Table(box=None, pad_edge=False)
    for title in ("hook", "event", "annotation", "id", "status"):
        table.add_column(title, no_wrap=True)
    for title in ("attempts", "answer", "seconds ago"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for one in found:
        about = "" if one.annotation_id is None else str(one.annotation_id)
        counts = (str(one.attempts), "" if one.answer is None else str(one.answer), f"{one.age_seconds:.0f}")
        row = (str(one.hook_id), one.event, about, one.event_id, one.status, *counts, one.error or "")
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table if found else "nothing was posted, and nothing waits")


def post_again(db_url: str, number: int) -> None:
    """Let what was given up of a hook's events be posted.

    Raises:
        HookUnknown: there is none of this number.
    """
    with open_existing(db_url) as store:
        subject = _subject(store, number)
        with store.audited(actor(), "hooks retry", subject) as counts:
            counts["events"] = n = store.post_again(number)
    Console().print(f"{n} events wait again for hook {number}; moodreel watch posts them")


def _known(store: Store, number: int) -> HeldHook:
    """A hook.

    Raises:
        HookUnknown: there is none of this number.
    """
    hook = store.hook(number)
    if hook is None:
        raise HookUnknown(f"There is no hook {number} in {store.name}.")
    return hook


def _subject(store: Store, number: int) -> dict[str, object]:
    """How the audit names a hook; the errors are those of `_known`."""
    return {"hook": number, "url": without_secrets(_known(store, number).url)}
