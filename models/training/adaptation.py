"""Trains the adaptation to a video (`models.adaptation`) for the shipped voice model, and measures what it changes.

    python -m models.training.adaptation --data FOLDER [--cache FOLDER] [--output FOLDER]

It is trained on simulated videos (`models.training.simulated`), on rows of windows that were judged by models which
never heard their speaker, because rows of clips that a model was trained on are too good: on those of the models that
`models.training.evaluate` trains for the folds.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.adaptation import N_STATISTICS, Adaptation, levels, statistics
from models.calibration import calibrate
from models.presets import COMPACT_AUDIO, Checkpoint
from models.taxonomy import N_EMOTIONS
from models.training.cache import Cache, default_folder
from models.training.metrics import TINY
from models.training.protocols import JAVANESE, joint_folds, refuse_shared_speakers
from models.training.simulated import Judged, accuracies, dominated, methods, over, uneven, videos_of

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

BATCH = 40  # videos in a step


@dataclass(frozen=True)
class Options:
    """How it is trained.

    Attributes:
        videos: simulated ones.
        balanced, pure: which share of them shows all emotions equally often, or only one. In the others one emotion
            takes a share from a quarter to all, or the shares are drawn from a Dirichlet distribution.
        speakers: which shares of them have one speaker, two, and so on; in half of those with several, the same emotion
            dominates for all.
        clips: of a video, from and to, drawn evenly on the logarithm.
        narrow: which share is judged as by a model that knows the corpus's labels only.
        temperatures: from and to, drawn evenly on the logarithm: a video is judged as by a model that is so much less
            sure, because how sure a model is differs between corpora.
        hidden, epochs, peak_learning_rate, seed: of the network, trained with the one-cycle schedule.
    """

    videos: int = 8000
    balanced: float = 0.33
    pure: float = 0.2
    speakers: tuple[float, ...] = (0.2, 0.2, 0.15, 0.15, 0.15, 0.15)
    clips: tuple[float, float] = (1.5, 90.0)
    narrow: float = 0.5
    temperatures: tuple[float, float] = (0.7, 2.0)
    hidden: int = 16
    epochs: int = 10
    peak_learning_rate: float = 5e-3
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """A simulated video as the network and its loss read it.

    Attributes:
        described: (13,) its `statistics`; shift: (8,) its own mean less the centre.
        clips: (c, 8) each clip's mean log-probabilities; truth: (c,).
        known: (8,) the corpus's labels.
    """

    described: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]
    clips: npt.NDArray[np.float64]
    truth: IntArray
    known: BoolArray


class Batch:
    """Several of them, as tensors."""

    def __init__(self, examples: Sequence[Example]) -> None:
        counts = torch.tensor([len(example.truth) for example in examples])
        self.described = torch.from_numpy(np.stack([example.described for example in examples])).float()
        self._shift = torch.from_numpy(np.stack([example.shift for example in examples])).float()
        self._clips = torch.from_numpy(np.concatenate([example.clips for example in examples])).float()
        self._truth = torch.from_numpy(np.concatenate([example.truth for example in examples]))
        self._video_of = torch.arange(len(examples)).repeat_interleave(counts)
        self._known = torch.from_numpy(np.stack([example.known for example in examples]))[self._video_of]
        self._weights = counts[self._video_of] ** -0.5  # a video weighs as much as the root of its clips

    def loss(self, trust: Tensor) -> Tensor:
        """Mean negative log-likelihood of the clips' labels, (v,) `trust` given; a clip is as in `metrics.clip_row`."""
        moved = self._clips - (trust[:, None] * self._shift)[self._video_of]
        logs = moved.masked_fill(~self._known, -1e4).log_softmax(dim=1)
        right = logs.gather(1, self._truth[:, None])[:, 0]
        return -(self._weights * right).sum() / self._weights.sum()


def train(corpora: Sequence[Judged], options: Options | None = None) -> Adaptation:
    """The network that says how much of a video's own mean is taken away."""
    options = options or Options()
    torch.manual_seed(options.seed)
    random = np.random.default_rng(options.seed)
    centre = centre_of(corpora)
    batches = [
        Batch([_example(random, corpora, centre, options) for _ in range(BATCH)])
        for _ in range(options.videos // BATCH)
    ]
    described = torch.cat([batch.described for batch in batches])
    mean, scale = described.mean(dim=0), described.std(dim=0) + 1e-6
    network = nn.Sequential(nn.Linear(N_STATISTICS, options.hidden), nn.Tanh(), nn.Linear(options.hidden, 1))
    optimiser = torch.optim.Adam(network.parameters())
    n_steps = options.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.peak_learning_rate, total_steps=n_steps)
    for _ in range(options.epochs):
        for k in random.permutation(len(batches)):
            trust = network((batches[k].described - mean) / scale)[:, 0].sigmoid()
            optimiser.zero_grad()
            batches[k].loss(trust).backward()
            optimiser.step()
            schedule.step()
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    return Adaptation(
        centre=_short(centre),
        mean=_short(mean.numpy()),
        scale=_short(scale.numpy()),
        hidden=[_short(row) for row in state["0.weight"]],
        hidden_bias=_short(state["0.bias"]),
        last=_short(state["2.weight"][0]),
        last_bias=_short(state["2.bias"])[0],
    )


