"""Every protocol, from raw media through the code that users run, to docs/accuracy.md.

    python -m models.training.evaluate --data FOLDER [--cache FOLDER] [--docs FOLDER]

FOLDER holds ravdess-audio, crema-d-audio, javanese-audio, javanese-video and fer2013-images, each as a folder or as a
.tar, ravdess-face-probabilities.npz and crema-d-actors.csv. Clips are read by the worker's reader and cut and gated as
the worker does it. The models of the folds are trained here, by a recipe for each side
(`models.training.voice_recipe`, `models.training.face_recipe`); whatever took long is kept in the cache, so a run that
was stopped carries on.
"""

import argparse
import platform
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.expression import ExpressionModel
from models.fusion import RULES, Fusion, fuse
from models.presets import COMPACT, COMPACT_FACE
from models.taxonomy import EMOTIONS, N_EMOTIONS
from models.training import adaptation, report, seen
from models.training import face as fer
from models.training.cache import Cache, default_folder, progress
from models.training.corpora import (
    Clip,
    clips_in,
    crema_d_clip,
    is_woman,
    javanese_clip,
    ravdess_clip,
    women_of_crema_d,
)
from models.training.face_recipe import FaceRecipe, Faces, FrameStatistics
from models.training.metrics import clip_row, figures, mcnemar, predicted, rounded, scores
from models.training.protocols import (
    CREMA_D,
    JAVANESE,
    RAVDESS,
    Protocol,
    joint_folds,
    refuse_shared_speakers,
    splits,
)
from models.training.recordings import (
    AS_RECORDED,
    Recordings,
    Take,
    band_limited,
    noisy,
    unpacked,
)
from models.training.simulated import Judged
from models.training.sound import CREMA_D_CUTOFF_HZ
from models.training.voice_recipe import FrozenEncoder, HeadModel, VoiceModel, VoiceRecipe

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Rows = list[FloatArray]  # by clip: (n, 8), its windows

SNRS_DB = (20.0, 10.0, 0.0)
# Standard deviation of the noise that weakens a face: on the given log-probabilities; on the crops' grey levels.
WEAKENED = {"ravdess": 2.0, "javanese": 60.0}
ENGLISH = ("ravdess", "crema-d")
NO_ROWS: FloatArray = np.zeros((0, N_EMOTIONS), np.float32)


@dataclass(frozen=True)
class Side:
    """What one side says of a corpus, each clip judged by the model of the fold that tests it.

    Attributes:
        rows: by clip, its windows over the corpus's labels.
        accuracies: by fold, the accuracy on held-out speakers of those trained on.
        wide: by clip, its windows over all labels that the model has.
    """

    rows: Rows
    accuracies: tuple[float, ...] = ()
    wide: Rows = field(default_factory=list)


@dataclass(frozen=True)
class Corpus:
    """A protocol with the clips that it tests.

    Attributes:
        recordings, numbers: the clips, and which of them.
        truth, folds: (n,) each, their labels and who tests them.
        women: (n,) bool, whether a woman speaks.
    """

    protocol: Protocol
    recordings: Recordings
    numbers: Sequence[int]
    truth: IntArray
    folds: IntArray
    women: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, protocol: Protocol, recordings: Recordings, women_of_crema_d: Collection[str]) -> "Corpus":
        """All its clips among the recordings."""
        numbers = [k for k, clip in enumerate(recordings.clips) if clip.corpus == protocol.name]
        clips = [recordings.clips[k] for k in numbers]
        truth = np.array([EMOTIONS.index(clip.emotion) for clip in clips])
        folds = np.array([protocol.fold_of(clip.speaker) for clip in clips])
        women = np.array([is_woman(clip.speaker, women_of_crema_d) for clip in clips])
        return cls(protocol, recordings, numbers, truth, folds, women)

    @property
    def speakers(self) -> list[str]:
        """(n,) who is heard or seen."""
        return [self.recordings.clips[k].speaker for k in self.numbers]

    def clip_rows(self, rows: Rows) -> FloatArray:
        """(n, 8): each clip's row."""
        return np.stack([clip_row(windows, self.protocol.known) for windows in rows])

    def figures(self, rows: Rows) -> dict[str, Any]:
        """All figures of a side, or of sides that were fused."""
        return figures(self.truth, self.clip_rows(rows), self.folds, self.protocol.known)

    def by_people(self, rows: Rows) -> dict[str, dict[str, float]]:
        """Accuracies of women's and men's clips, and of each actor's."""
        right, speakers = self.labels(rows) == self.truth, np.array(self.speakers)
        sexes = {"women": self.women, "men": ~self.women}
        return {
            "sex": {name: float(right[chosen].mean()) for name, chosen in sexes.items()},
            "actor": {name.split("/")[1]: float(right[speakers == name].mean()) for name in np.unique(speakers)},
        }

    def labels(self, rows: Rows) -> IntArray:
        """(n,) what each clip is predicted to show."""
        return predicted(self.clip_rows(rows))

    def over(self, rows: Rows) -> Rows:
        """Windows' rows over the corpus's own labels, which sum to 1; the others become NaN."""
        wide = [np.where(self.protocol.known, windows, np.nan) for windows in rows]
        return [np.asarray(w / np.nansum(w, axis=1, keepdims=True).clip(1e-12), np.float32) for w in wide]


