"""Clips whose truth is known without reading them, and the readings that are compared with it.

Every frame shows its own number as a 4 x 4 board of black and white cells, which survives compression, scaling and odd
pixel formats but not a wrong rotation. The sound is one fixed sum of sines of incommensurate frequencies, so that a
piece of it fits one place in time only.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from worker.decoder_video import Sight
from worker.limits import Limits
from worker.protocol import SAMPLE_RATE_HZ, End, Picture, ReadRequest, Sound, Unreadable, Voice
from worker.reader import Reader

RATE_HZ = 25
WIDTH, HEIGHT = 192, 128
SOUND_HZ = 48_000

_random = np.random.default_rng(7)
_FREQUENCIES = _random.uniform(200, 3000, 48)
_PHASES = _random.uniform(0, 2 * np.pi, 48)


def sound_at(t_seconds: np.ndarray) -> np.ndarray:
    """The clips' sound at any times, (n,) within -0.8..0.8."""
    return np.sin(2 * np.pi * np.outer(t_seconds, _FREQUENCIES) + _PHASES).sum(axis=1) * (0.8 / 24)


@lru_cache(maxsize=64)
def _wave(first: int, count: int, rate_hz: int) -> np.ndarray:
    return sound_at(np.arange(first, first + count) / rate_hz).astype(np.float32)


