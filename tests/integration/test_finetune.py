"""Fine-tuning with small random networks of true architectures, on generated clips read by the real reader."""

import json
import shutil
from concurrent.futures import Future
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf

from db.errors import BadOption, Untrainable
from db.rows import SpanClaim
from models.checkpoints import HubCheckpoint
from models.errors import ModelError
from models.hub import HubAudioModel, HubVideoModel
from models.presets import COMPACT_AUDIO, Preset
from models.training import finetune
from models.training.batches import MIN_SAMPLES, PictureCollator, SoundCollator, Windows
from models.training.corpora import Clip
from models.training.finetune import fine_tune
from models.training.fit import Loss, by_clip, last_checkpoint, load
from models.training.kept_windows import KeptClip, WindowKeeper
from models.training.settings import Settings, StartCheckpoint
from tests.checkpoints import AUDIO, CREMA_D, VIDEO, processor, save
from tests.clips import Pictures, Track, number_on, steady, write
from tests.training import corpus_of_sides, corpus_of_tones, readers, write_manifest, write_tone
from worker.recipe import Recipe
from worker.span import SpanRun, read_request

QUICK = {"epochs": 6, "batch": 4, "learning_rate": 3e-3, "device": "cpu", "precision": "float32"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOODREEL_CACHE", str(tmp_path / "cache"))


def settings(folder: Path, side: str, **changes) -> Settings:
    given = {"side": side, "model": str(folder / "model"), "out": folder / "out", "manifest": folder / "clips.csv"}
    return Settings(**given | QUICK | changes)


class Recorder:
    """Stands where the models stand in the pipeline and keeps what they are given."""

    pool = None

    def __init__(self) -> None:
        self.sounds: list[np.ndarray] = []
        self.clips: list[np.ndarray] = []

    def submit_audio(self, wave: np.ndarray, length: np.ndarray) -> "Future[np.ndarray]":
        self.sounds.append(wave[: int(length)].copy())
        return self._answer()

    def submit_clip(self, clip: np.ndarray) -> "Future[np.ndarray]":
        self.clips.append(clip.copy())
        return self._answer()

    submit_face = submit_clip

    def _answer(self) -> "Future[np.ndarray]":
        future: Future[np.ndarray] = Future()
        future.set_result(np.full(8, 1 / 8, np.float32))
        return future


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """5.3 s of numbered pictures with sound."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write(path, Pictures(steady(5.3)), [Track(seconds=5.3, gain=0.5)])


@pytest.fixture(scope="module")
def vivit(tmp_path_factory) -> StartCheckpoint:
    """For pictures of 48 pixels that are squeezed, so that boards stay whole."""
    folder = save(tmp_path_factory.mktemp("vivit"), "vivit", ["a", "b"], image_size=48)
    processor = {"image_processor_type": "VivitImageProcessor", "size": {"height": 48, "width": 48}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"do_center_crop": False}))
    return StartCheckpoint(str(folder), "video")


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory) -> StartCheckpoint:
    return StartCheckpoint(str(save(tmp_path_factory.mktemp("wav2vec2"), "wav2vec2", ["a", "b"])), "audio")


def windows_of(clip: KeptClip) -> list[np.ndarray]:
    return [clip.window(number) for number in range(len(clip))]


def test_windows_are_those_that_the_pipeline_gives_to_its_models(film, vivit, wav2vec2, tmp_path):
    recipe = Recipe(Preset("test", COMPACT_AUDIO, vivit))
    place = {"span_index": 0, "first_window": 0, "last_window": None, "start_seconds": 0.0, "end_seconds": None}
    claim = SpanClaim(**place, annotation_id=1, owner="", epoch=1, attempts=1, windows_done=0)
    recorder = Recorder()
    run = SpanRun(claim, recipe, recorder, has_audio=True, has_video=True)
    with readers() as pool, pool.reader() as reader, film.open("rb") as file:
        for _ in run.rows(reader.read(file.fileno(), "film", read_request(claim, recipe))):
            pass
        clip = Clip(film, "happy", "a")
        sound = WindowKeeper(wav2vec2, tmp_path, pool).keep(clip)
        pictures = WindowKeeper(vivit, tmp_path, pool).keep(clip)
    assert len(sound) == len(pictures) == 5, "the last one is 1.3 s long"
    for ours, theirs in zip(windows_of(sound), recorder.sounds, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1 / 32767)
    np.testing.assert_array_equal(np.stack(windows_of(pictures)), np.stack(recorder.clips))
    assert pictures.path.stat().st_size == 48 * 48 * 3 * len(np.unique(pictures.index)), "each picture once"


def test_a_stretch_has_windows_of_its_own(film, vivit, wav2vec2, tmp_path):
    with readers() as pool:
        ears, eyes = (WindowKeeper(model, tmp_path, pool) for model in (wav2vec2, vivit))
        whole = np.concatenate([windows_of(ears.keep(Clip(film, "sad", "a")))[k] for k in (0, 2)])
        stretch = Clip(film, "sad", "a", 0.53, 3.3)
        sound, pictures = windows_of(ears.keep(stretch)), windows_of(eyes.keep(stretch))
    assert [len(wave) for wave in sound] == [32_000, 28_320]
    np.testing.assert_array_equal(sound[0], whole[8_480:40_480])
    np.testing.assert_array_equal(sound[1], whole[24_480:52_800])
    numbers = [[number_on(frame.mean(axis=2)) for frame in window] for window in pictures]
    first_seconds = 0.5625  # the first point after 0.53 s on a grid of 16 pictures a second, of which each third counts
    assert numbers[0] == [int((first_seconds + k / 16) * 25) for k in range(32)]
    assert len(numbers) == 2
    assert numbers[1][0] == int((first_seconds + 1) * 25)


def test_a_stretch_begins_with_what_was_on_screen_before(vivit, tmp_path):
    slow = write(tmp_path / "slow.mp4", Pictures(steady(5, 4), rate_hz=Fraction(4), time_base=Fraction(1, 4)))
    with readers() as pool:
        first = WindowKeeper(vivit, tmp_path, pool).keep(Clip(slow, "sad", "a", 1.02, 3.3)).window(0)
    first_seconds = 1.125  # the first point after 1.02 s that counts; the picture on it came on at 1 s
    numbers = [number_on(frame.mean(axis=2)) for frame in first]
    assert numbers == [int((first_seconds + k / 16) * 4) for k in range(32)]


def test_clips_are_decoded_once(film, wav2vec2, tmp_path, monkeypatch):
    clips = [Clip(film, "sad", "a"), Clip(tmp_path / "broken.mp4", "sad", "b"), Clip(tmp_path / "none.mp4", "sad", "b")]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with readers() as pool:
        keeper = WindowKeeper(wav2vec2, tmp_path / "kept", pool)
        first = keeper.read(clips)
        monkeypatch.setattr(keeper, "_read", None)
        again = keeper.read(clips[:1])
    assert [kept.clip for kept in first.clips] == clips[:1]
    assert [str(clip.path) in sentence for clip, sentence in zip(clips[1:], first.failures, strict=True)] == [
        True,
        True,
    ]
    np.testing.assert_array_equal(windows_of(first.clips[0])[3], windows_of(again.clips[0])[3])
    assert {path.suffix for path in (tmp_path / "kept").iterdir()} == {".data", ".npy"}, "no half-written file is left"


def test_what_lies_after_the_end_is_no_clip(film, wav2vec2, tmp_path):
    with readers() as pool, pytest.raises(Untrainable, match="no sound or picture after 9 s"):
        WindowKeeper(wav2vec2, tmp_path, pool).keep(Clip(film, "sad", "a", 9.0))


def kept(folder: Path, waves: list[np.ndarray], emotions: list[str]) -> list[KeptClip]:
    """Clips of one window each, without reading any."""
    clips = []
    for number, (wave, emotion) in enumerate(zip(waves, emotions, strict=True)):
        path = folder / f"{number}.data"
        path.write_bytes(np.round(wave * 32767).astype(np.int16).tobytes())
        clips.append(KeptClip(Clip(path, emotion, "a"), path, np.array([[0, len(wave)]]), None))
    return clips


@pytest.mark.parametrize("name", [*AUDIO, "ast"])
def test_networks_for_sound_are_trained_on_what_they_are_given_later(name, tmp_path):
    folder = save_ast(tmp_path / name) if name == "ast" else save(tmp_path / name, name, ["a", "b", "c"])
    network, extractor = load(StartCheckpoint(str(folder), "audio"), ("happy", "sad"))
    random = np.random.default_rng(0)
    windows = Windows(kept(tmp_path, [random.normal(0, 0.1, 32_000)] * 2, ["happy", "sad"]), ("happy", "sad"))
    collate = SoundCollator(network.config, extractor, network.main_input_name)
    batch = collate([windows[0], windows[1]])
    assert sorted(batch.pop("labels").tolist()) == [0, 1]
    with torch.inference_mode():
        trained = network.eval()(**batch).logits.softmax(dim=1).numpy()
    network.save_pretrained(tmp_path / "out")
    extractor.save_pretrained(tmp_path / "out")
    model = HubAudioModel.load(HubCheckpoint(str(tmp_path / "out"), "audio"))
    later = model.predict(windows[0]["window"][None], np.array([32_000]))[0]
    np.testing.assert_allclose(trained[0], later[[2, 3]], atol=1e-5)
    short = collate([{"window": np.zeros(500, np.float32), "label": 0}])
    network.train()(**{key: value for key, value in short.items() if key != "labels"})  # masks need half a second
    if name == "wav2vec2":
        assert short["input_values"].shape == (1, MIN_SAMPLES)
        mixed = collate([windows[0], {"window": np.zeros(16_000, np.float32), "label": 0}])
        assert mixed["attention_mask"].sum(dim=1).tolist() == [32_000, 16_000]


def save_ast(folder: Path) -> Path:
    """A spectrogram transformer, as small as the others."""
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = hf.ASTConfig(**small, max_length=256, num_mel_bins=32)
    hf.ASTForAudioClassification(config).save_pretrained(folder)
    hf.ASTFeatureExtractor(max_length=256, num_mel_bins=32).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", VIDEO)
def test_networks_for_pictures_are_trained_on_what_they_are_given_later(name, tmp_path):
    start = StartCheckpoint(str(save(tmp_path / name, name, CREMA_D)), "video")
    network, processor = load(start, ("happy", "sad"))
    side = start.geometry.side_pixels
    clip = np.random.default_rng(0).integers(0, 256, (start.n_frames, side, side, 3), np.uint8)
    batch = PictureCollator(processor, network.main_input_name)([{"window": clip, "label": 1}])
    assert batch.pop("labels").tolist() == [1]
    with torch.inference_mode():
        trained = network.eval()(**batch).logits.softmax(dim=1).numpy()
    network.save_pretrained(tmp_path / "out")
    processor.save_pretrained(tmp_path / "out")
    later = HubVideoModel.load(HubCheckpoint(str(tmp_path / "out"), "video")).predict(clip[None])
    np.testing.assert_allclose(trained[0], later[0, [2, 3]], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "body"),
    [
        ("wav2vec2", "Wav2Vec2ForPreTraining", "wav2vec2.encoder.layers.1.attention.k_proj.weight"),
        ("hubert", "HubertModel", "encoder.layers.1.attention.k_proj.weight"),
        ("whisper", "WhisperForConditionalGeneration", "model.encoder.layers.1.self_attn.k_proj.weight"),
        ("videomae", "VideoMAEForPreTraining", "videomae.encoder.layer.1.attention.attention.query.weight"),
    ],
)
def test_a_pretrained_network_gets_a_head(name, kind, body, tmp_path):
    _, config, small = (AUDIO | VIDEO)[name]
    decoder = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    before = getattr(hf, kind)(config(**small, **{f"decoder_{key}": value for key, value in decoder.items()}))
    before.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    old_names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    weights = before.state_dict()
    for new, old in old_names.items():
        weights = {key.replace(new, old): value for key, value in weights.items()}
    torch.save(weights, tmp_path / "pytorch_model.bin")  # as Meta's checkpoints lie on the hub
    processor(name).save_pretrained(tmp_path)
    network, _ = load(StartCheckpoint(str(tmp_path), "audio" if name in AUDIO else "video"), ("happy", "sad"))
    (after,) = [value for key, value in network.state_dict().items() if key.endswith(body.partition("encoder")[2])]
    assert torch.equal(after, before.state_dict()[body])
    assert network.config.id2label == {0: "happy", 1: "sad"}


def test_rare_labels_weigh_more_and_the_size_of_a_batch_does_not(tmp_path):
    windows = Windows(kept(tmp_path, [np.zeros(100)] * 4, ["happy", "sad", "sad", "sad"]), ("happy", "sad"))
    outputs, labels = {"logits": torch.zeros(4, 2)}, torch.tensor([0, 1, 1, 1])
    balanced = Loss(windows, 2, Settings(side="audio", model="", out=tmp_path, label_smoothing=0.0))
    rare, often = (balanced({"logits": torch.zeros(1, 2)}, torch.tensor([label])) for label in (0, 1))
    assert rare / often == pytest.approx(3)
    assert balanced(outputs, labels) == pytest.approx(np.log(2))
    assert balanced(outputs, labels, torch.tensor(8)) == pytest.approx(np.log(2) / 2), "of a batch in two parts"
    plain = Loss(windows, 2, Settings(side="audio", model="", out=tmp_path, class_weights="none"))
    assert plain({"logits": torch.zeros(1, 2)}, torch.tensor([0])) == pytest.approx(np.log(2))


def test_what_is_chosen_by_counts_clips_and_breaks_ties_by_sureness(tmp_path):
    clips = kept(tmp_path, [np.zeros(100)] * 3, ["happy", "sad", "sad"])
    clips[0] = KeptClip(clips[0].clip, clips[0].path, np.array([[0, 50], [50, 90]]), None)  # two windows
    windows = Windows(clips, ("happy", "sad"))
    truth = np.array([windows.label_of(k) for k in range(len(windows))])
    logits = np.where(truth[:, None] == np.arange(2), 2.0, 0.0)
    found, surer = by_clip(logits, windows, ("happy", "sad")), by_clip(3 * logits, windows, ("happy", "sad"))
    assert (found["uar"], found["wa"]) == (1.0, 1.0)
    assert 0 < surer["choice"] - found["choice"] < 0.001
    wrong = by_clip(
        np.where(np.arange(4)[:, None] == windows.places.index((1, 0)), -logits, logits), windows, ("happy", "sad")
    )
    assert (wrong["uar"], wrong["wa"]) == (0.75, pytest.approx(2 / 3))


def test_a_checkpoint_that_was_being_written_is_not_carried_on_from(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step, state in ((9, '{"global_step": 9}'), (10, None), (11, '{"glob')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").touch()
        if state:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"


def test_a_network_of_another_kind_or_without_its_weights_is_refused(tmp_path):
    vivit = save(tmp_path / "vivit", "vivit", CREMA_D)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(StartCheckpoint(str(vivit), "audio"), ("happy", "sad"))
    hubert, wav2vec2 = save(tmp_path / "hubert", "hubert", CREMA_D), save(tmp_path / "wav2vec2", "wav2vec2", CREMA_D)
    shutil.copy(hubert / "model.safetensors", wav2vec2)
    with pytest.raises(ModelError, match="lacks weights of its own network: wav2vec2"):
        load(StartCheckpoint(str(wav2vec2), "audio"), ("happy", "sad"))


def test_a_small_network_learns_to_tell_tones_apart(tmp_path):
    corpus_of_tones(tmp_path)
    save(tmp_path / "model", "wav2vec2", ["a", "b", "c"])
    (tmp_path / "clips.csv").write_text((tmp_path / "clips.csv").read_text() + "broken.wav,happy,a\n")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    found = fine_tune(settings(tmp_path, "audio"), "moodreel train audio ...", readers())
    assert found["test"]["wa"] == 1.0
    assert found["data"]["windows"] == {"train": 8, "validation": 4, "test": 4}
    assert len(found["data"]["left_out"]) == 1
    assert "broken.wav" in found["data"]["left_out"][0]
    assert found["cost"]["windows_per_second"] > 0
    assert found["cost"]["peak_memory_bytes"] > 1e8
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "README.md", "config.json", "metrics.json", "model.safetensors", "preprocessor_config.json"
    }  # fmt: skip
    assert HubCheckpoint(str(out), "audio").labels == ("happy", "sad")
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(found))
    card = (out / "README.md").read_text()
    for part in (
        "| train | 2:",
        "100.0%",
        "moodreel train audio ...",
        "Article 5(1)(f)",
        "It does not know neutral, calm",
    ):
        assert part in card
    assert str(tmp_path) not in card

    weights = (out / "model.safetensors").read_bytes()
    assert fine_tune(settings(tmp_path, "audio"), "", readers()) == json.loads(json.dumps(found)), "done already"
    assert (out / "model.safetensors").read_bytes() == weights
    with pytest.raises(BadOption, match=r"holds another run \(epochs was 6 and is 7\)"):
        fine_tune(settings(tmp_path, "audio", epochs=7), "", readers())


def test_a_run_that_was_killed_when_all_was_trained_is_only_finished(tmp_path, monkeypatch):
    corpus_of_tones(tmp_path, "abc")
    save(tmp_path / "model", "wav2vec2", ["a", "b"])
    with monkeypatch.context() as patched:
        patched.setattr(finetune, "_tested", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(settings(tmp_path, "audio", max_steps=3, patience=1), "", readers())
    checkpoints = tmp_path / "out" / "checkpoints"
    best = json.loads((last_checkpoint(checkpoints) / "trainer_state.json").read_text())["best_global_step"]
    weights = (checkpoints / f"checkpoint-{best}" / "model.safetensors").read_bytes()
    (checkpoints / "checkpoint-9").mkdir()  # was being written
    with monkeypatch.context() as patched:
        patched.setattr("models.training.fit.Trainer", interrupt)
        found = fine_tune(settings(tmp_path, "audio", max_steps=3, patience=1), "", readers())
    assert found["training"]["steps"] == 3
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights
    assert not checkpoints.exists()


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_video_model_is_trained_with_all_that_saves_memory(tmp_path):
    corpus_of_sides(tmp_path)
    save(tmp_path / "model", "vivit", ["a", "b"])
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    saving = {"accumulate": 2, "batch": 1, "gradient_checkpointing": True, "precision": "bfloat16", "max_steps": 5}
    found = fine_tune(settings(tmp_path, "video", **saving), "", readers())
    assert found["training"]["steps"] == 5
    assert found["cost"]["precision"] == "bfloat16"
    assert found["test"]["answered"] == 1.0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != before
    assert HubCheckpoint(str(tmp_path / "out"), "video").label_map.names == ("happy", "sad")


def test_it_stops_when_it_gets_no_better(tmp_path):
    corpus_of_tones(tmp_path, "abc")
    save(tmp_path / "model", "wav2vec2", ["a", "b"])
    slow = {"learning_rate": 1e-12, "patience": 2, "epochs": 30}
    found = fine_tune(settings(tmp_path, "audio", **slow), "", readers())
    assert len(found["training"]["validation"]) < 15


def test_clips_in_which_nothing_can_be_judged_are_refused_by_part(tmp_path):
    rows = [{"path": "a.wav", "label": label, "speaker": name} for name in "abc" for label in ("happy", "sad")]
    write_manifest(tmp_path / "clips.csv", rows)
    write_tone(tmp_path / "a.wav", 300)
    save(tmp_path / "model", "wav2vec2", ["a", "b"])
    with pytest.raises(Untrainable, match=r"with speech that shows happy, sad is left for train.* 6 have"):
        fine_tune(settings(tmp_path, "audio"), "")  # the real voice detector
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    corpus_of_tones(tmp_path, "abc")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("[0.3, 0.4]")
    (tmp_path / "file").touch()
    for out in ("out", "file"):
        with pytest.raises(BadOption, match=f"{out} holds other files"):
            fine_tune(settings(tmp_path, "audio", out=tmp_path / out), "")
    with pytest.raises(BadOption, match="either a folder of clips"):
        fine_tune(settings(tmp_path, "audio", data=tmp_path), "")
