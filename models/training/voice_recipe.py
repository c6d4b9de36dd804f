"""How voice models are made, the shipped one and those of the folds. Another recipe goes in its place.

`models.training.evaluate` asks of a recipe only what `VoiceRecipe` says, so one that trains the encoder as well needs
no change there.
"""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.audio import AudioEmotionModel, WhisperForEmotion, load_checkpoint
from models.presets import COMPACT_AUDIO
from models.taxonomy import EMOTIONS, N_EMOTIONS
from models.training.cache import digest, progress
from models.training.corpora import corpora
from models.training.head import (
    HeadOptions,
    Rows,
    divide_logits,
    known_labels,
    log_probabilities,
    logits_of,
    temperature,
    train_head,
)
from models.training.protocols import refuse_shared_speakers
from models.training.recordings import AS_RECORDED, Chunk, Recording, Recordings, Take, n_windows, voice_windows
from models.training.sound import degraded
from models.voice import VoiceDetector
from worker.windows import WindowPlan

FloatArray = npt.NDArray[np.float32]

HELD_OUT = 5  # every fifth speaker of those to train on sets the temperature
BATCH = 32  # windows in one run of the encoder


@dataclass(frozen=True)
class View:
    """One way of looking at all clips: windows of one length, as recorded or degraded like found sound."""

    name: str
    plan: WindowPlan
    degraded: bool = False


PRODUCT_VIEW = View("2 s", WindowPlan(2000, 1000))
VIEWS = (
    PRODUCT_VIEW,
    View("2 s, degraded", WindowPlan(2000, 1000), degraded=True),
    View("1 s", WindowPlan(1000, 1000)),
    View("4 s", WindowPlan(4000, 2000)),
)


class VoiceModel(Protocol):
    """A voice model that was trained on some speakers.

    Attributes:
        accuracy: share of the windows of held-out speakers, of those to train on, that are right; for weighing it
            against another model.
    """

    accuracy: float

    def judge(self, recordings: Recordings, clips: Sequence[int], take: Take = AS_RECORDED) -> list[FloatArray]:
        """The rows of the product's windows of some clips: (n, 8) each, NaN where there is too little speech."""
        ...


class VoiceRecipe(Protocol):
    """How such models are made."""

    @property
    def identity(self) -> Any:
        """Plain JSON values: all that decides what comes out."""
        ...

    def train(self, recordings: Recordings, clips: Sequence[int]) -> VoiceModel:
        """A model of some clips, for windows as the product cuts them; calibrated on speakers among them only."""
        ...


@dataclass(frozen=True)
class ClipFeatures:
    """The windows of some clips in one view.

    Attributes:
        features: (n, D) float16; clips: (n,) which clip of the chunk; windows: (n,) which window of the clip.
        counts: (clips,) how many windows the product cuts each clip into.
    """

    features: npt.NDArray[np.float16]
    clips: npt.NDArray[np.int64]
    windows: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


