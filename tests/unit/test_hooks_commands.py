"""The commands `hooks` and `alerts`, as people type them."""

import json

import pytest

from db.store import Store
from scheduler.actor import actor
from scheduler.cli import main
from scheduler.webhook import without_secrets
from tests.database import annotated
from tests.receiver import SECRET, receiving


@pytest.fixture
def database(tmp_path):
    return str(tmp_path / "m.db")


@pytest.fixture
def run(database, capsys, monkeypatch):
    """Run a command; its exit status and what it printed."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments):
        try:
            main([*map(str, arguments), "--db", database] if "--" not in arguments else [*map(str, arguments)])
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        printed = capsys.readouterr()
        assert SECRET not in printed.out + printed.err
        return status, printed.out + printed.err

    return command


def test_a_hook_is_added_tried_shown_and_removed(run, database):
    with receiving() as receiver:
        how = ("--insecure-http", "--secret-env", "HOOK_SECRET", "--events", "done, alert", "--source", "/v")
        assert run("hooks", "add", receiver.url, *how)[0] == 0
        status, said = run("hooks", "test", 1)
        assert (status, said) == (0, "hook 1 answered 204\n")
        (body,) = receiver.bodies
        assert (body["type"], body["data"]) == ("hook.test", {"hook": 1})
        receiver.answers = [500]
        status, said = run("hooks", "test", 1)
        assert (status, "answered 500" in said) == (1, True)
    status, said = run("hooks", "test", 1)
    assert (status, "hook_failed" in said) == (1, True)
    (shown,) = json.loads(run("hooks", "list", "--json")[1])
    assert (shown["events"], shown["source_prefix"]) == (["done", "alert"], "/v/")
    assert "secret" not in shown
    assert "whsec_..." in run("hooks", "list")[1]
    with Store(database) as store:
        annotated(store, uri="/v/a.mp4")
    (waiting,) = json.loads(run("hooks", "deliveries", "--json")[1])
    assert (waiting["status"], json.loads(waiting["body"])["data"]["video"]) == ("pending", "/v/a.mp4")
    assert "pending" in run("hooks", "deliveries", 1)[1]
    assert "nothing was posted" in run("hooks", "deliveries", "--status", "dead")[1]
    assert run("hooks", "retry", 1) == (0, "0 events wait again for hook 1; moodreel watch posts them\n")
    assert run("hooks", "remove", 1)[0] == 0
    for command in ("remove", "test", "retry"):
        status, said = run("hooks", command, 1)
        assert (status, "hook_unknown" in said) == (1, True)


def test_who_asked_for_hooks_and_rules_stands_in_the_audit(run, database):
    secret = ("--insecure-http", "--secret-env", "HOOK_SECRET")
    assert run("hooks", "add", "http://127.0.0.1:9/in?token=abc#part", "--source", "s3://b/x/", *secret)[0] == 0
    assert run("hooks", "retry", 1)[0] == run("hooks", "remove", 1)[0] == 0
    assert run("hooks", "remove", 1)[0] == run("hooks", "retry", 1)[0] == 1
    assert run("alerts", "add", "distress", "fearful", 0.6, "--source", "/v")[0] == 0
    assert run("alerts", "add", "distress", "fearful", 0.7)[0] == 2
    assert run("alerts", "remove", "distress")[0] == 0
    assert run("alerts", "remove", "distress")[0] == 1
    with Store(database) as store:
        entries = store.audit_entries()
    hook = {"hook": 1, "url": "http://127.0.0.1:9/in"}
    rule = {"rule": "distress", "where": "fearful >= 0.6 for 5 s", "prefix": "/v/", "pipeline_name": None}
    again = rule | {"where": "fearful >= 0.7 for 5 s", "prefix": ""}
    assert [(entry.action, entry.subject, entry.counts) for entry in entries] == [
        ("hooks add", {"url": hook["url"], "events": ["done", "failed", "alert"], "prefix": "s3://b/x/"}, {"hook": 1}),
        ("hooks retry", hook, {"events": 0}),
        ("hooks remove", hook, {"hooks": 1}),
        ("alerts add", rule, {"rules": 1}),
        ("alerts add", again, {"rules": 0}),
        ("alerts remove", {"rule": "distress"}, {"rules": 1}),
        ("alerts remove", {"rule": "distress"}, {"rules": 0}),
    ]
    assert {entry.actor for entry in entries} == {actor()}
    status, shown = run("audit")
    assert (status, shown.count("  hooks "), shown.count("  alerts ")) == (0, 3, 4)
    assert "fearful >= 0.6 for 5 s" in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@example.org:8443/a/b?token=abc#part", "https://example.org:8443/a/b"),
        ("https://[::1]/", "https://[::1]/"),
        ("http://a@b@c", "http://c"),
    ],
)
def test_urls_are_shown_without_what_is_secret(url, shown):
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--secret-env", "HOOK_SECRET"), "not https"),
        (("--insecure-http",), "--secret-env NAME or --secret-file FILE"),
        (("--insecure-http", "--secret-env", "NO_SUCH"), "no environment variable NO_SUCH"),
        (("--insecure-http", "--secret-file", "/no/such"), "cannot be read"),
        (("--insecure-http", "--secret-env", "PATH"), "24 to 64 random bytes"),
        (("--insecure-http", "--secret-env", "HOOK_SECRET", "--events", "done,begun"), "done, failed, alert"),
    ],
)
def test_what_cannot_be_a_hook_is_refused(run, options, says):
    status, said = run("hooks", "add", "http://127.0.0.1:9/", *options)
    assert status == 2
    assert says in said
    assert "no hooks" in run("hooks", "list")[1] or "no database" in run("hooks", "list")[1]


def test_a_secret_from_a_file_and_addresses_that_are_refused(run, tmp_path, database):
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    from_file = ("--secret-file", tmp_path / "secret")
    status, said = run("hooks", "add", "https://169.254.169.254/latest", *from_file)
    assert (status, "hook_refused" in said) == (1, True)
    assert run("hooks", "add", "https://169.254.169.254/latest", "--allow-link-local", *from_file)[0] == 0
    status, said = run("hooks", "add", "http://93.184.216.34/", "--insecure-http", *from_file)
    assert (status, "by https only" in said) == (1, True)
    with Store(database) as store:
        assert store.hook(1).secret == SECRET


def test_rules_are_added_shown_and_removed(run, database):
    assert run("alerts", "add", "distress", "fearful", 0.6, "--for", 10, "--source", "s3://bucket/in/")[0] == 0
    below = ("alerts", "add", "gloom", "valence", "--below", "--db", database, "--", "-0.3")
    assert run(*below) == (0, "gloom: valence <= -0.3 for 5 s, in what is annotated from now on\n")
    one, other = json.loads(run("alerts", "list", "--json")[1])
    assert (one["name"], one["level"], one["min_seconds"], one["source_prefix"]) == (
        *("distress", 0.6, 10.0),
        "s3://bucket/in/",
    )
    assert (other["below"], other["level"]) == (True, -0.3)
    assert "fearful >= 0.6 for 10 s" in run("alerts", "list")[1]
    assert run("alerts", "remove", "gloom")[0] == 0
    status, said = run("alerts", "remove", "gloom")
    assert (status, "rule_unknown" in said) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("twice", "fearful", 0.5), 2, "already"),
        (("r", "fearful", 0), 2, "a probability above 0"),
        (("r", "bored", 0.5), 2, "bored"),
        (("r", "fearful", 1.5), 2, "1.5"),
        (("r", "fearful", 0.5, "--pipeline", "none"), 1, "pipeline_unknown"),
        (("", "fearful", 0.5), 2, "can be printed"),
        (("r", "valence", "nan"), 2, "are numbers"),
        (("r", "fearful", 0.5, "--for", "nan"), 2, "are numbers"),
    ],
)
def test_what_cannot_be_a_rule_is_refused(run, arguments, status, says):
    run("alerts", "add", "twice", "happy", 0.5)
    found, said = run("alerts", "add", *arguments)
    assert (found, says in said) == (status, True), said
    assert len(json.loads(run("alerts", "list", "--json")[1])) == 1


def test_what_was_raised_is_shown(run, database):
    from db.rows import RaisedAlert

    run("alerts", "add", "joy", "happy", 0.5)
    assert run("alerts", "show") == (1, "nothing was raised\n")
    with Store(database) as store:
        raised = RaisedAlert(rule_id=1, start_seconds=0.0, end_seconds=3.0, peak=0.9)
        annotated(store, uri="/v/a.mp4", alerts=[raised])
    status, said = run("alerts", "show", "--rule", "joy", "--video", "/v/a.mp4")
    assert status == 0
    assert "/v/a.mp4" in said
    assert "happy 0.90" in said
    (alert,) = json.loads(run("alerts", "show", "--json")[1])
    assert (alert["start_seconds"], alert["end_seconds"], alert["peak"]) == (0.0, 3.0, 0.9)
    status, said = run("alerts", "show", "--video", "/v/b.mp4")
    assert (status, "path_missing" in said) == (1, True)
