"""What the decoding child looks for in pictures: the largest face, and how many there are. Imports no torch."""

from dataclasses import replace

import av
import numpy as np

from models.faces import Face, FaceDetector, align
from worker.decoder_video import Sight
from worker.protocol import ByteArray

DETECTOR_SIZE = 320  # pixels on the long side of what the detector sees; the crop is cut from the larger picture


class FaceWatcher:
    """Finds faces in a small copy of a picture and cuts the largest from the picture itself.

    Raises:
        models.errors.ModelError: the detector's weights are missing.
    """

    def __init__(self) -> None:
        self._detector = FaceDetector()

    def look(self, picture: ByteArray) -> Sight:
        """Find the largest face of (height, width, 3) uint8 RGB."""
        height, width = picture.shape[:2]
        scale = min(1.0, DETECTOR_SIZE / max(height, width))
        faces = self._detector.detect(_shrink(picture, scale))
        if not faces:
            return Sight("no_face")
        face = _enlarge(faces[0], 1 / scale)
        left, top, box_width, box_height = (float(value) for value in face.box)
        box = (left / width, top / height, box_width / width, box_height / height)
        return Sight("face", len(faces), align(picture, face), box, float(face.confidence))


def _shrink(picture: ByteArray, scale: float) -> ByteArray:
    if scale == 1.0:
        return picture
    height, width = (max(1, round(length * scale)) for length in picture.shape[:2])
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return frame.reformat(width, height, interpolation="AREA", threads=1).to_ndarray().astype(np.uint8, copy=False)


def _enlarge(face: Face, factor: float) -> Face:
    box = tuple(float(value) * factor for value in face.box)
    return replace(face, box=box, landmarks=face.landmarks * factor)
