"""From a span's sound and pictures to its windows: each modality's state and, where it is `ok`, its probabilities.

The two sides do not wait for each other, and keep no more than a window's sound and a few numbers for each picture.
"""

import math
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.taxonomy import N_EMOTIONS
from worker.protocol import CHUNK_SAMPLES, SAMPLE_RATE_HZ, Picture, Sound, Voice
from worker.recipe import Gates
from worker.windows import WindowPlan

Rows = npt.NDArray[np.float32]

SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000

NEVER = 2**62  # a window that no video has
OK, ABSENT, NO_SPEECH, NO_FACE, UNREADABLE = "ok", "absent", "no_speech", "no_face", "unreadable"


class Submit(Protocol):
    """Hands one row to a model's batcher."""

    def __call__(self, *row: npt.NDArray[np.generic]) -> "Future[Rows]": ...


@dataclass(frozen=True)
class SideWindow:
    """One window of one modality.

    Attributes:
        state: `ok`, `absent`, `no_speech` or `no_face`, `unreadable`.
        share: share of the window that shows speech, or a face; None where the stream is absent.
        count: the most faces seen at once (pictures only).
        row: (8,) float32 where the state is `ok`, else None.
    """

    state: str
    share: float | None = None
    count: int | None = None
    row: Rows | None = None


@dataclass(frozen=True)
class Gap:
    """A stretch of a stream that could not be decoded."""

    start_seconds: float
    end_seconds: float


def mostly_unreadable(gaps: list[Gap], start_seconds: float, end_seconds: float) -> bool:
    """Whether more than half of a stretch could not be decoded."""
    lost = sum(max(0.0, min(g.end_seconds, end_seconds) - max(g.start_seconds, start_seconds)) for g in gaps)
    return lost > 0.5 * (end_seconds - start_seconds)


