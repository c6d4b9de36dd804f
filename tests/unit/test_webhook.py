"""One post to a hook: how it is signed, and where it may go."""

import http.client
import re
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from db.errors import BadOption, HookRefused
from db.rows import NewHook
from scheduler import webhook
from scheduler.webhook import addresses, check_url, key_of, post, signature
from tests.receiver import SECRET, receiving


def hook(url, **options):
    return NewHook(url=url, secret=SECRET, events=("done",), **{"insecure_http": True} | options)


def test_the_signature_is_that_of_the_specification():
    """The example that the specification's reference libraries test themselves by."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}') == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_?", "whsec_" + "AAAA" * 22]
)
def test_a_weak_secret_is_refused_and_not_shown(secret):
    with pytest.raises(BadOption) as caught:
        key_of(secret)
    assert "c2hvcnQ" not in f"{caught.value} {caught.value.hint}"


def test_a_secret_does_not_show_in_what_is_printed_of_a_hook():
    assert SECRET not in repr(hook("https://example.org"))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1/", "not https"),
        ("ftp://example.org/", "not the URL of a hook"),
        ("https://", "not the URL of a hook"),
        ("https://exa mple.org/", "not the URL of a hook"),
        ("https://example.org/\r\nX: y", "not the URL of a hook"),
        ("https://exämple.org/", "not the URL of a hook"),
        ("https://example.org:99999/", "no URL"),
        ("https://me:word@example.org/", "no user and no password"),
    ],
)
def test_urls_that_nothing_is_posted_to(url, says):
    with pytest.raises(BadOption, match=says):
        check_url(url, insecure_http=False)


@pytest.mark.parametrize(
    ("host", "public_too", "link_local", "is_fine"),
    [
        ("127.0.0.1", False, False, True),
        ("10.1.2.3", False, False, True),
        ("::1", False, False, True),
        ("93.184.216.34", False, False, False),  # http to the internet
        ("93.184.216.34", True, False, True),
        ("169.254.169.254", True, False, False),
        ("169.254.169.254", True, True, True),
        ("::ffff:169.254.169.254", True, False, False),
        ("64:ff9b::a9fe:a9fe", True, False, False),
        ("2002:a9fe:a9fe::1", True, False, False),
        ("fe80::1", True, False, False),
        ("fd00:ec2::254", True, False, False),
        ("100.100.100.200", True, False, False),
        ("0.0.0.0", True, True, False),
        ("224.0.0.1", True, True, False),
    ],
)
def test_where_a_post_may_go(host, public_too, link_local, is_fine):
    if is_fine:
        assert addresses(host, 443, public_too=public_too, link_local=link_local) == [host]
    else:
        with pytest.raises(HookRefused):
            addresses(host, 443, public_too=public_too, link_local=link_local)


@pytest.mark.parametrize("host", [f"{'a' * 64}.example.org", "a..example.org", "no-such-host.invalid"])
def test_a_host_that_is_not_found_is_not_reached(host):
    with pytest.raises(OSError, match=r"name|known|resolution"):
        post(hook(f"https://{host}/"), "abc", "{}")


def test_one_bad_address_among_several_is_one_too_many(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, 443)) for text in ("93.184.216.34", "169.254.1.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(HookRefused, match=r"example\.org, whose address is 169\.254\.1\.1"):
        addresses("example.org", 443, public_too=True, link_local=False)


def test_a_resolver_that_does_not_answer_is_not_waited_for(monkeypatch):
    """Or a hook's lease would run out while it is posted to."""
    over = threading.Event()
    monkeypatch.setattr(webhook, "LOOKUP_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(10) and [])
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"the address of example\.org was not found in 0\.2 s"):
        post(hook("https://example.org/"), "1", "{}")
    assert time.monotonic() - began < 2.0
    over.set()


