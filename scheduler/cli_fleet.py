"""The fleet's commands. As in `scheduler.cli`, each imports what it needs when it runs."""

import sys

import click

from scheduler.options import (
    adapt_option,
    broker_option,
    db_option,
    decoder_option,
    dtype_option,
    json_option,
    limits_options,
    log_format_option,
    metrics_host_option,
    metrics_port_option,
    pipeline_option,
    wanted_options,
)
from scheduler.wanted import Wanted
from worker.limits import Limits

EXIT_FAILED = 1


@click.command(short_help="Hand videos to the fleet.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@db_option
@pipeline_option
@click.option("--priority", type=click.IntRange(-1000, 1000), default=0, show_default=True, help="Higher goes first.")
@click.option("--wait", is_flag=True, help="Wait, with progress, until these videos are done or have failed.")
@wanted_options
@json_option
def submit(
    paths: tuple[str, ...],
    db_url: str,
    pipeline: str | None,
    priority: int,
    wait: bool,
    as_json: bool,
    wanted: Wanted,
) -> None:
    """Put videos into the fleet's queue, which is in the database; the broker is not needed for it.

    PATH is what `moodreel annotate` takes: a file, a folder, a pattern, or s3://BUCKET/KEY for one object or all
    whose keys begin like this. What is in the queue already keeps its place, or gets a better one; what is done becomes
    current again; what had failed is tried again.

    Each point of priority is worth ten minutes of waiting: a video of priority 6 overtakes those of priority 0 that
    were submitted in the last hour, and none waits forever.
    """
    from scheduler.submit import run

    sys.exit(run(paths, db_url, pipeline, priority, wait=wait, as_json=as_json, wanted=wanted))


@click.command(short_help="Run the scheduler: watch folders and buckets, feed the workers.")
@click.argument("folders", nargs=-1, metavar="[FOLDER]...")
@db_option
@broker_option
@pipeline_option
@click.option(
    "--priority",
    type=click.IntRange(-1000, 1000),
    default=5,
    show_default=True,
    help="Of what is found; above submit's 0, so that new videos go before a backlog.",
)
@click.option(
    "--every",
    "every_seconds",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Pause between two looks at the folders, and between two listings of buckets without --events.",
)
@click.option(
    "--settle",
    "settle_seconds",
    type=click.FloatRange(0.0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a file must not have been written to; besides, two looks must find it the same.",
)
@click.option(
    "--events", metavar="QUEUE_URL", help="SQS queue that tells of the buckets' objects, when they come and go."
)
@click.option(
    "--reconcile-every",
    "reconcile_every_seconds",
    type=click.FloatRange(1.0),
    default=6 * 3600.0,
    show_default=True,
    metavar="SECONDS",
    help="Pause between two listings of the buckets beside --events, for what these missed.",
)
@wanted_options
@metrics_port_option
@metrics_host_option
@log_format_option
def watch(
    folders: tuple[str, ...],
    db_url: str,
    broker_url: str,
    pipeline: str | None,
    priority: int,
    every_seconds: float,
    settle_seconds: float,
    events: str | None,
    reconcile_every_seconds: float,
    wanted: Wanted,
    metrics_port: int | None,
    metrics_host: str,
    log_format: str,
) -> None:
    """Run the scheduler, until it is told to stop (SIGTERM or Ctrl-C).

    It hands what is in the queue to the workers, by messages through the broker, and sends again what was lost. Several
    may run at once. Without FOLDER that is all it does.

    In each FOLDER, and below it, it finds new and changed videos, going by their names, and puts them into the queue.
    Hidden files are left out. Nothing is ever taken out of the database because a file or a folder is gone.

    FOLDER may be s3://BUCKET/PREFIX: all objects whose keys begin like this. They are listed once every --every
    seconds; or, with --events, when a message tells of them, and as a whole only every --reconcile-every seconds. An
    object that is gone is marked as such; what is known of it stays.
    """
    from scheduler.watch import WatchOptions, run

    options = WatchOptions(
        db_url=db_url,
        broker_url=broker_url,
        folders=folders,
        pipeline=pipeline,
        priority=priority,
        every_seconds=every_seconds,
        settle_seconds=settle_seconds,
        events=events,
        reconcile_every_seconds=reconcile_every_seconds,
        wanted=wanted,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        log_format=log_format,
    )
    sys.exit(run(options))


@click.command(short_help="Run a worker.")
@db_option
@broker_option
@click.option(
    "--slots",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Jobs at once in each process, each with a decoder of its own; default: 4 on a GPU, 2 on the CPU.",
)
@click.option("--processes", type=click.IntRange(1), metavar="N", help="Default: one for each GPU, or one on the CPU.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the models run; auto takes the GPUs if there are any.",
)
@dtype_option
@decoder_option
@click.option(
    "--pipeline",
    "pipelines",
    multiple=True,
    metavar="NAME",
    help="Work on this one only; may be given several times. Default: every registered one.",
)
@click.option(
    "--lease",
    "lease_seconds",
    type=click.FloatRange(1.0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="After so long without a heartbeat others may take a job over.",
)
@click.option(
    "--grace",
    "grace_seconds",
    type=click.FloatRange(0.0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long jobs may go on after SIGTERM, before they are given back.",
)
@click.option(
    "--stall",
    "stall_seconds",
    type=click.FloatRange(1.0),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="A process whose work makes no progress for so long is replaced.",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    metavar="N",
    help="After so many a video has failed, and the queue goes on.",
)
@limits_options
@metrics_port_option
@metrics_host_option
@log_format_option
def work(
    db_url: str,
    broker_url: str,
    slots: int | None,
    processes: int | None,
    device: str,
    dtype: str,
    decoder: str,
    pipelines: tuple[str, ...],
    lease_seconds: float,
    grace_seconds: float,
    stall_seconds: float,
    max_attempts: int,
    limits: Limits,
    metrics_port: int | None,
    metrics_host: str,
    log_format: str,
) -> None:
    """Run a worker, until it is told to stop (SIGTERM or Ctrl-C): then it ends its jobs or gives them back.

    One process for each GPU, with one copy of each model, works on several spans at once. A pipeline whose weights are
    not here, or are others than those that it was registered with, is refused.
    """
    from worker.supervise import WorkOptions, supervise

    options = WorkOptions(
        db_url=db_url,
        broker_url=broker_url,
        slots=slots,
        processes=processes,
        device=device,
        dtype=dtype,
        decoder=decoder,
        pipelines=pipelines,
        lease_seconds=lease_seconds,
        grace_seconds=grace_seconds,
        stall_seconds=stall_seconds,
        max_attempts=max_attempts,
        limits=limits,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        log_format=log_format,
    )
    sys.exit(supervise(options))


@click.group(short_help="Register and list pipelines.")
def pipelines() -> None:
    """Pipelines that the fleet can be asked for, by name."""


@pipelines.command("add", short_help="Register a pipeline.")
@click.argument("name")
@db_option
@click.option(
    "--preset", type=click.Choice(["compact", "paper"]), default="compact", show_default=True, help="As for annotate."
)
@click.option("--audio-model", metavar="REF", help="As for annotate.")
@click.option("--video-model", metavar="REF", help="As for annotate.")
@click.option("--label-map", metavar="FILE", help="As for annotate.")
@click.option("--window", "window_seconds", default=2.0, show_default=True, metavar="SECONDS", help="0.5 to 30.")
@click.option("--hop", "hop_seconds", default=1.0, show_default=True, metavar="SECONDS", help="At most the window.")
@click.option(
    "--span",
    "span_seconds",
    default=150.0,
    show_default=True,
    metavar="SECONDS",
    help="Length of the pieces that a video is cut into, each one job.",
)
@click.option("--fusion", "fusion_rule", metavar="NAME", help="As for annotate.")
@adapt_option
@click.option("--replace", is_flag=True, help="Let NAME, if it is another pipeline's, be this one's from now on.")
def add_pipeline(
    name: str,
    db_url: str,
    preset: str,
    audio_model: str | None,
    video_model: str | None,
    label_map: str | None,
    window_seconds: float,
    hop_seconds: float,
    span_seconds: float,
    fusion_rule: str | None,
    adapt: bool,
    replace: bool,
) -> None:
    """Register a pipeline under NAME. Run it where its weights are: on a worker, not on the scheduler.

    What decides the numbers, the weights' hashes among it, makes up the pipeline's digest. A worker whose weights give
    another one refuses the work and says so.
    """
    from scheduler.annotate import AnnotateOptions
    from scheduler.pipelines import add

    options = AnnotateOptions(
        db_url=db_url,
        window_seconds=window_seconds,
        hop_seconds=hop_seconds,
        fusion_rule=fusion_rule,
        device="cpu",
        as_json=False,
        preset=preset,
        audio_model=audio_model,
        video_model=video_model,
        label_map=label_map,
        span_seconds=span_seconds,
        adapt=adapt,
    )
    add(name, options, replace=replace)


@pipelines.command("list", short_help="Show what is registered.")
@db_option
@json_option
def list_pipelines(db_url: str, as_json: bool) -> None:
    """Show the registered pipelines, and how many videos each has annotated."""
    from scheduler.pipelines import show

    show(db_url, as_json)


@click.command(short_help="Limit how many jobs read from one place at once.")
@click.argument("prefix", required=False)
@click.argument("max_running", required=False, type=click.IntRange(0, 2**31 - 1), metavar="[N]")
@click.option("--remove", is_flag=True, help="Let as many jobs read there as there are.")
@db_option
@json_option
def limit(prefix: str | None, max_running: int | None, remove: bool, db_url: str, as_json: bool) -> None:
    """Let no more than N jobs at once read videos from below PREFIX: a folder, or how URIs begin, like s3://bucket/.

    Spares a slow share or disk; 0 lets its videos wait. Without N the limit of PREFIX is shown, without PREFIX all.
    """
    from scheduler.operate import set_limit

    set_limit(db_url, prefix, max_running, remove=remove, as_json=as_json)


@click.command(short_help="Try failed videos again.")
@click.argument("uris", nargs=-1, metavar="[URI]...")
@db_option
@click.option("--code", metavar="CODE", help="Only what failed for this reason, as `moodreel status` names it.")
@click.option("--all", "every", is_flag=True, help="All that failed.")
def retry(uris: tuple[str, ...], db_url: str, code: str | None, every: bool) -> None:
    """Put failed videos back into the fleet's queue; what their spans have done is kept.

    URI is a path, a folder for all below it, or a URI as it is in the database. What was cancelled is tried again only
    with --code cancelled.
    """
    from scheduler.operate import retry_failed

    retry_failed(db_url, uris, code, every=every)


@click.command(short_help="Take videos out of the queue.")
@click.argument("uris", nargs=-1, metavar="[URI]...")
@db_option
@click.option("--all", "every", is_flag=True, help="All that is not done.")
def cancel(uris: tuple[str, ...], db_url: str, every: bool) -> None:
    """Take videos that are not done out of the fleet's queue; workers that are at them let go of them.

    URI is a path, a folder for all below it, or a URI as it is in the database. They count as failed, with the code
    cancelled, until `moodreel retry --code cancelled` or a new `moodreel submit`.
    """
    from scheduler.operate import cancel_waiting

    cancel_waiting(db_url, uris, every=every)


@click.command(short_help="Is this host's worker or scheduler alive?")
@db_option
def health(db_url: str) -> None:
    """Exit with 0 if a worker or a scheduler of this host has shown itself in the database in the last minute.

    For a container's health check.
    """
    from scheduler.operate import is_healthy

    sys.exit(0 if is_healthy(db_url) else EXIT_FAILED)


COMMANDS = (submit, watch, work, pipelines, limit, retry, cancel, health)
