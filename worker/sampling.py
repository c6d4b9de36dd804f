"""How a pipeline takes its pictures: how often, how large, and which of them make a clip. Pure arithmetic."""

import math
from dataclasses import dataclass
from typing import Any

from models.checkpoints import IMAGE, VIDEO, HubCheckpoint
from models.presets import Preset
from worker.protocol import CROP_SIZE
from worker.windows import Window, WindowPlan

MIN_RATE_HZ = 4.0  # of pictures looked at for faces, however few a clip needs


@dataclass(frozen=True)
class Sampling:
    """The grid of pictures and what is wanted of each.

    Attributes:
        rate_hz: points of the grid in each second.
        face_every: faces are looked for at every so manieth of them.
        crop_pixels, crop_colour: side of the face crops; RGB or grey.
        n_frames: whole pictures in a window's clip; None: windows are judged by their faces.
        frame_pixels, frame_short_pixels: as in `worker.protocol.ReadRequest`.
    """

    rate_hz: float = 5.0
    face_every: int = 1
    crop_pixels: int = CROP_SIZE
    crop_colour: bool = False
    n_frames: int | None = None
    frame_pixels: int | None = None
    frame_short_pixels: int | None = None

    @classmethod
    def of(cls, preset: Preset, plan: WindowPlan) -> "Sampling":
        """What a preset's model for pictures needs.

        Raises:
            models.errors.ModelError: its checkpoint cannot be found or read.
        """
        checkpoint, rate_hz = preset.face, preset.picture_rate_hz
        if not isinstance(checkpoint, HubCheckpoint):
            return cls(rate_hz)
        geometry = checkpoint.geometry
        if checkpoint.kind == IMAGE:
            return cls(rate_hz, crop_pixels=geometry.side_pixels, crop_colour=True)
        clip_hz = checkpoint.n_frames / (plan.window_ms / 1000)
        grid_hz = clip_hz * math.ceil(MIN_RATE_HZ / clip_hz)
        return cls(
            grid_hz,
            max(1, round(grid_hz / rate_hz)),
            n_frames=checkpoint.n_frames,
            frame_pixels=geometry.side_pixels,
            frame_short_pixels=geometry.resize_pixels,
        )

    def describe(self, preset: Preset) -> dict[str, Any]:
        """What of the sampling decides the numbers and is not said by the checkpoint."""
        clips = isinstance(preset.face, HubCheckpoint) and preset.face.kind == VIDEO
        return {"picture_rate_hz": self.rate_hz} | ({"face_every": self.face_every} if clips else {})

    def grid(self, window: Window) -> range:
        """The points of the grid within a window; at least one."""
        first, end = (math.ceil(t * self.rate_hz - 1e-6) for t in (window.start_seconds, window.end_seconds))
        return range(first, max(end, first + 1))

    def spread(self, window: Window) -> list[int]:
        """The points nearest to `n_frames` moments spread evenly over a window, the first at its start."""
        count, points = self.n_frames or 0, self.grid(window)
        step = (window.end_seconds - window.start_seconds) / max(1, count)
        moments = (window.start_seconds + i * step for i in range(count))
        return [min(max(round(t * self.rate_hz), points[0]), points[-1]) for t in moments]
