"""Forgetting: what is erased, what is kept out, and that nothing comes back, whoever is at work."""

import json
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.catalogue import observed
from db.errors import ChangedWhileReading, Forgotten, LeaseLost
from db.forgotten import kept_out, let_nobody_forget
from db.rows import AlertRule, Erased, Job, Load, MediaFacts, NewHook, RaisedAlert, Submitted
from db.store import Store
from db.tables import annotations, metadata, windows
from db.words import HOOK_EVENTS
from tests.database import annotated, planned, requested, window_row
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
from tests.receiver import SECRET

TABLES = ("videos", "annotations", "spans", "windows", "fused_windows", "segments")


def counts(store: Store) -> dict[str, int]:
    return {table: rows(store, f"SELECT COUNT(*) FROM {table}")[0][0] for table in TABLES}


def forget(store: Store, *uris: str) -> Erased:
    names, prefixes = store.told_apart(uris)
    return store.forget(names, prefixes, "me")


def told(store: Store) -> str:
    """All that the database holds, as text."""
    with store.reading() as connection:
        return "\n".join(str(row) for table in metadata.tables.values() for row in connection.execute(sa.select(table)))


# --- what is erased


def test_a_video_is_erased_with_all_that_was_found_out(store):
    kept = annotated(store, "kept.mp4")
    before = counts(store)
    annotated(store, "gone.mp4")
    annotated(store, "gone.mp4", digest="d2")
    annotated(store, "gone.mp4", version="2")
    failed(store, take_plan(store, submit(store, "gone.mp4", version="3")[0]), permanent=True)
    assert forget(store, "gone.mp4") == Erased(videos=1, annotations=4, windows=6)
    assert counts(store) == before
    assert store.video("kept.mp4").current_annotation_id == kept
    assert store.video("gone.mp4") is None


def test_the_name_is_nowhere_left(store):
    annotated(store, "s3://b/somebody.mp4")
    failed(store, take_plan(store, submit(store, "s3://b/somebody.mp4", version="2")[0]), permanent=True)
    with store.audited("me", "cancel", store.named(["s3://b/somebody.mp4"])):
        pass
    assert "somebody" in told(store)
    forget(store, "s3://b/somebody.mp4")
    assert "somebody" not in told(store)


def test_what_was_told_of_it_and_raised_in_it_is_gone_too(store):
    store.add_hook(NewHook(url="https://example.org/", secret=SECRET, events=HOOK_EVENTS))
    store.add_rule(AlertRule(name="distress", measure="fearful", level=0.6, min_seconds=1.0))
    (rule,) = store.rules()
    alerts = [RaisedAlert(rule_id=rule.id, start_seconds=0.0, end_seconds=2.0, peak=0.9)]
    annotated(store, "s3://b/somebody.mp4", alerts=alerts)
    change(store, "UPDATE hook_deliveries SET status = 'delivered', completed_at = created_at WHERE event = 'done'")
    failed(store, take_plan(store, submit(store, "s3://b/somebody.mp4", version="2")[0]), permanent=True)
    annotated(store, "kept.mp4", alerts=alerts)
    assert {(one.event, one.status) for one in store.deliveries()} == {
        *(("done", "delivered"), ("done", "pending"), ("alert", "pending"), ("failed", "pending")),
    }
    assert rows(store, "SELECT COUNT(*) FROM raised_alerts") == [(2,)]
    forget(store, "s3://b/somebody.mp4")
    assert [one.video for one in store.alerts()] == ["kept.mp4"]
    assert rows(store, "SELECT COUNT(*) FROM raised_alerts") == [(1,)]
    assert {json.loads(one.body)["data"]["video"] for one in store.deliveries()} == {"kept.mp4"}
    assert "somebody" not in told(store)
    assert [(hook.pending, hook.dead) for hook in store.hooks()] == [(2, 0)]
    assert store.rules() == [rule]


