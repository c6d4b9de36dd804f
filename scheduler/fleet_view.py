"""What people see of the fleet: its speed, its queue, its workers."""

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from db.identity import printable
from db.rows import FleetStatus


def fleet_tables(fleet: FleetStatus) -> list[RenderableType]:
    """Speed and queue, failures by code, and the workers."""
    parts: list[RenderableType] = [Text(part, style="bold") for part in _summary(fleet)]
    if fleet.failures:
        said = ", ".join(f"{n} {code}" for code, n in sorted(fleet.failures.items()))
        parts.append(Text(f"failed in the fleet: {said}"))
    kinds = {worker.kind for worker in fleet.workers}
    for kind in sorted({"worker", "scheduler"} - kinds):
        parts.append(Text(f"no {kind} has shown itself in the last minute", style="yellow"))
    if fleet.workers:
        parts.append(_workers(fleet))
    for state in sorted({worker.state for worker in fleet.workers if " " in worker.state}):
        parts.append(Text(printable(state), style="yellow"))
    return parts


def fleet_line(fleet: FleetStatus) -> str:
    """Queue, speed and the time that is left, in one line."""
    return "; ".join(_summary(fleet))


def _summary(fleet: FleetStatus) -> tuple[str, str]:
    known = fleet.queue_seconds and {worker.kind for worker in fleet.workers} == {"worker", "scheduler"}
    left = "unknown" if fleet.eta_seconds is None or not known else rough(fleet.eta_seconds)
    running = f"{fleet.jobs.get('running', 0)} jobs running"
    length = f"{rough(fleet.queue_seconds)} of video" if fleet.queue_seconds else "of unknown length"
    queue = f"queue: {fleet.queue_videos} videos{f', {length}' if fleet.queue_videos else ''}, {running}"
    speed = f"speed: {fleet.videos_per_hour:.0f} videos/h, {rough(fleet.video_seconds_per_hour)} of video/h"
    return queue, f"{speed}, time left: {left if fleet.queue_videos else '-'}"


def rough(seconds: float) -> str:
    """A length of time in its largest unit, like 12.5 h."""
    for name, length in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} s"


def _workers(fleet: FleetStatus) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", "host", "pid", "device"):
        table.add_column(name, no_wrap=True)
    for name in ("running", "slots", "spans", "video", "seen ago"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for worker in fleet.workers:
        counts = (str(worker.running), str(worker.slots), str(worker.spans_done), rough(worker.seconds_done))
        row = (
            worker.kind,
            worker.host,
            str(worker.pid),
            worker.device or "",
            *(counts if worker.kind == "worker" else ("",) * len(counts)),
            f"{worker.seen_seconds_ago:.0f} s",
            worker.state.partition(" ")[0].rstrip(":"),  # what more it says stands below
        )
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
