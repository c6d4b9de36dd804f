"""Trains the emotion head of the audio model on RAVDESS and CREMA-D together, and measures it on unseen speakers.

    python -m models.training.audio --data FOLDER --whisper tiny.en.pt --out models/weights/audio

FOLDER holds `ravdess-audio/` and `crema-d-audio/`. `tiny.en.pt` is OpenAI's own checkpoint. The rows are what the
product sees: windows of clips, those with too little speech left out as the product leaves them out. A clip's
prediction is the mean log-probability of its 2-second windows, 1 second apart, over its corpus's labels.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import WhisperFeatureExtractor

from models.audio import CONFIG_FILE, SAMPLE_RATE_HZ, WEIGHTS_FILE, AudioEmotionModel, WhisperForEmotion
from models.taxonomy import EMOTIONS
from models.training.corpora import Clip, clips_in, crema_d_clip, javanese_clip, ravdess_clip, read_sound, test_folds
from models.training.head import (
    HeadOptions,
    Rows,
    divide_logits,
    known_labels,
    log_probabilities,
    logits_of,
    refuse_shared_speakers,
    temperature,
    train_head,
)
from models.training.sound import Cut, degrade, speech_of, windows_of
from models.training.whisper import read_whisper

FloatArray = npt.NDArray[np.float32]

BATCH = 32  # windows in one run of the encoder
METRICS_FILE = "metrics.json"
PREPROCESSOR_FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class View:
    """One way of looking at all clips: windows of one length, as recorded or degraded like found sound."""

    name: str
    window_ms: int
    hop_ms: int
    degraded: bool = False


PRODUCT_VIEW = View("2s", 2000, 1000)
VIEWS = (PRODUCT_VIEW, View("2s-degraded", 2000, 1000, True), View("1s", 1000, 1000), View("4s", 4000, 4000))


def extract(model: AudioEmotionModel, clips: Sequence[Clip], view: View, *, seed: int = 0) -> Rows:
    """The features of every window of the clips, float16, with the labels that each clip's corpus has."""
    random = np.random.default_rng(seed)
    labels = {name: known_labels([c.emotion for c in clips if c.corpus == name]) for name in {c.corpus for c in clips}}
    cuts = [(i, cut) for i, clip in enumerate(clips) for cut in _cuts(clip, view, random)]
    of = np.array([i for i, _ in cuts], np.int64)
    return Rows(
        np.concatenate(list(_features(model, [cut for _, cut in cuts]))),
        np.array([EMOTIONS.index(clips[i].emotion) for i in of], np.int64),
        np.stack([labels[clips[i].corpus] for i in of]),
        of,
        np.array([clips[i].speaker for i in of]),
    )


def _cuts(clip: Clip, view: View, random: np.random.Generator) -> list[Cut]:
    sound = read_sound(clip.path)
    speech = speech_of(sound)  # of the clip as recorded, so that all views judge the same stretches
    return windows_of(degrade(sound, random) if view.degraded else sound, speech, view.window_ms, view.hop_ms)
