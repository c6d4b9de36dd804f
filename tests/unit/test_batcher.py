"""Batches: who gets which row, and what happens to those that wait when it is over."""

import threading

import numpy as np
import pytest

from db.errors import Internal, Interrupted
from worker.batcher import Batcher


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

    with Batcher(predict, batch_size=4, latency_seconds=0.2, pad=True) as batcher:
        futures = [batcher.submit(np.array(n), np.array(n * 10)) for n in range(6)]
        assert [future.result()[0] for future in futures] == [11 * n for n in range(6)]
    assert seen == [[0, 1, 2, 3], [4, 5, 5, 5]]


def test_without_padding_a_batch_that_leaves_early_has_only_its_own_rows():
    sizes = []

    def predict(numbers):
        sizes.append(len(numbers))
        return np.zeros((len(numbers), 8), np.float32)

    with Batcher(predict, batch_size=4) as batcher:
        batcher.submit(np.array(1)).result()
    assert sizes == [1]


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("n_answers", [1, 5])
def test_a_model_must_answer_every_row(pad, n_answers):
    with Batcher(
        lambda numbers: np.zeros((n_answers, 8), np.float32), batch_size=4, latency_seconds=0.2, pad=pad
    ) as batcher:
        futures = [batcher.submit(np.array(n)) for n in range(3)]
        for future in futures:
            with pytest.raises(Internal, match=f"{4 if pad else 3} rows with {n_answers}"):
                future.result()