class FrozenEncoder:
    """The shipped recipe: a frozen encoder and a head on its layers' statistics.

    The head is trained on several views of the clips; the temperature is that of every fifth speaker of those to train
    on, judged by a head that was trained on the others.

    Args:
        source: a folder with the encoder, or the model itself; whatever head it has is not used.
    """

    def __init__(
        self,
        source: Path | WhisperForEmotion = COMPACT_AUDIO.folder,
        options: HeadOptions | None = None,
        views: Sequence[View] = VIEWS,
    ) -> None:
        self._source, self._options, self._views = source, options or HeadOptions(), tuple(views)
        self._rows: dict[tuple[str, str], ClipRows] = {}  # for the next fold

    @cached_property
    def identity(self) -> Any:
        return {
            "name": "frozen encoder",
            "encoder": self._encoder_identity,
            "head": asdict(self._options),
            "views": [view.name for view in self._views],
            "held_out": HELD_OUT,
            "temperature": "of windows and of clips",
        }

    @cached_property
    def _encoder_identity(self) -> str:
        hashed = hashlib.sha256()
        for name, value in sorted(self._whisper.encoder.state_dict().items()):
            hashed.update(name.encode() + value.half().numpy().tobytes())
        return hashed.hexdigest()

    @cached_property
    def _whisper(self) -> WhisperForEmotion:
        return load_checkpoint(self._source) if isinstance(self._source, Path) else self._source

    def train(self, recordings: Recordings, clips: Sequence[int]) -> "HeadModel":
        speakers = sorted({recordings.clips[k].speaker for k in clips})
        key = [self.identity, [chunk.digest for chunk in recordings.chunks], list(map(int, clips))]
        state = recordings.cache.arrays("voice-head", key, lambda: self._fit(recordings, clips, speakers[::HELD_OUT]))
        return HeadModel(self, _head(state), float(state["accuracy"]))

    def _fit(self, recordings: Recordings, clips: Sequence[int], held_out: Sequence[str]) -> dict[str, Any]:
        views = {view.name: self.rows(recordings, view).where_clips(clips) for view in self._views}
        everything = joined(list(views.values()))
        seen = ~np.isin(everything.speakers, held_out)
        product = views[PRODUCT_VIEW.name]
        waiting = product.where(np.isin(product.speakers, held_out))
        refuse_shared_speakers(everything.speakers[seen], waiting.speakers)
        logits = logits_of(train_head(everything.where(seen), self._options), waiting)
        softer = temperature(logits, waiting)
        right = log_probabilities(logits, waiting.known).argmax(axis=1) == waiting.emotions
        head = train_head(everything, self._options)
        divide_logits(head, softer)
        weights = {name: value.numpy() for name, value in head.state_dict().items()}
        return {**weights, "temperature": np.array(softer), "accuracy": np.array(right.mean())}

    def rows(self, recordings: Recordings, view: View) -> "ClipRows":
        """Every window of all clips in one view, with what it is to be trained on."""
        key = (digest([chunk.digest for chunk in recordings.chunks]), view.name)
        if key not in self._rows:
            self._rows[key] = self._gather(recordings, view)
        return self._rows[key]

    def _gather(self, recordings: Recordings, view: View) -> "ClipRows":
        labels = {
            corpus: known_labels([clip.emotion for clip in recordings.clips if clip.corpus == corpus])
            for corpus in corpora(recordings.clips)
        }
        features, of = [], []
        for chunk, found in self.features(recordings, view):
            features.append(found.features)
            of.append(found.clips + chunk.first)
        numbers = np.concatenate(of)
        clips = recordings.clips
        return ClipRows(
            np.concatenate(features),
            np.array([EMOTIONS.index(clip.emotion) for clip in clips])[numbers],
            np.stack([labels[clip.corpus] for clip in clips])[numbers],
            numbers,
            np.array([clip.speaker for clip in clips])[numbers],
        )

    def features(
        self, recordings: Recordings, view: View, take: Take = AS_RECORDED, clips: Sequence[int] | None = None
    ) -> Iterator[tuple[Chunk, ClipFeatures]]:
        """The features of every window, computed once, of those chunks that hold any of the clips."""
        chosen = [c for c in recordings.chunks if clips is None or not set(clips).isdisjoint(c.numbers)]
        detector = VoiceDetector()
        model = AudioEmotionModel(copy.deepcopy(self._whisper), window_seconds=view.plan.window_ms / 1000)
        of_view = [view.name, view.plan.window_ms, view.plan.hop_ms, view.degraded]
        keys = [[self._encoder_identity, "bfloat16", of_view, take.name, chunk.digest] for chunk in chosen]
        fresh = [not recordings.cache.holds("features", key) for key in keys]
        chunks = list(zip(chosen, keys, strict=True))
        sizes = [len(chunk.clips) for chunk in chosen]
        what = f"features of {', '.join({chunk.clips[0].corpus for chunk in chosen})}, {view.name}, {take.name}"
        for chunk, key in progress(what, chunks, sizes) if any(fresh) else chunks:

            def make(chunk: Chunk = chunk) -> dict[str, Any]:
                return extract(model, take.of(chunk.load(), detector), view, int(chunk.digest, 16))

            yield chunk, ClipFeatures(**recordings.cache.arrays("features", key, make))


