"""Lends bytes that are in no file to the decoding child: it asks over a socket, a thread of this process answers.

The child gets the end of a socket, for one job. It first reads how many bytes there are, and with that comes a
descriptor of the memory that they will lie in; then it asks for an offset, and gets a place in the memory and how many
bytes lie there, until it asks again. If they cannot be had the socket is closed, and what went wrong is kept here,
where it is known: the child only knows that its source is gone.
"""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from worker.channel import socket_pair
from worker.read_ahead import Abandoned, ReadAhead

SIZE = struct.Struct(">Q")  # how many bytes there are
ASKED = struct.Struct(">Q")  # the child's: from where
GIVEN = struct.Struct(">QQ")  # the place in the memory, and how many; 0: there are none


class Loan:
    """Bytes lent for one job.

    Attributes:
        descriptor: the child's end of the socket.
        is_waiting: whether the child waits for bytes now.
    """

    def __init__(self, content: ReadAhead) -> None:
        self._content = content
        self._ours, self._theirs = socket_pair()
        self.descriptor, self.is_waiting = self._theirs.fileno(), False
        self._is_over = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._serve, name="lend", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See whether the bytes could be read.

        Raises:
            Exception: what kept them from being read.
        """
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Take the bytes back."""
        self._is_over = True
        with suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        self._content.wake()
        self._thread.join()
        self._theirs.close()

    def _serve(self) -> None:
        with self._ours, suppress(Abandoned, ConnectionError):
            socket.send_fds(self._ours, [SIZE.pack(self._content.size_bytes)], [self._content.descriptor])
            while asked := self._receive(ASKED.size):
                given = self._read(*ASKED.unpack(asked))
                if given is None:
                    return
                self._ours.sendall(GIVEN.pack(*given))

    def _read(self, offset: int) -> tuple[int, int] | None:
        self.is_waiting = True
        try:
            return self._content.read(offset, lambda: self._is_over)
        except Abandoned:
            raise
        except Exception as error:  # noqa: BLE001 - raised by `check`, in the thread that has asked for the job
            self._error = error
            return None
        finally:
            self.is_waiting = False

    def _receive(self, length: int) -> bytes:
        """So many bytes, or fewer if the child has hung up."""
        received = b""
        while len(received) < length and (more := self._ours.recv(length - len(received))):
            received += more
        return received if len(received) == length else b""


class Lender:
    """Bytes that can be lent to a child, for one job at a time.

    Args:
        content: where they come from; it stays the caller's.
    """

    def __init__(self, content: ReadAhead) -> None:
        self._content = content

    @contextmanager
    def lent(self) -> Iterator[Loan]:
        """Lend them for one job."""
        loan = Loan(self._content)
        try:
            yield loan
        finally:
            loan.end()
