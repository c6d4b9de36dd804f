"""Small pictures of large frames: made in two steps where that is cheaper, and as good as in one."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from worker.decoder_video import SCALED_FIRST, Converter


@pytest.fixture(scope="module")
def painting() -> np.ndarray:
    """Soft blots of colours as films have them, (1080, 1920, 3) uint8."""
    blots = np.random.default_rng(2).integers(60, 200, (27, 48, 3), np.uint8)
    return cv2.resize(blots, (1920, 1080), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("name", [*sorted(SCALED_FIRST), "yuv422p", "yuv444p", "rgb24", "gray"])
def test_the_colours_and_edges_of_the_frame(painting, name):
    frame = av.VideoFrame.from_ndarray(painting, format="rgb24").reformat(format=name)
    small = Converter(None).convert(frame)
    source = (
        painting if name != "gray" else np.repeat(cv2.cvtColor(painting, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    )
    expected = cv2.resize(source, (640, 360), interpolation=cv2.INTER_AREA).astype(float)
    difference = small - expected
    assert small.shape == (360, 640, 3)
    assert np.abs(difference).mean() < 3
    assert np.abs(difference.mean(axis=(0, 1))).max() < 2


def test_nothing_finer_than_the_small_picture_is_left():
    """Stripes of one pixel become grey, not other stripes."""
    stripes = np.zeros((1080, 1920, 3), np.uint8)
    stripes[:, ::2] = 255
    small = Converter(None).convert(av.VideoFrame.from_ndarray(stripes, format="rgb24").reformat(format="yuv420p"))
    assert np.ptp(small[:, 8:-8].astype(int)) < 110
    assert abs(float(small.mean()) - 127.5) < 4


def test_a_small_frame_keeps_its_pixels():
    pixels = np.random.default_rng(3).integers(0, 256, (180, 320, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    np.testing.assert_array_equal(Converter(Fraction(1)).convert(frame), pixels)
