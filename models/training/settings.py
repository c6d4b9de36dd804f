"""What the user of `moodreel train` can choose."""

from dataclasses import dataclass
from pathlib import Path

from db.errors import BadOption
from models.checkpoints import HubCheckpoint
from models.labels import read_label_map
from models.training.examples import Examples, in_folder, in_manifest


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user asked for; the defaults are those of the command, which says what each is.

    Attributes:
        side: `audio` or `video`.
        model: the checkpoint to start from, a folder or a hub id.
        data, corpus: a folder of clips, and whose names they have; or
        manifest, speaker_pattern, label_map: as `models.training.examples.in_manifest` reads it.
        batch, accumulate: windows that are computed at once, and how often before the weights are changed.
        max_steps: changes of the weights, at most; None: as many as the epochs have.
        eval_steps: after how many steps it is measured and kept; None: after each epoch.
        patience: how many times in a row it may be measured without getting better.
    """

    side: str
    model: str
    out: Path
    data: Path | None = None
    corpus: str | None = None
    manifest: Path | None = None
    speaker_pattern: str | None = None
    label_map: Path | None = None
    test_speakers: tuple[str, ...] = ()
    test_share: float = 0.2
    validation_share: float = 0.15
    epochs: float = 10.0
    max_steps: int | None = None
    eval_steps: int | None = None
    learning_rate: float = 3e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    batch: int = 8
    accumulate: int = 1
    label_smoothing: float = 0.1
    class_weights: str = "balanced"
    patience: int = 3
    gradient_checkpointing: bool = False
    precision: str = "auto"
    seed: int = 42
    device: str = "auto"
    workers: int | None = None
    cache: Path | None = None

    def examples(self) -> Examples:
        """The clips.

        Raises:
            BadOption: neither or both of a folder and a manifest are given.
            MoodreelError, models.errors.LabelError: they cannot be read.
        """
        if (self.data is None) == (self.manifest is None):
            raise BadOption("name either a folder of clips with --data or a CSV file with --manifest")
        if self.manifest is None:
            if self.speaker_pattern or self.label_map:
                raise BadOption("--speaker-pattern and --label-map are for a --manifest; names of a corpus say it all")
            return in_folder(Path(str(self.data)), self.side, self.corpus)
        given = read_label_map(self.label_map, self.side) if self.label_map else None
        return in_manifest(self.manifest, speaker_pattern=self.speaker_pattern, given=given)


class StartCheckpoint(HubCheckpoint):
    """A checkpoint to start from: whatever its head is for, it gets a new one."""

    @property
    def kind(self) -> str:
        """What it is to become."""
        return self.side
