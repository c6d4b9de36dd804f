"""What one window costs the compact voice model, and one face the expression network, on one core.

    python -m tests.benchmarks.compact_models [FOLDER]

Processor time, not wall time, so that other programs matter less; the median of several batches, in each number format.
FOLDER holds FER2013; then also each format's accuracy on its PrivateTest, and how far probabilities are from float32's.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from models.audio import AudioEmotionModel
from models.expression import ExpressionModel
from models.presets import COMPACT_AUDIO, COMPACT_FACE
from models.taxonomy import EMOTIONS

BATCHES, REPEATS = (1, 4, 16, 64), 9
FORMATS = (torch.float32, torch.bfloat16, torch.int8)


def milliseconds(predict: Callable[..., object], *batch: np.ndarray) -> float:
    """Processor time of one item of a batch, the median of several runs after two that warm up."""
    taken = []
    for _ in range(REPEATS + 2):
        started = time.process_time()
        predict(*batch)
        taken.append(time.process_time() - started)
    return 1000 * float(np.median(taken[2:])) / len(batch[0])


def costs() -> None:
    """Print milliseconds by model, format and batch size."""
    random = np.random.default_rng(0)
    sound = (0.1 * random.standard_normal((max(BATCHES), 32_000))).astype(np.float32)
    crops = random.integers(0, 256, (max(BATCHES), 48, 48), dtype=np.uint8)
    print(f"one core, {torch.backends.cpu.get_cpu_capability()}; ms an item in batches of {BATCHES}")
    for dtype in FORMATS:
        face = ExpressionModel.load(COMPACT_FACE.folder, dtype=dtype)
        print_row("face", dtype, [milliseconds(face.predict, crops[:n]) for n in BATCHES])
        if dtype.is_floating_point:
            voice = AudioEmotionModel.load(COMPACT_AUDIO.folder, window_seconds=2.0, dtype=dtype)
            taken = [milliseconds(voice.predict, sound[:n], np.full(n, 32_000)) for n in BATCHES]
            print_row("voice, 2 s", dtype, taken)


def print_row(name: str, dtype: torch.dtype, taken: list[float]) -> None:
    """One line of the table."""
    print(f"{name:<12}{str(dtype).removeprefix('torch.'):<10}" + "".join(f"{value:8.2f}" for value in taken))


def accuracies(folder: Path) -> None:
    """Print what each format makes of FER2013's PrivateTest."""
    from models.training.face import LABELS, read_images

    images, exact = read_images(folder / "test", "PrivateTest_"), None
    for dtype in FORMATS:
        rows = ExpressionModel.load(COMPACT_FACE.folder, dtype=dtype).predict(images.pixels.numpy())
        rows = rows[:, [EMOTIONS.index(label) for label in LABELS]]
        exact = rows if exact is None else exact
        far, right = np.abs(rows - exact), (rows.argmax(axis=1) == images.labels.numpy()).mean()
        print(f"{dtype!s:<16} accuracy {right:.2%}, from float32 {far.mean():.4f} on average, {far.max():.3f} at most")


if __name__ == "__main__":
    torch.set_num_threads(1)
    costs()
    if len(sys.argv) > 1:
        accuracies(Path(sys.argv[1]))
