"""The windows of clips, cut and gated as the pipeline cuts and gates them, kept on disk so that no epoch decodes again.

A clip is read once, by the worker's reader in its child process. What of it a model would see goes to a file as it
comes; whoever looks at a window takes that one alone into memory.
"""

import hashlib
import os
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from db.errors import DecoderError, InputError, MoodreelError, PathMissing, Untrainable
from db.identity import Source
from models.checkpoints import VIDEO, HubCheckpoint
from models.presets import COMPACT, COMPACT_AUDIO, Preset
from models.training.cache import digest, progress
from models.training.corpora import Clip
from worker.collect import SideWindow, SoundWindows
from worker.frames import ClipWindows
from worker.protocol import CHUNK_SAMPLES, SAMPLE_RATE_HZ, End, Event, Picture, ReadRequest, Sound, Voice
from worker.reader import ReaderPool
from worker.recipe import Recipe
from worker.source import opened

IntArray = npt.NDArray[np.int64]

VERSION = 1  # raised when what is kept changes
MAX_READERS = 4  # children that decode side by side
LOUDEST = 32767  # sound is kept as int16, at -98 dB: a quarter of the room
UNSEEN_HZ = 0.1  # how often pictures are looked at where only the sound counts


@dataclass(frozen=True)
class KeptClip:
    """A clip's windows.

    Attributes:
        clip: whose.
        path: of the file with the samples, int16, or with the pictures, uint8.
        index: (windows, 2) first and last sample + 1 of each window's sound, or (windows, n_frames) its pictures.
        shape: of one picture, (pixels, pixels, 3); None for sound.
    """

    clip: Clip
    path: Path
    index: IntArray
    shape: tuple[int, int, int] | None

    def __len__(self) -> int:
        return len(self.index)

    def window(self, number: int) -> npt.NDArray[Any]:
        """Sound (samples,) float32 within -1..1, as long as it is; or pictures (n_frames, pixels, pixels, 3) uint8."""
        places = self.index[number]
        if self.shape is None:
            sound = np.memmap(self.path, np.int16, "r")[places[0] : places[1]]
            return sound.astype(np.float32) / np.float32(LOUDEST)
        return np.asarray(np.memmap(self.path, np.uint8, "r").reshape(-1, *self.shape)[places])


@dataclass
class Kept:
    """What became of clips.

    Attributes:
        clips: those that could be read, with their windows; a clip in which no window passes the gate has none.
        failures: one sentence for each of the others.
    """

    clips: list[KeptClip] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """How much room the windows take."""
        return sum(kept.path.stat().st_size for kept in self.clips)


