"""Trains the shipped expression network on FER2013.

    python -m models.training.face --data FOLDER --out models/weights/face

FOLDER holds `train/LABEL/*.jpg` and `test/LABEL/{PublicTest,PrivateTest}_*.jpg`. PublicTest is for tuning and for
the temperature, PrivateTest is looked at once, at the end. A run that was stopped carries on from its last epoch.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from sklearn.metrics import recall_score
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.expression import INPUT_SIZE, ExpressionModel, ExpressionNet, standardise
from models.faces import FaceDetector, FloatPoints
from models.taxonomy import EMOTIONS
from models.training.metrics import calibration_error

FOLDER_LABELS = {
    "angry": "angry", "disgust": "disgust", "fear": "fearful", "happy": "happy",
    "neutral": "neutral", "sad": "sad", "surprise": "surprised",
}  # fmt: skip
LABELS = tuple(FOLDER_LABELS.values())
CHECKPOINT = Path.home() / ".cache" / "moodreel" / "training-face.pt"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the network is built and trained."""

    widths: tuple[int, ...] = (64, 128, 256, 384)
    depths: tuple[int, ...] = (2, 2, 1, 1)
    epochs: int = 40
    batch_size: int = 128
    peak_rate: float = 0.1  # of the one-cycle schedule (Smith and Topin 2019, arXiv 1708.07120)
    warm_up: float = 0.15  # share of the steps until the peak
    weight_decay: float = 5e-4  # of weights, not of biases and norms
    label_smoothing: float = 0.1  # people agree with FER2013's labels in about 65 of 100 cases
    mixup: float = 0.2  # of the beta distribution that pictures are blended by (Zhang et al. 2018, arXiv 1710.09412)
    dropout: float = 0.3
    ema_decay: float = 0.998
    rotation_degrees: float = 12.0
    shift: float = 0.10  # of half the picture
    scale: float = 0.12
    gamma: float = 0.3  # of the natural logarithm of the exponent
    erase_probability: float = 0.4
    seed: int = 0


@dataclass(frozen=True)
class Images:
    """Grey pictures (n, 48, 48) uint8 and their labels (n,) int64, indices into `LABELS`."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def read_images(folder: Path, prefix: str = "") -> Images:
    """Read `folder/LABEL/prefix*.jpg`; raises FileNotFoundError where there is none."""
    pixels: list[npt.NDArray[np.uint8]] = []
    labels: list[int] = []
    for index, name in enumerate(FOLDER_LABELS):
        for path in sorted((folder / name).glob(f"{prefix}*.jpg")):
            pixels.append(np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), dtype=np.uint8))
            labels.append(index)
    if not labels:
        raise FileNotFoundError(f"no {prefix}*.jpg below {folder}/{{{','.join(FOLDER_LABELS)}}}")
    return Images(torch.from_numpy(np.stack(pixels)), torch.tensor(labels))


def without(images: Images, *others: Images) -> Images:
    """Drop the pictures that stand pixel for pixel in `others`: 703 of FER2013's training images do."""
    seen = {picture.tobytes() for other in others for picture in other.pixels.numpy()}
    keep = torch.tensor([picture.tobytes() not in seen for picture in images.pixels.numpy()])
    return Images(images.pixels[keep], images.labels[keep])


