"""The store's rules: impossible rows, leases, what is current, what finishing does, and what the views say."""

import re
import sqlite3
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

from db import tables
from db.errors import DatabaseError, DatabaseFull, DatabaseLocked, DatabaseUnreachable, Internal, LeaseLost
from db.rows import MediaFacts, PlannedSpan
from db.session import _translated
from db.statements import insert_rows
from db.store import Store
from db.tables import FUSED_COLUMNS, WINDOW_COLUMNS
from db.views import VIEW_COLUMNS
from models import taxonomy
from tests.database import NOTHING, annotated, fused_row, planned, requested, scores, segment, window_row


def query(store, sql):
    with store.reading() as connection:
        return [tuple(row) for row in connection.execute(sa.text(sql))]


def current(store, uri="a.mp4"):
    return store.video(uri).current_annotation_id


def claimed(store, annotation_id, owner="worker", lease_seconds=60.0, **options):
    claim = store.claim(annotation_id, owner, lease_seconds, **options)
    assert claim is not None
    return claim


def test_emotions_are_the_models():
    assert tables.EMOTIONS == taxonomy.EMOTIONS


# --- impossible rows


def refused(store, write):
    """Whether the database refuses what `write` does; nothing of it stays either way."""
    try:
        with store.writing() as connection:
            write(connection)
            raise _AcceptedError
    except DatabaseError:
        return True
    except _AcceptedError:
        return False


class _AcceptedError(Exception):
    pass


IMPOSSIBLE_WINDOWS = [
    {"window_index": -1},
    {"start_seconds": 5.0, "end_seconds": 5.0},
    {"start_seconds": -0.1},
    {"audio_state": None},
    {"audio_state": "fine"},
    {"video_state": "no_speech"},
    {"audio_state": "no_speech"},  # with probabilities
    {"audio_state": "ok"} | dict.fromkeys(tables.SCORES["audio"]),  # without
    {"video_state": "ok"},
    {"video_happy": 1.0},
    {"audio_happy": 1.1},
    {"audio_happy": 1.0, "audio_sad": -0.1},
    {"audio_happy": 0.5},  # sums to 0.5
    {"audio_happy": float("nan")},
    {"audio_happy": "much"},
    {"speech_share": 1.5},
    {"face_share": -0.5},
    {"face_count": -1},
]


def test_impossible_windows_are_refused(store):
    annotation_id = requested(store)

    def insert(change):
        row = window_row(0, **change)
        return lambda connection: insert_rows(connection, tables.windows, WINDOW_COLUMNS, annotation_id, [row])

    assert not refused(store, insert({}))
    assert [change for change in IMPOSSIBLE_WINDOWS if not refused(store, insert(change))] == []


IMPOSSIBLE_FUSED_WINDOWS = [
    {"window_index": -1},
    {"emotion": "bored"},
    {"emotion": None},
    {"confidence": None},
    {"confidence": 1.5},
    {"valence": -1.5},
    {"valence": None},
    {"arousal": 2.0},
    {"fused_happy": 0.2},
]


def test_impossible_fused_windows_are_refused(store):
    annotation_id = annotated(store)

    def replace(change):
        row = dict(zip(FUSED_COLUMNS, fused_row(0), strict=True)) | change

        def write(connection):
            connection.execute(sa.delete(tables.fused_windows))
            insert_rows(connection, tables.fused_windows, FUSED_COLUMNS, annotation_id, [tuple(row.values())])

        return write

    assert not refused(store, replace({}))
    assert [change for change in IMPOSSIBLE_FUSED_WINDOWS if not refused(store, replace(change))] == []


