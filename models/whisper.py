"""Whisper's spectrogram and encoder (Radford et al. 2022, arXiv 2212.04356), and statistics of its layers over time.

The encoder's weights have the names that transformers gives them. It is written out here because transformers' own
takes longer to import than PyTorch; the tests hold the two to be equal.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

SAMPLE_RATE_HZ = 16_000
FFT_SAMPLES = 400  # 25 ms
FRAME_SAMPLES = 160  # 10 ms: one column of the spectrogram
POSITION_SAMPLES = 2 * FRAME_SAMPLES  # 20 ms: one position of the encoder, whose second convolution has stride 2
MEL_BANDS = 80
SHORT_POSITIONS = 256  # up to which PyTorch's attention by blocks is slower on a CPU than whole products of matrices
STD_FLOOR = 1e-5  # below a variance of this, a feature counts as constant: keeps the root's slope finite

# Slaney's mel scale (Auditory Toolbox, 1998): linear up to 1 kHz, logarithmic above it.
HZ_PER_MEL = 200 / 3
BREAK_HZ, BREAK_MEL = 1000.0, 15.0
MELS_PER_E_FOLD = 27 / np.log(6.4)


def mel_filters() -> npt.NDArray[np.float32]:
    """(80, 201) triangles of equal area, even on the mel scale from 0 to 8 kHz, on the frequencies of the spectrum."""
    nyquist = SAMPLE_RATE_HZ / 2
    top = BREAK_MEL + MELS_PER_E_FOLD * np.log(nyquist / BREAK_HZ)
    mels = np.linspace(0.0, top, MEL_BANDS + 2)
    edges = np.where(mels < BREAK_MEL, mels * HZ_PER_MEL, BREAK_HZ * np.exp((mels - BREAK_MEL) / MELS_PER_E_FOLD))
    spectrum = np.linspace(0.0, nyquist, FFT_SAMPLES // 2 + 1)
    low, centre, high = (edges[i : i + MEL_BANDS, None] for i in range(3))
    rising, falling = (spectrum - low) / (centre - low), (high - spectrum) / (high - centre)
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (high - low), np.float32)


class LogMel(nn.Module):
    """Whisper's log-mel spectrogram, (n, samples) -> (n, 80, samples / 160) float32, on the device where the model is.

    Equal to transformers' `WhisperFeatureExtractor` on sound of exactly this length, many times faster in a batch.
    """

    filters: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", torch.from_numpy(mel_filters()), persistent=False)
        self.register_buffer("window", torch.hann_window(FFT_SAMPLES), persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        spectrum = torch.stft(waveforms, FFT_SAMPLES, FRAME_SAMPLES, window=self.window, return_complex=True)
        spectrum = spectrum[..., :-1]
        power = spectrum.real.square() + spectrum.imag.square()  # abs() takes its time not to overflow
        log_mel = (self.filters @ power).clamp(min=1e-10).log10()
        floor = log_mel.amax(dim=(1, 2), keepdim=True) - 8.0
        return (torch.maximum(log_mel, floor) + 4.0) / 4.0


class Attention(nn.Module):
    """Self-attention over all positions (Vaswani et al. 2017, arXiv 1706.03762)."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(3))
        self.k_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, positions, width) to the same shape."""
        q, k, v = (
            project(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if x.is_cuda or x.shape[1] > SHORT_POSITIONS:
            seen = functional.scaled_dot_product_attention(q, k, v)
        else:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
            seen = scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v
        return self.out_proj(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Attention and two linear layers, each on normalised input and added to it."""

    def __init__(self, width: int, n_heads: int, n_hidden: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, n_heads)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, n_hidden), nn.Linear(n_hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, positions, width) to the same shape."""
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Two convolutions, positions, layers; (n, mel bands, 2 * positions) log-mel to each layer's output.

    Args:
        width: features at each position.
        n_hidden: units of a layer's inner linear layer.
        n_positions: the most that it can read.
    """

    def __init__(self, n_mels: int, width: int, n_layers: int, n_heads: int, n_hidden: int, n_positions: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(n_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(n_positions, width)
        self.layers = nn.ModuleList(EncoderLayer(width, n_heads, n_hidden) for _ in range(n_layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, log_mel: Tensor) -> list[Tensor]:
        """What enters the first layer, what leaves each but the last, and what leaves that one, normalised.

        (n, positions, width) each, in the format of the weights; at most as many positions as the encoder knows.
        """
        x = functional.gelu(self.conv1(log_mel.to(self.conv1.weight.dtype)))
        x = functional.gelu(self.conv2(x)).transpose(1, 2)
        states = [x + self.embed_positions.weight[: x.shape[1]]]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return [*states[:-1], self.layer_norm(states[-1])]


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
