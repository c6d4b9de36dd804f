"""In which order rows are locked that several change at once: on PostgreSQL, where they could wait in a circle."""

import threading
import time

import pytest
import sqlalchemy as sa

from db.catalogue import lock_with_spans
from db.errors import LeaseLost
from db.rows import AlertRule, NewHook, RaisedAlert, RetentionRule
from db.session import open_engine
from db.store import Store
from tests.database import annotated, fused_row, planned, requested, segment
from tests.fleet import change, failed, plan, rows, submit, take_plan
from tests.receiver import SECRET

WAITING = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def store(postgresql_url):
    """A store whose rows are come upon in the order in which they were last written, not in that of an index."""
    engine = open_engine(postgresql_url)
    with engine.begin() as connection:
        for way in ("indexscan", "bitmapscan"):
            connection.execute(sa.text(f"ALTER DATABASE {engine.url.database} SET enable_{way} = off"))
    engine.dispose()
    with Store(postgresql_url) as opened:
        yield opened


def until_somebody_waits(store):
    until = time.monotonic() + 10
    while not rows(store, WAITING)[0][0]:
        assert time.monotonic() < until, "nobody waits for a lock"
        time.sleep(0.02)


def passes(store, first, then, act):
    """Whether `act` waits for the row `first` without having locked the row `then`; both as the end of a SELECT."""
    went_wrong = []

    def run():
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
            went_wrong.append(error)

    acting = threading.Thread(target=run)
    with store.writing() as connection:
        assert connection.execute(sa.text(f"SELECT 1 FROM {first} FOR UPDATE")).all()
        acting.start()
        until_somebody_waits(store)
        free = connection.execute(sa.text(f"SELECT 1 FROM {then} FOR UPDATE SKIP LOCKED")).all()
    acting.join(20)
    assert went_wrong == []
    return bool(free)


def failed_with_spans(store):
    """An annotation that failed, long ago, with a span that is not done; its id."""
    annotation_id, *_ = submit(store, "a.mp4")
    plan(store, annotation_id, 0)
    store.fail(annotation_id, "not_media", "a.mp4 is text.")
    change(store, "UPDATE annotations SET completed_at = '2000-01-01'")
    return annotation_id


def test_retention_locks_spans_first(store):
    annotation_id = failed_with_spans(store)
    rule = RetentionRule(prefix="", max_age_seconds=1.0, forgets=True)
    store.set_retention(rule)
    of_it = f"annotations WHERE id = {annotation_id}"
    assert passes(store, "spans", of_it, lambda: store.erase_overdue(rule, "me"))
    assert rows(store, "SELECT COUNT(*) FROM videos") == [(0,)]


def test_what_was_retried_while_retention_waited_stays(store):
    annotation_id = failed_with_spans(store)
    rule = RetentionRule(prefix="", max_age_seconds=1.0, forgets=True)
    store.set_retention(rule)
    erasing = threading.Thread(target=store.erase_overdue, args=(rule, "me"))
    with store.writing() as connection:
        lock_with_spans(connection, [annotation_id])
        erasing.start()
        until_somebody_waits(store)
        anew = "status = 'planned', completed_at = NULL, error_code = NULL, error_message = NULL"
        connection.execute(sa.text(f"UPDATE annotations SET {anew}"))
    erasing.join(20)
    assert store.annotation(annotation_id).status == "planned"


@pytest.mark.parametrize("act", ["request", "fail", "submit"])
def test_whoever_lets_it_be_tried_again_locks_spans_first(store, act):
    annotation_id = failed_with_spans(store)
    annotation = store.annotation(annotation_id)
    acts = {
        "request": lambda: store.request(annotation.video_id, annotation.version, annotation.pipeline_id),
        "fail": lambda: store.fail(annotation_id, "not_media", "a.mp4 is text.", discard=True),
        "submit": lambda: submit(store, "a.mp4"),
    }
    assert passes(store, "spans", f"annotations WHERE id = {annotation_id}", acts[act])


def test_submitting_several_again_locks_the_spans_of_all_first(store):
    failed(store, take_plan(store, submit(store, "a.mp4")[0]), permanent=True)  # without spans
    (second,) = submit(store, "b.mp4")
    plan(store, second, 0)
    store.fail(second, "not_media", "b.mp4 is text.")
    assert passes(store, "spans", f"annotations WHERE id <> {second}", lambda: submit(store, "a.mp4", "b.mp4"))


def test_finishing_what_is_fused_anew_locks_in_the_order_of_ids(store):
    source = annotated(store, "a.mp4")
    anew = requested(store, "a.mp4", digest="d2")
    store.request(store.annotation(anew).video_id, "1", store.annotation(anew).pipeline_id, source)

    def finish():
        made_of = {"duration_seconds": 3.0, "provenance": {}, "source_annotation_id": source}
        store.finish(anew, [fused_row(0), fused_row(1)], [segment(0.0, 3.0)], **made_of)

    assert source < anew
    assert passes(store, f"annotations WHERE id = {source}", f"annotations WHERE id = {anew}", finish)
    assert store.annotation(anew).status == "done"


