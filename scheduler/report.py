"""`moodreel report`: a page about some videos, as one file that needs no network."""

import base64
import json
import mimetypes
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from rich.console import Console

from db import gallery
from db.errors import BadOption, NotReadable, PathMissing
from db.gallery import Shown, Wish
from db.identity import ObjectName, path_of, printable
from db.store import Store
from db.words import EMOTIONS
from scheduler.pages import page
from scheduler.show import find_video, open_existing

EMBED_BYTES = 20_000_000
POINTS, POINTS_OF_ALL, POINTS_AT_LEAST = 1500, 60_000, 60
STRIP_CELLS = 80
UNPLAYABLE = "The video lies in a bucket, where this page cannot play it."


def run(names: Sequence[str], db_url: str, out: Path, *, every: bool, embed: bool) -> None:
    """Write a report about videos, or about all that have a timeline.

    Raises:
        BadOption: neither videos nor all are asked for, or both.
        PathMissing: a video, its timeline or the folder of the report is not there.
        NotReadable: the report cannot be written.
    """
    if bool(names) == every:
        raise BadOption("name videos, or give --all")
    with open_existing(db_url) as store:
        gallery.read_only(store)
        videos = _chosen(store, names)
        with store.reading() as connection:
            text = _document(connection, videos, embed=embed)
    _write(out, text)
    size = f"{len(text.encode()) / 1e6:.1f} MB"
    Console(stderr=True).print(f"{printable(out)}: {len(videos)} videos, {size}", markup=False, soft_wrap=True)


def _chosen(store: Store, names: Sequence[str]) -> list[Shown]:
    if not names:
        with store.reading() as connection:
            videos = gallery.listed(connection, Wish(state="done"), 2**31 - 1)
        if not videos:
            raise PathMissing(f"The database {store.name} has no timeline yet", "moodreel annotate PATH")
        return videos
    found: dict[int, Shown] = {}
    for name in names:
        video = find_video(store, name)
        with store.reading() as connection:
            shown = gallery.one(connection, video.id) if video else None
        if shown is None or shown.annotation_id is None:
            known = "has no timeline yet" if shown else "is not in this database"
            said = printable(name)
            raise PathMissing(f"{said} {known}", f"moodreel annotate {said}   (moodreel status shows what failed)")
        found[shown.id] = shown
    return list(found.values())


