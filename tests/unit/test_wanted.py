"""Which videos a search is for: suffixes, sizes and dates, as users write them."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from db.errors import NoVideos
from db.identity import Source, uri_of
from scheduler.cli import cli
from scheduler.sources import find
from scheduler.wanted import Wanted, bytes_of, moment_of, suffix_of


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1500", 1500),
        ("10K", 10_240),
        ("10k", 10_240),
        ("1.5M", 1_572_864),
        ("2GiB", 2 << 30),
        ("1T", 1 << 40),
    ],
)
def test_sizes(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize(("text", "suffix"), [("mp4", ".mp4"), (".MKV", ".mkv"), ("m2ts", ".m2ts")])
def test_suffixes(text, suffix):
    assert suffix_of(text) == suffix


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:30", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        ("2026-01-31T12:30+02:00", datetime(2026, 1, 31, 10, 30, tzinfo=UTC)),
    ],
)
def test_dates_are_of_utc_unless_they_say_otherwise(text, moment):
    assert moment_of(text)() == moment.timestamp()


@pytest.mark.parametrize(
    ("text", "age"), [("90s", 90), ("2m", 120), ("12h", 43_200), ("7d", 604_800), ("1.5w", 907_200)]
)
def test_an_age_moves_on(text, age, monkeypatch):
    moment = moment_of(text)
    monkeypatch.setattr(time, "time", lambda: 5_000_000.0)
    assert moment() == 5_000_000.0 - age


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--min-size", text) for text in ("-1", "many", "1X", "")),
        *(("--newer-than", text) for text in ("7", "yesterday", "2026-13-01", "7y")),
        *(("--suffix", text) for text in ("", ".", "a/b", "tar.gz")),
    ],
)
@pytest.mark.parametrize("command", ["annotate", "submit", "watch"])
def test_what_cannot_be_read_is_refused(command, arguments):
    ran = CliRunner().invoke(cli, [command, "x", *arguments])
    assert ran.exit_code == 2
    assert f"Invalid value for '{arguments[0]}'" in ran.output
    assert repr(arguments[1]) in ran.output


def test_bounds():
    wanted = Wanted(min_bytes=10, max_bytes=20, newer_than=lambda: 100.0, older_than=lambda: 200.0)
    assert [wanted.takes(size, 150.0) for size in (9, 10, 20, 21)] == [False, True, True, False]
    assert [wanted.takes(15, moment) for moment in (100.0, 101.0, 199.0, 200.0)] == [False, True, True, False]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size, age_seconds in (
        ("a.mp4", 10, 1e6),
        ("b.MKV", 2000, 10.0),
        ("c.txt", 2000, 10.0),
        ("d.mp4", 3000, 10),
    ):
        file = tmp_path / name
        file.write_bytes(b"x" * size)
        os.utime(file, (time.time() - age_seconds,) * 2)
    return tmp_path


def names(*paths: Path, **wanted) -> list[str]:
    found = list(find([str(path) for path in paths], Wanted(**wanted)))
    return [Path(item.uri).name if isinstance(item, Source) else item.code for item in found]


def test_a_folder_is_searched_for_what_is_wanted(folder):
    assert names(folder) == ["a.mp4", "b.MKV", "d.mp4"]
    assert names(folder, suffixes=frozenset({".mkv", ".txt"})) == ["b.MKV", "c.txt"]
    assert names(folder, min_bytes=11, max_bytes=2999) == ["b.MKV"]
    assert names(folder, older_than=moment_of("7d")) == ["a.mp4"]
    assert names(folder, newer_than=moment_of("7d")) == ["b.MKV", "d.mp4"]


def test_a_pattern_means_any_name_unless_a_suffix_is_given(folder):
    assert names(folder / "?.*", min_bytes=11) == ["b.MKV", "c.txt", "d.mp4"]
    assert names(folder / "?.*", suffixes=frozenset({".mp4"})) == ["a.mp4", "d.mp4"]


def test_what_is_named_itself_is_taken_whatever_it_is(folder):
    assert names(folder / "c.txt", suffixes=frozenset({".mp4"}), max_bytes=5, newer_than=moment_of("1s")) == ["c.txt"]


def test_where_nothing_is_wanted_it_says_so(folder):
    for path in (folder, folder / "*.mp4"):
        (error,) = find([str(path)], Wanted(min_bytes=10_000))
        assert isinstance(error, NoVideos)
        assert uri_of(path) in str(error)
