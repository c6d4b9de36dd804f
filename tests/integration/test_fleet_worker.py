"""A worker of the fleet without its broker: jobs from the rows, real clips, and what may go wrong with them."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import worker.finish
import worker.fleet
from db.errors import DatabaseFull, DatabaseUnreachable, DecoderCrashed, PipelineMismatch
from db.identity import Source
from db.rows import Job
from db.store import Store
from models.fusion import Fusion
from tests.fleet import change
from worker.finish import register
from worker.fleet import FleetOptions, FleetWorker
from worker.pipeline import Pipeline
from worker.reader import Reader
from worker.recipe import Recipe
from worker.recognizers import Recognizers
from worker.windows import WindowPlan

UNFINISHED = {"pending", "planned", "running"}
CLIPS = ("park.mp4", "single_face.mp4")
RECIPE = Recipe(plan=WindowPlan(span_ms=4000))
OPTIONS = FleetOptions("cpu", slots=1, lease_seconds=20.0, max_attempts=3)


def sources(*paths: Path) -> list[Source]:
    return [Source.of(path, path.stat()) for path in paths]


def named(store: Store, recipe: Recipe = RECIPE, name: str = "main") -> int:
    pipeline_id = register(store, recipe.identity)
    store.name_pipeline(name, pipeline_id, recipe.options)
    return pipeline_id


def work_off(store: Store, fleet: FleetWorker, seconds: float = 60.0) -> list[str]:
    """Do what is due until nothing is left to wait for; the jobs, in their order."""
    done, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        for due in store.take_due(100, resend_seconds=0.2):
            fleet.run(due.job.kind, due.job.id)
            done.append(f"{due.job.kind} {due.job.id}")
        if not UNFINISHED & set(store.status().annotations):
            return done
        time.sleep(0.02)
    raise AssertionError(f"not done in {seconds} s: {store.fleet()}")


@contextmanager
def fleet_worker(store: Store, **changes: object) -> Iterator[FleetWorker]:
    with FleetWorker(store, replace(OPTIONS, **changes)) as fleet:
        yield fleet


def annotating(fleet: FleetWorker, reading: threading.Event) -> threading.Thread:
    """Plan the only video and begin its only span beside the test; what it reads says when it does."""
    fleet.run("plan", "1")
    thread = threading.Thread(target=fleet.run, args=("annotate_span", "1/0"))
    thread.start()
    assert reading.wait(30)
    return thread


def rows(store: Store, query: str) -> list[tuple]:
    with store.reading() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.fleet, "RETRY_SECONDS", 0.02)


def test_jobs_give_the_rows_of_one_machine(store, media, tmp_path):
    clips = sources(*(media / name for name in ("obama_speech.mp4", "face_noface.mov", "crowd.mp3")))
    store.submit(named(store), clips)
    with fleet_worker(store) as fleet:
        done = work_off(store, fleet)
    assert len(done) == len(set(done))
    with Store(str(tmp_path / "one.db")) as one:
        with Pipeline(one, RECIPE, "cpu") as pipeline:
            assert {outcome.status for outcome in pipeline.annotate(clips)} == {"done"}
        for clip in clips:
            fleet_rows = store.windows(store.video(clip.uri).current_annotation_id)
            one_rows = one.windows(one.video(clip.uri).current_annotation_id)
            assert len(one_rows) > 0
            assert [row[:5] for row in fleet_rows] == [row[:5] for row in one_rows]
            for ours, theirs in zip(fleet_rows, one_rows, strict=True):
                assert [v for v in ours[5:] if v] == pytest.approx([v for v in theirs[5:] if v], abs=1e-3)
            ours, theirs = (
                [(piece.start_seconds, piece.end_seconds, piece.emotion) for piece in each.timeline(clip.uri)]
                for each in (store, one)
            )
            assert ours == theirs


def test_what_is_no_media_fails_at_once(store, tmp_path):
    (tmp_path / "notes.mp4").write_text("dear diary " * 100)
    store.submit(named(store), sources(tmp_path / "notes.mp4"))
    with fleet_worker(store) as fleet:
        assert work_off(store, fleet) == ["plan 1"]
    assert rows(store, "SELECT code, attempts FROM failures") == [("not_media", 1)]


def test_a_span_that_kills_its_decoder_each_time_is_quarantined(store, media, monkeypatch):
    clip = media / "obama_speech.mp4"
    store.submit(named(store), sources(clip, media / "single_face.mp4"))
    real = Reader.read

    def read(self, descriptor, name, request):
        if name == str(clip) and request.start_seconds >= 4:
            raise DecoderCrashed(f"{name}: the decoder died: planted")
        yield from real(self, descriptor, name, request)

    monkeypatch.setattr(Reader, "read", read)
    with fleet_worker(store) as fleet:
        done = work_off(store, fleet)
    assert done.count("annotate_span 1/1") == OPTIONS.max_attempts
    assert done.count("annotate_span 1/0") == 1
    assert rows(store, "SELECT video, code FROM failures") == [(str(clip), "decoder_crashed")]
    assert store.timeline(str(media / "single_face.mp4"))
    monkeypatch.undo()
    assert store.retry() == 1
    with fleet_worker(store) as fleet:
        assert "annotate_span 1/0" not in work_off(store, fleet)  # what is done is not done again
    assert store.timeline(str(clip))


def test_a_worker_that_never_returns_costs_as_many_attempts_as_allowed(store, media):
    store.submit(named(store), sources(media / "park.mp4"))
    job = Job("plan", 1)
    for _ in range(OPTIONS.max_attempts):
        assert store.claim_step(job, "dead", lease_seconds=-1000.0, max_claims=OPTIONS.max_attempts)
    with fleet_worker(store) as fleet:
        work_off(store, fleet)
    assert rows(store, "SELECT code FROM failures") == [("worker_died",)]


def test_what_is_under_way_is_given_back_uncounted_when_the_worker_is_stopped(store, media, monkeypatch):
    store.submit(named(store), sources(media / "obama_speech.mp4"))
    reading = threading.Event()
    real = Reader.read

    def read(self, *arguments):
        for event in real(self, *arguments):
            reading.set()
            time.sleep(0.01)
            yield event

    monkeypatch.setattr(Reader, "read", read)
    with fleet_worker(store) as fleet:
        thread = annotating(fleet, reading)
        fleet.stop()
        thread.join(30)
        given_back = store.spans(1)[0]
        assert (given_back.status, given_back.attempts) == ("pending", 0)
        fleet.run("annotate_span", "1/0")  # a worker that goes begins nothing
        assert store.spans(1)[0] == given_back
    assert store.workers() == []


def test_a_lease_that_was_lost_stops_the_work_and_its_writes(store, media, monkeypatch):
    store.submit(named(store), sources(media / "obama_speech.mp4"))
    stolen = threading.Event()
    real = Reader.read

    def read(self, *arguments):
        for event in real(self, *arguments):
            if not stolen.is_set():
                thief = store.cancel()
                assert thief == 1
                stolen.set()
            yield event

    monkeypatch.setattr(Reader, "read", read)
    with fleet_worker(store) as fleet:
        fleet.run("plan", "1")
        fleet.run("annotate_span", "1/0")
    assert next((span.status, span.windows_done) for span in store.spans(1)) == ("pending", 0)
    assert rows(store, "SELECT COUNT(*) FROM windows") == [(0,)]
    assert rows(store, "SELECT code FROM failures") == [("cancelled",)]


def test_a_job_that_does_not_get_on_is_let_go(store, media, monkeypatch):
    store.submit(named(store), sources(media / "obama_speech.mp4"))
    reading, go_on = threading.Event(), threading.Event()

    def read(self, *arguments):
        reading.set()
        go_on.wait(30)
        raise DecoderCrashed("planted")
        yield

    monkeypatch.setattr(Reader, "read", read)
    with fleet_worker(store, lease_seconds=1.0, stall_seconds=0.5) as fleet:
        thread = annotating(fleet, reading)
        claim, until = None, time.monotonic() + 15
        while claim is None and time.monotonic() < until:
            claim = store.claim_span(Job("annotate_span", 1, 0), "another", 60.0, 5)
            time.sleep(0.05)
        assert fleet.is_stalled
        go_on.set()
        thread.join(30)
    assert claim is not None
    assert (store.spans(1)[0].lease_owner, store.spans(1)[0].epoch) == ("another", claim.epoch)


def test_other_weights_are_refused_with_what_differs(store, media):
    pipeline_id = named(store)
    store.submit(pipeline_id, sources(media / "park.mp4"))
    other = replace(RECIPE, fusion=Fusion("average"))
    store.name_pipeline("main", pipeline_id, other.options)  # as if the weights here made another pipeline of it
    with fleet_worker(store) as fleet:
        with pytest.raises(PipelineMismatch, match="fusion differ"):
            fleet.check()
        fleet.run("plan", "1")
        assert "refuses" in fleet._as_row().state
    assert store.annotation(1).status == "pending"
    assert rows(store, "SELECT claims, lease_owner, available_at IS NULL FROM annotations")[0][:2] == (0, None)


def test_a_file_that_changed_since_it_was_asked_for(store, media, tmp_path):
    clip = tmp_path / "clip.mp4"
    shutil.copy2(media / "single_face.mp4", clip)
    store.submit(named(store), sources(clip), priority=3)
    shutil.copy2(media / "park.mp4", clip)
    with fleet_worker(store) as fleet:
        work_off(store, fleet)
    (found,) = sources(clip)
    assert store.video(str(clip)).version == found.version
    assert {piece.emotion for piece in store.timeline(str(clip))} == {None}
    assert rows(store, "SELECT * FROM failures") == []  # of the latest version


def test_windows_that_are_there_are_only_fused_anew(store, media):
    clip = sources(media / "single_face.mp4")
    store.submit(named(store), clip)
    other = replace(RECIPE, fusion=Fusion("average"))
    with fleet_worker(store) as fleet:
        work_off(store, fleet)
        store.submit(named(store, other, "other"), clip)
        assert work_off(store, fleet) == ["plan 2"]
    annotation = store.annotation(2)
    assert (annotation.status, annotation.source_annotation_id) == ("done", 1)
    assert rows(store, "SELECT lease_owner FROM annotations") == [(None,), (None,)]


def test_a_database_that_is_away_for_a_moment_is_waited_for(store, media, monkeypatch):
    store.submit(named(store), sources(media / "single_face.mp4"))
    away = dict.fromkeys(("assignment", "claim_span", "checkpoint", "complete_span"), 2)

    def planted(name: str, real, *arguments, **options):
        if away[name]:
            away[name] -= 1
            raise DatabaseUnreachable("planted")
        return real(*arguments, **options)

    for name in away:
        monkeypatch.setattr(store, name, partial(planted, name, getattr(store, name)))
    with fleet_worker(store) as fleet:
        work_off(store, fleet)
    assert set(away.values()) == {0}
    assert [span.attempts for span in store.spans(1)] == [1]
    assert store.timeline(str(media / "single_face.mp4"))


def drive(store: Store, fleet: FleetWorker, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """Do what is due for a while, or until nothing is left or something has happened."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until() and set(store.status().annotations) & UNFINISHED:
        for due in store.take_due(100, resend_seconds=0.2):
            fleet.run(due.job.kind, due.job.id)
        time.sleep(0.02)


