"""The expression network's contract; what it has learnt is measured by its training, see its model card."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.errors import ModelError
from models.expression import ExpressionModel, ExpressionNet, pool, read_net, standardise
from models.faces import FaceDetector, align
from models.taxonomy import EMOTIONS

SHIPPED = Path(__file__).parents[2] / "models" / "weights" / "face"
LABELS = ("angry", "happy", "sad")


@pytest.fixture(scope="module")
def shipped() -> ExpressionModel:
    return ExpressionModel.load(SHIPPED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small network with random weights, saved as the shipped one is."""
    torch.manual_seed(0)
    net = ExpressionNet((8, 16), (2, 1), len(LABELS))
    tensors = {name: t.half() for name, t in net.state_dict().items() if t.is_floating_point()}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"labels": LABELS, "widths": [8, 16], "depths": [2, 1], "input_size": 48}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def faces(n: int) -> np.ndarray:
    """Smooth random pictures, (n, 48, 48) uint8."""
    coarse = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(n))
    fine = torch.nn.functional.interpolate(coarse, (48, 48), mode="bicubic").clamp(0, 1)
    return (fine[:, 0] * 255).to(torch.uint8).numpy()


def crops_of(clip: Path) -> np.ndarray:
    """The faces in every third of the first frames of a clip, (n, 48, 48) uint8, as the worker cuts them."""
    detector, crops = FaceDetector(), []
    with av.open(str(clip)) as media:
        for number, frame in enumerate(media.decode(video=0)):
            if number == 60:
                break
            if number % 5 == 0:
                picture = frame.to_ndarray(format="rgb24")
                crops += [align(picture, face) for face in detector.detect(picture)[:1]]
    return np.stack(crops)


def test_rows_sum_to_one_and_calm_is_unknown(shipped):
    rows = shipped.predict(faces(5))
    assert rows.shape == (5, len(EMOTIONS))
    assert rows.dtype == np.float32
    assert np.isnan(rows[:, EMOTIONS.index("calm")]).all()
    known = np.delete(rows, EMOTIONS.index("calm"), axis=1)
    assert (known >= 0).all()
    np.testing.assert_allclose(known.sum(axis=1), 1, atol=1e-5)


def test_a_row_does_not_depend_on_its_batch(shipped):
    crops = faces(130)
    alone = np.concatenate([shipped.predict(crops[i : i + 1]) for i in (0, 63, 64, 129)])
    np.testing.assert_allclose(shipped.predict(crops)[[0, 63, 64, 129]], alone, atol=1e-4)


def test_a_row_does_not_depend_on_exposure(shipped):
    crops = faces(4)
    darker = (crops // 2 + 20).astype(np.uint8)
    np.testing.assert_allclose(shipped.predict(darker), shipped.predict(crops), atol=0.03)


def test_different_faces_give_different_rows(shipped):
    rows = np.nan_to_num(shipped.predict(faces(4)))
    assert np.abs(rows[0] - rows[1]).max() > 1e-3


def test_a_face_and_its_mirror_image_are_judged_alike(shipped):
    crops = faces(4)
    np.testing.assert_allclose(shipped.predict(np.flip(crops, axis=2)), shipped.predict(crops), atol=1e-5)


def test_no_face_gives_no_row(shipped):
    assert shipped.predict(np.empty((0, 48, 48), dtype=np.uint8)).shape == (0, len(EMOTIONS))


def test_a_flat_crop_gives_a_finite_row(shipped):
    rows = shipped.predict(np.full((1, 48, 48), 128, dtype=np.uint8))
    assert np.nansum(rows) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "crops",
    [np.zeros((48, 48), np.uint8), np.zeros((1, 40, 48), np.uint8), np.zeros((1, 48, 48), np.float32)],
    ids=["one picture", "wrong size", "wrong type"],
)
def test_other_shapes_and_types_are_refused(shipped, crops):
    with pytest.raises(ValueError, match="want crops"):
        shipped.predict(crops)


