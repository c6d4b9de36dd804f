"""What the decoder is spared changes nothing: the same pictures, to the byte, with fewer frames decoded."""

import contextlib
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.clips import Pictures, Track, board, number_on, steady, write
from worker.decoder import SpanReader, Tools
from worker.decoder_media import Media
from worker.decoder_open import DescriptorFile
from worker.decoder_skip import MAX_STEP_SECONDS
from worker.decoder_video import PictureTrack
from worker.protocol import End, Event, Picture, Progress, ReadRequest, Unreadable

SECONDS = 6
VARIABLE = [Fraction(int(ms), 1000) for ms in np.cumsum(np.random.default_rng(3).choice([20, 33, 40, 90, 350], 90))]
X265 = {"preset": "veryfast", "x265-params": "log-level=none:keyint=60"}
MEDIUM = {"preset": "medium", "g": "60"}  # three frames between references, one of them a reference itself
NO_PYRAMID = MEDIUM | {"bf": "2", "b-pyramid": "none"}
OPEN = MEDIUM | {"x264-params": "open-gop=1:keyint=30:scenecut=0"}
FIELDS = MEDIUM | {"x264-params": "tff=1"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "16", "auto-alt-ref": "1"}

# Container, codec, its options, the times of its frames, and the share of them that is decoded at most.
CLIPS = {
    "mp4": ("a.mp4", "libx264", MEDIUM, steady(SECONDS), 0.75),
    "mov": ("a.mov", "libx264", NO_PYRAMID, steady(SECONDS), 0.75),
    "matroska": ("a.mkv", "libx264", MEDIUM, steady(SECONDS), 0.75),
    "flv": ("a.flv", "libx264", MEDIUM, steady(SECONDS), 0.75),
    "transport stream": ("a.ts", "libx264", MEDIUM, steady(SECONDS), 0.75),
    "open groups": ("a.mp4", "libx264", OPEN, steady(SECONDS), 0.75),
    "variable": ("a.mp4", "libx264", MEDIUM, VARIABLE, 0.9),
    "variable matroska": ("a.mkv", "libx264", MEDIUM, VARIABLE, 0.9),
    "hevc": ("a.mp4", "libx265", X265, steady(SECONDS), 0.75),
    "hevc matroska": ("a.mkv", "libx265", X265, steady(SECONDS), 0.75),
    "hevc variable": ("a.mp4", "libx265", X265, VARIABLE, 0.9),
    "references only": ("a.mp4", "libx264", MEDIUM | {"bf": "0"}, steady(SECONDS), 1),
    "interlaced": ("a.mp4", "libx264", FIELDS, steady(SECONDS), 1),
    "hevc without a record": ("a.ts", "libx265", X265, steady(SECONDS), 1),
    "mpeg4": ("a.mp4", "mpeg4", {"bf": "2"}, steady(SECONDS), 1),
    "counted": ("a.avi", "libx264", MEDIUM, steady(SECONDS), 1),
    "vp9": ("a.mkv", "libvpx-vp9", VP9, steady(SECONDS), 1),
}


