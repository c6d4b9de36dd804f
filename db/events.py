"""What happened to annotations, written down for hooks in the transactions in which it happens.

An event is a row of `hook_deliveries` for each hook that asked for its kind; posting it is the scheduler's. So an event
is there if and only if what it tells of is, and without hooks it costs one look at an empty table.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from db.rows import RaisedAlert, Segment
from db.statements import unix_now, upsert
from db.tables import alert_rules, annotations, hook_deliveries, hooks, pipeline_names, pipelines, raised_alerts, videos

GIVE_UP_SECONDS = 86_400.0  # after which an event that has not arrived is given up
TYPES = {"done": "annotation.done", "failed": "annotation.failed", "alert": "alert.raised"}
_STRETCHES = 100  # of an alert, at most, that an event names: a receiver wants to hear of it, not to store it


def tell_done(connection: sa.Connection, annotation_id: int, timeline: Sequence[Segment], n_windows: int) -> None:
    """An annotation was completed; told once, however often that happens."""
    if wanting := _wanting(connection, "done"):
        about = _about(connection, annotation_id)
        what = {
            "status": "done",
            "duration_seconds": about.duration_seconds,
            "windows": n_windows,
            "segments": len(timeline),
            **_seconds(timeline),
            "warning_code": about.warning_code,
        }
        _write(connection, "done", f"done/{annotation_id}", wanting, about, what)


def tell_failed(connection: sa.Connection, annotation_id: int) -> None:
    """An annotation failed, and is not tried again unless somebody asks for it."""
    if wanting := _wanting(connection, "failed"):
        about = _about(connection, annotation_id)
        what = {
            "status": "failed",
            "error_code": about.error_code,
            "error_message": about.error_message,
            "attempts": about.attempts,
        }
        key = f"failed/{annotation_id}/{about.completed_at.isoformat()}"
        _write(connection, "failed", key, wanting, about, what)


def raise_alerts(connection: sa.Connection, annotation_id: int, alerts: Sequence[RaisedAlert]) -> None:
    """Store what rules tell of an annotation, and tell of it: once for each rule, however often it is told."""
    if not alerts:
        return
    about = _about(connection, annotation_id)
    query = sa.select(alert_rules).where(alert_rules.c.id.in_({alert.rule_id for alert in alerts}))
    rules = connection.execute(query.order_by("id").with_for_update(read=True, key_share=True)).all()
    wanting = _wanting(connection, "alert")
    for rule in rules:  # those that are there still
        stretches = [alert for alert in alerts if alert.rule_id == rule.id]
        rows = [
            {
                "annotation_id": annotation_id,
                "rule_id": rule.id,
                "start_seconds": alert.start_seconds,
                "end_seconds": alert.end_seconds,
                "peak": alert.peak,
                "raised_at": about.completed_at,
            }
            for alert in stretches
        ]
        connection.execute(upsert(connection, raised_alerts).on_conflict_do_nothing(), rows)
        what = {
            "rule": rule.name,
            "measure": rule.measure,
            "level": rule.level,
            "below": rule.below,
            "min_seconds": rule.min_seconds,
            "count": len(stretches),
            "stretches": [
                {"start_seconds": one.start_seconds, "end_seconds": one.end_seconds, "peak": round(one.peak, 4)}
                for one in stretches[:_STRETCHES]
            ],
        }
        _write(connection, "alert", f"alert/{rule.id}/{annotation_id}", wanting, about, what)


def body_of(event_type: str, event_id: str, timestamp: str, data: Mapping[str, Any]) -> str:
    """What is posted: JSON on one line, in ASCII."""
    return json.dumps({"type": event_type, "id": event_id, "timestamp": timestamp, "data": data}, separators=(",", ":"))


def _wanting(connection: sa.Connection, event: str) -> list[tuple[int, str]]:
    """Hooks that events of this kind are posted to, each with the prefix of the URIs that it asked for."""
    # Locked, so that none is removed before what is written for it is there.
    query = sa.select(hooks.c.id, hooks.c.source_prefix).where(hooks.c[f"on_{event}"], hooks.c.disabled_at.is_(None))
    found = connection.execute(query.order_by(hooks.c.id).with_for_update(read=True, key_share=True))
    return [(row.id, row.source_prefix) for row in found]


def _about(connection: sa.Connection, annotation_id: int) -> Any:
    """What every event says of an annotation, and when it ended."""
    called = sa.select(sa.func.min(pipeline_names.c.name)).where(pipeline_names.c.pipeline_id == pipelines.c.id)
    query = (
        sa.select(
            *(annotations.c.id, annotations.c.version, annotations.c.attempts, annotations.c.completed_at),
            *(annotations.c.error_code, annotations.c.error_message, annotations.c.warning_code),
            *(annotations.c.duration_seconds, videos.c.uri, pipelines.c.digest),
            sa.func.coalesce(called.scalar_subquery(), pipelines.c.name).label("pipeline"),
        )
        .join(videos, videos.c.id == annotations.c.video_id)
        .join(pipelines, pipelines.c.id == annotations.c.pipeline_id)
        .where(annotations.c.id == annotation_id)
    )
    return connection.execute(query).one()


def _seconds(timeline: Sequence[Segment]) -> dict[str, Any]:
    """How long each emotion lasts in a timeline, the longest first, and which that is."""
    seconds: dict[str, float] = {}
    for piece in timeline:
        name = piece.emotion or "none"
        seconds[name] = seconds.get(name, 0.0) + piece.end_seconds - piece.start_seconds
    longest = sorted(seconds, key=lambda name: -seconds[name])
    return {
        "dominant_emotion": next((name for name in longest if name != "none"), None),
        "seconds": {name: round(seconds[name], 3) for name in longest},
    }


def _write(
    connection: sa.Connection,
    event: str,
    key: str,
    wanting: Sequence[tuple[int, str]],
    about: Any,
    what: Mapping[str, Any],
) -> None:
    hook_ids = [hook_id for hook_id, prefix in wanting if about.uri.startswith(prefix)]
    if not hook_ids:
        return
    event_id = uuid.uuid4().hex
    data = {
        "video": about.uri,
        "version": about.version,
        "annotation": about.id,
        "pipeline": about.pipeline,
        "pipeline_digest": about.digest,
        **what,
    }
    now = connection.execute(sa.select(unix_now(connection.dialect.name))).scalar_one()
    row = {
        "event_key": key,
        "event_id": event_id,
        "event": event,
        "annotation_id": about.id,
        "body": body_of(TYPES[event], event_id, about.completed_at.isoformat(), data),
        "status": "pending",
        "created_at": now,
        "available_at": now,
    }
    rows = [{"hook_id": hook_id, **row} for hook_id in hook_ids]
    connection.execute(upsert(connection, hook_deliveries).on_conflict_do_nothing(), rows)
