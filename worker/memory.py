"""Memory that two processes share, by a descriptor of it, and the allocator's. Knows nothing of what is in it.

The size of sealed memory never changes, whoever has the descriptor: so reading it raises no SIGBUS. What is lent for
reading is written by nobody but who made it.
"""

import ctypes
import fcntl
import mmap
import os
import sys
import tempfile

F_SEAL_FUTURE_WRITE = 0x10  # of Linux 5.1: nobody writes any more but through what is mapped already


def sealed_memory(name: str, size_bytes: int) -> int | None:
    """A descriptor of new memory; None where memory cannot be sealed, which is all but Linux.

    It is counted neither by RLIMIT_DATA nor against the size of /dev/shm, and takes room only where it is written.

    Args:
        name: as `/proc/PID/maps` shows it, after `moodreel-`.
        size_bytes: of the memory.
    """
    descriptor = _new_memory(name, size_bytes)
    if descriptor is not None:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def _new_memory(name: str, size_bytes: int) -> int | None:
    if sys.platform != "linux":
        return None
    descriptor = os.memfd_create(f"moodreel-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size_bytes)
    return descriptor


def lendable_memory(size_bytes: int) -> tuple[mmap.mmap, int]:
    """New memory, and a descriptor with which another process can read it but not write, the caller's to close.

    Where memory cannot be sealed it is a file that has no name any more.
    """
    descriptor = _new_memory("object", size_bytes)
    if descriptor is not None:
        memory = mmap.mmap(descriptor, size_bytes)
        size_seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        try:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, size_seals | F_SEAL_FUTURE_WRITE)
        except OSError:  # an older kernel: whoever has this descriptor cannot write, and the child can open no other
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, size_seals)
            written, descriptor = descriptor, os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
            os.close(written)
        return memory, descriptor
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(size_bytes)
        return mmap.mmap(file.fileno(), size_bytes), os.open(file.name, os.O_RDONLY | os.O_CLOEXEC)


def give_back_freed_memory() -> None:
    """Let the allocator give what was freed back to the system, wherever it lies (glibc; elsewhere nothing happens).

    Threads that each allocate and free for hours leave holes in their heaps, which glibc keeps: the process would grow
    with the length of what it reads, up to a bound.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
