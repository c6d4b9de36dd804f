"""A short run of fuzzing, and what longer ones found, each in as few bytes as show it.

`make fuzz` does the long run: see docs/hardening.md.
"""

import math
import struct

import numpy as np
import pytest

from tests.clips import Pictures, Track, board_reader, read, steady, write
from tests.fuzz.judge import Verdict, judge, readers, wrong_with
from tests.fuzz.mutate import MUTATIONS, boxes, chunks, elements, mutate
from tests.fuzz.run import run
from worker.reader import Reader


def test_a_few_hundred_files(tmp_path):
    outcome = run(400, 7, tmp_path, 2, lambda _: None)
    assert outcome.passed, str(outcome)
    assert outcome.ended.total() == 400
    assert outcome.ended["done"] > 20, "hardly anything is read: the mutations are too coarse"
    assert len(outcome.ended) > 5, "hardly anything goes wrong: the mutations are too fine"


def test_a_finding_is_told_with_the_file_that_shows_it(tmp_path, monkeypatch):
    """A reader that takes one kind of file for something else, as a bug would."""
    whole = Reader.probe

    def confused(reader, file, name):
        probe = whole(reader, file, name)
        if probe.container == "flac":
            raise ValueError("what is this?")
        return probe

    def spoiled(pool, threads, children, clips):
        pass

    monkeypatch.setattr(Reader, "probe", confused)
    monkeypatch.setattr("tests.fuzz.run._warm_up", spoiled)
    outcome = run(100, 7, tmp_path, 1, lambda _: None)
    assert not outcome.passed
    assert all("ValueError: what is this?" in wrong for _, wrong in outcome.findings)
    with readers() as pool, pool.reader() as reader:
        assert judge(outcome.findings[0][0].read_bytes(), reader).wrong


def test_a_leak_is_told(tmp_path, monkeypatch):
    kept = []

    def leaking(content, reader):
        kept.append(open("/dev/null"))  # noqa: SIM115 - that is the leak
        return Verdict()

    monkeypatch.setattr("tests.fuzz.run.judge", leaking)
    outcome = run(10, 7, tmp_path, 1, lambda _: None)
    for file in kept:
        file.close()
    assert any(leak.startswith("descriptors") for leak in outcome.leaks)
    assert "leaks" in str(outcome)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({0: 5}, "window 5"),
        ({2: 0.5}, "lasts from 1.0 to 0.5"),
        ({3: "silence"}, "states"),
        ({5: 1.5}, "share"),
        ({8: 0.9}, "sum"),
        ({8: math.nan}, "sum"),
        ({8: None}, "sum"),
        ({3: "no_speech"}, "scores"),
    ],
)
def test_a_row_that_breaks_an_invariant_is_told(spoil, says):
    row = [1, 1.0, 3.0, "ok", "no_face", 0.5, 0.0, 0, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, *[None] * 8]
    assert not list(wrong_with(tuple(row), 1))
    for place, value in spoil.items():
        row[place] = value
    assert any(says in one for one in wrong_with(tuple(row), 1))


def test_the_same_seed_gives_the_same_files(tmp_path):
    clip = write(tmp_path / "a.mp4", Pictures(steady(1)), [Track(seconds=1.0)]).read_bytes()
    once, twice = ([mutate(np.random.default_rng([3, n]), clip, [clip]) for n in range(200)] for _ in range(2))
    assert once == twice
    assert {name for _, done in once for name in done} == MUTATIONS.keys()
    assert sum(content != clip for content, _ in once) > 190


def test_boxes_chunks_and_elements_are_found(tmp_path):
    found = {
        "a.mp4": (boxes, {b"moov", b"trak", b"stsz", b"mdat"}),
        "a.avi": (chunks, {b"RIFF", b"LIST", b"strf", b"idx1"}),
    }
    for name, (find, kinds) in found.items():
        codec = "pcm_s16le" if name == "a.avi" else "aac"
        clip = write(tmp_path / name, Pictures(steady(1), codec="mpeg4", options={}), [Track(codec=codec, seconds=1.0)])
        content = clip.read_bytes()
        assert kinds <= {content[p.start + 4 : p.start + 8] for p in find(content)} | {
            content[p.start : p.start + 4] for p in find(content)
        }
    content = write(tmp_path / "a.mkv", Pictures(steady(1)), [Track(seconds=1.0)]).read_bytes()
    heads = {content[part.start : part.content] for part in elements(content)}
    assert {head[:4] for head in heads} >= {b"\x1aE\xdf\xa3", b"\x18S\x80g", b"\x16T\xaek", b"\x1fC\xb6u"}


