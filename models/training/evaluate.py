"""Every protocol, from raw media through the code that users run, to docs/accuracy.md.

    python -m models.training.evaluate --data FOLDER [--cache FOLDER] [--docs FOLDER]

FOLDER holds ravdess-audio, crema-d-audio, javanese-audio, javanese-video and fer2013-images, each as a folder or as a
.tar, and ravdess-face-probabilities.npz. Clips are read by the worker's reader and cut and gated as the worker does it.
The models of the folds are trained here, by a recipe for each side (`models.training.voice_recipe`,
`models.training.face_recipe`); whatever took long is kept in the cache, so a run that was stopped carries on.
"""

import argparse
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.expression import ExpressionModel
from models.fusion import RULES, Fusion, fuse
from models.presets import COMPACT, COMPACT_FACE
from models.taxonomy import EMOTIONS, N_EMOTIONS
from models.training import face as fer
from models.training import report, seen
from models.training.cache import Cache, default_folder
from models.training.corpora import Clip, clips_in, crema_d_clip, javanese_clip, ravdess_clip
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
from models.training.voice_recipe import FrozenEncoder, HeadModel, VoiceModel, VoiceRecipe

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Rows = list[FloatArray]  # by clip: (n, 8), its windows

SNRS_DB = (20.0, 10.0, 0.0)
CUTOFF_HZ = 5500.0  # above it CREMA-D has nothing
# Standard deviation of the noise that weakens a face: on the given log-probabilities; on the crops' grey levels.
WEAKENED = {"ravdess": 2.0, "javanese": 60.0}


