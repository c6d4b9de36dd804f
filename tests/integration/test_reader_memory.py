"""The memory that a reader shares with its child: the same reading with any of it, and nothing is left of the dead."""

import contextlib
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from db import errors
from tests.clips import Pictures, Track, board_reader, read, steady, write
from worker.protocol import Picture, ReadRequest, Sound

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory can be sealed on Linux only")

RINGS = ":moodreel-ring"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write(tmp_path_factory.mktemp("clip") / "a.mp4", Pictures(steady(8)), [Track(seconds=8.0)])


def events(reader, path):
    with path.open("rb") as file:
        yield from reader.read(file.fileno(), path.name, ReadRequest(frame_pixels=224, frame_rate_hz=16.0))


def arrays(reader, path):
    found = [(type(e).__name__, value) for e in events(reader, path) for value in vars(e).values()]
    return [(name, value) for name, value in found if isinstance(value, np.ndarray)]


def rings_of(pid):
    """The inodes of the rings that a process has open."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            if RINGS in os.readlink(f"/proc/{pid}/fd/{name}"):
                found.add(os.stat(f"/proc/{pid}/fd/{name}").st_ino)
    return found


def held():
    """Descriptors and mapped rings of this process."""
    maps = Path("/proc/self/maps").read_text()
    return len(os.listdir("/proc/self/fd")), maps.count(RINGS)


def test_the_same_reading_with_a_ring_of_any_size(clip):
    with board_reader(ring_bytes=1) as reader:
        over_the_socket = arrays(reader, clip)
    assert {name for name, _ in over_the_socket} == {"Sound", "Voice", "Picture"}
    for ring_bytes in (100_000, 500_000, 1 << 22):
        with board_reader(ring_bytes=ring_bytes) as reader:
            for (kind, mine), (expected_kind, expected) in zip(arrays(reader, clip), over_the_socket, strict=True):
                assert kind == expected_kind
                np.testing.assert_array_equal(mine, expected)


def test_a_ring_does_not_count_as_memory_that_the_child_allocates(clip):
    with board_reader(memory_bytes=160 << 20, ring_bytes=1 << 30) as reader:
        assert len(read(reader, clip).pictures) == 40


def test_no_child_has_the_ring_of_another(clip):
    with board_reader() as one, board_reader() as other:
        read(one, clip)
        read(other, clip)
        mine, theirs = rings_of(one.child_pid), rings_of(other.child_pid)
        assert (len(mine), len(theirs)) == (1, 1)
        assert rings_of(os.getpid()) == mine | theirs
        assert not mine & theirs


def test_a_child_that_is_killed_midway_leaves_its_reader_usable(clip):
    with board_reader() as reader:
        expected = arrays(reader, clip)
        before = held()
        for n_events in (1, 20, 60, 100):
            reading = events(reader, clip)
            seen = [next(reading) for _ in range(n_events)]
            os.kill(reader.child_pid, signal.SIGKILL)
            with pytest.raises(errors.DecoderCrashed, match="SIGKILL"):
                seen += list(reading)
            assert any(isinstance(event, Sound | Picture) for event in seen)
            for (_, mine), (_, theirs) in zip(arrays(reader, clip), expected, strict=True):
                np.testing.assert_array_equal(mine, theirs)
        assert held() == before
        assert before[1] == 1


def test_nothing_is_left_of_children_that_were_replaced(clip):
    before = held()
    with board_reader(silence_seconds=0.001) as reader, clip.open("rb") as file:
        for _ in range(200):
            with pytest.raises(errors.DecoderTimeout):
                reader.probe(file.fileno(), clip.name)
    assert held() == before
    assert before[1] == 0
