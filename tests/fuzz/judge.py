"""Reads one file as a worker does, with models that answer at once, and says what is wrong with what comes out."""

import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from db.errors import FAILURES, Internal, MoodreelError
from db.identity import Source
from db.rows import SpanClaim
from db.tables import SUM_TOLERANCE, WINDOW_COLUMNS
from db.words import AUDIO_STATES, VIDEO_STATES
from tests.instant import InstantModels, recipe
from worker.limits import Limits
from worker.reader import Reader, ReaderPool
from worker.span import SpanRun, facts, planned, read_request

# Small, since the clips are: what asks for more is refused or ended, and costs a second rather than a minute.
LIMITS = Limits(
    max_pixels=1 << 22,
    max_seconds=2 * 3600.0,
    memory_bytes=1 << 30,
    cpu_seconds=10.0,
    stall_seconds=30.0,
    silence_seconds=20.0,
)
MAX_SPANS = 3  # of one file that are read
RECIPE = recipe(span_seconds=600)
_WINDOW = {name: place for place, name in enumerate(WINDOW_COLUMNS)}


@dataclass
class Verdict:
    """What became of a file.

    Attributes:
        ended: "done", a warning's code in brackets, or a failure's code.
        about: what tells it from others that ended alike: container, codecs, states.
        wrong: what must not be.
    """

    ended: str = "done"
    about: str = ""
    wrong: list[str] = field(default_factory=list)

    @property
    def signature(self) -> tuple[str, str]:
        """What makes it another kind of case than those before."""
        return self.ended, self.about


def readers() -> ReaderPool:
    """Readers with small limits and stand-ins for the detectors."""
    return ReaderPool(limits=LIMITS, watcher="tests.clips:BoardWatcher", listener="tests.clips:LoudListener")


def judge(content: bytes, reader: Reader) -> Verdict:
    """Read a file of these bytes.

    Args:
        reader: of `readers`.
    """
    verdict = Verdict()
    descriptor = os.memfd_create("fuzz")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        _read(descriptor, reader, verdict)
    except MoodreelError as error:
        verdict.ended = error.code
        if error.code not in FAILURES or isinstance(error, Internal) or "nonsense" in str(error):
            verdict.wrong.append(str(error))
        if len(str(error)) > 3000:
            verdict.wrong.append("a message of 3000 characters")
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        verdict.wrong.append(f"{type(error).__name__}: {error}")
    finally:
        os.close(descriptor)
    return verdict


def _read(descriptor: int, reader: Reader, verdict: Verdict) -> None:
    probe = reader.probe(descriptor, "film")
    known = facts(probe, Source("film", "1", 1, 0.0))
    if known.recorded_at is not None:
        known.recorded_at.astimezone(UTC)  # as the database does
    verdict.about = f"{probe.container} {probe.audio_codec} {probe.video_codec} {probe.seekable}"
    models: Any = InstantModels()
    states: Counter[tuple[str, str]] = Counter()
    for span in planned(RECIPE.plan, probe)[:MAX_SPANS]:
        claim = SpanClaim(**vars(span), annotation_id=1, owner="fuzz", epoch=1, attempts=1, windows_done=0)
        run = SpanRun(claim, RECIPE, models, has_audio=probe.has_audio, has_video=probe.has_video)
        expected = claim.first_window
        for rows in run.rows(reader.read(descriptor, "film", read_request(claim, RECIPE))):
            for row in rows:
                verdict.wrong += wrong_with(row, expected)
                expected += 1
                states[row[_WINDOW["audio_state"]], row[_WINDOW["video_state"]]] += 1
        if claim.last_window is not None and expected != claim.last_window:
            verdict.wrong.append(f"{expected} windows instead of {claim.last_window}")
        end = run.true_end_seconds
        if end is not None and not 0 <= end <= LIMITS.max_seconds + 3600:
            verdict.wrong.append(f"it ends at {end}")
        if run.warning is not None:
            verdict.ended = f"({run.warning[0]})"
    verdict.about += f" {sorted(states)}"


def wrong_with(row: tuple[Any, ...], index: int) -> Iterable[str]:
    """What breaks an invariant of a window's row."""
    start, end = row[_WINDOW["start_seconds"]], row[_WINDOW["end_seconds"]]
    states = (row[_WINDOW["audio_state"]], row[_WINDOW["video_state"]])
    if row[0] != index or start != RECIPE.plan.window(index).start_seconds:
        yield f"window {row[0]} at {start} where {index} was to come"
    if not start < end <= RECIPE.plan.window(index).end_seconds:
        yield f"window {index} lasts from {start} to {end}"
    if states[0] not in AUDIO_STATES or states[1] not in VIDEO_STATES:
        yield f"window {index} has states {states}"
    for share in (row[_WINDOW["speech_share"]], row[_WINDOW["face_share"]]):
        if share is not None and not 0 <= share <= 1:
            yield f"window {index} has a share of {share}"
    first = _WINDOW["face_count"] + 1
    for state, scores in zip(states, (row[first : first + 8], row[first + 8 : first + 16]), strict=True):
        has_none = all(score is None for score in scores)
        if has_none != (state != "ok"):
            yield f"window {index} is {state} with scores {scores}"
        elif not has_none:
            known = [score for score in scores if score is not None]  # NULL: a label that the model does not know
            total = sum(known)
            if not math.isfinite(total) or abs(total - 1) > SUM_TOLERANCE or min(known) < 0:
                yield f"window {index} has scores that sum to {total}"


def held() -> dict[str, int]:
    """What this process has: descriptors, children, rings and lent memory that are mapped, KiB of its own memory."""
    maps, status = Path("/proc/self/maps").read_text(), Path("/proc/self/status").read_text()
    children = sum(len(task.read_text().split()) for task in Path("/proc/self/task").glob("*/children"))
    (anonymous,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "children": children,
        "shared memory": maps.count("moodreel-"),
        "KiB": int(anonymous.split()[1]),
    }
