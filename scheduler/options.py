"""Options that several commands have."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any

import click

from scheduler.wanted import Wanted, bytes_of, moment_of, suffix_of
from worker.limits import Limits

# Whole numbers as far as databases have them.
ROWS = click.IntRange(1, 2**31 - 1)
NUMBER = click.IntRange(1, 2**63 - 1)  # of a row

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
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Number format that the models compute in; auto is the one that the processor is fastest in.",
)
decoder_option = click.option(
    "--decoder",
    type=click.Choice(["cpu", "nvdec"]),
    default="cpu",
    show_default=True,
    help="What decodes pictures; nvdec is that of an NVIDIA GPU, and leaves to the processor what it does not know.",
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


def _read_by(read: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that reads an option's text, or each of its texts, by a function that raises ValueError."""

    def callback(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return frozenset(map(read, value)) or None
            return None if value is None else read(value)
        except (ValueError, OverflowError) as error:
            raise click.BadParameter(str(error)) from error

    return callback


_WANTED = (
    click.option(
        "--suffix",
        "suffixes",
        multiple=True,
        callback=_read_by(suffix_of),
        metavar="SUFFIX",
        help="Look for names with this one, like .mkv; may be given several times. Default: those of videos.",
    ),
    click.option(
        "--min-size", "min_bytes", callback=_read_by(bytes_of), metavar="SIZE", help="In bytes, or like 10K, 1.5M, 2G."
    ),
    click.option("--max-size", "max_bytes", callback=_read_by(bytes_of), metavar="SIZE", help="The same."),
    click.option(
        "--newer-than",
        callback=_read_by(moment_of),
        metavar="WHEN",
        help="Written since: a date like 2026-01-31 (UTC), or an age like 12h, 7d, 4w.",
    ),
    click.option("--older-than", callback=_read_by(moment_of), metavar="WHEN", help="Not written since."),
)


def wanted_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say which videos a search is for; the command gets them as one argument, `wanted`."""

    @wraps(command)
    def with_wanted(*arguments: Any, **options: Any) -> None:
        named = {field.name: options.pop(field.name) for field in fields(Wanted)}
        command(*arguments, wanted=Wanted(**named), **options)

    for option in reversed(_WANTED):
        with_wanted = option(with_wanted)
    return with_wanted


_LIMITS = (
    click.option(
        "--max-pixels",
        type=click.IntRange(1, 2**31 - 1),
        default=Limits.max_pixels,
        show_default=True,
        metavar="N",
        help="Refuse files whose pictures have more, width times height.",
    ),
    click.option(
        "--max-hours",
        type=click.FloatRange(0.0, 100_000.0, min_open=True),
        default=Limits.max_seconds / 3600,
        show_default=True,
        metavar="HOURS",
        help="Refuse recordings that are longer, or say so.",
    ),
    click.option(
        "--max-streams",
        type=click.IntRange(1, 1000),
        default=Limits.max_streams,
        show_default=True,
        metavar="N",
        help="Refuse files that hold more streams, of any kind.",
    ),
    click.option(
        "--max-metadata",
        "max_metadata_bytes",
        default="1M",
        show_default=True,
        callback=_read_by(bytes_of),
        metavar="SIZE",
        help="Refuse files whose titles, comments and the like are larger.",
    ),
    click.option(
        "--decoder-memory",
        "memory_bytes",
        default="4G",
        show_default=True,
        callback=_read_by(bytes_of),
        metavar="SIZE",
        help="What a decoding child may allocate.",
    ),
    click.option(
        "--decoder-cpu",
        "cpu_seconds",
        type=click.FloatRange(1.0, 10_000_000.0),
        default=Limits.cpu_seconds,
        show_default=True,
        metavar="SECONDS",
        help="What a decoding child may compute without getting on by ten seconds of the recording.",
    ),
)


_LIMITED = ("max_pixels", "max_streams", "max_metadata_bytes", "memory_bytes", "cpu_seconds")


def limits_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say how much a file may ask of its decoding child; the command gets them as one, `limits`."""

    @wraps(command)
    def with_limits(*arguments: Any, max_hours: float, **options: Any) -> None:
        named = {name: options.pop(name) for name in _LIMITED}
        limits = Limits(max_seconds=3600.0 * max_hours, **named)
        command(*arguments, limits=limits, **options)

    for option in reversed(_LIMITS):
        with_limits = option(with_limits)
    return with_limits
