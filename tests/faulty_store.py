"""A proxy in front of a store of objects that does to answers what networks and stores do. Knows nothing of pytest.

It runs in threads of the process that makes it, and each of its attributes may be set at any time.
"""

import http.client
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

CHUNK_BYTES = 1 << 18
SLOW_DOWN = (503, "SlowDown", "Please reduce your request rate.")
EXPIRED = (400, "ExpiredToken", "The provided token has expired.")
DENIED = (403, "AccessDenied", "Access Denied")
_SIGNED = "AWS4-HMAC-SHA256 Credential=id/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"
_NOT_PASSED_ON = {"connection", "transfer-encoding", "keep-alive", "content-length"}


class FaultyStore:
    """A proxy; a context manager.

    Args:
        upstream: URL of the store itself.

    Attributes:
        refuses: status, code and message of the answers in place of the store's, for as long as it is set.
        n_slowed: how often each part of an object is answered with SlowDown before it is given.
        n_broken: how many of the next bodies break off halfway.
        latency_seconds: before each answer.
        bytes_per_second: of each body; None: as fast as it goes.
        on_get: called with the path before a GET is passed on.
        n_requests, body_bytes: that have been answered and sent.
        requests: methods and headers of all requests.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.refuses: tuple[int, str, str] | None = None
        self.n_slowed = self.n_broken = 0
        self.latency_seconds = 0.0
        self.bytes_per_second: float | None = None
        self.on_get: Callable[[str], None] = lambda path: None
        self.n_requests = self.body_bytes = 0
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._asked: Counter[tuple[str, str]] = Counter()
        self._held: dict[str, tuple[dict[str, str], bytes]] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Of its endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def hold(self, path: str, content: bytes | None = None) -> str:
        """Keep an object, `/bucket/key`, and answer GETs of it without the store, which reads a whole one each time.

        Args:
            path: of the object.
            content: its bytes; None: those that the store has now.

        Returns:
            Its ETag, without quotes.
        """
        headers: list[Any] = [("etag", f'"{uuid.uuid4().hex}"')]
        if content is None:
            status, headers, content = self.ask("GET", path, {"Authorization": _SIGNED}, b"")
            assert status == 200, content
        self._held[path] = ({name.lower(): value for name, value in headers}, content)
        return self._held[path][0]["etag"].strip('"')

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list[Any], bytes]:
        """Ask the store itself."""
        connection = http.client.HTTPConnection(self.upstream.hostname or "", self.upstream.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list[Any], bytes]:
        """What a request gets."""
        with self._lock:
            self.n_requests += 1
            self.requests.append((method, headers))
            part = (path, headers.get("Range", ""))
            self._asked[part] += method == "GET"
            is_slowed = method == "GET" and self._asked[part] <= self.n_slowed
            refusal = SLOW_DOWN if is_slowed else self.refuses
        time.sleep(self.latency_seconds)
        if refusal is not None:
            status, code, message = refusal
            text = "" if method == "HEAD" else f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            return status, [("Content-Type", "application/xml")], text.encode()
        if method == "GET":
            self.on_get(path)
            if path in self._held:
                return _part(*self._held[path], headers.get("Range", ""))
        return self.ask(method, path, headers, body)

    def breaks(self) -> bool:
        """Whether the next body is to break off."""
        with self._lock:
            self.n_broken -= 1
            return self.n_broken >= 0

    def sent(self, count: int) -> None:
        """Count bytes of bodies."""
        with self._lock:
            self.body_bytes += count


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has hung up is nothing to speak of."""


def _part(headers: dict[str, str], content: bytes, range_: str) -> tuple[int, list[Any], bytes]:
    """A range of an object as S3 gives it."""
    kept = [(name, headers[name]) for name in ("etag", "last-modified") if name in headers]
    if not range_:
        return 200, kept, content
    first, last = (int(part) for part in range_.removeprefix("bytes=").split("-"))
    last = min(last, len(content) - 1)
    kept.append(("Content-Range", f"bytes {first}-{last}/{len(content)}"))
    return 206, kept, memoryview(content)[first : last + 1]


def _handler(store: FaultyStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def _answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = store.answer(self.command, self.path, dict(self.headers), sent)
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in _NOT_PASSED_ON or (self.command == "HEAD" and name.lower() == "content-length"):
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self._send(body, breaks=self.command == "GET" and status in (200, 206) and store.breaks())

        def _send(self, body: bytes, *, breaks: bool) -> None:
            view = memoryview(body)[: len(body) // 2] if breaks else memoryview(body)
            for chunk in _chunks(view):
                self.wfile.write(chunk)
                store.sent(len(chunk))
                if store.bytes_per_second:
                    time.sleep(len(chunk) / store.bytes_per_second)
            self.close_connection |= breaks

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - as the base class names them

    return Handler


def _chunks(view: memoryview) -> Iterable[memoryview]:
    return (view[start : start + CHUNK_BYTES] for start in range(0, len(view), CHUNK_BYTES))
