"""Simulated videos: sets of clips of one speaker, or of several, of which one emotion takes a certain share.

They are what the adaptation to a video is trained and measured on (`models.training.adaptation`). Arrays in, arrays
out: knows no media and no models.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from models.adaptation import Adaptation, statistics, without_own_mean
from models.training.metrics import TINY

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Pool = Mapping[int, IntArray]  # a speaker's clips by emotion
Video = tuple[IntArray, int]  # its clips, and the emotion that dominates it; -1 for none
# Of a video's rows and labels: how much of its own mean is taken away.
Method = Callable[[FloatArray, BoolArray], float]

CLIPS, SHORT_CLIPS = 20, 4  # of a video to measure with
SHARES_PERCENT = (40, 55, 70, 85, 100)
PRIORS_WINDOWS = (60, 200)  # of an own mean that is mixed with so many windows of the mean speaker


@dataclass(frozen=True)
class Judged:
    """What a model says of clips whose speakers it never heard.

    Attributes:
        rows: by clip, (m, 8) float32: those of its windows that say anything, over all labels that the model has.
        truth: (n,) int64; speakers: (n,) str.
        known: (8,) bool, the corpus's labels.
    """

    rows: Sequence[FloatArray]
    truth: IntArray
    speakers: npt.NDArray[np.str_]
    known: BoolArray

    @classmethod
    def of(cls, rows: Sequence[FloatArray], truth: IntArray, speakers: Sequence[str], known: BoolArray) -> "Judged":
        """Without the windows, and the clips, of which nothing was said."""
        said = [clip[~np.isnan(clip).all(axis=1)] for clip in rows]
        kept = np.array([len(clip) > 0 for clip in said])
        return cls([clip for clip in said if len(clip)], truth[kept], np.asarray(speakers)[kept], known)

    def of_speakers(self, names: Collection[str], among: bool = True) -> "Judged":
        """The clips of these speakers, or of all the others."""
        chosen = np.isin(self.speakers, list(names), invert=not among)
        rows = [self.rows[k] for k in np.flatnonzero(chosen).tolist()]
        return Judged(rows, self.truth[chosen], self.speakers[chosen], self.known)

    @property
    def labels(self) -> BoolArray:
        """(8,) those that the model has."""
        return np.asarray(~np.isnan(self.rows[0]).any(axis=0))

    @cached_property
    def pools(self) -> dict[str, Pool]:
        """By speaker and emotion, the clips."""
        found: dict[str, Pool] = {}
        for speaker in np.unique(self.speakers):
            mine = self.speakers == speaker
            found[str(speaker)] = {int(e): np.flatnonzero(mine & (self.truth == e)) for e in np.flatnonzero(self.known)}
        return found


def over(rows: FloatArray, labels: BoolArray) -> FloatArray:
    """Rows over some of their labels, (n, 8): they sum to 1 again, and the others are NaN."""
    kept = np.where(labels, rows, np.nan)
    return np.asarray(kept / np.nansum(kept, axis=1, keepdims=True).clip(TINY), np.float32)


def dominated(random: np.random.Generator, pool: Pool, emotion: int | None, share: float, n_clips: int) -> IntArray:
    """About `n_clips` of a speaker's clips, of which one emotion takes a share and the others the rest equally.

    There are fewer where the speaker has too few; the share is kept.

    Args:
        emotion: which one; None for a balanced video.
    """
    others = [label for label in pool if label != emotion]
    counts = dict.fromkeys(pool, 0)
    rest = n_clips
    if emotion is not None:
        counts[emotion] = min(max(1, round(share * n_clips)), len(pool[emotion]))
        rest = round(counts[emotion] * (1.0 - share) / share)
    for label in others:
        counts[label] = rest // len(others)
    for label in random.choice(others, rest % len(others), replace=False):
        counts[int(label)] += 1
    taken = [random.choice(pool[k], min(n, len(pool[k])), replace=False) for k, n in counts.items() if n]
    return np.concatenate(taken)


def uneven(random: np.random.Generator, pool: Pool, n_clips: int) -> IntArray:
    """Clips of a speaker by shares that are drawn from a Dirichlet distribution."""
    counts = random.multinomial(n_clips, random.dirichlet(np.full(len(pool), 0.7)))
    taken = [random.choice(pool[k], min(n, len(pool[k])), replace=False) for k, n in zip(pool, counts, strict=True)]
    return np.concatenate(taken)


def videos_of(corpus: Judged, seed: int = 0) -> dict[str, list[Video]]:
    """Videos of each speaker, by kind: for each emotion that can dominate one, or two balanced ones.

    Those of several speakers, who show the same emotion most, are left out where there are too few.
    """
    random, found = np.random.default_rng(seed), dict[str, list[Video]]()
    for speaker, mine in corpus.pools.items():
        others = [pool for name, pool in corpus.pools.items() if name != speaker]
        random.shuffle(others)
        pair = [mine, *others[:1]] if others else []
        group = [mine, *others[:5]] if len(others) >= 3 else []

        def add(kind: str, pools: Sequence[Pool], emotion: int | None, percent: int, n_clips: int) -> None:
            if pools:
                parts = [dominated(random, pool, emotion, percent / 100, n_clips // len(pools)) for pool in pools]
                video = np.concatenate(parts), -1 if emotion is None else emotion
                found.setdefault(kind, []).append(video)

        found.setdefault("balanced, all clips", []).append((np.concatenate(list(mine.values())), -1))
        for _ in range(2):
            add("balanced", [mine], None, 0, CLIPS)
        for percent in SHARES_PERCENT:
            for emotion in mine:
                add(f"{percent} %", [mine], emotion, percent, CLIPS)
        for said, pools, n_clips in (
            (f"{SHORT_CLIPS} clips", [mine], SHORT_CLIPS),
            ("two speakers", pair, CLIPS),
            ("four to six speakers", group, 10 * len(group)),
        ):
            for _ in range(2):
                add(f"{said}, balanced", pools, None, 0, n_clips)
            for percent in (40, 70, 100):
                for emotion in mine:
                    add(f"{said}, {percent} %", pools, emotion, percent, n_clips)
    return found


def methods(adaptation: Adaptation) -> dict[str, Method]:
    """What is compared."""

    def with_prior(prior: int) -> Method:
        return lambda rows, labels: len(rows) / (len(rows) + prior)

    return {
        "none": lambda rows, labels: 0.0,
        "own mean": lambda rows, labels: 1.0,
        **{f"own mean, prior of {n} windows": with_prior(n) for n in PRIORS_WINDOWS},
        "adaptation": lambda rows, labels: adaptation.trust(statistics(rows, labels, adaptation.centre)),
    }


def accuracies(
    corpus: Judged, videos: Mapping[str, Sequence[Video]], centre: Sequence[float], method: Method
) -> dict[str, float]:
    """By kind of video, the share of clips that are right; the mean over the emotions that dominate.

    A clip's prediction is as in `metrics.clip_row`, over the corpus's labels.
    """
    rows = [over(clip, corpus.known) for clip in corpus.rows]
    found = {}
    for kind, members in videos.items():
        right: dict[int, list[bool]] = {}
        for clips, emotion in members:
            counts = np.array([len(rows[k]) for k in clips])
            windows = np.concatenate([rows[k] for k in clips])
            adapted = without_own_mean(windows, corpus.known, centre, method(windows, corpus.known))
            logs = np.where(corpus.known, np.log(np.maximum(adapted, TINY)), -np.inf)
            means = np.add.reduceat(logs, np.cumsum(counts) - counts, axis=0) / counts[:, None]
            right.setdefault(emotion, []).extend((means.argmax(axis=1) == corpus.truth[clips]).tolist())
        found[kind] = float(np.mean([np.mean(answers) for answers in right.values()]))
    return found
