"""What a file may ask for: each limit is a failure with a code of its own, and the next file is read."""

import os
import socket
from fractions import Fraction
from pathlib import Path

import pytest

from db import errors
from tests.clips import Pictures, Track, assert_pictures, board_reader, read, steady, write
from worker.protocol import ReadRequest


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("good") / "good.mp4", Pictures(steady(2)), [Track(seconds=2.0)])


def refused(path: Path, good: Path, error: type[errors.MoodreelError], words: str, **limits: object) -> None:
    """A file is refused by the probe and by a read alike, and its child reads on."""
    with board_reader(**limits) as reader, path.open("rb") as file:
        with pytest.raises(error, match=rf"{path.name}.*{words}") as caught:
            reader.probe(file.fileno(), path.name)
        assert type(caught.value) is error
        assert caught.value.permanent
        child = reader.child_pid
        with pytest.raises(error):
            read(reader, path)
        assert_pictures(read(reader, good), steady(2))
        assert reader.child_pid == child


def test_pictures_of_too_many_pixels(tmp_path, good):
    path = write(tmp_path / "wide.mp4", Pictures(steady(0.2), width=512, height=256))
    refused(path, good, errors.PictureTooLarge, "512 x 256 pixels, more than 130000", max_pixels=130_000)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("small.mov", "qtrle", "rgb24"), ("small.avi", "huffyuv", "rgb24"), ("small.mkv", "ffv1", "yuv420p")],
)
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_header_that_claims_more_than_there_is(tmp_path, good, name, codec, pix_fmt, side):
    """Of codecs whose frames do not say how large they are; the larger ones FFmpeg itself does not believe."""
    path = write(tmp_path / name, Pictures(steady(0.5), codec=codec, pix_fmt=pix_fmt, options={}, width=96, height=64))
    content = bytearray(path.read_bytes())
    if name == "small.mov":  # in the sample entry: two 16-bit numbers
        at = content.index(b"rle ") + 4 + 24
        content[at : at + 4] = side.to_bytes(2, "big") * 2
    elif name == "small.avi":  # in BITMAPINFOHEADER
        at = content.index(b"strf") + 8 + 4
        content[at : at + 8] = side.to_bytes(4, "little") * 2
    else:  # PixelWidth and PixelHeight, which have one byte each here
        for element in (b"\xb0\x81", b"\xba\x81"):
            content[content.index(element) + 2] = 255
    path.write_bytes(content)
    if side == 60_000 and name != "small.mkv":
        with board_reader(memory_bytes=400 << 20) as reader, pytest.raises(errors.Undecodable, match=name):
            read(reader, path)
        return
    limits = {"max_pixels": 200 * 200} if name == "small.mkv" else {}
    refused(path, good, errors.PictureTooLarge, "pixels, more than", **limits)


def test_pictures_that_grow_beyond_the_limit_midway_are_not_decoded(tmp_path, good):
    """Two recordings joined byte by byte, of which the second is larger than the header says."""
    small = write(tmp_path / "small.ts", Pictures(steady(2), options={"preset": "ultrafast", "g": "10"}))
    large = write(tmp_path / "large.ts", Pictures(steady(2), width=768, height=512, options={"preset": "ultrafast"}))
    path = tmp_path / "film.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with board_reader() as reader:
        whole = read(reader, path)
        assert {picture.box[2:] for picture in whole.pictures} == {(192.0, 128.0), (640.0, 427.0)}
    with board_reader(max_pixels=200_000) as reader:
        part = read(reader, path)
        assert {picture.box[2:] for picture in part.pictures} == {(192.0, 128.0)}
        assert [gap.stream for gap in part.unreadable] == ["video"]
        assert_pictures(read(reader, good), steady(2))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("n_streams", [5, 6, 12])
def test_too_many_streams(tmp_path, good, suffix, n_streams):
    codec = "pcm_s16le" if suffix == "avi" else "aac"
    tracks = [Track(codec=codec, seconds=0.5)] * (n_streams - 1)
    path = write(tmp_path / f"many.{suffix}", Pictures(steady(0.5)), tracks)
    if n_streams > 5:
        refused(path, good, errors.TooManyStreams, "more than 5 streams", max_streams=5)
    else:
        with board_reader(max_streams=5) as reader, path.open("rb") as file:
            assert reader.probe(file.fileno(), path.name).audio_tracks == 4


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_metadata_that_is_too_large(tmp_path, good, suffix):
    def describe(out, _):
        out.metadata["comment"] = "tr\N{LATIN SMALL LETTER E WITH ACUTE}s " * 40_000

    path = write(tmp_path / f"wordy.{suffix}", Pictures(steady(1)), prepare=describe)
    refused(path, good, errors.MetadataTooLarge, "bytes, more than 100000", max_metadata_bytes=100_000)
    with board_reader() as reader:
        assert_pictures(read(reader, path), steady(1))


