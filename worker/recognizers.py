"""The resident copy of each model, behind its batcher. Only this module of the worker brings torch in."""

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
from worker.batcher import Batcher
from worker.recipe import Recipe

if TYPE_CHECKING:
    from concurrent.futures import Future

Rows = npt.NDArray[np.float32]

AUDIO_BATCH = 16  # windows
FACE_BATCH = 64  # faces
CLIP_BATCH = 4  # of whole pictures: 5 MB each for ViViT


class Recognizers:
    """Loads a recipe's models once, when the first of them is asked, and serves all readers.

    Args:
        recipe: whose models.
        device: auto, cpu or cuda.
    """

    def __init__(self, recipe: Recipe, device: str = "auto") -> None:
        self._recipe, self._asked = recipe, device
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
                self._audio = self._serve("audio", self._load_audio(device), AUDIO_BATCH, device)
            return self._audio

    def _face_batcher(self) -> Batcher:
        device = self.device
        with self._lock:
            if self._face is None:
                self._face = self._serve("face", self._load_face(device), self._picture_batch, device)
            return self._face

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
        batches = {"audio_batch": AUDIO_BATCH, "face_batch": self._picture_batch}
        return {"device": self.device, "dtype": "float32", **batches}

    def _serve(self, model: str, predict: Callable[..., Rows], batch_size: int, device: str) -> Batcher:
        """CUDA graphs and compiled kernels want one shape; a CPU pays for each row of padding."""
        observe = metrics.batch_rows.labels(model).observe
        return self._stack.enter_context(Batcher(predict, batch_size, pad=device == "cuda", observe=observe))

    def _load_audio(self, device: str) -> Callable[..., Rows]:
        checkpoint, seconds = self._recipe.preset.audio, self._recipe.plan.window_ms / 1000
        if isinstance(checkpoint, HubCheckpoint):
            return _guarded(lambda: _hub_model(checkpoint, device))
        from models.audio import AudioEmotionModel

        return _guarded(lambda: AudioEmotionModel.load(checkpoint.folder, window_seconds=seconds, device=device))

    def _load_face(self, device: str) -> Callable[..., Rows]:
        checkpoint = self._recipe.preset.face
        if isinstance(checkpoint, HubCheckpoint):
            return _guarded(lambda: _hub_model(checkpoint, device))
        from models.expression import ExpressionModel

        return _guarded(lambda: ExpressionModel.load(checkpoint.folder, device=device))

    def _load_pool(self) -> Callable[..., Rows]:
        checkpoint = self._recipe.preset.temporal
        if checkpoint is None:
            from models.expression import pool

            return pool
        from models.temporal import TemporalModel

        return _guarded(lambda: TemporalModel.load(checkpoint.folder))


def _hub_model(checkpoint: HubCheckpoint, device: str) -> Any:
    from models.hub import HubAudioModel, HubImageModel, HubVideoModel

    kinds: dict[str, Any] = {AUDIO: HubAudioModel, VIDEO: HubVideoModel, IMAGE: HubImageModel}
    return kinds[checkpoint.kind].load(checkpoint, device=device)


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
