"""The commands `explain` and `quarantine`: what codes mean, what failed, what is known of it, how to try it again."""

import json
import shlex

import pytest

from db.errors import FAILURES
from db.rows import MediaFacts
from db.store import Store
from scheduler.cli import main
from tests.database import annotated, planned, requested
from tests.fleet import change, failed, submit, take_plan

FACTS = MediaFacts(
    container="mov,mp4", duration_seconds=61.5, width=1920, height=1080, video_codec="h264", audio_codec="aac",
    has_audio=True, has_video=True,
)  # fmt: skip


@pytest.fixture
def archive(store, monkeypatch) -> Store:
    """The database that `command` asks."""
    monkeypatch.setenv("MOODREEL_DB", store.engine.url.render_as_string(hide_password=False))
    return store


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `moodreel` in this process; its exit status and what it printed."""
    monkeypatch.setenv("COLUMNS", "120")

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
def quarantined(archive) -> Store:
    """Three that failed: on this machine before it was opened, on this machine after it, in the fleet."""
    store = archive
    store.fail(requested(store, "/a/text.mp4"), "not_media", "text.mp4 is text.")
    cut = requested(store, "/a/cut.mp4")
    store.plan(cut, planned(0), facts=FACTS)
    store.fail(cut, "undecodable", "cut.mp4: not one frame could be decoded.")
    failed(store, take_plan(store, submit(store, "/b/it's.mp4")[0]), permanent=True)
    annotated(store, "/a/good.mp4")
    for n, uri in enumerate(("/a/text.mp4", "/a/cut.mp4", "/b/it''s.mp4")):
        of_it = f"(SELECT id FROM videos WHERE uri = '{uri}')"
        change(store, f"UPDATE annotations SET completed_at = '2026-01-0{n + 1} 10:00:00' WHERE video_id = {of_it}")
    return store


def documents(command, *arguments):
    status, said = command("quarantine", "--json", *arguments)
    assert status == 0
    return json.loads(said)


@pytest.mark.parametrize("code", FAILURES)
def test_each_code_is_explained(command, code):
    status, said = command("explain", code)
    failure = FAILURES[code]
    assert status == 0
    assert failure.meaning in said
    assert failure.what_to_do in said
    assert ("permanent:" in said) == failure.permanent
    assert json.loads(command("explain", code, "--json")[1])["permanent"] == failure.permanent


def test_all_codes_are_listed(command):
    status, said = command("explain")
    assert status == 0
    assert all(code in said for code in FAILURES)
    assert [line["code"] for line in json.loads(command("explain", "--json")[1])] == list(FAILURES)


@pytest.mark.parametrize(("given", "hint"), [("truncatd", "Did you mean truncated?"), ("x\x1b[31m", "lists all codes")])
@pytest.mark.parametrize("how", [("explain",), ("quarantine", "--code")])
def test_a_code_that_there_is_not(command, given, hint, how):
    status, said = command(*how, given)
    assert status == 2
    assert "there is no failure code" in said
    assert hint in said
    assert "\x1b" not in said


def test_what_failed_is_shown_with_its_reason_what_is_known_and_how_to_try_again(quarantined, command):
    status, said = command("quarantine")
    assert status == 0
    assert said.index("it's.mp4") < said.index("cut.mp4") < said.index("text.mp4")
    assert "text.mp4 is text." in said
    assert "never opened" in said
    assert "mov,mp4: h264 1920x1080, aac, 1:01.5 long" in said
    assert "again: moodreel annotate /a/cut.mp4" in said
    assert FAILURES["undecodable"].what_to_do in said
    assert "good.mp4" not in said


def test_the_document_holds_the_probe(quarantined, command):
    last, cut, text = documents(command)
    assert (cut["code"], cut["permanent"], cut["attempts"]) == ("undecodable", True, 0)
    assert cut["probe"]["video_codec"] == "h264"
    assert cut["failed_at"].startswith("2026-01-02T10:00:00")
    assert text["probe"] is None
    assert shlex.split(last["again"]) == ["moodreel", "retry", "/b/it's.mp4"]


def test_an_object_is_named_by_its_uri(archive, command):
    archive.fail(requested(archive, "s3://bucket/a b.mp4"), "truncated", "it ends early")
    assert shlex.split(documents(command)[0]["again"]) == ["moodreel", "annotate", "s3://bucket/a b.mp4"]


def test_the_command_that_tries_again_does(quarantined, command):
    again = shlex.split(documents(command, "/b")[0]["again"])
    status, said = command(*again[1:])
    assert (status, "1 put back into the queue" in said) == (0, True)
    assert documents(command, "/b") == []


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("/a",), ["cut", "text"]),
        (("/a/text.mp4",), ["text"]),
        (("--code", "not_media"), ["text"]),
        (("--limit", "1"), ["it's"]),
        (("/nowhere",), []),
    ],
)
def test_some_of_them(quarantined, command, arguments, names):
    found = [entry["uri"].rpartition("/")[2].removesuffix(".mp4") for entry in documents(command, *arguments)]
    assert found == names


def test_more_than_are_shown_are_told_of(quarantined, command):
    assert "There are more" in command("quarantine", "--limit", "2")[1]
    assert "There are more" not in command("quarantine", "--limit", "3")[1]
    assert command("quarantine", "/nowhere")[1] == "nothing\n"


def test_what_was_cancelled_is_shown_when_it_is_asked_for(archive, command):
    submit(archive, "/a/x.mp4")
    assert archive.cancel() == 1
    assert documents(command) == []
    (entry,) = documents(command, "--code", "cancelled")
    assert shlex.split(entry["again"]) == ["moodreel", "retry", "/a/x.mp4", "--code", "cancelled"]


def test_hostile_names_and_reasons_do_not_drive_the_terminal(archive, command):
    name = "/a/\x1b]0;title\x07\n" + "é" * 2000 + ".mp4"
    archive.fail(requested(archive, name), "not_media", f"{name} is \x1b[31mtext.")
    status, said = command("quarantine")
    assert status == 0
    assert "\x1b" not in said
    assert "\x07" not in said
    assert len(said.splitlines()) == 5  # no name begins a line of its own
    assert documents(command)[0]["uri"] == name
