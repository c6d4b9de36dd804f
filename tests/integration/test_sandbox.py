"""What a decoding child that a file has taken over can do: a hook in a real child tries it, and says what came of it.

Where a kernel lacks a layer these tests are missing something, which fails them where CI is set.
"""

import json
import mmap
import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from db import errors
from tests.clips import Pictures, Track, board_reader, read, steady, write
from tests.database import missing
from tests.sandboxed import MEMORY_BYTES, TRIED
from worker import seccomp
from worker.memory import lendable_memory
from worker.protocol import ReadRequest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have none of it")

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module", autouse=True)
def _layers():
    """All layers are there, as a process of its own finds them."""
    ran = subprocess.run([sys.executable, "-m", "worker.sandbox"], capture_output=True, check=True)
    lacking = {name: why for name, why in json.loads(ran.stdout).items() if why is not None}
    if lacking:
        missing(f"the kernel lacks parts of the sandbox: {lacking}")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("clip") / "a.mp4", Pictures(steady(1)), [Track(seconds=1.0)])


@pytest.fixture(scope="module")
def came_of_it(clip) -> dict[str, object]:
    with (
        board_reader(watcher="tests.sandboxed:TryingWatcher", memory_bytes=MEMORY_BYTES) as reader,
        pytest.raises(errors.Internal) as caught,
    ):
        read(reader, clip)
    said = str(caught.value)
    return json.loads(said[said.index("RuntimeError: {") + len("RuntimeError: ") :])


@pytest.mark.parametrize("name", TRIED)
def test_what_a_child_that_is_taken_over_can_do(came_of_it, name):
    expected = TRIED[name][1]
    assert came_of_it[name] == (expected.__name__ if isinstance(expected, type) else expected)


def read_noting_children(reader, path, children):
    with path.open("rb") as file:
        reader.probe(file.fileno(), path.name)
        children.append(reader.child_pid)
        list(reader.read(file.fileno(), path.name, ReadRequest()))


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_every_thread_of_a_child_is_confined(clip):
    with board_reader(threads=3) as reader:
        read(reader, clip)
        tasks = [int(task.name) for task in Path(f"/proc/{reader.child_pid}/task").iterdir()]
        assert tasks
        for task in tasks:
            status = status_of(task)
            assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")


