"""Objects annotated on one machine and by the fleet: the rows are a file's, and versions are never mixed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import worker.fleet
from db.identity import ObjectName, Source
from db.store import Store
from tests.faulty_store import EXPIRED, SLOW_DOWN
from worker import objects, read_ahead
from worker.finish import register
from worker.fleet import FleetOptions, FleetWorker
from worker.pipeline import Pipeline
from worker.recipe import Recipe
from worker.windows import WindowPlan

RECIPE = Recipe(plan=WindowPlan(span_ms=4000))
FILM = ObjectName("archive", "films/a b+c.mp4")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    monkeypatch.setattr(read_ahead, "MIN_BLOCK_BYTES", 1 << 14)  # short clips in many requests, as long films are
    monkeypatch.setattr(worker.fleet, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(worker.fleet, "REFUSED_SECONDS", 0.02)


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with Store(str(tmp_path / "test.db")) as store:
        yield store


@pytest.fixture
def put(object_store):
    object_store.client("s3").create_bucket(Bucket=FILM.bucket)

    def put(path: Path) -> Source:
        object_store.client("s3").put_object(Bucket=FILM.bucket, Key=FILM.key, Body=path.read_bytes())
        return objects.described(FILM)

    return put


@pytest.fixture(scope="module")
def expected(media, tmp_path_factory) -> list[tuple]:
    """The windows of obama_speech.mp4 as a file."""
    clip = media / "obama_speech.mp4"
    with Store(str(tmp_path_factory.mktemp("files") / "test.db")) as store:
        with Pipeline(store, RECIPE, "cpu") as pipeline:
            assert [outcome.status for outcome in pipeline.annotate([Source.of(clip, clip.stat())])] == ["done"]
        return windows(store, str(clip))


def windows(store: Store, uri: str) -> list[tuple]:
    return [tuple(row) for row in store.windows(store.video(uri).current_annotation_id)]


def close(ours: list[tuple], theirs: list[tuple]) -> bool:
    """Whether windows are the same; models round by how their batches are made up."""
    return len(ours) == len(theirs) and all(
        list(mine) == pytest.approx(list(other), abs=1e-3, nan_ok=True)
        for mine, other in zip(ours, theirs, strict=True)
    )


def rows(store: Store, query: str) -> list[tuple]:
    with store.reading() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def replacing(faulty_store, put, path: Path, after: int):
    """Put another version in place when so many requests for bytes have come."""
    seen = []

    def on_get(_: str) -> None:
        seen.append(1)
        if len(seen) == after:
            put(path)

    faulty_store.on_get = on_get
    return seen


def run_fleet(store: Store, source: Source, between=lambda: None) -> list[str]:
    pipeline_id = register(store, RECIPE.identity)
    store.name_pipeline("main", pipeline_id, RECIPE.options)
    store.submit(pipeline_id, [source])
    done = []
    with FleetWorker(store, FleetOptions("cpu", slots=1, lease_seconds=20.0, max_attempts=3)) as fleet:
        for _ in range(400):
            for due in store.take_due(100, resend_seconds=0.05):
                fleet.run(due.job.kind, due.job.id)
                done.append(due.job.kind)
                between()
            if not {"pending", "planned", "running"} & set(store.status().annotations):
                return done
    raise AssertionError(f"not done: {store.fleet()}")


def test_an_object_that_is_replaced_while_it_is_annotated_is_annotated_as_it_then_is(
    store, media, put, expected, faulty_store
):
    source = put(media / "single_face.mp4")
    gets = replacing(faulty_store, put, media / "obama_speech.mp4", after=6)
    with Pipeline(store, RECIPE, "cpu") as pipeline:
        (outcome,) = pipeline.annotate([source])
    assert (outcome.status, outcome.error) == ("done", None)
    assert len(gets) > 6
    assert close(windows(store, FILM.uri), expected)
    states = rows(store, "SELECT version, status, error_code FROM annotations ORDER BY id")
    assert states == [
        (source.version, "failed", "changed_while_reading"),
        (objects.described(FILM).version, "done", None),
    ]
    assert rows(store, "SELECT * FROM failures") == []
    assert rows(store, "SELECT recorded_at_source FROM videos") in ([("object",)], [("container",)])


def test_the_fleet_annotates_an_object_that_is_replaced_midway_as_it_then_is(store, media, put, expected, faulty_store):
    source = put(media / "single_face.mp4")
    gets = replacing(faulty_store, put, media / "obama_speech.mp4", after=10)
    kinds = run_fleet(store, source)
    assert len(gets) > 10
    assert kinds.count("plan") == 2
    assert close(windows(store, FILM.uri), expected)
    states = rows(store, "SELECT version, status, error_code FROM annotations ORDER BY id")
    assert states == [
        (source.version, "failed", "changed_while_reading"),
        (objects.described(FILM).version, "done", None),
    ]


def test_the_fleet_charges_no_video_for_a_store_that_fails(store, media, put, expected, faulty_store):
    source = put(media / "obama_speech.mp4")
    troubles = iter([SLOW_DOWN, None])

    def between():
        faulty_store.refuses = next(troubles, None)

    faulty_store.refuses = EXPIRED
    kinds = run_fleet(store, source, between)
    assert kinds.count("plan") == 3
    assert close(windows(store, FILM.uri), expected)
    assert rows(store, "SELECT attempts, status FROM annotations") == [(1, "done")]


def test_one_bucket_that_does_not_answer_costs_only_its_videos(store, media, put, faulty_store):
    clip, source = media / "park.mp4", put(media / "park.mp4")
    faulty_store.refuses = SLOW_DOWN
    with Pipeline(store, RECIPE, "cpu") as pipeline:
        outcomes = {o.source.uri: o for o in pipeline.annotate([source, Source.of(clip, clip.stat())])}
    assert outcomes[str(clip)].status == "done"
    assert outcomes[FILM.uri].error.code == "source_slow_down"
