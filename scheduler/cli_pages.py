"""The commands that show results in a browser. As in `scheduler.cli`, each imports what it needs when it runs."""

from pathlib import Path

import click

from scheduler.options import db_option


@click.command(short_help="Write a page about videos, as one file.")
@click.argument("videos", nargs=-1, metavar="VIDEO...")
@db_option
@click.option("--all", "every", is_flag=True, help="Every video that has a timeline.")
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    default="report.html",
    show_default=True,
    metavar="FILE",
    help="Where the page is written.",
)
@click.option(
    "--embed", is_flag=True, help="Put videos of up to 20 MB into the page; others are played from where they lie."
)
def report(videos: tuple[str, ...], db_url: str, every: bool, out: Path, embed: bool) -> None:
    """Write one HTML file that shows videos beside their timelines, and needs no network.

    VIDEO is a path as it was annotated, or a URI in the database. Needs moodreel[report].
    """
    from scheduler.report import run

    run(videos, db_url, out, every=every, embed=embed)


@click.command(short_help="Show a database in a browser.")
@db_option
@click.option("--port", type=click.IntRange(1, 65_535), default=8765, show_default=True, help="Where it listens.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="0.0.0.0 for other machines to see everything, without a password.",
)
def serve(db_url: str, port: int, host: str) -> None:
    """Show a whole database on this machine, read-only, until Ctrl-C: search, filters, videos and timelines.

    Needs moodreel[report].
    """
    from scheduler.serve import run

    run(db_url, host, port)


COMMANDS = (report, serve)
