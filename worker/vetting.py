"""What the parent believes of what a decoding child says: only what an honest child could have said of the span.

`worker.channel` has seen to it that messages have the right fields and arrays; here their values and their order are
looked at, since rows are made of them. A child that was taken over can still lie about what is in its file, and about
nothing else: it cannot make the parent count to a billion, or store what is no number.
"""

import math
from datetime import datetime

from worker.limits import Limits
from worker.protocol import (
    SAMPLE_RATE_HZ,
    End,
    FloatArray,
    Message,
    Picture,
    Probe,
    Progress,
    ProtocolError,
    ReadRequest,
    Sound,
    Unreadable,
    Voice,
)

MAX_GAPS = 100_000  # unreadable stretches in one span
MAX_TEXT = 200  # characters of a codec's or a container's name
MAX_SIDE = 1 << 20  # pixels
SLACK_SECONDS = 3600.0  # by which a recording's end may lie behind the last frame that was shown

_TURNS = (0, 90, 180, 270)


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise ProtocolError(complaint)


def _is_number(value: object, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether a value is a finite number within bounds."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value) and least <= value <= most  # type: ignore[arg-type, operator]


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()


def _lie_within(values: FloatArray, least: float, most: float) -> bool:
    """Whether all values do; a NaN does not."""
    return not values.size or bool(least <= values.min() and values.max() <= most)


class Vetting:
    """Looks at the messages of one job, in their order.

    Args:
        request: what was asked for; None: a probe.
        limits: on the recording's length.

    Attributes:
        reached_seconds: how far in the recording the child has come.
    """

    def __init__(self, request: ReadRequest | None, limits: Limits) -> None:
        self._limits, self._request = limits, request or ReadRequest()
        self._end_seconds = limits.max_seconds + SLACK_SECONDS
        if self._request.end_seconds is not None:
            self._end_seconds = min(self._end_seconds, self._request.end_seconds)
        self._next_sample, self._next_chunk, self._next_point = (-1, -1, -1)
        self._n_gaps = 0
        self.reached_seconds = 0.0

    def look_at(self, message: Message) -> None:
        """See whether a message may come here.

        Raises:
            ProtocolError: no honest child would send it.
        """
        match message:
            case Sound():
                self._sound(message)
            case Voice():
                self._voice(message)
            case Picture():
                self._picture(message)
            case Unreadable():
                self._unreadable(message)
            case Progress():
                told = (message.t_seconds, message.reached_seconds)
                _require(all(map(_is_number, told)), f"no progress: {told}")
                self._reach(*told)
            case End():
                self._end(message)
            case Probe():
                self._probe(message)

    def _reach(self, *seconds: float) -> None:
        self.reached_seconds = max(self.reached_seconds, *seconds)

    def _sound(self, sound: Sound) -> None:
        least = round(self._request.start_seconds * SAMPLE_RATE_HZ) if self._next_sample < 0 else self._next_sample
        most = round(self._end_seconds * SAMPLE_RATE_HZ) - len(sound.samples)
        if self._next_sample >= 0:
            most = min(most, self._next_sample)
        _require(_is_whole(sound.start_sample, least, most), f"sound at another place: {sound.start_sample}")
        _require(_lie_within(sound.samples, -1.0, 1.0), "samples beyond -1..1")
        self._next_sample = sound.start_sample + len(sound.samples)
        self._reach(self._next_sample / SAMPLE_RATE_HZ)

    def _voice(self, voice: Voice) -> None:
        least, most = 0, 1 << 48
        if self._next_chunk >= 0:
            least = most = self._next_chunk
        _require(_is_whole(voice.first_chunk, least, most), f"voice at another place: {voice.first_chunk}")
        _require(_lie_within(voice.probabilities, 0.0, 1.0), "probabilities beyond 0..1")
        self._next_chunk = voice.first_chunk + len(voice.probabilities)

    def _picture(self, picture: Picture) -> None:
        rate_hz = self._request.frame_rate_hz
        first = math.floor(self._request.start_seconds * rate_hz)
        last = math.ceil(self._end_seconds * rate_hz)
        place = picture.grid_index
        _require(_is_whole(place, max(first, self._next_point), last), f"a picture at another place: {place}")
        self._next_point = place + 1
        times = (picture.t_seconds, picture.source_seconds)
        _require(all(map(_is_number, times)), f"a picture at no time: {times}")
        _require(abs(picture.t_seconds - place / rate_hz) < 1e-6, f"a picture beside the grid: {picture.t_seconds}")
        measures = (*(picture.box or ()), *(picture.landmarks or ()))
        _require(all(map(_is_number, measures)), f"no measures of a face: {measures}")
        _require(picture.confidence is None or _is_number(picture.confidence, 0.0, 1.0), "a confidence beyond 0..1")
        _require(_is_whole(picture.face_count, 0, 1_000_000), f"no count of faces: {picture.face_count}")
        self._reach(picture.t_seconds)

    def _unreadable(self, gap: Unreadable) -> None:
        self._n_gaps += 1
        _require(self._n_gaps <= MAX_GAPS, f"more than {MAX_GAPS} unreadable stretches")
        place = (gap.start_seconds, gap.end_seconds)
        _require(all(map(_is_number, place)) and place[0] <= place[1], f"an unreadable stretch at no place: {place}")

    def _end(self, end: End) -> None:
        most = self._limits.max_seconds + SLACK_SECONDS
        told = (end.audio_end_seconds, end.video_end_seconds, end.duration_seconds)
        _require(all(one is None or _is_number(one, -most, most) for one in told), f"no end: {told}")
        _require(isinstance(end.truncated, bool), "an end that is neither whole nor truncated")

    def _probe(self, probe: Probe) -> None:
        most = self._limits.max_seconds
        names = (probe.container, *(one for one in (probe.audio_codec, probe.video_codec) if one is not None))
        _require(all(map(_is_name, names)), "a name that is none")
        lengths = (probe.duration_seconds, probe.frame_rate_hz)
        _require(all(one is None or _is_number(one, 0.0) for one in lengths), f"no numbers: {lengths}")
        _require(probe.duration_seconds is None or probe.duration_seconds <= most, "a longer recording than is allowed")
        sides = (probe.width, probe.height)
        _require(all(one is None or _is_whole(one, 1, MAX_SIDE) for one in sides), f"no size: {sides}")
        tracks = (probe.audio_tracks, probe.video_tracks)
        _require(all(_is_whole(one, 0, self._limits.max_streams) for one in tracks), f"no count of tracks: {tracks}")
        flags = (probe.seekable, probe.has_audio, probe.has_video)
        _require(all(isinstance(one, bool) for one in flags), f"neither true nor false: {flags}")
        _require(probe.rotation_degrees in _TURNS, f"no turn: {probe.rotation_degrees}")
        if probe.recorded_at is not None:
            _require(_is_date(probe.recorded_at), "a date that is none")


def _is_date(value: object) -> bool:
    try:
        datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


__all__ = ["MAX_GAPS", "Vetting"]
