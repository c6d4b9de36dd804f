"""Checkpoints of each true class, small and with random weights: what moodreel makes of them and what it refuses."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
import transformers as hf

from models.checkpoints import HubCheckpoint, file_sha256, find
from models.errors import LabelError, ModelError
from models.hub import HubAudioModel, HubImageModel, HubVideoModel
from models.taxonomy import EMOTIONS
from tests.checkpoints import AUDIO, CREMA_D, IMAGE, RAVDESS, VIDEO, processor, save

RANDOM = np.random.default_rng(1)
WAVES = RANDOM.normal(0, 0.1, (5, 32_000)).astype(np.float32)
LENGTHS = np.array([32_000, 32_000, 17_003, 32_000, 100])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOODREEL_CACHE", str(tmp_path / "cache"))


def assert_rows(rows, labels, n):
    assert rows.shape == (n, 8)
    assert rows.dtype == np.float32
    known = [label in labels for label in EMOTIONS]
    assert np.isnan(rows[:, ~np.array(known)]).all()
    np.testing.assert_allclose(rows[:, known].sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", AUDIO)
def test_sound_is_judged_as_the_checkpoint_judges_it_alone(tmp_path, name):
    """Each window of a batch, tails too, gets what transformers says of that sound by itself."""
    folder = save(tmp_path / name, name, CREMA_D)
    model = HubAudioModel.load(HubCheckpoint(str(folder), "audio"))
    assert model.labels == tuple(label for label in EMOTIONS if label in CREMA_D)
    rows = model.predict(WAVES, LENGTHS)
    assert_rows(rows, CREMA_D, 5)
    assert np.abs(rows[0] - rows[1])[~np.isnan(rows[0])].max() > 1e-3
    network, extractor = AUDIO[name][0].from_pretrained(folder), processor(name)
    for row, wave, length in zip(rows[:4], WAVES, LENGTHS, strict=False):
        options = {"max_length": 64_000, "padding": "max_length"} if name == "whisper" else {}
        inputs = extractor(wave[:length], sampling_rate=16_000, return_tensors="pt", **options)
        with torch.inference_mode():
            alone = network(inputs[network.main_input_name]).logits.softmax(dim=1)[0].numpy()
        np.testing.assert_allclose(row[[EMOTIONS.index(label) for label in CREMA_D]], alone, atol=1e-5)


@pytest.mark.parametrize("name", [*AUDIO, *VIDEO, *IMAGE])
def test_bfloat16_changes_probabilities_little(tmp_path, name):
    """Of networks with large random weights, which round worse than trained ones."""
    checkpoint = HubCheckpoint(str(save(tmp_path / name, name, CREMA_D)), "audio" if name in AUDIO else "video")
    kind = HubAudioModel if name in AUDIO else HubVideoModel if name in VIDEO else HubImageModel
    frames = (checkpoint.n_frames,) if name in VIDEO else ()
    pictures = RANDOM.integers(0, 256, (3, *frames, 32, 32, 3), dtype=np.uint8)
    exact, rounded = (
        kind.load(checkpoint, dtype=dtype).predict(*((WAVES, LENGTHS) if name in AUDIO else (pictures,)))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert_rows(rounded, CREMA_D, len(exact))
    difference = np.abs(rounded - exact)
    assert 0 < np.nanmean(difference) <= 0.01
    assert np.nanmax(difference) <= 0.05


def test_a_window_longer_than_whisper_hears_is_not_cut_in_silence(tmp_path):
    folder = save(tmp_path / "a", "whisper", CREMA_D, max_source_positions=50)
    model = HubAudioModel.load(HubCheckpoint(str(folder), "audio"))
    assert_rows(model.predict(WAVES[:1, :16_000], LENGTHS[:1] // 2), CREMA_D, 1)
    with pytest.raises(ModelError, match="hears 1 s at once"):
        model.predict(WAVES[:1], LENGTHS[:1])


@pytest.mark.parametrize("name", [*VIDEO, *IMAGE])
def test_pictures_are_judged_as_the_checkpoint_judges_them(tmp_path, name):
    folder = save(tmp_path / name, name, RAVDESS)
    checkpoint = HubCheckpoint(str(folder), "video")
    assert checkpoint.kind == ("video" if name in VIDEO else "image")
    model = (HubVideoModel if name in VIDEO else HubImageModel).load(checkpoint)
    frames = (checkpoint.n_frames,) if name in VIDEO else ()
    pictures = RANDOM.integers(0, 256, (3, *frames, 32, 32, 3), dtype=np.uint8)
    rows = model.predict(pictures)
    assert_rows(rows, RAVDESS, 3)
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    network, own = (VIDEO | IMAGE)[name][0].from_pretrained(folder), processor(name)
    as_they_are = {"do_resize": False, "return_tensors": "pt"} | ({"do_center_crop": False} if frames else {})
    for row, picture in zip(rows, pictures, strict=True):
        inputs = own(list(picture) if frames else picture, **as_they_are)["pixel_values"]
        inputs = inputs.reshape(1, *frames, 3, 32, 32)
        np.testing.assert_allclose(model.normalised(picture[None]), inputs, atol=1e-4)
        with torch.inference_mode():
            np.testing.assert_allclose(row, network(inputs).logits.softmax(dim=1)[0].numpy(), atol=1e-4)
    assert model.predict(pictures[:0]).shape == (0, 8)
    with pytest.raises(ValueError, match="want pictures"):
        model.predict(pictures[..., :16, :])


def test_what_a_checkpoint_says_of_itself(tmp_path):
    folder = save(tmp_path / "a", "vivit", RAVDESS)
    said = HubCheckpoint(str(folder), "video").describe()
    assert (said["kind"], said["num_frames"], said["side_pixels"], said["resize_pixels"]) == ("video", 32, 32, 40)
    assert said["label_map"] == {name: name for name in RAVDESS}
    shutil.copytree(folder, tmp_path / "b")
    assert HubCheckpoint(str(tmp_path / "b"), "video").describe() == said, "a copy is the same model"
    with (tmp_path / "b" / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    assert HubCheckpoint(str(tmp_path / "b"), "video").describe()["sha256"] != said["sha256"]
    mapped = HubCheckpoint(str(folder), "video", {"calm": None}).describe()
    assert mapped["sha256"] == said["sha256"]
    assert mapped != said


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": 24, "do_center_crop": True}, (24, 24)),  # as feature extractors of 2022 wrote it
        ({"size": {"shortest_edge": 30}, "crop_size": 24, "do_center_crop": True}, (24, 30)),
        ({"size": {"height": 24, "width": 24}}, (24, None)),
        ({"size": {"shortest_edge": 30}, "crop_size": {"height": 24, "width": 24}, "do_center_crop": True}, (24, 30)),
    ],
)
def test_the_ways_in_which_processors_say_their_size(tmp_path, settings, expected):
    folder = save(tmp_path / "a", "vit", RAVDESS, image_size=24, patch_size=8)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    geometry = HubCheckpoint(str(folder), "video").geometry
    assert (geometry.side_pixels, geometry.resize_pixels) == expected


def test_a_hash_is_kept_until_the_file_changes(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = file_sha256(path)
    (cached,) = json.loads((tmp_path / "cache" / "hashes.json").read_text()).values()
    assert cached == first
    stat = path.stat()
    (tmp_path / "cache" / "hashes.json").write_text(
        json.dumps({f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}": "known"})
    )
    assert file_sha256(path) == "known"
    os.utime(path, ns=(1, 1))
    assert file_sha256(path) == first
    (tmp_path / "cache" / "hashes.json").write_text("{")
    assert file_sha256(path) == first


def test_pickles_of_tensors_are_read_and_others_refused(tmp_path):
    plain = save(tmp_path / "plain", "wav2vec2", CREMA_D)
    folder = save(tmp_path / "pickled", "wav2vec2", CREMA_D, pickled=True)
    same = [HubAudioModel.load(HubCheckpoint(str(f), "audio")).predict(WAVES, LENGTHS) for f in (plain, folder)]
    np.testing.assert_allclose(*same, atol=1e-6)

    class Poison:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "poisoned"),)

    for write in (lambda f: torch.save({"projector.weight": Poison()}, f), lambda f: pickle.dump(Poison(), f)):
        with (folder / "pytorch_model.bin").open("wb") as file:
            write(file)
        with pytest.raises(ModelError, match="pickled cannot be loaded"):
            HubAudioModel.load(HubCheckpoint(str(folder), "audio"))
    assert not (tmp_path / "poisoned").exists()


def test_code_that_comes_with_a_checkpoint_does_not_run(tmp_path):
    folder = save(tmp_path / "a", "wav2vec2", CREMA_D)
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "evil.C", "AutoModelForAudioClassification": "evil.M"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": auto}))
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    with pytest.raises(ModelError, match="cannot be loaded"):
        HubAudioModel.load(HubCheckpoint(str(folder), "audio"))
    assert not (tmp_path / "ran").exists()


def test_a_head_that_would_start_at_random_is_refused(tmp_path):
    """Checkpoints with a head of their authors' own load in transformers with a warning, and then guess."""
    folder = save(tmp_path / "a", "wav2vec2", CREMA_D)
    network = hf.Wav2Vec2ForSequenceClassification.from_pretrained(folder)
    weights = {k.replace("projector", "dense"): v for k, v in network.state_dict().items()}
    hf.Wav2Vec2ForSequenceClassification.from_pretrained(folder).save_pretrained(folder, state_dict=weights)
    with pytest.raises(ModelError, match=r"lacks weights of its own network: projector\.bias"):
        HubAudioModel.load(HubCheckpoint(str(folder), "audio"))


