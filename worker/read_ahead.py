"""Reads a distant object as a file is read, at any place, a little ahead of where it is read. Knows no store.

What is fetched are blocks. Reading on from one place is a run; a run has a window, how far ahead of it blocks are
fetched, and the window doubles when the reader had to wait for a block. So whoever reads faster than single blocks come
soon has several large ones under way, while a decoder, which is slower, is only little ahead of itself, and a span
fetches little more than its own bytes. Some blocks are kept: the streams of a file may lie far apart, and are read in
turn.

Blocks lie in one piece of memory, of a fixed size, that another process can read as well. Reading gives places in it,
so that nothing is copied on the way there.
"""

import itertools
import os
import queue
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from worker.memory import lendable_memory

MIN_BLOCK_BYTES = 1 << 18
MAX_AHEAD_BYTES = 5 << 23  # that all windows together may have, 40 MiB
MEMORY_BYTES = 1 << 26  # for all blocks, 64 MiB: the windows, a quarter more at either end of each, and some to spare
GROWTH = 32  # of what a run has brought, how much is fetched at once: long ones cost fewer requests
MIN_GIVEN_BYTES = 1 << 16  # of a block, at once, or a quarter of it: who reads on is heard of before its end
MAX_RUNS, LIVE_READS = 4, 64  # places that are read in turn, and after how many reads elsewhere one is left
FETCHERS = 4  # blocks that are fetched at once; of a window, and so the longest is a part of it
MAX_BLOCK_BYTES = MAX_AHEAD_BYTES // FETCHERS

_NEEDED, _AHEAD, _LAST = 0, 1, 2  # which is fetched first

# Called with an offset and a length in bytes; gives those bytes as they arrive.
Fetch = Callable[[int, int], Generator[bytes, None, None]]


class Abandoned(Exception):  # noqa: N818 - nothing went wrong
    """Raised when nobody waits for the bytes any more."""


@dataclass(eq=False)
class _Block:
    """A part of the object.

    Attributes:
        place: where in the memory it lies.
        filled: how many of its bytes are there.
        read_at: when it was last read from, by the count of reads; 0: not yet.
        error: why it will never be complete.
        is_waited_for: whether a read had to wait for it.
    """

    start: int
    length: int
    place: int
    filled: int = 0
    read_at: int = 0
    error: BaseException | None = None
    is_waited_for: bool = False

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def is_settled(self) -> bool:
        """Whether nobody is filling it, or is going to."""
        return self.error is not None or self.filled == self.length


@dataclass
class _Run:
    """A stretch that is read from its start on.

    Attributes:
        end: how far its blocks go.
        window: how far ahead of the reader they shall go.
        offset: where it was last read.
        read_at: when it was last read, by the count of reads.
    """

    start: int
    end: int
    window: int
    offset: int = 0
    read_at: int = 0


