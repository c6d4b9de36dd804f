"""Raw media as users' media are read: the worker's reader in its child process, the worker's windows and gates.

What the reader says of a clip is kept once; windows are cut from it anew, since that costs nothing.
"""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from db.identity import Source
from models.training.cache import Arrays, Cache, digest, progress
from models.training.corpora import Clip
from models.training.sound import decibels, low_pass, speech_of
from models.voice import CHUNK_SAMPLES, VoiceDetector
from worker.collect import OK, PictureWindows, SoundWindows
from worker.protocol import End, Event, Picture, ReadRequest, Sound, Voice
from worker.reader import ReaderPool
from worker.recipe import Recipe
from worker.source import opened
from worker.windows import WindowPlan

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
Result = TypeVar("Result")

CHUNK_CLIPS = 120  # read, and kept, at a time: what a kill costs at most
READERS = 2  # children that decode side by side
PRODUCT = Recipe(adapt=False)  # how users' media are read, cut and gated; what adapts is trained after that
VERSION = 1  # raised when what is kept of a clip changes


@dataclass(frozen=True)
class Recording:
    """What the reader said of one clip.

    Attributes:
        duration_seconds: the clip's true length.
        samples: (n,) float32 within -1..1, 16 kHz; empty without sound.
        speech: (m,) float32, speech probability of each 32 ms.
        shown_seconds: (k,) float64, when the picture at each point of the grid came on; empty without pictures.
        crop_of: (k,) int64, which of the crops is the face at that point; -1 without a face.
        crops: (c, 48, 48) uint8, aligned faces.
    """

    duration_seconds: float
    samples: FloatArray
    speech: FloatArray
    shown_seconds: npt.NDArray[np.float64]
    crop_of: npt.NDArray[np.int64]
    crops: ByteArray


@dataclass(frozen=True)
class VoiceWindow:
    """A window that the product would send to the voice model: its number, its sound and how much of it is real."""

    index: int
    samples: FloatArray
    length_samples: int


def unpacked(data: Path, name: str, cache: Path) -> Path:
    """The folder of a data set: `data/NAME`, or `data/NAME.tar` unpacked into the cache.

    Raises:
        FileNotFoundError: neither is there.
    """
    if (data / name).is_dir():
        return data / name
    archive, folder = data / f"{name}.tar", cache / "data" / name
    if not archive.is_file():
        raise FileNotFoundError(f"neither {data / name}/ nor {archive} is there")
    if not folder.is_dir():
        partial = folder.with_name(f"{name}.partial")
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        nested = partial / name
        (nested if nested.is_dir() else partial).rename(folder)
    return folder


class Recordings:
    """The recordings of clips, in chunks that are read once and kept."""

    def __init__(self, clips: Sequence[Clip], cache: Cache) -> None:
        self.clips, self.cache = tuple(clips), cache
        corpus_ends = [k for k in range(1, len(clips)) if clips[k].corpus != clips[k - 1].corpus]
        bounds = pairwise([0, *corpus_ends, len(clips)])  # a chunk is of one corpus: the same, whatever it is read with
        firsts = [(first, min(first + CHUNK_CLIPS, end)) for a, end in bounds for first in range(a, end, CHUNK_CLIPS)]
        self.chunks = [Chunk(first, self.clips[first:end], cache) for first, end in firsts]

    def read(self, what: str) -> None:
        """Read all that is not kept yet."""
        missing = [chunk for chunk in self.chunks if not chunk.kept]
        for chunk in progress(f"reading {what}", missing, [len(chunk.clips) for chunk in missing]):
            chunk.load()


@dataclass(frozen=True)
class Chunk:
    """Some clips that are read and kept together; `first` is the first one's number among all."""

    first: int
    clips: tuple[Clip, ...]
    cache: Cache

    @property
    def key(self) -> list[Any]:
        """What the recordings depend on."""
        names = [(clip.path.name, clip.path.stat().st_size, clip.speaker) for clip in self.clips]
        return [VERSION, PRODUCT.sampling.rate_hz, PRODUCT.config["face_detector"], names]

    @cached_property
    def digest(self) -> str:
        """Of the key."""
        return digest(self.key)

    @property
    def numbers(self) -> range:
        """The clips' numbers among all."""
        return range(self.first, self.first + len(self.clips))

    @property
    def kept(self) -> bool:
        """Whether it was read before."""
        return self.cache.holds("recordings", self.key)

    def load(self) -> list[Recording]:
        """Read the clips, or take what was kept.

        Raises:
            db.errors.MoodreelError: a clip cannot be read.
        """
        return _unpack(self.cache.arrays("recordings", self.key, lambda: _pack(read_all(self.clips))))

    def landmarks(self) -> list[FloatArray]:
        """What `read_landmarks` says of the clips, kept apart from the recordings: few clips have pictures."""

        def make() -> Arrays:
            found = read_landmarks(self.clips)
            return {"landmarks": np.concatenate(found), "ends": np.cumsum([len(points) for points in found])}

        kept = self.cache.arrays("landmarks", self.key, make)
        return np.split(kept["landmarks"], kept["ends"][:-1])


