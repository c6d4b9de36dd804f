"""A proxy between a client and a server of this machine, that can be made to swallow all that comes."""

import contextlib
import socket
import threading
import time
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """Passes TCP connections on to a port of this machine; a context manager.

    Args:
        url: of the server.

    Attributes:
        url: the same by way of this proxy.
        swallowed_bytes: so many never arrived.
    """

    def __init__(self, url: str) -> None:
        self._server_port = urlsplit(url).port
        self._swallows = threading.Event()
        self.swallowed_bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.url = url.replace(f":{self._server_port}", f":{self._listener.getsockname()[1]}")

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def swallow(self, swallows: bool) -> None:
        """Let nothing through in either direction, and keep connections open; or let through what comes from now on."""
        (self._swallows.set if swallows else self._swallows.clear)()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._open += [client, server]
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if self._swallows.is_set():
                    self.swallowed_bytes += len(data)
                else:
                    other.sendall(data)
        # Not even the end of a connection comes through a network that swallows everything.
        while self._swallows.is_set():
            time.sleep(0.1)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)
