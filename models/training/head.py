"""Trains the emotion head on features of several corpora, of which each knows only some of the labels.

Arrays in, a head out: knows no files and no sound. One row is a window; a clip's rows share its weight, so that a
long clip counts no more than a short one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.taxonomy import EMOTIONS, N_EMOTIONS

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

NO_VOTE = -1e4  # logit of a label that a row's corpus lacks: its softmax is 0 and no gradient reaches it


@dataclass(frozen=True)
class Rows:
    """Windows of clips, aligned by row.

    Attributes:
        features: (n, D) float32 or float16.
        emotions: (n,) int64, index into `EMOTIONS`.
        known: (n, 8) bool, the labels that the row's corpus has.
        clips: (n,) int64, which clip the window is of.
        speakers: (n,) str, `corpus/actor`.
    """

    features: npt.NDArray[np.floating]
    emotions: IntArray
    known: BoolArray
    clips: IntArray
    speakers: npt.NDArray[np.str_]

    def __post_init__(self) -> None:
        if not self.known[np.arange(len(self.emotions)), self.emotions].all():
            raise ValueError("a row shows an emotion that its corpus does not have")

    def where(self, chosen: BoolArray) -> "Rows":
        """The rows chosen by (n,) bool."""
        return Rows(
            self.features[chosen], self.emotions[chosen], self.known[chosen], self.clips[chosen], self.speakers[chosen]
        )

    @property
    def weights(self) -> FloatArray:
        """(n,) float32 with mean 1: each clip has the same weight, shared by its rows."""
        _, clip, count = np.unique(self.clips, return_inverse=True, return_counts=True)
        weights = 1.0 / count[clip]
        return np.asarray(weights / weights.mean(), np.float32)


@dataclass(frozen=True)
class HeadOptions:
    """How the head is trained.

    Attributes:
        hidden: width of the hidden layer.
        input_dropout, hidden_dropout: share of features and of hidden units that each step does without.
        epochs: passes over the rows; batch: rows in a step.
        peak_learning_rate: of the one-cycle schedule (Smith and Topin 2017, arXiv 1708.07120).
        weight_decay: of AdamW.
        seed: of the initial weights, of the order and of the dropout.
    """

    hidden: int = 128
    input_dropout: float = 0.4
    hidden_dropout: float = 0.5
    epochs: int = 8
    batch: int = 256
    peak_learning_rate: float = 1.5e-3
    weight_decay: float = 0.1
    seed: int = 0


def known_labels(emotions: Sequence[str]) -> BoolArray:
    """(8,) bool: which of `EMOTIONS` occur."""
    return np.array([emotion in emotions for emotion in EMOTIONS])


def masked_log_softmax(logits: Tensor, known: Tensor) -> Tensor:
    """Log-probabilities over each row's own labels, (n, 8): a label that its corpus lacks takes no part."""
    return logits.masked_fill(~known, NO_VOTE).log_softmax(dim=1)


def train_head(rows: Rows, options: HeadOptions) -> nn.Sequential:
    """A head Linear-ReLU-Linear from raw features to 8 logits, float32, in evaluation mode.

    Trained on standardised features by cross-entropy over each row's own labels; the standardisation is then folded
    into the first layer.
    """
    torch.manual_seed(options.seed)
    mean = rows.features.mean(axis=0, dtype=np.float64)
    scale = rows.features.std(axis=0, dtype=np.float64) + 1e-4
    first = nn.Linear(rows.features.shape[1], options.hidden)
    last = nn.Linear(options.hidden, N_EMOTIONS)
    network = nn.Sequential(
        nn.Dropout(options.input_dropout), first, nn.ReLU(), nn.Dropout(options.hidden_dropout), last
    )
    standardised = (torch.from_numpy(rows.features).float() - torch.from_numpy(mean).float()) / torch.from_numpy(
        scale
    ).float()
    _fit(network, standardised, rows, options)
    fold_standardisation(first, mean, scale)
    return nn.Sequential(first, nn.ReLU(), last).eval()


def _fit(network: nn.Module, features: Tensor, rows: Rows, options: HeadOptions) -> None:
    known, targets = torch.from_numpy(rows.known), torch.from_numpy(rows.emotions)
    weights = torch.from_numpy(rows.weights)
    n_steps = options.epochs * -(-len(features) // options.batch)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.peak_learning_rate, total_steps=n_steps)
    for _ in range(options.epochs):
        order = torch.randperm(len(features))
        for first in range(0, len(order), options.batch):
            batch = order[first : first + options.batch]
            log_probabilities = masked_log_softmax(network(features[batch]), known[batch])
            right = log_probabilities.gather(1, targets[batch, None])[:, 0]
            optimiser.zero_grad()
            (-weights[batch] * right).mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


@torch.no_grad()
def fold_standardisation(layer: nn.Linear, mean: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> None:
    """Change a layer that reads (x - mean) / scale into one that reads x."""
    weight = layer.weight.double() / torch.from_numpy(scale)
    layer.bias.copy_(layer.bias.double() - weight @ torch.from_numpy(mean))
    layer.weight.copy_(weight)


@torch.no_grad()
def logits_of(head: nn.Sequential, rows: Rows) -> FloatArray:
    """(n, 8) float32 logits."""
    return np.asarray(head(torch.from_numpy(rows.features.astype(np.float32))).numpy(), np.float32)


def log_probabilities(logits: FloatArray, known: BoolArray) -> FloatArray:
    """(n, 8) float32 over each row's own labels."""
    return np.asarray(masked_log_softmax(torch.from_numpy(logits), torch.from_numpy(known)).numpy(), np.float32)


def temperature(logits: FloatArray, rows: Rows) -> float:
    """What to divide logits of unseen speakers by so that their likelihood is highest (Guo et al. 2017).

    arXiv 1706.04599, section 4.2; found by search over 0.5 to 3 in steps of 1 %.
    """
    candidates = np.geomspace(0.5, 3.0, 181)
    return float(min(candidates, key=lambda t: _mean_loss(logits / np.float32(t), rows)))


def _mean_loss(logits: FloatArray, rows: Rows) -> float:
    right = log_probabilities(logits, rows.known)[np.arange(len(logits)), rows.emotions]
    return float(-np.mean(right * rows.weights))


@torch.no_grad()
def divide_logits(head: nn.Sequential, by: float) -> None:
    """Fold a temperature into the head's last layer."""
    for parameter in head[-1].parameters():
        parameter.div_(by)
