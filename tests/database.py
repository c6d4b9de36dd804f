"""Databases to test on: `migrated_url` gives an SQLite database without rows, then a PostgreSQL one.

`database_url` does the same without tables, for what makes them.

PostgreSQL is a real server, started from a package for the session; without that package its tests are skipped.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.rows import PlannedSpan, Segment
from db.store import Store
from db.tables import WINDOW_COLUMNS
from db.words import EMOTIONS
from tests.servers import PostgresServer, ServerMissing


def missing(what: str) -> None:
    """Skip the test at home, fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and CI is set", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresServer]:
    """A server, started for the session."""
    with tempfile.TemporaryDirectory(prefix="moodreel-") as folder:  # short: the path of a socket has 107 bytes
        try:
            server = PostgresServer(Path(folder))
        except ServerMissing as reason:
            missing(str(reason))
            raise
        with server:
            yield server


@pytest.fixture
def postgresql_url(postgresql_server: PostgresServer) -> Iterator[str]:
    """URL of an empty PostgreSQL database."""
    name = f"test_{uuid.uuid4().hex}"
    yield postgresql_server.create_database(name)
    postgresql_server.drop_database(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, of either kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with all tables and no rows, to copy."""
    path = tmp_path_factory.mktemp("template") / "empty.db"
    Store(str(path)).close()
    return path


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: PostgresServer) -> str:
    """Name of a PostgreSQL database with all tables and no rows, to copy."""
    Store(postgresql_server.create_database("template_of_tests")).close()
    return "template_of_tests"


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database, of either kind in turn, that has all tables and no rows.

    A copy is there sooner than the migrations make one; these have tests of their own.
    """
    if request.param == "sqlite":
        path = tmp_path / "test.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgresql_server")
    name = f"test_{uuid.uuid4().hex}"
    yield server.create_database(name, request.getfixturevalue("postgresql_template"))
    server.drop_database(name)


@pytest.fixture
def store(migrated_url: str) -> Iterator[Store]:
    """An empty store."""
    with Store(migrated_url) as opened:
        yield opened


def scores(**known: float) -> tuple[float, ...]:
    """Eight probabilities; those not named are 0."""
    return tuple(known.get(name, 0.0) for name in EMOTIONS)


NOTHING = (None,) * len(EMOTIONS)


def window_row(index: int, audio: tuple = scores(happy=1.0), video: tuple = NOTHING, **changes: object) -> tuple:
    """A window of two seconds, one second after the last, in the order of WINDOW_COLUMNS."""
    head = (index, index * 1.0, index + 2.0)
    states = ("no_speech" if audio == NOTHING else "ok", "no_face" if video == NOTHING else "ok")
    row = dict(zip(WINDOW_COLUMNS, (*head, *states, 0.5, 0.5, 1, *audio, *video), strict=True))
    return tuple((row | changes).values())


def fused_row(index: int, emotion: str | None = "happy") -> tuple:
    """A fused window, certain of its emotion, in the order of FUSED_COLUMNS."""
    if emotion is None:
        return (index, None, None, None, None, *NOTHING)
    return (index, emotion, 1.0, 0.8, 0.5, *scores(**{emotion: 1.0}))


def segment(start: float, end: float, emotion: str | None = "happy", valence: float = 0.5, arousal: float = 0.25):
    """A segment of the timeline."""
    verdict = (None, None, None) if emotion is None else (0.75, valence, arousal)
    return Segment(
        start_seconds=start,
        end_seconds=end,
        emotion=emotion,
        **dict(zip(("confidence", "valence", "arousal"), verdict, strict=True)),
    )


def planned(*edges: int) -> list[PlannedSpan]:
    """Spans that start at these windows, one a second; the last one runs to the true end."""
    ends = [*edges[1:], None]
    return [
        PlannedSpan(
            span_index=index,
            first_window=first,
            last_window=last,
            start_seconds=float(first),
            end_seconds=None if last is None else float(last),
        )
        for index, (first, last) in enumerate(zip(edges, ends, strict=True))
    ]


def requested(store: Store, uri: str = "a.mp4", version: str = "1", digest: str = "d1") -> int:
    """Observe a video and request its annotation; the annotation's id."""
    pipeline_id = store.register_pipeline(digest, "windows", "compact", {"window_seconds": 2.0})
    return store.request(store.observe(uri, version, 1000), version, pipeline_id).id


def annotated(
    store: Store,
    uri: str = "a.mp4",
    version: str = "1",
    digest: str = "d1",
    rows: list[tuple] | None = None,
    fused: list[tuple] | None = None,
    timeline: list[Segment] | None = None,
    warning: tuple[str, str] | None = None,
    **finish: object,
) -> int:
    """Take a video all the way in one span; the annotation's id."""
    rows = rows or [window_row(0), window_row(1)]
    annotation_id = requested(store, uri, version, digest)
    store.begin_attempt(annotation_id)
    store.plan(annotation_id, planned(0))
    claim = store.claim(annotation_id, "worker", 60.0)
    assert claim is not None
    store.checkpoint(claim, rows)
    store.complete_span(claim, rows[-1][2], warning)
    store.finish(
        annotation_id,
        fused or [fused_row(row[0]) for row in rows],
        timeline or [segment(0.0, rows[-1][2])],
        **{"duration_seconds": rows[-1][2], "provenance": {"device": "cpu"}} | finish,
    )
    return annotation_id
