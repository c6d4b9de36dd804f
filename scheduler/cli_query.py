"""The command `query`. As in `scheduler.cli`, it imports what it needs when it runs."""

import click

from scheduler.options import ROWS, db_option


@click.command(short_help="Ask the database a question in SQL.")
@click.argument("sql", required=False)
@db_option
@click.option("--value", "values", multiple=True, metavar="NAME=VALUE", help="Of a saved question; may be repeated.")
@click.option("--list", "lists", is_flag=True, help="Show the saved questions.")
@click.option("--show", is_flag=True, help="Print the SQL of a saved question instead of asking it.")
@click.option("--explain", is_flag=True, help="Show how the database would answer.")
@click.option("--limit", type=ROWS, default=200, show_default=True, metavar="N", help="At most so many rows.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(0.001, 86_400),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the database may take.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array of objects.")
def query(
    sql: str | None,
    db_url: str,
    values: tuple[str, ...],
    lists: bool,
    show: bool,
    explain: bool,
    limit: int,
    timeout_seconds: float,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Ask a question: one SELECT, or the name of a saved question.

    \b
    moodreel query "SELECT * FROM timeline WHERE emotion = 'happy'"
    moodreel query --list
    moodreel query around --value video=/archive/talk.mp4 --value at=90

    It is read-only by the database's own means, so nothing that is asked changes a row. Cells of --csv that a
    spreadsheet would take for a formula get an apostrophe before them.
    """
    from scheduler.query import QueryOptions, run, show_list, show_sql

    if lists:
        show_list(as_json)
    elif sql is None:
        raise click.UsageError("Give a SELECT or the name of a saved question; --list shows these.")
    elif as_csv and as_json:
        raise click.UsageError("Give --csv or --json, not both.")
    elif show:
        show_sql(db_url, sql)
    else:
        output = "csv" if as_csv else "json" if as_json else "table"
        run(QueryOptions(db_url, sql, values, limit, timeout_seconds, output, explain))


COMMANDS = (query,)
