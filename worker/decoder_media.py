"""An open media file, inside the decoding child: its streams, their packets, its seeking. Decodes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from worker.decoder_open import NAMED_CODECS, MediaError, MediaFile, codec_options, open_container, too_long
from worker.decoder_time import Ticks, Timeline
from worker.limits import DEFAULT_LIMITS, Limits

INDEXED_FORMATS = {"mov", "matroska", "avi", "flv", "asf", "wav", "flac", "mxf"}  # whose header promises a duration
PACKED_FORMATS = {"matroska", "avi", "flv", "ogg"}  # which lay packet after packet, with little in between

MAX_SKIPPED_BYTES = 4096  # between two packets of a packed format, before something must have been lost
MAX_DEMUX_ERRORS = 64  # in a row, before what is left of a file is given up
SEEK_STEPS_SECONDS = (0.0, 10.0, 60.0)  # how much before the wanted time to seek, until a key frame lies before it
SEEK_LOOK_AHEAD_SECONDS = 20.0


@dataclass(frozen=True)
class Chosen:
    """The one sound and the one picture stream that are read; None where there is none."""

    audio: Stream | None
    video: Stream | None

    @property
    def all(self) -> list[Stream]:
        """Both, as far as they are there."""
        return [stream for stream in (self.audio, self.video) if stream is not None]


def is_cover(stream: Stream) -> bool:
    """Whether a picture stream is no film but a picture of the album or the chapters."""
    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def _choose(container: InputContainer) -> Chosen:
    best = {kind: container.streams.best(kind) for kind in ("audio", "video")}
    if best["video"] is not None and is_cover(best["video"]):
        best["video"] = next((stream for stream in container.streams.video if not is_cover(stream)), None)
    return Chosen(**{k: s if s is not None and is_decoded(s) else None for k, s in best.items()})


def is_decoded(stream: Stream) -> bool:
    """Whether there is a decoder for a stream, and it is one that may run."""
    return stream.codec_context is not None and stream.codec_context.codec.name in NAMED_CODECS


class Media:
    """An open file: its chosen streams and their packets.

    Args:
        file: the file.
        thread_count: threads that decode pictures.
        hardware: what decodes them instead, where it can.
        limits: on what it may hold.

    Raises:
        MediaError: it cannot be opened, or holds neither sound nor pictures.
    """

    def __init__(
        self,
        file: MediaFile,
        thread_count: int,
        hardware: HWAccel | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._file, self._limits, self._thread_count, self._hardware = file, limits, thread_count, hardware
        self._open()

    def _open(self) -> None:
        self.container = open_container(self._file, self._limits, self._hardware)
        self.streams = _choose(self.container)
        if not self.streams.all:
            known = [s for s in self.container.streams if s.type in ("audio", "video") and not is_cover(s)]
            refused = sorted({s.codec_context.codec.name for s in known if s.codec_context is not None})
            if refused:
                raise MediaError("codec_refused", f"it is coded as {', '.join(refused)}")
            if known:
                raise MediaError("undecodable", "no decoder knows its streams")
            raise MediaError("no_streams", "it holds neither sound nor pictures")
        if self.streams.video is not None:
            self.streams.video.codec_context.thread_type = av.codec.context.ThreadType.AUTO
            self.streams.video.codec_context.thread_count = self._thread_count
        for stream in self.streams.all:
            stream.codec_context.options = codec_options(self._limits)
        self._ticks = {stream.index: Ticks(stream) for stream in self.streams.all}
        self._is_packed = self.format in PACKED_FORMATS
        self.start_seconds = (self.container.start_time or 0) / av.time_base
        self.timeline = Timeline(self.start_seconds)

    def close(self) -> None:
        """Free the demuxer and the decoders."""
        self.container.close()

    @property
    def max_seconds(self) -> float:
        """The length that a recording may have."""
        return self._limits.max_seconds

    @property
    def format(self) -> str:
        """The format's first name."""
        return self.container.format.name.split(",")[0]

    @property
    def duration_seconds(self) -> float | None:
        """What the container promises, or what FFmpeg estimates."""
        return self.container.duration / av.time_base if self.container.duration else None

    @property
    def promised_seconds(self) -> float | None:
        """The duration that the container's own index promises; None if it has none."""
        video = self.streams.video
        if self.format == "avi" and video is not None and video.frames and video.average_rate:
            return float(video.frames / video.average_rate)  # FFmpeg cuts the duration to what the file's size allows
        return self.duration_seconds if self.format in INDEXED_FORMATS else None

    def require_within(self, t_seconds: float) -> None:
        """See that a time lies within the length that is allowed.

        Raises:
            MediaError: it does not.
        """
        if t_seconds > self.max_seconds:
            raise MediaError("recording_too_long", too_long(t_seconds, self._limits))

    def packets(self) -> "Iterator[Packet[Stream] | None]":
        """The chosen streams' packets in the file's order, then an empty one for each; None: some were lost."""
        errors, end = 0, None
        chosen = {stream.index for stream in self.streams.all}
        while errors < MAX_DEMUX_ERRORS:
            try:
                for packet in self.container.demux():
                    if not packet.size:  # stands for a frame that was left out; a decoder would take it for the end
                        continue
                    errors = 0
                    if self._leaves_out(packet, end):
                        yield None
                    end = packet.pos + packet.size if packet.pos is not None else end
                    if packet.stream.index in chosen:
                        yield packet
                break
            except MemoryError:
                raise
            except IndexError:  # PyAV's, at the end, where streams have come up that the header does not name
                break
            except av.error.FFmpegError:
                errors += 1
                yield None
        for stream in self.streams.all:
            yield _flush_packet(stream)

    def _leaves_out(self, packet: "Packet[Stream]", end_of_last: int | None) -> bool:
        """Whether the demuxer has skipped over damage: it does so without a word."""
        if not self._is_packed or end_of_last is None or packet.pos is None:
            return False
        return packet.pos - end_of_last > MAX_SKIPPED_BYTES

    def time(self, packet: "Packet[Stream]") -> float | None:
        """Roughly when a packet of a chosen stream is shown, in seconds since the container's start.

        None: it does not say, or what it says lies beyond the length that a recording may have.
        """
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None:
            return None
        t_seconds = self._ticks[packet.stream.index].seconds(stamp) - self.start_seconds
        return t_seconds if abs(t_seconds) <= self.max_seconds else None

    def within(self, t_seconds: float, length_seconds: float) -> float:
        """A length, or as much of it as ends within the length that a recording may have."""
        return max(0.0, min(length_seconds, self.max_seconds - t_seconds))

    def end_of_packets(self) -> float | None:
        """Where the last whole packet ends, found by going through the file; None if there is none."""
        self._reopen()
        ends = (
            t_seconds + self.within(t_seconds, float((packet.duration or 0) * packet.time_base))
            for packet in self.packets()
            if packet is not None and not packet.is_corrupt and (t_seconds := self.time(packet)) is not None
        )
        return max(ends, default=None)

    def go_to(self, start_seconds: float, warm_up_seconds: float) -> None:
        """Go to where reading must begin so that a span is whole: the start of the file, or a key frame before it."""
        targets = [start_seconds - warm_up_seconds - step for step in SEEK_STEPS_SECONDS]
        for target_seconds in targets:
            if target_seconds <= 0:
                break
            if self._seek(target_seconds) and self._covers(start_seconds) and self._seek(target_seconds):
                return
        if targets[0] > 0:
            self._reopen()

    def _reopen(self) -> None:
        self.close()
        self._open()

    def _seek(self, t_seconds: float) -> bool:
        try:
            self.container.seek(int((t_seconds + self.start_seconds) * av.time_base))
        except (av.error.FFmpegError, OSError):
            return False
        return True

    def _covers(self, start_seconds: float) -> bool:
        """Whether, from here, each stream begins with a key frame at or before a time (or has nothing near it)."""
        waiting = {stream.index for stream in self.streams.all}
        for packet in self.packets():
            t_seconds = None if packet is None else self.time(packet)
            if packet is None or t_seconds is None:
                continue
            if packet.stream.index in waiting:
                if t_seconds > max(start_seconds, self._stream_start(packet.stream)):
                    return False
                if packet.is_keyframe or packet.stream.type == "audio":
                    waiting.discard(packet.stream.index)
            if not waiting or t_seconds > start_seconds + SEEK_LOOK_AHEAD_SECONDS:
                break
        return True

    def _stream_start(self, stream: Stream) -> float:
        if stream.start_time is None or stream.time_base is None:
            return 0.0
        return float(stream.start_time * stream.time_base) - self.start_seconds

    def misses(self, stream: Stream, start_seconds: float, end_seconds: float | None) -> bool:
        """Whether the container says that a stream has nothing in a span, so that nobody need wait for it."""
        if self.format not in INDEXED_FORMATS or not stream.duration or stream.time_base is None:
            return False
        first = self._stream_start(stream)
        last = first + float(stream.duration * stream.time_base)
        slack = 1.0  # indexes round
        return last + slack < start_seconds or (end_seconds is not None and first - slack > end_seconds)


def _flush_packet(stream: Stream) -> "Packet[Stream]":
    packet: Packet[Stream] = Packet()
    packet.stream = stream
    return packet