@pytest.mark.parametrize("act", ["forget", "cancel", "submit"])
def test_spans_that_were_planned_while_it_was_waited_for_are_locked_first_too(store, act):
    """Who takes such a span waits for its annotation, which whoever waited for that has by then."""
    annotation_id, *_ = submit(store, "a.mp4")
    acts = {
        "forget": lambda: store.forget(["a.mp4"], [], "me"),
        "cancel": lambda: store.cancel(["a.mp4"]),
        "submit": lambda: submit(store, "a.mp4"),
    }
    of_it = f"annotations WHERE id = {annotation_id} FOR NO KEY UPDATE"
    span = "annotation_id, span_index, first_window, start_seconds, status, epoch, attempts, windows_done"
    new = f"INSERT INTO spans ({span}) VALUES ({annotation_id}, 0, 0, 0, 'pending', 0, 0, 0)"
    acting = threading.Thread(target=acts[act])
    with store.writing() as taking:
        with store.writing() as planning:
            planning.execute(sa.text(f"SELECT 1 FROM {of_it}"))
            acting.start()
            until_somebody_waits(store)
            change(store, new)
            taking.execute(sa.text("SELECT 1 FROM spans FOR NO KEY UPDATE"))
        until_somebody_waits(store)
        taking.execute(sa.text(f"SELECT 1 FROM {of_it} NOWAIT"))
    acting.join(20)
    assert not acting.is_alive()


# --- events and alerts


@pytest.fixture
def hook(store):
    """A hook that is held, with three events: the first is the last that was changed, so the last that is come upon."""
    store.add_hook(NewHook(url="https://example.org/", secret=SECRET, events=("done",)))
    for name in "abc":
        annotated(store, f"{name}.mp4")
    change(store, "UPDATE hook_deliveries SET error = 'x' WHERE id = 1")
    change(store, "UPDATE hook_deliveries SET error = 'x', created_at = 1")
    change(store, "UPDATE hook_deliveries SET error = 'y' WHERE id = 1")
    (held,) = store.take_hooks("one", 60.0, 1)
    return held


@pytest.mark.parametrize("act", ["forget", "remove", "disable", "again", "clean", "not delivered"])
def test_events_are_locked_in_the_order_of_their_ids(store, hook, act):
    last = store.deliveries()[0]
    assert last.id == 3
    dead = "UPDATE hook_deliveries SET status = 'dead', completed_at = 1"
    if act in ("again", "clean"):
        change(store, dead)
        change(store, "UPDATE hook_deliveries SET error = 'z' WHERE id = 1")
    waits = {"delay_seconds": 1.0, "rest_seconds": 1.0, "give_up_seconds": 60.0}
    acts = {
        "forget": lambda: store.forget(["a.mp4", "b.mp4", "c.mp4"], [], "me"),
        "remove": lambda: store.remove_hook(hook.id),
        "disable": lambda: store.disable_hook(hook, "it is gone"),
        "again": lambda: store.post_again(hook.id),
        "clean": lambda: store.forget_deliveries(60.0, 60.0),
        "not delivered": lambda: store.not_delivered(hook, last, 500, "it answered 500", **waits),
    }
    assert passes(store, "hook_deliveries WHERE id = 1", "hook_deliveries WHERE id = 3", acts[act])


@pytest.mark.parametrize("act", ["forget", "remove"])
def test_alerts_are_locked_in_the_order_of_their_keys(store, act):
    store.add_rule(AlertRule(name="distress", measure="fearful", level=0.6))
    (rule,) = store.rules()
    for name in "ab":
        raised = RaisedAlert(rule_id=rule.id, start_seconds=0.0, end_seconds=2.0, peak=0.9)
        annotated(store, f"{name}.mp4", alerts=[raised])
    first, last = (key for (key,) in rows(store, "SELECT id FROM annotations ORDER BY id"))
    change(store, f"UPDATE raised_alerts SET peak = 0.8 WHERE annotation_id = {first}")
    acts = {
        "forget": lambda: store.forget(["a.mp4", "b.mp4"], [], "me"),
        "remove": lambda: store.remove_rule("distress"),
    }
    alert = "raised_alerts WHERE annotation_id = {}"
    assert passes(store, alert.format(first), alert.format(last), acts[act])


# --- and what a lock alone does not keep out


def test_whoever_held_a_span_before_its_results_expired_writes_nothing_into_the_next_one(store):
    annotation_id = requested(store, "a.mp4")
    store.plan(annotation_id, planned(0))
    for _ in range(3):  # given back, as by a worker that stops
        old = store.claim(annotation_id, "one", 60.0)
        store.give_back(old)
    claim = store.claim(annotation_id, "one", 60.0)
    store.complete_span(claim, 3.0)
    change(
        store,
        "UPDATE annotations SET status = 'done', duration_seconds = 3, completed_at = '2000-01-01'",
    )
    rule = RetentionRule(prefix="", max_age_seconds=1.0)
    store.set_retention(rule)
    assert store.erase_overdue(rule, "me").erased.annotations == 1
    store.request(store.annotation(annotation_id).video_id, "1", store.annotation(annotation_id).pipeline_id)
    store.plan(annotation_id, planned(0))
    for _ in range(4):
        new = store.claim(annotation_id, "one", 60.0)
        assert new.epoch > claim.epoch
        for stale in (old, claim):
            with pytest.raises(LeaseLost):
                store.complete_span(stale, 3.0)
        store.give_back(new)
