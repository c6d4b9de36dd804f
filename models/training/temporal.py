"""Trains the shipped network for windows of faces on RAVDESS' speaking faces.

    python -m models.training.temporal --data FOLDER --out models/weights/temporal

FOLDER holds ravdess-face-probabilities.npz: another network's class probabilities of each frame. What they are like
must not matter, since the shipped expression network is another one: each window's probabilities are sharpened or
softened and shifted towards some labels by chance, and some of its frames are left out.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import save_file
from scipy.special import log_softmax, softmax
from torch import nn

from models.taxonomy import EMOTIONS
from models.temporal import LEAST_PROBABILITY, STILL_LABELS, TemporalModel, logs_of, statistics
from models.training.corpora import RAVDESS_EMOTIONS
from models.training.face_recipe import Faces
from models.training.head import HeadOptions, Rows, divide_logits, logits_of, temperature, train_head
from models.training.metrics import clip_row, figures, rounded
from models.training.protocols import RAVDESS, refuse_shared_speakers, splits
from models.training.recordings import PRODUCT
from models.training.seen import RAVDESS_FRAMES_HZ

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

RATE_HZ = PRODUCT.preset.picture_rate_hz
WINDOW_SECONDS, HOP_SECONDS = PRODUCT.plan.window_ms / 1000, PRODUCT.plan.hop_ms / 1000
MIN_FACE_SHARE = PRODUCT.gates.min_face_share
STARTS_SECONDS = (0.0, 0.5)  # windows to train on begin here,
PHASES = (0.0, 1 / 3, 2 / 3)  # and their pictures between those that the product would look at
HELD_OUT = 5  # every fifth speaker of those to train on sets the temperature
GIVEN_NAMES = {"fear": "fearful"}  # the given labels that are named otherwise


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the network is trained.

    Attributes:
        sharpness: standard deviation of the logarithm of the exponent that a window's probabilities are raised to.
        bias: standard deviation of what is added to each label's log-probability, the same for all faces of a window.
        lost: at most this share of the faces is left out.
        head: the network itself.
    """

    sharpness: float = 0.3
    bias: float = 0.5
    lost: float = 0.3
    head: HeadOptions = field(
        default_factory=lambda: HeadOptions(
            hidden=64,
            members=5,
            input_dropout=0.1,
            hidden_dropout=0.3,
            epochs=3,
            peak_learning_rate=3e-3,
            weight_decay=0.01,
        )
    )


def disturbed(logs: FloatArray, options: Options, random: np.random.Generator) -> FloatArray:
    """A window's faces as another network could have judged them, some of them lost: (m, 7) to (k, 7), 1 <= k <= m."""
    kept = random.random(len(logs)) >= random.uniform(0.0, options.lost)
    kept[random.integers(len(logs))] = True
    exponent, bias = np.exp(random.normal(0.0, options.sharpness)), random.normal(0.0, options.bias, logs.shape[1])
    shifted = log_softmax(exponent * logs[kept] + bias, axis=1)
    return np.asarray(np.maximum(shifted, np.log(LEAST_PROBABILITY)), np.float32)


def rows_of(faces: Sequence[Faces], emotions: IntArray, options: Options | None = None) -> Rows:
    """The statistics of every window, as they are; with options, of windows that are disturbed.

    Args:
        faces: a window's frames are log-probabilities of 7 labels.
        emotions: (n,) what each clip shows.
    """
    random, features, clips = np.random.default_rng(0), [], []
    for number, clip in enumerate(faces):
        for logs in clip.windows.values():
            features.append(statistics(disturbed(logs, options, random) if options else logs))
            clips.append(number)
    of = np.array(clips, np.int64)
    speakers = np.array([clip.speaker for clip in faces])[of]
    return Rows(np.stack(features), emotions[of], np.tile(RAVDESS.known, (len(of), 1)), of, speakers)


def train(training: Sequence[Faces], judged: Sequence[Faces], emotions: IntArray, options: Options) -> nn.Sequential:
    """The network, trained on disturbed windows, with the temperature that held-out speakers among the clips want.

    Args:
        training, judged: the same clips, with the windows to train on and with those that the product would judge.
        emotions: (n,) what they show.
    """
    speakers = sorted({clip.speaker for clip in judged})
    held_out = np.isin([clip.speaker for clip in judged], speakers[::HELD_OUT])
    rows, waiting = rows_of(training, emotions, options), rows_of(judged, emotions)
    seen, unseen = rows.where(~held_out[rows.clips]), waiting.where(held_out[waiting.clips])
    refuse_shared_speakers(seen.speakers, unseen.speakers)
    softer = temperature(logits_of(train_head(seen, options.head), unseen), unseen)
    net = train_head(rows, options.head)
    divide_logits(net, softer)
    return net


