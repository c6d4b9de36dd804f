"""Spans in flight share one copy of the model: its batches are filled from all of them, and each gets its own rows."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from db.rows import SpanClaim
from models.expression import ExpressionModel
from models.presets import COMPACT
from worker import recognizers
from worker.protocol import End, Picture
from worker.recipe import Recipe
from worker.recognizers import CPU_SHAPES, FACE_BATCH, Recognizers
from worker.span import SpanRun

N_SPANS = 4
N_PICTURES = FACE_BATCH // N_SPANS  # of each: together one full batch
SPAN_WINDOWS = 600


RECIPE = Recipe(replace(COMPACT, temporal=None))  # a window's row is the mean of its faces' rows


class Network:
    """Stands where the face network stands: a crop shows who sent it, and the answer says so. The first one waits."""

    def __init__(self) -> None:
        self.n_loaded, self.batches = 0, []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def load(self, folder, *, device, dtype):
        self.n_loaded += 1
        return self

    def predict(self, crops):
        self.batches.append(crops[:, 0, 0].tolist())
        self.begun.set()
        assert self.go_on.wait(30)
        return np.eye(8, dtype=np.float32)[crops[:, 0, 0]]


def claim(index):
    first = index * SPAN_WINDOWS
    return SpanClaim(
        annotation_id=1, span_index=index, first_window=first, last_window=first + 2, start_seconds=float(first),
        end_seconds=None, owner="test", epoch=1, attempts=1, windows_done=0,
    )  # fmt: skip


def events(index, all_read):
    for n in range(N_PICTURES):
        t_seconds = index * SPAN_WINDOWS + n / 5
        crop = np.full((48, 48), index, np.uint8)
        yield Picture(round(t_seconds * 5), t_seconds, t_seconds, "face", 1, crop=crop)
    all_read.wait(30)
    yield End(None, None, None)


@pytest.mark.parametrize(("device", "n_padding"), [("cpu", FACE_BATCH // CPU_SHAPES - 1), ("cuda", FACE_BATCH - 1)])
def test_a_batch_is_filled_from_all_spans_in_flight(monkeypatch, device, n_padding):
    network, all_read = Network(), threading.Barrier(N_SPANS + 1)
    monkeypatch.setattr(ExpressionModel, "load", network.load)
    monkeypatch.setattr(recognizers, "pick_device", lambda asked: device)
    monkeypatch.setattr(recognizers, "find_batch_size", lambda *_: FACE_BATCH)

    def annotate(index):
        run = SpanRun(claim(index), RECIPE, models, has_audio=False, has_video=True)
        return [row for rows in run.rows(events(index, all_read)) for row in rows]

    with Recognizers(RECIPE, device) as models, ThreadPoolExecutor(N_SPANS) as pool:
        stranger = models.submit_face(np.full((48, 48), 7, np.uint8))  # keeps the network busy, so that rows gather
        assert network.begun.wait(30)
        spans = [pool.submit(annotate, index) for index in range(N_SPANS)]
        all_read.wait(30)
        network.go_on.set()
        found = [span.result(30) for span in spans]
    assert stranger.result().argmax() == 7
    assert network.batches[0] == [7] * (1 + n_padding)
    assert sorted(network.batches[1]) == sorted([*range(N_SPANS)] * N_PICTURES)
    assert len(network.batches) == 2
    assert network.n_loaded == 1
    for index, rows in enumerate(found):
        assert [row[0] for row in rows] == [index * SPAN_WINDOWS, index * SPAN_WINDOWS + 1]
        assert all(row[4] == "ok" and np.argmax(row[-8:]) == index and row[-8:][index] == 1 for row in rows)


def test_two_threads_that_ask_first_load_one_copy(monkeypatch):
    network, together = Network(), threading.Barrier(8)
    network.go_on.set()
    monkeypatch.setattr(ExpressionModel, "load", network.load)

    def ask(index):
        together.wait(30)
        return models.submit_face(np.full((48, 48), index, np.uint8)).result(30).argmax()

    with Recognizers(Recipe(), "cpu") as models, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [*range(8)]
    assert network.n_loaded == 1