class WindowKeeper:
    """Reads clips for one side of one model.

    Args:
        checkpoint: the model that the windows are for; of it only the size and number of pictures matter.
        folder: where windows are kept; it may hold those of other models.
        readers: the worker's readers.
    """

    def __init__(self, checkpoint: HubCheckpoint, folder: Path, readers: ReaderPool) -> None:
        self._readers, self._folder, self._seen = readers, folder, checkpoint.side == VIDEO
        self._recipe = Recipe(Preset("training", COMPACT_AUDIO, checkpoint) if self._seen else COMPACT)
        self._sampling = self._recipe.sampling
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, clips: Sequence[Clip]) -> Kept:
        """Read those clips that are not kept yet, several at a time, with progress on stderr.

        A clip that cannot be read costs one sentence, as in the pipeline.

        Raises:
            db.errors.EquipmentError: nothing can be read on this machine.
        """
        kept = Kept()
        pool = ThreadPoolExecutor(min(MAX_READERS, os.cpu_count() or 1))
        try:
            outcomes = pool.map(self._outcome, clips)
            for _ in progress("reading clips", clips):
                outcome = next(outcomes)
                if isinstance(outcome, KeptClip):
                    kept.clips.append(outcome)
                else:
                    kept.failures.append(str(outcome))
        finally:
            pool.shutdown(cancel_futures=True)
        return kept

    def _outcome(self, clip: Clip) -> KeptClip | MoodreelError:
        try:
            return self.keep(clip)
        except (InputError, DecoderError, Untrainable) as error:
            return error

    def keep(self, clip: Clip) -> KeptClip:
        """One clip's windows, read now or before; a kill leaves nothing half-written that would be taken for whole.

        Raises:
            db.errors.MoodreelError: it cannot be read.
        """
        try:
            source = Source.of(clip.path, clip.path.stat())
        except OSError as error:
            raise PathMissing(f"{clip.path}: {error.strerror}") from error
        name = digest([*self._key, source.uri, source.version, clip.start_seconds, clip.end_seconds])
        data, index = self._folder / f"{name}.data", self._folder / f"{name}.npy"
        if not index.exists():
            partial = self._folder / f"{name}.{os.getpid()}-{threading.get_ident()}.partial"
            try:
                with partial.open("wb") as file:
                    found = self._read(clip, source, file)
                os.replace(partial, data)
                with partial.open("wb") as file:
                    np.save(file, found)
                os.replace(partial, index)
            finally:
                partial.unlink(missing_ok=True)
        side = self._sampling.frame_pixels
        return KeptClip(clip, data, np.load(index), None if side is None else (side, side, 3))

    @cached_property
    def _key(self) -> list[Any]:
        """What decides the windows, apart from the clip."""
        config = Recipe().config
        how = [vars(self._sampling), config["face_detector"]] if self._seen else [config["voice_detector"]]
        return [VERSION, *how, config["plan"], config["gates"]]

    def _read(self, clip: Clip, source: Source, file: BinaryIO) -> IntArray:
        sink = _Pictures(file, self._sampling.n_frames or 0) if self._seen else _Sounds(file)
        plan, gates = self._recipe.plan, self._recipe.gates
        cut = (
            ClipWindows(0, plan, gates, self._sampling, sink.submit)
            if self._seen
            else SoundWindows(0, plan, gates, sink.submit)
        )
        file_seconds = None
        with (
            opened(source) as descriptor,
            self._readers.reader() as reader,
            closing(reader.read(descriptor, source.uri, self._request(clip))) as events,
        ):
            for event in self._moved(events, clip):
                match event:
                    case Sound() if isinstance(cut, SoundWindows):
                        cut.add_sound(event)
                    case Voice() if isinstance(cut, SoundWindows):
                        cut.add_voice(event)
                    case Picture() if isinstance(cut, ClipWindows):
                        cut.add_picture(event)
                    case End():
                        file_seconds = event.duration_seconds
        ends = [end for end in (clip.end_seconds, file_seconds) if end is not None]
        seconds = min(ends, default=0.0) - clip.start_seconds
        if seconds <= 0:
            raise Untrainable(f"{source.uri} has no sound or picture after {clip.start_seconds:g} s")
        return sink.index(cut.close(plan.count(seconds), seconds))

    def _request(self, clip: Clip) -> ReadRequest:
        """What is needed for one side: pictures as its model wants them, or hardly any."""
        how = self._sampling
        return ReadRequest(
            start_seconds=clip.start_seconds,
            end_seconds=clip.end_seconds,
            frame_rate_hz=how.rate_hz if self._seen else UNSEEN_HZ,
            face_every=how.face_every,
            crop_pixels=how.crop_pixels,
            crop_colour=how.crop_colour,
            frame_pixels=how.frame_pixels,
            frame_short_pixels=how.frame_short_pixels,
        )

    def _moved(self, events: Generator[Event, None, None], clip: Clip) -> Iterator[Event]:
        """The events on the stretch's own clock; its pictures begin with the first that is looked at for faces."""
        if clip.start_seconds == 0 and clip.end_seconds is None:
            yield from events
            return
        first_sample = round(clip.start_seconds * SAMPLE_RATE_HZ)
        end_sample = None if clip.end_seconds is None else round(clip.end_seconds * SAMPLE_RATE_HZ)
        rate_hz, every = self._sampling.rate_hz, self._sampling.face_every
        first_point = -int(-(clip.start_seconds * rate_hz - 1e-6) // every) * every
        shown: Picture | None = None  # a picture comes only once, maybe before the stretch's first point
        for event in events:
            match event:
                case Sound():
                    piece = event.samples[: None if end_sample is None else max(0, end_sample - event.start_sample)]
                    yield Sound(event.start_sample - first_sample, piece)
                case Voice():
                    yield Voice(event.first_chunk - round(first_sample / CHUNK_SAMPLES), event.probabilities)
                case Picture():
                    shown = shown if event.frame is None else event
                    frame = shown.frame if shown and shown.source_seconds == event.source_seconds else None
                    point = event.grid_index - first_point
                    if point >= 0:
                        yield replace(event, grid_index=point, t_seconds=point / rate_hz, frame=frame)
                case End():
                    yield event


class _Sounds:
    """Writes windows of sound to a file, one after the other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._windows, self._end = file, list[tuple[int, int]](), 0

    def submit(self, *row: npt.NDArray[np.generic]) -> "Future[npt.NDArray[np.float32]]":
        """Take a window's sound and its true length, as a model's batcher does."""
        length = int(row[1])
        self._file.write(np.round(np.asarray(row[0][:length], np.float32) * LOUDEST).astype(np.int16).tobytes())
        self._windows.append((self._end, self._end + length))
        self._end += length
        return _numbered(len(self._windows) - 1)

    def index(self, closed: Sequence[SideWindow]) -> IntArray:
        """(windows, 2) where each window's samples begin and end."""
        return np.array([self._windows[k] for k in _judged(closed)], np.int64).reshape(-1, 2)


class _Pictures:
    """Writes the pictures of windows to a file, each once, however many windows show it."""

    def __init__(self, file: BinaryIO, n_frames: int) -> None:
        self._file, self._n_frames = file, n_frames
        self._windows: list[list[int]] = []
        self._known: dict[bytes, int] = {}

    def submit(self, *row: npt.NDArray[np.generic]) -> "Future[npt.NDArray[np.float32]]":
        """Take a window's pictures, (n_frames, pixels, pixels, 3) uint8, as a model's batcher does."""
        self._windows.append([self._place(frame.tobytes()) for frame in row[0]])
        return _numbered(len(self._windows) - 1)

    def _place(self, frame: bytes) -> int:
        key = hashlib.sha256(frame).digest()
        if key not in self._known:
            self._known[key] = len(self._known)
            self._file.write(frame)
        return self._known[key]

    def index(self, closed: Sequence[SideWindow]) -> IntArray:
        """(windows, n_frames) the numbers of each window's pictures."""
        return np.array([self._windows[k] for k in _judged(closed)], np.int64).reshape(-1, self._n_frames)


def _judged(closed: Sequence[SideWindow]) -> list[int]:
    """The numbers under which those windows were submitted that a model would judge."""
    return [int(window.row[0]) for window in closed if window.row is not None]


def _numbered(number: int) -> "Future[npt.NDArray[np.float32]]":
    future: Future[npt.NDArray[np.float32]] = Future()
    future.set_result(np.array([number], np.float32))
    return future
