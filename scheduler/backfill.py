"""The command `moodreel backfill`: ask for what an archive lacks by a pipeline, condition by condition."""

from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from db.rows import Load, Submitted
from db.store import Store
from scheduler.actor import actor
from scheduler.cli import print_json, stderr
from scheduler.progress import counter
from scheduler.show import open_existing
from scheduler.submit import SOURCES_AT_ONCE, describe, plus, warn_if_nobody_feeds


def run(
    db_url: str,
    pipeline: str | None,
    where: str | None,
    priority: int,
    limit: int | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Ask the fleet for annotations that are missing, and say for how many.

    Raises:
        PipelineUnknown: no pipeline has this name, or there are several to choose from.
        BadOption: the database does not understand the condition.
        DatabaseError: the database refuses; what was asked until then stays in the queue.
    """
    with open_existing(db_url) as store:
        chosen = store.pipeline_named(pipeline)
        load = store.lacking_load(chosen.id, where, limit)
        if not as_json:
            _say(load, store.failed_before(chosen.id))
        total = Submitted()
        if not dry_run and load.videos:
            said = where and store.veiled(where)
            subject = {"pipeline": chosen.digest, "where": said, "priority": priority, "limit": limit}
            with store.audited(actor(), "backfill", subject) as counts:
                total = _ask(store, chosen.id, where, limit, priority, quiet=as_json)
                counts |= asdict(total)
        if as_json:
            told = {"videos": load.videos, "seconds": load.seconds}
            print_json({"pipeline": chosen.name, "digest": chosen.digest, "lacking": told, **asdict(total)})
        elif not dry_run and load.videos:
            Console().print(describe(total), highlight=False)
        if not dry_run:
            warn_if_nobody_feeds(store)


def _ask(
    store: Store, pipeline_id: int, where: str | None, limit: int | None, priority: int, *, quiet: bool
) -> Submitted:
    ids = store.lacking(pipeline_id, where, limit)
    total = Submitted()
    with counter(stderr(), "asked for", len(ids), quiet=quiet) as advance:
        for start in range(0, len(ids), SOURCES_AT_ONCE):
            some = ids[start : start + SOURCES_AT_ONCE]
            total = plus(total, store.ask_for(pipeline_id, some, priority))
            advance(len(some))
    return total


def _say(load: Load, failed: int) -> None:
    """How much is missing, and what is left out."""
    console = Console()
    console.print(Text(f"{load.videos} videos, {load.seconds / 3600:,.1f} hours, are to be asked for"), soft_wrap=True)
    if failed:
        console.print(Text(f"{failed} that failed are left out: moodreel retry tries them again"), soft_wrap=True)
