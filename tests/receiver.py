"""A receiver of hooks for tests: a real HTTP server that checks signatures by itself and answers as it is told."""

import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "whsec_" + base64.b64encode(b"a key of thirty-two random bytes").decode()


@dataclass
class Receiver:
    """What a receiver got, and how it answers.

    Attributes:
        answers: status codes of the next answers, then 204; a number below 100 is a pause in seconds before 204.
        headers: added to every answer.
        posts: bodies, each with the headers that it came with, whose signature was right.
    """

    url: str = ""
    secret: str = SECRET
    answers: list[float] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    posts: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    refused: int = 0  # posts whose signature was wrong
    paths: list[str] = field(default_factory=list)
    drips: bool = False  # whether it answers a byte a second, without end

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, body in self.posts]

    def take(self, headers: dict[str, str], raw: bytes) -> float:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + raw
        digest = hmac.new(base64.b64decode(self.secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
        expected = "v1," + base64.b64encode(digest).decode()
        fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 300
        if not fresh or expected not in headers["webhook-signature"].split():
            self.refused += 1
            return 401
        self.posts.append((headers, json.loads(raw)))
        return self.answers.pop(0) if self.answers else 204


@contextmanager
def receiving(certificate: tuple[str, str] | None = None) -> Iterator[Receiver]:
    """A receiver on this machine; over TLS if it is given the files of a certificate and its key."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.paths.append(self.path)
            answer = receiver.take({name.lower(): value for name, value in self.headers.items()}, raw)
            if receiver.drips:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.1)
            if answer < 100:
                time.sleep(answer)
                answer = 204
            self.send_response(int(answer))
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # whoever posted has hung up

    server = Server(("127.0.0.1", 0), Handler)
    scheme, host = "http", "127.0.0.1"
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme, host = "https", "localhost"
    receiver.url = f"{scheme}://{host}:{server.server_port}/in?a=b"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
