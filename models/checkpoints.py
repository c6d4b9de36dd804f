"""Checkpoints of other people, by hub id or folder: where they lie, what they are, and what identifies them.

Reads JSON and hashes; loads no model (`models.hub` does) and imports no torch, so that a run in which all is done
stays quick. The network is asked only for a hub id that the local cache does not hold.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from models.errors import ModelError
from models.labels import Given, LabelMap, map_labels

CONFIG_FILE, PROCESSOR_FILE = "config.json", "preprocessor_config.json"
SAFETENSORS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json")
HASH_BLOCK_BYTES = 1 << 22

AUDIO, VIDEO, IMAGE = "audio", "video", "image"
KINDS = {
    "ForVideoClassification": VIDEO,
    "ForImageClassification": IMAGE,
    "ForSequenceClassification": AUDIO,
    "ForAudioClassification": AUDIO,
}

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Geometry:
    """Which part of a picture a model looks at, in pixels.

    Attributes:
        side_pixels: of the square that it takes.
        resize_pixels: to what the picture's short side is brought before that square is cut out of its middle; None:
            the whole picture is squeezed into the square.
    """

    side_pixels: int
    resize_pixels: int | None = None


@dataclass(frozen=True)
class HubCheckpoint:
    """A classification checkpoint in the layout of Hugging Face.

    Attributes:
        ref: a folder, or an id on the hub like `owner/name`.
        side: what it is to judge: `audio` or `video`.
        given: labels mapped by the user; see `models.labels.map_labels`.

    Raises (from every property and method):
        ModelError: it cannot be found, read, or used for this side; its labels cannot be mapped.
    """

    ref: str
    side: str
    given: Given | None = None

    @cached_property
    def folder(self) -> Path:
        """Where its files lie."""
        return find(self.ref)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's settings."""
        return self._read(CONFIG_FILE)

    @cached_property
    def kind(self) -> str:
        """`audio`, `video` (whole pictures over time) or `image` (one face)."""
        name = str((self.config.get("architectures") or ["a model without a name"])[0])
        kind = next((kind for ending, kind in KINDS.items() if ending in name), None)
        if kind is None or (kind == AUDIO) != (self.side == AUDIO):
            wanted = "an audio" if self.side == AUDIO else "a video or image"
            raise ModelError(f"{self.ref} is {name}, not {wanted} classification checkpoint")
        return kind

    @cached_property
    def label_map(self) -> LabelMap:
        """How its outputs become emotions."""
        unnamed = {str(i): f"LABEL_{i}" for i in range(self.config.get("num_labels") or 2)}  # left out when saved
        names = self.config.get("id2label") or unnamed
        if self.config.get("problem_type") not in (None, "single_label_classification"):
            raise ModelError(f"{self.ref}: its problem type is {self.config['problem_type']}, not one label of several")
        try:
            ordered = [str(names[key]) for key in sorted(names, key=int)]
        except (TypeError, ValueError) as error:
            raise ModelError(f"{self.ref}: id2label in its {CONFIG_FILE} is no numbered list of labels") from error
        return map_labels(ordered, self.given, of=self.ref)

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotions that the model knows, in the order of `EMOTIONS`."""
        return self.label_map.labels

    @property
    def n_frames(self) -> int:
        """Pictures in one clip (kind `video`)."""
        count = self.config.get("num_frames") or self.config.get("frames_per_clip")
        if not isinstance(count, int) or not 1 <= count <= 256:
            raise ModelError(f"{self.ref}: its {CONFIG_FILE} does not say how many frames a clip has")
        return count

    @property
    def geometry(self) -> Geometry:
        """What part of a picture it takes (kinds `video` and `image`), as its own processor would cut it."""
        processor = self._read(PROCESSOR_FILE)
        size = processor.get("size") or self.config.get("image_size")
        crop = processor.get("crop_size") or self.config.get("image_size") or size
        crops = processor.get("do_center_crop", bool(processor.get("crop_size")))
        side = self._square(crop if crops else size)
        trained = self.config.get("image_size")
        if isinstance(trained, int) and trained != side:
            raise ModelError(f"{self.ref}: the model takes pictures of {trained} pixels, its processor makes {side}")
        short = size.get("shortest_edge") if isinstance(size, dict) else size if crops else None
        return Geometry(side, None if short is None else max(int(short), side))

    def describe(self) -> dict[str, Any]:
        """What of the checkpoint decides the numbers. The ref is not in it: a copy elsewhere is the same model."""
        said: dict[str, Any] = {
            "kind": self.kind,
            "sha256": self._sha256,
            "labels": list(self.labels),
            "label_map": dict(zip(self.label_map.names, self.label_map.targets, strict=True)),
        }
        if self.kind != AUDIO:
            said |= vars(self.geometry)
        if self.kind == VIDEO:
            said |= {"num_frames": self.n_frames}
        return said

    @cached_property
    def _sha256(self) -> str:
        settings = (self.folder / CONFIG_FILE, self.folder / PROCESSOR_FILE)
        digest = hashlib.sha256()
        for path in (*filter(Path.is_file, settings), *weight_files(self.folder)):
            digest.update(f"{path.name} {file_sha256(path)}\n".encode())
        return digest.hexdigest()

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.ref}: {path} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise ModelError(f"{self.ref}: {path} holds no settings")
        return content

    def _square(self, size: Any) -> int:
        """The side of a square that a processor's settings describe in one of their ways."""
        short = size.get("shortest_edge") if isinstance(size, dict) else size
        height, width = (size.get(key, short) if isinstance(size, dict) else size for key in ("height", "width"))
        if height != width or not isinstance(height, int) or not 16 <= height <= 1024:
            raise ModelError(f"{self.ref}: want square pictures of 16 to 1024 pixels, its processor makes {size}")
        return height