# What was found.


def test_a_time_that_cannot_be_moves_no_end(tmp_path):
    """A packet that cannot be decoded and says that it is shown in ten billion years: the end was there."""
    path = write(tmp_path / "a.ivf", Pictures(steady(2), codec="libvpx", options={"deadline": "realtime"}))
    content = bytearray(path.read_bytes())
    at, last = 32, 32
    while at < len(content):
        last, at = at, at + 12 + struct.unpack_from("<I", content, at)[0]
    struct.pack_into("<q", content, last + 4, 1 << 58)
    content[last + 12 :] = b"\xff" * (len(content) - last - 12)
    path.write_bytes(content)
    with board_reader() as reader:
        end = read(reader, path).end
    assert max(end.video_end_seconds, end.duration_seconds) < 10


def test_a_stream_that_comes_up_midway_ends_nothing(tmp_path):
    """Two recordings joined byte by byte, the second with sound: PyAV stumbles over it, after the last packet."""
    silent = write(tmp_path / "silent.ts", Pictures(steady(2)))
    loud = write(tmp_path / "loud.ts", Pictures(steady(2)), [Track(seconds=2.0)] * 3)
    padding = (b"G\x1f\xff\x10" + b"\xff" * 184) * 60_000  # so far away that opening does not come to it
    path = tmp_path / "a.ts"
    path.write_bytes(silent.read_bytes() + padding + loud.read_bytes() + padding + silent.read_bytes())
    with board_reader() as reader, path.open("rb") as file:
        assert reader.probe(file.fileno(), path.name).audio_tracks == 0
        reading = read(reader, path)
    assert len(reading.pictures) > 20
    assert reading.end.duration_seconds == pytest.approx(6.0, abs=0.5)


@pytest.mark.parametrize(("degrees", "turned"), [(2, 0), (128, 90), (44, 0), (200, 180), (358, 0)])
def test_a_turn_by_any_angle_is_rounded_to_a_right_one(tmp_path, degrees, turned):
    path = write(tmp_path / "a.mp4", Pictures(steady(1)))
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    cosine, sine = (round(65536 * f(math.radians(-degrees))) for f in (math.cos, math.sin))
    struct.pack_into(">iiiii", content, matrix, cosine, sine, 0, -sine, cosine)
    path.write_bytes(content)
    with board_reader() as reader, path.open("rb") as file:
        assert reader.probe(file.fileno(), path.name).rotation_degrees == turned


def test_a_picture_stream_without_a_decoder_is_no_error_of_ours(tmp_path):
    path = write(tmp_path / "a.mp4", Pictures(steady(1)), [Track(seconds=1.0)])
    content = path.read_bytes()
    assert content.count(b"avc1") >= 1
    at = content.rindex(b"avc1")
    path.write_bytes(content[:at] + b"zzzz" + content[at + 4 :])
    with board_reader() as reader:
        reading = read(reader, path)
    assert not reading.pictures
    assert len(reading.sound) > 15_000


def test_pictures_of_a_size_that_nobody_believes_are_of_no_size(tmp_path):
    """Found by the soak: no side is 0 in the database, and the failure was taken for the database's."""
    pictures = Pictures(steady(0.5), codec="huffyuv", pix_fmt="rgb24", options={}, width=96, height=64)
    path = write(tmp_path / "a.avi", pictures)
    content = bytearray(path.read_bytes())
    at = content.index(b"strf") + 8 + 4
    content[at : at + 8] = (60_000).to_bytes(4, "little") * 2
    path.write_bytes(content)
    with board_reader() as reader, path.open("rb") as file:
        probe = reader.probe(file.fileno(), path.name)
    assert (probe.width, probe.height) == (None, None)


@pytest.mark.parametrize(("year", "is_believed"), [(1, False), (1904, True), (2024, True)])
def test_a_date_before_there_were_recordings_is_none(tmp_path, year, is_believed):
    def describe(out, _):
        out.metadata["creation_time"] = f"{year:04}-01-01T00:00:00.000000Z"

    path = write(tmp_path / "a.mkv", Pictures(steady(0.5)), prepare=describe)
    with board_reader() as reader, path.open("rb") as file:
        assert (reader.probe(file.fileno(), path.name).recorded_at is not None) == is_believed