IMPOSSIBLE_CHANGES = [
    "videos SET version = NULL",
    "videos SET size_bytes = -1",
    "videos SET width = 0",
    "videos SET height = 0",
    "videos SET duration_seconds = -1",
    "videos SET recorded_at_source = 'container'",
    "videos SET current_annotation_id = 99",
    "videos SET id = 99",  # its annotation would be nobody's
    "annotations SET status = 'almost'",
    "annotations SET status = 'failed'",
    "annotations SET status = 'pending'",  # with a time of completion
    "annotations SET error_code = 'internal', error_message = 'x'",
    "annotations SET warning_code = 'corrupt_stretch'",
    "annotations SET attempts = -1",
    "annotations SET duration_seconds = NULL",
    "annotations SET duration_seconds = -1",
    "annotations SET pipeline_id = 99",
    "annotations SET source_annotation_id = 99",
    "spans SET status = 'planned'",
    "spans SET status = 'running'",
    "spans SET lease_owner = 'me', lease_until = 5",
    "spans SET status = 'running', lease_owner = 'me'",
    "spans SET epoch = -1",
    "spans SET attempts = -1",
    "spans SET windows_done = -1",
    "spans SET first_window = -1",
    "spans SET true_end_seconds = -1",
    "spans SET last_window = 5",
    "spans SET last_window = 0, end_seconds = 5, windows_done = 0",
    "spans SET last_window = 5, end_seconds = 0",
    "spans SET last_window = 1, end_seconds = 5",  # it has two windows already
    "segments SET end_seconds = start_seconds",
    "segments SET start_seconds = -1",
    "segments SET emotion = 'bored'",
    "segments SET emotion = NULL",
    "segments SET confidence = 2",
    "segments SET valence = 2",
    "segments SET segment_index = -1",
]


def test_impossible_changes_are_refused(store):
    annotated(store)

    def change(text):
        return lambda connection: connection.exec_driver_sql(f"UPDATE {text}")

    assert not refused(store, change("spans SET epoch = 7"))
    assert [text for text in IMPOSSIBLE_CHANGES if not refused(store, change(text))] == []


def test_booleans_are_booleans(store):
    store.observe("a.mp4", "1", 1)
    assert refused(store, lambda connection: connection.exec_driver_sql("UPDATE videos SET has_audio = 7"))


def test_deleting_a_video_leaves_nothing_of_it(store):
    annotated(store)
    with store.writing() as connection:
        connection.execute(sa.delete(tables.videos))
    left = {name: query(store, f"SELECT COUNT(*) FROM {name}")[0][0] for name in tables.metadata.tables}
    assert left == dict.fromkeys(tables.metadata.tables, 0) | {"pipelines": 1}


# --- videos and what is current


def test_a_video_keeps_its_facts_until_a_new_version(store):
    recorded_at = datetime(2024, 5, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))
    facts = MediaFacts(recorded_at=recorded_at, recorded_at_source="container", width=360, has_audio=True)
    first = store.observe("a.mp4", "1", 1000, facts)
    assert store.observe("a.mp4", "1", 1000, MediaFacts(height=270)) == first
    video = store.video("a.mp4")
    assert (video.id, video.width, video.height, video.has_audio, video.has_video) == (first, 360, 270, True, None)
    assert (video.recorded_at, video.recorded_at.tzinfo) == (recorded_at, UTC)
    assert store.observe("a.mp4", "2", 2000) == first
    assert (store.video("a.mp4").width, store.video("a.mp4").size_bytes) == (None, 2000)
    assert store.video("b.mp4") is None


def test_the_last_completed_annotation_is_current_and_an_earlier_one_when_asked_for(store):
    old = annotated(store, digest="d1")
    new = annotated(store, digest="d2")
    assert current(store) == new
    assert requested(store, digest="d1") == old
    assert current(store) == old
    assert store.finished("d2", {"a.mp4": "1"}) == {"a.mp4"}
    assert current(store) == new


def test_a_new_version_has_nothing_current_until_it_is_annotated(store):
    annotated(store)
    store.observe("a.mp4", "2", 1000)
    assert current(store) is None
    assert store.timeline("a.mp4") == []
    assert store.finished("d1", {"a.mp4": "2"}) == set()
    assert store.finished("d1", {"a.mp4": "1"}) == set()  # not what was last observed
    new = annotated(store, version="2")
    assert current(store) == new


def test_finishing_an_old_version_late_does_not_make_it_current(store):
    old = requested(store, version="1")
    store.plan(old, planned(0))
    claim = claimed(store, old)
    store.checkpoint(claim, [window_row(0)])
    store.complete_span(claim, 2.0)
    store.observe("a.mp4", "2", 1000)
    store.finish(old, [fused_row(0)], [segment(0, 2)], duration_seconds=2.0, provenance={})
    assert store.annotation(old).status == "done"
    assert current(store) is None


