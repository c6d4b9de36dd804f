"""How much of the device's bf16 matrix rate the paper preset reaches, its batches made by the batcher as in a worker.

    python -m tests.benchmarks.matrix_share --device cuda

wav2vec2-large and ViViT-B/16x2 at full size with random weights, windows of four seconds. Windows are handed to the
worker's own `Recognizers` as fast as they are taken, so that decoding plays no part. The peak is measured in the same
run: products of large random bf16 matrices. A multiplication and an addition count as two operations; what a window
costs is counted by torch, operator by operator, not taken from a paper. `--small` uses tiny networks, to try the
command where there is no GPU.
"""

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForAudioClassification, AutoModelForVideoClassification

from models.presets import preset_of
from tests.benchmarks import paper_full_size
from tests.checkpoints import CREMA_D, RAVDESS, save
from worker.recipe import Recipe
from worker.recognizers import Recognizers
from worker.windows import WindowPlan

WINDOW_SECONDS, SAMPLE_RATE_HZ = 4, 16_000
IN_FLIGHT = 512  # windows handed in and not answered yet: more than any batch
SIDES = {"cuda": 8192, "cpu": 1024}  # of the matrices that tell the peak
PEAK_SECONDS = 3.0


def matrix_peak(device: str) -> float:
    """Operations a second in products of square bf16 matrices of random numbers; the fastest of several."""
    side = SIDES[device]
    a, b = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    fastest, started = 0.0, time.perf_counter()
    while time.perf_counter() - started < PEAK_SECONDS:
        seconds = _timed(lambda: a @ b, device, repeats=10 if device == "cuda" else 1)
        fastest = max(fastest, 2 * side**3 / seconds)
    return fastest


def _timed(action: Callable[[], object], device: str, repeats: int) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        action()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def operations(folder: Path, n_frames: int, pixels: int) -> dict[str, int]:
    """Operations of one window in each network, forward, on the CPU."""
    inputs = {
        "audio": (AutoModelForAudioClassification, (1, WINDOW_SECONDS * SAMPLE_RATE_HZ)),
        "video": (AutoModelForVideoClassification, (1, n_frames, 3, pixels, pixels)),
    }
    counted = {}
    for side, (auto, shape) in inputs.items():
        network: Any = auto.from_pretrained(
            folder / side, attn_implementation="eager"
        ).eval()  # fused attention counts nothing
        for module in filter(parametrize.is_parametrized, network.modules()):  # the counter cannot look into these
            parametrize.remove_parametrizations(module, "weight")
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            network.eval()(**{network.main_input_name: torch.zeros(shape)})
        counted[side] = counter.get_total_flops()
    return counted


def windows_a_second(models: Recognizers, clip_shape: tuple[int, ...], seconds: float) -> float:
    """Hand windows in for so long, after as long a time of warming up; how many were answered in each second."""
    random = np.random.default_rng(0)
    sound = random.normal(0, 0.1, WINDOW_SECONDS * SAMPLE_RATE_HZ).astype(np.float32)
    length, clip = np.array(len(sound), np.int64), random.integers(0, 256, clip_shape, dtype=np.uint8)
    waiting: deque[tuple[Future[Any], Future[Any]]] = deque()
    started, answered, counted_from = time.perf_counter(), 0, None
    while (now := time.perf_counter()) - started < 2 * seconds:
        if counted_from is None and now - started >= seconds:
            answered, counted_from = 0, now
        waiting.append((models.submit_audio(sound, length), models.submit_clip(clip)))
        while waiting and (len(waiting) > IN_FLIGHT or all(future.done() for future in waiting[0])):
            for future in waiting.popleft():
                future.result()
            answered += 1
    rate = answered / (time.perf_counter() - (counted_from or started))
    for pair in waiting:
        for future in pair:
            future.result()
    return rate


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=30.0, help="of measuring, after as many of warming up")
    parser.add_argument("--folder", type=Path, help="where the checkpoints are kept")
    parser.add_argument("--small", action="store_true", help="tiny networks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.small:
            save(folder / "audio", "wav2vec2", CREMA_D)
            save(folder / "video", "vivit", RAVDESS)
        else:
            paper_full_size.make(folder)
        recipe = Recipe(
            preset_of("paper", str(folder / "audio"), str(folder / "video")), WindowPlan(WINDOW_SECONDS * 1000, 2000)
        )
        n_frames, pixels = recipe.sampling.n_frames or 0, recipe.sampling.frame_pixels or 0
        needed = operations(folder, n_frames, pixels)
        with Recognizers(recipe, options.device) as models:
            rate = windows_a_second(models, (n_frames, pixels, pixels, 3), options.seconds)
            made_with = models.provenance()
    name = torch.cuda.get_device_name() if options.device == "cuda" else torch.backends.cpu.get_cpu_capability()
    peak, reached = matrix_peak(options.device), rate * sum(needed.values())
    print(f"{name}; {made_with}")
    print(f"operations a window: {', '.join(f'{side} {n / 1e12:.3f} T' for side, n in needed.items())}")
    print(f"windows: {rate:.2f} a second, {rate * WINDOW_SECONDS:.1f} s of sound and pictures, without overlap")
    print(f"reached: {reached / 1e12:.3f} TFLOP/s of {peak / 1e12:.2f} in bf16 products: {reached / peak:.1%}")


if __name__ == "__main__":
    main()
