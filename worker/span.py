"""One span: from the reader's events to the rows of its windows. Knows no database."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from db.errors import FAILURES, Internal
from db.identity import ObjectName, Source
from db.rows import MediaFacts, PlannedSpan, SpanClaim
from worker.collect import NEVER, Gap, PictureWindows, SideWindow, SoundWindows, columns
from worker.frames import ClipWindows
from worker.protocol import End, Event, Picture, Probe, ReadRequest, Sound, Unreadable, Voice
from worker.recipe import Recipe
from worker.recognizers import Recognizers
from worker.windows import WindowPlan

CHECKPOINT_WINDOWS = 120  # that wait to be stored, at most, while both sides advance


def facts(probe: Probe, source: Source) -> MediaFacts:
    """What the container says, in the database's terms; without a date of its own it takes the object's or file's."""
    recorded_at = datetime.fromtimestamp(source.modified_at_seconds, UTC)
    origin = "file" if ObjectName.of(source.uri) is None else "object"
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


class SpanRun:
    """Judges a span's windows as its events arrive.

    Windows that are settled are handed out every `CHECKPOINT_WINDOWS`, so that memory does not grow with the span.

    Args:
        claim: the span.
        recipe: what is computed.
        models: judge sound and pictures.
        has_audio, has_video: which streams there are.
    """

    def __init__(
        self, claim: SpanClaim, recipe: Recipe, models: Recognizers, *, has_audio: bool, has_video: bool
    ) -> None:
        self._claim, self._plan, self._first = claim, recipe.plan, claim.first_window
        start, sampling = (claim.first_window, recipe.plan, recipe.gates), recipe.sampling
        self._sound = SoundWindows(*start, models.submit_audio, present=has_audio)
        self._pictures: PictureWindows | ClipWindows
        if sampling.n_frames is None:
            self._pictures = PictureWindows(
                *start, sampling.rate_hz, models.submit_face, models.pool, present=has_video
            )
        else:
            self._pictures = ClipWindows(*start, sampling, models.submit_clip, present=has_video)
        self._lost: list[Unreadable] = []
        self._end: End | None = None

    def rows(self, events: Iterable[Event]) -> Iterator[list[tuple[Any, ...]]]:
        """The span's windows, in runs, in the order of `db.tables.WINDOW_COLUMNS`.

        Raises:
            Internal: the events stop without an `End`.
        """
        for event in events:
            self._add(event)
            settled = min(self._sound.settled, self._pictures.settled, self._claim.last_window or NEVER)
            if NEVER > settled >= self._first + CHECKPOINT_WINDOWS:
                yield self._rows(self._sound.take(settled), self._pictures.take(settled), None)
        yield self._rest()

    def _add(self, event: Event) -> None:
        match event:
            case Sound():
                self._sound.add_sound(event)
            case Voice():
                self._sound.add_voice(event)
            case Picture():
                self._pictures.add_picture(event)
            case Unreadable():
                self._lost.append(event)
                side = self._sound if event.stream == "audio" else self._pictures
                side.gaps.append(Gap(event.start_seconds, event.end_seconds))
            case End():
                self._end = event

    def _rest(self) -> list[tuple[Any, ...]]:
        if self._end is None:
            raise Internal("the reader stopped without saying where the span ends")
        duration, last = self._end.duration_seconds, self._claim.last_window
        if last is None:
            duration = duration or 0.0
            return self._close(max(self._first, self._plan.count(duration)), duration)
        if duration is None:
            return self._close(last, None)
        # A span in the middle stores all its windows. What an early end of the file leaves of them is unreadable,
        # unless no later span finds anything either: then `finish` drops them.
        begun = min(last, max(self._first, -(-round(duration * 1000) // self._plan.hop_ms)))
        rows = self._close(begun, duration)
        for side in (self._sound, self._pictures):
            side.gaps.append(Gap(duration, float("inf")))
        return rows + self._close(last, None)

    def _close(self, end_window: int, clip_seconds: float | None) -> list[tuple[Any, ...]]:
        sides = (self._sound.close(end_window, clip_seconds), self._pictures.close(end_window, clip_seconds))
        return self._rows(*sides, clip_seconds)

    def _rows(
        self, voices: list[SideWindow], faces: list[SideWindow], clip_seconds: float | None
    ) -> list[tuple[Any, ...]]:
        first, self._first = self._first, self._first + len(voices)
        return [
            (
                *(index, window.start_seconds, window.end_seconds, voice.state, face.state),
                *(voice.share, face.share, face.count),
                *columns(voice.row),
                *columns(face.row),
            )
            for index, (voice, face) in enumerate(zip(voices, faces, strict=True), first)
            for window in (self._plan.window(index, clip_seconds),)
        ]

    @property
    def true_end_seconds(self) -> float | None:
        """Where the video ends, if the span reached its end."""
        if self._end is None or self._claim.last_window is not None:
            return self._end.duration_seconds if self._end else None
        return self._end.duration_seconds or 0.0

    @property
    def warning(self) -> tuple[str, str] | None:
        """Code and sentence, if part of the span could not be read."""
        return _warning(self._end, self._lost) if self._end else None


def _warning(end: End, lost: list[Unreadable]) -> tuple[str, str] | None:
    said = []
    if end.truncated:
        said.append(f"The file ends early, after {end.duration_seconds or 0:.1f} s; what is there is annotated.")
    if lost:
        where = ", ".join(f"{u.stream} {u.start_seconds:.1f}-{u.end_seconds:.1f} s" for u in lost[:5])
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        said.append(f"{FAILURES['corrupt_stretch'].meaning} ({where}{more})")
    return ("truncated" if end.truncated else "corrupt_stretch", " ".join(said)) if said else None
