"""Backfill: which videos lack an annotation by a pipeline, that a condition can do no harm, and what changes by it."""

import tracemalloc
from datetime import UTC, datetime

import pytest

from db.errors import BadOption, Expired
from db.rows import Load, MediaFacts, Submitted
from tests.database import annotated, requested, segment
from tests.fleet import change, do_all, do_span, due, failed, finish, pipeline, plan, rows, source, submit, take_plan


def new_pipeline(store) -> int:
    return pipeline(store, "new")


def lacking(store, where=None, limit=None) -> list[str]:
    """URIs of the videos that lack the new pipeline's annotation."""
    ids = list(store.lacking(new_pipeline(store), where, limit))
    assert store.lacking_load(new_pipeline(store), where, limit).videos == len(ids)
    return [dict(rows(store, "SELECT id, uri FROM videos"))[key] for key in ids]


@pytest.fixture
def archive(store):
    """Three videos: of a minute, of an hour, and one that nobody has looked into."""
    for uri, seconds, year in (("s3://b/minute.mp4", 60.0, 2025), ("s3://b/hour.mp4", 3600.0, 2026)):
        recorded = {"recorded_at": datetime(year, 6, 1, 12, 30, tzinfo=UTC), "recorded_at_source": "container"}
        store.observe(uri, "1", 1000, MediaFacts(duration_seconds=seconds, has_audio=True, **recorded))
    store.observe("s3://b/unknown?.mp4", "1", 500)
    return store


# --- what is missing


def test_whatever_the_pipeline_has_not_annotated_is_missing(store):
    annotated(store, "old.mp4")
    annotated(store, "both.mp4")
    annotated(store, "both.mp4", digest="new")
    store.observe("never.mp4", "1", 10)
    annotated(store, "changed.mp4", version="1", digest="new")
    store.observe("changed.mp4", "2", 10)
    store.observe("gone.mp4", "1", 10)
    store.mark_gone(["gone.mp4"])
    requested(store, "begun here.mp4", digest="new")  # by `moodreel annotate`, which was interrupted
    assert lacking(store) == ["old.mp4", "never.mp4", "changed.mp4", "begun here.mp4"]
    assert lacking(store, limit=2) == ["old.mp4", "never.mp4"]


def test_what_was_asked_for_failed_or_expired_is_not_missing(store):
    asked = new_pipeline(store)
    store.submit(asked, [source(uri) for uri in ("waits", "failed", "cancelled")])
    ids = dict(rows(store, "SELECT uri, a.id FROM annotations a JOIN videos v ON v.id = a.video_id"))
    failed(store, take_plan(store, ids["failed"]), permanent=True)
    store.cancel(["cancelled"])
    store.fail(annotation_id := requested(store, "expired", digest="new"), Expired.code, "Old.")
    assert (lacking(store), store.failed_before(asked)) == ([], 1)
    assert store.retry(code=Expired.code) == 1
    assert store.annotation(annotation_id).status == "pending"


def test_asking_again_asks_only_for_what_is_still_missing(archive):
    asked = new_pipeline(archive)
    first, *rest = archive.lacking(asked)
    assert archive.ask_for(asked, [first], -1000) == Submitted(new=1)
    assert list(archive.lacking(asked)) == rest
    assert archive.ask_for(asked, [first, *rest], -1000) == Submitted(new=2, waiting=1)
    assert list(archive.lacking(asked)) == []
    assert rows(archive, "SELECT DISTINCT priority FROM annotations") == [(-1000,)]


def test_what_is_asked_for_later_goes_first(archive):
    asked = new_pipeline(archive)
    archive.ask_for(asked, list(archive.lacking(asked)), -1000)
    (urgent,) = submit(archive, "new.mp4")
    assert len(due(archive, 1)) == 1
    assert rows(archive, f"SELECT sent_at IS NOT NULL FROM annotations WHERE id = {urgent}")[0][0]


def test_what_was_forgotten_meanwhile_is_left_out(archive):
    asked = new_pipeline(archive)
    ids = list(archive.lacking(asked))
    archive.forget(["s3://b/hour.mp4"], [], "me")
    assert archive.ask_for(asked, ids, -1000) == Submitted(new=2)


