"""The comparison of two databases finds whatever was changed in one of them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from db.store import Store
from tests.chaos.compare import Comparison, compare, main
from tests.database import NOTHING, annotated, fused_row, planned, requested, scores, segment, window_row

NAMES = ("a.mp4", "b.mkv", "c.mp4")
PLANTED = {"poison.mp4": "not_media"}


def fill(url: str, folder: str = "/archive") -> None:
    """Three videos that are done, one with a warning, and one that failed."""
    with Store(url) as store:
        for number, name in enumerate(NAMES):
            sure = 0.5 + number / 10
            rows = [window_row(0, scores(happy=sure, sad=1 - sure)), window_row(1, NOTHING), window_row(2)]
            fused = [fused_row(0), fused_row(1, None), fused_row(2)]
            timeline = [segment(0.0, 2.0), segment(2.0, 4.0, "sad")]
            warning = ("truncated", "It is cut off.") if name == "c.mp4" else None
            annotated(store, f"{folder}/{name}", rows=rows, fused=fused, timeline=timeline, warning=warning)
        store.fail(requested(store, f"{folder}/poison.mp4"), "not_media", "It is no video.")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled SQLite database, to copy."""
    path = tmp_path_factory.mktemp("filled") / "expected.db"
    fill(str(path))
    return path


@pytest.fixture
def expected_url(filled: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copyfile(filled, tmp_path / 'expected.db')}"


@pytest.fixture
def actual_url(migrated_url: str) -> str:
    fill(migrated_url)
    return migrated_url


def change(url: str, *statements: str) -> None:
    with Store(url) as store, store.writing() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def one_difference(expected_url: str, actual_url: str, **options: dict[str, str]) -> str:
    result = compare(expected_url, actual_url, **{"planted": PLANTED, **options})
    assert result.differences == len(result.shown) == 1, str(result)
    return result.shown[0]


def test_equal_databases_are_the_same(expected_url, actual_url):
    result = compare(expected_url, actual_url, PLANTED)
    assert result == Comparison(videos=4, rows=3 * (3 + 3 + 2), failures=["poison.mp4"])
    assert str(result) == "4 videos and 24 rows are the same, 1 failed as planted"


def test_another_folder_and_another_order_change_nothing(expected_url, migrated_url):
    with Store(migrated_url) as store:
        annotated(store, "/archive/unrelated.mp4")
    change(migrated_url, "DELETE FROM videos")
    fill(migrated_url, "/elsewhere")
    assert compare(expected_url, migrated_url, PLANTED).differences == 0


@pytest.mark.parametrize(
    ("code", "is_replaced", "said"),
    [
        ("changed_while_reading", True, []),
        ("changed_while_reading", False, ["a.mp4: 1 annotations in the expected database, 2 in the actual one"]),
        ("internal", True, ["a.mp4: an annotation of an earlier version is failed (internal)"]),
    ],
)
def test_what_was_replaced_may_have_ended_as_such_in_earlier_versions(
    expected_url, migrated_url, code, is_replaced, said
):
    with Store(migrated_url) as store:
        store.fail(requested(store, "/bucket/a.mp4", "0"), code, "It failed.")
    fill(migrated_url, "/bucket")
    assert compare(expected_url, migrated_url, PLANTED, {"a.mp4"} if is_replaced else ()).shown == said


