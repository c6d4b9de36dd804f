"""The view `queued_seconds`, by which workers are added and removed."""

import sqlalchemy as sa

from db.identity import Source
from db.rows import FINISH, Job, MediaFacts
from db.store import Store
from tests.database import planned
from tests.fleet import change, do_span, finish, pipeline, plan, rows, submit, take, take_plan, take_span


def queued(store):
    ((seconds, to_plan, to_annotate, to_finish),) = rows(store, "SELECT * FROM queued_seconds")
    assert abs(seconds - (to_plan + to_annotate + to_finish)) < 1e-6
    return round(to_plan, 6), round(to_annotate, 6), to_finish


def known(store, *lengths_and_sizes):
    """Videos that were annotated, of these lengths in seconds and sizes in bytes."""
    for number, (seconds, size) in enumerate(lengths_and_sizes):
        (annotation_id,) = submit(store, f"known{number}.mp4")
        plan(store, annotation_id)
        do_span(store, annotation_id)
        finish(store, annotation_id)
        change(
            store,
            f"UPDATE videos SET duration_seconds = {seconds}, size_bytes = {size} WHERE uri = 'known{number}.mp4'",
        )


def ask(store, *sizes):
    store.submit(pipeline(store), [Source(f"{n}.mp4", "1", size, 0.0) for n, size in enumerate(sizes)])


def test_an_empty_queue_is_0(store):
    assert queued(store) == (0, 0, 0)
    known(store, (60.0, 1000))
    assert queued(store) == (0, 0, 0)


def test_what_was_not_probed_counts_by_its_size_and_the_median_of_others(store):
    ask(store, 250_000, 2_500_000)
    assert queued(store) == (11.0, 0, 0)  # nothing is known: 2 Mbit/s
    known(store, (10.0, 1_000_000), (10.0, 5_000_000), (10.0, 1_000_000_000))  # 5,000,000 bytes in 10 s are the median
    assert queued(store) == (6.0, 0, 0)  # 250,000 bytes are 0.5 s, which counts as 1


def test_what_was_probed_counts_as_it_is(store):
    ask(store, 250_000)
    change(store, "UPDATE videos SET duration_seconds = 90")
    assert queued(store) == (90.0, 0, 0)


def test_spans_count_until_they_are_done_at_work_or_not(store):
    (annotation_id,) = submit(store, "a.mp4")
    claim = take_plan(store, annotation_id)
    store.plan(annotation_id, planned(0, 100), claim, MediaFacts(duration_seconds=130.0))
    assert queued(store) == (0, 130.0, 0)
    take_span(store, annotation_id, 0)
    assert queued(store) == (0, 130.0, 0)
    change(store, "UPDATE spans SET status = 'done', lease_owner = NULL, lease_until = NULL WHERE span_index = 0")
    assert queued(store) == (0, 30.0, 0)


def test_finishing_counts_so_that_somebody_is_there_to_do_it(store):
    (annotation_id,) = submit(store, "a.mp4")
    plan(store, annotation_id)
    do_span(store, annotation_id)
    assert queued(store) == (0, 0, 1)
    claim = take(store, Job(FINISH, annotation_id))
    assert queued(store) == (0, 0, 1)
    finish(store, annotation_id, claim)
    assert queued(store) == (0, 0, 0)


def test_what_was_not_asked_of_the_fleet_or_has_failed_does_not_count(store):
    store.request(store.observe("a.mp4", "1", 1_000_000), "1", pipeline(store))
    submit(store, "b.mp4")
    store.cancel()
    assert queued(store) == (0, 0, 0)


def test_of_very_many_videos_some_stand_for_all(store):
    ask(store, *(500_000 for _ in range(3000)))
    assert queued(store) == (6000.0, 0, 0)


def test_it_is_read_through_the_partial_indexes(postgresql_url):
    with Store(postgresql_url) as store:
        pipeline(store)
        ended = "'done', now(), 60.0, NULL"
        for first, last, state in (
            (1, 15_000, ended),
            (15_001, 15_100, "'running', NULL, NULL, NULL"),
            (15_101, 35_000, "'pending', NULL, NULL, NULL"),
            (35_001, 35_020, "'running', NULL, NULL, 5.0"),
        ):
            numbers = f"generate_series({first}, {last}) n"
            change(
                store,
                "INSERT INTO videos (id, uri, version, size_bytes, created_at, updated_at)"
                f" SELECT n, n, '1', 1000000, now(), now() FROM {numbers}",
            )
            change(
                store,
                "INSERT INTO annotations (id, video_id, version, pipeline_id, attempts, created_at, queue_key, status,"
                " completed_at, duration_seconds, spans_done_at)"
                f" SELECT n, n, '1', 1, 1, now(), n, {state} FROM {numbers}",
            )
        change(
            store,
            "INSERT INTO spans (annotation_id, span_index, first_window, last_window, start_seconds, end_seconds,"
            " status, epoch, attempts, windows_done)"
            " SELECT id, 0, 0, 600, 0, 600, CASE WHEN status = 'done' THEN 'done' ELSE 'pending' END, 0, 0, 0"
            " FROM annotations WHERE status <> 'pending'",
        )
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
            explained = connection.execute(sa.text("EXPLAIN SELECT seconds FROM queued_seconds")).scalars().all()
        assert queued(store) == (19_900 * 4.0, 100 * 600.0, 20)
    said = "\n".join(explained)
    used = ("annotations_to_plan", "annotations_to_annotate", "annotations_to_finish", "annotations_completed_at")
    for index in (*(f"ix_{name}" for name in used), "pk_spans"):
        assert index in said, said
    assert "Seq Scan on spans" not in said, said
    assert "Seq Scan on annotations" not in said, said