def test_no_core_file_and_no_other_process_shows_what_was_decoded():
    """The system call that says so is refused, so here the filter is left out."""
    script = (
        "import ctypes, resource\n"
        "from worker import sandbox\n"
        "sandbox.seccomp.install = lambda **_: None\n"
        "sandbox.begin(1 << 30); sandbox.confine(sandbox.Limits())\n"
        "print(ctypes.CDLL(None).prctl(3), *resource.getrlimit(resource.RLIMIT_CORE))\n"  # PR_GET_DUMPABLE
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert ran.stdout.split() == ["0", "0", "0"]


def test_the_environment_is_what_is_passed_on_and_no_more(clip, monkeypatch):
    from worker.child import _environment

    for name in ("AWS_SECRET_ACCESS_KEY", "MOODREEL_DB", "PGPASSWORD", "HF_TOKEN", "LD_PRELOAD", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "hush")
    assert "hush" not in _environment().values()


@pytest.mark.parametrize("watcher", ["Spinning", "Stubborn", "Sleeping"])
def test_a_child_that_does_not_get_on_is_ended_and_not_waited_for(clip, watcher):
    limits = {"cpu_seconds": 1.0} if watcher == "Spinning" else {"silence_seconds": 2.0, "cpu_seconds": 1.0}
    with board_reader(watcher=f"tests.sandboxed:{watcher}Watcher", **limits) as reader:
        children = []
        with pytest.raises(errors.DecoderTimeout, match=r"a\.mp4") as caught:
            read_noting_children(reader, clip, children)
        assert ("computed for 1 seconds" in str(caught.value)) == (watcher == "Spinning")
        assert children
        assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_child_that_talks_but_does_not_get_on_is_ended(clip):
    with board_reader(watcher="tests.sandboxed:SlowWatcher", stall_seconds=0.2) as reader:
        with pytest.raises(errors.DecoderTimeout, match="without getting on by 10 seconds"):
            read(reader, clip)
        assert reader.child_pid is None


def test_time_is_counted_anew_as_the_recording_gets_on(tmp_path):
    """Six seconds are spent on a minute, of which no ten seconds take two."""
    path = write(tmp_path / "long.mp4", Pictures(steady(60.0, 5), rate_hz=Fraction(5), time_base=Fraction(1, 5)))
    with board_reader(watcher="tests.sandboxed:SlowWatcher", stall_seconds=4.0) as reader:
        began = time.monotonic()
        reading = read(reader, path, frame_rate_hz=1.0)
        took = time.monotonic() - began
    assert len(reading.pictures) == 60
    assert took > 4.0


def test_a_child_dies_with_its_parent_though_not_with_the_thread_that_asked_for_it(clip, tmp_path):
    script = (
        "import os, sys, threading, time\n"
        "from tests.clips import board_reader\n"
        "from worker.protocol import ReadRequest\n"
        "reader = board_reader(watcher='tests.sandboxed:SleepingWatcher')\n"
        "file = open(sys.argv[1], 'rb')\n"
        "first = threading.Thread(target=lambda: reader.probe(file.fileno(), 'a.mp4'))\n"
        "first.start(); first.join()\n"
        "pid = reader.child_pid\n"
        "def read(): list(reader.read(file.fileno(), 'a.mp4', ReadRequest()))\n"
        "second = threading.Thread(target=read, daemon=True)\n"
        "second.start(); time.sleep(1.0)\n"
        "print(pid, reader.child_pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(clip)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        before, after = map(int, parent.stdout.readline().split())
        assert before == after, "it died with the thread that asked for it"
        assert Path(f"/proc/{after}").exists()
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    until = time.monotonic() + 30
    while Path(f"/proc/{after}").exists() and status_of(after)["State"][0] != "Z":
        assert time.monotonic() < until, "it outlives its parent"
        time.sleep(0.05)


def test_what_is_lent_is_written_by_nobody_else():
    memory, descriptor = lendable_memory(100_000)
    with pytest.raises(OSError, match="not permitted"):
        os.write(descriptor, b"x")
    with pytest.raises(PermissionError):
        mmap.mmap(descriptor, 0)
    again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)  # as a process of the same user may
    with pytest.raises(PermissionError):
        mmap.mmap(again, 0)
    memory[0:1] = b"y"
    assert os.pread(descriptor, 1, 0) == b"y"
    os.close(again)
    os.close(descriptor)


def test_a_system_call_of_another_kind_of_machine_is_refused():
    """32-bit calls have other numbers: what is allowed by its number would be another call."""
    steps = seccomp.program("x86_64")
    instructions = [steps[k : k + 8] for k in range(0, len(steps), 8)]
    assert len(instructions) < 4096  # that the kernel takes
    check = np.frombuffer(b"".join(instructions[:3]), np.dtype("u2, u1, u1, u4"))
    assert [int(step[3]) for step in check] == [4, 0xC000003E, 0x00050001]


def test_there_is_a_filter_for_arm_too():
    assert len(seccomp.program("aarch64")) > 100
    with pytest.raises(NotImplementedError):
        seccomp.program("riscv64")


def test_a_layer_that_the_system_lacks_is_told_and_the_others_hold(monkeypatch):
    script = (
        "import json, sys\n"
        "from worker import sandbox\n"
        "def lacking(**_): raise NotImplementedError('no list of system calls for pdp11')\n"
        "sandbox.seccomp.install = lacking\n"
        "sandbox.main()\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    said = json.loads(ran.stdout)
    assert said["seccomp"] == "no list of system calls for pdp11"
    assert not any(why for name, why in said.items() if name != "seccomp")


@pytest.mark.parametrize("other", ["landlock", "seccomp"])
def test_each_of_the_two_keeps_files_closed_without_the_other(other):
    place = "sandbox.seccomp.install" if other == "seccomp" else "sandbox._landlock"
    script = (
        "from worker import sandbox\n"
        "def lacking(**_): raise NotImplementedError\n"
        f"{place} = lacking\n"
        "sandbox.begin(1 << 30); sandbox.confine(sandbox.Limits())\n"
        "try: open('/etc/hostname')\n"
        "except PermissionError: print('refused')\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert ran.stdout.strip() == "refused"


def test_a_child_for_a_gpus_decoder_starts_and_traces_nothing():
    script = (
        "import os, socket\n"
        "from worker import sandbox\n"
        "said = sandbox.begin(1 << 30) | sandbox.confine(sandbox.Limits(), device=True)\n"
        "assert said['landlock'] and not said['seccomp'], said\n"
        "open('/proc/self/status').close()\n"
        "unconnected = socket.socket()\n"
        "for attempt, *how in ((os.execv, '/bin/true', ['true']), (unconnected.connect, ('127.0.0.1', 9))):\n"
        "    try: attempt(*how)\n"
        "    except PermissionError: print('refused')\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert ran.stdout.split() == ["refused", "refused"]
