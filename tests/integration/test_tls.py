"""PostgreSQL and Redis over TLS, by settings alone: who they are is checked, and nothing goes in the clear."""

from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from db.errors import BrokerUnreachable, DatabaseUnreachable
from db.rows import PLAN
from db.store import Store
from scheduler.queue import Queue
from tests.database import annotated
from tests.integration.test_queue import due
from tests.servers import RedisServer
from tests.tls import SSL_REQUEST, Authority, TlsProxy
from worker.broker import make_app

TLS_HANDSHAKE = b"\x16"


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def another(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "other")


# --- PostgreSQL


@pytest.fixture
def postgresql(postgresql_url, authority):
    """A proxy, and the URL of a database behind it, less what says how to check its certificate."""
    url = sa.make_url(postgresql_url)
    folder = url.query["host"]
    with TlsProxy(f"{folder}/.s.PGSQL.5432", authority.server("localhost"), of_postgresql=True) as proxy:
        yield proxy, url.set(host="localhost", port=proxy.port, query={}).render_as_string(hide_password=False)


def test_a_database_over_tls(postgresql, authority):
    proxy, url = postgresql
    with Store(f"{url}?sslmode=verify-full&sslrootcert={authority.path}") as store:
        assert store.windows(annotated(store))
    assert set(proxy.seen) == {SSL_REQUEST}


@pytest.mark.parametrize(("host", "ca"), [("localhost", "another"), ("127.0.0.1", "authority")])
def test_a_database_that_is_not_who_it_should_be(postgresql, host, ca, request):
    _, url = postgresql
    root = request.getfixturevalue(ca).path
    with pytest.raises(DatabaseUnreachable, match="certificate") as caught:
        Store(f"{url.replace('localhost', host)}?sslmode=verify-full&sslrootcert={root}")
    assert "does not answer" in str(caught.value)


# --- Redis


@pytest.fixture
def redis(tmp_path, authority):
    with RedisServer(tmp_path) as server:
        parts = urlsplit(server.url)
        with TlsProxy(("127.0.0.1", parts.port), authority.server("localhost")) as proxy:
            yield proxy, f"rediss://:{parts.password}@localhost:{proxy.port}/0"


def test_a_broker_over_tls(redis, authority):
    proxy, url = redis
    url = f"{url}?ssl_ca_certs={authority.path}"
    Queue(url).send([due(PLAN, 7)])
    with make_app(url).connection_for_read() as connection, connection.SimpleQueue("moodreel") as simple:
        assert simple.get(timeout=10).payload[0] == ["7"]
    assert proxy.seen
    assert set(proxy.seen) == {TLS_HANDSHAKE}


def test_a_certificate_is_asked_for_where_nothing_is_said_of_it(redis):
    """Or whoever stands in between would be given the password."""
    _, url = redis
    with pytest.raises(BrokerUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
        Queue(url).depth()


@pytest.mark.parametrize(("host", "ca"), [("localhost", "another"), ("127.0.0.1", "authority")])
def test_a_broker_that_is_not_who_it_should_be(redis, host, ca, request):
    _, url = redis
    root = request.getfixturevalue(ca).path
    url = f"{url.replace('localhost', host)}?ssl_ca_certs={root}"
    with pytest.raises(BrokerUnreachable) as caught:
        Queue(url).send([due(PLAN, 7)])
    assert urlsplit(url).password not in str(caught.value)
