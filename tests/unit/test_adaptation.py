"""Adapting to a video: what is taken away, how much of it, and that nothing else changes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from db.errors import BadOption
from db.tables import fused_windows
from models.adaptation import Adaptation, adapt, levels, statistics, without_own_mean
from models.errors import ModelError
from models.presets import COMPACT, COMPACT_AUDIO, Checkpoint, preset_of
from models.taxonomy import EMOTIONS
from scheduler.fuse import _adaptation
from tests.checkpoints import save
from tests.database import planned, window_row
from worker.finish import Finishing, finish, fuse_anew, register
from worker.recipe import Identity, Recipe

ALL = np.ones(8, bool)
SIX = np.array([name not in ("calm", "surprised") for name in EMOTIONS])
SHIPPED = COMPACT_AUDIO.adaptation
NEVER, ALWAYS = (replace(SHIPPED, last=[0.0] * len(SHIPPED.last), last_bias=bias) for bias in (-1e3, 1e3))


def rows(seed: int, n: int = 20, known: np.ndarray = ALL) -> np.ndarray:
    found = np.full((n, 8), np.nan, np.float32)
    found[:, known] = np.random.default_rng(seed).dirichlet(np.full(known.sum(), 2.0), n)
    return found


def speaker(shown: np.ndarray, leaning: float, seed: int = 0) -> np.ndarray:
    """Windows of somebody who shows these emotions and always sounds a little sad to the model."""
    random = np.random.default_rng(seed)
    logits = 4.0 * np.eye(8)[shown] + 1.5 * random.standard_normal((len(shown), 8))
    logits[:, EMOTIONS.index("sad")] += leaning
    powers = np.exp(logits)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.sampled_from([ALL, SIX]))
@settings(deadline=None)
def test_rows_sum_to_one_and_keep_their_gaps(seed, known):
    before = rows(seed, known=known)
    before[[3, 7]] = np.nan
    after = adapt(before, SHIPPED)
    assert after.dtype == np.float32
    assert (np.isnan(after) == np.isnan(before)).all()
    np.testing.assert_allclose(np.nansum(np.delete(after, [3, 7], axis=0), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("known", [ALL, SIX])
def test_without_trust_nothing_changes_and_with_all_the_mean_lies_in_the_centre(known):
    before = rows(1, known=known)
    np.testing.assert_allclose(adapt(before, NEVER), before, rtol=1e-5)
    centre = np.where(known, SHIPPED.centre, 0)
    after = levels(adapt(before, ALWAYS), known).mean(axis=0)
    np.testing.assert_allclose(after[known], (centre - centre[known].mean())[known], atol=1e-4)


def test_by_hand():
    happy, sad = EMOTIONS.index("happy"), EMOTIONS.index("sad")
    known = np.isin(np.arange(8), [happy, sad])
    video = np.full((2, 8), np.nan, np.float32)
    video[:, [happy, sad]] = [[0.8, 0.2], [0.5, 0.5]]
    half = without_own_mean(video, known, [0.0] * 8, 0.5)  # odds 4 and 1, their geometric mean 2, and its root
    np.testing.assert_allclose(half[:, happy] / half[:, sad], [4 / 2**0.5, 1 / 2**0.5], rtol=1e-5)
    found = statistics(video, known, [0.0] * 8)
    assert found[:3] == pytest.approx([0.65, -(0.65 * np.log2(0.65) + 0.35 * np.log2(0.35)), 0.65])
    assert found[3:6] == pytest.approx([0.5, 1.0, 2 / 3])  # odds 2 and 1/2 are left
    assert found[6:9] == pytest.approx([0.35, 0.35, 0.5])  # the second row says sad then
    assert found[9:] == pytest.approx([np.log(2) / 2**0.5, np.log(2) / 2**0.5, np.log(2), 2**-0.5])


@given(st.permutations(range(8)), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_trust_does_not_depend_on_which_emotion_dominates(order, seed):
    before = rows(seed)
    np.testing.assert_allclose(
        statistics(before[:, order], ALL, [0.0] * 8), statistics(before, ALL, [0.0] * 8), rtol=1e-4
    )


def test_a_row_that_is_sure_beyond_the_floor_counts_no_more_than_the_floor():
    sure, surer = (np.array([[1 - 7 * p, *[p] * 7]], np.float32) for p in (1e-4, 1e-30))
    np.testing.assert_allclose(levels(sure, ALL), levels(surer, ALL), atol=1e-2)


def test_where_emotions_are_balanced_a_leaning_voice_is_understood_better():
    shown = np.tile(np.arange(8), 20)
    before = speaker(shown, leaning=2.5)
    after = adapt(before, SHIPPED)
    assert np.mean(after.argmax(axis=1) == shown) > np.mean(before.argmax(axis=1) == shown) + 0.05


@pytest.mark.parametrize("emotion", range(8))
def test_where_one_emotion_is_all_there_is_it_stays(emotion):
    shown = np.full(60, emotion)
    before = speaker(shown, leaning=0.0)
    assert SHIPPED.trust(statistics(before, ALL, SHIPPED.centre)) < 0.1
    assert np.mean(adapt(before, SHIPPED).argmax(axis=1) == shown) > np.mean(before.argmax(axis=1) == shown) - 0.02


def test_a_video_of_a_few_windows_is_left_nearly_as_it_is():
    assert SHIPPED.trust(statistics(speaker(np.arange(3), leaning=2.5), ALL, SHIPPED.centre)) < 0.1


@pytest.mark.parametrize("gone", [np.full((3, 8), np.nan, np.float32), np.zeros((0, 8), np.float32)])
def test_a_video_without_a_voice_stays_without(gone):
    after = adapt(gone, SHIPPED)
    assert after.shape == gone.shape
    assert np.isnan(after).all()


# --- in a pipeline


def test_what_adapts_travels_in_the_configuration():
    config = json.loads(json.dumps(Recipe().config))
    assert Adaptation(**config["adaptation"]) == SHIPPED
    assert Recipe(adapt=False).config["adaptation"] is None
    assert Recipe(adapt=False).identity.windows_digest == Recipe().identity.windows_digest
    for adapted in (True, False):
        options = json.loads(json.dumps(Recipe(adapt=adapted).options))
        assert Recipe.from_options(options).identity == Recipe(adapt=adapted).identity


def test_a_voice_model_of_somebody_else_is_not_adapted(tmp_path):
    other = preset_of("compact", audio=str(save(tmp_path / "a", "wav2vec2", EMOTIONS)))
    assert other.adaptation is None
    assert Recipe(other).config["adaptation"] is None
    with pytest.raises(BadOption, match="only the voice model"):
        _adaptation(Recipe(other).config["audio"])
    assert _adaptation(Recipe().config["audio"]) == Recipe().config["adaptation"]
    assert COMPACT.adaptation == SHIPPED


def test_what_was_made_for_other_weights_is_refused(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(COMPACT_AUDIO.folder / name)
    text = (COMPACT_AUDIO.folder / "adaptation.json").read_text()
    (tmp_path / "adaptation.json").write_text(text.replace(COMPACT_AUDIO.describe()["sha256"], "0" * 64))
    with pytest.raises(ModelError, match="made for other weights"):
        _ = Checkpoint(tmp_path).adaptation
    (tmp_path / "adaptation.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        _ = Checkpoint(tmp_path).adaptation


def test_stored_windows_stay_and_the_timeline_adapts(store):
    shown = np.tile(np.arange(8), 20)
    before = speaker(shown, leaning=2.5)
    config = Recipe(adapt=False).config
    identity = Identity.of(config)
    annotation_id = store.request(store.observe("a.mp4", "1", 1), "1", register(store, identity)).id
    windows = [window_row(k, tuple(row)) for k, row in enumerate(before.astype(float).tolist())]
    store.begin_attempt(annotation_id)
    store.plan(annotation_id, planned(0))
    claim = store.claim(annotation_id, "worker", 60.0)
    assert claim is not None
    store.checkpoint(claim, windows)
    store.complete_span(claim, float(len(windows)))
    finish(store, annotation_id, Finishing.of(config), float(len(windows)))
    raw = store.scores(annotation_id)
    right = [share_right(store, annotation_id, shown)]
    adapted_id = fuse_anew(store, annotation_id, Recipe().identity)
    right.append(share_right(store, adapted_id, shown))
    assert store.scores(annotation_id) == raw
    assert right[1] > right[0] + 0.05
    back_id = fuse_anew(store, adapted_id, identity)
    assert (back_id, share_right(store, back_id, shown)) == (annotation_id, right[0])


def share_right(store, annotation_id: int, shown: np.ndarray) -> float:
    """Of an annotation's fused windows."""
    with store.reading() as connection:
        query = sa.select(fused_windows.c.emotion).where(fused_windows.c.annotation_id == annotation_id)
        said = connection.execute(query.order_by(fused_windows.c.window_index)).scalars().all()
    return float(np.mean([label == EMOTIONS[k] for label, k in zip(said, shown, strict=True)]))
