"""Accuracy of the shipped models on talking faces that they never saw.

    python -m models.training.accuracy --data FOLDER [--json FILE]

FOLDER holds `javanese-video/AA-SS-EE_RR.mp4` (or the clips themselves): AA actor, EE emotion. Every clip is annotated
by the code that users run. A clip's prediction is the mean log-probability of its windows over the six emotions of the
data set; a clip for which a side has no window that is `ok` counts as wrong for that side.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from db.identity import Source
from db.store import Store
from db.tables import SCORES, WINDOW_COLUMNS
from models.fusion import RULES, Fusion, fuse
from models.presets import COMPACT
from models.taxonomy import EMOTIONS
from models.training.corpora import JAVANESE_EMOTIONS, javanese_clip
from worker.pipeline import DONE, Pipeline
from worker.recipe import Recipe

Rows = npt.NDArray[np.floating]

KNOWN = [EMOTIONS.index(name) for name in JAVANESE_EMOTIONS.values()]
SIDES = ("audio", "video")


def clips(folder: Path) -> list[Path]:
    """The clips in a folder, or in `javanese-video` below it."""
    nested = folder / "javanese-video"
    return sorted((nested if nested.is_dir() else folder).glob("*-*-*_*.mp4"))


def label_of(clip: Path) -> int:
    """The clip's emotion as a column of `EMOTIONS`."""
    return EMOTIONS.index(javanese_clip(clip).emotion)


def annotate(paths: Sequence[Path], db_url: str) -> Iterator[tuple[Path, dict[str, Rows]]]:
    """Annotate clips and give back each one's rows: (n, 8) for `audio` and `video`, NaN where unknown.

    Raises:
        SystemExit: a clip could not be annotated.
    """
    recipe = Recipe(COMPACT, fusion=COMPACT.fusion)
    sources = {Source.of(path, path.stat()): path for path in paths}
    started = time.monotonic()
    with Store(db_url) as store, Pipeline(store, recipe) as pipeline:
        for n, outcome in enumerate(pipeline.annotate(list(sources)), 1):
            if outcome.status != DONE:
                raise SystemExit(f"{outcome.source.uri}: {outcome.error}")
            left = (time.monotonic() - started) / n * (len(sources) - n)
            print(f"\r{n}/{len(sources)} clips, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
            yield sources[outcome.source], _rows(store, outcome.source.uri)
    print(file=sys.stderr)


def _rows(store: Store, uri: str) -> dict[str, Rows]:
    video = store.video(uri)
    if video is None or video.current_annotation_id is None:
        raise SystemExit(f"{uri}: annotated, but not in the database")
    stored = store.windows(video.current_annotation_id)
    starts = {side: WINDOW_COLUMNS.index(SCORES[side][0]) for side in SIDES}
    return {side: np.array([row[at : at + 8] for row in stored], dtype=np.float32) for side, at in starts.items()}


def predict(rows: Rows) -> int:
    """The label, of those in the data set, with the highest mean log-probability; -1 if no window has any."""
    present = rows[~np.isnan(rows).all(axis=1)][:, KNOWN]
    if not len(present):
        return -1
    present = present / np.nansum(present, axis=1, keepdims=True)
    return KNOWN[int(np.log(np.maximum(np.nan_to_num(present), 1e-9)).mean(axis=0).argmax())]


def measure(found: dict[Path, dict[str, Rows]]) -> dict[str, dict[str, float]]:
    """Weighted accuracy and unweighted average recall for voice, face, and each fusion rule."""
    predicted = {side: [predict(rows[side]) for rows in found.values()] for side in SIDES}
    for rule in RULES:
        fusion = Fusion(**{**COMPACT.fusion.__dict__, "rule": rule})
        predicted[rule] = [predict(fuse(rows["audio"], rows["video"], fusion)) for rows in found.values()]
    truth = np.array([label_of(path) for path in found])
    return {name: _scores(truth, np.array(labels)) for name, labels in predicted.items()}


def _scores(truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> dict[str, float]:
    right = truth == predicted
    recalls = [right[truth == label].mean() for label in np.unique(truth)]
    return {
        "wa": round(float(right.mean()), 4),
        "uar": round(float(np.mean(recalls)), 4),
        "answered": round(float((predicted >= 0).mean()), 4),
    }


def main() -> None:
    """Annotate, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds javanese-video/")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args()
    paths = clips(options.data)
    if not paths:
        raise SystemExit(f"{options.data}: no clip named AA-SS-EE_RR.mp4 here or in javanese-video/")
    with tempfile.TemporaryDirectory() as folder:
        found = dict(annotate(paths, f"sqlite:///{folder}/accuracy.db"))
    figures = measure(found)
    print(f"{len(found)} clips, {len(KNOWN)} emotions, default rule {COMPACT.fusion.rule}; percent")
    print(f"{'':<20} {'accuracy':>9} {'recall':>9} {'answered':>9}")
    for name, scores in figures.items():
        shown = {"audio": "voice", "video": "face"}.get(name, f"fused, {name}")
        print(f"{shown:<20}", *(f"{100 * scores[key]:9.1f}" for key in ("wa", "uar", "answered")))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
