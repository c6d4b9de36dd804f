"""`moodreel annotate --preset paper` and other people's models, as a user runs it, on a real talk and offline."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.acceptance.test_annotate import moodreel, rows
from tests.benchmarks.processes import ROOT
from tests.checkpoints import CREMA_D, RAVDESS, save

SCORES = """SELECT window_index, emotion, probability, state FROM window_scores
            WHERE modality = '{}' ORDER BY window_index"""


@pytest.fixture(scope="module")
def talk(media: Path) -> Path:
    """8.8 s of a man who speaks to the camera."""
    return media / "obama_speech.mp4"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small checkpoints with random weights."""
    folder = tmp_path_factory.mktemp("models")
    save(folder / "wav2vec2", "wav2vec2", CREMA_D)
    save(folder / "vivit", "vivit", RAVDESS)
    save(folder / "vit", "vit", [*RAVDESS, "contempt"])
    return folder


@pytest.fixture(scope="module")
def annotated(talk: Path, models: Path, media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a talk and an empty street were annotated with wav2vec 2.0 and ViViT."""
    folder = tmp_path_factory.mktemp("annotated")
    ran = paper(models, talk, media / "park.mp4", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return folder


def paper(models: Path, *arguments: object, cwd: Path):
    chosen = ("--preset", "paper", "--audio-model", models / "wav2vec2", "--video-model", models / "vivit")
    return moodreel("annotate", *chosen, *arguments, cwd=cwd, HF_HUB_OFFLINE="1", MOODREEL_CACHE=str(cwd / "cache"))


def test_both_models_judge_a_talk(annotated, talk):
    db = annotated / "moodreel.db"
    states = f"""SELECT audio_state, video_state, COUNT(*) FROM windows JOIN annotations a ON a.id = annotation_id
                 JOIN videos v ON v.id = a.video_id WHERE uri = '{talk}' GROUP BY 1, 2"""
    assert rows(db, states) == [("ok", "ok", 8)]
    for side, labels in (("audio", CREMA_D), ("video", RAVDESS)):
        scores = [row for row in rows(db, SCORES.format(side)) if row[3] == "ok"]
        assert {emotion for _, emotion, probability, _ in scores if probability is not None} == set(labels)
        for index in range(8):
            assert sum(p for k, _, p, _ in scores if k == index and p is not None) == pytest.approx(1, abs=1e-4)
        first = [p for k, _, p, _ in scores if k == 0]
        assert any(first != [p for k, _, p, _ in scores if k == index] for index in range(1, 8)), "never the same"
    ((name, config),) = rows(db, "SELECT name, config FROM pipelines")
    assert name.startswith("paper 2s/1s")
    assert json.loads(config)["face"]["num_frames"] == 32


def test_without_a_face_the_video_model_is_not_asked(annotated, media):
    states = f"""SELECT DISTINCT video_state FROM windows JOIN annotations a ON a.id = annotation_id
                 JOIN videos v ON v.id = a.video_id WHERE uri = '{media / "park.mp4"}'"""
    assert rows(annotated / "moodreel.db", states) == [("no_face",)]


def test_done_is_done_until_the_weights_change(annotated, talk, models, tmp_path):
    ran = paper(models, "--json", talk, cwd=annotated)
    assert json.loads(ran.stdout)["skipped"] == 1, ran.stderr
    hashes = json.loads((annotated / "cache" / "hashes.json").read_text())
    assert any(str(models / "vivit" / "model.safetensors") in key for key in hashes)


def test_a_face_net_in_the_place_of_the_compact_one_and_labels_by_file(talk, models, tmp_path):
    command = ("annotate", "--video-model", models / "vit", talk)
    ran = moodreel(*command, cwd=tmp_path)
    assert ran.returncode == 2
    assert "contempt, of neutral, calm" in ran.stderr
    assert "--label-map" in ran.stderr
    assert not (tmp_path / "moodreel.db").exists()
    (tmp_path / "labels.json").write_text('{"contempt": null}')
    ran = moodreel(*command, "--label-map", "labels.json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    scores = rows(tmp_path / "moodreel.db", SCORES.format("video"))
    assert [state for _, _, _, state in scores] == ["ok"] * 64
    for index in range(8):
        assert sum(p for k, _, p, _ in scores if k == index) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--preset", "paper"), ("--audio-model", "--video-model", "minhah/vivit")),
        (
            ("--preset", "paper", "--audio-model", "nobody/nothing", "--video-model", "x/y"),
            ("HF_HUB_OFFLINE", "folder"),
        ),
        (("--audio-model", "/no/such/folder"), ("/no/such/folder", "neither a folder")),
        (("--label-map", "labels.json"), ("--audio-model",)),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(arguments, says, talk, tmp_path):
    ran = moodreel("annotate", *arguments, talk, cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert ran.returncode in (1, 2)
    assert all(part in ran.stderr for part in says)
    assert len(ran.stderr.strip().splitlines()) == 2, "a sentence, and what to do"


def test_weights_that_are_no_tensors_are_refused(talk, models, tmp_path):
    class Poison:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'poisoned')!r}, 'w')",)

    folder = save(tmp_path / "poison", "wav2vec2", CREMA_D, pickled=True)
    torch.save({"projector.weight": Poison()}, folder / "pytorch_model.bin")
    ran = moodreel("annotate", "--audio-model", folder, talk, cwd=tmp_path)
    assert ran.returncode == 1
    assert "weights_missing" in ran.stderr
    assert rows(tmp_path / "moodreel.db", "SELECT * FROM failures") == [], "said once, not of every video"
    assert "cannot be loaded" in ran.stderr
    assert not (tmp_path / "poisoned").exists()


def test_the_share_of_the_matrix_rate_is_one_command(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks.matrix_share", "--device", "cpu", "--small", "--seconds", "0.2"]
    ran = subprocess.run([*command, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(r"windows: \d+\.\d\d a second", ran.stdout)
    assert re.search(r"reached: .* TFLOP/s of .* in bf16 products: \d", ran.stdout)
