"""Opens a media file from its descriptor, inside the decoding child: what it is, its streams, its time, its seeking.

Only the formats of `FORMATS` are opened, and no other file, device or address ever is: playlists, concatenation
scripts and image sequences are not among them. Knows nothing of sound or pictures as such.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from heapq import heappop, heappush

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from worker.protocol import Probe

# The demuxers that may open a file, by FFmpeg's names: containers of recordings, each self-contained.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,wav,w64,mp3,flac,aac,ac3,eac3,"
    "asf,mxf,aiff,caf,au,amr,amrnb,amrwb,dv,ivf,nut,rm,wtv"
)
OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
SLOTTED_FORMATS = {"avi"}  # whose index counts frames instead of giving presentation timestamps
INDEXED_FORMATS = {"mov", "matroska", "avi", "flv", "asf", "wav", "flac", "mxf"}  # whose header promises a duration
PACKED_FORMATS = {"matroska", "avi", "flv", "ogg"}  # which lay packet after packet, with little in between
RESETTABLE_FORMATS = {"mpegts", "mpeg", "ogg"}  # whose timestamps may start again midway

READ_BYTES = 1 << 16
SNIFFED_BYTES = 64
MAX_SKIPPED_BYTES = 4096  # between two packets of a packed format, before something must have been lost
MAX_DEMUX_ERRORS = 64  # in a row, before what is left of a file is given up
SEEK_STEPS_SECONDS = (0.0, 10.0, 60.0)  # how much before the wanted time to seek, until a key frame lies before it
SEEK_LOOK_AHEAD_SECONDS = 20.0
SEEK_LOOK_AHEAD_PACKETS = 5000
N_RESET_PROBES = 16

_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\1\0", b"8BPS", b"\0\0\0\x0cjP  ")
_IMAGE_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"}
_MEDIA = (
    b"\x1aE\xdf\xa3",
    b"RIFF",
    b"OggS",
    b"FLV",
    b"ID3",
    b"fLaC",
    b"\x30\x26\xb2\x75",
    b"\0\0\1\xba",
    b"G@",
    b"\xff\xfb",
    b"\xff\xf1",
)
_MOV_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}


class MediaError(Exception):
    """Raised when a file cannot be read: `code` is one of `db.errors`, the text says why in a few words."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class DescriptorFile:
    """A read-only file over a descriptor. It keeps its own position, since descriptors that were sent share theirs."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0
        self._regular = stat.S_ISREG(os.fstat(descriptor).st_mode)

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        if not self._regular:
            return os.read(self._descriptor, size)
        content = os.pread(self._descriptor, size, self._position)
        self._position += len(content)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset from the start, from here, or from the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._position

    def seekable(self) -> bool:
        """Whether this is a file on a disk, not a pipe."""
        return self._regular

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._descriptor).st_size

    def peek(self, size: int) -> bytes:
        """The first bytes, or none of them if they could be read only once."""
        return os.pread(self._descriptor, size, 0) if self._regular else b""


def _is_image(head: bytes) -> bool:
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)
    return head.startswith(_IMAGES) or webp or bitmap or (head[4:8] == b"ftyp" and head[8:12] in _IMAGE_BRANDS)


def _has_whole_index(file: DescriptorFile) -> bool:
    """Whether the boxes of an MP4 or MOV file lead to its index (ISO 14496-12, section 4.2) without breaking off."""
    offset, found = 0, False
    while offset + 8 <= file.size:
        file.seek(offset)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        size = size or file.size - offset
        if size < 8 or offset + size > file.size:
            return False
        found = found or kind == b"moov"
        offset += size
    return found


def _diagnose(file: DescriptorFile, error: Exception) -> MediaError:
    """Why a file could not be opened."""
    head = file.peek(SNIFFED_BYTES)
    reason = getattr(error, "strerror", None) or type(error).__name__
    if head[4:8] in _MOV_BOXES:
        if not _has_whole_index(file):
            return MediaError("truncated", "it breaks off before its index (the moov box)")
        return MediaError("undecodable", f"its index cannot be read ({reason})")
    if head.startswith(_MEDIA):
        return MediaError("truncated" if isinstance(error, EOFError) else "undecodable", f"{reason}")
    return MediaError("not_media", "no known recording begins like this")


def open_container(file: DescriptorFile) -> InputContainer:
    """Open a container and find its streams.

    Raises:
        MediaError: it is none, is of a format that is not read, or is damaged.
    """
    if file.seekable() and not file.size:
        raise MediaError("empty_file", "it is zero bytes long")
    if _is_image(file.peek(SNIFFED_BYTES)):
        raise MediaError("image_not_video", "it is a still image")
    file.seek(0)
    try:
        return av.open(file, "r", container_options=OPTIONS, metadata_errors="replace", buffer_size=READ_BYTES)
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, MemoryError):
            raise
        raise _diagnose(file, error) from error


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


@dataclass(frozen=True)
class Chosen:
    """The one sound and the one picture stream that are read; None where there is none."""

    audio: Stream | None
    video: Stream | None

    @property
    def all(self) -> list[Stream]:
        """Both, as far as they are there."""
        return [stream for stream in (self.audio, self.video) if stream is not None]


def _is_cover(stream: Stream) -> bool:
    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def _choose(container: InputContainer) -> Chosen:
    best = {kind: container.streams.best(kind) for kind in ("audio", "video")}  # type: ignore[call-overload]
    if best["video"] is not None and _is_cover(best["video"]):
        best["video"] = next((stream for stream in container.streams.video if not _is_cover(stream)), None)
    return Chosen(**{k: s if s is not None and s.codec_context is not None else None for k, s in best.items()})


class Media:
    """An open file: its chosen streams and their packets.

    Args:
        file: the file.
        thread_count: threads that decode pictures.

    Raises:
        MediaError: it cannot be opened, or holds neither sound nor pictures.
    """

    def __init__(self, file: DescriptorFile, thread_count: int) -> None:
        self._file = file
        self._thread_count = thread_count
        self._open()

    def _open(self) -> None:
        self.container = open_container(self._file)
        self.streams = _choose(self.container)
        if not self.streams.all:
            known = any(
                stream.type in ("audio", "video") and not _is_cover(stream) for stream in self.container.streams
            )
            if known:
                raise MediaError("undecodable", "no decoder knows its streams")
            raise MediaError("no_streams", "it holds neither sound nor pictures")
        if self.streams.video is not None:
            self.streams.video.codec_context.thread_type = av.codec.context.ThreadType.AUTO
            self.streams.video.codec_context.thread_count = self._thread_count
        self.start_seconds = (self.container.start_time or 0) / av.time_base
        self.timeline = Timeline(self.start_seconds)

    def close(self) -> None:
        """Free the demuxer and the decoders."""
        self.container.close()

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

    def packets(self) -> "Iterator[Packet[Stream] | None]":
        """The chosen streams' packets in the file's order, then one empty packet for each; None: some were lost."""
        errors, end = 0, None
        chosen = {stream.index for stream in self.streams.all}
        while errors < MAX_DEMUX_ERRORS:
            try:
                for packet in self.container.demux():
                    errors = 0
                    if self._leaves_out(packet, end):
                        yield None
                    end = packet.pos + packet.size if packet.pos is not None else end
                    if packet.stream.index in chosen:
                        yield packet
                return
            except av.error.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise
                errors += 1
                yield None
        for stream in self.streams.all:
            yield _flush_packet(stream)

    def _leaves_out(self, packet: "Packet[Stream]", end_of_last: int | None) -> bool:
        """Whether the demuxer has skipped over damage: it does so without a word."""
        if self.format not in PACKED_FORMATS or end_of_last is None or packet.pos is None:
            return False
        return packet.pos - end_of_last > MAX_SKIPPED_BYTES

    def time(self, packet: "Packet[Stream]") -> float | None:
        """Roughly when a packet is shown, in seconds since the container's start; None if it does not say."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        return None if stamp is None else float(stamp * packet.time_base) - self.start_seconds

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
        for count, packet in enumerate(self.packets()):
            t_seconds = None if packet is None else self.time(packet)
            if packet is None or t_seconds is None:
                continue
            if packet.stream.index in waiting and (packet.is_keyframe or packet.stream.type == "audio"):
                if t_seconds > max(start_seconds, self._stream_start(packet.stream)):
                    return False
                waiting.discard(packet.stream.index)
            if not waiting or count > SEEK_LOOK_AHEAD_PACKETS or t_seconds > start_seconds + SEEK_LOOK_AHEAD_SECONDS:
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
    packet: "Packet[Stream]" = Packet()
    packet.stream = stream
    return packet


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

    def of(self, frame: "av.frame.Frame") -> int | None:
        """The timestamp of the next frame; None if nothing says it."""
        if self._slots:
            return heappop(self._slots)
        return frame.pts if frame.pts is not None else frame.dts


