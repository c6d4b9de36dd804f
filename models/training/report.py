"""docs/accuracy.md and its pictures, out of what `models.training.evaluate` found. Knows no models and no media.

accuracy.json holds all figures; the page and the pictures are made of nothing else.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

Figures = Mapping[str, Any]

# What others published, or a first hour reached, on the same folds; and what this project aims at. Fractions of 1.
PUBLISHED: dict[tuple[str, str], str] = {
    ("ravdess", "audio"): "81.8, fine-tuned xlsr-wav2vec2 of 315 M parameters (doi 10.3390/app12010327); people 67.0",
    ("ravdess", "fused"): "86.7 (doi 10.3390/app12010327); about 88, HiCMAE (arXiv 2401.05698)",
    ("ravdess", "face"): "people 75.0, from the pictures themselves (doi 10.3390/app12010327)",
    ("crema-d", "audio"): "72.6, wav2vec2-large, split not stated (arXiv 2412.09317)",
    ("fer2013", "face"): "66, mini-XCEPTION (arXiv 1710.07557)",
}
TARGETS: dict[tuple[str, str], float] = {
    ("ravdess", "audio"): 0.82,
    ("ravdess", "fused"): 0.90,
    ("crema-d", "audio"): 0.78,
    ("fer2013", "face"): 0.71,
    ("javanese", "audio"): 0.76,
    ("javanese", "face"): 0.60,
    ("javanese", "fused"): 0.84,
}
ECE_TARGETS = {"ravdess": 0.05, "crema-d": 0.05, "fer2013": 0.05, "javanese": 0.08}
MAX_COST = 0.01  # in accuracy, of adapting to a video that is not balanced
MAX_SHARE_CHANGE = 0.02  # of calm and surprised, by a low-pass
SIDES = {"audio": "voice", "face": "face", "fused": "fused"}
CORPORA = {"ravdess": "RAVDESS", "crema-d": "CREMA-D", "fer2013": "FER2013 PrivateTest", "javanese": "Javanese videos"}


def write(found: Figures, docs: Path) -> None:
    """accuracy.json, accuracy.md and accuracy/*.svg in a folder."""
    (docs / "accuracy").mkdir(parents=True, exist_ok=True)
    (docs / "accuracy.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (docs / "accuracy.md").write_text(page(found), encoding="utf-8")
    for name, side, figures in measured(found):
        draw(figures["confusion"], title(name, side), docs / "accuracy" / picture(name, side))


def measured(found: Figures) -> Iterator[tuple[str, str, Figures]]:
    """Corpus, side and figures of everything that has a confusion matrix, the shipped models' last."""
    for name in CORPORA:
        for side in SIDES:
            if side in found[name]:
                yield name, side, found[name][side]
    for side in SIDES:
        yield "javanese as shipped", side, found["javanese"]["shipped"][side]


def title(name: str, side: str) -> str:
    """`Javanese videos, face, as shipped`."""
    corpus, _, shipped = name.partition(" ")
    return f"{CORPORA[corpus]}, {SIDES[side]}" + (f", {shipped}" if shipped else "")


def picture(name: str, side: str) -> str:
    """The file name of a confusion matrix."""
    return f"{name.replace(' ', '-')}-{side}.svg"


def draw(confusion: Figures, said: str, path: Path) -> None:
    """A confusion matrix: rows are what was shown, columns what was predicted, shades are shares of the row."""
    import matplotlib as mpl
    import numpy as np

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "moodreel", "font.size": 9})
    from matplotlib import pyplot as plt

    counts = np.array(confusion["counts"])
    names = [*confusion["labels"], "nothing"] if counts[:, -1].any() else list(confusion["labels"])
    counts = counts[:, : len(names)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, line in enumerate(shares):
        for column, share in enumerate(line):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(confusion["labels"])), confusion["labels"])
    axes.set_xlabel("predicted")
    axes.set_ylabel("shown")
    axes.set_title(f"{said}, % of what was shown")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def page(found: Figures) -> str:
    """The page; keys as in accuracy.json."""
    parts = [
        "# Accuracy",
        _introduction(found["measured"]),
        "## In short",
        _overview(found),
        _shipped(found["javanese"]["shipped"]),
        "## How it is measured",
        _method(found["measured"]),
        "## Fusion: which rule, and does it help?",
        *_fusion(found["fusion"], found["measured"]["fusion"]),
        "## Adaptation to the video",
        *_adaptation(found["adaptation"]),
        "## Shortcuts and robustness",
        *_robustness(found),
        "## By sex and by actor",
        _people(found),
        "## By fold and by emotion",
        *_details(found),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float, digits: int = 1) -> str:
    """0.7134 as 71.3."""
    return f"{100 * share:.{digits}f}"


def against(value: float, target: float | None) -> str:
    """A target and by how much it is missed."""
    if target is None:
        return ""
    return f"{percent(target)}" + ("" if value >= target else f" (missed by {percent(target - value)})")


def _introduction(measured: Figures) -> str:
    return (
        f"Written by `make eval DATA=FOLDER` on {measured['date']}; all figures are also in "
        "[accuracy.json](accuracy.json). Percent, on people whom the models never met: the figures of RAVDESS, CREMA-D "
        "and the Javanese videos are those of models that were trained for each fold by the recipe of the shipped "
        "ones, "
        "never of the shipped weights, which saw these speakers. **What is predicted is what actors were asked to "
        "show. "
        "It is not what a person feels.**"
    )


def _overview(found: Figures) -> str:
    rows = []
    for name, side, figures in measured(found):
        if " " in name:
            continue
        rows.append(
            (
                f"{CORPORA[name]}, {SIDES[side]}",
                f"{percent(figures['wa'])} ± {percent(figures['spread']['wa'])}"
                if len(figures["per_fold"]["wa"]) > 1
                else percent(figures["wa"]),
                percent(figures["uar"]),
                percent(figures["macro_f1"]),
                f"{figures['ece']:.3f}{'' if figures['ece'] <= ECE_TARGETS[name] else ' (missed)'}",
                against(figures["wa"], TARGETS.get((name, side))),
                PUBLISHED.get((name, side), "none"),
            )
        )
    aims = f"Target of the calibration error: {ECE_TARGETS['ravdess']}; Javanese {ECE_TARGETS['javanese']}."
    head = ("", "accuracy (WA)", "recall (UAR)", "macro F1", "calibration error", "target (WA)", "published (WA)")
    return f"{table(head, rows)}\n\n{aims} Accuracy: mean and standard deviation over the folds."


def _shipped(shipped: Figures) -> str:
    rows = [
        (SIDES[side], percent(f["wa"]), percent(f["uar"]), percent(f["macro_f1"]), f"{f['ece']:.3f}")
        for side, f in shipped.items()
    ]
    head = ("Javanese videos, as shipped", "accuracy (WA)", "recall (UAR)", "macro F1", "calibration error")
    return (
        "What to expect of another language, other people and another studio than those trained on: the shipped "
        "models, "
        f"as users get them, which never saw or heard this corpus.\n\n{table(head, rows)}"
    )


def _method(measured: Figures) -> str:
    counts = ", ".join(f"{CORPORA[name]} {n:,}" for name, n in measured["clips"].items())
    return (
        "- Clips are read by the worker's reader, cut into windows of 2 s every second and gated by speech and faces "
        "as "
        "in `moodreel annotate`. FER2013 enters after the face detector, RAVDESS' faces as the probabilities that are "
        "given for each frame.\n"
        "- A clip's prediction is the mean log-probability of its windows over the labels of its corpus; a clip of "
        "which "
        "no window says anything counts as wrong.\n"
        f"- Folds by actor: RAVDESS those of doi 10.3390/app12010327, CREMA-D those of arXiv 2401.05698, Javanese a "
        f"woman and a man each. Clips: {counts}. The run stops if a speaker stands on both sides of a split.\n"
        f"- Voice: {measured['voice_recipe']['name']}, a head trained on windows of: "
        f"{'; '.join(measured['voice_recipe']['views'])}. One model of RAVDESS and CREMA-D together for each fold; for "
        "the Javanese videos, models of the corpus's 1,680 sound clips, those of the tested actors left out. Face: "
        "logistic regression and randomised trees on the mean and spread of a window's frames: RAVDESS' given "
        "probabilities; for the videos, what the shipped networks say and how the head moves.\n"
        "- Temperatures are fitted on speakers held out from those trained on, never on those tested.\n"
        "- The encoder computes in bfloat16 here, in float32 at run time: on 1,084 windows of unseen speakers the two "
        "agreed in 98.9 % of the labels.\n"
        f"- Fused: the default rule, {measured['fusion']} with even weights, window by window. It was chosen before "
        "these figures.\n"
        "- Calibration error: 10 equally wide bins of confidence over all clips pooled. A perfectly calibrated model "
        "still shows 0.05 to 0.07 on 240 clips."
    )


def _fusion(fusion: Figures, default: str) -> Iterator[str]:
    yield (
        "All six rules, each with even weights and with the weights that the sides' accuracies on held-out speakers of "
        "the training folds give. *p* is that of McNemar's exact test against the better single side, on the same "
        "clips; a minus says that fusing lost. Sides within 5 points of each other count as about equal, from 15 on as "
        "one much weaker.\n\n"
        "How a side is weakened: *noise* is white, so many decibels below the speech, and added before the voice "
        "detector; the model was trained with some, of 5 to 40 dB, on half of one view. *Weaker face model*: trained "
        "and judged on faces with noise (RAVDESS: standard deviation 2 on the given log-probabilities; videos: 60 grey "
        "levels on the crops, and 6 pixels on the landmarks), so it knows its own weakness. *Face disturbed*: only "
        "judged on them."
    )
    for name, conditions in fusion.items():
        for condition, found in conditions.items():
            gap = abs(found["audio"] - found["face"])
            kind = "about equal" if gap <= 0.05 else "one much weaker" if gap >= 0.15 else "one weaker"
            yield (
                f"**{CORPORA[name]}, {condition}** ({kind}): voice {percent(found['audio'])}, face "
                f"{percent(found['face'])}\n\n{_rules(found['rules'], default)}"
            )
    yield _answer(fusion, default)


def _rules(rules: Figures, default: str) -> str:
    def cells(tested: Figures) -> tuple[str, str]:
        sign = "-" if tested["won"] < tested["lost"] else ""
        return percent(tested["wa"]), f"{sign}{tested['p']:.2g}"

    rows = [
        (f"{rule} (default)" if rule == default else rule, *cells(tested["even"]), *cells(tested["by accuracy"]))
        for rule, tested in rules.items()
    ]
    return table(("rule", "even weights", "p", "weights by accuracy", "p"), rows)


def _answer(fusion: Figures, default: str) -> str:
    """How often each rule was the best, and the default's standing, counted."""
    said, total = [], 0
    wins: dict[str, int] = {}
    for name, conditions in fusion.items():
        for condition, found in conditions.items():
            total += 1
            scores = {
                f"{rule}, {how}": tested["wa"] for rule, by in found["rules"].items() for how, tested in by.items()
            }
            for rule in (rule for rule, wa in scores.items() if wa == max(scores.values())):
                wins[rule] = wins.get(rule, 0) + 1
            tested = found["rules"][default]["even"]
            if not (tested["won"] > tested["lost"] and tested["p"] < 0.05):
                said.append(f"{CORPORA[name]}, {condition} (p = {tested['p']:.2g})")
    order = sorted(wins, key=lambda rule: -wins[rule])
    counted = "; ".join(f"{rule} weights: {wins[rule]}" for rule in order)
    verdict = (
        "The default is better than the better single side everywhere, p < 0.05."
        if not said
        else f"The default is not better than the better single side with p < 0.05 on: {'; '.join(said)}."
    )
    return f"Best of the twelve, of {total} cases (ties count for each): {counted}. {verdict}"


def _adaptation(adaptation: Figures) -> Iterator[str]:
    yield (
        "Videos put together from the clips of one speaker, or of several who show the same emotion most; neither the "
        "voice model nor the adaptation met them; the voice alone. *70 %*: one emotion makes up that share of the "
        "clips, the others are equally frequent; the mean over the emotions. About 20 clips each, 10 a speaker of "
        "several. *None*: accuracy; the "
        "others: points gained, mean and standard deviation over the folds. *Own mean*: the mean log-probabilities of "
        "the video are taken away, in whole or mixed with windows of the mean speaker. *Adaptation*: as much of them "
        "as a small network says, which sees statistics of the video's windows (`models/adaptation.py`); the one for "
        "the Javanese clips was trained on English speakers only."
    )
    for name, kinds in adaptation.items():
        rows = [
            (kind, percent(by["none"]["wa"]), *(_gain(found) for method, found in by.items() if method != "none"))
            for kind, by in kinds.items()
        ]
        yield f"**{_sound_of(name)}**\n\n{table(('', *next(iter(kinds.values()))), rows)}"
    yield _held(adaptation)


def _sound_of(name: str) -> str:
    return "Javanese sound clips" if name == "javanese" else CORPORA[name]


def _gain(found: Figures) -> str:
    return f"{100 * found['gain']:+.1f} ± {percent(found['spread'])}"


def _held(adaptation: Figures) -> str:
    """Whether the adaptation gains where emotions are balanced and costs at most a point where they are not."""
    gains = {(name, kind): by["adaptation"]["gain"] for name, kinds in adaptation.items() for kind, by in kinds.items()}
    missed = [
        f"{_sound_of(name)}, {kind} ({100 * gain:+.1f})"
        for (name, kind), gain in gains.items()
        if (gain <= 0 if kind in ("balanced", "balanced, all clips") else gain < -MAX_COST)
    ]
    if missed:
        return f"It does not keep to a gain on balanced videos and a cost of at most one point on: {'; '.join(missed)}."
    return "It gains on balanced videos of every corpus and costs at most one point on every other kind."


def _robustness(found: Figures) -> Iterator[str]:
    low = found["low-pass"]
    within = "within" if abs(low["change"]) <= MAX_SHARE_CHANGE else "above"
    yield (
        f"**Bandwidth.** CREMA-D has no sound above {low['cutoff_hz'] / 1000:g} kHz and neither calm nor surprised "
        f"clips, "
        f"RAVDESS has both. With RAVDESS low-passed there, the share of clips called calm or surprised goes from "
        f"{percent(low['share_before'])} to {percent(low['share_after'])}: {100 * low['change']:+.1f} points, "
        f"{within} the "
        f"target of at most {100 * MAX_SHARE_CHANGE:g}. {percent(low['labels_changed'])} % of all labels change; "
        f"accuracy "
        f"is {percent(low['wa'])} then."
    )
    noise = found["noise"]
    rows = [
        (
            CORPORA[name],
            f"{takes['as recorded']['clips']:,}",
            *(f"{percent(take['wa'])} ({percent(take['answered'], 0)})" for take in takes.values()),
        )
        for name, takes in noise.items()
    ]
    head = ("voice alone, WA", "clips", *noise["ravdess"])
    yield (
        "**Noise.** White, so many decibels below the speech; in brackets the share of clips in which the voice "
        "detector still finds speech; the rest count as wrong."
        f"\n\n{table(head, rows)}"
    )
    rows = [
        (
            f"{CORPORA[c['trained_on']]} on {CORPORA[c['tested_on']]}",
            str(c["labels"]),
            f"{c['clips']:,}",
            percent(c["wa"]),
            percent(c["uar"]),
        )
        for c in found["cross-corpus"]
    ]
    yield (
        "**Across corpora.** Voice models trained on all of one corpus and tested on all of another, over the labels "
        "that "
        f"both have.\n\n{table(('trained on, tested on', 'labels', 'clips', 'WA', 'UAR'), rows)}"
    )


def _people(found: Figures) -> str:
    rows = []
    for name, side, figures in measured(found):
        if "people" in figures:
            women, men = (figures["people"]["sex"][sex] for sex in ("women", "men"))
            actors = sorted(figures["people"]["actor"].items(), key=lambda item: item[1])
            (worst, lowest), (best, highest) = actors[0], actors[-1]
            middle = median(accuracy for _, accuracy in actors)
            rows.append(
                (
                    title(name, side),
                    *(percent(women), percent(men), f"{100 * (women - men):+.1f}"),
                    *(f"{percent(lowest)} ({worst})", percent(middle), f"{percent(highest)} ({best})"),
                )
            )
    head = ("WA of all clips pooled", "women", "men", "difference", "worst actor", "median actor", "best actor")
    return f"{table(head, rows)}\n\nEvery actor's figure is in accuracy.json, under `people`."


def _details(found: Figures) -> Iterator[str]:
    rows = [
        (
            title(name, side),
            *(percent(value) for value in figures["per_fold"]["wa"]),
            *("" for _ in range(5 - len(figures["per_fold"]["wa"]))),
            percent(figures["wa"]),
            percent(figures["spread"]["wa"]),
            percent(figures["pooled"]["wa"]),
            percent(figures["answered"]),
        )
        for name, side, figures in measured(found)
    ]
    head = ("WA", "fold 1", "2", "3", "4", "5", "mean", "spread", "pooled", "answered")
    yield table(head, rows)
    for name, side, figures in measured(found):
        labels = figures["per_class"]
        rows = [
            ("recall", *(percent(label["recall"]) for label in labels.values())),
            ("precision", *(percent(label["precision"]) for label in labels.values())),
            ("clips", *(str(label["clips"]) for label in labels.values())),
        ]
        said = title(name, side)
        yield f"### {said}\n\n{table(('', *labels), rows)}\n\n![{said}: confusion](accuracy/{picture(name, side)})"
