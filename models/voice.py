"""Where there is speech: Silero VAD (Silero Team 2024, github.com/snakers4/silero-vad, MIT), run by onnxruntime.

The weights are the file `silero_vad_16k_sequence.onnx` of the installed `silero_vad` package, which is found but
never imported: importing it imports torch, and this module also runs in the child process that decodes media.
Knows nothing of windows or thresholds.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.packaged import checked, path_in, session

FloatArray = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
CHUNK_SAMPLES = 512  # 32 ms at 16 kHz: the one chunk length that the network knows
CONTEXT_SAMPLES = 64  # what the network sees again of the chunk before
STATE_SIZE = 128  # of the network's LSTM, for its output and for its cell
MAX_CHUNKS = 1024  # in one run of the network, so that memory does not grow with what is fed: 33 s of sound

WEIGHTS_FILE = "silero_vad_16k_sequence.onnx"
WEIGHTS_SHA256 = "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"


def weights_path() -> Path:
    """Where the network's file lies.

    Raises:
        ModelError: the `silero_vad` package is not installed, or lacks the file.
    """
    return path_in("silero_vad", f"data/{WEIGHTS_FILE}", "silero-vad", "voice detector")


class VoiceDetector:
    """Speech probabilities of a stream of sound that arrives in pieces of any length.

    The k-th probability since the start or the last `reset` is that of samples [k * 512, (k + 1) * 512).

    Raises:
        ModelError: the weights are missing, or not the ones that this version was written for.
    """

    def __init__(self) -> None:
        self._network = session(checked(weights_path(), WEIGHTS_SHA256))
        self.reset()

    def reset(self) -> None:
        """Forget the stream so far: what comes next is the start of another."""
        self._output = np.zeros((1, 1, STATE_SIZE), np.float32)
        self._cell = np.zeros((1, 1, STATE_SIZE), np.float32)
        self._context = np.zeros(CONTEXT_SAMPLES, np.float32)
        self._remainder = np.zeros(0, np.float32)

    def feed(self, samples: FloatArray) -> FloatArray:
        """Take the next samples, (n,) float32 in -1..1 at 16 kHz.

        Returns:
            (m,) float32, one probability for each 512-sample chunk that is now whole; the rest waits.
        """
        waiting = np.concatenate([self._remainder, np.asarray(samples, np.float32)])
        n_chunks = len(waiting) // CHUNK_SAMPLES
        self._remainder = waiting[n_chunks * CHUNK_SAMPLES :]
        chunks = waiting[: n_chunks * CHUNK_SAMPLES].reshape(n_chunks, CHUNK_SAMPLES)
        runs = [self._run(chunks[first : first + MAX_CHUNKS]) for first in range(0, n_chunks, MAX_CHUNKS)]
        return np.concatenate([np.zeros(0, np.float32), *runs])

    def flush(self) -> FloatArray:
        """End the stream: the last, partial chunk is padded with zeros. Returns (0,) or (1,) float32."""
        missing = -len(self._remainder) % CHUNK_SAMPLES
        return self.feed(np.zeros(missing, np.float32))

    def _run(self, chunks: FloatArray) -> FloatArray:
        before = np.vstack([self._context, chunks[:-1, -CONTEXT_SAMPLES:]])
        self._context = chunks[-1, -CONTEXT_SAMPLES:]
        inputs = {"input": np.hstack([before, chunks]), "h": self._output, "c": self._cell}
        probabilities, self._output, self._cell = self._network.run(None, inputs)
        return np.asarray(probabilities, np.float32)
