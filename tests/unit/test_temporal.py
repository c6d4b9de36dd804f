"""The network for windows of faces: its contract, its training, and that the pipeline uses it and is named by it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from db.errors import WeightsMissing
from models.errors import ModelError
from models.expression import pool
from models.presets import COMPACT, COMPACT_FACE, COMPACT_TEMPORAL, Checkpoint, preset_of
from models.taxonomy import EMOTIONS, widen
from models.temporal import STILL_COLUMNS, STILL_LABELS, TemporalModel, statistics
from models.training import temporal
from models.training.face_recipe import Faces
from models.training.temporal import Options, disturbed, given_faces
from worker.recipe import Recipe
from worker.recognizers import Recognizers


@pytest.fixture(scope="module")
def shipped() -> TemporalModel:
    return TemporalModel.load(COMPACT_TEMPORAL.folder)


def faces(n: int, seed: int = 0) -> np.ndarray:
    """What the expression network could say of n faces, (n, 8)."""
    return widen(np.random.default_rng(seed).dirichlet(np.full(7, 0.5), n), STILL_LABELS)


def showing(label: str, n: int = 10) -> np.ndarray:
    """n faces that show a label beyond doubt, (n, 8)."""
    return widen(np.tile(np.where(np.array(STILL_LABELS) == label, 0.94, 0.01), (n, 1)), STILL_LABELS)


@pytest.mark.parametrize("n", [1, 2, 10, 150])
def test_a_window_of_any_length_gives_a_row_over_all_labels(shipped, n):
    row = shipped.predict(faces(n))
    assert row.shape == (8,)
    assert row.dtype == np.float32
    assert row.min() >= 0
    assert row.sum() == pytest.approx(1, abs=1e-5)


def test_probabilities_of_nought_and_one_do_no_harm(shipped):
    rows = widen(np.eye(7)[[3] * 4], STILL_LABELS)
    assert np.isfinite(shipped.predict(rows)).all()


@pytest.mark.parametrize("label", ["happy", "disgust", "angry", "surprised"])
def test_what_all_faces_show_beyond_doubt_is_what_the_window_shows(shipped, label):
    assert EMOTIONS[shipped.predict(showing(label)).argmax()] == label


def test_it_matters_how_faces_follow_one_another(shipped):
    rows = np.concatenate([showing("neutral", 5), showing("surprised", 5)])
    mixed = rows[[0, 5, 1, 6, 2, 7, 3, 8, 4, 9]]
    np.testing.assert_allclose(pool(rows), pool(mixed), rtol=1e-5)
    assert np.abs(shipped.predict(rows) - shipped.predict(mixed)).max() > 0.02


def test_what_cannot_be_judged_is_refused(shipped):
    with pytest.raises(ValueError, match="at least one row"):
        shipped.predict(np.zeros((0, 8), np.float32))
    with pytest.raises(ValueError, match="probabilities of all"):
        shipped.predict(np.full((3, 8), np.nan, np.float32))


def test_statistics_by_hand():
    logs = np.log(np.array([[0.2] * 7, [0.4] * 7, [0.3] * 7], np.float32))
    mean, spread, share, _, highest, lowest, step, slope = statistics(logs).reshape(8, 7)[:, 0]
    assert mean == pytest.approx(np.log([0.2, 0.4, 0.3]).mean(), abs=1e-6)
    assert spread == pytest.approx(np.log([0.2, 0.4, 0.3]).std(), abs=1e-6)
    assert share == pytest.approx(0.3)
    assert (highest, lowest) == pytest.approx((np.log(0.4), np.log(0.2)))
    assert step == pytest.approx((np.log(2) + np.log(4 / 3)) / 2, abs=1e-6)
    assert slope == pytest.approx((np.log(0.3) - np.log(0.2)) / 3, abs=1e-6)


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "other width", "other labels", "no json"])
def test_a_damaged_folder_is_named(tmp_path, damage):
    folder = tmp_path / "temporal"
    shutil.copytree(COMPACT_TEMPORAL.folder, folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    settings = json.loads(config.read_text())
    match damage:
        case "no weights":
            weights.unlink()
        case "cut weights":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "other width":
            config.write_text(json.dumps(settings | {"hidden": 3}))
        case "other labels":
            config.write_text(json.dumps(settings | {"reads": settings["reads"][::-1]}))
        case "no json":
            config.write_text("{")
    with pytest.raises(ModelError, match="temporal"):
        TemporalModel.load(folder)


def test_the_pipeline_uses_it_for_its_own_faces_only(shipped):
    rows = faces(10)
    with Recognizers(Recipe(), "cpu") as models:
        np.testing.assert_array_equal(models.pool(rows), shipped.predict(rows))
    named = preset_of("compact", video="a model that the user names")
    assert named.temporal is None
    with Recognizers(Recipe(named), "cpu") as models:
        np.testing.assert_array_equal(models.pool(rows), pool(rows))


def test_missing_weights_are_a_failure_with_a_code(tmp_path):
    preset = replace(COMPACT, temporal=Checkpoint(tmp_path))
    with Recognizers(Recipe(preset), "cpu") as models, pytest.raises(WeightsMissing):
        models.pool(faces(3))


def test_other_weights_make_another_pipeline(tmp_path):
    recipes = [Recipe(), Recipe(replace(COMPACT, temporal=None))]
    for name, ending in (("same", ""), ("other", "\n")):
        folder = tmp_path / name
        shutil.copytree(COMPACT_TEMPORAL.folder, folder)
        (folder / "config.json").write_text((folder / "config.json").read_text() + ending)
        recipes.append(Recipe(replace(COMPACT, temporal=Checkpoint(folder))))
    shipped, without, same, other = (recipe.identity.windows_digest for recipe in recipes)
    assert same == shipped
    assert len({shipped, without, other}) == 3


# --- training


def test_disturbed_windows_stay_log_probabilities():
    random = np.random.default_rng(0)
    logs = np.log(faces(10)[:, STILL_COLUMNS])
    counts = set()
    for _ in range(200):
        other = disturbed(logs, Options(), random)
        counts.add(len(other))
        np.testing.assert_allclose(np.exp(other).sum(axis=1), 1, atol=2e-3)
        assert other.min() >= np.log(1e-4) - 1e-4
    assert max(counts) == 10
    assert 3 <= min(counts) < 9
    same = disturbed(logs, Options(sharpness=0.0, bias=0.0, lost=0.0), random)
    np.testing.assert_allclose(same, np.maximum(logs, np.log(1e-4)), atol=1e-4)


@pytest.fixture
def given(tmp_path) -> Path:
    """Two emotions of every actor, told apart by how fast the first label's probability changes, not by its mean."""
    names, frames, probabilities = [], [], []
    for actor in range(1, 25):
        for code in ("03", "05"):
            random = np.random.default_rng(actor)
            swing = 0.3 * np.sin(np.arange(100) * (0.5 if code == "03" else 0.05) + random.uniform(0, 6))
            first = np.clip(0.4 + swing + random.normal(0, 0.02, 100), 0.02, 0.98)
            names += [f"01-01-{code}-01-01-01-{actor:02d}"] * 100
            frames += range(100)
            probabilities.append(np.concatenate([first[:, None], np.tile((1 - first)[:, None] / 6, 6)], axis=1))
    labels = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprised"]
    np.savez(
        tmp_path / "ravdess-face-probabilities.npz",
        clip=names, frame=np.array(frames, np.int16), labels=labels,
        probabilities=np.concatenate(probabilities).astype(np.float16),
    )  # fmt: skip
    return tmp_path


