"""Training the emotion head: the corpora, label masks, the leak check, and a small run end to end."""

import json
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch

from models.audio import AudioEmotionModel, WhisperForEmotion
from models.taxonomy import EMOTIONS
from models.training import audio
from models.training.audio import View, clip_scores, foreign, out_of_fold, train
from models.training.corpora import (
    Clip,
    clips_in,
    crema_d_clip,
    javanese_clip,
    ravdess_clip,
    read_sound,
)
from models.training.head import (
    HeadOptions,
    Rows,
    divide_logits,
    known_labels,
    log_probabilities,
    logits_of,
    temperature,
    train_head,
)
from models.training.sound import degrade, low_pass, windows_of
from models.training.whisper import emotion_config
from worker.windows import WindowPlan

SIX = known_labels(("neutral", "happy", "sad", "angry", "fearful", "disgust"))
QUICK = HeadOptions(hidden=16, epochs=20, batch=16, input_dropout=0.0, hidden_dropout=0.0, peak_learning_rate=0.02)
SHIPPED = Path(__file__).parents[2] / "models" / "weights" / "audio"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The networks here are too small to share out: threads that wait for each other take a hundred times longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made_rows(speakers: tuple[str, ...], per_speaker: int = 24, seed: int = 0) -> Rows:
    """Windows whose label is the largest of the first eight features; speakers of `six/` lack calm and surprised."""
    random = np.random.default_rng(seed)
    names = np.repeat(speakers, per_speaker)
    known = np.stack([SIX if name.startswith("six/") else np.ones(8, bool) for name in names])
    features = random.standard_normal((len(names), 12)).astype(np.float32)
    emotions = np.where(known, features[:, :8], -9.0).argmax(axis=1)
    features[:, :8] += 2.0 * np.eye(8)[emotions]
    return Rows(50.0 + 7.0 * features, emotions, known, np.arange(len(names)), names)


def write_tone(path: Path, hz: float, seconds: float = 1.6) -> None:
    times = np.arange(round(16_000 * seconds)) / 16_000
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((8000 * np.sin(2 * np.pi * hz * times)).astype("<i2").tobytes())


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (ravdess_clip(Path("03-01-08-02-01-01-24.opus")), ("surprised", "ravdess/24", "ravdess")),
        (crema_d_clip(Path("1091_WSI_DIS_XX.opus")), ("disgust", "crema-d/1091", "crema-d")),
        (javanese_clip(Path("10-07-06_02.opus")), ("angry", "javanese/10", "javanese")),
        (javanese_clip(Path("01-01-02_01.mp4")), ("sad", "javanese/01", "javanese")),
    ],
)
def test_names_tell_emotion_and_speaker(clip: Clip, expected: tuple[str, str, str]) -> None:
    assert (clip.emotion, clip.speaker, clip.corpus) == expected


def test_faulty_clips_are_left_out_and_foreign_names_refused(tmp_path: Path) -> None:
    for name in ("1001_DFA_ANG_XX", "1040_ITH_SAD_X", "1076_MTI_SAD_XX"):
        (tmp_path / f"{name}.wav").touch()
    assert [clip.path.stem for clip in clips_in(tmp_path, crema_d_clip)] == ["1001_DFA_ANG_XX"]
    with pytest.raises(ValueError, match=r"1001_DFA_ANG_XX\.wav: not a name"):
        clips_in(tmp_path, ravdess_clip)
    with pytest.raises(FileNotFoundError, match="no clips"):
        clips_in(tmp_path / "nothing", crema_d_clip)


def test_sound_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 440.0)
    sound = read_sound(tmp_path / "a.wav")
    assert len(sound) == 25_600
    assert np.abs(np.fft.rfft(sound)).argmax() / 1.6 == pytest.approx(440.0, abs=1)
    assert np.abs(sound).max() == pytest.approx(8000 / 32768, abs=1e-3)


def test_windows_are_those_that_the_voice_gate_passes() -> None:
    sound = np.arange(5 * 16_000, dtype=np.float32)  # 5 s; the value tells the place
    speech = np.zeros(157, np.float32)
    speech[63:126] = 1.0  # from 2 s to 4 s
    cuts = windows_of(sound, speech, WindowPlan(2000, 1000))
    assert [int(cut.samples[0]) // 16_000 for cut in cuts] == [1, 2, 3]
    silent = windows_of(sound, 0.0 * speech, WindowPlan(2000, 1000))
    assert len(silent) == 5  # none stands out, so none is left out


def test_a_short_clip_is_one_padded_window() -> None:
    (cut,) = windows_of(np.ones(8000, np.float32), np.ones(16, np.float32), WindowPlan(2000, 1000))
    assert cut.length_samples == 8000
    assert cut.samples.shape == (32_000,)
    assert cut.samples.sum() == 8000


def test_degraded_sound_is_the_same_sound_at_other_levels() -> None:
    sound = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32) / 4
    degraded = [degrade(sound, np.random.default_rng(seed)) for seed in range(8)]
    assert all(np.corrcoef(sound, other)[0, 1] > 0.9 for other in degraded)
    levels_db = [20 * np.log10(np.std(other) / np.std(sound)) for other in degraded]
    assert max(levels_db) - min(levels_db) > 6


def test_a_low_pass_takes_what_is_above() -> None:
    times = np.arange(16_000) / 16_000
    low, high = np.sin(2 * np.pi * 1000 * times), np.sin(2 * np.pi * 6000 * times)
    np.testing.assert_allclose(low_pass(low + high, 5500), low, atol=1e-6)


