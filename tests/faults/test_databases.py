"""What a database can do to those who write to it: be there before and after a death, refuse, run full, be crowded."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.errors import DatabaseFull, DatabaseLocked
from db.store import Store
from tests.database import planned, requested, window_row
from tests.fleet import change, do_all, rows, submit, take_span
from tests.fleet import plan as planned_by_worker

ROOT = Path(__file__).parent.parent.parent
WRITERS = 8


# --- kill -9 around the commit


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_that_dies_around_each_of_its_commits_leaves_the_rows_of_one_that_lives(migrated_url, when):
    command = [sys.executable, "-m", "tests.faults.dying", migrated_url, when]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= 12
    with Store(migrated_url) as store:
        ((annotation_id, status, duration),) = rows(store, "SELECT id, status, duration_seconds FROM annotations")
        assert (status, duration) == ("done", 10.0)
        assert store.windows(annotation_id) == [window_row(n) for n in range(9)]
        assert rows(store, "SELECT COUNT(*), COUNT(DISTINCT window_index) FROM fused_windows") == [(9, 9)]
        assert rows(store, "SELECT start_seconds, end_seconds FROM segments") == [(0.0, 10.0)]
        assert rows(store, "SELECT status, COUNT(*) FROM spans GROUP BY status") == [("done", 3)]


# --- refusals


@pytest.fixture
def two_videos(postgresql_url):
    with Store(postgresql_url) as store:
        for name in "ab":
            store.observe(f"{name}.mp4", "1", 1)
        yield store


def crossing(store: Store, first: str, then: str, meet: threading.Barrier, ended: list[BaseException | None]) -> None:
    """Change one video and then another in one transaction; what came of it."""
    try:
        with store.writing() as connection:
            for n, uri in enumerate((first, then)):
                size = connection.execute(sa.text(f"SELECT size_bytes FROM videos WHERE uri = '{uri}'")).scalar()
                if n == 0:
                    meet.wait(20)
                connection.execute(sa.text(f"UPDATE videos SET size_bytes = {size + 1} WHERE uri = '{uri}'"))
                if n == 0:
                    meet.wait(20)
        ended.append(None)
    except DatabaseLocked as error:
        ended.append(error)


def test_a_deadlock_costs_one_of_two_a_try_and_no_row(two_videos):
    meet, ended = threading.Barrier(2), []
    names = [("a.mp4", "b.mp4"), ("b.mp4", "a.mp4")]
    threads = [threading.Thread(target=crossing, args=(two_videos, *pair, meet, ended)) for pair in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    (error,) = [error for error in ended if error is not None]
    assert "deadlock detected" in str(error)
    assert rows(two_videos, "SELECT size_bytes FROM videos") == [(2,), (2,)]  # all of one, nothing of the other


def write_late(store: Store) -> None:
    """Change what somebody else has changed since it was looked at."""
    with store.writing() as connection:
        connection.execute(sa.text("SELECT size_bytes FROM videos")).all()
        change(store, "UPDATE videos SET size_bytes = 8 WHERE uri = 'a.mp4'")
        connection.execute(sa.text("UPDATE videos SET size_bytes = 9 WHERE uri = 'a.mp4'"))


def test_a_serialization_failure_is_a_lock_that_was_not_had(two_videos):
    """Where an operator has made SERIALIZABLE the database's usual isolation."""
    name = two_videos.engine.url.database
    change(two_videos, f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    two_videos.engine.dispose()
    with pytest.raises(DatabaseLocked, match="could not serialize"):
        write_late(two_videos)
    assert sorted(rows(two_videos, "SELECT uri, size_bytes FROM videos")) == [("a.mp4", 8), ("b.mp4", 1)]


def fill_up(store: Store) -> None:
    """Let the database refuse windows as a full disk does."""
    if store.engine.dialect.name == "sqlite":

        @sa.event.listens_for(store.engine, "checkout")
        def leave_no_page(connection, *_):
            connection.execute("PRAGMA max_page_count = 1")  # or as many as there are

        store.engine.leave_no_page = leave_no_page
        return
    full = (
        "BEGIN RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'could not extend file: No space left on device'; END"
    )
    change(store, f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ {full} $$")
    change(store, "CREATE TRIGGER full_disk BEFORE INSERT ON windows EXECUTE FUNCTION full_disk()")


def free_space(store: Store) -> None:
    if store.engine.dialect.name == "sqlite":
        sa.event.remove(store.engine, "checkout", store.engine.leave_no_page)
        store.engine.dispose()
        return
    change(store, "DROP TRIGGER full_disk ON windows")


def test_a_full_disk_keeps_what_is_stored_and_takes_the_rest_later(store):
    annotation_id = requested(store)
    store.plan(annotation_id, planned(0))
    claim = store.claim(annotation_id, "worker", 600.0)
    store.checkpoint(claim, [window_row(0)])
    fill_up(store)
    with pytest.raises(DatabaseFull):
        store.checkpoint(claim, [window_row(n) for n in range(1, 5000)])
    free_space(store)
    assert store.windows(annotation_id) == [window_row(0)]
    store.checkpoint(claim, [window_row(n) for n in range(1, 5000)])
    assert len(store.windows(annotation_id)) == 5000


# --- a crowd


def test_eight_sqlite_writers_beside_a_long_reader(tmp_path):
    """Each takes its videos all the way; the reader sees what there was when it began, and keeps nobody waiting."""
    url = str(tmp_path / "m.db")
    went_wrong: list[BaseException] = []

    def annotate(number: int) -> None:
        try:
            with Store(url) as store:
                for video in range(3):
                    do_all(store, submit(store, f"/{number}/{video}.mp4")[0], 0, 2)
        except BaseException as error:  # noqa: BLE001 - the test must see it, whatever it is
            went_wrong.append(error)

    with Store(url) as store:
        do_all(store, submit(store, "/before.mp4")[0])
        with store.reading() as reader:
            count = sa.text("SELECT COUNT(*) FROM windows")
            before = reader.execute(count).scalar()
            writers = [threading.Thread(target=annotate, args=(number,)) for number in range(WRITERS)]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join(120)
            assert reader.execute(count).scalar() == before == 2
        assert went_wrong == []
        assert rows(store, "SELECT status, COUNT(*) FROM annotations GROUP BY status") == [("done", 3 * WRITERS + 1)]
        assert rows(store, "SELECT COUNT(*) FROM windows") == [(4 * 3 * WRITERS + 2,)]


def test_a_claim_that_ran_into_a_lock_is_simply_made_again(migrated_url):
    """Nothing of it stays behind that would count as an attempt."""
    with Store(migrated_url, lock_timeout_seconds=0.3) as store, Store(migrated_url) as other:
        (annotation_id,) = submit(store, "a.mp4")
        planned_by_worker(store, annotation_id)
        with other.writing() as connection:
            connection.execute(sa.text("UPDATE annotations SET priority = 1"))
            connection.execute(sa.text("UPDATE spans SET attempts = attempts"))
            with pytest.raises(DatabaseLocked):
                take_span(store, annotation_id)
        assert take_span(store, annotation_id).epoch
        assert rows(store, "SELECT attempts FROM spans") == [(1,)]
