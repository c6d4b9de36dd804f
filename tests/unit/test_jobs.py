"""The fleet's queue: whose turn it is, who gets it, and what becomes of what fails, is lost, stale or cancelled."""

import time

import pytest

from db import jobs
from db.errors import ChangedWhileReading, LeaseLost
from db.rows import FINISH, PLAN, SPAN, DueJob, Job, MediaFacts, Worker
from tests.database import planned, requested, window_row
from tests.fleet import (
    ATTEMPTS,
    change,
    do_all,
    do_span,
    due,
    failed,
    finish,
    pipeline,
    plan,
    rows,
    source,
    submit,
    take,
    take_finish,
    take_plan,
    take_span,
)


def waiting(store, annotation_id, seconds):
    """Let it have been asked for so long ago."""
    change(store, f"UPDATE annotations SET queue_key = queue_key - {seconds} WHERE id = {annotation_id}")


def expire(store):
    """Let every lease run out, as far as the rows know."""
    for table in ("annotations", "spans"):
        change(store, f"UPDATE {table} SET lease_until = 0 WHERE lease_until IS NOT NULL")


def sent_long_ago(store):
    for table in ("annotations", "spans"):
        change(store, f"UPDATE {table} SET sent_at = sent_at - 1000")


def wait_no_longer(store):
    for table in ("annotations", "spans"):
        change(store, f"UPDATE {table} SET available_at = 0 WHERE available_at IS NOT NULL")


