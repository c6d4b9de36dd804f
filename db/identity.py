"""What a video is called in the database: its URI and its version.

A local file's URI is its absolute path, so that people can query it. A name that is not UTF-8 cannot stand in a
database; it becomes a `file://` URI with its bytes percent-encoded (RFC 8089). Both lead back to the file.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes


@dataclass(frozen=True)
class Source:
    """A file as it was found.

    Attributes:
        uri: its name in the database.
        version: size and modification time in nanoseconds; it changes whenever the file is written.
        size_bytes: the file's size.
        modified_at_seconds: modification time, seconds since 1970.
    """

    uri: str
    version: str
    size_bytes: int
    modified_at_seconds: float

    @classmethod
    def of(cls, path: str | Path, stat: os.stat_result) -> "Source":
        """Describe a file by its path and what the system says of it."""
        return cls(uri_of(path), f"{stat.st_size}-{stat.st_mtime_ns}", stat.st_size, stat.st_mtime)


def uri_of(path: str | Path) -> str:
    """The URI of a local file."""
    raw = os.fsencode(os.path.abspath(path))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "file://" + quote_from_bytes(raw)


def path_of(uri: str) -> Path:
    """The local file that a URI of `uri_of` names."""
    if uri.startswith("file://"):
        return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))
    return Path(uri)


def printable(text: str | Path) -> str:
    """A name from outside in characters that can be printed and stored, control characters and stray bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
