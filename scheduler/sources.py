"""Where videos are: files, folders and globs on this machine. Finds them; opens none."""

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from db.errors import MoodreelError, NotReadable, NoVideos, PathMissing
from db.identity import Source, printable, uri_of

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
        A source for each video; for a path that leads to none, or cannot be looked into, the error that says so.
    """
    seen: set[int] = set()  # hashes, because there may be a million names
    for path in paths:
        any_found = False
        for item in _look(path):
            any_found = True
            if isinstance(item, MoodreelError):
                yield item
            elif (key := hash(uri_of(item))) not in seen:
                seen.add(key)
                yield _describe(item)
        if not any_found:
            yield _nothing(path)


def _look(path: str) -> Iterator[Path | MoodreelError]:
    try:
        yield from _files(path)
    except OSError as error:
        yield NotReadable(f"{printable(path)}: {error.strerror}")


def _describe(file: Path) -> Source | MoodreelError:
    try:
        status = file.stat()
    except OSError as error:
        return PathMissing(f"{printable(file)}: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return NotReadable(f"{printable(file)}: not a file, but a pipe or device")
    return Source.of(file, status)


def _files(path: str) -> Iterator[Path | MoodreelError]:
    """What a path or a pattern stands for.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        for match in sorted(glob.glob(path, recursive=True)):
            yield from _folder(match) if os.path.isdir(match) else [Path(match)]
        return
    yield from _folder(path) if stat.S_ISDIR(mode) else [Path(path)]


def _folder(folder: str) -> Iterator[Path | MoodreelError]:
    closed: list[OSError] = []
    for root, folders, names in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES:
                yield Path(root, name)
    yield from (NotReadable(f"{printable(error.filename)}: {error.strerror}") for error in closed)


def _nothing(path: str) -> MoodreelError:
    if Path(path).is_dir():
        return NoVideos(f"{printable(path)}: no video in this folder or below it")
    return PathMissing(f"{printable(path)}: no such file or folder")