def everything(store):
    """All rows that jobs are made of."""
    return [
        rows(store, f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("annotations", "spans", "windows", "segments")
    ]


# --- whose turn it is


def test_first_come_first_served(store):
    first, second, third = submit(store, "a", "b", "c")
    waiting(store, third, 10)
    waiting(store, second, 5)
    assert due(store) == [f"plan {third}", f"plan {second}", f"plan {first}"]


def test_priority_overtakes_but_nothing_starves(store):
    (old,) = submit(store, "old")
    (older,) = submit(store, "older")
    (urgent,) = submit(store, "urgent", priority=1)
    waiting(store, old, 590)
    waiting(store, older, 610)
    assert due(store) == [f"plan {older}", f"plan {urgent}", f"plan {old}"]


def test_low_priority_waits(store):
    (backfill,) = submit(store, "backfill", priority=-2)
    (fresh,) = submit(store, "fresh")
    waiting(store, backfill, 1190)
    assert due(store, room=1) == [f"plan {fresh}"]


def test_a_message_carries_the_priority(store):
    submit(store, "a", priority=7)
    (item,) = store.take_due(1, 300.0)
    assert item == DueJob(Job(PLAN, item.job.annotation_id), 7, resent=False)


def test_finishing_comes_first_and_spans_in_their_order(store):
    first, second = submit(store, "a", "b")
    waiting(store, first, 100)
    plan(store, first, 0, 10, 20)
    plan(store, second)
    do_span(store, second)
    assert due(store) == [f"finish {second}", *(f"annotate_span {first}/{span}" for span in range(3))]


def test_spans_and_plans_are_in_one_queue(store):
    first, second, third = submit(store, "a", "b", "c")
    for position, annotation_id in enumerate((first, second, third)):
        waiting(store, annotation_id, 30 - position)
    plan(store, second, 0, 10)
    assert due(store) == [f"plan {first}", f"annotate_span {second}/0", f"annotate_span {second}/1", f"plan {third}"]


def test_no_more_than_there_is_room_for(store):
    ids = submit(store, "a", "b", "c")
    for position, annotation_id in enumerate(ids):
        waiting(store, annotation_id, 30 - position)
    plan(store, ids[0], 0, 10)
    assert due(store, room=0) == due(store, room=-5) == []
    assert due(store, room=2) == [f"annotate_span {ids[0]}/0", f"annotate_span {ids[0]}/1"]
    assert store.outstanding() == 2
    assert due(store, room=2) == [f"plan {ids[1]}", f"plan {ids[2]}"]
    assert due(store, room=2) == []
    assert store.outstanding() == 4


def test_what_somebody_does_is_not_due(store):
    (annotation_id,) = submit(store, "a")
    claim = take_plan(store, annotation_id)
    assert due(store) == []
    store.plan(annotation_id, planned(0, 2), claim)
    span = take_span(store, annotation_id, 0)
    assert due(store) == [f"annotate_span {annotation_id}/1"]
    store.checkpoint(span, [window_row(0), window_row(1)])
    store.complete_span(span)
    do_span(store, annotation_id, 1)
    finishing = take_finish(store, annotation_id)
    assert due(store) == []
    finish(store, annotation_id, finishing)
    assert due(store, resend_seconds=0.0) == []
    assert store.outstanding() == 0


def test_the_last_span_makes_finishing_due_and_no_other(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id, 0, 2, 4)
    for span in (2, 0, 1):
        assert not [job for job in due(store, resend_seconds=-1.0) if job.startswith("finish")]
        do_span(store, annotation_id, span)
    assert due(store) == [f"finish {annotation_id}"]


def test_an_abandoned_job_is_due_again(store):
    (annotation_id,) = submit(store, "a")
    take_plan(store, annotation_id)
    expire(store)
    assert due(store) == [f"plan {annotation_id}"]
    plan(store, annotation_id)
    take_span(store, annotation_id)
    expire(store)
    assert due(store) == [f"annotate_span {annotation_id}/0"]
    do_span(store, annotation_id)
    take_finish(store, annotation_id)
    expire(store)
    assert due(store) == [f"finish {annotation_id}"]


def test_what_was_annotated_without_the_fleet_is_not_the_fleets(store):
    pending, begun, ready = (requested(store, uri) for uri in ("a", "b", "c"))
    store.plan(begun, planned(0))
    store.plan(ready, planned(0))
    do_span(store, ready)
    assert due(store) == []
    assert store.cancel() == 0
    assert set(store.fleet().jobs.values()) == {0}
    assert {store.annotation(key).status for key in (pending, begun, ready)} == {"pending", "planned", "running"}


def test_choosing_reads_only_what_is_next(store):
    """By indexes which hold only that: not all that was ever annotated, nor all that is asked for."""
    for sql in _choosing(store):
        with store.reading() as connection:
            explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
            if connection.dialect.name == "postgresql":  # which reads small tables whole, if it may
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
                connection.exec_driver_sql("SET LOCAL enable_sort = off")
            told = "\n".join(str(row) for row in connection.exec_driver_sql(explain + sql))
        assert "ix_annotations_to_" in told, told
        assert "SCAN annotations" not in told, told
        assert "Seq Scan" not in told, told


def _choosing(store):
    queries = [
        query
        for key in (None, 7)
        for query in (jobs._plans(1.0, "", 9, key), jobs._spans(1.0, "", 9, key), jobs._finishes(1.0, 9, key))
    ]
    return [str(query.compile(store.engine, compile_kwargs={"literal_binds": True})) for query in queries]


# --- messages: sent, lost, not taken by the broker


def test_a_sent_job_is_sent_again_only_after_a_while(store):
    plain, spanned = submit(store, "a", "b")
    plan(store, spanned)
    jobs = due(store)
    assert sorted(jobs) == [f"annotate_span {spanned}/0", f"plan {plain}"]
    assert due(store) == []
    sent_long_ago(store)
    again = store.take_due(100, 300.0)
    assert [item.resent for item in again] == [True, True]
    assert sorted(f"{item.job.kind} {item.job.id}" for item in again) == sorted(jobs)
    assert due(store) == []


def test_lost_messages_do_not_fill_the_queue_for_ever(store):
    """If nobody answers, what is outstanding must shrink even where there is no room for more."""
    submit(store, "a", "b")
    due(store)
    sent_long_ago(store)
    assert store.outstanding() == 2
    assert due(store, room=0) == []
    assert store.outstanding() == 0


def test_what_the_broker_did_not_take_is_due_at_once(store):
    _, spanned = submit(store, "a", "b")
    plan(store, spanned)
    jobs = [item.job for item in store.take_due(100, 300.0)]
    store.unsend(jobs)
    assert store.outstanding() == 0
    assert [item.resent for item in store.take_due(100, 300.0)] == [False, False]
    store.unsend([])


def test_a_claim_answers_the_message(store):
    (annotation_id,) = submit(store, "a")
    due(store)
    take_plan(store, annotation_id)
    assert store.outstanding() == 0


@pytest.mark.parametrize("kind", [PLAN, SPAN, FINISH])
def test_a_message_with_nothing_to_do_is_answered_too(store, kind):
    """Else the row would count as outstanding for ever, and in the end nothing would be sent any more."""
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id)
    job = Job(kind, annotation_id, 0 if kind == SPAN else None)
    due(store)
    store.cancel()
    for table in ("annotations", "spans"):
        change(store, f"UPDATE {table} SET sent_at = 1")  # marked in the moment that it was cancelled
    assert take(store, job) is None
    left = rows(store, "SELECT sent_at FROM spans" if kind == SPAN else "SELECT sent_at FROM annotations")
    assert left == [(None,)]


