"""Compares two databases of the same archive: what a quiet run wrote, and what another one did.

    python -m tests.chaos.compare QUIET.db postgresql://... --planted planted-text.mp4=not_media

Either may be SQLite or PostgreSQL, and neither is written to. Videos go by their file names. Of each video's current
annotation the windows' bounds and states, the emotions, and the segments' bounds and emotions must be the same (bounds
to the microsecond), the probabilities and what is derived from them within 1e-3. Nothing may be there twice, missing or
undone, and nothing may have failed but what was planted.
"""

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import click
import sqlalchemy as sa

from db.identity import path_of
from db.session import open_engine
from db.tables import SCORES, annotations, fused_windows, segments, spans, videos, windows

# How far two numbers of a kind may be apart. A bound is a sum of floating-point numbers, which depends on where reading
# began. So does the voice detector's memory, and one chunk in a short window's thirty may fall on the other side.
BOUND_TOLERANCE_SECONDS = 1e-6
PROBABILITY_TOLERANCE = 1e-3
SHARE_TOLERANCE = 0.05
SUPERSEDED = {("done", None), ("failed", "changed_while_reading")}  # how annotations of earlier versions may end
SHOWN = 20  # differences that are printed; all are counted

_TABLES = {"window": windows, "fused window": fused_windows, "segment": segments}
_BOUNDS = dict.fromkeys(("start_seconds", "end_seconds"), BOUND_TOLERANCE_SECONDS)
_VERDICT = dict.fromkeys(("confidence", "valence", "arousal"), PROBABILITY_TOLERANCE)

# The columns of each kind of row, the key first; text and counts must be equal, of numbers it says how nearly.
_COLUMNS: dict[str, dict[str, float]] = {
    "window": {
        **dict.fromkeys(("window_index", "audio_state", "video_state", "face_count"), 0.0),
        **_BOUNDS,
        **dict.fromkeys(("speech_share", "face_share"), SHARE_TOLERANCE),
        **dict.fromkeys((*SCORES["audio"], *SCORES["video"]), PROBABILITY_TOLERANCE),
    },
    "fused window": {
        **dict.fromkeys(("window_index", "emotion"), 0.0),
        **_VERDICT,
        **dict.fromkeys(SCORES["fused"], PROBABILITY_TOLERANCE),
    },
    "segment": {**dict.fromkeys(("segment_index", "emotion"), 0.0), **_BOUNDS, **_VERDICT},
}


class Annotated(NamedTuple):
    """One annotation, as it ended."""

    version: str
    status: str
    error_code: str | None
    warning_code: str | None
    duration_seconds: float | None


class Video(NamedTuple):
    """One video: what it is called, what is shown of it, and all that was ever asked of it."""

    id: int
    uri: str
    version: str
    current: int | None  # the annotation that is shown
    windows_of: int | None  # the annotation whose windows it uses
    asked: tuple[Annotated, ...]


@dataclass
class Comparison:
    """What came of comparing.

    Attributes:
        videos, rows: how many were compared; windows, fused windows and segments count as rows.
        failures: names of the files that failed as planted.
        differences: how many there are.
        shown: the first of them, in words.
    """

    videos: int = 0
    rows: int = 0
    failures: list[str] = field(default_factory=list)
    differences: int = 0
    shown: list[str] = field(default_factory=list)

    def note(self, difference: str) -> None:
        """Count a difference."""
        self.differences += 1
        if len(self.shown) < SHOWN:
            self.shown.append(difference)

    def __str__(self) -> str:
        if not self.differences:
            return f"{self.videos} videos and {self.rows} rows are the same, {len(self.failures)} failed as planted"
        more = [f"... and {self.differences - SHOWN} more"] if self.differences > SHOWN else []
        return "\n".join([f"{self.differences} differences:", *self.shown, *more])