def failures(store: Store) -> list[tuple]:
    return rows(store, "SELECT error_code, COUNT(*) FROM annotations WHERE status = 'failed' GROUP BY error_code")


@pytest.mark.parametrize("what", ["is missing", "is empty"])
def test_a_share_that_is_not_mounted_here_costs_no_video(store, media, tmp_path, what):
    folder = tmp_path / "nas" / "2019"
    folder.mkdir(parents=True)
    for name in CLIPS:
        shutil.copy2(media / name, folder / name)
    store.submit(named(store), sources(*sorted(folder.iterdir())))
    folder.rename(tmp_path / "elsewhere")
    if what == "is empty":
        folder.mkdir()
    with fleet_worker(store) as fleet:
        drive(store, fleet, 1)
        assert "refuses" in fleet._as_row().state
    assert failures(store) == []
    assert rows(store, "SELECT DISTINCT claims, attempts FROM annotations") == [(0, 0)]


def test_a_file_that_is_gone_is_looked_for_again_before_it_fails(store, media, tmp_path):
    for name in CLIPS:
        shutil.copy2(media / name, tmp_path / name)
    store.submit(named(store), sources(tmp_path / CLIPS[0]))
    (tmp_path / CLIPS[0]).unlink()
    with fleet_worker(store) as fleet:
        assert work_off(store, fleet) == ["plan 1"] * OPTIONS.max_attempts
    assert failures(store) == [("path_missing", 1)]


