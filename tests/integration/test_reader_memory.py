"""The memory of children and of what a reader shares with them: it is bounded, and nothing is left of the dead."""

import contextlib
import os
import signal
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from db import errors
from tests.clips import INSPECTABLE, Pictures, Track, board_reader, read, steady, write
from worker.protocol import End, Picture, ReadRequest, Sound

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory can be sealed on Linux only")

RINGS = ":moodreel-ring"


@pytest.fixture(autouse=True)
def _inspectable(monkeypatch):
    monkeypatch.syspath_prepend(INSPECTABLE)


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


def long_file(path, n_packets):
    """An mp4 of silence, whose index is larger than all that is in it."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.rate, silence.pts, silence.time_base = 8000, 0, Fraction(1, 8000)
        content = bytes([*stream.encode(silence), *stream.encode(None)][-1])
        for number in range(n_packets):
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 8000), True
            packet.pts = packet.dts = 1024 * number
            packet.duration = 1024
            out.mux_one(packet)
    return path


def private_bytes(pid):
    (line,) = (line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if "Pss_Anon" in line)
    return int(line.split()[1]) * 1024


def test_a_long_file_takes_the_memory_of_its_index_and_gives_it_back(tmp_path):
    """Spans are read one after another, each from a file that is opened anew."""
    n_packets, found = 250_000, []
    short, long = long_file(tmp_path / "short.mp4", 100), long_file(tmp_path / "long.mp4", n_packets)
    with board_reader() as reader:
        for path in (short, long, long, long, short):
            with path.open("rb") as file:
                events = reader.read(file.fileno(), path.name, ReadRequest(end_seconds=4.0))
                next(events)
                found.append(private_bytes(reader.child_pid))
                assert isinstance(list(events)[-1], End)
    before, *meanwhile, after = found
    assert max(meanwhile) - before < 70 * n_packets, found  # an entry of FFmpeg's index has 24 bytes
    assert after - before < 6e6, found