class ClipRows(Rows):
    """Rows whose `clips` are numbers within a set of recordings."""

    def where_clips(self, clips: Sequence[int]) -> Rows:
        return self.where(np.isin(self.clips, clips))


def joined(parts: Sequence[Rows]) -> Rows:
    """All views below each other: a clip's weight is then shared by its windows of all views."""
    return Rows(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Rows)))


def extract(
    model: AudioEmotionModel, recordings: Sequence[Recording], view: View, seed: int = 0
) -> dict[str, npt.NDArray[Any]]:
    """The windows of some clips; if the view degrades them, by the chances of a seed, which may not be the same for
    all corpora and actors: their clips come in the same order of emotions.
    """
    random = np.random.default_rng(seed)
    sounds, lengths, of, numbers = [], [], [], []
    for number, recording in enumerate(recordings):
        for window in voice_windows(recording, view.plan):
            sound = window.samples, window.length_samples
            samples, length_samples = degraded(*sound, random) if view.degraded else sound
            sounds.append(samples)
            lengths.append(length_samples)
            of.append(number)
            numbers.append(window.index)
    features = [np.zeros((0, _width(model)), np.float16)]
    for first in range(0, len(sounds), BATCH):
        batch = slice(first, first + BATCH)
        with torch.autocast("cpu", torch.bfloat16):  # half the time; see the model card for what it changes
            found = model.features(np.stack(sounds[batch]), np.array(lengths[batch], np.int64))
        features.append(found.astype(np.float16))
    counts = [n_windows(recording, view.plan) for recording in recordings]
    integers = {name: np.array(values, np.int64) for name, values in (("clips", of), ("windows", numbers))}
    return {"features": np.concatenate(features), **integers, "counts": np.array(counts, np.int64)}


def _width(model: AudioEmotionModel) -> int:
    silence = np.zeros((1, model.window_samples), np.float32)
    return len(model.features(silence, np.array([model.window_samples]))[0])


def _head(state: dict[str, npt.NDArray[Any]]) -> nn.Sequential:
    """The head with the weights of a state dict, among other arrays."""
    layers = {}
    for name in ("0", "2"):
        weight, bias = (torch.from_numpy(state[f"{name}.{part}"]) for part in ("weight", "bias"))
        layers[name] = nn.Linear(weight.shape[1], weight.shape[0])
        layers[name].load_state_dict({"weight": weight, "bias": bias})
    return nn.Sequential(layers["0"], nn.ReLU(), layers["2"]).eval()


class HeadModel:
    """A head on the features of a `FrozenEncoder`.

    Attributes:
        head: Linear-ReLU-Linear, 3,840 features to 8 logits.
        accuracy: as in `VoiceModel`.
    """

    def __init__(self, recipe: FrozenEncoder, head: nn.Sequential, accuracy: float = float("nan")) -> None:
        self._recipe, self.head, self.accuracy = recipe, head, accuracy

    @classmethod
    def shipped(cls, recipe: FrozenEncoder, folder: Path = COMPACT_AUDIO.folder) -> "HeadModel":
        """The shipped model, which no protocol may measure on speakers that it saw."""
        return cls(recipe, load_checkpoint(folder).classifier)

    @torch.inference_mode()
    def judge(self, recordings: Recordings, clips: Sequence[int], take: Take = AS_RECORDED) -> list[FloatArray]:
        judged: dict[int, FloatArray] = {}
        for chunk, found in self._recipe.features(recordings, PRODUCT_VIEW, take, clips):
            logits = self.head(torch.from_numpy(found.features.astype(np.float32)))
            rows = logits.softmax(dim=1).numpy()
            for place, number in enumerate(chunk.numbers):
                mine = found.clips == place
                judged[number] = np.full((found.counts[place], N_EMOTIONS), np.nan, np.float32)
                judged[number][found.windows[mine]] = rows[mine]
        return [judged[number] for number in clips]
