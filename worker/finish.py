"""From a video's stored windows to its timeline: adaptation, fusion, smoothing, segments, in one transaction. No media,
no model.

Re-fusing is this, run again.
"""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

import db.rows
from db.errors import LeaseLost, NoStreams, Undecodable
from db.rows import StepClaim
from db.store import Store
from models.adaptation import Adaptation, adapt
from models.calibration import Calibration, calibrate
from models.fusion import Fusion, confidence, fuse
from models.taxonomy import AROUSAL_ROW, EMOTIONS, VALENCE_ROW
from worker.alerts import raised
from worker.collect import ABSENT, UNREADABLE
from worker.recipe import Identity
from worker.timeline import Segment, Smoothing, segments
from worker.windows import WindowPlan

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Finishing:
    """What of a pipeline's configuration makes a timeline of windows."""

    plan: WindowPlan
    adaptation: Adaptation | None
    calibration: Calibration
    fusion: Fusion
    smoothing: Smoothing

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Finishing":
        """From a configuration as `Recipe.config` gives it."""
        kinds = {"plan": WindowPlan, "calibration": Calibration, "fusion": Fusion, "smoothing": Smoothing}
        adaptation = Adaptation(**config["adaptation"]) if config["adaptation"] else None
        return cls(adaptation=adaptation, **{name: kind(**config[name]) for name, kind in kinds.items()})


def register(store: Store, identity: Identity) -> int:
    """Record a pipeline; its id."""
    return store.register_pipeline(identity.digest, identity.windows_digest, identity.name, identity.config)


def finish(
    store: Store,
    annotation_id: int,
    finishing: Finishing,
    duration_seconds: float,
    *,
    provenance: dict[str, Any] | None = None,
    claim: StepClaim | None = None,
    source_annotation_id: int | None = None,
) -> None:
    """Adapt, fuse, smooth and publish an annotation whose spans are all done.

    Args:
        duration_seconds: the video's true length; windows planned beyond it are dropped.
        provenance: device, dtype, batch sizes: what may differ between equal results, besides the version of moodreel.
        claim: the step, where it was claimed.
        source_annotation_id: whose windows are fused, if not its own.

    Raises:
        LeaseLost: the step is no longer the claim's.
    """
    n_windows = finishing.plan.count(duration_seconds)
    audio, video = _sides(store.scores(source_annotation_id or annotation_id)[:n_windows])
    if finishing.adaptation:
        audio = adapt(audio, finishing.adaptation)
    calibration = finishing.calibration
    audio, video = calibrate(audio, calibration.audio_temperature), calibrate(video, calibration.video_temperature)
    fused = fuse(audio, video, finishing.fusion)
    rules = store.rules_for(annotation_id)
    store.finish(
        annotation_id,
        fused_rows(fused),
        [_segment_row(s) for s in segments(fused, finishing.plan, duration_seconds, finishing.smoothing)],
        duration_seconds=duration_seconds,
        keep_windows=n_windows,
        provenance={**(provenance or {}), "moodreel": version("moodreel")},
        claim=claim,
        source_annotation_id=source_annotation_id,
        alerts=raised(fused, finishing.plan, duration_seconds, rules) if rules else (),
    )


def publish(
    store: Store,
    annotation_id: int,
    uri: str,
    finishing: Finishing,
    provenance: dict[str, Any],
    claim: StepClaim | None = None,
) -> bool:
    """Finish a video if all its spans are done; whether they are.

    Args:
        uri: of the video, for messages.
        claim: the finishing, where it was claimed.

    Raises:
        NoStreams, Undecodable: there was nothing in it, or nothing that could be read.
        LeaseLost: the finishing is no longer the claim's.
    """
    spans = store.spans(annotation_id)
    if not spans or any(span.status != "done" for span in spans):
        return False
    duration_seconds = max(span.true_end_seconds or 0.0 for span in spans)
    if duration_seconds <= 0:
        raise NoStreams(f"{uri}: neither sound nor pictures of any length")
    if store.states(annotation_id) <= {ABSENT, UNREADABLE}:
        raise Undecodable(f"{uri}: no part of its sound or pictures could be decoded")
    finish(store, annotation_id, finishing, duration_seconds, provenance=provenance, claim=claim)
    return True


def fuse_anew(store: Store, source_annotation_id: int, identity: Identity) -> int:
    """Make another timeline of a complete annotation's windows, beside the first; its annotation.

    Args:
        source_annotation_id: whose windows; an annotation that was itself fused anew stands for its source.
        identity: of the new pipeline, whose windows are the same.

    Raises:
        ValueError: the pipeline's configuration holds an impossible value.
        LeaseLost: another process is annotating the video with the new pipeline.
    """
    finishing = Finishing.of(identity.config)
    source = store.annotation(source_annotation_id)
    owner_id = source.source_annotation_id or source.id
    asked = store.request(source.video_id, source.version, register(store, identity), owner_id)
    if asked.status != "done":
        if asked.source_annotation_id != owner_id:
            raise LeaseLost("another process is annotating it with this very pipeline; try again when that is done")
        store.begin_attempt(asked.id)
        finish(store, asked.id, finishing, source.duration_seconds or 0.0)
    return asked.id


def fuse_claimed(store: Store, claim: StepClaim, source_annotation_id: int, identity: Identity) -> None:
    """Do as `fuse_anew` does for an annotation whose planning was claimed: its windows need not be planned.

    Nothing but the complete timeline is stored, and that under the claim.

    Raises:
        LeaseLost: the planning is no longer the claim's; nothing is stored.
    """
    finishing = Finishing.of(identity.config)
    duration_seconds = store.annotation(source_annotation_id).duration_seconds or 0.0
    finish(
        *(store, claim.annotation_id, finishing, duration_seconds),
        claim=claim,
        source_annotation_id=source_annotation_id,
    )


def _sides(stored: list[tuple[float | None, ...]]) -> tuple[Rows, Rows]:
    """Voice's and face's probabilities of all windows, (n, 8) float32 each, NaN for NULL."""
    both = np.array(stored, dtype=np.float32).reshape(len(stored), 2 * len(EMOTIONS))
    return both[:, : len(EMOTIONS)], both[:, len(EMOTIONS) :]


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
    columns = [_nullable(values, np.asarray(there)) for values in verdict]
    scores = np.clip(fused.T.astype(np.float64), 0.0, 1.0)
    columns += [_nullable(values, np.asarray(~np.isnan(values))) for values in scores]
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