def read_all(clips: Sequence[Clip]) -> list[Recording]:
    """Read clips, several at a time."""
    return _side_by_side(read, clips)


def read_landmarks(clips: Sequence[Clip]) -> list[FloatArray]:
    """Where the faces of clips have their `models.faces.LANDMARKS`: (c, 5, 2) float32 pixels each, crop by crop."""
    return _side_by_side(_landmarks, clips)


def _side_by_side(work: Callable[[Path, ReaderPool], Result], clips: Sequence[Clip]) -> list[Result]:
    with ReaderPool() as readers, ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda clip: work(clip.path, readers), clips))


def read(path: Path, readers: ReaderPool) -> Recording:
    """Read one file from beginning to end as the pipeline does.

    Raises:
        db.errors.MoodreelError: it cannot be read.
    """
    sounds: list[FloatArray] = [np.zeros(0, np.float32)]
    speech: list[FloatArray] = [np.zeros(0, np.float32)]
    pictures: list[Picture] = []
    duration_seconds = 0.0
    for event in _events(path, readers):
        match event:
            case Sound():
                sounds.append(event.samples)
            case Voice():
                speech.append(event.probabilities)
            case Picture():
                pictures.append(event)
            case End():
                duration_seconds = event.duration_seconds or 0.0
    crops = [picture.crop for picture in pictures if picture.crop is not None]
    numbers = np.cumsum([picture.crop is not None for picture in pictures]) - 1
    return Recording(
        duration_seconds,
        np.concatenate(sounds),
        np.concatenate(speech),
        np.array([picture.source_seconds for picture in pictures], np.float64),
        np.array([n if p.crop is not None else -1 for n, p in zip(numbers, pictures, strict=True)], np.int64),
        np.array(crops, np.uint8).reshape(len(crops), 48, 48),
    )


def _landmarks(path: Path, readers: ReaderPool) -> FloatArray:
    pictures = [event for event in _events(path, readers) if isinstance(event, Picture)]
    found = [picture.landmarks for picture in pictures if picture.landmarks is not None]
    return np.array(found, np.float32).reshape(len(found), 5, 2)


def _events(path: Path, readers: ReaderPool) -> Iterator[Event]:
    source = Source.of(path, path.stat())
    with (
        opened(source) as file,
        readers.reader() as reader,
        closing(reader.read(file, source.uri, ReadRequest(frame_rate_hz=PRODUCT.sampling.rate_hz))) as events,
    ):
        yield from events


_PARTS = ("samples", "speech", "shown_seconds", "crop_of", "crops")


def _pack(recordings: Sequence[Recording]) -> Arrays:
    packed: Arrays = {"duration_seconds": np.array([r.duration_seconds for r in recordings])}
    for name in _PARTS:
        parts = [getattr(recording, name) for recording in recordings]
        packed[name] = np.concatenate(parts)
        packed[f"{name}_ends"] = np.cumsum([len(part) for part in parts])
    packed["samples"] = np.round(packed["samples"] * 32767).astype(np.int16)  # -98 dB: a quarter of the room
    return packed


def _unpack(packed: Arrays) -> list[Recording]:
    cut = {name: [slice(a, b) for a, b in pairwise([0, *packed[f"{name}_ends"]])] for name in _PARTS}
    sound = packed["samples"].astype(np.float32) / np.float32(32767)
    whole = {**packed, "samples": sound}
    return [
        Recording(float(seconds), *(whole[name][cut[name][k]] for name in _PARTS))
        for k, seconds in enumerate(packed["duration_seconds"])
    ]


