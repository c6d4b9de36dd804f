"""Temperature scaling: how sure a model's probabilities are made to be before they are fused.

A temperature above 1 makes a model that is too sure of itself less so; the predicted label stays. Source: Guo et al.
2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599). The shipped models carry the temperature of their
own held-out data in their weights; this one is for the user's kind of video.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TINY = 1e-12  # keeps log 0 out


@dataclass(frozen=True)
class Calibration:
    """One temperature for each side; 1 leaves its probabilities as they are. Part of a pipeline's digest.

    Raises:
        ValueError: a temperature is not from 0.05 to 20.
    """

    audio_temperature: float = 1.0
    video_temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("audio_temperature", "video_temperature"):
            if not 0.05 <= getattr(self, name) <= 20:
                raise ValueError(f"{name} must be from 0.05 to 20, got {getattr(self, name)!r}")


def calibrate(rows: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float32]:
    """softmax(log p / T) over the labels that are known.

    Args:
        rows: (n, 8) float32, rows that sum to 1, NaN where a label is unknown or a row is missing.
        temperature: T.

    Returns:
        (n, 8) float32, NaN where `rows` is.
    """
    if temperature == 1.0:
        return rows
    scaled = np.log(np.maximum(rows.astype(np.float64), TINY)) / temperature
    top = np.where(np.isnan(scaled), -np.inf, scaled).max(axis=1, keepdims=True)
    powers = np.exp(scaled - np.where(np.isinf(top), 0.0, top))
    return np.asarray(powers / np.nansum(powers, axis=1, keepdims=True).clip(TINY), dtype=np.float32)
