"""What the face models of the folds are trained and measured on: faces in the windows of clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.expression import ExpressionModel
from models.presets import COMPACT_FACE, COMPACT_TEMPORAL
from models.taxonomy import N_EMOTIONS
from models.temporal import STILL_COLUMNS, TemporalModel, logs_of
from models.training.cache import progress
from models.training.face_recipe import Faces
from models.training.recordings import PRODUCT, Recording, Recordings, face_windows, n_windows

FloatArray = npt.NDArray[np.float32]

RAVDESS_FRAMES_HZ = 29.97
JITTER_PIXELS = 0.1  # of a landmark, for each grey level of noise


@dataclass(frozen=True)
class VideoFaces:
    """Videos' faces, and what the shipped networks say of them.

    Attributes:
        faces: by clip; a frame is the logarithms of the shipped network's 7 probabilities.
        shipped: by clip, (n, 8): its windows as the product judges them.
    """

    faces: list[Faces]
    shipped: list[FloatArray]


def of_videos(recordings: Recordings, grey_noise: float = 0.0) -> VideoFaces:
    """The faces that the product sees in videos.

    Args:
        grey_noise: standard deviation, in grey levels, of noise on the crops; the landmarks suffer with them.
    """
    network, random = ExpressionModel.load(COMPACT_FACE.folder), np.random.default_rng(0)
    temporal = TemporalModel.load(COMPACT_TEMPORAL.folder)
    found = VideoFaces([], [])
    for chunk in progress("faces of videos", recordings.chunks, [len(chunk.clips) for chunk in recordings.chunks]):
        for clip, recording, landmarks in zip(chunk.clips, chunk.load(), chunk.landmarks(), strict=True):
            crops = recording.crops
            if grey_noise:
                noise = random.normal(0.0, grey_noise, crops.shape)
                crops = np.clip(np.round(crops + noise), 0, 255).astype(np.uint8)
                jitter = random.normal(0.0, grey_noise * JITTER_PIXELS, landmarks.shape)
                landmarks = np.asarray(landmarks + jitter, np.float32)
            rows = network.predict(crops)
            logs = logs_of(rows[:, STILL_COLUMNS])
            members, count = face_windows(recording), n_windows(recording)
            frames, points = ({k: whole[m] for k, m in members.items()} for whole in (logs, landmarks))
            judged = {k: temporal.predict(rows[m]) for k, m in members.items()}
            found.faces.append(Faces(count, frames, clip.speaker, points, judged))
            shipped = np.full((count, N_EMOTIONS), np.nan, np.float32)
            for k, row in judged.items():
                shipped[k] = row
            found.shipped.append(shipped)
    return found


def of_ravdess(given: Path, recordings: Recordings, numbers: Sequence[int], noise: float = 0.0) -> list[Faces]:
    """RAVDESS' given probabilities of each frame, put into the windows of the clips' sound.

    Args:
        given: ravdess-face-probabilities.npz; its clips 01-... are the partners of the sound clips 03-...
        numbers: RAVDESS' clips among the recordings.
        noise: standard deviation of noise on the log-probabilities.
    """
    with np.load(given) as file:
        clips, frames, probabilities = file["clip"], file["frame"], file["probabilities"]
    logs = logs_of(probabilities) + np.random.default_rng(0).normal(0.0, noise, probabilities.shape).astype(np.float32)
    names, firsts, counts = np.unique(clips, return_index=True, return_counts=True)
    where = {str(name): slice(a, a + n) for name, a, n in zip(names, firsts, counts, strict=True)}
    faces = []
    for chunk in recordings.chunks:
        if chunk.first not in numbers:
            continue
        for clip, recording in zip(chunk.clips, chunk.load(), strict=True):
            mine = where["01" + clip.path.stem[2:]]
            faces.append(Faces(n_windows(recording), _timed(logs[mine], frames[mine], recording), clip.speaker))
    return faces


def _timed(logs: FloatArray, frames: npt.NDArray[np.int16], recording: Recording) -> Mapping[int, FloatArray]:
    """The frames of each window that shows enough: the product's gate, on all frames instead of five a second."""
    windows = {}
    for k in range(n_windows(recording)):
        window = PRODUCT.plan.window(k, recording.duration_seconds)
        first, end = (round(t * RAVDESS_FRAMES_HZ) for t in (window.start_seconds, window.end_seconds))
        inside = (frames >= first) & (frames < end)
        if inside.any() and inside.sum() >= PRODUCT.gates.min_face_share * (end - first):
            windows[k] = logs[inside]
    return windows