def board(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture (height, width, 3) that shows `number` (below 4096) and a check digit."""
    check = (number ^ number >> 4 ^ number >> 8) & 15
    bits = np.array([(number | check << 12) >> i & 1 for i in range(16)], np.uint8).reshape(4, 4)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    grey = np.where(bits[rows][:, columns] == 1, 215, 35).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def number_on(crop: np.ndarray) -> int:
    """The number on a (48, 48) picture of a board; -1 if its check digit is wrong."""
    bits = crop.reshape(4, 12, 4, 12)[:, 3:9, :, 3:9].mean(axis=(1, 3)) > 125
    value = int(sum(int(bit) << i for i, bit in enumerate(bits.reshape(-1))))
    number, check = value & 4095, value >> 12
    return number if check == (number ^ number >> 4 ^ number >> 8) & 15 else -1


class BoardWatcher:
    """Takes the whole picture for the face; its box tells the picture's size in pixels."""

    def look(self, picture: np.ndarray, *_: Any, anew: bool = True) -> Sight:
        """See (height, width, 3) uint8."""
        height, width = picture.shape[:2]
        rows, columns = (np.arange(48) * 2 + 1) * height // 96, (np.arange(48) * 2 + 1) * width // 96
        crop = picture[rows][:, columns].mean(axis=2).astype(np.uint8)
        return Sight("face", 1, crop, (0.0, 0.0, float(width), float(height)), 1.0)


class RememberingWatcher(BoardWatcher):
    """Tells in place of the box how many frames it has looked at since it was to look anew, and their numbers' sum."""

    def look(self, picture: np.ndarray, *_: Any, anew: bool = True) -> Sight:
        """See (height, width, 3) uint8."""
        sight = super().look(picture)
        count, total = (0, 0) if anew else self._seen
        self._seen = (count + 1, total + number_on(sight.crop))
        return replace(sight, box=(*map(float, self._seen), 0.0, 0.0))


class HangingWatcher(BoardWatcher):
    """Never comes back from a picture of an even width above 200."""

    def look(self, picture: np.ndarray, *_: Any, anew: bool = True) -> Sight:
        """Hang on wide pictures."""
        if picture.shape[1] > 200:
            time.sleep(3600)
        return super().look(picture, anew=anew)


class CrashingWatcher(BoardWatcher):
    """Takes the process with it, as a decoder's bug would."""

    def look(self, picture: np.ndarray, *_: Any, anew: bool = True) -> Sight:
        """Crash on wide pictures."""
        if picture.shape[1] > 200:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().look(picture, anew=anew)


class LoudListener:
    """Says how loud each chunk is, in place of a voice detector; like one, it remembers a little."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self._rest = np.zeros(0, np.float32)

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Loudness of each whole chunk, (m,) float32."""
        sound = np.concatenate([self._rest, samples])
        count = len(sound) // 512
        self._rest = sound[count * 512 :]
        return np.sqrt((sound[: count * 512].reshape(count, 512) ** 2).mean(axis=1)).astype(np.float32)

    def flush(self) -> np.ndarray:
        """Loudness of the last, partial chunk."""
        return self.feed(np.zeros(-len(self._rest) % 512, np.float32))


def board_reader(**options: Any) -> Reader:
    """A reader that sees boards and hears loudness; options are its own or those of `worker.limits.Limits`."""
    named = {field.name for field in fields(Limits)}
    limits = Limits(**{name: options.pop(name) for name in named & options.keys()})
    detectors = {"watcher": "tests.clips:BoardWatcher", "listener": "tests.clips:LoudListener"}
    return Reader(limits=limits, **detectors | options)


@dataclass(frozen=True)
class Track:
    """How to write a clip's sound: `seconds` of it from `start` on, both on the clip's own clock."""

    codec: str = "aac"
    rate_hz: int = SOUND_HZ
    layout: str = "stereo"
    start: float = 0.0
    seconds: float = 4.0
    gain: float = 1.0
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pictures:
    """How to write a clip's pictures: frame n comes on at `times[n]` (seconds on the clip's own clock)."""

    times: Sequence[Fraction]
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    width: int = WIDTH
    height: int = HEIGHT
    time_base: Fraction = Fraction(1, RATE_HZ)
    rate_hz: Fraction = Fraction(RATE_HZ)  # as the container states it
    options: dict[str, str] = field(default_factory=lambda: {"preset": "ultrafast", "g": "25"})
    prepare: Callable[[Any], None] | None = None
    paint: Callable[[int, int, int], np.ndarray] = board


def steady(seconds: float, rate_hz: int = RATE_HZ) -> list[Fraction]:
    """Times of a constant rate."""
    return [Fraction(n, rate_hz) for n in range(round(seconds * rate_hz))]


def write(
    path: Path,
    pictures: Pictures | None = None,
    tracks: Sequence[Track] = (),
    *,
    offset: float = 0.0,
    container: dict[str, str] | None = None,
    prepare: Callable[[Any, list[Any]], None] | None = None,
    interleave: bool = True,
) -> Path:
    """Write a clip; `offset` is added to all timestamps. Returns `path`."""
    with av.open(str(path), "w", options=container or {}) as out:
        video = _add_video(out, pictures) if pictures else None
        audios = [_add_audio(out, track) for track in tracks]
        if prepare is not None:
            prepare(out, audios)
        out.start_encoding()  # a clip without a frame has a header too
        queues = [_video_packets(video, pictures, offset)] if pictures else []
        queues += [_audio_packets(stream, track, offset) for stream, track in zip(audios, tracks, strict=True)]
        packets = [packet for queue in queues for packet in queue]
        if interleave:
            packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for packet in packets:
            out.mux(packet)
    return path


def _add_video(out: Any, pictures: Pictures) -> Any:
    stream = out.add_stream(pictures.codec, rate=pictures.rate_hz, options=dict(pictures.options))
    stream.width, stream.height, stream.pix_fmt = pictures.width, pictures.height, pictures.pix_fmt
    stream.codec_context.time_base = pictures.time_base
    if pictures.prepare is not None:
        pictures.prepare(stream)
    return stream


def _add_audio(out: Any, track: Track) -> Any:
    return out.add_stream(track.codec, rate=track.rate_hz, layout=track.layout, options=dict(track.options))


def _video_packets(stream: Any, pictures: Pictures, offset: float) -> Iterable[Any]:
    base = pictures.time_base
    for number, t_seconds in enumerate(pictures.times):
        frame = av.VideoFrame.from_ndarray(pictures.paint(number, pictures.width, pictures.height), format="rgb24")
        if pictures.pix_fmt == "pal8":
            frame = _palette_frame(frame.to_ndarray())
        frame.pts, frame.time_base = round((t_seconds + Fraction(offset)) / base), base
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _palette_frame(rgb: np.ndarray) -> Any:
    """A picture of 256 greys; swscale makes no palettes."""
    frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], "pal8")
    plane = frame.planes[0]
    rows = np.zeros((plane.height, plane.line_size), np.uint8)
    rows[:, : rgb.shape[1]] = rgb[:, :, 0]
    plane.update(rows.tobytes())
    greys = np.arange(256, dtype=np.uint32)
    frame.planes[1].update((greys * 0x010101 | 0xFF000000).astype("<u4").tobytes())
    return frame