def busy(number: int, width: int, height: int) -> np.ndarray:
    """A board with a grain that stays while the number changes, so that encoders find something to predict."""
    grain = np.random.default_rng(1).integers(0, 40, (height, width, 1), np.uint8)
    return board(number, width, height) + np.roll(grain, number, axis=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    made = {}

    def make(name: str) -> Path:
        if name not in made:
            file, codec, options, times, _ = CLIPS[name]
            base = Fraction(1, 1000 if times is VARIABLE else 25)
            pictures = Pictures(times, codec=codec, time_base=base, options=options, paint=busy)
            made[name] = write(tmp_path_factory.mktemp("clip") / file, pictures, [Track(seconds=float(times[-1]))])
        return made[name]

    return make


def events_of(path: Path, **request: object) -> tuple[list[Event], PictureTrack]:
    """What the child would say of a span, and the track of pictures that it had."""
    tools = Tools("tests.clips:LoudListener", "tests.clips:BoardWatcher", 2)
    with path.open("rb") as file, contextlib.closing(Media(DescriptorFile(file.fileno()), 2)) as media:
        reader = SpanReader(media, ReadRequest(frame_pixels=128, **request), tools)
        events = [event for event in reader.events() if not isinstance(event, Progress)]
        (track,) = (r.track for r in reader._readers.values() if isinstance(r.track, PictureTrack))
    return events, track


def plain(events: list[Event], *, pictures: bool) -> list[tuple]:
    """Events of the pictures or of the rest, to the byte."""
    chosen = [e for e in events if pictures == (isinstance(e, Picture) or getattr(e, "stream", "") == "video")]
    return [
        (type(event), *(hash(v.tobytes()) if isinstance(v, np.ndarray) else v for v in vars(event).values()))
        for event in chosen
    ]


@pytest.fixture
def compare(monkeypatch):
    """Reads a span with every frame decoded and as usual; returns the usual events, and both counts of frames."""

    def compare(path: Path, **request: object) -> tuple[list[Event], int, int]:
        with monkeypatch.context() as patch:
            patch.setattr("worker.decoder_skip._judge", lambda stream: None)
            expected, all_frames = events_of(path, **request)
        events, frames = events_of(path, **request)
        for pictures in (True, False):
            assert plain(events, pictures=pictures) == plain(expected, pictures=pictures)
        assert frames.frames_converted == all_frames.frames_converted
        return events, frames.frames_decoded, all_frames.frames_decoded

    return compare


@pytest.mark.parametrize("name", CLIPS)
def test_the_same_with_fewer_frames(clip, compare, name):
    events, decoded, of = compare(clip(name))
    assert sum(isinstance(event, Picture) for event in events) >= 5 * SECONDS - 1
    most = CLIPS[name][4]
    assert decoded == of if most == 1 else decoded <= most * of, f"{decoded} of {of} frames were decoded"


@pytest.mark.parametrize(
    "request_",
    [
        {"start_seconds": 1.3, "end_seconds": 3.7, "warm_up_seconds": 0.5},
        {"start_seconds": 3.0, "warm_up_seconds": 1.0},
        {"frame_rate_hz": 16.0},
        {"frame_rate_hz": 0.7, "end_seconds": 4.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["mp4", "transport stream", "open groups", "variable matroska", "hevc"])
def test_odd_spans_and_rates(clip, compare, name, request_):
    events, decoded, of = compare(clip(name), **request_)
    assert any(isinstance(event, Picture) for event in events)
    assert decoded < of


def test_where_every_frame_is_looked_at_each_is_decoded(clip, compare):
    _, decoded, of = compare(clip("mp4"), frame_rate_hz=50.0)
    assert decoded == of == SECONDS * 25


def test_timestamps_that_start_again(clip, compare, tmp_path):
    path = tmp_path / "twice.ts"
    path.write_bytes(clip("transport stream").read_bytes() * 2)
    events, decoded, of = compare(path)
    assert events[-1].duration_seconds > 2 * SECONDS - 0.5
    assert 0 < of - decoded < SECONDS * 25 / 2


def leap(path: Path, to: Path, after: int, seconds: float) -> Path:
    """Copy a clip whose pictures come on later from the packet `after` on."""
    with av.open(str(path)) as source, av.open(str(to), "w") as out:
        video = source.streams.video[0]
        stream = out.add_stream_from_template(video)
        for number, packet in enumerate(p for p in source.demux(video) if p.size):
            shift = round(seconds / packet.time_base) if number >= after else 0
            packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
            out.mux(packet)
    return to


def test_a_leap_ends_it(clip, compare, tmp_path):
    path = leap(clip("mp4"), tmp_path / "leap.mp4", 60, 2 * MAX_STEP_SECONDS)
    _, decoded, of = compare(path)
    assert 0 < of - decoded < 60 / 2


def slices(path: Path) -> list[tuple[float, int, bool]]:
    """Of each packet of pictures: its time, its place in the file, and whether others are made from it."""
    with av.open(str(path)) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        return [(float(p.pts * p.time_base), p.pos, bool(bytes(p)[4] & 0x60)) for p in packets]


def broken(path: Path, to: Path, *, near_seconds: float, is_reference: bool) -> Path:
    """Copy a clip, with noise in one packet that is not looked at: all of its first unit but the header."""
    packets = slices(path)
    hidden = [
        one
        for number, one in enumerate(packets)
        if any(one[0] < before[0] and points_before(one[0]) == points_before(before[0]) for before in packets[:number])
    ]
    _, start, _ = next(one for one in hidden if one[0] > near_seconds and one[2] == is_reference)
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[start : start + 4])
    content[start + 8 : start + 4 + length] = np.random.default_rng(1).integers(0, 256, length - 4, np.uint8).tobytes()
    to.write_bytes(content)
    return to


def points_before(t_seconds: float) -> int:
    return math.ceil(t_seconds * 5 - 1e-5)


def test_damage_to_what_nobody_looks_at_costs_nothing(clip, tmp_path):
    whole, _ = events_of(clip("mp4"))
    path = broken(clip("mp4"), tmp_path / "broken.mp4", near_seconds=2.5, is_reference=False)
    events, _ = events_of(path)
    assert plain(events, pictures=True) == plain(whole, pictures=True)


def test_damage_to_what_others_are_made_from_is_still_told(clip, tmp_path):
    path = broken(clip("mp4"), tmp_path / "broken.mp4", near_seconds=2.5, is_reference=True)
    events, _ = events_of(path)
    (lost,) = (event for event in events if isinstance(event, Unreadable))
    assert 2.2 < lost.start_seconds < 2.8 < lost.end_seconds
    shown = [event for event in events if isinstance(event, Picture)]
    assert not [p for p in shown if lost.start_seconds < p.t_seconds < lost.end_seconds]
    assert [number_on(p.crop) for p in shown] == [round(p.source_seconds * 25) for p in shown]
    assert isinstance(events[-1], End)
