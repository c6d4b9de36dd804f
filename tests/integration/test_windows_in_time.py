"""Every window's frames and sound lie where they should: from a file to what the models are given.

The clips' frames show their own number and their sound fits one place in time only, so where a window's input really
comes from is read off the input itself.
"""

from concurrent.futures import Future
from fractions import Fraction

import numpy as np
import pytest

from db.rows import SpanClaim
from tests.clips import Pictures, Track, board_reader, lag_seconds, number_on, steady, write
from worker.protocol import ReadRequest
from worker.recipe import Gates, Recipe
from worker.span import SpanRun
from worker.windows import WindowPlan

UNEVEN = [Fraction(n, 25) for n in range(0, 175) if n % 7 not in (2, 3, 5)]
VARIABLE = {"time_base": Fraction(1, 1000), "options": {"preset": "ultrafast", "g": "25", "bf": "2"}}
CLIPS = {
    "constant rate": ("a.mp4", Pictures(steady(7)), 0.0),
    "variable rate, B-frames": ("a.mkv", Pictures(UNEVEN, **VARIABLE), 0.0),
    "starts at 90 s": ("a.ts", Pictures(steady(7)), 90.0),
    "30000/1001": ("a.mp4", Pictures([Fraction(n * 1001, 30000) for n in range(210)], rate_hz=Fraction(30000, 1001),
                                     time_base=Fraction(1, 30000)), 0.0),
}  # fmt: skip
PLANS = {"2 s every 1 s": WindowPlan(2000, 1000), "1.5 s every 0.4 s": WindowPlan(1500, 400)}


class Recorder:
    """Stands where the models stand and keeps what they are given."""

    def __init__(self) -> None:
        self.waves: list[tuple[np.ndarray, int]] = []
        self.crops: list[np.ndarray] = []

    def submit_audio(self, wave: np.ndarray, length: np.ndarray) -> "Future[np.ndarray]":
        self.waves.append((wave, int(length)))
        return _answer(0)

    def submit_face(self, crop: np.ndarray) -> "Future[np.ndarray]":
        self.crops.append(crop)
        return _answer(number_on(crop))

    def pool(self, rows: np.ndarray) -> np.ndarray:
        """Hide the first and last frame's numbers of a window in its row."""
        row = np.zeros(8, np.float32)
        row[:2] = rows[0, 0], rows[-1, 0]
        return row / 10_000


def _answer(number: int) -> "Future[np.ndarray]":
    future: Future[np.ndarray] = Future()
    future.set_result(np.full(8, number, np.float32))
    return future


@pytest.fixture(scope="module")
def reader():
    with board_reader() as opened:
        yield opened


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
def test_every_window_holds_its_own_frames_and_sound(reader, tmp_path, clip, plan):
    name, pictures, offset = clip
    seconds = 7.0
    path = write(tmp_path / name, pictures, [Track(seconds=seconds)], offset=offset)
    recipe, models = Recipe(plan=plan, gates=Gates(speech_probability=0.01)), Recorder()
    claim = SpanClaim(
        annotation_id=1, span_index=0, first_window=0, last_window=None, start_seconds=0.0, end_seconds=None,
        owner="test", epoch=1, attempts=1, windows_done=0,
    )  # fmt: skip
    with path.open("rb") as file:
        rate = recipe.preset.picture_rate_hz
        events = reader.read(file.fileno(), name, ReadRequest(frame_rate_hz=rate))
        run = SpanRun(claim, recipe, models, has_audio=True, has_video=True)
        found = [row for rows in run.rows(events) for row in rows]
    assert run.true_end_seconds == pytest.approx(seconds, abs=0.06)
    assert len(found) == plan.count(run.true_end_seconds)
    shift = _shift(path, offset)
    starts = [float(t) + shift for t in pictures.times]
    for row, (wave, length) in zip(found, models.waves, strict=True):
        index, start, end, audio_state, video_state = row[:5]
        assert (start, audio_state, video_state) == (pytest.approx(index * plan.hop_ms / 1000), "ok", "ok")
        for at in (0.1, (end - start) / 2, end - start - 0.35):  # the sound, at three places
            piece = wave[round(at * 16_000) : round((at + 0.25) * 16_000)]
            lag, fit = lag_seconds(piece, start + at, shift=shift)
            assert fit > 0.9
            assert abs(lag) <= 0.010
        assert length == round((end - start) * 16_000)
        first, last = (round(10_000 * value) for value in row[16:18])
        grid = np.arange(np.ceil(start * rate - 1e-6), np.ceil(end * rate - 1e-6)) / rate
        grid = grid[(grid >= starts[0] - 1e-5) & (grid < starts[-1] + 0.03)]  # before and after it shows nothing
        for number, moment in ((first, grid[0]), (last, grid[-1])):
            assert starts[number] <= moment + 0.0011, "a frame from the future"
            assert number + 1 == len(starts) or starts[number + 1] > moment - 0.0011, "a frame that had gone"


def _shift(path, offset: float) -> float:
    """What the container's clock shows when the clip's shows 0: sound that was encoded begins a little earlier."""
    import av

    with av.open(str(path)) as container:
        return offset - (container.start_time or 0) / av.time_base
