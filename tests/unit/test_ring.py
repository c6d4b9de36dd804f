"""The ring of shared memory: nothing lost, nothing mixed up, and no harm by a child that lies or scribbles."""

import contextlib
import os
import subprocess
import sys
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.protocol import ProtocolError
from worker.ring import Ring, shared_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory can be sealed on Linux only")


@contextlib.contextmanager
def both_ends(capacity_bytes):
    memory = shared_memory(capacity_bytes)
    child, parent = Ring(memory), Ring(memory)
    os.close(memory)
    with contextlib.closing(child), contextlib.closing(parent):
        yield child, parent


def put(ring, content):
    return ring.put(memoryview(content))


def test_bytes_go_around_the_end():
    with both_ends(10) as (child, parent):
        assert put(child, b"abcdefg") == 0
        assert parent.take(0, 7) == b"abcdefg"
        assert put(child, b"hijklmnopq") == 7  # three at the end, seven at the start
        assert parent.take(7, 10) == b"hijklmnopq"
        assert put(child, b"") == 17


def test_a_full_ring_takes_nothing_until_something_was_taken():
    with both_ends(10) as (child, parent):
        assert put(child, b"abcdef") == 0
        assert put(child, b"ghijk") is None
        assert put(child, b"ghij") == 6
        assert put(child, b"k") is None
        assert parent.take(0, 6) == b"abcdef"
        assert put(child, b"klmnop") == 10
        assert put(child, b"q") is None
        assert parent.take(6, 4) + parent.take(10, 6) == b"ghijklmnop"


def test_what_is_longer_than_the_ring_never_fits():
    with both_ends(10) as (child, _):
        assert put(child, b"abcdefghijk") is None


@given(st.integers(1, 50), st.lists(st.one_of(st.none(), st.binary(max_size=60)), max_size=100))
def test_first_in_first_out_whatever_comes(capacity_bytes, steps):
    waiting, position = deque(), 0
    with both_ends(capacity_bytes) as (child, parent):
        for content in steps:
            if content is not None:
                fits = sum(len(other) for _, other in waiting) + len(content) <= capacity_bytes
                assert put(child, content) == (position if fits else None)
                if fits:
                    waiting.append((position, content))
                    position += len(content)
            elif waiting:
                where, expected = waiting.popleft()
                assert parent.take(where, len(expected)) == expected


@pytest.mark.parametrize(
    ("position", "length"),
    [
        (0, 4),
        (3, 4),
        (5, 4),
        (-1, 4),
        (14, 4),
        (1 << 70, 4),
        ("4", 4),
        (None, 4),
        ([], 4),
        (4, 11),
        (4, 1 << 40),
        (4, -1),
    ],
)
def test_a_lie_about_where_or_how_many_is_not_believed(position, length):
    with both_ends(10) as (child, parent):
        put(child, b"abcdefgh")
        parent.take(0, 4)
        with pytest.raises(ProtocolError):
            parent.take(position, length)
        assert parent.take(4, 4) == b"efgh"


HOSTILE = """
import ctypes, fcntl, mmap, os, sys
descriptor = int(sys.argv[1])
size = os.fstat(descriptor).st_size
memory = mmap.mmap(descriptor, size)
attempts = {
    "shrink": lambda: os.ftruncate(descriptor, 0),
    "grow": lambda: os.ftruncate(descriptor, 1 << 40),
    "append": lambda: os.pwrite(descriptor, b"x", size),
    "seal": lambda: fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except PermissionError:
        print(name, "refused")
memory[:] = b"\\xff" * size
fallocate = ctypes.CDLL(None, use_errno=True).fallocate
fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
KEEP_SIZE, PUNCH_HOLE = 1, 2
if fallocate(descriptor, KEEP_SIZE | PUNCH_HOLE, 4096, size - 4096) == 0:
    print("hole punched")
os.kill(os.getpid(), 9)
"""


def test_nothing_that_a_child_does_to_the_memory_disturbs_the_parent():
    size = 1 << 16
    memory = shared_memory(size)
    with contextlib.closing(Ring(memory)) as parent:
        command = [sys.executable, "-c", HOSTILE, str(memory)]
        ran = subprocess.run(command, pass_fds=[memory], stdout=subprocess.PIPE, text=True, check=False)
        os.close(memory)
        assert ran.returncode == -9
        assert ran.stdout.splitlines() == [
            "shrink refused", "grow refused", "append refused", "seal refused", "hole punched",
        ]  # fmt: skip
        everything = parent.take(0, size)
        assert set(everything[:4000]) == {0xFF}
        assert set(everything[4096:]) == {0}
        assert len(parent.take(size, 10)) == 10
