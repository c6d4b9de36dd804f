"""Lets two workers annotate good, broken and hostile files for an hour, and compares what they hold before and after:
memory, descriptors, children, shared memory. Every file must end as done or as a failure that is on the list.

    python -m tests.soak --minutes 60 --seed 7        or: make soak MINUTES=60

The servers are a real Redis and a real PostgreSQL, the models the compact ones. The exit status is 0 if all is flat.
"""

import random
import shutil
import sys
import tempfile
from pathlib import Path

import click

from tests.soak.run import run


@click.command(help=__doc__)
@click.option("--minutes", default=60.0, show_default=True, help="How long.")
@click.option("--seed", type=int, help="Of the files; drawn if it is not given.")
def main(minutes: float, seed: int | None) -> None:
    """Run it."""
    seed = random.randrange(10_000) if seed is None else seed
    folder = Path(tempfile.mkdtemp(prefix="moodreel-soak-"))
    outcome = run(minutes, seed, folder, _say)
    click.echo(f"seed {seed}: {outcome}")
    if outcome.passed:
        shutil.rmtree(folder)
    else:
        click.echo(f"kept: {folder}", err=True)
    sys.exit(0 if outcome.passed else 1)


def _say(line: str) -> None:
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"{line:<79}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