def _audio_packets(stream: Any, track: Track, offset: float) -> Iterable[Any]:
    rate = track.rate_hz
    first, count = round(track.start * rate), round(track.seconds * rate)
    n_channels = stream.codec_context.layout.nb_channels
    wave = _wave(first, count, rate) * np.float32(track.gain)
    for start in range(0, count, 1024):
        piece = np.tile(wave[start : start + 1024], (n_channels, 1))
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=track.layout)
        frame.rate, frame.pts, frame.time_base = rate, first + start + round(offset * rate), Fraction(1, rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)


@dataclass(frozen=True)
class Reading:
    """All that a reader said about one span."""

    pictures: list[Picture]
    first_sample: int | None
    sound: np.ndarray
    first_chunk: int | None
    voice: np.ndarray
    unreadable: list[Unreadable]
    end: End

    @property
    def numbers(self) -> list[int]:
        """The frame numbers seen at the points of the grid."""
        return [number_on(picture.crop) for picture in self.pictures if picture.crop is not None]


def read(reader: Reader, path: Path, **request: Any) -> Reading:
    """Read one span; the sound and the voice must come without gap or overlap."""
    with path.open("rb") as file:
        events = list(reader.read(file.fileno(), path.name, ReadRequest(**request)))
    sounds = [event for event in events if isinstance(event, Sound)]
    voices = [event for event in events if isinstance(event, Voice)]
    for one, next_one in pairwise(sounds):
        assert next_one.start_sample == one.start_sample + len(one.samples)
    for before, after in pairwise(voices):
        assert after.first_chunk == before.first_chunk + len(before.probabilities)
    assert isinstance(events[-1], End)
    nothing = [np.zeros(0, np.float32)]
    return Reading(
        pictures=[event for event in events if isinstance(event, Picture)],
        first_sample=sounds[0].start_sample if sounds else None,
        sound=np.concatenate(nothing + [event.samples for event in sounds]),
        first_chunk=voices[0].first_chunk if voices else None,
        voice=np.concatenate(nothing + [event.probabilities for event in voices]),
        unreadable=[event for event in events if isinstance(event, Unreadable)],
        end=events[-1],
    )


def assert_pictures(
    reading: Reading, times: Sequence[Fraction], *, shift: float = 0.0, tolerance: float = 0.0011
) -> None:
    """At each point of the grid the frame is seen that came on last, and it is said truly when it did.

    Args:
        times: when each frame comes on, on the clip's clock.
        shift: what the reader's clock shows when the clip's shows 0.
        tolerance: seconds; containers may round to milliseconds.
    """
    assert reading.pictures
    starts = [float(t) + shift for t in times]
    for picture, number in zip(reading.pictures, reading.numbers, strict=True):
        assert 0 <= number < len(starts), f"no frame can be made out at {picture.t_seconds}"
        assert abs(picture.source_seconds - starts[number]) <= tolerance
        assert starts[number] <= picture.t_seconds + tolerance
        assert number + 1 == len(starts) or starts[number + 1] > picture.t_seconds - tolerance


def lag_seconds(
    sound: np.ndarray, start_seconds: float, *, shift: float = 0.0, reach_seconds: float = 0.025
) -> tuple[float, float]:
    """How much later a piece of a clip's sound lies than it should, and how well it fits there (correlation)."""
    reach = round(reach_seconds * SAMPLE_RATE_HZ)
    times = start_seconds - shift + np.arange(-reach, len(sound) + reach) / SAMPLE_RATE_HZ
    truth = sound_at(times)
    scores = np.correlate(truth, sound, "valid")
    energy = np.sqrt(np.convolve(truth**2, np.ones(len(sound)), "valid") * (sound**2).sum()) + 1e-9
    best = int(np.argmax(scores / energy))
    return (reach - best) / SAMPLE_RATE_HZ, float(scores[best] / energy[best])


def assert_sound(
    reading: Reading, start_seconds: float, end_seconds: float, *, shift: float = 0.0, tolerance: float = 0.010
) -> None:
    """Between two times of the reader's clock, the sound, looked at every half second, lies within `tolerance`."""
    assert reading.first_sample is not None
    length = SAMPLE_RATE_HZ // 4
    for start in np.arange(start_seconds, end_seconds - 0.25, 0.5):
        first = round(start * SAMPLE_RATE_HZ) - reading.first_sample
        piece = reading.sound[first : first + length]
        assert len(piece) == length, f"there is no sound at {start}"
        lag, fit = lag_seconds(piece, start, shift=shift)
        assert fit > 0.9, f"at {start} s there is another sound (correlation {fit:.2f})"
        assert abs(lag) <= tolerance, f"at {start} s the sound is {lag * 1000:.1f} ms late"
