"""From decoded frames to what is on screen at each point of a regular grid of times.

The picture at a grid point is the last frame that came on at or before it. A frame stays on until the next one, but
where something in between was lost only until its own end: what could not be decoded is said, not bridged.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import cv2
import numpy as np
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from worker.decoder_skip import Skipped
from worker.protocol import UNJUDGED, ByteArray, Picture, ReadRequest, Unreadable

PICTURE_SIZE = 640  # pixels on the long side, at most
# Brightness in full and colour in half the size, as nearly all films have them: made small before they are made RGB.
SCALED_FIRST = {"yuv420p", "yuvj420p", "yuv420p10le", "nv12"}
SLACK_SECONDS = 2e-6  # containers' start times are rounded to microseconds
MAX_DELAY_SECONDS = 5.0  # from a packet's decoding to its frame
RECOVERY_SECONDS = 10.0  # without a key frame, after which pictures are trusted again


@dataclass(frozen=True)
class Sight:
    """What a watcher sees in one picture; the fields are those of `worker.protocol.Picture`."""

    state: str
    face_count: int = 0
    crop: ByteArray | None = None
    box: tuple[float, float, float, float] | None = None
    confidence: float | None = None
    landmarks: tuple[float, ...] | None = None


class Watcher(Protocol):
    """Looks at pictures. `worker.decoder_faces.FaceWatcher` looks for faces."""

    def look(self, picture: ByteArray, crop_pixels: int, crop_colour: bool, *, anew: bool) -> Sight:
        """What is to be seen in an upright picture (height, width, 3), RGB, at most 640 pixels on its long side.

        Args:
            crop_pixels, crop_colour: as in `worker.protocol.ReadRequest`.
            anew: what is seen must not depend on the pictures that were looked at before.
        """
        ...


def square(picture: ByteArray, side_pixels: int, short_pixels: int | None) -> ByteArray:
    """The middle of a picture, or all of it, as a square.

    Args:
        picture: (height, width, 3) uint8.
        side_pixels: of the square.
        short_pixels: to what the picture's short side is brought before the square is cut out of its middle; None: the
            whole picture is squeezed into it.
    """
    if short_pixels is None:
        return _resized(picture, side_pixels, side_pixels)
    scale = short_pixels / min(picture.shape[:2])
    height, width = (max(side_pixels, round(length * scale)) for length in picture.shape[:2])
    top, left = (height - side_pixels) // 2, (width - side_pixels) // 2
    whole = _resized(picture, height, width)
    return np.ascontiguousarray(whole[top : top + side_pixels, left : left + side_pixels])


def _resized(picture: ByteArray, height: int, width: int) -> ByteArray:
    how = cv2.INTER_AREA if height < picture.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how), np.uint8)


class Converter:
    """Makes small upright RGB pictures with square pixels of frames of any size, format and rotation.

    Args:
        pixel_aspect: width of a pixel by its height.
    """

    def __init__(self, pixel_aspect: Fraction | None) -> None:
        self._aspect = float(pixel_aspect) if pixel_aspect and 0.05 < pixel_aspect < 20 else 1.0
        self._scaler, self._colourer = VideoReformatter(), VideoReformatter()  # each keeps its tables for one size

    def convert(self, frame: VideoFrame) -> ByteArray:
        """A frame as (height, width, 3) uint8, at most `PICTURE_SIZE` on its long side.

        Raises:
            av.error.FFmpegError, ValueError: its pixel format cannot be converted.
        """
        width, height = frame.width * self._aspect, float(frame.height)
        scale = min(1.0, PICTURE_SIZE / max(width, height))
        size = (max(2, round(width * scale)), max(2, round(height * scale)))
        turns = round(frame.rotation / 90) % 4
        if scale < 1 and frame.format.name in SCALED_FIRST:
            frame = self._scaler.reformat(frame, *size, "yuv420p", interpolation=Interpolation.AREA, threads=1)
        coloured = self._colourer.reformat(frame, *size, "rgb24", threads=1)
        return np.ascontiguousarray(np.rot90(coloured.to_ndarray(), turns))


@dataclass(frozen=True)
class _Held:
    """The frame on screen."""

    frame: VideoFrame | Skipped
    start_seconds: float
    end_seconds: float  # its own, if nothing follows


class PictureTrack:
    """One span of one picture stream, from decoded frames to events.

    What is seen in a frame may depend on the frames before it, but on none before the last multiple of `search_every`
    on the grid. The watcher looks from there on, so that a span's pictures are the same wherever the file is cut.

    Args:
        request: the span, its grid, and what of the pictures is wanted.
        watcher: looks once at each frame that is on screen at a point of the grid.
        converter: makes pictures of frames.

    Attributes:
        frames_decoded, frames_converted: how many frames came, and of how many pictures were made.
    """

    def __init__(self, request: ReadRequest, watcher: Watcher, converter: Converter) -> None:
        self._request, self._watcher, self._converter = request, watcher, converter
        self._start_seconds, self._span_end_seconds = request.start_seconds, request.end_seconds
        self._rate_hz = request.frame_rate_hz
        self._first = self.grid(request.start_seconds)
        self._next = self.first_point = self._first - self._first % request.search_every
        self._searched: int | None = None
        self._held: _Held | None = None
        self._lost_from: float | None = None
        self._recovering = False
        self._end_seconds: float | None = None
        self.frames_decoded = self.frames_converted = 0
        self.done = False

    @property
    def end_seconds(self) -> float | None:
        """How far the stream went, readable or not; None if nothing was there."""
        return self._end_seconds

    @property
    def t_seconds(self) -> float:
        """How far the reading has come."""
        return self._next / self._rate_hz

    def expect(self) -> float:
        """The time of a frame that does not say its own."""
        return self._end_seconds or 0.0

    def grid(self, t_seconds: float) -> int:
        """The first point of the grid at or after a time."""
        return math.ceil((t_seconds - SLACK_SECONDS) * self._rate_hz)

    def add(
        self, frame: VideoFrame | Skipped, t_seconds: float, length_seconds: float
    ) -> Iterator[Picture | Unreadable]:
        """Take the next frame in the order of showing."""
        self.frames_decoded += isinstance(frame, VideoFrame)
        if self._held is not None and t_seconds <= self._held.start_seconds:
            return
        yield from self._drop_held(t_seconds)
        self._end_seconds = max(self._end_seconds or 0.0, t_seconds + length_seconds)
        if self._is_doubtful(frame, t_seconds):
            return
        if self._lost_from is not None and self._lost_from <= t_seconds:
            yield from self._report_loss(t_seconds)
        self._held = _Held(frame, t_seconds, t_seconds + length_seconds)
        self.done = self._span_end_seconds is not None and t_seconds >= self._span_end_seconds

    def lose(self, near_seconds: float | None, since_seconds: float | None = None) -> None:
        """Some of the stream could not be decoded; until a key frame all that follows is in doubt.

        Args:
            near_seconds: roughly where, for want of a frame before it.
            since_seconds: where exactly, if that is known; else it is after the last frame that came out.
        """
        self._recovering = True
        if self._lost_from is not None:
            return
        end = self._held.end_seconds if self._held is not None else self._end_seconds
        if end is None:
            self._lost_from = max(0.0, near_seconds or 0.0)
        elif since_seconds is not None and end <= since_seconds <= end + MAX_DELAY_SECONDS:
            self._lost_from = since_seconds
        else:
            self._lost_from = end

    def finish(self, stream_end_seconds: float | None) -> Iterator[Picture | Unreadable]:
        """The stream is over, and its last packet lasted until `stream_end_seconds`."""
        yield from self._drop_held(math.inf)
        if self._lost_from is not None:
            self._end_seconds = max(self._end_seconds or 0.0, stream_end_seconds or 0.0)
            yield from self._report_loss(self._end_seconds)

    def _is_doubtful(self, frame: VideoFrame | Skipped, t_seconds: float) -> bool:
        """Whether a frame is damaged, or was made from frames that are."""
        if frame.is_corrupt:
            self._recovering = True
            self._lost_from = t_seconds if self._lost_from is None else min(self._lost_from, t_seconds)
            return True
        if self._lost_from is None or t_seconds < self._lost_from:
            return False
        if frame.key_frame or frame.pict_type == PictureType.I or t_seconds - self._lost_from > RECOVERY_SECONDS:
            self._recovering = False
        return self._recovering

    def _drop_held(self, until_seconds: float) -> Iterator[Picture]:
        """Send the points of the grid at which the held frame is on screen, and let go of it."""
        held, self._held = self._held, None
        if held is None:
            return
        if self._lost_from is not None:
            until_seconds = min(until_seconds, max(self._lost_from, held.start_seconds))
        if math.isinf(until_seconds):
            until_seconds = held.end_seconds
        end = self.grid(until_seconds)
        if self._span_end_seconds is not None:
            until_seconds = min(until_seconds, self._span_end_seconds)
        first = max(self._next, self.grid(held.start_seconds))
        self._next = max(self._next, self.grid(until_seconds))
        if first < self._next and isinstance(held.frame, VideoFrame):
            yield from self._show(held.frame, held.start_seconds, range(first, self._next), end)

    def _show(self, shown: VideoFrame, start_seconds: float, grid: range, end: int) -> Iterator[Picture]:
        """The frame at each of these points; the whole picture goes with the first of them only.

        Args:
            end: the point up to which the frame is on screen, beyond the span's end too.
        """
        asked = self._request
        self.frames_converted += 1
        picture = self._converter.convert(shown)
        sight, frame = Sight(UNJUDGED), None
        if any(index % asked.face_every == 0 for index in grid):
            last, self._searched = self._searched, (end - 1) // asked.search_every
            anew = last != self._searched  # no other frame was looked at since the last multiple
            sight = self._watcher.look(picture, asked.crop_pixels, asked.crop_colour, anew=anew)
        if asked.frame_pixels is not None:
            frame = square(picture, asked.frame_pixels, asked.frame_short_pixels)
        for index in grid[max(0, self._first - grid.start) :]:
            yield Picture(index, index / self._rate_hz, start_seconds, **vars(sight), frame=frame)
            frame = None

    def _report_loss(self, until_seconds: float) -> Iterator[Unreadable]:
        start = max(self._lost_from or 0.0, self._start_seconds)
        end = until_seconds if self._span_end_seconds is None else min(until_seconds, self._span_end_seconds)
        self._lost_from = None
        if end - start > SLACK_SECONDS:
            yield Unreadable("video", start, end)
