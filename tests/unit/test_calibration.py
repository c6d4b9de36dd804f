"""Temperature scaling keeps what a row says and changes how surely."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.calibration import Calibration, calibrate
from models.fusion import confidence
from models.taxonomy import EMOTIONS, widen


def rows(seed: int) -> np.ndarray:
    labels = [name for name in EMOTIONS if name != "calm"]
    return widen(np.random.default_rng(seed).dirichlet(np.full(7, 0.4), 20), labels)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 20))
def test_the_label_stays_and_rows_sum_to_one(seed, temperature):
    before = rows(seed)
    after = calibrate(before, temperature)
    np.testing.assert_allclose(np.nansum(after, axis=1), 1, atol=1e-5)
    assert np.isnan(after[:, EMOTIONS.index("calm")]).all()
    top = np.nanargmax(before, axis=1)
    assert (after[np.arange(20), top] >= np.nanmax(after, axis=1) - 1e-6).all()


def test_a_high_temperature_doubts_and_a_low_one_is_sure():
    before = rows(1)
    assert (confidence(calibrate(before, 3.0)) <= confidence(before) + 1e-6).all()
    assert (confidence(calibrate(before, 0.3)) >= confidence(before) - 1e-6).all()
    assert calibrate(before, 1.0) is before


def test_by_hand():
    half = calibrate(widen([[0.8, 0.2]], ["happy", "sad"]), 2.0)
    assert half[0, EMOTIONS.index("happy")] == pytest.approx(0.8**0.5 / (0.8**0.5 + 0.2**0.5))


def test_a_missing_row_stays_missing():
    gone = np.full((2, 8), np.nan, np.float32)
    assert np.isnan(calibrate(gone, 2.0)).all()


@pytest.mark.parametrize("bad", [0.0, -1.0, 21.0, float("nan")])
def test_impossible_temperatures_are_refused(bad):
    with pytest.raises(ValueError, match="temperature"):
        Calibration(audio_temperature=bad)
