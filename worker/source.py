"""Opens what a URI names. The reader gets an open descriptor, or an object's bytes, and never sees path or address."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from db.errors import ChangedWhileReading, EmptyFile, NotReadable, PathMissing, SourceUnreachable
from db.identity import ObjectName, Source, path_of, printable
from worker import objects
from worker.lending import Lender
from worker.read_ahead import ReadAhead


def require_place(uri: str) -> None:
    """See whether the folder that a video lies in is there, with anything in it. Of a bucket, reading will tell.

    Raises:
        SourceUnreachable: it is not, as on a machine where a share is not mounted.
    """
    if ObjectName.of(uri) is not None:
        return
    folder = path_of(uri).parent
    try:
        with os.scandir(folder) as entries:
            if next(entries, None) is None:
                raise SourceUnreachable(f"{printable(folder)} is empty on this machine")
    except OSError as error:
        reason = f"{printable(folder)} is not to be seen from this machine: {error.strerror}"
        raise SourceUnreachable(reason) from error


def latest(source: Source) -> Source:
    """The source as it is now, since it may have waited long for its turn; as it was if it is gone.

    Raises:
        NotReadable, ObjectArchived, SourceUnreachable: an object cannot be looked at.
    """
    name = ObjectName.of(source.uri)
    try:
        if name is not None:
            return objects.described(name)
        path = path_of(source.uri)
        return Source.of(path, path.stat())
    except (OSError, PathMissing):
        return source


@contextmanager
def opened(source: Source) -> Iterator[int | Lender]:
    """Open a source for reading: a file's descriptor, or what lends an object's bytes; closed at the end.

    Raises:
        PathMissing, NotReadable, EmptyFile: it cannot be opened.
        ObjectArchived, SourceUnreachable: nor can an object.
        ChangedWhileReading: it is not the version that was found, now or when the reading is over.
    """
    if ObjectName.of(source.uri) is None:
        with _opened_file(source) as descriptor:
            yield descriptor
    else:
        if source.size_bytes == 0:
            raise EmptyFile(f"{source.uri}: the object is empty (0 bytes)")
        with ReadAhead(partial(objects.chunks, source), source.size_bytes) as content:
            content.read(0)  # what is wrong with it as a whole shows itself here
            yield Lender(content)


@contextmanager
def _opened_file(source: Source) -> Iterator[int]:
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for somebody to write to it.
        descriptor = os.open(path_of(source.uri), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise PathMissing(f"{source.uri}: the file is gone") from error
    except OSError as error:
        raise NotReadable(f"{source.uri}: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotReadable(f"{source.uri}: not a file, but a folder, pipe or device")
        if source.size_bytes == 0:
            raise EmptyFile(f"{source.uri}: the file is empty (0 bytes)")
        _check(source, os.fstat(descriptor))
        yield descriptor
        _check(source, os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _check(source: Source, status: os.stat_result) -> None:
    if Source.of(path_of(source.uri), status).version != source.version:
        raise ChangedWhileReading(f"{source.uri}: the file changed while it was being read")
