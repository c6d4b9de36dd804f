"""Benchmark clips: a real face and real speech all the time, of any size and length; kept in the clips' cache.

A short clip of a talk is played again and again into one encode, and long files are that encode's packets, copied: they
cost a decoder what a film of their length would, and take seconds to make.
"""

import heapq
import os
from bisect import bisect
from collections.abc import Callable, Iterator
from fractions import Fraction
from operator import itemgetter
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.fetch_media import cache_folder, fetch

SOURCE = "obama_speech.mp4"
RATE_HZ, SOUND_HZ = 25, 48_000
GOP_FRAMES = 250  # ten seconds, as x264 does by default
ENCODE_SECONDS = 30
VERSION = 1  # of what this file makes; another one does not find the clips of the one before


def clip(height: int, seconds: int, encode_seconds: int = ENCODE_SECONDS) -> Path:
    """A benchmark clip, made if it is not there yet.

    Args:
        height: of the picture, which is 16:9.
        seconds: a multiple of `encode_seconds`.
        encode_seconds: length of the encode that it repeats.
    """
    times = seconds // encode_seconds
    whole = _cached(f"{height}p-{encode_seconds}s", lambda path: _encode(path, height, encode_seconds))
    return _cached(f"{height}p-{encode_seconds}s-x{times}", lambda path: _repeat(whole, path, encode_seconds, times))


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    path = cache_folder() / "bench" / f"talk-v{VERSION}-{name}.mp4"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.stem}.{os.getpid()}.part.mp4")
        make(partial)
        partial.replace(path)
    return path


def _encode(path: Path, height: int, seconds: int) -> None:
    pictures, sound = _source()
    width = round(height * 16 / 9 / 2) * 2
    shown = [_filling(frame, width, height) for _, frame in pictures]
    starts, length_seconds = [start for start, _ in pictures], sound.shape[1] / SOUND_HZ
    keys = f"keyint={GOP_FRAMES}:min-keyint={GOP_FRAMES}:scenecut=0"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=RATE_HZ, options={"preset": "veryfast", "x264-params": keys})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = out.add_stream("aac", rate=SOUND_HZ, layout="stereo")
        for number in range(seconds * RATE_HZ):
            at = bisect(starts, number / RATE_HZ % length_seconds) - 1
            frame = av.VideoFrame.from_ndarray(shown[max(0, at)], format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE_HZ)
            out.mux(video.encode(frame))
        for first in range(0, (seconds + 1) * SOUND_HZ, 1024):  # more than the pictures, for `_copies` to choose from
            piece = sound.take(range(first, first + 1024), axis=1, mode="wrap")
            block = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
            block.rate, block.pts, block.time_base = SOUND_HZ, first, Fraction(1, SOUND_HZ)
            out.mux(audio.encode(block))
        out.mux([*video.encode(None), *audio.encode(None)])


def _source() -> tuple[list[tuple[float, Any]], np.ndarray]:
    """The talk's frames, with the times at which they come on, and its sound, (2, n) float32."""
    path = str(fetch(SOURCE))
    with av.open(path) as talk:
        pictures = [(float(frame.time), frame) for frame in talk.decode(video=0)]
    resampler = av.AudioResampler("fltp", "stereo", SOUND_HZ)
    with av.open(path) as talk:
        blocks = [out.to_ndarray() for frame in [*talk.decode(audio=0), None] for out in resampler.resample(frame)]
    return pictures, np.concatenate(blocks, axis=1)


def _filling(frame: Any, width: int, height: int) -> np.ndarray:
    """A picture scaled to the width, and what is too high cut off below: (height, width, 3) uint8."""
    scaled = frame.reformat(width, round(frame.height * width / frame.width), "rgb24").to_ndarray()
    return np.ascontiguousarray(scaled[:height])


def _repeat(source: Path, path: Path, seconds: int, times: int) -> None:
    """Copy the packets of a clip `times` times; each time as much sound goes along as the pictures last."""
    with av.open(str(source)) as one, av.open(str(path), "w") as out:
        packets = [packet for packet in one.demux() if packet.size]
        copies = []
        for stream in one.streams:
            own, base = [packet for packet in packets if packet.stream is stream], stream.time_base
            copies.append(_copies(own, base, seconds, times, out.add_stream_from_template(stream)))
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
