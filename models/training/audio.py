"""Trains the emotion head of the audio model on RAVDESS and CREMA-D together, and measures it on unseen speakers.

    python -m models.training.audio --data FOLDER --whisper tiny.en.pt --out models/weights/audio

FOLDER holds `ravdess-audio/` and `crema-d-audio/`. `tiny.en.pt` is OpenAI's own checkpoint. The rows are what the
product sees: windows of clips, those with too little speech left out as the product leaves them out. A clip's
prediction is the mean log-probability of its 2-second windows, 1 second apart, over its corpus's labels.
"""

import argparse
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save as serialised
from torch import nn
from transformers import WhisperFeatureExtractor

from models.audio import CONFIG_FILE, WEIGHTS_FILE, AudioEmotionModel, WhisperForEmotion, load_checkpoint
from models.taxonomy import EMOTIONS
from models.training.corpora import (
    Clip,
    clips_in,
    corpora,
    crema_d_clip,
    javanese_clip,
    ravdess_clip,
    read_sound,
)
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
from models.training.metrics import calibration_error
from models.training.protocols import joint_folds, refuse_shared_speakers
from models.training.sound import Cut, degrade, speech_of, windows_of
from models.training.whisper import read_whisper
from models.voice import VoiceDetector
from worker.windows import WindowPlan

FloatArray = npt.NDArray[np.float32]

BATCH = 32  # windows in one run of the encoder
METRICS_FILE = "metrics.json"


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


class Extractor:
    """Gathers the features of one view, window after window."""

    def __init__(self, whisper: WhisperForEmotion, view: View) -> None:
        self._model = AudioEmotionModel(copy.deepcopy(whisper), window_seconds=view.plan.window_ms / 1000)
        self._view = view
        self._random = np.random.default_rng(0)
        self._waiting: list[Cut] = []
        self._features: list[npt.NDArray[np.float16]] = []
        self._clips: list[int] = []

    def add(self, clip: int, sound: FloatArray, speech: FloatArray) -> None:
        """Take a clip: its number, its sound (n,) and its speech probabilities (m,)."""
        heard = degrade(sound, self._random) if self._view.degraded else sound
        cuts = windows_of(heard, speech, self._view.plan)
        self._clips += [clip] * len(cuts)
        self._waiting += cuts
        if len(self._waiting) >= BATCH:
            self._run()

    def _run(self) -> None:
        waveforms = np.stack([cut.samples for cut in self._waiting])
        lengths = np.array([cut.length_samples for cut in self._waiting], np.int64)
        with torch.autocast("cpu", torch.bfloat16):  # half the time; the head hardly notices (see the model card)
            self._features.append(self._model.features(waveforms, lengths).astype(np.float16))
        self._waiting = []

    def rows(self, clips: Sequence[Clip]) -> Rows:
        """All windows so far, with the labels that each clip's corpus has."""
        if self._waiting:
            self._run()
        of = np.array(self._clips, np.int64)
        emotions = np.array([EMOTIONS.index(clip.emotion) for clip in clips], np.int64)
        labels = {corpus: known_labels([c.emotion for c in clips if c.corpus == corpus]) for corpus in corpora(clips)}
        known = np.stack([labels[clip.corpus] for clip in clips])
        speakers = np.array([clip.speaker for clip in clips])
        return Rows(np.concatenate(self._features), emotions[of], known[of], of, speakers[of])


def extract(whisper: WhisperForEmotion, clips: Sequence[Clip], views: Sequence[View]) -> dict[str, Rows]:
    """The features of every window of the clips in each view, float16; the sound is read once."""
    detector = VoiceDetector()
    extractors = {view.name: Extractor(whisper, view) for view in views}
    for number, clip in enumerate(clips):
        sound = read_sound(clip.path)
        speech = speech_of(sound, detector)  # of the clip as recorded: all views take the same stretches
        for extractor in extractors.values():
            extractor.add(number, sound, speech)
        if number % 500 == 0:
            print(f"{number} of {len(clips)} clips", flush=True)
    return {name: extractor.rows(clips) for name, extractor in extractors.items()}


def cached(folder: Path | None, make: Callable[[], dict[str, Rows]], views: Sequence[View]) -> dict[str, Rows]:
    """Rows of a folder, or made and written there; a cache is only good for the same clips and code."""
    if folder is None:
        return make()
    if not folder.exists():
        made = make()
        folder.mkdir(parents=True)
        for name, rows in made.items():
            np.savez(folder / f"{name}.npz", **{field.name: getattr(rows, field.name) for field in fields(rows)})
    return {view.name: Rows(**np.load(folder / f"{view.name}.npz")) for view in views}


def joined(parts: Sequence[Rows]) -> Rows:
    """All views below each other: a clip's weight is then shared by its windows of all views."""
    return Rows(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Rows)))


