"""Opening databases: migrated when they may be, refused with one clear sentence when not."""

import re
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from db import errors, session, views
from db.identity import Source
from db.rows import Submitted
from db.session import REVISIONS, Database, migrate, open_engine
from db.store import Store
from db.tables import metadata
from db.views import VIEW_COLUMNS
from tests.database import annotated


@pytest.fixture
def database(database_url):
    with Database(database_url) as opened:
        yield opened


def test_migrated_tables_are_those_of_tables_py(database):
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def _checks(engine):
    """CHECK constraints, which Alembic does not compare."""
    inspector = sa.inspect(engine)
    return {
        (table, check["name"], re.sub(r"\s+", " ", check["sqltext"]))
        for table in metadata.tables
        for check in inspector.get_check_constraints(table)
    }


def test_migrated_rules_are_those_of_tables_py(database):
    migrated = _checks(database.engine)
    with database.writing() as connection:
        for view in VIEW_COLUMNS:
            connection.exec_driver_sql(f"DROP VIEW {view}")
        metadata.drop_all(connection)
        metadata.create_all(connection)
    assert migrated == _checks(database.engine)
    rules = [rule for table in metadata.tables.values() for rule in table.constraints]
    assert len(migrated) == sum(isinstance(rule, sa.CheckConstraint) for rule in rules)


