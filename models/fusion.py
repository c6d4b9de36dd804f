"""Decision-level (late) fusion of two modalities' probabilities, in NumPy alone.

Five of the rules are those of Fernandez and Awinat, "Multimodal Sentiment Analysis based on Video and Audio Inputs"
(arXiv 2412.09317, section on the decision frameworks): `average`, `weighted`, `threshold`, `dynamic` and `rules`.
Where the paper leaves a constant open, ours is a field of `Fusion` and is named there as ours. The sixth, `log-linear`,
is the logarithmic opinion pool (Genest and Zidek 1986, doi 10.1214/ss/1177013825).

Notation: a and v are a window's rows of voice and face, both completed over the union of the two models' labels
(see `complete`); w_a + w_v = 1 are the modalities' weights; c(p) = max(p) / sum(p) is a row's confidence.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float64]
AnyRows = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]

TINY = 1e-12  # keeps log 0 and 0/0 out, far below any probability that a model gives in float32


@dataclass(frozen=True)
class Fusion:
    """A fusion rule with its constants; part of a pipeline's digest.

    Attributes:
        rule: one of `RULES`.
        audio_weight: w_a, the trust in the voice; w_v is 1 - audio_weight. 0.5 is ours (the paper weighs by accuracy).
        threshold: the confidence from which a modality is believed alone (`threshold`); 0.7 is ours.
        margin: by how much one modality must be more confident to win a disagreement (`rules`); 0.2 is ours.
    """

    rule: str = "log-linear"
    audio_weight: float = 0.5
    threshold: float = 0.7
    margin: float = 0.2

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"fusion must be one of {', '.join(RULES)}, got {self.rule!r}")
        for name in ("audio_weight", "threshold", "margin"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)!r}")


def confidence(rows: AnyRows) -> Rows:
    """The predicted label's probability over the sum of all (arXiv 2412.09317).

    Args:
        rows: (n, 8), NaN where a label is unknown.

    Returns:
        (n,), NaN for a row that is all NaN.
    """
    known = np.nan_to_num(rows.astype(np.float64), nan=0.0)
    total = known.sum(axis=1)
    return np.where(total > 0, known.max(axis=1) / np.maximum(total, TINY), np.nan)


def complete(audio: AnyRows, video: AnyRows) -> tuple[Rows, Rows]:
    """Complete each row over the union of both models' labels, so that abstaining is not a vote against.

    With m the mass that a modality, over all that it knows, puts on labels the other lacks, the masses of shared :
    audio-only : video-only labels stand as 1 : m_a/(1 - m_a) : m_v/(1 - m_v), normalised. Within each group a model
    keeps its own proportions, and takes the other's where it knows nothing. Without a shared label, both become the
    plain mean. The scheme is moodreel's own.

    Args:
        audio, video: (n, 8), NaN where a label is unknown, otherwise rows that sum to 1.

    Returns:
        The two completed rows, (n, 8) float64, 0 where neither model knows the label.
    """
    knows_a, knows_v = ~np.isnan(audio), ~np.isnan(video)
    a, v = np.nan_to_num(audio.astype(np.float64)), np.nan_to_num(video.astype(np.float64))
    shared, only_a, only_v = knows_a & knows_v, knows_a & ~knows_v, knows_v & ~knows_a
    odds_a, odds_v = _odds((a * only_a).sum(1)), _odds((v * only_v).sum(1))
    total = 1.0 + odds_a + odds_v
    alone = ((odds_a / total)[:, None] * _proportions(a, only_a)) + (
        (odds_v / total)[:, None] * _proportions(v, only_v)
    )
    shared_mass = (1.0 / total)[:, None]
    has_shared = shared.any(axis=1, keepdims=True)
    mean = (a + v) / 2
    return (
        np.where(has_shared, alone + shared_mass * _proportions(a, shared), mean),
        np.where(has_shared, alone + shared_mass * _proportions(v, shared), mean),
    )


def _odds(mass: Rows) -> Rows:
    return mass / np.maximum(1.0 - mass, 1e-6)  # a mass of 1 would leave nothing for the shared labels


def _proportions(rows: Rows, group: Mask) -> Rows:
    """Rows within a group of labels, scaled to sum to 1 there: (n, 8); even where a row has no mass in the group."""
    inside = np.where(group, np.maximum(rows, TINY), 0.0)
    total: Rows = inside.sum(axis=1, keepdims=True)
    return inside / np.maximum(total, TINY)


def fuse(audio: AnyRows, video: AnyRows, fusion: Fusion) -> npt.NDArray[np.float32]:
    """Fuse the two modalities' rows window by window.

    Args:
        audio, video: (n, 8), NaN where a label is unknown; a row that is all NaN is a missing modality.
        fusion: the rule and its constants.

    Returns:
        (n, 8) float32, each row summing to 1 over the labels that either model knows and NaN elsewhere. A missing
        modality leaves the other's row as it is; a window with neither is all NaN.
    """
    has_audio, has_video = (_present(side) for side in (audio, video))
    fused = np.where(has_audio[:, None], audio, video).astype(np.float32)
    both = has_audio & has_video
    if both.any():
        a, v = complete(audio[both], video[both])
        rows = RULES[fusion.rule](a, v, fusion)
        rows = rows / rows.sum(axis=1, keepdims=True)
        unknown = np.isnan(audio[both]) & np.isnan(video[both])
        fused[both] = np.where(unknown, np.nan, rows)
    return fused


def _present(rows: AnyRows) -> Mask:
    """Which rows are there at all: (n,)."""
    return np.asarray(~np.isnan(rows).all(axis=1))


def average(a: Rows, v: Rows, fusion: Fusion) -> Rows:
    """(a + v) / 2."""
    return (a + v) / 2


def weighted(a: Rows, v: Rows, fusion: Fusion) -> Rows:
    """w_a a + w_v v."""
    return fusion.audio_weight * a + (1.0 - fusion.audio_weight) * v


def threshold(a: Rows, v: Rows, fusion: Fusion) -> Rows:
    """The row whose confidence alone reaches the threshold; where both or neither do, the weighted average."""
    sure_a, sure_v = confidence(a) >= fusion.threshold, confidence(v) >= fusion.threshold
    return _choose(sure_a & ~sure_v, sure_v & ~sure_a, a, v, weighted(a, v, fusion))


def dynamic(a: Rows, v: Rows, fusion: Fusion) -> Rows:
    """(w_a c(a) a + w_v c(v) v) / (w_a c(a) + w_v c(v)): each window weighs its modalities by their confidence."""
    weight_a = fusion.audio_weight * confidence(a)
    weight_v = (1.0 - fusion.audio_weight) * confidence(v)
    return (weight_a[:, None] * a + weight_v[:, None] * v) / np.maximum(weight_a + weight_v, TINY)[:, None]


def rules(a: Rows, v: Rows, fusion: Fusion) -> Rows:
    """Same label: the average. Else the row that is more confident by the margin; within it, the weighted average."""
    agree = a.argmax(axis=1) == v.argmax(axis=1)
    lead = confidence(a) - confidence(v)
    chosen = _choose(lead >= fusion.margin, -lead >= fusion.margin, a, v, weighted(a, v, fusion))
    return np.where(agree[:, None], average(a, v, fusion), chosen)


def log_linear(a: Rows, v: Rows, fusion: Fusion) -> Rows:
    """softmax(2 w_a log a + 2 w_v log v): with even weights the product, which treats the two as independent."""
    exponent_a, exponent_v = 2.0 * fusion.audio_weight, 2.0 * (1.0 - fusion.audio_weight)
    logits = exponent_a * np.log(np.maximum(a, TINY)) + exponent_v * np.log(np.maximum(v, TINY))
    return np.where((a > 0) | (v > 0), np.exp(logits - logits.max(axis=1, keepdims=True)), 0.0)


def _choose(take_a: Mask, take_v: Mask, a: Rows, v: Rows, otherwise: Rows) -> Rows:
    return np.where(take_a[:, None], a, np.where(take_v[:, None], v, otherwise))


RULES: dict[str, Callable[[Rows, Rows, Fusion], Rows]] = {
    "average": average,
    "weighted": weighted,
    "threshold": threshold,
    "dynamic": dynamic,
    "rules": rules,
    "log-linear": log_linear,
}
