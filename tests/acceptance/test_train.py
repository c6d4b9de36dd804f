"""`moodreel train` as a user runs it, on stretches of a real talk that are made out to be clips of several people."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from scheduler.cli import main
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


def command(side: str, out: str, *options: object) -> list[str]:
    model = {"audio": "wav2vec2", "video": "vivit"}[side]
    given = ("train", side, "--model", model, "--manifest", "clips.csv", "--out", out, *QUICK, *options)
    return [str(part) for part in given]


def environment(work: Path) -> dict[str, str]:
    return {"MOODREEL_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def test_a_run_that_was_killed_ends_as_one_that_was_not(work):
    """Dropout, masks and the order of the windows are chance, and the kill falls into the middle of an epoch."""
    often = ("--accumulate", 2, "--eval-steps", 3, "--precision", "float32")
    ran = moodreel(*command("audio", "quiet", *often), cwd=work, **environment(work))
    assert ran.returncode == 0, ran.stderr
    running = subprocess.Popen(
        [str(MOODREEL), *command("audio", "killed", *often)],
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

    ran = moodreel(*command("audio", "killed", *often), cwd=work, **environment(work))
    assert ran.returncode == 0, ran.stderr
    assert "carrying on from step" in ran.stderr
    quiet, killed = (json.loads((work / out / "metrics.json").read_text()) for out in ("quiet", "killed"))
    assert len(quiet["training"]["validation"]) == 8
    assert killed["training"] == quiet["training"], "each loss to the last digit"
    assert killed["test"] == quiet["test"]
    weights = [(work / out / "model.safetensors").read_bytes() for out in ("quiet", "killed")]
    assert weights[0] == weights[1]


def test_what_was_trained_annotates(work, media, monkeypatch, capsys):
    monkeypatch.chdir(work)
    for name, value in environment(work).items():
        monkeypatch.setenv(name, value)
    for side in ("audio", "video"):
        main(command(side, side, "--max-steps", 3, "--json"))
        found = json.loads(capsys.readouterr().out)
        assert found["training"]["steps"] == 3
        assert found["cost"]["windows_per_second"] > 0
    chosen = ("--preset", "paper", "--audio-model", "audio", "--video-model", "video")
    ran = moodreel("annotate", *chosen, media / "obama_speech.mp4", cwd=work)
    assert ran.returncode == 0, ran.stderr
    scores = "SELECT modality, emotion FROM window_scores WHERE probability IS NOT NULL AND modality <> 'fused'"
    judged = {(side, emotion) for side in ("audio", "video") for emotion in ("angry", "happy")}
    assert set(rows(work / "moodreel.db", scores)) == judged
    main(command("video", "video", "--max-steps", 3))
    said = capsys.readouterr()
    assert "done already" in said.err
    assert "speakers whom the model never met: 1" in said.out


MISTAKES = {
    "no folder": ({"--manifest": None, "--data": "nowhere"}, 1, "no such folder", "path_missing"),
    "no clips": ({"--manifest": None, "--data": "empty"}, 1, "holds no clip for audio", "untrainable"),
    "no speakers": ({"--manifest": "nobody.csv"}, 1, "no column speaker", "untrainable"),
    "folder and manifest": ({"--data": "empty"}, 2, "either a folder of clips", "bad_option"),
    "nobody": ({"--test-speakers": "zoe"}, 1, "nobody is called zoe; the speakers are a, b, c, d", "untrainable"),
    "torn model": ({"--model": "torn"}, 1, "torn cannot be loaded", "weights_missing"),
    "no model": ({"--model": "no such model"}, 1, "neither a folder nor the name of a model", "weights_missing"),
    "no label map": ({"--label-map": "torn/config.json"}, 2, "label map", "bad_option"),
    "no such precision": ({"--precision": "float16"}, 2, "the CPU cannot train in it", "bad_option"),
    "no GPU": ({"--device": "cuda"}, 1, "no usable GPU", "device_unavailable"),
}


@pytest.mark.parametrize(("changes", "status", "says", "code"), MISTAKES.values(), ids=MISTAKES)
def test_a_user_s_mistake_costs_a_sentence(work, tmp_path, changes, status, says, code, monkeypatch, capsys):
    write_manifest(tmp_path / "nobody.csv", [{"path": "a.wav", "label": "happy"}, {"path": "b.wav", "label": "sad"}])
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text("{")
    (tmp_path / "torn" / "model.safetensors").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    options = {"--model": work / "wav2vec2", "--manifest": work / "clips.csv", "--out": "out"} | changes
    with pytest.raises(SystemExit) as stopped:
        main(["train", "audio", *(str(part) for pair in options.items() if pair[1] is not None for part in pair)])
    said = capsys.readouterr().err
    assert (stopped.value.code, says in said, said.rstrip().endswith(f"[{code}]")) == (status, True, True), said
    assert not (tmp_path / "out").exists()