def test_revisions_are_all_named_in_order():
    config = Config()
    config.set_main_option("script_location", str(session._MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    assert [step.revision for step in script.walk_revisions()][::-1] == list(REVISIONS)


def test_migrating_again_keeps_everything(database_url):
    with Store(database_url) as store:
        annotated(store)
        migrate(store.engine)
    with Store(database_url) as store:
        assert store.status().annotations == {"done": 1}


# --- databases that an older moodreel wrote

NOW = "'2026-01-01 00:00:00'"
OLD_ROWS = (
    f"""INSERT INTO videos (id, uri, version, size_bytes, duration_seconds, created_at, updated_at)
    VALUES (1, 'done.mp4', '1', 10, 2, {NOW}, {NOW}), (2, 'begun.mp4', '1', 10, 4, {NOW}, {NOW}),
        (3, 'ready.mp4', '1', 10, 2, {NOW}, {NOW}), (4, 'bad.mp4', '1', 10, NULL, {NOW}, {NOW})""",
    f"""INSERT INTO pipelines (id, digest, windows_digest, name, config, created_at)
    VALUES (1, 'd1', 'w1', 'compact', '{{"window_seconds": 2.0}}', {NOW})""",
    f"""INSERT INTO annotations (id, video_id, version, pipeline_id, status, attempts, duration_seconds, created_at,
        completed_at, error_code, error_message)
    VALUES (1, 1, '1', 1, 'done', 1, 2, {NOW}, {NOW}, NULL, NULL),
        (2, 2, '1', 1, 'running', 1, NULL, {NOW}, NULL, NULL, NULL),
        (3, 3, '1', 1, 'running', 1, NULL, {NOW}, NULL, NULL, NULL),
        (4, 4, '1', 1, 'failed', 2, NULL, {NOW}, {NOW}, 'not_media', 'bad.mp4 is text.')""",
    """INSERT INTO spans (annotation_id, span_index, first_window, last_window, start_seconds, end_seconds, status,
        lease_owner, lease_until, epoch, attempts, windows_done, true_end_seconds)
    VALUES (1, 0, 0, NULL, 0, NULL, 'done', NULL, NULL, 1, 1, 1, 2),
        (2, 0, 0, 2, 0, 2, 'done', NULL, NULL, 1, 1, 0, NULL),
        (2, 1, 2, NULL, 2, NULL, 'running', 'old', 1, 3, 3, 0, NULL),
        (3, 0, 0, NULL, 0, NULL, 'done', NULL, NULL, 1, 1, 1, 2)""",
    *(
        f"""INSERT INTO windows (annotation_id, window_index, start_seconds, end_seconds, audio_state, video_state)
        VALUES ({annotation_id}, 0, 0, 2, 'absent', 'no_face')"""
        for annotation_id in (1, 3)
    ),
    "INSERT INTO segments (annotation_id, segment_index, start_seconds, end_seconds) VALUES (1, 0, 0, 2)",
    "UPDATE videos SET current_annotation_id = 1 WHERE id = 1",
)


def _alembic(connection, move, revision):
    config = Config()
    config.set_main_option("script_location", str(session._MIGRATIONS))
    config.attributes["connection"] = connection
    move(config, revision)


def _first_revision(url):
    """A database as the first moodreel wrote it, with rows of every kind, and what they were."""
    return _older(url, "0001", OLD_ROWS)


def _older(url, revision, statements):
    """A database as an older moodreel wrote it, and the rows of the first revision's tables."""
    engine = open_engine(url)
    with engine.begin() as connection:
        _alembic(connection, command.upgrade, revision)
        for statement in statements:
            connection.execute(sa.text(statement))
        for table in ("videos", "pipelines", "annotations") if connection.dialect.name == "postgresql" else ():
            connection.exec_driver_sql(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
            )
        kept = _rows(connection)
    engine.dispose()
    return kept


def _rows(connection, like=None):
    """All rows of the first revision's tables and columns, or of those of `like`."""
    tables = ("videos", "pipelines", "annotations", "spans", "windows", "fused_windows", "segments")
    found = {}
    for table in tables:
        names = [column["name"] for column in sa.inspect(connection).get_columns(table)]
        if like is not None:
            names = [name for name in names if name in like[table][0]]
        query = sa.text(f"SELECT {', '.join(names)} FROM {table} ORDER BY 1, 2")
        found[table] = (names, [tuple(row) for row in connection.execute(query)])
    return found


def test_an_older_database_keeps_its_rows(database_url):
    kept = _first_revision(database_url)
    with Store(database_url) as store:
        with store.reading() as connection:
            assert _rows(connection, like=kept) == kept
            assert connection.execute(sa.text("SELECT COUNT(*) FROM timeline")).scalar() == 1
        assert store.status().annotations == {"done": 1, "running": 2, "failed": 1}
        assert store.take_due(10, 300.0) == []  # nobody asked the fleet for any of it
        assert store.finished("d1", {"done.mp4": "1"}) == {"done.mp4"}


def test_the_fleet_goes_on_where_an_older_moodreel_stopped(database_url):
    _first_revision(database_url)
    with Store(database_url) as store:
        uris = ("done.mp4", "begun.mp4", "ready.mp4", "bad.mp4", "new.mp4")
        asked = store.submit(1, [Source(uri, "1", 10, 0.0) for uri in uris])
        assert asked == Submitted(new=1, waiting=2, done=1, again=1)
        due = [(item.job.kind, item.job.annotation_id) for item in store.take_due(10, 300.0)]
        new = store.video("new.mp4").id
        assert due[:3] == [("finish", 3), ("annotate_span", 2), ("plan", 4)]
        assert [(kind, store.assignment(key).video.id) for kind, key in due[3:]] == [("plan", new)]


def test_going_back_to_the_first_revision_and_on_again(database_url):
    kept = _first_revision(database_url)
    with Store(database_url) as store:
        store.submit(1, [Source("new.mp4", "1", 10, 0.0)])
        with store.writing() as connection:
            connection.execute(sa.text("DELETE FROM videos WHERE uri = 'new.mp4'"))
            views.drop_views(connection)
            _alembic(connection, command.downgrade, "0001")
            assert _rows(connection) == kept
            assert "workers" not in sa.inspect(connection).get_table_names()
    with Store(database_url) as store, store.reading() as connection:
        assert _rows(connection, like=kept) == kept
        assert _checks(store.engine)


# What the fifth revision has besides, and what users may have made of their own on SQLite.
LATER_ROWS = (
    f"""INSERT INTO annotations (id, video_id, version, pipeline_id, source_annotation_id, status, attempts, created_at)
    VALUES (7, 1, '2', 1, 1, 'pending', 0, {NOW})""",
    f"""INSERT INTO hooks (id, url, secret, on_done, on_failed, on_alert, insecure_http, link_local, created_at)
    VALUES (3, 'https://a/', 's', TRUE, TRUE, TRUE, FALSE, FALSE, {NOW})""",
    """INSERT INTO hook_deliveries (id, hook_id, event_key, event_id, event, annotation_id, body, status, created_at)
    VALUES (9, 3, 'done/1', 'e', 'done', 1, '{}', 'pending', 1)""",
    f"""INSERT INTO alert_rules (id, name, measure, level, below, min_seconds, created_at)
    VALUES (5, 'distress', 'fearful', 0.6, FALSE, 1, {NOW})""",
    f"""INSERT INTO raised_alerts (annotation_id, rule_id, start_seconds, end_seconds, peak, raised_at)
    VALUES (1, 5, 0, 2, 0.9, {NOW})""",
)
OWN = (
    "CREATE VIEW own_view AS SELECT uri FROM videos",
    "CREATE INDEX own_index ON annotations (created_at)",
    "CREATE TRIGGER own_trigger AFTER INSERT ON alert_rules BEGIN SELECT 1; END",
)
NEVER_TWICE = ("videos", "annotations", "hooks", "hook_deliveries", "alert_rules")


def _all_rows(connection):
    return {name: connection.execute(sa.select(table)).all() for name, table in metadata.tables.items()}


def _is_numbered_once(engine, table):
    with engine.connect() as connection:
        query = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?"
        return "AUTOINCREMENT" in connection.exec_driver_sql(query, (table,)).scalar_one()


@pytest.fixture
def fifth_revision(tmp_path):
    """An SQLite database of the fifth revision: its URL, its rows, and its indexes and triggers."""
    url = str(tmp_path / "m.db")
    _older(url, "0005", (*OLD_ROWS, *LATER_ROWS, *OWN))
    engine = open_engine(url)
    with engine.connect() as connection:
        rows = _all_rows(connection)
    kept = _beside_tables(engine)
    engine.dispose()
    return url, rows, kept


def _beside_tables(engine):
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') ORDER BY name"
    with engine.connect() as connection:
        return connection.exec_driver_sql(query).all()


def test_rebuilding_tables_on_sqlite_loses_nothing(fifth_revision):
    url, rows, kept = fifth_revision
    with Store(url) as store:
        assert _beside_tables(store.engine) == kept
        with store.reading() as connection:
            assert _all_rows(connection) == rows
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
            assert connection.exec_driver_sql("SELECT COUNT(*) FROM own_view").scalar() == 4
            assert connection.exec_driver_sql("SELECT COUNT(*) FROM timeline").scalar() == 1
        assert {name for name in metadata.tables if _is_numbered_once(store.engine, name)} == set(NEVER_TWICE)
        with store.writing() as connection:  # what referred to them does so still
            connection.execute(sa.text("DELETE FROM videos"))
            connection.execute(sa.text("DELETE FROM hooks"))
            left = {name for name, rows in _all_rows(connection).items() if rows}
        assert left == {"pipelines", "alert_rules"}


def test_foreign_keys_hold_while_a_database_is_used_that_was_just_migrated(fifth_revision):
    with Store(fifth_revision[0]) as store:
        for _ in range(3):
            with store.reading() as connection:
                assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_rebuilding_that_is_cut_short_leaves_what_was_there(fifth_revision, monkeypatch):
    url, rows, kept = fifth_revision
    monkeypatch.setattr(views, "_TIMELINE", "SELECT FROM")
    with pytest.raises(errors.DatabaseError):
        Database(url)
    engine = open_engine(url)
    with engine.connect() as connection:
        assert _all_rows(connection) == rows
    assert _beside_tables(engine) == kept
    assert not _is_numbered_once(engine, "videos")
    engine.dispose()


@pytest.mark.parametrize("table", NEVER_TWICE)
def test_no_id_is_given_twice(fifth_revision, table):
    with Store(fifth_revision[0]) as store, store.writing() as connection:
        (last,) = connection.execute(sa.text(f"SELECT MAX(id) FROM {table}")).one()
        names = [column.name for column in metadata.tables[table].columns if column.name != "id"]
        copied = ", ".join("'another'" if name in ("uri", "name", "event_key", "version") else name for name in names)
        connection.execute(sa.text(f"CREATE TEMPORARY TABLE one AS SELECT * FROM {table} WHERE id = {last}"))
        connection.execute(sa.text(f"DELETE FROM {table} WHERE id = {last}"))
        connection.execute(sa.text(f"INSERT INTO {table} ({', '.join(names)}) SELECT {copied} FROM one"))
        assert connection.execute(sa.text(f"SELECT MAX(id) FROM {table}")).scalar() == last + 1


def test_tables_whose_ids_are_given_once_are_those_of_tables_py():
    told = {name for name, table in metadata.tables.items() if table.dialect_options["sqlite"]["autoincrement"]}
    assert told == set(NEVER_TWICE)


def test_several_may_migrate_at_once(database_url):
    def open_it(_):
        with Database(database_url) as database, database.reading() as connection:
            return connection.execute(sa.text("SELECT COUNT(*) FROM videos")).scalar()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_it, range(4))) == [0] * 4


