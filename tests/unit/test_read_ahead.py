"""Bytes come as they are in the object, little is fetched that nobody reads, and memory is bounded."""

import itertools
import os
import random
import threading
import time

import pytest

from worker import read_ahead
from worker.read_ahead import MAX_AHEAD_BYTES, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, Abandoned, ReadAhead

MB = 1 << 20


class Store:
    """An object that takes a while to answer, and counts what is taken from it."""

    def __init__(self, size_bytes, latency_seconds=0.0, chunk_bytes=1 << 18):
        self.content = random.Random(5).randbytes(1_000_003) * -(-size_bytes // 1_000_003)  # no block is like another
        self.content = self.content[:size_bytes]
        self.size_bytes, self.latency_seconds, self.chunk_bytes = size_bytes, latency_seconds, chunk_bytes
        self.ranges, self.fails, self.lock = [], None, threading.Lock()

    def fetch(self, offset, length):
        with self.lock:
            self.ranges.append((offset, length))
        time.sleep(self.latency_seconds)
        if self.fails:
            raise self.fails
        for start in range(offset, offset + length, self.chunk_bytes):
            yield self.content[start : min(start + self.chunk_bytes, offset + length)]

    def opened(self):
        return ReadAhead(self.fetch, self.size_bytes)

    @property
    def fetched_bytes(self):
        return sum(length for _, length in self.ranges)


def read(content, offset, length):
    got = b""
    while len(got) < length:
        place, there = content.read(offset + len(got))
        if not there:
            break
        got += os.pread(content.descriptor, min(length - len(got), there), place)
    return got


def are_apart(ranges):
    """Whether no byte lies in two of them."""
    ranges = sorted(ranges)
    return all(start + length <= following for (start, length), (following, _) in itertools.pairwise(ranges))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_read_in_whatever_order_is_what_is_there(seed):
    rng, store = random.Random(seed), Store(3 * MB + 17)
    with store.opened() as content:
        for _ in range(200):
            offset, length = rng.randrange(store.size_bytes + 100), rng.randrange(1, 400_000)
            assert read(content, offset, length) == store.content[offset : min(offset + length, store.size_bytes)]


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_read_is_what_is_there_however_little_memory_there_is(seed, monkeypatch):
    for name, kb in (("MIN_BLOCK", 8), ("MAX_BLOCK", 32), ("MAX_AHEAD", 64), ("MEMORY", 64), ("MIN_GIVEN", 2)):
        monkeypatch.setattr(read_ahead, f"{name}_BYTES", kb << 10)
    rng, store = random.Random(seed), Store(2 * MB + 17, latency_seconds=0.001, chunk_bytes=1 << 11)
    offsets = [rng.randrange(store.size_bytes) for _ in range(3)]
    with store.opened() as content:
        assert os.fstat(content.descriptor).st_size == 64 << 10
        for _ in range(300):
            number = rng.randrange(3)  # read in turn, each for a while, and then elsewhere
            length = rng.randrange(1, 1 << 13)
            expected = store.content[offsets[number] : offsets[number] + length]
            assert read(content, offsets[number], length) == expected
            offsets[number] += length
            if offsets[number] >= store.size_bytes or rng.random() < 0.1:
                offsets[number] = rng.randrange(store.size_bytes)
    assert store.fetched_bytes > 5 * (64 << 10)


def test_what_was_read_stays_in_its_place_until_the_next_read(monkeypatch):
    monkeypatch.setattr(read_ahead, "MEMORY_BYTES", 3 * MIN_BLOCK_BYTES)
    store = Store(30 * MB)
    with store.opened() as content:
        for start in (0, 10 * MB, 20 * MB):
            for offset in (start, start + (1 << 16)):  # the second one has a block fetched ahead, if there is room
                place, length = content.read(offset)
                time.sleep(0.1)
                assert os.pread(content.descriptor, length, place) == store.content[offset : offset + length]


def test_a_read_waits_where_all_memory_is_being_filled(monkeypatch):
    monkeypatch.setattr(read_ahead, "MEMORY_BYTES", 2 * MIN_BLOCK_BYTES)
    goes_on, content = threading.Event(), bytes(range(256)) * 4096

    def fetch(offset, length):
        yield content[offset : offset + 1]
        goes_on.wait(10)
        yield content[offset + 1 : offset + length]

    with ReadAhead(fetch, len(content)) as distant:
        assert distant.read(0)[1] == distant.read(2 * MIN_BLOCK_BYTES)[1] == 1
        threading.Timer(0.2, goes_on.set).start()
        assert read(distant, 3 * MIN_BLOCK_BYTES + 7, 1) == b"\7"
        assert goes_on.is_set()


def test_reading_from_end_to_end_fetches_everything_once_in_few_large_blocks():
    store = Store(100 * MB, latency_seconds=0.01)
    with store.opened() as content:
        for offset in range(0, store.size_bytes, MB):
            assert read(content, offset, MB) == store.content[offset : offset + MB]
    assert store.fetched_bytes == store.size_bytes
    assert max(length for _, length in store.ranges) == MAX_BLOCK_BYTES
    assert len(store.ranges) < 60


def test_who_reads_slower_than_the_store_answers_is_only_a_little_ahead():
    store = Store(100 * MB, latency_seconds=0.005)
    with store.opened() as content:
        for offset in range(20 * MB, 26 * MB, 1 << 18):
            read(content, offset, 1 << 18)
            time.sleep(0.03)
    assert store.fetched_bytes < 6 * MB + 2 * MB


def test_a_long_run_costs_few_requests_though_its_reader_never_waits():
    store = Store(100 * MB)
    with store.opened() as content:
        for offset in range(0, 60 * MB, 1 << 18):
            read(content, offset, 1 << 18)
            time.sleep(0.003)
    assert store.fetched_bytes < 60 * MB + 2 * MAX_BLOCK_BYTES
    assert len(store.ranges) < 120


def test_a_look_at_one_place_fetches_little():
    store = Store(100 * MB)
    with store.opened() as content:
        read(content, 0, 65_536)
        read(content, store.size_bytes - 65_536, 65_536)
    assert store.fetched_bytes <= MIN_BLOCK_BYTES + 65_536


@pytest.mark.parametrize("latency_seconds", [0.002, 0.05])
@pytest.mark.parametrize("n_streams", [2, 3, 4])
def test_streams_that_lie_far_apart_are_each_fetched_once(n_streams, latency_seconds):
    length = 60 * MB // n_streams
    apart = length + MAX_AHEAD_BYTES  # no stream's window reaches into the next one's
    store = Store(n_streams * apart, latency_seconds)
    with store.opened() as content:
        for step in range(0, length, 1 << 17):
            for start in range(0, n_streams * apart, apart):
                offset = start + step
                assert read(content, offset, 1 << 17) == store.content[offset : offset + (1 << 17)]
    assert store.fetched_bytes <= 60 * MB + MAX_AHEAD_BYTES + n_streams * MAX_BLOCK_BYTES
    assert are_apart(store.ranges)


def test_going_back_a_little_fetches_nothing_anew():
    store = Store(100 * MB)
    with store.opened() as content:
        read(content, 0, 12 * MB)
        assert read(content, 2 * MB, MB) == store.content[2 * MB : 3 * MB]
    assert are_apart(store.ranges)


def test_what_keeps_the_store_from_answering_is_raised_and_the_next_read_tries_again():
    store = Store(MB)
    store.fails = ConnectionError("gone")
    with store.opened() as content:
        with pytest.raises(ConnectionError):
            content.read(0)
        store.fails = None
        assert read(content, 0, 10) == store.content[:10]


def test_a_read_that_waits_is_told_when_nobody_wants_it_any_more():
    store = Store(MB, latency_seconds=2.5)
    given_up = threading.Event()
    with store.opened() as content:
        threading.Timer(0.05, lambda: (given_up.set(), content.wake())).start()
        started = time.monotonic()
        with pytest.raises(Abandoned):
            content.read(0, given_up.is_set)
        assert time.monotonic() - started < 2.0


def test_closing_ends_a_read_and_the_threads():
    before = threading.active_count()
    store = Store(50 * MB, latency_seconds=0.3)
    content = store.opened()
    threading.Timer(0.05, content.close).start()
    with pytest.raises(Abandoned):
        content.read(0)
    until = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.02)
    assert threading.active_count() <= before
