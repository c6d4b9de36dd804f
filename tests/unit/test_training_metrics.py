"""Figures and protocols, against what is counted by hand."""

import numpy as np
import pytest

from models.taxonomy import EMOTIONS
from models.training.metrics import (
    NOTHING,
    calibration_error,
    clip_row,
    figures,
    mcnemar,
    predicted,
    rounded,
    scores,
)
from models.training.protocols import (
    CREMA_D,
    JAVANESE,
    PROTOCOLS,
    RAVDESS,
    Protocol,
    SharedSpeakers,
    joint_folds,
    refuse_shared_speakers,
    splits,
)

HAPPY, SAD = EMOTIONS.index("happy"), EMOTIONS.index("sad")
TWO = np.array([name in ("happy", "sad") for name in EMOTIONS])


def rows_of(*happy: float | None) -> np.ndarray:
    """Rows over happy and sad with this probability of happy; None: nothing was said."""
    rows = np.full((len(happy), 8), np.nan, np.float32)
    for row, share in zip(rows, happy, strict=True):
        if share is not None:
            row[[HAPPY, SAD]] = share, 1 - share
    return rows


@pytest.mark.parametrize(
    ("protocol", "sizes", "first"),
    [
        (RAVDESS, [5, 5, 5, 5, 4], {"ravdess/02", "ravdess/05", "ravdess/14", "ravdess/15", "ravdess/16"}),
        (CREMA_D, [18, 18, 18, 18, 19], {f"crema-d/{actor}" for actor in range(1001, 1019)}),
        (JAVANESE, [2, 2, 2, 2, 2], {"javanese/01", "javanese/06"}),
    ],
)
def test_the_folds_are_the_published_ones(protocol, sizes, first):
    assert [len(fold) for fold in protocol.folds] == sizes
    assert protocol.folds[0] == first
    assert len(frozenset().union(*protocol.folds)) == sum(sizes) == {"r": 24, "c": 91, "j": 10}[protocol.name[0]]


def test_a_speaker_s_fold():
    assert RAVDESS.fold_of("ravdess/22") == 4
    assert CREMA_D.fold_of("crema-d/1091") == 4
    with pytest.raises(ValueError, match=r"ravdess/25 is in no fold"):
        RAVDESS.fold_of("ravdess/25")


def test_the_joint_folds_hold_everybody_once():
    speakers = [speaker for fold in joint_folds() for speaker in fold]
    assert len(speakers) == len(set(speakers)) == 24 + 91


def test_labels_of_the_corpora():
    assert {name: len(protocol.emotions) for name, protocol in PROTOCOLS.items()} == {
        "ravdess": 8, "crema-d": 6, "javanese": 6
    }  # fmt: skip
    assert [EMOTIONS[i] for i in np.flatnonzero(~CREMA_D.known)] == ["calm", "surprised"]


def test_a_protocol_that_tests_somebody_twice_is_refused():
    with pytest.raises(ValueError, match="tested in two folds"):
        Protocol("x", ("happy",), (frozenset({"x/1"}), frozenset({"x/1", "x/2"})))


def test_a_speaker_on_both_sides_is_refused():
    refuse_shared_speakers(["a/1", "a/1"], {"a/2"})
    with pytest.raises(SharedSpeakers, match="both sides of the split: a/1, a/3"):
        refuse_shared_speakers(np.array(["a/3", "a/1", "a/2"]), ["a/1", "a/3"])


def test_splits_test_every_clip_once():
    speakers = ["a/1", "a/2", "a/1", "a/3"]
    made = list(splits(speakers, [{"a/1"}, {"a/2", "a/3"}]))
    assert [test.tolist() for _, test in made] == [[True, False, True, False], [False, True, False, True]]
    assert all((train == ~test).all() for train, test in made)


def test_a_clip_s_row_is_the_mean_of_the_logs_over_its_corpus_s_labels():
    windows = np.zeros((3, 8), np.float32)
    windows[:, [HAPPY, SAD, 0]] = [[0.4, 0.1, 0.5], [0.2, 0.8, 0.0], [np.nan] * 3]
    windows[2] = np.nan
    row = clip_row(windows, TWO)
    ratio = (0.8 * 0.2 / (0.2 * 0.8)) ** 0.5
    assert row[HAPPY] / row[SAD] == pytest.approx(ratio, rel=1e-5)
    assert np.nansum(row) == pytest.approx(1)
    assert np.isnan(clip_row(windows[2:], TWO)).all()


def test_saying_nothing_is_wrong_and_no_label():
    rows = rows_of(0.9, None, 0.2)
    assert predicted(rows).tolist() == [HAPPY, NOTHING, SAD]
    found = figures(np.array([HAPPY, HAPPY, SAD]), rows, np.zeros(3, int), TWO)
    assert found["wa"] == pytest.approx(2 / 3)
    assert found["uar"] == pytest.approx(0.75)
    assert found["answered"] == pytest.approx(2 / 3)
    assert found["confusion"] == {"labels": ["happy", "sad"], "counts": [[1, 0, 1], [0, 1, 0]]}


def test_the_calibration_error_is_the_one_counted_by_hand():
    probabilities = rows_of(0.95, 0.95, 0.65, 0.65, None)
    error = calibration_error(probabilities, np.array([HAPPY, HAPPY, HAPPY, SAD, SAD]))
    assert error == pytest.approx(2 / 4 * 0.05 + 2 / 4 * 0.15)


def test_scores_are_those_counted_by_hand():
    found = scores(np.array([HAPPY, HAPPY, HAPPY, SAD]), np.array([HAPPY, HAPPY, SAD, SAD]), TWO)
    assert found["wa"] == 0.75
    assert found["uar"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert found["per_class"]["happy"] == pytest.approx({"precision": 1, "recall": 2 / 3, "f1": 0.8, "clips": 3})


def test_means_and_spread_are_over_the_folds_and_calibration_over_all():
    truth = np.array([HAPPY, SAD, HAPPY, SAD])
    rows = rows_of(0.8, 0.3, 0.6, 0.9)
    found = figures(truth, rows, np.array([0, 0, 1, 1]), TWO)
    assert found["per_fold"]["wa"] == [1.0, 0.5]
    assert found["wa"] == 0.75
    assert found["spread"]["wa"] == pytest.approx(0.5 / 2**0.5)
    assert found["ece"] == pytest.approx((0.2 + 0.3 + 0.4 + 0.9) / 4)


def test_mcnemar_counts_the_clips_that_only_one_gets_right():
    truth = np.zeros(12, int)
    first, second = truth.copy(), truth.copy()
    first[0], second[2:12] = 1, 1
    assert mcnemar(truth, first, second) == {"won": 10, "lost": 1, "p": pytest.approx(2 * 12 / 2**11)}
    assert mcnemar(truth, first, first)["p"] == 1


def test_rounding_keeps_small_p_values():
    assert rounded({"wa": 0.123456, "tests": [{"p": 0.0000123}], "clips": 3}) == {
        "wa": 0.1235, "tests": [{"p": 0.000012}], "clips": 3
    }  # fmt: skip
