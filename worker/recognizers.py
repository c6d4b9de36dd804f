"""The resident copy of each model, behind its batcher. Only this module of the worker brings torch in."""

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from db.errors import DeviceUnavailable, Internal, MoodreelError, OutOfMemory, WeightsMissing
from models.checkpoints import AUDIO, IMAGE, VIDEO, HubCheckpoint
from models.errors import ModelError
from worker import metrics
from worker.batcher import Batcher, Row, find_batch_size
from worker.collect import SAMPLES_PER_MS
from worker.recipe import Recipe

if TYPE_CHECKING:
    from concurrent.futures import Future

    import torch

    Load = Callable[[str, torch.dtype], Callable[..., npt.NDArray[np.float32]]]

Rows = npt.NDArray[np.float32]

# Rows in a batch. More saves no time on a CPU and costs memory; on a GPU these are where the search begins.
AUDIO_BATCH = 16  # windows
FACE_BATCH = 32  # faces
CLIP_BATCH = 4  # of whole pictures: 5 MB each for ViViT
CPU_SHAPES = 4  # of batches, quarters of a full one: oneDNN keeps 4 MB for each that the voice model has seen
GPU_DOUBLINGS = 4  # at most, so that what waits for a batch stays small

# Small models' batches are too small to be worth more threads, whose waiting for each other costs the decoders' time.
CORES_A_THREAD = 8


