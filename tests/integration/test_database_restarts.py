"""A PostgreSQL server that goes away in the middle of use: one clear error, and the next call works again."""

import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from db import session
from db.errors import DatabaseError, DatabaseFull, DatabaseLocked, DatabaseUnreachable
from db.session import _translated
from db.store import Store
from tests.database import missing, window_row
from tests.fleet import do_all, plan, rows, submit, take_span
from tests.servers import PostgresServer, ServerMissing


@pytest.fixture(scope="module")
def server():
    """One of its own, that may be restarted."""
    with tempfile.TemporaryDirectory(prefix="moodreel-") as folder:
        try:
            running = PostgresServer(Path(folder))
        except ServerMissing as reason:
            missing(str(reason))
            raise
        with running:
            yield running


@pytest.fixture
def restarted_store(server):
    url = server.create_database("restarts")
    with Store(url) as store:
        yield store
    server.drop_database("restarts")


def test_an_idle_pool_recovers_by_itself(server, restarted_store):
    submit(restarted_store, "a")
    with ThreadPoolExecutor(4) as pool:  # several connections in the pool
        list(pool.map(lambda _: rows(restarted_store, "SELECT pg_sleep(0.1)"), range(4)))
    server.restart()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: restarted_store.status().videos, range(8))) == [1] * 8


def test_a_transaction_that_was_broken_off_is_undone_and_said(server, restarted_store):
    store = restarted_store

    def half():
        with store.writing() as connection:
            connection.execute(sa.text("CREATE TABLE half (done INTEGER)"))
            server.restart()
            connection.execute(sa.text("SELECT 1"))

    with pytest.raises(DatabaseUnreachable, match="does not answer"):
        half()
    with store.reading() as connection:
        assert not sa.inspect(connection).has_table("half")


def test_a_commit_that_was_broken_off_is_said(server, restarted_store):
    store = restarted_store

    def whole():
        with store.writing() as connection:
            connection.execute(sa.text("CREATE TABLE half (done INTEGER)"))
            server.restart()

    with pytest.raises(DatabaseUnreachable):
        whole()
    do_all(store, submit(store, "a")[0])


def test_rows_being_copied_when_the_server_goes_are_not_stored(server, restarted_store):
    """COPY goes through the driver, past SQLAlchemy; its errors mean the same."""
    store = restarted_store
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id)
    claim = take_span(store, annotation_id)

    class Restarting(list):
        """Window rows in the middle of which the server goes."""

        def __iter__(self):
            for index, row in enumerate(super().__iter__()):
                if index == 3000:
                    server.restart()
                yield row

    many = Restarting(window_row(index) for index in range(6000))
    with pytest.raises(DatabaseUnreachable):
        store.checkpoint(claim, many)
    assert store.windows(annotation_id) == []
    store.checkpoint(claim, [window_row(0)])


def test_a_server_that_is_down_and_starting_up(server, restarted_store):
    """Every call fails with the one error until the server is there again, and then works."""
    submit(restarted_store, "a")
    stop, wrong, failed, worked = threading.Event(), [], [], []

    def ask():
        while not stop.is_set():
            try:
                worked.append((restarted_store.fleet().queue_videos, time.monotonic()))
            except DatabaseUnreachable as error:
                failed.append(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
                wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.5)
        server.restart(down_seconds=0.5)
    back = time.monotonic()
    time.sleep(1.0)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert failed
    assert max(when for _, when in worked) > back
    assert {count for count, _ in worked} == {1}


class _Refused(Exception):  # noqa: N818 - a driver's error
    def __init__(self, sqlstate):
        super().__init__("the reason\nand more")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("57P01", DatabaseUnreachable),  # terminated by an administrator
        ("57P02", DatabaseUnreachable),  # crash of another process
        ("57P03", DatabaseUnreachable),  # starting up, or shutting down
        ("08006", DatabaseUnreachable),  # connection failure
        ("08P01", DatabaseUnreachable),  # protocol violation
        ("53300", DatabaseUnreachable),  # too many connections
        ("53000", DatabaseUnreachable),  # insufficient resources
        ("53200", DatabaseUnreachable),  # out of memory
        ("53400", DatabaseUnreachable),  # configuration limit
        ("57014", DatabaseUnreachable),  # query cancelled
        ("58030", DatabaseUnreachable),  # I/O error
        ("25006", DatabaseUnreachable),  # read-only: a server that stands by
        ("25P03", DatabaseUnreachable),  # idle in a transaction for too long
        ("42501", DatabaseUnreachable),  # no permission
        ("XX001", DatabaseUnreachable),  # damaged
        ("53100", DatabaseFull),
        ("55P03", DatabaseLocked),
        ("23514", DatabaseError),  # a rule of the tables
        ("22021", DatabaseError),  # a character that it cannot store
    ],
)
def test_what_the_servers_refusals_mean(sqlstate, kind):
    wrapper = {"22": sa.exc.DataError, "23": sa.exc.IntegrityError}.get(sqlstate[:2], sa.exc.OperationalError)
    translated = _translated(wrapper("SELECT 1", {}, _Refused(sqlstate)), "db")
    assert type(translated) is kind
    assert str(translated).endswith("the reason")
    assert "SELECT" not in str(translated)


def test_too_many_connections(server, restarted_store):
    others = sa.create_engine(server.url, poolclass=sa.NullPool)
    held = []
    restarted_store.engine.dispose()
    try:
        with suppress(sa.exc.OperationalError):
            while True:
                held.append(others.connect())
        with pytest.raises(DatabaseUnreachable):
            restarted_store.status()
    finally:
        for connection in held:
            connection.close()
    assert restarted_store.status().videos == 0


def test_rows_that_break_a_rule_are_their_own_fault(server, restarted_store):
    (annotation_id,) = submit(restarted_store, "a")
    plan(restarted_store, annotation_id)
    claim = take_span(restarted_store, annotation_id)
    for row in (window_row(0, face_count=-1), window_row(0, audio_state="o\0k")):
        with pytest.raises(DatabaseError) as caught:
            restarted_store.checkpoint(claim, [row])
        assert type(caught.value) is DatabaseError


def test_a_pause_in_a_transaction_has_an_end(restarted_store):
    with restarted_store.reading() as connection:
        assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar() == "1min"


def test_who_pauses_in_a_transaction_does_not_keep_its_locks(server, restarted_store, monkeypatch):
    submit(restarted_store, "a")
    monkeypatch.setattr(session, "_IDLE_MILLISECONDS", 200)
    with Store(restarted_store.engine.url.render_as_string(hide_password=False)) as gone:

        def pause():
            with gone.writing() as connection:
                connection.execute(sa.text("UPDATE videos SET size_bytes = 7"))
                time.sleep(1.0)
                restarted_store.observe("a", "2", 2)
                connection.execute(sa.text("SELECT 1"))

        with pytest.raises(DatabaseUnreachable):
            pause()
        assert gone.video("a").size_bytes == 2