def _document(connection: sa.Connection, videos: Sequence[Shown], *, embed: bool) -> str:
    points = max(POINTS_AT_LEAST, min(POINTS, POINTS_OF_ALL // len(videos)))
    data, details = overview(connection, videos), {}
    for video, listed in zip(videos, data["videos"], strict=True):
        url, why = _embedded(video) if embed else source_of(video)
        shown = detail(connection, video, points)
        listed["states"] = sorted({state for _, state, *_ in shown["states"]})  # to filter by, without a server
        details[video.id] = json.dumps({**shown, "url": url, "why": why})
    return page(data, details)


def overview(connection: sa.Connection, videos: Sequence[Shown]) -> dict[str, Any]:
    """What the list shows of each video: its facts, and its timeline as a strip of `STRIP_CELLS` cells."""
    timelines = gallery.segments_of(connection, [video.annotation_id for video in videos if video.annotation_id])
    return {"videos": [_listed(video, timelines.get(video.annotation_id or 0, [])) for video in videos]}


def _listed(video: Shown, timeline: Sequence[Any]) -> dict[str, Any]:
    seconds = sum(end - start for start, end, _, _, valence, _ in timeline if valence is not None)
    pleasant = sum((end - start) * valence for start, end, _, _, valence, _ in timeline if valence is not None)
    return {
        "id": video.id,
        "uri": printable(video.uri),
        "duration": video.duration_seconds,
        "recorded": video.recorded_at.isoformat() if video.recorded_at else None,
        "annotated": video.annotated_at.isoformat() if video.annotated_at else None,
        "pipeline": video.pipeline,
        "digest": video.pipeline_digest,
        "gone": video.gone_at is not None,
        "valence": round(pleasant / seconds, 3) if seconds else None,
        "emotions": sorted({emotion for _, _, emotion, *_ in timeline if emotion}),
        "strip": strip(timeline),
    }


def strip(timeline: Sequence[Any]) -> list[int | None]:
    """The emotion in the middle of each of `STRIP_CELLS` equal stretches, by its place in EMOTIONS; None: none."""
    if not timeline:
        return []
    end, cells, number = timeline[-1][1], [], 0
    for cell in range(STRIP_CELLS):
        middle = (cell + 0.5) / STRIP_CELLS * end
        while number + 1 < len(timeline) and timeline[number][1] <= middle:
            number += 1
        emotion = timeline[number][2]
        cells.append(EMOTIONS.index(emotion) if emotion else None)
    return cells


def detail(connection: sa.Connection, video: Shown, points: int = POINTS) -> dict[str, Any]:
    """All that the page shows of one video.

    Returns:
        `times` in seconds, at the windows' middles; `scores` of audio, video and fused, each eight lists of percent, or
        None where there is no result; `states`, each with its side, start and end; `segments`. Where there are more
        than `points` windows, neighbours are averaged; states and segments stay as they are.
    """
    rows = list(gallery.windows_of(connection, video))
    step = max(1, -(-len(rows) // points))
    groups = [rows[first : first + step] for first in range(0, len(rows), step)]
    sides = {side: 4 + number * len(EMOTIONS) for number, side in enumerate(("audio", "video", "fused"))}
    annotation_id = video.annotation_id or 0
    return {
        "id": video.id,
        "uri": printable(video.uri),
        "duration": video.duration_seconds,
        "recorded": video.recorded_at.isoformat() if video.recorded_at else None,
        "pipeline": video.pipeline,
        "gone": video.gone_at is not None,
        "windows": len(rows),
        "averaged": step,
        "times": [round((group[0][0] + group[-1][1]) / 2, 3) for group in groups],
        "scores": {
            side: [[_percent(group, first + n) for group in groups] for n in range(len(EMOTIONS))]
            for side, first in sides.items()
        },
        "states": [*_stretches(rows, 2, "audio"), *_stretches(rows, 3, "video")],
        "segments": gallery.segments_of(connection, [annotation_id])[annotation_id],
    }


def _percent(group: Sequence[Any], column: int) -> float | None:
    known = [row[column] for row in group if row[column] is not None]
    return round(100 * sum(known) / len(known), 1) if known else None


def _stretches(rows: Sequence[Any], column: int, side: str) -> list[tuple[str, str, float, float]]:
    """Where a side says nothing, and why: neighbouring windows of one state make one stretch."""
    found: list[tuple[str, str, float, float]] = []
    for row in rows:
        state, start, end = row[column], row[0], row[1]
        if state == "ok":
            continue
        if found and found[-1][1] == state and found[-1][3] >= start:
            start = found.pop()[2]
        found.append((side, state, start, end))
    return found


def source_of(video: Shown) -> tuple[str | None, str]:
    """A URL under which a browser on this machine may find a video, or None and why there is none."""
    if ObjectName.of(video.uri):
        return None, UNPLAYABLE
    return path_of(video.uri).absolute().as_uri(), ""


def _embedded(video: Shown) -> tuple[str | None, str]:
    if ObjectName.of(video.uri):
        return None, UNPLAYABLE
    path = path_of(video.uri)
    try:
        size = path.stat().st_size
        if size > EMBED_BYTES:
            url, _ = source_of(video)
            return (
                url,
                f"At {size / 1e6:.0f} MB the video is too large to be embedded; it is played from where it lies.",
            )
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        return None, f"The video could not be read when this page was written: {error.strerror}."
    return f"data:{media_type(path)};base64,{data}", ""


def media_type(path: Path) -> str:
    """What a browser is told that a file is."""
    known = {".mkv": "video/x-matroska", ".m4v": "video/mp4"}
    return known.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def _write(out: Path, text: str) -> None:
    """Write the file whole or not at all."""
    try:
        if out.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, out)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise NotReadable(
            f"The report cannot be written to {out}: {error.strerror}.", "Name another file with --output."
        ) from error