def test_finished_answers_for_ten_thousand_videos_in_a_second(store):
    annotation_id = annotated(store)
    pipeline_id = store.annotation(annotation_id).pipeline_id
    now = datetime.now(UTC)
    common = {"version": "1", "created_at": now}
    ids = range(1000, 11_000)
    video_rows = [{"id": i, "uri": f"{i}.mp4", "size_bytes": 1, "updated_at": now, **common} for i in ids]
    done = {"pipeline_id": pipeline_id, "status": "done", "attempts": 1, "completed_at": now, "duration_seconds": 1.0}
    with store.writing() as connection:
        connection.execute(sa.insert(tables.videos), video_rows)
        connection.execute(sa.insert(tables.annotations), [{"id": i, "video_id": i, **done, **common} for i in ids])
        connection.execute(sa.text("UPDATE videos SET current_annotation_id = id WHERE id >= 1000"))
    versions = {f"{i}.mp4": "2" if i == 1000 else "1" for i in ids} | {"new.mp4": "1"}
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        found = store.finished("d1", versions)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1.0, seconds
    assert found == set(versions) - {"1000.mp4", "new.mp4"}
    assert store.finished("another", versions) == set()


# --- asking, failing, asking again


def test_asking_twice_is_asking_once(store):
    assert requested(store) == requested(store)
    assert requested(store, digest="d2") != requested(store)
    assert query(store, "SELECT COUNT(*) FROM pipelines") == [(2,)]


def test_a_failed_annotation_is_pending_when_asked_for_again(store):
    annotation_id = requested(store)
    assert [store.begin_attempt(annotation_id), store.begin_attempt(annotation_id)] == [1, 2]
    store.plan(annotation_id, planned(0, 10))
    done = claimed(store, annotation_id)
    store.complete_span(done)
    ended = {"permanent": False, "max_attempts": 1, "delay_seconds": 0.0}
    crashed = ("decoder_crashed", "The decoder died on a.mp4.")
    assert store.fail_job(claimed(store, annotation_id), *crashed, **ended) == "failed"
    failed = store.annotation(annotation_id)
    assert (failed.status, failed.error_code, failed.attempts) == ("failed", "decoder_crashed", 2)
    assert store.claim(annotation_id, "worker", 60.0) is None
    assert requested(store) == annotation_id
    again = store.annotation(annotation_id)
    assert (again.status, again.error_code, again.error_message, again.attempts) == ("pending", None, None, 2)
    assert [span.status for span in store.plan(annotation_id, planned(0, 10))] == ["done", "pending"]


def test_done_stays_done(store):
    annotation_id = annotated(store)
    assert not store.fail(annotation_id, "lease_lost", "Too late.")
    assert store.annotation(annotation_id).status == "done"


# --- spans


def test_spans_are_claimed_in_order_and_once(store):
    annotation_id = requested(store)
    assert [span.first_window for span in store.plan(annotation_id, planned(0, 600, 1200))] == [0, 600, 1200]
    assert store.annotation(annotation_id).status == "planned"
    claims = [claimed(store, annotation_id, owner) for owner in "abc"]
    assert [claim.span_index for claim in claims] == [0, 1, 2]
    assert [claim.epoch for claim in claims] == [1, 1, 1]
    assert (claims[2].last_window, claims[2].end_seconds, claims[2].start_seconds) == (None, None, 1200.0)
    assert store.claim(annotation_id, "d", 60.0) is None
    assert store.annotation(annotation_id).status == "running"
    assert store.lease_owners(annotation_id) == {"a", "b", "c"}


def test_planning_again_keeps_what_is_there(store):
    annotation_id = requested(store)
    store.plan(annotation_id, planned(0, 10))
    store.complete_span(claimed(store, annotation_id))
    kept = store.plan(annotation_id, planned(0, 99))
    assert [(span.status, span.last_window) for span in kept] == [("done", 10), ("pending", None)]


def test_a_stale_claim_writes_nothing(store):
    annotation_id = requested(store)
    store.plan(annotation_id, planned(0))
    stale = claimed(store, annotation_id, "slow", lease_seconds=-1.0)
    store.checkpoint(stale, [window_row(0)])  # overdue, but nobody else has claimed it yet
    mine = claimed(store, annotation_id, "quick")
    assert (mine.epoch, mine.attempts, mine.windows_done) == (2, 2, 1)
    for write in (
        lambda: store.checkpoint(stale, [window_row(0, audio=scores(sad=1.0)), window_row(1)]),
        lambda: store.complete_span(stale, 2.0),
    ):
        with pytest.raises(LeaseLost, match="slow"):
            write()
    assert store.renew_all([stale, mine], 60.0) == [stale]
    store.give_back(stale)
    assert store.windows(annotation_id) == [window_row(0)]
    assert [(span.status, span.lease_owner, span.epoch) for span in store.spans(annotation_id)] == [
        ("running", "quick", 2)
    ]


