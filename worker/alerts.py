"""What alert rules tell of a timeline: stretches of hop cells, without a break, at a level for long enough."""

from collections.abc import Sequence

import numpy as np

from db.rows import AlertRule, RaisedAlert
from models.taxonomy import AROUSAL_ROW, EMOTIONS, VALENCE_ROW
from worker.timeline import AnyRows, Rows, cell_edges, cells
from worker.windows import WindowPlan

_TOLERANCE_SECONDS = 1e-6


def raised(fused: AnyRows, plan: WindowPlan, duration_seconds: float, rules: Sequence[AlertRule]) -> list[RaisedAlert]:
    """The stretches that rules tell of, rule by rule, in the order of time.

    A cell in which nobody is seen or heard ends a stretch, and so does the end of the video.

    Args:
        fused: (n, 8), one row a window from window 0 on; NaN rows have no emotion.
        plan: window and hop.
        duration_seconds: the video's true length.
        rules: that hold for the video.
    """
    if len(fused) == 0:
        return []
    edges = cell_edges(len(fused), plan, duration_seconds)
    rows = cells(fused, edges, plan)
    return [alert for rule in rules for alert in _stretches(_values(rows, rule.measure), edges, rule)]


def _values(rows: Rows, measure: str) -> Rows:
    """What a rule looks at, of each cell; NaN where there is no emotion, or where no model knows this one."""
    if measure in EMOTIONS:
        return np.asarray(rows[:, EMOTIONS.index(measure)])
    known = np.nan_to_num(rows, nan=0.0) @ (VALENCE_ROW if measure == "valence" else AROUSAL_ROW)
    return np.where(np.isnan(rows).all(axis=1), np.nan, known)


def _stretches(values: Rows, edges: Rows, rule: AlertRule) -> list[RaisedAlert]:
    met = values <= rule.level if rule.below else values >= rule.level
    turns = np.flatnonzero(np.diff(np.concatenate(([False], met, [False])).astype(np.int8)))
    found = []
    for first, end in zip(turns[::2], turns[1::2], strict=True):
        start_seconds, end_seconds = float(edges[first]), float(edges[end])
        if end_seconds - start_seconds >= rule.min_seconds - _TOLERANCE_SECONDS:
            peak = values[first:end].min() if rule.below else values[first:end].max()
            limited = min(1.0, max(-1.0, float(peak)))  # rounding must not break the rule that it lies there
            found.append(
                RaisedAlert(rule_id=rule.id, start_seconds=start_seconds, end_seconds=end_seconds, peak=limited)
            )
    return found
