"""Memory and speed of `moodreel train` at full size, with random weights: wav2vec2-large and ViViT-B/16x2.

    python -m tests.benchmarks.train_full_size [--side audio|video] [--steps 50] [OPTION...]

Any other OPTION goes to `moodreel train`. The clips are stretches of a short real talk, made out to be those of several
people. About 1.6 GB are written to a temporary folder (--folder keeps them), and 10 GB more while it runs.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.paper_full_size import make
from tests.fetch_media import fetch
from tests.training import write_manifest

SPEAKERS = "abcd"


def clips(folder: Path) -> Path:
    """A manifest of 12 stretches of 2 to 4 s of a talk of 8.8 s."""
    talk = fetch("obama_speech.mp4")
    rows = [
        {"path": talk, "start": n / 2, "end": n / 2 + 2 + n % 3, "label": label, "speaker": SPEAKERS[n % 4]}
        for n in range(12)
        for label in [("happy", "sad", "angry")[n // 4 % 3]]
    ]
    return write_manifest(folder / "clips.csv", rows)


def main() -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.train_full_size", description=__doc__)
    parser.add_argument("--side", choices=["audio", "video"], action="append")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--folder", type=Path)
    given, others = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        make(folder)
        for side in given.side or ["audio", "video"]:
            out = Path(tempfile.mkdtemp(dir=temporary)) / side
            command = ["train", side, "--model", folder / side, "--manifest", clips(folder), "--out", out]
            program = [sys.executable, "-c", "from scheduler.cli import main; main()"]
            steps = ["--max-steps", given.steps, "--epochs", 10_000, "--eval-steps", given.steps]
            subprocess.run([str(part) for part in [*program, *command, *steps, *others]], check=True)


if __name__ == "__main__":
    main()
