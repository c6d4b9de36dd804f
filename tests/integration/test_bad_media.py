"""Files that are no media, are damaged, or take the decoder down: the right error, and the next file works."""

import os
import signal
import socket
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from db import errors
from tests.clips import INSPECTABLE, Pictures, Track, assert_pictures, assert_sound, board_reader, read, steady, write
from worker.channel import Channel
from worker.protocol import End, Picture, ProtocolError, ReadRequest


@pytest.fixture(scope="module")
def reader():
    with board_reader() as reader:
        yield reader


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    """An MP4 whose index stands at its end."""
    return whole_clip(tmp_path_factory.mktemp("good") / "good.mp4")


@pytest.fixture(scope="module")
def indexed_first(tmp_path_factory) -> bytes:
    """An MP4 whose index stands at its start."""
    return whole_clip(tmp_path_factory.mktemp("good") / "good.mp4", {"movflags": "faststart"})


def whole_clip(path: Path, container: dict[str, str] | None = None, seconds: float = 8.0) -> bytes:
    pictures = Pictures(steady(seconds), options={"preset": "ultrafast", "g": "25"})
    return write(path, pictures, [Track(seconds=seconds)], container=container).read_bytes()


def image(codec: str, pix_fmt: str) -> bytes:
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt, context.time_base = 64, 64, pix_fmt, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8)).reformat(format=pix_fmt)
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


NOT_MEDIA = {
    "text": b"dear diary, " * 500,
    "zeros": bytes(100_000),
    "one byte": b"x",
    "noise": np.random.default_rng(5).integers(0, 256, 50_000, np.uint8).tobytes(),
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "zip": b"PK\x03\x04" + bytes(range(256)) * 20,
    "script": b"#!/bin/sh\necho hello\n" * 50,
}


@pytest.mark.parametrize("content", NOT_MEDIA.values(), ids=NOT_MEDIA.keys())
def test_what_is_no_media(reader, tmp_path, content):
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    with pytest.raises((errors.NotMedia, errors.Undecodable), match=r"film\.mp4") as caught:
        read(reader, path)
    assert isinstance(caught.value, errors.NotMedia) or content in (NOT_MEDIA["noise"], NOT_MEDIA["zeros"])
    assert caught.value.permanent


def test_empty_file(reader, tmp_path):
    path = tmp_path / "film.mp4"
    path.touch()
    with pytest.raises(errors.EmptyFile, match=r"film\.mp4"):
        read(reader, path)
    with pytest.raises(errors.EmptyFile), path.open("rb") as file:
        reader.probe(file.fileno(), path.name)


def test_folder(reader, tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(errors.NotReadable):
        reader.probe(descriptor, "folder.mp4")
    os.close(descriptor)


@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("mjpeg", "yuvj420p"), ("png", "rgb24"), ("bmp", "bgr24"), ("gif", "rgb8")]
)
def test_images(reader, tmp_path, codec, pix_fmt):
    path = tmp_path / "film.mp4"
    content = image(codec, pix_fmt)
    path.write_bytes(content if codec != "gif" else b"GIF89a" + content)
    with pytest.raises(errors.ImageNotVideo, match=r"film\.mp4"):
        read(reader, path)


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:8\n#EXTINF:8,\n{uri}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{uri}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet>'
    "<Representation><BaseURL>{uri}</BaseURL></Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_nothing(reader, tmp_path, good, kind):
    """The playlist points at a named pipe: a reader that opened it would leave its writer connected."""
    (tmp_path / "secret.mp4").write_bytes(good)
    bait = tmp_path / "bait.mp4"
    os.mkfifo(bait)
    for target in (tmp_path / "secret.mp4", bait, f"file://{bait}"):
        path = tmp_path / "film.mp4"
        path.write_text(PLAYLISTS[kind].format(uri=target))
        with pytest.raises(errors.NotMedia):
            read(reader, path)
    with pytest.raises(OSError, match="No such device"):  # ENXIO: nobody has it open for reading
        os.open(bait, os.O_WRONLY | os.O_NONBLOCK)


def test_index_missing(reader, tmp_path, good):
    path = tmp_path / "film.mp4"
    path.write_bytes(good[: good.index(b"moov") - 4])
    with pytest.raises(errors.Truncated, match=r"film\.mp4"):
        read(reader, path)
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(errors.Truncated):
        read(reader, path)


def test_index_damaged(reader, tmp_path, good):
    start = good.index(b"moov") + 4
    path = tmp_path / "film.mp4"
    path.write_bytes(good[:start] + b"\xff" * 64 + good[start + 64 :])
    with pytest.raises(errors.InputError, match=r"film\.mp4") as caught:
        read(reader, path)
    assert caught.value.code in ("undecodable", "no_streams", "truncated")


