"""One span: from the reader's events to the rows of its windows. Knows no database."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any

from db.errors import FAILURES, Internal
from db.identity import Source
from db.rows import MediaFacts, PlannedSpan, SpanClaim
from worker.collect import Gap, PictureWindows, SideWindow, SoundWindows, columns
from worker.frames import ClipWindows
from worker.protocol import End, Event, Picture, Probe, ReadRequest, Sound, Unreadable, Voice
from worker.recipe import Recipe
from worker.recognizers import Recognizers
from worker.windows import WindowPlan


@dataclass(frozen=True)
class SpanResult:
    """What a span has to store.

    Attributes:
        rows: of its windows, in the order of `db.tables.WINDOW_COLUMNS`.
        true_end_seconds: where the video ends, if the span reached it.
        warning: code and sentence, if part of it could not be read.
    """

    rows: list[tuple[Any, ...]]
    true_end_seconds: float | None
    warning: tuple[str, str] | None


def facts(probe: Probe, source: Source) -> MediaFacts:
    """What the container says, in the database's terms; without a date of its own it takes the file's."""
    recorded_at, origin = datetime.fromtimestamp(source.modified_at_seconds, UTC), "file"
    if probe.recorded_at is not None:
        said = datetime.fromisoformat(probe.recorded_at)
        recorded_at, origin = said if said.tzinfo else said.replace(tzinfo=UTC), "container"
    turned = probe.rotation_degrees % 180 != 0
    return MediaFacts(
        recorded_at=recorded_at,
        recorded_at_source=origin,
        container=probe.container,
        duration_seconds=probe.duration_seconds,
        width=probe.height if turned else probe.width,
        height=probe.width if turned else probe.height,
        video_codec=probe.video_codec,
        audio_codec=probe.audio_codec,
        has_audio=probe.has_audio,
        has_video=probe.has_video,
    )


def planned(plan: WindowPlan, probe: Probe) -> list[PlannedSpan]:
    """The spans of a video, from what its container promises."""
    return [
        PlannedSpan(
            span_index=k,
            first_window=span.first_window,
            last_window=span.end_window,
            start_seconds=plan.window(span.first_window).start_seconds,
            end_seconds=None if span.end_window is None else plan.window(span.end_window).start_seconds,
        )
        for k, span in enumerate(plan.spans(probe.duration_seconds, seekable=probe.seekable))
    ]


def read_request(claim: SpanClaim, recipe: Recipe) -> ReadRequest:
    """What must be read for a span: to the end of its last window, which lies beyond the start of the next span."""
    end = None if claim.last_window is None else recipe.plan.window(claim.last_window - 1).end_seconds
    sampling = recipe.sampling
    return ReadRequest(
        start_seconds=claim.start_seconds,
        end_seconds=end,
        frame_rate_hz=sampling.rate_hz,
        face_every=sampling.face_every,
        crop_pixels=sampling.crop_pixels,
        crop_colour=sampling.crop_colour,
        frame_pixels=sampling.frame_pixels,
        frame_short_pixels=sampling.frame_short_pixels,
    )


def annotate_span(events: Iterable[Event], claim: SpanClaim, recipe: Recipe, models: Recognizers) -> SpanResult:
    """Judge a span's windows as its events arrive.

    Raises:
        Internal: the events stop without an `End`.
    """
    sound = SoundWindows(claim.first_window, recipe.plan, recipe.gates, models.submit_audio)
    pictures = _pictures(claim.first_window, recipe, models)
    lost: list[Unreadable] = []
    for event in events:
        match event:
            case Sound():
                sound.add_sound(event)
            case Voice():
                sound.add_voice(event)
            case Picture():
                pictures.add_picture(event)
            case Unreadable():
                lost.append(event)
                (sound if event.stream == "audio" else pictures).gaps.append(
                    Gap(event.start_seconds, event.end_seconds)
                )
            case End():
                return _close(event, claim, recipe, sound, pictures, lost)
    raise Internal("the reader stopped without saying where the span ends")


def _pictures(first_window: int, recipe: Recipe, models: Recognizers) -> PictureWindows | ClipWindows:
    plan, gates, sampling = recipe.plan, recipe.gates, recipe.sampling
    if sampling.n_frames is None:
        return PictureWindows(first_window, plan, gates, sampling.rate_hz, models.submit_face, models.pool)
    return ClipWindows(first_window, plan, gates, sampling, models.submit_clip)


def _close(
    end: End,
    claim: SpanClaim,
    recipe: Recipe,
    sound: SoundWindows,
    pictures: PictureWindows | ClipWindows,
    lost: list[Unreadable],
) -> SpanResult:
    duration = end.duration_seconds
    if claim.last_window is not None:
        # A span in the middle stores all its windows. What an early end of the file leaves of them is unreadable,
        # unless no later span finds anything either: then `finish` drops them.
        last, clip = claim.last_window, None
        if duration is not None:
            for side in (sound, pictures):
                side.gaps.append(Gap(duration, float("inf")))
    else:
        duration = duration or 0.0
        last, clip = max(claim.first_window, recipe.plan.count(duration)), duration
    rows = _rows(claim.first_window, recipe.plan, clip, sound.close(last, clip), pictures.close(last, clip))
    return SpanResult(list(rows), duration, _warning(end, lost))


def _rows(
    first_window: int, plan: WindowPlan, clip_seconds: float | None, voices: list[SideWindow], faces: list[SideWindow]
) -> Iterator[tuple[Any, ...]]:
    for index, voice, face in zip(count(first_window), voices, faces, strict=False):
        window = plan.window(index, clip_seconds)
        yield (
            *(index, window.start_seconds, window.end_seconds, voice.state, face.state),
            *(voice.share, face.share, face.count),
            *columns(voice.row),
            *columns(face.row),
        )


def _warning(end: End, lost: list[Unreadable]) -> tuple[str, str] | None:
    if end.truncated:
        return "truncated", f"The file ends early, after {end.duration_seconds or 0:.1f} s; what is there is annotated."
    if lost:
        where = ", ".join(f"{u.stream} {u.start_seconds:.1f}-{u.end_seconds:.1f} s" for u in lost[:5])
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        return "corrupt_stretch", f"{FAILURES['corrupt_stretch'].meaning} ({where}{more})"
    return None
