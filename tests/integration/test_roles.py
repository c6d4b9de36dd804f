"""`moodreel roles`: each role of PostgreSQL may do what it must, and no more."""

import pytest
import sqlalchemy as sa

from db.errors import BadOption, DatabaseError, DatabaseLocked, DatabaseUnreachable
from db.roles import ANALYST, ROLES, SCALER, SCHEDULER, WORKER
from db.rows import NewHook
from db.session import migrate, open_engine
from db.store import Store
from db.views import VIEW_COLUMNS
from scheduler.cli import main
from scheduler.roles import password_variable
from tests.database import annotated
from tests.fleet import rows
from tests.receiver import SECRET

DENIED = r"permission denied|read-only|must be owner"
QUESTIONS = "SELECT COUNT(*) FROM timeline"


@pytest.fixture
def made(postgresql_url, monkeypatch, capsys):
    """The owner's store, with the roles made by the command; the URL of a role."""
    monkeypatch.setenv("MOODREEL_DB", postgresql_url)
    with Store(postgresql_url) as owner:
        try:
            main(["roles"])
            said = capsys.readouterr().out
            url = sa.make_url(postgresql_url)
            yield owner, lambda role: url.set(username=role).render_as_string(hide_password=False), said
        finally:
            with owner.writing() as connection:
                for role in ROLES:
                    connection.exec_driver_sql(f"DROP OWNED BY {role}; DROP ROLE {role}")


def readable(owner: Store, role: str) -> set[str]:
    """Tables and views that a role may read."""
    query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
    return {name for (name,) in rows(owner, f"{query} AND has_table_privilege('{role}', oid, 'SELECT')")}


def test_what_each_may_read(made):
    owner, _, _ = made
    assert readable(owner, SCHEDULER) - readable(owner, WORKER) == {"hooks"}
    assert readable(owner, ANALYST) == VIEW_COLUMNS.keys() - {"queued_seconds"}
    assert readable(owner, SCALER) == {"queued_seconds"}


def test_scheduler_and_worker_do_their_work_without_owning_a_table(made):
    _, url, _ = made
    with Store(url(SCHEDULER)) as scheduler:
        scheduler.add_hook(NewHook(url="https://example.org", secret=SECRET, events=("done",)))
    with Store(url(WORKER)) as worker:
        annotated(worker)
        for statement in ("DROP TABLE windows", "CREATE TABLE x (y int)", "SELECT secret FROM hooks"):
            with pytest.raises(DatabaseError, match=DENIED), worker.writing() as connection:
                connection.exec_driver_sql(statement)
    with Store(url(SCHEDULER)) as scheduler:
        assert scheduler.hook_backlog()[0] == 1
        assert scheduler.forget(["a.mp4"], [], "somebody").videos == 1


HOSTILE = (
    "DELETE FROM videos",
    "SELECT secret FROM hooks",
    "SELECT * FROM hash_key",
    "SELECT * FROM videos",
    "CREATE TABLE x (y int)",
    "CREATE TEMP TABLE x (y int)",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY (SELECT 1) TO '/tmp/moodreel-copy'",
    "SELECT pg_read_file('/etc/hostname')",
    "SELECT lo_import('/etc/hostname')",
    "SET ROLE moodreel_worker",
    "ALTER ROLE moodreel_analyst SUPERUSER",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> CURRENT_USER",
)


@pytest.mark.parametrize("statement", HOSTILE)
def test_who_asks_questions_can_do_nothing_else(made, statement):
    owner, url, _ = made
    annotated(owner)
    engine = sa.create_engine(url(ANALYST))
    with engine.connect() as connection:
        assert connection.exec_driver_sql(QUESTIONS).scalar() == 1
        with pytest.raises(sa.exc.DBAPIError, match=DENIED):
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_question_has_an_end_and_writes_nothing(made):
    _, url, _ = made
    engine = sa.create_engine(url(ANALYST))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "5min"
        assert connection.exec_driver_sql("SHOW default_transaction_read_only").scalar() == "on"
        with pytest.raises(sa.exc.DBAPIError, match=DENIED):  # even if it changes that for itself
            connection.exec_driver_sql("SET default_transaction_read_only = off; COMMIT; DELETE FROM videos")
    engine.dispose()


def test_it_may_be_run_again_and_grants_what_an_upgrade_made_anew(made, capsys):
    owner, _, said = made
    assert all(f"{role} (new;" in said for role in ROLES)
    with owner.writing() as connection:
        from db.views import create_views, drop_views

        drop_views(connection)
        create_views(connection)
    assert readable(owner, ANALYST) == set()
    main(["roles"])
    said = capsys.readouterr().out
    assert all(f"{role} (there;" in said for role in ROLES)
    assert readable(owner, ANALYST) == VIEW_COLUMNS.keys() - {"queued_seconds"}
    assert readable(owner, SCHEDULER) - readable(owner, WORKER) == {"hooks"}


def test_tables_of_later_migrations_are_the_writers_too(made):
    owner, _, _ = made
    with owner.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE later (x int)")
    assert "later" in readable(owner, WORKER)
    assert "later" not in readable(owner, ANALYST)


def test_passwords_come_from_the_environment_and_reach_the_server_as_verifiers(made, monkeypatch, capsys):
    owner, _, _ = made
    monkeypatch.setenv(password_variable(ANALYST), "c0rrect horse'")
    main(["roles"])
    said = capsys.readouterr().out
    assert "c0rrect" not in said
    stored = dict(rows(owner, "SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE 'moodreel%'"))
    assert stored[ANALYST].startswith("SCRAM-SHA-256$4096:")
    assert stored[WORKER] is None


def test_the_sql_is_printed_and_does_the_same(postgresql_url, capsys, monkeypatch):
    migrate(open_engine(postgresql_url))
    main(["roles", "--print", "--db", postgresql_url])
    printed = capsys.readouterr().out
    with Store(postgresql_url) as owner:
        assert rows(owner, "SELECT COUNT(*) FROM pg_roles WHERE rolname LIKE 'moodreel%'") == [(0,)]
        try:
            with owner.writing() as connection:
                connection.exec_driver_sql(printed)
            assert readable(owner, ANALYST) == VIEW_COLUMNS.keys() - {"queued_seconds"}
        finally:
            with owner.writing() as connection:
                for role in ROLES:
                    connection.exec_driver_sql(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_file_has_no_roles(tmp_path):
    with Store(str(tmp_path / "m.db")) as store, pytest.raises(BadOption, match="which has no roles"):
        store.make_roles({})


def test_a_role_that_owns_nothing_says_so_when_it_would_have_to_migrate(made):
    """And it is an operator's matter, not a video's."""
    owner, url, _ = made
    with owner.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0005'")
    with pytest.raises((DatabaseUnreachable, DatabaseLocked), match=DENIED):
        Store(url(WORKER))