def test_standardise_gives_mean_zero_and_deviation_one():
    x = standardise(torch.from_numpy(faces(3)))
    assert x.shape == (3, 1, 48, 48)
    torch.testing.assert_close(x.mean(dim=(1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(dim=(1, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_folding_the_norms_changes_nothing(shipped):
    """Against the network as it was trained."""
    net, labels = read_net(SHIPPED)
    with torch.inference_mode():
        expected = net.eval().judge(standardise(torch.from_numpy(faces(4))))
    found = shipped.predict(faces(4))[:, [EMOTIONS.index(label) for label in labels]]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_bfloat16_changes_probabilities_by_no_more_than_is_said(shipped, media):
    """Measured on FER2013's PrivateTest: 0.0006 on average, 0.012 at most."""
    crops = np.concatenate([crops_of(media / "WolfgangLanger_Pexels.mp4"), faces(16)])
    rounded = ExpressionModel.load(SHIPPED, dtype=torch.bfloat16).predict(crops)
    difference = np.abs(rounded - shipped.predict(crops))
    assert 0 < np.nanmean(difference) <= 0.005
    assert np.nanmax(difference) <= 0.05


def test_integers_change_probabilities_by_no_more_than_is_said(shipped, media):
    """Measured on 154 faces of clips: 0.0022 on average, 0.035 at most."""
    crops = crops_of(media / "WolfgangLanger_Pexels.mp4")
    integers = ExpressionModel.load(SHIPPED, dtype=torch.int8)
    rows = integers.predict(crops)
    difference = np.abs(rows - shipped.predict(crops))
    assert integers.labels == shipped.labels
    assert np.isnan(rows[:, EMOTIONS.index("calm")]).all()
    assert 0 < np.nanmean(difference) <= 0.005
    assert np.nanmax(difference) <= 0.05
    np.testing.assert_allclose(integers.predict(crops[:1]), rows[:1], atol=1e-5)
    assert integers.predict(crops[:0]).shape == (0, len(EMOTIONS))


@pytest.mark.parametrize("content", [None, b"", b"not a network"])
def test_integers_that_are_missing_or_damaged_are_named(tmp_path, content):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((SHIPPED / name).read_bytes())
    if content is not None:
        (tmp_path / "int8.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"int8\.onnx"):
        ExpressionModel.load(tmp_path, dtype=torch.int8)


def test_integers_of_other_weights_are_refused(folder):
    (folder / "int8.onnx").write_bytes((SHIPPED / "int8.onnx").read_bytes())
    with pytest.raises(ModelError, match="other weights"):
        ExpressionModel.load(folder, dtype=torch.int8)


def test_labels_come_from_the_config(folder):
    model = ExpressionModel.load(folder)
    assert model.labels == LABELS
    known = ~np.isnan(model.predict(faces(1))[0])
    assert {EMOTIONS[i] for i in np.flatnonzero(known)} == set(LABELS)


def break_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def other_widths(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"widths": [8, 24]}))


def more_blocks(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"widths": [8, 16, 16], "depths": [2, 1, 1]}))


def unknown_label(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"labels": ["angry", "happy", "bored"]}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json"),
        (unknown_label, "config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        (break_weights, "model.safetensors"),
        (other_widths, "model.safetensors"),
        (more_blocks, "model.safetensors"),
    ],
    ids=[
        "no config", "config not JSON", "config not an object", "unknown label",
        "no weights", "weights cut short", "other widths", "more blocks",
    ],
)  # fmt: skip
def test_damage_is_an_error_that_names_the_file(folder, damage, named):
    damage(folder)
    with pytest.raises(ModelError, match=named):
        ExpressionModel.load(folder)


def row(**probabilities: float) -> np.ndarray:
    """A row with the rest of the mass spread over the other labels but calm."""
    rest = (1 - sum(probabilities.values())) / (7 - len(probabilities))
    return np.array([np.nan if e == "calm" else probabilities.get(e, rest) for e in EMOTIONS], dtype=np.float32)


def test_pool_of_one_row_is_that_row():
    np.testing.assert_allclose(pool(row(happy=0.6)[None]), row(happy=0.6), atol=1e-6)


def test_pool_sums_to_one_keeps_agreement_and_order_does_not_matter():
    rows = np.stack([row(sad=0.5), row(sad=0.4, happy=0.3), row(sad=0.6)])
    pooled = pool(rows)
    assert np.nansum(pooled) == pytest.approx(1, abs=1e-6)
    assert EMOTIONS[np.nanargmax(pooled)] == "sad"
    assert np.isnan(pooled[EMOTIONS.index("calm")])
    np.testing.assert_allclose(pooled, pool(rows[::-1]), atol=1e-6)


def test_one_certain_face_does_not_veto_the_others():
    certain = np.array([np.nan if e == "calm" else float(e == "happy") for e in EMOTIONS], dtype=np.float32)
    pooled = pool(np.stack([certain] + [row(sad=0.9)] * 9))
    assert EMOTIONS[np.nanargmax(pooled)] == "sad"


def test_pool_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        pool(np.empty((0, len(EMOTIONS)), dtype=np.float32))
