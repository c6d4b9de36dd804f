"""Results that took long, kept outside the project so that a run that was stopped carries on."""

import hashlib
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
Item = TypeVar("Item")


def default_folder() -> Path:
    """`evaluation` in $MOODREEL_CACHE, else in moodreel's folder of the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MOODREEL_CACHE") or Path(base, "moodreel")) / "evaluation"


def digest(value: Any) -> str:
    """Of plain JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


class Cache:
    """A folder of arrays, each file named by a digest of all that decides what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def holds(self, kind: str, key: Any) -> bool:
        """Whether it was made before."""
        return self._path(kind, key).exists()

    def arrays(self, kind: str, key: Any, make: Callable[[], Mapping[str, npt.NDArray[Any]]]) -> Arrays:
        """What was kept under a key, or made now and kept; a kill leaves no half-written file.

        Args:
            kind: the beginning of the file's name.
            key: plain JSON values: whatever the arrays depend on.
        """
        path = self._path(kind, key)
        try:
            return _read(path)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, zipfile.BadZipFile):
            path.unlink()  # damaged: made again
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez(file, **dict[str, Any](make()))
        os.replace(partial, path)
        return _read(path)

    def _path(self, kind: str, key: Any) -> Path:
        return self.folder / f"{kind}-{digest(key)}.npz"


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def progress(what: str, items: Sequence[Item], sizes: Iterable[int] | None = None) -> Iterator[Item]:
    """Go through items and tell on stderr how far it is and how long it will take."""
    weights = list(sizes) if sizes is not None else [1] * len(items)
    total, done, started = sum(weights), 0, time.monotonic()
    for item, weight in zip(items, weights, strict=True):
        yield item
        done += weight
        left_seconds = (time.monotonic() - started) / done * (total - done)
        last = "\n" if done == total else ""
        print(f"\r{what}: {done} of {total}, {left_seconds:.0f} s left   ", end=last, file=sys.stderr, flush=True)
