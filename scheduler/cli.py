"""The command line. Every command imports what it needs when it runs, so that help is quick and torch stays away."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from db.errors import FAILURES, BadOption, MoodreelError, NotInstalled
from db.identity import printable
from db.redaction import redacted
from scheduler import cli_failures, cli_fleet, cli_keep, cli_pages, cli_query
from scheduler.cli_hooks import alerts, hooks
from scheduler.cli_train import train
from scheduler.options import (
    adapt_option,
    db_option,
    decoder_option,
    dtype_option,
    json_option,
    limits_options,
    wanted_options,
)
from scheduler.wanted import Wanted
from worker.limits import Limits

if TYPE_CHECKING:
    from rich.console import Console

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

# What `worker` and `models` import and the scheduler's environment does not have.
WORKER_PACKAGES = frozenset(
    ("av", "cv2", "huggingface_hub", "numpy", "onnxruntime", "safetensors", "torch", "transformers")
)

# What `report` and `serve` import besides.
REPORT_PACKAGES = frozenset(("plotly", "starlette", "uvicorn"))
REPORT_HINT = "pip install 'moodreel[report]'"

HELP = """\
Turns stored videos into timelines of emotions in a SQL database.

Each video is read once, offline. Windows of two seconds, one each second, are judged by the voice and by the largest
face; the two are fused and smoothed into segments. Where nobody speaks and no face is seen there is no emotion.

\b
  moodreel annotate holiday.mp4              one video, into ./moodreel.db
  moodreel annotate archive/ 'more/*.mkv'    folders and patterns; what is done is skipped
  moodreel timeline holiday.mp4              what was found, segment by segment
  moodreel report holiday.mp4                the same as a page, beside the video
  moodreel serve                             the whole database in a browser
  moodreel fuse --all --fusion average       another timeline from the same windows, at once
  moodreel status                            what is done, what failed and why
  moodreel quarantine                        what failed, one by one, and how to try it again
  moodreel explain truncated                 what a code means, and what to do
  moodreel doctor                            is everything in place on this machine?
  moodreel train audio --help                a model of your own, from clips of yours

\b
Many machines, with PostgreSQL (MOODREEL_DB) and Redis (MOODREEL_BROKER):
  moodreel pipelines add archive             register a pipeline, where its weights are
  moodreel watch incoming/                   the scheduler: finds videos, hands them out
  moodreel work                              a worker; as many as there are machines
  moodreel submit archive/                   put videos into the queue
  moodreel submit s3://archive/2026/         the same, of a bucket: all whose keys begin like this
  moodreel status --live                     how fast it goes, and how long it will take
  moodreel retry --code decoder_timeout      put failed videos back into the queue
  moodreel hooks add https://...             post what is done to another system
  moodreel alerts add distress fearful 0.6   raise an alert where somebody is afraid

\b
Over the years:
  moodreel backfill --pipeline NAME          annotate the archive with another pipeline, at low priority
  moodreel forget s3://bucket/clip.mp4       erase a video's rows for good, and keep it out
  moodreel retention set incoming/ 90d       erase results by age
  moodreel audit                             who asked for what

\b
Ask the database itself, for instance with sqlite3:
  SELECT * FROM timeline        WHERE emotion = 'happy' AND confidence > 0.6;
  SELECT * FROM video_summary   ORDER BY angry_share DESC;
  SELECT * FROM window_scores   WHERE modality = 'audio' AND emotion = 'sad';
  SELECT * FROM failures;
or by moodreel: moodreel query "SELECT ...", moodreel query --list

A predicted expression is not somebody's inner state. See the README for what the law forbids.

