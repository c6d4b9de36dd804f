"""What every fusion rule promises, and what each one is, on random and hand-made rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.fusion import RULES, Fusion, complete, confidence, fuse
from models.taxonomy import EMOTIONS, widen

E = {name: i for i, name in enumerate(EMOTIONS)}
every_rule = pytest.mark.parametrize("rule", RULES)


def rows(seed: int, unknown: tuple[str, ...] = (), n: int = 12) -> np.ndarray:
    labels = [name for name in EMOTIONS if name not in unknown]
    return widen(np.random.default_rng(seed).dirichlet(np.full(len(labels), 0.5), n), labels)


seeds = st.integers(0, 2**32 - 1)
label_sets = st.sets(st.sampled_from(EMOTIONS), max_size=7).map(tuple)


@every_rule
@given(seeds, label_sets, label_sets)
def test_rows_sum_to_one_over_the_union(rule, seed, lacks_a, lacks_v):
    fused = fuse(rows(seed, lacks_a), rows(seed + 1, lacks_v), Fusion(rule, 0.6))
    np.testing.assert_allclose(np.nansum(fused, axis=1), 1, atol=1e-5)
    nobody_knows = [E[name] for name in set(lacks_a) & set(lacks_v)]
    assert np.isnan(fused[:, nobody_knows]).all()
    assert np.isnan(fused).sum() == len(nobody_knows) * len(fused)


@every_rule
@given(seeds, st.floats(0, 1))
def test_agreement_is_kept(rule, seed, weight):
    a, v = rows(seed, n=40), rows(seed + 1, n=40)
    agree = a.argmax(1) == v.argmax(1)
    fused = fuse(a, v, Fusion(rule, weight))
    assert (fused.argmax(1) == a.argmax(1))[agree].all()


@every_rule
@given(seeds, st.floats(0, 1), label_sets, label_sets)
def test_swapping_modalities_with_their_weights_changes_nothing(rule, seed, weight, lacks_a, lacks_v):
    a, v = rows(seed, lacks_a), rows(seed + 1, lacks_v)
    np.testing.assert_allclose(fuse(a, v, Fusion(rule, weight)), fuse(v, a, Fusion(rule, 1 - weight)), atol=1e-5)


@every_rule
def test_a_missing_modality_leaves_the_others_row(rule):
    a, v = rows(1, ("calm", "surprised")), rows(2, ("calm",))
    gone = np.full_like(a, np.nan)
    np.testing.assert_array_equal(fuse(a, gone, Fusion(rule)), a)
    np.testing.assert_array_equal(fuse(gone, v, Fusion(rule)), v)
    assert np.isnan(fuse(gone, gone, Fusion(rule))).all()


@every_rule
def test_a_label_that_one_model_does_not_know_is_decided_by_the_other(rule):
    """The odds of calm stay those of the voice; a face that lacks it neither adds nor vetoes."""
    v = widen([[0.7, 0.3]], ["happy", "sad"])
    sure = widen([[0.9, 0.05, 0.05]], ["calm", "happy", "sad"])
    doubtful = widen([[0.05, 0.85, 0.1]], ["calm", "happy", "sad"])
    assert fuse(sure, v, Fusion(rule)).argmax() != E["happy"]
    assert np.nanargmax(fuse(sure, v, Fusion(rule))) == E["calm"]
    assert np.nanargmax(fuse(doubtful, v, Fusion(rule))) == E["happy"]


def test_completion_has_the_documented_masses():
    a = widen([[0.2, 0.3, 0.5]], ["calm", "happy", "sad"])  # calm: the voice's alone, mass 0.2
    v = widen([[0.4, 0.1, 0.5]], ["disgust", "happy", "sad"])  # disgust: the face's alone, mass 0.4
    for row, own in zip(complete(a, v), ((0.3, 0.5), (0.1, 0.5)), strict=True):
        masses = np.array([1, 0.2 / 0.8, 0.4 / 0.6])
        masses /= masses.sum()
        assert row[0, E["calm"]] == pytest.approx(masses[1], abs=1e-6)
        assert row[0, E["disgust"]] == pytest.approx(masses[2], abs=1e-6)
        assert row[0, E["happy"]] == pytest.approx(masses[0] * own[0] / sum(own), abs=1e-6)


def test_no_shared_label_is_the_plain_mean():
    fused = fuse(widen([[0.6, 0.4]], ["calm", "happy"]), widen([[0.9, 0.1]], ["sad", "angry"]), Fusion("average"))
    assert fused[0, [E["calm"], E["happy"], E["sad"], E["angry"]]] == pytest.approx([0.3, 0.2, 0.45, 0.05])


A, V = widen([[0.8, 0.2]], ["happy", "sad"]), widen([[0.3, 0.7]], ["happy", "sad"])


@pytest.mark.parametrize(
    ("fusion", "happy"),
    [
        (Fusion("average"), 0.55),
        (Fusion("weighted", audio_weight=0.9), 0.9 * 0.8 + 0.1 * 0.3),
        (Fusion("threshold", threshold=0.75), 0.8),
        (Fusion("threshold", threshold=0.5), 0.55),
        (Fusion("dynamic"), (0.8 * 0.8 + 0.7 * 0.3) / 1.5),
        (Fusion("rules", margin=0.05), 0.8),
        (Fusion("rules", margin=0.2), 0.55),
        (Fusion("log-linear"), 0.8 * 0.3 / (0.8 * 0.3 + 0.2 * 0.7)),
    ],
)
def test_each_rule_by_hand(fusion, happy):
    assert fuse(A, V, fusion)[0, E["happy"]] == pytest.approx(happy, abs=1e-5)


def test_confidence_is_the_predicted_labels_share():
    assert confidence(A) == pytest.approx(0.8)
    assert np.isnan(confidence(np.full((1, 8), np.nan)))


@pytest.mark.parametrize(
    "bad", [{"rule": "magic"}, {"audio_weight": 1.1}, {"threshold": -0.1}, {"margin": float("nan")}]
)
def test_impossible_constants_are_refused(bad):
    with pytest.raises(ValueError, match="must"):
        Fusion(**bad)


def test_labels_outside_the_taxonomy_are_refused():
    with pytest.raises(ValueError, match="joy"):
        widen([[1.0]], ["joy"])
