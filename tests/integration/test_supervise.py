"""The supervising process: worker processes that die, fall silent, refuse, or are to stop."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker.supervise import EXIT_REFUSED, visible_gpus

# A worker process that says who it is and then does as its mood says.
CHILD = """
import json, os, signal, sys, time
options, (_, progress, _, number) = json.load(sys.stdin), sys.argv[1:5]
def note(what):
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(json.dumps([what, os.getpid(), number, gpu, options["slots"]]) + "\\n")
note("started")
mood = os.environ.get("MOOD")
if mood == "refuses":
    sys.exit(3)
signal.signal(signal.SIGTERM, signal.SIG_IGN if mood == "deaf" else lambda *_: (note("ended"), os._exit(0)))
while True:
    if mood != "silent":
        try:
            os.write(int(progress), b"!" if mood == "stalled" else b".")
        except BrokenPipeError:
            note("orphaned")
            os._exit(0)
    time.sleep(0.05)
"""
SUPERVISOR = """
import json, sys, worker.supervise as s
s.SERVE, s.MARGIN_SECONDS = (sys.argv[1],), 0.5
sys.exit(s.supervise(s.WorkOptions("sqlite:///x", "redis://:secret@h/0", **json.loads(sys.argv[2]))))
"""


class Bed:
    """A supervisor whose worker processes are played by a script."""

    def __init__(self, folder: Path) -> None:
        self.notes = folder / "notes"
        self._child = folder / "child.py"
        self._child.write_text(CHILD)
        self._processes: list[subprocess.Popen[bytes]] = []

    def supervise(self, mood: str = "", environment: dict[str, str] | None = None, **options: object):
        defaults = {"device": "cpu", "stall_seconds": 1.0, "grace_seconds": 0.5}
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(self._child), json.dumps(defaults | options)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "NOTES": str(self.notes), "MOOD": mood, **(environment or {})},
        )
        self._processes.append(process)
        return process

    def said(self, what: str) -> list[list]:
        """Notes of one kind, by whoever wrote them."""
        if not self.notes.exists():
            return []
        return [note for note in map(json.loads, self.notes.read_text().splitlines()) if note[0] == what]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for _, pid, *_ in self.said("started"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    made = Bed(tmp_path)
    yield made
    made.close()


def soon(condition: Callable[[], object], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_process_that_dies_is_replaced(bed):
    bed.supervise()
    soon(lambda: bed.said("started"))
    os.kill(bed.said("started")[0][1], signal.SIGKILL)
    soon(lambda: len(bed.said("started")) == 2)


@pytest.mark.parametrize("mood", ["silent", "stalled", ""])
def test_a_process_that_makes_no_progress_is_killed_and_replaced(bed, mood):
    bed.supervise(mood, stall_seconds=60.0 if mood == "stalled" else 1.0)
    soon(lambda: bed.said("started"))
    first = bed.said("started")[0][1]
    if not mood:
        os.kill(first, signal.SIGSTOP)  # it is there, but nothing comes of it
    soon(lambda: len(bed.said("started")) == 2)
    assert not is_there(first)


def test_a_process_that_gets_on_is_left_alone(bed):
    bed.supervise()
    soon(lambda: bed.said("started"))
    time.sleep(4.0)
    assert len(bed.said("started")) == 1


def test_what_refuses_is_not_started_again(bed):
    assert bed.supervise("refuses", processes=2).wait(20) == EXIT_REFUSED
    assert len(bed.said("started")) == 2


def test_sigterm_is_passed_on_and_waited_for(bed):
    process = bed.supervise(processes=2, grace_seconds=10.0)
    soon(lambda: len(bed.said("started")) == 2)
    process.terminate()
    assert process.wait(20) == 0
    assert len(bed.said("ended")) == 2


def test_what_does_not_end_in_time_is_killed(bed):
    process = bed.supervise("deaf")
    soon(lambda: bed.said("started"))
    process.terminate()
    assert process.wait(20) == 0
    assert not is_there(bed.said("started")[0][1])


def test_processes_do_not_outlive_their_supervisor(bed):
    process = bed.supervise()
    soon(lambda: bed.said("started"))
    process.kill()
    soon(lambda: bed.said("orphaned"))


def test_there_is_one_process_for_each_gpu_and_no_password_on_a_command_line(bed):
    bed.supervise(environment={"CUDA_VISIBLE_DEVICES": "4,7"}, device="auto")
    soon(lambda: len(bed.said("started")) == 2)
    assert sorted((number, gpu, slots) for _, _, number, gpu, slots in bed.said("started")) == [
        ("0", "4", 4),
        ("1", "7", 4),
    ]
    for _, pid, *_ in bed.said("started"):
        assert b"secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize(("named", "found"), [("", []), ("-1", []), ("2", ["2"]), ("0,GPU-8a", ["0", "GPU-8a"])])
def test_visible_gpus(monkeypatch, named, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == found
