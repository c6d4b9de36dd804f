"""Other programs from PyPI that read emotions off faces, each in an environment of its own, on the same pictures.

    python -I tests/benchmarks/peers.py NAME CLIP    with the Python of its environment, which bench.py makes

Each is given five pictures a second, as moodreel takes them, through the way its documentation shows for videos. What
it took, its models loaded and warm, is printed as JSON. None of them listens.

They run as they come: with the weights that their packages carry, on the CPU. One that loads its weights from elsewhere
runs only where that can be reached; where it cannot, what it said is kept.
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RATE_HZ = 5
TORCH = "torch==2.13.0"  # as in constraints-cpu.txt


@dataclass(frozen=True)
class Peer:
    """One program.

    Attributes:
        requirements: what pip installs.
        how: which of its ways was taken, for the page.
    """

    requirements: tuple[str, ...]
    how: str


PEERS = {
    "fer": Peer(
        ("fer==25.10.3", "setuptools<81", "opencv-contrib-python<5"),  # it wants pkg_resources, and OpenCV's cascades
        "`Video.analyze` with `frequency=5`, its own detector (a Haar cascade), nothing saved",
    ),
    "deepface": Peer(
        ("deepface==0.0.103", "werkzeug"),  # which it imports and does not ask for
        '`DeepFace.analyze(picture, actions=["emotion"])` on every fifth frame that OpenCV reads',
    ),
    "py-feat": Peer(("py-feat==2.1.5",), "`Detectorv1().detect(clip, data_type='video', skip_frames=5)`"),
}


def environment(name: str, folder: Path) -> Path:
    """The Python of a peer's environment, made if it is not there yet; its first time needs a package index.

    Raises:
        subprocess.CalledProcessError: it cannot be installed.
    """
    place = folder / name
    python, finished = place / "bin" / "python", place / "finished"
    if not finished.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True, capture_output=True)
        constraints = place / "constraints.txt"
        constraints.write_text(f"{TORCH}\n")
        install = ["-m", "pip", "install", "--quiet", "--constraint", constraints, *PEERS[name].requirements]
        subprocess.run([python, *install], check=True, capture_output=True, text=True)
        finished.touch()
    return python


def command(name: str, folder: Path, clip: Path) -> list[str]:
    """The command that runs a peer on a clip."""
    return [str(environment(name, folder)), "-I", os.path.abspath(__file__), name, str(clip)]


def version(name: str, folder: Path) -> str:
    """The version of a peer that is installed."""
    asked = f"from importlib.metadata import version; print(version({name!r}))"
    return subprocess.run(
        [environment(name, folder), "-c", asked], check=True, capture_output=True, text=True
    ).stdout.strip()


def fer(clip: str) -> Callable[[], int]:
    video, detector = importlib.import_module("fer.classes").Video, importlib.import_module("fer.fer").FER()
    detector.detect_emotions(next(_every_fifth(clip)))

    def run() -> int:
        quiet = {"display": False, "save_frames": False, "save_video": False, "annotate_frames": False}
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # where it leaves a table
            return len(video(clip, outdir=folder).analyze(detector, frequency=RATE_HZ, **quiet))

    return run


def deepface(clip: str) -> Callable[[], int]:
    module = importlib.import_module("deepface.DeepFace")
    module.build_model("Emotion", task="facial_attribute")
    asked: dict[str, Any] = {"actions": ["emotion"], "enforce_detection": False, "silent": True}
    module.analyze(next(_every_fifth(clip)), **asked)
    return lambda: len([module.analyze(picture, **asked) for picture in _every_fifth(clip)])


def py_feat(clip: str) -> Callable[[], int]:
    # The weights of its network for emotions. They are asked for first: torchvision as it comes from PyPI cannot be
    # imported where torch is the CPU's, which would hide that they are missing.
    importlib.import_module("huggingface_hub").hf_hub_download("py-feat/resmasknet", "model.safetensors")
    detector = importlib.import_module("feat").Detectorv1(device="cpu")
    return lambda: len(detector.detect(clip, data_type="video", skip_frames=RATE_HZ))


def _every_fifth(clip: str) -> Any:
    """Pictures of a clip of 25 a second, BGR, as OpenCV reads them."""
    capture, number = importlib.import_module("cv2").VideoCapture(clip), 0
    while capture.grab():
        if number % 5 == 0:
            yield capture.retrieve()[1]
        number += 1


def main(name: str, clip: str) -> None:
    """Run a peer in this process, and print what it took."""
    run = {"fer": fer, "deepface": deepface, "py-feat": py_feat}[name](clip)
    started = time.perf_counter()
    pictures = run()
    print()
    print(json.dumps({"seconds": time.perf_counter() - started, "pictures": pictures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
