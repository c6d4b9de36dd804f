"""Batches filled across all windows, spans and videos in flight, for one resident copy of a model.

A batch leaves when it is full or when its first row has waited `latency_seconds`, so that a lone short video does not
wait. The queue is bounded: readers that are faster than the model wait.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from db.errors import Internal, Interrupted

Row = tuple[npt.NDArray[np.generic], ...]
Rows = npt.NDArray[np.float32]


class Batcher:
    """Runs `predict` on batches of rows that many threads submit.

    Args:
        predict: takes stacked arrays, one for each element of a row, and returns (n, 8) float32.
        batch_size: rows in a full batch.
        latency_seconds: how long the first row of a batch waits for company.
        pad: whether a batch that leaves early is filled up, so that `predict` sees one shape only. The last row is
            repeated, which is valid input whatever the model; the answers to the copies are dropped.
        observe: is told how many rows each batch has, copies not counted.
    """

    def __init__(
        self,
        predict: Callable[..., Rows],
        batch_size: int,
        latency_seconds: float = 0.02,
        *,
        pad: bool = False,
        observe: Callable[[float], object] = lambda n_rows: None,
    ) -> None:
        self._predict = predict
        self._batch_size = batch_size
        self._pad = pad
        self._observe = observe
        self._latency_seconds = latency_seconds
        self._queue: queue.Queue[tuple[Row, Future[Rows]] | None] = queue.Queue(maxsize=4 * batch_size)
        self._stopped = threading.Event()
        self.answered_at = 0.0  # by the monotonic clock
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, *row: npt.NDArray[np.generic]) -> "Future[Rows]":
        """Queue one row (its arrays without the batch axis); the future gives its (8,) float32 probabilities."""
        future: Future[Rows] = Future()
        self._queue.put((row, future))
        return future

    def stop(self) -> None:
        """Answer no more rows: those that wait, and those that come, fail. A batch under way is finished."""
        self._stopped.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = self._fill(first)
            self._answer(batch)
            if last:
                return

    def _fill(self, first: tuple[Row, Future[Rows]]) -> tuple[list[tuple[Row, Future[Rows]]], bool]:
        batch = [first]
        deadline = time.monotonic() + self._latency_seconds
        while len(batch) < self._batch_size:
            try:
                item = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    def _answer(self, batch: list[tuple[Row, Future[Rows]]]) -> None:
        try:
            if self._stopped.is_set():
                raise Interrupted("stopped on request")
            given = [row for row, _ in batch]
            if self._pad:
                given += given[-1:] * (self._batch_size - len(batch))
            rows = self._predict(*(np.stack(column) for column in zip(*given, strict=True)))
            if len(rows) != len(given):
                raise Internal(f"a model answered {len(given)} rows with {len(rows)}")
        except Exception as error:  # noqa: BLE001 - whoever waits for a row gets the error, whatever it is
            for _, future in batch:
                future.set_exception(error)
            return
        self.answered_at = time.monotonic()
        self._observe(len(batch))
        for (_, future), probabilities in zip(batch, rows[: len(batch)], strict=True):
            future.set_result(probabilities)