def test_cross_validation_refuses_speakers_in_no_fold() -> None:
    views = {"2 s": made_rows(("eight/1", "eight/2", "eight/3"))}
    folds = [frozenset({"eight/1"}), frozenset({"eight/2"})]
    with pytest.raises(ValueError, match="in no fold"):
        out_of_fold(views, folds, replace(QUICK, epochs=1))


def test_the_mask_makes_an_absent_label_no_vote() -> None:
    rows = made_rows(("six/1", "eight/1"), per_speaker=500)
    lacking = np.flatnonzero(~SIX)
    masked = log_probabilities(np.ones((len(rows.emotions), 8), np.float32), rows.known)
    np.testing.assert_allclose(np.exp(masked[0])[lacking], 0.0)
    np.testing.assert_allclose(np.exp(masked[0])[SIX], 1 / 6, rtol=1e-5)
    # Most rows are of a corpus without calm and surprised; these are found all the same.
    few = rows.where((rows.speakers == "six/1") | (np.arange(1000) >= 900))
    head = train_head(few, replace(QUICK, epochs=10, batch=32))
    unseen = made_rows(("eight/9",), per_speaker=400, seed=5)
    found = logits_of(head, unseen).argmax(axis=1)
    for label in lacking:
        assert np.mean(found[unseen.emotions == label] == label) > 0.6


def test_a_row_whose_corpus_lacks_its_emotion_is_refused() -> None:
    rows = made_rows(("six/1",))
    with pytest.raises(ValueError, match="does not have"):
        replace(rows, emotions=np.full(24, EMOTIONS.index("calm")))


def test_a_clip_s_weight_is_shared_by_its_windows() -> None:
    weights = replace(made_rows(("eight/1",), per_speaker=4), clips=np.array([7, 7, 7, 9])).weights
    np.testing.assert_allclose(weights, [2 / 3, 2 / 3, 2 / 3, 2.0], rtol=1e-5)


def test_scores_are_those_counted_by_hand() -> None:
    happy, sad = EMOTIONS.index("happy"), EMOTIONS.index("sad")
    rows = replace(
        made_rows(("eight/1",), per_speaker=5),
        emotions=np.array([happy, happy, happy, happy, sad]),
        clips=np.array([0, 0, 1, 2, 3]),
    )
    logits = np.zeros((5, 8), np.float32)
    logits[[0, 1, 2, 3, 4], [happy, sad, happy, happy, happy]] = [4, 2, 4, 4, 4]  # clip 0: the surer window decides
    assert clip_scores(logits, rows) == {
        "clips": 4, "wa": 75.0, "uar": 50.0, "window_accuracy": 60.0, "window_calibration_error": ANY
    }  # fmt: skip


def test_the_temperature_undoes_a_sharpening() -> None:
    random = np.random.default_rng(0)
    true_logits = random.standard_normal((4000, 8)).astype(np.float32)
    drawn = (true_logits + random.gumbel(size=(4000, 8))).argmax(axis=1)  # a draw from their softmax
    rows = replace(made_rows(("eight/1",), per_speaker=4000), emotions=drawn)
    assert temperature(2 * true_logits, rows) == pytest.approx(2.0, rel=0.05)


def test_dividing_the_logits_is_folded_into_the_head() -> None:
    rows = made_rows(("eight/1",))
    head = train_head(rows, replace(QUICK, epochs=1))
    before = logits_of(head, rows)
    divide_logits(head, 2.0)
    np.testing.assert_allclose(logits_of(head, rows), before / 2, atol=1e-5)


def test_a_small_run_end_to_end(tmp_path: Path) -> None:
    names = {"02": 300.0, "04": 1800.0}  # calm is a low tone, sad a high one
    for actor in range(1, 5):
        for code, hz in names.items():
            write_tone(tmp_path / f"03-01-{code}-01-01-01-{actor:02d}.wav", hz + 20 * actor)
    dims = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 8, "n_audio_layer": 2, "n_audio_head": 2}
    torch.manual_seed(0)
    whisper = WhisperForEmotion(emotion_config(dims, QUICK.hidden)).eval()
    clips = clips_in(tmp_path, ravdess_clip)
    folds = [frozenset({"ravdess/01", "ravdess/02"}), frozenset({"ravdess/03", "ravdess/04"})]
    views = (View("1 s", WindowPlan(1000, 1000)), View("1 s, degraded", WindowPlan(1000, 1000), degraded=True))
    out, cache = tmp_path / "out", tmp_path / "cache"
    figures = train(whisper, clips, out, folds=folds, options=QUICK, views=views, cache=cache)
    assert figures["unseen speakers"]["1 s"]["ravdess"]["wa"] == 100.0
    assert foreign(out, clips)["ravdess"]["clips"] == len(clips)
    sound = np.stack([read_sound(clip.path)[:16_000] for clip in clips])
    rows = AudioEmotionModel.load(out, window_seconds=1.0).predict(sound, np.full(len(clips), 16_000))
    assert [EMOTIONS[i] for i in rows.argmax(axis=1)] == [clip.emotion for clip in clips]


def test_the_model_card_tells_the_measured_figures() -> None:
    card = (SHIPPED / "README.md").read_text()
    measured = json.loads((SHIPPED / audio.METRICS_FILE).read_text())["unseen speakers"]
    figures = [corpus[key] for view in measured.values() for corpus in view.values() for key in ("wa", "uar")]
    assert len(figures) >= 4
    assert [figure for figure in figures if f"{figure}" not in card] == []