def test_a_live_lease_is_respected_and_a_dead_owners_is_not(store):
    annotation_id = requested(store)
    store.plan(annotation_id, planned(0))
    claim = claimed(store, annotation_id, "first", lease_seconds=-1.0)
    assert store.renew_all([claim], 60.0) == []
    assert store.claim(annotation_id, "second", 60.0) is None
    assert store.claim(annotation_id, "second", 60.0, dead_owners=["third"]) is None
    assert claimed(store, annotation_id, "second", dead_owners=["first"]).epoch == 2


def test_leases_end_by_the_databases_clock(store):
    annotation_id = requested(store)
    store.plan(annotation_id, planned(0))
    claimed(store, annotation_id, lease_seconds=60.0)
    [(until,)] = query(store, "SELECT lease_until FROM spans")
    assert 55.0 < until - time.time() < 65.0


def test_a_span_given_back_is_not_counted(store):
    annotation_id = requested(store)
    store.plan(annotation_id, planned(0))
    store.give_back(claimed(store, annotation_id))
    assert store.lease_owners(annotation_id) == set()
    again = claimed(store, annotation_id)
    assert (again.attempts, again.epoch) == (1, 2)


def test_windows_come_back_as_they_went_in_and_are_replaced_by_index(store):
    annotation_id = requested(store)
    store.plan(annotation_id, planned(0, 3))
    claim = claimed(store, annotation_id)
    thirds = scores(happy=1 / 3, sad=2 / 3)
    rows = [
        window_row(0),
        window_row(1, audio=NOTHING, video=thirds, face_count=3, speech_share=None),
        window_row(2, audio=(0.5, None, 0.5, 0.0, 0.0, 0.0, None, 0.0)),
    ]
    store.checkpoint(claim, [window_row(0, audio=scores(sad=1.0)), rows[1]])
    store.checkpoint(claim, rows)
    assert store.windows(annotation_id) == rows
    assert store.spans(annotation_id)[0].windows_done == 3


def test_windows_outside_their_span_are_refused(store):
    annotation_id = requested(store)
    store.plan(annotation_id, planned(0, 3))
    claim = claimed(store, annotation_id)
    with pytest.raises(Internal, match="Windows 2 to 3"):
        store.checkpoint(claim, [window_row(2), window_row(3)])
    assert store.windows(annotation_id) == []


# --- finishing


def test_finish_completes_and_finishing_again_replaces(store):
    annotation_id = annotated(store, provenance={"device": "cpu", "batch_size": 4})
    assert store.timeline("a.mp4") == [segment(0.0, 3.0)]
    assert query(store, "SELECT status, duration_seconds FROM annotations") == [("done", 3.0)]
    sad = [segment(0.0, 1.0, "sad"), segment(1.0, 3.0, None)]
    store.finish(annotation_id, [fused_row(0, "sad"), fused_row(1, None)], sad, duration_seconds=3.0, provenance={})
    assert store.timeline("a.mp4") == sad
    assert query(store, "SELECT emotion FROM fused_windows ORDER BY window_index") == [("sad",), (None,)]


def test_finish_drops_windows_beyond_the_true_end(store):
    rows = [window_row(index) for index in range(4)]
    fused = [fused_row(index) for index in range(2)]
    annotation_id = annotated(store, rows=rows, fused=fused, keep_windows=2)
    assert store.windows(annotation_id) == rows[:2]


def test_an_error_while_finishing_leaves_all_as_it_was(store):
    annotation_id = annotated(store)
    before = (store.timeline("a.mp4"), store.windows(annotation_id), store.annotation(annotation_id))
    impossible = [segment(0.0, 1.0, "sad"), segment(2.0, 1.0, "sad")]
    with pytest.raises(DatabaseError, match="start_before_end"):
        store.finish(
            annotation_id,
            [fused_row(0, "sad")],
            impossible,
            duration_seconds=9.0,
            provenance={},
            keep_windows=1,
        )
    assert (store.timeline("a.mp4"), store.windows(annotation_id), store.annotation(annotation_id)) == before


