"""The commands `explain` and `quarantine`: what a failure's code means, and which videos failed."""

import click

from scheduler.options import ROWS, db_option, json_option


@click.command(short_help="What a failure's code means.")
@click.argument("code", required=False)
@json_option
def explain(code: str | None, as_json: bool) -> None:
    """Say what the failure CODE means, whether trying again can help, and what to do; without CODE, list all codes.

    Codes stand in brackets at the end of messages, in the view `failures`, and in `moodreel quarantine`.
    """
    from scheduler.failures import show_codes

    show_codes(code, as_json)


@click.command(short_help="Which videos failed, why, and how to try them again.")
@click.argument("uris", nargs=-1, metavar="[URI]...")
@db_option
@click.option("--code", metavar="CODE", help="Only what failed for this reason; see `moodreel explain`.")
@click.option("--limit", type=ROWS, default=20, show_default=True, metavar="N", help="The latest so many.")
@json_option
def quarantine(uris: tuple[str, ...], db_url: str, code: str | None, limit: int, as_json: bool) -> None:
    """Show videos that failed, the latest first: the reason, what opening them told, and the command that tries again.

    URI is a path, a folder for all below it, or a URI as it is in the database. They stay there, and cost the queue
    nothing, until that command is given or the file changes. What was cancelled is shown with --code cancelled.
    """
    from scheduler.failures import show_quarantine

    show_quarantine(db_url, uris, code, limit, as_json)


COMMANDS = (explain, quarantine)