def test_a_broken_gpu_costs_no_video_and_has_the_process_replaced(store, media, monkeypatch):
    def broken(self, *row):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Recognizers, "submit_face", broken)
    store.submit(named(store), sources(media / "single_face.mp4", media / "obama_speech.mp4"))
    with fleet_worker(store) as fleet:
        drive(store, fleet, 120, until=lambda: fleet.is_stalled)
        assert fleet.is_stalled
        drive(store, fleet, 1)  # until it is replaced
    assert failures(store) == []
    assert rows(store, "SELECT MAX(attempts) FROM spans") == [(0,)]


def test_a_process_in_which_everything_fails_is_replaced(store, media, monkeypatch, tmp_path):
    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Reader, "probe", full)
    for number in range(worker.fleet.BROKEN_VIDEOS):
        shutil.copy2(media / "park.mp4", tmp_path / f"{number}.mp4")
    store.submit(named(store), sources(*sorted(tmp_path.glob("*.mp4"))))
    with fleet_worker(store) as fleet:
        for number in range(worker.fleet.BROKEN_VIDEOS):
            assert not fleet.is_stalled
            fleet.run("plan", str(number + 1))
        assert fleet.is_stalled


def test_a_file_that_is_being_written_to_is_left_alone_until_it_rests(store, media, tmp_path):
    clip = tmp_path / "clip.mp4"
    shutil.copy2(media / "park.mp4", clip)
    store.submit(named(store), sources(clip))
    with clip.open("ab") as file:
        file.write(b"\0")
    with fleet_worker(store) as fleet:
        drive(store, fleet, 0.5)
        assert rows(store, "SELECT COUNT(*), MAX(attempts) FROM annotations") == [(1, 0)]
        an_hour_ago = time.time() - 3600
        os.utime(clip, (an_hour_ago, an_hour_ago))
        with store.writing() as connection:
            connection.exec_driver_sql("UPDATE annotations SET available_at = NULL")
        work_off(store, fleet)
    assert store.timeline(str(clip))
    assert rows(store, "SELECT COUNT(*) FROM annotations") == [(2,)]


