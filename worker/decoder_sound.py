"""From decoded sound of any rate and layout to 16 kHz mono on one global grid, and to speech probabilities.

Sample n lies at n / 16000 s since the container's start and the detector's chunk k begins at sample 512 k, wherever a
span is cut, so that spans can be read one by one with the same result.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from worker.protocol import CHUNK_SAMPLES, SAMPLE_RATE_HZ, FloatArray, Sound, Unreadable, Voice

BLOCK_SAMPLES = 32 * CHUNK_SAMPLES  # 16384 samples, 1.024 s: what is sent at a time
BATCH_SECONDS = 0.25  # that go through the resampler at a time: frames are short, and each pass has its price
MAX_DRIFT_SECONDS = 0.010  # between a frame's timestamp and the count of samples, before the timestamp wins
# Without it, sound that is stored as floats would come out louder than the same sound stored as integers.
RESAMPLER_OPTIONS = {"rematrix_maxval": "1.0"}


class Listener(Protocol):
    """What `models.voice.VoiceDetector` does."""

    def feed(self, samples: FloatArray) -> FloatArray: ...
    def flush(self) -> FloatArray: ...
    def reset(self) -> None: ...


class Resampler:
    """Turns frames into runs of 16 kHz mono samples whose first sample's place on the grid is known.

    A frame of another rate, format or layout, or whose timestamp is off by more than `MAX_DRIFT_SECONDS`, starts
    another run; what the filter of the run before still holds comes out first.
    """

    def __init__(self) -> None:
        self._filter: AudioResampler | None = None
        self._waiting = AudioFifo()
        self._kind: tuple[str, str, int] | None = None
        self._next_sample = 0
        self._expected_seconds: float | None = None

    @property
    def expected_seconds(self) -> float | None:
        """Where the next frame belongs if nothing is lost; None before the first."""
        return self._expected_seconds

    def push(self, frame: AudioFrame, t_seconds: float) -> Iterator[tuple[int, FloatArray]]:
        """Take a frame that begins at `t_seconds`. Yields (first sample's number, (n,) float32 within -1..1)."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        expected = self._expected_seconds
        if kind != self._kind or expected is None or abs(t_seconds - expected) > MAX_DRIFT_SECONDS:
            yield from self.flush()
            self._filter = AudioResampler("flt", "mono", SAMPLE_RATE_HZ, options=RESAMPLER_OPTIONS)
            self._waiting = AudioFifo()
            self._kind = kind
            self._next_sample = round(t_seconds * SAMPLE_RATE_HZ)
            expected = t_seconds
        self._expected_seconds = expected + frame.samples / frame.sample_rate
        frame.pts = None  # which the samples before them say already, and often not to the sample
        self._waiting.write(frame)
        if self._waiting.samples >= BATCH_SECONDS * frame.sample_rate:
            yield from self._run(self._waiting.read())

    def flush(self) -> Iterator[tuple[int, FloatArray]]:
        """End the run: what still waits, and what the filter holds."""
        if self._filter is not None:
            if self._waiting.samples:
                yield from self._run(self._waiting.read())
            yield from self._run(None)
        self._filter = self._kind = None

    def _run(self, frame: AudioFrame | None) -> Iterator[tuple[int, FloatArray]]:
        assert self._filter is not None
        for out in self._filter.resample(frame):
            samples = out.to_ndarray().reshape(-1).astype(np.float32)
            # Files of floats may hold anything; one NaN would stay in the detector's memory for good.
            clean = np.clip(np.nan_to_num(samples, nan=0.0), -1.0, 1.0)
            yield self._next_sample, clean
            self._next_sample += len(clean)


class SoundTrack:
    """One span of one sound stream, from decoded frames to events.

    Args:
        start_seconds, end_seconds: the span; None: to the end of the stream.
        warm_up_seconds: how much earlier the listener begins to listen.
        listener: hears everything from there on; it is reset first.
    """

    def __init__(
        self, start_seconds: float, end_seconds: float | None, warm_up_seconds: float, listener: Listener
    ) -> None:
        self._first_sample = round(start_seconds * SAMPLE_RATE_HZ)
        self._end_sample = None if end_seconds is None else round(end_seconds * SAMPLE_RATE_HZ)
        self._next_chunk = round(max(0.0, start_seconds - warm_up_seconds) * SAMPLE_RATE_HZ) // CHUNK_SAMPLES
        self._position = self._next_chunk * CHUNK_SAMPLES
        self._block: list[FloatArray] = []
        self._block_start = self._position
        self._listener = listener
        self._listener.reset()
        self._resampler = Resampler()
        self._lost_from: float | None = None
        self._end_seconds: float | None = None

    @property
    def done(self) -> bool:
        """Whether the span is complete, its last chunk of the detector included."""
        end = self._end_sample
        return end is not None and self._position >= -(-end // CHUNK_SAMPLES) * CHUNK_SAMPLES

    @property
    def end_seconds(self) -> float | None:
        """How far the stream went, readable or not; None if nothing was there."""
        return self._end_seconds

    @property
    def t_seconds(self) -> float:
        """How far the reading has come."""
        return self._position / SAMPLE_RATE_HZ

    def expect(self) -> float:
        """The time of a frame that does not say its own."""
        return self._resampler.expected_seconds or 0.0

    def add(self, frame: AudioFrame, t_seconds: float) -> Iterator[Sound | Voice | Unreadable]:
        """Take the next frame.

        Raises:
            av.error.FFmpegError: the frame cannot be converted.
        """
        if frame.samples == 0 or frame.sample_rate <= 0:
            return
        runs = list(self._resampler.push(frame, t_seconds))
        if self._lost_from is not None:
            yield from self._report_loss(t_seconds)
        for start_sample, samples in runs:
            yield from self._put(start_sample, samples)
        self._end_seconds = max(self._end_seconds or 0.0, self.expect())

    def lose(self, near_seconds: float | None, since_seconds: float | None = None) -> None:
        """Some of the stream could not be decoded; `near_seconds` and `since_seconds` as for pictures."""
        if self._lost_from is None:
            expected = self._resampler.expected_seconds
            self._lost_from = expected if expected is not None else max(0.0, since_seconds or near_seconds or 0.0)

    def finish(self, stream_end_seconds: float | None) -> Iterator[Sound | Voice | Unreadable]:
        """The stream is over, and its last packet lasted until `stream_end_seconds`."""
        for start_sample, samples in list(self._resampler.flush()):
            yield from self._put(start_sample, samples)
        if self._lost_from is not None and stream_end_seconds is not None and stream_end_seconds > self._lost_from:
            self._end_seconds = max(self._end_seconds or 0.0, stream_end_seconds)
            yield from self._report_loss(stream_end_seconds)
        yield from self._send()
        yield from self._voice(self._listener.flush())

    def _report_loss(self, until_seconds: float) -> Iterator[Unreadable]:
        start = max(self._lost_from or 0.0, self._first_sample / SAMPLE_RATE_HZ)
        end = until_seconds if self._end_sample is None else min(until_seconds, self._end_sample / SAMPLE_RATE_HZ)
        self._lost_from = None
        if end - start > MAX_DRIFT_SECONDS:
            yield Unreadable("audio", start, end)

    def _put(self, start_sample: int, samples: FloatArray) -> Iterator[Sound | Voice]:
        """Put samples in their place: a gap before them becomes silence, what overlaps is dropped."""
        while self._position < start_sample and not self.done:
            gap = min(start_sample - self._position, BLOCK_SAMPLES)
            yield from self._append(np.zeros(gap, np.float32))
        overlap = self._position - start_sample
        if overlap < len(samples) and not self.done:
            yield from self._append(samples[max(0, overlap) :])

    def _append(self, samples: FloatArray) -> Iterator[Sound | Voice]:
        self._block.append(samples)
        self._position += len(samples)
        if self._position - self._block_start >= BLOCK_SAMPLES or self.done:
            yield from self._send()

    def _send(self) -> Iterator[Sound | Voice]:
        """Send the block: to the listener whole, to the parent what lies within the span."""
        block = np.concatenate([np.zeros(0, np.float32), *self._block])
        start, self._block, self._block_start = self._block_start, [], self._position
        first = max(start, self._first_sample)
        end = self._position if self._end_sample is None else min(self._position, self._end_sample)
        if end > first:
            yield Sound(first, block[first - start : end - start])
        yield from self._voice(self._listener.feed(block))

    def _voice(self, probabilities: FloatArray) -> Iterator[Voice]:
        first, self._next_chunk = self._next_chunk, self._next_chunk + len(probabilities)
        skip = max(0, self._first_sample // CHUNK_SAMPLES - first)
        keep = len(probabilities)
        if self._end_sample is not None:
            keep = min(keep, -(-self._end_sample // CHUNK_SAMPLES) - first)
        if keep > skip:
            yield Voice(first + skip, probabilities[skip:keep])