def test_finish_needs_every_span_window_and_fused_row(store):
    annotation_id = requested(store)

    def finish(fused):
        store.finish(annotation_id, fused, [segment(0, 3)], duration_seconds=3.0, provenance={})

    with pytest.raises(Internal, match="not planned"):
        finish([])
    store.plan(annotation_id, planned(0, 1))
    claim = claimed(store, annotation_id)
    store.checkpoint(claim, [window_row(0)])
    store.complete_span(claim)
    with pytest.raises(Internal, match="'pending': 1"):
        finish([fused_row(0)])
    claim = claimed(store, annotation_id)
    store.checkpoint(claim, [window_row(2)])
    store.complete_span(claim, 3.0)
    with pytest.raises(Internal, match="2 of its 3 windows are stored"):
        finish([fused_row(0), fused_row(2)])
    with store.writing() as connection:
        insert_rows(connection, tables.windows, WINDOW_COLUMNS, annotation_id, [window_row(1)])
    with pytest.raises(Internal, match="2 of 3 windows are fused"):
        finish([fused_row(0), fused_row(1)])
    finish([fused_row(index) for index in range(3)])
    assert store.annotation(annotation_id).status == "done"


# --- views


def test_views_have_the_documented_columns(store):
    with store.reading() as connection:
        for name, columns in VIEW_COLUMNS.items():
            assert tuple(connection.execute(sa.text(f"SELECT * FROM {name}")).keys()) == columns
    assert VIEW_COLUMNS["timeline"] == (
        *("video", "start_seconds", "end_seconds", "emotion", "confidence", "valence", "arousal"),
    )


def test_timeline_and_scores_show_only_what_is_current(store):
    annotated(store, digest="old", timeline=[segment(0, 3, "sad")])
    annotated(
        store, rows=[window_row(0, video=scores(sad=1.0)), window_row(1)], fused=[fused_row(0), fused_row(1, None)]
    )
    assert query(store, "SELECT * FROM timeline") == [("a.mp4", 0.0, 3.0, "happy", 0.75, 0.5, 0.25)]
    rows = query(store, "SELECT * FROM window_scores ORDER BY window_index, modality, emotion")
    assert len(rows) == 2 * 3 * 8
    assert ("a.mp4", 0, 0.0, 2.0, "audio", "ok", "happy", 1.0) in rows
    assert ("a.mp4", 0, 0.0, 2.0, "video", "ok", "sad", 1.0) in rows
    assert ("a.mp4", 1, 1.0, 3.0, "video", "no_face", "sad", None) in rows
    assert ("a.mp4", 0, 0.0, 2.0, "fused", "ok", "happy", 1.0) in rows
    assert ("a.mp4", 1, 1.0, 3.0, "fused", "none", "happy", None) in rows
    assert sum(row[-1] or 0 for row in rows) == pytest.approx(4.0)  # each row of probabilities sums to 1


def test_video_summary_weighs_by_time(store):
    timeline = [
        segment(0, 1, "happy", valence=0.8, arousal=0.5),
        segment(1, 4, "sad", valence=-0.4, arousal=-0.5),
        segment(4, 8, None),
        segment(8, 10, "happy", valence=0.2, arousal=0.5),
    ]
    annotated(store, timeline=timeline, duration_seconds=10.5)
    annotated(store, uri="dark.mp4", timeline=[segment(0, 3, None)])
    [row] = query(store, "SELECT * FROM video_summary WHERE video = 'a.mp4'")
    found = dict(zip(VIEW_COLUMNS["video_summary"], row, strict=True))
    assert found == {
        "video": "a.mp4",
        "duration_seconds": 10.5,
        "segments": 4,
        "dominant_emotion": "happy",  # three seconds each; the one that comes first among the labels
        "mean_valence": pytest.approx((0.8 * 1 - 0.4 * 3 + 0.2 * 2) / 6),
        "mean_arousal": pytest.approx(0.0),
        **{f"{name}_share": 0.0 for name in tables.EMOTIONS},
        "happy_share": pytest.approx(0.3),
        "sad_share": pytest.approx(0.3),
        "none_share": pytest.approx(0.4),
    }
    dark = query(store, "SELECT dominant_emotion, mean_valence, none_share FROM video_summary WHERE video = 'dark.mp4'")
    assert dark == [(None, None, 1.0)]