def test_spans_left_behind_by_a_failure_are_not_outstanding_for_ever(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id, 0, 10, 20)
    due(store)
    assert failed(store, take_span(store, annotation_id, 0), permanent=True) == "failed"
    sent_long_ago(store)
    assert due(store) == []
    assert store.outstanding() == 0


# --- limits of sources


def test_a_source_has_no_more_readers_than_it_may(store):
    on_nas = submit(store, "/nas/a", "/nas/b", "/nas/c")
    (elsewhere,) = submit(store, "/disk/d")
    for position, annotation_id in enumerate(on_nas):
        waiting(store, annotation_id, 30 - position)
    store.limit_source("/nas/", 2)
    assert due(store) == [f"plan {on_nas[0]}", f"plan {on_nas[1]}", f"plan {elsewhere}"]
    assert due(store) == []  # two messages are on their way
    claim = take_plan(store, on_nas[0])
    assert due(store) == []  # one is, and one is being planned
    store.plan(on_nas[0], planned(0, 10, 20), claim)
    assert due(store) == [f"annotate_span {on_nas[0]}/0"]
    take_span(store, on_nas[0], 0)
    assert due(store) == []
    expire(store)
    assert due(store) == [f"annotate_span {on_nas[0]}/0"]  # its reader is gone


def test_a_limit_does_not_leave_room_unused(store):
    """What a limit keeps back, though it is first in the queue, must not stand before the others."""
    on_nas = submit(store, *(f"/nas/{index}" for index in range(20)))
    others = submit(store, *(f"/disk/{index}" for index in range(5)))
    for annotation_id in on_nas:
        waiting(store, annotation_id, 100)
    store.limit_source("/nas/", 1)
    assert sorted(due(store, room=6)) == sorted(f"plan {key}" for key in (on_nas[0], *others))


def test_nested_limits_all_hold_within_one_batch(store):
    inner = submit(store, *(f"/nas/slow/{index}" for index in range(5)))
    outer = submit(store, *(f"/nas/{index}" for index in range(5)))
    for annotation_id in inner:
        waiting(store, annotation_id, 100)
    store.limit_source("/nas/", 3)
    store.limit_source("/nas/slow/", 2)
    assert due(store) == [f"plan {key}" for key in (*inner[:2], outer[0])]
    store.limit_source("", 4)
    (other,) = submit(store, "elsewhere")
    submit(store, "elsewhere too")
    assert due(store) == [f"plan {other}"]


def test_finishing_reads_nothing_and_is_not_limited(store):
    first, second = submit(store, "/nas/a", "/nas/b")
    store.limit_source("/nas/", 1)
    plan(store, first)
    do_span(store, first)
    take_plan(store, second)
    assert due(store) == [f"finish {first}"]
    take_finish(store, first)
    store.give_back(take_plan(store, submit(store, "/disk/c")[0]))
    assert len(due(store)) == 1


def test_a_limit_of_zero_stops_a_source(store):
    submit(store, "/nas/a")
    store.limit_source("/nas/", 0)
    assert due(store) == []
    store.limit_source("/nas/", None)
    assert len(due(store)) == 1


def test_a_lost_message_of_a_full_source_is_sent_again(store):
    """A message that is lost must not hold its source's only place for ever."""
    (annotation_id,) = submit(store, "/nas/a")
    submit(store, "/nas/b")
    store.limit_source("/nas/", 1)
    waiting(store, annotation_id, 10)
    assert due(store) == [f"plan {annotation_id}"]
    sent_long_ago(store)
    assert due(store) == [f"plan {annotation_id}"]


def test_limits_may_come_and_go_at_any_time(store):
    ids = submit(store, "/nas/slow/a", "/nas/b", "/disk/c")
    store.limit_source("/nas/", 0)
    submit(store, "/nas/slow/d")
    assert due(store) == [f"plan {ids[2]}"]
    store.limit_source("/nas/slow/", 5)
    assert due(store) == []
    store.limit_source("/nas/", None)
    assert len(due(store)) == 3
    assert store.source_limits() == {"/nas/slow/": 5}
    assert rows(store, "SELECT DISTINCT limited_by FROM annotations ORDER BY 1") == [("",), ("/nas/slow/",)]


