"""Adaptation to a video: how its people speak is told apart from what they show, as far as that can be known.

Every voice has its own resting point, which a model that never met it takes for an emotion. Where a video shows its
emotions about equally often, taking away the video's own mean log-probabilities removes that; where it shows one
emotion most of the time, the mean *is* that emotion, and the same step destroys what was right. So the mean is taken
away only in part:

    log p_i - trust (m - centre),    m = mean over the video's windows of log p_i

`trust`, from 0 to 1, is what a small network says of the whole set of windows (see `statistics`): that of a balanced,
widely spread set is high, that of a set with one emotion, or of a few windows, is near 0. The network is trained on
videos put together from the clips of one to six speakers, balanced and skewed, by
`models.training.adaptation`.

Sources: own-mean normalisation is cepstral mean normalisation (Atal 1974, doi 10.1121/1.1914702) on log-probabilities;
that its statistics must not hold the emotion itself is from Busso, Mariooryad, Metallinou and Narayanan 2013,
"Iterative Feature Normalization Scheme for Automatic Emotion Detection from Speech" (doi 10.1109/T-AFFC.2013.26); a
network over pooled statistics of a set is Deep Sets (Zaheer et al. 2017, arXiv 1703.06114). The gate is moodreel's own.

NumPy alone: arrays in, arrays out.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

FLOOR = -6.0  # log-probabilities below it only say how sure a model is of what it excludes, and would rule the mean
N_STATISTICS = 13
MOST_WINDOWS = 200  # as many as the longest videos of the training have: what is more is not told apart
TINY = 1e-12  # keeps log 0 out


@dataclass(frozen=True)
class Adaptation:
    """What `adapt` needs to know of a model; part of a pipeline's digest.

    Attributes:
        centre: (8,) where `levels` of people who show every emotion equally often lie in the mean.
        mean, scale: (13,) of `statistics` in training, by which they are standardised.
        hidden, hidden_bias: (h, 13) and (h,) of the network's hidden layer, tanh.
        last, last_bias: (h,) and the bias of its only output, a logit.
    """

    centre: Sequence[float]
    mean: Sequence[float]
    scale: Sequence[float]
    hidden: Sequence[Sequence[float]]
    hidden_bias: Sequence[float]
    last: Sequence[float]
    last_bias: float

    @property
    def config(self) -> dict[str, Any]:
        """As plain JSON values; `Adaptation(**config)` is the same again."""
        return asdict(self)

    def trust(self, described: Array) -> float:
        """How much of a set's own mean is taken away, 0 to 1; `described` are its `statistics`, (13,)."""
        inputs = (described - np.asarray(self.mean)) / np.asarray(self.scale)
        hidden = np.tanh(np.asarray(self.hidden) @ inputs + np.asarray(self.hidden_bias))
        return float(1.0 / (1.0 + np.exp(-(hidden @ np.asarray(self.last) + self.last_bias))))


def levels(rows: npt.NDArray[np.floating], known: Mask) -> Array:
    """Log-probabilities cut off at `FLOOR`, each row less its mean over the known labels.

    Args:
        rows: (n, 8) that sum to 1 over the known labels.
        known: (8,) bool.

    Returns:
        (n, 8) float64, 0 for labels that are unknown.
    """
    logs = np.log(np.maximum(np.where(known, rows, 1.0).astype(np.float64), np.exp(FLOOR)))
    return np.where(known, logs - logs.sum(axis=1, keepdims=True) / known.sum(), 0.0)


def statistics(rows: npt.NDArray[np.floating], known: Mask, centre: Sequence[float]) -> Array:
    """What tells a balanced set of windows from a skewed one, whichever emotion it is skewed to: (13,) float64.

    Of the rows as they are and of the rows with all of their own mean taken away: the largest of the labels' mean
    probabilities, their entropy over its maximum, and how sure the rows are in the mean. Then the second largest and
    the smallest mean probability; how many rows keep their label without the mean; how far the levels spread about
    their mean, and how far that is from 0; and the number of windows, as its logarithm and as 1 / sqrt(n).

    Args:
        rows: (n, 8) with n > 0, that sum to 1 over the known labels.
        known: (8,) bool, of which two or more are true.
        centre: as of `Adaptation`.
    """
    moved = without_own_mean(rows, known, centre, 1.0)
    places = levels(rows, known)
    mean = places.mean(axis=0)
    ordered = np.sort(rows[:, known].mean(axis=0))
    kept = (rows[:, known].argmax(axis=1) == moved[:, known].argmax(axis=1)).mean()
    spread = np.sqrt(np.square(places - mean).sum(axis=1).mean())
    n = min(len(rows), MOST_WINDOWS)
    set_as_a_whole = [ordered[-2], ordered[0], kept, spread, np.linalg.norm(mean), np.log(n), n**-0.5]
    return np.array([*_shape(rows[:, known]), *_shape(moved[:, known]), *set_as_a_whole])


def _shape(rows: npt.NDArray[np.floating]) -> tuple[float, float, float]:
    """The largest mean probability, the entropy of the mean over its maximum, and the mean of the rows' largest."""
    mean = rows.mean(axis=0, dtype=np.float64)
    entropy = -(mean * np.log(np.maximum(mean, TINY))).sum() / np.log(len(mean))
    return float(mean.max()), float(entropy), float(rows.max(axis=1).mean())


def adapt(rows: Rows, adaptation: Adaptation) -> Rows:
    """A video's rows, adapted to the video.

    Args:
        rows: (n, 8), all windows of one side; NaN where a label is unknown or a row is missing.

    Returns:
        (n, 8) float32, NaN where `rows` is; each row sums to 1 over its labels.
    """
    there = ~np.isnan(rows).all(axis=1)
    known = np.asarray(~np.isnan(rows[there]).any(axis=0))
    if not there.any() or known.sum() < 2:
        return rows
    trust = adaptation.trust(statistics(rows[there], known, adaptation.centre))
    adapted = rows.copy()
    adapted[there] = without_own_mean(rows[there], known, adaptation.centre, trust)
    return adapted


def without_own_mean(rows: npt.NDArray[np.floating], known: Mask, centre: Sequence[float], trust: float) -> Rows:
    """Take away so much of a set's own mean: 0 leaves the rows as they are, 1 moves their mean to `centre`.

    Args:
        rows: (n, 8) with n > 0, that sum to 1 over the known labels.
        known: (8,) bool.

    Returns:
        (n, 8) float32, NaN for labels that are unknown.
    """
    shift = trust * (levels(rows, known).mean(axis=0) - np.asarray(centre))
    logs = np.where(known, np.log(np.maximum(np.where(known, rows, 1.0).astype(np.float64), TINY)) - shift, -np.inf)
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(np.where(known, powers / powers.sum(axis=1, keepdims=True), np.nan), np.float32)
