"""The table of faults names tests that there are, and defences that can be taken out."""

import ast
from pathlib import Path

import pytest

from db import errors
from db.errors import FAILURES, MoodreelError
from tests.faults.cases import CASES, Check
from tests.faults.codes import PROVOKED

ROOT = Path(__file__).parent.parent.parent
CHECKS = [check for checks in CASES.values() for check in checks]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.test.rpartition("::")[2])
def test_the_test_and_the_defence_are_there(check: Check):
    file, _, name = check.test.partition("::")
    names = {node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)}
    assert name in names
    for path, code, without in check.edits:
        assert (ROOT / path).read_text().count(code) == 1
        assert code != without


def test_the_page_has_every_fault_and_how_each_test_failed():
    page = (ROOT / "docs" / "faults.md").read_text()
    for fault, checks in CASES.items():
        assert f"| {fault} |" in page
        for check in checks:
            (row,) = [
                line
                for line in page.splitlines()
                if f"[{check.test.rpartition('::')[2].removeprefix('test_')}]" in line
                and f"| {check.defence} (" in line
            ]
            assert row.rpartition("| `")[2].removesuffix("` |").strip()


def test_each_code_is_brought_about_by_a_test():
    assert PROVOKED.keys() == FAILURES.keys()
    names = {
        kind.code: kind.__name__
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, MoodreelError)
    }
    page = (ROOT / "docs" / "faults.md").read_text()
    for code, test in PROVOKED.items():
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text()
        assert f"def {name}(" in text
        assert code in text or names[code] in text, test
        assert f"| `{code}` | [{name.removeprefix('test_')}]" in page
