"""How pictures are taken for a model of whole pictures, and which of them make each window's clip."""

from concurrent.futures import Future

import numpy as np
import pytest
from transformers import VideoMAEImageProcessorPil

from models import faces, mtcnn
from models.checkpoints import HubCheckpoint
from models.presets import COMPACT, Preset, preset_of
from tests.checkpoints import RAVDESS, save
from worker import recipe
from worker.collect import Gap
from worker.decoder_video import square
from worker.frames import ClipWindows
from worker.protocol import Picture, ReadRequest
from worker.recipe import Gates, Recipe
from worker.sampling import Sampling
from worker.windows import WindowPlan

PLAN, GATES = WindowPlan(2000, 1000), Gates()
EIGHT_HZ = Sampling(8.0, 2, n_frames=16, frame_pixels=16)


class Model:
    """Remembers which pictures it was given: each is filled with its place on the grid."""

    def __init__(self) -> None:
        self.clips: list[list[int]] = []

    def __call__(self, clip: np.ndarray) -> "Future[np.ndarray]":
        assert clip.shape == (16, 16, 16, 3)
        self.clips.append(clip[:, 0, 0, 0].tolist())
        future: Future[np.ndarray] = Future()
        future.set_result(np.full(8, 1 / 8, np.float32))
        return future


def see(side: ClipWindows, faces: str, *, held: bool = False) -> None:
    """One letter for each point at 8 a second: a digit is the number of faces, `-` none, a space no picture."""
    for g, letter in enumerate(faces):
        if letter == " ":
            continue
        looked = g % 2 == 0
        state = ("no_face" if letter == "-" else "face") if looked else "unjudged"
        frame = None if held and g else np.full((16, 16, 3), g, np.uint8)
        n = int(letter) if state == "face" else 0
        side.add_picture(Picture(g, g / 8, 0.0 if held else g / 8, state, n, frame=frame))


def test_each_window_gets_its_own_pictures():
    model = Model()
    side = ClipWindows(0, PLAN, GATES, EIGHT_HZ, model)
    see(side, "1" * 33)
    assert model.clips == [list(range(8 * k, 8 * k + 16)) for k in range(3)], "sent as soon as they are whole"
    windows = side.close(4, 4.05)
    assert [(w.state, w.share, w.count) for w in windows] == [("ok", 1, 1)] * 4
    assert model.clips[3] == [24, 25, 25, 26, 26, 27, 27, 28, 28, 29, 29, 30, 30, 31, 31, 32], "the tail, spread out"


def test_no_face_no_clip():
    model = Model()
    side = ClipWindows(0, PLAN, GATES, EIGHT_HZ, model)
    see(side, "1-" + "-" * 14 + "2" * 8)
    windows = side.close(2, 3.0)
    assert [(w.state, w.share, w.count) for w in windows] == [("no_face", 1 / 8, 1), ("ok", 0.5, 2)]
    assert len(model.clips) == 1
    assert windows[0].row is None


def test_missing_pictures_are_those_next_to_them_and_lost_windows_are_unreadable():
    model = Model()
    side = ClipWindows(0, PLAN, GATES, EIGHT_HZ, model)
    side.gaps.append(Gap(1.0, 4.0))
    see(side, "1" * 8 + " " * 24 + "1" * 16)
    states = [w.state for w in side.close(6, 6.0)]
    assert states == ["ok", "unreadable", "unreadable", "ok", "ok", "ok"]
    assert model.clips[0] == [*range(8), *[7] * 8]
    assert model.clips[1] == [*[32] * 8, *range(32, 40)]
    nothing = ClipWindows(0, PLAN, GATES, EIGHT_HZ, model, present=False)
    assert [w.state for w in nothing.close(2, 2.0)] == ["absent"] * 2


def test_a_picture_that_stays_on_screen_is_sent_once():
    model = Model()
    side = ClipWindows(0, PLAN, GATES, EIGHT_HZ, model)
    see(side, "1" * 40, held=True)
    assert [w.state for w in side.close(4, 5.0)] == ["ok"] * 4
    assert model.clips == [[0] * 16] * 4


def test_memory_is_that_of_a_window_not_of_the_span():
    side = ClipWindows(0, PLAN, GATES, EIGHT_HZ, Model())
    for g in range(8 * 300):
        side.add_picture(Picture(g, g / 8, g / 8, "face", 1, frame=np.zeros((16, 16, 3), np.uint8)))
        assert len(side._frames) <= 17
        assert len(side._faces) <= 9


def test_a_frame_from_nowhere_is_left_out():
    side = ClipWindows(0, PLAN, GATES, EIGHT_HZ, Model())
    side.add_picture(Picture(0, 0.0, 0.0, "face", 1))
    assert [w.state for w in side.close(1, 1.0)] == ["no_face"]


