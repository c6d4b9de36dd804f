"""The command `train`: checks what is installed, trains, says what came out."""

import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from db.errors import BadOption, NotInstalled, WeightsMissing
from scheduler.cli import EXIT_INTERRUPTED, print_json, stderr

# What fine-tuning imports beyond what a worker has, and of that what shows whether a worker is installed.
TRAINING_PACKAGES = ("torch", "transformers", "accelerate", "scipy", "sklearn")


def run(options: dict[str, Any], *, as_json: bool) -> None:
    """Fine-tune with options as `models.training.finetune.Settings` takes them, and print the figures.

    Raises:
        MoodreelError: something stands in the way; the sentence says what.
    """
    missing = [name for name in TRAINING_PACKAGES if find_spec(name) is None]
    if missing:
        is_missing = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
        hint = "Install what training needs: pip install 'moodreel[training]'."
        raise NotInstalled(f"{is_missing}, and training needs that", hint)
    from models.errors import LabelError, ModelError
    from models.training.finetune import fine_tune
    from models.training.settings import Settings

    if os.path.isdir(options["model"]):
        options["model"] = os.path.abspath(options["model"])
    try:
        found = fine_tune(Settings(**options), shlex.join(["moodreel", *sys.argv[1:]]))
    except KeyboardInterrupt:
        stderr().print("Interrupted. The same command carries on from the last checkpoint.")
        sys.exit(EXIT_INTERRUPTED)
    except LabelError as error:
        raise BadOption(str(error)) from error
    except ModelError as error:
        raise WeightsMissing(str(error)) from error
    if as_json:
        print_json(found)
    else:
        _print(found, options["out"])


def _print(found: dict[str, Any], out: Path) -> None:
    test, cost, side = found["test"], found["cost"], found["run"]["side"]
    speakers = len(test["by_speaker"])
    click.echo(
        f"{test['wa']:.1%} of {test['clips']} clips right, unweighted average recall {test['uar']:.1%}, calibration"
        f" error {test['ece']:.3f}; speakers whom the model never met: {speakers}"
    )
    if cost.get("windows_per_second"):
        click.echo(
            f"{cost['windows_per_second']:.3g} windows a second over {cost['steps_measured']} steps, at most"
            f" {cost['peak_memory_bytes'] / 1e9:.2f} GB of memory; {cost['device']}, {cost['precision']}"
        )
    click.echo(f"{out} is ready: moodreel annotate --{side}-model {shlex.quote(str(out))} VIDEO...")
