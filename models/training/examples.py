"""What to fine-tune on: the clips of a corpus's folder or of a manifest, whose emotion and speaker are known, and which
speakers are held out. Opens no media.
"""

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from db.errors import PathMissing, Untrainable
from models.checkpoints import VIDEO
from models.errors import LabelError
from models.labels import Given, map_labels
from models.taxonomy import EMOTIONS
from models.training.corpora import (
    CREMA_D_FAULTY,
    SOUND_SUFFIXES,
    VIDEO_SUFFIXES,
    Clip,
    crema_d_clip,
    javanese_clip,
    ravdess_clip,
)
from models.training.protocols import refuse_shared_speakers

PARTS = ("train", "validation", "test")
COLUMNS = ("path", "label")  # that a manifest must have
SPEAKER_HINT = (
    "without it nobody can tell whether the model is tested on people that it has heard or seen. Add the column, or say"
    " how the path tells the speaker, with --speaker-pattern: '([^/]+)/[^/]+$' where each person has a folder, '^(.*)$'"
    " where nobody is in two files"
)


@dataclass(frozen=True)
class Corpus:
    """How a corpus names its clips.

    Attributes:
        name: what users call it; title: what it is called, and its source.
        terms: what may be done with it; licence: the same as Hugging Face abbreviates it.
        pattern: the names, without suffix. Files of one `utterance` are one performance: sound, video or both.
        modalities: of sound and of video, the values of the group `modality` that will do, the best first.
    """

    name: str
    title: str
    terms: str
    licence: str
    pattern: re.Pattern[str]
    read_name: Callable[[Path], Clip]
    modalities: Mapping[str, tuple[str, ...]]


CORPORA = (
    Corpus(
        "ravdess",
        "RAVDESS, speech (Livingstone and Russo 2018, doi 10.1371/journal.pone.0196391)",
        "CC BY-NC-SA 4.0: non-commercial use only, and weights made from it are to be shared alike",
        "cc-by-nc-sa-4.0",
        re.compile(r"(?P<modality>0[123])(?P<utterance>-01-0[1-8](-\d\d){4})"),  # -02- is song
        ravdess_clip,
        {"audio": ("03", "01"), "video": ("01", "02")},  # 01 both, 02 video alone, 03 sound alone
    ),
    Corpus(
        "crema-d",
        "CREMA-D (Cao et al. 2014, doi 10.1109/TAFFC.2014.2336244)",
        "ODbL 1.0, its contents DbCL 1.0",
        "odbl",
        re.compile(r"(?P<modality>)(?P<utterance>\d{4}_[A-Z]{3}_(ANG|DIS|FEA|HAP|NEU|SAD)_[A-Z]{1,2})"),
        crema_d_clip,
        {"audio": ("",), "video": ("",)},
    ),
    Corpus(
        "javanese",
        "the Javanese talking faces",
        "no licence is stated: weights made from it are for measuring, not for giving away",
        "unknown",
        re.compile(r"(?P<modality>)(?P<utterance>\d\d-\d\d-0[1-6]_\d\d)"),
        javanese_clip,
        {"audio": ("",), "video": ("",)},
    ),
)


@dataclass(frozen=True)
class Examples:
    """Clips to train on and to test with.

    Attributes:
        clips: in the order of their paths.
        title, terms, licence: of the data, for the model card.
        left_out: sentences about files that are there and not used.
    """

    clips: tuple[Clip, ...]
    title: str
    terms: str
    licence: str
    left_out: tuple[str, ...] = ()

    @property
    def emotions(self) -> tuple[str, ...]:
        """The emotions that the clips show, in the order of `EMOTIONS`."""
        shown = {clip.emotion for clip in self.clips}
        return tuple(emotion for emotion in EMOTIONS if emotion in shown)


def in_folder(folder: Path, side: str, name: str | None = None) -> Examples:
    """The clips of a corpus, in a folder or below it; of each performance one file, the best for this side.

    Args:
        side: `audio` or `video`. Sound is taken from sound files if there are any, else from videos.
        name: of the corpus; None: the one whose names most files have.

    Raises:
        PathMissing: there is no such folder.
        Untrainable: it holds no clip of such a corpus.
    """
    if not folder.is_dir():
        raise PathMissing(f"{folder}: there is no such folder")
    suffixes = VIDEO_SUFFIXES if side == VIDEO else SOUND_SUFFIXES + VIDEO_SUFFIXES
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith("."))
    named = {c.name: [p for p in paths if c.pattern.fullmatch(p.stem)] for c in CORPORA if name in (None, c.name)}
    corpus = max((c for c in CORPORA if c.name in named), key=lambda c: len(named[c.name]))
    ranked: dict[str, tuple[tuple[int, int, str], Path]] = {}
    for path in named[corpus.name]:
        found = corpus.pattern.fullmatch(path.stem)
        if found is None or path.stem in CREMA_D_FAULTY or found["modality"] not in corpus.modalities[side]:
            continue
        rank = (corpus.modalities[side].index(found["modality"]), suffixes.index(path.suffix.lower()), str(path))
        ranked[found["utterance"]] = min((rank, path), ranked.get(found["utterance"], (rank, path)))
    if not ranked:
        wanted = name or " or ".join(c.name for c in CORPORA)
        raise Untrainable(
            f"{folder} holds no clip for {side} that is named as {wanted} names its clips ({len(paths)} files"
            f" {', '.join(suffixes)} were looked at); clips with other names need a --manifest"
        )
    clips = [corpus.read_name(path) for _, path in ranked.values()]
    plain = [replace(clip, speaker=clip.speaker.partition("/")[2]) for clip in clips]
    strangers = [path.name for path in paths if path not in set(named[corpus.name])]
    left_out = (f"{len(strangers)} files with names of another kind, like {strangers[0]}",) if strangers else ()
    ordered = tuple(sorted(plain, key=lambda clip: clip.path))
    return Examples(ordered, corpus.title, corpus.terms, corpus.licence, left_out)


