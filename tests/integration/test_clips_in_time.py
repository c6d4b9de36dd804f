"""The whole pictures that a model for video is given lie where they should: from a file to the clip of each window."""

from concurrent.futures import Future
from fractions import Fraction

import numpy as np
import pytest

from db.rows import SpanClaim
from models.checkpoints import HubCheckpoint
from models.presets import COMPACT, Preset
from tests.checkpoints import RAVDESS, save
from tests.clips import Pictures, board_reader, number_on, read, steady, write
from worker.recipe import Gates, Recipe
from worker.span import SpanRun, read_request
from worker.windows import WindowPlan

UNEVEN = [Fraction(n, 25) for n in range(0, 175) if n % 7 not in (2, 3, 5)]
CLIPS = {
    "constant rate": Pictures(steady(7)),
    "variable rate": Pictures(UNEVEN, time_base=Fraction(1, 1000), options={"preset": "ultrafast", "g": "25"}),
    "few pictures": Pictures(steady(7, 4), rate_hz=Fraction(4), time_base=Fraction(1, 4)),
}
PLANS = {
    "2 s every 1 s": WindowPlan(2000, 1000),
    "1.5 s every 0.4 s": WindowPlan(1500, 400),
    "4 s every 4 s": WindowPlan(4000, 4000),
}


class Recorder:
    """Stands where the model stands and reads the number on each picture that it is given."""

    def __init__(self) -> None:
        self.clips: list[list[int]] = []

    def submit_clip(self, clip: np.ndarray) -> "Future[np.ndarray]":
        self.clips.append([number_on(frame.mean(axis=2)) for frame in clip])
        future: Future[np.ndarray] = Future()
        future.set_result(np.full(8, 1 / 8, np.float32))
        return future

    submit_audio = submit_face = pool = None


@pytest.fixture(scope="module")
def reader():
    with board_reader() as opened:
        yield opened


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> HubCheckpoint:
    """A ViViT for pictures of 48 pixels that are squeezed, so that boards stay whole."""
    folder = save(tmp_path_factory.mktemp("vivit"), "vivit", RAVDESS, image_size=48)
    processor = '{"image_processor_type": "VivitImageProcessor", "size": {"height": 48, "width": 48}}'
    (folder / "preprocessor_config.json").write_text(processor.replace("}}", '}, "do_center_crop": false}'))
    return HubCheckpoint(str(folder), "video")


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("pictures", CLIPS.values(), ids=CLIPS)
def test_every_clip_holds_the_pictures_of_its_moments(reader, tmp_path, video, pictures, plan):
    path = write(tmp_path / "a.mkv", pictures)
    recipe, model = Recipe(Preset("paper", COMPACT.audio, video), plan, gates=Gates()), Recorder()
    claim = SpanClaim(
        annotation_id=1, span_index=0, first_window=0, last_window=None, start_seconds=0.0, end_seconds=None,
        owner="test", epoch=1, attempts=1, windows_done=0,
    )  # fmt: skip
    with path.open("rb") as file:
        events = reader.read(file.fileno(), path.name, read_request(claim, recipe))
        run = SpanRun(claim, recipe, model, has_audio=False, has_video=True)
        found = [row for rows in run.rows(events) for row in rows]
    assert [row[4] for row in found] == ["ok"] * plan.count(run.true_end_seconds)
    starts = [float(t) for t in pictures.times]
    ends = [*starts[1:], run.true_end_seconds]
    for row, numbers in zip(found, model.clips, strict=True):
        first, last = row[1:3]
        step = 1 / recipe.sampling.rate_hz
        exact = plan.window_ms == 2000 and last - first == 2.0  # every moment is a point of the grid
        for i, number in enumerate(numbers):
            moment = first + i * (last - first) / 32
            # the nearest point of the grid; at the edges the nearest within the window; Matroska's milliseconds
            slack = 0.0011 + (0 if exact else step if i in (0, 31) else step / 2)
            assert starts[number] <= moment + slack, "a picture from the future"
            assert ends[number] > moment - slack, "a picture that had gone"


def test_faces_are_looked_for_in_every_third_picture_only(reader, tmp_path):
    path = write(tmp_path / "a.mp4", Pictures(steady(2)))
    seen = read(reader, path, frame_rate_hz=16.0, face_every=3, frame_pixels=48)
    assert [p.state for p in seen.pictures] == ["unjudged" if p.grid_index % 3 else "face" for p in seen.pictures]
    assert len(seen.pictures) == 32
    for picture in seen.pictures:
        assert picture.frame is not None
        assert number_on(picture.frame.mean(axis=2)) == int(picture.t_seconds * 25 + 1e-6)


def test_a_picture_that_stays_on_screen_is_looked_at_and_sent_once(reader, tmp_path):
    path = write(tmp_path / "a.mp4", Pictures(steady(3, 2), rate_hz=Fraction(2), time_base=Fraction(1, 2)))
    seen = read(reader, path, frame_rate_hz=16.0, face_every=3, frame_pixels=48)
    sent = [p for p in seen.pictures if p.frame is not None]
    assert [p.source_seconds for p in sent] == sorted({p.source_seconds for p in seen.pictures})
    assert {p.state for p in seen.pictures} == {"face"}
