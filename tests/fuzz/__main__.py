"""Reads mutated files by the thousands, and looks for what must not be: a crash of the parent, a leak, a hang past its
limit, a row that breaks an invariant, a failure that is not on the list.

    python -m tests.fuzz --count 20000 --seed 7       or: make fuzz N=20000 SEED=7
    python -m tests.fuzz --file FINDING               one file, by itself

The last line counts what became of the files; the exit status is 0 if nothing was found. What was found stays in the
folder that is named, and so does what crashed a decoding child or took long.
"""

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.fuzz.judge import judge, readers
from tests.fuzz.run import run


@click.command(help=__doc__)
@click.option("--count", default=20_000, show_default=True, help="How many files.")
@click.option("--seed", type=int, help="Of all that is drawn; drawn itself if it is not given.")
@click.option("--children", default=2, show_default=True, help="That read at once.")
@click.option("--folder", type=click.Path(path_type=Path), help="For what is found; a new one if it is not given.")
@click.option("--file", "file", type=click.Path(exists=True, path_type=Path), help="Read this one only.")
def main(count: int, seed: int | None, children: int, folder: Path | None, file: Path | None) -> None:
    """Run it."""
    if file is not None:
        began = time.monotonic()
        with readers() as pool, pool.reader() as reader:
            verdict = judge(file.read_bytes(), reader)
        click.echo(f"{verdict} in {time.monotonic() - began:.1f} s")
        sys.exit(bool(verdict.wrong))
    is_new, seed = folder is None, random.randrange(10_000) if seed is None else seed
    folder = folder or Path(tempfile.mkdtemp(prefix="moodreel-fuzz-"))
    folder.mkdir(exist_ok=True, parents=True)
    outcome = run(count, seed, folder, children, _say)
    click.echo(f"seed {seed}: {outcome}")
    for path in dict.fromkeys([path for path, _ in outcome.findings] + [path for _, path in outcome.slow]):
        click.echo(f"again: python -m tests.fuzz --file {path}")
    if is_new and outcome.passed and not outcome.slow:
        shutil.rmtree(folder)
    sys.exit(0 if outcome.passed else 1)


def _say(line: str) -> None:
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"{line:<79}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
