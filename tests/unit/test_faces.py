"""The detector on real clips, and the aligned crop on pictures whose geometry is known."""

import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from models.faces import CROP_SIZE, MAX_FOLLOWED, TEMPLATE, Face, FaceDetector, FaceTracker, align, similarity

WIDTH = 320  # pixels, of the pictures that the detector is given here


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


def frames(path: Path, step: int, limit: int = 12) -> list[np.ndarray]:
    """Every `step`-th frame of a clip from the middle of the first step on, RGB, `WIDTH` wide."""
    pictures = []
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % step == step // 2:
                picture = frame.to_ndarray(format="rgb24")
                height = round(picture.shape[0] * WIDTH / picture.shape[1])
                pictures.append(cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA))
            if len(pictures) == limit:
                break
    return pictures


@pytest.mark.parametrize("clip", ["no_face.mp4", "park.mp4", "small.mp4"])
def test_no_face_where_nobody_is(detector, media, clip):
    pictures = frames(media / clip, step=4)
    assert pictures
    assert [detector.detect(picture) for picture in pictures] == [[]] * len(pictures)


@pytest.mark.parametrize(
    ("clip", "step", "n_people"), [("WolfgangLanger_Pexels.mp4", 30, 1), ("obama_speech.mp4", 12, 2)]
)
def test_everybody_is_found_once_the_largest_first(detector, media, clip, step, n_people):
    found = [detector.detect(picture) for picture in frames(media / clip, step)]
    numbers = [len(faces) for faces in found]
    assert numbers.count(n_people) >= len(found) - 1  # in one picture a hand covers the face
    assert max(numbers) == n_people
    for faces in found:
        areas = [face.area for face in faces]
        assert areas == sorted(areas, reverse=True)


def test_landmarks_lie_where_a_face_has_them(detector, media):
    (picture, *_) = frames(media / "WolfgangLanger_Pexels.mp4", 15)
    (face,) = detector.detect(picture)
    x, y, width, height = face.box
    left_eye, right_eye, nose, mouth_left, mouth_right = face.landmarks
    assert ((face.landmarks > (x, y)) & (face.landmarks < (x + width, y + height))).all()
    assert left_eye[0] < nose[0] < right_eye[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(mouth_left[1], mouth_right[1])
    assert 0.95 <= face.confidence <= 1


def test_a_face_is_found_at_the_same_place_in_a_larger_picture(detector, media):
    (picture, *_) = frames(media / "WolfgangLanger_Pexels.mp4", 15)
    (small,), (large,) = (detector.detect(p) for p in (picture, cv2.resize(picture, None, fx=3, fy=3)))
    assert np.abs((large.landmarks + 0.5) / 3 - 0.5 - small.landmarks).max() < 2


def test_faces_cut_by_the_border_never_crash(detector, media):
    (picture, *_) = frames(media / "WolfgangLanger_Pexels.mp4", 15)
    height, width = picture.shape[:2]
    found = 0
    for dx in range(-width // 2, width // 2, 53):
        for dy in range(-height // 2, height // 2, 31):
            part = picture[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
            found += len(detector.detect(np.ascontiguousarray(part)))
    assert found


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 2), (13, 13), (90, 160)])
def test_any_size_of_noise_has_no_face(detector, shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert detector.detect(noise) == []


@pytest.mark.parametrize(
    "image",
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)],
)
def test_what_is_no_picture_is_refused(detector, image):
    with pytest.raises(ValueError, match="RGB picture"):
        detector.detect(image)


def box_overlap(one: Face, other: Face) -> float:
    """Intersection over union."""
    (a, b), (c, d) = (np.array([face.box[:2], np.add(face.box[:2], face.box[2:])]) for face in (one, other))
    shared = np.clip(np.minimum(b, d) - np.maximum(a, c), 0, None).prod()
    return shared / (one.area + other.area - shared)


def eye_distance(face: Face) -> float:
    return float(np.linalg.norm(face.landmarks[0] - face.landmarks[1]))


