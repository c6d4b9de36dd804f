"""What goes wrong in the middle of a video stays with that video: the pipeline with real clips and planted faults."""

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import worker.pipeline
from db.errors import DatabaseFull, DatabaseLocked, DatabaseUnreachable, DeviceUnavailable, Internal
from db.identity import Source
from db.store import Store
from worker.batcher import Batcher
from worker.pipeline import DONE, FAILED, Pipeline
from worker.recipe import Recipe
from worker.windows import WindowPlan

CLIPS = ("face_noface.mov", "park.mp4", "single_face.mp4")


def sources(*paths: Path) -> list[Source]:
    return [Source.of(path, path.stat()) for path in paths]


def rows(store: Store, query: str) -> list[tuple]:
    with store.reading() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, error: Exception, at: int = 1) -> None:
    """Let the n-th call of a method fail."""
    real, calls = getattr(owner, name), []

    def planted(*arguments: object, **options: object) -> object:
        calls.append(name)
        if len(calls) == at:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, planted)


def test_a_fault_in_the_middle_of_a_reading_costs_only_its_video(store, media, monkeypatch):
    """The child still has the first video's answers to give when the second one is asked for."""
    monkeypatch.setattr("worker.span.CHECKPOINT_WINDOWS", 2)
    fail_once(monkeypatch, store, "checkpoint", DatabaseLocked("planted"))
    with Pipeline(store, Recipe(), "cpu", children=1) as pipeline:
        outcomes = list(pipeline.annotate(sources(media / "obama_speech.mp4", *(media / name for name in CLIPS))))
    assert [outcome.status for outcome in outcomes] == [FAILED, DONE, DONE, DONE]
    assert outcomes[0].error.__traceback__ is None  # its frames would keep the video's sound and pictures alive
    ends = dict(rows(store, "SELECT uri, duration_seconds FROM videos"))
    assert ends[str(media / "face_noface.mov")] == pytest.approx(6.4, abs=0.1)
    assert rows(store, "SELECT code FROM failures") == [("database_locked",)]
    with Pipeline(store, Recipe(), "cpu", children=1) as pipeline:
        (again,) = pipeline.annotate(sources(media / "obama_speech.mp4"))
    assert again.status == DONE


def test_a_lock_while_a_video_is_entered_costs_only_that_video(store, media, monkeypatch):
    fail_once(monkeypatch, store, "observe", DatabaseLocked("planted"))
    with Pipeline(store, Recipe(), "cpu", children=1) as pipeline:
        outcomes = list(pipeline.annotate(sources(*(media / name for name in CLIPS))))
    assert [outcome.status for outcome in outcomes] == [FAILED, DONE, DONE]


