"""Emotion from sound: the frozen encoder of Whisper tiny.en (Radford et al. 2022, arXiv 2212.04356) and a head.

The encoder reads a window at the window's own length, not padded to 30 s. Each of its five hidden layers is reduced
to its mean and standard deviation over time, and the head turns these 3,840 numbers into probabilities. Knows nothing
of windows' times, of voice activity or of other modalities.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperPreTrainedModel

from models.errors import ModelError
from models.taxonomy import widen

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

SAMPLE_RATE_HZ = 16_000
FFT_SAMPLES = 400  # 25 ms
FRAME_SAMPLES = 160  # 10 ms: one column of the spectrogram
POSITION_SAMPLES = 2 * FRAME_SAMPLES  # 20 ms: one position of the encoder, whose second convolution has stride 2
MAX_WINDOW_SECONDS = 30.0  # 1,500 positions
STD_FLOOR = 1e-5  # below a variance of this, a feature counts as constant: keeps the root's slope finite

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class LogMel(nn.Module):
    """Whisper's log-mel spectrogram, (n, samples) -> (n, 80, samples / 160), on the device where the model is.

    Equal to transformers' `WhisperFeatureExtractor` on sound of exactly this length, many times faster in a batch.
    """

    filters: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = np.asarray(WhisperFeatureExtractor().mel_filters.T, np.float32)
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)
        self.register_buffer("window", torch.hann_window(FFT_SAMPLES), persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        spectrum = torch.stft(waveforms, FFT_SAMPLES, FRAME_SAMPLES, window=self.window, return_complex=True)
        power = spectrum[..., :-1].abs().square().contiguous()
        log_mel = (self.filters @ power).clamp(min=1e-10).log10()
        floor = log_mel.amax(dim=(1, 2), keepdim=True) - 8.0
        return (torch.maximum(log_mel, floor) + 4.0) / 4.0


def pool_over_time(layers: Sequence[Tensor], n_positions: Tensor) -> Tensor:
    """Mean and standard deviation over the positions that hold real sound, in float32 whatever the layers are.

    Args:
        layers: (n, positions, features) each.
        n_positions: (n,) int64, how many of the positions, from the first on, hold real sound; at least 1.

    Returns:
        (n, 2 * features of all layers): all means, then all standard deviations.
    """
    held = torch.arange(layers[0].shape[1], device=n_positions.device)[None, :] < n_positions[:, None]
    weights = (held.float() / n_positions[:, None])[:, None]
    means, variances = [], []
    with torch.autocast(n_positions.device.type, enabled=False):
        for layer in layers:  # one at a time, in products of matrices: ten times faster than sums over all of them
            values = layer.float()
            mean = weights @ values
            means.append(mean[:, 0])
            variances.append((weights @ (values - mean).square_())[:, 0])
    return torch.cat([*means, *(variance.clamp(min=STD_FLOOR).sqrt() for variance in variances)], dim=1)


class WhisperForEmotion(WhisperPreTrainedModel):  # type: ignore[misc]
    """The encoder and the head, in the layout of Hugging Face; `config.id2label` names the head's outputs."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        self.encoder = WhisperEncoder(config)
        n_features = 2 * (config.encoder_layers + 1) * config.d_model
        hidden = config.classifier_proj_size
        self.classifier = nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, config.num_labels))
        self.post_init()

    def features(self, log_mel: Tensor, n_positions: Tensor) -> Tensor:
        """(n, 80, 2 * positions) log-mel -> (n, 3840) float32: mean and deviation over time of all hidden layers."""
        layers = self.encoder(log_mel, output_hidden_states=True).hidden_states
        return pool_over_time(layers, n_positions)

    def forward(self, log_mel: Tensor, n_positions: Tensor) -> Tensor:
        """(n, 80, 2 * positions) log-mel -> (n, labels) logits."""
        logits: Tensor = self.classifier(self.features(log_mel, n_positions))
        return logits


def cut_to_positions(model: WhisperForEmotion, n_positions: int) -> None:
    """Let the encoder read exactly `n_positions` (of 20 ms) instead of 30 s, at a cost in proportion."""
    weight = model.encoder.embed_positions.weight[:n_positions].clone()
    model.encoder.embed_positions = nn.Embedding(n_positions, weight.shape[1], _weight=weight, _freeze=True)
    model.config.max_source_positions = n_positions  # the encoder and all parts share this object


class AudioEmotionModel:
    """Waveforms of one fixed window length in, probabilities out."""

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, model: WhisperForEmotion, *, window_seconds: float, device: str = "cpu") -> None:
        """Take a model that reads 30 s; it is cut to the window in place. The window is in 0 < seconds <= 30."""
        if not 0 < window_seconds <= MAX_WINDOW_SECONDS:
            raise ValueError(f"window_seconds must be over 0 and at most {MAX_WINDOW_SECONDS:g}, got {window_seconds}")
        self.labels: tuple[str, ...] = tuple(label for _, label in sorted(model.config.id2label.items()))
        self.window_samples = round(window_seconds * SAMPLE_RATE_HZ)
        self._n_positions = math.ceil(self.window_samples / POSITION_SAMPLES)
        cut_to_positions(model, self._n_positions)
        self._device = torch.device(device)
        self._model = model.to(self._device, torch.float32).eval()
        self._log_mel = LogMel().to(self._device)

    @classmethod
    def load(cls, folder: Path, *, window_seconds: float, device: str = "cpu") -> Self:
        """Read `config.json` and `model.safetensors`.

        Raises:
            ModelError: a file is missing or damaged, or the two do not fit each other; the message names it.
            ValueError: the window is not in 0 < seconds <= 30.
        """
        return cls(load_checkpoint(folder), window_seconds=window_seconds, device=device)

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
        sound = torch.from_numpy(np.ascontiguousarray(waveforms, np.float32)).to(self._device)
        padding = self._n_positions * POSITION_SAMPLES - self.window_samples
        n_positions = -(-np.asarray(lengths_samples, np.int64) // POSITION_SAMPLES)
        log_mel = self._log_mel(nn.functional.pad(sound, (0, padding)))
        return log_mel, torch.from_numpy(n_positions).to(self._device)

    def _check(self, waveforms: FloatArray, lengths_samples: IntArray) -> None:
        if waveforms.ndim != 2 or waveforms.shape[1] != self.window_samples:
            raise ValueError(f"waveforms must be (n, {self.window_samples}), got {waveforms.shape}")
        if lengths_samples.shape != waveforms.shape[:1]:
            raise ValueError(f"{len(waveforms)} waveforms, but lengths of shape {lengths_samples.shape}")
        if len(lengths_samples) and not 1 <= lengths_samples.min() <= lengths_samples.max() <= self.window_samples:
            raise ValueError(f"lengths must be 1 to {self.window_samples} samples, got {lengths_samples}")


def load_checkpoint(folder: Path) -> WhisperForEmotion:
    """The model of a folder, as it was saved: float16 weights become float32, every weight has to be there.

    Raises:
        ModelError: a file is missing or damaged, or the two do not fit each other; the message names it.
    """
    path = folder / CONFIG_FILE
    try:
        config = WhisperConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
        model = WhisperForEmotion(config)
        path = folder / WEIGHTS_FILE
        model.load_state_dict(load_file(path), strict=True)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise ModelError(f"{path}: cannot be read as an audio emotion model: {error}") from error
    return model