Exit status: 0 all done, 1 some videos failed, 2 wrong usage, 130 interrupted (the next run carries on).
"""


@click.group(help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="moodreel")
def cli() -> None:
    pass


@cli.command(short_help="Annotate videos: files, folders, patterns.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@db_option
@click.option("--window", "window_seconds", default=2.0, show_default=True, metavar="SECONDS", help="0.5 to 30.")
@click.option("--hop", "hop_seconds", default=1.0, show_default=True, metavar="SECONDS", help="At most the window.")
@click.option("--fusion", "fusion_rule", metavar="NAME", help="How voice and face are combined (see below).")
@adapt_option
@click.option(
    "--preset",
    type=click.Choice(["compact", "paper"]),
    default="compact",
    show_default=True,
    help="compact brings its models; paper needs the two below.",
)
@click.option("--audio-model", metavar="REF", help="Folder or hub id of an audio classification checkpoint.")
@click.option("--video-model", metavar="REF", help="The same for whole pictures (video) or faces (image).")
@click.option("--label-map", metavar="FILE", help='JSON: {"model\'s label": "emotion" or null}.')
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the models run; auto takes a GPU if there is one.",
)
@dtype_option
@decoder_option
@limits_options
@wanted_options
@json_option
def annotate(
    paths: tuple[str, ...],
    db_url: str,
    window_seconds: float,
    hop_seconds: float,
    fusion_rule: str | None,
    adapt: bool,
    preset: str,
    audio_model: str | None,
    video_model: str | None,
    label_map: str | None,
    device: str,
    dtype: str,
    decoder: str,
    as_json: bool,
    limits: Limits,
    wanted: Wanted,
) -> None:
    """Annotate videos and store their timelines.

    PATH is a file, a folder (searched recursively for videos, going by their names), a pattern like 'clips/*.mp4', or
    s3://BUCKET/KEY: that object, or all videos whose keys begin like this. --suffix and the options after it say which
    videos of those that a search comes upon are meant; what is named itself is always taken. A sound file named itself
    is annotated by voice alone. Videos that this pipeline has already annotated are skipped; a changed file is
    annotated anew. Videos that another run holds at the moment count as not done.

    \b
    --fusion NAME is one of
      average     mean of both            weighted    mean by weights
      threshold   the sure one alone      dynamic     each weighs by its confidence
      rules       agreement, else the surer one
      log-linear  product of both         (default: the preset's)

    --preset paper is wav2vec 2.0 for the voice and ViViT for the video, or what else is named: any audio, video or
    image classification checkpoint for transformers. With compact, either of its models may be replaced.
    """
    from scheduler.annotate import AnnotateOptions, run

    models = (preset, audio_model, video_model, label_map)
    options = AnnotateOptions(
        db_url,
        window_seconds,
        hop_seconds,
        fusion_rule,
        device,
        as_json,
        *models,
        adapt=adapt,
        wanted=wanted,
        dtype=dtype,
        decoder=decoder,
        limits=limits,
    )
    sys.exit(run(paths, options))


@cli.command(short_help="Fuse stored windows anew, without decoding.")
@click.argument("uris", nargs=-1, metavar="URI...")
@db_option
@click.option("--all", "every", is_flag=True, help="Every video that has a timeline.")
@click.option("--fusion", "fusion_rule", metavar="NAME", help="As for annotate.")
@click.option("--adapt/--no-adapt", default=None, help="As for annotate.")
@click.option("--audio-weight", type=float, metavar="SHARE", help="Trust in the voice, 0 to 1; the face has the rest.")
@click.option("--threshold", type=float, metavar="SHARE", help="Confidence from which a side is believed alone.")
@click.option("--margin", type=float, metavar="SHARE", help="By how much the surer side wins a disagreement (rules).")
@click.option("--audio-temperature", type=float, metavar="T", help="Above 1 the voice counts as less sure; 1 as it is.")
@click.option("--video-temperature", type=float, metavar="T", help="The same for the face.")
@click.option("--switch-cost", type=float, metavar="NATS", help="Smoothing: what a change must gain, nats x seconds.")
@json_option
def fuse(
    uris: tuple[str, ...],
    db_url: str,
    every: bool,
    fusion_rule: str | None,
    adapt: bool | None,
    audio_weight: float | None,
    threshold: float | None,
    margin: float | None,
    audio_temperature: float | None,
    video_temperature: float | None,
    switch_cost: float | None,
    as_json: bool,
) -> None:
    """Make another timeline of videos that are annotated, from their stored windows.

    Nothing is decoded and no model runs. The new timeline stands beside the old one, shares its windows, and becomes
    the current one; options that are not given stay as they were.
    """
    from scheduler.fuse import run

    fusion = {"rule": fusion_rule, "audio_weight": audio_weight, "threshold": threshold, "margin": margin}
    changes: dict[str, dict[str, Any]] = {
        "fusion": fusion,
        "calibration": {"audio_temperature": audio_temperature, "video_temperature": video_temperature},
        "smoothing": {"switch_cost": switch_cost},
    }
    sys.exit(run(uris, every, db_url, changes, as_json, adapt=adapt))


@cli.command(short_help="Show one video's timeline.")
@click.argument("uri")
@db_option
@json_option
def timeline(uri: str, db_url: str, as_json: bool) -> None:
    """Show the timeline of one video: a path as it was annotated, or its URI in the database, as s3://BUCKET/KEY."""
    from scheduler.show import show_timeline

    show_timeline(uri, db_url, as_json)


@cli.command(short_help="What is done, what failed.")
@db_option
@click.option("--live", is_flag=True, help="Show it anew every two seconds, until Ctrl-C.")
@json_option
def status(db_url: str, live: bool, as_json: bool) -> None:
    """Count annotations by status, list failures with their codes, and show the fleet: its speed, queue and workers."""
    from scheduler.show import show_status, watch_status

    if live and not as_json:
        watch_status(db_url)
    else:
        show_status(db_url, as_json)


@cli.command(short_help="Bring a database's schema up to date.")
@db_option
def migrate(db_url: str) -> None:
    """Make the tables, or bring them up to date; running it again changes nothing.

    Every command does this by itself. Run it on its own before many workers start, or with a role that may change
    tables where the workers' role may not.
    """
    from scheduler.show import show_migration

    show_migration(db_url)


@cli.command(short_help="Check this machine.")
@db_option
@json_option
def doctor(db_url: str, as_json: bool) -> None:
    """Check what is installed, the device, the weights, that a video can be decoded, and the database."""
    from scheduler.doctor import examine

    sys.exit(0 if examine(db_url, as_json) else EXIT_FAILED)


COMMANDS = (*cli_failures.COMMANDS, *cli_fleet.COMMANDS, *cli_keep.COMMANDS, *cli_pages.COMMANDS, *cli_query.COMMANDS)
for command in (*COMMANDS, hooks, alerts, train):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors that moodreel knows become one sentence and an exit status."""
    if arguments is None:
        _take_passwords_out_of_sight()
    try:
        cli.main(args=arguments, standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in REPORT_PACKAGES:
            _give_up(NotInstalled(f"{package} is not installed, and this command needs it", REPORT_HINT))
        if package not in WORKER_PACKAGES:
            raise
        _give_up(NotInstalled(f"{error.name} is not installed, and this command needs it"))
    except UnicodeEncodeError:
        # Paths may be any bytes. Of whatever else is given, no database and no store takes what is no text.
        given = sys.argv[1:] if arguments is None else arguments
        stray = next((text for text in given if any("\ud800" <= c <= "\udfff" for c in text)), None)
        if stray is None:
            raise
        _give_up(BadOption(f"{stray} is not UTF-8"))
    except MoodreelError as error:
        _give_up(error)


_OF_SERVERS = {"--db": "MOODREEL_DB", "--broker": "MOODREEL_BROKER"}


def _take_passwords_out_of_sight() -> None:
    """Start again without those options that hold a password, since every user may read a command line.

    They go into the environment, which only this user can read.
    """
    words, found = sys.orig_argv, {}
    at = len(words) - len(sys.argv) + 1  # before that: Python, its options and the program
    kept = words[:at]
    while at < len(words):
        option, joined, value = words[at].partition("=")
        part = words[at : at + (1 if joined else 2)] if option in _OF_SERVERS else words[at : at + 1]
        at += len(part)
        value = value if joined else part[-1]
        if option in _OF_SERVERS and redacted(value) != value:
            found[_OF_SERVERS[option]] = value
        else:
            kept += part
    if found:
        os.execve(sys.executable, kept, os.environ | found)


def _give_up(error: MoodreelError) -> NoReturn:
    """Say what went wrong and what to do, and exit."""
    stderr().print(f"moodreel: {printable(str(error))}", markup=False, highlight=False, soft_wrap=True)
    stderr().print(f"  {error.hint or FAILURES[error.code].what_to_do} [{error.code}]", markup=False, highlight=False)
    sys.exit(EXIT_USAGE if error.code == "bad_option" else EXIT_FAILED)


def stderr() -> "Console":
    """Where complaints go."""
    from rich.console import Console

    return Console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
