"""One run of fuzzing: rounds of cases, drawn from a seed; what was new in a round is mutated further in the next.

So a run is the same each time, whichever child is faster, as far as what came of its cases is.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.fuzz import seeds
from tests.fuzz.judge import LIMITS, Verdict, held, judge, readers
from tests.fuzz.mutate import mutate
from worker.reader import ReaderPool

ROUND = 500  # cases between two looks at what was new
MAX_NEW = 400  # mutated files that are kept to be mutated further
SLOW_SECONDS = 5.0
HANG_SECONDS = 2 * (LIMITS.silence_seconds + LIMITS.stall_seconds)  # a probe and a read, each at the end of its limits
MAX_GROWTH_KIB = 64 * 1024  # of this process, from the first round to the last, on top of what is kept of files

Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """A mutated file: its number, what it was made of, how, and its bytes."""

    number: int
    origin: str
    done: tuple[str, ...]
    content: bytes


@dataclass
class Outcome:
    """What a run found.

    Attributes:
        ended: how many cases ended how.
        findings: what must not be, by the file that shows it.
        slow: the slowest cases, in seconds.
        leaks: what there is more of at the end than at the start.
        kinds: how many kinds of cases there were, by ending, container, codecs and states.
    """

    ended: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[Path, str]] = field(default_factory=list)
    slow: list[tuple[float, Path]] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    kinds: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings and not self.leaks

    def __str__(self) -> str:
        count = self.ended.total()
        ends = ", ".join(f"{ended} {times}" for ended, times in self.ended.most_common())
        slowest = f"; slowest {self.slow[0][0]:.1f} s" if self.slow else ""
        found = "".join(f"\n{path}: {wrong}" for path, wrong in self.findings) + "".join(f"\n{x}" for x in self.leaks)
        return (
            f"{count} files in {self.seconds:.0f} s ({count / max(self.seconds, 1e-9):.0f} a second), "
            f"{self.kinds} kinds of endings: {ends}{slowest}; {len(self.findings)} findings, "
            f"{len(self.leaks)} leaks{found}"
        )


def run(count: int, seed: int, folder: Path, children: int, say: Say) -> Outcome:
    """Read so many mutated files.

    Args:
        folder: for findings and slow files, which stay there.
        children: that read at once.
        say: is told how far it is.
    """
    with tempfile.TemporaryDirectory() as made_in:
        clips = seeds.make(Path(made_in))
    corpus, outcome, known = dict(clips), Outcome(), set[tuple[str, str]]()
    began = time.monotonic()
    at_first = held()  # whoever runs this may have children of its own
    with readers() as pool, ThreadPoolExecutor(children) as threads:
        _warm_up(pool, threads, children, clips)
        before = held()
        for first in range(0, count, ROUND):
            cases = list(_cases(range(first, min(first + ROUND, count)), seed, corpus))
            verdicts = list(threads.map(lambda case: _judged(case, pool), cases))
            for case, (verdict, seconds) in zip(cases, verdicts, strict=True):
                _note(case, verdict, seconds, outcome, folder)
                is_new = verdict.signature not in known
                known.add(verdict.signature)
                if is_new and len(corpus) < len(clips) + MAX_NEW:
                    corpus[f"case-{case.number}"] = case.content
            done, elapsed = outcome.ended.total(), time.monotonic() - began
            left = (count - done) * elapsed / max(1, done)
            say(
                f"{done} of {count}, {done / elapsed:.0f} a second, {len(outcome.findings)} findings, {left:.0f} s left"
            )
        kept_kib = sum(map(len, corpus.values())) // 1024 + 2 * ROUND * max(map(len, clips.values())) // 1024
        outcome.leaks = _leaks(before, held(), kept_kib)
    left = {what: n - at_first[what] for what, n in held().items() if what in _NONE_AFTER}
    outcome.leaks += [f"{what} after the end: {n}" for what, n in left.items() if n > 0]
    outcome.kinds, outcome.seconds = len(known), time.monotonic() - began
    return outcome


_NONE_AFTER = ("children", "shared memory")


def _warm_up(pool: ReaderPool, threads: ThreadPoolExecutor, children: int, clips: dict[str, bytes]) -> None:
    """Start all children, and see that the clips themselves are read."""
    whole = list(threads.map(lambda clip: _judged(Case(0, "", (), clip), pool), [*clips.values()] * children))
    for name, (verdict, _) in zip(clips, whole, strict=False):
        if verdict.ended not in ("done", "(corrupt_stretch)") or verdict.wrong:
            raise RuntimeError(f"{name} itself is not read: {verdict}")


def _cases(numbers: range, seed: int, corpus: dict[str, bytes]) -> Iterator[Case]:
    names, contents = list(corpus), list(corpus.values())
    for number in numbers:
        random = np.random.default_rng([seed, number])
        origin = int(random.integers(len(names)))
        content, done = mutate(random, contents[origin], contents)
        yield Case(number, names[origin], tuple(done), content)


def _judged(case: Case, pool: ReaderPool) -> tuple[Verdict, float]:
    began = time.monotonic()
    with pool.reader() as reader:
        verdict = judge(case.content, reader)
    return verdict, time.monotonic() - began


def _note(case: Case, verdict: Verdict, seconds: float, outcome: Outcome, folder: Path) -> None:
    outcome.ended[verdict.ended] += 1
    if seconds > HANG_SECONDS:
        verdict.wrong.append(f"it took {seconds:.0f} s, more than its limits allow")
    if verdict.wrong or seconds > SLOW_SECONDS or verdict.ended == "decoder_crashed":
        path = folder / f"{verdict.ended.strip('()')}-{case.number}.bin"
        path.write_bytes(case.content)
        outcome.findings += [(path, f"{wrong} [{case.origin}: {', '.join(case.done)}]") for wrong in verdict.wrong[:3]]
        if seconds > SLOW_SECONDS:
            outcome.slow = sorted([*outcome.slow, (seconds, path)], reverse=True)[:10]


def _leaks(before: dict[str, int], after: dict[str, int], kept_kib: int) -> list[str]:
    allowed = {"KiB": MAX_GROWTH_KIB + kept_kib}
    return [
        f"{what}: {before[what]} before, {after[what]} after"
        for what in before
        if after[what] - before[what] > allowed.get(what, 0)
    ]
