"""Passwords and signatures are left out of what is told, and nothing else is."""

import logging

import pytest

from db.errors import Internal
from db.redaction import redacted
from scheduler import cli
from worker.logs import Json, Text

SECRET = "C4n4ry!"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{SECRET}@db/moodreel?sslmode=require does not answer",
        f"postgresql+psycopg://me:{SECRET}@/x?host=/tmp",
        f"rediss://:{SECRET}@redis:6379/0 refused",
        f"redis://:a/b@{SECRET}@redis:6379/0".replace("a/b@", ""),
        f"postgresql:///x?user=me&password={SECRET}&host=db",
        f"connection to server failed: host=db password={SECRET} user=me",
        f"host=db password='{SECRET} and more' user=me",
        f"GET https://bucket/key?X-Amz-Signature={SECRET}&X-Amz-Expires=9",
        f"aws_secret_access_key={SECRET}",
        f"two: redis://:{SECRET}@a/0 and http://u:{SECRET}@b/",
    ],
)
def test_secrets_are_left_out(text):
    said = redacted(text)
    assert SECRET not in said
    assert "***" in said


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a:b@c.mp4 is gone", "/a/b:c@d.mp4 cannot be read", "file:///a/x@y.mp4", "12:30@noon", "http://host:80/a@b",
        "postgresql://me@db/moodreel does not answer", "the password is wrong", "sqlite:///m.db",
    ],
)  # fmt: skip
def test_all_else_stays(text):
    assert redacted(text) == text


def test_no_error_quotes_a_secret():
    error = Internal(f"redis://:{SECRET}@h/0 went away", hint=f"see postgresql://a:{SECRET}@h/x")
    assert str(error) == "redis://:***@h/0 went away"
    assert error.hint == "see postgresql://a:***@h/x"


@pytest.mark.parametrize("formatter", [Json(), Text()])
def test_no_log_quotes_a_secret(formatter):
    try:
        raise OSError(f"cannot connect to redis://:{SECRET}@h/0")
    except OSError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "", 0, "at %s", (f"http://u:{SECRET}@h",), (OSError, error, error.__traceback__)
        )
    said = formatter.format(record)
    assert SECRET not in said
    assert said.count("***") >= 2


@pytest.mark.parametrize(
    ("given", "kept", "found"),
    [
        (["status", "--db", f"postgresql://u:{SECRET}@h/x", "--json"], ["status", "--json"], {"MOODREEL_DB"}),
        (["status", f"--db=postgresql://u:{SECRET}@h/x"], ["status"], {"MOODREEL_DB"}),
        (["work", "--broker", f"redis://:{SECRET}@h/0", "--db", "m.db"], ["work", "--db", "m.db"], {"MOODREEL_BROKER"}),
        (["work", "--db", f"postgresql:///x?password={SECRET}", f"--broker=redis://:{SECRET}@h"], ["work"],
         {"MOODREEL_DB", "MOODREEL_BROKER"}),
        (["status", "--db", "postgresql://u@h/x"], None, set()),
        (["status", "--db"], None, set()),
        (["annotate", f"redis://:{SECRET}@h"], None, set()),
    ],
)  # fmt: skip
def test_passwords_do_not_stay_on_a_command_line(monkeypatch, given, kept, found):
    program, started = ["python", "-X", "dev", "/bin/moodreel"], []
    monkeypatch.setattr(cli.sys, "orig_argv", [*program, *given])
    monkeypatch.setattr(cli.sys, "argv", ["/bin/moodreel", *given])
    monkeypatch.setattr(cli.os, "execve", lambda *how: started.append(how))
    cli._take_passwords_out_of_sight()
    if kept is None:
        assert started == []
        return
    ((_, words, environment),) = started
    assert words == [*program, *kept]
    assert {name for name, value in environment.items() if SECRET in value} == found
