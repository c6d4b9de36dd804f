"""What people ask of the fleet and what it says of itself: submitted videos, names, limits, workers, figures."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from db.errors import PipelineUnknown
from db.rows import MediaFacts, Submitted, Worker
from db.tables import annotations
from tests.database import annotated, requested
from tests.fleet import (
    change,
    do_all,
    do_span,
    due,
    failed,
    pipeline,
    plan,
    rows,
    source,
    submit,
    take_finish,
    take_plan,
    take_span,
)


def asked(store, *uris, version="1", **options):
    return store.submit(pipeline(store), [source(uri, version) for uri in uris], **options)


def place(store, annotation_id):
    return rows(store, f"SELECT queue_key, priority FROM annotations WHERE id = {annotation_id}")[0]


# --- submitting


def test_new_videos(store):
    assert asked(store, "a", "b") == Submitted(new=2)
    assert asked(store) == Submitted()
    assert store.status().annotations == {"pending": 2}
    assert store.video("a").size_bytes == 1000


def test_more_than_one_batch_of_videos(store, monkeypatch):
    monkeypatch.setattr("db.fleet._ROWS_PER_INSERT", 2)
    assert asked(store, *"abcde") == Submitted(new=5)
    assert asked(store, *"defgh") == Submitted(new=3, waiting=2)
    assert len(due(store)) == 8


def test_what_waits_keeps_its_place_unless_the_new_one_is_better(store):
    (annotation_id,) = submit(store, "a", priority=1)
    before = place(store, annotation_id)
    assert asked(store, "a") == Submitted(waiting=1)
    assert asked(store, "a", priority=1) == Submitted(waiting=1)
    assert place(store, annotation_id) == before
    assert asked(store, "a", priority=2) == Submitted(waiting=1)
    key, priority = place(store, annotation_id)
    assert priority == 2
    assert before[0] - 600 <= key < before[0] - 590


def test_what_is_being_done_waits(store):
    (annotation_id,) = submit(store, "a")
    plan(store, annotation_id)
    claim = take_span(store, annotation_id)
    assert asked(store, "a", priority=9) == Submitted(waiting=1)
    assert store.renew_all([claim], 60.0) == []


def test_what_is_done_becomes_current_again(store):
    (first,) = submit(store, "a")
    do_all(store, first)
    annotated(store, "a", digest="d2")
    assert store.video("a").current_annotation_id != first
    assert asked(store, "a") == Submitted(done=1)
    assert store.video("a").current_annotation_id == first
    assert due(store) == []


def test_what_failed_is_tried_again_or_not(store):
    (annotation_id,) = submit(store, "a")
    before = place(store, annotation_id)
    failed(store, take_plan(store, annotation_id), permanent=True)
    assert asked(store, "a", again=False) == Submitted(failed=1)
    assert due(store) == []
    assert asked(store, "a", "b", again=True) == Submitted(new=1, again=1)
    assert place(store, annotation_id) == before
    assert take_plan(store, annotation_id).claims == 1
    assert store.annotation(annotation_id).attempts == 1


def test_a_new_version_is_a_new_job(store):
    (first,) = submit(store, "a")
    do_all(store, first)
    store.observe("a", "1", 1000, MediaFacts(duration_seconds=3.0))
    assert asked(store, "a", version="2") == Submitted(new=1)
    assert store.video("a").version == "2"
    assert store.video("a").current_annotation_id is None
    assert store.video("a").duration_seconds is None
    assert len(due(store)) == 1
    assert asked(store, "a", version="1") == Submitted(done=1)  # it was put back
    assert store.video("a").current_annotation_id == first


def test_a_known_video_keeps_what_is_known_of_it(store):
    store.observe("a", "1", 1000, MediaFacts(duration_seconds=3.0))
    written = rows(store, "SELECT updated_at FROM videos")
    assert asked(store, "a") == Submitted(new=1)
    assert store.video("a").duration_seconds == 3.0
    assert rows(store, "SELECT updated_at FROM videos") == written


def test_what_was_begun_without_the_fleet_can_be_handed_to_it(store):
    pending, ready = requested(store, "a"), requested(store, "b")
    plan(store, ready)
    do_span(store, ready)
    assert asked(store, "a", "b") == Submitted(waiting=2)
    assert due(store) == [f"finish {ready}", f"plan {pending}"]


def test_what_has_been_asked_for(store):
    submit(store, "a", "b")
    store.cancel(["b"])
    annotated(store, "c", digest="other")
    assert store.asked_for(pipeline(store), {"a": "1", "b": "1", "c": "1", "d": "1"}) == {"a", "b"}
    assert store.asked_for(pipeline(store), {"a": "2"}) == set()
    assert store.asked_for(pipeline(store), {}) == set()


# --- pipelines by name


def test_names_of_pipelines_may_move(store):
    first, second = pipeline(store), pipeline(store, "d2")
    assert store.named_pipelines() == {}
    with pytest.raises(PipelineUnknown, match="no pipeline is registered"):
        store.pipeline_named(None)
    assert not store.name_pipeline("films", first, {"preset": "compact"})
    assert not store.name_pipeline("films", first, {"preset": "compact"})
    assert store.pipeline_named(None).id == first
    assert store.name_pipeline("films", second, {"preset": "large"})
    assert (store.pipeline_named("films").id, store.pipeline_named("films").options) == (second, {"preset": "large"})
    assert not store.name_pipeline("talks", first, {})
    assert not store.name_pipeline("speech", first, {})
    assert {name: known.id for name, known in store.named_pipelines().items()} == {
        "films": second,
        "speech": first,
        "talks": first,
    }
    with pytest.raises(PipelineUnknown, match="films, speech, talks"):
        store.pipeline_named(None)
    with pytest.raises(PipelineUnknown, match="'news'"):
        store.pipeline_named("news")


def test_limits_of_sources(store):
    assert store.source_limits() == {}
    store.limit_source("/nas/", 4)
    store.limit_source("/disk/", 0)
    store.limit_source("/nas/", 2)
    assert store.source_limits() == {"/disk/": 0, "/nas/": 2}
    store.limit_source("/disk/", None)
    store.limit_source("/disk/", None)
    assert store.source_limits() == {"/nas/": 2}


# --- who is at work


def worker(name, **changes):
    return Worker(**{"name": name, "kind": "worker", "host": "h", "pid": 1, "version": "0.4", "slots": 2} | changes)


def test_workers_show_themselves(store):
    assert store.workers() == []
    store.beat(worker("w1"))
    store.beat(worker("s1", kind="scheduler", slots=0))
    store.beat(worker("w2", slots=3))
    change(store, "UPDATE workers SET started_at = started_at - 100 WHERE name = 'w1'")
    store.beat(worker("w1", running=1, spans_done=4, seconds_done=8.5, state="draining"))
    seen = store.workers()
    assert [(one.kind, one.name) for one in seen] == [("worker", "w1"), ("worker", "w2"), ("scheduler", "s1")]
    assert (seen[0].running, seen[0].spans_done, seen[0].seconds_done, seen[0].state) == (1, 4, 8.5, "draining")
    assert seen[0].up_seconds == pytest.approx(100, abs=10)
    assert seen[0].seen_seconds_ago == pytest.approx(0, abs=10)
    assert store.slots() == 5


def test_workers_that_are_silent_count_as_gone_and_are_forgotten(store):
    store.beat(worker("w1"))
    store.beat(worker("w2"))
    change(store, "UPDATE workers SET seen_at = seen_at - 100 WHERE name = 'w1'")
    assert [one.name for one in store.workers()] == ["w2"]
    assert [one.name for one in store.workers(within_seconds=200.0)] == ["w1", "w2"]
    assert store.slots() == 2
    store.beat(worker("w2"))
    assert rows(store, "SELECT COUNT(*) FROM workers") == [(2,)]
    change(store, "UPDATE workers SET seen_at = seen_at - 700000 WHERE name = 'w1'")
    store.beat(worker("w2"))
    assert rows(store, "SELECT name FROM workers") == [("w2",)]


def test_workers_leave(store):
    store.beat(worker("w1"))
    store.leave("w1")
    store.leave("nobody")
    assert store.workers(within_seconds=1e9) == []


# --- the fleet in figures


def test_an_empty_fleet(store):
    status = store.fleet()
    assert (status.queue_videos, status.queue_seconds, status.eta_seconds) == (0, 0.0, None)
    assert (status.videos_per_hour, status.video_seconds_per_hour, status.workers) == (0.0, 0.0, ())
    assert status.jobs == {"plan": 0, "annotate_span": 0, "finish": 0, "sent": 0, "running": 0}


def test_jobs_by_kind_and_state(store):
    ids = submit(store, *"abcdef")
    plan(store, ids[0], 0, 2, 4)
    do_span(store, ids[0], 0)
    for annotation_id in ids[1:3]:
        plan(store, annotation_id)
        do_span(store, annotation_id)
    take_span(store, ids[0], 1)
    take_finish(store, ids[1])
    take_plan(store, ids[3])
    assert store.fleet().jobs == {"plan": 2, "annotate_span": 1, "finish": 1, "sent": 0, "running": 3}
    assert len(due(store)) == 4
    assert store.fleet().jobs == {"plan": 2, "annotate_span": 1, "finish": 1, "sent": 4, "running": 3}
    change(store, "UPDATE spans SET lease_until = 0 WHERE lease_until IS NOT NULL")
    assert store.fleet().jobs == {"plan": 2, "annotate_span": 2, "finish": 1, "sent": 4, "running": 2}
    assert store.fleet().queue_videos == 6


def test_what_is_before_the_fleet_in_seconds_of_video(store):
    (known,) = submit(store, "known")
    store.observe("known", "1", 1000, MediaFacts(duration_seconds=100.0))
    assert store.fleet().queue_seconds == 100.0
    plan(store, known, 0, 10, 30)
    assert store.fleet().queue_seconds == 100.0
    do_span(store, known, 1)
    assert store.fleet().queue_seconds == 80.0
    store.submit(pipeline(store), [source("unknown", size_bytes=500), source("another", size_bytes=250)])
    assert store.fleet().queue_seconds == 80.0 + 50.0 + 25.0  # like the one of which the length is known
    assert store.fleet().queue_videos == 3


def test_lengths_are_guessed_by_what_was_done(store):
    (done,) = submit(store, "done")
    store.observe("done", "1", 1000, MediaFacts(duration_seconds=10.0))
    do_all(store, done)
    store.submit(pipeline(store), [source("unknown", size_bytes=2000)])
    assert store.fleet().queue_seconds == 20.0


def test_seconds_that_cannot_be_guessed_are_none(store):
    store.submit(pipeline(store), [source("unknown"), source("empty", size_bytes=0)])
    assert (store.fleet().queue_videos, store.fleet().queue_seconds) == (2, 0.0)


def test_what_no_worker_can_build_is_not_retried(store):
    annotation_id = requested(store)  # as `moodreel annotate` does, of a pipeline that was never registered for workers
    store.begin_attempt(annotation_id)
    store.fail(annotation_id, "decoder_crashed", "It died.")
    assert store.retry() == 0
    store.name_pipeline("main", store.annotation(annotation_id).pipeline_id, {"preset": {}})
    assert store.retry() == 1
    assert due(store) == [f"plan {annotation_id}"]


def test_speed_and_time_that_is_left(store):
    done, left = submit(store, "done", "left")
    store.observe("left", "1", 1000, MediaFacts(duration_seconds=36.0))
    do_all(store, done, 0, 2)  # 5 s of video
    with store.writing() as connection:
        begun = datetime.now(UTC) - timedelta(seconds=100)
        connection.execute(sa.update(annotations).where(annotations.c.id == done).values(started_at=begun))
    status = store.fleet()
    assert status.window_seconds == pytest.approx(100, abs=5)
    assert status.videos_per_hour == pytest.approx(36, rel=0.1)
    assert status.video_seconds_per_hour == pytest.approx(180, rel=0.1)
    assert status.eta_seconds == pytest.approx(720, rel=0.1)
    change(store, "UPDATE spans SET completed_at = completed_at - 600")
    assert store.fleet().eta_seconds is None
    assert store.fleet(window_seconds=3600.0).eta_seconds is not None
    store.cancel([str(left), "left"])
    assert store.fleet(window_seconds=3600.0).eta_seconds == 0.0


def test_failures_by_code(store):
    first, *_ = submit(store, "a", "b", "c")
    failed(store, take_plan(store, first), permanent=True)
    store.cancel()
    store.fail(requested(store, "not the fleet's"), "internal", "Oh.")
    assert store.fleet().failures == {"decoder_crashed": 1, "cancelled": 2}
    asked(store, "a", version="2")
    assert store.fleet().failures == {"cancelled": 2}


def test_the_fleet_names_its_workers(store):
    store.beat(worker("w1"))
    assert [one.name for one in store.fleet().workers] == ["w1"]
