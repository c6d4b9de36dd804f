"""Clips that a small network can learn something from, and readers that take all sound for speech."""

import csv
import wave
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.clips import RATE_HZ, LoudListener, Pictures, steady, write
from worker.reader import ReaderPool

TONES_HZ = {"happy": 2400.0, "sad": 300.0}


class AllSpeech(LoudListener):
    """Hears speech in everything."""

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """One for each whole chunk, (m,) float32."""
        return np.ones_like(super().feed(samples))


def readers() -> ReaderPool:
    """Readers that gate nothing: all sound is speech, and each picture a face."""
    return ReaderPool(watcher="tests.clips:BoardWatcher", listener="tests.training:AllSpeech")


def write_tone(path: Path, hz: float, seconds: float = 2.0) -> Path:
    """A tone as a WAV file, 16 kHz mono."""
    times = np.arange(round(16_000 * seconds)) / 16_000
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((8000 * np.sin(2 * np.pi * hz * times)).astype("<i2").tobytes())
    return path


def write_bright(path: Path, left: bool, seconds: float = 2.0) -> Path:
    """A video without sound, bright on one side."""

    def paint(number: int, width: int, height: int) -> np.ndarray:
        picture = np.full((height, width, 3), 30 + number % 3, np.uint8)
        half = slice(0, width // 2) if left else slice(width // 2, width)
        picture[:, half] = 220
        return picture

    return write(path, Pictures(steady(seconds, RATE_HZ), paint=paint))


def write_manifest(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A CSV file with the columns of its first row."""
    rows = list(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def corpus_of_tones(folder: Path, speakers: str = "abcd", seconds: float = 2.0) -> Path:
    """A manifest of clips in which happy is a high tone and sad a low one; each speaker is a little off."""
    rows = [
        {"path": path.name, "label": label, "speaker": speaker}
        for offset, speaker in enumerate(speakers)
        for label, hz in TONES_HZ.items()
        for path in [write_tone(folder / f"{speaker}-{label}.wav", hz + offset, seconds)]
    ]
    return write_manifest(folder / "clips.csv", rows)


def corpus_of_sides(folder: Path, speakers: str = "abc") -> Path:
    """A manifest of videos in which happy is bright on the left and sad on the right."""
    rows = [
        {"path": path.name, "label": label, "speaker": speaker}
        for speaker in speakers
        for label in TONES_HZ
        for path in [write_bright(folder / f"{speaker}-{label}.mp4", label == "happy")]
    ]
    return write_manifest(folder / "clips.csv", rows)