@pytest.mark.parametrize(
    ("name", "plan", "rate_hz", "face_every"),
    [
        ("vivit", WindowPlan(2000, 1000), 16.0, 3),  # 32 frames in 2 s; faces 5.3 times a second
        ("videomae", WindowPlan(4000, 1000), 4.0, 1),  # 16 frames in 4 s
        (
            "timesformer",
            WindowPlan(8000, 8000),
            4.0,
            1,
        ),  # 8 frames in 8 s are too few to find faces: every 4th is taken
    ],
)
def test_the_grid_follows_the_clip(tmp_path, name, plan, rate_hz, face_every):
    video = HubCheckpoint(str(save(tmp_path, name, RAVDESS)), "video")
    sampling = Recipe(Preset("paper", COMPACT.audio, video), plan).sampling
    assert (sampling.rate_hz, sampling.face_every) == (rate_hz, face_every)
    assert (sampling.frame_pixels, sampling.frame_short_pixels) == (32, 40)
    for k in (0, 1, 7):
        points = sampling.spread(plan.window(k))
        step = plan.window_ms / 1000 / video.n_frames * rate_hz
        assert points == [round(plan.window(k).start_seconds * rate_hz + i * step) for i in range(video.n_frames)]


@pytest.mark.parametrize(
    ("rate_hz", "face_every", "search_every"), [(5.0, 1, 5), (16.0, 3, 15), (4.0, 1, 4), (8.0, 2, 8), (0.5, 1, 1)]
)
def test_faces_are_searched_for_about_once_a_second_where_they_are_looked_for(rate_hz, face_every, search_every):
    assert ReadRequest(frame_rate_hz=rate_hz, face_every=face_every).search_every == search_every


def test_what_decides_which_faces_are_found_is_in_the_digest(monkeypatch):
    known = Recipe().identity.windows_digest
    for module, name in (
        (faces, "SEMANTICS"),
        (faces, "MIN_FOLLOWED_CONFIDENCE"),
        (faces, "CUT_DIFFERENCE"),
        (faces, "MAX_FOLLOWED"),
        (mtcnn, "PYRAMID_FACTOR"),
        (recipe, "SEARCH_SECONDS"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(module, name, getattr(module, name) * 2)
            assert Recipe().identity.windows_digest != known, name


def test_what_identifies_compact_is_what_it_was():
    """A key more or less would send every archive through the models again."""
    config = Recipe().config
    assert sorted(config) == [
        "adaptation", "audio", "calibration", "face", "face_detector", "fusion", "gates", "picture_rate_hz", "plan",
        "preset", "semantics", "smoothing", "temporal", "voice_detector",
    ]  # fmt: skip
    assert (config["preset"], config["picture_rate_hz"]) == ("compact", 5.0)
    assert sorted(config["audio"]) == sorted(config["face"]) == ["labels", "sha256"]
    assert preset_of("compact") == COMPACT


def test_what_identifies_a_pipeline_with_other_models(tmp_path):
    folder = save(tmp_path / "a", "vivit", RAVDESS)
    one = Recipe(preset_of("compact", video=str(folder)))
    assert one.config["face_every"] == 3
    assert "temporal" not in one.config  # what identifies it is what it was
    assert one.config["face"]["num_frames"] == 32
    (tmp_path / "a" / "preprocessor_config.json").write_text(
        (folder / "preprocessor_config.json").read_text().replace("40", "44")
    )
    assert Recipe(preset_of("compact", video=str(folder))).identity.digest != one.identity.digest


def test_paper_asks_for_its_checkpoints_and_a_label_map_for_a_model(tmp_path):
    for given in ({}, {"audio": "some/model"}, {"video": "some/model"}):
        with pytest.raises(ValueError, match=r"--audio-model and --video-model.*crema"):
            preset_of("paper", **given)
    with pytest.raises(ValueError, match="--label-map is for"):
        preset_of("compact", label_map=tmp_path / "labels.json")


@pytest.mark.parametrize(("height", "width"), [(360, 640), (640, 360), (90, 120), (224, 224)])
def test_squares_are_cut_as_the_processor_cuts_them(height, width):
    """Against the processor itself, on a picture smooth enough that the way of resizing hardly matters."""
    y, x = np.mgrid[:height, :width]
    wave = [np.sin(x / width * 9 + 1), np.cos(y / height * 7), np.sin(x / width * 4) * np.cos(y / height * 5)]
    picture = np.clip(128 + 100 * np.stack(wave, axis=2), 0, 255).astype(np.uint8)
    own = VideoMAEImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    theirs = own([picture], return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values"]
    theirs = theirs.reshape(3, 224, 224).transpose(1, 2, 0).astype(float)
    ours = square(picture, 224, 256)
    assert np.abs(ours - theirs).mean() < 1.0
    assert np.abs(np.roll(ours, 2, axis=1) - theirs).mean() > 1.0, "two pixels off would show"
    corners = np.ix_([0, -1], [0, -1])
    assert np.abs(square(picture, 32, None)[corners] - picture[corners].astype(float)).max() < 30


def test_pictures_of_other_sizes_than_asked_for_do_not_fit():
    grey, colour = np.zeros((48, 48), np.uint8), np.zeros((32, 32, 3), np.uint8)
    asked = ReadRequest(frame_pixels=32)
    assert asked.fits(Picture(0, 0.0, 0.0, "face", 1, grey, frame=colour))
    assert not asked.fits(Picture(0, 0.0, 0.0, "face", 1, colour))
    assert not asked.fits(Picture(0, 0.0, 0.0, "no_face", frame=np.zeros((16, 16, 3), np.uint8)))
    assert not ReadRequest().fits(Picture(0, 0.0, 0.0, "no_face", frame=colour))
    assert ReadRequest(crop_pixels=32, crop_colour=True).fits(Picture(0, 0.0, 0.0, "face", 1, colour))