def test_the_bytes_are_gone_from_the_files_too(tmp_path):
    with Store(str(tmp_path / "m.db")) as store, Store(str(tmp_path / "m.db")) as other:
        assert other.video("a.mp4") is None  # another process has the database open too
        annotated(store, "s3://b/somebody/1.mp4")
        for n in range(20):
            annotated(store, f"s3://b/{n}.mp4")
        annotated(store, "s3://b/somebody/2.mp4")
        assert b"somebody/2" in (tmp_path / "m.db-wal").read_bytes()
        forget(store, "s3://b/somebody/1.mp4", "s3://b/somebody/2.mp4")
        left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert b"somebody" not in left
        assert b"s3://b/19.mp4" in left


def test_of_a_folder_or_prefix_all_below_is_erased_and_nothing_beside(store):
    uris = ("/a/x/1.mp4", "/a/x/2/3.mp4", "file:///a/x/%FF.mp4", "/a/xy.mp4", "s3://b/x/1", "s3://b/x", "s3://B/x/1")
    for uri in uris:
        annotated(store, uri)
    assert forget(store, "/a/x").videos == 3
    assert forget(store, "s3://b/x/").videos == 1
    assert [row[0] for row in rows(store, "SELECT uri FROM videos ORDER BY id")] == [
        "/a/xy.mp4",
        "s3://b/x",
        "s3://B/x/1",
    ]
    assert store.forgotten_prefixes() == ["/a/x/", "file:///a/x/", "s3://b/x/"]


def test_a_name_that_is_a_videos_means_that_one_although_others_lie_below(store):
    annotated(store, "s3://b/x")
    annotated(store, "s3://b/x/1")
    assert store.told_apart(["s3://b/x", "s3://b/x/", "s3://b/y"]) == (["s3://b/x", "s3://b/y"], ["s3://b/x/"])
    assert forget(store, "s3://b/x").videos == 1
    assert store.video("s3://b/x/1") is not None


def test_many_videos_go_batch_by_batch(store, monkeypatch):
    monkeypatch.setattr("db.erasing.VIDEOS_AT_ONCE", 3)
    for n in range(10):
        requested(store, f"/a/{n}.mp4")
    assert store.meant([], ["/a/"]) == Load(videos=10, seconds=0.0)
    assert forget(store, "/a/").videos == 10
    assert forget(store, "/a/") == Erased()


# --- what is kept out


def test_a_forgotten_name_is_kept_out(store):
    annotated(store, "gone.mp4")
    forget(store, "gone.mp4", "never-seen.mp4", "/folder/")
    for uri in ("gone.mp4", "never-seen.mp4", "/folder/a.mp4"):
        with pytest.raises(Forgotten, match=uri):
            store.observe(uri, "2", 10)
    asked = store.submit(pipeline(store), [source(u) for u in ("gone.mp4", "b.mp4", "never-seen.mp4", "/folder/a.mp4")])
    assert asked == Submitted(new=1, forgotten=3)
    assert counts(store)["videos"] == 1
    versions = dict.fromkeys(("gone.mp4", "b.mp4", "c.mp4", "/folder/a.mp4"), "1")
    assert store.asked_for(pipeline(store), versions) == {"gone.mp4", "b.mp4", "/folder/a.mp4"}


def test_a_remembered_name_may_come_back_but_not_what_was_erased(store):
    annotated(store, "gone.mp4")
    forget(store, "gone.mp4", "/folder/")
    assert store.remember(["gone.mp4"], ["/folder/", "/other/"], "me") == 2
    assert store.remember(["gone.mp4"], [], "me") == 0
    assert store.submit(pipeline(store), [source("gone.mp4"), source("/folder/a.mp4")]) == Submitted(new=2)
    assert store.timeline("gone.mp4") == []


def test_two_databases_hash_the_same_name_differently(store, tmp_path):
    with Store(str(tmp_path / "other.db")) as other:
        assert store.named(["a.mp4"])["videos"] != other.named(["a.mp4"])["videos"]
        assert (
            store.named(["a.mp4"])
            == store.named(["a.mp4"])
            == {"videos": store.named(["a.mp4"])["videos"], "prefixes": []}
        )


# --- whoever is at work


