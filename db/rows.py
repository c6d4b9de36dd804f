"""What travels between the store and its callers: small values, one for each kind of row."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True, kw_only=True)
class MediaFacts:
    """What opening a video tells about it; None: not known."""

    recorded_at: datetime | None = None  # aware
    recorded_at_source: str | None = None  # 'container', 'object' or 'file'
    container: str | None = None
    duration_seconds: float | None = None  # as the container states it
    width: int | None = None  # as displayed, pixels
    height: int | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    has_audio: bool | None = None
    has_video: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Video(MediaFacts):
    """One video, at the latest version seen."""

    id: int
    uri: str
    version: str
    size_bytes: int
    current_annotation_id: int | None  # what the views show


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One version of a video under one pipeline."""

    id: int
    video_id: int
    version: str
    pipeline_id: int
    source_annotation_id: int | None  # whose windows were fused anew for this one; None: its own
    status: str  # 'pending', 'planned', 'running', 'done' or 'failed'
    attempts: int
    error_code: str | None
    error_message: str | None
    warning_code: str | None
    warning_message: str | None
    duration_seconds: float | None  # true end, once done

    @property
    def warning(self) -> tuple[str, str] | None:
        """Code and sentence, for what is wrong with it although it is done."""
        return None if self.warning_code is None else (self.warning_code, self.warning_message or "")


@dataclass(frozen=True, kw_only=True)
class PlannedSpan:
    """A stretch of a video, the unit of work."""

    span_index: int
    first_window: int
    last_window: int | None  # exclusive; None: to the true end
    start_seconds: float
    end_seconds: float | None  # None: the true end


@dataclass(frozen=True, kw_only=True)
class Span(PlannedSpan):
    """A span and how far it has come."""

    status: str  # 'pending', 'running', 'done' or 'failed'
    lease_owner: str | None
    epoch: int
    attempts: int
    windows_done: int  # windows stored, from the first one on
    true_end_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class SpanClaim(PlannedSpan):
    """A span that is its owner's for as long as the epoch stands."""

    annotation_id: int
    owner: str
    epoch: int
    attempts: int  # this one included
    windows_done: int  # stored under earlier claims: work may go on at first_window + windows_done


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of the timeline with one emotion; None: neither voice nor face said anything."""

    start_seconds: float
    end_seconds: float
    emotion: str | None
    confidence: float | None
    valence: float | None
    arousal: float | None


@dataclass(frozen=True, kw_only=True)
class Status:
    """The database in figures."""

    videos: int
    annotations: dict[str, int]  # of the videos' latest versions, by status
    failures: dict[str, int]  # as the view `failures` shows them, by code
    annotated_seconds: float  # of the current annotations
    pipelines: dict[str, int]  # annotations that are done, by "name digest"


def columns_of(table: sa.Table, kind: type) -> list[sa.Column[Any]]:
    """The columns of a table that a dataclass has fields for."""
    return [table.c[field.name] for field in fields(kind) if field.name in table.c]
