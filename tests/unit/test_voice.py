"""Voice activity: the same whatever the pieces, high on speech, low on what is not, and without torch."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models import voice
from models.errors import ModelError
from models.voice import CHUNK_SAMPLES, SAMPLE_RATE_HZ, VoiceDetector
from tests.sound import read_sound

N_SAMPLES = 4 * SAMPLE_RATE_HZ
TIMES_SECONDS = np.arange(N_SAMPLES) / SAMPLE_RATE_HZ


def probabilities(samples: np.ndarray) -> np.ndarray:
    detector = VoiceDetector()
    return np.concatenate([detector.feed(samples), detector.flush()])


def chords() -> np.ndarray:
    """Four plucked chords of five harmonics each: as near to music as arithmetic comes."""
    sound = np.zeros(N_SAMPLES, np.float32)
    for second, root_hz in enumerate((220.0, 174.6, 261.6, 196.0)):
        t = TIMES_SECONDS[:SAMPLE_RATE_HZ]
        notes = [root_hz * ratio for ratio in (1.0, 1.26, 1.5)]
        chord = sum(np.sin(2 * np.pi * hz * k * t) / k for hz in notes for k in range(1, 6))
        sound[second * SAMPLE_RATE_HZ :][:SAMPLE_RATE_HZ] = 0.1 * chord * np.exp(-2 * t)
    return sound


NOT_SPEECH = {
    "silence": np.zeros(N_SAMPLES, np.float32),
    "tone": (0.3 * np.sin(2 * np.pi * 440 * TIMES_SECONDS)).astype(np.float32),
    "white noise": (0.1 * np.random.default_rng(0).standard_normal(N_SAMPLES)).astype(np.float32),
    "chords": chords(),
}


@pytest.fixture(scope="module")
def speech(media: Path) -> np.ndarray:
    """Four seconds of a man's speech to a crowd."""
    return read_sound(media / "obama_speech.mp4")[:N_SAMPLES]


@pytest.mark.parametrize("name", NOT_SPEECH)
def test_what_is_not_speech_is_low(name: str) -> None:
    assert np.mean(probabilities(NOT_SPEECH[name]) > 0.5) < 0.05


def test_speech_is_high_and_the_pause_before_it_low(speech: np.ndarray) -> None:
    found = probabilities(speech)
    loudness = np.sqrt(np.mean(np.square(speech.reshape(-1, CHUNK_SAMPLES)), axis=1))
    syllables = loudness > 0.02  # the hall behind him stays below 0.01
    assert syllables.sum() > 15
    assert np.mean(found[syllables] > 0.5) > 0.95
    assert found[: SAMPLE_RATE_HZ // CHUNK_SAMPLES].max() < 0.5  # he begins to speak after a second


def test_pieces_of_any_length_give_what_one_piece_gives(speech: np.ndarray) -> None:
    detector, whole = VoiceDetector(), probabilities(speech)
    pieces = np.split(speech, [0, 1, 511, 512, 1025, 1026, 20_000, 20_001, 50_333])
    in_pieces = np.concatenate([*(detector.feed(piece) for piece in pieces), detector.flush()])
    np.testing.assert_allclose(in_pieces, whole, atol=1e-5)
    assert whole.std() > 0.1  # else equality would say little


def test_long_feeds_are_run_in_parts_without_a_seam(speech: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = probabilities(speech)
    monkeypatch.setattr(voice, "MAX_CHUNKS", 7)
    np.testing.assert_allclose(probabilities(speech), whole, atol=1e-5)


def test_one_probability_for_each_whole_chunk_and_flush_ends_the_partial_one() -> None:
    detector = VoiceDetector()
    assert detector.feed(np.zeros(CHUNK_SAMPLES - 1, np.float32)).shape == (0,)
    assert detector.feed(np.zeros(CHUNK_SAMPLES + 2, np.float32)).shape == (2,)
    assert detector.flush().shape == (1,)
    assert detector.flush().shape == (0,)


def test_reset_starts_another_stream(speech: np.ndarray) -> None:
    detector = VoiceDetector()
    first = detector.feed(speech)
    detector.reset()
    second = detector.feed(speech)
    np.testing.assert_array_equal(first, second)


def test_probabilities_are_float32_between_0_and_1(speech: np.ndarray) -> None:
    found = probabilities(speech)
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1


def test_torch_is_not_imported() -> None:
    code = "import sys, numpy; from models.voice import VoiceDetector as V; V().feed(numpy.zeros(512, 'f')); "
    result = subprocess.run([sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True)
    assert result.stdout.decode().strip() == "False", result.stderr.decode()


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "silero.onnx"
    other.write_bytes(voice.weights_path().read_bytes() + b"x")
    monkeypatch.setattr(voice, "weights_path", lambda: other)
    with pytest.raises(ModelError, match=r"silero\.onnx: sha256"):
        VoiceDetector()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="silero-vad"):
        VoiceDetector()
