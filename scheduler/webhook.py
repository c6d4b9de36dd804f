"""One post to a hook, signed as Standard Webhooks 1.0 says (https://www.standardwebhooks.com), and where it may go.

The host's name is looked up here and the connection goes to the very address that was checked, so that a name which
changes its address in between leads nowhere else. Redirects are not followed, and proxies that the environment names
are not used. Whom TLS trusts is OpenSSL's to say (SSL_CERT_FILE). Knows no database.
"""

import base64
import binascii
import hashlib
import hmac
import http.client
import ipaddress
import queue
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import SplitResult, urlsplit

from db.errors import BadOption, HookRefused
from db.identity import printable
from db.rows import NewHook

SECRET_BYTES = range(24, 65)  # 192 to 512 bits, as the specification has it
LOOKUP_SECONDS, CONNECT_SECONDS, TOTAL_SECONDS = 5.0, 10.0, 20.0
_PREFIX = "whsec_"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Where clouds answer questions about the machine, its credentials among them, besides the link-local addresses.
_METADATA = tuple(ipaddress.ip_address(text) for text in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200"))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Answer:
    """What a receiver said.

    Attributes:
        status: the status code.
        retry_after_seconds: how long it asks to be left alone; None: it does not say.
    """

    status: int
    retry_after_seconds: float | None = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


def key_of(secret: str) -> bytes:
    """The key that a secret stands for.

    Raises:
        BadOption: it is none; the message does not show it.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True) if secret.startswith(_PREFIX) else b""
    except (binascii.Error, ValueError):
        key = b""
    if len(key) not in SECRET_BYTES:
        raise BadOption(
            "a hook's secret is whsec_ and 24 to 64 random bytes in base64",
            hint="Make one: echo whsec_$(openssl rand -base64 32)",
        )
    return key


def signature(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`."""
    signed = b".".join((event_id.encode(), str(timestamp).encode(), body))
    digest = hmac.new(key_of(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def check_url(url: str, *, insecure_http: bool) -> SplitResult:
    """The parts of a hook's URL.

    Raises:
        BadOption: nothing may be posted there.
    """
    shown = printable(url)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise BadOption(f"{shown} is no URL: {error}") from None
    if parts.scheme not in ("https", "http") or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise BadOption(f"{shown} is not the URL of a hook, like https://example.org/moodreel")
    if parts.username is not None or parts.password is not None:
        raise BadOption("a hook's URL holds no user and no password: what is posted is signed instead")
    if parts.scheme == "http" and not insecure_http:
        raise BadOption(
            f"{shown} is not https, so whoever is on the way reads along",
            hint="On this machine or a private network --insecure-http allows it.",
        )
    return parts


def without_secrets(url: str) -> str:
    """A hook's URL without what may be known to nobody else: user and password, query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def addresses(host: str, port: int, *, public_too: bool, link_local: bool) -> list[str]:
    """Where a host is, in the order to be tried; IP addresses.

    Args:
        public_too: whether addresses that the whole internet reaches will do.
        link_local: whether link-local addresses will do, where clouds answer questions about the machine.

    Raises:
        HookRefused: one of its addresses is where nothing may be posted.
        OSError: it has none, or none was told in `LOOKUP_SECONDS`.
    """
    texts = _looked_up(host, port)
    for text in texts:
        address = _plain(ipaddress.ip_address(text.partition("%")[0]))
        is_local = address.is_link_local or address in _METADATA
        if (is_local and not link_local) or address.is_multicast or address.is_unspecified:
            raise HookRefused(f"nothing is posted to {printable(host)}, whose address is {address}", hint=_HINT)
        if not public_too and not (address.is_private or is_local):
            raise HookRefused(f"{printable(host)}, whose address is {address}, is posted to by https only", hint=_HINT)
    return texts


def _looked_up(host: str, port: int) -> list[str]:
    """A host's addresses, as the system's resolver tells them, which itself has no limit that a caller could set."""
    told: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def look() -> None:
        try:
            told.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            told.put(error)

    # A daemon: nobody waits for a resolver that has been left behind, which ends by its own limit, in a minute or so.
    threading.Thread(target=look, name="resolver", daemon=True).start()
    try:
        found = told.get(timeout=LOOKUP_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"the address of {printable(host)} was not found in {LOOKUP_SECONDS:g} s") from None
    if isinstance(found, UnicodeError):  # a name that no name can be: a part of it is too long, or empty
        raise OSError(f"{printable(host)} is no host's name") from found
    if isinstance(found, Exception):
        raise found
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


_HINT = "Use https; for link-local addresses, --allow-link-local."


def _plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def post(hook: NewHook, event_id: str, body: str) -> Answer:
    """Post an event, and say what the receiver answered, whatever that was.

    Raises:
        BadOption, HookRefused: nothing may be posted there.
        OSError, http.client.HTTPException: it was not reached, or did not answer in `TOTAL_SECONDS`.
    """
    parts = check_url(hook.url, insecure_http=hook.insecure_http)
    is_tls, host = parts.scheme == "https", parts.hostname or ""
    port = parts.port or (443 if is_tls else 80)
    until = time.monotonic() + TOTAL_SECONDS
    places = addresses(host, port, public_too=is_tls, link_local=hook.link_local)
    sock = _connect(places, port, until)
    if is_tls:
        context = ssl.create_default_context()
        sock = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    # A receiver that sends a byte now and then would be waited for without end, since a timeout is of each byte.
    ends = threading.Timer(max(0.1, until - time.monotonic()), _hang_up, (sock,))
    ends.daemon = True
    ends.start()
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        answer = _exchange(sock, parts, _headers(hook.secret, event_id, body.encode()), body.encode())
        if time.monotonic() >= until:  # it was hung up on, which looks like the end of its headers
            raise TimeoutError(f"there was no whole answer in {TOTAL_SECONDS:g} s")
        return answer
    finally:
        ends.cancel()
        sock.close()


def _headers(secret: str, event_id: str, body: bytes) -> dict[str, str]:
    timestamp = int(time.time())
    return {
        "Content-Type": "application/json",
        "User-Agent": f"moodreel/{version('moodreel')}",
        "Connection": "close",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, event_id, timestamp, body),
    }


def _connect(places: list[str], port: int, until: float) -> socket.socket:
    failure: OSError = OSError("no address")
    for place in places:
        left = until - time.monotonic()
        if left <= 0:
            break
        try:
            sock = socket.create_connection((place, port), min(CONNECT_SECONDS, left))
            sock.settimeout(TOTAL_SECONDS)
            return sock
        except OSError as error:
            failure = error
    raise failure


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # TLS's own would pull the session from under its reader


def _exchange(sock: socket.socket, parts: SplitResult, headers: dict[str, str], body: bytes) -> Answer:
    connection = http.client.HTTPConnection(parts.netloc.rpartition("@")[2])  # for the Host header alone
    connection.sock = sock
    path = parts.path or "/"
    connection.request("POST", f"{path}?{parts.query}" if parts.query else path, body, headers)
    response = connection.getresponse()  # its headers; of the body nothing is read
    wait = response.getheader("Retry-After", "")
    return Answer(response.status, float(wait) if wait.isascii() and wait.isdigit() else None)
