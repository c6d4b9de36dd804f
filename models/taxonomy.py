"""The one set of emotions that every model is mapped onto, and what is derived from it.

The eight labels are those of RAVDESS (Livingstone and Russo 2018, doi 10.1371/journal.pone.0196391). A row of
probabilities is always a float32 array of shape (n, 8) in the order of `EMOTIONS`; a label that a model does not
know is NaN in its column, never 0: not knowing a label is no vote against it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

EMOTIONS: tuple[str, ...] = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
N_EMOTIONS = len(EMOTIONS)  # 8

# Where each label lies on Russell's circumplex, each axis from -1 to 1. Signs and order follow Russell (1980,
# doi 10.1037/h0077714) and the word norms of Warriner et al. (2013, doi 10.3758/s13428-012-0314-x); the round
# figures are moodreel's own. A window's valence is the mean of these under its probabilities.
VALENCE: dict[str, float] = {
    "neutral": 0.0, "calm": 0.4, "happy": 0.8, "sad": -0.7,
    "angry": -0.6, "fearful": -0.6, "disgust": -0.7, "surprised": 0.2,
}  # fmt: skip
AROUSAL: dict[str, float] = {
    "neutral": 0.0, "calm": -0.6, "happy": 0.5, "sad": -0.5,
    "angry": 0.7, "fearful": 0.7, "disgust": 0.3, "surprised": 0.8,
}  # fmt: skip
VALENCE_ROW = np.array([VALENCE[name] for name in EMOTIONS], dtype=np.float32)
AROUSAL_ROW = np.array([AROUSAL[name] for name in EMOTIONS], dtype=np.float32)


def widen(probabilities: npt.ArrayLike, labels: Sequence[str]) -> FloatArray:
    """Put a model's own columns into the order of `EMOTIONS`.

    Args:
        probabilities: (n, len(labels)), rows that sum to 1.
        labels: the model's labels, each one of `EMOTIONS`, in the order of the columns.

    Returns:
        (n, 8) float32, NaN in the columns of labels that the model does not know.

    Raises:
        ValueError: a label is not one of `EMOTIONS`, or stands twice.
    """
    unknown = [label for label in labels if label not in EMOTIONS]
    if unknown or len(set(labels)) != len(labels):
        raise ValueError(f"labels must be distinct and among {EMOTIONS}, got {tuple(labels)}")
    source = np.asarray(probabilities, dtype=np.float32)
    wide = np.full((len(source), N_EMOTIONS), np.nan, dtype=np.float32)
    wide[:, [EMOTIONS.index(label) for label in labels]] = source
    return wide