def moved(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    return cv2.warpAffine(picture, np.array([[1, 0, x], [0, 1, y]], float), picture.shape[1::-1])


def test_a_face_is_followed_a_little_way_and_not_far(detector, media):
    for picture in frames(media / "WolfgangLanger_Pexels.mp4", 60, limit=4):
        (face,) = before = detector.detect(picture)
        side = max(face.box[2:])
        for angle in np.arange(0, 2 * np.pi, np.pi / 4):
            x, y = 0.1 * side * np.cos(angle), 0.1 * side * np.sin(angle)
            there = moved(picture, x, y)
            (followed,) = detector.follow(there, before)
            (found,) = detector.detect(there)
            assert box_overlap(followed, found) > 0.8
            assert np.abs(followed.landmarks - found.landmarks).max() < 0.2 * eye_distance(found)
            assert detector.follow(moved(picture, 5 * x, 5 * y), before) is None


def test_all_or_nobody_is_followed(detector, media):
    (picture, *_) = frames(media / "obama_speech.mp4", 12)
    both = detector.detect(picture)
    assert len(both) == 2
    assert [box_overlap(a, b) > 0.8 for a, b in zip(detector.follow(picture, both), both, strict=True)] == [True] * 2
    x, y, width, height = np.round(both[1].box).astype(int)
    picture[y : y + height, x : x + width] = 0
    assert detector.follow(picture, both) is None
    assert len(detector.follow(picture, both[:1])) == 1
    assert detector.follow(picture, []) is None
    assert detector.follow(picture, both[:1] * (MAX_FOLLOWED + 1)) is None


class Counting(FaceTracker):
    """Counts the pictures that it searches."""

    def __init__(self) -> None:
        super().__init__()
        self.searches = 0
        search = self._detector.detect

        def counted(image: np.ndarray) -> list[Face]:
            self.searches += 1
            return search(image)

        self._detector.detect = counted


def searches(pictures: list[np.ndarray], every: int) -> list[int]:
    """How often all of a picture was searched, up to each of them."""
    tracker, numbers = Counting(), []
    for k, picture in enumerate(pictures):
        tracker.look(picture, anew=k % every == 0)
        numbers.append(tracker.searches)
    return numbers


def test_pictures_are_searched_only_where_they_must_be(media):
    speaker, street = (frames(media / name, 5) for name in ("WolfgangLanger_Pexels.mp4", "no_face.mp4"))
    assert searches(speaker[:6], every=10) == [1] * 6
    assert searches(speaker[:6], every=3) == [1, 1, 1, 2, 2, 2]
    assert searches(street[:4], every=10) == [1, 2, 3, 4]  # somebody may come in at any time
    mirrored = [np.ascontiguousarray(picture[:, ::-1]) for picture in speaker[:3]]
    assert searches(speaker[:2] + mirrored, every=10) == [1, 1, 2, 2, 2]  # a cut


def test_a_face_that_a_cut_puts_in_the_place_of_another_is_searched_for(media):
    (speaker, *_) = frames(media / "WolfgangLanger_Pexels.mp4", 60)
    elsewhere = speaker // 2  # the same face; all around is another light
    assert searches([speaker, elsewhere], every=10) == [1, 2]


def test_a_search_does_not_depend_on_what_was_seen_before(media):
    speaker = frames(media / "WolfgangLanger_Pexels.mp4", 30)
    (other, *_) = frames(media / "obama_speech.mp4", 12)
    fresh, used = FaceTracker(), FaceTracker()
    used.look(other, anew=True)
    for picture in speaker[3:8]:
        used.look(picture, anew=False)
    for k, picture in enumerate(speaker[:3]):
        (one,), (same,) = (tracker.look(picture, anew=k == 0) for tracker in (fresh, used))
        assert (one.box, one.confidence) == (same.box, same.confidence)
        np.testing.assert_array_equal(one.landmarks, same.landmarks)


@pytest.mark.parametrize(("degrees", "scale", "shift"), [(0, 1, (0, 0)), (30, 2.5, (90, 10)), (-75, 0.4, (-5, 60))])
def test_similarity_recovers_a_known_one(degrees, scale, shift):
    turn = np.deg2rad(degrees)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    expected = np.column_stack([matrix, shift])
    np.testing.assert_allclose(similarity(TEMPLATE, TEMPLATE @ matrix.T + shift), expected, atol=1e-9)


def drawn(degrees: float, scale: float, centre: tuple[float, float], size: tuple[int, int]) -> tuple[np.ndarray, Face]:
    """A smooth pattern drawn from its formula in a picture, turned and scaled about `centre`, as if it were a face."""
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = (CROP_SIZE - 1) / 2
    y, x = np.mgrid[: size[0], : size[1]]
    inverse = (np.stack([x, y], -1) - centre) @ rotation / scale + middle
    landmarks = (TEMPLATE - middle) @ rotation.T * scale + centre
    return pattern(inverse[..., 0], inverse[..., 1]), Face((0, 0, 1, 1), 1.0, landmarks)


def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.uint8(128 + 60 * np.sin(x / 5) * np.cos(y / 7) + 50 * np.sin((x + 2 * y) / 19))


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1), (0, 3), (20, 1.5), (-35, 4.2), (90, 2), (12, 0.5)])
def test_align_undoes_a_known_turn_and_scale(degrees, scale):
    image, face = drawn(degrees, scale, centre=(150.3, 170.8), size=(340, 320))
    y, x = np.mgrid[:CROP_SIZE, :CROP_SIZE]
    crop = align(image, face)
    assert crop.shape == (CROP_SIZE, CROP_SIZE)
    assert crop.dtype == np.uint8
    difference = np.abs(crop.astype(int) - pattern(x, y))
    assert difference.max() <= 6
    assert difference.mean() < 1.5