def voice_windows(recording: Recording, plan: WindowPlan = PRODUCT.plan) -> list[VoiceWindow]:
    """The windows whose sound the product judges: those with enough speech."""
    taken: list[tuple[FloatArray, int]] = []

    def submit(*row: npt.NDArray[np.generic]) -> "Future[FloatArray]":
        taken.append((np.asarray(row[0], np.float32), int(row[1])))
        return _answered(np.array([len(taken) - 1], np.float32))

    windows = SoundWindows(0, plan, PRODUCT.gates, submit, present=len(recording.samples) > 0)
    windows.add_voice(Voice(0, recording.speech))
    windows.add_sound(Sound(0, recording.samples))
    closed = windows.close(plan.count(recording.duration_seconds), recording.duration_seconds)
    return [VoiceWindow(k, *taken[int(w.row[0])]) for k, w in enumerate(closed) if w.state == OK and w.row is not None]


def face_windows(recording: Recording, plan: WindowPlan = PRODUCT.plan) -> dict[int, list[int]]:
    """The windows whose faces the product judges, by number, and which crops they show."""
    members: list[list[int]] = []
    number = -1  # of the crop that is being handed over

    def submit(*row: npt.NDArray[np.generic]) -> "Future[FloatArray]":
        return _answered(np.array([number], np.float32))

    def pool(rows: FloatArray) -> FloatArray:
        members.append(rows[:, 0].astype(int).tolist())
        return np.array([len(members) - 1], np.float32)

    there, rate_hz = len(recording.shown_seconds) > 0, PRODUCT.sampling.rate_hz
    windows = PictureWindows(0, plan, PRODUCT.gates, rate_hz, submit, pool, present=there)
    for point, (shown_seconds, number) in enumerate(zip(recording.shown_seconds, recording.crop_of, strict=True)):
        crop = recording.crops[number] if number >= 0 else None
        state = "no_face" if crop is None else "face"
        windows.add_picture(Picture(point, point / rate_hz, float(shown_seconds), state, crop=crop))
    closed = windows.close(plan.count(recording.duration_seconds), recording.duration_seconds)
    return {k: members[int(w.row[0])] for k, w in enumerate(closed) if w.state == OK and w.row is not None}


def n_windows(recording: Recording, plan: WindowPlan = PRODUCT.plan) -> int:
    """How many windows the product cuts a clip into."""
    return plan.count(recording.duration_seconds)


def _answered(row: FloatArray) -> "Future[FloatArray]":
    future: Future[FloatArray] = Future()
    future.set_result(row)
    return future


@dataclass(frozen=True)
class Take:
    """Clips as recorded, or with their sound changed; the voice detector then hears the changed sound.

    Attributes:
        name: what was changed; part of every key under which results are kept.
        change: from (n,) samples, (m,) speech probabilities and a generator of chance to (n,) samples.
    """

    name: str
    change: Callable[[FloatArray, FloatArray, np.random.Generator], npt.NDArray[np.floating]] | None = None

    def of(self, recordings: Sequence[Recording], detector: VoiceDetector) -> list[Recording]:
        """The recordings in this take; the same noise for the same clips."""
        if self.change is None:
            return list(recordings)
        random, taken = np.random.default_rng(0), []
        for recording in recordings:
            changed = np.clip(self.change(recording.samples, recording.speech, random), -1.0, 1.0).astype(np.float32)
            taken.append(replace(recording, samples=changed, speech=speech_of(changed, detector)))
        return taken


AS_RECORDED = Take("as recorded")


def noisy(snr_db: float) -> Take:
    """White noise, so many decibels below the level of the clip's speech."""

    def change(samples: FloatArray, speech: FloatArray, random: np.random.Generator) -> npt.NDArray[np.floating]:
        spoken = np.repeat(speech >= PRODUCT.gates.speech_probability, CHUNK_SAMPLES)[: len(samples)]
        heard = samples[spoken] if spoken.any() else samples
        level = float(np.sqrt(np.mean(np.square(heard, dtype=np.float64)))) if len(heard) else 0.0
        return samples + random.standard_normal(len(samples)) * level * decibels(-snr_db)

    return Take(f"with noise at {snr_db:g} dB", change)


def band_limited(cutoff_hz: float) -> Take:
    """Nothing above a frequency."""
    return Take(
        f"with nothing above {cutoff_hz:g} Hz",
        lambda samples, speech, random: low_pass(samples.astype(float), cutoff_hz),
    )
