"""Opens what a URI names. The reader gets the open descriptor and never sees the path."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from db.errors import ChangedWhileReading, EmptyFile, NotReadable, PathMissing
from db.identity import Source, path_of


@contextmanager
def opened(source: Source) -> Iterator[int]:
    """Open a source for reading; the descriptor is closed at the end.

    Raises:
        PathMissing, NotReadable, EmptyFile: it cannot be opened.
        ChangedWhileReading: it is not the version that was found, now or when the reading is over.
    """
    path = path_of(source.uri)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise PathMissing(f"{path}: the file is gone") from error
    except OSError as error:
        raise NotReadable(f"{path}: {error.strerror}") from error
    try:
        if source.size_bytes == 0:
            raise EmptyFile(f"{path}: the file is empty (0 bytes)")
        _check(source, os.fstat(descriptor))
        yield descriptor
        _check(source, os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _check(source: Source, stat: os.stat_result) -> None:
    path = path_of(source.uri)
    if Source.of(path, stat).version != source.version:
        raise ChangedWhileReading(f"{path}: the file changed while it was being read")
