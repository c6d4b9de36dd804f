"""Finds the faces in a picture and cuts them out as the expression network saw faces in training.

This module knows no torch: it runs in the process that decodes. `models.mtcnn` has the detector's networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from models.mtcnn import Cascade, Found

ByteImage = npt.NDArray[np.uint8]
FloatPoints = npt.NDArray[np.float64]

SEMANTICS = 2  # raised by hand whenever this module or `models.mtcnn` changes the numbers though no setting did
MIN_FACE_CONFIDENCE = 0.95
MIN_FOLLOWED_CONFIDENCE = 0.8  # of a face that was found before: a search takes the surest of several looks at each
MAX_FOLLOWED = 4  # faces; to follow more costs as much as to search the whole picture
CUT_DIFFERENCE = 20.0  # of 255, on average from a picture to the next, from which there is another scene; measured on
SAMPLED_SIDE = 32  # pixels, about, of the longer side: within a scene one pair of 4000 differs by more
LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # left as seen in the picture
CROP_SIZE = 48  # pixels
MAX_OVERSAMPLING = 8  # bounds the cost of a face that fills a large picture

# Where FER2013's faces have their `LANDMARKS`, x and y in a crop of 48: the median of what the detector finds in 500
# training images, made symmetric. `python -m models.training.face --data FOLDER --template` prints it.
TEMPLATE: FloatPoints = np.array([(14.5, 18.1), (32.5, 18.1), (23.5, 28.7), (16.0, 37.1), (31.0, 37.1)])


@dataclass(frozen=True, eq=False)
class Face:
    """One face in the pixels of the picture it was found in.

    box: x, y, width, height; it may reach beyond the picture. confidence: 0 to 1. landmarks: (5, 2) float64, x and y of
    `LANDMARKS`.
    """

    box: tuple[float, float, float, float]
    confidence: float
    landmarks: FloatPoints

    @property
    def area(self) -> float:
        return self.box[2] * self.box[3]


class FaceDetector:
    """MTCNN with its three networks loaded once. Not for two threads at a time.

    Raises:
        models.errors.ModelError: their weights are missing, or not the ones that this version was written for.
    """

    def __init__(self) -> None:
        self._cascade = Cascade()

    def detect(self, image: ByteImage) -> list[Face]:
        """Find the faces, the largest first.

        Args:
            image: (h, w, 3) uint8, RGB.

        Raises:
            ValueError: the image has another shape or type.
        """
        return _faces(self._cascade.find(_picture(image)), MIN_FACE_CONFIDENCE)

    def follow(self, image: ByteImage, faces: Sequence[Face]) -> list[Face] | None:
        """Where the faces of the picture before are now, the largest first. Nobody else is looked for.

        A face is looked for where it was. If it moved by a fifth of its size it is found; if by two fifths, it is not
        found, and in hundreds of trials nothing else was taken for it.

        Args:
            image: (h, w, 3) uint8, RGB, as large as the picture before.
            faces: those of the picture before.

        Returns:
            None if there are none or too many to follow, or one is not where it was.

        Raises:
            ValueError: the image has another shape or type.
        """
        if not 0 < len(faces) <= MAX_FOLLOWED:
            return None
        x, y, width, height = np.array([face.box for face in faces]).T
        boxes = np.stack([x, y, x + width, y + height], axis=1)
        found = _faces(self._cascade.follow(_picture(image), boxes), MIN_FOLLOWED_CONFIDENCE)
        return found if len(found) == len(faces) else None


class FaceTracker:
    """Finds the faces in one picture after another, and searches all of a picture only where it must.

    A picture is searched where the caller says so, where the picture before showed no face, where one of its faces is
    not found near where it was, and after a cut. So a face that comes in while another is followed is not seen before
    the next search.
    """

    def __init__(self) -> None:
        self._detector = FaceDetector()
        self._faces: list[Face] = []
        self._sample: npt.NDArray[np.int16] = np.zeros((0, 0, 3), np.int16)

    def look(self, image: ByteImage, *, anew: bool) -> list[Face]:
        """The faces in the next picture, the largest first.

        Args:
            image: (h, w, 3) uint8, RGB.
            anew: search it, whatever the pictures before it showed: what is found does not depend on them.

        Raises:
            ValueError: the image has another shape or type.
        """
        step = max(1, max(image.shape) // SAMPLED_SIDE)
        before, self._sample = self._sample, image[::step, ::step].astype(np.int16)
        followed = None
        if not anew and before.shape == self._sample.shape and np.abs(self._sample - before).mean() < CUT_DIFFERENCE:
            followed = self._detector.follow(image, self._faces)
        self._faces = self._detector.detect(image) if followed is None else followed
        return self._faces


def _picture(image: ByteImage) -> ByteImage:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"want an RGB picture (h, w, 3) of uint8, got {image.shape} of {image.dtype}")
    return image


def _faces(found: Found, min_confidence: float) -> list[Face]:
    """Those of which the detector is so sure, the largest first; a pixel's centre lies half a pixel from its edge."""
    faces = [
        Face((left, top, right - left, bottom - top), score, points - 0.5)
        for (left, top, right, bottom), score, points in zip(
            found.boxes.tolist(), found.scores.tolist(), found.points, strict=True
        )
        if score >= min_confidence
    ]
    return sorted(faces, key=lambda face: -face.area)


def similarity(source: FloatPoints, target: FloatPoints) -> npt.NDArray[np.float64]:
    """The turn, scale and shift that bring `source` nearest to `target`, by least squares (Umeyama 1991).

    In the plane this is linear regression over complex numbers: w = a z + b.

    Args:
        source, target: (k, 2), k >= 2 points, x and y.

    Returns:
        (2, 3) matrix M with target = M @ (x, y, 1).
    """
    z, w = source @ (1, 1j), target @ (1, 1j)
    centred = z - z.mean()
    spread = max(float(np.vdot(centred, centred).real), np.finfo(np.float64).tiny)
    a = np.vdot(centred, w - w.mean()) / spread
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(image: ByteImage, face: Face, size: int = CROP_SIZE, *, colour: bool = False) -> ByteImage:
    """Cut a face out, upright and in the size and place that the expression network was trained on.

    Beyond the picture's border its edge is repeated.

    Args:
        image: (h, w, 3) uint8 RGB or (h, w) uint8 grey: the picture the face was found in.
        size: the crop's side in pixels.
        colour: keep an RGB picture's colours.

    Returns:
        (size, size) uint8, grey; (size, size, 3) in colour.
    """
    if image.ndim == 3 and not colour:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)  # one channel is warped faster than three
    matrix = similarity(face.landmarks, (TEMPLATE + 0.5) * (size / CROP_SIZE) - 0.5)
    # A large face is warped onto a finer grid and averaged down, or its fine detail would alias.
    fine = int(np.clip(np.ceil(1 / max(np.hypot(*matrix[:, 0]), 1e-6)), 1, MAX_OVERSAMPLING))
    matrix = matrix * fine
    matrix[:, 2] += (fine - 1) / 2
    warped = cv2.warpAffine(image, matrix, (size * fine, size * fine), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8)
