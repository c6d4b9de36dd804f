"""Presets: which checkpoints a pipeline runs, and what identifies them. Reads JSON and hashes; loads no model.

`compact` brings its own models. `paper` is the system of arXiv 2412.09317, wav2vec 2.0 for sound and ViViT for video,
or whatever other checkpoints of transformers the user names for the two.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from models.adaptation import Adaptation
from models.checkpoints import HubCheckpoint
from models.errors import ModelError
from models.fusion import Fusion
from models.labels import read_label_map

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Checkpoint:
    """A folder in Hugging Face layout: config.json and model.safetensors."""

    folder: Path

    def describe(self) -> dict[str, Any]:
        """What of the checkpoint decides the numbers: the hash of its weights and settings, and its labels in order.

        Raises:
            ModelError: a file is missing or is not JSON.
        """
        return dict(_describe(self.folder))

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotions that the model knows, in the order of its columns."""
        return tuple(self.describe()["labels"])

    @property
    def adaptation(self) -> Adaptation:
        """How the model's rows are adapted to a video: adaptation.json, made for these very weights.

        Raises:
            ModelError: the file cannot be read, or is of other weights.
        """
        path = self.folder / "adaptation.json"
        try:
            found = json.loads(path.read_text())
            if found.pop("sha256") != self.describe()["sha256"]:
                raise ModelError(f"{path} was made for other weights; train it anew: models.training.adaptation")
            return Adaptation(**found)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error


@cache
def _describe(folder: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    try:
        for name in ("config.json", "model.safetensors"):
            digest.update((folder / name).read_bytes())
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"the model in {folder} cannot be read: {error}") from error
    names = config.get("labels") or [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
    return {"sha256": digest.hexdigest(), "labels": list(names)}


@dataclass(frozen=True)
class Preset:
    """The models of a pipeline and how often they look.

    Attributes:
        name: what the user asks for.
        audio: the checkpoint for the voice.
        face: the checkpoint for pictures, of faces or (kind `video`) whole.
        picture_rate_hz: pictures looked at for faces in each second, about; whole ones may come more often.
        fusion: the rule used unless the user names another.
        temporal: makes a window's row of its faces' rows; None: their mean is the window's.
    """

    name: str
    audio: Checkpoint | HubCheckpoint
    face: Checkpoint | HubCheckpoint
    picture_rate_hz: float = 5.0
    fusion: Fusion = field(default_factory=Fusion)
    temporal: Checkpoint | None = None

    @property
    def adaptation(self) -> Adaptation | None:
        """How the voice's rows are adapted to a video; None for other people's models.

        Raises:
            ModelError: what ships with our own cannot be read.
        """
        return self.audio.adaptation if isinstance(self.audio, Checkpoint) else None

    @property
    def options(self) -> dict[str, Any]:
        """What `preset_from` makes it of again, as plain JSON values."""
        sides = {"audio": self.audio, "video": self.face}
        named = {side: model for side, model in sides.items() if isinstance(model, HubCheckpoint)}
        refs = {side: named[side].ref if side in named else None for side in sides}
        labels = {side: dict(named[side].given or {}) if side in named else {} for side in sides}
        return {"name": self.name, **refs, "labels": labels}


COMPACT_AUDIO, COMPACT_FACE = Checkpoint(WEIGHTS / "audio"), Checkpoint(WEIGHTS / "face")
COMPACT_TEMPORAL = Checkpoint(WEIGHTS / "temporal")
COMPACT = Preset("compact", COMPACT_AUDIO, COMPACT_FACE, temporal=COMPACT_TEMPORAL)
PAPER_NEEDS = (
    "the preset paper brings no models: name its two checkpoints with --audio-model and --video-model, each a folder or"
    " an id on the Hugging Face hub, like --audio-model MysticShadow427/wav2vec2-speech-emotion-recognition-crema"
    " --video-model minhah/vivit-b-16x2-kinetics400-finetuned-crema-d"
)


def preset_of(name: str, audio: str | None = None, video: str | None = None, label_map: Path | None = None) -> Preset:
    """The preset with this name and these checkpoints.

    Args:
        name: `compact` or `paper`.
        audio, video: hub ids or folders; `compact` has its own where they are None, `paper` needs both.
        label_map: a file as `models.labels.read_label_map` reads it.

    Raises:
        ValueError: `paper` lacks a checkpoint, or there is nothing that the label map could be for.
        ModelError: the label map cannot be read.
    """
    if label_map is not None and not (audio or video):
        raise ValueError("--label-map is for the models of --audio-model and --video-model; neither is given")
    given = {side: read_label_map(label_map, side) if label_map else {} for side in ("audio", "video")}
    return preset_from({"name": name, "audio": audio, "video": video, "labels": given})


def preset_from(options: Mapping[str, Any]) -> Preset:
    """The preset that options describe.

    Args:
        options: `name`, `audio` and `video` as `preset_of` takes them; `labels`: what a label map says of each side.

    Raises:
        ValueError: `paper` lacks a checkpoint.
    """
    name, audio, video, labels = (options[key] for key in ("name", "audio", "video", "labels"))
    if name == "paper" and not (audio and video):
        raise ValueError(PAPER_NEEDS)
    return Preset(
        name,
        HubCheckpoint(audio, "audio", labels["audio"]) if audio else COMPACT_AUDIO,
        HubCheckpoint(video, "video", labels["video"]) if video else COMPACT_FACE,
        temporal=None if video else COMPACT_TEMPORAL,
    )
