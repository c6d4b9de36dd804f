"""How messages travel between the reader and its child: over a socket, as a JSON header and the arrays' raw bytes.

An array's bytes lie in a ring of shared memory, if there is one and it has room; else they follow the header, and the
child waits until the parent reads on. The header describes an array as [dtype, shape], or [dtype, shape, position] if
it is in the ring. The parent takes nothing from the child that could run code (no pickle), and no more bytes than it is
ready for.
"""

import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.protocol import (
    End,
    Failure,
    Job,
    Message,
    Picture,
    Probe,
    Progress,
    ProtocolError,
    ReadRequest,
    Sound,
    Unreadable,
    Voice,
)
from worker.ring import Ring

READ_BYTES = 1 << 16
MAX_HEADER_BYTES = 1 << 20
MAX_ARRAY_BYTES = 1 << 26
MIN_RING_BYTES = 1 << 12  # smaller arrays cost less behind their header

_KINDS: Mapping[str, type[Any]] = {
    cls.__name__: cls for cls in (Sound, Voice, Picture, Unreadable, Progress, End, Probe, Failure)
}
_DTYPES: Mapping[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "uint8": np.dtype(np.uint8)}
_PREFIX = struct.Struct(">I")


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two sockets that are connected and block, as the child's end must, though Celery sets a timeout for new ones.

    It does so while it shuts down and the last jobs are done.
    """
    pair = socket.socketpair()
    for end in pair:
        end.setblocking(True)
    return pair


class ChannelClosed(Exception):  # noqa: N818 - nothing went wrong on this side
    """Raised when the other side has hung up."""


class Channel:
    """One end of the socket between parent and child. `send` blocks while the other side does not read.

    Args:
        sock: connected to the other side.
        ring: this side's end of the ring; None: arrays travel over the socket.

    Raises (from each method):
        ChannelClosed, ProtocolError.
        TimeoutError: nothing came, or nothing could be sent, for as long as the socket's timeout says.
    """

    def __init__(self, sock: socket.socket, ring: Ring | None = None) -> None:
        self._socket, self._ring = sock, ring

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        if self._ring is not None:
            self._ring.close()

    def send(self, message: Message) -> None:
        """Send one message to the parent."""
        values = {field.name: getattr(message, field.name) for field in fields(message)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        places = {name: self._put(array) for name, array in arrays.items()}
        header = {name: value for name, value in values.items() if name not in arrays}
        header |= {"kind": type(message).__name__}
        header |= {"arrays": {name: [array.dtype.name, array.shape, *places[name]] for name, array in arrays.items()}}
        line = json.dumps(header).encode()
        behind = (array.tobytes() for name, array in arrays.items() if not places[name])
        self._write(b"".join([_PREFIX.pack(len(line)), line, *behind]))

    def receive(self) -> Message:
        """Wait for the child's next message."""
        header = self._header()
        kind = _KINDS.get(str(header.pop("kind", None)))
        arrays = header.pop("arrays", None)
        if kind is None or not isinstance(arrays, dict):
            raise ProtocolError(f"no such message: {header}")
        try:
            values = header | {name: self._array(*description) for name, description in arrays.items()}
            return kind(**values)  # type: ignore[no-any-return]
        except (AttributeError, TypeError, ValueError) as error:
            raise ProtocolError(f"not a {kind.__name__}: {error}") from error

    def send_job(self, job: Job, descriptor: int) -> None:
        """Hand the child an open file and say what to do with it."""
        request = None if job.request is None else vars(job.request)
        line = json.dumps({"task": job.task, "request": request}).encode()
        try:
            socket.send_fds(self._socket, [_PREFIX.pack(len(line))], [descriptor])
        except ConnectionError as error:
            raise ChannelClosed from error
        self._write(line)

    def receive_job(self) -> tuple[Job, int]:
        """Wait for the parent's next job, and the descriptor that is now the child's own."""
        prefix, descriptors, _, _ = socket.recv_fds(self._socket, _PREFIX.size, 1)
        if len(prefix) < _PREFIX.size or not descriptors:
            raise ChannelClosed
        line = json.loads(self._read(_PREFIX.unpack(prefix)[0]))
        request = None if line["request"] is None else ReadRequest(**line["request"])
        return Job(line["task"], request), descriptors[0]

    def _header(self) -> dict[str, Any]:
        (length,) = _PREFIX.unpack(self._read(_PREFIX.size))
        if length > MAX_HEADER_BYTES:
            raise ProtocolError(f"a header of {length} bytes")
        try:
            header = json.loads(self._read(length))
        except (RecursionError, ValueError) as error:
            raise ProtocolError(f"a header that is not JSON: {error}") from error
        if not isinstance(header, dict):
            raise ProtocolError(f"a header that is not an object: {header}")
        return header

    def _put(self, array: npt.NDArray[Any]) -> list[int]:
        """The position in the ring where an array now is; nothing if it has to follow its header."""
        if self._ring is None or array.nbytes < MIN_RING_BYTES:
            return []
        position = self._ring.put(np.ascontiguousarray(array).data.cast("B"))
        return [] if position is None else [position]

    def _array(self, name: str, shape: list[int], *place: object) -> npt.NDArray[Any]:
        dtype = _DTYPES.get(name)
        if dtype is None or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ProtocolError(f"no such array: {name} {shape}")
        length = dtype.itemsize * math.prod(shape)
        if length > MAX_ARRAY_BYTES:
            raise ProtocolError(f"an array of {length} bytes")
        array: npt.NDArray[Any] = np.frombuffer(self._take(length, *place) if place else self._read(length), dtype)
        return array.reshape(shape)

    def _take(self, length: int, position: object) -> bytearray:
        if self._ring is None:
            raise ProtocolError("an array in a ring that is not there")
        return self._ring.take(position, length)

    def _write(self, content: bytes) -> None:
        try:
            self._socket.sendall(content)
        except ConnectionError as error:
            raise ChannelClosed from error

    def _read(self, length: int) -> bytearray:
        content = bytearray(length)
        view = memoryview(content)
        patience = self._socket.gettimeout()
        until = None if patience is None else time.monotonic() + patience
        while view:
            if until is not None and time.monotonic() > until:  # byte by byte a message would never be too late
                raise TimeoutError
            try:
                count = self._socket.recv_into(view, min(len(view), READ_BYTES))
            except ConnectionError as error:
                raise ChannelClosed from error
            if not count:
                raise ChannelClosed
            view = view[count:]
        return content
