"""Hooks: events are written where they happen, each once, and posted until they arrive or a day has passed."""

import json
import threading
import time

import pytest
import sqlalchemy as sa

from db.errors import DatabaseUnreachable
from db.rows import FINISH, PLAN, Job, NewHook
from db.store import Store
from scheduler import deliver
from scheduler.deliver import Deliverer, back_off
from scheduler.metrics import Metrics
from tests.database import annotated, planned, requested, segment
from tests.fleet import change, do_all, do_span, failed, finish, plan, rows, submit, take, take_plan, take_span
from tests.receiver import SECRET, receiving

DAY = 86_400.0


def hooked(store, url="http://127.0.0.1:9/", events=("done", "failed", "alert"), source_prefix=""):
    return store.add_hook(
        NewHook(url=url, secret=SECRET, events=events, source_prefix=source_prefix, insecure_http=True)
    )


def bodies(store, event=None):
    found = store.deliveries(limit=1000)[::-1]
    return [json.loads(one.body) for one in found if event in (None, one.event)]


# --- what is written


def test_without_a_hook_nothing_is_written(store):
    annotated(store)
    assert rows(store, "SELECT COUNT(*) FROM hook_deliveries") == [(0,)]


def test_a_completed_annotation_is_told_once_with_all_that_it_says(store):
    hook_id = hooked(store)
    timeline = [segment(0.0, 1.0, "sad"), segment(1.0, 2.5), segment(2.5, 3.0, None)]
    annotation_id = annotated(store, uri="/v/ä\n.mp4", timeline=timeline)
    store.name_pipeline("archive", 1, {})
    (delivery,) = store.deliveries()
    assert (delivery.hook_id, delivery.event, delivery.status, delivery.attempts) == (hook_id, "done", "pending", 0)
    body = json.loads(delivery.body)
    assert (body["type"], body["id"]) == ("annotation.done", delivery.event_id)
    assert body["timestamp"].endswith("+00:00")
    assert delivery.body.isascii()
    assert "\n" not in delivery.body
    assert body["data"] == {
        "video": "/v/ä\n.mp4",
        "version": "1",
        "annotation": annotation_id,
        "pipeline": "compact",
        "pipeline_digest": "d1",
        "status": "done",
        "duration_seconds": 3.0,
        "windows": 2,
        "segments": 3,
        "dominant_emotion": "happy",
        "seconds": {"happy": 1.5, "sad": 1.0, "none": 0.5},
        "warning_code": None,
    }


def test_finishing_again_tells_nothing_new(store):
    hooked(store)
    annotation_id = annotated(store)
    facts = {"duration_seconds": 3.0, "provenance": {}}
    fused = [tuple(row) for row in rows(store, "SELECT * FROM fused_windows ORDER BY window_index")]
    store.finish(annotation_id, [row[1:] for row in fused], [segment(0.0, 3.0, "sad")], **facts)
    assert len(bodies(store)) == 1
    assert store.timeline("a.mp4")[0].emotion == "sad"


def test_what_is_not_stored_is_not_told(store):
    """The event is of the transaction that completes: if that fails, there is none."""
    hooked(store)
    annotation_id = requested(store)
    store.plan(annotation_id, planned(0))
    store.checkpoint(claim := store.claim(annotation_id, "w", 60.0), [])
    store.complete_span(claim, 3.0)
    with pytest.raises(Exception, match="windows"):
        store.finish(annotation_id, [], [], duration_seconds=3.0, provenance={}, keep_windows=2)
    assert bodies(store) == []


def test_events_go_to_those_who_asked_for_their_kind_and_their_source(store):
    hooks = [hooked(store, events=("done",)), hooked(store, events=("failed",)), hooked(store, source_prefix="/b/")]
    annotated(store, uri="/a/x.mp4")
    annotated(store, uri="/b/x.mp4")
    store.fail(requested(store, uri="/a/y.mp4"), "not_media", "no.")
    found = {(one.hook_id, json.loads(one.body)["data"]["video"]) for one in store.deliveries()}
    assert found == {
        (hooks[0], "/a/x.mp4"),
        (hooks[0], "/b/x.mp4"),
        (hooks[2], "/b/x.mp4"),
        (hooks[1], "/a/y.mp4"),
    }


def test_one_event_has_one_id_for_all_hooks(store):
    for _ in range(3):
        hooked(store)
    annotated(store)
    assert len({one.event_id for one in store.deliveries()}) == 1


