"""Messages between child and parent: whichever way their arrays travel, they arrive whole, and lies are refused."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.processes import ROOT
from worker.channel import MIN_RING_BYTES, Channel
from worker.protocol import Picture, ProtocolError, Sound
from worker.ring import Ring, shared_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory can be sealed on Linux only")

RING_BYTES = 50_001


class NotedRing(Ring):
    """Notes where each array came to lie; None: nowhere, there was no room."""

    def __init__(self, descriptor):
        super().__init__(descriptor)
        self.places = []

    def put(self, content):
        self.places.append(super().put(content))
        return self.places[-1]


@contextmanager
def both_ends(ring_bytes=RING_BYTES, child_timeout_seconds=10.0):
    memory = shared_memory(ring_bytes)
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(child_timeout_seconds)
    ring = NotedRing(memory)
    parent, child = Channel(ours, Ring(memory)), Channel(theirs, ring)
    os.close(memory)
    with closing(parent), closing(child):
        yield child, parent, ring


def sound(number, n_samples):
    return Sound(number, np.random.default_rng(number).random(n_samples, np.float32))


def picture(number, crop_pixels, frame_pixels):
    pixels = np.random.default_rng(number)
    crop, frame = (pixels.integers(0, 255, (side, side, 3), np.uint8) for side in (crop_pixels, frame_pixels))
    return Picture(number, 0.0, 0.0, "face", 1, crop=crop, frame=frame)


def assert_same(one, other):
    assert type(one) is type(other)
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            assert getattr(other, name).dtype == value.dtype
            np.testing.assert_array_equal(getattr(other, name), value)
        else:
            assert getattr(other, name) == value


def test_large_arrays_go_through_the_ring_and_small_ones_do_not():
    with both_ends() as (child, parent, ring):
        message = picture(1, crop_pixels=20, frame_pixels=100)
        child.send(message)
        assert_same(message, parent.receive())
        assert message.crop.nbytes < MIN_RING_BYTES
        assert ring.places == [0]


def test_a_full_ring_falls_back_to_the_socket_and_comes_back():
    with both_ends() as (child, parent, ring):
        messages = [sound(number, 5000) for number in range(5)]  # 20 kB each: two fit
        for message in messages[:4]:
            child.send(message)
        assert ring.places == [0, 20_000, None, None]
        for message in messages[:4]:
            assert_same(message, parent.receive())
        child.send(messages[4])
        assert_same(messages[4], parent.receive())
        assert ring.places[4:] == [40_000]  # and around the end


def test_what_never_fits_travels_over_the_socket():
    with both_ends(MIN_RING_BYTES) as (child, parent, ring):
        message = sound(1, MIN_RING_BYTES)
        child.send(message)
        assert_same(message, parent.receive())
        assert ring.places == [None]


def test_an_array_that_does_not_lie_in_one_piece():
    with both_ends() as (child, parent, ring):
        pixels = np.arange(3 * 100 * 100, dtype=np.uint8).reshape(100, 100, 3)[:, ::-1].swapaxes(0, 1)
        child.send(Picture(0, 0.0, 0.0, "no_face", frame=pixels))
        np.testing.assert_array_equal(parent.receive().frame, pixels)
        assert ring.places == [0]


def test_what_was_received_is_not_what_the_child_can_still_write_to():
    with both_ends(40_000) as (child, parent, _):
        first, second = sound(1, 10_000), sound(2, 10_000)
        child.send(first)
        received = parent.receive()
        child.send(second)  # over the same memory
        assert_same(first, received)
        assert_same(second, parent.receive())


def test_a_child_that_nobody_reads_waits():
    second, n_sent = sound(0, 16_000), 0
    with both_ends(ring_bytes=500_000, child_timeout_seconds=0.2) as (child, _, ring), suppress(TimeoutError):
        while n_sent < 1000:
            child.send(second)
            n_sent += 1
    assert 500_000 < n_sent * second.samples.nbytes < 2_000_000
    assert None in ring.places


messages = st.lists(
    st.one_of(
        st.builds(sound, st.integers(0, 99), st.integers(0, 20_000)),
        st.builds(picture, st.integers(0, 99), st.integers(1, 60), st.integers(1, 150)),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(messages, st.integers(1, 100_000))
def test_all_arrays_arrive_as_they_were_and_in_order(sent, ring_bytes):
    with both_ends(ring_bytes) as (child, parent, _):
        sending = threading.Thread(target=lambda: [child.send(message) for message in sent])
        sending.start()
        for message in sent:
            assert_same(message, parent.receive())
        sending.join()


LOAD = """
import socket, sys
from tests.unit.test_channel import load
from worker.channel import Channel
from worker.ring import Ring
channel = Channel(socket.socket(fileno=int(sys.argv[1])), Ring(int(sys.argv[2])))
for message in load():
    channel.send(message)
