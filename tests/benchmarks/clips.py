"""Benchmark clips: a real face and real speech all the time, of any size, length and codec; kept in the clips' cache.

A short clip of a talk is played again and again into one encode, and long files are that encode's packets, copied: they
cost a decoder what a film of their length would, and take seconds to make.

The talk shows 12 pictures a second. Shown as they are, every second frame at 25 Hz would be a copy, which costs a
decoder next to nothing. So the camera moves slowly, by parts of a pixel, and has a sensor's noise: each frame is a
picture of its own, as in real footage.
"""

import heapq
import math
import os
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from operator import itemgetter
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from tests.fetch_media import cache_folder, fetch

SOURCE = "obama_speech.mp4"
RATE_HZ, SOUND_HZ = 25, 48_000
GOP_FRAMES = 250  # ten seconds, as x264 does by default
ENCODE_SECONDS = 30
NOISE = 3.5  # standard deviation of 255, in the brightness; half of it in the colours
ZOOM, PAN = 0.04, 0.015  # how far the camera moves, of the picture's width
ZOOM_SECONDS, PAN_SECONDS = 11.0, 7.0  # in which it comes back to where it was
VERSION = 2  # of what this file makes; another one does not find the clips of the one before

Planes = tuple[np.ndarray, np.ndarray, np.ndarray]  # Y, U and V: (h, w), and (h / 2, w / 2) twice, uint8


@dataclass(frozen=True)
class Encoder:
    """An encoder of FFmpeg and its options.

    H.264 is encoded as `ffmpeg` does by default (preset medium, crf 23, up to three B-frames, a key frame every 250).
    Others are encoded with fast presets, or they would take many minutes; and at a bit rate that is usual for 1080p,
    because the quality that these presets keep at a given crf differs from encoder to encoder.
    """

    name: str
    options: dict[str, str]


_KEYS = f"keyint={GOP_FRAMES}:min-keyint={GOP_FRAMES}:scenecut=0"
_FAST = {"g": str(GOP_FRAMES), "b": "3M"}
ENCODERS = {
    "h264": Encoder("libx264", {"preset": "medium", "crf": "23", "x264-params": _KEYS}),
    "hevc": Encoder("libx265", {"preset": "superfast", "x265-params": f"{_KEYS}:log-level=none", **_FAST}),
    "vp9": Encoder("libvpx-vp9", {"deadline": "realtime", "cpu-used": "7", "row-mt": "1", **_FAST}),
    "av1": Encoder("libsvtav1", {"preset": "9", **_FAST}),
}


def clip(height: int, seconds: int, encode_seconds: int = ENCODE_SECONDS, codec: str = "h264") -> Path:
    """A benchmark clip, made if it is not there yet.

    Args:
        height: of the picture, which is 16:9.
        seconds: a multiple of `encode_seconds`.
        encode_seconds: length of the encode that it repeats.
        codec: one of `ENCODERS`.
    """
    times, name = seconds // encode_seconds, f"{codec}-{height}p-{encode_seconds}s"
    whole = _cached(name, lambda path: _encode(path, height, encode_seconds, ENCODERS[codec]))
    return _cached(f"{name}-x{times}", lambda path: _repeat(whole, path, encode_seconds, times))