def probe(file: DescriptorFile) -> Probe:
    """What a file says about itself.

    Raises:
        MediaError: it cannot be read.
    """
    media = Media(file, thread_count=1)
    audio, video = media.streams.audio, media.streams.video
    streams = media.container.streams
    found = Probe(
        container=media.container.format.name,
        duration_seconds=media.duration_seconds,
        has_audio=audio is not None,
        has_video=video is not None,
        audio_codec=audio.codec_context.name if audio is not None else None,
        video_codec=video.codec_context.name if video is not None else None,
        width=video.codec_context.width if video is not None else None,  # type: ignore[attr-defined]
        height=video.codec_context.height if video is not None else None,  # type: ignore[attr-defined]
        frame_rate_hz=float(video.average_rate) if video is not None and video.average_rate else None,
        recorded_at=_recorded_at(media.container),
        audio_tracks=len(streams.audio),
        video_tracks=sum(not _is_cover(stream) for stream in streams.video),
        rotation_degrees=_rotation(media),
        seekable=file.seekable() and media.duration_seconds is not None and not _timestamps_start_again(media, file),
    )
    media.close()
    return found


def _recorded_at(container: InputContainer) -> str | None:
    stamp = container.metadata.get("creation_time")
    try:
        return datetime.fromisoformat(stamp).isoformat() if stamp else None
    except ValueError:
        return None


def _rotation(media: Media) -> int:
    """The turn that the first frame asks for; 0 if none can be decoded."""
    if media.streams.video is None:
        return 0
    try:
        frame = next(media.container.decode(media.streams.video), None)
    except (av.error.FFmpegError, ValueError):
        return 0
    return frame.rotation % 360 if frame is not None else 0  # type: ignore[union-attr]


def _timestamps_start_again(media: Media, file: DescriptorFile) -> bool:
    """Whether timestamps fall back somewhere, as in recordings joined byte by byte: then no time has one place."""
    if media.format not in RESETTABLE_FORMATS:
        return False
    stream = media.streams.all[-1]
    last = float("-inf")
    for step in range(N_RESET_PROBES):
        try:
            media.container.seek(file.size * step // N_RESET_PROBES, unsupported_byte_offset=True)
            packet = next((p for p in media.container.demux(stream) if p.dts is not None), None)
        except av.error.FFmpegError:
            continue
        t_seconds = None if packet is None else media.time(packet)
        if t_seconds is not None and t_seconds < last - Timeline.MAX_BACK_SECONDS:
            return True
        last = t_seconds if t_seconds is not None else last
    return False
