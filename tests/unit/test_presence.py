"""Videos that go and come back."""

import json

import pytest
from click.testing import CliRunner

from db.identity import Source
from db.rows import Submitted
from scheduler.cli import cli
from tests.database import annotated
from tests.fleet import due, pipeline, rows, source, submit


def test_what_is_gone_is_marked_once_and_keeps_its_rows(store):
    annotated(store, "a.mp4")
    assert store.mark_gone(["a.mp4", "unknown.mp4"]) == {"a.mp4"}
    assert store.mark_gone(["a.mp4"]) == set()
    assert store.video("a.mp4").gone_at is not None
    assert len(store.timeline("a.mp4")) == 1
    status = store.status()
    assert (status.videos, status.gone, status.annotations) == (1, 1, {"done": 1})


@pytest.mark.parametrize("version", ["1", "2"])
def test_what_is_back_is_not_gone(store, version):
    submit(store, "a")
    store.mark_gone(["a"])
    assert store.asked_for(pipeline(store), {"a": "1"}) == set()
    asked = store.submit(pipeline(store), [source("a", version)])
    assert asked == (Submitted(waiting=1) if version == "1" else Submitted(new=1))
    assert store.video("a").gone_at is None
    assert store.status().gone == 0
    assert store.asked_for(pipeline(store), {"a": version}) == {"a"}


def test_what_is_seen_is_not_gone(store):
    store.observe("a", "1", 10)
    store.mark_gone(["a"])
    store.observe("a", "1", 10)
    assert store.video("a").gone_at is None


def test_what_is_asked_for_and_done_is_not_gone(store):
    annotated(store, "a.mp4", digest="d1")
    store.mark_gone(["a.mp4"])
    assert store.finished("d1", {"a.mp4": "2"}) == set()
    assert store.video("a.mp4").gone_at is not None
    assert store.finished("d1", {"a.mp4": "1"}) == {"a.mp4"}
    assert store.video("a.mp4").gone_at is None


def test_names_come_in_the_order_of_their_bytes(store, monkeypatch):
    monkeypatch.setattr("db.presence._ROWS_PER_QUERY", 2)
    keys = ["B", "a", "a b", "a%b", "a+b", "ab", "a~", "ä", "\uffff", "\U0001f600"]
    assert [key.encode() for key in keys] == sorted(key.encode() for key in keys)
    uris = [f"s3://archive/{key}" for key in keys]
    others = ["s3://archive", "s3://archive2/a", "s3://Archive/a", "/a"]
    store.submit(pipeline(store), [Source(uri, "1", 1, 0.0) for uri in reversed(uris + others)])
    assert list(store.present("s3://archive/", "", None)) == uris
    assert list(store.present("s3://archive/", uris[2], uris[5])) == uris[3:6]
    assert list(store.present("s3://archive/a", "", None)) == uris[1:7]
    store.mark_gone([uris[4]])
    assert list(store.present("s3://archive/", uris[2], uris[5])) == [uris[3], uris[5]]


def test_what_is_known_in_another_version_or_as_gone_has_changed(store):
    submit(store, "a", "b", "c")
    store.mark_gone(["c"])
    assert store.changed({"a": "1", "b": "2", "c": "1", "d": "1"}) == {"b", "c"}


def test_a_job_of_what_is_gone_stays_in_the_queue(store):
    submit(store, "a")
    store.mark_gone(["a"])
    assert len(due(store)) == 1
    assert rows(store, "SELECT status FROM annotations") == [("pending",)]


def test_people_are_told(store, migrated_url):
    annotated(store, "s3://archive/a\nb.mp4")
    store.mark_gone(["s3://archive/a\nb.mp4"])

    def say(*arguments: str) -> str:
        ran = CliRunner().invoke(cli, [*arguments, "--db", migrated_url], catch_exceptions=False)
        assert ran.exit_code == 0
        return ran.output

    assert "1 videos (1 gone from where they were)" in say("status")
    assert json.loads(say("status", "--json"))["gone"] == 1
    assert "gone from there since 20" in say("timeline", "s3://archive/a\nb.mp4")
    assert json.loads(say("timeline", "s3://archive/a\nb.mp4", "--json"))["gone_at"].startswith("20")