def test_what_failed_while_a_limit_came_keeps_to_it(store):
    (annotation_id,) = submit(store, "/nas/a")
    store.name_pipeline("main", pipeline(store), {})  # so that workers can build it
    store.cancel()
    local = requested(store, "/nas/local")
    store.limit_source("/nas/", 0)
    store.fail(local, "internal", "Oh.")
    assert store.retry(code="cancelled") == store.retry() == 1
    later = requested(store, "/nas/later")
    store.fail(later, "internal", "Oh.")
    assert store.retry() == 1
    assert due(store) == []
    store.limit_source("/nas/", 9)
    assert sorted(due(store)) == sorted(f"plan {key}" for key in (annotation_id, local, later))


# --- claims


@pytest.mark.parametrize("kind", [PLAN, SPAN, FINISH])
def test_a_job_is_one_workers_until_its_lease_ends(store, kind):
    (annotation_id,) = submit(store, "a")
    if kind != PLAN:
        plan(store, annotation_id)
    if kind == FINISH:
        do_span(store, annotation_id)
    job = Job(kind, annotation_id, 0 if kind == SPAN else None)
    first = take(store, job, "one")
    assert (first.owner, first.annotation_id) == ("one", annotation_id)
    assert take(store, job, "two") is None
    assert take(store, job, "one") is None
    expire(store)
    second = take(store, job, "two")
    assert second.epoch > first.epoch
    assert store.renew_all([first, second], 60.0) == [first]
    assert failed(store, first) == "lost"
    store.give_back(first)
    assert take(store, job, "three") is None


def test_a_lease_runs_out_by_the_clock(store):
    (annotation_id,) = submit(store, "a")
    take_plan(store, annotation_id, lease_seconds=0.0)
    claim = take_plan(store, annotation_id, "next", lease_seconds=0.0)
    assert store.renew_all([claim], 60.0) == []
    assert take(store, Job(PLAN, annotation_id)) is None


def test_only_what_is_ready_can_be_taken(store):
    (annotation_id,) = submit(store, "a")
    assert take(store, Job(SPAN, annotation_id, 0)) is None
    assert take(store, Job(FINISH, annotation_id)) is None
    plan(store, annotation_id, 0, 2)
    assert take(store, Job(PLAN, annotation_id)) is None
    do_span(store, annotation_id, 0)
    assert take(store, Job(SPAN, annotation_id, 0)) is None
    assert take(store, Job(SPAN, annotation_id, 7)) is None
    assert take(store, Job(FINISH, annotation_id)) is None
    do_span(store, annotation_id, 1)
    finish(store, annotation_id)
    for kind, span in ((PLAN, None), (SPAN, 0), (FINISH, None)):
        assert take(store, Job(kind, annotation_id, span)) is None
        assert take(store, Job(kind, 4711, span)) is None
    assert store.assignment(4711) is None


def test_attempts_are_counted_before_the_work(store):
    (annotation_id,) = submit(store, "a")
    assert take_plan(store, annotation_id).claims == 1
    expire(store)
    assert take_plan(store, annotation_id).claims == 2
    assert store.annotation(annotation_id).attempts == 2
    expire(store)
    plan(store, annotation_id)
    assert take_span(store, annotation_id).attempts == 1
    expire(store)
    assert take_span(store, annotation_id).attempts == 2
    expire(store)
    do_span(store, annotation_id)
    assert take_finish(store, annotation_id).claims == 1  # counted anew for each step


@pytest.mark.parametrize("kind", [PLAN, SPAN, FINISH])
def test_what_kills_its_worker_each_time_is_given_up(store, kind):
    (annotation_id,) = submit(store, "a")
    if kind != PLAN:
        plan(store, annotation_id)
    if kind == FINISH:
        do_span(store, annotation_id)
    job = Job(kind, annotation_id, 0 if kind == SPAN else None)
    for _ in range(ATTEMPTS):
        assert take(store, job) is not None
        expire(store)
    assert take(store, job) is None
    annotation = store.annotation(annotation_id)
    assert (annotation.status, annotation.error_code) == ("failed", "worker_died")
    assert str(ATTEMPTS) in annotation.error_message
    assert due(store) == []
    assert store.lease_owners(annotation_id) == set()


