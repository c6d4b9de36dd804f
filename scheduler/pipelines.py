"""The commands `moodreel pipelines add` and `list`."""

from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.errors import BadOption
from db.identity import printable
from db.rows import Pipeline
from db.store import Store
from scheduler.annotate import AnnotateOptions, recipe_of
from scheduler.cli import print_json
from scheduler.show import open_existing


def add(name: str, options: AnnotateOptions, *, replace: bool) -> None:
    """Register the pipeline that the options describe, with the weights of this machine.

    Args:
        name: what to call it.
        replace: whether the name may be taken from another pipeline.

    Raises:
        BadOption: a value is out of range, or the name is another pipeline's.
        WeightsMissing: the models are not in place.
    """
    from worker.finish import register

    if not name.strip() or not name.isprintable():
        raise BadOption("a pipeline's name must be something that can be printed")
    recipe = recipe_of(options)
    with Store(options.db_url) as store:
        known = store.named_pipelines().get(name)
        if known is not None and known.digest != recipe.identity.digest and not replace:
            raise BadOption(
                f"{name} is the pipeline {known.name} {known.digest[:12]}, and this one would be"
                f" {recipe.identity.name} {recipe.identity.digest[:12]}",
                hint="Give it another name, or --replace: then the name means this one for what is asked from now on.",
            )
        moved = store.name_pipeline(name, register(store, recipe.identity), recipe.options)
        where = store.name
    said = "now means" if moved else "is"
    Console().print(
        Text(f"{name} {said} {recipe.identity.name} {recipe.identity.digest[:12]} in {where}"), soft_wrap=True
    )


def show(db_url: str, as_json: bool) -> None:
    """List the pipelines that have names."""
    with open_existing(db_url) as store:
        known = store.named_pipelines()
        done = store.status().pipelines
    counts = {name: done.get(f"{pipeline.name} {pipeline.digest}", 0) for name, pipeline in known.items()}
    if as_json:
        print_json([{"pipeline": name, **asdict(known[name]), "done": counts[name]} for name in known])
        return
    table = Table(box=None, pad_edge=False)
    for title in ("name", "digest", "preset", "window", "hop", "span", "fusion"):
        table.add_column(title)
    table.add_column("done", justify="right")
    for name, pipeline in known.items():
        row = (name, pipeline.digest[:12], *_settings(pipeline), str(counts[name]))
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table if known else "No pipeline is registered; `moodreel pipelines add NAME` does that.")


def _settings(pipeline: Pipeline) -> tuple[str, ...]:
    plan = pipeline.config["plan"]
    lengths = (f"{plan[name] / 1000:g} s" for name in ("window_ms", "hop_ms", "span_ms"))
    return pipeline.config["preset"], *lengths, pipeline.config["fusion"]["rule"]
