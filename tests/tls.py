"""TLS in front of servers that have none: certificates of a CA of our own, and a proxy that speaks it for them."""

import contextlib
import socket
import ssl
import struct
import threading
from pathlib import Path
from typing import Self

import trustme

SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # with which a client of PostgreSQL asks for TLS


class Authority:
    """A certificate authority; its certificate lies in a file.

    Args:
        folder: for the file.
        name: of the file, without its ending.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._ca = trustme.CA()
        self.path = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.path)

    def server(self, host: str) -> ssl.SSLContext:
        """What a server needs that is called `host`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(host).configure_cert(context)
        return context


class TlsProxy:
    """Takes connections with TLS on a port of this machine, and passes them on without it. A context manager.

    Args:
        server: the address of the server: host and port, or the path of a Unix socket.
        context: with the certificate.
        of_postgresql: whether clients ask for TLS as those of PostgreSQL do.

    Attributes:
        port: where it listens.
        seen: the first bytes of each connection, as they came over the network.
    """

    def __init__(self, server: tuple[str, int] | str, context: ssl.SSLContext, *, of_postgresql: bool = False) -> None:
        self._server, self._context, self._of_postgresql = server, context, of_postgresql
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        self.seen: list[bytes] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._open.append(client)
            if self._of_postgresql:
                asked = client.recv(len(SSL_REQUEST))
                self.seen.append(asked)
                if asked != SSL_REQUEST:
                    client.close()
                    return
                client.sendall(b"S")
            else:
                self.seen.append(client.recv(1, socket.MSG_PEEK))
            inner = self._context.wrap_socket(client, server_side=True)
            server = socket.socket(socket.AF_UNIX if isinstance(self._server, str) else socket.AF_INET)
            server.connect(self._server)
            self._open += [inner, server]
            threading.Thread(target=_pass_on, args=(server, inner), daemon=True).start()
            _pass_on(inner, server)


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_RDWR)