def test_a_failure_is_told_when_it_is_final_and_again_after_a_retry(store):
    hooked(store)
    (annotation_id,) = submit(store, "a.mp4")
    plan(store, annotation_id)
    for _ in range(2):
        assert failed(store, take_span(store, annotation_id)) == "again"
    assert bodies(store) == []
    assert failed(store, take_span(store, annotation_id)) == "failed"
    (body,) = bodies(store)
    assert body["type"] == "annotation.failed"
    assert (body["data"]["status"], body["data"]["error_code"]) == ("failed", "decoder_crashed")
    store.retry()
    plan(store, annotation_id)
    failed(store, take_span(store, annotation_id), permanent=True)
    assert len(bodies(store)) == 2
    store.retry()
    plan(store, annotation_id)
    do_span(store, annotation_id)
    finish(store, annotation_id)
    assert [body["data"]["status"] for body in bodies(store)] == ["failed", "failed", "done"]


@pytest.mark.parametrize("kind", [PLAN, FINISH, "span"])
def test_a_quarantine_is_told(store, kind):
    hooked(store)
    (annotation_id,) = submit(store, "a.mp4")
    if kind != PLAN:
        plan(store, annotation_id)
    if kind == FINISH:
        do_span(store, annotation_id)
    job = Job("annotate_span", annotation_id, 0) if kind == "span" else Job(kind, annotation_id)
    for _ in range(3):
        assert take(store, job) is not None
        change(store, "UPDATE annotations SET lease_until = 1 WHERE lease_until IS NOT NULL")
        change(store, "UPDATE spans SET lease_until = 1 WHERE lease_until IS NOT NULL")
    assert take(store, job) is None
    assert [body["data"]["error_code"] for body in bodies(store)] == ["worker_died"]


def test_cancelling_is_no_event(store):
    hooked(store)
    submit(store, "a.mp4", "b.mp4")
    assert store.cancel() == 2
    assert bodies(store) == []


def test_a_failure_of_what_is_done_is_none(store):
    hooked(store)
    annotation_id = annotated(store)
    assert store.fail(annotation_id, "not_media", "no.") is False
    assert len(bodies(store)) == 1


