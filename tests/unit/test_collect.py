"""Sound and pictures of a span, cut into windows: what reaches the model, and which state each window gets."""

from concurrent.futures import Future

import numpy as np
import pytest

from worker.collect import Gap, PictureWindows, SoundWindows, columns
from worker.protocol import Picture, Sound, Voice
from worker.recipe import Gates
from worker.windows import WindowPlan

PLAN, GATES, RATE = WindowPlan(2000, 1000), Gates(), 16_000


class Model:
    """Answers every row with the same probabilities and remembers what it was given."""

    def __init__(self) -> None:
        self.rows: list[tuple[np.ndarray, ...]] = []

    def __call__(self, *row: np.ndarray) -> "Future[np.ndarray]":
        self.rows.append(row)
        future: Future[np.ndarray] = Future()
        future.set_result(np.full(8, 1 / 8, np.float32))
        return future


def hear(side: SoundWindows, samples: np.ndarray, speech: np.ndarray, first_sample: int = 0, step: int = 5000) -> None:
    """Feed sound in steps; `speech` holds a probability for each 512-sample chunk from the first sample on."""
    for at in range(0, len(samples), step):
        side.add_sound(Sound(first_sample + at, samples[at : at + step]))
        done = min(at + step, len(samples)) // 512
        if done > at // 512:
            side.add_voice(Voice(first_sample // 512 + at // 512, speech[at // 512 : done].astype(np.float32)))


def ramp(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * RATE), dtype=np.float32)


def test_each_window_gets_exactly_its_own_sound():
    model = Model()
    side = SoundWindows(0, PLAN, GATES, model)
    hear(side, ramp(3.7), np.ones(200))
    assert [window.state for window in side.close(3, 3.7)] == ["ok"] * 3
    for k, (wave, length) in enumerate(model.rows):
        real = min(32_000, round(3.7 * RATE) - k * RATE)
        assert length == real
        np.testing.assert_array_equal(wave[:real], ramp(3.7)[k * RATE : k * RATE + real])
        assert not wave[real:].any()


def test_a_span_in_the_middle_knows_its_place():
    model = Model()
    side = SoundWindows(60, PLAN, GATES, model)
    hear(side, ramp(4), np.ones(125), first_sample=60 * RATE)
    assert len(side.close(63, None)) == 3
    assert [row[0][0] for row in model.rows] == [0, RATE, 2 * RATE]


def test_memory_is_that_of_a_window_not_of_the_span():
    side = SoundWindows(0, PLAN, GATES, Model())
    hear(side, np.zeros(RATE * 300, np.float32), np.zeros(300 * 32))
    assert len(side._samples) <= 3 * RATE
    assert len(side._speech) <= 3 * 32
    assert side.settled == 299
    assert [w.state for w in side.take(290)] == ["no_speech"] * 290
    assert len(side._windows) == 9
    assert len(side.close(300, 300.0)) == 10


def test_pictures_are_let_go_of_with_their_windows():
    side = PictureWindows(0, PLAN, GATES, 5.0, Model(), pool)
    see(side, "1" * 1000)
    assert side.settled == 199
    assert [w.state for w in side.take(190)] == ["ok"] * 190
    assert len(side._faces) == 50
    assert [w.state for w in side.close(199, 200.0)] == ["ok"] * 9


@pytest.mark.parametrize(("share", "state"), [(0.0, "no_speech"), (0.2, "no_speech"), (0.3, "ok"), (1.0, "ok")])
def test_speech_decides_between_ok_and_no_speech(share, state):
    side = SoundWindows(0, PLAN, GATES, Model())
    speech = (np.arange(64) < share * 62.5).astype(float)
    hear(side, ramp(2.048), speech)
    (window,) = side.close(1, 2.0)
    assert window.state == state
    assert window.share == pytest.approx(share, abs=0.02)
    assert (window.row is None) == (state != "ok")


def test_a_stream_that_is_not_there_is_absent_and_one_that_is_lost_is_unreadable():
    assert SoundWindows(0, PLAN, GATES, Model(), present=False).close(2, 2.0)[0].state == "absent"
    assert PictureWindows(0, PLAN, GATES, 5.0, Model(), np.mean, present=False).close(2, 2.0)[0].state == "absent"
    assert SoundWindows(0, PLAN, GATES, Model()).close(2, 2.0)[0].state == "no_speech"
    assert PictureWindows(0, PLAN, GATES, 5.0, Model(), np.mean).close(2, 2.0)[0].state == "no_face"
    sound = SoundWindows(0, PLAN, GATES, Model())
    sound.gaps.append(Gap(1.2, 4.0))
    hear(sound, np.zeros(RATE * 5, np.float32), np.zeros(200))
    assert [w.state for w in sound.close(4, 5.0)] == ["no_speech", "unreadable", "unreadable", "no_speech"]


def see(side: PictureWindows, faces: str, held: bool = False) -> None:
    """One letter for each picture at 5 a second: a digit is the number of faces, `-` none, a space no picture."""
    for g, letter in enumerate(faces):
        if letter == " ":
            continue
        n = 0 if letter == "-" else int(letter)
        crop = np.full((48, 48), g % 251, np.uint8) if n else None
        side.add_picture(Picture(g, g / 5, 0.0 if held else g / 5, "face" if n else "no_face", n, crop))


def pool(rows: np.ndarray) -> np.ndarray:
    return rows.mean(axis=0)


def test_faces_decide_between_ok_and_no_face():
    side = PictureWindows(0, PLAN, GATES, 5.0, Model(), pool)
    see(side, "13------------------")  # two of ten pictures are fewer than a quarter
    first, second = side.close(2, 4.0)[:2]
    assert (first.state, first.count, first.share) == ("no_face", 3, 0.2)
    assert (second.state, second.count) == ("no_face", 0)
    side = PictureWindows(0, PLAN, GATES, 5.0, Model(), pool)
    see(side, "1-2-1-----")
    (window,) = side.close(1, 2.0)
    assert (window.state, window.count) == ("ok", 2)


def test_a_frame_that_stays_on_screen_is_judged_once():
    model = Model()
    side = PictureWindows(0, PLAN, GATES, 5.0, model, pool)
    see(side, "1" * 20, held=True)
    assert [w.state for w in side.close(3, 4.0)] == ["ok"] * 3
    assert len(model.rows) == 1


def test_pictures_that_could_not_be_read_are_unreadable():
    side = PictureWindows(0, PLAN, GATES, 5.0, Model(), pool)
    side.gaps.append(Gap(2.0, 4.0))
    see(side, "1" * 10 + " " * 10 + "1" * 10)
    assert [w.state for w in side.close(5, 6.0)] == ["ok", "ok", "unreadable", "ok", "ok"]


def test_columns_are_null_where_nothing_is_known():
    assert columns(None) == [None] * 8
    assert columns(np.array([0.5, np.nan, 0.5, 0, 0, 0, 0, 0], np.float32))[:3] == [0.5, None, 0.5]
