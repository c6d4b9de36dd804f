"""What other people's models call the emotions, and how their outputs become ours. Knows no model."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import LabelError
from models.taxonomy import EMOTIONS, FloatArray, widen

# Names seen in the cards and configurations of models for RAVDESS, CREMA-D, IEMOCAP, TESS, MELD, FER2013 and AffectNet.
ALIASES: dict[str, tuple[str, ...]] = {
    "neutral": ("neu", "neutrality", "no emotion"),
    "calm": ("cal", "calmness"),
    "happy": ("hap", "happiness", "joy", "joyful"),
    "sad": ("sadness",),
    "angry": ("ang", "anger"),
    "fearful": ("fea", "fear", "scared", "afraid"),
    "disgust": ("dis", "disgusted"),
    "surprised": ("sur", "surprise", "pleasant surprise", "pleasant surprised", "ps"),
}
_BY_NAME = {name: emotion for emotion in EMOTIONS for name in (emotion, *ALIASES[emotion])}

Given = Mapping[str, str | None]


@dataclass(frozen=True)
class LabelMap:
    """How a model's outputs become emotions.

    Attributes:
        names: the model's own labels, in the order of its outputs.
        targets: for each of them the emotion that it counts for; None: its output is left out.
    """

    names: tuple[str, ...]
    targets: tuple[str | None, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotions that the model knows, in the order of `EMOTIONS`."""
        return tuple(emotion for emotion in EMOTIONS if emotion in self.targets)

    def widen(self, probabilities: npt.ArrayLike) -> FloatArray:
        """Sum the outputs that mean the same emotion and share out what was left out.

        Args:
            probabilities: (n, len(names)), rows that sum to 1.

        Returns:
            (n, 8) float32 in the order of `EMOTIONS`; rows sum to 1 over `labels`, the others are NaN.
        """
        own = np.asarray(probabilities, np.float64)
        sums = own @ np.array([[target == label for label in self.labels] for target in self.targets], np.float64)
        total = sums.sum(axis=1, keepdims=True)
        even = np.full_like(sums, 1 / len(self.labels))  # all of the mass lay on outputs that were left out
        return widen(np.divide(sums, total, out=even, where=total > 0), self.labels)


def map_labels(names: Sequence[str], given: Given | None = None, *, of: str = "the model") -> LabelMap:
    """Find each label's emotion: by the given mapping, by name, or by an alias; case and spaces do not matter.

    Args:
        names: the model's own labels, in the order of its outputs.
        given: label to emotion, or to None to leave it out; it goes before names and aliases.
        of: the model, for messages.

    Raises:
        LabelError: a label stays unknown, or fewer than two emotions are left; the message prints the labels and says
            how to write the mapping.
    """
    chosen = {_plain(label): emotion for label, emotion in (given or {}).items()}
    unknown = [name for name in names if _plain(name) not in chosen and _plain(name) not in _BY_NAME]
    if unknown:
        raise LabelError(_unknown_labels(names, unknown, of))
    targets = tuple(chosen[key] if (key := _plain(name)) in chosen else _BY_NAME[key] for name in names)
    if len(set(targets) - {None}) < 2:
        raise LabelError(f"{of} knows fewer than two emotions: its labels are {', '.join(names)}")
    return LabelMap(tuple(names), targets)


def _unknown_labels(names: Sequence[str], unknown: Sequence[str], of: str) -> str:
    example = json.dumps(dict.fromkeys(unknown, "..."), ensure_ascii=False)
    return (
        f"{of} has labels that mean no emotion here ({', '.join(unknown)}, of {', '.join(names)}). Write a JSON file"
        f" that says for each one of {', '.join(EMOTIONS)}, or null to leave it out, like {example}, and name it with"
        " --label-map"
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", str(name)).strip().casefold()


def read_label_map(path: Path, side: str) -> dict[str, str | None]:
    """Read a mapping file: {"model's label": "emotion" or null}, or one such object under each of "audio", "video".

    Args:
        side: `audio` or `video`: which of the two is wanted, where the file tells them apart.

    Raises:
        LabelError: the file cannot be read, or does not hold such a mapping.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabelError(f"the label map {path} cannot be read: {error}") from error
    if isinstance(content, dict) and content and set(content) <= {"audio", "video"}:
        content = content.get(side, {})
    if not isinstance(content, dict) or not all(v is None or v in EMOTIONS for v in content.values()):
        raise LabelError(
            f"the label map {path} must be a JSON object from the model's labels to null or one of"
            f' {", ".join(EMOTIONS)}, or two such objects under "audio" and "video"'
        )
    return content