def test_failures_lists_failures_and_warnings_of_latest_versions(store):
    annotated(store, uri="hole.mp4", warning=("corrupt_stretch", "A hole."))
    bad = requested(store, uri="bad.mp4")
    store.begin_attempt(bad)
    store.fail(bad, "truncated", "bad.mp4 is cut off.")
    shown = query(store, "SELECT video, code, message, severity, attempts FROM failures ORDER BY video")
    assert shown == [
        ("bad.mp4", "truncated", "bad.mp4 is cut off.", "failed", 1),
        ("hole.mp4", "corrupt_stretch", "A hole.", "warning", 1),
    ]
    assert all(failed_at for (failed_at,) in query(store, "SELECT failed_at FROM failures"))
    store.observe("bad.mp4", "2", 5)
    assert query(store, "SELECT video FROM failures") == [("hole.mp4",)]


def test_a_failure_is_history_once_a_later_annotation_is_done(store):
    store.fail(requested(store, digest="d1"), "out_of_memory", "Too large.")
    annotated(store, digest="d2")
    assert query(store, "SELECT * FROM failures") == []
    store.fail(requested(store, digest="d3"), "internal", "Oh.")
    assert query(store, "SELECT code FROM failures") == [("internal",)]


def test_what_spans_could_not_read_is_kept_through_a_failure(store):
    annotation_id = requested(store)
    store.plan(annotation_id, planned(0, 2))
    first = store.claim(annotation_id, "worker", 60.0)
    store.checkpoint(first, [window_row(0), window_row(1)])
    store.complete_span(first, None, ("corrupt_stretch", "A hole."))
    store.fail(annotation_id, "decoder_crashed", "Bang.")
    assert requested(store) == annotation_id
    store.plan(annotation_id, planned(0, 2))
    second = store.claim(annotation_id, "worker", 60.0)
    store.checkpoint(second, [window_row(2)])
    store.complete_span(second, 4.0, ("truncated", "It ends early."))
    store.finish(
        annotation_id, [fused_row(k) for k in range(3)], [segment(0.0, 4.0)], duration_seconds=4.0, provenance={}
    )
    done = store.annotation(annotation_id)
    assert (done.warning_code, done.warning_message) == ("truncated", "A hole. It ends early.")


def test_a_failure_can_discard_what_was_stored(store):
    annotation_id = requested(store)
    store.plan(annotation_id, planned(0))
    claim = store.claim(annotation_id, "worker", 60.0)
    store.checkpoint(claim, [window_row(0)])
    store.complete_span(claim, 2.0)
    store.fail(annotation_id, "undecodable", "Nothing.", discard=True)
    requested(store)
    assert (store.spans(annotation_id), store.windows(annotation_id)) == ([], [])


def test_fusing_anew_takes_over_what_nobody_holds(store):
    first = annotated(store)
    other = requested(store, digest="d2")
    store.plan(other, planned(0))
    claim = store.claim(other, "worker", 60.0)
    pipeline_id = store.register_pipeline("d2", "windows", "compact", {})
    video_id = store.video("a.mp4").id
    assert store.request(video_id, "1", pipeline_id, first).source_annotation_id is None
    store.give_back(claim)
    assert store.request(video_id, "1", pipeline_id, first).source_annotation_id == first
    assert store.spans(other) == []
    assert store.plan(other, planned(0)) == []  # somebody who was about to make the windows himself


def test_status_counts(store):
    annotated(store)
    annotated(store, uri="b.mp4", digest="d2")
    store.fail(requested(store, uri="bad.mp4"), "not_media", "bad.mp4 is text.")
    requested(store, uri="new.mp4")
    status = store.status()
    assert (status.videos, status.annotated_seconds) == (4, 6.0)
    assert status.annotations == {"done": 2, "failed": 1, "pending": 1}
    assert status.failures == {"not_media": 1}
    assert status.pipelines == {"compact d1": 1, "compact d2": 1}


def test_empty_store_has_empty_answers(store):
    status = store.status()
    assert (status.videos, status.annotations, status.annotated_seconds) == (0, {}, 0.0)
    assert store.finished("d1", {}) == set()
    assert store.timeline("a.mp4") == []


def test_text_of_all_kinds_is_kept(store):
    uri = "/tmp/ünïcode ' \" % %s :x ? 日本.mp4"
    annotation_id = annotated(store, uri=uri)
    assert current(store, uri) == annotation_id
    assert store.finished("d1", {uri: "1"}) == {uri}


def test_a_path_is_as_good_as_a_url(tmp_path):
    with Store(str(tmp_path / "my data.db")) as store:
        annotated(store)
    with Store(f"sqlite:///{tmp_path / 'my data.db'}", create=False) as store:
        assert store.status().videos == 1


