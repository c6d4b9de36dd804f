"""Opens a media file from what the decoding child was handed, or says why it cannot be opened.

Only the formats of `FORMATS` are opened, and no other file, device or address ever is: playlists, concatenation
scripts and image sequences are not among them. Only the decoders of `CODECS` ever run. What a file asks for is compared
with the limits before memory is taken for it.
"""

import mmap
import os
import socket
import stat
from abc import ABC, abstractmethod
from typing import Any

import av
from av.codec.codec import Codec
from av.codec.hwaccel import HWAccel
from av.container import InputContainer

from worker.lending import ASKED, GIVEN, SIZE
from worker.limits import Limits

# The demuxers that may open a file, by FFmpeg's names: containers of recordings, each self-contained.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,wav,w64,mp3,flac,aac,ac3,eac3,"
    "asf,mxf,aiff,caf,au,amr,amrnb,amrwb,dv,ivf,nut,rm,wtv"
)
# The decoders that may run, by FFmpeg's names: what cameras, phones, broadcasters and programs that edit or record have
# made over the years. Not those of games, of still images, of screens, and of what nobody has seen for decades.
CODECS = (
    "h264,hevc,vvc,av1,libdav1d,vp8,vp9,vp6,vp6f,vp6a,vp7,vp3,theora,mpeg1video,mpeg2video,mpegvideo,mpeg4,msmpeg4v1,"
    "msmpeg4v2,msmpeg4,h261,h263,h263i,h263p,flv,wmv1,wmv2,wmv3,vc1,rv10,rv20,rv30,rv40,svq1,svq3,cinepak,indeo3,indeo4,"
    "indeo5,msvideo1,msrle,qtrle,rpza,dvvideo,dnxhd,prores,cfhd,mjpeg,mjpegb,jpeg2000,ffv1,ffvhuff,huffyuv,utvideo,"
    "lagarith,magicyuv,hap,dirac,png,rawvideo,v210,v410,r210,v308,v408,yuv4,"
    "aac,aac_latm,mp1,mp1float,mp2,mp2float,mp3,mp3float,mp3adu,mp3adufloat,mp3on4,mp3on4float,ac3,eac3,dca,truehd,mlp,"
    "opus,libopus,vorbis,flac,alac,ape,wavpack,tta,speex,nellymoser,amrnb,amrwb,libopencore_amrnb,libopencore_amrwb,"
    "gsm,gsm_ms,ilbc,qcelp,evrc,g722,g723_1,g726,g726le,g729,sipr,cook,ra_144,ra_288,real_144,real_288,ralf,atrac1,"
    "atrac3,atrac3al,atrac3plus,wmav1,wmav2,wmavoice,wmapro,wmalossless,mace3,mace6,qdm2,qdmc,dvaudio,s302m,"
    "adpcm_ima_wav,adpcm_ima_qt,adpcm_ms,adpcm_swf,adpcm_yamaha,adpcm_g722,adpcm_g726,adpcm_g726le,adpcm_ct,"
    "pcm_alaw,pcm_mulaw,pcm_bluray,pcm_dvd,pcm_s8,pcm_s8_planar,pcm_u8,pcm_s16le,pcm_s16be,pcm_s16le_planar,"
    "pcm_s16be_planar,pcm_u16le,pcm_u16be,pcm_s24le,pcm_s24be,pcm_s24le_planar,pcm_s24daud,pcm_u24le,pcm_u24be,pcm_s32le,"
    "pcm_s32be,pcm_s32le_planar,pcm_u32le,pcm_u32be,pcm_s64le,pcm_s64be,pcm_f16le,pcm_f24le,pcm_f32le,pcm_f32be,"
    "pcm_f64le,pcm_f64be"
)
NAMED_CODECS = frozenset(CODECS.split(","))
BUFFER_BYTES = 1 << 16
SNIFFED_BYTES = 64

# How files begin.
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


class SourceLost(Exception):  # noqa: N818 - the parent knows what went wrong
    """Raised when the parent lends no more bytes. No OSError: nothing here is to take it for damage and read on."""


class MediaFile(ABC):
    """A read-only file with a position of its own."""

    _position = 0

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes in the file now."""

    @abstractmethod
    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""

    @abstractmethod
    def peek(self, size: int) -> bytes:
        """The first bytes, or none of them if they could be read only once."""

    def seekable(self) -> bool:
        """Whether it can be read at any place."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset from the start, from here, or from the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._position


def media_file(descriptor: int) -> MediaFile:
    """The file that a descriptor leads to: an open one, or one whose bytes are lent over a socket."""
    is_lent = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    return LentFile(descriptor) if is_lent else DescriptorFile(descriptor)


