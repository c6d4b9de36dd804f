"""One run of transformers' Trainer: from windows and a checkpoint to the checkpoints that it writes.

A run that was killed carries on from the last checkpoint that is whole, with the optimiser, the schedule and all chance
as they were then.
"""

import json
import os
import platform
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForVideoClassification,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from db.errors import BadOption
from models.checkpoints import AUDIO
from models.errors import ModelError
from models.hub import feature_extractor, image_processor, load_network
from models.taxonomy import EMOTIONS, widen
from models.training.batches import PictureCollator, SoundCollator, Windows
from models.training.kept_windows import KeptClip
from models.training.metrics import TINY, clip_row, predicted, scores
from models.training.settings import Settings, StartCheckpoint

STATE_FILE = "trainer_state.json"  # what the Trainer writes last: without it a checkpoint is none
LACKING_SHARE = 0.1  # of a network's numbers: a new head is less
TIE_BREAK = 1e-3  # what one nat of log-probability is worth in recall
WARM_UP_STEPS = 3  # that speed is not judged by


def load(start: StartCheckpoint, emotions: Sequence[str], *, gradient_checkpointing: bool = False) -> tuple[Any, Any]:
    """The network with a head for these emotions, and its processor.

    Raises:
        ModelError: it cannot be read, or lacks weights that no training here can make up for.
        BadOption: it cannot do gradient checkpointing.
    """
    audio = start.side == AUDIO
    network, lacking = load_network(
        AutoModelForAudioClassification if audio else AutoModelForVideoClassification,
        start,
        id2label=dict(enumerate(emotions)),
        label2id={emotion: number for number, emotion in enumerate(emotions)},
        problem_type="single_label_classification",
        ignore_mismatched_sizes=True,
    )
    weights, body = network.state_dict(), f"{network.base_model_prefix}."
    share = sum(weights[name].numel() for name in lacking if name in weights) / sum(w.numel() for w in weights.values())
    torn = [name for name in lacking if name.startswith(body) and not name.endswith("masked_spec_embed")]
    if torn or share > LACKING_SHARE:
        raise ModelError(f"{start.ref} lacks weights of its own network: {', '.join((torn or lacking)[:4])}")
    if hasattr(network, "freeze_feature_encoder"):
        network.freeze_feature_encoder()  # the convolutions of wav2vec 2.0 and its kin are not tuned, as is usual
    if gradient_checkpointing:
        if not network.supports_gradient_checkpointing:
            raise BadOption(f"--gradient-checkpointing: {type(network).__name__} cannot do it")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # transformers 5 has this name and the next one's
            network.gradient_checkpointing_enable({"use_reentrant": False})
    return network, feature_extractor(start) if audio else image_processor(start)