def out_of_fold(
    views: Mapping[str, Rows], folds: Sequence[frozenset[str]], options: HeadOptions
) -> dict[str, FloatArray]:
    """Each view's logits, (n, 8), each row's by a head that was trained without the row's speaker (nor their fold).

    Raises:
        ValueError: a speaker is in no fold or in several, or would be trained on and tested.
    """
    logits = {name: np.full((len(rows.emotions), len(EMOTIONS)), np.nan, np.float32) for name, rows in views.items()}
    everything = joined(list(views.values()))
    for speakers in folds:
        train = everything.where(~np.isin(everything.speakers, list(speakers)))
        head = train_head(train, options)
        for name, rows in views.items():
            tested = np.isin(rows.speakers, list(speakers))
            refuse_shared_speakers(train.speakers, rows.speakers[tested])
            logits[name][tested] = logits_of(head, rows.where(tested))
    if any(np.isnan(part).any() for part in logits.values()):
        raise ValueError("a speaker is in no fold")
    return logits


def clip_scores(logits: FloatArray, rows: Rows) -> dict[str, Any]:
    """Weighted and unweighted average recall (WA, UAR) of clips; accuracy and calibration error of windows; percent.

    Args:
        logits: (n, 8) of the rows, with the temperature in them.
    """
    windows = log_probabilities(logits, rows.known)
    clips, first, of = np.unique(rows.clips, return_index=True, return_inverse=True)
    sums = np.zeros((len(clips), len(EMOTIONS)))
    np.add.at(sums, of, windows)
    right = sums.argmax(axis=1) == (truth := rows.emotions[first])
    recalls = [right[truth == emotion].mean() for emotion in np.unique(truth)]
    window_accuracy = np.mean(windows.argmax(axis=1) == rows.emotions)
    figures = {"wa": right.mean(), "uar": np.mean(recalls), "window_accuracy": window_accuracy}
    figures["window_calibration_error"] = calibration_error(np.exp(windows), rows.emotions)
    return {"clips": len(clips)} | {name: round(100 * float(value), 1) for name, value in figures.items()}


def scores(logits: FloatArray, rows: Rows) -> dict[str, Any]:
    """The figures of each corpus."""
    of = np.array([speaker.split("/")[0] for speaker in rows.speakers])
    return {str(corpus): clip_scores(logits[of == corpus], rows.where(of == corpus)) for corpus in np.unique(of)}


def save(whisper: WhisperForEmotion, head: nn.Sequential, out: Path) -> None:
    """Write encoder and head, float16, in the layout of Hugging Face."""
    out.mkdir(parents=True, exist_ok=True)
    whisper.classifier.load_state_dict(head.state_dict())
    state = {name: value.half().contiguous() for name, value in whisper.state_dict().items()}
    (out / WEIGHTS_FILE).write_bytes(serialised(state, metadata={"format": "pt"}))
    whisper.config.architectures = [type(whisper).__name__]
    whisper.config.dtype = "float16"
    (out / CONFIG_FILE).write_text(whisper.config.to_json_string())
    WhisperFeatureExtractor().save_pretrained(out)


def train(
    whisper: WhisperForEmotion,
    clips: Sequence[Clip],
    out: Path,
    *,
    folds: Sequence[frozenset[str]],
    options: HeadOptions,
    views: Sequence[View] = VIEWS,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Extract, measure on unseen speakers, train on all, calibrate, save. Returns the figures."""
    rows = cached(cache, lambda: extract(whisper, clips, views), views)
    logits = out_of_fold(rows, folds, options)
    product = views[0].name
    softer = temperature(logits[product], rows[product])
    figures: dict[str, Any] = {
        "protocol": "5 folds by speaker; clips: mean log-probability of their windows; percent",
        "unseen speakers": {name: scores(logits[name] / np.float32(softer), rows[name]) for name in rows},
        "temperature": round(softer, 3),
        "options": asdict(options),
    }
    head = train_head(joined(list(rows.values())), options)
    divide_logits(head, softer)
    save(whisper, head, out)
    return figures


def foreign(out: Path, clips: Sequence[Clip]) -> dict[str, Any]:
    """The saved model's figures on a corpus that it never saw, over that corpus's own labels."""
    model = load_checkpoint(out)
    rows = extract(model, clips, [PRODUCT_VIEW])[PRODUCT_VIEW.name]
    return scores(logits_of(model.classifier, rows), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, train, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of ravdess-audio/ and crema-d-audio/")
    parser.add_argument("--whisper", type=Path, required=True, help="OpenAI's tiny.en.pt")
    parser.add_argument("--out", type=Path, required=True, help="where the model is written")
    parser.add_argument("--cache", type=Path, help="folder to keep the features in, for another run")
    parser.add_argument("--foreign", type=Path, help="folder of Javanese clips, to measure the saved model on only")
    given = parser.parse_args(arguments)
    clips = clips_in(given.data / "ravdess-audio", ravdess_clip) + clips_in(given.data / "crema-d-audio", crema_d_clip)
    options = HeadOptions()
    whisper = read_whisper(given.whisper, hidden=options.hidden)
    figures = train(whisper, clips, given.out, folds=joint_folds(), options=options, cache=given.cache)
    if given.foreign:
        figures["unseen corpus"] = foreign(given.out, clips_in(given.foreign, javanese_clip))
    (given.out / METRICS_FILE).write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