def given_faces(path: Path, starts_seconds: Sequence[float] = (0.0,), phases: Sequence[float] = (0.0,)) -> list[Faces]:
    """The windows of RAVDESS' clips at the rate at which the product looks.

    Args:
        path: ravdess-face-probabilities.npz.
        starts_seconds: when the first window begins; a set of windows for each of them, and for each phase.
        phases: by how much of the step from picture to picture the grid is shifted.
    """
    with np.load(path) as file:
        names, frames, probabilities = file["clip"], file["frame"], file["probabilities"]
        columns = [GIVEN_NAMES.get(str(name), str(name)) for name in file["labels"]]
    order = [columns.index(name) for name in STILL_LABELS]
    logs = logs_of(probabilities[:, order])
    found = []
    for name in np.unique(names):
        mine = names == name
        times = frames[mine] / RAVDESS_FRAMES_HZ
        sets = [_windows(logs[mine], times, start, phase) for start in starts_seconds for phase in phases]
        windows = dict(enumerate(frames for one in sets for frames in one))
        found.append(Faces(len(windows), windows, f"{RAVDESS.name}/{str(name)[-2:]}"))
    return found


def _windows(logs: FloatArray, times: npt.NDArray[np.float64], start: float, phase: float) -> list[FloatArray]:
    """The windows that show enough faces, from a start on; the frame that is on screen at each point of the grid."""
    windows: list[FloatArray] = []
    while start + WINDOW_SECONDS / 2 <= times[-1] or not windows:
        end = min(start + WINDOW_SECONDS, float(times[-1]))
        points = (np.arange(np.ceil(start * RATE_HZ - 1e-6), max(np.ceil(end * RATE_HZ), 1)) + phase) / RATE_HZ
        nearest = np.abs(times[:, None] - points).argmin(axis=0)
        there = np.abs(times[nearest] - points) < 1 / RAVDESS_FRAMES_HZ
        if there.any() and there.mean() >= MIN_FACE_SHARE:
            windows.append(logs[nearest[there]])
        start += HOP_SECONDS
    return windows


def emotions_of(path: Path) -> IntArray:
    """(n,) what the clips of `given_faces` show."""
    with np.load(path) as file:
        return np.array([EMOTIONS.index(RAVDESS_EMOTIONS[str(name).split("-")[2]]) for name in np.unique(file["clip"])])


def measure(training: Sequence[Faces], judged: Sequence[Faces], emotions: IntArray, options: Options) -> dict[str, Any]:
    """The recipe's figures on RAVDESS' folds, by clip."""
    speakers = [clip.speaker for clip in judged]
    rows = np.full((len(judged), len(EMOTIONS)), np.nan, np.float32)
    for seen, tested in splits(speakers, RAVDESS.folds):
        net = train(list(compress(training, seen)), list(compress(judged, seen)), emotions[seen], options)
        windows = rows_of(list(compress(judged, tested)), emotions[tested])
        judgements = softmax(logits_of(net, windows), axis=1)
        for place, k in enumerate(np.flatnonzero(tested)):
            rows[k] = clip_row(judgements[windows.clips == place], RAVDESS.known)
    found = figures(emotions, rows, np.array([RAVDESS.fold_of(name) for name in speakers]), RAVDESS.known)
    recalls = {name: label["recall"] for name, label in found["per_class"].items()}
    return dict(rounded({key: found[key] for key in ("clips", "wa", "uar", "ece", "spread")} | {"recall": recalls}))


def save(net: nn.Sequential, options: Options, out: Path) -> None:
    """Write `config.json` and `model.safetensors` (float16) for `TemporalModel.load`."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: t.half().contiguous() for name, t in net.state_dict().items()}, out / "model.safetensors")
    config = {
        "architecture": "TemporalModel", "reads": STILL_LABELS, "labels": EMOTIONS,
        "hidden": len(net.state_dict()["0.bias"]), "rate_hz": RATE_HZ, "window_seconds": WINDOW_SECONDS,
        "recipe": asdict(options),
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m models.training.temporal", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of ravdess-face-probabilities.npz")
    parser.add_argument("--out", type=Path, default=Path("models/weights/temporal"), help="where the weights go")
    parser.add_argument("--members", type=int, help="networks that are averaged")
    parser.add_argument("--epochs", type=int, help="passes over the windows")
    given = parser.parse_args(arguments)
    path, options = given.data / "ravdess-face-probabilities.npz", Options()
    chosen = {name: value for name in ("members", "epochs") if (value := getattr(given, name)) is not None}
    options = replace(options, head=replace(options.head, **chosen))
    training, judged, emotions = given_faces(path, STARTS_SECONDS, PHASES), given_faces(path), emotions_of(path)
    metrics = {"ravdess": measure(training, judged, emotions, options)}
    save(train(training, judged, emotions, options), options, given.out)
    TemporalModel.load(given.out)
    (given.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
