"""Prints what moodreel requires, a line each: always the base, and the extras that are named.

    python deploy/requirements.py worker postgresql

The Dockerfile installs these before it copies the code. Reads pyproject.toml in the current folder.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for line in [project["dependencies"], *(project["optional-dependencies"][extra] for extra in sys.argv[1:])]:
    print(*line, sep="\n")