def test_align_gives_the_size_asked_for():
    image, face = drawn(10, 2, centre=(150, 150), size=(300, 300))
    large = align(image, face, size=96)
    assert large.shape == (96, 96)
    halved = cv2.resize(large, (48, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(halved.astype(int) - align(image, face)).mean() < 1.5


def test_align_repeats_the_edge_beyond_the_border():
    image = np.full((60, 60), 40, np.uint8)
    image[:, :20] = 200
    face = Face((0, 0, 1, 1), 1.0, TEMPLATE - (30, 0))  # so that the crop begins 30 pixels left of the picture
    crop = align(image, face)
    assert (crop[:, :30] == 200).all()
    assert (crop[:, 30:] == image[:48, :18]).all()


def test_align_reads_colour_as_grey():
    grey, face = drawn(15, 2, centre=(100, 100), size=(200, 200))
    crop = align(np.repeat(grey[:, :, None], 3, axis=2), face)
    assert np.abs(crop.astype(int) - align(grey, face)).max() <= 1
    red = np.zeros((200, 200, 3), np.uint8)
    red[..., 0] = 255
    assert abs(int(align(red, face)[24, 24]) - 76) <= 1  # ITU-R BT.601: 0.299 of 255


def test_align_keeps_colours_where_they_are_wanted():
    one, face = drawn(15, 2, centre=(100, 100), size=(200, 200))
    other = 255 - one
    crop = align(np.stack([one, other, one], axis=2), face, 96, colour=True)
    assert crop.shape == (96, 96, 3)
    for channel, grey in enumerate((one, other, one)):
        np.testing.assert_array_equal(crop[..., channel], align(grey, face, 96))


def test_align_survives_landmarks_in_one_point():
    image = np.zeros((50, 50), np.uint8)
    assert align(image, Face((0, 0, 1, 1), 1.0, np.full((5, 2), 20.0))).shape == (CROP_SIZE, CROP_SIZE)


def test_the_module_needs_no_torch():
    code = "import sys, models.faces; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
