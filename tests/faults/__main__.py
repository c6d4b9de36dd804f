"""Takes each defence out of a copy of the project, and wants its test to fail there: `python -m tests.faults`.

    python -m tests.faults                 all of them, into docs/faults.md
    python -m tests.faults --only redis    those whose fault or test has this in its name; printed only

A test that does not end within two minutes counts as failed: without the defence that it shows, it waits for ever.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.cases import CASES, Check
from tests.faults.codes import PROVOKED

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "faults.md"
COPIED = ("db", "docs", "models", "scheduler", "tests", "worker", "Makefile", "README.md", "pyproject.toml")
LIMIT_SECONDS = 120.0
SAID_CHARACTERS = 160


def without(check: Check, folder: Path) -> str | None:
    """How a test fails without its defence, in its own words; None: it does not.

    Args:
        folder: for a copy of the project.

    Raises:
        ValueError: the defence is not there, or is there twice.
    """
    for name in COPIED:
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy(source, folder / name)
    for file, code, instead in check.edits:
        text = (folder / file).read_text()
        if text.count(code) != 1:
            raise ValueError(f"{file} holds this {text.count(code)} times: {code}")
        (folder / file).write_text(text.replace(code, instead))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=short", check.test]
    environment = os.environ | {"PYTHONPATH": str(folder), "CI": "true"}
    with tempfile.TemporaryFile("w+") as said:
        ran = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = ran.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(ran.pid, signal.SIGKILL)
            ran.wait()
            return f"it did not end within {LIMIT_SECONDS:g} s"
        said.seek(0)
        lines = said.read()
    if status == 0:
        return None
    if status != 1:  # of pytest: no test failed, something else went wrong
        raise ValueError(f"{check.test} could not be run: {lines[-2000:]}")
    words = re.findall(r"^E +(.*\S)", lines, re.MULTILINE)
    return _brief(words[0] if words else lines.splitlines()[-1], folder)


def _brief(said: str, folder: Path) -> str:
    """A line without places and names that differ from run to run."""
    said = said.replace(f"{folder}/", "").replace(str(ROOT), "")
    said = re.sub(r"/tmp/[\w./-]*/", "", said)
    said = re.sub(r"test_[0-9a-f]{32}", "DATABASE", said)
    said = re.sub(r"0x[0-9a-f]+", "0x...", said)
    said = "".join(c if c.isprintable() else "?" for c in said)
    return said if len(said) <= SAID_CHARACTERS else f"{said[:SAID_CHARACTERS]}..."


def page(found: dict[Check, str]) -> str:
    """docs/faults.md."""
    parts = [
        "# Faults that were tried",
        "",
        "Written by `python -m tests.faults`. Each fault is caused by the tests that stand beside it; they run with",
        "all others. Then each defence was taken out of a copy of the project, and its test failed there, as the last",
        "column says; `tests/faults/cases.py` has the lines. More faults of the fleet, at random moments:",
        "`make chaos`; of files: [hardening.md](hardening.md).",
        "",
        "| | fault | test | defence | the test without it |",
        "|---|---|---|---|---|",
    ]
    for number, (fault, checks) in enumerate(CASES.items(), 1):
        for position, check in enumerate(checks):
            head = f"| {number} | {fault} " if position == 0 else "| | "
            said = found[check].replace("|", "\\|").replace("`", "'")
            defence = f"{check.defence} ([{Path(check.file).stem}](../{check.file}))"
            parts.append(f"{head}| {_linked(check.test)} | {defence} | `{said}` |")
    parts += ["", "## Each failure's code, and a test that brings it about", "", "| code | test |", "|---|---|"]
    parts += [f"| `{code}` | {_linked(test)} |" for code, test in PROVOKED.items()]
    return "\n".join([*parts, ""])


def _linked(test: str) -> str:
    """A test's name, which leads to its file."""
    file, _, name = test.partition("::")
    return f"[{name.removeprefix('test_')}](../{file})"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", metavar="WORD", default="", help="of these only; prints, writes nothing")
    only = parser.parse_args().only.lower()
    checks = [check for fault, some in CASES.items() for check in some if only in f"{fault} {check.test}".lower()]
    found: dict[Check, str] = {}
    idle, began = [], time.monotonic()
    for number, check in enumerate(checks, 1):
        with tempfile.TemporaryDirectory(prefix="moodreel-") as folder:
            failed = without(check, Path(folder))
        left = (time.monotonic() - began) / number * (len(checks) - number)
        print(f"{number} of {len(checks)}, {left:.0f} s left: {check.test}: {failed or 'PASSED'}", flush=True)
        if failed is None:
            idle.append(check.test)
        else:
            found[check] = failed
    if idle:
        sys.exit("passed without what they show: " + ", ".join(idle))
    if not only:
        PAGE.write_text(page(found))
        print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
