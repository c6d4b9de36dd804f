"""Sound of files, read without the worker."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

SAMPLE_RATE_HZ = 16_000


def read_sound(path: Path) -> np.ndarray:
    """Decode a clip's sound: (n,) float32 in -1..1, mono, 16 kHz.

    Raises:
        av.FFmpegError: the file cannot be decoded.
    """
    with av.open(str(path)) as container:
        return np.concatenate([np.zeros(0, np.float32), *_resampled(container)])


def _resampled(container: av.container.InputContainer) -> Iterator[np.ndarray]:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    for frame in container.decode(audio=0):
        for piece in resampler.resample(frame):
            yield piece.to_ndarray()[0]
    for piece in resampler.resample(None):
        yield piece.to_ndarray()[0]
