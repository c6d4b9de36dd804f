"""Presets: which checkpoints a pipeline runs, and what identifies them. Reads JSON and hashes; loads no model."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from models.errors import ModelError
from models.fusion import Fusion

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
        audio, face: checkpoints for the voice and for faces.
        picture_rate_hz: pictures looked at in each second.
        fusion: the rule used unless the user names another.
    """

    name: str
    audio: Checkpoint
    face: Checkpoint
    picture_rate_hz: float = 5.0
    fusion: Fusion = field(default_factory=Fusion)


COMPACT = Preset("compact", Checkpoint(WEIGHTS / "audio"), Checkpoint(WEIGHTS / "face"))
PRESETS = {preset.name: preset for preset in (COMPACT,)}