def test_spans_to_the_end_are_none_on_both_sides():
    assert (
        PlannedSpan(span_index=0, first_window=0, last_window=None, start_seconds=0.0, end_seconds=None)
        == planned(0)[0]
    )


def test_no_window_reaches_beyond_the_true_end(store):
    """A span in the middle stores whole windows; where the file then turns out to end early, they are clipped."""
    rows = [window_row(k) for k in range(4)]
    fused = [fused_row(k) for k in range(2)]
    annotation_id = annotated(
        store, rows=rows, fused=fused, timeline=[segment(0.0, 2.5)], duration_seconds=2.5, keep_windows=2
    )
    assert [(row[1], row[2]) for row in store.windows(annotation_id)] == [(0.0, 2.0), (1.0, 2.5)]


def test_fusing_anew_shares_the_windows(store):
    """Another pipeline's timeline of the same windows: beside the first, current while it is the last one asked for."""
    first = annotated(store)
    video = store.video("a.mp4")
    other = store.register_pipeline("d2", "windows", "compact", {})
    assert store.windows_of("windows", {"a.mp4": "1"}) == {"a.mp4": first}
    assert store.windows_of("windows", {"a.mp4": "2"}) == {}
    second = store.request(video.id, "1", other, first).id
    store.finish(
        second,
        [fused_row(0, "sad"), fused_row(1, "sad")],
        [segment(0.0, 3.0, "sad")],
        duration_seconds=3.0,
        provenance={},
    )
    assert store.windows(second) == store.windows(first) != []
    assert query(store, "SELECT COUNT(*) FROM windows") == [(2,)]
    assert query(store, "SELECT DISTINCT emotion FROM timeline") == [("sad",)]
    fused = "SELECT COUNT(*) FROM window_scores WHERE modality = 'fused' AND emotion = 'sad' AND probability = 1"
    assert query(store, fused) == [(2,)]
    assert store.finished("d1", {"a.mp4": "1"}) == {"a.mp4"}  # asked for again
    assert query(store, "SELECT DISTINCT emotion FROM timeline") == [("happy",)]


# --- what SQLite's errors mean


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, DatabaseFull),
        (sqlite3.SQLITE_IOERR, DatabaseUnreachable),
        (sqlite3.SQLITE_IOERR | 10 << 8, DatabaseUnreachable),  # of reading or writing, say
        (sqlite3.SQLITE_READONLY, DatabaseUnreachable),
        (sqlite3.SQLITE_CORRUPT, DatabaseUnreachable),
        (sqlite3.SQLITE_PERM, DatabaseUnreachable),
        (sqlite3.SQLITE_NOTADB, DatabaseError),
        (sqlite3.SQLITE_BUSY, DatabaseLocked),
    ],
)
def test_what_sqlites_refusals_mean(code, kind):
    cause = sqlite3.OperationalError("the reason")
    cause.sqlite_errorcode = code
    translated = _translated(sa.exc.OperationalError("SELECT 1", {}, cause), "db")
    assert type(translated) is kind
    assert "db" in str(translated)


def test_a_full_disk_a_closed_file_and_a_broken_rule(tmp_path):
    with Store(str(tmp_path / "t.db")) as store:
        annotation_id = requested(store)
        store.plan(annotation_id, planned(0))
        claim = claimed(store, annotation_id)
        with store.reading() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        plain = {"PRAGMA max_page_count": 2**30, "PRAGMA query_only": 0}
        settings = dict(plain)

        @sa.event.listens_for(store.engine, "begin")
        def begin(connection):
            for name, value in settings.items():
                connection.exec_driver_sql(f"{name} = {value}")

        many = [window_row(index) for index in range(1000)]
        for changes, kind in (
            ({"PRAGMA max_page_count": pages}, DatabaseFull),
            ({"PRAGMA query_only": 1}, DatabaseUnreachable),
        ):
            settings |= changes
            with pytest.raises(DatabaseError, match=re.escape(store.name)) as caught:
                store.checkpoint(claim, many)
            assert type(caught.value) is kind
            settings |= plain
            store.engine.dispose()  # a connection that may only read could not even begin
        with pytest.raises(DatabaseError) as caught:
            store.checkpoint(claim, [window_row(0, face_count=-1)])
        assert type(caught.value) is DatabaseError
        store.checkpoint(claim, many)
        assert len(store.windows(annotation_id)) == 1000