def train(
    settings: Settings,
    network: Any,
    processor: Any,
    parts: dict[str, list[KeptClip]],
    emotions: Sequence[str],
    folder: Path,
) -> tuple[TrainerState, dict[str, Any]]:
    """Train, or carry on; what became of it, and what it cost.

    Args:
        settings: with the device and the precision settled.
        parts: the clips of `train` and of `validation`.
        folder: of the checkpoints.
    """
    last = last_checkpoint(folder)
    for path in folder.glob("checkpoint-*"):
        if not _is_whole(path):
            shutil.rmtree(path)
    if last is not None:
        state = TrainerState.load_from_json(str(last / STATE_FILE))
        if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            return state, {}
        say(f"carrying on from step {state.global_step} of {state.max_steps}")
    train, validation = (Windows(parts[part], emotions) for part in ("train", "validation"))
    watch, name, audio = Watch(len(train), settings.device), network.main_input_name, settings.side == AUDIO
    trainer = Trainer(
        network,
        _arguments(settings, folder),
        SoundCollator(network.config, processor, name) if audio else PictureCollator(processor, name),
        train,
        validation,
        processor,
        compute_loss_func=Loss(train, len(emotions), settings),
        compute_metrics=lambda judged: by_clip(judged.predictions, validation, emotions),
        preprocess_logits_for_metrics=lambda logits, labels: logits[0] if isinstance(logits, tuple) else logits,
        callbacks=[EarlyStoppingCallback(settings.patience), watch],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    return trainer.state, watch.cost | {"precision": settings.precision}


def _arguments(settings: Settings, folder: Path) -> TrainingArguments:
    when, cuda = "epoch" if settings.eval_steps is None else "steps", settings.device == "cuda"
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.batch,
        per_device_eval_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        bf16=settings.precision == "bfloat16",
        fp16=settings.precision == "float16",
        seed=settings.seed,
        eval_strategy=when,
        save_strategy=when,
        eval_steps=settings.eval_steps,
        save_steps=settings.eval_steps or 500,
        save_total_limit=2,  # the last, and the best
        metric_for_best_model="choice",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_steps=10,
        log_level="error",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not cuda,
        dataloader_num_workers=_workers(settings, cuda),
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    if cuda:
        arguments._n_gpu = 1  # with several the Trainer would copy the network to all in every step
    return arguments


def _workers(settings: Settings, cuda: bool) -> int:
    if settings.workers is not None:
        return settings.workers
    return min(4, os.cpu_count() or 1) if cuda else 0


def pick_precision(asked: str, device: str) -> str:
    """auto, float32, bfloat16 or float16 to one that the device has; auto is the fastest.

    Raises:
        BadOption: what was asked for is not there.
    """
    if device == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        fastest, lacking = ("bfloat16", "") if has_bfloat16 else ("float16", "bfloat16")
    else:
        has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        fastest = "bfloat16" if has.get("avx512_bf16") or has.get("amx_bf16") else "float32"
        lacking = "float16"  # bfloat16 works on any CPU, if slowly
    if asked == lacking:
        raise BadOption(f"--precision {asked}: the {'GPU' if device == 'cuda' else 'CPU'} cannot train in it")
    return fastest if asked == "auto" else asked


class Loss:
    """Cross entropy, with labels smoothed and rare ones weighed up as the settings say."""

    def __init__(self, train: Windows, n_labels: int, settings: Settings) -> None:
        self._smoothing, self._weights = settings.label_smoothing, torch.ones(n_labels)
        if settings.class_weights == "balanced":
            labels = torch.tensor([train.label_of(number) for number in range(len(train))])
            self._weights = len(labels) / (n_labels * torch.bincount(labels, minlength=n_labels).float())

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
        logits = outputs["logits"].float()
        weights = self._weights.to(logits.device)
        loss = cross_entropy(logits, labels, weights, label_smoothing=self._smoothing, reduction="sum")
        return loss / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def by_clip(logits: npt.NDArray[np.floating], windows: Windows, emotions: Sequence[str]) -> dict[str, float]:
    """How well clips are judged, each by all its windows.

    Args:
        logits: (len(windows), len(emotions)).

    Returns:
        Accuracy `wa`, unweighted average recall `uar`, and `choice`, by which the best is chosen: the recall and, since
        few speakers make many ties, a little of the mean log-probability of what was shown.
    """
    wide = widen(torch.from_numpy(logits).double().softmax(dim=1).numpy(), emotions)
    owners = np.array([clip for clip, _ in windows.places])
    known = np.isin(EMOTIONS, emotions)
    heard = np.unique(owners)
    rows = np.stack([clip_row(wide[owners == clip], known) for clip in heard])
    truth = np.array([EMOTIONS.index(windows.clips[clip].clip.emotion) for clip in heard])
    found = scores(truth, predicted(rows), known)
    likelihood = float(np.log(np.maximum(np.nan_to_num(rows[np.arange(len(rows)), truth]), TINY)).mean())
    return {"uar": found["uar"], "wa": found["wa"], "choice": found["uar"] + TIE_BREAK * likelihood}


class Watch(TrainerCallback):  # type: ignore[misc]
    """Tells how far it is and how long it will take, and measures what it costs."""

    def __init__(self, n_windows: int, device: str) -> None:
        self._n_windows, self._cuda = n_windows, device == "cuda"
        self._mark = self._seconds = self._epochs = 0.0
        self._steps, self._counted, self._epoch = 0, 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Start the clock."""
        self._mark, self._epoch = time.monotonic(), state.epoch or 0.0
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """One change of the weights."""
        now, self._steps = time.monotonic(), self._steps + 1
        if self._steps > WARM_UP_STEPS or state.max_steps <= WARM_UP_STEPS:
            self._counted += 1
            self._seconds += now - self._mark
            self._epochs += state.epoch - self._epoch
        self._mark, self._epoch = now, state.epoch
        if self._counted and sys.stderr.isatty():
            left = self._seconds / self._counted * (state.max_steps - state.global_step)
            say(f"\repoch {state.epoch:.2f}, step {state.global_step} of {state.max_steps}, {left:.0f} s left   ", "")

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **others: Any) -> None:
        """Say how good it is."""
        found = {name: metrics[f"eval_{name}"] for name in ("loss", "uar", "wa")}
        say(
            f"{chr(13) * sys.stderr.isatty()}epoch {state.epoch:.2f}, step {state.global_step} of {state.max_steps}:"
            f" on speakers held out, loss {found['loss']:.3f}, UAR {found['uar']:.1%}, {found['wa']:.1%} of clips right"
        )
        self._mark = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Writing checkpoints is not training."""
        self._mark = time.monotonic()

    @property
    def cost(self) -> dict[str, Any]:
        """Windows in each second of training, and the most memory that was taken, in bytes."""
        name = torch.cuda.get_device_name() if self._cuda else f"cpu, {torch.get_num_threads()} threads"
        unit = 1 if platform.system() == "Darwin" else 1024
        process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {
            "device": name,
            "steps_measured": self._counted,
            "windows_per_second": self._epochs * self._n_windows / self._seconds if self._seconds else None,
            "peak_memory_bytes": torch.cuda.max_memory_allocated() if self._cuda else process,
        }


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole."""
    whole = [path for path in folder.glob("checkpoint-*") if _is_whole(path)]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _is_whole(checkpoint: Path) -> bool:
    """One without its state was being written when the run was killed."""
    try:
        return bool(json.loads((checkpoint / STATE_FILE).read_text()))
    except (OSError, ValueError):
        return False


def say(text: str, end: str = "\n") -> None:
    """Tell the user something meanwhile, on stderr."""
    print(text, end=end, file=sys.stderr, flush=True)
