"""`moodreel query`: what it answers, in which forms, and that no question changes anything."""

import csv
import io
import json
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from db.questions import QUESTIONS
from db.rows import AlertRule, MediaFacts, RaisedAlert
from db.store import Store
from db.tables import videos
from scheduler.cli import main
from tests.database import NOTHING, annotated, fused_row, planned, requested, scores, segment, window_row
from tests.fleet import change, rows

RECORDED = {"/a/one.mp4": datetime(2026, 1, 5, tzinfo=UTC), "/a/two.mp4": datetime(2026, 1, 20, tzinfo=UTC),
            "/b/three.mp4": datetime(2026, 2, 1, tzinfo=UTC)}  # fmt: skip


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `moodreel` in this process: its exit status, what it printed, what it complained of."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> tuple[int, str, str]:
        status = 0
        try:
            main(arguments)
        except SystemExit as stop:
            status = int(stop.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def archive(store, monkeypatch) -> Store:
    """Three annotated videos of a few windows, one that waits, one that failed; the third annotated twice."""
    monkeypatch.setenv("MOODREEL_DB", store.engine.url.render_as_string(hide_password=False))
    angry, happy, sad = (scores(**{name: 1.0}) for name in ("angry", "happy", "sad"))
    store.add_rule(AlertRule(name="rage", measure="angry", level=0.6))
    (rule,) = store.rules()
    annotated(
        store, "/a/one.mp4",
        rows=[window_row(0, happy, happy), window_row(1, happy, sad), window_row(2, NOTHING, sad, face_count=4)],
        fused=[fused_row(0, "happy"), fused_row(1, "happy"), fused_row(2, "sad")],
        timeline=[segment(0, 2, "happy", 0.5, 0.25), segment(2, 4, "sad", -0.5, -0.25)],
    )  # fmt: skip
    annotated(
        store, "/a/two.mp4",
        rows=[window_row(n, angry, NOTHING) for n in range(61)],
        fused=[fused_row(n, "angry" if n < 60 else "sad") for n in range(61)],
        timeline=[segment(0, 30, "angry", -0.8, 0.8), segment(30, 40, None), segment(40, 62, "angry", -0.8, 0.8)],
        alerts=[RaisedAlert(rule_id=rule.id, start_seconds=0.0, end_seconds=30.0, peak=0.9)],
    )  # fmt: skip
    annotated(store, "/b/three.mp4", rows=[window_row(0, sad), window_row(1, sad)], timeline=[segment(0, 3, "sad")])
    annotated(store, "/b/three.mp4", digest="d2", rows=[window_row(0, sad), window_row(1, sad)],
              timeline=[segment(0, 1, "sad"), segment(1, 3, "happy")])  # fmt: skip
    requested(store, "/b/waits.mp4")
    store.fail(requested(store, "/b/text.mp4"), "not_media", "text.mp4 is text.")
    with store.writing() as connection:
        for uri, moment in RECORDED.items():
            known = {"recorded_at": moment, "recorded_at_source": "container"}
            connection.execute(sa.update(videos).where(videos.c.uri == uri).values(known))
    change(store, "UPDATE segments SET confidence = 0.3 WHERE emotion = 'happy' AND start_seconds = 1")
    return store


def asked(command, *arguments: str) -> list[dict]:
    status, out, err = command("query", *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


# By name: values, and what must come out, the first rows of it, worked out by hand.
ANSWERS = {
    "angriest_minutes": ({}, [("/a/two.mp4", 0, 1.0, 60), ("/a/one.mp4", 0, 0.0, 3)]),
    "disagreements": ({}, [("/a/one.mp4", 1.0, 3.0, 0.0), ("/a/one.mp4", 0.0, 2.0, 1.0)]),
    "emotions_by_month": ({}, [
        ("2026-01", "angry", 52.0, 52 / 56), ("2026-01", "happy", 2.0, 2 / 56), ("2026-01", "sad", 2.0, 2 / 56),
        ("2026-02", "happy", 2.0, 2 / 3), ("2026-02", "sad", 1.0, 1 / 3)]),
    "first_smile": ({}, [("/a/one.mp4", 0.0), ("/b/three.mp4", 1.0)]),
    "around": ({"video": "/a/two.mp4", "at": "35", "seconds": "20"}, [
        ("before", "angry", 15.0), ("before", None, 5.0), ("after", "angry", 15.0), ("after", None, 5.0)]),
    "most_volatile": ({"at_least_seconds": "3"}, [
        ("/b/three.mp4", 1, 20.0), ("/a/one.mp4", 1, 15.0), ("/a/two.mp4", 1, 60 / 52)]),
    "to_review": ({}, [("/b/three.mp4", 1.0, 3.0, "happy", 0.3)]),
    "changed_by_model": ({}, [("sad", "happy", 2.0, 1)]),
    "coverage": ({}, [("/a/two.mp4", 62.0, 52 / 62), ("/a/one.mp4", 4.0, 1.0), ("/b/three.mp4", 3.0, 1.0)]),
    "longest": ({"emotion": "angry"}, [("/a/two.mp4", 0.0, 30.0, 30.0, 0.75), ("/a/two.mp4", 40.0, 62.0, 22.0, 0.75)]),
    "happiest_moments": ({}, [("/a/one.mp4", 0.0, 2.0, 1.0), ("/a/one.mp4", 1.0, 3.0, 1.0)]),
    "most_of": ({}, [("/a/two.mp4", 52.0, 52 / 62)]),
    "transitions": ({}, [("happy", "sad", 1), ("sad", "happy", 1)]),
    "by_folder": ({}, [("/b/", 1, 3 / 3600, 0.5, 0.25), ("/a/", 2, 66 / 3600, -41.6 / 56, 41.6 / 56)]),
    "voices_without_faces": ({}, [("/a/two.mp4", 61), ("/b/three.mp4", 2)]),
    "faces_without_voices": ({}, [("/a/one.mp4", 1)]),
    "crowds": ({}, [("/a/one.mp4", 2.0, 4.0, 4)]),
    "alerts": ({}, [("/a/two.mp4", "rage", "angry", 0.0, 30.0, 0.9)]),
    "failures_by_code": ({}, [("not_media", "failed", 1, "/b/text.mp4")]),
    "throughput": ({}, [(datetime.now(UTC).strftime("%Y-%m-%d"), 4, 72 / 3600)]),
    "waiting": ({}, [("/b/waits.mp4",), ("/b/text.mp4",)]),
    "valence_by_month": ({}, [("2026-01", 2, -41.6 / 56, 41.6 / 56), ("2026-02", 1, 0.5, 0.25)]),
    "like_this": ({"video": "/a/one.mp4"}, [("/b/three.mp4", "happy", 2 * (1 / 6) ** 2)]),
    "other_pipelines": ({}, [("/a/one.mp4",), ("/a/two.mp4",)]),
}  # fmt: skip


def test_every_saved_question_has_an_answer_here():
    assert ANSWERS.keys() == QUESTIONS.keys()
    assert len(QUESTIONS) >= 20


@pytest.mark.parametrize("name", ANSWERS)
def test_saved_questions_answer_as_worked_out_by_hand(archive, command, name):
    values, expected = ANSWERS[name]
    given = [part for key, value in values.items() for part in ("--value", f"{key}={value}")]
    found = [tuple(row.values()) for row in asked(command, name, *given)]
    assert len(found) >= len(expected)
    for row, wanted in zip(found, expected, strict=False):
        for value, want in zip(row, wanted, strict=False):
            assert value == (pytest.approx(want) if isinstance(want, float) else want), found


@pytest.mark.parametrize("name", ["emotions_by_month", "to_review", "changed_by_model", "most_of", "crowds", "around"])
def test_a_question_that_finds_no_more_than_that(archive, command, name):
    values, expected = ANSWERS[name]
    given = [part for key, value in values.items() for part in ("--value", f"{key}={value}")]
    assert len(asked(command, name, *given)) == len(expected)


@pytest.mark.parametrize("name", QUESTIONS)
def test_how_the_database_would_answer_is_shown(archive, command, name):
    given = [part for key in QUESTIONS[name].values if key == "video" for part in ("--value", "video=x")]
    status, out, err = command("query", name, "--explain", *given)
    assert (status, err) == (0, "")
    assert len(out.splitlines()) >= 2


def test_tables_lists_and_the_sql_of_a_saved_question(archive, command):
    status, out, _ = command("query", "first_smile")
    assert status == 0
    assert [line.split() for line in out.splitlines()[1:]] == [["/a/one.mp4", "0"], ["/b/three.mp4", "1"]]
    assert all(name in command("query", "--list")[1] for name in QUESTIONS)
    sql = command("query", "first_smile", "--show")[1]
    assert "MIN(start_seconds)" in sql
    assert asked(command, sql.replace(":emotion", "'happy'")) == asked(command, "first_smile")
    assert command("query", "SELECT * FROM timeline WHERE 1 = 0")[1] == "no rows\n"
    assert asked(command, "SELECT * FROM timeline WHERE 1 = 0") == []


def test_rows_are_limited_and_what_is_left_is_told_of(archive, command):
    status, out, err = command("query", "SELECT video FROM timeline ORDER BY video", "--limit", "2", "--csv")
    assert status == 0
    assert len(out.splitlines()) == 3
    assert "more rows than these 2" in err
    assert command("query", "SELECT 1 AS one", "--limit", "1")[2] == ""


HOSTILE_NAMES = [
    *("=1+2.mp4", "+cmd|' /C calc'!A0.mp4", "-2.mp4", "@SUM(A1).mp4", "\t=1.mp4"),
    *("<script>alert(1)</script>.mp4", "a\x1b[31m\nb.mp4", 'quo"te,comma.mp4'),
]


def test_hostile_names_do_no_harm_in_a_spreadsheet_or_a_terminal(store, command, monkeypatch):
    monkeypatch.setenv("MOODREEL_DB", store.engine.url.render_as_string(hide_password=False))
    for name in HOSTILE_NAMES:
        annotated(store, name)
    _, out, _ = command("query", "SELECT video, 0 - start_seconds AS t FROM timeline ORDER BY video", "--csv")
    found = list(csv.reader(io.StringIO(out)))[1:]
    assert {name.removeprefix("'") for name, _ in found} == set(HOSTILE_NAMES)
    assert not [name for name, _ in found if name.startswith(("=", "+", "-", "@", "\t"))]
    assert {float(t) for _, t in found} == {0.0}  # a number stays one, with its sign
    shown = command("query", "SELECT video FROM timeline")[1]
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 1 + len(HOSTILE_NAMES)


# --- nothing that is asked changes anything

EITHER = [
    "DELETE FROM videos", "SELECT 1; DELETE FROM videos", "WITH x AS (DELETE FROM videos RETURNING *) SELECT * FROM x",
    "DROP TABLE videos", "UPDATE videos SET uri = 'x' RETURNING uri", "CREATE TABLE x AS SELECT 1",
    "CREATE TEMP TABLE x AS SELECT 1", "INSERT INTO videos SELECT * FROM videos", "COMMIT", "BEGIN; DROP TABLE videos",
    "SELECT 1 /* ; */; --\nDELETE FROM segments", "EXPLAIN DELETE FROM videos", "VACUUM", "ANALYZE", "   ;  ",
]  # fmt: skip
OF = {
    "sqlite": [
        "ATTACH '{folder}/other.db' AS other", "PRAGMA query_only = OFF", "PRAGMA writable_schema = ON",
        "SELECT load_extension('{folder}/x')", "VACUUM INTO '{folder}/copy.db'", "PRAGMA journal_mode = DELETE",
        "SELECT * FROM pragma_table_info('videos')", "DETACH main",
    ],
    "postgresql": [
        "COPY videos TO PROGRAM 'touch {folder}/ran'", "COPY (SELECT 1) TO '{folder}/copied'", "SET ROLE postgres",
        "SET TRANSACTION READ WRITE", "RESET ROLE", "DO $$ BEGIN DELETE FROM videos; END $$", "LOCK TABLE videos",
        "SELECT set_config('transaction_read_only', 'off', false)", "SELECT nextval('videos_id_seq')", "LISTEN x",
        "SELECT pg_read_file('/etc/hostname')", "SELECT lo_from_bytea(0, 'x')", "CREATE ROLE x", "CALL x()",
        "SELECT * FROM videos FOR UPDATE", "PREPARE x AS DELETE FROM videos", "FETCH ALL FROM question",
        "SELECT query_to_xml('DELETE FROM videos', true, true, '')",
    ],
}  # fmt: skip


def everything(store: Store) -> dict[str, list[tuple]]:
    tables = sa.inspect(store.engine).get_table_names()
    return {name: sorted(map(repr, rows(store, f"SELECT * FROM {name}"))) for name in tables}


def test_hostile_questions_are_refused_and_change_nothing(archive, command, tmp_path):
    before = everything(archive)
    for sql in EITHER + OF[archive.engine.dialect.name]:
        status, out, err = command("query", sql.format(folder=tmp_path) if "{folder}" in sql else sql)
        assert status in (1, 2), (sql, out)
        codes = ("query_refused", "query_failed", "question_unknown")
        assert any(f"[{code}]" in err for code in codes), (sql, err)
        assert len(err.splitlines()) <= 3, err
    assert everything(archive) == before
    assert not [name for name in ("other.db", "copy.db", "ran", "copied") if (tmp_path / name).exists()]


ENDLESS = {
    "recursion": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT MAX(x) FROM n",
    "join": f"SELECT COUNT(*) FROM {', '.join(f'windows w{n}' for n in range(12))}",
    "sleep": "SELECT pg_sleep(60)",
}


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_a_question_has_an_end(archive, command, endless):
    if "sleep" in endless and archive.engine.dialect.name == "sqlite":
        assert "no such function" in command("query", endless)[2]
        return
    status, _, err = command("query", endless, "--timeout", "0.3")
    assert status == 1
    assert "not answered within 0.3 s" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("first_smle",), "Did you mean first_smile?"),
        (("nothing_like_it",), "no saved question nothing_like_it"),
        (("around",), "--value video="),
        (("around", "--value", "video=x", "--value", "at=noon"), "at of the question around is a number"),
        (("around", "--value", "vid=x"), "takes no value vid"),
        (("longest", "--value", "emotion"), "a name, = and a value"),
        (("SELECT nonsense FROM nowhere",), "nowhere"),
        (("SELECT FROM WHERE (",), "The database"),
        ((), "--list shows these"),
        (("first_smile", "--csv", "--json"), "not both"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_sentence(archive, command, arguments, says):
    status, out, err = command("query", *arguments)
    assert status in (1, 2)
    assert says in err
    assert "Traceback" not in err
    assert out == ""


def test_a_database_that_is_not_there(command, tmp_path):
    status, _, err = command("query", "first_smile", "--db", str(tmp_path / "none.db"))
    assert status == 1
    assert "There is no database" in err
    assert not (tmp_path / "none.db").exists()


def test_an_empty_database_and_an_unfinished_annotation_have_no_rows(store, command, monkeypatch):
    monkeypatch.setenv("MOODREEL_DB", store.engine.url.render_as_string(hide_password=False))
    store.plan(requested(store, "/a/x.mp4"), planned(0), facts=MediaFacts(duration_seconds=3.0))
    for name in QUESTIONS:
        given = [part for key in QUESTIONS[name].values if key == "video" for part in ("--value", "video=/a/x.mp4")]
        assert len(asked(command, name, *given)) == (name == "waiting")
