"""What people see of the fleet: its speed, its queue, its workers."""

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from db.identity import printable
from db.rows import FleetStatus


def fleet_tables(fleet: FleetStatus) -> list[RenderableType]:
    """Speed and queue, failures by code, and the workers."""
    parts: list[RenderableType] = [Text(fleet_line(fleet), style="bold")]
    if fleet.failures:
        said = ", ".join(f"{n} {code}" for code, n in sorted(fleet.failures.items()))
        parts.append(Text(f"failed in the fleet: {said}"))
    kinds = {worker.kind for worker in fleet.workers}
    for kind in sorted({"worker", "scheduler"} - kinds):
        parts.append(Text(f"no {kind} has shown itself in the last minute", style="yellow"))
    if fleet.workers:
        parts.append(_workers(fleet))
    return parts


def fleet_line(fleet: FleetStatus) -> str:
    """Speed, queue and the time that is left, in one line."""
    left = "?" if fleet.eta_seconds is None else rough(fleet.eta_seconds)
    queue = f"queue: {fleet.queue_videos} videos, {rough(fleet.queue_seconds)} of video"
    speed = f"{fleet.videos_per_hour:.0f} videos/h, {rough(fleet.video_seconds_per_hour)} of video/h"
    running = f"{fleet.jobs.get('running', 0)} jobs running"
    return f"{queue}; {running}; {speed}; time left: {left if fleet.queue_videos else '-'}"


def rough(seconds: float) -> str:
    """A length of time in its largest unit, like 12.5 h."""
    for name, length in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} s"


def _workers(fleet: FleetStatus) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", "host", "pid", "device", "state"):
        table.add_column(name)
    for name in ("running", "slots", "spans", "of video", "seen"):
        table.add_column(name, justify="right")
    for worker in fleet.workers:
        counts = (str(worker.running), str(worker.slots), str(worker.spans_done), rough(worker.seconds_done))
        row = (
            worker.kind,
            worker.host,
            str(worker.pid),
            worker.device or "",
            worker.state,
            *(counts if worker.kind == "worker" else ("",) * len(counts)),
            f"{worker.seen_seconds_ago:.0f} s ago",
        )
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
