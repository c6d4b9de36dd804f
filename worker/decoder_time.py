"""When decoded frames are shown, in seconds since the container's start."""

from fractions import Fraction
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from av.frame import Frame

if TYPE_CHECKING:
    from av.packet import Packet
    from av.stream import Stream

    from worker.decoder_skip import Skipped


class Ticks:
    """One stream's time base. Computes with plain numbers, for fractions of Python's are slow.

    Args:
        stream: of a container.
    """

    def __init__(self, stream: "Stream") -> None:
        base = stream.time_base or Fraction(1)
        self._numerator, self._denominator = base.numerator, base.denominator

    def seconds(self, ticks: int) -> float:
        """A timestamp or a duration in seconds."""
        return ticks * self._numerator / self._denominator


class Timeline:
    """Turns the timestamps of all streams into seconds since the container's start.

    A stream whose timestamps start again (recordings joined byte by byte), or leap, goes on where the others ended; the
    others follow with the same offset, so that sound and pictures stay together.
    """

    MAX_BACK_SECONDS = 1.0
    MAX_LEAP_SECONDS = 6 * 3600.0

    def __init__(self, start_seconds: float) -> None:
        self._offsets = [-start_seconds]
        self._epochs: dict[int, int] = {}
        self._last: dict[int, tuple[float, float]] = {}  # each stream's last frame: start, end

    def place(self, stream_index: int, raw_seconds: float, length_seconds: float) -> float:
        """The time of a frame of `length_seconds` that its stream puts at `raw_seconds`."""
        epoch = self._epochs.get(stream_index, 0)
        last = self._last.get(stream_index)
        if last is not None and not self._follows(raw_seconds + self._offsets[epoch], last[0]):
            epoch += 1
            if epoch == len(self._offsets):
                self._offsets.append(max(end for _, end in self._last.values()) - raw_seconds)
        t_seconds = raw_seconds + self._offsets[epoch]
        self._epochs[stream_index] = epoch
        self._last[stream_index] = (t_seconds, t_seconds + length_seconds)
        return t_seconds

    def _follows(self, t_seconds: float, last_seconds: float) -> bool:
        return -self.MAX_BACK_SECONDS <= t_seconds - last_seconds <= self.MAX_LEAP_SECONDS


class FrameTimes:
    """Timestamps of one stream's decoded frames, in its time base.

    Containers that only count frames say when one is decoded, not when it is shown: there, the frames that come out in
    the order of their showing take the counted times in ascending order.
    """

    def __init__(self, slotted: bool) -> None:
        self._slots: list[int] | None = [] if slotted else None

    def note(self, packet: "Packet[Stream]") -> None:
        """Take a packet that is about to be decoded."""
        if self._slots is not None and packet.size and packet.dts is not None:
            heappush(self._slots, packet.dts)

    def lose(self) -> None:
        """Count a frame that did not come out."""
        if self._slots:
            heappop(self._slots)

    def of(self, frame: "Frame | Skipped") -> int | None:
        """The timestamp of the next frame; None if nothing says it."""
        if self._slots:
            return heappop(self._slots)
        return frame.pts if frame.pts is not None else frame.dts
