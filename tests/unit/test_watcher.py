"""What `moodreel watch` finds, look by look."""

import logging
import os
import shutil
import time
from pathlib import Path

import pytest

from db.errors import DatabaseLocked
from db.identity import uri_of
from db.rows import Submitted
from db.store import Store
from scheduler.watch import Watcher, WatchOptions
from tests.database import missing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


@pytest.fixture
def watcher(store: Store, folder: Path) -> Watcher:
    return watching(store, folder)


def watching(store: Store, *folders: Path, settle_seconds: float = 5.0) -> Watcher:
    digest = "d" * 8
    store.name_pipeline("compact", store.register_pipeline(digest, "w", "compact", {}), {})
    options = WatchOptions(
        db_url="", broker_url="", folders=tuple(map(str, folders)), priority=5, settle_seconds=settle_seconds
    )
    return Watcher(store, store.pipeline_named("compact"), options)


def write(path: Path, text: str = "video", age_seconds: float = 60.0) -> Path:
    path.write_text(text)
    then = time.time() - age_seconds
    os.utime(path, (then, then))
    return path


def looks(watcher: Watcher, n: int = 2) -> list[int]:
    return [watcher.look() for _ in range(n)]


def queued(store: Store) -> dict[str, int]:
    return store.status().annotations


def test_a_new_file_is_submitted_once_when_two_looks_found_it_the_same(watcher, store, folder):
    video = write(folder / "a.mp4")
    assert looks(watcher, 4) == [0, 1, 0, 0]
    assert store.video(uri_of(video)).size_bytes == 5
    (due,) = store.take_due(10, 60.0)
    assert due.priority == 5


def test_a_file_that_is_being_written_waits(watcher, store, folder):
    growing = write(folder / "a.mp4", "v")
    for size in range(2, 6):
        assert watcher.look() == 0
        write(growing, "v" * size)  # by a copier that sets an old time first
    assert looks(watcher) == [0, 1]
    assert store.video(uri_of(growing)).size_bytes == 5


def test_a_file_that_was_written_just_now_waits_until_it_has_settled(store, folder):
    watcher = watching(store, folder, settle_seconds=0.5)
    write(folder / "a.mp4", age_seconds=0.0)
    assert looks(watcher, 3) == [0, 0, 0]
    time.sleep(0.6)
    assert watcher.look() == 1


def test_a_time_in_the_future_does_not_keep_a_file_waiting_for_ever(watcher, folder):
    write(folder / "a.mp4", age_seconds=-3600.0)
    assert looks(watcher) == [0, 1]


def test_a_changed_file_is_submitted_anew_and_a_restored_one_is_current_again(watcher, store, folder):
    video = write(folder / "a.mp4", "one", 600.0)
    before = video.stat()
    looks(watcher)
    write(video, "another", 60.0)
    assert looks(watcher, 3) == [0, 1, 0]
    assert store.video(uri_of(video)).size_bytes == 7
    assert len(store.take_due(10, 60.0)) == 2
    video.write_text("one")
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert looks(watcher, 3) == [0, 1, 0]
    assert store.video(uri_of(video)).size_bytes == 3


def test_a_new_scheduler_submits_nothing_twice(watcher, store, folder):
    write(folder / "a.mp4")
    looks(watcher)
    write(folder / "b.mp4")
    assert looks(watching(store, folder), 3) == [0, 1, 0]
    assert queued(store) == {"pending": 2}


def test_what_failed_or_was_cancelled_stays_so(watcher, store, folder):
    write(folder / "a.mp4")
    looks(watcher)
    store.cancel()
    assert looks(watching(store, folder), 3) == [0, 0, 0]
    assert queued(store) == {"failed": 1}


def test_hidden_and_other_files_and_links_in_circles_are_left_out(watcher, store, folder):
    (folder / ".hidden").mkdir()
    (folder / "sub").mkdir()
    for name in (".a.mp4", ".hidden/b.mp4", "c.txt"):
        write(folder / name)
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "round.mp4").symlink_to(folder / "round.mp4")
    write(folder / "sub" / "d.MP4")
    looks(watcher, 3)
    assert store.video(uri_of(folder / "sub" / "d.MP4"))
    assert queued(store) == {"pending": 1}


def test_a_folder_that_disappears_is_told_once_each_time_and_means_nothing(watcher, store, folder, caplog):
    write(folder / "a.mp4")
    looks(watcher)
    away = folder.with_name("away")
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        caplog.clear()
        folder.rename(away)
        assert looks(watcher, 3) == [0, 0, 0]
        (told,) = [record.getMessage() for record in caplog.records]
        assert "path_missing" in told
        assert str(folder) in told
        assert queued(store) == {"pending": 1}
        away.rename(folder)
        assert looks(watcher, 3) == [0, 0, 0]
    shutil.rmtree(folder)
    folder.mkdir()  # as where a share is unmounted
    caplog.clear()
    assert looks(watcher, 3) == [0, 0, 0]
    assert caplog.records == []
    assert queued(store) == {"pending": 1}


def test_one_folder_that_cannot_be_read_keeps_no_other_from_being_watched(store, folder, tmp_path, caplog):
    bad = tmp_path / "bad"
    bad.symlink_to(bad)
    write(folder / "a.mp4")
    watcher = watching(store, bad, folder, folder)
    assert looks(watcher, 3) == [0, 1, 0]
    assert [record.levelname for record in caplog.records if "not_readable" in record.getMessage()] == ["WARNING"]


def test_what_the_database_refused_is_submitted_later(watcher, store, folder, monkeypatch):
    write(folder / "a.mp4")
    watcher.look()
    sound = Store.submit

    def refuse(*_: object, **__: object) -> Submitted:
        raise DatabaseLocked("no")

    monkeypatch.setattr(Store, "submit", refuse)
    with pytest.raises(DatabaseLocked):
        watcher.look()
    monkeypatch.setattr(Store, "submit", sound)
    assert looks(watcher) == [1, 0]


def test_a_name_that_is_not_utf8_is_submitted_too(watcher, store, folder):
    try:
        video = write(Path(os.fsdecode(os.fsencode(folder) + b"/\xff\n.mp4")))
    except OSError:
        missing("this file system takes only UTF-8")
    looks(watcher)
    assert store.video(uri_of(video))


def test_many_files_at_once(watcher, store, folder):
    for number in range(1203):
        write(folder / f"{number}.mp4")
    assert looks(watcher, 3) == [0, 1203, 0]
