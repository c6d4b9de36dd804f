"""From a clip's sound to the windows that the model trains on: cut as the product cuts, judged by its voice gate, and
degraded as sound found in the wild is. Arrays in, arrays out.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.voice import CHUNK_SAMPLES, VoiceDetector
from worker.recipe import Gates
from worker.windows import WindowPlan

FloatArray = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000

# What real recordings do to a voice and these studios did not. Where the limits are and that only some clips lose their
# upper band is ours; that RAVDESS alone has sound above 5.5 kHz is why there is a low-pass: the corpora must not be
# told apart by bandwidth.
GAIN_DB = (-12.0, 12.0)
NOISE_SNR_DB = (10.0, 40.0)
CUTOFF_HZ = (3000.0, 7000.0)
LOW_PASS_SHARE = 0.5


@dataclass(frozen=True)
class Cut:
    """One window: (window_samples,) float32, zero-padded, and how many of them are real sound."""

    samples: FloatArray
    length_samples: int


def speech_of(sound: FloatArray, detector: VoiceDetector) -> FloatArray:
    """The speech probability of each 32 ms of a whole clip, (m,) float32, the last chunk zero-padded."""
    detector.reset()
    return np.concatenate([detector.feed(sound), detector.flush()])


def windows_of(sound: FloatArray, speech: FloatArray, plan: WindowPlan, gates: Gates | None = None) -> list[Cut]:
    """The windows of a clip that pass the product's voice gate; if none does, the one with the most speech.

    Args:
        sound: (n,) float32 at 16 kHz.
        speech: (m,) float32, speech probabilities of its 32 ms chunks.
        plan: how the product cuts; gates: when it takes a window (its defaults unless given).
    """
    gates = gates or Gates()
    duration_seconds = len(sound) / SAMPLE_RATE_HZ
    windows = [plan.window(k, duration_seconds) for k in range(plan.count(duration_seconds))]
    bounds = [(round(w.start_seconds * SAMPLE_RATE_HZ), round(w.end_seconds * SAMPLE_RATE_HZ)) for w in windows]
    spoken = speech >= gates.speech_probability
    shares = [float(spoken[a // CHUNK_SAMPLES : -(-b // CHUNK_SAMPLES)].mean()) for a, b in bounds]
    least = min(gates.min_speech_share, max(shares, default=0.0))
    window_samples = plan.window_ms * SAMPLE_RATE_HZ // 1000
    return [_cut(sound[a:b], window_samples) for (a, b), share in zip(bounds, shares, strict=True) if share >= least]


def _cut(piece: FloatArray, window_samples: int) -> Cut:
    samples = np.zeros(window_samples, np.float32)
    samples[: len(piece)] = piece
    return Cut(samples, len(piece))


def degrade(sound: FloatArray, random: np.random.Generator) -> FloatArray:
    """The clip at another level, with white noise, and for some without its upper band. (n,) to (n,) float32."""
    degraded = sound.astype(np.float64)
    if random.random() < LOW_PASS_SHARE:
        degraded = low_pass(degraded, random.uniform(*CUTOFF_HZ))
    degraded *= decibels(random.uniform(*GAIN_DB))
    level = np.sqrt(np.mean(np.square(degraded))) if len(degraded) else 0.0
    degraded += random.standard_normal(len(degraded)) * level * decibels(-random.uniform(*NOISE_SNR_DB))
    return np.asarray(np.clip(degraded, -1.0, 1.0), np.float32)


def low_pass(sound: npt.NDArray[np.float64], cutoff_hz: float) -> npt.NDArray[np.float64]:
    """Take away all above a frequency."""
    spectrum = np.fft.rfft(sound)
    spectrum[np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE_HZ) > cutoff_hz] = 0.0
    return np.fft.irfft(spectrum, len(sound))


def decibels(amount: float) -> float:
    """The factor on an amplitude that so many dB stand for."""
    return float(10.0 ** (amount / 20.0))