def test_a_span_is_given_up_for_the_reason_that_was_told(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id)
    assert failed(store, take_span(store, annotation_id)) == "again"
    for _ in range(ATTEMPTS - 1):
        take_span(store, annotation_id)
        expire(store)
    assert take(store, Job(SPAN, annotation_id, 0)) is None
    assert store.annotation(annotation_id).error_code == "decoder_crashed"


def test_given_back_is_not_counted(store):
    (annotation_id,) = submit(store, "a")
    for _ in range(2 * ATTEMPTS):
        store.give_back(take_plan(store, annotation_id))
    assert store.annotation(annotation_id).attempts == 0
    plan(store, annotation_id)
    for _ in range(2 * ATTEMPTS):
        store.give_back(take_span(store, annotation_id))
    do_span(store, annotation_id)
    for _ in range(2 * ATTEMPTS):
        store.give_back(take_finish(store, annotation_id))
    finish(store, annotation_id)
    assert store.annotation(annotation_id).attempts == 1


def test_given_back_for_later(store):
    first, second = submit(store, "a", "b")
    plan(store, second)
    claims = take_plan(store, first), take_span(store, second)
    for claim in claims:
        store.give_back(claim, delay_seconds=60.0)
    assert due(store) == []
    assert take(store, Job(PLAN, first)) is None
    assert take(store, Job(SPAN, second, 0)) is None
    wait_no_longer(store)
    assert len(due(store)) == 2


# --- pipelines that nobody does


def submitted(store, digest, *uris, named=True):
    pipeline_id = store.register_pipeline(digest, digest, "compact", {"window_seconds": 2.0})
    if named:
        store.name_pipeline(digest, pipeline_id, {})
    store.submit(pipeline_id, [source(uri) for uri in uris])
    return pipeline_id


def beat(store, name="w", **changes):
    store.beat(Worker(**{"name": name, "kind": "worker", "host": "h", "pid": 1, "version": "1", "slots": 2} | changes))


def test_only_jobs_that_a_worker_does_are_chosen(store):
    one = submitted(store, "one", *(f"a{n}" for n in range(20)))
    submitted(store, "two", "b")
    beat(store, "s", kind="scheduler", slots=0, pipelines=[99])
    assert due(store, 1) == ["plan 1"]  # with no worker there, any job will do
    beat(store, refused=[one])
    assert due(store, 16) == ["plan 21"]
    plan(store, 2)
    plan(store, 3)
    do_span(store, 3)
    assert due(store, 16) == []  # its spans and its finish are not theirs either
    beat(store, "other", pipelines=[one])
    assert due(store, 3) == ["finish 3", "annotate_span 2/0", "plan 4"]
    sent_long_ago(store)
    beat(store, "other", pipelines=[one], refused=[one])
    assert due(store, 16) == ["plan 21"]
    beat(store, "third")  # does all, refuses none
    assert due(store, 3) == ["finish 3", "plan 1", "annotate_span 2/0"]


@pytest.mark.parametrize("gone", [{"slots": 0}, None], ids=["draining", "silent"])
def test_a_worker_that_goes_does_nothing_more(store, gone):
    one = submitted(store, "one", "a")
    two = submitted(store, "two", "b")
    beat(store, "first", pipelines=[one], **(gone or {}))
    if gone is None:
        change(store, "UPDATE workers SET seen_at = seen_at - 61")
    assert len(due(store)) == 2
    sent_long_ago(store)
    beat(store, "second", pipelines=[two])
    assert due(store) == ["plan 2"]


def test_jobs_of_several_pipelines_keep_their_turn(store):
    first, second, third = (submitted(store, name, *(f"{name}{n}" for n in range(3))) for name in ("x", "y", "z"))
    for position, key in enumerate((9, 4, 1, 7, 3)):
        change(store, f"UPDATE annotations SET queue_key = {position} WHERE id = {key}")
    beat(store, refused=[third])
    beat(store, "named", pipelines=[second], refused=[first])
    assert due(store, 3) == ["plan 4", "plan 1", "plan 3"]


# --- what comes to nothing


@pytest.mark.parametrize("kind", [PLAN, SPAN, FINISH])
def test_a_failure_is_tried_again_later_and_then_given_up(store, kind):
    (annotation_id,) = submit(store, "a")
    if kind != PLAN:
        plan(store, annotation_id)
    if kind == FINISH:
        do_span(store, annotation_id)
    job = Job(kind, annotation_id, 0 if kind == SPAN else None)
    for _ in range(ATTEMPTS - 1):
        assert failed(store, take(store, job), delay_seconds=60.0) == "again"
        assert due(store) == []
        assert take(store, job) is None
        wait_no_longer(store)
        assert due(store) == [f"{kind} {job.id}"]
    assert failed(store, take(store, job)) == "failed"
    annotation = store.annotation(annotation_id)
    assert (annotation.status, annotation.error_code, annotation.error_message) == (
        "failed",
        "decoder_crashed",
        "Bang.",
    )
    wait_no_longer(store)
    assert due(store, resend_seconds=-1.0) == []
    assert take(store, job) is None


