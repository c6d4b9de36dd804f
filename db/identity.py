"""What a video is called in the database: its URI and its version.

A local file's URI is its absolute path, so that people can query it. A name that is not UTF-8 cannot stand in a
database; it becomes a `file://` URI with its bytes percent-encoded (RFC 8089). Both lead back to the file. An object
of a bucket is `s3://bucket/key`, with the key as it is, nothing encoded.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

S3 = "s3://"  # how the URI of an object begins


@dataclass(frozen=True)
class Source:
    """A file or an object as it was found.

    Attributes:
        uri: its name in the database.
        version: of a file, its size and modification time in nanoseconds, which change whenever it is written; of an
            object, its ETag, which listings, events and reads all give, whether or not the bucket keeps versions.
        size_bytes: its size.
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

    @classmethod
    def of_object(cls, name: "ObjectName", etag: str, size_bytes: int, modified_at_seconds: float) -> "Source":
        """Describe an object by its name and what the store says of it; the ETag with or without its quotes."""
        return cls(name.uri, etag.strip('"'), size_bytes, modified_at_seconds)


@dataclass(frozen=True)
class ObjectName:
    """An object of a bucket, or, where the key is one of a folder or empty, all that begin with it."""

    bucket: str
    key: str

    @classmethod
    def of(cls, uri: str) -> "ObjectName | None":
        """The object that a URI names; None: it names no object."""
        if not uri.startswith(S3):
            return None
        bucket, _, key = uri.removeprefix(S3).partition("/")
        return cls(bucket, key)

    @property
    def uri(self) -> str:
        """Its name in the database."""
        return f"{S3}{self.bucket}/{self.key}"


def uri_of(path: str | Path) -> str:
    """The URI of a local file."""
    raw = os.fsencode(os.path.abspath(path))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "file://" + quote_from_bytes(raw)


def spellings(prefix: str) -> tuple[str, ...]:
    """How the URIs begin of all that lies below a prefix: below a folder there may be names that are not UTF-8."""
    if "://" in prefix or not prefix:
        return (prefix,)
    return prefix, "file://" + quote_from_bytes(os.fsencode(prefix))


def path_of(uri: str) -> Path:
    """The local file that a URI of `uri_of` names."""
    if uri.startswith("file://"):
        return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))
    return Path(uri)


def printable(text: str | Path) -> str:
    """A name from outside in characters that can be printed and stored, control characters and stray bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