def test_given_frames_are_looked_at_as_often_as_the_product_looks(given):
    path = given / "ravdess-face-probabilities.npz"
    clips = given_faces(path)
    assert len(clips) == 48
    assert clips[0].speaker == "ravdess/01"
    assert [len(frames) for frames in clips[0].windows.values()] == [10, 10, 7]  # 3.3 s: the last window is 1.3 s long
    angry = STILL_LABELS.index("angry")
    with np.load(path) as file:
        expected = np.log(file["probabilities"][[0, 6, 12], 0].astype(np.float32))
    np.testing.assert_allclose(clips[0].windows[0][:3, angry], expected, rtol=1e-4)
    more = given_faces(path, (0.0, 0.5), (0.0, 0.5))
    assert len(more[0].windows) == 2 * 3 + 2 * 2
    assert not np.allclose(more[0].windows[0][:3, angry], more[0].windows[3][:3, angry])


def test_the_training_learns_movement_and_leaves_a_folder_that_loads(given, capsys):
    temporal.main(["--data", str(given), "--out", str(given / "out"), "--members", "1", "--epochs", "60"])
    measured = json.loads((given / "out" / "metrics.json").read_text())["ravdess"]
    assert measured["clips"] == 48
    assert measured["wa"] > 0.8  # on actors that were not trained on
    assert json.loads(capsys.readouterr().out)["ravdess"] == measured
    model = TemporalModel.load(given / "out")
    slow, fast = (given_faces(given / "ravdess-face-probabilities.npz")[k].windows[0] for k in (24, 0))
    emotions = [
        EMOTIONS[model.predict(widen(np.exp(w) / np.exp(w).sum(1, keepdims=True), STILL_LABELS)).argmax()]
        for w in (slow, fast)
    ]
    assert emotions == ["angry", "happy"]


def test_a_clip_without_windows_is_not_judged():
    judged = [Faces(1, {0: np.log(faces(5)[:, STILL_COLUMNS])}, "ravdess/01"), Faces(1, {}, "ravdess/02")]
    assert temporal.rows_of(judged, np.array([2, 3])).clips.tolist() == [0]


def test_the_network_reads_what_the_shipped_face_network_says():
    assert set(COMPACT_FACE.labels) == set(STILL_LABELS)
