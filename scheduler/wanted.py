"""Which of the videos that a search comes upon are wanted: by name, size and age. Knows no files and no buckets."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath

# What is searched for, where nothing else is said. What is named itself may have any name.
VIDEO_SUFFIXES = frozenset(
    (
        *(".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    )
)

_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

Moment = Callable[[], float]  # unix time, seconds; of an age it moves on, as with a service that runs for months


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted of what is found; None: whatever it is.

    Attributes:
        suffixes: how names may end, in small letters and with the dot.
        min_bytes, max_bytes: sizes, both included.
        newer_than, older_than: between which moments it must have been written to last.
    """

    suffixes: frozenset[str] | None = None
    min_bytes: int | None = None
    max_bytes: int | None = None
    newer_than: Moment | None = None
    older_than: Moment | None = None

    def as_search(self) -> "Wanted":
        """The same for a search, which looks for videos where no suffix is named."""
        return replace(self, suffixes=self.suffixes or VIDEO_SUFFIXES)

    def takes_name(self, name: str) -> bool:
        """Whether a path or key is wanted, going by how it ends."""
        return self.suffixes is None or PurePosixPath(name).suffix.lower() in self.suffixes

    def takes(self, size_bytes: int, modified_at_seconds: float) -> bool:
        """Whether what has this size, and was written to last at this unix time, is wanted."""
        return (
            (self.min_bytes is None or size_bytes >= self.min_bytes)
            and (self.max_bytes is None or size_bytes <= self.max_bytes)
            and (self.newer_than is None or modified_at_seconds > self.newer_than())
            and (self.older_than is None or modified_at_seconds < self.older_than())
        )


def suffix_of(text: str) -> str:
    """A suffix as `Wanted` has it, from `mp4`, `.mp4` or `.MP4`.

    Raises:
        ValueError: it is none.
    """
    suffix = f".{text.removeprefix('.').lower()}"
    if not re.fullmatch(r"\.[^./\s]+", suffix):
        raise ValueError(f"{text!r} is no suffix like .mp4")
    return suffix


def bytes_of(text: str) -> int:
    """A size in bytes, from `1500`, `10K`, `1.5G` (powers of 1024).

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is no size like 1500, 10K or 1.5G")
    return round(float(found[1]) * _BYTES[found[2].upper()])


def moment_of(text: str) -> Moment:
    """A moment, from a date, a date with a time (UTC, unless it says otherwise), or an age like `12h`, `7d` or `2w`.

    Raises:
        ValueError: it is none.
    """
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip()):
        age_seconds = float(found[1]) * _SECONDS[found[2]]
        return lambda: time.time() - age_seconds
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is neither a date like 2026-01-31 nor an age like 7d") from None
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return lambda: seconds