def begun(store: Store) -> int:
    """An annotation of two spans, planned."""
    (annotation_id,) = submit(store, "gone.mp4")
    plan(store, annotation_id, 0, 2)
    return annotation_id


def test_who_annotates_a_span_finds_it_gone(store):
    claim = take_span(store, annotation_id := begun(store))
    store.checkpoint(claim, [window_row(0)])
    forget(store, "gone.mp4")
    for write in (
        lambda: store.checkpoint(claim, [window_row(1)]),
        lambda: store.complete_span(claim),
        lambda: store.annotation(annotation_id),
        lambda: store.begin_attempt(annotation_id),
        lambda: store.scores(annotation_id),
    ):
        with pytest.raises((LeaseLost, Forgotten)):
            write()
    assert store.renew_all([claim], 60.0) == [claim]
    assert failed(store, claim, discard=True) == "lost"
    store.give_back(claim)
    assert store.fail(annotation_id, "internal", "Bang.") is False
    assert set(counts(store).values()) == {0}


def test_who_plans_or_finishes_finds_it_gone(store):
    (annotation_id,) = submit(store, "gone.mp4")
    claim = take_plan(store, annotation_id)
    forget(store, "gone.mp4")
    with pytest.raises(LeaseLost):
        store.plan(annotation_id, planned(0), claim, MediaFacts(duration_seconds=2.0))
    with pytest.raises(Forgotten):
        store.plan(annotation_id, planned(0), facts=MediaFacts(duration_seconds=2.0))
    (annotation_id,) = submit(store, "finished.mp4")
    plan(store, annotation_id)
    do_span(store, annotation_id)
    claim, stored = take_finish(store, annotation_id), store.windows(annotation_id)
    forget(store, "finished.mp4")
    for fence, error in ((claim, LeaseLost), (None, Forgotten)):
        with pytest.raises(error):
            store.finish(annotation_id, [], [], duration_seconds=stored[-1][2], provenance={}, claim=fence)
    assert set(counts(store).values()) == {0}


def test_who_annotates_without_a_fleet_finds_it_gone(store):
    video_id = store.observe("gone.mp4", "1", 10)
    pipeline_id = pipeline(store)
    forget(store, "gone.mp4")
    with pytest.raises(Forgotten):
        store.request(video_id, "1", pipeline_id)


def test_another_version_is_still_told_from_a_forgotten_video(store):
    annotation_id = requested(store)
    store.observe("a.mp4", "2", 10)
    with pytest.raises(ChangedWhileReading):
        store.plan(annotation_id, planned(0), facts=MediaFacts(duration_seconds=2.0))


def test_messages_for_what_is_gone_do_nothing(store):
    annotation_id = begun(store)
    assert due(store) == [f"annotate_span {annotation_id}/0", f"annotate_span {annotation_id}/1"]
    forget(store, "gone.mp4")
    assert store.claim_span(Job("annotate_span", annotation_id, 0), "worker", 60.0, 3) is None
    assert store.assignment(annotation_id) is None
    assert (due(store), store.outstanding()) == ([], 0)


def test_who_takes_in_at_the_same_moment_is_waited_for(store):
    forgetting = threading.Thread(target=forget, args=(store, "a.mp4"))
    with store.writing() as connection:
        let_nobody_forget(connection)
        assert kept_out(connection, ["a.mp4"]) == set()
        forgetting.start()
        forgetting.join(0.5)
        observed(connection, [{"uri": "a.mp4", "version": "1", "size_bytes": 1}])
        assert forgetting.is_alive()
    forgetting.join(10)
    assert store.video("a.mp4") is None
    with pytest.raises(Forgotten):
        store.observe("a.mp4", "1", 1)


