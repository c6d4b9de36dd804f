"""From overlapping windows to a timeline: hop cells, smoothing, segments.

A cell's row is the mean of the fused rows of all windows that cover it. Smoothing finds the most probable sequence of
labels under a constant cost for each change (the Viterbi path of a hidden Markov model whose transitions are all alike;
Rabiner 1989, doi 10.1109/5.18626): it maximises

    sum over cells of (cell's seconds * log p_cell[label]) - switch_cost * (number of changes)

so a change must be worth `switch_cost` nats times seconds, however long the hop. Cells without an emotion are not
smoothed over: they end one sequence and begin the next, and become segments with no emotion.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.taxonomy import AROUSAL_ROW, VALENCE_ROW
from worker.windows import WindowPlan

Rows = npt.NDArray[np.float64]
AnyRows = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Smoothing:
    """Constants of the smoothing; part of a pipeline's digest.

    Attributes:
        switch_cost: what a change of label must gain, in nats times seconds; 0 switches smoothing off.
    """

    switch_cost: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.switch_cost < math.inf:
            raise ValueError(f"switch_cost must be at least 0 and finite, got {self.switch_cost!r}")


@dataclass(frozen=True)
class Segment:
    """A stretch with one emotion, or with none.

    Attributes:
        label: column of the emotion in `models.taxonomy.EMOTIONS`; None where nothing was seen or heard.
        confidence: mean probability of the label over the segment's cells, weighted by their length.
        valence, arousal: means under the cells' probabilities, from -1 to 1.
    """

    start_seconds: float
    end_seconds: float
    label: int | None
    confidence: float | None
    valence: float | None
    arousal: float | None


def cell_edges(n_windows: int, plan: WindowPlan, duration_seconds: float) -> npt.NDArray[np.float64]:
    """Edges of the cells in seconds, (n_cells + 1,), from 0 to the end of the last window."""
    end = plan.window(n_windows - 1, duration_seconds).end_seconds
    n_cells = max(1, math.ceil(round(end * 1000, 3) / plan.hop_ms))
    return np.append(np.arange(n_cells) * (plan.hop_ms / 1000), end)


def cells(fused: AnyRows, edges: Rows, plan: WindowPlan) -> Rows:
    """Mean of the fused rows of all windows that cover each cell, from its beginning to its end.

    Args:
        fused: (n, 8), one row a window from window 0 on; NaN rows have no emotion.
        edges: (n_cells + 1,) from `cell_edges`.
        plan: window and hop.

    Returns:
        (n_cells, 8) float64, NaN where no window that covers the cell has an emotion, and in the columns of labels
        that no model knows.
    """
    window, cell = np.arange(len(fused)), np.arange(len(edges) - 1)
    ends = np.minimum((window * plan.hop_ms + plan.window_ms) / 1000, edges[-1])
    first = np.searchsorted(ends, edges[1:] - 1e-6)  # the first window that reaches the cell's end
    last = np.minimum(cell, len(fused) - 1) + 1  # after the last one that has begun
    total, count = (_running(rows)[last] - _running(rows)[first] for rows in (np.nan_to_num(fused), ~np.isnan(fused)))
    with np.errstate(invalid="ignore"):
        mean: Rows = np.where(count > 0, np.maximum(total, 0.0) / count, np.nan)
    return np.asarray(mean / np.nansum(mean, axis=1, keepdims=True).clip(1e-12))


def _running(rows: npt.NDArray[np.generic]) -> Rows:
    """Sums of the first 0, 1, ... n rows: (n + 1, 8)."""
    return np.vstack([np.zeros(rows.shape[1]), np.cumsum(rows, axis=0, dtype=np.float64)])


def smooth(rows: Rows, lengths_seconds: Rows, smoothing: Smoothing) -> npt.NDArray[np.int64]:
    """The most probable sequence of labels.

    Args:
        rows: (n, 8) cells; NaN rows have no emotion, NaN columns are labels that nobody knows.
        lengths_seconds: (n,) length of each cell.

    Returns:
        (n,) column of each cell's label, -1 where there is none.
    """
    labels = np.full(len(rows), -1, dtype=np.int64)
    known = ~np.isnan(rows).all(axis=1)
    scores = np.log(np.maximum(np.nan_to_num(rows, nan=0.0), 1e-12)) * lengths_seconds[:, None]
    edges = np.flatnonzero(np.diff(np.concatenate(([False], known, [False])).astype(np.int8)))
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        labels[first:end] = _viterbi(scores[first:end], smoothing.switch_cost)
    return labels


def _viterbi(scores: Rows, switch_cost: float) -> npt.NDArray[np.int64]:
    """Best path through (n, labels) scores when any change costs the same: O(n * labels)."""
    n, width = scores.shape
    switched = np.empty((n, width), dtype=np.bool_)  # whether the best path to a label comes from another one
    tops = np.empty(n, dtype=np.int64)  # which one that is: whichever was best before
    best = scores[0].astype(np.float64)
    for i in range(1, n):
        tops[i] = top = best.argmax()
        floor = best[top] - switch_cost
        np.less(best, floor, out=switched[i])
        np.maximum(best, floor, out=best)
        best += scores[i]
    path = [int(best.argmax())]
    for top, row in zip(tops[:0:-1].tolist(), switched[:0:-1].tolist(), strict=True):
        path.append(top if row[path[-1]] else path[-1])
    return np.array(path[::-1], dtype=np.int64)


def segments(fused: AnyRows, plan: WindowPlan, duration_seconds: float, smoothing: Smoothing) -> list[Segment]:
    """Segments in order, without overlap, that cover exactly what was annotated: [0, end of the last window).

    Args:
        fused: (n, 8), one row a window from window 0 on.
        duration_seconds: the video's true length.
    """
    if len(fused) == 0:
        return []
    edges = cell_edges(len(fused), plan, duration_seconds)
    lengths = np.diff(edges)
    rows = cells(fused, edges, plan)
    labels = smooth(rows, lengths, smoothing)
    first = np.concatenate(([0], np.flatnonzero(np.diff(labels)) + 1))
    ends = np.append(edges[first[1:]], edges[-1])
    mass = np.add.reduceat(np.nan_to_num(rows, nan=0.0) * lengths[:, None], first, axis=0)
    mean = mass / (ends - edges[first])[:, None]
    values = zip(mean[np.arange(len(first)), labels[first]], mean @ VALENCE_ROW, mean @ AROUSAL_ROW, strict=True)
    return [
        Segment(start, end, None, None, None, None) if label < 0 else Segment(start, end, label, *map(float, value))
        for start, end, label, value in zip(
            edges[first].tolist(), ends.tolist(), labels[first].tolist(), values, strict=True
        )
    ]
