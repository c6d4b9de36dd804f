"""Jobs of the fleet for tests: videos asked for, planned, and taken by workers."""

from typing import Any

import sqlalchemy as sa

from db.identity import Source
from db.rows import FINISH, PLAN, SPAN, Job, SpanClaim, StepClaim
from db.store import Store
from tests.database import fused_row, planned, segment, window_row

LEASE_SECONDS = 60.0
ATTEMPTS = 3


def pipeline(store: Store, digest: str = "d1") -> int:
    return store.register_pipeline(digest, "windows", "compact", {"window_seconds": 2.0})


def source(uri: str, version: str = "1", size_bytes: int = 1000) -> Source:
    return Source(uri, version, size_bytes, 0.0)


def submit(store: Store, *uris: str, priority: int = 0, version: str = "1") -> list[int]:
    """Ask for videos; their annotations, in the order of the uris."""
    store.submit(pipeline(store), [source(uri, version) for uri in uris], priority)
    query = "SELECT v.uri, a.id FROM annotations a JOIN videos v ON v.id = a.video_id AND v.version = a.version"
    ids = dict(rows(store, query))
    return [ids[uri] for uri in uris]


def rows(store: Store, sql: str) -> list[tuple[Any, ...]]:
    with store.reading() as connection:
        return [tuple(row) for row in connection.execute(sa.text(sql))]


def change(store: Store, sql: str) -> None:
    with store.writing() as connection:
        connection.execute(sa.text(sql))


def due(store: Store, room: int = 100, resend_seconds: float = 300.0) -> list[str]:
    """What is due now, as `kind id`."""
    return [f"{item.job.kind} {item.job.id}" for item in store.take_due(room, resend_seconds)]


def take(store: Store, job: Job, owner: str = "worker", lease_seconds: float = LEASE_SECONDS) -> Any:
    """The claim of a job; None if it is not to be had."""
    claim = store.claim_span if job.kind == SPAN else store.claim_step
    return claim(job, owner, lease_seconds, ATTEMPTS)


def take_plan(store: Store, annotation_id: int, owner: str = "worker", lease_seconds: float = 60.0) -> StepClaim:
    return _taken(take(store, Job(PLAN, annotation_id), owner, lease_seconds))


def take_span(store: Store, annotation_id: int, span: int = 0, owner: str = "worker", lease: float = 60.0) -> SpanClaim:
    return _taken(take(store, Job(SPAN, annotation_id, span), owner, lease))


def take_finish(store: Store, annotation_id: int, owner: str = "worker", lease_seconds: float = 60.0) -> StepClaim:
    return _taken(take(store, Job(FINISH, annotation_id), owner, lease_seconds))


def _taken(claim: Any) -> Any:
    assert claim is not None
    return claim


def plan(store: Store, annotation_id: int, *edges: int) -> None:
    """Plan an annotation as a worker does, into spans that start at these windows."""
    store.plan(annotation_id, planned(*(edges or (0,))), take_plan(store, annotation_id))


def do_span(store: Store, annotation_id: int, span: int = 0) -> None:
    """Annotate a span as a worker does, with two windows."""
    claim = take_span(store, annotation_id, span)
    first = claim.first_window
    store.checkpoint(claim, [window_row(first), window_row(first + 1)])
    store.complete_span(claim, first + 3.0 if claim.last_window is None else None)


def finish(store: Store, annotation_id: int, claim: StepClaim | None = None) -> None:
    """Finish an annotation as a worker does."""
    claim = claim or take_finish(store, annotation_id)
    stored = store.windows(annotation_id)
    end = stored[-1][2]
    fused = [fused_row(row[0]) for row in stored]
    facts = {"duration_seconds": end, "provenance": {"device": "cpu"}}
    store.finish(annotation_id, fused, [segment(0.0, end)], **facts, claim=claim)


def do_all(store: Store, annotation_id: int, *edges: int) -> None:
    """Take a video all the way."""
    plan(store, annotation_id, *edges)
    for span in store.spans(annotation_id):
        do_span(store, annotation_id, span.span_index)
    finish(store, annotation_id)


def failed(store: Store, claim: Any, *, permanent: bool = False, delay_seconds: float = 0.0, **options: Any) -> str:
    """Let a job come to nothing."""
    options = {"permanent": permanent, "max_attempts": ATTEMPTS, "delay_seconds": delay_seconds} | options
    return store.fail_job(claim, "decoder_crashed", "Bang.", **options)
