"""A worker of one machine that is killed around its commits: `python -m tests.faults.dying URL before|after`.

It annotates one video without media or models. The first process is killed (SIGKILL) at its first commit, the next one
at its second, and so on, each going on from what the ones before it left, until one comes to its end. Prints how many
died.
"""

import os
import signal
import sys
from typing import Any

import sqlalchemy as sa

from db.store import Store
from tests.database import fused_row, planned, requested, segment, window_row

LAST_WINDOW = 8
EDGES = (0, 3, 6)  # spans' first windows
MOST = 200  # processes


def die_at(engine: sa.Engine, number: int, when: str) -> None:
    """Kill this process just before or just after its `number`-th commit that may write."""
    commit, seen = engine.dialect.do_commit, 0

    def dying(connection: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        commit(connection)
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    engine.dialect.do_commit = dying  # type: ignore[method-assign]


def work(store: Store) -> None:
    """Go on with the video as `worker.pipeline` does, from wherever it stands."""
    annotation_id = requested(store)
    if store.annotation(annotation_id).status == "done":
        return
    store.begin_attempt(annotation_id)
    if not store.spans(annotation_id):
        store.plan(annotation_id, planned(*EDGES))
    dead = store.lease_owners(annotation_id)
    while (claim := store.claim(annotation_id, f"worker {os.getpid()}", 600.0, dead)) is not None:
        end = LAST_WINDOW + 1 if claim.last_window is None else claim.last_window
        for window in range(claim.first_window + claim.windows_done, end):
            store.checkpoint(claim, [window_row(window)])
        store.complete_span(claim, LAST_WINDOW + 2.0 if claim.last_window is None else None)
    windows = range(LAST_WINDOW + 1)
    end_seconds = LAST_WINDOW + 2.0
    facts = {"duration_seconds": end_seconds, "provenance": {"device": "cpu"}}
    store.finish(annotation_id, [fused_row(n) for n in windows], [segment(0.0, end_seconds)], **facts)


def main(url: str, when: str) -> None:
    """Start workers until one of them ends by itself."""
    for number in range(1, MOST):
        pid = os.fork()
        if pid == 0:
            with Store(url) as store:
                die_at(store.engine, number, when)
                work(store)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            print(number - 1)
            return
        if status != -signal.SIGKILL:
            sys.exit(f"a worker ended with status {status}")
    sys.exit("no end")


if __name__ == "__main__":
    main(*sys.argv[1:])