def test_a_recording_that_says_it_is_too_long(tmp_path, good):
    pictures = Pictures([Fraction(0), Fraction(3600 * 49)], codec="mjpeg", pix_fmt="yuvj420p", options={})
    path = write(tmp_path / "long.mkv", pictures)
    refused(path, good, errors.RecordingTooLong, "it reaches 49.0 hours, more than 48")


def test_a_recording_that_leaps_on_and_on_is_ended_where_it_is_too_long(tmp_path, good):
    """By leaps that are small enough to be believed; each repeats one picture thousands of times."""
    times = [Fraction(n * 1800) for n in range(40)]
    path = write(tmp_path / "film.nut", Pictures(times, codec="mpeg4", options={}, time_base=Fraction(1, 5)))
    with board_reader(max_seconds=7200.0) as reader, path.open("rb") as file:
        events = reader.read(file.fileno(), path.name, ReadRequest(frame_rate_hz=1.0))
        with pytest.raises(errors.RecordingTooLong, match=r"film\.nut"):
            assert sum(1 for _ in events) < 10_000
        assert_pictures(read(reader, good), steady(2))


def test_a_decoder_of_games_is_not_run(tmp_path, good):
    path = write(tmp_path / "game.avi", Pictures(steady(1), codec="cljr", pix_fmt="yuv411p", options={}))
    refused(path, good, errors.CodecRefused, "coded as cljr")


def test_a_stream_whose_decoder_is_not_run_leaves_the_others(tmp_path):
    path = write(
        tmp_path / "game.avi",
        Pictures(steady(2), codec="cljr", pix_fmt="yuv411p", options={}),
        [Track(codec="pcm_s16le", seconds=2.0)],
    )
    with board_reader() as reader:
        reading = read(reader, path)
        assert not reading.pictures
        assert len(reading.sound) == 32_000


HOSTILE = {
    "playlist.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:8\n#EXTINF:8,\n{uri}\n#EXT-X-ENDLIST\n",
    "concat.mkv": "ffconcat version 1.0\nfile '{uri}'\n",
    "concat.avi": "ffconcat version 1.0\nfile 'concat:{uri}|{uri}'\n",
    "master.mov": '#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",URI="{uri}"\n#EXT-X-STREAM-INF:AUDIO="a"\n{uri}\n',
    "reference.mp4": None,
    "description.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "shortcut.mp4": "[InternetShortcut]\nURL={uri}\n",
    "meta.asf": '<asx version="3.0"><entry><ref href="{uri}"/></entry></asx>',
    "ram.rm": "{uri}\n",
    "images.mp4": "{uri}/%d.png",
}
SCHEMES = ("", "file:", "file://", "concat:", "subfile,,start,0,end,0,,:", "http://127.0.0.1:{port}", "data:video/mp4,")


@pytest.fixture(scope="module")
def reader():
    with board_reader() as reader:
        yield reader


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_points_at_others_opens_nothing(reader, tmp_path, good, name):
    """It points at a named pipe, which whoever opens it would find, or at a port that listens."""
    bait, path = tmp_path / "bait", tmp_path / name
    os.mkfifo(bait)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        for scheme in SCHEMES:
            uri = f"{scheme.format(port=server.getsockname()[1])}{bait}"
            path.write_bytes(pointing_at(uri, name, good.read_bytes()))
            with pytest.raises(errors.InputError):
                read(reader, path)
        with pytest.raises(BlockingIOError):
            server.accept()
    with pytest.raises(OSError, match="No such device"):  # ENXIO: nobody has it open for reading
        os.open(bait, os.O_WRONLY | os.O_NONBLOCK)


def pointing_at(uri: str, name: str, movie: bytes) -> bytes:
    text = HOSTILE[name]
    if text is not None:
        return text.format(uri=uri).encode()
    # A movie that says that its media lie in another file: a `url ` box that is not marked as "in this one". The box
    # grows, and so do those that it is in.
    at = movie.index(b"url \0\0\0\1") - 4
    box = uri.encode() + b"\0"
    box = (12 + len(box)).to_bytes(4, "big") + b"url " + bytes(4) + box
    changed = bytearray(movie[:at] + box + movie[at + 12 :])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        place = changed.rindex(kind, 0, at) - 4
        size = int.from_bytes(changed[place : place + 4], "big") + len(box) - 12
        changed[place : place + 4] = size.to_bytes(4, "big")
    return bytes(changed[: changed.index(b"mdat") - 4] + changed[changed.index(b"moov") - 4 :])
