"""What a media file says about itself, inside the decoding child."""

from datetime import datetime

import av
from av.container import InputContainer

from worker.decoder_media import Media, is_cover
from worker.decoder_open import MediaFile
from worker.decoder_time import Timeline
from worker.limits import DEFAULT_LIMITS, Limits
from worker.protocol import Probe

RESETTABLE_FORMATS = {"mpegts", "mpeg", "ogg"}  # whose timestamps may start again midway
N_RESET_PROBES = 16
FIRST_YEAR = 1900  # that a recording may say it is of


def probe(file: MediaFile, limits: Limits = DEFAULT_LIMITS) -> Probe:
    """What a file says about itself.

    Raises:
        MediaError: it cannot be read.
    """
    media = Media(file, thread_count=1, limits=limits)
    audio, video = media.streams.audio, media.streams.video
    streams = media.container.streams
    found = Probe(
        container=media.container.format.name,
        duration_seconds=max(0.0, media.duration_seconds) if media.duration_seconds is not None else None,
        has_audio=audio is not None,
        has_video=video is not None,
        audio_codec=audio.codec_context.codec.canonical_name if audio is not None else None,
        video_codec=video.codec_context.codec.canonical_name if video is not None else None,
        width=(video.codec_context.width or None) if video is not None else None,  # type: ignore[attr-defined]
        height=(video.codec_context.height or None) if video is not None else None,  # type: ignore[attr-defined]
        frame_rate_hz=float(video.average_rate) if video is not None and video.average_rate else None,
        recorded_at=_recorded_at(media.container),
        audio_tracks=len(streams.audio),
        video_tracks=sum(not is_cover(stream) for stream in streams.video),
        rotation_degrees=_rotation(media),
        seekable=file.seekable() and media.duration_seconds is not None and not _timestamps_start_again(media, file),
    )
    media.close()
    return found


def _recorded_at(container: InputContainer) -> str | None:
    stamp = container.metadata.get("creation_time")
    try:
        said = datetime.fromisoformat(stamp) if stamp else None
    except ValueError:
        return None
    return said.isoformat() if said is not None and said.year >= FIRST_YEAR else None


def _rotation(media: Media) -> int:
    """The turn that the first frame asks for; 0 if none can be decoded."""
    if media.streams.video is None:
        return 0
    try:
        frame = next(media.container.decode(media.streams.video), None)
    except (av.error.FFmpegError, IndexError, ValueError):  # the second as in `Media.packets`
        return 0
    return round(frame.rotation / 90) % 4 * 90 if frame is not None else 0  # type: ignore[union-attr]


def _timestamps_start_again(media: Media, file: MediaFile) -> bool:
    """Whether timestamps fall back somewhere, as in recordings joined byte by byte: then no time has one place."""
    if media.format not in RESETTABLE_FORMATS:
        return False
    stream = media.streams.all[-1]
    last = float("-inf")
    for step in range(N_RESET_PROBES):
        try:
            media.container.seek(file.size * step // N_RESET_PROBES, unsupported_byte_offset=True)
            packet = next((p for p in media.container.demux(stream) if p.dts is not None), None)
        except (av.error.FFmpegError, IndexError):
            continue
        t_seconds = None if packet is None else media.time(packet)
        if t_seconds is not None and t_seconds < last - Timeline.MAX_BACK_SECONDS:
            return True
        last = t_seconds if t_seconds is not None else last
    return False
