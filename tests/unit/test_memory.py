"""Memory that is lent can be written here and read elsewhere, and nobody makes it smaller; what is freed goes back."""

import ctypes
import mmap
import os
import subprocess
import sys

import pytest

from worker.memory import give_back_freed_memory, lendable_memory, sealed_memory


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_what_is_written_is_read_through_the_descriptor(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    memory, descriptor = lendable_memory(100_000)
    memory[50_000:50_005] = b"hello"
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as elsewhere:
        os.close(descriptor)
        assert len(elsewhere) == 100_000
        assert elsewhere[50_000:50_005] == b"hello"


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_whoever_has_the_descriptor_cannot_change_the_size(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    _, descriptor = lendable_memory(100_000)
    for size in (0, 200_000):
        with pytest.raises(OSError, match=r"not permitted|Invalid argument"):
            os.ftruncate(descriptor, size)
    os.close(descriptor)


def test_elsewhere_than_on_linux_memory_cannot_be_sealed(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sealed_memory("ring", 1000) is None


HOLES = """
import ctypes
from pathlib import Path
from worker.memory import give_back_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def used_kb():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])

blocks = [libc.malloc(60_000) for _ in range(2000)]
for block in blocks:
    ctypes.memset(block, 1, 60_000)
for number, block in enumerate(blocks):
    if number % 20:  # what stays keeps the heap from shrinking
        libc.free(block)
before = used_kb()
give_back_freed_memory()
print(before - used_kb())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another allocator than glibc's")
def test_memory_that_was_freed_between_what_stays_is_given_back():
    given_back_kb = int(subprocess.check_output([sys.executable, "-c", HOLES], text=True))
    assert given_back_kb > 80_000  # of 114,000


def test_another_allocator_gives_nothing_back_and_does_not_mind(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    give_back_freed_memory()