def test_an_error_while_migrating_leaves_nothing(database_url, monkeypatch):
    monkeypatch.setattr(views, "_TIMELINE", "SELECT FROM")
    with pytest.raises(errors.DatabaseError):
        Database(database_url)
    assert sa.inspect(open_engine(database_url)).get_table_names() == []
    monkeypatch.undo()
    with Database(database_url) as database:
        assert set(metadata.tables) <= set(sa.inspect(database.engine).get_table_names())


def test_newer_schema_is_refused_by_name(database_url):
    with Database(database_url) as database, database.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        name = database.name
    with pytest.raises(errors.DatabaseNewer, match="'9999'") as caught:
        Database(database_url)
    assert name in str(caught.value)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("dear diary, " * 100)
    with pytest.raises(errors.DatabaseError, match=r"notes\.db is not an SQLite database"):
        Database(str(path))
    assert path.read_text().startswith("dear diary")


def test_somebody_elses_tables_are_refused_and_kept(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE videos (title TEXT)")
    other.close()
    with pytest.raises(errors.DatabaseError, match=r"other\.db.*videos"):
        Database(str(path))
    assert sa.inspect(open_engine(str(path))).get_table_names() == ["videos"]


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("gone/m.db", errors.DatabaseUnreachable, "no folder"),
        ("", errors.DatabaseUnreachable, "is a folder"),
        ("m.db", errors.DatabaseUnreachable, "There is no database"),
    ],
)
def test_missing_files_and_folders(tmp_path, name, kind, says):
    with pytest.raises(kind, match=says) as caught:
        Database(str(tmp_path / name), create=False)
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["mysql://me:secret@host/x", "sqlite://", "sqlite:///:memory:", "postgresql://me:sec@ret:x/y"]
)
def test_urls_that_cannot_be_used(url):
    with pytest.raises(errors.BadOption) as caught:
        Database(url)
    assert "sec" not in str(caught.value)


