"""The protocols: which speakers each fold tests, so that figures can be compared with published ones.

A figure counts only if nobody who is tested was heard or seen in training: `refuse_shared_speakers`.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.taxonomy import EMOTIONS

BoolArray = npt.NDArray[np.bool_]


class SharedSpeakers(ValueError):  # noqa: N818 - it names what is wrong
    """Raised when a speaker is on both sides of a split."""


@dataclass(frozen=True)
class Protocol:
    """A corpus with its labels and its folds.

    Attributes:
        name: of the corpus; a speaker is `name/actor`.
        emotions: the corpus's labels, in the order of `EMOTIONS`.
        folds: the speakers that each fold tests.

    Raises:
        ValueError: a speaker is tested twice, or a label is not one of `EMOTIONS`.
    """

    name: str
    emotions: tuple[str, ...]
    folds: tuple[frozenset[str], ...]

    def __post_init__(self) -> None:
        if sum(map(len, self.folds)) != len(frozenset().union(*self.folds)):
            raise ValueError(f"{self.name}: a speaker is tested in two folds")
        if self.emotions != tuple(name for name in EMOTIONS if name in self.emotions):
            raise ValueError(f"{self.name}: labels must be among {EMOTIONS} and in this order, got {self.emotions}")

    @property
    def known(self) -> BoolArray:
        """(8,) bool: which of `EMOTIONS` the corpus has."""
        return np.array([name in self.emotions for name in EMOTIONS])

    def fold_of(self, speaker: str) -> int:
        """The fold that tests a speaker.

        Raises:
            ValueError: none does.
        """
        for number, speakers in enumerate(self.folds):
            if speaker in speakers:
                return number
        raise ValueError(f"{self.name}: {speaker} is in no fold")


def splits(speakers: Sequence[str], folds: Sequence[Collection[str]]) -> Iterator[tuple[BoolArray, BoolArray]]:
    """For each fold, which of the clips to train on and which to test: (n,) bool each.

    Args:
        speakers: (n,) of the clips.
        folds: the speakers that each fold tests.

    Raises:
        SharedSpeakers: never, unless this very function is wrong.
    """
    everybody = np.asarray(speakers)
    for tested in folds:
        test = np.isin(everybody, list(tested))
        refuse_shared_speakers(everybody[~test], everybody[test])
        yield ~test, test


def refuse_shared_speakers(
    train: Collection[str] | npt.NDArray[np.str_], test: Collection[str] | npt.NDArray[np.str_]
) -> None:
    """Check a split by the speakers of its clips.

    Raises:
        SharedSpeakers: one of them is on both sides: such a figure would count for nothing.
    """
    shared = sorted({str(name) for name in train} & {str(name) for name in test})
    if shared:
        raise SharedSpeakers(f"speakers on both sides of the split: {', '.join(shared)}")


def _actors(corpus: str, folds: Sequence[Sequence[int]]) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(f"{corpus}/{actor:02d}" for actor in actors) for actors in folds)


def _without(*missing: str) -> tuple[str, ...]:
    return tuple(name for name in EMOTIONS if name not in missing)


# Luna-Jimenez et al. 2022, doi 10.3390/app12010327
RAVDESS = Protocol(
    "ravdess",
    EMOTIONS,
    _actors(
        "ravdess",
        ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22)),
    ),
)
# HiCMAE: Sun et al. 2024, arXiv 2401.05698
CREMA_D = Protocol(
    "crema-d",
    _without("calm", "surprised"),
    _actors(
        "crema-d", [range(a, b + 1) for a, b in ((1001, 1018), (1019, 1036), (1037, 1054), (1055, 1072), (1073, 1091))]
    ),
)
# A woman and a man in each fold; nobody has published figures on it.
JAVANESE = Protocol(
    "javanese", _without("calm", "disgust"), _actors("javanese", [(woman, woman + 5) for woman in range(1, 6)])
)
PROTOCOLS = {protocol.name: protocol for protocol in (RAVDESS, CREMA_D, JAVANESE)}


def joint_folds() -> tuple[frozenset[str], ...]:
    """Folds for one model of RAVDESS and CREMA-D together."""
    return tuple(a | b for a, b in zip(RAVDESS.folds, CREMA_D.folds, strict=True))
