"""Batches: who gets which row, and what happens to those that wait when it is over."""

import threading
import time
from itertools import chain

import numpy as np
import pytest

from db.errors import Internal, Interrupted, OutOfMemory
from worker.batcher import Batcher, find_batch_size


def test_everybody_gets_the_row_of_what_they_gave():
    sizes = []

    def predict(numbers, others):
        sizes.append(len(numbers))
        return np.stack([numbers + others] * 8, axis=1).astype(np.float32)

    with Batcher(predict, batch_size=4) as batcher:
        futures = [batcher.submit(np.array(n), np.array(n * 10)) for n in range(10)]
        assert [future.result()[0] for future in futures] == [11 * n for n in range(10)]
    assert sum(sizes) == 10
    assert max(sizes) <= 4


def test_a_failure_reaches_those_of_its_batch_and_the_next_one_goes_on():
    def predict(numbers):
        if (numbers < 0).any():
            raise ValueError("negative")
        return np.zeros((len(numbers), 8), np.float32)

    with Batcher(predict, batch_size=1) as batcher:
        bad, good = batcher.submit(np.array(-1)), batcher.submit(np.array(1))
        with pytest.raises(ValueError, match="negative"):
            bad.result()
        assert good.result().shape == (8,)


def test_after_a_stop_only_the_batch_under_way_is_finished():
    begun, go_on = threading.Event(), threading.Event()

    def predict(numbers):
        begun.set()
        assert go_on.wait(10)
        return np.zeros((len(numbers), 8), np.float32)

    with Batcher(predict, batch_size=2) as batcher:
        futures = [batcher.submit(np.array(n)) for n in range(6)]
        assert begun.wait(10)
        batcher.stop()
        go_on.set()
        futures.append(batcher.submit(np.array(7)))
        assert futures[0].result().shape == (8,)
        for future in futures[2:]:
            with pytest.raises(Interrupted):
                future.result(timeout=10)


def test_padding_gives_the_model_one_shape_and_is_answered_to_nobody():
    seen = []

    def predict(numbers, others):
        seen.append(numbers.tolist())
        return np.stack([numbers + others] * 8, axis=1).astype(np.float32)

    with Batcher(predict, batch_size=4, latency_seconds=60, multiple=4) as batcher:
        futures = [batcher.submit(np.array(n), np.array(n * 10)) for n in range(6)]
        assert [future.result()[0] for future in futures] == [11 * n for n in range(6)]
    assert seen == [[0, 1, 2, 3], [4, 5, 5, 5]]


@pytest.mark.parametrize(("n_rows", "filled"), [(1, 4), (4, 4), (5, 8), (9, 10), (10, 10)])
def test_a_batch_that_leaves_early_is_filled_up_to_a_multiple_and_at_most_to_a_full_one(n_rows, filled):
    sizes = []

    def predict(numbers):
        sizes.append(len(numbers))
        return np.zeros((len(numbers), 8), np.float32)

    with Batcher(predict, batch_size=10, latency_seconds=60, multiple=4) as batcher:
        futures = [batcher.submit(np.array(n)) for n in range(n_rows)]
        assert [future.result(timeout=10).shape for future in futures] == [(8,)] * n_rows
    assert sizes == [filled]


def test_without_padding_a_batch_that_leaves_early_has_only_its_own_rows():
    sizes = []

    def predict(numbers):
        sizes.append(len(numbers))
        return np.zeros((len(numbers), 8), np.float32)

    with Batcher(predict, batch_size=4) as batcher:
        batcher.submit(np.array(1)).result()
    assert sizes == [1]


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("n_answers", [1, 5])
def test_a_model_must_answer_every_row(multiple, n_answers):
    with Batcher(
        lambda numbers: np.zeros((n_answers, 8), np.float32), batch_size=4, latency_seconds=60, multiple=multiple
    ) as batcher:
        futures = [batcher.submit(np.array(n)) for n in range(3)]
        for future in futures:
            with pytest.raises(Internal, match=f"{max(3, multiple)} rows with {n_answers}"):
                future.result()


class Model:
    """Answers each row with its number, takes notes of the batches, and fits `room` rows into its memory at most."""

    def __init__(self, room=1000):
        self.room, self.batches = room, []

    def __call__(self, numbers):
        if len(numbers) > self.room:
            raise OutOfMemory(f"{len(numbers)} rows")
        self.batches.append(numbers.tolist())
        return np.repeat(numbers[:, None], 8, axis=1).astype(np.float32)