class SoundWindows:
    """Cuts a span's sound into windows and sends those with speech to the model.

    Args:
        first_window: the span's first window.
        submit: takes (window_samples,) float32 and the number of real samples as () int64.
        present: whether the file has a sound stream at all.
    """

    def __init__(
        self, first_window: int, plan: WindowPlan, gates: Gates, submit: Submit, *, present: bool = True
    ) -> None:
        self._plan, self._gates, self._submit, self._present = plan, gates, submit, present
        self._next = self._first = first_window
        self._samples = np.zeros(0, np.float32)
        self._samples_start = first_window * plan.hop_ms * SAMPLES_PER_MS
        self._speech: dict[int, bool] = {}
        self._voice_end = 0
        self._windows: list[tuple[float, Future[Rows] | None]] = []
        self.gaps: list[Gap] = []

    @property
    def settled(self) -> int:
        """The window up to which all have been cut: those before it can be taken."""
        return self._next if self._present else NEVER

    def add_sound(self, event: Sound) -> None:
        """Take the next stretch of sound; it continues the one before."""
        skip = max(0, self._samples_start + len(self._samples) - event.start_sample)
        self._samples = np.concatenate([self._samples, event.samples[skip:]])
        self._emit()

    def add_voice(self, event: Voice) -> None:
        """Take speech probabilities of the next 32 ms chunks."""
        for chunk, probability in enumerate(event.probabilities, event.first_chunk):
            self._speech[chunk] = bool(probability >= self._gates.speech_probability)
        self._voice_end = event.first_chunk + len(event.probabilities)
        self._emit()

    def _emit(self) -> None:
        """Send every window whose sound and speech are complete."""
        while True:
            end = self._start_sample(self._next) + self._window_samples
            if self._samples_start + len(self._samples) < end or self._voice_end * CHUNK_SAMPLES < end:
                return
            self._send(self._window_samples)

    def _send(self, length_samples: int) -> None:
        """Send the next window, of which `length_samples` lie within the video; what sound lacks there is silence."""
        start = self._start_sample(self._next)
        share = self._speech_share(start, start + length_samples)
        future = None
        if share >= self._gates.min_speech_share:
            wave = np.zeros(self._window_samples, np.float32)
            part = self._samples[start - self._samples_start :][:length_samples]
            wave[: len(part)] = part
            future = self._submit(wave, np.array(length_samples, np.int64))
        self._windows.append((share, future))
        self._next += 1
        self._forget(self._start_sample(self._next))

    def _speech_share(self, start_sample: int, end_sample: int) -> float:
        half = CHUNK_SAMPLES // 2
        first, end = (-(-(sample - half) // CHUNK_SAMPLES) for sample in (start_sample, end_sample))
        chunks = range(max(0, first), max(end, first + 1))
        return sum(self._speech.get(chunk, False) for chunk in chunks) / len(chunks)

    def _forget(self, before_sample: int) -> None:
        drop = min(before_sample - self._samples_start, len(self._samples))
        if drop > 0:
            self._samples = self._samples[drop:]
            self._samples_start += drop
        for chunk in [c for c in self._speech if (c + 2) * CHUNK_SAMPLES < before_sample]:
            del self._speech[chunk]

    def _start_sample(self, index: int) -> int:
        return index * self._plan.hop_ms * SAMPLES_PER_MS

    @property
    def _window_samples(self) -> int:
        return self._plan.window_ms * SAMPLES_PER_MS

    def take(self, end_window: int, clip_seconds: float | None = None) -> list[SideWindow]:
        """Let go of the windows up to `end_window`, all of them settled, with the model's answers."""
        n_windows, first, self._first = end_window - self._first, self._first, end_window
        if not self._present:
            return [SideWindow(ABSENT)] * n_windows
        taken, self._windows = self._windows[:n_windows], self._windows[n_windows:]
        return [self._close_window(k, *window, clip_seconds) for k, window in enumerate(taken, first)]

    def close(self, end_window: int, clip_seconds: float | None) -> list[SideWindow]:
        """Finish the span: what is left up to `end_window`, clipped to the video's end if the span reached it."""
        while self._present and self._next < end_window:
            window = self._plan.window(self._next, clip_seconds)
            self._send(max(1, round((window.end_seconds - window.start_seconds) * SAMPLE_RATE_HZ)))
        return self.take(end_window, clip_seconds)

    def _close_window(
        self, index: int, share: float, future: "Future[Rows] | None", clip_seconds: float | None
    ) -> SideWindow:
        if future is not None:
            return SideWindow(OK, share, row=future.result())
        window = self._plan.window(index, clip_seconds)
        lost = mostly_unreadable(self.gaps, window.start_seconds, window.end_seconds)
        return SideWindow(UNREADABLE if lost else NO_SPEECH, share)


class PictureWindows:
    """Sends a span's face crops to the model and pools their rows over each window.

    Args:
        first_window: the span's first window.
        rate_hz: pictures on the grid in each second.
        submit: takes a face crop, uint8.
        pool: makes one row (8,) of a window's faces' rows (m, 8).
        present: whether the file has a picture stream at all.
    """

    def __init__(
        self,
        first_window: int,
        plan: WindowPlan,
        gates: Gates,
        rate_hz: float,
        submit: Submit,
        pool: "Pool",
        *,
        present: bool = True,
    ) -> None:
        self._first, self._plan, self._gates, self._rate_hz = first_window, plan, gates, rate_hz
        self._submit, self._pool, self._present = submit, pool, present
        self._faces: dict[int, tuple[int, Future[Rows]]] = {}
        self._last: tuple[float, Future[Rows]] | None = None
        self._settled = first_window
        self.gaps: list[Gap] = []

    @property
    def settled(self) -> int:
        """The window up to which all pictures are there: those before it can be taken."""
        return self._settled if self._present else NEVER

    def add_picture(self, event: Picture) -> None:
        """Take the picture at the next point of the grid; a frame that is still on screen is not judged twice."""
        if event.crop is not None:
            if self._last is None or self._last[0] != event.source_seconds:
                self._last = (event.source_seconds, self._submit(event.crop))
            self._faces[event.grid_index] = (event.face_count, self._last[1])
        while self._grid(self._plan.window(self._settled).end_seconds) <= event.grid_index + 1:
            self._settled += 1

    def take(self, end_window: int, clip_seconds: float | None = None) -> list[SideWindow]:
        """Let go of the windows up to `end_window`, all of them settled, with the model's answers."""
        first, self._first = self._first, end_window
        if not self._present:
            return [SideWindow(ABSENT)] * (end_window - first)
        sides = [self._close_window(k, clip_seconds) for k in range(first, end_window)]
        needed_from = self._grid(self._plan.window(end_window).start_seconds)
        self._faces = {g: face for g, face in self._faces.items() if g >= needed_from}
        return sides

    def close(self, end_window: int, clip_seconds: float | None) -> list[SideWindow]:
        """Finish the span: what is left up to `end_window`, clipped to the video's end if the span reached it."""
        return self.take(end_window, clip_seconds)

    def _close_window(self, index: int, clip_seconds: float | None) -> SideWindow:
        window = self._plan.window(index, clip_seconds)
        grid = range(self._grid(window.start_seconds), max(self._grid(window.end_seconds), 1))
        faces = [self._faces[g] for g in grid if g in self._faces]
        share = len(faces) / max(1, len(grid))
        count = max((n for n, _ in faces), default=0)
        if faces and share >= self._gates.min_face_share:
            return SideWindow(OK, share, count, self._pool(np.stack([future.result() for _, future in faces])))
        lost = mostly_unreadable(self.gaps, window.start_seconds, window.end_seconds)
        return SideWindow(UNREADABLE if lost else NO_FACE, share, count)

    def _grid(self, seconds: float) -> int:
        """Index of the first grid point at or after a time."""
        return math.ceil(seconds * self._rate_hz - 1e-6)


class Pool(Protocol):
    """Makes one row of many."""

    def __call__(self, rows: Rows) -> Rows: ...


def columns(row: Rows | None) -> list[float | None]:
    """A row as SQL values: None for a label that the model does not know, and everywhere if there is no row."""
    if row is None:
        return [None] * N_EMOTIONS
    return [None if math.isnan(p) else min(1.0, max(0.0, float(p))) for p in row]
