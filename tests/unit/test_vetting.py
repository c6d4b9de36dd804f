"""The parent believes a child nothing that an honest one could not have said."""

import math
from dataclasses import replace

import numpy as np
import pytest

from worker.limits import Limits
from worker.protocol import End, Picture, Probe, Progress, ProtocolError, ReadRequest, Sound, Unreadable, Voice
from worker.vetting import MAX_GAPS, Vetting

REQUEST = ReadRequest(start_seconds=10.0, end_seconds=20.0, frame_rate_hz=5.0)
LIMITS = Limits(max_seconds=1000.0)
PICTURE = Picture(50, 10.0, 9.9, "face", 1, None, (0.1, 0.1, 0.2, 0.2), 0.99, (1.0,) * 10)
PROBE = Probe(container="mov,mp4", duration_seconds=12.5, has_video=True, width=640, height=360, video_tracks=1)
END = End(20.0, 20.0, None)


def sound(start: int, *values: float) -> Sound:
    return Sound(start, np.array(values or [0.5] * 100, np.float32))


def voice(first: int, *values: float) -> Voice:
    return Voice(first, np.array(values or [0.5] * 3, np.float32))


HONEST = {
    "sound": [sound(160_000), sound(160_100), sound(160_200)],
    "voice": [voice(156), voice(159)],
    "pictures": [PICTURE, replace(PICTURE, grid_index=53, t_seconds=10.6)],
    "progress": [Progress(10.0, 3.0), Progress(9.0)],
    "gaps": [Unreadable("video", 11.0, 12.0), Unreadable("audio", 0.0, 99.0)],
    "end": [END],
    "an end that nobody knows": [End(None, None, None, True)],
    "probe": [PROBE],
    "probe of little": [Probe(container="wav")],
}
DISHONEST = {
    "sound before the span": [sound(159_999)],
    "sound after the span": [sound(320_001)],
    "sound with a gap": [sound(160_000), sound(160_101)],
    "sound twice": [sound(160_000), sound(160_000)],
    "sound that is no number": [sound(160_000, 0.0, math.nan)],
    "sound that is too loud": [sound(160_000, 1.5)],
    "sound at a fraction": [replace(sound(160_000), start_sample=160_000.5)],
    "voice with a gap": [voice(156), voice(160)],
    "voice beyond 1": [voice(156, 1.5)],
    "a picture far away": [replace(PICTURE, grid_index=10**12, t_seconds=2e11)],
    "a picture before the span": [replace(PICTURE, grid_index=49, t_seconds=9.8)],
    "a picture twice": [PICTURE, PICTURE],
    "a picture at another time": [replace(PICTURE, t_seconds=10.1)],
    "a picture at no place": [replace(PICTURE, grid_index="50")],
    "a picture from no time": [replace(PICTURE, source_seconds=math.nan)],
    "a box that is none": [replace(PICTURE, box=(0.0, 0.0, math.inf, 1.0))],
    "a box of words": [replace(PICTURE, box=("a", "b", "c", "d"))],
    "a confidence beyond 1": [replace(PICTURE, confidence=7.0)],
    "a million million faces": [replace(PICTURE, face_count=10**12)],
    "progress to nowhere": [Progress(math.nan)],
    "a gap that ends before it begins": [Unreadable("video", 3.0, 2.0)],
    "gaps without an end": [Unreadable("video", 1.0, 2.0)] * (MAX_GAPS + 1),
    "an end in a million years": [replace(END, duration_seconds=3e13)],
    "an end of words": [replace(END, audio_end_seconds="never")],
    "an end that may be": [replace(END, truncated="perhaps")],
    "a probe with a name of control characters": [replace(PROBE, container="mov\x1b[2J\0")],
    "a probe with a long name": [replace(PROBE, video_codec="x" * 1000)],
    "a probe of too long a recording": [replace(PROBE, duration_seconds=1001.0)],
    "a probe of no length": [replace(PROBE, duration_seconds=math.inf)],
    "a probe of a huge picture": [replace(PROBE, width=10**9)],
    "a probe of no picture": [replace(PROBE, width=0)],
    "a probe that ends before it begins": [replace(PROBE, duration_seconds=-1.0)],
    "a probe with a turn": [replace(PROBE, rotation_degrees=45)],
    "a probe of no day": [replace(PROBE, recorded_at="yesterday")],
    "a probe with many tracks": [replace(PROBE, audio_tracks=10**6)],
    "a probe that may have sound": [replace(PROBE, has_audio="yes")],
}


@pytest.mark.parametrize("case", HONEST)
def test_what_an_honest_child_says_is_believed(case):
    vetting = Vetting(REQUEST, LIMITS)
    for message in HONEST[case]:
        vetting.look_at(message)


@pytest.mark.parametrize("case", DISHONEST)
def test_what_no_honest_child_says_is_not_believed(case):
    vetting = Vetting(REQUEST, LIMITS)
    *before, last = DISHONEST[case]
    for message in before:
        vetting.look_at(message)
    with pytest.raises(ProtocolError):
        vetting.look_at(last)


def test_how_far_it_has_come_is_the_farthest_of_all():
    vetting = Vetting(REQUEST, LIMITS)
    assert vetting.reached_seconds == 0
    vetting.look_at(Progress(10.0, 4.0))
    assert vetting.reached_seconds == 10.0
    vetting.look_at(replace(PICTURE, grid_index=60, t_seconds=12.0))
    vetting.look_at(sound(160_000))
    assert vetting.reached_seconds == 12.0
