"""What the decoding child looks for in pictures: the largest face, and how many there are. Imports no torch."""

from models.faces import FaceTracker, align
from worker.decoder_video import Sight
from worker.protocol import CROP_SIZE, ByteArray


class FaceWatcher:
    """Finds faces in one picture after another and cuts out the largest of each."""

    def __init__(self) -> None:
        self._tracker = FaceTracker()

    def look(
        self, picture: ByteArray, crop_pixels: int = CROP_SIZE, crop_colour: bool = False, *, anew: bool = True
    ) -> Sight:
        """Find the largest face of (height, width, 3) uint8 RGB."""
        faces = self._tracker.look(picture, anew=anew)
        if not faces:
            return Sight("no_face")
        height, width = picture.shape[:2]
        left, top, box_width, box_height = faces[0].box
        box = (left / width, top / height, box_width / width, box_height / height)
        crop = align(picture, faces[0], crop_pixels, colour=crop_colour)
        landmarks = tuple(faces[0].landmarks.ravel().tolist())
        return Sight("face", len(faces), crop, box, faces[0].confidence, landmarks)
