"""Hooks that stand where a decoding child sees faces, and do what a file that has taken it over might.

They run after the child has given up what it does, in the midst of a file.
"""

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.clips import BoardWatcher
from worker import sandbox
from worker.limits import MAX_FILE_BYTES

MEMORY_BYTES = 400 << 20  # that the child may allocate


def _call(number: int, *arguments: object) -> None:
    """A system call of x86-64 or 64-bit ARM by its number, without the C library's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _connect() -> None:
    """Connect what is open already: it is no socket that could be, but the filter says so first."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(0, bytes(16), 16) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _write_much() -> None:
    for _ in range(2 * MAX_FILE_BYTES // 4096):
        os.write(2, bytes(4096))


def _open_many() -> None:
    opened: list[int] = []
    try:
        for _ in range(1000):
            opened.append(os.dup(2))
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _thread_of_its_own() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


# What is tried, and what must come of it: the number of an error, a class of them, or nothing.
TRIED: dict[str, tuple[Callable[[], object], object]] = {
    "open a file": (lambda: os.open("/etc/hostname", os.O_RDONLY), errno.EPERM),
    "open a file for writing": (lambda: os.open("/tmp/moodreel", os.O_WRONLY | os.O_CREAT), errno.EPERM),
    "list a folder": (lambda: os.listdir("/"), errno.EPERM),
    "read its parent's environment": (lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(), errno.EPERM),
    "open its file anew": (lambda: os.open("/proc/self/fd/0", os.O_RDWR), errno.EPERM),
    "delete a file": (lambda: os.unlink("/tmp/moodreel-is-not-there"), errno.EPERM),
    "make a socket": (lambda: socket.socket(socket.AF_INET), errno.EPERM),
    "make a local socket": (socket.socketpair, errno.EPERM),
    "connect": (_connect, errno.EPERM),
    "fork": (os.fork, errno.EPERM),
    "run a program": (lambda: os.execv("/bin/true", ["true"]), errno.EPERM),
    "start a program": (lambda: subprocess.run(["/bin/true"]), errno.EPERM),
    "kill its parent": (lambda: os.kill(os.getppid(), 0), errno.EPERM),
    "raise its limits": (
        lambda: resource.prlimit(0, resource.RLIMIT_CPU, (resource.RLIM_INFINITY,) * 2),
        errno.EPERM,
    ),
    "make memory that runs": (lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC), errno.EPERM),
    "make a file in memory": (lambda: os.memfd_create("x"), errno.EPERM),
    "see what it may not": (lambda: os.stat("/etc/hostname"), errno.EPERM),
    "set up io_uring": (lambda: _call(425, 1, None), errno.ENOSYS),
    "write much": (_write_much, errno.EFBIG),
    "open many": (_open_many, errno.EMFILE),
    "allocate much": (lambda: bytearray(MEMORY_BYTES), MemoryError),
    "map much that is shared": (lambda: mmap.mmap(-1, MEMORY_BYTES + sandbox.LENT_BYTES), errno.ENOMEM),
    "start a thread": (_thread_of_its_own, None),
    "look at its limits": (lambda: resource.getrlimit(resource.RLIMIT_CPU), None),
    "look at a file that is open": (lambda: os.fstat(0), None),
}


class TryingWatcher(BoardWatcher):
    """Tries everything at the first picture, and says of each in the child's last words what came of it."""

    def look(self, picture: Any, *_: Any, anew: bool = True) -> Any:
        """Try, tell, and end the child."""
        came_of_it = {}
        for name, (attempt, _expected) in TRIED.items():
            try:
                attempt()
                came_of_it[name] = None
            except OSError as error:
                came_of_it[name] = error.errno
            except Exception as error:  # noqa: BLE001 - it is told
                came_of_it[name] = type(error).__name__
        raise RuntimeError(json.dumps(came_of_it))


class SpinningWatcher(BoardWatcher):
    """Computes for ever."""

    def look(self, picture: Any, *_: Any, anew: bool = True) -> Any:
        """Spin."""
        while True:
            pass


class StubbornWatcher(BoardWatcher):
    """Computes for ever, and does not care that its time is up."""

    def look(self, picture: Any, *_: Any, anew: bool = True) -> Any:
        """Spin on."""
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        while True:
            pass


class SleepingWatcher(BoardWatcher):
    """Waits for something that never comes."""

    def look(self, picture: Any, *_: Any, anew: bool = True) -> Any:
        """Sleep."""
        time.sleep(3600)


class SlowWatcher(BoardWatcher):
    """Takes a while for each picture."""

    def look(self, picture: Any, *_: Any, anew: bool = True) -> Any:
        """Look after a while."""
        time.sleep(0.1)
        return super().look(picture, anew=anew)