class Evaluation:
    """All protocols on one folder of data.

    Args:
        data: the folder; kept: where what took long is kept.
        voice, face: how the models of the folds are made.
    """

    def __init__(self, data: Path, kept: Cache, voice: VoiceRecipe, face: FaceRecipe) -> None:
        self._data, self._cache, self._voice, self._face = data, kept, voice, face
        ravdess, crema_d = self._clips("ravdess-audio", ravdess_clip), self._clips("crema-d-audio", crema_d_clip)
        self._english = Recordings(ravdess + crema_d, kept)
        self._javanese = Recordings(self._clips("javanese-audio", javanese_clip), kept)
        self._videos = Recordings(self._clips("javanese-video", javanese_clip), kept)
        self._videos_seen = cache(partial(seen.of_videos, self._videos))  # of how much noise
        self._women = women_of_crema_d(data / "crema-d-actors.csv")
        english = {protocol.name: Corpus.of(protocol, self._english, self._women) for protocol in (RAVDESS, CREMA_D)}
        self._corpora = {**english, "javanese": Corpus.of(JAVANESE, self._videos, self._women)}

    def _clips(self, name: str, read_name: Callable[[Path], Clip]) -> list[Clip]:
        return clips_in(unpacked(self._data, name, self._cache.folder), read_name)

    @classmethod
    def of_shipped(cls, data: Path, kept: Cache) -> "Evaluation":
        """By the recipes of the shipped models."""
        return cls(data, kept, FrozenEncoder(), FrameStatistics())

    def run(self) -> dict[str, Any]:
        """Everything; the keys of accuracy.json."""
        for recordings, what in (
            (self._english, "RAVDESS, CREMA-D"),
            (self._javanese, "Javanese sound"),
            (self._videos, "Javanese videos"),
        ):
            recordings.read(what)
        found: dict[str, Any] = {"measured": self._measured(), "fer2013": {"face": self._fer2013()}}
        voices = {name: self._voice_of(corpus) for name, corpus in self._corpora.items()}
        faces = {name: self._face_of(name) for name in WEAKENED}
        found |= {name: self._sides(name, side.rows, faces.get(name)) for name, side in voices.items()}
        found["javanese"]["shipped"] = self._shipped()
        found["cross-corpus"] = self._cross_corpus()
        found["low-pass"] = self._low_pass(voices["ravdess"])
        noise = {
            name: {take.name: self._voice_of(corpus, take) for take in (AS_RECORDED, *map(noisy, SNRS_DB))}
            for name, corpus in self._corpora.items()
        }
        found["noise"] = {
            name: {take: self._brief(self._corpora[name], side.rows) for take, side in takes.items()}
            for name, takes in noise.items()
        }
        found["fusion"] = {
            name: {
                **{f"voice {take}": self._rules(name, side, faces[name]) for take, side in noise[name].items()},
                "weaker face model": self._rules(name, voices[name], self._face_of(name, level, level)),
                "face disturbed": self._rules(name, voices[name], self._face_of(name, 0.0, level)),
            }
            for name, level in WEAKENED.items()
        }
        english = {name: self._judged(self._corpora[name], voices[name]) for name in ENGLISH}
        sound = Corpus.of(JAVANESE, self._javanese, self._women)
        found["adaptation"] = adaptation.measure(english, self._judged(sound, self._voice_of(sound)))
        return dict(rounded(found))

    def _sides(self, name: str, voice: Rows, face: Side | None) -> dict[str, Any]:
        """The figures of a corpus's sides and of both fused."""
        corpus, sides = self._corpora[name], {"audio": voice}
        if face is not None:
            sides |= {"face": face.rows, "fused": fused(voice, face.rows, [COMPACT.fusion] * len(voice))}
        return {side: corpus.figures(rows) | {"people": corpus.by_people(rows)} for side, rows in sides.items()}

    def english(self) -> dict[str, Judged]:
        """RAVDESS and CREMA-D, judged by models that never heard the clips' speakers."""
        self._english.read("RAVDESS, CREMA-D")
        return {name: self._judged(self._corpora[name], self._voice_of(self._corpora[name])) for name in ENGLISH}

    @staticmethod
    def _judged(corpus: Corpus, side: Side) -> Judged:
        """What was said of all clips; the Javanese models learned the corpus's labels only."""
        rows = side.rows if corpus.protocol is JAVANESE else side.wide
        return Judged.of(rows, corpus.truth, corpus.speakers, corpus.protocol.known)

    def _measured(self) -> dict[str, Any]:
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "voice_recipe": self._voice.identity,
            "fusion": COMPACT.fusion.rule,
            "clips": {name: len(corpus.truth) for name, corpus in self._corpora.items()},
            "weakened_face": WEAKENED,
        }

    @staticmethod
    def _brief(corpus: Corpus, rows: Rows) -> dict[str, float]:
        found = corpus.figures(rows)
        return {key: found[key] for key in ("wa", "uar", "ece", "answered", "clips")}

    def _voice_of(self, corpus: Corpus, take: Take = AS_RECORDED) -> Side:
        """Clips judged by models that never heard their speakers.

        Those of RAVDESS and CREMA-D are of both together; those for the Javanese videos are of the sound clips.
        """
        of_videos = corpus.protocol is JAVANESE
        trained_on, folds = (self._javanese, JAVANESE.folds) if of_videos else (self._english, joint_folds())
        everybody, tested = (np.array(names) for names in ([c.speaker for c in trained_on.clips], corpus.speakers))
        rows: Rows = [NO_ROWS] * len(tested)
        accuracies = []
        for fold in progress(f"voice models for {corpus.protocol.name}, {take.name}", folds):
            train, test = ~np.isin(everybody, list(fold)), np.flatnonzero(np.isin(tested, list(fold))).tolist()
            refuse_shared_speakers(everybody[train], tested[test])
            model = self._voice.train(trained_on, np.flatnonzero(train).tolist())
            for k, found in zip(test, self._heard(model, corpus, test, take), strict=True):
                rows[k] = found
            accuracies.append(model.accuracy)
        return Side(corpus.over(rows), tuple(accuracies), rows)

    @staticmethod
    def _heard(model: VoiceModel, corpus: Corpus, places: Sequence[int], take: Take = AS_RECORDED) -> Rows:
        return model.judge(corpus.recordings, [corpus.numbers[k] for k in places], take)

    def _face_of(self, name: str, trained: float = 0.0, judged: float = 0.0) -> Side:
        """Clips judged by models that never saw their actors; noise on what is trained on and on what is judged."""
        corpus, clean, disturbed = self._corpora[name], self._seen(name, trained), self._seen(name, judged)
        rows: Rows = [NO_ROWS] * len(clean)
        accuracies = []
        for train, test in splits(corpus.speakers, corpus.protocol.folds):
            model = self._face.train([clean[k] for k in np.flatnonzero(train).tolist()], corpus.truth[train])
            numbers = np.flatnonzero(test).tolist()
            for k, found in zip(numbers, model.judge([disturbed[k] for k in numbers]), strict=True):
                rows[k] = found
            accuracies.append(model.accuracy)
        return Side(rows, tuple(accuracies))

    def _seen(self, name: str, noise: float) -> list[Faces]:
        if name == "ravdess":
            corpus = self._corpora[name]
            given = self._data / "ravdess-face-probabilities.npz"
            return seen.of_ravdess(given, corpus.recordings, corpus.numbers, noise)
        return self._videos_seen(noise).faces

    def _fer2013(self) -> dict[str, Any]:
        """The shipped network on PrivateTest, of which it was trained on no picture."""
        test = fer.read_images(unpacked(self._data, "fer2013-images", self._cache.folder) / "test", "PrivateTest")
        rows = ExpressionModel.load(COMPACT_FACE.folder).predict(test.pixels.numpy())
        truth = np.array([EMOTIONS.index(name) for name in fer.LABELS])[test.labels.numpy()]
        return figures(truth, rows, np.zeros(len(truth), np.int64), np.asarray(~np.isnan(rows).all(axis=0)))

    # --- both

    def _shipped(self) -> dict[str, Any]:
        """What users get: the shipped models on the videos, whose actors they never met."""
        corpus = self._corpora["javanese"]
        voice = HeadModel.shipped(FrozenEncoder()).judge(corpus.recordings, corpus.numbers)
        face = self._videos_seen(0.0).shipped
        sides = {"audio": voice, "face": face, "fused": fused(voice, face, [COMPACT.fusion] * len(voice))}
        return {side: corpus.figures(rows) for side, rows in sides.items()}

    def _rules(self, name: str, voice: Side, face: Side) -> dict[str, Any]:
        """All rules, with even weights and with weights by accuracy, against the better of the two sides."""
        corpus = self._corpora[name]
        alone = {"audio": voice.rows, "face": face.rows}
        accuracies = {side: corpus.figures(rows)["wa"] for side, rows in alone.items()}
        best = max(accuracies, key=lambda side: accuracies[side])
        labels = corpus.labels(alone[best])
        weights = [a / (a + v) for a, v in zip(voice.accuracies, face.accuracies, strict=True)]
        found: dict[str, Any] = {**accuracies, "best": best, "audio_weights": weights, "rules": {}}
        for rule in RULES:
            even = [Fusion(rule)] * len(corpus.truth)
            by_accuracy = [Fusion(rule, audio_weight=weights[fold]) for fold in corpus.folds]
            found["rules"][rule] = {
                how: self._tested(corpus, fused(voice.rows, face.rows, fusions), labels)
                for how, fusions in (("even", even), ("by accuracy", by_accuracy))
            }
        return found

    @staticmethod
    def _tested(corpus: Corpus, rows: Rows, best: IntArray) -> dict[str, Any]:
        found = corpus.figures(rows)
        test = mcnemar(corpus.truth, corpus.labels(rows), best)
        return {key: found[key] for key in ("wa", "uar", "ece")} | test

    # --- what else may have been learned

    def _cross_corpus(self) -> list[dict[str, Any]]:
        """Trained on all of one corpus, tested on all of another, over the labels that both have."""
        found = []
        for source in self._corpora:
            trained_on = self._javanese if source == "javanese" else self._english
            numbers = [k for k, clip in enumerate(trained_on.clips) if clip.corpus == source]
            model = self._voice.train(trained_on, numbers)
            for target in self._corpora:
                if target != source:
                    found.append({"trained_on": source, "tested_on": target, **self._foreign(model, source, target)})
        return found

    def _foreign(self, model: VoiceModel, source: str, target: str) -> dict[str, Any]:
        corpus = self._corpora[target]
        shared = corpus.protocol.known & self._corpora[source].protocol.known
        judged = self._heard(model, corpus, range(len(corpus.truth)))
        rows = np.stack([clip_row(windows, shared) for windows in judged])
        both = shared[corpus.truth]
        measured = scores(corpus.truth[both], predicted(rows[both]), shared)
        return {"labels": int(shared.sum()), "clips": int(both.sum()), "wa": measured["wa"], "uar": measured["uar"]}

    def _low_pass(self, voice: Side) -> dict[str, Any]:
        """How the share of clips that are called calm or surprised changes when RAVDESS loses what CREMA-D lacks."""
        corpus = self._corpora["ravdess"]
        limited = self._voice_of(corpus, band_limited(CREMA_D_CUTOFF_HZ))
        shares = [
            float(np.mean(np.isin(corpus.labels(rows), [EMOTIONS.index("calm"), EMOTIONS.index("surprised")])))
            for rows in (voice.rows, limited.rows)
        ]
        changed = float(np.mean(corpus.labels(voice.rows) != corpus.labels(limited.rows)))
        before, after = shares
        return {"cutoff_hz": CREMA_D_CUTOFF_HZ, "share_before": before, "share_after": after, "change": after - before,
                "labels_changed": changed, **self._brief(corpus, limited.rows)}  # fmt: skip


def fused(voice: Rows, face: Rows, fusions: Sequence[Fusion]) -> Rows:
    """Both sides' windows, clip by clip, as the pipeline fuses them."""
    return [fuse(a, v, fusion) for a, v, fusion in zip(voice, face, fusions, strict=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m models.training.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets, packed or unpacked")
    parser.add_argument("--cache", type=Path, default=default_folder(), help="where what took long is kept")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where accuracy.md and accuracy.json go")
    given = parser.parse_args(arguments)
    found = Evaluation.of_shipped(given.data, Cache(given.cache)).run()
    report.write(found, given.docs)
    print(f"{given.docs / 'accuracy.md'}, accuracy.json and the pictures in {given.docs / 'accuracy'}/ are written")


if __name__ == "__main__":
    main()