def find(ref: str) -> Path:
    """The folder of a checkpoint: itself, or its copy from the hub, fetched if the cache does not hold it.

    Raises:
        ModelError: there is none, or it has no weights.
    """
    folder = Path(os.path.expanduser(ref))
    if not folder.is_dir():
        if not _HUB_ID.fullmatch(ref):
            raise ModelError(f"{ref} is neither a folder nor the name of a model on the hub, like owner/name")
        folder = _from_hub(ref)
    if not weight_files(folder):
        raise ModelError(f"{ref} has no weights: neither {SAFETENSORS[0]} nor {PICKLED[0]} is in {folder}")
    return folder


def _from_hub(ref: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    folder = Path()
    for patterns, offline in ((SAFETENSORS + PICKLED, True), (SAFETENSORS, False), (PICKLED, False)):
        try:
            wanted = [CONFIG_FILE, PROCESSOR_FILE, *patterns]
            folder = Path(snapshot_download(ref, allow_patterns=wanted, local_files_only=offline))
        except RepositoryNotFoundError as error:
            raise ModelError(f"{ref} is not on the Hugging Face hub, or only for those who log in") from error
        except (HfHubHTTPError, OSError, ValueError) as error:
            if offline:
                continue
            raise ModelError(
                f"{ref} cannot be fetched from the Hugging Face hub; offline, give a folder that holds the checkpoint,"
                " or set HF_HOME to a cache that holds it, and HF_HUB_OFFLINE=1"
            ) from error
        if weight_files(folder) and all((folder / name).is_file() for name in (CONFIG_FILE, PROCESSOR_FILE)):
            break
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The weights that are loaded, all shards of them; safetensors go before pickles. Empty if some are missing."""
    for single, _, index in (SAFETENSORS, PICKLED):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            shards = _shards(folder / index)
            return shards if all(path.is_file() for path in shards) else []
    return []


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} cannot be read: {error}") from error
    return [index.parent / Path(name).name for name in names]


def file_sha256(path: Path) -> str:
    """A file's hash, from the cache if the file is the one that was hashed before: a gigabyte takes seconds.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        stat = path.stat()
        key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        known = _read_hashes()
        if key not in known:
            known[key] = _hash(path)
            _write_hashes(known)
        return known[key]
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        blocks: Iterable[bytes] = iter(lambda: file.read(HASH_BLOCK_BYTES), b"")
        for block in blocks:
            digest.update(block)
    return digest.hexdigest()


def _hashes_path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MOODREEL_CACHE") or Path(base, "moodreel")) / "hashes.json"


def _read_hashes() -> dict[str, str]:
    try:
        known = json.loads(_hashes_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_hashes(known: dict[str, str]) -> None:
    """Best effort: without a cache the next run hashes again."""
    path = _hashes_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(known, file)
        os.replace(file.name, path)
    except OSError:
        return