"""


def load():
    for number in range(3000):
        yield sound(number, int(np.random.default_rng(number + 10_000).integers(0, 15_000)))


def test_arrays_stay_whole_while_both_processes_are_busy():
    memory = shared_memory(RING_BYTES)
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    with closing(Channel(ours, Ring(memory))) as parent:
        with theirs:
            command = [sys.executable, "-c", LOAD, str(theirs.fileno()), str(memory)]
            child = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno(), memory])
        os.close(memory)
        for message in load():
            assert_same(message, parent.receive())
    assert child.wait(10) == 0


@contextmanager
def hostile(*descriptions, ring=True):
    """A parent whose child has sent sounds with these descriptions of their samples, and nothing else."""
    memory = shared_memory(RING_BYTES)
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    with closing(Channel(ours, Ring(memory) if ring else None)) as parent, theirs:
        os.close(memory)
        for description in descriptions:
            line = json.dumps({"kind": "Sound", "start_sample": 0, "arrays": {"samples": description}}).encode()
            theirs.sendall(len(line).to_bytes(4, "big") + line)
        yield parent


@pytest.mark.parametrize(
    "description",
    [
        ["float32", [1024], 4],
        ["float32", [1024], -1],
        ["float32", [1024], RING_BYTES],
        ["float32", [1024], 1 << 80],
        ["float32", [1024], "0"],
        ["float32", [1024], 0.5],
        ["float32", [1024], None],
        ["float32", [1024], [0]],
        ["float32", [1024], 0, 0],
        ["float32", [RING_BYTES // 4 + 1], 0],
        ["float32", [1 << 24], 0],
        ["float32", [1 << 62], 0],
        ["float32", [-1024], 0],
        ["uint8", [1024], 0],
        ["object", [1024], 0],
    ],
    ids=str,
)
def test_a_child_that_lies_about_the_ring_is_not_believed(description):
    with hostile(description) as parent, pytest.raises(ProtocolError):
        parent.receive()


def test_an_array_is_not_read_twice():
    with hostile(["float32", [1024], 0], ["float32", [1024], 0]) as parent:
        assert len(parent.receive().samples) == 1024
        with pytest.raises(ProtocolError):
            parent.receive()


def test_a_ring_that_is_not_there():
    with hostile(["float32", [1024], 0], ring=False) as parent, pytest.raises(ProtocolError):
        parent.receive()


def test_a_message_that_comes_byte_by_byte_is_not_waited_for():
    ours, theirs = socket.socketpair()
    ours.settimeout(0.3)
    over = threading.Event()

    def dribble():
        theirs.sendall((1000).to_bytes(4, "big"))
        while not over.wait(0.05):
            theirs.sendall(b" ")

    dribbling = threading.Thread(target=dribble)
    with ours, theirs:
        dribbling.start()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            Channel(ours).receive()
        over.set()
        dribbling.join()
    assert time.monotonic() - began < 20  # all of it would take fifty seconds