def test_what_cannot_be_used_says_why(tmp_path):
    audio = save(tmp_path / "audio", "wav2vec2", CREMA_D)
    with pytest.raises(ModelError, match="Wav2Vec2ForSequenceClassification, not a video or image"):
        HubCheckpoint(str(audio), "video").describe()
    with pytest.raises(ModelError, match="neither a folder nor the name"):
        find(str(tmp_path / "nowhere"))
    nameless = save(tmp_path / "nameless", "hubert", ["LABEL_0", "LABEL_1"])
    with pytest.raises(LabelError, match=r"LABEL_0, LABEL_1.*--label-map"):
        HubCheckpoint(str(nameless), "audio").describe()
    given = {"LABEL_0": "angry", "LABEL_1": "sad"}
    assert HubCheckpoint(str(nameless), "audio", given).labels == ("sad", "angry")
    (audio / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        find(str(audio))
    slow = save(tmp_path / "slow", "wavlm", CREMA_D)
    hf.Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(slow)
    with pytest.raises(ModelError, match="hears 8000 Hz"):
        HubAudioModel.load(HubCheckpoint(str(slow), "audio"))


def test_an_unreachable_hub_is_one_sentence_that_names_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"folder.*HF_HOME.*HF_HUB_OFFLINE=1") as caught:
        find("nobody/no-such-model")
    assert "\n" not in str(caught.value)
