"""Batches: who gets which row, and what happens to those that wait when it is over."""

import threading

import numpy as np
import pytest

from db.errors import Interrupted
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