@pytest.mark.parametrize("kind", [PLAN, SPAN])
def test_a_permanent_failure_is_given_up_at_once(store, kind):
    (annotation_id,) = submit(store, "a")
    if kind == SPAN:
        plan(store, annotation_id, 0, 2)
    job = Job(kind, annotation_id, 0 if kind == SPAN else None)
    assert failed(store, take(store, job), permanent=True) == "failed"
    assert store.annotation(annotation_id).status == "failed"
    assert due(store) == []


def test_the_first_reason_stays(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id, 0, 2)
    first, second = take_span(store, annotation_id, 0), take_span(store, annotation_id, 1)
    ended = {"permanent": True, "max_attempts": 1, "delay_seconds": 0.0}
    assert store.fail_job(first, "truncated", "It ends.", **ended) == "failed"
    assert failed(store, second, permanent=True) == "failed"
    assert store.annotation(annotation_id).error_code == "truncated"


def test_what_was_stored_can_be_thrown_away(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id)
    do_span(store, annotation_id)
    assert failed(store, take_finish(store, annotation_id), permanent=True, discard=True) == "failed"
    assert (store.spans(annotation_id), store.windows(annotation_id)) == ([], [])
    assert store.retry() == 1
    assert due(store) == [f"plan {annotation_id}"]
    do_all(store, annotation_id)


def test_nothing_is_thrown_away_before_it_is_given_up(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id, 0, 2)
    do_span(store, annotation_id, 0)
    for attempt in range(1, ATTEMPTS + 1):
        assert len(store.windows(annotation_id)) == 2
        became = failed(store, take_span(store, annotation_id, 1), discard=True)
        assert became == ("again" if attempt < ATTEMPTS else "failed")
    assert (store.spans(annotation_id), store.windows(annotation_id)) == ([], [])


def test_who_held_a_span_that_was_thrown_away_does_not_hold_the_new_one(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id, 0, 2)
    stale = take_span(store, annotation_id, 0, "stale")
    assert failed(store, take_span(store, annotation_id, 1), permanent=True, discard=True) == "failed"
    assert store.retry() == 1
    plan(store, annotation_id, 0, 2)
    new = take_span(store, annotation_id, 0, "stale")  # even the same worker, in another thread
    with pytest.raises(LeaseLost):
        store.checkpoint(stale, [window_row(0)])
    assert store.renew_all([stale, new], 60.0) == [stale]


# --- what is stale writes nothing


def test_facts_are_stored_with_the_plan_under_its_claim(store):
    (annotation_id,) = submit(store, "a")
    stale = take_plan(store, annotation_id, "stale")
    expire(store)
    current = take_plan(store, annotation_id, "current")
    with pytest.raises(LeaseLost):
        store.plan(annotation_id, planned(0), stale, MediaFacts(width=1))
    assert store.video("a").width is None
    store.plan(annotation_id, planned(0), current, MediaFacts(width=640, has_audio=False))
    video = store.video("a")
    assert (video.version, video.width, video.has_audio, video.height) == ("1", 640, False, None)
    (again,) = submit(store, "b")
    store.observe("b", "1", 1000, MediaFacts(height=480))
    store.plan(again, planned(0), take_plan(store, again), MediaFacts(width=640))
    assert (store.video("b").width, store.video("b").height) == (640, 480)  # facts are added, none taken away


def test_facts_of_an_old_version_are_not_stored_and_nothing_is_planned(store):
    (old,) = submit(store, "a")
    claim = take_plan(store, old)
    (new,) = submit(store, "a", version="2")
    plan(store, new)
    before = everything(store), store.video("a")
    with pytest.raises(ChangedWhileReading):
        store.plan(old, planned(0), claim, MediaFacts(width=640))
    assert (everything(store), store.video("a")) == before
    assert failed(store, claim, permanent=True) == "failed"


