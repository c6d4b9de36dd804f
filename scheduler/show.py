"""The commands `timeline` and `status`: what is in the database, for people and as JSON."""

import time
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from db.errors import FAILURES, DatabaseLocked, DatabaseUnreachable, PathMissing
from db.identity import ObjectName, printable, uri_of
from db.rows import FleetStatus, Status, Video
from db.store import Store
from scheduler.cli import print_json
from scheduler.fleet_view import fleet_line, fleet_tables
from scheduler.render import clock, legend, strip, timeline_table

LIVE_SECONDS, LINE_SECONDS = 2.0, 10.0


def open_existing(db_url: str) -> Store:
    """The store, which must be there already.

    Raises:
        DatabaseUnreachable: it is not.
    """
    try:
        return Store(db_url, create=False)
    except DatabaseUnreachable as error:
        if error.hint:  # a file that is not there, not a server that does not answer
            error.hint = (
                "Annotate something (moodreel annotate PATH), register a pipeline (moodreel pipelines add NAME),"
                " or name another database with --db."
            )
        raise


def find_video(store: Store, name: str) -> Video | None:
    """A video by its path or by its URI."""
    if ObjectName.of(name):
        return store.video(name)
    return store.video(uri_of(name)) or store.video(printable(name))


def show_timeline(name: str, db_url: str, as_json: bool) -> None:
    """Print one video's current timeline.

    Raises:
        PathMissing: the database has no timeline of that video.
    """
    with open_existing(db_url) as store:
        video = find_video(store, name)
        pieces = store.timeline(video.uri) if video else []
        if video is None or not pieces:
            known = "has no timeline yet" if video else "is not in this database"
            shown = printable(name)
            raise PathMissing(f"{shown} {known}", f"moodreel annotate {shown}   (moodreel status shows what failed)")
    if as_json:
        gone_at = video.gone_at.isoformat() if video.gone_at else None
        print_json({"video": video.uri, "gone_at": gone_at, "timeline": [asdict(piece) for piece in pieces]})
        return
    console = Console()
    console.print(
        Text(printable(video.uri), style="bold"), Text(clock(pieces[-1].end_seconds), style="dim"), soft_wrap=True
    )
    if video.gone_at:
        console.print(Text(f"gone from there since {video.gone_at:%Y-%m-%d %H:%M} UTC", style="yellow"))
    console.print(strip(pieces, min(console.width, 100)))
    console.print(legend(pieces))
    console.print(timeline_table(pieces))


def show_status(db_url: str, as_json: bool) -> None:
    """Print counts, hours, pipelines, failures, and the fleet if there is one."""
    with open_existing(db_url) as store:
        status, fleet = store.status(), store.fleet()
    if as_json:
        print_json({**asdict(status), "fleet": asdict(fleet)})
        return
    Console().print(_status(status, fleet))


def watch_status(db_url: str) -> None:
    """Show the status anew until Ctrl-C: in place on a terminal, elsewhere as a line of the fleet each time."""
    console = Console()
    with open_existing(db_url) as store:
        if not console.is_terminal:
            while True:
                console.print(_asked(lambda: Text(fleet_line(store.fleet()))), soft_wrap=True)
                time.sleep(LINE_SECONDS)
        with Live(console=console, auto_refresh=False, screen=True, vertical_overflow="crop") as live:
            while True:
                began = time.monotonic()
                live.update(_asked(lambda: _status(store.status(), store.fleet())), refresh=True)
                time.sleep(max(LIVE_SECONDS, 4 * (time.monotonic() - began)))  # counting a million rows is no trifle


def _asked(question: Callable[[], RenderableType]) -> RenderableType:
    """What the database answers, or that it does not: it may only be starting anew."""
    try:
        return question()
    except (DatabaseUnreachable, DatabaseLocked) as error:
        return Text(f"{error} Asked again in a moment.", style="yellow")


def _status(status: Status, fleet: FleetStatus) -> Group:
    gone = f" ({status.gone} gone from where they were)" if status.gone else ""
    parts: list[RenderableType] = [Text(f"{status.videos} videos{gone}, {clock(status.annotated_seconds)} annotated")]
    parts.append(_counts("annotations", status.annotations))
    if status.pipelines:
        parts.append(_counts("pipeline", {_brief(name): n for name, n in status.pipelines.items()}))
    if status.failures:
        advice = {code: FAILURES[code].what_to_do for code in status.failures}
        parts.append(_counts("failures", status.failures, advice))
        parts.append(
            Text("Which ones: SELECT * FROM failures;  Annotating them again, or moodreel retry, tries again.")
        )
    if fleet.queue_videos or fleet.workers:
        parts += [Text(), *fleet_tables(fleet)]
    return Group(*parts)


def _brief(name: str) -> str:
    title, _, digest = name.rpartition(" ")
    return f"{title} {digest[:8]}"


def _counts(title: str, counts: dict[str, int], advice: dict[str, str] | None = None) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(title)
    table.add_column("", justify="right")
    table.add_column("")
    for name, count in counts.items():
        table.add_row(printable(name), str(count), Text((advice or {}).get(name, "")))
    return table


def show_migration(db_url: str) -> None:
    """Migrate, and say to which schema."""
    from db.session import REVISIONS

    with Store(db_url) as store:
        Console().print(Text(f"{store.name} has schema {REVISIONS[-1]}"), soft_wrap=True)
