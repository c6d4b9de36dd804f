"""A pipeline whose detectors and models answer at once: what is left is reading, windows, rows and who does what."""

import hashlib
import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from tests.clips import BoardWatcher
from worker.decoder_video import Sight
from worker.reader import ReaderPool
from worker.recipe import Gates, Recipe
from worker.windows import WindowPlan

GATES = Gates(speech_probability=0.05)  # `tests.clips.LoudListener` says how loud it is


def recipe(span_seconds: int = 4) -> Recipe:
    """A recipe that finds speech and faces in the clips that `tests.clips` writes."""
    return Recipe(plan=WindowPlan(span_ms=1000 * span_seconds), gates=GATES)


class InstantModels:
    """Stands where `Recognizers` stands: each row's answer depends on its bytes alone, and is there at once."""

    device, moved_at = "cpu", 0.0

    def __init__(self, *_: Any) -> None:
        self.n_rows = 0

    def prepare(self) -> None:
        """Nothing is to be loaded."""

    def stop(self) -> None:
        """Nothing is under way."""

    def provenance(self) -> dict[str, Any]:
        """None that differs."""
        return {}

    def submit_audio(self, *row: np.ndarray) -> "Future[np.ndarray]":
        """Probabilities (8,) float32."""
        self.n_rows += 1
        seed = int.from_bytes(hashlib.sha256(b"".join(array.tobytes() for array in row)).digest()[:8], "big")
        probabilities = np.random.default_rng(seed).dirichlet(np.ones(8)).astype(np.float32)
        future: Future[np.ndarray] = Future()
        future.set_result(probabilities)
        return future

    submit_face = submit_clip = submit_audio

    def pool(self, rows: np.ndarray) -> np.ndarray:
        """The mean of the faces' rows."""
        return np.asarray(rows.mean(axis=0), np.float32)

    def __exit__(self, *_: object) -> None:
        pass


class SlowWatcher(BoardWatcher):
    """Sees boards, twenty in a second."""

    def look(
        self, picture: np.ndarray, crop_pixels: int = 48, crop_colour: bool = False, *, anew: bool = True
    ) -> Sight:
        """Take a while."""
        time.sleep(0.05)
        return super().look(picture)


def install(monkeypatch: pytest.MonkeyPatch, watcher: str = "tests.clips:BoardWatcher") -> None:
    """Let every `worker.pipeline.Pipeline` that is made from now on be like this."""
    options = {"watcher": watcher, "listener": "tests.clips:LoudListener"}
    monkeypatch.setattr("worker.pipeline.Recognizers", InstantModels)
    monkeypatch.setattr("worker.pipeline.ReaderPool", lambda **_: ReaderPool(**options))
