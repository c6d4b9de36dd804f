"""One chaos run: an archive annotated in peace on one machine, then by a fleet under fire, and both compared."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from tests import archive
from tests.chaos.compare import Comparison, compare
from tests.chaos.faults import BucketChaos, Chaos, schedule
from tests.chaos.sources import Bucket, Folder, Source, earlier_versions
from tests.faulty_store import FaultyStore
from tests.running_fleet import Fleet
from tests.servers import ObjectStore
from worker.windows import WindowPlan

VIDEO_SECONDS = (6.0, 14.0)
SPAN_SECONDS = 4
LEASE_SECONDS = 4
STUCK_SECONDS = 300.0  # without a span done, after which the run is given up
SOURCES: dict[str, type[Chaos]] = {"folder": Chaos, "s3": BucketChaos}  # and who strikes a fleet that has them

Say = Callable[[str], None]


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        seed: that it was drawn from.
        spans, videos: how many were annotated.
        struck: how often what happened.
        left: faults that could not happen before the work was done.
        comparison: of the rows with those of the quiet run.
    """

    seed: int
    spans: int = 0
    videos: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    left: int = 0
    comparison: Comparison = field(default_factory=Comparison)

    @property
    def passed(self) -> bool:
        """Whether all happened that was to happen, and the rows are those of a quiet run."""
        return not self.left and not self.comparison.differences

    def __str__(self) -> str:
        faults = ", ".join(f"{kind} {times}x" for kind, times in sorted(self.struck.items()))
        never = f", {self.left} faults never came to pass" if self.left else ""
        head = f"chaos, seed {self.seed}: {self.spans} spans of {self.videos} videos, {self.struck.total()} faults"
        return f"{head} ({faults}){never}: {self.comparison}"


def run(
    spans: int, faults: int, seed: int, folder: Path, say: Say, source: str = "folder", max_attempts: int = 5
) -> Outcome:
    """Annotate an archive of about so many spans in peace, then under so many faults, and compare.

    Args:
        folder: empty, with a short path; it keeps the archive, both databases and the logs.
        say: is told how far it is, once in a while.
        source: one of `SOURCES`, where the fleet finds the videos; in peace they lie in a folder.
        max_attempts: how often a span may be tried before it fails.

    Raises:
        TimeoutError: the fleet got stuck.
    """
    videos, to_strike = folder / "archive", schedule(faults, seed, SOURCES[source].kinds)
    n_videos = videos_for(spans, seed)
    say(f"making {n_videos} videos")
    paths = archive.make(videos, n_videos, VIDEO_SECONDS, seed)
    n_replaced = [kind for _, kind in to_strike].count("object replaced")
    earlier = earlier_versions(folder / "earlier", videos, paths, n_replaced, VIDEO_SECONDS, seed)
    planted = archive.plant(videos)
    with _fleet(folder, source, videos, earlier, seed) as (fleet, place):
        quiet = folder / "quiet.db"
        say("a quiet run on one machine")
        began = time.monotonic()
        fleet.run("annotate", videos, "--db", quiet, "--device", "cpu", status=1)  # the planted files fail
        say(f"the quiet run took {time.monotonic() - began:.0f} s; now the fleet")
        outcome = Outcome(seed)
        outcome.struck, outcome.left = _under_fire(fleet, place, spans, to_strike, seed, say, max_attempts)
        outcome.comparison = compare(str(quiet), fleet.db_url, planted, {path.name for path in earlier.values()})
        outcome.spans = fleet.rows("SELECT COUNT(*) FROM spans WHERE status = 'done'")[0][0]
        outcome.videos = fleet.rows("SELECT COUNT(*) FROM videos")[0][0]
    return outcome


@contextmanager
def _fleet(
    folder: Path, source: str, videos: Path, earlier: dict[str, Path], seed: int
) -> Iterator[tuple[Fleet, Source]]:
    """A fleet, and where it finds the videos."""
    if source == "folder":
        with Fleet(folder) as fleet:
            yield fleet, Folder(videos)
        return
    with (
        ObjectStore(folder) as server,
        FaultyStore(server.url) as proxy,
        Fleet(folder, {**server.environment, "AWS_ENDPOINT_URL_S3": proxy.url}) as fleet,
    ):
        yield fleet, Bucket(server, proxy, videos, earlier, seed)


def videos_for(spans: int, seed: int) -> int:
    """How many videos of an archive have at least so many spans."""
    plan, found = WindowPlan(span_ms=SPAN_SECONDS * 1000), 0
    for number in count():
        if found >= spans:
            return number
        cut = archive.draw(np.random.default_rng([seed, number]), VIDEO_SECONDS)
        found += len(plan.spans(cut.seconds, seekable=True))
    raise AssertionError


def _under_fire(
    fleet: Fleet,
    place: Source,
    spans: int,
    to_strike: list[tuple[float, str]],
    seed: int,
    say: Say,
    max_attempts: int,
) -> tuple[Counter[str], int]:
    """Let a fleet annotate what lies in a place while it is struck; how often what happened, and what could not."""
    fleet.run("pipelines", "add", "chaos", "--span", SPAN_SECONDS)
    watched = place.give(fleet, "chaos")
    scheduler = fleet.service("scheduler", "watch", *watched, "--pipeline", "chaos").start()
    how = ("--device", "cpu", "--slots", 2, "--lease", LEASE_SECONDS, "--grace", 5, "--max-attempts", max_attempts)
    workers = [fleet.service(f"worker-{number}", "work", *how).start() for number in range(2)]
    if isinstance(place, Bucket):
        chaos: Chaos = BucketChaos(fleet, workers, scheduler, seed, LEASE_SECONDS, place)
    else:
        chaos = Chaos(fleet, workers, scheduler, seed, LEASE_SECONDS)
    waiting = list(to_strike)
    progress = _Progress(len(waiting), say)
    while not place.is_over(fleet):
        ((done, planned),) = fleet.rows("SELECT COUNT(*) FILTER (WHERE status = 'done'), COUNT(*) FROM spans")
        progress.tell(done, max(spans, planned), chaos.struck.total())
        if progress.is_stuck:
            raise TimeoutError(f"no span was done for {STUCK_SECONDS:g} s\n{fleet.standing()}")
        chaos.mend()
        due = [fault for fault in waiting if fault[0] <= done / spans]
        struck = next((fault for fault in due if chaos.strike(fault[1])), None)
        if struck is not None:
            waiting.remove(struck)
        place.step(fleet)
        time.sleep(0.05)
    chaos.mend_all()
    place.settle(fleet)
    for service in (*workers, scheduler):
        service.end()
    return chaos.struck, len(waiting)


class _Progress:
    """Says every few seconds how far the fleet is, and when it will be done."""

    def __init__(self, faults: int, say: Say) -> None:
        self._faults, self._say = faults, say
        self._began = self._moved_at = time.monotonic()
        self._told_at, self._done = 0.0, 0

    @property
    def is_stuck(self) -> bool:
        return time.monotonic() - self._moved_at > STUCK_SECONDS

    def tell(self, done: int, spans: int, struck: int) -> None:
        now = time.monotonic()
        if done != self._done:
            self._done, self._moved_at = done, now
        if now - self._told_at < 5.0:
            return
        self._told_at = now
        gone = now - self._began
        left = f", about {gone * (spans - done) / done:.0f} s left" if done else ""
        self._say(f"{done} of {spans} spans, {struck} of {self._faults} faults, {gone:.0f} s gone{left}")
