"""The model card of a fine-tuned checkpoint: data and terms, who was held out, figures, the command, the limits."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.taxonomy import EMOTIONS

USES = """\
**A predicted expression is not somebody's inner state.** The model reads a performance, differs between people and
cultures, and is often wrong. Do not decide anything about a person by it. It is for finding and counting: where in an
archive somebody sounds or looks angry, say, for people to look at.

The EU's AI Act (Regulation 2024/1689) forbids systems that infer the emotions of a person at the workplace or in
education, except for medical or safety reasons (Article 5(1)(f)); elsewhere emotion recognition is high-risk
(Annex III), and the people exposed to it must be told (Article 50).

Not known: how it does in other languages, at other ages, with noise, with emotions that nobody acts. Whoever wants to
know measures it on such recordings. What the checkpoint that it was started from had learned before is said in that
one's card; its terms hold as well."""


def text(found: Mapping[str, Any], terms: str, licence: str) -> str:
    """A card in Markdown with the metadata that Hugging Face reads.

    Args:
        found: what metrics.json holds.
        terms, licence: of the data.
    """
    run, network, test = found["run"], found["network"], found["test"]
    parts = [
        "---",
        f"license: {licence}",
        f"pipeline_tag: {run['side']}-classification",
        "library_name: transformers",
        "---",
        "",
        f"# Emotions from {'the voice' if run['side'] == 'audio' else 'pictures'}: {', '.join(network['labels'])}",
        "",
        f"{network['class']}, fine-tuned from `{_base(run['model'])}` by moodreel {found['versions']['moodreel']}"
        f" (transformers {found['versions']['transformers']}, torch {found['versions']['torch']}). It judges windows of"
        " two seconds, cut and gated as moodreel cuts and gates them:",
        "",
        "```sh",
        f"moodreel annotate --{run['side']}-model FOLDER VIDEO...",
        "```",
        "",
        "## Data and terms",
        "",
        *_data(found),
        "",
        f"Terms of the data: {terms}.",
        "",
        "## Figures",
        "",
        f"Speakers whom the model never met: {len(test['by_speaker'])}. A clip's prediction is the mean"
        f" log-probability of its windows. {test['clips']} clips, {test['answered']:.1%} of them with a window that can"
        " be judged; the others count as wrong.",
        "",
        "| accuracy | unweighted average recall | macro F1 | calibration error |",
        "|---|---|---|---|",
        f"| {test['wa']:.1%} | {test['uar']:.1%} | {test['macro_f1']:.1%} | {test['ece']:.3f} |",
        "",
        *_by_emotion(test),
        "",
        *_by_speaker(test),
        "",
        "## Training",
        "",
        "```sh",
        found["command"],
        "```",
        "",
        *_training(found),
        "",
        "## Intended and forbidden uses",
        "",
        USES,
        "",
    ]
    return "\n".join(parts)


def _base(model: str) -> str:
    """A hub id as it is; of a folder its name alone, since where it lay is nobody's business."""
    return Path(model).name if Path(model).is_absolute() else model


def _data(found: Mapping[str, Any]) -> Iterator[str]:
    data, split = found["data"], found["split"]
    yield f"From {data['title']}. Speakers were held out whole, to choose when to stop and to test:"
    yield ""
    yield "| | speakers | clips | windows |"
    yield "|---|---|---|---|"
    for part in ("train", "validation", "test"):
        who = f"{len(split[part])}: {', '.join(split[part])}"
        yield f"| {part} | {who} | {sum(data['clips'][part].values())} | {data['windows'][part]} |"
    yield ""
    yield f"In {data['without_windows']} clips no window could be judged: no speech, or no face."
    if data["left_out"]:
        yield f"What was left out otherwise is in metrics.json, in {len(data['left_out'])} sentences."


def _by_emotion(test: Mapping[str, Any]) -> Iterator[str]:
    labels = test["confusion"]["labels"]
    yield "| shown | clips | recall | precision | taken for |"
    yield "|---|---|---|---|---|"
    for label, counts in zip(labels, test["confusion"]["counts"], strict=True):
        if (figures := test["per_class"].get(label)) is None:
            continue
        wrong = {name: n for name, n in zip([*labels, "nothing"], counts, strict=True) if n and name != label}
        worst = max(wrong, key=lambda name: wrong[name]) if wrong else "-"
        yield (f"| {label} | {figures['clips']} | {figures['recall']:.1%} | {figures['precision']:.1%} | {worst} |")
    absent = [emotion for emotion in EMOTIONS if emotion not in labels]
    if absent:
        yield ""
        yield f"It does not know {', '.join(absent)}."


def _by_speaker(test: Mapping[str, Any]) -> Iterator[str]:
    yield "| speaker | clips | accuracy |"
    yield "|---|---|---|"
    for name, figures in test["by_speaker"].items():
        yield f"| {name} | {figures['clips']} | {figures['wa']:.1%} |"


def _training(found: Mapping[str, Any]) -> Iterator[str]:
    run, training, cost = found["run"], found["training"], found["cost"]
    yield (
        f"{training['steps']} steps of {run['batch'] * run['accumulate']} windows, the best after"
        f" {training['best_step']} by the unweighted average recall on the validation speakers (of equals, the surer)."
        f" Learning rate {run['learning_rate']:g}, linear, warm-up over {run['warmup']:g} of all steps, weight decay"
        f" {run['weight_decay']:g}, label smoothing {run['label_smoothing']:g}, class weights {run['class_weights']},"
        f" seed {run['seed']}."
    )
    if cost.get("windows_per_second"):
        yield (
            f"{cost['windows_per_second']:.3g} windows a second and at most {cost['peak_memory_bytes'] / 1e9:.2f} GB on"
            f" {cost['device']}, {cost['precision']}."
        )
