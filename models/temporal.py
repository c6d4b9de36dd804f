"""A window's row from its faces' rows: a small network on how their probabilities are spread and how they move.

Still pictures say little of talking faces: an open mouth is taken for surprise. The network was trained on faces that
speak (`models.training.temporal`); it reads the class probabilities of an expression network, never pixels.
"""

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from models.errors import ModelError
from models.taxonomy import EMOTIONS, N_EMOTIONS

FloatArray = npt.NDArray[np.float32]

# What still pictures are judged by: FER2013's labels, in the order of `EMOTIONS`.
STILL_LABELS = tuple(name for name in EMOTIONS if name != "calm")
STILL_COLUMNS = [EMOTIONS.index(name) for name in STILL_LABELS]
LEAST_PROBABILITY = 1e-4  # what is below says nothing
N_STATISTICS = 8 * len(STILL_LABELS)


def logs_of(probabilities: npt.NDArray[np.floating]) -> FloatArray:
    """Logarithms of probabilities, float32, cut off at `LEAST_PROBABILITY`."""
    return np.asarray(np.log(np.maximum(probabilities.astype(np.float32), LEAST_PROBABILITY)), np.float32)


def statistics(logs: FloatArray) -> FloatArray:
    """What a window's faces have in common and how they change.

    Args:
        logs: (m, 7) log-probabilities of `STILL_LABELS`, m >= 1 faces in the order of time.

    Returns:
        (56,) float32: of each label the mean and standard deviation of its log-probability and of its probability, the
        highest and the lowest log-probability, the mean step from face to face, and the slope over the window.
    """
    shares = np.exp(logs)
    steps = np.abs(np.diff(logs, axis=0)).mean(axis=0) if len(logs) > 1 else np.zeros(logs.shape[1])
    slope = np.linspace(-1.0, 1.0, len(logs)) @ (logs - logs.mean(axis=0)) / len(logs)
    parts = [logs.mean(axis=0), logs.std(axis=0), shares.mean(axis=0), shares.std(axis=0)]
    return np.concatenate([*parts, logs.max(axis=0), logs.min(axis=0), steps, slope]).astype(np.float32)


def network(hidden: int) -> nn.Sequential:
    """(n, 56) statistics to logits (n, 8)."""
    return nn.Sequential(nn.Linear(N_STATISTICS, hidden), nn.ReLU(), nn.Linear(hidden, N_EMOTIONS))


class TemporalModel:
    """The network with its weights, ready to run. It stays on the CPU: a window costs it some microseconds."""

    def __init__(self, net: nn.Sequential) -> None:
        self._net = net.eval()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `folder/config.json` and `folder/model.safetensors`.

        Raises:
            ModelError: a file is missing, damaged, or does not fit the other.
        """
        try:
            config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            net = network(int(config["hidden"]))
            net.load_state_dict({name: t.float() for name, t in load_file(folder / "model.safetensors").items()})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"cannot load the network for windows of faces from {folder}: {error}") from error
        if (tuple(config.get("reads", ())), tuple(config.get("labels", ()))) != (STILL_LABELS, EMOTIONS):
            raise ModelError(f"{folder / 'config.json'}: must read {STILL_LABELS} and give {EMOTIONS}")
        return cls(net)

    @torch.inference_mode()
    def predict(self, rows: FloatArray) -> FloatArray:
        """One window's row from its faces' rows.

        Args:
            rows: (m, 8) float32, m >= 1, in the order of time, as `models.expression.ExpressionModel.predict` gives
                them: `calm` is not read.

        Returns:
            (8,) float32 that sums to 1.

        Raises:
            ValueError: there is no row, or one lacks a label of `STILL_LABELS`.
        """
        if rows.ndim != 2 or not len(rows):
            raise ValueError(f"want at least one row (m, {N_EMOTIONS}), got {rows.shape}")
        still = rows[:, STILL_COLUMNS]
        if np.isnan(still).any():
            raise ValueError(f"want probabilities of all of {STILL_LABELS}")
        features = statistics(logs_of(still))
        return np.asarray(self._net(torch.from_numpy(features)[None]).softmax(dim=1)[0].numpy(), np.float32)
