"""Batches filled across all windows, spans and videos in flight, for one resident copy of a model.

A batch leaves when it is full, when somebody waits for one of its rows, or when its first row has waited
`latency_seconds`. Readers ask for their rows long after they have submitted them, so that batches are mostly full, and
yet nobody waits for company; the latency only keeps rows of a slow source from lying there unanswered. The queue is
bounded: readers that are faster than the model wait.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from db.errors import Internal, Interrupted, OutOfMemory

Row = tuple[npt.NDArray[np.generic], ...]
Rows = npt.NDArray[np.float32]
Predict = Callable[..., Rows]

WORTH_DOUBLING = 0.9  # of the time a row took before: what a batch twice as large has to save
TRIALS = 3  # of a batch size; the fastest counts, and the first one warms up


class Answer(Future[Rows]):
    """A row's probabilities, (8,) float32. Whoever asks for them sends the row's batch off, full or not."""

    def __init__(self, hurry: Callable[[], None]) -> None:
        super().__init__()
        self._hurry = hurry

    def result(self, timeout: float | None = None) -> Rows:
        """The row; errors as those of `Future.result`."""
        if not self.done():
            self._hurry()
        return super().result(timeout)


@dataclass(frozen=True)
class _Waiting:
    """A row in the queue: its number, what it holds, whom it is for and when it came, by the monotonic clock."""

    number: int
    row: Row
    answer: Answer
    since: float


class Batcher:
    """Runs `predict` on batches of rows that many threads submit.

    Args:
        predict: takes stacked arrays, one for each element of a row, and returns (n, 8) float32.
        batch_size: rows in a full batch. It is halved each time that a batch does not fit into memory.
        latency_seconds: how long the first row of a batch waits for company, if nobody asks for it.
        multiple: a batch that leaves early is filled up to a multiple of so many rows, at most to a full one, so that
            `predict` sees few shapes: only one, if this is `batch_size`. The last row is repeated, which is valid
            input whatever the model; the answers to the copies are dropped.
        observe: is told how many rows each batch has, copies not counted.
    """

    def __init__(
        self,
        predict: Predict,
        batch_size: int,
        latency_seconds: float = 10.0,
        *,
        multiple: int = 1,
        observe: Callable[[float], object] = lambda n_rows: None,
    ) -> None:
        self._predict = predict
        self.batch_size = batch_size
        self._room = 4 * batch_size
        self._multiple = multiple
        self._observe = observe
        self._latency_seconds = latency_seconds
        self._changed = threading.Condition()  # guards what follows
        self._queue: deque[_Waiting] = deque()
        self._submitted = 0
        self._awaited = -1  # the last row that somebody waits for
        self._closed = False
        self._stopped = threading.Event()
        self.answered_at = 0.0  # by the monotonic clock
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, *row: npt.NDArray[np.generic]) -> Answer:
        """Queue one row (its arrays without the batch axis); the future gives its (8,) float32 probabilities."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._queue) < self._room)
            number = self._submitted
            answer = Answer(lambda: self._hurry(number))
            self._queue.append(_Waiting(number, row, answer, time.monotonic()))
            self._submitted += 1
            if len(self._queue) in (1, self.batch_size):
                self._changed.notify_all()
        return answer

    def _hurry(self, number: int) -> None:
        with self._changed:
            self._awaited = max(self._awaited, number)
            self._changed.notify_all()

    def stop(self) -> None:
        """Answer no more rows: those that wait, and those that come, fail. A batch under way is finished."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            self._answer(batch)

    def _next(self) -> list[_Waiting]:
        """The next batch, once it is due; none when it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            while self._queue and not self._due():
                self._changed.wait(self._queue[0].since + self._latency_seconds - time.monotonic())
            batch = [self._queue.popleft() for _ in range(min(self.batch_size, len(self._queue)))]
            self._changed.notify_all()
            return batch

    def _due(self) -> bool:
        first = self._queue[0]
        return (
            len(self._queue) >= self.batch_size
            or first.number <= self._awaited
            or self._closed
            or self._stopped.is_set()
            or time.monotonic() >= first.since + self._latency_seconds
        )

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        try:
            if self._stopped.is_set():
                raise Interrupted("stopped on request")
            rows = self._judged([waiting.row for waiting in batch])
        except Exception as error:  # noqa: BLE001 - whoever waits for a row gets the error, whatever it is
            for waiting in batch:
                waiting.answer.set_exception(error)
            return
        for waiting, probabilities in zip(batch, rows, strict=True):
            waiting.answer.set_result(probabilities)

    def _judged(self, rows: list[Row]) -> Rows:
        """The model's answers, in halves if the rows do not fit into memory together.

        Raises:
            OutOfMemory: not even one does.
        """
        asked = self._filled(len(rows))
        try:
            return self._asked(rows)
        except OutOfMemory:
            if asked == 1:
                raise
        # Not within the `except`: the error holds on to what did not fit.
        size = self.batch_size = min(self.batch_size, -(-asked // 2))
        return np.concatenate([self._judged(rows[start : start + size]) for start in range(0, len(rows), size)])

    def _filled(self, n_rows: int) -> int:
        """How many rows a batch of so many has once it is filled up."""
        return max(n_rows, min(self.batch_size, -(-n_rows // self._multiple) * self._multiple))

    def _asked(self, rows: list[Row]) -> Rows:
        given = rows + rows[-1:] * (self._filled(len(rows)) - len(rows))
        answers = self._predict(*(np.stack(column) for column in zip(*given, strict=True)))
        if len(answers) != len(given):
            raise Internal(f"a model answered {len(given)} rows with {len(answers)}")
        self.answered_at = time.monotonic()
        self._observe(len(rows))
        return answers[: len(rows)]


def find_batch_size(predict: Predict, row: Row, least: int, most: int) -> int:
    """The batch size from which on doubling saves no more time, or which is the last that fits into memory.

    Args:
        predict: as `Batcher` takes it.
        row: an example.
        least, most: the sizes to try first and last; `least` is not tested for fitting.
    """
    size, before = least, _seconds_a_row(predict, row, least)
    while 2 * size <= most:
        taken = _seconds_a_row(predict, row, 2 * size)
        if taken > WORTH_DOUBLING * before:
            break
        size, before = 2 * size, taken
    return size


def _seconds_a_row(predict: Predict, row: Row, n_rows: int) -> float:
    """How long a row takes in a batch of so many; for ever if they do not fit."""
    batch = [np.stack([array] * n_rows) for array in row]
    taken = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        try:
            predict(*batch)
        except OutOfMemory:
            return float("inf")
        taken.append(time.perf_counter() - started)
    return min(taken) / n_rows
