"""The commands for running an archive over years. As in `scheduler.cli`, each imports what it needs when it runs."""

import click

from scheduler.options import ROWS, db_option, json_option, pipeline_option


@click.command(short_help="Annotate an archive with another pipeline.")
@db_option
@pipeline_option
@click.option("--where", metavar="CONDITION", help="Only those videos, in SQL on the columns of the view archive.")
@click.option(
    "--priority",
    type=click.IntRange(-1000, 1000),
    default=-1000,
    show_default=True,
    help="So low that all that is asked for in the next week goes before it.",
)
@click.option("--limit", type=ROWS, metavar="N", help="No more than so many videos now.")
@click.option("--dry-run", is_flag=True, help="Only say how many videos and hours that would be.")
@json_option
def backfill(
    db_url: str,
    pipeline: str | None,
    where: str | None,
    priority: int,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Ask the fleet for an annotation by a pipeline of every video in the database that lacks one.

    Run again, it asks for what is still missing. Videos that failed under the pipeline are left to `moodreel retry`.
    What an older pipeline found stays the current result of a video until the new one is complete.

    CONDITION is SQL, and cannot change anything, like:

    \b
      --where "recorded_at >= '2026-01-01' AND duration_seconds > 60"
      --where "video LIKE 's3://interviews/%' AND has_audio"
      --where "video IN (SELECT video FROM video_summary WHERE angry_share > 0.2)"

    The columns of archive: video (its URI), version, size_bytes, first_seen_at, recorded_at, recorded_at_source,
    container, duration_seconds, width, height, video_codec, audio_codec, has_audio, has_video, gone_at, and of the
    current result annotated_at and pipeline (its digest). Videos that are gone are left out anyway.

    CONDITION is kept in the audit for good, with hashes for whole names of videos, but not for parts of names.
    """
    from scheduler.backfill import run

    run(db_url, pipeline, where, priority, limit, dry_run=dry_run, as_json=as_json)


@click.command(short_help="Erase videos' rows for good.")
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@db_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(uris: tuple[str, ...], db_url: str, yes: bool) -> None:
    """Erase all that the database has about videos, and take nothing in under these names any more.

    URI is a path, a folder for all below it, or a URI as it is in the database; what ends with a slash is a folder or a
    prefix, like s3://bucket/interviews/. Workers that are at such a video lose it, and store nothing more of it.

    Of a video's name only a keyed hash is kept; a folder or prefix is kept as it is. The videos themselves, backups and
    logs are not touched.
    """
    from scheduler.forget import forget as run

    run(db_url, uris, yes=yes)


@click.command(short_help="Let forgotten videos be annotated again.")
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@db_option
def remember(uris: tuple[str, ...], db_url: str) -> None:
    """Take videos in again under names that were forgotten; what was erased does not come back.

    URI is what was given to `moodreel forget`.
    """
    from scheduler.forget import remember as run

    run(db_url, uris)


@click.group(short_help="How long results are kept.")
def retention() -> None:
    """Rules of retention, by where the videos are. `moodreel watch` applies them every ten minutes.

    Of the rules whose prefix a video's URI begins with, the one with the longest prefix counts.
    """


@retention.command("set", short_help="Add or change a rule.")
@click.argument("prefix")
@click.argument("age")
@db_option
@click.option(
    "--from",
    "counted_from",
    type=click.Choice(["recorded", "annotated"]),
    default="recorded",
    show_default=True,
    help="What the age is counted from: when the video was recorded, or when it was annotated.",
)
@click.option("--forget", "forgets", is_flag=True, help="Forget the videos too, as `moodreel forget` does.")
def set_rule(prefix: str, age: str, db_url: str, counted_from: str, forgets: bool) -> None:
    """Erase results of videos below PREFIX once they are older than AGE.

    PREFIX is a folder, or how URIs begin, like s3://bucket/; '*' is all. AGE is like 12h, 90d, 6w, 2y, or forever.

    The video's row stays, and its annotations as failed, with the code expired, so that nothing is annotated anew only
    because its results are gone. With --forget nothing of the video stays, and its name is kept out.
    """
    from scheduler.retention import set_rule as run

    run(db_url, prefix, age, counted_from, forgets=forgets)


@retention.command("list", short_help="Show the rules.")
@db_option
@json_option
def list_rules(db_url: str, as_json: bool) -> None:
    """Show the rules."""
    from scheduler.retention import show_rules

    show_rules(db_url, as_json)


@retention.command("remove", short_help="Remove a rule.")
@click.argument("prefix")
@db_option
def remove_rule(prefix: str, db_url: str) -> None:
    """Remove the rule for PREFIX; what it had erased does not come back."""
    from scheduler.retention import remove_rule as run

    run(db_url, prefix)


@retention.command("apply", short_help="Erase what is overdue, now.")
@db_option
@click.option("--dry-run", is_flag=True, help="Only say how many videos and hours that would be.")
@json_option
def apply_rules(db_url: str, dry_run: bool, as_json: bool) -> None:
    """Erase what is overdue by the rules, a little in each transaction."""
    from scheduler.retention import apply

    apply(db_url, dry_run=dry_run, as_json=as_json)


@click.command(short_help="Who asked for what.")
@db_option
@click.option("--uri", metavar="URI", help="Only what was asked of this very video.")
@click.option("--action", metavar="NAME", help="Only of this kind, like forget, cancel or 'retention applied'.")
@click.option("--limit", type=ROWS, default=50, show_default=True, metavar="N", help="The latest so many.")
@json_option
def audit(db_url: str, uri: str | None, action: str | None, limit: int, as_json: bool) -> None:
    """Show who asked for what, and how many rows that changed.

    Who asks is USER@HOST, or what MOODREEL_ACTOR says. Videos stand here by hashes of their URIs, which --uri finds.
    """
    from scheduler.audit import show

    show(db_url, uri, action, limit, as_json)


@click.command(short_help="Make roles of PostgreSQL that may do what they must and no more.")
@db_option
@click.option("--print", "only_print", is_flag=True, help="Print the SQL instead, which makes all of them.")
def roles(db_url: str, only_print: bool) -> None:
    """Make roles of PostgreSQL for the scheduler, the workers, those who ask questions and an autoscaler.

    \b
    moodreel_scheduler   reads and writes all tables, changes none of them
    moodreel_worker      the same, without the secrets of hooks
    moodreel_analyst     reads the views, writes nothing; five minutes for a question
    moodreel_scaler      reads the view queued_seconds

    Run it as the owner of the tables, and again after an upgrade, which makes views anew. Passwords come from the
    environment, as MOODREEL_WORKER_PASSWORD, and reach the server as SCRAM verifiers only; without one a role cannot
    log in by password, or keeps the one it has.
    """
    from scheduler.roles import make_roles

    make_roles(db_url, only_print=only_print)


COMMANDS = (backfill, forget, remember, retention, audit, roles)
