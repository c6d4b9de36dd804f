"""From kept windows to batches of a network's inputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.hub import SAMPLE_RATE_HZ, PixelScale, extractor_options
from models.training.kept_windows import KeptClip

MIN_SAMPLES = 8_000  # 0.5 s: what wav2vec 2.0 masks in training must fit in


class Windows(Dataset[dict[str, Any]]):
    """The windows of clips, each with its clip's label; sound in the order of its length, so that batches need little
    padding where they are not shuffled.
    """

    def __init__(self, clips: Sequence[KeptClip], labels: Sequence[str]) -> None:
        self.clips, self._labels = clips, labels
        self.places = [(c, w) for c, clip in enumerate(clips) for w in range(len(clip))]
        self.places.sort(key=lambda place: -int(np.ptp(clips[place[0]].index[place[1]])))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict[str, Any]:
        clip, window = self.places[number]
        return {"window": self.clips[clip].window(window), "label": self.label_of(number)}

    def label_of(self, number: int) -> int:
        """The place of a window's emotion among the labels."""
        return self._labels.index(self.clips[self.places[number][0]].clip.emotion)


class SoundCollator:
    """Makes one batch of windows of sound, padded to the longest as the checkpoint's own feature extractor pads."""

    def __init__(self, config: Any, extractor: Any, input_name: str) -> None:
        self._options, self._extractor, self._input_name = extractor_options(config, extractor), extractor, input_name

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        waves = [item["window"] for item in items]
        short = max(map(len, waves)) < MIN_SAMPLES
        padding = {"padding": "max_length", "max_length": MIN_SAMPLES} if short else {"padding": True}
        options = padding | self._options
        made = self._extractor(waves, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt", **options)
        inputs = {name: made[name] for name in (self._input_name, "attention_mask") if name in made}
        return inputs | {"labels": torch.tensor([item["label"] for item in items])}


class PictureCollator:
    """Makes one batch of windows of pictures, by the arithmetic that the pipeline does for this checkpoint."""

    def __init__(self, processor: Any, input_name: str) -> None:
        self._scale, self._input_name = PixelScale.of(processor, torch.device("cpu")), input_name

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        pixels = self._scale.normalised(np.stack([item["window"] for item in items]))
        return {self._input_name: pixels, "labels": torch.tensor([item["label"] for item in items])}
