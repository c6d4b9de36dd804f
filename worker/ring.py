"""A ring of shared memory, through which the decoding child hands bytes to its parent. Knows no messages and no arrays.

The child puts bytes in, the parent takes them out in the same order, and what it has taken is room again. The child may
be hostile: the parent follows no offset of the child's, since it knows itself where the next bytes begin; it reads
nothing from the ring but those bytes, once; and the memory's size is sealed before the child has it, so that nothing
the child does makes reading it raise SIGBUS.
"""

import mmap

from worker.memory import sealed_memory
from worker.protocol import ProtocolError

HEAD_BYTES = 64  # before the bytes: a cache line whose first eight bytes count what the parent has taken


def shared_memory(capacity_bytes: int) -> int | None:
    """A descriptor of new memory for a `Ring`; None where memory cannot be sealed: see `sealed_memory`."""
    return sealed_memory("ring", HEAD_BYTES + capacity_bytes)


class Ring:
    """One end of the ring: the child only calls `put`, the parent only `take`.

    Args:
        descriptor: of `shared_memory`; it stays the caller's, and may be closed.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, 0)
        self._view = memoryview(self._memory)
        self._taken = self._view[:8].cast("Q")  # the parent writes it, in one store, and only the child reads it
        self._content = self._view[HEAD_BYTES:]
        self._position = 0

    def close(self) -> None:
        """Let go of the memory."""
        for view in (self._taken, self._content, self._view):
            view.release()
        self._memory.close()

    def put(self, content: memoryview) -> int | None:
        """Copy bytes in.

        Args:
            content: one-dimensional, of bytes.

        Returns:
            Their position, counted in bytes since the ring was new; None if there is no room for them now.
        """
        position, length = self._position, len(content)
        if position + length - self._taken[0] > len(self._content):
            return None
        first, second = self._places(length)
        cut = first.stop - first.start
        self._content[first], self._content[second] = content[:cut], content[cut:]
        self._position += length
        return position

    def take(self, position: object, length: int) -> bytearray:
        """Copy bytes out and make room.

        Args:
            position: of the bytes, as the child says.

        Raises:
            ProtocolError: the next bytes lie elsewhere, or the ring cannot hold so many.
        """
        if position != self._position or not 0 <= length <= len(self._content):
            raise ProtocolError(f"no {length} bytes lie at {position} of the ring")
        first, second = self._places(length)
        content = bytearray(self._content[first])
        content += self._content[second]
        self._position += length
        self._taken[0] = self._position
        return content

    def _places(self, length: int) -> tuple[slice, slice]:
        """Where the next bytes lie: up to the ring's end, and from its start on."""
        start = self._position % len(self._content)
        end = min(start + length, len(self._content))
        return slice(start, end), slice(0, start + length - end)