def test_many_addresses_that_do_not_answer_take_no_longer_than_one(monkeypatch):
    """Or a hook's lease would run out while it is posted to."""
    tried = []

    def silent(place, timeout):
        tried.append(place)
        time.sleep(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(webhook, "TOTAL_SECONDS", 0.5)
    monkeypatch.setattr(webhook, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(webhook, "addresses", lambda *_, **__: [f"10.0.0.{n}" for n in range(20)])
    monkeypatch.setattr(socket, "create_connection", silent)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        post(hook("http://example.org/"), "1", "{}")
    assert time.monotonic() - began < 3.0  # one after the other they would take 4
    assert [place for place, _ in tried[:2]] == ["10.0.0.0", "10.0.0.1"]


def test_a_post_arrives_signed_with_all_that_belongs_to_it():
    with receiving() as receiver:
        assert post(hook(receiver.url), "abc", '{"a":1}').status == 204
    ((headers, body),) = receiver.posts
    assert body == {"a": 1}
    assert headers["webhook-id"] == "abc"
    assert headers["content-type"] == "application/json"
    assert headers["host"] == receiver.url.split("/")[2]
    assert headers["user-agent"].startswith("moodreel/")
    assert receiver.paths == ["/in?a=b"]


def test_the_check_of_the_documentation_tells_what_is_moodreels():
    page = (Path(__file__).parent.parent.parent / "docs" / "hooks.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    told: dict = {}
    exec(program, told)
    headers = {"webhook-id": "abc", "webhook-timestamp": "17"}
    headers["webhook-signature"] = f"v1,AAAA {signature(SECRET, 'abc', 17, b'{}')}"
    assert told["is_from_moodreel"](SECRET, headers, b"{}")
    assert not told["is_from_moodreel"](SECRET, headers, b"{ }")
    assert not told["is_from_moodreel"](SECRET, headers | {"webhook-timestamp": "18"}, b"{}")


def test_another_secret_is_noticed_by_the_receiver():
    with receiving() as receiver:
        receiver.secret = SECRET.replace("YS", "YT", 1)
        assert post(hook(receiver.url), "abc", "{}").status == 401
    assert receiver.refused == 1


def test_redirects_are_not_followed():
    with receiving() as other, receiving() as receiver:
        receiver.answers, receiver.headers = [302], {"Location": other.url}
        answer = post(hook(receiver.url), "abc", "{}")
    assert (answer.status, answer.is_success) == (302, False)
    assert other.paths == []


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with receiving() as receiver:
        assert post(hook(receiver.url), "abc", "{}").is_success


@pytest.mark.parametrize(("said", "seconds"), [("120", 120.0), ("soon", None), ("", None), ("Wed, 21 Oct 2015", None)])
def test_how_long_a_receiver_asks_to_be_left_alone(said, seconds):
    with receiving() as receiver:
        receiver.answers, receiver.headers = [503], {"Retry-After": said}
        assert post(hook(receiver.url), "abc", "{}").retry_after_seconds == seconds


@pytest.mark.parametrize("drips", [False, True], ids=["silent", "a byte now and then"])
def test_a_receiver_that_is_slow_without_end_is_hung_up_on(monkeypatch, drips):
    monkeypatch.setattr(webhook, "TOTAL_SECONDS", 0.5)
    began = time.monotonic()
    with receiving() as receiver:
        receiver.answers, receiver.drips = [20], drips
        with pytest.raises((OSError, http.client.HTTPException)):
            post(hook(receiver.url), "abc", "{}")
        assert time.monotonic() - began < 4


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    pem, key_pem = (tmp_path_factory.mktemp("tls") / f for f in ("cert.pem", "key.pem"))
    pem.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_pem.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return str(pem), str(key_pem)


def test_https_with_a_certificate_that_is_trusted(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    with receiving(certificate) as receiver:
        assert post(hook(receiver.url, insecure_http=False), "abc", "{}").is_success
        elsewhere = receiver.url.replace("localhost", "127.0.0.1")
        with pytest.raises(OSError, match="certificate"):
            post(hook(elsewhere), "abc", "{}")
    assert len(receiver.posts) == 1


def test_https_with_a_certificate_that_nobody_trusts(certificate):
    with receiving(certificate) as receiver, pytest.raises(OSError, match="certificate"):
        post(hook(receiver.url), "abc", "{}")
    assert receiver.posts == []


def test_a_slow_receiver_is_hung_up_on_over_tls_too(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    monkeypatch.setattr(webhook, "TOTAL_SECONDS", 0.5)
    with receiving(certificate) as receiver:
        receiver.drips = True
        with pytest.raises((OSError, http.client.HTTPException)):
            post(hook(receiver.url), "abc", "{}")
