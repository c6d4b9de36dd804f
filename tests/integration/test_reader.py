"""Every picture and every piece of sound lies where it should, in clips whose truth is known another way."""

import os
import socket
import struct
import time
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.clips import (
    SOUND_HZ,
    Pictures,
    Track,
    assert_pictures,
    assert_sound,
    board,
    board_reader,
    read,
    sound_at,
    steady,
    write,
)
from worker.lending import Lender
from worker.protocol import Probe, ReadRequest
from worker.read_ahead import ReadAhead
from worker.reader import Reader

AAC_PRIMING_SECONDS = 1024 / SOUND_HZ  # that the AAC encoder puts before the sound
NO_B_FRAMES = {"preset": "ultrafast", "g": "25"}
B_FRAMES = {"preset": "veryfast", "bf": "3", "g": "25"}


@pytest.fixture(scope="module")
def reader():
    with board_reader(threads=2) as reader:
        yield reader


def probe(reader: Reader, path: Path) -> Probe:
    with path.open("rb") as file:
        return reader.probe(file.fileno(), path.name)


@pytest.mark.parametrize("rate_hz", [25, 30, Fraction(30000, 1001), 10, 3])
def test_constant_rate(reader, tmp_path, rate_hz):
    times = [Fraction(n) / rate_hz for n in range(int(4 * rate_hz))]
    pictures = Pictures(times, time_base=1 / Fraction(rate_hz), rate_hz=Fraction(rate_hz), options=NO_B_FRAMES)
    path = write(tmp_path / "a.mp4", pictures, [Track()])
    reading = read(reader, path)
    assert_pictures(reading, times, tolerance=1e-4)
    assert [p.grid_index for p in reading.pictures] == list(range(20))
    assert_sound(reading, 0, 4)
    assert reading.first_sample == 0
    assert reading.end.duration_seconds == pytest.approx(4.0, abs=0.03)
    assert not reading.unreadable
    assert not reading.end.truncated


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("options", [NO_B_FRAMES, B_FRAMES], ids=["plain", "b-frames"])
def test_variable_rate(reader, tmp_path, name, options):
    steps_ms = np.random.default_rng(3).choice([20, 33, 40, 90, 350, 1200], 60)
    times = [Fraction(int(ms), 1000) for ms in np.cumsum(steps_ms) - steps_ms[0]]
    pictures = Pictures(times, time_base=Fraction(1, 1000), options=options)
    path = write(tmp_path / name, pictures, [Track(seconds=float(times[-1]))])
    reading = read(reader, path)
    assert_pictures(reading, times)
    n_points = round(float(times[-1]) * 5)
    assert [p.grid_index for p in reading.pictures][:n_points] == list(range(n_points))
    assert_sound(reading, 0, float(times[-1]))


# Codecs of pictures and sound, what the reader's clock shows at the clip's start, and how truly the format itself
# keeps the time of a picture: AVI counts frames from the first that it was given, MPEG stamps blocks of 2 KB.
CONTAINERS = {
    "a.mp4": ("libx264", "aac", 0.0, 0.002),
    "a.mov": ("mpeg4", "pcm_s16le", 0.0, 0.002),
    "a.mkv": ("libx264", "aac", 0.0, 0.002),
    "a.webm": ("libvpx", "libopus", 0.0, 0.002),
    "a.avi": ("mpeg4", "pcm_s16le", 0.0, 1 / 25 + 0.001),
    "a.flv": ("libx264", "aac", AAC_PRIMING_SECONDS, 0.002),
    "a.ts": ("libx264", "aac", AAC_PRIMING_SECONDS, 0.002),
    "a.mpg": ("mpeg2video", "mp2", 481 / SOUND_HZ, 1 / 25 + 0.001),
    "a.wmv": ("wmv2", "wmav2", 2048 / SOUND_HZ, 0.002),
    "a.mxf": ("mpeg2video", "pcm_s16le", 0.0, 0.002),
}