B = "(SELECT current_annotation_id FROM videos WHERE uri = '/archive/b.mkv')"
CHANGES: dict[str, tuple[list[str], str]] = {
    "a window removed": (
        [f"DELETE FROM windows WHERE annotation_id = {B} AND window_index = 1"],
        "b.mkv: window 1 is not in the actual database",
    ),
    "the last window removed": (
        [f"DELETE FROM windows WHERE annotation_id = {B} AND window_index = 2"],
        "b.mkv: window 2 is not in the actual database",
    ),
    "a window planted": (
        ["INSERT INTO windows (annotation_id, window_index, start_seconds, end_seconds, audio_state, video_state)"
         f" VALUES ({B}, 3, 3.0, 4.0, 'no_speech', 'no_face')"],
        "b.mkv: window 3 is only in the actual database",
    ),
    "a window's bound moved": (
        [f"UPDATE windows SET end_seconds = 2.001 WHERE annotation_id = {B} AND window_index = 0"],
        "b.mkv: window 0: end_seconds is 2.0 expected, 2.001 actual",
    ),
    "a state changed": (
        [f"UPDATE windows SET audio_state = 'unreadable' WHERE annotation_id = {B} AND window_index = 1"],
        "b.mkv: window 1: audio_state is no_speech expected, unreadable actual",
    ),
    "a fused window removed": (
        [f"DELETE FROM fused_windows WHERE annotation_id = {B} AND window_index = 1"],
        "b.mkv: fused window 1 is not in the actual database",
    ),
    "a label changed": (
        [f"UPDATE fused_windows SET emotion = 'sad' WHERE annotation_id = {B} AND window_index = 0"],
        "b.mkv: fused window 0: emotion is happy expected, sad actual",
    ),
    "a confidence off by 0.002": (
        [f"UPDATE fused_windows SET confidence = 0.998 WHERE annotation_id = {B} AND window_index = 0"],
        "b.mkv: fused window 0: confidence is 1.0 expected, 0.998 actual",
    ),
    "a segment removed": (
        [f"DELETE FROM segments WHERE annotation_id = {B} AND segment_index = 0"],
        "b.mkv: segment 0 is not in the actual database",
    ),
    "a segment's bound moved": (
        [f"UPDATE segments SET end_seconds = 4.5 WHERE annotation_id = {B} AND segment_index = 1"],
        "b.mkv: segment 1: end_seconds is 4.0 expected, 4.5 actual",
    ),
    "a segment's label changed": (
        [f"UPDATE segments SET emotion = 'calm' WHERE annotation_id = {B} AND segment_index = 1"],
        "b.mkv: segment 1: emotion is sad expected, calm actual",
    ),
    "a warning lost": (
        ["UPDATE annotations SET warning_code = NULL, warning_message = NULL"],
        "c.mp4: warning_code is truncated in the expected database, None in the actual one",
    ),
    "another length": (
        [f"UPDATE annotations SET duration_seconds = 9.0 WHERE id = {B}"],
        "b.mkv: duration_seconds is 4.0 in the expected database, 9.0 in the actual one",
    ),
    "a video lost": (
        ["UPDATE videos SET current_annotation_id = NULL WHERE uri = '/archive/b.mkv'",
         "DELETE FROM videos WHERE uri = '/archive/b.mkv'"],
        "b.mkv: there is no such video in the actual database",
    ),
    "another version": (
        ["UPDATE annotations SET version = '2' WHERE version = '1'", "UPDATE videos SET version = '2'"],
        "a.mp4: version 1 in the expected database, 2 in the actual one",
    ),
    "done but not shown": (
        ["UPDATE videos SET current_annotation_id = NULL WHERE uri = '/archive/poison.mp4'",
         "UPDATE videos SET current_annotation_id = NULL WHERE uri = '/archive/b.mkv'"],
        "b.mkv: in the actual database no annotation is shown",
    ),
    "not done": (
        [f"UPDATE annotations SET status = 'running', completed_at = NULL WHERE id = {B}"],
        "b.mkv: in the actual database its annotations are running, not done",
    ),
    "failed with another code": (
        ["UPDATE annotations SET error_code = 'internal' WHERE status = 'failed'"],
        "poison.mp4: in the actual database its annotations are failed (internal), not failed (not_media)",
    ),
    "a span left over": (
        [f"UPDATE spans SET status = 'pending' WHERE annotation_id = {B}"],
        "but its span 0 is pending",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found(expected_url, actual_url, name):
    statements, said = CHANGES[name]
    change(actual_url, *statements)
    result = compare(expected_url, actual_url, PLANTED)
    assert result.differences >= 1
    assert any(said in difference for difference in result.shown), str(result)


def test_a_probability_may_be_off_by_half_a_thousandth_but_not_by_two(expected_url, actual_url):
    off: Callable[[float], str] = lambda by: (  # noqa: E731
        f"UPDATE windows SET audio_happy = audio_happy + {by}, audio_sad = audio_sad - {by}"
        f" WHERE annotation_id = {B} AND window_index = 0"
    )
    change(actual_url, off(0.0005))
    assert compare(expected_url, actual_url, PLANTED).differences == 0
    change(actual_url, off(0.0015))
    result = compare(expected_url, actual_url, PLANTED)
    assert [difference.partition(" expected")[0] for difference in result.shown] == [
        "b.mkv: window 0: audio_happy is 0.6",
        "b.mkv: window 0: audio_sad is 0.4",
    ]


def test_an_unknown_probability_is_not_zero(expected_url, actual_url):
    change(actual_url, f"UPDATE windows SET audio_calm = NULL WHERE annotation_id = {B} AND window_index = 0")
    assert "audio_calm is 0.0 expected, None actual" in one_difference(expected_url, actual_url)


def test_an_annotation_that_is_there_twice_is_found(expected_url, actual_url):
    with Store(actual_url) as store:
        annotated(store, "/archive/b.mkv", digest="d2")
    result = compare(expected_url, actual_url, PLANTED)
    assert "b.mkv: in the actual database its annotations are done, done, not done" in result.shown
    assert "b.mkv: 1 annotations in the expected database, 2 in the actual one" in result.shown


def test_an_annotation_of_a_version_that_never_was_is_found(expected_url, actual_url):
    change(
        actual_url,
        "INSERT INTO annotations (video_id, version, pipeline_id, status, attempts, created_at)"
        " SELECT video_id, '0', pipeline_id, 'pending', 0, created_at FROM annotations WHERE status = 'failed'",
    )
    assert one_difference(expected_url, actual_url).startswith("poison.mp4: 1 annotations in the expected database, 2")


def test_a_video_that_is_there_twice_is_found(expected_url, actual_url):
    with Store(actual_url) as store:
        annotated(store, "/archive/more/b.mkv")
    result = compare(expected_url, actual_url, PLANTED)
    assert "b.mkv: the actual database has two videos of this name" in result.shown


def test_windows_of_an_annotation_that_is_not_done_are_found(expected_url, actual_url):
    with Store(actual_url) as store:
        half_done = requested(store, "/archive/a.mp4", digest="d2")
        store.plan(half_done, planned(0))
        store.checkpoint(store.claim(half_done, "worker", 60.0), [window_row(0)])
    result = compare(expected_url, actual_url, PLANTED)
    assert any(f"1 windows of annotation {half_done}, which is running" in difference for difference in result.shown)


def test_a_failure_that_was_not_planted_is_found_even_in_both(expected_url, actual_url):
    result = compare(expected_url, actual_url)
    assert result.differences == 2
    assert "failed (not_media), not done" in result.shown[0]


def test_what_was_planted_must_fail(expected_url, actual_url):
    said = one_difference(expected_url, actual_url, planted=PLANTED | {"missing.mp4": "truncated"})
    assert said == "missing.mp4: there is no such video in the expected and actual database"


def test_the_command_says_what_is_different_and_how_much_there_is(expected_url, actual_url):
    arguments = [expected_url, actual_url, "--planted", "poison.mp4=not_media"]
    same = CliRunner().invoke(main, arguments)
    assert (same.exit_code, same.output) == (0, "4 videos and 24 rows are the same, 1 failed as planted\n")
    change(actual_url, "DELETE FROM windows", "DELETE FROM fused_windows", "DELETE FROM segments")
    different = CliRunner().invoke(main, arguments)
    assert different.exit_code == 1
    assert different.output.startswith("24 differences:\na.mp4: window 0 is not in the actual database\n")
    assert different.output.endswith("... and 4 more\n")
