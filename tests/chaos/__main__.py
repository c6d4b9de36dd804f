"""Lets a fleet annotate an archive while whatever can fail fails, and compares the rows with those of a quiet run.

    python -m tests.chaos --spans 1000 --faults 200 --seed 7        or: make chaos SPANS=1000 FAULTS=200
    python -m tests.chaos --source s3                               or: make chaos SOURCE=s3

With `--source s3` the fleet reads the objects of a bucket, which arrive one after another as the events of a queue
tell, and the store, the events and the objects fail it too. It needs no network but the package registry that the clips
come from. The last line counts what was survived and what was compared; the exit status is 0 if the rows are the same.
"""

import random
import shutil
import sys
import tempfile
from pathlib import Path

import click

from tests.chaos.run import SOURCES, run


@click.command(help=__doc__)
@click.option("--spans", default=1000, show_default=True, help="About how many spans to annotate.")
@click.option("--faults", default=200, show_default=True, help="How many faults.")
@click.option("--seed", type=int, help="Of the archive and of the faults; drawn if it is not given.")
@click.option("--source", type=click.Choice(list(SOURCES)), default="folder", show_default=True, help="Of the videos.")
@click.option("--keep", is_flag=True, help="Keep the archive, the quiet run's database and the logs.")
def main(spans: int, faults: int, seed: int | None, source: str, keep: bool) -> None:
    """Run it."""
    folder = Path(tempfile.mkdtemp(prefix="moodreel-chaos-"))
    passed = False
    try:
        outcome = run(spans, faults, random.randrange(10_000) if seed is None else seed, folder, _say, source)
        passed = outcome.passed
        click.echo(str(outcome))
    finally:
        if keep or not passed:
            click.echo(f"kept: {folder}", err=True)
        else:
            shutil.rmtree(folder)
    sys.exit(0 if passed else 1)


def _say(line: str) -> None:
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"{line:<79}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
