"""Time and memory of the paper preset's models at full size, with random weights: wav2vec2-large and ViViT-B/16x2.

    python -m tests.benchmarks.paper_full_size                  each model by itself
    python -m tests.benchmarks.paper_full_size --clip FILE      and `moodreel annotate --preset paper` on a video

Each model runs in a process of its own, so that peak memory is that of one model, and on one core, so that the CPU time
is what it takes there however busy the machine is. About 1.6 GB are written to a
temporary folder (--folder keeps them).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from models.checkpoints import HubCheckpoint, file_sha256, weight_files
from models.hub import HubAudioModel, HubVideoModel
from tests.checkpoints import CREMA_D, RAVDESS

LARGE = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True,
}  # fmt: skip
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WINDOWS_SECONDS = (2, 4)
REPEATS = 3  # the fastest counts
MODULE = "tests.benchmarks.paper_full_size"


def make(folder: Path) -> None:
    """Save both checkpoints with their processors."""
    torch.manual_seed(0)
    audio, video = folder / "audio", folder / "video"
    if not audio.is_dir():
        config = hf.Wav2Vec2Config(**LARGE, id2label=dict(enumerate(CREMA_D)))
        hf.Wav2Vec2ForSequenceClassification(config).save_pretrained(audio)
        hf.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(audio)
    if not video.is_dir():
        config = hf.VivitConfig(id2label=dict(enumerate(RAVDESS)))  # its defaults are ViViT-B/16x2, 32 x 224 x 224
        hf.VivitForVideoClassification(config).save_pretrained(video)
        hf.VivitImageProcessor().save_pretrained(video)


def measure(folder: Path, side: str, dtype: str, device: str) -> dict[str, Any]:
    """Load one model and time windows; run in a process of its own."""
    checkpoint = HubCheckpoint(str(folder / side), side)
    started = time.perf_counter()
    model: Any = (HubAudioModel if side == "audio" else HubVideoModel).load(
        checkpoint, device=device, dtype=DTYPES[dtype]
    )
    found: dict[str, Any] = {"loaded": f"in {time.perf_counter() - started:.1f} s"}
    random = np.random.default_rng(0)
    if side == "video":
        clips = random.integers(0, 256, (1, 32, 224, 224, 3), dtype=np.uint8)
        found["a window of any length"] = _time(lambda: model.predict(clips))
    for seconds in WINDOWS_SECONDS if side == "audio" else ():
        waves = random.normal(0, 0.1, (1, 16_000 * seconds)).astype(np.float32)
        lengths = np.array([16_000 * seconds])
        found[f"a window of {seconds} s"] = _time(lambda w=waves, n=lengths: model.predict(w, n))
    found["peak"] = f"{_peak_mb():.0f} MB"
    return found


def _time(predict: Callable[[], np.ndarray]) -> str:
    predict()
    wall, cpu = [], []
    for _ in range(REPEATS):
        started, started_cpu = time.perf_counter(), time.process_time()
        assert predict().shape == (1, 8)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - started_cpu)
    return f"{min(cpu):.2f} s of CPU time ({min(wall):.2f} s on the clock)"


def _peak_mb(who: int = resource.RUSAGE_SELF) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


def annotate(folder: Path, clip: Path) -> None:
    """The whole command on one video."""
    command = [
        sys.executable, "-c", "from scheduler.cli import main; main()", "annotate", "--preset", "paper", "--json",
        "--audio-model", str(folder / "audio"), "--video-model", str(folder / "video"), str(clip),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        environment = os.environ | {"MOODREEL_DB": str(Path(place, "m.db"))}
        started = time.perf_counter()
        ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        took = time.perf_counter() - started
    (video,) = json.loads(ran.stdout)["videos"]
    length = video["timeline"][-1]["end_seconds"]
    peak = _peak_mb(resource.RUSAGE_CHILDREN)
    print(f"annotate: {length:.1f} s of video in {took:.0f} s, the largest process {peak:.0f} MB", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the checkpoints are kept")
    parser.add_argument("--clip", type=Path, help="a video to annotate with them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.folder, *options.one, options.device)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        make(folder)
        print(f"{os.cpu_count()} cores, torch {torch.__version__}, transformers {hf.__version__}")
        for side in ("audio", "video"):
            (weights,) = weight_files(folder / side)
            times = [_timed(lambda w=weights: file_sha256(w)) for _ in range(2)]
            print(f"{side}: {weights.stat().st_size / 1e6:.0f} MB, hashed in {times[0]:.1f} s, again {times[1]:.3f} s")
            for dtype in DTYPES:
                command = [sys.executable, "-m", MODULE, "--folder", str(folder), "--device", options.device]
                one_core = os.environ | {"OMP_NUM_THREADS": "1"}
                ran = subprocess.run(
                    [*command, "--one", side, dtype], check=True, capture_output=True, text=True, env=one_core
                )
                figures = json.loads(ran.stdout.splitlines()[-1])
                print(f"{side} {dtype}: {', '.join(f'{key}: {value}' for key, value in figures.items())}", flush=True)
        if options.clip:
            annotate(folder, options.clip)


def _timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