def test_nothing_comes_back_while_many_are_at_work(store):
    """Workers take videos all the way again and again, while these are forgotten under their hands."""
    uris = [f"/a/{n}.mp4" for n in range(12)]
    over = threading.Event()
    went_wrong: list[BaseException] = []

    def work(mine: list[str]) -> None:
        while not over.is_set():
            for uri in mine:
                try:
                    store.submit(pipeline(store), [source(uri)])
                    if video := store.video(uri):
                        found = rows(store, f"SELECT id FROM annotations WHERE video_id = {video.id}")
                        do_all(store, found[0][0], 0, 2)
                except (LeaseLost, Forgotten, AssertionError, IndexError):
                    continue  # it is gone, or done
                except BaseException as error:
                    went_wrong.append(error)
                    raise

    workers = [threading.Thread(target=work, args=(uris[k::2],)) for k in range(2)]
    for worker in workers:
        worker.start()
    forget(store, *uris[:4])
    forget(store, "/a/")
    over.set()
    for worker in workers:
        worker.join(30)
    assert went_wrong == []
    assert set(counts(store).values()) == {0}


def test_whoever_is_at_a_forgotten_video_writes_nothing_into_the_next_one(store):
    def begun(uri: str, owner: str):
        annotation_id = requested(store, uri)
        store.plan(annotation_id, planned(0))
        return store.claim(annotation_id, owner, 60.0)

    forgotten = begun("gone.mp4", "one")
    video_id = store.video("gone.mp4").id
    forget(store, "gone.mp4")
    others = begun("next.mp4", "one").annotation_id  # of the same worker, even
    before = store.annotation(others), store.spans(others)
    with pytest.raises(Forgotten):
        store.request(video_id, "1", 1)
    with pytest.raises(Forgotten):
        store.begin_attempt(forgotten.annotation_id)
    with pytest.raises(Forgotten):
        store.finish(forgotten.annotation_id, [], [], duration_seconds=2.0, provenance={})
    assert not store.fail(forgotten.annotation_id, "not_media", "gone.mp4 is text.")
    assert (store.annotation(others), store.spans(others)) == before
    with pytest.raises(LeaseLost):
        store.checkpoint(forgotten, [window_row(0)])
    with pytest.raises(LeaseLost):
        store.complete_span(forgotten, 2.0)
    assert store.renew_all([forgotten], 60.0) == [forgotten]
    assert counts(store)["windows"] == 0


def test_what_became_of_a_forgotten_event_is_not_written_down_for_the_next_one(store):
    store.add_hook(NewHook(url="https://example.org/", secret=SECRET, events=HOOK_EVENTS))
    annotated(store, "gone.mp4")
    (hook,) = store.take_hooks("one", 60.0, 1)
    delivery = store.next_delivery(hook, 60.0)
    forget(store, "gone.mp4")
    annotated(store, "next.mp4")
    store.delivered(hook, delivery, 200)
    (waiting,) = store.deliveries()
    assert (waiting.status, waiting.answer) == ("pending", None)


def test_forgetting_waits_for_whoever_finishes(store):
    annotation_id = annotated(store, "a.mp4")
    forgetting = threading.Thread(target=forget, args=(store, "a.mp4"))
    with store.writing() as connection:  # in the order of `Store.finish`
        connection.execute(sa.select(annotations.c.id).where(annotations.c.id == annotation_id).with_for_update())
        forgetting.start()
        forgetting.join(1.5)  # longer than PostgreSQL waits before it looks who waits for whom
        connection.execute(sa.update(windows).values(face_count=0))
    forgetting.join(10)
    assert set(counts(store).values()) == {0}


def test_a_video_that_is_forgotten_does_not_take_another_ones_timeline_along(store):
    annotation_id = annotated(store, "kept.mp4")
    (other,) = submit(store, "gone.mp4")
    do_all(store, other)
    forget(store, "gone.mp4")
    assert len(store.timeline("kept.mp4")) == 1
    assert len(store.windows(annotation_id)) == 2


def test_the_lock_of_sqlite_does_not_hold_up_the_cleaning(tmp_path: Path):
    with Store(str(tmp_path / "m.db")) as store:
        annotated(store, "a.mp4")
        with store.reading() as connection:  # somebody reads meanwhile
            connection.execute(sa.text("SELECT * FROM videos")).first()
            assert forget(store, "a.mp4").videos == 1
