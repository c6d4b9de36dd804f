"""What one window costs the compact voice model, and one face the expression network, on one core.

    python -m tests.benchmarks.compact_models

Processor time, not wall time, so that other programs matter less; the median of several batches, float32 and bfloat16.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from models.audio import AudioEmotionModel
from models.expression import ExpressionModel
from models.presets import COMPACT_AUDIO, COMPACT_FACE

BATCH, REPEATS = 16, 15


def milliseconds(run: Callable[[], object], bfloat16: bool) -> float:
    """Processor time of one item of a batch, the median of several runs after two that warm up."""
    taken = []
    for _ in range(REPEATS + 2):
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            run()
        taken.append(time.process_time() - started)
    return 1000 * float(np.median(taken[2:])) / BATCH


def main() -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    sound = (0.1 * random.standard_normal((BATCH, 32_000))).astype(np.float32)
    crops = random.integers(0, 256, (BATCH, 48, 48), dtype=np.uint8)
    voice = AudioEmotionModel.load(COMPACT_AUDIO.folder, window_seconds=2.0)
    face = ExpressionModel.load(COMPACT_FACE.folder)
    runs: dict[str, Callable[[], object]] = {
        "voice, a window of 2 s": lambda: voice.predict(sound, np.full(BATCH, 32_000)),
        "face, one": lambda: face.predict(crops),
    }
    print(f"one core, batches of {BATCH}, {torch.backends.cpu.get_cpu_capability()}")
    for name, run in runs.items():
        print(f"{name:<24} float32 {milliseconds(run, False):6.2f} ms   bfloat16 {milliseconds(run, True):6.2f} ms")


if __name__ == "__main__":
    main()