class Side:
    """One of the two databases, read only."""

    def __init__(self, name: str, connection: sa.Connection) -> None:
        self.name, self._connection = name, connection

    @cached_property
    def videos(self) -> list[Video]:
        """All videos, by their files' names."""
        asked: dict[int, list[Annotated]] = {}
        for row in self._connection.execute(sa.select(annotations.c.video_id, *_columns(annotations, Annotated))):
            asked.setdefault(row[0], []).append(Annotated(*row[1:]))
        shown = annotations.alias("shown")
        query = sa.select(
            *(videos.c.id, videos.c.uri, videos.c.version, videos.c.current_annotation_id),
            sa.func.coalesce(shown.c.source_annotation_id, shown.c.id),
        ).select_from(videos.outerjoin(shown, shown.c.id == videos.c.current_annotation_id))
        found = [Video(*row, tuple(sorted(asked.get(row[0], []), key=str))) for row in self._connection.execute(query)]
        return sorted(found, key=lambda video: (file_name(video), video.uri))

    def rows(self, kind: str, annotation_id: int | None) -> Iterator[sa.Row[Any]]:
        """An annotation's rows of one kind, in order."""
        table = _TABLES[kind]
        columns = [table.c[name] for name in _COLUMNS[kind]]
        query = sa.select(*columns).where(table.c.annotation_id == annotation_id).order_by(columns[0])
        return iter(self._connection.execute(query))

    def stray(self) -> Iterator[str]:
        """Rows that no finished annotation accounts for, in words; what a failed one had stored by then is no stray."""
        for kind, table in _TABLES.items():
            query = sa.select(annotations.c.id, annotations.c.status, sa.func.count()).join(table)
            query = query.where(annotations.c.status.not_in(("done", "failed"))).group_by(annotations.c.id)
            for annotation_id, status, count in self._connection.execute(query):
                yield f"{count} {kind}s of annotation {annotation_id}, which is {status}"
        query = sa.select(spans.c.annotation_id, spans.c.span_index, spans.c.status).join(annotations)
        query = query.where(annotations.c.status == "done", spans.c.status != "done")
        for annotation_id, span_index, status in self._connection.execute(query):
            yield f"annotation {annotation_id} is done, but its span {span_index} is {status}"


def compare(
    expected_url: str, actual_url: str, planted: Mapping[str, str] | None = None, replaced: Collection[str] = ()
) -> Comparison:
    """Compare two databases, row by row.

    Args:
        expected_url: of the quiet run.
        actual_url: of the other.
        planted: names of the files that must fail in both, with their codes.
        replaced: names of those that were replaced, of which the other database may know earlier versions.
    """
    result, engines = Comparison(), [open_engine(url, create=False) for url in (expected_url, actual_url)]
    try:
        with engines[0].connect() as one, engines[1].connect() as other:
            expected, actual = Side("expected", one), Side("actual", other)
            _compare_videos(expected, actual, planted or {}, replaced, result)
            for side in (expected, actual):
                for stray in side.stray():
                    result.note(f"{side.name}: {stray}")
    finally:
        for engine in engines:
            engine.dispose()
    return result


def file_name(video: Video) -> str:
    """The name of a video's file, without its folder."""
    return os.fsdecode(path_of(video.uri).name)


def _compare_videos(
    expected: Side, actual: Side, planted: Mapping[str, str], replaced: Collection[str], result: Comparison
) -> None:
    names = sorted({file_name(video) for side in (expected, actual) for video in side.videos} | set(planted))
    found = [_by_name(side, result) for side in (expected, actual)]
    for name in names:
        one, other = (videos_of.get(name) for videos_of in found)
        if one is None or other is None:
            missing = " and ".join(side.name for side, video in ((expected, one), (actual, other)) if video is None)
            result.note(f"{name}: there is no such video in the {missing} database")
            continue
        result.videos += 1
        if name in replaced:
            other, earlier = _parted(other)
            for ended in (end for end in map(_end, earlier) if end not in SUPERSEDED):
                result.note(f"{name}: an annotation of an earlier version is {_words([ended])}")
        for difference in _in_what_was_asked(name, one, other, planted):
            result.note(difference)
        if name in planted:
            result.failures.append(name)
        for kind in _TABLES:
            _compare_rows(name, kind, expected, one, actual, other, result)


def _by_name(side: Side, result: Comparison) -> dict[str, Video]:
    found: dict[str, Video] = {}
    for video in side.videos:
        if file_name(video) in found:
            result.note(f"{file_name(video)}: the {side.name} database has two videos of this name")
        found[file_name(video)] = video
    return found