def test_a_job_that_does_not_stir_is_given_back_too_when_the_worker_is_stopped(store, media, monkeypatch):
    monkeypatch.setattr(worker.fleet, "GIVE_BACK_SECONDS", 0.5)
    store.submit(named(store), sources(media / "obama_speech.mp4"))
    reading, go_on = threading.Event(), threading.Event()

    def read(self, *_):
        reading.set()
        go_on.wait(40)  # as a decoder on a slow share may
        raise DecoderCrashed("planted")
        yield

    monkeypatch.setattr(Reader, "read", read)
    with fleet_worker(store) as fleet:
        thread = annotating(fleet, reading)
        fleet.stop()
        until = time.monotonic() + 20
        while store.spans(1)[0].status != "pending" and time.monotonic() < until:
            time.sleep(0.05)
        given_back = store.spans(1)[0]
        go_on.set()
        thread.join(30)
    assert (given_back.status, given_back.attempts) == ("pending", 0)
    assert store.spans(1)[0] == given_back  # what it still wrote was refused
    assert failures(store) == []


def test_several_jobs_at_once_share_one_copy_of_each_model(store, media):
    clips = sources(*(media / name for name in ("obama_speech.mp4", "single_face.mp4", "WolfgangLanger_Pexels.mp4")))
    store.submit(named(store), clips)
    with fleet_worker(store, slots=3) as fleet:
        for due in store.take_due(10, 60.0):
            fleet.run(due.job.kind, due.job.id)
        jobs = [due.job for due in store.take_due(100, 60.0)]
        assert len(jobs) >= 6
        threads = [threading.Thread(target=fleet.run, args=(job.kind, job.id)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(fleet._models._recognizers) == 1
        work_off(store, fleet)
    assert all(store.timeline(clip.uri) for clip in clips)


def test_a_full_disk_of_the_database_is_waited_for(store, media, monkeypatch):
    store.submit(named(store), sources(media / "single_face.mp4"))
    real, full = store.checkpoint, threading.Event()
    full.set()

    def checkpoint(*arguments):
        if full.is_set():
            raise DatabaseFull("planted")
        return real(*arguments)

    monkeypatch.setattr(store, "checkpoint", checkpoint)
    monkeypatch.setattr(worker.fleet, "REFUSED_SECONDS", 0.5)
    with fleet_worker(store, lease_seconds=1.0) as fleet:
        fleet.run("plan", "1")
        fleet.run("annotate_span", "1/0")
        assert rows(store, "SELECT error_code FROM annotations") == [(None,)]
        assert rows(store, "SELECT error_code FROM spans WHERE span_index = 0") == [(None,)]
        full.clear()
        work_off(store, fleet)
    assert store.timeline(str(media / "single_face.mp4"))


def test_a_planner_that_stood_still_does_not_bring_an_old_version_back(store, media, tmp_path, monkeypatch):
    clip = tmp_path / "clip.mp4"
    shutil.copy2(media / "single_face.mp4", clip)
    store.submit(named(store), sources(clip))
    real, slept = Reader.probe, []

    def probe(self, descriptor, name):
        found = real(self, descriptor, name)
        if not slept:
            slept.append(1)  # this process stands still past its lease; meanwhile:
            change(store, "UPDATE annotations SET lease_until = 0")
            shutil.copy2(media / "park.mp4", tmp_path / "new")
            (tmp_path / "new").replace(clip)
            with fleet_worker(store) as another:
                work_off(store, another)
            assert store.video(str(clip)).version == sources(clip)[0].version
            assert store.timeline(str(clip))
        return found

    monkeypatch.setattr(Reader, "probe", probe)
    with fleet_worker(store) as fleet:
        fleet.run("plan", "1")
    assert store.video(str(clip)).version == sources(clip)[0].version
    assert store.timeline(str(clip))


def test_a_version_that_is_no_longer_asked_for_is_dropped_until_it_is_asked_for_again(store, media, tmp_path):
    clip, old, new = (tmp_path / name for name in ("clip.mp4", "old.mp4", "new.mp4"))
    shutil.copy2(media / "single_face.mp4", old)
    shutil.copy2(media / "park.mp4", new)
    pipeline_id = named(store)
    shutil.copy2(old, clip)
    (first,) = sources(clip)
    store.submit(pipeline_id, [first])
    shutil.copy2(new, clip)
    (second,) = sources(clip)
    store.submit(pipeline_id, [second])
    with fleet_worker(store) as fleet:
        fleet.run("plan", "2")
        shutil.copy2(old, clip)  # put back, while the rows say that the other one is the latest
        before = store.video(str(clip))
        fleet.run("plan", "1")
        assert store.video(str(clip)) == before
        assert (store.annotation(1).status, store.annotation(1).error_code) == ("failed", "changed_while_reading")
        assert rows(store, "SELECT * FROM failures") == []
        store.submit(pipeline_id, sources(clip))
        work_off(store, fleet)
    assert store.video(str(clip)).version == first.version
    assert (store.annotation(1).status, store.annotation(2).status) == ("done", "failed")
    assert store.video(str(clip)).current_annotation_id == 1


def test_what_is_cancelled_while_it_is_fused_anew_stays_cancelled(store, media, monkeypatch):
    clip = sources(media / "single_face.mp4")
    store.submit(named(store), clip)
    with fleet_worker(store) as fleet:
        work_off(store, fleet)
        store.submit(named(store, replace(RECIPE, fusion=Fusion("average")), "other"), clip)
        real = store.scores

        def scores(annotation_id):
            assert store.cancel() == 1
            return real(annotation_id)

        monkeypatch.setattr(store, "scores", scores)
        fleet.run("plan", "2")
    annotation = store.annotation(2)
    assert (annotation.status, annotation.error_code) == ("failed", "cancelled")
    assert rows(store, "SELECT COUNT(*) FROM segments WHERE annotation_id = 2") == [(0,)]
    assert store.video(clip[0].uri).current_annotation_id == 1


def test_a_failure_while_fusing_anew_is_recorded_and_tried_again(store, media, monkeypatch):
    clip = sources(media / "single_face.mp4")
    store.submit(named(store), clip)
    with fleet_worker(store) as fleet:
        work_off(store, fleet)
        store.submit(named(store, replace(RECIPE, fusion=Fusion("average")), "other"), clip)
        with monkeypatch.context() as broken:
            broken.setattr(worker.finish, "fuse", lambda *_: 1 / 0)
            fleet.run("plan", "2")
        query = "SELECT status, lease_owner IS NULL, available_at IS NOT NULL, attempts FROM annotations WHERE id = 2"
        assert rows(store, query) == [("pending", 1, 1, 1)]
        assert work_off(store, fleet) == ["plan 2"]
    assert (store.annotation(2).status, store.annotation(2).source_annotation_id) == ("done", 1)


def test_a_video_with_spans_of_its_own_is_not_fused_from_anothers(store, media):
    clip = sources(media / "single_face.mp4")
    other = named(store, replace(RECIPE, fusion=Fusion("average")), "other")
    store.submit(other, clip)
    with fleet_worker(store) as fleet:
        fleet.run("plan", "1")
        store.cancel()
        store.submit(named(store), clip)
        work_off(store, fleet)
        assert store.retry(code="cancelled") == 1
        assert [job for job in work_off(store, fleet) if "annotate_span" in job]
    assert (store.annotation(1).status, store.annotation(1).source_annotation_id) == ("done", None)


def test_jobs_that_nobody_here_can_do_do_not_hold_up_the_others(store, media, tmp_path):
    old = named(store, replace(RECIPE, fusion=Fusion("average")), "old")
    store.submit(old, [Source(str(tmp_path / f"{n}.mp4"), "1", 1, 0.0) for n in range(400)])
    store.submit(named(store), sources(media / "park.mp4"))
    with fleet_worker(store, pipelines=("main",)) as fleet:
        store.beat(fleet._as_row())
        done = []
        while not store.timeline(str(media / "park.mp4")) and len(done) < 10:
            for due in store.take_due(16, resend_seconds=5.0):  # as the feeder does: so many, each tick
                fleet.run(due.job.kind, due.job.id)
                done.append(due.job)
    assert store.timeline(str(media / "park.mp4"))
    assert {job.annotation_id for job in done} == {401}


def test_a_worker_says_what_it_refuses(store, media):
    pipeline_id = named(store)
    store.submit(pipeline_id, sources(media / "park.mp4"))
    store.name_pipeline("main", pipeline_id, replace(RECIPE, fusion=Fusion("average")).options)
    with fleet_worker(store) as fleet:
        while not store.workers():  # it shows itself once, and then not for some seconds
            time.sleep(0.01)
        assert (fleet._as_row().pipelines, fleet._as_row().refused) == (None, None)
        fleet.run("plan", "1")
        assert (fleet._as_row().pipelines, fleet._as_row().refused) == (None, [pipeline_id])
        store.beat(fleet._as_row())
        (seen,) = store.workers()
        assert (seen.pipelines, seen.refused) == (None, [pipeline_id])
        change(store, "UPDATE annotations SET available_at = NULL")
        assert store.take_due(10, 0.0) == []
    with fleet_worker(store, pipelines=("main", "unknown")) as fleet:
        assert (fleet._as_row().pipelines, fleet._as_row().refused) == ([pipeline_id], None)


def test_a_video_that_is_forgotten_under_way_leaves_nothing_and_the_worker_goes_on(store, media, monkeypatch, caplog):
    clip, other = media / "obama_speech.mp4", media / "park.mp4"
    store.submit(named(store), sources(clip, other))
    real = Reader.read

    def read(self, descriptor, name, request):
        if name == str(clip):
            store.forget([name], [], "me")
        yield from real(self, descriptor, name, request)

    monkeypatch.setattr(Reader, "read", read)
    caplog.set_level("INFO")
    with fleet_worker(store) as fleet:
        work_off(store, fleet)
        assert not fleet.is_stalled
    assert rows(store, "SELECT uri FROM videos") == [(str(other),)]
    assert store.timeline(str(other))
    assert "forgotten" in [record.message for record in caplog.records]
    assert not [record for record in caplog.records if record.exc_info]