def test_rows_that_nobody_asks_for_wait_until_their_batch_is_full():
    model = Model()
    with Batcher(model, batch_size=4, latency_seconds=60) as batcher:
        futures = []
        for number in range(8):
            futures.append(batcher.submit(np.array(number)))
            time.sleep(0.01)
        assert [future.result(timeout=10)[0] for future in futures] == [*range(8)]
    assert model.batches == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_row_that_somebody_asks_for_leaves_at_once_with_those_that_are_there():
    model = Model()
    with Batcher(model, batch_size=4, latency_seconds=60) as batcher:
        futures = [batcher.submit(np.array(number)) for number in range(3)]
        assert futures[1].result(timeout=10)[0] == 1
        assert futures[2].done()
        assert futures[0].result()[0] == 0
        later = batcher.submit(np.array(3))
        time.sleep(0.05)
        assert not later.done()  # what was asked for before hurries nobody now
    assert later.result()[0] == 3
    assert model.batches == [[0, 1, 2], [3]]


def test_a_row_behind_a_full_batch_that_somebody_asks_for_does_not_wait_either():
    model = Model()
    with Batcher(model, batch_size=2, latency_seconds=60) as batcher:
        futures = [batcher.submit(np.array(number)) for number in range(5)]
        assert futures[4].result(timeout=10)[0] == 4
    assert model.batches == [[0, 1], [2, 3], [4]]


def test_a_row_that_nobody_asks_for_leaves_after_the_latency():
    with Batcher(Model(), batch_size=4, latency_seconds=0.05) as batcher:
        future = batcher.submit(np.array(1))
        deadline = time.monotonic() + 10
        while not future.done():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_reader_that_is_faster_than_the_model_waits():
    begun, go_on = threading.Event(), threading.Event()

    def predict(numbers):
        begun.set()
        assert go_on.wait(10)
        return np.zeros((len(numbers), 8), np.float32)

    submitted = []
    with Batcher(predict, batch_size=2) as batcher:
        reader = threading.Thread(target=lambda: [submitted.append(batcher.submit(np.array(n))) for n in range(20)])
        reader.start()
        assert begun.wait(10)
        time.sleep(0.1)
        assert len(submitted) == 2 + 4 * 2
        go_on.set()
        reader.join(10)
        assert len(submitted) == 20
    assert all(future.done() for future in submitted)


@pytest.mark.parametrize("multiple", [1, 2, 8])
@pytest.mark.parametrize("room", [1, 2, 3, 5])
def test_a_batch_that_does_not_fit_into_memory_is_done_in_halves(room, multiple):
    model = Model(room)
    with Batcher(model, batch_size=8, latency_seconds=60, multiple=multiple) as batcher:
        futures = [batcher.submit(np.array(number)) for number in range(21)]
        assert [future.result(timeout=10)[0] for future in futures] == [*range(21)]
        assert batcher.batch_size == {1: 1, 2: 2, 3: 2, 5: 4}[room]
        assert set(chain(*model.batches)) == {*range(21)}


@pytest.mark.parametrize("multiple", [1, 2, 4])
def test_only_a_row_that_does_not_fit_by_itself_runs_out_of_memory(multiple):
    def predict(numbers):
        if len(numbers) > 1 or 13 in numbers:
            raise OutOfMemory("planted")
        return np.zeros((len(numbers), 8), np.float32)

    with Batcher(predict, batch_size=4, latency_seconds=60, multiple=multiple) as batcher:
        with pytest.raises(OutOfMemory, match="planted"):
            batcher.submit(np.array(13)).result(timeout=10)
        assert batcher.submit(np.array(1)).result(timeout=10).shape == (8,)


@pytest.mark.parametrize(
    ("room", "overhead", "found"),
    [(1000, 1000, 64), (16, 1000, 16), (1000, 0, 4), (4, 1000, 4), (1000, 3, 16)],
    ids=["the largest", "what fits", "the first", "nothing larger fits", "as long as it saves time"],
)
def test_the_batch_size_is_found(monkeypatch, room, overhead, found):
    clock = [0.0]
    monkeypatch.setattr("worker.batcher.time.perf_counter", lambda: clock[0])

    def predict(numbers, others):
        if len(numbers) > room:
            raise OutOfMemory("planted")
        assert numbers.shape == others.shape[:1]
        clock[0] += overhead + len(numbers)
        return np.zeros((len(numbers), 8), np.float32)

    assert find_batch_size(predict, (np.array(1), np.zeros(3, np.float32)), least=4, most=64) == found
