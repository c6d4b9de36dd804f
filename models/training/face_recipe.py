"""How the face models of the folds are made: a head on statistics of a window's frames and on how the head moves.

Another recipe goes in its place: `models.training.evaluate` asks only what `FaceRecipe` says.

A frame is whatever describes one face, like the logarithms of some network's class probabilities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, softmax
from sklearn.base import ClassifierMixin, clone
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from models.taxonomy import N_EMOTIONS
from models.training.movement import mirrored, movement
from models.training.protocols import refuse_shared_speakers

FloatArray = npt.NDArray[np.float32]

STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
INNER_FOLDS = 4
LEAST_LEAF = 3  # windows in a leaf of a tree
TRIED = 0.3  # share of the numbers that each split chooses from
LEAST_PROBABILITY = 1e-4  # a tree may be too sure
TEMPERATURES = np.geomspace(0.3, 3.0, 93)


@dataclass(frozen=True)
class Faces:
    """What is seen of one clip.

    Attributes:
        n_windows: how many windows the product cuts the clip into.
        windows: by window, (m, D) float32, one row for each face in it; only windows that show enough faces.
        speaker: whose face.
        landmarks: by window, (m, 5, 2) pixels, the same faces' points; empty where nobody knows them.
        judged: by window, (8,) what a model that met none of the speakers makes of it; empty where there is none.
    """

    n_windows: int
    windows: Mapping[int, FloatArray]
    speaker: str
    landmarks: Mapping[int, FloatArray] = field(default_factory=dict)
    judged: Mapping[int, FloatArray] = field(default_factory=dict)

    def described(self) -> FloatArray:
        """What the head reads of each window, in the order of `windows`: (v, w, F).

        Where landmarks are known there are two views, as seen and mirrored; else one.
        """
        frames = np.stack([statistics(frames) for frames in self.windows.values()])
        if self.judged:
            rows = np.stack([self.judged[k] for k in self.windows])
            frames = np.concatenate([frames, np.log(np.maximum(rows, LEAST_PROBABILITY))], axis=1)
        if not self.landmarks:
            return frames[None]
        points = [self.landmarks[k] for k in self.windows]
        moves = [[movement(p) for p in points], [movement(mirrored(p)) for p in points]]
        return np.concatenate([np.tile(frames, (2, 1, 1)), np.array(moves)], axis=2)


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
    """Logistic regression and extremely randomised trees (Geurts et al. 2006, doi 10.1007/s10994-006-6226-1) on what
    `Faces.described` says, mirrored faces included; the normalised geometric mean of both counts.

    How strongly the regression is regularised is what gives windows of held-out speakers, of those to train on, the
    best likelihood; the temperature is what gives it to their clips, judged by their windows' mean log-probability.

    Args:
        strengths: what is tried, inverses of how strongly the weights are held down.
        trees: how many.
    """

    def __init__(self, strengths: Sequence[float] = STRENGTHS, trees: int = 300) -> None:
        self._strengths, self._trees = tuple(strengths), trees

    def train(self, faces: Sequence[Faces], emotions: npt.NDArray[np.int64]) -> "StatisticsModel":
        of = np.array([k for k, clip in enumerate(faces) for _ in clip.windows])
        views = np.concatenate([clip.described() for clip in faces if clip.windows], axis=1)
        labels, targets = np.unique(emotions[of], return_inverse=True)
        speakers = np.array([clip.speaker for clip in faces])[of]
        inner = list(GroupKFold(INNER_FOLDS).split(targets, targets, speakers))
        for train, test in inner:
            refuse_shared_speakers(speakers[train], speakers[test])

        def held_out(kinds: Sequence[ClassifierMixin]) -> npt.NDArray[np.float64]:
            logs = np.empty((len(targets), len(labels)))
            for train, test in inner:
                logs[test] = _logs(_fitted(kinds, views[:, train], targets[train]), views[:, test], len(labels))
            return logs

        regression = min(map(_regression, self._strengths), key=lambda kind: _loss(held_out([kind]), targets))
        trees = ExtraTreesClassifier(self._trees, min_samples_leaf=LEAST_LEAF, max_features=TRIED, random_state=0)
        kinds = [regression, trees]
        logs = held_out(kinds)
        clips, first, count = np.unique(of, return_index=True, return_counts=True)
        by_clip = np.zeros((len(clips), len(labels)))
        np.add.at(by_clip, np.searchsorted(clips, of), log_softmax(logs, axis=1))
        means = by_clip / count[:, None]
        softer = min(TEMPERATURES, key=lambda t: _loss(means / t, targets[first]))
        accuracy = float(np.mean(logs.argmax(axis=1) == targets))
        return StatisticsModel(_fitted(kinds, views, targets), labels, float(softer), accuracy)


def _regression(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


def _fitted(
    kinds: Sequence[ClassifierMixin], views: FloatArray, targets: npt.NDArray[np.int64]
) -> list[ClassifierMixin]:
    """Of each kind one, trained on all views (v, n, F)."""
    return [clone(kind).fit(np.concatenate(views), np.tile(targets, len(views))) for kind in kinds]


def _logs(models: Sequence[ClassifierMixin], views: FloatArray, n_labels: int) -> npt.NDArray[np.float64]:
    """Mean log-probabilities of the models, each for its mean over the views: (v, n, F) to (n, n_labels)."""
    total = np.zeros((views.shape[1], n_labels))
    for model in models:
        found = np.zeros_like(total)
        found[:, model.classes_] = np.mean([model.predict_proba(view) for view in views], axis=0)
        total += np.log(np.maximum(found, LEAST_PROBABILITY))
    return total / len(models)


def _loss(logs: npt.NDArray[np.float64], right: npt.NDArray[np.int64]) -> float:
    return float(-log_softmax(logs, axis=1)[np.arange(len(right)), right].mean())


class StatisticsModel:
    """What `FrameStatistics` made."""

    def __init__(
        self, models: Sequence[ClassifierMixin], labels: npt.NDArray[np.int64], temperature: float, accuracy: float
    ) -> None:
        self._models, self._labels, self._temperature, self.accuracy = models, labels, temperature, accuracy

    def judge(self, faces: Sequence[Faces]) -> list[FloatArray]:
        rows = [np.full((clip.n_windows, N_EMOTIONS), np.nan, np.float32) for clip in faces]
        shown = [k for k, clip in enumerate(faces) if clip.windows]
        if shown:
            views = np.concatenate([faces[k].described() for k in shown], axis=1)
            found = softmax(_logs(self._models, views, len(self._labels)) / self._temperature, axis=1)
            ends = np.cumsum([len(faces[k].windows) for k in shown])
            for k, part in zip(shown, np.split(found, ends[:-1]), strict=True):
                rows[k][np.ix_(np.array(list(faces[k].windows)), self._labels)] = part
        return rows
