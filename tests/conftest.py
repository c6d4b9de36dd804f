"""Fixtures that many tests share: real clips, the data sets, databases.

What is missing on a user's machine skips the tests that need it; where CI is set it fails them.
"""

import os
import signal
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.database import (
    database_url,
    migrated_url,
    missing,
    postgresql_server,
    postgresql_template,
    postgresql_url,
    sqlite_template,
    store,
)
from tests.faulty_store import FaultyStore
from tests.fetch_media import CLIPS, cache_folder, fetch
from tests.running_fleet import Fleet
from tests.servers import ObjectStore, RedisServer, ServerMissing
from worker import objects

__all__ = [
    "database_url",
    "migrated_url",
    "postgresql_server",
    "postgresql_template",
    "postgresql_url",
    "sqlite_template",
    "store",
]

ROOT = Path(__file__).parent.parent

# Tests run side by side: threads that wait for one another, in each of several processes, would mostly wait for a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Where the tests run in the background of a shell, Ctrl-C is ignored, and would be by every process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def media() -> Path:
    """A folder that holds every clip of `tests.fetch_media`."""
    try:
        return {fetch(name).parent for name in CLIPS}.pop()
    except SystemExit as reason:
        missing(str(reason))
        raise


@pytest.fixture(scope="session")
def data() -> Path:
    """A folder that holds the data sets that tests need, unpacked: javanese-video."""
    source = Path(os.environ.get("MOODREEL_DATA", ROOT.parent / "shared" / "data"))
    unpacked = cache_folder().parent / "data"
    for name in ("javanese-video",):
        archive = source / f"{name}.tar"
        if not archive.is_file():
            missing(f"the data set {archive} is not there (MOODREEL_DATA names another folder)")
        if not (unpacked / name).is_dir():
            unpacked.mkdir(parents=True, exist_ok=True)
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
    return unpacked


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty Redis of the test's own."""
    try:
        server = RedisServer(tmp_path)
    except ServerMissing as reason:
        missing(str(reason))
        raise
    with server:
        yield server


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A server of buckets and queues, started for the session."""
    try:
        server = ObjectStore(tmp_path_factory.mktemp("objects"))
    except ServerMissing as reason:
        missing(str(reason))
        raise
    with server:
        yield server


@pytest.fixture
def object_store(object_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An empty server of buckets and queues, which the environment leads to."""
    object_server.reset()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    objects.client.cache_clear()
    yield object_server
    objects.client.cache_clear()


@pytest.fixture
def faulty_store(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """A proxy in front of the buckets, which the environment leads to instead."""
    with FaultyStore(object_store.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short path, since a socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="moodreel-") as folder:
        yield Path(folder)


@pytest.fixture
def fleet(short_folder: Path) -> Iterator[Fleet]:
    """Servers of the test's own, and nothing that works with them yet."""
    try:
        servers = Fleet(short_folder)
    except ServerMissing as reason:
        missing(str(reason))
        raise
    with servers:
        yield servers
