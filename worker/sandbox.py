"""What the decoding child gives up, so that a file that takes it over gains nothing. Imports no media library.

`begin` comes before anything is loaded, `confine` when all is loaded and before the first file. Each layer holds by
itself, none needs privileges, and where a platform lacks one the others stand: `python -m worker.sandbox` says in JSON
what there is, and so does `moodreel doctor`.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from worker import seccomp
from worker.limits import MAX_DESCRIPTORS, MAX_FILE_BYTES, Limits

# What each layer keeps from happening.
LAYERS: Mapping[str, str] = {
    "limits": "limits on memory, address space, open files and written bytes",
    "cpu": "a limit on CPU seconds, which the parent renews as the child gets on",
    "no_new_privs": "no program that it might start has more rights than it has",
    "not_dumpable": "no core file holds what was decoded, and no process of the same user looks into it",
    "dies_with_parent": "it is killed when the process that started it ends, however that ends",
    "seccomp": "it opens, connects, starts and traces nothing: the system calls for that are refused",
    "landlock": "the same for files and TCP once more, by the kernel's access control",
}
LENT_BYTES = 1 << 29  # of address space, beside what it may allocate: objects' bytes, and what allocators set aside

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT, _LANDLOCK_VERSION = 444, 446, 1
# By the version of Landlock: the kinds of access to files that it knows, a bit each.
_FILE_ACCESS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP, _TCP_VERSION = 0b11, 4  # to bind and to connect
_SCOPED, _SCOPED_VERSION = 0b11, 6  # abstract sockets and signals, to processes outside


def _libc() -> ctypes.CDLL:
    if sys.platform != "linux":
        raise NotImplementedError("only Linux has it")
    return ctypes.CDLL(None, use_errno=True)


def _require(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _prctl(option: int, value: int) -> None:
    _require(_libc().prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def _landlock() -> None:
    """Deny every access to files by name, to TCP, and to processes outside. Of this thread, and those it starts."""
    libc = _libc()
    version = _require(libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(_LANDLOCK_VERSION)))
    files = max(bits for least, bits in _FILE_ACCESS.items() if least <= version)
    denied = [files, _TCP * (version >= _TCP_VERSION), _SCOPED * (version >= _SCOPED_VERSION)]
    handled = (ctypes.c_uint64 * 3)(*denied)
    length = 8 * (1 + (version >= _TCP_VERSION) + (version >= _SCOPED_VERSION))
    rules = _require(libc.syscall(_LANDLOCK_CREATE, ctypes.byref(handled), ctypes.c_size_t(length), ctypes.c_uint(0)))
    try:
        _require(libc.syscall(_LANDLOCK_RESTRICT, ctypes.c_int(rules), ctypes.c_uint(0)))
    finally:
        os.close(rules)


def _die_with(parent: int | None) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)  # it ended before


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _limit_all(limits: Limits, device: bool) -> None:
    if not device:  # drivers of GPUs map more address space than there is memory
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        mapped = pages * resource.getpagesize()
        _limit(resource.RLIMIT_AS, mapped + limits.memory_bytes + LENT_BYTES)
    _limit(resource.RLIMIT_FSIZE, MAX_FILE_BYTES)
    _limit(resource.RLIMIT_NOFILE, MAX_DESCRIPTORS)


def _need_prlimit() -> None:
    if not hasattr(resource, "prlimit"):
        raise OSError("no process can limit another here")


def _tried(layers: Mapping[str, Callable[[], None]]) -> dict[str, str | None]:
    missing: dict[str, str | None] = {}
    for name, take in layers.items():
        try:
            take()
            missing[name] = None
        except (OSError, NotImplementedError, AttributeError, ValueError) as error:
            missing[name] = getattr(error, "strerror", None) or str(error)
    return missing


def begin(memory_bytes: int, parent: int | None = None) -> dict[str, str | None]:
    """Give up what is needed at no time.

    Args:
        memory_bytes: that this process may allocate.
        parent: the process that must be there still; None: whoever it is.

    Returns:
        For each layer why it cannot be had; None if it holds.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_DATA, memory_bytes)
    return _tried(
        {
            "no_new_privs": partial(_prctl, _PR_SET_NO_NEW_PRIVS, 1),
            "dies_with_parent": partial(_die_with, parent),
        }
    )


def confine(limits: Limits, *, device: bool = False) -> dict[str, str | None]:
    """Give up all but computing, and reading and writing what is open or is handed over.

    Args:
        limits: on memory.
        device: whether a GPU's driver is needed, which opens devices as it goes: then address space is not limited,
            files can be opened, and system calls are refused only where they start, trace or connect.

    Returns:
        As `begin` does.
    """
    layers: dict[str, Callable[[], None]] = {
        "limits": partial(_limit_all, limits, device),
        "cpu": _need_prlimit,
        "not_dumpable": partial(_prctl, _PR_SET_DUMPABLE, 0),
        "landlock": _refused_for_a_device if device else _landlock,
        "seccomp": partial(seccomp.install, device=device),  # last, since it refuses to set the others up
    }
    return _tried(layers)


def _refused_for_a_device() -> None:
    raise OSError("not with a GPU's decoder, whose driver opens files")


def main() -> None:
    """Confine this process, and say what holds."""
    limits = Limits()
    missing = begin(limits.memory_bytes) | confine(limits)
    json.dump({name: missing[name] for name in LAYERS}, sys.stdout)


if __name__ == "__main__":
    main()