class Recognizers:
    """Loads a recipe's models once, when the first of them is asked, and serves all readers.

    Args:
        recipe: whose models.
        device: auto, cpu or cuda.
        dtype: one of `models.precision.FORMATS`; auto is what the device is fastest in, of what a model comes in.
    """

    def __init__(self, recipe: Recipe, device: str = "auto", dtype: str = "auto") -> None:
        self._recipe, self._asked, self._asked_dtype = recipe, device, dtype
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._audio: Batcher | None = None
        self._face: Batcher | None = None
        self._pool: Callable[..., Rows] | None = None
        self._device: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def stop(self) -> None:
        """Judge nothing more; whoever waits for a row gets `Interrupted`."""
        for batcher in (self._audio, self._face):
            if batcher is not None:
                batcher.stop()

    @property
    def moved_at(self) -> float:
        """When a model last answered, by the monotonic clock."""
        return max((batcher.answered_at for batcher in (self._audio, self._face) if batcher is not None), default=0.0)

    @property
    def device(self) -> str:
        """The device that the models run on.

        Raises:
            DeviceUnavailable: it was asked for and is not there.
        """
        with self._lock:
            if self._device is None:
                self._device = pick_device(self._asked)
            return self._device

    def prepare(self) -> None:
        """Find the device, and load models that the user named: what is not there should not fail video by video.

        Raises:
            WeightsMissing: one of them cannot be loaded.
            DeviceUnavailable: the device is not there.
        """
        _ = self.device
        if isinstance(self._recipe.preset.audio, HubCheckpoint):
            self._audio_batcher()
        if isinstance(self._recipe.preset.face, HubCheckpoint):
            self._face_batcher()

    def submit_audio(self, *row: npt.NDArray[np.generic]) -> "Future[Rows]":
        """Queue a window's sound: (window_samples,) float32 and its real length, () int64."""
        return self._audio_batcher().submit(*row)

    def submit_face(self, *row: npt.NDArray[np.generic]) -> "Future[Rows]":
        """Queue a face crop, uint8 as the recipe's sampling says."""
        return self._face_batcher().submit(*row)

    def submit_clip(self, *row: npt.NDArray[np.generic]) -> "Future[Rows]":
        """Queue a window's clip: (n_frames, pixels, pixels, 3) uint8."""
        return self._face_batcher().submit(*row)

    def _audio_batcher(self) -> Batcher:
        device = self.device
        with self._lock:
            if self._audio is None:
                n_samples = self._recipe.plan.window_ms * SAMPLES_PER_MS
                example = (np.zeros(n_samples, np.float32), np.array(n_samples, np.int64))
                self._audio = self._serve("audio", self._load_audio, example, AUDIO_BATCH, device)
            return self._audio

    def _face_batcher(self) -> Batcher:
        device = self.device
        with self._lock:
            if self._face is None:
                self._face = self._serve(
                    "face", self._load_face, (self._example_picture(),), self._picture_batch, device
                )
            return self._face

    def _example_picture(self) -> npt.NDArray[np.uint8]:
        sampling = self._recipe.sampling
        if sampling.n_frames is not None:
            assert sampling.frame_pixels is not None
            return np.zeros((sampling.n_frames, sampling.frame_pixels, sampling.frame_pixels, 3), np.uint8)
        return np.zeros((sampling.crop_pixels, sampling.crop_pixels, 3)[: 2 + sampling.crop_colour], np.uint8)

    @property
    def _picture_batch(self) -> int:
        return FACE_BATCH if self._recipe.sampling.n_frames is None else CLIP_BATCH

    def pool(self, rows: Rows) -> Rows:
        """One window's row from its faces' rows, in the order of time: (m, 8) to (8,)."""
        with self._lock:
            if self._pool is None:
                self._pool = self._load_pool()
        return self._pool(rows)

    def provenance(self) -> dict[str, Any]:
        """What may differ between equal results."""
        audio, face, device = self._audio, self._face, self.device
        return {
            "device": device,
            "audio_dtype": str(self._dtype("audio", device)).removeprefix("torch."),
            "face_dtype": str(self._dtype("face", device)).removeprefix("torch."),
            "audio_batch": audio.batch_size if audio else AUDIO_BATCH,
            "face_batch": face.batch_size if face else self._picture_batch,
        }

    def _dtype(self, model: str, device: str) -> "torch.dtype":
        from models.precision import pick_dtype

        integers = model == "face" and not isinstance(self._recipe.preset.face, HubCheckpoint)
        return pick_dtype(self._asked_dtype, device, integers=integers)

    def _serve(self, model: str, load: "Load", example: Row, batch_size: int, device: str) -> Batcher:
        """A GPU wants large batches of one shape; a CPU pays for padding by time, for each shape by memory."""
        self._limit_threads(device)
        predict = load(device, self._dtype(model, device))
        if device == "cuda":
            batch_size = find_batch_size(predict, example, batch_size, batch_size << GPU_DOUBLINGS)
        observe = metrics.batch_rows.labels(model).observe
        multiple = batch_size if device == "cuda" else max(1, batch_size // CPU_SHAPES)
        return self._stack.enter_context(Batcher(predict, batch_size, multiple=multiple, observe=observe))

    def _limit_threads(self, device: str) -> None:
        """Leave the cores to the decoding children where both models are small, unless the environment says more."""
        preset = self._recipe.preset
        small = not isinstance(preset.audio, HubCheckpoint) and not isinstance(preset.face, HubCheckpoint)
        if device == "cpu" and small and "OMP_NUM_THREADS" not in os.environ:
            import torch

            torch.set_num_threads(max(1, (os.cpu_count() or 1) // CORES_A_THREAD))

    def _load_audio(self, device: str, dtype: "torch.dtype") -> Callable[..., Rows]:
        checkpoint, seconds = self._recipe.preset.audio, self._recipe.plan.window_ms / 1000
        if isinstance(checkpoint, HubCheckpoint):
            return _guarded(lambda: _hub_model(checkpoint, device, dtype))
        from models.audio import AudioEmotionModel

        options: dict[str, Any] = {"window_seconds": seconds, "device": device, "dtype": dtype}
        return _guarded(lambda: AudioEmotionModel.load(checkpoint.folder, **options))

    def _load_face(self, device: str, dtype: "torch.dtype") -> Callable[..., Rows]:
        checkpoint = self._recipe.preset.face
        if isinstance(checkpoint, HubCheckpoint):
            return _guarded(lambda: _hub_model(checkpoint, device, dtype))
        from models.expression import ExpressionModel

        return _guarded(lambda: ExpressionModel.load(checkpoint.folder, device=device, dtype=dtype))

    def _load_pool(self) -> Callable[..., Rows]:
        checkpoint = self._recipe.preset.temporal
        if checkpoint is None:
            from models.expression import pool

            return pool
        from models.temporal import TemporalModel

        return _guarded(lambda: TemporalModel.load(checkpoint.folder))


def _hub_model(checkpoint: HubCheckpoint, device: str, dtype: "torch.dtype") -> Any:
    from models.hub import HubAudioModel, HubImageModel, HubVideoModel

    kinds: dict[str, Any] = {AUDIO: HubAudioModel, VIDEO: HubVideoModel, IMAGE: HubImageModel}
    return kinds[checkpoint.kind].load(checkpoint, device=device, dtype=dtype)


def _guarded(load: Callable[[], Any]) -> Callable[..., Rows]:
    """A model's `predict`, whose failures are moodreel's errors."""
    try:
        model = load()
    except ModelError as error:
        raise WeightsMissing(str(error)) from error

    def predict(*arrays: npt.NDArray[np.generic]) -> Rows:
        try:
            return model.predict(*arrays)  # type: ignore[no-any-return]
        except (MemoryError, RuntimeError) as error:
            raise _translated(error) from error

    return predict


def _translated(error: BaseException) -> BaseException:
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
        return OutOfMemory(f"the model ran out of memory: {error}")
    if "CUDA error" in str(error):  # nothing can be computed in this process any more
        return DeviceUnavailable(f"the GPU failed: {error}", "See whether the driver still knows it.")
    return error


def pick_device(asked: str) -> str:
    """auto, cpu or cuda to a device that is there.

    Raises:
        DeviceUnavailable: cuda was asked for and torch finds none.
    """
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable("--device cuda: torch finds no usable GPU here", "Use --device cpu, or auto.")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def as_moodreel_error(error: BaseException, what: str) -> MoodreelError:
    """Any error as one that has a code and names the file; what is not known is `internal`.

    It comes without its traceback, whose frames would keep sound and pictures alive for as long as the error.
    """
    if isinstance(error, MoodreelError):
        message = str(error) if what in str(error) else f"{what}: {error}"
        return type(error)(message, error.hint)
    if isinstance(error, ModelError):
        return WeightsMissing(str(error))
    if isinstance(translated := _translated(error), MoodreelError):
        return type(translated)(f"{what}: {translated}", translated.hint)
    return Internal(f"{what}: {type(error).__name__}: {error}")
