"""One soak: a fleet of two workers that is given files for as long as it lasts, and is measured before and after."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from db.errors import FAILURES
from tests.running_fleet import Fleet, Service
from tests.soak.files import Files
from tests.soak.measure import Held

BACKLOG = 12  # files that wait or are being worked on
N_SAMPLES = 15  # from which a figure before and one after are made
OURS = ("internal", "database_error", "worker_died", "lease_lost")  # failures that no file may bring about
STUCK_SECONDS = 240.0  # without a file that ends, after which the run is given up

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What a soak found.

    Attributes:
        given: how many files of which kind were given.
        ended: how many ended how: done, done with a warning in brackets, or by a failure's code.
        before, after: what the workers held, once they had warmed up, and at the end.
        wrong: what must not be.
    """

    given: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    before: Held | None = None
    after: Held | None = None
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong

    def __str__(self) -> str:
        given = ", ".join(f"{count} {kind}" for kind, count in sorted(self.given.items()))
        ended = ", ".join(f"{how} {count}" for how, count in self.ended.most_common())
        return "\n".join(
            [
                f"{self.given.total()} files in {self.seconds / 60:.1f} minutes: {given}",
                f"ended: {ended}",
                f"before: {self.before}",
                f"after:  {self.after}",
                *(self.wrong or ["flat, and every file ended as done or as a failure that is on the list"]),
            ]
        )


def run(minutes: float, seed: int, folder: Path, say: Say, warm_up: float = 0.2) -> Outcome:
    """Let two workers annotate files for so long, and see that they hold no more at the end.

    Args:
        folder: with a short path, for the files, the servers' data and the logs.
        warm_up: share of the time before the first measurement.

    Raises:
        TimeoutError: the fleet got stuck.
    """
    say("making files")
    files, incoming = iter(Files(folder / "made", seed)), folder / "incoming"
    incoming.mkdir()
    outcome, began = Outcome(), time.monotonic()
    with Fleet(folder) as fleet:
        fleet.run("pipelines", "add", "soak")
        scheduler = fleet.service(
            "scheduler", "watch", incoming, "--pipeline", "soak", "--settle", 0, "--every", 0.5
        ).start()
        how = ("--device", "cpu", "--slots", 2, "--max-attempts", 2)
        workers = [fleet.service(f"worker-{number}", "work", *how).start() for number in range(2)]
        giving = _Giving(fleet, files, incoming, outcome)
        before, after = list[Held](), deque[Held](maxlen=N_SAMPLES)
        while (gone := time.monotonic() - began) < 60 * minutes:
            giving.step()
            after.append(Held.by(workers))
            if gone > 60 * minutes * warm_up and len(before) < N_SAMPLES and len(after[-1].processes) == 2:
                before.append(after[-1])
            say(f"{gone / 60:.1f} of {minutes:g} minutes, {outcome.given.total()} files: {after[-1]}")
            if not all(worker.is_running for worker in workers):
                raise RuntimeError(f"a worker is gone\n{fleet.standing()}")
            if time.monotonic() - giving.moved_at > STUCK_SECONDS:
                raise TimeoutError(f"no file ended for {STUCK_SECONDS:g} s\n{fleet.standing()}")
            time.sleep(0.5)
        say("waiting for the last")
        giving.finish()
        outcome.seconds = time.monotonic() - began
        outcome.before, outcome.after = Held.median(before), Held.median(list(after))
        outcome.wrong += outcome.before.leaks_until(outcome.after)
        _judge(fleet, outcome, [*workers, scheduler])
    return outcome


class _Giving:
    """Keeps a folder filled with files that have not ended, and takes away those that have."""

    def __init__(self, fleet: Fleet, files: Iterator[tuple[str, bytes]], incoming: Path, outcome: Outcome) -> None:
        self._fleet, self._files, self._incoming, self._outcome = fleet, files, incoming, outcome
        self._waiting: set[str] = set()
        self.moved_at = time.monotonic()

    def step(self) -> None:
        """Take away, and give more."""
        ended = {uri for (uri,) in self._fleet.rows(f"SELECT v.uri FROM {_LATEST} AND a.status IN ('done', 'failed')")}
        for path in [path for path in self._waiting if path in ended]:
            Path(path).unlink()
            self._waiting.discard(path)
            self.moved_at = time.monotonic()
        while len(self._waiting) < BACKLOG:
            name, content = next(self._files)
            path = self._incoming / f"{self._outcome.given.total():06}-{name}"
            self._outcome.given[name.partition(".")[0].partition("-")[0]] += 1
            hidden = path.with_name(f".{path.name}")
            hidden.write_bytes(content)
            hidden.rename(path)  # whole from the first look on
            self._waiting.add(str(path))

    def finish(self) -> None:
        """Wait for all that was given."""
        self._fleet.await_videos(self._outcome.given.total(), 120.0)
        self._fleet.finish(300.0)


_LATEST = "annotations a JOIN videos v ON v.id = a.video_id WHERE a.version = v.version"


def _judge(fleet: Fleet, outcome: Outcome, services: list[Service]) -> None:
    for status, code, warning in fleet.rows(f"SELECT a.status, a.error_code, a.warning_code FROM {_LATEST}"):
        outcome.ended[code if status == "failed" else f"({warning})" if warning else status] += 1
    total = outcome.given.total()
    if outcome.ended.total() != total:
        outcome.wrong.append(f"{outcome.ended.total()} files ended of {total}")
    for how in outcome.ended:
        if how.strip("()") not in FAILURES and how != "done":
            outcome.wrong.append(f"ended as {how}, which is no failure that is on the list")
        if how in OURS:
            query = f"SELECT v.uri, a.error_message FROM {_LATEST} AND a.error_code = '{how}' LIMIT 5"
            outcome.wrong += [f"ended as {how}: {uri}: {message}" for uri, message in fleet.rows(query)]
    good = fleet.rows(f"SELECT COUNT(*) FROM {_LATEST} AND v.uri LIKE '%%-good.mp4' AND a.status <> 'done'")[0][0]
    if good:
        outcome.wrong.append(f"{good} files that are good were not annotated")
    half = fleet.rows(f"SELECT COUNT(*) FROM {_LATEST} AND a.status = 'done' AND a.id <> v.current_annotation_id")[0][0]
    if half:
        outcome.wrong.append(f"{half} files are done and not to be seen")
    for service in services:
        if service.end() != 0:
            outcome.wrong.append(f"{service.log.name}: {service.said()[-2000:]}")