def clip(tmp_path, name, seconds=4.0, offset=0.0):
    video, audio = CONTAINERS[name][:2]
    options = {"libx264": B_FRAMES, "libvpx": {"deadline": "realtime", "cpu-used": "8"}}
    pictures = Pictures(steady(seconds), codec=video, options=options.get(video, {"g": "12", "b": "2M"}))
    track = Track(codec=audio, seconds=seconds, options={"b": "128k"} if audio == "wmav2" else {})
    return write(tmp_path / name, pictures, [track], offset=offset)


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(reader, tmp_path, name):
    shift, tolerance = CONTAINERS[name][2:]
    reading = read(reader, clip(tmp_path, name))
    assert_pictures(reading, steady(4), shift=shift, tolerance=tolerance)
    assert_sound(reading, 0.1, 3.9, shift=shift)
    assert len(reading.pictures) >= 19
    assert reading.end.duration_seconds == pytest.approx(4.0 + shift, abs=0.1)
    assert not reading.unreadable


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_span_from_the_middle_equals_that_part_of_the_whole(reader, tmp_path, name):
    path = clip(tmp_path, name, seconds=8.0)
    whole = read(reader, path)
    span = read(reader, path, start_seconds=5.0, end_seconds=7.0, warm_up_seconds=1.5)
    assert [p.grid_index for p in span.pictures] == list(range(25, 35))
    of_whole = {p.grid_index: p for p in whole.pictures}
    for mine in span.pictures:
        theirs = of_whole[mine.grid_index]
        assert np.array_equal(mine.crop, theirs.crop)
        assert mine.source_seconds == pytest.approx(theirs.source_seconds, abs=1e-6)
    assert (span.first_sample, len(span.sound)) == (5 * 16000, 2 * 16000)
    assert_sound(span, 5.0, 7.0, shift=CONTAINERS[name][2], tolerance=0.002)
    assert span.first_chunk == 5 * 16000 // 512
    assert len(span.voice) == -(-7 * 16000 // 512) - span.first_chunk
    np.testing.assert_allclose(span.voice, whole.voice[span.first_chunk :][: len(span.voice)], atol=0.03)
    assert span.end.duration_seconds is None
    assert probe(reader, path).seekable


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.mp4"])
def test_a_span_long_after_the_last_key_frame(reader, tmp_path, name):
    pictures = Pictures(steady(14), options={"preset": "ultrafast", "g": "1000", "sc_threshold": "0"})
    path = write(tmp_path / name, pictures, [Track(seconds=14)])
    shift = CONTAINERS[name][2]
    span = read(reader, path, start_seconds=11.0, end_seconds=12.0, warm_up_seconds=1.0)
    assert len(span.pictures) == 5
    assert_pictures(span, steady(14), shift=shift)
    assert_sound(span, 11.0, 12.0, shift=shift)
    assert not span.unreadable


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.mpg"])
def test_start_other_than_zero(reader, tmp_path, name):
    shift, tolerance = CONTAINERS[name][2:]
    path = clip(tmp_path, name, seconds=8.0, offset=1000.0)
    reading = read(reader, path)
    assert_pictures(reading, steady(8), shift=shift, tolerance=tolerance)
    assert_sound(reading, 0.1, 7.9, shift=shift)
    later = read(reader, path, start_seconds=6.0, warm_up_seconds=1.0)
    assert_pictures(later, steady(8), shift=shift, tolerance=tolerance)
    assert later.pictures[0].grid_index == 30
    assert later.end.duration_seconds == pytest.approx(reading.end.duration_seconds, abs=0.003)


def test_edit_list_that_skips_the_beginning(reader, tmp_path):
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    path = write(
        tmp_path / "a.mp4", Pictures(steady(5), options=B_FRAMES), [Track(seconds=5)], offset=-1.0, container=options
    )
    reading = read(reader, path)
    assert reading.numbers[0] == 25
    assert_pictures(reading, steady(5), shift=-1.0)
    assert_sound(reading, 0, 3.9, shift=-1.0)


def test_pictures_that_begin_late(reader, tmp_path):
    times = [t + 1 for t in steady(3)]
    path = write(tmp_path / "a.mkv", Pictures(times), [Track(seconds=4)])
    reading = read(reader, path)
    assert reading.pictures[0].grid_index == 5
    assert_pictures(reading, times)
    assert_sound(reading, 0, 4)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_sound_that_begins_late_and_ends_early(reader, tmp_path, name):
    path = write(tmp_path / name, Pictures(steady(6)), [Track(start=2.0, seconds=2.0)])
    reading = read(reader, path)
    assert_pictures(reading, steady(6))
    assert reading.first_sample == 0
    assert np.abs(reading.sound[: round(1.95 * 16000)]).max() < 0.01
    assert_sound(reading, 2.05, 3.9)
    assert reading.end.audio_end_seconds == pytest.approx(4.0, abs=0.03)
    assert reading.end.duration_seconds == pytest.approx(6.0, abs=0.03)


def test_gaps_in_the_sound_become_silence(reader, tmp_path):
    tracks = [Track(codec="pcm_s16le", seconds=1.5), Track(codec="pcm_s16le", start=2.5, seconds=1.5)]
    first, second = (write(tmp_path / f"{i}.mkv", None, [track]) for i, track in enumerate(tracks))
    path = tmp_path / "gap.mkv"
    join([first, second], path, shifts=[0.0, 0.0])
    reading = read(reader, path)
    assert_sound(reading, 0, 1.5)
    assert_sound(reading, 2.5, 4)
    assert np.abs(reading.sound[round(1.52 * 16000) : round(2.48 * 16000)]).max() < 0.01
    assert not reading.unreadable


def join(paths: list[Path], to: Path, shifts: list[float], repeat: int = 1) -> None:
    """Copy the packets of clips one after another, each shifted by some seconds."""
    with av.open(str(to), "w") as out:
        streams = None
        for path, shift in zip(paths * repeat, shifts, strict=True):
            with av.open(str(path)) as source:
                streams = streams or [out.add_stream_from_template(stream) for stream in source.streams]
                for packet in source.demux():
                    if packet.dts is not None:
                        delta = round(Fraction(shift) / packet.time_base)
                        packet.pts, packet.dts = packet.pts + delta, packet.dts + delta
                        packet.stream = streams[packet.stream_index]
                        out.mux(packet)


@pytest.mark.parametrize(
    ("codec", "layout", "rate_hz"),
    [
        ("aac", "5.1", 48_000),
        ("aac", "mono", 44_100),
        ("pcm_mulaw", "mono", 8_000),
        ("pcm_f32le", "quad", 96_000),
        ("pcm_u8", "stereo", 11_025),
        ("flac", "stereo", 22_050),
        ("ac3", "5.1(side)", 32_000),
        ("pcm_f32le", "mono", 16_000),
    ],
)
def test_layouts_and_rates(reader, tmp_path, codec, layout, rate_hz):
    track = Track(codec=codec, layout=layout, rate_hz=rate_hz, gain=0.5)
    reading = read(reader, write(tmp_path / ("a.wav" if codec.startswith("pcm") else "a.mkv"), None, [track]))
    assert_sound(reading, 0, 3.9)
    assert reading.end.video_end_seconds is None
    loudness = float(np.sqrt((reading.sound[8000:56000] ** 2).mean()))
    assert loudness == pytest.approx(0.5 * 0.8 / 24 * np.sqrt(48 / 2), rel=0.15)


def test_sample_rate_and_layout_that_change_midway(reader, tmp_path):
    parts = [
        write(tmp_path / "0.ts", None, [Track(codec="mp2", rate_hz=48_000, seconds=2)]),
        write(
            tmp_path / "1.ts", None, [Track(codec="mp2", rate_hz=22_050, layout="mono", start=2, seconds=2)], offset=0
        ),
    ]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    reading = read(reader, path)
    assert_sound(reading, 0.1, 1.9, shift=481 / 48_000)
    assert_sound(reading, 2.1, 3.9, shift=481 / 48_000)
    assert reading.end.audio_end_seconds == pytest.approx(4.0, abs=0.1)


def test_timestamps_that_start_again_midway(reader, tmp_path):
    parts = [clip(tmp_path, "a.ts", seconds=4.0)]
    parts.append(write(tmp_path / "b.ts", Pictures(steady(3)), [Track(seconds=3.0)]))
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    reading = read(reader, path)
    assert reading.end.duration_seconds == pytest.approx(7.0, abs=0.1)
    numbers = {p.grid_index: n for p, n in zip(reading.pictures, reading.numbers, strict=True)}
    second = 4.0 + AAC_PRIMING_SECONDS  # where the second part begins
    for index in range(25, 34):
        assert numbers[index] == pytest.approx((index / 5 - second) * 25, abs=2)
    assert not probe(reader, path).seekable


def test_the_default_sound_track_is_read(reader, tmp_path):
    def make_second_default(out, audios):
        audios[0].disposition = av.stream.Disposition(0)
        audios[1].disposition = av.stream.Disposition.default

    tracks = [Track(codec="pcm_s16le", gain=0.0), Track(codec="pcm_s16le", gain=1.0)]
    path = write(tmp_path / "a.mkv", Pictures(steady(4)), tracks, prepare=make_second_default)
    reading = read(reader, path)
    assert_sound(reading, 0, 3.9)
    assert probe(reader, path).audio_tracks == 2


def test_sound_only_with_a_cover_picture(reader, tmp_path):
    def make_cover(stream):
        stream.disposition = av.stream.Disposition.attached_pic

    cover = Pictures([Fraction(0)], codec="mjpeg", pix_fmt="yuvj420p", options={}, prepare=make_cover)
    path = write(tmp_path / "a.mp4", cover, [Track()])
    with av.open(str(path)) as file:
        assert file.streams.video, "the clip has no cover"
    found = probe(reader, path)
    assert (found.has_audio, found.has_video, found.video_tracks) == (True, False, 0)
    reading = read(reader, path)
    assert not reading.pictures
    assert_sound(reading, 0, 3.9)


def test_pictures_only(reader, tmp_path):
    path = write(tmp_path / "a.mp4", Pictures(steady(4)))
    reading = read(reader, path)
    assert_pictures(reading, steady(4))
    assert len(reading.sound) == len(reading.voice) == 0
    assert reading.end.audio_end_seconds is None
    found = probe(reader, path)
    assert (found.has_audio, found.has_video, found.video_codec) == (False, True, "h264")


@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "a.flac", "a.ogg", "a.m4a", "a.aac", "a.aiff"])
def test_sound_files_and_spans_of_them(reader, tmp_path, name):
    codec = {"mp3": "mp3", "wav": "pcm_s16le", "flac": "flac", "ogg": "libopus", "aiff": "pcm_s16be"}
    track = Track(codec=codec.get(name.partition(".")[2], "aac"), seconds=8.0)
    path = write(tmp_path / name, None, [track])
    # A raw AAC stream has no place to say that its first 1024 samples are priming.
    shift = AAC_PRIMING_SECONDS if name == "a.aac" else 0.0
    reading = read(reader, path)
    assert_sound(reading, 0.1, 7.9, shift=shift)
    span = read(reader, path, start_seconds=5.0, end_seconds=7.0, warm_up_seconds=1.5)
    assert_sound(span, 5.0, 7.0, shift=shift)
    assert (span.first_sample, len(span.sound)) == (5 * 16000, 2 * 16000)


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [
        ("ffv1", "yuv444p10le"),
        ("ffv1", "gray16le"),
        ("ffv1", "yuv410p"),
        ("ffv1", "bgr0"),
        ("png", "pal8"),
        ("png", "rgb24"),
        ("png", "rgba64be"),
        ("libx264", "yuvj444p"),
        ("prores_ks", "yuva444p10le"),
        ("mjpeg", "yuvj422p"),
    ],
)
def test_pixel_formats(reader, tmp_path, codec, pix_fmt):
    pictures = Pictures(steady(2), codec=codec, pix_fmt=pix_fmt, options={}, width=190, height=130)
    reading = read(reader, write(tmp_path / ("a.mov" if codec == "png" else "a.mkv"), pictures))
    assert_pictures(reading, steady(2))
    assert len(reading.pictures) == 10


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation(reader, tmp_path, degrees):
    def turned(number, width, height):
        upright = board(number, *((height, width) if degrees % 180 else (width, height)))
        return np.ascontiguousarray(np.rot90(upright, -degrees // 90))

    def prepare(stream):
        stream.set_display_rotation(degrees)

    path = write(tmp_path / "a.mp4", Pictures(steady(2), paint=turned, prepare=prepare))
    assert probe(reader, path).rotation_degrees == degrees
    reading = read(reader, path)
    assert_pictures(reading, steady(2))
    assert reading.pictures[0].box[2:] == ((128, 192) if degrees % 180 else (192, 128))


def test_pixels_that_are_not_square(reader, tmp_path):
    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    path = write(tmp_path / "a.mkv", Pictures(steady(2), prepare=prepare))
    reading = read(reader, path)
    assert_pictures(reading, steady(2))
    assert reading.pictures[0].box[2:] == (384, 128)


def test_large_pictures_come_at_640(reader, tmp_path):
    path = write(tmp_path / "a.mp4", Pictures(steady(1), width=1280, height=720))
    reading = read(reader, path)
    assert_pictures(reading, steady(1))
    assert reading.pictures[0].box[2:] == (640, 360)


def test_size_that_changes_midway(reader, tmp_path):
    parts = [
        write(tmp_path / "0.ts", Pictures(steady(2), width=192, height=128)),
        write(tmp_path / "1.ts", Pictures(steady(2), width=256, height=144), offset=2.0),
    ]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    reading = read(reader, path)
    assert [n for n in reading.numbers if n >= 0] == [n % 50 for n in range(0, 100, 5)]
    assert {p.box[2:] for p in reading.pictures} == {(192, 128), (256, 144)}


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mp4"])
def test_one_stream_after_the_other(reader, tmp_path, name):
    video, audio, _, tolerance = CONTAINERS[name]
    pictures = Pictures(steady(8), codec=video, options={"g": "25"})
    path = write(tmp_path / name, pictures, [Track(codec=audio, seconds=8)], interleave=False)
    reading = read(reader, path)
    assert_pictures(reading, steady(8), tolerance=tolerance)
    assert_sound(reading, 0.1, 7.9)
    span = read(reader, path, start_seconds=4.0, end_seconds=6.0, warm_up_seconds=1.0)
    assert_pictures(span, steady(8), tolerance=tolerance)
    assert_sound(span, 4.0, 6.0)
    assert len(span.pictures) == 10


def test_b_frames_where_the_container_only_counts_frames(reader, tmp_path):
    path = write(tmp_path / "a.avi", Pictures(steady(4), options=B_FRAMES))
    reading = read(reader, path)
    starts = np.array([p.source_seconds for p in reading.pictures])
    late = starts - np.array(reading.numbers) / 25
    assert -1 not in reading.numbers
    assert np.ptp(late) < 1e-6
    assert abs(late[0]) <= 2 / 25  # the encoder's own delay, which AVI cannot express


@pytest.mark.parametrize("n_channels", [1, 3, 7])
def test_sound_whose_channels_have_no_names_and_whose_values_are_no_numbers(reader, tmp_path, n_channels):
    wave = np.tile(sound_at(np.arange(64_000) / 16_000)[:, None], (1, n_channels)).astype("<f4")
    wave[32_000:33_000] = np.nan
    wave[34_000:34_010] = np.inf
    header = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + wave.nbytes, b"WAVE", b"fmt ", 16, 3, n_channels, 16_000,
                         64_000 * n_channels, 4 * n_channels, 32)  # fmt: skip
    path = tmp_path / "a.wav"
    path.write_bytes(header + struct.pack("<4sI", b"data", wave.nbytes) + wave.tobytes())
    reading = read(reader, path)
    assert np.isfinite(reading.sound).all()
    assert np.abs(reading.sound).max() <= 1.0
    assert_sound(reading, 0, 1.9)
    assert_sound(reading, 2.5, 4)


def test_one_look_at_each_frame(reader, tmp_path):
    times = [Fraction(n) for n in range(4)]
    path = write(tmp_path / "a.mp4", Pictures(times, time_base=Fraction(1, 25), options=NO_B_FRAMES))
    reading = read(reader, path)
    assert reading.numbers[:15] == [0] * 5 + [1] * 5 + [2] * 5
    assert [p.source_seconds for p in reading.pictures[:15]] == [0.0] * 5 + [1.0] * 5 + [2.0] * 5


@pytest.fixture(scope="module")
def remembering():
    with board_reader(watcher="tests.clips:RememberingWatcher", threads=2) as reader:
        yield reader


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_what_is_seen_depends_on_no_cut(remembering, tmp_path, name):
    path = clip(tmp_path, name, seconds=8.0)
    whole = {p.grid_index: p.box for p in read(remembering, path).pictures}
    assert [whole[k][0] for k in range(5, 25)] == [1, 2, 3, 4, 5] * 4  # looked at anew each second
    for start, end in ((5.0, 7.0), (5.4, 7.0), (6.8, None), (2.2, 2.6)):
        pictures = read(remembering, path, start_seconds=start, end_seconds=end, warm_up_seconds=0.1).pictures
        assert pictures[0].grid_index == round(start * 5)
        assert [p.box for p in pictures] == [whole[p.grid_index] for p in pictures]


def test_frames_that_stay_on_screen_depend_on_no_cut_either(remembering, tmp_path):
    steps_ms = np.random.default_rng(3).choice([90, 350, 700, 1200, 2500], 40)
    times = [Fraction(int(ms), 1000) for ms in np.cumsum(steps_ms) - steps_ms[0]]
    path = write(tmp_path / "a.mkv", Pictures(times, time_base=Fraction(1, 1000), options=B_FRAMES))
    asked = {"frame_rate_hz": 8.0, "face_every": 2}
    whole = {p.grid_index: (p.state, p.box) for p in read(remembering, path, **asked).pictures}
    assert {state for state, _ in whole.values()} == {"face", "unjudged"}
    for start in np.arange(0.25, 20, 1.625):
        pictures = read(remembering, path, start_seconds=start, end_seconds=start + 3.125, **asked).pictures
        assert len(pictures) == 25
        looked_at = [p for p in pictures if p.grid_index % 2 == 0]
        assert [(p.grid_index, p.box) for p in looked_at] == [(p.grid_index, whole[p.grid_index][1]) for p in looked_at]


def test_spans_of_a_cut_add_up_to_the_whole(reader, tmp_path):
    path = clip(tmp_path, "a.mp4", seconds=9.0)
    whole = read(reader, path)
    parts = [
        read(reader, path, start_seconds=start, end_seconds=end, warm_up_seconds=1.5)
        for start, end in ((0.0, 3.3), (3.3, 6.2), (6.2, None))
    ]
    assert [number for part in parts for number in part.numbers] == whole.numbers
    # the last sample that a resampler gives may be a fraction of one, depending on where it began
    assert abs(sum(len(part.sound) for part in parts) - len(whole.sound)) <= 1
    for part, start, end in zip(parts, (0.0, 3.3, 6.2), (3.3, 6.2, 8.9), strict=True):
        assert_sound(part, start, end, tolerance=0.002)
    assert parts[-1].end.duration_seconds == pytest.approx(whole.end.duration_seconds, abs=0.001)
    assert parts[0].end.duration_seconds is None


def test_probe(reader, tmp_path):
    path = write(
        tmp_path / "a.mp4",
        Pictures(steady(3)),
        [Track(seconds=3)],
        prepare=lambda out, _: out.metadata.update({"creation_time": "2021-03-04T05:06:07Z"}),
    )
    found = probe(reader, path)
    assert found.duration_seconds == pytest.approx(3.0, abs=0.05)
    assert (found.width, found.height, found.frame_rate_hz, found.audio_codec) == (192, 128, 25.0, "aac")
    assert found.recorded_at == "2021-03-04T05:06:07+00:00"
    assert found.container.startswith("mov,mp4")


def test_a_pipe_is_read_from_its_start(reader, tmp_path):
    path = clip(tmp_path, "a.mkv")
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.close(ours)
        with os.fdopen(theirs, "wb") as sink:
            sink.write(path.read_bytes())
        os._exit(0)
    os.close(theirs)
    events = list(reader.read(ours, "pipe", ReadRequest()))
    os.close(ours)
    os.wait()
    assert sum(type(event).__name__ == "Picture" for event in events) == 20


def test_leaving_early_ends_the_child_and_the_next_file_works(tmp_path):
    path = clip(tmp_path, "a.mp4")
    with board_reader() as reader, path.open("rb") as file:
        for _ in reader.read(file.fileno(), "a.mp4", ReadRequest()):
            break
        assert reader.child_pid is None
        assert len(read(reader, path).pictures) == 20


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("interleave", [True, False], ids=["interleaved", "one stream after the other"])
def test_memory_does_not_grow_with_length(reader, tmp_path, interleave):
    short = write(tmp_path / "short.mkv", Pictures(steady(20, 5)), [Track(seconds=20, codec="mp2")])
    path = tmp_path / "long.mkv"
    repeat(short, path, 30, seconds=20, interleave=interleave)
    size = {}
    with path.open("rb") as file:
        for event in reader.read(file.fileno(), path.name, ReadRequest()):
            t_seconds = getattr(event, "t_seconds", None)
            if t_seconds is not None:
                size[t_seconds] = resident_bytes(reader.child_pid)
    early = max(value for t, value in size.items() if 110 < t < 130)
    assert max(size) > 590
    assert max(value for t, value in size.items() if t >= 130) < 1.2 * early


def repeat(path: Path, to: Path, count: int, *, seconds: int, interleave: bool) -> None:
    """Write a clip `count` times in a row, its streams side by side or one after the other."""
    with av.open(str(to), "w") as out, av.open(str(path)) as source:
        streams = [out.add_stream_from_template(stream) for stream in source.streams]
        packets = [p for p in source.demux() if p.dts is not None]
        stamps = [(p.pts, p.dts) for p in packets]
        order = [(i, n) for n in range(count) for i in range(len(packets))]
        if not interleave:
            order.sort(key=lambda item: packets[item[0]].stream_index)
        for i, n in order:
            copy = av.Packet(bytes(packets[i]))
            delta = round(n * seconds / packets[i].time_base)
            copy.pts, copy.dts = stamps[i][0] + delta, stamps[i][1] + delta
            copy.time_base, copy.duration = packets[i].time_base, packets[i].duration
            copy.is_keyframe = packets[i].is_keyframe
            copy.stream = streams[packets[i].stream_index]
            out.mux_one(copy)


def test_the_child_waits_for_a_slow_reader(tmp_path):
    path = clip(tmp_path, "a.mp4", seconds=10.0)
    with board_reader(ring_bytes=1 << 16) as reader, path.open("rb") as file:
        events = reader.read(file.fileno(), "a.mp4", ReadRequest())
        next(events)
        time.sleep(1.0)
        assert reader.child_pid is not None
        state = Path(f"/proc/{reader.child_pid}/status").read_text()
        assert "State:\tS" in state  # it sleeps in its blocked send rather than piling up what it has
        n_ready = sum(1 for _ in events)
        assert n_ready > 60


@pytest.mark.parametrize("is_lent", [False, True], ids=["file", "lent"])
def test_the_child_waits_although_new_sockets_have_a_timeout_as_while_celery_shuts_down(tmp_path, is_lent):
    path = clip(tmp_path, "a.mp4")
    content = path.read_bytes()

    def fetch(offset: int, length: int) -> Generator[bytes, None, None]:
        time.sleep(0.3)
        yield content[offset : offset + length]

    descriptor = os.open(path, os.O_RDONLY)
    socket.setdefaulttimeout(0.1)
    try:
        with Reader() as reader, ReadAhead(fetch, len(content)) as distant:
            for _ in range(2):
                assert reader.probe(Lender(distant) if is_lent else descriptor, "a.mp4").has_video
                time.sleep(0.3)  # in which the child waits for a job
    finally:
        socket.setdefaulttimeout(None)
        os.close(descriptor)