def in_manifest(manifest: Path, *, speaker_pattern: str | None = None, given: Given | None = None) -> Examples:
    """The clips of a CSV file with the columns path, label, and if there are any speaker, start, end (seconds).

    Args:
        manifest: paths in it are its folder's.
        speaker_pattern: a regular expression whose first group, found in a path, is the speaker.
        given: labels to emotions, or to None to leave their clips out; without it by name.

    Raises:
        PathMissing: there is no such file.
        Untrainable: it cannot be read, lacks a column or the speakers, or a row of it makes no sense.
    """
    rows = _rows(manifest)
    if speaker_pattern is None and "speaker" not in rows[0][1]:
        raise Untrainable(f"{manifest} has no column speaker: {SPEAKER_HINT}")
    try:
        pattern = None if speaker_pattern is None else re.compile(speaker_pattern)
        labels = sorted({row["label"] for _, row in rows})
        targets = dict(zip(labels, map_labels(labels, given, of=str(manifest)).targets, strict=True))
    except (LabelError, re.error) as error:
        raise Untrainable(str(error)) from error
    clips = [
        Clip(manifest.parent / row["path"], emotion, _speaker(where, row, pattern), *_stretch(where, row))
        for where, row in rows
        if (emotion := targets[row["label"]]) is not None
    ]
    dropped = len(rows) - len(clips)
    left_out = (f"{dropped} clips whose labels the label map leaves out",) if dropped else ()
    terms = "not known to moodreel: whoever made the manifest knows them"
    return Examples(tuple(clips), f"a manifest, {manifest.name}", terms, "unknown", left_out)


def _rows(manifest: Path) -> list[tuple[str, dict[str, str]]]:
    """The rows, each with where it stands, for messages."""
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", skipinitialspace=True)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                has = ", ".join(reader.fieldnames or ("nothing",))
                lacks = " and no column ".join(missing)
                raise Untrainable(f"{manifest} has no column {lacks}; its first line is {has}")
            rows = [(f"{manifest}, line {reader.line_num}", _stripped(row)) for row in reader]
    except FileNotFoundError as error:
        raise PathMissing(f"{manifest}: there is no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Untrainable(f"{manifest} cannot be read: {error}") from error
    for where, row in rows:
        if not row["path"] or not row["label"]:
            raise Untrainable(f"{where}: no path, or no label")
    if not rows:
        raise Untrainable(f"{manifest} names no clip")
    return rows


def _stripped(row: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): value.strip() for name, value in row.items() if isinstance(value, str)}


def _speaker(where: str, row: Mapping[str, str], pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        if not row["speaker"]:
            raise Untrainable(f"{where}: no speaker; {SPEAKER_HINT}")
        return row["speaker"]
    found = pattern.search(row["path"])
    if found is None or not pattern.groups or not found[1]:
        raise Untrainable(f"{where}: --speaker-pattern {pattern.pattern!r} finds no speaker in {row['path']}")
    return found[1]


def _stretch(where: str, row: Mapping[str, str]) -> tuple[float, float | None]:
    try:
        start = float(row.get("start") or 0.0)
        end = float(row["end"]) if row.get("end") else None
    except ValueError as error:
        raise Untrainable(f"{where}: start and end are seconds; {error}") from error
    if not 0 <= start < math.inf or (end is not None and not start < end < math.inf):
        raise Untrainable(f"{where}: a stretch must end after its start, got {start:g} to {row.get('end')}")
    return start, end


@dataclass(frozen=True)
class Split:
    """Which speakers are for training, which for choosing when to stop, and which for the figures; sorted.

    Raises:
        models.training.protocols.SharedSpeakers: one is in two of them.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        refuse_shared_speakers(self.train, self.validation + self.test)
        refuse_shared_speakers(self.validation, self.test)

    @cached_property
    def parts(self) -> dict[str, str]:
        """Each speaker's part: `train`, `validation` or `test`."""
        return {speaker: part for part in PARTS for speaker in getattr(self, part)}


def split_speakers(
    clips: Sequence[Clip], *, validation_share: float, test_share: float, seed: int, test_speakers: Sequence[str] = ()
) -> Split:
    """Hold speakers out: those that are named, or by chance that share of all, at least one on each side.

    Raises:
        Untrainable: there are too few speakers, a name is nobody's, or an emotion is left without an example.
    """
    everybody = sorted({clip.speaker for clip in clips})
    nobody = sorted(set(test_speakers) - set(everybody))
    if nobody:
        raise Untrainable(f"nobody is called {', '.join(nobody)}; the speakers are {', '.join(everybody)}")
    n_test, n_validation = (max(1, round(share * len(everybody))) for share in (test_share, validation_share))
    drawn = [str(name) for name in np.random.default_rng(seed).permutation(everybody)]
    test = sorted(test_speakers or drawn[:n_test])
    others = [name for name in drawn if name not in test]
    validation, train = sorted(others[:n_validation]), sorted(others[n_validation:])
    if not train:
        raise Untrainable(
            f"{len(everybody)} speakers are too few ({', '.join(everybody)}): some are needed for training, others to"
            " choose when to stop, and yet others to test"
        )
    split = Split(tuple(train), tuple(validation), tuple(test))
    learned = {clip.emotion for clip in clips if split.parts[clip.speaker] == "train"}
    if unseen := sorted({clip.emotion for clip in clips} - learned):
        raise Untrainable(
            f"none of the speakers for training shows {', '.join(unseen)}: choose another --seed or --test-speakers"
        )
    return split