def centre_of(corpora: Sequence[Judged]) -> FloatArray:
    """(8,) the mean over emotions of the mean `levels` of each emotion's clips."""
    sums, counts = np.zeros((N_EMOTIONS, N_EMOTIONS)), np.zeros(N_EMOTIONS)
    for corpus in corpora:
        np.add.at(sums, corpus.truth, np.stack([levels(clip, corpus.labels).mean(axis=0) for clip in corpus.rows]))
        np.add.at(counts, corpus.truth, 1)
    return np.asarray((sums[counts > 0] / counts[counts > 0, None]).mean(axis=0), np.float32)


def _short(values: npt.NDArray[Any]) -> list[float]:
    """Numbers with four significant digits: they are part of a pipeline's configuration."""
    return [float(f"{value:.4g}") for value in values]


def _example(random: np.random.Generator, corpora: Sequence[Judged], centre: FloatArray, options: Options) -> Example:
    speakers = np.array([len(corpus.pools) for corpus in corpora])
    corpus = corpora[random.choice(len(corpora), p=speakers / speakers.sum())]
    clips = _drawn(random, corpus, options)
    labels = corpus.known if random.random() < options.narrow else corpus.labels
    temperature = float(np.exp(random.uniform(*np.log(options.temperatures))))
    rows = [calibrate(over(corpus.rows[k], labels), temperature) for k in clips]
    windows = np.concatenate(rows)
    logs = [np.log(np.maximum(np.where(corpus.known, clip, 1.0), TINY)).mean(axis=0) for clip in rows]
    shift = np.where(labels, levels(windows, labels).mean(axis=0) - centre, 0.0)
    return Example(
        statistics(windows, labels, centre.tolist()), shift, np.stack(logs), corpus.truth[clips], corpus.known
    )


def _drawn(random: np.random.Generator, corpus: Judged, options: Options) -> IntArray:
    """The clips of one simulated video."""
    n_speakers = min(random.choice(len(options.speakers), p=options.speakers) + 1, len(corpus.pools))
    speakers = random.choice(list(corpus.pools), n_speakers, replace=False)
    n_clips = max(1, int(np.exp(random.uniform(*np.log(options.clips)))) // n_speakers)
    labels = np.flatnonzero(corpus.known)
    kind, even, alike, share = random.random(), random.random() < 0.6, random.random() < 0.5, random.uniform(0.25, 1.0)
    emotion = int(random.choice(labels))
    clips = []
    for speaker in speakers:
        pool = corpus.pools[str(speaker)]
        if not alike:
            emotion = int(random.choice(labels))
        if kind < options.balanced:
            clips.append(dominated(random, pool, None, 0.0, n_clips))
        elif kind < options.balanced + options.pure:
            clips.append(dominated(random, pool, emotion, 1.0, n_clips))
        elif even:
            clips.append(dominated(random, pool, emotion, share, n_clips))
        else:
            clips.append(uneven(random, pool, n_clips))
    return np.concatenate(clips)


def measure(english: Mapping[str, Judged], javanese: Judged) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """What adapting changes, by corpus, kind of video and method, on speakers that neither model met.

    Args:
        english: RAVDESS and CREMA-D; each fold's speakers are judged by what was trained on the others'.
        javanese: judged by what was trained on all the English speakers.

    Returns:
        `wa`, the mean over the folds; `gain` over no adaptation and its `spread`, the standard deviation over them.
    """
    by_fold: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in (*english, "javanese")}
    for speakers in joint_folds():
        others = [corpus.of_speakers(speakers, among=False) for corpus in english.values()]
        for seen in others:
            refuse_shared_speakers(seen.speakers, speakers)
        trained = train(others)
        for name, corpus in english.items():
            by_fold[name].append(_by_method(corpus.of_speakers(speakers), trained))
    trained = train(list(english.values()))
    for speakers in JAVANESE.folds:
        by_fold["javanese"].append(_by_method(javanese.of_speakers(speakers), trained))
    return {name: _summary(folds) for name, folds in by_fold.items()}


def _by_method(corpus: Judged, adaptation: Adaptation) -> dict[str, dict[str, float]]:
    videos = videos_of(corpus)
    compared = methods(adaptation).items()
    return {name: accuracies(corpus, videos, adaptation.centre, method) for name, method in compared}


def _summary(folds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind in folds[0]["none"]:
        before = np.array([fold["none"][kind] for fold in folds])
        for method in folds[0]:
            after = np.array([fold[method][kind] for fold in folds])
            summary = {"wa": after.mean(), "gain": (after - before).mean(), "spread": (after - before).std(ddof=1)}
            found.setdefault(kind, {})[method] = {name: float(value) for name, value in summary.items()}
    return found


def write(adaptation: Adaptation, folder: Path) -> None:
    """adaptation.json beside the weights that it is for."""
    document = {"sha256": Checkpoint(folder).describe()["sha256"], **adaptation.config}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in document.items()]
    (folder / "adaptation.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    from models.training.evaluate import Evaluation  # which measures what is trained here

    parser = argparse.ArgumentParser(prog="python -m models.training.adaptation", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets, packed or unpacked")
    parser.add_argument("--cache", type=Path, default=default_folder(), help="where what took long is kept")
    parser.add_argument("--output", type=Path, default=COMPACT_AUDIO.folder, help="the voice model's folder")
    given = parser.parse_args(arguments)
    made = train(list(Evaluation.of_shipped(given.data, Cache(given.cache)).english().values()))
    write(made, given.output)
    print(f"{given.output / 'adaptation.json'} is written")


if __name__ == "__main__":
    main()
