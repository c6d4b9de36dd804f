"""How the face models of the folds are made: a head on statistics of a window's frames.

Another recipe goes in its place: `models.training.evaluate` asks only what `FaceRecipe` says.

A frame is whatever describes one face: the class probabilities of some network, or those and its features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from models.taxonomy import N_EMOTIONS
from models.training.metrics import TINY
from models.training.protocols import refuse_shared_speakers

FloatArray = npt.NDArray[np.float32]

STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
INNER_FOLDS = 4
TEMPERATURES = np.geomspace(0.3, 3.0, 93)


@dataclass(frozen=True)
class Faces:
    """What is seen of one clip.

    Attributes:
        n_windows: how many windows the product cuts the clip into.
        windows: by window, (m, D) float32, one row for each face in it; only windows that show enough faces.
        speaker: whose face.
    """

    n_windows: int
    windows: Mapping[int, FloatArray]
    speaker: str


class FaceModel(Protocol):
    """A face model that was trained on some speakers; `accuracy` as for `models.training.voice_recipe.VoiceModel`."""

    accuracy: float

    def judge(self, faces: Sequence[Faces]) -> list[FloatArray]:
        """The rows of each clip's windows: (n, 8) each, NaN where there are too few faces."""
        ...


class FaceRecipe(Protocol):
    """How such models are made."""

    def train(self, faces: Sequence[Faces], emotions: npt.NDArray[np.int64]) -> FaceModel:
        """A model of some clips that show these emotions, calibrated on speakers among them only."""
        ...


def statistics(frames: FloatArray) -> FloatArray:
    """Mean and standard deviation over a window's frames: (m, D) to (2 D,)."""
    return np.concatenate([frames.mean(axis=0), frames.std(axis=0)])


class FrameStatistics:
    """Logistic regression on `statistics`; how strongly it is regularised and its temperature are those with the best
    likelihood on held-out speakers of those to train on.

    Args:
        strengths: what is tried, inverses of how strongly the weights are held down.
    """

    def __init__(self, strengths: Sequence[float] = STRENGTHS) -> None:
        self._strengths = list(strengths)

    def train(self, faces: Sequence[Faces], emotions: npt.NDArray[np.int64]) -> "StatisticsModel":
        of = np.array([k for k, clip in enumerate(faces) for _ in clip.windows])
        features = np.stack([statistics(frames) for clip in faces for frames in clip.windows.values()])
        targets, speakers = emotions[of], np.array([clip.speaker for clip in faces])[of]
        inner = GroupKFold(INNER_FOLDS)
        for train, test in inner.split(features, targets, speakers):
            refuse_shared_speakers(speakers[train], speakers[test])
        network = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        search = GridSearchCV(
            network, {"logisticregression__C": self._strengths}, scoring="neg_log_loss", cv=inner, refit=True
        ).fit(features, targets, groups=speakers)
        chosen = search.best_estimator_
        held_out = cross_val_predict(chosen, features, targets, groups=speakers, cv=inner, method="predict_proba")
        logs = np.log(np.maximum(held_out, TINY))
        accuracy = float(np.mean(chosen.classes_[logs.argmax(axis=1)] == targets))
        right = np.searchsorted(chosen.classes_, targets)
        softer = min(TEMPERATURES, key=lambda t: _loss(logs / t, right))
        return StatisticsModel(chosen, float(softer), accuracy)


def _loss(logs: npt.NDArray[np.float64], right: npt.NDArray[np.int64]) -> float:
    normal = logs - np.log(np.exp(logs - logs.max(1, keepdims=True)).sum(1, keepdims=True)) - logs.max(1, keepdims=True)
    return float(-normal[np.arange(len(right)), right].mean())


class StatisticsModel:
    """What `FrameStatistics` made."""

    def __init__(self, network: Pipeline, temperature: float, accuracy: float) -> None:
        self._network, self._temperature, self.accuracy = network, temperature, accuracy

    def judge(self, faces: Sequence[Faces]) -> list[FloatArray]:
        return [self._rows(clip) for clip in faces]

    def _rows(self, clip: Faces) -> FloatArray:
        rows = np.full((clip.n_windows, N_EMOTIONS), np.nan, np.float32)
        if clip.windows:
            features = np.stack([statistics(frames) for frames in clip.windows.values()])
            powers = np.maximum(self._network.predict_proba(features), TINY) ** (1 / self._temperature)
            places = np.ix_(list(clip.windows), self._network.classes_)
            rows[places] = powers / powers.sum(axis=1, keepdims=True)
        return rows
