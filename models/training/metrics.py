"""What predictions are worth. Arrays in, figures out: knows no files and no models.

A prediction is a row of probabilities over a corpus's own labels, NaN in all columns where nothing was said: that
counts as wrong.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from models.taxonomy import EMOTIONS

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

TINY = 1e-9  # keeps log 0 out
BINS = 10  # of confidence, equally wide
NOTHING = len(EMOTIONS)  # the label of a clip of which nothing was said


def clip_row(windows: npt.NDArray[np.floating], known: BoolArray) -> FloatArray:
    """A clip's row: softmax of the mean log-probability of its windows over the corpus's labels.

    Args:
        windows: (n, 8) probabilities, NaN where a label is unknown, rows of NaN where a window says nothing.
        known: (8,) the corpus's labels.

    Returns:
        (8,) float32 that sums to 1 over `known`, NaN elsewhere; all NaN if no window says anything.
    """
    row = np.full(len(known), np.nan, np.float32)
    said = windows[~np.isnan(windows).all(axis=1)][:, known].astype(np.float64)
    if len(said):
        given = np.maximum(np.nan_to_num(said), TINY)  # a label of the corpus that the model does not know is not meant
        logs = np.log(given / given.sum(axis=1, keepdims=True)).mean(axis=0)
        powers = np.exp(logs - logs.max())
        row[known] = powers / powers.sum()
    return row


def predicted(rows: FloatArray) -> IntArray:
    """The most probable label of each row, (n,) int64; `NOTHING` where nothing was said."""
    said = ~np.isnan(rows).all(axis=1)
    return np.where(said, np.nan_to_num(rows, nan=-1.0).argmax(axis=1), NOTHING)


def calibration_error(probabilities: FloatArray, truth: IntArray) -> float:
    """Expected calibration error in 10 equal-width bins of confidence (Guo et al. 2017, section 2), 0 to 1.

    Args:
        probabilities: (n, labels), a row's own labels sum to 1; rows of NaN, where nothing was said, are left out.
        truth: (n,) columns.
    """
    said = ~np.isnan(probabilities).all(axis=1)
    rows = np.nan_to_num(probabilities[said], nan=-1.0)
    confidence = rows.max(axis=1)
    right = rows.argmax(axis=1) == truth[said]
    bins = np.minimum((BINS * confidence).astype(int), BINS - 1)
    gaps = [abs(np.sum(right[bins == b]) - np.sum(confidence[bins == b])) for b in range(BINS)]
    return float(np.sum(gaps) / max(1, len(rows)))


def scores(truth: IntArray, labels: IntArray, known: BoolArray) -> dict[str, Any]:
    """Weighted accuracy (`wa`: the share that is right), unweighted average recall (`uar`), macro F1, and by label.

    A label that no clip shows counts in no mean.
    """
    columns = [int(column) for column in np.flatnonzero(known) if (truth == column).any()]
    precision, recall, f1, clips = precision_recall_fscore_support(truth, labels, labels=columns, zero_division=0)
    by_label = zip(columns, precision, recall, f1, clips, strict=True)
    return {
        "wa": float(np.mean(truth == labels)),
        "uar": float(np.mean(recall)),
        "macro_f1": float(np.mean(f1)),
        "per_class": {
            EMOTIONS[c]: {"precision": float(p), "recall": float(r), "f1": float(f), "clips": int(n)}
            for c, p, r, f, n in by_label
        },
    }


MEANS = ("wa", "uar", "macro_f1")


def figures(truth: IntArray, rows: FloatArray, folds: IntArray, known: BoolArray) -> dict[str, Any]:
    """All figures of out-of-fold predictions, fractions of 1.

    `wa`, `uar` and `macro_f1` are means over the folds, `spread` their standard deviations over the folds (n - 1);
    `ece`, `per_class` and `confusion` are of all predictions pooled. `answered` is the share of clips of which anything
    was said.

    Args:
        truth: (n,) columns of `EMOTIONS`.
        rows: (n, 8) as `clip_row` gives them.
        folds: (n,) which fold tested the clip.
        known: (8,) the corpus's labels.
    """
    labels = predicted(rows)
    by_fold = [scores(truth[folds == fold], labels[folds == fold], known) for fold in np.unique(folds)]
    table = {name: [fold[name] for fold in by_fold] for name in MEANS}
    pooled = scores(truth, labels, known)
    columns = np.flatnonzero(known)
    return {
        **{name: float(np.mean(table[name])) for name in MEANS},
        "ece": calibration_error(rows, truth),
        "clips": len(truth),
        "answered": float(np.mean(labels != NOTHING)),
        "spread": {name: float(np.std(table[name], ddof=1)) if len(by_fold) > 1 else 0.0 for name in MEANS},
        "per_fold": table,
        "pooled": {name: pooled[name] for name in MEANS},
        "per_class": pooled["per_class"],
        "confusion": {
            "labels": [EMOTIONS[c] for c in columns],
            "counts": confusion_matrix(truth, labels, labels=[*columns, NOTHING])[: len(columns)].tolist(),
        },
    }


def mcnemar(truth: IntArray, labels: IntArray, other: IntArray) -> dict[str, Any]:
    """Whether one set of labels is better than another on the same clips: McNemar's test, exact and two-sided.

    Source: McNemar 1947, doi 10.1007/BF02295996; of the clips on which only one of the two is right, either should
    have half.

    Returns:
        `won` and `lost`: clips on which only `labels`, only `other`, is right; `p`.
    """
    won = int(np.sum((labels == truth) & (other != truth)))
    lost = int(np.sum((labels != truth) & (other == truth)))
    return {"won": won, "lost": lost, "p": float(binomtest(won, won + lost).pvalue) if won + lost else 1.0}


def rounded(value: Any, digits: int = 4) -> Any:
    """Numbers within dicts and lists, rounded for writing; p-values keep two significant digits."""
    if isinstance(value, dict):
        return {k: float(f"{v:.2g}") if k == "p" else rounded(v, digits) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [rounded(item, digits) for item in value]
    return round(value, digits) if isinstance(value, float) else value