def _in_what_was_asked(name: str, one: Video, other: Video, planted: Mapping[str, str]) -> Iterator[str]:
    """Differences of what is known about a video and its annotations as a whole."""
    if one.uri == other.uri and one.version != other.version:
        yield f"{name}: version {one.version} in the expected database, {other.version} in the actual one"
    for side, video in (("expected", one), ("actual", other)):
        ends = [_end(row) for row in video.asked if row.version == video.version]
        wanted = ("failed", planted[name]) if name in planted else ("done", None)
        if ends != [wanted]:
            yield f"{name}: in the {side} database its annotations are {_words(ends)}, not {_words([wanted])}"
        elif (video.current is None) != (name in planted):
            yield f"{name}: in the {side} database {'no' if video.current is None else 'an'} annotation is shown"
    if len(one.asked) != len(other.asked):
        yield f"{name}: {len(one.asked)} annotations in the expected database, {len(other.asked)} in the actual one"
    if len(one.asked) == len(other.asked) == 1:
        for what, tolerance in (("warning_code", 0.0), ("duration_seconds", BOUND_TOLERANCE_SECONDS)):
            values = getattr(one.asked[0], what), getattr(other.asked[0], what)
            if not _same(*values, tolerance):
                yield f"{name}: {what} is {values[0]} in the expected database, {values[1]} in the actual one"


def _parted(video: Video) -> tuple[Video, list[Annotated]]:
    """A video as if its latest version were the only one, and what was asked of earlier ones."""
    parts: dict[bool, list[Annotated]] = {True: [], False: []}
    for row in video.asked:
        parts[row.version == video.version].append(row)
    return video._replace(asked=tuple(parts[True])), parts[False]


def _end(row: Annotated) -> tuple[str, str | None]:
    return row.status, row.error_code


def _words(ends: Sequence[tuple[str, str | None]]) -> str:
    return ", ".join(status if code is None else f"{status} ({code})" for status, code in ends) or "not there"


def _compare_rows(
    name: str, kind: str, expected: Side, one: Video, actual: Side, other: Video, result: Comparison
) -> None:
    """Go through the rows of one kind of both databases side by side."""
    ids = [video.windows_of if kind == "window" else video.current for video in (one, other)]
    for row, found in _side_by_side(expected.rows(kind, ids[0]), actual.rows(kind, ids[1])):
        result.rows += 1
        if row is None or found is None:
            where = "only in the actual" if row is None else "not in the actual"
            result.note(f"{name}: {kind} {(row or found)[0]} is {where} database")
            continue
        for what in _differing(kind, row._mapping, found._mapping):
            values = row._mapping[what], found._mapping[what]
            result.note(f"{name}: {kind} {row[0]}: {what} is {values[0]} expected, {values[1]} actual")


def _side_by_side(ones: Iterable[Any], others: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Pairs of rows with the same key, both ascending; None where there is none."""
    one, other = next(ones := iter(ones), None), next(others := iter(others), None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            yield one, None
            one = next(ones, None)
        elif one is None or other[0] < one[0]:
            yield None, other
            other = next(others, None)
        else:
            yield one, other
            one, other = next(ones, None), next(others, None)


def _differing(kind: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for what, tolerance in _COLUMNS[kind].items():
        if not _same(one[what], other[what], tolerance):
            yield what


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if tolerance == 0 or one is None or other is None:
        return bool(one == other)
    return bool(abs(one - other) <= tolerance)


def _columns(table: sa.Table, kind: Any) -> list[sa.Column[Any]]:
    return [table.c[name] for name in kind._fields]


@click.command(help=__doc__)
@click.argument("expected")
@click.argument("actual")
@click.option("--planted", multiple=True, metavar="NAME=CODE", help="A file that must fail.")
def main(expected: str, actual: str, planted: tuple[str, ...]) -> None:
    """Compare and say what came of it."""
    result = compare(expected, actual, dict(part.split("=", 1) for part in planted))
    click.echo(str(result))
    sys.exit(1 if result.differences else 0)


if __name__ == "__main__":
    main()
