"""Training the emotion head: the corpora, label masks, the head, and degraded sound."""

import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.taxonomy import EMOTIONS
from models.training.corpora import (
    Clip,
    clips_in,
    crema_d_clip,
    javanese_clip,
    ravdess_clip,
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
from models.training.sound import degraded, low_pass, tilted
from tests.sound import read_sound

SIX = known_labels(("neutral", "happy", "sad", "angry", "fearful", "disgust"))
QUICK = HeadOptions(
    hidden=16, members=2, epochs=20, batch=16, input_dropout=0.0, hidden_dropout=0.0, peak_learning_rate=0.02
)


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


def test_a_degraded_window_is_the_same_sound_at_other_levels_speeds_and_bands() -> None:
    window = np.zeros(32_000, np.float32)
    window[:16_000] = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000) / 4
    heard = [degraded(window, 16_000, np.random.default_rng(seed)) for seed in range(40)]
    assert all(sound.shape == (32_000,) and sound.dtype == np.float32 for sound, _ in heard)
    assert all(not sound[length:].any() and sound[:length].any() for sound, length in heard)
    speeds = np.array([16_000 / length for _, length in heard])
    pitches_hz = np.array([np.abs(np.fft.rfft(s[:n])).argmax() * 16_000 / n for s, n in heard])
    np.testing.assert_allclose(pitches_hz, 440 * speeds, rtol=0.01)
    assert speeds.min() < 0.95 < 1.05 < speeds.max()
    assert 0.2 < np.mean(speeds == 1.0) < 0.6
    levels_db = [20 * np.log10(np.std(sound[:length]) * 4 * 2**0.5) for sound, length in heard]
    assert min(levels_db) < -8
    assert max(levels_db) > 4


def test_a_slowed_window_stays_as_long_as_it_was() -> None:
    full = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) / 9
    lengths = {degraded(full, 16_000, np.random.default_rng(seed))[1] for seed in range(20)}
    assert max(lengths) == 16_000
    assert min(lengths) < 15_000


def test_a_tilt_raises_high_against_low() -> None:
    times = np.arange(16_000) / 16_000
    low, high = np.sin(2 * np.pi * 800 * times), np.sin(2 * np.pi * 6200 * times)
    raised = tilted(low + high, 6.0)
    amplitudes = np.abs(np.fft.rfft(raised))[[800, 6200]] / 8000
    assert 20 * np.log10(amplitudes) == pytest.approx([0, 5.4], abs=0.1)  # 6200 + 200 Hz: 2.7 octaves above


def test_a_low_pass_takes_what_is_above() -> None:
    times = np.arange(16_000) / 16_000
    low, high = np.sin(2 * np.pi * 1000 * times), np.sin(2 * np.pi * 6000 * times)
    np.testing.assert_allclose(low_pass(low + high, 5500), low, atol=1e-6)


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


def test_a_corpus_of_four_times_as_many_clips_weighs_twice_as_much() -> None:
    rows = made_rows(("eight/1", "six/1", "six/2", "six/3", "six/4"), per_speaker=6)
    assert rows.weights[6:].sum() == pytest.approx(2 * rows.weights[:6].sum(), rel=1e-5)


def test_the_head_is_the_mean_of_its_members() -> None:
    rows = made_rows(("eight/1", "eight/2"))
    one, two = (train_head(rows, replace(QUICK, members=members)) for members in (1, 2))
    assert one[0].out_features == 16
    assert two[0].out_features == 32
    first, second = torch.split(two[2].weight.detach(), 16, dim=1)
    assert not torch.allclose(first, second)  # they began differently
    halves = [
        torch.nn.functional.linear(two[0](torch.from_numpy(rows.features)).relu()[:, part], 2 * weight)
        for part, weight in ((slice(0, 16), first), (slice(16, 32), second))
    ]
    expected = (halves[0] + halves[1]) / 2 + two[2].bias
    np.testing.assert_allclose(logits_of(two, rows), expected.detach(), rtol=1e-3, atol=1e-3)
    assert np.mean(halves[0].argmax(dim=1).numpy() == rows.emotions) > 0.8  # each is a head of its own
    assert np.mean(halves[1].argmax(dim=1).numpy() == rows.emotions) > 0.8


def test_the_temperature_undoes_a_sharpening() -> None:
    random = np.random.default_rng(0)
    true_logits = random.standard_normal((4000, 8)).astype(np.float32)
    drawn = (true_logits + random.gumbel(size=(4000, 8))).argmax(axis=1)  # a draw from their softmax
    rows = replace(made_rows(("eight/1",), per_speaker=4000), emotions=drawn)
    assert temperature(2 * true_logits, rows) == pytest.approx(2.0, rel=0.05)


def test_the_temperature_minds_whole_clips_as_well() -> None:
    random = np.random.default_rng(0)
    emotions = np.repeat(random.integers(0, 8, 1000), 3)
    logits = (2.0 * np.eye(8)[emotions] + random.standard_normal((3000, 8)) * 1.4).astype(np.float32)
    alone = replace(made_rows(("eight/1",), per_speaker=3000), emotions=emotions)
    of_clips = replace(alone, clips=np.repeat(np.arange(1000), 3))  # three windows, each with errors of its own
    assert temperature(logits, of_clips) < 0.9 * temperature(logits, alone)


def test_dividing_the_logits_is_folded_into_the_head() -> None:
    rows = made_rows(("eight/1",))
    head = train_head(rows, replace(QUICK, epochs=1))
    before = logits_of(head, rows)
    divide_logits(head, 2.0)
    np.testing.assert_allclose(logits_of(head, rows), before / 2, atol=1e-5)
