"""From a video's stored windows to its timeline: fusion, smoothing, segments, in one transaction. No media, no model.

Re-fusing is this, run again.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

import db.rows
from db.store import Store
from db.tables import SCORES, WINDOW_COLUMNS
from models.fusion import confidence, fuse
from models.taxonomy import AROUSAL_ROW, EMOTIONS, VALENCE_ROW
from worker.recipe import Recipe
from worker.timeline import Segment, segments

Rows = npt.NDArray[np.float32]

_AUDIO, _VIDEO = (
    slice(first := WINDOW_COLUMNS.index(SCORES[side][0]), first + len(EMOTIONS)) for side in ("audio", "video")
)


def finish(
    store: Store,
    annotation_id: int,
    recipe: Recipe,
    duration_seconds: float,
    *,
    provenance: dict[str, Any],
) -> None:
    """Fuse, smooth and publish an annotation whose spans are all done.

    Args:
        duration_seconds: the video's true length; windows planned beyond it are dropped.
        provenance: device, dtype, versions: what may differ between equal results.
    """
    n_windows = recipe.plan.count(duration_seconds)
    stored = store.windows(annotation_id)[:n_windows]
    fused = fuse(_side(stored, _AUDIO), _side(stored, _VIDEO), recipe.fusion)
    store.finish(
        annotation_id,
        fused_rows(fused),
        [_segment_row(s) for s in segments(fused, recipe.plan, duration_seconds, recipe.smoothing)],
        duration_seconds=duration_seconds,
        keep_windows=n_windows,
        provenance=provenance,
    )


def _side(stored: list[tuple[Any, ...]], part: slice) -> Rows:
    """One modality's probabilities of all windows: (n, 8) float32, NaN for NULL."""
    if not stored:
        return np.empty((0, len(EMOTIONS)), np.float32)
    return np.array([row[part] for row in stored], dtype=np.float32)


def fused_rows(fused: Rows) -> list[tuple[Any, ...]]:
    """Rows of `fused_windows`, in the order of `db.tables.FUSED_COLUMNS`."""
    known = np.nan_to_num(fused, nan=0.0)
    there = known.any(axis=1)
    verdict = (
        np.array(EMOTIONS, dtype=object)[known.argmax(axis=1)],
        np.clip(confidence(fused), 0.0, 1.0),
        known @ VALENCE_ROW,
        known @ AROUSAL_ROW,
    )
    columns = [_nullable(values, there) for values in verdict]
    columns += [_nullable(np.clip(values, 0.0, 1.0), ~np.isnan(values)) for values in fused.T.astype(np.float64)]
    return list(zip(range(len(fused)), *columns, strict=True))


def _nullable(values: npt.NDArray[Any], there: npt.NDArray[np.bool_]) -> list[Any]:
    """A column of SQL values: None where there is nothing."""
    plain: list[Any] = values.tolist()
    return plain if there.all() else [value if ok else None for value, ok in zip(plain, there.tolist(), strict=True)]


def _segment_row(segment: Segment) -> db.rows.Segment:
    return db.rows.Segment(
        start_seconds=segment.start_seconds,
        end_seconds=segment.end_seconds,
        emotion=None if segment.label is None else EMOTIONS[segment.label],
        confidence=None if segment.confidence is None else min(1.0, segment.confidence),
        valence=segment.valence,
        arousal=segment.arousal,
    )
