"""How much one file may ask of the decoding child. Plain numbers: imports nothing that only a worker has."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a file may hold, and what reading it may cost, before it is refused or its child is ended.

    Attributes:
        max_pixels: of one picture, width times height.
        max_seconds: of a recording's length, as the container promises it and as its timestamps come.
        max_streams: in one file, of any kind.
        max_metadata_bytes: of a file's titles, comments and the like together, in UTF-8.
        memory_bytes: that the child may allocate.
        cpu_seconds: that the child may compute without getting on by `ADVANCE_SECONDS` of the recording.
        stall_seconds: that may be spent on waiting for it without its getting on so far.
        silence_seconds: that it may say nothing at all while it is waited for.
    """

    max_pixels: int = 1 << 26
    max_seconds: float = 48 * 3600.0
    max_streams: int = 64
    max_metadata_bytes: int = 1 << 20
    memory_bytes: int = 4 << 30
    cpu_seconds: float = 1800.0
    stall_seconds: float = 900.0
    silence_seconds: float = 60.0


ADVANCE_SECONDS = 10.0  # of a recording, by which a child must get on for its time to be counted anew
MAX_DESCRIPTORS = 64  # that the child may have open
MAX_FILE_BYTES = 1 << 20  # that the child may write into a file: it has none but its standard error
DEFAULT_LIMITS = Limits()
