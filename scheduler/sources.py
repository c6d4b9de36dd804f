"""Where videos are: files, folders and globs on this machine, and objects of buckets. Finds them; opens none."""

import glob
import os
import pickle
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from db.errors import MoodreelError, NotReadable, NoVideos, PathMissing
from db.identity import ObjectName, Source, printable
from scheduler.objects import Search
from scheduler.wanted import Wanted

ANY = Wanted()
SPOOLED_BYTES = 8_000_000  # that are kept in memory; some 50,000 sources


class Spool:
    """Sources that wait, in their order, on disk where there are many: a million would take 400 MB of memory.

    A context manager; leaving it forgets them.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(SPOOLED_BYTES)  # noqa: SIM115 - closed on leaving
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def add(self, sources: Sequence[Source]) -> None:
        """Put some behind the others."""
        pickle.dump(sources, self._file)
        self._count += len(sources)

    def __iter__(self) -> Iterator[Source]:
        """All of them; none may be added from then on."""
        end = self._file.tell()
        self._file.seek(0)
        while self._file.tell() < end:
            yield from pickle.load(self._file)


def find(paths: Sequence[str], wanted: Wanted = ANY) -> Iterator[Source | MoodreelError]:
    """Find videos in files, folders (recursively, hidden ones left out), globs, buckets; each once, in a stable order.

    Args:
        paths: of files and folders, patterns, and URIs of objects or how such URIs begin.
        wanted: which of what a folder or bucket is searched for; what is named itself may be whatever it is.

    Yields:
        A source for each video; for a path that leads to none, or cannot be looked into, the error that says so.
    """
    seen: set[int] = set()  # hashes, because there may be a million names
    buckets = Search(wanted)
    for path in paths:
        if place := ObjectName.of(path):
            yield from buckets.find(place)
            continue
        any_found = False
        for item in _look(path, wanted):
            any_found = True
            if isinstance(item, MoodreelError):
                yield item
            elif (key := hash(item.uri)) not in seen:
                seen.add(key)
                yield item
        if not any_found:
            yield _nothing(path)


def _look(path: str, wanted: Wanted) -> Iterator[Source | MoodreelError]:
    try:
        for item, limits in _files(path, wanted):
            found = item if isinstance(item, MoodreelError) else _describe(item)
            if isinstance(found, MoodreelError) or limits.takes(found.size_bytes, found.modified_at_seconds):
                yield found
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


def _files(path: str, wanted: Wanted) -> Iterator[tuple[Path | MoodreelError, Wanted]]:
    """What a path or a pattern stands for, and what of it is wanted.

    Raises:
        OSError: it cannot be looked at.
    """
    searched = wanted.as_search()
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        for match in sorted(glob.glob(path, recursive=True)):
            if os.path.isdir(match):
                yield from ((item, searched) for item in _folder(match, searched))
            elif wanted.takes_name(match):
                yield Path(match), wanted
        return
    if stat.S_ISDIR(mode):
        yield from ((item, searched) for item in _folder(path, searched))
    else:
        yield Path(path), ANY


def _folder(folder: str, wanted: Wanted) -> Iterator[Path | MoodreelError]:
    closed: list[OSError] = []
    for root, folders, names in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and wanted.takes_name(name):
                yield Path(root, name)
    yield from (NotReadable(f"{printable(error.filename)}: {error.strerror}") for error in closed)


def _nothing(path: str) -> MoodreelError:
    if Path(path).is_dir():
        return NoVideos(f"{printable(path)}: no video of those wanted in this folder or below it")
    if glob.glob(path, recursive=True):
        return NoVideos(f"{printable(path)}: no video of those wanted among what this pattern means")
    return PathMissing(f"{printable(path)}: no such file or folder")