def augment(pixels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Flip, turn, scale, shift, change gamma and erase a rectangle, each picture by its own chance.

    Args:
        pixels: (n, h, w) uint8.

    Returns:
        (n, h, w) float32, grey levels 0 to 255.
    """
    n, height, width = pixels.shape

    def spread(limit: float) -> torch.Tensor:
        return (torch.rand(n) * 2 - 1) * limit

    angle, zoom = torch.deg2rad(spread(recipe.rotation_degrees)), torch.exp(spread(recipe.scale))
    flip = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    across = torch.stack([cos * flip, -sin, spread(recipe.shift)], 1)
    down = torch.stack([sin * flip, cos, spread(recipe.shift)], 1)
    grid = functional.affine_grid(torch.stack([across, down], 1), [n, 1, height, width], align_corners=False)
    x = functional.grid_sample(pixels.float().unsqueeze(1) / 255, grid, padding_mode="border", align_corners=False)
    x = x.squeeze(1).clamp(0, 1) ** torch.exp(spread(recipe.gamma))[:, None, None]
    return erase(x * 255, recipe.erase_probability)


def erase(pixels: torch.Tensor, probability: float) -> torch.Tensor:
    """Fill a random rectangle with the picture's mean (random erasing, Zhong et al. 2020, arXiv 1708.04896)."""
    n, height, width = pixels.shape

    def inside(length: int) -> torch.Tensor:
        centre, half = torch.rand(n, 1) * length, (torch.rand(n, 1) * 0.15 + 0.08) * length  # 16 to 46 % of the side
        return (torch.arange(length) - centre).abs() < half

    chosen = (torch.rand(n) < probability)[:, None, None]
    hole = inside(height)[:, :, None] & inside(width)[:, None, :] & chosen
    return torch.where(hole, pixels.mean(dim=(1, 2), keepdim=True), pixels)


def mixed(x: torch.Tensor, alpha: float) -> tuple[torch.Tensor, float, torch.Tensor]:
    """Blend each picture with another one of the batch (arXiv 1710.09412).

    Returns:
        The pictures, the share that each keeps of itself, and (n,) which other one it was blended with.
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample()) if alpha else 1.0
    other = torch.randperm(len(x))
    return share * x + (1 - share) * x[other], share, other


def run_epoch(net: nn.Module, images: Images, recipe: Recipe, optimiser: torch.optim.Optimizer,
              schedule: torch.optim.lr_scheduler.LRScheduler, average: AveragedModel) -> float:  # fmt: skip
    """One pass over the images in random order; the mean loss."""
    net.train()
    losses = []
    for batch in torch.split(torch.randperm(len(images)), recipe.batch_size):
        x, share, other = mixed(standardise(augment(images.pixels[batch], recipe)), recipe.mixup)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(x.to(memory_format=torch.channels_last)).float()
        labels = images.labels[batch]
        losses_of = [functional.cross_entropy(logits, of, label_smoothing=recipe.label_smoothing)
                     for of in (labels, labels[other])]  # fmt: skip
        loss = share * losses_of[0] + (1 - share) * losses_of[1]
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        average.update_parameters(net)
        losses.append(loss.item())
    return float(np.mean(losses))


@torch.inference_mode()
def logits_of(net: nn.Module, images: Images) -> torch.Tensor:
    """(2, n, 7) float32: of the pictures and of their mirror images."""
    net.eval()
    parts = [standardise(part) for part in torch.split(images.pixels, 256)]
    return torch.stack([torch.cat([net(x.flip(3) if mirrored else x) for x in parts]) for mirrored in (False, True)])


def train(images: Images, tuning: Images, recipe: Recipe, checkpoint: Path) -> ExpressionNet:
    """Train, or carry on from `checkpoint`, and return the network with its averaged weights."""
    torch.manual_seed(recipe.seed)
    net = ExpressionNet(recipe.widths, recipe.depths, len(LABELS), recipe.dropout)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    smooth = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(net, multi_avg_fn=smooth, use_buffers=True)
    by_decay = [[p for p in net.parameters() if (p.ndim > 1) == decays] for decays in (True, False)]
    optimiser = torch.optim.SGD(
        [{"params": by_decay[0], "weight_decay": recipe.weight_decay}, {"params": by_decay[1], "weight_decay": 0.0}],
        recipe.peak_rate, momentum=0.9, nesterov=True,
    )  # fmt: skip
    steps = recipe.epochs * -(-len(images) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.peak_rate, total_steps=steps, pct_start=recipe.warm_up
    )
    parts: dict[str, Any] = {"net": net, "average": average, "optimiser": optimiser, "schedule": schedule}
    first = resume(parts, recipe, checkpoint)
    started = time.monotonic()
    for epoch in range(first, recipe.epochs):
        torch.manual_seed(recipe.seed * 1000 + epoch)  # so that a resumed run is the run it resumes
        loss = run_epoch(net, images, recipe, optimiser, schedule, average)
        save_checkpoint(parts, recipe, epoch + 1, checkpoint)
        rows = logits_of(average, tuning).softmax(dim=2).mean(dim=0)
        accuracy = float((rows.argmax(1) == tuning.labels).float().mean())
        left_seconds = (time.monotonic() - started) / (epoch + 1 - first) * (recipe.epochs - epoch - 1)
        done = f"epoch {epoch + 1}/{recipe.epochs}  loss {loss:.3f}  tuning {accuracy:.2%}"
        print(f"{done}  {left_seconds / 60:.1f} min left", flush=True)
    trained = average.module
    assert isinstance(trained, ExpressionNet)
    return trained


def resume(parts: dict[str, Any], recipe: Recipe, checkpoint: Path) -> int:
    """Load `checkpoint` where there is one of this recipe; the number of epochs it has seen."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    if state["recipe"] != json.dumps(asdict(recipe)):
        return 0
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["epochs"])