def test_a_stale_plan_changes_nothing(store):
    (annotation_id,) = submit(store, "a")
    stale = take_plan(store, annotation_id, "stale")
    expire(store)
    current = take_plan(store, annotation_id, "current")
    before = everything(store)
    with pytest.raises(LeaseLost):
        store.plan(annotation_id, planned(0, 10), stale)
    assert everything(store) == before
    store.plan(annotation_id, planned(0), current)
    with pytest.raises(LeaseLost):
        store.plan(annotation_id, planned(0, 10), stale)
    assert len(store.spans(annotation_id)) == 1


def test_a_stale_finish_changes_nothing(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id)
    do_span(store, annotation_id)
    stale = take_finish(store, annotation_id, "stale")
    expire(store)
    current = take_finish(store, annotation_id, "current")
    before = everything(store)
    with pytest.raises(LeaseLost):
        finish(store, annotation_id, stale)
    assert everything(store) == before
    finish(store, annotation_id, current)
    before = everything(store)
    with pytest.raises(LeaseLost):
        finish(store, annotation_id, stale)
    assert everything(store) == before


def test_a_lease_that_ran_out_may_be_renewed_while_nobody_else_came(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id)
    claim = take_span(store, annotation_id)
    expire(store)
    assert store.renew_all([claim], 60.0) == []
    assert store.renew_all([], 60.0) == []
    assert take(store, Job(SPAN, annotation_id, 0)) is None


# --- cancelling and retrying


def test_cancelling_takes_work_from_workers(store):
    planning, spanning, finishing = submit(store, "a", "b", "c")
    for annotation_id in (spanning, finishing):
        plan(store, annotation_id)
    do_span(store, finishing)
    claims = [take_plan(store, planning), take_span(store, spanning), take_finish(store, finishing)]
    assert store.cancel() == 3
    assert store.renew_all(claims, 60.0) == claims
    with pytest.raises(LeaseLost):
        store.plan(planning, planned(0), claims[0])
    with pytest.raises(LeaseLost):
        store.checkpoint(claims[1], [window_row(0)])
    with pytest.raises(LeaseLost):
        store.complete_span(claims[1])
    with pytest.raises(LeaseLost):
        finish(store, finishing, claims[2])
    assert [failed(store, claim) for claim in claims] == ["lost"] * 3
    for claim in claims:
        store.give_back(claim)
    assert {store.annotation(key).error_code for key in (planning, spanning, finishing)} == {"cancelled"}
    assert due(store, resend_seconds=-1.0) == []
    assert store.outstanding() == 0
    assert store.cancel() == 0


def test_cancelled_work_can_be_asked_for_again(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id, 0, 2)
    do_span(store, annotation_id, 0)
    stale = take_span(store, annotation_id, 1)
    store.cancel()
    assert store.retry() == 0
    assert store.retry(code="cancelled") == 1
    plan(store, annotation_id, 0, 2)
    do_span(store, annotation_id, 1)
    assert store.renew_all([stale], 60.0) == [stale]
    finish(store, annotation_id)
    assert store.annotation(annotation_id).status == "done"


def test_some_can_be_cancelled_and_retried(store):
    ids = submit(store, "/a/1", "/a/2", "/ab/3", "/b_%/4")
    assert store.cancel(["/a"]) == 2
    assert store.cancel(["/b_%/4", "/b_%/4", "/nothing"]) == 1
    assert store.annotation(ids[2]).status == "pending"
    assert store.retry(["/a/1"], code="cancelled") == 1
    assert store.retry(["/a/"], code="cancelled") == 1
    assert store.retry(["/b_%"], code="worker_died") == 0
    assert [store.annotation(key).status for key in ids] == ["pending"] * 3 + ["failed"]


def test_more_than_one_batch_is_cancelled_and_retried(store, monkeypatch):
    monkeypatch.setattr("db.fleet._ROWS_PER_CHANGE", 2)
    submit(store, *"abcde")
    assert store.cancel() == 5
    assert store.retry(code="cancelled") == 5
    assert len(due(store)) == 5


def test_done_is_neither_cancelled_nor_retried(store):
    (annotation_id,) = submit(store, "a")
    do_all(store, annotation_id)
    assert store.cancel() == store.retry() == 0
    assert store.annotation(annotation_id).status == "done"


