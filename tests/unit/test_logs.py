"""Lines of logs: what they say, and that no name from outside can forge one."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
HOSTILE = 'a\n{"level": "CRITICAL"}\r\x1b[31m\u2028\udcff".mp4'
PROGRAM = """
import logging, sys, threading, warnings
from worker import logs
logs.set_up(sys.argv[1])
log = logging.getLogger("scheduler.watch")
{body}
"""


def logged(body: str, log_format: str = "json") -> list[str]:
    """What a process that logs like this writes to standard error, line by line."""
    command = [sys.executable, "-c", PROGRAM.format(body=body), log_format]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, b""), ran.stderr
    return ran.stderr.decode().split("\n")[:-1]


def test_a_line_says_when_how_grave_what_and_about_what():
    body = """
with logs.about(video="/a.mp4", annotation=17, span=None):
    with logs.about(span="17/3"):
        log.info("checkpoint %d", 5, extra={"windows": 120})
    log.warning("slow")
log.debug("not shown")
log.error("done")
"""
    first, second, third = map(json.loads, logged(body))
    time = datetime.fromisoformat(first.pop("time"))
    assert time.utcoffset() == timedelta(0)
    assert abs((datetime.now(UTC) - time).total_seconds()) < 60
    assert first == {
        "level": "INFO",
        "logger": "scheduler.watch",
        "message": "checkpoint 5",
        "video": "/a.mp4",
        "annotation": 17,
        "span": "17/3",
        "windows": 120,
    }
    assert (second["level"], second["annotation"]) == ("WARNING", 17)
    assert "span" not in second
    assert third.keys() == {"time", "level", "logger", "message"}


def test_threads_speak_of_their_own():
    body = """
def speak():
    log.info("from the thread")
with logs.about(video="/a.mp4"):
    thread = threading.Thread(target=speak)
    thread.start()
    thread.join()
    log.info("from here")
"""
    theirs, ours = map(json.loads, logged(body))
    assert "video" not in theirs
    assert ours["video"] == "/a.mp4"


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_name_from_outside_makes_a_line_of_its_own(log_format):
    body = f"""
with logs.about(video={HOSTILE!r}):
    log.info("found %s", {HOSTILE!r}, extra={{"name2": {HOSTILE!r}}})
"""
    (line,) = logged(body, log_format)
    assert line.isprintable()
    assert "\u2028" not in line
    if log_format == "json":
        told = json.loads(line)
        assert told["video"] == told["name2"] == HOSTILE
        assert told["level"] == "INFO"


def test_a_traceback_is_one_json_line_and_indented_as_text():
    body = f"""
try:
    raise ValueError({HOSTILE!r})
except ValueError:
    log.exception("went wrong")
"""
    (line,) = logged(body)
    assert "ValueError" in json.loads(line)["exc_info"]
    first, *rest = logged(body, "text")
    assert first.endswith("went wrong")
    assert rest
    assert all(part.startswith("    ") and part.isprintable() for part in rest)


def test_celery_writes_the_same_lines():
    body = """
from worker.broker import make_app
app = make_app("redis://:geheim@localhost:1/0")
app.log.setup(loglevel="INFO")
logging.getLogger("celery.worker").info("ready")
logging.getLogger("celery.worker.strategy").info("received")
warnings.warn("mind this")
"""
    ready, warned = map(json.loads, logged(body))
    assert (ready["logger"], ready["message"]) == ("celery.worker", "ready")
    assert warned["logger"] == "py.warnings"