def test_limits_of_sources_hold_for_a_backfill_too(archive):
    archive.limit_source("s3://b/", 1)
    asked = new_pipeline(archive)
    archive.ask_for(asked, list(archive.lacking(asked)), -1000)
    assert len(due(archive)) == 1


def test_how_much_it_is_where_lengths_are_unknown(archive):
    asked = new_pipeline(archive)
    assert archive.lacking_load(asked) == Load(videos=3, seconds=3660.0)  # nothing was ever done to estimate by
    do_all(archive, *submit(archive, "s3://b/hour.mp4"))
    load = archive.lacking_load(asked)
    assert load.videos == 3
    assert load.seconds == pytest.approx(3660.0 + 500 * 3.6)


def test_a_hundred_thousand_videos_take_little_memory(store):
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
    columns = "uri, version, size_bytes, created_at, updated_at"
    moments = "CURRENT_TIMESTAMP, CURRENT_TIMESTAMP"
    change(store, f"INSERT INTO videos ({columns}) {numbers} SELECT '/a/' || i, '1', 1, {moments} FROM n")
    asked = new_pipeline(store)
    tracemalloc.start()
    try:
        assert len(store.lacking(asked)) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 12_000_000  # 8 bytes each, and the rows that are fetched at once
    finally:
        tracemalloc.stop()


# --- conditions


CONDITIONS = {
    "duration_seconds > 60": ["hour"],
    "recorded_at >= '2026-01-01' AND has_audio": ["hour"],
    "recorded_at < '2026-06-01 12:29:59' -- the older one": ["minute"],
    "video LIKE '%hour%' OR video LIKE '%unknown?%'": ["hour", "unknown?"],
    "pipeline IS NULL AND size_bytes % 1000 = 0": ["minute", "hour"],
    "duration_seconds IS NULL": ["unknown?"],
    "video IN (SELECT video FROM video_summary)": [],
    "CAST(video_id AS TEXT) <> ' :x' AND 1 = 1": ["minute", "hour", "unknown?"],
}
BAD_CONDITIONS = (
    "nope > 1",
    "duration_seconds >",
    "",
    "1 = 1); DELETE FROM videos; SELECT (1 = 1",
    "1 = 1); COMMIT; DELETE FROM videos; SELECT (1 = 1",
    "video_id IN (DELETE FROM videos RETURNING id)",
    "video_id = (WITH gone AS (DELETE FROM videos RETURNING id) SELECT id FROM gone LIMIT 1)",
    "(SELECT COUNT(*) FROM no_such_table) > 0",
)


def test_conditions(archive):
    found = {where: lacking(archive, where) for where in CONDITIONS}
    assert found == {where: [f"s3://b/{name}.mp4" for name in names] for where, names in CONDITIONS.items()}


def test_a_bad_condition_is_refused_in_the_databases_words_and_changes_nothing(archive):
    for where in BAD_CONDITIONS:
        for ask in (archive.lacking, archive.lacking_load):
            with pytest.raises(BadOption, match=r"does not take this condition: .{8,}"):
                ask(new_pipeline(archive), where)
    assert len(lacking(archive)) == 3


def test_conditions_with_side_effects_are_refused(store):
    store.observe("a.mp4", "1", 1)
    effect = "nextval('videos_id_seq') > 0"
    if store.engine.dialect.name == "sqlite":
        effect = "EXISTS (SELECT 1 FROM pragma_table_info('videos'))"  # of pragmas some change things
    with pytest.raises(BadOption, match=r"not authorized|prohibited|read-only"):
        store.lacking(new_pipeline(store), effect)
    store.observe("b.mp4", "1", 1)  # the connection can be written through as before
    assert store.video("b.mp4").id == 2


def test_a_condition_that_takes_too_long_is_ended(archive, monkeypatch):
    monkeypatch.setattr("db.backfill.LIMIT_SECONDS", 0.2)
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    with pytest.raises(BadOption, match=r"interrupted|timeout"):
        archive.lacking(new_pipeline(archive), f"({numbers}) > 0")
    monkeypatch.undo()
    assert len(lacking(archive)) == 3


