"""Options that several commands have."""

import click

db_option = click.option(
    "--db",
    "db_url",
    default="moodreel.db",
    show_default=True,
    metavar="URL",
    envvar="MOODREEL_DB",
    show_envvar=True,
    help="SQLAlchemy URL or path of the SQLite file.",
)
broker_option = click.option(
    "--broker",
    "broker_url",
    default="redis://localhost:6379/0",
    show_default=True,
    metavar="URL",
    envvar="MOODREEL_BROKER",
    show_envvar=True,
    help="Redis, like redis://:PASSWORD@HOST:6379/0.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
pipeline_option = click.option(
    "--pipeline", "pipeline", metavar="NAME", help="A registered one; needless where there is only one."
)
log_format_option = click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    default="json",
    show_default=True,
    envvar="MOODREEL_LOG_FORMAT",
    show_envvar=True,
    help="Of the lines on standard error.",
)
adapt_option = click.option(
    "--adapt/--no-adapt",
    default=True,
    show_default=True,
    help="Tell how a video's people speak from what they show; for the compact preset's own voice model.",
)
metrics_port_option = click.option(
    "--metrics-port",
    type=click.IntRange(1, 65_535),
    metavar="PORT",
    help="Serve Prometheus metrics there; without it, none.",
)
metrics_host_option = click.option(
    "--metrics-host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where the metrics are served; 0.0.0.0 for other machines to read.",
)
