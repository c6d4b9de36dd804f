"""An archive of short videos, each with other pictures, sound and length, and files that cannot be annotated.

Every video is cut out of a few real clips: which, from where on, mirrored or not, how bright and how loud is drawn
from a seed, so that no two videos have a window in common, and the same seed gives the same bytes. Most show a face and
let speech be heard; some lack one or the other, or have no sound or no pictures at all.
"""

from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.fetch_media import fetch

RATE_HZ, SOUND_HZ = 12, 16_000
WIDTH, HEIGHT = 320, 180
DEADLY, SLOW = (128, 72), (136, 72)  # widths and heights of pictures that decoding children die of, or take long for:
# see tests/poison/sitecustomize.py

# Clips that pictures and sound are cut from, each with its share of the videos; None: no such stream.
PICTURES: Mapping[str | None, float] = {
    "obama_speech.mp4": 0.45,
    "single_face.mp4": 0.25,
    "WolfgangLanger_Pexels.mp4": 0.15,
    "no_face.mp4": 0.1,
    None: 0.05,
}
SOUNDS: Mapping[str | None, float] = {
    "obama_speech.mp4": 0.75,
    "single_face.mp4": 0.1,
    "WolfgangLanger_Pexels.mp4": 0.1,
    None: 0.05,
}

# What becomes of the files that `plant` makes: the code of the failure.
PLANTED: Mapping[str, str] = {
    "planted-text.mp4": "not_media",
    "planted-cut.mp4": "truncated",
    "planted-crash.mp4": "decoder_crashed",
}


@dataclass(frozen=True)
class Cut:
    """One video: where its pictures and its sound come from."""

    seconds: float
    pictures: str | None
    pictures_from_seconds: float
    mirrored: bool
    brightness: float
    sound: str | None
    sound_from_seconds: float
    loudness: float


def make(folder: Path, count: int, seconds: tuple[float, float], seed: int = 1) -> list[Path]:
    """Make an archive, about 30 videos a second where each has two or three seconds.

    Args:
        folder: that is made for it; a hundred videos lie in a folder of their own.
        count: of videos.
        seconds: the shortest and the longest may have.
        seed: of all that is drawn.
    """
    paths = []
    for number in range(count):
        path = folder / f"{number // 100:03}" / f"{number:05}.{'mkv' if number % 4 == 3 else 'mp4'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, draw(np.random.default_rng([seed, number]), seconds))
        paths.append(path)
    return paths


