"""Retention: which results are overdue by which rule, and what becomes of them."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from db.errors import BadOption
from db.forgotten import let_nobody_forget
from db.rows import Erased, Load, MediaFacts, NewHook, RetentionRule, Submitted
from db.tables import retention_rules
from scheduler.metrics import Metrics
from scheduler.retention import Keeper, age_seconds, applied
from tests.database import annotated, fused_row, requested, segment
from tests.fleet import change, due, failed, pipeline, rows, source, submit, take_plan
from tests.receiver import SECRET

DAY = 86_400.0


def rule(prefix="", days=30.0, **changes) -> RetentionRule:
    return RetentionRule(prefix=prefix, max_age_seconds=None if days is None else days * DAY, **changes)


def aged(store, uri, days, recorded_days=None, digest="d1", version="1") -> int:
    """A video that was annotated so many days ago; its annotation."""
    annotation_id = annotated(store, uri, version, digest)
    then = (datetime.now(UTC) - timedelta(days=days)).isoformat(" ")
    change(store, f"UPDATE annotations SET completed_at = '{then}' WHERE id = {annotation_id}")
    if recorded_days is not None:
        recorded = datetime.now(UTC) - timedelta(days=recorded_days)
        store.observe(uri, version, 1000, MediaFacts(recorded_at=recorded, recorded_at_source="container"))
    return annotation_id


def apply(store) -> Erased:
    total = Erased()
    for _, erased in applied(store, threading.Event()):
        total += erased
    return total


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr("scheduler.retention.PAUSE_SECONDS", 0.0)


# --- what is overdue


def test_age(store):
    aged(store, "both old", 31, 31)
    aged(store, "annotated long ago", 31, 1)
    aged(store, "recorded long ago", 1, 31)
    aged(store, "old, recorded nobody knows when", 31)  # so it counts from its annotation
    aged(store, "young", 29, 29)
    aged(store, "young, recorded nobody knows when", 29)
    left = "SELECT uri FROM videos WHERE current_annotation_id IS NOT NULL ORDER BY id"
    store.set_retention(rule())
    assert store.overdue(rule()) == Load(videos=3, seconds=9.0)
    assert apply(store) == Erased(annotations=3, windows=6)
    assert rows(store, left)[0] == ("annotated long ago",)
    store.set_retention(rule(counted_from="annotated"))
    assert store.overdue(rule(counted_from="annotated")) == Load(videos=1, seconds=3.0)
    assert apply(store) == Erased(annotations=1, windows=2)
    assert [uri[:5] for (uri,) in rows(store, left)] == ["young", "young"]


def test_the_longest_prefix_decides(store):
    for uri in ("s3://b/a", "s3://b/legal/a", "s3://b/legal/soon/a", "s3://c/a", "/legal/a", "file:///legal/%FF"):
        aged(store, uri, 31)
    rules = (rule("s3://b/"), rule("s3://b/legal/", None), rule("s3://b/legal/soon/"), rule("/legal/"))
    for one in rules:
        store.set_retention(one)
    assert store.retention_rules() == sorted(rules, key=lambda one: one.prefix)
    assert [store.overdue(one).videos for one in rules if one.max_age_seconds] == [1, 1, 2]
    assert apply(store).annotations == 4
    left = "SELECT uri FROM videos WHERE current_annotation_id IS NOT NULL ORDER BY id"
    assert rows(store, left) == [("s3://b/legal/a",), ("s3://c/a",)]


def test_what_is_not_done_stays(store):
    requested(store, "pending.mp4")
    failed(store, take_plan(store, submit(store, "failed.mp4")[0]), permanent=True)
    change(store, "UPDATE annotations SET completed_at = '2000-01-01' WHERE completed_at IS NOT NULL")
    store.set_retention(rule())
    assert apply(store) == Erased()


def test_a_rule_that_is_changed_or_removed_holds_no_longer(store):
    aged(store, "a.mp4", 31)
    store.set_retention(rule())
    store.set_retention(rule(days=40))
    assert store.retention_rules() == [rule(days=40)]
    assert store.erase_overdue(rule(), "me").last_id is None
    assert store.remove_retention("") is True
    assert store.remove_retention("") is False
    assert apply(store) == Erased()
    assert len(store.timeline("a.mp4")) == 1


# --- events of it that still wait for their hooks


def hooked(store, uri="a.mp4") -> int:
    """A video that was annotated long ago, of which a hook is still to be told; its annotation."""
    if not store.hooks():
        store.add_hook(NewHook(url="https://example.org/", secret=SECRET, events=("done",)))
    return aged(store, uri, 31)


def test_results_are_kept_until_a_hook_was_told_of_them(store):
    hooked(store)
    store.set_retention(rule())
    assert store.overdue(rule()).videos == 0
    assert apply(store) == Erased()
    (hook,) = store.take_hooks("one", 60.0, 1)
    store.delivered(hook, store.next_delivery(hook, 60.0), 200)
    assert apply(store) == Erased(annotations=1, windows=2)


def test_results_are_kept_until_a_hook_was_told_of_what_was_fused_anew_from_them(store):
    source = aged(store, "a.mp4", 31)
    anew = requested(store, "a.mp4", digest="d2")
    told = store.annotation(anew)
    store.request(told.video_id, told.version, told.pipeline_id, source)
    store.add_hook(NewHook(url="https://example.org/", secret=SECRET, events=("done",)))
    made_of = {"duration_seconds": 3.0, "provenance": {}, "source_annotation_id": source}
    store.finish(anew, [fused_row(0), fused_row(1)], [segment(0.0, 3.0)], **made_of)
    store.set_retention(rule())
    assert apply(store) == Erased()
    change(store, "UPDATE hook_deliveries SET status = 'dead', completed_at = 1")
    assert apply(store) == Erased(annotations=2, windows=2)


def test_results_are_kept_for_an_event_for_a_day_at_most_and_it_is_said_to_be_dropped(store):
    hooked(store)
    change(store, "UPDATE hook_deliveries SET created_at = created_at - 90000")  # and no scheduler is there
    store.set_retention(rule())
    assert apply(store) == Erased(annotations=1, windows=2, events=1)
    assert store.audit_entries()[-1].counts["events"] == 1
    assert store.deliveries() == []


def test_a_video_that_is_to_be_forgotten_waits_for_no_hook_and_its_events_are_said_to_be_dropped(store):
    hooked(store, "a.mp4")
    hooked(store, "b.mp4")
    assert store.forget(["b.mp4"], [], "me") == Erased(videos=1, annotations=1, windows=2, events=1)
    store.set_retention(rule(forgets=True))
    assert apply(store) == Erased(videos=1, annotations=1, windows=2, events=1)


# --- what becomes of it


def test_results_are_erased_and_what_they_were_stays_known(store):
    annotation_id = aged(store, "a.mp4", 31)
    kept = aged(store, "b.mp4", 29)
    store.set_retention(rule())
    assert apply(store) == Erased(annotations=1, windows=2)
    for table in ("spans", "windows", "fused_windows", "segments"):
        assert rows(store, f"SELECT DISTINCT annotation_id FROM {table}") == [(kept,)]
    assert store.annotation(annotation_id).error_code == "expired"
    assert "30 days" in store.annotation(annotation_id).error_message
    assert store.video("a.mp4").current_annotation_id is None
    assert store.timeline("a.mp4") == []
    assert apply(store) == Erased()


def test_it_is_not_annotated_anew_only_because_its_results_are_gone(store):
    aged(store, "a.mp4", 31)
    store.set_retention(rule())
    apply(store)
    asked = pipeline(store)
    assert store.asked_for(asked, {"a.mp4": "1"}) == {"a.mp4"}  # so `watch` leaves it alone
    assert store.submit(asked, [source("a.mp4")]) == Submitted(failed=1)
    assert store.finished("d1", {"a.mp4": "1"}) == {"a.mp4"}  # so `annotate` skips it
    assert store.video("a.mp4").current_annotation_id is None
    assert list(store.lacking(asked)) == []
    assert store.retry() == 0


def test_whoever_wants_it_again_says_so(store):
    annotation_id = aged(store, "a.mp4", 31)
    store.set_retention(rule())
    apply(store)
    assert store.retry(code="expired") == 1
    assert store.annotation(annotation_id).status == "pending"
    assert annotated(store, "a.mp4") == annotation_id
    assert len(store.timeline("a.mp4")) == 1


def test_what_no_worker_can_build_is_left_to_annotate(store):
    annotation_id = aged(store, "a.mp4", 31)  # of a pipeline that was never registered for workers
    store.set_retention(rule())
    apply(store)
    assert store.retry(code="expired") == 1
    assert store.annotation(annotation_id).status == "pending"
    assert due(store) == []
    assert store.fleet().queue_videos == 0
    assert rows(store, "SELECT seconds FROM queued_seconds") == [(0.0,)]  # for which workers would be kept running


def test_expired_results_do_not_count_as_failed(store):
    aged(store, "a.mp4", 31)
    store.set_retention(rule())
    apply(store)
    assert store.status().annotations == {"expired": 1}
    metrics = Metrics()
    metrics.refresh(store)
    values = {
        status: metrics.registry.get_sample_value("moodreel_annotations", {"status": status})
        for status in ("failed", "expired")
    }
    assert values == {"failed": 0.0, "expired": 1.0}


def test_a_new_version_is_something_new(store):
    aged(store, "a.mp4", 31)
    store.set_retention(rule())
    apply(store)
    assert store.submit(pipeline(store), [source("a.mp4", "2")]) == Submitted(new=1)


def test_the_latest_of_what_is_left_becomes_current(store):
    newer = aged(store, "a.mp4", 2, digest="d2")
    newest = aged(store, "a.mp4", 1, digest="d3")
    older = aged(store, "a.mp4", 31, digest="d1")  # asked for again last, so it is the current one
    assert store.video("a.mp4").current_annotation_id == older
    store.set_retention(rule(counted_from="annotated"))
    apply(store)
    assert store.video("a.mp4").current_annotation_id == newest != newer


def test_what_was_fused_anew_goes_with_its_windows(store):
    source_id = aged(store, "a.mp4", 31)
    video = store.video("a.mp4")
    fused = store.request(video.id, "1", pipeline(store, "fused"), source_id)
    store.finish(
        fused.id,
        [(k, None, None, None, None, *[None] * 8) for k in range(2)],
        [],
        duration_seconds=3.0,
        provenance={},
    )
    store.set_retention(rule())
    assert apply(store) == Erased(annotations=2, windows=2)
    assert {store.annotation(key).error_code for key in (source_id, fused.id)} == {"expired"}
    assert store.video("a.mp4").current_annotation_id is None


def test_videos_are_forgotten_too_if_asked(store):
    aged(store, "old.mp4", 31)
    failed(store, take_plan(store, submit(store, "old.mp4", version="2")[0]), permanent=True)
    change(store, "UPDATE annotations SET completed_at = '2000-01-01' WHERE status = 'failed'")
    aged(store, "annotated again.mp4", 31)
    aged(store, "annotated again.mp4", 1, digest="d2")
    store.set_retention(rule(counted_from="annotated", forgets=True))
    assert apply(store) == Erased(videos=1, annotations=2, windows=2)
    assert store.video("old.mp4") is None
    assert store.submit(pipeline(store), [source("old.mp4")]) == Submitted(forgotten=1)
    assert store.remember(["old.mp4"], [], "me") == 1


def test_a_rule_that_was_set_while_it_waited_counts(store):
    aged(store, "/legal/a.mp4", 31)
    overdue = rule(forgets=True)
    store.set_retention(overdue)
    erasing = threading.Thread(target=store.erase_overdue, args=(overdue, "me"))
    with store.writing() as connection:
        let_nobody_forget(connection)
        erasing.start()
        erasing.join(0.5)
        kept = {"prefix": "/legal/", "max_age_seconds": None, "counted_from": "recorded", "forgets": False}
        connection.execute(sa.insert(retention_rules).values(kept))
    erasing.join(10)
    assert store.video("/legal/a.mp4") is not None


# --- how it is applied


def test_a_round_goes_in_steps_each_with_its_entry_in_the_audit(store, monkeypatch):
    monkeypatch.setattr("db.retention._ANNOTATIONS_AT_ONCE", 2)
    for n in range(5):
        aged(store, f"{n}.mp4", 31)
    store.set_retention(rule())
    steps = [erased.annotations for _, erased in applied(store, threading.Event())]
    assert steps == [2, 2, 1]
    entries = store.audit_entries(action="retention applied")
    assert [entry.counts["annotations"] for entry in entries] == [2, 2, 1]
    assert entries[0].subject["max_age_seconds"] == 30 * DAY


def test_two_schedulers_erase_it_once(store, monkeypatch):
    monkeypatch.setattr("db.retention._ANNOTATIONS_AT_ONCE", 2)
    for n in range(8):
        aged(store, f"{n}.mp4", 31)
    store.set_retention(rule())
    erased: list[Erased] = []
    threads = [threading.Thread(target=lambda: erased.append(apply(store))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(one.annotations for one in erased) == 8
    assert sum(one.windows for one in erased) == 16


def test_the_scheduler_applies_the_rules_until_it_is_told_to_stop(store, monkeypatch):
    monkeypatch.setattr("scheduler.retention.EVERY_SECONDS", 0.05)
    stop = threading.Event()
    keeping = threading.Thread(target=Keeper(store).run, args=(stop,))
    keeping.start()
    aged(store, "a.mp4", 31)
    store.set_retention(rule())
    for _ in range(200):
        if store.status().failures == {"expired": 1}:
            break
        stop.wait(0.05)
    stop.set()
    keeping.join(10)
    assert store.status().failures == {"expired": 1}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12h", 12 * 3600), ("90d", 90 * DAY), ("1.5w", 10.5 * DAY), ("2y", 730 * DAY), ("forever", None)],
)
def test_ages(text, seconds):
    assert age_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "0d", "1e3d", "5m", "9999y", "nan", "ninety days"])
def test_what_is_no_age(text):
    with pytest.raises(BadOption, match="an age is like"):
        age_seconds(text)
