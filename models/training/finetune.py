"""Fine-tunes any audio or video classification checkpoint of transformers: `moodreel train`.

The loop is transformers' Trainer. What is ours: the windows are the pipeline's, no speaker is on two sides, what is
chosen and measured counts clips and not windows, and a run that was killed carries on where it last wrote a checkpoint.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerState, set_seed

from db.errors import BadOption, OutOfMemory, Untrainable
from models.checkpoints import AUDIO, CONFIG_FILE, PROCESSOR_FILE, SAFETENSORS, HubCheckpoint
from models.hub import HubAudioModel, HubVideoModel
from models.taxonomy import EMOTIONS, FloatArray
from models.training import model_card
from models.training.cache import default_folder, digest
from models.training.examples import PARTS, Examples, split_speakers
from models.training.fit import last_checkpoint, load, pick_precision, say, train
from models.training.kept_windows import Kept, KeptClip, WindowKeeper
from models.training.metrics import clip_row, figures, predicted, rounded
from models.training.settings import Settings, StartCheckpoint
from worker.reader import ReaderPool
from worker.recognizers import pick_device

METRICS_FILE, CARD_FILE, RUN_FILE = "metrics.json", "README.md", "run.json"
CHECKPOINTS = "checkpoints"  # in the folder that the model is written to, until it is
BY_THE_WAY = ("cache", "device", "workers")  # settings that a run which is carried on may change
SHOWS = {"audio": "speech", "video": "a face"}  # what a window that counts has


def fine_tune(settings: Settings, command: str, readers: ReaderPool | None = None) -> dict[str, Any]:
    """Train, test on speakers that were held out, and leave a folder that `moodreel annotate` takes.

    Progress goes to stderr. If the folder holds the very same run, that one is carried on, or is done already.

    Args:
        command: what the user typed, for the model card.
        readers: the worker's; by default as the pipeline's.

    Returns:
        What metrics.json holds.

    Raises:
        MoodreelError, models.errors.ModelError: with a sentence that says what the user can do.
    """
    examples, device = settings.examples(), pick_device(settings.device)
    settled = replace(settings, device=device, precision=pick_precision(settings.precision, device))
    shares = {"test_share": settings.test_share, "validation_share": settings.validation_share}
    split = split_speakers(examples.clips, **shares, seed=settings.seed, test_speakers=settings.test_speakers)
    run, checkpoints = _run(settings, examples), settings.out / CHECKPOINTS
    if (done := _found(settings.out, run)) is not None:
        return done
    set_seed(settings.seed)
    start = StartCheckpoint(settings.model, settings.side)
    network, processor = load(start, examples.emotions, gradient_checkpointing=settings.gradient_checkpointing)
    folder = settings.cache or default_folder().with_name("training")
    with readers or ReaderPool() as pool:
        kept = WindowKeeper(start, folder, pool).read(examples.clips)
    say(f"{sum(map(len, kept.clips))} windows of {len(kept.clips)} clips, {kept.size_bytes / 1e9:.1f} GB in {folder}")
    parts = {part: [k for k in kept.clips if split.parts[k.clip.speaker] == part] for part in PARTS}
    _require_windows(parts, examples, kept, settings.side)
    checkpoints.mkdir(parents=True, exist_ok=True)
    _write(checkpoints / RUN_FILE, json.dumps(run))
    try:
        state, cost = train(settled, network, processor, parts, examples.emotions, checkpoints)
        best = checkpoints / f"checkpoint-{state.best_global_step}"
        shutil.copytree(best, settings.out, dirs_exist_ok=True, ignore=_all_but_the_model)
        test = _tested(settled, parts["test"], examples)
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        hint = "Lower --batch and raise --accumulate as much, or add --gradient-checkpointing; then run it again."
        raise OutOfMemory(f"training ran out of memory on {device}: {str(error).splitlines()[0]}", hint) from error
    found = {
        "run": run,
        "command": command,
        "versions": {name: version(name) for name in ("moodreel", "torch", "transformers")},
        "network": {"class": type(network).__name__, "labels": list(examples.emotions)},
        "data": _described(examples, kept, parts),
        "split": asdict(split),
        "training": _history(state),
        **rounded({"test": test, "cost": cost}),
    }
    return _finish(settings.out, found, examples)


def _run(settings: Settings, examples: Examples) -> dict[str, Any]:
    """What decides the result, as JSON values: runs that agree in it are the same run."""
    chosen = {name: value for name, value in vars(settings).items() if name not in BY_THE_WAY}
    clips = [(str(c.path), c.emotion, c.speaker, c.start_seconds, c.end_seconds) for c in examples.clips]
    plain: dict[str, Any] = json.loads(json.dumps(chosen | {"clips": digest(clips)}, default=str))
    return plain


def _require_windows(parts: dict[str, list[KeptClip]], examples: Examples, kept: Kept, side: str) -> None:
    """Say what was left out, and refuse what cannot be trained or measured.

    Raises:
        Untrainable: windows are lacking.
    """
    for sentence in (*examples.left_out, *kept.failures):
        say(f"left out: {sentence}")
    silent = sum(len(clip) == 0 for clip in kept.clips)
    if silent:
        say(f"{silent} clips have no window with {SHOWS[side]}: nothing is learned from them")
    shown = {part: {clip.clip.emotion for clip in clips if len(clip)} for part, clips in parts.items()}
    needed = {"train": set(examples.emotions)}
    for part, emotions in shown.items():
        lacking = sorted(needed.get(part, set()) - emotions)
        if lacking or not emotions:
            what = f" that shows {', '.join(lacking)}" if lacking else ""
            raise Untrainable(
                f"no window with {SHOWS[side]}{what} is left for {part}: of {len(examples.clips)} clips"
                f" {len(kept.failures)} could not be read, and {silent} have no window with {SHOWS[side]}"
            )


def _found(out: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """What a folder holds of a run, if that is done; None if it is new, or the same run was stopped.

    Raises:
        BadOption: it holds something else.
    """
    metrics, marker = out / METRICS_FILE, out / CHECKPOINTS / RUN_FILE
    done = _read(metrics)
    before = done["run"] if "run" in done else _read(marker) if last_checkpoint(marker.parent) else {}
    if before not in ({}, run):
        changed = sorted(name for name in run if before.get(name) != run[name])
        said = ", ".join(f"{n} was {before.get(n)} and is {run[n]}" if n != "clips" else "other clips" for n in changed)
        raise BadOption(f"{out} holds another run ({said}): name another --out, or delete it")
    if "run" in done:
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        say(f"{out} is done already; nothing was trained")
        return done
    strange = any(path.name != CHECKPOINTS for path in out.iterdir()) if out.is_dir() else out.exists()
    if strange and not marker.is_file():
        raise BadOption(f"{out} holds other files: name a new folder with --out")
    return None


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _all_but_the_model(folder: str, names: list[str]) -> set[str]:
    patterns = (CONFIG_FILE, PROCESSOR_FILE, *SAFETENSORS)
    return {name for name in names if not any(Path(name).match(pattern) for pattern in patterns)}


def _tested(settings: Settings, clips: Sequence[KeptClip], examples: Examples) -> dict[str, Any]:
    """Figures on the speakers held out, by the very class that annotates with the folder."""
    checkpoint = HubCheckpoint(str(settings.out), settings.side)
    model = (HubAudioModel if settings.side == AUDIO else HubVideoModel).load(checkpoint, device=settings.device)
    known = np.isin(EMOTIONS, examples.emotions)
    rows = np.stack([clip_row(_judged(model, clip, settings.batch), known) for clip in clips])
    truth = np.array([EMOTIONS.index(clip.clip.emotion) for clip in clips])
    found = figures(truth, rows, np.zeros(len(clips), np.int64), known)
    right, speakers = predicted(rows) == truth, np.array([clip.clip.speaker for clip in clips])
    by_speaker = {
        str(name): {"clips": int(np.sum(speakers == name)), "wa": float(np.mean(right[speakers == name]))}
        for name in np.unique(speakers)
    }
    pooled = {key: value for key, value in found.items() if key not in ("spread", "per_fold", "pooled")}
    return pooled | {"by_speaker": by_speaker}


def _judged(model: HubAudioModel | HubVideoModel, clip: KeptClip, batch: int) -> FloatArray:
    """One clip's windows as the pipeline's model judges them, (n, 8)."""
    rows = [np.empty((0, len(EMOTIONS)), np.float32)]
    for first in range(0, len(clip), batch):
        windows = [clip.window(number) for number in range(first, min(first + batch, len(clip)))]
        if isinstance(model, HubVideoModel):
            rows.append(model.predict(np.stack(windows)))
            continue
        lengths = np.array([len(window) for window in windows])
        padded = np.stack([np.pad(window, (0, lengths.max() - len(window))) for window in windows])
        rows.append(model.predict(padded, lengths))
    return np.concatenate(rows)


def _described(examples: Examples, kept: Kept, parts: dict[str, list[KeptClip]]) -> dict[str, Any]:
    counts = {p: {e: sum(c.clip.emotion == e for c in clips) for e in examples.emotions} for p, clips in parts.items()}
    return {
        "title": examples.title,
        "clips": counts,
        "windows": {part: sum(map(len, clips)) for part, clips in parts.items()},
        "without_windows": sum(len(clip) == 0 for clip in kept.clips),
        "left_out": [*examples.left_out, *kept.failures],
    }


def _history(state: TrainerState) -> dict[str, Any]:
    measured = [entry for entry in state.log_history if "eval_uar" in entry]
    return {
        "steps": state.global_step,
        "best_step": state.best_global_step,
        "validation": [
            {"step": m["step"], "epoch": m["epoch"], "uar": m["eval_uar"], "wa": m["eval_wa"], "loss": m["eval_loss"]}
            for m in measured
        ],
    }


def _finish(out: Path, found: dict[str, Any], examples: Examples) -> dict[str, Any]:
    """Write the card and, last of all, the figures: with them the folder is done, and needs no checkpoints."""
    _write(out / CARD_FILE, model_card.text(found, examples.terms, examples.licence))
    _write(out / METRICS_FILE, json.dumps(found, indent=1) + "\n")
    shutil.rmtree(out / CHECKPOINTS)
    return found


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
