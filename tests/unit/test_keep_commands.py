"""The commands backfill, forget, remember, retention and audit; that each change which people ask for is on record."""

import json
from collections.abc import Iterator

import pytest

from db.store import Store
from scheduler.cli import main
from tests.database import annotated
from tests.fleet import change, rows, submit


@pytest.fixture
def command(archive, monkeypatch, capsys):
    """Runs `moodreel` in this process; its exit status and what it printed."""
    monkeypatch.setenv("MOODREEL_DB", archive.name)
    monkeypatch.setenv("MOODREEL_ACTOR", "me")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str]:
        status = 0
        try:
            main(arguments)
        except SystemExit as stop:
            status = int(stop.code or 0)
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


@pytest.fixture
def archive(tmp_path) -> Iterator[Store]:
    """Two annotated videos, and one that waits, and a second pipeline with a name."""
    store = Store(str(tmp_path / "m.db"))
    annotated(store, "/a/one.mp4")
    annotated(store, "/a/two.mp4")
    submit(store, "/b/three.mp4")
    plan = {"window_ms": 2000, "hop_ms": 1000, "span_ms": 600_000}
    config = {"preset": "compact", "plan": plan, "fusion": {"rule": "average"}}
    store.name_pipeline("v2", store.register_pipeline("new", "w", "compact", config), {})
    with store:
        yield store


def test_every_change_that_people_ask_for_is_on_record(archive, command):
    for arguments in (
        ("backfill", "--pipeline", "v2", "--where", "video LIKE '/a/%'"),
        ("cancel", "/b/three.mp4"),
        ("retry", "--code", "cancelled"),
        ("limit", "/a", "2"),
        ("limit", "/a", "--remove"),
        ("retention", "set", "/a", "90d", "--from", "annotated"),
        ("retention", "remove", "/a"),
        ("forget", "/a/one.mp4", "--yes"),
        ("remember", "/a/one.mp4"),
        ("forget", "/a", "--yes"),
        ("remember", "/a/"),
    ):
        status, said = command(*arguments)
        assert status == 0, said
    _, said = command("audit", "--json")
    entries = json.loads(said)
    told = [(entry["action"], {name: n for name, n in entry["counts"].items() if n}) for entry in entries]
    assert told == [
        ("backfill", {"new": 2}),
        ("cancel", {"annotations": 1}),
        ("retry", {"annotations": 1}),
        *(("limit", {}), ("limit", {})),
        *(("retention set", {}), ("retention remove", {})),
        ("forget", {"videos": 1, "annotations": 2, "windows": 2}),
        ("remember", {"names": 1}),
        ("forget", {"videos": 1, "annotations": 2, "windows": 2}),
        ("remember", {"names": 2}),
    ]
    assert {entry["actor"] for entry in entries} == {"me"}
    assert entries[3]["subject"] == {"prefix": "/a/", "max_running": 2}
    assert not any(name in said for name in ("one.mp4", "two.mp4", "three.mp4"))
    _, lines = command("audit", "--uri", "/a/one.mp4")
    assert [line.split("  ")[2] for line in lines.splitlines()] == ["forget", "remember"]


def test_submit_is_on_record(archive, command, tmp_path):
    (tmp_path / "a.mp4").touch()
    status, said = command("submit", str(tmp_path), "--priority", "7")
    assert status == 0, said
    (entry,) = archive.audit_entries()
    assert (entry.action, entry.subject) == ("submit", {"pipeline": "new", "priority": 7})
    assert entry.counts["new"] == 1


def test_a_condition_is_on_record_without_the_names_of_videos(archive, command):
    status, said = command("backfill", "--where", "video IN ('/a/one.mp4', 'it''s') OR video LIKE '/b/%'")
    assert status == 0, said
    (entry,) = archive.audit_entries(uri="/a/one.mp4")
    assert "one.mp4" not in entry.subject["where"]
    assert entry.subject["where"].endswith(", 'it''s') OR video LIKE '/b/%'")


def test_backfill_says_how_much_and_asks_for_nothing_if_it_is_to_try(archive, command):
    status, said = command("backfill", "--dry-run")
    assert (status, said) == (0, "3 videos, 0.0 hours, are to be asked for\n")
    assert archive.audit_entries() == []
    status, said = command("backfill", "--limit", "1", "--json")
    assert json.loads(said.partition("\n}")[0] + "}")["new"] == 1
    assert "1 new" not in said
    status, said = command("backfill", "--where", "nope")
    assert (status, "nope" in said, "[bad_option]" in said) == (2, True, True)
    assert len(archive.audit_entries()) == 1


