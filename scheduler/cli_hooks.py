"""The commands `hooks` and `alerts`. As in `scheduler.cli`, each imports what it needs when it runs."""

import sys

import click

from db.words import DELIVERY_STATUSES, HOOK_EVENTS, MEASURES
from scheduler.options import NUMBER, ROWS, db_option, json_option

EXIT_FAILED = 1

source_option = click.option(
    "--source", "source", metavar="PREFIX", default="", help="Only videos below this folder or this s3://bucket/prefix."
)


@click.group(short_help="Tell other systems what was done, failed or raised an alert.")
def hooks() -> None:
    """URLs to which events are posted as JSON, signed as Standard Webhooks says, by `moodreel watch`."""


@hooks.command("add", short_help="Post events to a URL.")
@click.argument("url")
@db_option
@click.option(
    "--events",
    default=",".join(HOOK_EVENTS),
    show_default=True,
    metavar="KINDS",
    help="Which, separated by commas: done, failed (for good), alert.",
)
@source_option
@click.option("--secret-env", metavar="NAME", help="Environment variable that holds the secret.")
@click.option("--secret-file", type=click.Path(), metavar="FILE", help="File that holds the secret.")
@click.option("--insecure-http", is_flag=True, help="Let URL be http, if it is on this machine or a private network.")
@click.option("--allow-link-local", is_flag=True, help="Let its host be link-local, where clouds keep credentials.")
def add_hook(
    url: str,
    db_url: str,
    events: str,
    source: str,
    secret_env: str | None,
    secret_file: str | None,
    insecure_http: bool,
    allow_link_local: bool,
) -> None:
    """Post what happens from now on to URL, and say by which number the hook is called.

    The secret is whsec_ and 24 to 64 random bytes in base64, for instance of

    \b
      echo whsec_$(openssl rand -base64 32)

    and the receiver has it too: with it, it finds out that a post is of moodreel's. It is never shown, but stands in
    the database as it is, since it must sign; whoever reads the table hooks can sign too.
    """
    from scheduler.hooks import add

    add(
        *(db_url, url, events, source),
        secret_env=secret_env,
        secret_file=secret_file,
        insecure_http=insecure_http,
        link_local=allow_link_local,
    )


@hooks.command("list", short_help="Show the hooks.")
@db_option
@json_option
def list_hooks(db_url: str, as_json: bool) -> None:
    """Show the hooks, how many events wait for each, and how many were given up."""
    from scheduler.hooks import show

    show(db_url, as_json)


@hooks.command("remove", short_help="Post nothing more to a hook.")
@click.argument("number", type=NUMBER)
@db_option
def remove_hook(number: int, db_url: str) -> None:
    """Forget a hook, and what waits for it."""
    from scheduler.hooks import remove

    remove(db_url, number)


@hooks.command("test", short_help="Post an event now, to try a hook.")
@click.argument("number", type=NUMBER)
@db_option
def test_hook(number: int, db_url: str) -> None:
    """Post an event of the type hook.test from this machine, and show the answer; exit with 1 if it is no success."""
    from scheduler.hooks import try_out

    try_out(db_url, number)


@hooks.command("deliveries", short_help="Show what was posted and what waits.")
@click.argument("number", type=NUMBER, required=False)
@db_option
@click.option("--status", type=click.Choice(DELIVERY_STATUSES), help="Only these; dead were given up after a day.")
@click.option("--limit", type=ROWS, default=20, show_default=True, metavar="N", help="At most so many.")
@json_option
def list_deliveries(number: int | None, db_url: str, status: str | None, limit: int, as_json: bool) -> None:
    """Show events and what became of them, the newest first; of one hook, or of all."""
    from scheduler.hooks import show_deliveries

    show_deliveries(db_url, number, status, limit, as_json)


@hooks.command("retry", short_help="Post what was given up after all.")
@click.argument("number", type=NUMBER)
@db_option
def retry_hook(number: int, db_url: str) -> None:
    """Use a hook again that was disabled, and post what was given up of its events."""
    from scheduler.hooks import post_again

    post_again(db_url, number)


@click.group(short_help="Watch for an emotion at a level for so long.")
def alerts() -> None:
    """Rules that are looked at as each video is done. What they raise is in the view alerts, and goes to hooks."""


@alerts.command("add", short_help="Add a rule.")
@click.argument("name")
@click.argument("measure", type=click.Choice(MEASURES))
@click.argument("level", type=click.FloatRange(-1.0, 1.0))
@click.option(
    "--for",
    "min_seconds",
    type=click.FloatRange(0.0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="For how long without a break.",
)
@click.option("--below", is_flag=True, help="At LEVEL or below it, not above it.")
@source_option
@click.option("--pipeline", metavar="NAME", help="Only what this registered pipeline annotates.")
@db_option
def add_alert(
    name: str,
    measure: str,
    level: float,
    min_seconds: float,
    below: bool,
    source: str,
    pipeline: str | None,
    db_url: str,
) -> None:
    """Raise an alert where MEASURE is at LEVEL or above it for long enough, in what is annotated from now on.

    \b
      moodreel alerts add distress fearful 0.6 --for 10
      moodreel alerts add gloom valence --below --for 30 -- -0.3

    An emotion's level is its probability, 0 to 1; valence and arousal go from -1 to 1. What is compared is the mean of
    the windows that cover each hop, before smoothing. Where nobody is seen or heard a stretch ends.
    """
    from scheduler.alerts import add

    add(db_url, name, measure, level, min_seconds, below=below, source=source, pipeline=pipeline)


@alerts.command("list", short_help="Show the rules.")
@db_option
@json_option
def list_alerts(db_url: str, as_json: bool) -> None:
    """Show the rules."""
    from scheduler.alerts import show_rules

    show_rules(db_url, as_json)


@alerts.command("remove", short_help="Remove a rule.")
@click.argument("name")
@db_option
def remove_alert(name: str, db_url: str) -> None:
    """Forget a rule, and the alerts that it raised."""
    from scheduler.alerts import remove

    remove(db_url, name)


@alerts.command("show", short_help="Show what was raised.")
@click.option("--rule", metavar="NAME", help="Only by this rule.")
@click.option("--video", metavar="URI", help="Only in this video.")
@click.option("--limit", type=ROWS, default=50, show_default=True, metavar="N", help="At most so many.")
@db_option
@json_option
def show_alerts(rule: str | None, video: str | None, limit: int, db_url: str, as_json: bool) -> None:
    """Show the alerts of the videos' current timelines, the latest first; exit with 1 if there is none."""
    from scheduler.alerts import show

    sys.exit(0 if show(db_url, rule, video, limit, as_json) else EXIT_FAILED)
