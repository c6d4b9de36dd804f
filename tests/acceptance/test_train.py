"""`moodreel train` as a user runs it, on stretches of a real talk that are made out to be clips of several people."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.acceptance.test_annotate import MOODREEL, moodreel, rows
from tests.checkpoints import save
from tests.training import write_manifest

STARTS = {"a": (0.0, 1.0), "b": (2.0, 3.0), "c": (4.0, 5.1), "d": (0.5, 2.3)}
QUICK = ("--epochs", 12, "--batch", 2, "--learning-rate", 1e-3, "--patience", 99, "--device", "cpu")


@pytest.fixture(scope="module")
def work(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest, small models with random weights, and a cache of what was decoded."""
    folder = tmp_path_factory.mktemp("train")
    cut = {"path": media / "obama_speech.mp4", "end": ""}
    stretches = [
        cut | {"start": start, "end": start + 2.5, "label": label, "speaker": speaker}
        for speaker, starts in STARTS.items()
        for start, label in zip(starts, ("ANG", "happiness"), strict=True)
    ]
    write_manifest(folder / "clips.csv", stretches)
    save(folder / "wav2vec2", "wav2vec2", ["LABEL_0", "LABEL_1"])
    save(folder / "vivit", "vivit", ["LABEL_0", "LABEL_1"])
    return folder


def command(work: Path, side: str, out: str, *options: object) -> list[str]:
    model = {"audio": "wav2vec2", "video": "vivit"}[side]
    given = ("train", side, "--model", model, "--manifest", "clips.csv", "--out", out, *QUICK, *options)
    return [str(part) for part in given]


def environment(work: Path) -> dict[str, str]:
    return {"MOODREEL_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def train(work: Path, side: str, out: str, *options: object) -> subprocess.CompletedProcess[str]:
    return moodreel(*command(work, side, out, *options), cwd=work, **environment(work))


def test_a_run_that_was_killed_ends_as_one_that_was_not(work):
    """Dropout, masks and the order of the windows are chance, and the kill falls into the middle of an epoch."""
    often = ("--accumulate", 2, "--eval-steps", 3, "--precision", "float32")
    ran = train(work, "audio", "quiet", *often)
    assert ran.returncode == 0, ran.stderr
    running = subprocess.Popen(
        [str(MOODREEL), *command(work, "audio", "killed", *often)],
        cwd=work,
        env={**os.environ, **environment(work)},
        stderr=subprocess.DEVNULL,
    )
    written = work / "killed" / "checkpoints" / "checkpoint-9" / "trainer_state.json"
    deadline = time.monotonic() + 120
    while not written.exists() and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (work / "killed" / "metrics.json").exists(), "it was killed too late"

    other = train(work, "audio", "killed", *often, "--seed", 7)
    assert other.returncode == 2
    assert "holds another run (seed was 42 and is 7)" in other.stderr
    ran = train(work, "audio", "killed", *often)
    assert ran.returncode == 0, ran.stderr
    assert "carrying on from step" in ran.stderr
    quiet, killed = (json.loads((work / out / "metrics.json").read_text()) for out in ("quiet", "killed"))
    assert len(quiet["training"]["validation"]) == 8
    assert killed["training"] == quiet["training"], "each loss to the last digit"
    assert killed["test"] == quiet["test"]
    weights = [(work / out / "model.safetensors").read_bytes() for out in ("quiet", "killed")]
    assert weights[0] == weights[1]


def test_what_was_trained_annotates(work, media):
    few = ("--max-steps", 3)
    for side in ("audio", "video"):
        ran = train(work, side, side, *few, "--json")
        assert ran.returncode == 0, ran.stderr
        found = json.loads(ran.stdout)
        assert found["training"]["steps"] == 3
        assert found["cost"]["windows_per_second"] > 0
        assert f"moodreel train {side} --model" in (work / side / "README.md").read_text()
    chosen = ("--preset", "paper", "--audio-model", "audio", "--video-model", "video")
    ran = moodreel("annotate", *chosen, media / "obama_speech.mp4", cwd=work, **environment(work))
    assert ran.returncode == 0, ran.stderr
    scores = rows(work / "moodreel.db", "SELECT modality, emotion FROM window_scores WHERE probability IS NOT NULL")
    assert set(scores) == {(side, emotion) for side in ("audio", "video") for emotion in ("angry", "happy")}
    again = train(work, "video", "video", *few)
    assert again.returncode == 0
    assert "done already" in again.stderr
    assert "speakers whom the model never met: 1" in again.stdout


def test_a_user_s_mistake_costs_a_sentence(work, tmp_path):
    write_manifest(tmp_path / "nobody.csv", [{"path": "a.wav", "label": "happy"}, {"path": "b.wav", "label": "sad"}])
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text("{")
    (tmp_path / "torn" / "model.safetensors").touch()
    (tmp_path / "empty").mkdir()
    good = {"--model": work / "wav2vec2", "--manifest": work / "clips.csv", "--out": tmp_path / "out"}
    mistakes = (
        ({"--manifest": None, "--data": "nowhere"}, 1, "no such folder", "path_missing"),
        ({"--manifest": None, "--data": "empty"}, 1, "holds no clip for audio", "training_data"),
        ({"--manifest": "nobody.csv"}, 1, "no column speaker", "training_data"),
        ({"--data": "empty"}, 2, "either a folder of clips", "bad_option"),
        ({"--test-speakers": "zoe"}, 1, "nobody is called zoe; the speakers are a, b, c, d", "training_data"),
        ({"--model": "torn"}, 1, "torn cannot be loaded", "weights_missing"),
        ({"--model": "no such model"}, 1, "neither a folder nor the name of a model", "weights_missing"),
        ({"--label-map": "torn/config.json"}, 2, "label map", "bad_option"),
        ({"--device": "cuda"}, 1, "no usable GPU", "device_unavailable"),
    )
    for changes, status, says, code in mistakes:
        options = [str(part) for pair in (good | changes).items() if pair[1] is not None for part in pair]
        ran = moodreel("train", "audio", *options, cwd=tmp_path, **environment(tmp_path))
        assert (ran.returncode, says in ran.stderr) == (status, True), ran.stderr
        assert ran.stderr.rstrip().endswith(f"[{code}]"), ran.stderr
        assert "Traceback" not in ran.stderr
        assert not (tmp_path / "out").exists()