def test_nothing_but_an_index(reader, tmp_path, indexed_first):
    path = tmp_path / "film.mp4"
    path.write_bytes(indexed_first[: indexed_first.index(b"mdat") + 8])
    with pytest.raises(errors.Truncated, match=r"film\.mp4"):
        read(reader, path)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.avi"])
def test_cut_off_midway(reader, tmp_path, indexed_first, name):
    path = tmp_path / name
    content = indexed_first
    if name == "film.mkv":
        content = whole_clip(path)
    if name == "film.avi":
        write(
            path,
            Pictures(steady(8), codec="mjpeg", pix_fmt="yuvj420p", options={}),
            [Track(codec="pcm_s16le", seconds=8)],
        )
        content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    reading = read(reader, path)
    assert reading.end.truncated
    assert 1.0 < reading.end.duration_seconds < 7.0
    assert_pictures(reading, steady(8), tolerance=1 / 25 + 0.001 if name == "film.avi" else 0.002)
    assert_sound(reading, 0.1, reading.end.audio_end_seconds - 0.1)
    assert len(reading.pictures) >= 5 * (reading.end.video_end_seconds - 1.5)


def test_a_span_planned_beyond_where_the_file_was_cut_off(reader, tmp_path, indexed_first):
    path = tmp_path / "film.mp4"
    path.write_bytes(indexed_first[: len(indexed_first) // 2])
    whole = read(reader, path)
    span = read(reader, path, start_seconds=7.0, warm_up_seconds=1.0)
    assert not span.pictures
    assert len(span.sound) == 0
    assert span.end.truncated
    assert span.end.duration_seconds == pytest.approx(whole.end.duration_seconds, abs=0.05)


def test_a_whole_file_is_not_called_truncated(reader, tmp_path, good, indexed_first):
    path = tmp_path / "film.mp4"
    for content in (good, indexed_first):
        path.write_bytes(content)
        assert not read(reader, path).end.truncated


def damage(content: bytes, share: float, length: int) -> bytes:
    start = round(len(content) * share)
    noise = np.random.default_rng(1).integers(0, 256, length, np.uint8).tobytes()
    return content[:start] + noise + content[start + length :]


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts"])
def test_a_damaged_stretch_keeps_what_lies_before_and_after(reader, tmp_path, name):
    path = tmp_path / name
    content = whole_clip(path, seconds=12.0)
    path.write_bytes(damage(content, 0.45, len(content) // 12))
    reading = read(reader, path)
    lost = [gap for gap in reading.unreadable if gap.stream == "video"]
    assert lost, "nothing is said of the damage"
    start, end = min(gap.start_seconds for gap in lost), max(gap.end_seconds for gap in lost)
    assert 3.0 < start < 6.5
    assert 5.0 < end < 9.0
    shift = 1024 / 48_000 if name == "film.ts" else 0.0
    assert_pictures(reading, steady(12), shift=shift)
    for gap in lost:  # nothing is shown where nothing can be known
        assert not [p for p in reading.pictures if gap.start_seconds + 0.01 < p.t_seconds < gap.end_seconds - 0.01]
    shown = len(reading.pictures) / 5
    assert shown > 12 - sum(gap.end_seconds - gap.start_seconds for gap in lost) - 0.5
    assert_sound(reading, 0.1, start - 0.6, shift=shift)
    assert_sound(reading, end + 0.6, 11.9, shift=shift)
    assert any(gap.stream == "audio" for gap in reading.unreadable)
    assert reading.end.duration_seconds == pytest.approx(12.0, abs=0.1)


def test_a_span_that_begins_after_the_damage_is_whole(reader, tmp_path):
    path = tmp_path / "film.mp4"
    content = whole_clip(path, seconds=12.0)
    path.write_bytes(damage(content, 0.3, len(content) // 12))
    span = read(reader, path, start_seconds=9.0, end_seconds=11.0, warm_up_seconds=1.0)
    assert len(span.pictures) == 10
    assert_sound(span, 9.0, 11.0)
    assert not span.unreadable


def test_streams_of_no_length(reader, tmp_path):
    for name, arguments in {"both": (Pictures([]), [Track(seconds=0)]), "sound": (None, [Track(seconds=0)])}.items():
        path = write(tmp_path / f"{name}.mp4", *arguments)
        with pytest.raises(errors.NoStreams, match=name):
            read(reader, path)


def test_one_stream_of_no_length(reader, tmp_path):
    path = write(tmp_path / "a.mkv", Pictures(steady(2)), [Track(seconds=0)])
    reading = read(reader, path)
    assert_pictures(reading, steady(2))
    assert reading.end.audio_end_seconds is None


def test_changed_while_reading(tmp_path, good):
    path = tmp_path / "film.mp4"
    path.write_bytes(good)
    with board_reader() as reader, path.open("rb") as file:
        events = reader.read(file.fileno(), path.name, ReadRequest())
        next(events)
        with path.open("ab") as growing:
            growing.write(b"more")
        with pytest.raises(errors.ChangedWhileReading, match=r"film\.mp4"):
            list(events)


def test_killed_child(tmp_path, good):
    path = tmp_path / "film.mp4"
    path.write_bytes(good)
    with board_reader() as reader, path.open("rb") as file:
        events = reader.read(file.fileno(), path.name, ReadRequest())
        next(events)
        os.kill(reader.child_pid, signal.SIGKILL)
        with pytest.raises(errors.DecoderCrashed, match=r"film\.mp4.*SIGKILL"):
            list(events)
        assert_pictures(read(reader, path), steady(8))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_for_the_whole_group_does_not_end_the_child(tmp_path, good, number):
    """As a terminal and service managers send it; the parent sees to its children itself."""
    path = tmp_path / "film.mp4"
    path.write_bytes(good)
    with board_reader() as reader, path.open("rb") as file:
        events = reader.read(file.fileno(), path.name, ReadRequest())
        next(events)
        os.kill(reader.child_pid, number)
        assert isinstance(list(events)[-1], End)


def test_child_killed_between_two_files(tmp_path, good):
    path = tmp_path / "film.mp4"
    path.write_bytes(good)
    with board_reader() as reader:
        read(reader, path)
        os.kill(reader.child_pid, signal.SIGKILL)
        with pytest.raises(errors.DecoderCrashed):
            read(reader, path)
        assert_pictures(read(reader, path), steady(8))


@pytest.mark.parametrize(
    ("watcher", "error"), [("Crashing", errors.DecoderCrashed), ("Hanging", errors.DecoderTimeout)]
)
def test_a_crash_or_a_hang_costs_one_file(tmp_path, good, watcher, error):
    bad = write(tmp_path / "wide.mp4", Pictures(steady(1), width=256, height=128))
    path = tmp_path / "film.mp4"
    path.write_bytes(good)
    with board_reader(watcher=f"tests.clips:{watcher}Watcher", silence_seconds=3.0) as reader:
        assert_pictures(read(reader, path), steady(8))
        before = reader.child_pid
        began = time.monotonic()
        with pytest.raises(error, match=r"wide\.mp4") as caught:
            read(reader, bad)
        assert time.monotonic() - began < 10
        assert not Path(f"/proc/{before}").exists()
        if watcher == "Crashing":
            assert "SIGSEGV" in str(caught.value)
        assert_pictures(read(reader, path), steady(8))
        assert reader.child_pid != before


def grey(_: int, width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def test_too_little_memory(tmp_path):
    pictures = Pictures(steady(0.08), width=7680, height=4320, codec="mpeg4", options={}, paint=grey)
    path = write(tmp_path / "large.mp4", pictures)
    small = write(tmp_path / "small.mp4", Pictures(steady(2)))
    with board_reader(memory_bytes=160 << 20) as reader:
        assert_pictures(read(reader, small), steady(2))
        with pytest.raises(errors.OutOfMemory, match=r"large\.mp4"):
            read(reader, path)
        assert_pictures(read(reader, small), steady(2))


def test_the_child_has_no_path_and_no_credential(tmp_path, good, monkeypatch):
    monkeypatch.syspath_prepend(INSPECTABLE)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    path = tmp_path / "film.mp4"
    path.write_bytes(good)
    with board_reader() as reader, path.open("rb") as file:
        events = reader.read(file.fileno(), path.name, ReadRequest())
        assert any(isinstance(event, Picture) for event in events)
        child = Path(f"/proc/{reader.child_pid}")
        assert b"hush" not in (child / "environ").read_bytes()
        assert b"film.mp4" not in (child / "cmdline").read_bytes()
        assert "libtorch" not in (child / "maps").read_text()


def test_the_child_ends_with_its_reader(good, tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(good)
    with board_reader() as reader:
        read(reader, path)
        child = reader.child_pid
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.parametrize(
    "header",
    [
        b"nope",
        b"[]",
        b"[" * 100_000,
        b'{"kind": "os.system", "arrays": {}}',
        b'{"kind": "Sound", "start_sample": 0, "samples": "no array", "arrays": {}}',
        b'{"kind": "Sound", "start_sample": 0, "arrays": {"samples": ["float32", [99999999999]]}}',
        b'{"kind": "Sound", "start_sample": 0, "arrays": {"samples": ["object", [1, 1]]}}',
        b'{"kind": "End", "arrays": {}, "rm": "-r"}',
        b'{"kind": "Picture", "grid_index": 0, "t_seconds": 0, "source_seconds": 0, "state": "x", "arrays": {}}',
    ],
    ids=range(9),
)
def test_a_child_that_talks_nonsense_is_not_believed(header):
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    with ours, theirs:
        theirs.sendall(len(header).to_bytes(4, "big") + header)
        with pytest.raises(ProtocolError):
            Channel(ours).receive()


def test_an_endless_header_is_not_waited_for():
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    with ours, theirs:
        theirs.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(ProtocolError):
            Channel(ours).receive()