@dataclass(frozen=True)
class Side:
    """What one side says of a corpus, each clip judged by the model of the fold that tests it.

    Attributes:
        rows: by clip, its windows over the corpus's labels.
        accuracies: by fold, the accuracy on held-out speakers of those trained on.
    """

    rows: Rows
    accuracies: tuple[float, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """A protocol with its clips: their labels and folds, (n,) each."""

    protocol: Protocol
    truth: IntArray
    folds: IntArray

    @classmethod
    def of(cls, protocol: Protocol, clips: Sequence[Clip]) -> "Corpus":
        truth = np.array([EMOTIONS.index(clip.emotion) for clip in clips])
        return cls(protocol, truth, np.array([protocol.fold_of(clip.speaker) for clip in clips]))

    def clip_rows(self, rows: Rows) -> FloatArray:
        """(n, 8): each clip's row."""
        return np.stack([clip_row(windows, self.protocol.known) for windows in rows])

    def figures(self, rows: Rows) -> dict[str, Any]:
        """All figures of a side, or of sides that were fused."""
        return figures(self.truth, self.clip_rows(rows), self.folds, self.protocol.known)

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
        data: the folder; cache: where what took long is kept.
        voice, face: how the models of the folds are made.
    """

    def __init__(self, data: Path, cache: Cache, voice: VoiceRecipe, face: FaceRecipe) -> None:
        self._data, self._cache, self._voice, self._face = data, cache, voice, face
        ravdess, crema_d = self._clips("ravdess-audio", ravdess_clip), self._clips("crema-d-audio", crema_d_clip)
        self._english = Recordings(ravdess + crema_d, cache)
        self._numbers = {"ravdess": range(len(ravdess)), "crema-d": range(len(ravdess), len(ravdess) + len(crema_d))}
        self._javanese = Recordings(self._clips("javanese-audio", javanese_clip), cache)
        self._videos = Recordings(self._clips("javanese-video", javanese_clip), cache)
        self._corpora = {
            "ravdess": Corpus.of(RAVDESS, ravdess),
            "crema-d": Corpus.of(CREMA_D, crema_d),
            "javanese": Corpus.of(JAVANESE, self._videos.clips),
        }

    def _clips(self, name: str, read_name: Callable[[Path], Clip]) -> list[Clip]:
        return clips_in(unpacked(self._data, name, self._cache.folder), read_name)

    def run(self) -> dict[str, Any]:
        """Everything; the keys of accuracy.json."""
        for recordings, what in (
            (self._videos, "javanese-video"), (self._javanese, "javanese-audio"), (self._english, "ravdess, crema-d")
        ):  # fmt: skip
            recordings.read(what)
        found: dict[str, Any] = {"measured": self._measured(), "fer2013": {"face": self._fer2013()}}
        voices = self._voices(AS_RECORDED)
        found |= {name: {"audio": self._corpora[name].figures(side.rows)} for name, side in voices.items()}
        faces = self._faces()
        for name, side in faces.items():
            both = fused(voices[name].rows, side.rows, [COMPACT.fusion] * len(side.rows))
            found[name]["face"] = self._corpora[name].figures(side.rows)
            found[name]["fused"] = self._corpora[name].figures(both)
        found["javanese"]["shipped"] = self._shipped()
        found["cross-corpus"] = self._cross_corpus()
        found["low-pass"] = self._low_pass(voices["ravdess"])
        noise = {snr_db: self._voices(noisy(snr_db)) for snr_db in SNRS_DB}
        found["noise"] = {
            name: {f"{snr_db:g}": self._brief(name, sides[name].rows) for snr_db, sides in noise.items()}
            for name in self._corpora
        }
        weak = self._faces(WEAKENED)
        found["fusion"] = {
            name: {
                "as recorded": self._rules(name, voices[name], faces[name]),
                **{f"voice with noise at {s:g} dB": self._rules(name, noise[s][name], faces[name]) for s in SNRS_DB},
                "face weakened": self._rules(name, voices[name], weak[name]),
            }
            for name in faces
        }
        return dict(rounded(found))

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

    def _brief(self, name: str, rows: Rows) -> dict[str, float]:
        found = self._corpora[name].figures(rows)
        return {key: found[key] for key in ("wa", "uar", "ece", "answered")}

    # --- the voice

    def _voices(self, take: Take, names: Sequence[str] = ("ravdess", "crema-d", "javanese")) -> dict[str, Side]:
        """Corpora, their clips judged by models that never heard the speakers."""
        english, speakers = self._english, [clip.speaker for clip in self._english.clips]
        wanted = [k for name in names for k in self._numbers.get(name, ())]
        rows: dict[int, FloatArray] = {}
        accuracies = []
        for train, test in splits(speakers, joint_folds()):
            model = self._trained(english, np.flatnonzero(train))
            numbers = [k for k in np.flatnonzero(test).tolist() if k in set(wanted)]
            rows |= dict(zip(numbers, model.judge(english, numbers, take), strict=True))
            accuracies.append(model.accuracy)
        sides = {name: [rows[k] for k in self._numbers[name]] for name in names if name in self._numbers}
        found = {name: Side(self._corpora[name].over(side), tuple(accuracies)) for name, side in sides.items()}
        return found | ({"javanese": self._javanese_voice(take)} if "javanese" in names else {})

    def _javanese_voice(self, take: Take) -> Side:
        """The videos, judged by models of the sound clips of other actors."""
        speakers = np.array([clip.speaker for clip in self._javanese.clips])
        tested = np.array([clip.speaker for clip in self._videos.clips])
        rows: Rows = [np.zeros((0, N_EMOTIONS), np.float32)] * len(tested)
        accuracies = []
        for fold in JAVANESE.folds:
            train, test = ~np.isin(speakers, list(fold)), np.flatnonzero(np.isin(tested, list(fold)))
            refuse_shared_speakers(speakers[train], tested[test])
            model = self._trained(self._javanese, np.flatnonzero(train))
            for k, judged in zip(test, model.judge(self._videos, test.tolist(), take), strict=True):
                rows[k] = judged
            accuracies.append(model.accuracy)
        return Side(self._corpora["javanese"].over(rows), tuple(accuracies))

    def _trained(self, recordings: Recordings, clips: IntArray) -> VoiceModel:
        return self._voice.train(recordings, clips.tolist())

    # --- the face

    def _faces(self, noise: Mapping[str, float] | None = None) -> dict[str, Side]:
        """Each corpus with faces, its clips judged by models that never saw their actors; noise on what is judged."""
        sides = {name: self._seen(name, 0.0) for name in WEAKENED}
        judged = sides if noise is None else {name: self._seen(name, level) for name, level in noise.items()}
        return {name: self._judged(name, sides[name], judged[name]) for name in sides}

    def _seen(self, name: str, noise: float) -> list[Faces]:
        if name == "ravdess":
            given = self._data / "ravdess-face-probabilities.npz"
            return seen.of_ravdess(given, self._english, self._numbers[name], noise)
        return seen.of_videos(self._videos, noise).faces

    def _judged(self, name: str, clean: Sequence[Faces], judged: Sequence[Faces]) -> Side:
        corpus, speakers = self._corpora[name], [clip.speaker for clip in clean]
        rows: Rows = [np.zeros((0, N_EMOTIONS), np.float32)] * len(clean)
        accuracies = []
        for train, test in splits(speakers, corpus.protocol.folds):
            model = self._face.train([clean[k] for k in np.flatnonzero(train).tolist()], corpus.truth[train])
            numbers = np.flatnonzero(test).tolist()
            for k, found in zip(numbers, model.judge([judged[k] for k in numbers]), strict=True):
                rows[k] = found
            accuracies.append(model.accuracy)
        return Side(rows, tuple(accuracies))

    def _fer2013(self) -> dict[str, Any]:
        """The shipped network on PrivateTest, of which it was trained on no picture."""
        test = fer.read_images(unpacked(self._data, "fer2013-images", self._cache.folder) / "test", "PrivateTest")
        rows = ExpressionModel.load(COMPACT_FACE.folder).predict(test.pixels.numpy())
        truth = np.array([EMOTIONS.index(name) for name in fer.LABELS])[test.labels.numpy()]
        return figures(truth, rows, np.zeros(len(truth), np.int64), np.asarray(~np.isnan(rows).all(axis=0)))

    # --- both

    def _shipped(self) -> dict[str, Any]:
        """What users get: the shipped models on the videos, whose actors they never met."""
        corpus, videos = self._corpora["javanese"], self._videos
        voice = HeadModel.shipped(FrozenEncoder()).judge(videos, range(len(videos.clips)))
        face = seen.of_videos(videos).shipped
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
            numbers = np.arange(len(trained_on.clips)) if source == "javanese" else np.array(self._numbers[source])
            model = self._trained(trained_on, numbers)
            for target in self._corpora:
                if target != source:
                    found.append({"trained_on": source, "tested_on": target, **self._foreign(model, source, target)})
        return found

    def _foreign(self, model: VoiceModel, source: str, target: str) -> dict[str, Any]:
        corpus = self._corpora[target]
        shared = corpus.protocol.known & self._corpora[source].protocol.known
        tested_on = self._videos if target == "javanese" else self._english
        numbers = list(self._numbers.get(target, range(len(corpus.truth))))
        rows = np.stack([clip_row(windows, shared) for windows in model.judge(tested_on, numbers)])
        both = shared[corpus.truth]
        measured = scores(corpus.truth[both], predicted(rows[both]), shared)
        return {"labels": int(shared.sum()), "clips": int(both.sum()), "wa": measured["wa"], "uar": measured["uar"]}

    def _low_pass(self, voice: Side) -> dict[str, Any]:
        """How the share of clips that are called calm or surprised changes when RAVDESS loses what CREMA-D lacks."""
        corpus = self._corpora["ravdess"]
        limited = self._voices(band_limited(CUTOFF_HZ), ("ravdess",))["ravdess"]
        shares = [
            float(np.mean(np.isin(corpus.labels(rows), [EMOTIONS.index("calm"), EMOTIONS.index("surprised")])))
            for rows in (voice.rows, limited.rows)
        ]
        changed = float(np.mean(corpus.labels(voice.rows) != corpus.labels(limited.rows)))
        before, after = shares
        return {"cutoff_hz": CUTOFF_HZ, "share_before": before, "share_after": after, "change": after - before,
                "labels_changed": changed, **self._brief("ravdess", limited.rows)}  # fmt: skip


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
    found = Evaluation(given.data, Cache(given.cache), FrozenEncoder(), FrameStatistics()).run()
    report.write(found, given.docs)
    print(f"{given.docs / 'accuracy.md'}, accuracy.json and the pictures in {given.docs / 'accuracy'}/ are written")


if __name__ == "__main__":
    main()