def megabits_per_second(path: Path) -> float:
    """What a clip's pictures take."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        size = sum(packet.size for packet in file.demux(stream))
        return 8e-6 * size / float(stream.duration * stream.time_base)


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    path = cache_folder() / "bench" / f"talk-v{VERSION}-{name}.mp4"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.stem}.{os.getpid()}.part.mp4")
        make(partial)
        partial.replace(path)
    return path


def _encode(path: Path, height: int, seconds: int, encoder: Encoder) -> None:
    pictures, sound = _source()
    width = round(height * 16 / 9 / 4) * 4
    starts, length_seconds = [start for start, _ in pictures], sound.shape[1] / SOUND_HZ
    cv2.setRNGSeed(0)
    os.environ["SVT_LOG"] = "1"  # only errors
    with av.open(str(path), "w") as out:
        video = out.add_stream(encoder.name, rate=RATE_HZ, options=encoder.options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = out.add_stream("aac", rate=SOUND_HZ, layout="stereo")
        for number in range(seconds * RATE_HZ):
            at = bisect(starts, number / RATE_HZ % length_seconds) - 1
            seen = _filmed(pictures[max(0, at)][1], number / RATE_HZ, width, height)
            frame = av.VideoFrame.from_ndarray(seen, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE_HZ)
            out.mux(video.encode(frame))
        for first in range(0, (seconds + 1) * SOUND_HZ, 1024):  # more than the pictures, for `_copies` to choose from
            piece = sound.take(range(first, first + 1024), axis=1, mode="wrap")
            block = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
            block.rate, block.pts, block.time_base = SOUND_HZ, first, Fraction(1, SOUND_HZ)
            out.mux(audio.encode(block))
        out.mux([*video.encode(None), *audio.encode(None)])


def _source() -> tuple[list[tuple[float, Planes]], np.ndarray]:
    """The talk's frames, with the times at which they come on, and its sound, (2, n) float32."""
    path = str(fetch(SOURCE))
    with av.open(path) as talk:
        pictures = [(float(frame.time), _planes(frame)) for frame in talk.decode(video=0)]
    resampler = av.AudioResampler("fltp", "stereo", SOUND_HZ)
    with av.open(path) as talk:
        blocks = [out.to_ndarray() for frame in [*talk.decode(audio=0), None] for out in resampler.resample(frame)]
    return pictures, np.concatenate(blocks, axis=1)


def _planes(frame: Any) -> Planes:
    flat = frame.to_ndarray(format="yuv420p")
    brightness, colours = flat[: frame.height], flat[frame.height :].reshape(2, frame.height // 2, -1)
    return brightness, colours[0], colours[1]


def _filmed(planes: Planes, t_seconds: float, width: int, height: int) -> np.ndarray:
    """A picture as a camera that moves sees it, filling the width: (height * 3 / 2, width) uint8, planes as yuv420p."""
    zoom = 1 + ZOOM * (1 - math.cos(2 * math.pi * t_seconds / ZOOM_SECONDS)) / 2 + 2 * PAN
    left, top = (PAN * (1 + turn(2 * math.pi * t_seconds / PAN_SECONDS)) for turn in (math.sin, math.cos))
    seen = []
    for number, plane in enumerate(planes):
        out_width, out_height = (width, height) if number == 0 else (width // 2, height // 2)
        scale = zoom * out_width / plane.shape[1]
        matrix = np.array([[scale, 0, -left * out_width], [0, scale, -top * out_width]])
        moved = cv2.warpAffine(plane, matrix, (out_width, out_height), flags=cv2.INTER_CUBIC)
        noise = np.empty(moved.shape, np.int16)
        cv2.randn(noise, 0, NOISE if number == 0 else NOISE / 2)
        seen.append(cv2.add(moved, noise, dtype=cv2.CV_8U).ravel())
    return np.concatenate(seen).reshape(height * 3 // 2, width)


def _repeat(source: Path, path: Path, seconds: int, times: int) -> None:
    """Copy the packets of a clip `times` times; each time as much sound goes along as the pictures last."""
    with av.open(str(source)) as one, av.open(str(path), "w") as out:
        packets = [packet for packet in one.demux() if packet.size]
        copies = []
        for stream in one.streams:
            own, base = [packet for packet in packets if packet.stream is stream], stream.time_base
            copies.append(_copies(own, base, seconds, times, out.add_stream_from_template(stream, opaque=True)))
        for _, packet, pts, dts, base, stream in heapq.merge(*copies, key=itemgetter(0)):
            packet.pts, packet.dts, packet.time_base, packet.stream = pts, dts, base, stream
            out.mux(packet)


def _copies(packets: list[Any], base: Fraction, seconds: int, times: int, stream: Any) -> Iterator[tuple[Any, ...]]:
    """Packets with the time, timestamps and stream that they get; from copy to copy there is no gap."""
    stamps = [(packet.pts, packet.dts, packet.duration) for packet in packets]
    first = start = stamps[0][1]
    for number in range(1, times + 1):
        end, shift = first + round(number * seconds / base), start - first
        for packet, (pts, dts, duration) in zip(packets, stamps, strict=True):
            if dts + shift >= end:
                break
            yield float((dts + shift) * base), packet, pts + shift, dts + shift, base, stream
            start = dts + shift + duration
