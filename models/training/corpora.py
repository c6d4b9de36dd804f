"""Which clip of a corpus shows which emotion and who speaks, read from the file names.

Codings: RAVDESS, Livingstone and Russo 2018, doi 10.1371/journal.pone.0196391; CREMA-D, Cao et al. 2014,
doi 10.1109/TAFFC.2014.2336244; the Javanese corpus names its clips `AA-SS-EE_RR`.
"""

import csv
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.taxonomy import EMOTIONS

SOUND_SUFFIXES = (".opus", ".wav", ".flac", ".mp3")
VIDEO_SUFFIXES = (".mp4", ".flv", ".mkv", ".avi", ".mov", ".webm")
SUFFIXES = (*SOUND_SUFFIXES, ".mp4")

RAVDESS_EMOTIONS = dict(zip(("01", "02", "03", "04", "05", "06", "07", "08"), EMOTIONS, strict=True))
CREMA_D_EMOTIONS = {"ANG": "angry", "DIS": "disgust", "FEA": "fearful", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
JAVANESE_EMOTIONS = {
    "01": "neutral", "02": "sad", "03": "happy", "04": "surprised", "05": "fearful", "06": "angry",
}  # fmt: skip

CREMA_D_FAULTY = frozenset({"1040_ITH_SAD_X", "1076_MTI_SAD_XX"})  # misnamed; silent


@dataclass(frozen=True)
class Clip:
    """One clip: where it lies, what its actor was asked to show, and who that is (`corpus/actor`).

    It is the whole file, unless `start_seconds` and `end_seconds` (None: the file's end) say otherwise.
    """

    path: Path
    emotion: str
    speaker: str
    start_seconds: float = 0.0
    end_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.emotion not in EMOTIONS:
            raise ValueError(f"{self.path}: {self.emotion!r} is not one of {EMOTIONS}")

    @property
    def corpus(self) -> str:
        return self.speaker.split("/")[0]


def ravdess_clip(path: Path) -> Clip:
    """A clip named `MM-VV-EE-II-SS-RR-AA`."""
    fields = path.stem.split("-")
    return Clip(path, RAVDESS_EMOTIONS[fields[2]], f"ravdess/{fields[6]}")


def crema_d_clip(path: Path) -> Clip:
    """A clip named `AAAA_SSS_EEE_LL`."""
    fields = path.stem.split("_")
    return Clip(path, CREMA_D_EMOTIONS[fields[2]], f"crema-d/{fields[0]}")


def javanese_clip(path: Path) -> Clip:
    """A clip named `AA-SS-EE_RR`."""
    fields = path.stem.replace("_", "-").split("-")
    return Clip(path, JAVANESE_EMOTIONS[fields[2]], f"javanese/{fields[0]}")


def clips_in(folder: Path, read_name: Callable[[Path], Clip]) -> list[Clip]:
    """Every clip of a corpus in the order of the names, without the clips known to be faulty.

    Raises:
        FileNotFoundError: the folder holds no clip.
        ValueError: a file is not named as this corpus names its clips.
    """
    paths = sorted(p for p in folder.glob("*") if p.suffix in SUFFIXES and p.stem not in CREMA_D_FAULTY)
    if not paths:
        raise FileNotFoundError(f"no clips {SUFFIXES} in {folder}")
    return [_read_name(path, read_name) for path in paths]


def women_of_crema_d(actors: Path) -> frozenset[str]:
    """The speakers of CREMA-D who are women, by its `VideoDemographics.csv`: columns ActorID and Sex."""
    with actors.open(newline="", encoding="utf-8") as file:
        return frozenset(f"crema-d/{row['ActorID']}" for row in csv.DictReader(file) if row["Sex"] == "Female")


def is_woman(speaker: str, women_of_crema_d: Collection[str]) -> bool:
    """Whether a speaker is a woman: RAVDESS' even numbers and the Javanese corpus's first five are."""
    corpus, actor = speaker.split("/")
    if corpus == "crema-d":
        return speaker in women_of_crema_d
    return int(actor) % 2 == 0 if corpus == "ravdess" else int(actor) <= 5


def corpora(clips: Sequence[Clip]) -> list[str]:
    """The names of the corpora that the clips are of."""
    return sorted({clip.corpus for clip in clips})


def _read_name(path: Path, read_name: Callable[[Path], Clip]) -> Clip:
    try:
        return read_name(path)
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path}: not a name of this corpus") from error