def test_two_that_finish_at_once_tell_once(store):
    hooked(store)
    (annotation_id,) = submit(store, "a.mp4")
    plan(store, annotation_id)
    do_span(store, annotation_id)
    claim = take(store, Job(FINISH, annotation_id))

    def run(claim):
        try:
            finish(store, annotation_id, claim)
        except Exception as error:  # noqa: BLE001 - one of the two loses
            return error

    threads = [threading.Thread(target=run, args=(claim,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bodies(store)) == 1


def test_a_video_that_is_deleted_takes_its_events_along(store):
    hooked(store)
    annotated(store)
    change(store, "DELETE FROM videos")
    assert store.deliveries() == []


def test_a_hook_is_removed_with_its_events_while_videos_are_completed(store):
    """Whoever completes holds the hooks that he writes for; so removing one waits, and breaks nobody's transaction."""
    hook_id, problems = hooked(store), []

    def complete(name):
        try:
            for number in range(5):
                annotated(store, uri=f"{name}{number}.mp4")
        except Exception as error:  # noqa: BLE001 - whatever it is
            problems.append(error)

    threads = [threading.Thread(target=complete, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    assert store.remove_hook(hook_id)
    for thread in threads:
        thread.join()
    assert problems == []
    assert store.status().annotations == {"done": 10}
    assert store.deliveries() == []
    assert not store.remove_hook(hook_id)


def test_secrets_are_not_shown(store):
    hook_id = hooked(store)
    assert SECRET not in repr(store.hooks())
    assert SECRET not in repr(store.hook(hook_id))
    assert SECRET not in repr(store.deliveries())
    assert store.hook(hook_id).secret == SECRET


# --- what is posted


@pytest.fixture
def receiver():
    with receiving() as found:
        yield found


def posted(store, **options):
    """Post what waits for each hook that may be posted to; how many arrived."""
    deliverer = Deliverer(store, options.pop("owner", "me"), **options)
    return [deliverer.post_all(hook, threading.Event()) for hook in store.take_hooks("me", 60.0, 10)]


def later(store, seconds):
    """Let time pass."""
    for table, names in (
        ("hooks", ("resting_until", "lease_until")),
        ("hook_deliveries", ("created_at", "available_at", "completed_at")),
    ):
        change(store, f"UPDATE {table} SET {', '.join(f'{name} = {name} - {seconds}' for name in names)}")


def test_events_arrive_in_their_order_and_are_not_posted_again(store, receiver):
    hooked(store, receiver.url)
    for name in ("a", "b", "c"):
        annotated(store, uri=f"{name}.mp4")
    assert posted(store) == [3]
    assert [body["data"]["video"] for body in receiver.bodies] == ["a.mp4", "b.mp4", "c.mp4"]
    assert receiver.bodies == bodies(store)
    assert posted(store) == []
    assert {(one.status, one.answer, one.attempts) for one in store.deliveries()} == {("delivered", 204, 1)}
    assert store.hook_backlog() == (0, 0.0)


def test_what_did_not_arrive_is_posted_again_under_the_same_id(store, receiver):
    metrics = Metrics()
    hooked(store, receiver.url)
    annotated(store)
    receiver.answers = [500, 204]
    assert posted(store, metrics=metrics) == [0]
    (waiting,) = store.deliveries()
    assert (waiting.status, waiting.answer, waiting.error) == ("pending", 500, "it answered 500")
    assert posted(store) == []  # it rests
    later(store, 3600.0)
    assert posted(store, metrics=metrics) == [1]
    (first, _), (second, _) = receiver.posts
    assert first["webhook-id"] == second["webhook-id"]
    assert store.hooks()[0].failures == 0
    counted = {s.labels["outcome"]: s.value for s in metrics._posts.collect()[0].samples if s.name.endswith("_total")}
    assert counted == {"delivered": 1, "failed": 1, "dead": 0}


def test_a_receiver_that_is_not_there_is_tried_for_a_day_and_then_given_up(store):
    hook_id = hooked(store)  # nobody listens at port 9
    annotated(store)
    attempts = 0
    for _ in range(200):
        attempts += len(posted(store))
        if store.deliveries()[0].status == "dead":
            break
        later(store, 900.0)
    (dead,) = store.deliveries()
    assert dead.attempts == attempts
    assert 10 <= attempts <= 20
    assert DAY <= dead.age_seconds < DAY + 1.3 * deliver.DELAY_SECONDS
    assert "refused" in dead.error
    assert (store.hooks()[0].pending, store.hooks()[0].dead) == (0, 1)
    with receiving() as receiver:
        change(store, f"UPDATE hooks SET url = '{receiver.url}'")
        assert store.post_again(hook_id) == 1
        assert posted(store) == [1]
        assert len(receiver.posts) == 1


def test_one_event_that_cannot_be_taken_holds_up_no_other(store, receiver):
    hooked(store, receiver.url)
    for name in ("bad", "good", "fine"):
        annotated(store, uri=f"{name}.mp4")
    receiver.answers = [400]
    assert posted(store) == [0]
    later(store, 7.0)  # the first rest is over, and the first event waits for longer than that if at all
    change(store, "UPDATE hook_deliveries SET available_at = available_at + 60 WHERE attempts > 0")
    assert posted(store) == [2]
    assert [one.status for one in store.deliveries()][::-1] == ["pending", "delivered", "delivered"]


def test_a_receiver_that_is_away_holds_up_no_other(store, receiver):
    hooked(store), hooked(store, receiver.url)
    annotated(store)
    annotated(store, uri="b.mp4")
    assert posted(store) == [0, 2]


def test_gone_means_gone(store, receiver):
    hook_id = hooked(store, receiver.url)
    annotated(store), annotated(store, uri="b.mp4")
    receiver.answers = [410]
    assert posted(store) == [0]
    assert store.hooks()[0].disabled_why == "it answered 410 Gone"
    assert {one.status for one in store.deliveries()} == {"dead"}
    annotated(store, uri="c.mp4")
    assert len(store.deliveries()) == 2
    change(store, "UPDATE hook_deliveries SET status = 'pending', completed_at = NULL")  # as if written meanwhile
    assert store.hook_backlog() == (0, 0.0)
    change(store, "UPDATE hook_deliveries SET status = 'dead', completed_at = created_at")
    assert posted(store) == []
    store.post_again(hook_id)
    assert posted(store) == [2]


def test_a_receiver_that_asks_for_a_rest_gets_it(store, receiver):
    hooked(store, receiver.url)
    annotated(store)
    receiver.answers, receiver.headers = [429], {"Retry-After": "600"}
    posted(store)
    later(store, 590.0)
    assert posted(store) == []
    later(store, 20.0)
    assert posted(store) == [1]


def test_two_schedulers_never_post_to_one_hook_at_once(store, receiver):
    hooked(store, receiver.url)
    annotated(store)
    (held,) = store.take_hooks("one", 60.0, 10)
    assert store.take_hooks("two", 60.0, 10) == []
    later(store, 61.0)  # the first one died
    (taken,) = store.take_hooks("two", 60.0, 10)
    assert store.next_delivery(held, 60.0) is None
    assert store.next_delivery(taken, 60.0) is not None


def test_many_schedulers_post_each_event_once(store, receiver):
    for _ in range(3):
        hooked(store, receiver.url)
    for number in range(10):
        annotated(store, uri=f"{number}.mp4")
    stop = threading.Event()
    deliverers = [threading.Thread(target=Deliverer(store, f"s{n}").run, args=(stop,)) for n in range(3)]
    for thread in deliverers:
        thread.start()
    deadline = time.monotonic() + 30
    while store.hook_backlog()[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    for thread in deliverers:
        thread.join(10)
    assert len(receiver.posts) == 30
    assert {one.status for one in store.deliveries(limit=100)} == {"delivered"}


def test_the_deliverer_stops_at_once_though_a_receiver_hangs(store, receiver):
    hooked(store, receiver.url)
    annotated(store)
    receiver.answers = [30]
    stop = threading.Event()
    thread = threading.Thread(target=Deliverer(store, "me").run, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 10
    while not receiver.posts and time.monotonic() < deadline:
        time.sleep(0.02)
    annotated(store, uri="b.mp4")  # while it hangs, nobody waits for it
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_a_database_that_does_not_answer_ends_nothing(store, monkeypatch, caplog):
    looked, stop = [], threading.Event()

    def away(*_: object) -> list:
        looked.append(1)
        stop.set()
        raise DatabaseUnreachable("away")

    monkeypatch.setattr(Store, "take_hooks", away)
    Deliverer(store, "me").run(stop)
    assert looked == [1]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_what_is_long_over_is_forgotten(store, receiver):
    hooked(store, receiver.url), hooked(store)
    annotated(store)
    posted(store)
    change(store, "UPDATE hook_deliveries SET status = 'dead', completed_at = created_at WHERE status = 'pending'")
    annotated(store, uri="b.mp4")
    later(store, 8 * DAY)
    assert store.forget_deliveries(7 * DAY, 30 * DAY) == 1
    later(store, 23 * DAY)
    assert store.forget_deliveries(7 * DAY, 30 * DAY) == 1
    assert {one.status for one in store.deliveries()} == {"pending"}


def test_pauses_grow_up_to_their_longest():
    pauses = [back_off(n, 900.0) for n in range(1, 40)]
    assert 4 <= pauses[0] <= 6
    assert 12 <= pauses[1] <= 18
    assert all(720 <= pause <= 1080 for pause in pauses[6:])
    assert len(set(pauses)) == len(pauses)


def test_the_queue_of_events_is_asked_through_its_partial_index(postgresql_url):
    with Store(postgresql_url) as store:
        hooked(store)
        change(
            store,
            "INSERT INTO hook_deliveries (hook_id, event_key, event_id, event, body, status, created_at, completed_at)"
            " SELECT 1, n, n, 'done', '{}', 'delivered', n, n FROM generate_series(1, 20000) n",
        )
        annotated(store)
        with store.engine.connect() as connection:
            connection.exec_driver_sql("ANALYZE")
            seen = []
            sa.event.listen(store.engine, "before_cursor_execute", lambda *a: seen.append((a[2], a[3])))
            (held,) = store.take_hooks("me", 60.0, 1)
            store.next_delivery(held, 60.0)
            store.hook_backlog()
            asked = [(sql, values) for sql, values in seen if "SELECT" in sql and "hook_deliveries" in sql]
            assert len(asked) == 3
            for sql, values in asked:
                plan_of = connection.exec_driver_sql(f"EXPLAIN {sql}", values).scalars().all()
                assert "ix_hook_deliveries_pending" in " ".join(plan_of), plan_of


def test_nothing_but_the_last_step_of_a_video_costs_a_hook_anything(store):
    """So that workers and the feeder do not wait for hooks, however many events there are."""
    hooked(store)
    seen = []
    sa.event.listen(store.engine, "before_cursor_execute", lambda *a: seen.append(a[2]))
    (annotation_id,) = submit(store, "a.mp4")
    store.take_due(10, 60.0)
    take_plan(store, annotation_id)
    assert not any("hook" in sql for sql in seen)
    store.cancel()
    do_all(store, submit(store, "b.mp4")[0])
    assert sum("hook_deliveries" in sql for sql in seen) == 1