def plant(folder: Path) -> Mapping[str, str]:
    """Put files into an archive that cannot be annotated, and one that can be for as long as it lasts.

    Returns:
        The names of those that cannot, and the code that each fails with.
    """
    spoken = talk(12.0)
    (folder / "planted-text.mp4").write_text("This is no video.\n" * 500)
    whole = write(folder / "planted-cut.mp4", spoken).read_bytes()  # its index stands at the end
    (folder / "planted-cut.mp4").write_bytes(whole[: len(whole) // 2])
    write(folder / "planted-crash.mp4", spoken, DEADLY)
    whole = write(folder / "cut-short.mkv", spoken).read_bytes()
    (folder / "cut-short.mkv").write_bytes(whole[: len(whole) * 3 // 5])
    return PLANTED


def talk(seconds: float) -> Cut:
    """A man who speaks to the camera."""
    return Cut(seconds, "obama_speech.mp4", 0.0, False, 1.0, "obama_speech.mp4", 0.0, 1.0)


def draw(random: np.random.Generator, seconds: tuple[float, float]) -> Cut:
    """A video at random; one of its two streams is there."""
    pictures, sound = _one_of(random, PICTURES), _one_of(random, SOUNDS)
    return Cut(
        seconds=round(float(random.uniform(*seconds)), 3),
        pictures=pictures,
        pictures_from_seconds=float(random.uniform(0.0, 8.0)),
        mirrored=bool(random.random() < 0.5),
        brightness=float(random.uniform(0.75, 1.15)),
        sound="obama_speech.mp4" if pictures is None and sound is None else sound,
        sound_from_seconds=float(random.uniform(0.0, 8.0)),
        loudness=float(random.uniform(0.4, 1.0)),
    )


def _one_of(random: np.random.Generator, shares: Mapping[str | None, float]) -> str | None:
    return list(shares)[int(random.choice(len(shares), p=list(shares.values())))]


def write(path: Path, cut: Cut, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """Write a video with pictures of a width and height; returns `path`."""
    with av.open(str(path), "w", options={"fflags": "bitexact"}) as out:  # or Matroska draws ids of its own
        streams: list[tuple[Any, Sequence[Any]]] = []
        if cut.pictures is not None:
            options = {"preset": "ultrafast", "threads": "1", "g": str(RATE_HZ)}
            video = out.add_stream("libx264", rate=RATE_HZ, options=options)
            (video.width, video.height), video.pix_fmt = size, "yuv420p"
            streams.append((video, _frames(cut, *size)))
        if cut.sound is not None:
            options = {"aac_pns": "0"}  # noise that decoders make up depends on where they begin, and moves a result
            streams.append((out.add_stream("aac", rate=SOUND_HZ, layout="mono", options=options), _blocks(cut)))
        out.start_encoding()
        packets = [packet for stream, frames in streams for frame in [*frames, None] for packet in stream.encode(frame)]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path


def _frames(cut: Cut, width: int, height: int) -> list[Any]:
    times, shown = _pictures(str(cut.pictures))
    frames = []
    for number in range(round(cut.seconds * RATE_HZ)):
        t_seconds = (cut.pictures_from_seconds + number / RATE_HZ) % (times[-1] + 1 / RATE_HZ)
        picture = shown[max(0, bisect(times, t_seconds) - 1)]
        picture = np.clip(picture[:, ::-1] if cut.mirrored else picture, 0, 255 / cut.brightness) * cut.brightness
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture, np.uint8), format="rgb24")
        frame = frame.reformat(width, height, "yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, RATE_HZ)
        frames.append(frame)
    return frames


def _blocks(cut: Cut) -> list[Any]:
    first = round(cut.sound_from_seconds * SOUND_HZ)
    count = round(cut.seconds * SOUND_HZ)
    wave = _sound(str(cut.sound)).take(range(first, first + count), mode="wrap") * np.float32(cut.loudness)
    blocks = []
    for start in range(0, count, 1024):
        block = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
        block.rate, block.pts, block.time_base = SOUND_HZ, start, Fraction(1, SOUND_HZ)
        blocks.append(block)
    return blocks


@cache
def _pictures(name: str) -> tuple[list[float], list[np.ndarray]]:
    """A clip's pictures, (HEIGHT, WIDTH, 3) uint8, and the times at which they come on."""
    with av.open(str(fetch(name))) as clip:
        stream = clip.streams.video[0]
        shown = [(float(frame.time), _filling(frame)) for frame in clip.decode(stream)]
    return [t_seconds - shown[0][0] for t_seconds, _ in shown], [picture for _, picture in shown]


def _filling(frame: Any) -> np.ndarray:
    """A picture scaled to fill WIDTH by HEIGHT; what is too high is cut off below."""
    picture = frame.reformat(WIDTH, max(HEIGHT, round(frame.height * WIDTH / frame.width)), "rgb24").to_ndarray()
    return np.ascontiguousarray(picture[:HEIGHT])


@cache
def _sound(name: str) -> np.ndarray:
    """A clip's sound, (n,) float32."""
    resampler = av.AudioResampler("fltp", "mono", SOUND_HZ)
    with av.open(str(fetch(name))) as clip:
        blocks = [out.to_ndarray()[0] for frame in [*clip.decode(audio=0), None] for out in resampler.resample(frame)]
    return np.concatenate(blocks)
