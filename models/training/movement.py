"""How a head moves and is held, from five points of its face: what aligned crops no longer show."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

LEAST_CHANGE = 1e-3  # added before a logarithm


def pose(landmarks: FloatArray) -> FloatArray:
    """How each face is held, where it is, and what its mouth does.

    Args:
        landmarks: (m, 5, 2) pixels: eyes, nose and the corners of the mouth, as `models.faces.LANDMARKS` names them.

    Returns:
        (m, 9) float32: the angle of the line through the eyes; how far the nose lies to the side, and how high between
        eyes and mouth, which follow turning and nodding; the mouth's width, height and place to the side; the place of
        the eyes; the logarithm of the face's size. Lengths are in distances between the eyes.
    """
    eyes, between = landmarks[:, :2].mean(axis=1), landmarks[:, 1] - landmarks[:, 0]
    distance = np.maximum(np.hypot(between[:, 0], between[:, 1]), 1.0)
    turn = np.exp(-1j * np.arctan2(between[:, 1], between[:, 0])) / distance
    upright = ((landmarks - eyes[:, None]) @ np.array([1, 1j])) * turn[:, None]
    mouth, nose = upright[:, 3:].mean(axis=1), upright[:, 2]
    size = np.maximum(distance, mouth.imag * distance)  # a head that is turned away has its eyes close together
    place = eyes / np.median(size)
    columns = (
        *(np.arctan2(between[:, 1], between[:, 0]), nose.real, nose.imag / np.maximum(mouth.imag, 0.2)),
        *(np.abs(upright[:, 4] - upright[:, 3]), mouth.imag, mouth.real, place[:, 0], place[:, 1], np.log(size)),
    )
    return np.stack(columns, axis=1).astype(np.float32)


HELD = slice(0, 6)  # what of a pose says something by itself; where a face is in the picture says nothing


def movement(landmarks: FloatArray) -> FloatArray:
    """What a window's faces do.

    Args:
        landmarks: (m, 5, 2), m >= 1 faces in the order of time.

    Returns:
        (33,) float32: the mean of what is held; of all nine, logarithms of the standard deviation and of the mean and
        the largest change from face to face.
    """
    poses = pose(landmarks)
    changes = np.abs(np.diff(poses, axis=0)) if len(poses) > 1 else np.zeros((1, poses.shape[1]))
    sizes = [poses.std(axis=0), changes.mean(axis=0), changes.max(axis=0)]
    return np.concatenate([poses[:, HELD].mean(axis=0), *np.log(np.add(sizes, LEAST_CHANGE))]).astype(np.float32)


def mirrored(landmarks: FloatArray) -> FloatArray:
    """The points of the same faces in a mirror: (m, 5, 2); left and right change places."""
    swapped = landmarks[:, [1, 0, 2, 4, 3]]
    return swapped * np.array([-1, 1], np.float32)
