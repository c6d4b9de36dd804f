"""What a process and its children use, as Linux tells in /proc."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent.parent
POLL_SECONDS = 0.25
_TICKS_HZ = os.sysconf("SC_CLK_TCK")


class Failed(SystemExit):
    """Raised when a command that is measured fails; says its last words."""


def moodreel(*arguments: str | Path) -> list[str]:
    """The command that runs moodreel as it is here."""
    return [sys.executable, "-c", "from scheduler.cli import main; main()", *map(str, arguments)]


@dataclass(frozen=True)
class Usage:
    """What one command used.

    Attributes:
        wall_seconds, cpu_seconds: on the clock; on all cores together, children included.
        peak_bytes: the most memory at once, summed over the process tree: proportional set sizes, which count a page
            that n processes share as 1/n in each. Looked at every `POLL_SECONDS`.
        others_share: of the machine's CPU time meanwhile, what other processes used.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    others_share: float


def run(command: Sequence[str | Path]) -> Usage:
    """Run a command to its end.

    Raises:
        Failed: its exit status is not 0.
    """
    return run_and_listen(command)[0]


def run_and_listen(command: Sequence[str | Path]) -> tuple[Usage, dict[str, Any]]:
    """Run a command to its end; also the JSON object with which its output ends, {} without one.

    Raises:
        Failed: its exit status is not 0.
    """
    with (
        tempfile.TemporaryFile("w+", errors="replace") as said,
        tempfile.TemporaryFile("w+", errors="replace") as complained,
    ):
        started, busy = time.perf_counter(), busy_seconds()
        process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=said, stderr=complained)
        try:
            peak_bytes = _watch(process.pid)
        except BaseException:
            process.kill()
            raise
        _, status, used = os.wait4(process.pid, 0)
        wall, cpu = time.perf_counter() - started, used.ru_utime + used.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise Failed(f"{' '.join(map(str, command))} exited with status {process.returncode}: {_last(complained)}")
        others = max(0.0, busy_seconds() - busy - cpu) / (wall * (os.cpu_count() or 1))
        said.seek(0)
        return Usage(wall, cpu, peak_bytes, others), _object(said.read())


def _last(file: IO[str]) -> str:
    """A file's last line that is not empty."""
    file.seek(0)
    return next((line.strip() for line in reversed(file.readlines()) if line.strip()), "")


def _object(said: str) -> dict[str, Any]:
    _, brace, rest = f"\n{said}".rpartition("\n{")
    return dict(json.loads("{" + rest)) if brace else {}


def _watch(pid: int) -> int:
    """Wait until a process has ended; the most memory that its tree had."""
    started, peak_bytes = time.perf_counter(), 0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        peak_bytes = max(peak_bytes, sum(_pss_bytes(one) for one in tree(pid)))
        time.sleep(POLL_SECONDS if time.perf_counter() - started > 1 else 0.005)  # a short command is timed closely
    return peak_bytes


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in _text(task).split()]
    return found


def cpu_seconds(pid: int) -> float:
    """What a process has used on all cores so far, in user and system mode."""
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_HZ


def tree_cpu_seconds(pid: int) -> float:
    """What a process and its descendants have used so far, with those that have ended and were waited for."""
    fields = [_text(Path(f"/proc/{one}/stat")).rpartition(")")[2].split() for one in tree(pid)]
    return sum(int(ticks) for some in fields for ticks in some[11:15]) / _TICKS_HZ


def _pss_bytes(pid: int) -> int:
    lines = _text(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    names: tuple[str, ...] = ("Pss:",)
    if not lines:  # of decoding children it is told to root only; this is less by what they share
        lines, names = _text(Path(f"/proc/{pid}/status")).splitlines(), ("RssAnon:", "RssShmem:")
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))


def busy_seconds() -> float:
    """What all processes together have used since the machine started."""
    user, nice, system, _, _, interrupts, soft = map(int, _text(Path("/proc/stat")).split("\n")[0].split()[1:8])
    return (user + nice + system + interrupts + soft) / _TICKS_HZ


def _text(path: Path) -> str:
    """A file of /proc; empty if its process is gone."""
    try:
        return path.read_text()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return ""