def test_a_lease_is_kept_while_a_model_takes_its_time(store, media, monkeypatch):
    """No event comes and nothing is written for five leases."""
    from models.audio import AudioEmotionModel

    real = AudioEmotionModel.predict
    monkeypatch.setattr(worker.pipeline, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(AudioEmotionModel, "predict", lambda *rows: (time.sleep(2.5), real(*rows))[1])
    stolen = []

    def thief() -> None:
        while not over.wait(0.2):
            stolen.append(store.claim(1, "thief", 60.0))

    over, thread = threading.Event(), threading.Thread(target=thief)
    thread.start()
    with Pipeline(store, Recipe(), "cpu", children=1) as pipeline:
        (outcome,) = pipeline.annotate(sources(media / "obama_speech.mp4"))
    over.set()
    thread.join()
    assert outcome.status == DONE
    assert len(stolen) > 5
    assert set(stolen) == {None}


@pytest.mark.parametrize("kind", [DatabaseUnreachable, DatabaseFull])
def test_a_database_that_is_gone_or_full_ends_the_batch(store, media, monkeypatch, kind):
    fail_once(monkeypatch, store, "plan", kind("planted"))
    with Pipeline(store, Recipe(), "cpu", children=1) as pipeline, pytest.raises(kind):
        list(pipeline.annotate(sources(*(media / name for name in CLIPS))))


def test_a_device_that_is_not_there_is_said_before_any_file_is_opened(store):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(DeviceUnavailable, match="cuda"):
        Pipeline(store, Recipe(), "cuda")
    assert rows(store, "SELECT * FROM videos") == []


def test_weights_that_are_missing_end_the_batch_once(store, media, monkeypatch):
    from db.errors import WeightsMissing
    from models.errors import ModelError
    from models.expression import ExpressionModel

    def no_weights(*_: object, **__: object) -> None:
        raise ModelError("planted")

    monkeypatch.setattr(ExpressionModel, "load", no_weights)
    with Pipeline(store, Recipe(), "cpu", children=1) as pipeline, pytest.raises(WeightsMissing):
        list(pipeline.annotate(sources(media / "single_face.mp4", media / "face_noface.mov")))
    assert store.status().failures == {}


def test_a_pipeline_can_be_used_again(store, media):
    with Pipeline(store, Recipe(), "cpu") as pipeline:
        for name in CLIPS[:2]:
            assert [outcome.status for outcome in pipeline.annotate(sources(media / name))] == [DONE]


def test_spans_of_three_seconds_give_the_rows_of_one_span(media, tmp_path):
    """Cut anywhere, a video has the same windows, and what is done is not done again."""
    clips = sources(media / "obama_speech.mp4", media / "face_noface.mov")
    found = {}
    for name, span_seconds in (("whole", 600), ("cut", 3)):
        recipe = Recipe(plan=WindowPlan(span_ms=1000 * span_seconds))
        with Store(str(tmp_path / name)) as store, Pipeline(store, recipe, "cpu") as pipeline:
            assert [outcome.status for outcome in pipeline.annotate(clips)] == [DONE, DONE]
            for clip in clips:
                video = store.video(clip.uri)
                found[name, clip.uri] = store.windows(video.current_annotation_id)
                n_spans = len(store.spans(video.current_annotation_id))
                assert n_spans == (1 if name == "whole" else 3 if "obama" in clip.uri else 2)
    for clip in clips:
        whole, cut = found["whole", clip.uri], found["cut", clip.uri]
        assert [row[:5] for row in cut] == [row[:5] for row in whole]
        for one, other in zip(whole, cut, strict=True):
            for p, q in zip(one[5:], other[5:], strict=True):
                assert (p is None) == (q is None)
                assert p is None or abs(p - q) < 1e-3


def test_a_retry_goes_on_after_the_spans_that_are_done(store, media, monkeypatch):
    fail_once(monkeypatch, store, "complete_span", Internal("planted"), at=2)
    clip = sources(media / "obama_speech.mp4")
    with Pipeline(store, Recipe(plan=WindowPlan(span_ms=3000)), "cpu", children=1) as pipeline:
        assert [outcome.status for outcome in pipeline.annotate(clip)] == [FAILED]
        assert [outcome.status for outcome in pipeline.annotate(clip)] == [DONE]
    spans = store.spans(store.video(clip[0].uri).current_annotation_id)
    assert [span.epoch for span in spans] == [1, 2, 1]


def test_windows_are_stored_while_a_long_span_is_read(store, media, monkeypatch):
    monkeypatch.setattr("worker.span.CHECKPOINT_WINDOWS", 2)
    stored = []
    real = store.checkpoint
    monkeypatch.setattr(store, "checkpoint", lambda claim, run: (stored.append(len(run)), real(claim, run)))
    with Pipeline(store, Recipe(), "cpu", children=1) as pipeline:
        assert [outcome.status for outcome in pipeline.annotate(sources(media / "obama_speech.mp4"))] == [DONE]
    assert sum(stored) == 8
    assert len(stored) >= 3


def test_a_file_put_back_to_an_earlier_version_shows_that_version_again(store, media, tmp_path):
    clip, seen = tmp_path / "clip.mp4", []
    for name in ("single_face.mp4", "park.mp4", "single_face.mp4"):
        shutil.copy2(media / name, clip)
        with Pipeline(store, Recipe(), "cpu") as pipeline:
            assert [outcome.status for outcome in pipeline.annotate(sources(clip))] == [DONE]
        seen.append(store.timeline(str(clip))[-1].end_seconds)
    assert seen[0] == seen[2] != seen[1]


def test_a_batcher_survives_a_model_that_answers_wrongly():
    def predict(numbers: np.ndarray) -> np.ndarray:
        rows = np.repeat(numbers[:, None].astype(np.float32), 8, axis=1)
        return rows[:-1] if 13 in numbers else rows

    with Batcher(predict, batch_size=4, latency_seconds=0.01) as batcher:
        with pytest.raises(Internal, match="answered"):
            batcher.submit(np.array(13)).result(timeout=5)
        assert batcher.submit(np.array(5)).result(timeout=5)[0] == 5


def test_many_threads_share_a_batcher():
    with Batcher(lambda numbers: np.repeat(numbers[:, None], 8, axis=1).astype(np.float32), 16, 0.005) as batcher:
        answers: dict[int, float] = {}

        def ask(first: int) -> None:
            for number in range(first, first + 200):
                answers[number] = float(batcher.submit(np.array(number)).result(timeout=10)[0])

        threads = [threading.Thread(target=ask, args=(first,)) for first in range(0, 1000, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {number: number for number in range(1000)}


@pytest.mark.parametrize("border_seconds", [4, 6, 8])
def test_a_span_border_near_the_end_changes_nothing(media, tmp_path, border_seconds):
    """The last windows of 8.75 s are clipped to it, also by a span that is followed by another."""
    (clip,) = sources(media / "obama_speech.mp4")
    found = []
    for span_seconds in (600, border_seconds):
        recipe = Recipe(plan=WindowPlan(4000, 1000, 1000 * span_seconds))
        with Store(str(tmp_path / f"{span_seconds}.db")) as store, Pipeline(store, recipe, "cpu") as pipeline:
            assert [outcome.status for outcome in pipeline.annotate([clip])] == [DONE]
            found.append(store.windows(store.video(clip.uri).current_annotation_id))
    assert len(found[0]) == len(found[1]) == 7
    for whole, cut in zip(*found, strict=True):
        assert cut[:2] + cut[3:5] == whole[:2] + whole[3:5]
        assert cut[2] == pytest.approx(whole[2], abs=1e-9)
        assert [value for value in cut[5:] if value is not None] == pytest.approx(
            [value for value in whole[5:] if value is not None], abs=1e-3
        )


def test_a_video_that_is_forgotten_while_it_is_annotated_is_not_stored_and_costs_only_itself(store, media, monkeypatch):
    monkeypatch.setattr("worker.span.CHECKPOINT_WINDOWS", 2)
    clips = sources(media / "single_face.mp4", media / "park.mp4")
    real = store.checkpoint

    def checkpoint(claim, windows):
        real(claim, windows)
        store.forget([clips[0].uri], [], "me")

    monkeypatch.setattr(store, "checkpoint", checkpoint)
    with Pipeline(store, Recipe(), "cpu", children=1) as pipeline:
        outcomes = list(pipeline.annotate(clips)) + list(pipeline.annotate(clips[:1]))
    assert [outcome.status for outcome in outcomes] == [FAILED, DONE, FAILED]
    assert [outcome.error.code for outcome in outcomes if outcome.error] == ["forgotten", "forgotten"]
    assert rows(store, "SELECT uri FROM videos") == [(clips[1].uri,)]
    assert rows(store, "SELECT DISTINCT annotation_id FROM windows") == rows(store, "SELECT id FROM annotations")