class DescriptorFile(MediaFile):
    """A file over a descriptor. The position is not the descriptor's, since descriptors that were sent share theirs."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._regular = stat.S_ISREG(os.fstat(descriptor).st_mode)

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        if not self._regular:
            return os.read(self._descriptor, size)
        content = os.pread(self._descriptor, size, self._position)
        self._position += len(content)
        return content

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


class LentFile(MediaFile):
    """A file whose bytes the parent lends in shared memory: see `worker.lending`.

    Raises (from each method):
        SourceLost: the parent lends no more.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        with socket.socket(fileno=os.dup(descriptor)) as lender:
            try:
                size, memory, _, _ = socket.recv_fds(lender, SIZE.size, 1)
            except ConnectionError as error:
                raise SourceLost from error
        if not memory:
            raise SourceLost
        self._memory = mmap.mmap(memory[0], 0, prot=mmap.PROT_READ)
        os.close(memory[0])
        self._size = int(SIZE.unpack(size)[0])
        self._start = self._end = self._place = 0  # of the bytes that can be read now

    @property
    def size(self) -> int:
        """Bytes in the object."""
        return self._size

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        content = self._at(self._position, size)
        self._position += len(content)
        return content

    def peek(self, size: int) -> bytes:
        """The first bytes."""
        return self._at(0, size)

    def _at(self, offset: int, size: int) -> bytes:
        if offset >= self._size:
            return b""
        if not self._start <= offset < self._end:
            self._place, length = self._asked(offset)
            self._start, self._end = offset, offset + length
        first = self._place + offset - self._start
        return self._memory[first : first + min(size, self._end - offset)]

    def _asked(self, offset: int) -> tuple[int, int]:
        """Where bytes from an offset on lie in the memory, and how many."""
        try:
            os.write(self._descriptor, ASKED.pack(offset))
            given = os.read(self._descriptor, GIVEN.size)
        except ConnectionError as error:
            raise SourceLost from error
        if not given:
            raise SourceLost
        place, length = GIVEN.unpack(given)
        return place, length


def _is_image(head: bytes) -> bool:
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)
    return head.startswith(_IMAGES) or webp or bitmap or (head[4:8] == b"ftyp" and head[8:12] in _IMAGE_BRANDS)


def _has_whole_index(file: MediaFile) -> bool:
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


def _diagnose(file: MediaFile, error: Exception) -> MediaError:
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


def nvdec() -> HWAccel:
    """The decoder of an NVIDIA GPU, for those pictures that it can decode; others are decoded by the processor.

    Raises:
        MediaError: there is none.
    """
    hardware = HWAccel("cuda", allow_software_fallback=True)
    try:
        return hardware.create(Codec("h264", "r"))
    except (av.error.FFmpegError, OSError, RuntimeError, ValueError) as error:
        raise MediaError("device_unavailable", f"no NVIDIA decoder can be used here: {error}") from error


def codec_options(limits: Limits) -> dict[str, str]:
    """What a decoder is opened with: it then refuses larger pictures itself, whatever the file says of them later."""
    return {"max_pixels": str(limits.max_pixels), "codec_whitelist": CODECS}


def open_container(file: MediaFile, limits: Limits, hardware: HWAccel | None = None) -> InputContainer:
    """Open a container and find its streams.

    Args:
        hardware: what decodes pictures; None: the processor.

    Raises:
        MediaError: it is none, is of a format that is not read, asks for more than the limits allow, or is damaged.
    """
    if file.seekable() and not file.size:
        raise MediaError("empty_file", "it is zero bytes long")
    if _is_image(file.peek(SNIFFED_BYTES)):
        raise MediaError("image_not_video", "it is a still image")
    try:
        container = _opened(file, limits, hardware)
    except MemoryError:
        if _says_too_many_streams(file, limits):
            raise _too_many_streams(limits) from None
        raise
    except (av.error.FFmpegError, ValueError) as error:
        raise _diagnose(file, error) from error
    try:
        _check(container, limits)
    except BaseException:
        container.close()
        raise
    return container


def _opened(file: MediaFile, limits: Limits, hardware: HWAccel | None = None) -> InputContainer:
    file.seek(0)
    return av.open(
        file,
        "r",
        container_options={
            "format_whitelist": FORMATS,
            "protocol_whitelist": "none",
            "codec_whitelist": CODECS,
            "max_streams": str(limits.max_streams + 1),  # one more, to tell a file that has too many
        },
        metadata_errors="replace",
        buffer_size=BUFFER_BYTES,
        hwaccel=hardware,
    )


def _says_too_many_streams(file: MediaFile, limits: Limits) -> bool:
    """Whether it is for its streams that a file cannot be opened: FFmpeg gives that out as a lack of memory."""
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_libav_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # or it would be said of the first such file only
    try:
        with av.logging.Capture() as said, _opened(file, limits):
            pass
    except (MemoryError, av.error.FFmpegError, ValueError):
        return any("max_streams" in text for _, _, text in said)
    finally:
        be_quiet()
    return False


def be_quiet() -> None:
    """Let FFmpeg write nothing: what is wrong with a file is said in one sentence, by the parent."""
    av.logging.set_level(None)
    av.logging.set_libav_level(av.logging.PANIC)


def _too_many_streams(limits: Limits) -> MediaError:
    return MediaError("too_many_streams", f"it holds more than {limits.max_streams} streams")


def _check(container: InputContainer, limits: Limits) -> None:
    """Compare what a file says of itself with what is allowed.

    Raises:
        MediaError: it asks for more.
    """
    if len(container.streams) > limits.max_streams:
        raise _too_many_streams(limits)
    described: list[Any] = [container, *container.streams]
    size = sum(len(f"{key}{value}".encode()) for some in described for key, value in some.metadata.items())
    if size > limits.max_metadata_bytes:
        raise MediaError("metadata_too_large", f"its metadata has {size} bytes, more than {limits.max_metadata_bytes}")
    for stream in (stream for stream in container.streams.video if stream.codec_context is not None):
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > limits.max_pixels:
            raise MediaError(
                "picture_too_large", f"its pictures have {width} x {height} pixels, more than {limits.max_pixels}"
            )
    seconds = (container.duration or 0) / av.time_base
    if seconds > limits.max_seconds:
        raise MediaError("recording_too_long", too_long(seconds, limits))


def too_long(seconds: float, limits: Limits) -> str:
    """What is wrong with a recording that is too long."""
    return f"it reaches {seconds / 3600:.1f} hours, more than {limits.max_seconds / 3600:g}"
