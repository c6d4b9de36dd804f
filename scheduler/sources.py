"""Where videos are: files, folders and globs on this machine. Finds them; opens none."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from db.errors import MoodreelError, NoVideos, PathMissing
from db.identity import Source, uri_of

# What a folder is searched for. A file that is named itself may have any name.
VIDEO_SUFFIXES = frozenset(
    (
        *(".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    )
)


def find(paths: Sequence[str]) -> Iterator[Source | MoodreelError]:
    """Find videos in files, folders (recursively, hidden ones left out) and globs, each once, in a stable order.

    Yields:
        A source for each video; for a path that leads to none, the error that says so.
    """
    seen: set[str] = set()
    for path in paths:
        any_found = False
        for file in _files(path):
            any_found = True
            if (uri := uri_of(file)) not in seen:
                seen.add(uri)
                yield _describe(file)
        if not any_found:
            yield _nothing(path)


def _describe(file: Path) -> Source | MoodreelError:
    try:
        return Source.of(file, file.stat())
    except OSError as error:
        return PathMissing(f"{file}: {error.strerror}")


def _files(path: str) -> Iterator[Path]:
    given = Path(path)
    if given.is_dir():
        yield from _folder(given)
    elif given.exists():
        yield given
    else:
        for match in sorted(glob.glob(path, recursive=True)):
            yield from _folder(Path(match)) if Path(match).is_dir() else [Path(match)]


def _folder(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES:
                yield Path(root, name)


def _nothing(path: str) -> MoodreelError:
    if Path(path).is_dir():
        return NoVideos(f"{path}: no video in this folder or below it")
    return PathMissing(f"{path}: no such file or folder")
