"""What is deployed is pinned, with hashes, at versions that pyproject.toml allows; and what audits it."""

import importlib.util
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {"scheduler": ["postgresql", "report"], "worker": ["postgresql", "report", "worker"]}


def pins(lock: str) -> dict[str, tuple[str, int]]:
    """Version of each package and number of its hashes."""
    found = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / "deploy" / f"{lock}.lock").read_text()):
        if entry.startswith("#"):
            continue
        name, version = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==([^\s;\\]+)", entry).groups()
        found[canonicalize_name(name)] = version, len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_with_hashes(lock):
    assert len(pins(lock)) > 20
    assert all(n_hashes for _, n_hashes in pins(lock).values())


@pytest.mark.parametrize("lock", LOCKS)
def test_what_we_require_is_there_at_a_version_that_we_allow(lock):
    wanted = [
        *PROJECT["dependencies"],
        *(line for extra in LOCKS[lock] for line in PROJECT["optional-dependencies"][extra]),
    ]
    found = pins(lock)
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(found[canonicalize_name(requirement.name)][0]), requirement


def test_a_scheduler_has_no_torch():
    assert "torch" not in pins("scheduler")
    assert "torch" in pins("worker")


def test_no_package_index_is_named():
    for lock in LOCKS:
        assert "://" not in (ROOT / "deploy" / f"{lock}.lock").read_text()


@pytest.fixture
def audit(monkeypatch):
    """Runs deploy/audit.py on what pip-audit is made to answer; the exit status."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / "deploy" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(answer: str, complaint: str = "") -> int:
        done = subprocess.CompletedProcess([], 1, answer, complaint)
        monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: done)
        return module.audit(["a.lock"])

    return run


def test_the_audit_tells_what_is_known_from_what_could_not_be_asked(audit, capsys):
    flaw = {"id": "CVE-1", "fix_versions": ["1.1"]}
    clean, bad = ({"name": "a", "version": "1.0", "vulns": vulns} for vulns in ([], [flaw]))
    assert audit(json.dumps({"dependencies": [clean]})) == 0
    assert audit(json.dumps({"dependencies": [clean, bad]})) == 1
    assert "a 1.0: CVE-1, fixed in 1.1" in capsys.readouterr().out
    assert audit("", "ConnectionError: no route") == 3
    assert "NOT AUDITED" in capsys.readouterr().err
