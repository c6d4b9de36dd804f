"""The commands below `moodreel alerts`."""

import math
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.errors import BadOption, PathMissing, RuleUnknown
from db.identity import printable
from db.rows import AlertRule
from db.store import Store
from db.words import EMOTIONS
from scheduler.actor import actor
from scheduler.cli import print_json
from scheduler.operate import prefix_given
from scheduler.render import clock
from scheduler.show import find_video, open_existing


def add(
    db_url: str,
    name: str,
    measure: str,
    level: float,
    min_seconds: float,
    *,
    below: bool,
    source: str,
    pipeline: str | None,
) -> None:
    """Store a rule.

    Raises:
        BadOption: it is one that can never hold or always does, or its name is another's.
        PipelineUnknown: there is no such pipeline.
    """
    if measure in EMOTIONS and not 0 < level <= 1:
        raise BadOption(f"the level of {measure} is a probability above 0, not {level:g}")
    if not (math.isfinite(level) and math.isfinite(min_seconds)):
        raise BadOption("a level and a length are numbers")
    if not name.strip() or not name.isprintable():
        raise BadOption("a rule's name must be something that can be printed")
    rule = AlertRule(
        name=name,
        measure=measure,
        level=level,
        below=below,
        min_seconds=min_seconds,
        source_prefix=prefix_given(source) if source else "",
        pipeline=pipeline,
    )
    with Store(db_url) as store:
        if pipeline is not None:
            store.pipeline_named(pipeline)
        with store.audited(actor(), "alerts add", _subject(rule)) as counts:
            counts["rules"] = int(store.add_rule(rule))
        if not counts["rules"]:
            raise BadOption(f"there is a rule {name} already", hint=f"moodreel alerts remove {name}, or another name.")
    Console().print(Text(f"{name}: {_words(rule)}, in what is annotated from now on"), soft_wrap=True)


def show_rules(db_url: str, as_json: bool) -> None:
    """List the rules."""
    with open_existing(db_url) as store:
        rules = store.rules()
    if as_json:
        print_json([asdict(rule) for rule in rules])
        return
    table = Table(box=None, pad_edge=False)
    for title in ("rule", "raised where", "source", "pipeline"):
        table.add_column(title)
    for rule in rules:
        row = (rule.name, _words(rule), rule.source_prefix or "all", rule.pipeline or "any")
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table if rules else "no rules; `moodreel alerts add NAME MEASURE LEVEL` makes one")


def remove(db_url: str, name: str) -> None:
    """Forget a rule.

    Raises:
        RuleUnknown: there is none of this name.
    """
    with open_existing(db_url) as store:
        with store.audited(actor(), "alerts remove", {"rule": name}) as counts:
            counts["rules"] = int(store.remove_rule(name))
        if not counts["rules"]:
            raise RuleUnknown(f"There is no alert rule {printable(name)!r} in {store.name}.")
    Console().print(Text(f"{name} is removed, with what it raised"), soft_wrap=True)


def show(db_url: str, rule: str | None, video: str | None, limit: int, as_json: bool) -> bool:
    """List what was raised; whether anything was.

    Raises:
        PathMissing: the video is not in the database.
    """
    with open_existing(db_url) as store:
        known = find_video(store, video) if video is not None else None
        if video is not None and known is None:
            raise PathMissing(f"{printable(video)} is not in this database")
        found = store.alerts(rule, known.uri if known else None, limit)
    if as_json:
        print_json([{**asdict(alert), "raised_at": alert.raised_at.isoformat()} for alert in found])
        return bool(found)
    table = Table(box=None, pad_edge=False)
    for title in ("raised", "rule", "video"):
        table.add_column(title)
    for title in ("from", "to", "peak"):
        table.add_column(title, justify="right")
    for alert in found:
        when = alert.raised_at.strftime("%Y-%m-%d %H:%M:%S")
        numbers = (clock(alert.start_seconds), clock(alert.end_seconds), f"{alert.measure} {alert.peak:.2f}")
        table.add_row(*(Text(printable(cell)) for cell in (when, alert.rule, alert.video, *numbers)))
    Console().print(table if found else "nothing was raised")
    return bool(found)


def _subject(rule: AlertRule) -> dict[str, object]:
    """How the audit tells of a rule that is added."""
    return {"rule": rule.name, "where": _words(rule), "prefix": rule.source_prefix, "pipeline_name": rule.pipeline}


def _words(rule: AlertRule) -> str:
    return f"{rule.measure} {'<=' if rule.below else '>='} {rule.level:g} for {rule.min_seconds:g} s"
