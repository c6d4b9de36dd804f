"""The audit: who asked for what, that nothing of it can be changed, and that no video's name is in it."""

import getpass
import socket

import pytest
import sqlalchemy as sa

from db.errors import DatabaseError
from scheduler.actor import actor
from tests.database import requested
from tests.fleet import change, rows


def test_a_request_and_what_became_of_it(store):
    with store.audited("me", "cancel", {"videos": []}) as counts:
        (asked,) = store.audit_entries()
        assert (asked.actor, asked.action, asked.subject, asked.counts) == ("me", "cancel", {"videos": []}, None)
        counts["annotations"] = 3
    (done,) = store.audit_entries()
    assert done.counts == {"annotations": 3}
    assert done.done_at >= done.asked_at


def test_a_request_that_came_to_nothing_stands_there_too(store):
    with pytest.raises(KeyError), store.audited("me", "cancel", {}):
        raise KeyError
    assert [entry.counts for entry in store.audit_entries()] == [None]


@pytest.mark.parametrize("table", ["audit", "audit_outcomes"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET {}_at = '2000-01-01'", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_it_is_only_ever_added_to(store, table, statement):
    if "TRUNCATE" in statement and store.engine.dialect.name == "sqlite":
        return  # it knows no such statement; DELETE is what it has
    with store.audited("me", "cancel", {}):
        pass
    moment = "asked" if table == "audit" else "done"
    with pytest.raises(DatabaseError, match="only ever added to"):
        change(store, statement.format(table, moment))
    assert len(store.audit_entries()) == 1


def test_entries_by_action_by_video_and_the_latest(store):
    for action, uri in (("cancel", "a.mp4"), ("retry", "a.mp4"), ("cancel", "b.mp4"), ("cancel", "/folder/")):
        with store.audited("me", action, store.named([uri])):
            pass
    assert [entry.id for entry in store.audit_entries(limit=2)] == [3, 4]
    assert [entry.id for entry in store.audit_entries(action="cancel")] == [1, 3, 4]
    assert [entry.id for entry in store.audit_entries(uri="a.mp4")] == [1, 2]
    assert store.audit_entries(uri="c.mp4") == []
    assert store.audit_entries()[3].subject == {"videos": [], "prefixes": ["/folder/", "file:///folder/"]}


def test_who_asks(monkeypatch):
    monkeypatch.delenv("MOODREEL_ACTOR", raising=False)
    assert actor() == f"{getpass.getuser()}@{socket.gethostname()}"
    monkeypatch.setenv("MOODREEL_ACTOR", "night shift")
    assert actor() == "night shift"


def test_who_asks_where_users_have_no_names(monkeypatch):
    monkeypatch.delenv("MOODREEL_ACTOR", raising=False)

    def nobody():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert actor().startswith("uid ")


def test_the_key_is_made_once_by_whoever_is_first(store):
    requested(store)
    assert rows(store, "SELECT COUNT(*) FROM hash_key") == [(0,)]
    first = store.named(["a.mp4"])
    with store.writing() as connection, pytest.raises(sa.exc.IntegrityError):
        connection.execute(sa.text("INSERT INTO hash_key VALUES (2, 'ff')"))
    assert store.named(["a.mp4"]) == first
