"""The clips that fuzzing starts from: short ones in the containers and codecs that the reader takes, always the same.

Where the shared data sets are, the first videos of one are among them: from other programs than FFmpeg.
"""

import os
import tarfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from tests.clips import Pictures, Track, steady, write

SECONDS = 1.5
MAX_SHARED_BYTES = 400_000
SHARED = ("javanese-video.tar", "ravdess-audio.tar")
N_SHARED = 3  # of each

os.environ.setdefault("SVT_LOG", "1")  # errors only: the encoder of AV1 tells what it does
_X264 = {"preset": "ultrafast", "g": "6", "bf": "2", "threads": "1"}
_VPX = {"deadline": "realtime", "cpu-used": "8", "threads": "1"}


def _pictures(
    codec: str, options: dict[str, str] | None = None, pix_fmt: str = "yuv420p", rate_hz: int = 12
) -> Pictures:
    rate = Fraction(rate_hz)
    width, height = (128, 96) if codec == "h263" else (96, 64)
    return Pictures(
        steady(SECONDS, rate_hz), codec, pix_fmt, width, height, time_base=1 / rate, rate_hz=rate, options=options or {}
    )


def _sound(codec: str, rate_hz: int = 16_000) -> Track:
    return Track(codec, rate_hz, "mono", seconds=SECONDS)


_SEEDS: Mapping[str, tuple[Pictures | None, Sequence[Track], dict[str, str]]] = {
    "h264.mp4": (_pictures("libx264", _X264), [_sound("aac")], {}),
    "fragments.mp4": (_pictures("libx264", _X264), [_sound("aac")], {"movflags": "frag_keyframe+empty_moov"}),
    "faststart.mp4": (_pictures("mpeg4"), [_sound("aac")], {"movflags": "faststart"}),
    "hevc.mp4": (
        _pictures("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"}),
        [_sound("aac")],
        {},
    ),
    "av1.mp4": (_pictures("libsvtav1", {"preset": "12", "svtav1-params": "lp=1"}), [_sound("aac")], {}),
    "mjpeg.mov": (_pictures("mjpeg", pix_fmt="yuvj420p"), [_sound("pcm_s16le")], {}),
    "prores.mov": (_pictures("prores_ks", pix_fmt="yuv422p10le"), [], {}),
    "svq1.mov": (_pictures("svq1", pix_fmt="yuv410p"), [_sound("adpcm_ima_qt")], {}),
    "tracks.mp4": (None, [_sound("aac"), _sound("aac")], {}),
    "h264.mkv": (_pictures("libx264", _X264), [_sound("ac3", 48_000)], {}),
    "ffv1.mkv": (_pictures("ffv1"), [_sound("flac")], {}),
    "vp8.webm": (_pictures("libvpx", _VPX), [_sound("libopus", 48_000)], {}),
    "vp9.webm": (_pictures("libvpx-vp9", _VPX), [_sound("libopus", 48_000)], {}),
    "mpeg4.avi": (_pictures("mpeg4"), [_sound("libmp3lame", 44_100)], {}),
    "mjpeg.avi": (_pictures("mjpeg", pix_fmt="yuvj420p"), [_sound("pcm_s16le")], {}),
    "msmpeg4.avi": (_pictures("msmpeg4"), [_sound("adpcm_ms")], {}),
    "h264.ts": (_pictures("libx264", _X264), [_sound("aac")], {}),
    "mpeg2.ts": (_pictures("mpeg2video", rate_hz=25), [_sound("mp2", 48_000)], {}),
    "mpeg2.mpg": (_pictures("mpeg2video", rate_hz=25), [_sound("mp2", 48_000)], {}),
    "mpeg2.mxf": (_pictures("mpeg2video", rate_hz=25), [_sound("pcm_s16le", 48_000)], {}),
    "flv1.flv": (_pictures("flv"), [_sound("libmp3lame", 44_100)], {}),
    "h264.flv": (_pictures("libx264", _X264), [_sound("aac")], {}),
    "wmv2.asf": (_pictures("wmv2"), [_sound("libmp3lame", 44_100)], {}),
    "rv10.rm": (_pictures("rv10"), [_sound("ac3", 44_100)], {}),
    "h263.3gp": (_pictures("h263"), [_sound("libopencore_amrnb", 8_000)], {}),
    "vp8.ivf": (_pictures("libvpx", _VPX), [], {}),
    "ffvhuff.nut": (_pictures("ffvhuff"), [_sound("pcm_s16le")], {}),
    "opus.ogg": (None, [_sound("libopus", 48_000)], {}),
    "pcm.wav": (None, [_sound("pcm_s16le")], {}),
    "pcm.w64": (None, [_sound("pcm_f32le")], {}),
    "mp3.mp3": (None, [_sound("libmp3lame", 44_100)], {}),
    "flac.flac": (None, [_sound("flac")], {}),
    "aac.aac": (None, [_sound("aac")], {}),
    "eac3.eac3": (None, [_sound("eac3", 48_000)], {}),
    "pcm.aiff": (None, [_sound("pcm_s16be")], {}),
    "alac.caf": (None, [_sound("alac")], {}),
    "mulaw.au": (None, [_sound("pcm_mulaw", 8_000)], {}),
}


def make(folder: Path) -> dict[str, bytes]:
    """All clips by their names; about a second's work."""
    clips = {
        name: write(folder / name, pictures, tracks, container={"fflags": "bitexact"} | options).read_bytes()
        for name, (pictures, tracks, options) in _SEEDS.items()
    }
    return clips | _shared()


def _shared() -> dict[str, bytes]:
    root = Path(os.environ.get("MOODREEL_DATA", Path(__file__).parent.parent.parent.parent / "shared" / "data"))
    found: dict[str, bytes] = {}
    for archive in (root / name for name in SHARED if (root / name).is_file()):
        n_found = 0
        with tarfile.open(archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() and member.size <= MAX_SHARED_BYTES else None
                if file is not None and member.name.endswith((".mp4", ".wav", ".flac", ".ogg", ".opus")):
                    found[f"{archive.stem}-{n_found}{Path(member.name).suffix}"] = file.read()
                    n_found += 1
                if n_found == N_SHARED:
                    break
    return found
