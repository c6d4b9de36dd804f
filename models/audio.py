"""Emotion from sound: the frozen encoder of Whisper tiny.en (Radford et al. 2022, arXiv 2212.04356) and a head.

The encoder reads a window at the window's own length, not padded to 30 s. Each of its five hidden layers is reduced
to its mean and standard deviation over time, and the head turns these 3,840 numbers into probabilities. Knows nothing
of windows' times, of voice activity or of other modalities.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.errors import ModelError
from models.precision import to_device
from models.taxonomy import widen
from models.whisper import POSITION_SAMPLES, SAMPLE_RATE_HZ, Encoder, LogMel, pool_over_time

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

MAX_WINDOW_SECONDS = 30.0  # 1,500 positions

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class VoiceConfig:
    """What of `config.json` the network is built from; transformers' names."""

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    num_mel_bins: int
    max_source_positions: int
    classifier_proj_size: int
    id2label: Mapping[int, str]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Take it out of the file's content; raises KeyError, ValueError, TypeError or AttributeError."""
        sizes = {name: int(config[name]) for name in cls.__dataclass_fields__ if name != "id2label"}
        return cls(**sizes, id2label={int(index): label for index, label in config["id2label"].items()})

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of the head's outputs."""
        return tuple(label for _, label in sorted(self.id2label.items()))


class WhisperForEmotion(nn.Module):
    """The encoder and the head, in the layout of Hugging Face; `config.id2label` names the head's outputs."""

    def __init__(self, config: VoiceConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(
            n_mels=config.num_mel_bins,
            width=config.d_model,
            n_layers=config.encoder_layers,
            n_heads=config.encoder_attention_heads,
            n_hidden=config.encoder_ffn_dim,
            n_positions=config.max_source_positions,
        )
        n_features, hidden = 2 * (config.encoder_layers + 1) * config.d_model, config.classifier_proj_size
        self.classifier = nn.Sequential(
            nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, len(config.id2label))
        )

    def features(self, log_mel: Tensor, n_positions: Tensor) -> Tensor:
        """(n, 80, 2 * positions) log-mel -> (n, 3840) float32: mean and deviation over time of all hidden layers."""
        return pool_over_time(self.encoder(log_mel), n_positions)

    def forward(self, log_mel: Tensor, n_positions: Tensor) -> Tensor:
        """(n, 80, 2 * positions) log-mel -> (n, labels) logits."""
        logits: Tensor = self.classifier(self.features(log_mel, n_positions))
        return logits


class AudioEmotionModel:
    """Waveforms of one fixed window length in, probabilities out."""

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(
        self,
        model: WhisperForEmotion,
        *,
        window_seconds: float,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take a model over: it is moved to the device, and its encoder computes in `dtype`; the head in float32.

        The window is in 0 < seconds <= 30.
        """
        if not 0 < window_seconds <= MAX_WINDOW_SECONDS:
            raise ValueError(f"window_seconds must be over 0 and at most {MAX_WINDOW_SECONDS:g}, got {window_seconds}")
        self.labels = model.config.labels
        self.window_samples = round(window_seconds * SAMPLE_RATE_HZ)
        self._n_positions = math.ceil(self.window_samples / POSITION_SAMPLES)
        self._device = torch.device(device)
        self._model = model.to(self._device, torch.float32).eval()
        self._model.encoder.to(dtype)
        self._log_mel = LogMel().to(self._device)

    @classmethod
    def load(
        cls, folder: Path, *, window_seconds: float, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Self:
        """Read `config.json` and `model.safetensors`.

        Raises:
            ModelError: a file is missing or damaged, or the two do not fit each other; the message names it.
            ValueError: the window is not in 0 < seconds <= 30.
        """
        return cls(load_checkpoint(folder), window_seconds=window_seconds, device=device, dtype=dtype)

    def predict(self, waveforms: FloatArray, lengths_samples: IntArray) -> FloatArray:
        """Probabilities of the emotions in each window.

        Args:
            waveforms: (n, window_samples) float32 in -1..1, 16 kHz; a row shorter than the window is zero-padded.
            lengths_samples: (n,) int64, how much of each row is real sound, 1 to window_samples.

        Returns:
            (n, 8) float32 in the order of `EMOTIONS`; rows sum to 1 over the model's labels, the others are NaN.

        Raises:
            ValueError: the shapes or lengths are not as above.
        """
        self._check(waveforms, lengths_samples)
        if not len(waveforms):
            return widen(np.zeros((0, len(self.labels))), self.labels)
        with torch.inference_mode():
            logits = self._model(*self._prepare(waveforms, lengths_samples))
            return widen(logits.float().softmax(dim=1).cpu().numpy(), self.labels)

    def features(self, waveforms: FloatArray, lengths_samples: IntArray) -> FloatArray:
        """The (n, 3840) float32 features that the head reads. Arguments and errors as in `predict`; n is at least 1."""
        self._check(waveforms, lengths_samples)
        with torch.inference_mode():
            features = self._model.features(*self._prepare(waveforms, lengths_samples))
            return np.asarray(features.cpu().numpy(), np.float32)

    def _prepare(self, waveforms: FloatArray, lengths_samples: IntArray) -> tuple[Tensor, Tensor]:
        sound = to_device(np.ascontiguousarray(waveforms, np.float32), self._device)
        padding = self._n_positions * POSITION_SAMPLES - self.window_samples
        n_positions = -(-np.asarray(lengths_samples, np.int64) // POSITION_SAMPLES)
        log_mel = self._log_mel(nn.functional.pad(sound, (0, padding)))
        return log_mel, to_device(n_positions, self._device)

    def _check(self, waveforms: FloatArray, lengths_samples: IntArray) -> None:
        if waveforms.ndim != 2 or waveforms.shape[1] != self.window_samples:
            raise ValueError(f"waveforms must be (n, {self.window_samples}), got {waveforms.shape}")
        if lengths_samples.shape != waveforms.shape[:1]:
            raise ValueError(f"{len(waveforms)} waveforms, but lengths of shape {lengths_samples.shape}")
        if len(lengths_samples) and not 1 <= lengths_samples.min() <= lengths_samples.max() <= self.window_samples:
            raise ValueError(f"lengths must be 1 to {self.window_samples} samples, got {lengths_samples}")


_LOADING_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError)


def load_checkpoint(folder: Path) -> WhisperForEmotion:
    """The model of a folder, as it was saved: float16 weights become float32, every weight has to be there.

    Raises:
        ModelError: a file is missing or damaged, or the two do not fit each other; the message names it.
    """
    path = folder / CONFIG_FILE
    try:
        config = VoiceConfig.of(json.loads(path.read_text(encoding="utf-8")))
        model = WhisperForEmotion(config)
        path = folder / WEIGHTS_FILE
        model.load_state_dict(load_file(path), strict=True)
    except _LOADING_ERRORS as error:
        raise ModelError(f"{path}: cannot be read as an audio emotion model: {error!r}") from error
    return model
