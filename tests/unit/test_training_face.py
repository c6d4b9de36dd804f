"""The training of the expression network: its parts, and the whole command on a handful of made-up pictures."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.expression import ExpressionModel
from models.taxonomy import EMOTIONS
from models.training import face as training
from models.training import integers
from models.training.face import FOLDER_LABELS, LABELS, Images, Recipe


def write_pictures(folder: Path, prefix: str, n_each: int, seed: int) -> None:
    """Noise, brighter in a place that tells the label."""
    random = np.random.default_rng(seed)
    for index, name in enumerate(FOLDER_LABELS):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n_each):
            picture = random.integers(0, 120, (48, 48), dtype=np.uint8)
            picture[index * 6 : index * 6 + 8] += 100
            assert cv2.imwrite(str(folder / name / f"{prefix}{i}.jpg"), picture)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "data" / "train", "Training_", 6, seed=0)
    write_pictures(tmp_path / "data" / "test", "PublicTest_", 2, seed=1)
    write_pictures(tmp_path / "data" / "test", "PrivateTest_", 2, seed=2)
    return tmp_path / "data"


def test_labels_are_the_taxonomys():
    assert set(LABELS) == set(EMOTIONS) - {"calm"}


def test_read_images_tells_the_label_by_the_folder(data):
    images = training.read_images(data / "test", "PublicTest")
    assert images.pixels.shape == (14, 48, 48)
    assert images.pixels.dtype == torch.uint8
    assert images.labels.tolist() == [i for i in range(7) for _ in range(2)]
    brightest = [int(picture.float().mean(1).reshape(24, 2).mean(1).argmax()) * 2 for picture in images.pixels]
    assert all(i * 6 <= row < i * 6 + 8 for i, row in zip(images.labels.tolist(), brightest, strict=True))


def test_read_images_of_an_empty_folder_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        training.read_images(tmp_path)


def test_without_drops_what_stands_in_the_others():
    pixels = torch.arange(4, dtype=torch.uint8)[:, None, None].expand(4, 48, 48).contiguous()
    images = Images(pixels, torch.tensor([0, 1, 2, 3]))
    left = training.without(images, Images(pixels[1:2], torch.tensor([6])), Images(pixels[3:], torch.tensor([3])))
    assert left.labels.tolist() == [0, 2]


def test_augment_moves_pictures_and_keeps_their_range():
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (32, 48, 48), dtype=torch.uint8)
    changed = training.augment(pixels, Recipe())
    assert changed.shape == pixels.shape
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert (changed - pixels).abs().mean(dim=(1, 2)).min() > 1


def test_augment_without_any_chance_only_flips():
    torch.manual_seed(0)
    still = Recipe(rotation_degrees=0, shift=0, scale=0, gamma=0, erase_probability=0)
    pixels = torch.randint(0, 256, (16, 48, 48), dtype=torch.uint8)
    changed = training.augment(pixels, still).round().to(torch.uint8)
    same, flipped = (changed == pixels).all(2).all(1), (changed == pixels.flip(2)).all(2).all(1)
    assert (same | flipped).all()
    assert same.any()
    assert flipped.any()


def test_erase_fills_a_rectangle_with_the_mean():
    torch.manual_seed(0)
    pixels = torch.rand(20, 48, 48) * 255
    erased = training.erase(pixels, probability=1.0)
    for before, after in zip(pixels, erased, strict=True):
        hole = before != after
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert 3 <= rows <= 23
        assert hole.sum() == rows * columns
        assert after[hole].unique().numel() == 1
    assert (training.erase(pixels, probability=0.0) == pixels).all()


def test_mixed_pictures_are_blends_of_two():
    torch.manual_seed(0)
    x = torch.rand(16, 1, 4, 4)
    blended, share, other = training.mixed(x, 0.2)
    assert 0 <= share <= 1
    assert sorted(other.tolist()) == list(range(16))
    torch.testing.assert_close(blended, share * x + (1 - share) * x[other])
    assert training.mixed(x, 0.0)[1] == 1.0


def test_fit_temperature_finds_the_one_that_made_the_labels():
    torch.manual_seed(0)
    logits = torch.randn(20_000, 7)
    labels = torch.distributions.Categorical(logits=logits / 1.5).sample()
    assert training.fit_temperature(torch.stack([logits, logits]), labels) == pytest.approx(1.5, abs=0.1)


def test_score_of_a_known_table():
    truth = np.array([0, 0, 0, 1])
    rows = np.full((4, 7), 0.02, dtype=np.float32)
    rows[[0, 1, 2, 3], [0, 0, 1, 1]] = 0.88
    figures = training.score(truth, rows)
    assert figures["accuracy"] == 0.75
    assert figures["recall"]["angry"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["recall"]["disgust"] == 1
    assert figures["unweighted_average_recall"] == pytest.approx((2 / 3 + 1) / 7, abs=1e-4)
    assert figures["calibration_error"] == pytest.approx(0.88 - 0.75, abs=1e-4)


class StopError(Exception):
    """Stands for whatever ends a run."""


def test_a_stopped_run_carries_on_to_the_same_weights(data, tmp_path, monkeypatch):
    recipe = Recipe(widths=(8, 8), depths=(1, 2), epochs=2, batch_size=16)
    images, tuning = training.read_images(data / "train"), training.read_images(data / "test", "PublicTest")
    whole = training.train(images, tuning, recipe, tmp_path / "whole.pt")
    save = training.save_checkpoint

    def save_and_stop(*arguments: object) -> None:
        save(*arguments)
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", save_and_stop)
        with pytest.raises(StopError):
            training.train(images, tuning, recipe, tmp_path / "stopped.pt")
    resumed = training.train(images, tuning, recipe, tmp_path / "stopped.pt")
    for name, weights in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weights, msg=name)


def test_a_checkpoint_of_another_recipe_is_not_taken(tmp_path):
    recipe = Recipe(epochs=2)
    training.save_checkpoint({}, recipe, 1, tmp_path / "run.pt")
    assert training.resume({}, recipe, tmp_path / "run.pt") == 1
    assert training.resume({}, Recipe(epochs=3), tmp_path / "run.pt") == 0


def test_the_command_leaves_a_network_that_loads(data, tmp_path, capsys):
    out = tmp_path / "weights"
    arguments = ["--data", data, "--out", out, "--checkpoint", tmp_path / "run.pt", "--epochs", "1", "--threads", "1"]
    training.main([str(argument) for argument in arguments])
    assert "epoch 1/1" in capsys.readouterr().out
    model = ExpressionModel.load(out)
    assert model.labels == LABELS
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["PrivateTest"] == training.measure(model, training.read_images(data / "test", "PrivateTest"))
    assert (out / "model.safetensors").stat().st_size < 8_500_000  # float16, 4.0 M parameters


def test_integers_are_calibrated_on_as_many_pictures_of_each_label():
    labels = torch.tensor([0] * 9 + [1] * 4 + [3] * 2)
    images = Images(torch.arange(15, dtype=torch.uint8)[:, None, None].expand(15, 48, 48), labels)
    chosen = integers.spread(images, 4)
    assert chosen[:, 0, 0].tolist() == [0, 2, 4, 6, 9, 10, 11, 12, 13, 14]
    batches = integers.Pictures(chosen)
    assert [batches.get_next()["x"].shape, batches.get_next()] == [(10, 1, 48, 48), None]
