"""A pipeline's recipe: everything that decides the numbers. Its digest is the pipeline's identity.

Not in it, but stored beside the results as provenance: device, dtype and batch size.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from models import faces, mtcnn, voice
from models.calibration import Calibration
from models.fusion import Fusion
from models.presets import COMPACT, Preset, preset_from
from worker.protocol import SEARCH_SECONDS
from worker.sampling import Sampling
from worker.timeline import Smoothing
from worker.windows import WindowPlan

# Raised by hand whenever the code changes the numbers though no setting did.
SEMANTICS = 2


@dataclass(frozen=True)
class Gates:
    """When a modality of a window counts.

    Attributes:
        speech_probability: from which a 32 ms chunk of sound counts as speech.
        min_speech_share: of a window's chunks that must be speech for `ok`; below it the window has `no_speech`.
        min_face_share: of a window's pictures that must show a face for `ok`; below it the window has `no_face`.
    """

    speech_probability: float = 0.5
    min_speech_share: float = 0.25
    min_face_share: float = 0.25


@dataclass(frozen=True)
class Recipe:
    """All settings of one pipeline. Equal recipes give equal rows.

    Attributes:
        adapt: whether the voice's rows are adapted to the video, if the preset's voice model has what that takes.
    """

    preset: Preset = COMPACT
    plan: WindowPlan = field(default_factory=WindowPlan)
    fusion: Fusion = field(default_factory=Fusion)
    gates: Gates = field(default_factory=Gates)
    smoothing: Smoothing = field(default_factory=Smoothing)
    calibration: Calibration = field(default_factory=Calibration)
    adapt: bool = True

    @cached_property
    def sampling(self) -> Sampling:
        """How the pictures are taken."""
        return Sampling.of(self.preset, self.plan)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The recipe as plain JSON values, as it is stored in `pipelines.config`.

        Raises:
            models.errors.ModelError: a weights file is missing or unreadable.
        """
        return {
            "semantics": SEMANTICS,
            "preset": self.preset.name,
            "audio": self.preset.audio.describe(),
            "face": self.preset.face.describe(),
            "voice_detector": {"sha256": voice.WEIGHTS_SHA256},
            "face_detector": _face_detector(),
            **self.sampling.describe(self.preset),
            **{name: asdict(getattr(self, name)) for name in _PARTS},
            "adaptation": self._adaptation,
            **({"temporal": self.preset.temporal.describe()} if self.preset.temporal else {}),
        }

    @property
    def _adaptation(self) -> dict[str, Any] | None:
        found = self.preset.adaptation if self.adapt else None
        return found.config if found else None

    @property
    def options(self) -> dict[str, Any]:
        """What `from_options` makes the recipe of again, as plain JSON values."""
        parts = {name: asdict(getattr(self, name)) for name in _PARTS}
        return {"preset": self.preset.options, "adapt": self.adapt, **parts}

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "Recipe":
        """The recipe that options describe, with the checkpoints as they are on this machine.

        Raises:
            ValueError, KeyError, TypeError: the options are of another version of moodreel.
        """
        parts = {name: kind(**options[name]) for name, kind in _PARTS.items()}
        return cls(preset_from(options["preset"]), adapt=options["adapt"], **parts)

    @cached_property
    def identity(self) -> "Identity":
        """The digests of the configuration, and its name."""
        return Identity.of(self.config)


_PARTS: dict[str, Any] = {
    "plan": WindowPlan,
    "gates": Gates,
    "fusion": Fusion,
    "smoothing": Smoothing,
    "calibration": Calibration,
}

# What of a configuration is used only when a video's windows are all there.
FINISHING = frozenset({"fusion", "smoothing", "calibration", "adaptation"})


@dataclass(frozen=True)
class Identity:
    """What a configuration is known by.

    Attributes:
        config: the configuration.
        digest: SHA-256 of the configuration in canonical JSON, in hexadecimal: the pipeline's identity.
        windows_digest: the same without what only finishing uses: the identity of its windows.
        name: for people, like `compact 2s/1s log-linear`.
    """

    config: dict[str, Any]
    digest: str
    windows_digest: str
    name: str

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Identity":
        """The identity of a configuration as `Recipe.config` gives it."""
        plan = config["plan"]
        lengths = f"{plan['window_ms'] / 1000:g}s/{plan['hop_ms'] / 1000:g}s"
        name = f"{config['preset']} {lengths} {config['fusion']['rule']}"
        windows = {key: value for key, value in config.items() if key not in FINISHING}
        return cls(config, _digest(config), _digest(windows), name)


def _digest(config: dict[str, Any]) -> str:
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _face_detector() -> dict[str, Any]:
    return {
        "code": faces.SEMANTICS,
        "sha256": mtcnn.WEIGHTS_SHA256,
        "min_face_size": mtcnn.MIN_FACE_SIZE,
        "pyramid_factor": mtcnn.PYRAMID_FACTOR,
        "step_thresholds": list(mtcnn.STEP_THRESHOLDS),
        "min_confidence": faces.MIN_FACE_CONFIDENCE,
        "min_followed_confidence": faces.MIN_FOLLOWED_CONFIDENCE,
        "search_seconds": SEARCH_SECONDS,
        "max_followed": faces.MAX_FOLLOWED,
        "cut_difference": faces.CUT_DIFFERENCE,
        "template": faces.TEMPLATE.tolist(),
    }
