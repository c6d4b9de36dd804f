"""The command `train` with its two kinds. As in `scheduler.cli`, what it needs is imported when it runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from scheduler.options import json_option

FOLDER = click.Path(path_type=Path, resolve_path=True)  # a run is known again from any folder
SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
MORE_THAN_0 = click.FloatRange(0, min_open=True)


@click.group(short_help="Fine-tune an audio or video model on clips of yours.")
def train() -> None:
    """Fine-tune a checkpoint for transformers on CREMA-D, RAVDESS or clips of yours.

    The folder that is left is what --audio-model and --video-model of `moodreel annotate` take.
    """


def training_options(learning_rate: float) -> Callable[[Any], Any]:
    """The options of both kinds; only the default of one differs."""
    options = (
        click.option("--model", required=True, metavar="REF", help="Checkpoint to start from: a folder or a hub id."),
        click.option("--data", type=FOLDER, metavar="FOLDER", help="Clips of a corpus, at any depth."),
        click.option(
            "--corpus",
            type=click.Choice(["ravdess", "crema-d", "javanese"]),
            help="Whose names they have; default: as most of them are named.",
        ),
        click.option(
            "--manifest", type=FOLDER, metavar="CSV", help="Or: path, label, speaker and, if need be, start, end."
        ),
        click.option(
            "--speaker-pattern", metavar="REGEX", help="Of a manifest without speakers: finds them in the path."
        ),
        click.option(
            "--label-map", type=FOLDER, metavar="FILE", help='JSON: {"manifest\'s label": "emotion" or null}.'
        ),
        click.option("--out", type=FOLDER, required=True, metavar="FOLDER", help="Where the model goes; a new folder."),
        click.option("--test-speakers", metavar="A,B,...", help="Who is held out to test; default: by chance."),
        click.option("--test-share", type=SHARE, default=0.2, show_default=True, help="Of speakers, held out to test."),
        click.option(
            "--validation-share",
            type=SHARE,
            default=0.15,
            show_default=True,
            help="Of speakers, held out to choose when to stop.",
        ),
        click.option(
            "--epochs", type=MORE_THAN_0, default=10, show_default=True, help="Times that all is seen, at most."
        ),
        click.option(
            "--max-steps", type=click.IntRange(1), metavar="N", help="Stop after so many changes of the weights."
        ),
        click.option(
            "--eval-steps",
            type=click.IntRange(1),
            metavar="N",
            help="Measure and write a checkpoint every N steps; default: after each epoch.",
        ),
        click.option(
            "--patience", type=click.IntRange(1), default=3, show_default=True, help="Measurements without gain."
        ),
        click.option(
            "--learning-rate", type=MORE_THAN_0, default=learning_rate, show_default=True, help="The highest."
        ),
        click.option(
            "--warmup",
            type=click.FloatRange(0, 1, max_open=True),
            default=0.1,
            show_default=True,
            help="Share of the steps in which the learning rate rises; then it falls to 0.",
        ),
        click.option("--weight-decay", type=click.FloatRange(0), default=0.01, show_default=True, help="Of AdamW."),
        click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Windows computed at once."),
        click.option(
            "--accumulate",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Batches for one change of the weights.",
        ),
        click.option(
            "--label-smoothing",
            type=click.FloatRange(0, 1, max_open=True),
            default=0.1,
            show_default=True,
            help="Share of a label's mass that is spread over all.",
        ),
        click.option(
            "--class-weights",
            type=click.Choice(["balanced", "none"]),
            default="balanced",
            show_default=True,
            help="Whether rare emotions weigh more.",
        ),
        click.option("--gradient-checkpointing", is_flag=True, help="Less memory, a third more time."),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            default="auto",
            show_default=True,
            help="auto: bfloat16 where the processor has it.",
        ),
        click.option(
            "--seed", type=click.IntRange(0), default=42, show_default=True, help="Of the split and all chance."
        ),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="As for annotate.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(0),
            metavar="N",
            help="Processes that make batches; default: 4 on a GPU, else 0.",
        ),
        click.option("--cache", type=FOLDER, metavar="FOLDER", help="Of decoded windows; default: in $MOODREEL_CACHE."),
        json_option,
    )

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@train.command(short_help="Wav2vec 2.0, HuBERT, WavLM, Whisper, AST ...")
@training_options(learning_rate=3e-5)
def audio(as_json: bool, **options: Any) -> None:
    """Fine-tune a model for the voice.

    Any audio checkpoint for transformers will do, a pretrained one too: it gets a new head. Clips are cut into the
    windows of `moodreel annotate`; only those with speech count. Speakers are held out whole.

    A run that was stopped carries on when the same command is given again. See docs/training.md.
    """
    _run("audio", options, as_json)


@train.command(short_help="ViViT, VideoMAE, TimeSformer ...")
@training_options(learning_rate=5e-5)
def video(as_json: bool, **options: Any) -> None:
    """Fine-tune a model for whole pictures.

    Any video checkpoint for transformers will do, a pretrained one too: it gets a new head. Clips are cut into the
    windows of `moodreel annotate`; only those with a face count. Speakers are held out whole.

    A run that was stopped carries on when the same command is given again. See docs/training.md.
    """
    _run("video", options, as_json)


def _run(side: str, options: dict[str, Any], as_json: bool) -> None:
    from scheduler.train import run

    names = options.pop("test_speakers") or ""
    run(options | {"side": side, "test_speakers": tuple(filter(None, names.split(",")))}, as_json=as_json)