def test_a_server_that_does_not_answer():
    pytest.importorskip("psycopg")
    with pytest.raises(errors.DatabaseUnreachable, match=r"127\.0\.0\.1") as caught:
        Database("postgresql://me:secret@127.0.0.1:9/x")
    assert "secret" not in str(caught.value)


def test_a_locked_database_is_given_up_in_time(tmp_path):
    path = tmp_path / "m.db"
    Database(str(path)).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Database(str(path), lock_timeout_seconds=0.2) as database:
        with database.reading() as connection:
            assert connection.execute(sa.text("SELECT COUNT(*) FROM videos")).scalar() == 0  # readers need not wait
        with pytest.raises(errors.DatabaseLocked, match=r"m\.db is locked"), database.writing():
            pytest.fail("must not get in")
    other.close()


def test_a_locked_row_is_given_up_in_time(postgresql_url):
    with Store(postgresql_url, lock_timeout_seconds=0.2) as store:
        store.observe("a.mp4", "1", 1)
        with store.writing() as connection:
            connection.execute(sa.text("SELECT * FROM videos FOR UPDATE"))
            with pytest.raises(errors.DatabaseLocked):
                store.observe("a.mp4", "2", 1)


def test_an_open_database_costs_no_alembic_and_little_time(tmp_path):
    """Less than what is needed anyway: SQLAlchemy with what it knows of both databases."""
    path = tmp_path / "m.db"
    Store(str(path)).close()
    code = (
        "import sys; from time import process_time as now; times = [now()];"
        "import sqlalchemy.dialects.postgresql, sqlalchemy.dialects.sqlite; times.append(now());"
        f"from db.store import Store; Store({str(path)!r}).close(); times.append(now());"
        "print('alembic' in sys.modules, 'numpy' in sys.modules, (times[2] - times[1]) / (times[1] - times[0]))"
    )
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(3)]
    assert runs[0][:2] == ["False", "False"]
    assert min(float(ratio) for *_, ratio in runs) < 1.0