def test_a_retry_counts_anew_and_keeps_what_is_done(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id, 0, 2)
    do_span(store, annotation_id, 0)
    for _ in range(ATTEMPTS):
        became = failed(store, take_span(store, annotation_id, 1), delay_seconds=0.0)
    assert became == "failed"
    assert store.retry() == 1
    assert store.annotation(annotation_id).attempts == 0
    assert due(store) == [f"plan {annotation_id}"]
    plan(store, annotation_id, 0, 2)
    assert due(store) == [f"annotate_span {annotation_id}/1"]
    assert take_span(store, annotation_id, 1).attempts == 1
    assert [span.status for span in store.spans(annotation_id)] == ["done", "running"]


def test_what_only_its_finishing_failed_for_is_only_finished_again(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id, 0, 2)
    for span in (0, 1):
        do_span(store, annotation_id, span)
    assert failed(store, take_finish(store, annotation_id), permanent=True) == "failed"
    assert due(store) == []
    assert store.retry() == 1
    assert due(store) == [f"finish {annotation_id}"]
    assert take_finish(store, annotation_id).claims == 1
    expire(store)
    finish(store, annotation_id)
    assert store.annotation(annotation_id).status == "done"


def test_a_span_at_work_while_its_annotation_is_retried(store):
    """It goes on; what it does counts, and giving it back, or failing, is the first time again."""
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id, 0, 10, 20)
    going_on = take_span(store, annotation_id, 0)
    given_back, crashing = (take_span(store, annotation_id, span) for span in (1, 2))
    assert failed(store, crashing, permanent=True) == "failed"
    assert store.retry() == 1
    store.give_back(given_back)
    store.complete_span(going_on)
    assert [(span.status, span.attempts) for span in store.spans(annotation_id)][1:] == [("pending", 0)] * 2
    plan(store, annotation_id, 0, 10, 20)
    for span in (1, 2):
        do_span(store, annotation_id, span)
    assert due(store) == [f"finish {annotation_id}"]


def test_the_last_span_may_end_while_its_annotation_waits_to_be_planned_again(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id, 0, 2)
    going_on = take_span(store, annotation_id, 0)
    failed(store, take_span(store, annotation_id, 1), permanent=True)
    store.retry()
    plan(store, annotation_id, 0, 2)
    do_span(store, annotation_id, 1)
    store.complete_span(going_on)
    assert due(store) == [f"finish {annotation_id}"]


# --- what a job is about


def test_an_assignment_says_what_to_do(store):
    (annotation_id,) = submit(store, "/a/b", priority=3)
    assignment = store.assignment(annotation_id)
    assert (assignment.annotation.id, assignment.priority) == (annotation_id, 3)
    assert (assignment.video.uri, assignment.video.version, assignment.pipeline.digest) == ("/a/b", "1", "d1")


@pytest.mark.parametrize("job", [Job(PLAN, 17), Job(SPAN, 17, 3), Job(FINISH, 17)])
def test_a_job_and_its_message(job):
    assert Job.of(job.kind, job.id) == job
    assert job.id == ("17/3" if job.kind == SPAN else "17")


@pytest.mark.parametrize(("kind", "text"), [(PLAN, "1/2"), (SPAN, "1"), (PLAN, ""), (FINISH, "x"), (SPAN, "1/x")])
def test_messages_that_mean_no_job(kind, text):
    with pytest.raises(ValueError, match=r".+"):
        Job.of(kind, text)


def test_neighbours_of_what_kills_its_worker_are_not_quarantined_with_it(store):
    """One process with four slots; one video kills it at once, the others take a while."""
    ids = submit(store, *(f"{n}.mp4" for n in range(8)))
    for annotation_id in ids:
        plan(store, annotation_id)
    killer = ids[0]
    for _ in range(400):
        change(store, "UPDATE spans SET lease_until = lease_until - 5 WHERE status = 'running'")  # five seconds go by
        jobs = [item.job for item in store.take_due(4, 0.0)]
        claims = [claim for job in jobs if job.kind == SPAN and (claim := store.claim_span(job, "worker", 60.0, 5))]
        if any(claim.annotation_id == killer for claim in claims):
            change(store, "UPDATE spans SET lease_until = 0 WHERE status = 'running' AND lease_until > 0")
            change(store, f"UPDATE spans SET lease_until = {time.time()} WHERE lease_until = 0")  # it died
            continue
        for claim in claims:
            store.checkpoint(claim, [window_row(0), window_row(1)])
            store.complete_span(claim, 3.0)
            finish(store, claim.annotation_id)
        if "failed" in store.status().annotations:
            break
    failed_ones = rows(store, "SELECT id, error_code FROM annotations WHERE status = 'failed'")
    assert failed_ones == [(killer, "worker_died")]