def save_checkpoint(parts: dict[str, Any], recipe: Recipe, epochs: int, checkpoint: Path) -> None:
    """Write all state beside `checkpoint` and move it there, so that a kill leaves the old one or the new one."""
    state = {name: part.state_dict() for name, part in parts.items()}
    partial = checkpoint.with_suffix(".partial")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**state, "epochs": epochs, "recipe": json.dumps(asdict(recipe))}, partial)
    os.replace(partial, checkpoint)


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The divisor of the logits (2, n, 7) with the least cross-entropy of the two's mean probabilities, from 0.3 to 3.

    Guo et al. 2017, arXiv 1706.04599.
    """

    def loss(temperature: float) -> float:
        rows = (logits / temperature).softmax(dim=2).mean(dim=0)
        return functional.nll_loss(rows.log(), labels).item()

    return float(min(np.arange(0.3, 3.0, 0.01), key=loss))


def save(net: ExpressionNet, recipe: Recipe, temperature: float, out: Path) -> None:
    """Write `config.json` and `model.safetensors` (float16) for `ExpressionModel.load`, the temperature folded in."""
    out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        net.head.weight.div_(temperature)
        net.head.bias.div_(temperature)
    tensors = {name: t.half().contiguous() for name, t in net.state_dict().items() if t.is_floating_point()}
    save_file(tensors, out / "model.safetensors")
    config = {
        "architecture": "ExpressionNet", "labels": LABELS, "widths": recipe.widths, "depths": recipe.depths,
        "input_size": INPUT_SIZE,
        "normalisation": "each crop to mean 0 and standard deviation 1", "temperature_folded_in": round(temperature, 3),
        "recipe": asdict(recipe),
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def score(truth: npt.NDArray[np.int64], rows: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Accuracy, recall by label and calibration of rows (n, 7) against truth (n,)."""
    guess = rows.argmax(1)
    recall = recall_score(truth, guess, labels=range(len(LABELS)), average=None, zero_division=0)
    return {
        "images": len(truth),
        "accuracy": round(float((guess == truth).mean()), 4),
        "unweighted_average_recall": round(float(recall.mean()), 4),
        "recall": {label: round(float(value), 4) for label, value in zip(LABELS, recall, strict=True)},
        "calibration_error": round(calibration_error(rows, truth), 4),
        "cross_entropy": round(float(-np.log(rows[np.arange(len(truth)), truth] + 1e-9).mean()), 4),
    }


def measure(model: ExpressionModel, images: Images) -> dict[str, Any]:
    """`score` of the network as shipped."""
    columns = [EMOTIONS.index(label) for label in LABELS]
    return score(images.labels.numpy(), model.predict(images.pixels.numpy())[:, columns])


def derive_template(images: Images, n_images: int = 500, enlarge: int = 4, margin: int = 12) -> FloatPoints:
    """Where FER2013's faces have their eyes, nose and mouth: the median of what the detector finds.

    The pictures are enlarged and given a margin, for FER2013's crops are small and tight.

    Returns:
        (5, 2) float64, x and y in a picture of 48 by 48.
    """
    detector, found = FaceDetector(), []
    edge = margin * enlarge
    for index in np.random.default_rng(0).permutation(len(images))[:n_images]:
        picture = cv2.cvtColor(images.pixels[index].numpy(), cv2.COLOR_GRAY2RGB)
        large = cv2.resize(picture, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
        framed = cv2.copyMakeBorder(large, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        faces = detector.detect(np.asarray(framed, dtype=np.uint8))
        found += [(face.landmarks + 0.5) / enlarge - 0.5 - margin for face in faces[:1]]
    return np.asarray(np.median(found, axis=0), dtype=np.float64)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m models.training.face", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="FER2013: train/LABEL/*.jpg and test/LABEL/*.jpg")
    parser.add_argument("--out", type=Path, default=Path("models/weights/face"), help="where the weights go")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="what a stopped run carries on from")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--template", action="store_true", help="only print where the faces have eyes, nose and mouth")
    options = parser.parse_args(arguments)
    if options.template:
        print(derive_template(read_images(options.data / "train")).round(1).tolist())
        return
    torch.set_num_threads(options.threads)
    tuning, test = (read_images(options.data / "test", prefix) for prefix in ("PublicTest", "PrivateTest"))
    images = without(read_images(options.data / "train"), tuning, test)
    print(f"{len(images)} images to train on, {len(tuning)} to tune, {len(test)} to test")
    recipe = Recipe(epochs=options.epochs)
    net = train(images, tuning, recipe, options.checkpoint)
    save(net, recipe, fit_temperature(logits_of(net, tuning), tuning.labels), options.out)
    model = ExpressionModel.load(options.out)
    metrics = {"PublicTest": measure(model, tuning), "PrivateTest": measure(model, test)}
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
