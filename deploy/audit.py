"""Looks for known vulnerabilities in what is deployed: `python deploy/audit.py LOCK...`, or `make audit`.

pip-audit asks the Open Source Vulnerabilities database for each pinned version. The exit status is 0 if none is known,
1 if some are, which are listed, and 3 if the database could not be asked: then nothing is known.
"""

import json
import subprocess
import sys

UNKNOWN = 3
COMMAND = (
    *(sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv", "--strict", "--disable-pip"),
    *("--require-hashes", "--format", "json", "--progress-spinner", "off"),
)


def audit(locks: list[str]) -> int:
    """Print what is known; the exit status."""
    given = [part for lock in locks for part in ("--requirement", lock)]
    ran = subprocess.run([*COMMAND, *given], capture_output=True, text=True)
    try:
        found = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"]
        print(f"NOT AUDITED: the database of vulnerabilities could not be asked: {said[-1]}", file=sys.stderr)
        return UNKNOWN
    bad = [(package["name"], package["version"], flaw) for package in found for flaw in package.get("vulns", ())]
    for name, version, flaw in bad:
        print(f"{name} {version}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no version yet'}")
    print(f"{len(found)} pinned packages, {len(bad)} known vulnerabilities")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1:]))