def test_forget_asks_first_and_where_it_cannot_it_wants_a_yes(archive, command, monkeypatch):
    status, said = command("forget", "/a")
    assert (status, "--yes" in said) == (2, True)
    assert "all below /a/. 2 videos" in said
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    assert command("forget", "/a")[0] == 130
    assert archive.video("/a/one.mp4") is not None
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "y")
    assert command("forget", "/a")[0] == 0
    assert archive.video("/a/one.mp4") is None


@pytest.mark.parametrize("name", ["", "s3://b/\udcff"])
def test_what_is_nobodys_name_is_not_taken_for_one(archive, command, monkeypatch, name):
    monkeypatch.chdir("/")  # where the empty name would lead
    for arguments in (("forget", name, "--yes"), ("cancel", name), ("audit", "--uri", name), ("limit", name, "1")):
        assert command(*arguments)[0] == 2, arguments
    assert archive.status().videos == 3
    assert archive.status().annotations == {"done": 2, "pending": 1}


def test_remember_says_what_keeps_a_video_out(archive, command):
    command("forget", "/a/", "--yes")
    status, said = command("remember", "/a/one.mp4")
    assert (status, "lies below /a/" in said, "moodreel remember /a/" in said) == (2, True, True)
    assert command("remember", "/c.mp4") == (0, "Nothing of that was forgotten.\n")
    assert archive.forgotten_prefixes() == ["/a/", "file:///a/"]


def test_rules_of_retention_are_shown_and_tried(archive, command):
    assert command("retention", "list") == (0, "no rules: everything is kept forever\n")
    command("retention", "set", "*", "1d", "--from", "annotated")
    command("retention", "set", "/a/", "forever")
    _, said = command("retention", "list")
    assert said == "everywhere: results are erased 1 days after they were annotated\nbelow /a/: kept forever\n"
    change(archive, "UPDATE annotations SET completed_at = '2000-01-01' WHERE status = 'done'")
    archive.remove_retention("/a/")
    _, said = command("retention", "apply", "--dry-run", "--json")
    assert json.loads(said) == [{"prefix": "", "videos": 2, "seconds": 6.0}]
    _, said = command("retention", "apply")
    assert said == "Erased: 2 annotations, 4 windows; 0 videos forgotten.\n"
    assert command("retention", "remove", "/a/")[0] == 2


def test_an_annotation_that_is_kept_out_says_so_in_submit(archive, command, tmp_path):
    (tmp_path / "a.mp4").touch()
    command("forget", str(tmp_path / "a.mp4"), "--yes")
    status, said = command("submit", str(tmp_path))
    assert (status, "1 left out, since they were forgotten" in said) == (0, True)
    assert rows(archive, "SELECT COUNT(*) FROM videos") == [(3,)]


TOO_LARGE = "99999999999999999999"  # for 64 bits


@pytest.mark.parametrize(
    "arguments",
    [
        ("audit", "--limit", TOO_LARGE),
        ("backfill", "--limit", TOO_LARGE),
        ("limit", "/a", TOO_LARGE),
        ("hooks", "remove", TOO_LARGE),
        ("hooks", "test", TOO_LARGE),
        ("hooks", "retry", TOO_LARGE),
        ("hooks", "deliveries", TOO_LARGE),
        ("hooks", "deliveries", "--limit", TOO_LARGE),
        ("alerts", "show", "--limit", TOO_LARGE),
        ("work", "--slots", TOO_LARGE),
    ],
)
def test_a_number_that_no_database_has_is_refused(command, arguments):
    status, said = command(*arguments)
    assert (status, f"{TOO_LARGE} is not in the range" in said) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("timeline", "s3://b/{}"),
        ("fuse", "s3://b/{}"),
        ("audit", "--uri", "s3://b/{}"),
        ("audit", "--action", "{}"),
        ("alerts", "show", "--rule", "{}"),
        ("alerts", "remove", "{}"),
        ("backfill", "--pipeline", "v2", "--where", "video = '{}'"),
    ],
)
def test_what_is_not_utf_8_and_no_path_is_refused_in_one_sentence(command, arguments):
    status, said = command(*(text.format("\udcff.mp4") for text in arguments))
    assert (status, "\\udcff.mp4" in said, "is not UTF-8" in said) == (2, True, True)
