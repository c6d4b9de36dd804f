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
        """(n,) float32 with mean 1.

        A clip's rows share its weight. A corpus weighs as the square root of the number of its clips, so that a large
        one does not drown a small one (sampling with temperature 2, as multilingual models do; arXiv 1907.05019).
        """
        _, first, clip, count = np.unique(self.clips, return_index=True, return_inverse=True, return_counts=True)
        corpora = np.array([speaker.split("/")[0] for speaker in self.speakers[first]])
        _, corpus, size = np.unique(corpora, return_inverse=True, return_counts=True)
        weights = (size[corpus] ** -0.5 / count)[clip]
        return np.asarray(weights / weights.mean(), np.float32)


@dataclass(frozen=True)
class HeadOptions:
    """How the head is trained.

    Attributes:
        hidden: width of a member's hidden layer.
        members: networks whose mean logits are what is used; they see the same rows in the same order, and differ in
            their initial weights and in which hidden units each step does without.
        input_dropout, hidden_dropout: share of features and of hidden units that each step does without.
        epochs: passes over the rows; batch: rows in a step.
        peak_learning_rate: of the one-cycle schedule (Smith and Topin 2017, arXiv 1708.07120).
        weight_decay: of AdamW.
        seed: of the initial weights, of the order and of the dropout.
    """

    hidden: int = 128
    members: int = 4
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
    """Log-probabilities over each row's own labels, (..., n, 8): a label that its corpus lacks takes no part."""
    return logits.masked_fill(~known, NO_VOTE).log_softmax(dim=-1)


class _Members(nn.Module):
    """Networks Linear-ReLU-Linear side by side: (n, D) to (members, n, 8) logits."""

    def __init__(self, n_features: int, options: HeadOptions) -> None:
        super().__init__()
        self._shape = options.members, options.hidden
        self.first = nn.Linear(n_features, options.members * options.hidden)
        bound = options.hidden**-0.5
        self.last = nn.Parameter(torch.empty(*self._shape, N_EMOTIONS).uniform_(-bound, bound))
        self.last_bias = nn.Parameter(torch.zeros(options.members, 1, N_EMOTIONS))
        self._input_dropout = nn.Dropout(options.input_dropout)
        self._hidden_dropout = nn.Dropout(options.hidden_dropout)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.first(self._input_dropout(features)).relu().unflatten(1, self._shape).transpose(0, 1)
        return torch.baddbmm(self.last_bias, self._hidden_dropout(hidden), self.last)

    @torch.no_grad()
    def mean(self) -> nn.Sequential:
        """One network with their mean logits."""
        last = nn.Linear(self.first.out_features, N_EMOTIONS)
        last.weight.copy_(self.last.flatten(0, 1).T / len(self.last))
        last.bias.copy_(self.last_bias.mean(dim=(0, 1)))
        return nn.Sequential(self.first, nn.ReLU(), last).eval()


def train_head(rows: Rows, options: HeadOptions) -> nn.Sequential:
    """A head Linear-ReLU-Linear from raw features to 8 logits, float32, in evaluation mode.

    Trained on standardised features by cross-entropy over each row's own labels; the standardisation is then folded
    into the first layer.
    """
    torch.manual_seed(options.seed)
    mean = rows.features.mean(axis=0, dtype=np.float64)
    scale = rows.features.std(axis=0, dtype=np.float64) + 1e-4
    members = _Members(rows.features.shape[1], options)
    features = torch.from_numpy(rows.features.astype(np.float32))
    features.sub_(torch.from_numpy(mean).float()).div_(torch.from_numpy(scale).float())
    _fit(members, features, rows, options)
    fold_standardisation(members.first, mean, scale)
    return members.mean()


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
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(features[batch])
            log_probabilities = masked_log_softmax(logits.float(), known[batch])
            right = log_probabilities[:, torch.arange(len(batch)), targets[batch]]
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
    """What to divide logits of unseen speakers by so that what is said of windows and of whole clips is most likely.

    Guo et al. 2017, arXiv 1706.04599, section 4.2; found by search over 0.5 to 3 in steps of 1 %. A clip is surer than
    its windows, for which it is right more often: a timeline is read at both scales, so the two losses are added.
    """
    candidates = np.geomspace(0.5, 3.0, 181)
    return float(min(candidates, key=lambda t: _loss(log_probabilities(logits / np.float32(t), rows.known), rows)))


def _loss(windows: FloatArray, rows: Rows) -> float:
    """Mean cross-entropy of the windows, weighed as in training, plus that of the clips' mean log-probabilities."""
    clips, first, of, count = np.unique(rows.clips, return_index=True, return_inverse=True, return_counts=True)
    sums = np.zeros((len(clips), N_EMOTIONS), np.float32)
    np.add.at(sums, of, windows)
    means = np.asarray(sums / count[:, None], np.float32)
    wholes = log_probabilities(means, rows.known[first])
    said = windows[np.arange(len(windows)), rows.emotions]
    said_of_clips = wholes[np.arange(len(clips)), rows.emotions[first]]
    return float(-np.mean(said * rows.weights) - np.mean(said_of_clips))


@torch.no_grad()
def divide_logits(head: nn.Sequential, by: float) -> None:
    """Fold a temperature into the head's last layer."""
    for parameter in head[-1].parameters():
        parameter.div_(by)
