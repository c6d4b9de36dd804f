"""Sound for training: where speech is in it, windows degraded as sound found in the wild is. Arrays in and out."""

import numpy as np
import numpy.typing as npt

from models.voice import VoiceDetector

FloatArray = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000

# What real recordings do to a voice and these studios did not; the limits are ours. RAVDESS alone has sound above
# 5.5 kHz, so many windows lose their upper band, some at that very frequency: the corpora must not be told apart by it.
SPEED, SPEED_SHARE = (0.88, 1.14), 0.6  # pitch, formants and tempo together: other people's voices
CUTOFF_HZ, LOW_PASS_SHARE = (2500.0, 7000.0), 0.5
CREMA_D_CUTOFF_HZ, CREMA_D_SHARE = 5500.0, 0.15  # above it CREMA-D has nothing
TILT_DB, TILT_SHARE = (-6.0, 6.0), 0.5  # over three octaves, around 1 kHz
NOISE_SNR_DB, NOISE_SHARE = (5.0, 40.0), 0.5
GAIN_DB = (-14.0, 10.0)


def speech_of(sound: FloatArray, detector: VoiceDetector) -> FloatArray:
    """The speech probability of each 32 ms of a whole clip, (m,) float32, the last chunk zero-padded."""
    detector.reset()
    return np.concatenate([detector.feed(sound), detector.flush()])


def degraded(window: FloatArray, length_samples: int, random: np.random.Generator) -> tuple[FloatArray, int]:
    """A window as another voice, room and microphone could have made it: speed, upper band, tilt, noise, gain.

    Args:
        window: (n,) float32, of which `length_samples` are real sound and the rest is zero.

    Returns:
        (n,) float32, and how many of its samples are real now.
    """
    sound = window[:length_samples].astype(np.float64)
    if random.random() < SPEED_SHARE:
        places = np.arange(0.0, len(sound) - 1, random.uniform(*SPEED))[: len(window)]
        sound = np.interp(places, np.arange(len(sound)), sound)
    if random.random() < LOW_PASS_SHARE:
        sound = low_pass(sound, random.uniform(*CUTOFF_HZ))
    if random.random() < CREMA_D_SHARE:
        sound = low_pass(sound, CREMA_D_CUTOFF_HZ)
    if random.random() < TILT_SHARE:
        sound = tilted(sound, random.uniform(*TILT_DB))
    if random.random() < NOISE_SHARE:
        level = np.sqrt(np.mean(np.square(sound))) if len(sound) else 0.0
        sound = sound + random.standard_normal(len(sound)) * level * decibels(-random.uniform(*NOISE_SNR_DB))
    result = np.zeros(len(window), np.float32)
    result[: len(sound)] = np.clip(sound * decibels(random.uniform(*GAIN_DB)), -1.0, 1.0)
    return result, len(sound)


def low_pass(sound: npt.NDArray[np.float64], cutoff_hz: float) -> npt.NDArray[np.float64]:
    """Take away all above a frequency."""
    spectrum = np.fft.rfft(sound)
    spectrum[np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE_HZ) > cutoff_hz] = 0.0
    return np.fft.irfft(spectrum, len(sound))


def tilted(sound: npt.NDArray[np.float64], tilt_db: float) -> npt.NDArray[np.float64]:
    """Raise or lower high against low, in proportion to the octave; 1 kHz stays about as it is."""
    octaves = np.log2((np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE_HZ) + 200.0) / 1000.0)
    return np.fft.irfft(np.fft.rfft(sound) * 10.0 ** (tilt_db * octaves / 3 / 20), len(sound))


def decibels(amount: float) -> float:
    """The factor on an amplitude that so many dB stand for."""
    return float(10.0 ** (amount / 20.0))
