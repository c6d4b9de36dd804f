"""From a span's whole pictures to its windows: a clip for the model where there is a face, and each window's state."""

from concurrent.futures import Future

import numpy as np

from worker.collect import ABSENT, NEVER, NO_FACE, OK, UNREADABLE, Gap, Rows, SideWindow, Submit, mostly_unreadable
from worker.protocol import ByteArray, Picture
from worker.recipe import Gates
from worker.sampling import Sampling
from worker.windows import Window, WindowPlan

Judged = tuple[str, float, int, "Future[Rows] | None"]  # state, share of faces, most faces, row


class ClipWindows:
    """Sends a clip of whole pictures to the model for each window that shows a face.

    A window is sent as soon as its last picture is there; no more pictures are kept than one window has.

    Args:
        first_window: the span's first window.
        submit: takes (n_frames, pixels, pixels, 3) uint8.
        present: whether the file has a picture stream at all.
    """

    def __init__(
        self,
        first_window: int,
        plan: WindowPlan,
        gates: Gates,
        sampling: Sampling,
        submit: Submit,
        *,
        present: bool = True,
    ) -> None:
        self._first, self._plan, self._gates, self._sampling = first_window, plan, gates, sampling
        self._submit, self._present = submit, present
        self._frames: dict[int, ByteArray] = {}
        self._faces: dict[int, int] = {}
        self._last: Picture | None = None
        self._judged: list[Judged] = []
        self.gaps: list[Gap] = []

    @property
    def settled(self) -> int:
        """The window up to which all have been judged: those before it can be taken."""
        return self._next if self._present else NEVER

    def add_picture(self, event: Picture) -> None:
        """Take the picture at the next point of the grid."""
        window = self._plan.window(self._next)
        while event.grid_index > self._sampling.grid(window)[-1]:
            self._judge(window)
            window = self._plan.window(self._next)
        if event.frame is not None:
            self._last = event
        if self._last is None or self._last.frame is None or self._last.source_seconds != event.source_seconds:
            return
        self._frames[event.grid_index] = self._last.frame
        if event.grid_index % self._sampling.face_every == 0:
            self._faces[event.grid_index] = event.face_count

    @property
    def _next(self) -> int:
        return self._first + len(self._judged)

    def _judge(self, window: Window) -> None:
        """Settle the next window and let go of what no later one needs."""
        looked_at = [g for g in self._sampling.grid(window) if g % self._sampling.face_every == 0]
        counts = [self._faces[g] for g in looked_at if self._faces.get(g)]
        share, most = len(counts) / max(1, len(looked_at)), max(counts, default=0)
        if counts and share >= self._gates.min_face_share:
            self._judged.append((OK, share, most, self._submit(self._clip(window))))
        else:
            lost = mostly_unreadable(self.gaps, window.start_seconds, window.end_seconds)
            self._judged.append((UNREADABLE if lost else NO_FACE, share, most, None))
        needed_from = self._sampling.grid(self._plan.window(self._next))[0]
        for kept in (self._frames, self._faces):
            for index in [g for g in kept if g < needed_from]:
                del kept[index]

    def _clip(self, window: Window) -> ByteArray:
        """The window's pictures; where one is missing, the nearest that is there."""
        there = [g for g in self._sampling.grid(window) if g in self._frames]
        nearest = (min(there, key=lambda g: abs(g - wanted)) for wanted in self._sampling.spread(window))
        return np.stack([self._frames[g] for g in nearest])

    def take(self, end_window: int, clip_seconds: float | None = None) -> list[SideWindow]:
        """Let go of the windows up to `end_window`, all of them settled, with the model's answers."""
        n_windows, self._first = end_window - self._first, end_window
        if not self._present:
            return [SideWindow(ABSENT)] * n_windows
        taken, self._judged = self._judged[:n_windows], self._judged[n_windows:]
        return [
            SideWindow(state, share, most, None if future is None else future.result())
            for state, share, most, future in taken
        ]

    def close(self, end_window: int, clip_seconds: float | None) -> list[SideWindow]:
        """Finish the span: what is left up to `end_window`, clipped to the video's end if the span reached it."""
        while self._present and self._next < end_window:
            self._judge(self._plan.window(self._next, clip_seconds))
        return self.take(end_window, clip_seconds)
