"""Spares the decoder what nobody looks at, inside the decoding child: the pictures that come out are the same.

A frame need not be decoded if it is on screen at no point of the grid, which the timestamps of packets tell, and if no
other frame is made from it, which the headers of its packet's units tell. FFmpeg's `skip_frame` leaves out such frames
too, but says nothing any more of damage to others.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from av.stream import Stream
from av.video.frame import PictureType, VideoFrame

if TYPE_CHECKING:
    from av.packet import Packet

    from worker.decoder_video import PictureTrack

MAX_STEP_SECONDS = 60.0  # from packet to packet, before timestamps are taken for others that start anew
MAX_POINTS = 1000  # of the grid that are remembered

# Types of units (ITU-T H.264, table 7-1; H.265, table 7-1).
H264_SLICE, H264_BESIDE = 1, {6, 9, 12}  # a slice of no key frame; SEI, delimiter, filler
HEVC_SLICES, HEVC_BESIDE = {0, 2, 4, 6, 8}, {35, 38, 39, 40}  # of sub-layer non-reference pictures; as above


@dataclass(frozen=True)
class Skipped:
    """Stands for a frame that was left out, in the order of showing.

    Attributes:
        pts, duration: in the stream's time base.
    """

    pts: int
    duration: int
    dts = None
    is_corrupt = False
    key_frame = False
    pict_type = PictureType.B


class Skipper:
    """Says which packets a decoder need not get, and puts stand-ins for their frames among those that it gives.

    A packet's frame is on screen at no point of the grid if another packet's comes on later, but at the latest at the
    next point. It is left out if that packet is known, which mostly is the reference that it is made from. Once
    timestamps go backward or leap, or frames come in two fields, nothing is left out any more.

    Args:
        stream: of pictures.
        track: what its frames come to, with the grid.
    """

    def __init__(self, stream: Stream, track: "PictureTrack") -> None:
        self._track = track
        self._is_needless = _judge(stream)
        self._max_step = MAX_STEP_SECONDS / (stream.time_base or Fraction(1))
        self._has_begun = False
        self._latest: dict[int, int] = {}  # for each point, the last frame before it that is known
        self._dts: int | None = None
        self._left_out: list[tuple[int, int]] = []  # timestamp, duration

    def leaves_out(self, packet: "Packet[Stream]", t_seconds: float | None) -> bool:
        """Whether the decoder need not get its next packet, whose frame is shown at `t_seconds`."""
        if self._is_needless is None or t_seconds is None or packet.pts is None or packet.dts is None:
            return False
        last_dts = packet.dts if self._dts is None else self._dts
        self._dts = packet.dts
        if not last_dts <= packet.dts <= packet.pts <= last_dts + self._max_step:
            self._is_needless = None
            return False
        if not (self._is_hidden(packet.pts, t_seconds) and self._has_begun):
            return False
        if packet.is_corrupt or not self._is_needless(bytes(packet)):
            return False
        heappush(self._left_out, (packet.pts, packet.duration or 0))
        return True

    def complete(self, frames: Iterable[VideoFrame], *, ended: bool) -> Iterator[VideoFrame | Skipped]:
        """The decoder's next frames, in the order of showing, with stand-ins for those that were left out.

        Args:
            ended: whether these are the last ones.
        """
        for frame in frames:
            self._has_begun = True
            if frame.interlaced_frame:
                self._is_needless = None
            while self._left_out and frame.pts is not None and self._left_out[0][0] < frame.pts:
                yield Skipped(*heappop(self._left_out))
            yield frame
        while ended and self._left_out:
            yield Skipped(*heappop(self._left_out))

    def _is_hidden(self, pts: int, t_seconds: float) -> bool:
        point = max(self._track.first_point, self._track.grid(t_seconds))
        latest = self._latest.get(point, pts)
        if len(self._latest) > MAX_POINTS:
            self._latest.clear()
        self._latest[point] = max(latest, pts)
        return pts < latest


def _judge(stream: Stream) -> Callable[[bytes], bool] | None:
    """What tells whether no other frame is made from a packet's; None where nothing does.

    In MP4 and Matroska, the configuration record (ISO 14496-15, sections 5.3.3.1 and 8.3.3.1) says how long the units'
    lengths are, and how many temporal layers a HEVC stream has; elsewhere units stand behind start codes.
    """
    codec, record = stream.codec_context.name, stream.codec_context.extradata or b""
    has_record = record[:1] == b"\1"
    if codec == "h264":
        length_bytes = (record[4] & 3) + 1 if has_record else None
        return lambda content: _needless_h264(list(_units(content, length_bytes)))
    if codec == "hevc" and has_record and len(record) > 21:
        length_bytes, layers = (record[21] & 3) + 1, record[21] >> 3 & 7
        return lambda content: _needless_hevc(list(_units(content, length_bytes)), layers)
    return None


def _units(content: bytes, length_bytes: int | None) -> Iterator[bytes]:
    """The headers of a packet's units, two bytes each; an empty one where they do not fill it."""
    if length_bytes is None:
        for unit in content.split(b"\0\0\1")[1:]:
            yield unit[:2]
        return
    start = 0
    while start < len(content):
        first = start + length_bytes
        start = first + int.from_bytes(content[start:first])
        yield content[first : first + 2] if start <= len(content) else b""


def _needless_h264(units: list[bytes]) -> bool:
    """Whether the units are slices that nothing refers to, or stand beside them."""
    if not all(units):
        return False
    types = [unit[0] & 31 for unit in units]
    slices = [unit[0] >> 5 & 3 for unit, kind in zip(units, types, strict=True) if kind == H264_SLICE]
    return H264_BESIDE.issuperset(set(types) - {H264_SLICE}) and bool(slices) and not any(slices)


def _needless_hevc(units: list[bytes], layers: int) -> bool:
    """The same; what the highest temporal layer does not refer to, none does."""
    if not all(len(unit) == 2 for unit in units):
        return False
    slices = [unit for unit in units if unit[0] >> 1 & 63 not in HEVC_BESIDE]
    return bool(slices) and all(unit[0] >> 1 & 63 in HEVC_SLICES and unit[1] & 7 == layers for unit in slices)
