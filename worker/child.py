"""One decoding process, seen from its parent: started, limited, asked, killed. `worker.reader` says what for."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import cache

from worker.channel import Channel, socket_pair
from worker.limits import ADVANCE_SECONDS, Limits
from worker.ring import Ring, shared_memory

END_SECONDS = 5.0  # for a process that has hung up, or was killed, to be gone

_PASSED_ON = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR")  # of the environment; credentials are not
_SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Large blocks go back to the system when they are freed (glibc): an mp4's index takes kilobytes for each second of
# video while the file is open, and two and a half times as much would be kept. Smaller blocks, pictures', are kept.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 21), "MALLOC_TRIM_THRESHOLD_": str(1 << 22)}
_LAST_WORDS_BYTES = 600


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return kept | _SINGLE_THREADED | _ALLOCATOR | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@cache
def _starter() -> ThreadPoolExecutor:
    """The one thread that starts children: they are killed when the thread ends that started them, so it stays."""
    return ThreadPoolExecutor(1, "start-children")


class Child:
    """One decoding process, the socket to it and the memory that is shared with it.

    Args:
        arguments: of `worker.decoder`, without what is passed on and the limits.
        limits: on what it may cost.
        ring_bytes: of shared memory.
    """

    def __init__(self, arguments: list[str], limits: Limits, ring_bytes: int) -> None:
        self._limits = limits
        ours, theirs = socket_pair()
        ours.settimeout(limits.silence_seconds)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        passed_on, memory = {"--socket": theirs.fileno()}, shared_memory(ring_bytes)
        with theirs, ExitStack() as started:
            if memory is not None:
                started.callback(os.close, memory)
                passed_on["--ring"] = memory
            self.channel = Channel(ours, None if memory is None else Ring(memory))
            named = [part for option, descriptor in passed_on.items() for part in (option, str(descriptor))]
            named += ["--parent", str(os.getpid()), "--limits", json.dumps(asdict(limits))]
            self._process = (
                _starter()
                .submit(
                    subprocess.Popen,
                    [sys.executable, "-P", "-m", "worker.decoder", *named, *arguments],
                    pass_fds=list(passed_on.values()),
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._stderr,
                )
                .result()
            )
        self._advanced_seconds = self._waited_seconds = 0.0

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def begin_job(self) -> None:
        """Count its time anew, from the start of a recording."""
        self._advanced_seconds = 0.0
        self._renew()

    def advanced(self, to_seconds: float) -> None:
        """It has come so far in the recording: by `ADVANCE_SECONDS` more, and its time is counted anew."""
        if to_seconds - self._advanced_seconds >= ADVANCE_SECONDS:
            self._advanced_seconds = to_seconds
            self._renew()

    def waited(self, seconds: float) -> None:
        """It was waited for.

        Raises:
            TimeoutError: for too long, since it last got on.
        """
        self._waited_seconds += seconds
        if self.is_stalled:
            raise TimeoutError

    @property
    def is_stalled(self) -> bool:
        """Whether it was waited for too long since it last got on."""
        return self._waited_seconds > self._limits.stall_seconds

    def _renew(self) -> None:
        """Grant it CPU seconds from now on. It cannot grant itself any."""
        self._waited_seconds = 0.0
        if hasattr(resource, "prlimit"):
            with suppress(ProcessLookupError):  # that it is gone, the channel says
                used = time.clock_gettime(((~self.pid) << 3) | 2)  # the clock of a process's CPU time, on Linux
                hard = resource.prlimit(self.pid, resource.RLIMIT_CPU)[1]
                soft = math.ceil(used + self._limits.cpu_seconds)
                soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
                resource.prlimit(self.pid, resource.RLIMIT_CPU, (soft, hard))

    def kill(self) -> None:
        """End the process at once and forget it. One that hangs in the kernel, on a dead disk, is not waited for."""
        self.channel.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self._stderr.close()

    @property
    def used_up_its_time(self) -> bool:
        """Whether the process was ended for having computed too long."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(END_SECONDS) == -signal.SIGXCPU
        return False

    def end(self) -> str:
        """How a process that has hung up ended, in words."""
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "it hung up"
        if code < 0:
            return f"it was ended by {signal.Signals(-code).name}"
        return f"it exited with status {code}{self._last_words()}"

    def _last_words(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _LAST_WORDS_BYTES))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1].strip()})" if lines else ""