# --- old and new


def test_the_old_result_is_current_until_the_new_one_is_complete(store):
    (first,) = submit(store, "a.mp4")
    do_all(store, first)
    before = store.timeline("a.mp4")
    asked = new_pipeline(store)
    store.ask_for(asked, list(store.lacking(asked)), -1000)
    ((second,),) = rows(store, f"SELECT id FROM annotations WHERE pipeline_id = {asked}")
    assert store.video("a.mp4").current_annotation_id == first
    plan(store, second, 0, 2)
    do_span(store, second, 0)
    do_span(store, second, 1)
    assert store.video("a.mp4").current_annotation_id == first
    assert store.timeline("a.mp4") == before
    finish(store, second)
    assert store.video("a.mp4").current_annotation_id == second
    assert store.timeline("a.mp4") != before


def test_a_new_result_that_fails_leaves_the_old_one_current(store):
    first = annotated(store, "a.mp4")
    asked = new_pipeline(store)
    store.ask_for(asked, list(store.lacking(asked)), -1000)
    ((second,),) = rows(store, f"SELECT id FROM annotations WHERE pipeline_id = {asked}")
    failed(store, take_plan(store, second), permanent=True)
    assert store.video("a.mp4").current_annotation_id == first


def changes(store, what="*", rest="") -> list[tuple]:
    return rows(store, f"SELECT {what} FROM annotation_changes {rest}")


def test_what_the_new_pipeline_changed(store):
    old = [segment(0.0, 4.0, "happy"), segment(4.0, 10.0, None)]
    new = [segment(0.0, 3.0, "happy"), segment(3.0, 5.0, "sad"), segment(5.0, 10.0, None)]
    lasts = {"duration_seconds": 10.0}
    annotated(store, "a.mp4", timeline=old, **lasts)
    annotated(store, "a.mp4", digest="new", timeline=new, **lasts)
    columns = "before_emotion, after_emotion, is_changed, seconds, share"
    found = [(*row[:2], bool(row[2]), *row[3:]) for row in changes(store, columns, "ORDER BY seconds DESC")]
    assert found[:2] == [(None, None, False, 5.0, 0.5), ("happy", "happy", False, 3.0, 0.3)]
    assert sorted(found[2:], key=str) == [("happy", "sad", True, 1.0, 0.1), (None, "sad", True, 1.0, 0.1)]
    assert changes(store, "SUM(share)", "WHERE is_changed") == [(pytest.approx(0.2),)]
    assert changes(store, "SUM(share)") == [(pytest.approx(1.0),)]


def test_changes_are_of_the_latest_version_and_of_complete_annotations_each_pair_once(store):
    annotated(store, "a.mp4", version="1")
    annotated(store, "a.mp4", version="1", digest="d2")
    annotated(store, "a.mp4", version="2")
    assert changes(store) == []
    annotated(store, "a.mp4", version="2", digest="d2")
    requested(store, "a.mp4", version="2", digest="d4")
    annotated(store, "a.mp4", version="2", digest="d3")
    pairs = changes(store, "before_pipeline_id, after_pipeline_id", "ORDER BY 1, 2")
    ids = dict(rows(store, "SELECT digest, id FROM pipelines"))
    assert pairs == [(ids["d1"], ids["d2"]), (ids["d1"], ids["d3"]), (ids["d2"], ids["d3"])]


def test_the_documented_query_for_a_named_pipeline(store):
    annotated(store, "a.mp4")
    annotated(store, "a.mp4", digest="new", timeline=[segment(0.0, 3.0, "sad")])
    store.name_pipeline("v2", new_pipeline(store), {})
    change(store, "UPDATE videos SET current_annotation_id = NULL")  # it does not matter which one is shown
    named = "JOIN pipeline_names ON pipeline_names.pipeline_id = after_pipeline_id WHERE name = 'v2' AND is_changed"
    assert changes(store, "video, before_emotion, after_emotion, seconds", named) == [("a.mp4", "happy", "sad", 3.0)]