class ReadAhead:
    """An object's bytes; a context manager. One reads at a time; `close` may come from anywhere.

    Args:
        fetch: gets bytes; called by several threads at once.
        size_bytes: of the object.

    Attributes:
        descriptor: of the memory in which what is read lies.
    """

    def __init__(self, fetch: Fetch, size_bytes: int) -> None:
        self._fetch, self.size_bytes = fetch, size_bytes
        memory, self.descriptor = lendable_memory(MEMORY_BYTES)
        self._memory = np.frombuffer(memory, np.uint8)
        self._blocks: list[_Block] = []
        self._runs: list[_Run] = []  # the one read last comes first
        self._n_reads = 0
        self._numbers = itertools.count()
        self._wanted: queue.PriorityQueue[tuple[int, int, _Block | None]] = queue.PriorityQueue()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        for number in range(FETCHERS):
            threading.Thread(target=self._fetch_blocks, name=f"fetch-{number}", daemon=True).start()

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Fetch nothing more, and forget everything; whoever waits is told."""
        with self._changed:
            if not self._closed.is_set():
                os.close(self.descriptor)
            self._closed.set()
            self._blocks.clear()
            self._changed.notify_all()
        for _ in range(FETCHERS):
            self._wanted.put((_LAST, next(self._numbers), None))

    def wake(self) -> None:
        """Let a read that waits look whether it is abandoned."""
        with self._changed:
            self._changed.notify_all()

    def read(self, offset: int, is_abandoned: Callable[[], bool] = lambda: False) -> tuple[int, int]:
        """Where in the memory bytes from an offset on lie, until the next read, and how many; none beyond the end.

        Raises:
            Abandoned: it is, or this is closed.
            Exception: what fetching them came to.
        """
        if offset >= self.size_bytes:
            return 0, 0
        with self._changed:
            self._n_reads += 1
            block = self._block_at(offset, is_abandoned)
            while offset >= block.start + block.filled:
                self._check(is_abandoned)
                if block.error is not None:
                    self._blocks.remove(block)  # whoever reads it again tries again
                    raise block.error
                self._wait_for(block)
            first = offset - block.start
            length = min(block.filled - first, max(MIN_GIVEN_BYTES, block.length // 4))
            return block.place + first, length

    def _check(self, is_abandoned: Callable[[], bool]) -> None:
        if self._closed.is_set() or is_abandoned():
            raise Abandoned

    def _block_at(self, offset: int, is_abandoned: Callable[[], bool]) -> _Block:
        """The block that holds an offset; what is to be fetched by now is being fetched."""
        block = self._find(offset)
        run = self._run_at(offset, block)
        while block is None:
            block = self._schedule(run, _NEEDED)
            if block is None:  # all that is there is being fetched
                self._check(is_abandoned)
                self._changed.wait()
        block.read_at = run.read_at = self._n_reads
        run.offset = offset
        self._extend(run, offset)
        return block

    def _find(self, offset: int) -> _Block | None:
        return next((block for block in self._blocks if block.start <= offset < block.end), None)

    def _run_at(self, offset: int, block: _Block | None) -> _Run:
        """The run that reading there continues, or a new one."""
        for run in self._runs:
            if run.end == offset if block is None else run.start <= offset <= run.end:
                break
        else:
            run = _Run(offset, offset if block is None else block.end, MIN_BLOCK_BYTES, offset)
        self._runs = [run, *(other for other in self._runs if other is not run)][:MAX_RUNS]
        return run

    @property
    def _live(self) -> list[_Run]:
        """The runs that are being read, in turn."""
        return [run for run in self._runs if self._n_reads - run.read_at < LIVE_READS]

    @property
    def _share(self) -> int:
        """How far the window of a run may go: those that are read in turn have equal parts of what there is."""
        return MAX_AHEAD_BYTES // max(1, len(self._live))

    def _extend(self, run: _Run, offset: int) -> None:
        """Fetch ahead as far as the run's window goes, and memory allows."""
        window = min(run.window, self._share)
        while run.end < min(self.size_bytes, offset + window):
            known = self._find(run.end)
            if known is not None:  # of another run
                run.end = known.end
            elif self._schedule(run, _AHEAD) is None:
                return

    def _next_length(self, run: _Run) -> int:
        """How long the next block of a run is: a part of its window or of itself, up to what lies there already."""
        following = (block.start for block in self._blocks if block.start > run.end)
        room = min(following, default=self.size_bytes) - run.end
        part = max(run.window // FETCHERS, (run.end - run.start) // GROWTH)
        return min(room, max(MIN_BLOCK_BYTES, min(self._share // FETCHERS, part)))

    def _schedule(self, run: _Run, priority: int) -> _Block | None:
        """Have the next block of a run fetched, if there is room for it; where there is little, a shorter one."""
        length = self._next_length(run)
        while (place := self._room(length, _AHEAD)) is None and length > MIN_BLOCK_BYTES:
            length = max(MIN_BLOCK_BYTES, length // 2)
        if place is None and priority == _NEEDED:
            place = self._room(length, priority)
        if place is None:
            return None
        block = _Block(run.end, length, place)
        self._blocks.append(block)
        self._wanted.put((priority, next(self._numbers), block))
        run.end = block.end
        return block

    def _room(self, length: int, priority: int) -> int | None:
        """Where a block can lie. If need be others are forgotten for it, the one read longest ago first.

        Blocks that are being filled stay, and the one that is being read; so does what a run that is being read has
        yet to come to, unless the new one is needed at once.
        """
        place, live = self._gap(length), self._live

        def is_ahead(block: _Block) -> bool:
            return any(run.offset < block.end and block.start < run.end for run in live)

        spare = (block for block in self._blocks if block.is_settled and block.read_at < self._n_reads)
        for block in sorted(spare, key=lambda block: (is_ahead(block), block.read_at)) if place is None else ():
            if place is not None or (priority == _AHEAD and is_ahead(block)):
                break
            self._blocks.remove(block)
            place = self._gap(length)
        return place

    def _gap(self, length: int) -> int | None:
        """The first place in the memory where so many bytes are free."""
        end = 0
        for block in sorted(self._blocks, key=lambda block: block.place):
            if block.place - end >= length:
                break
            end = block.place + block.length
        return end if end + length <= MEMORY_BYTES else None

    def _wait_for(self, block: _Block) -> None:
        """Wait until something has changed. Whoever waits for a block has too little ahead of him."""
        run = self._runs[0]
        if not block.is_waited_for and block.start != run.start:  # everybody waits for the first
            run.window = min(2 * run.window, MAX_AHEAD_BYTES)
            self._extend(run, block.start)
        block.is_waited_for = True
        self._changed.wait()

    def _fetch_blocks(self) -> None:
        while (block := self._wanted.get()[2]) is not None:
            try:
                self._fill(block)
            except BaseException as error:  # noqa: BLE001 - it is raised where the block is read
                with self._changed:
                    block.error = error
                    self._changed.notify_all()

    def _fill(self, block: _Block) -> None:
        if self._closed.is_set():
            return
        with closing(self._fetch(block.start, block.length)) as arriving:
            for chunk in arriving:
                place = block.place + block.filled
                self._memory[place : place + len(chunk)] = np.frombuffer(chunk, np.uint8)  # without the GIL
                with self._changed:
                    if self._closed.is_set():
                        return
                    block.filled += len(chunk)
                    self._changed.notify_all()
