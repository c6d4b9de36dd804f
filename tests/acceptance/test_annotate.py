"""The real command on real videos, as a user runs it."""

import json
import os
import pty
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
import sqlalchemy as sa

from db.session import REVISIONS
from worker.windows import WindowPlan

MOODREEL = Path(sys.executable).with_name("moodreel")
BRIEF_SECONDS = 4.5


def moodreel(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder of its own."""
    command = [str(MOODREEL), *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "COLUMNS": "110", **environment},
    )


def cpu_seconds() -> float:
    """What all commands so far have computed: where many tests run at once, the clock on the wall says little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rows(db: Path, query: str) -> list[tuple]:
    """Ask the database that the commands used: a SQLite file, unless the test is `on` another."""
    engine = sa.create_engine(os.environ.get("MOODREEL_DB", f"sqlite:///{db}"))
    try:
        with engine.connect() as connection:
            return [
                tuple(row)
                for row in connection.exec_driver_sql(
                    query.replace("%", "%%") if "postgresql" in str(engine.url) else query
                )
            ]
    finally:
        engine.dispose()


@pytest.fixture
def on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of database that the commands of a test use."""
    if request.param == "postgresql":
        monkeypatch.setenv("MOODREEL_DB", request.getfixturevalue("postgresql_url"))
    return str(request.param)


on_both = pytest.mark.parametrize("on", ["sqlite", "postgresql"], indirect=True)


def copy_streams(source: Path, target: Path, *kinds: str, seconds: float = 1e9) -> Path:
    """Copy some of a clip's streams into a new file, packets as they are."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        streams = {s.index: made.add_stream_from_template(s) for s in given.streams if s.type in kinds}
        for packet in given.demux([s for s in given.streams if s.type in kinds]):
            if packet.dts is not None and packet.dts * packet.time_base < seconds:
                packet.stream = streams[packet.stream.index]
                made.mux(packet)
    return target


@pytest.fixture(scope="module")
def talk(media: Path) -> Path:
    """8.8 s of a man who speaks to the camera."""
    return media / "obama_speech.mp4"


@pytest.fixture(scope="module")
def brief(talk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first seconds of the talk, four windows, for what has to do with neither its length nor what is said."""
    return copy_streams(talk, tmp_path_factory.mktemp("brief") / "brief.mp4", "audio", "video", seconds=BRIEF_SECONDS)


@pytest.fixture(scope="module")
def annotated(talk: Path, media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a talk, a silent face and an empty street were annotated."""
    folder = tmp_path_factory.mktemp("annotated")
    ran = moodreel("annotate", talk, media / "WolfgangLanger_Pexels.mp4", media / "park.mp4", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    return folder


def test_a_talk_has_both_modalities_and_a_timeline_of_its_true_length(annotated, talk):
    db = annotated / "moodreel.db"
    ((n, audio_ok, video_ok),) = rows(
        db,
        f"""SELECT COUNT(DISTINCT window_index), SUM(modality = 'audio' AND state = 'ok') / 8,
                   SUM(modality = 'video' AND state = 'ok') / 8
            FROM window_scores WHERE video = '{talk}' AND modality <> 'fused'""",
    )
    assert n == 8
    assert audio_ok >= 7
    assert video_ok >= 7
    pieces = rows(db, f"SELECT * FROM timeline WHERE video = '{talk}' ORDER BY start_seconds")
    with av.open(str(talk)) as container:
        promised = container.duration / av.time_base
    assert pieces[0][1] == 0
    assert pieces[-1][2] == pytest.approx(promised, abs=0.1)
    assert all(piece[3] is not None for piece in pieces)


def test_a_face_without_a_voice_and_a_park_without_either(annotated, media):
    db = annotated / "moodreel.db"
    states = "SELECT DISTINCT audio_state, video_state FROM windows JOIN annotations a ON a.id = annotation_id "
    states += "JOIN videos v ON v.id = a.video_id WHERE uri = '{}'"
    assert rows(db, states.format(media / "WolfgangLanger_Pexels.mp4")) == [("no_speech", "ok")]
    assert rows(db, f"SELECT DISTINCT emotion FROM timeline WHERE video = '{media / 'park.mp4'}'") == [(None,)]
    ((none_share, dominant),) = rows(
        db, f"SELECT none_share, dominant_emotion FROM video_summary WHERE video = '{media / 'park.mp4'}'"
    )
    assert none_share == pytest.approx(1)
    assert dominant is None


def test_windows_of_faces_know_calm_though_still_faces_do_not(annotated, talk):
    found = rows(
        annotated / "moodreel.db",
        f"SELECT DISTINCT probability IS NULL FROM window_scores "
        f"WHERE video = '{talk}' AND modality = 'video' AND emotion = 'calm' AND state = 'ok'",
    )
    assert found == [(0,)]


def test_timeline_and_status_show_it(annotated, talk):
    shown = moodreel("timeline", talk, cwd=annotated)
    assert shown.returncode == 0
    assert "0:08" in shown.stdout
    told = json.loads(moodreel("timeline", talk, "--json", cwd=annotated).stdout)
    assert [p["start_seconds"] for p in told["timeline"]] == sorted(p["start_seconds"] for p in told["timeline"])
    status = json.loads(moodreel("status", "--json", cwd=annotated).stdout)
    assert status["annotations"] == {"done": 3}
    assert status["failures"] == {}
    unknown = moodreel("timeline", "other.mp4", cwd=annotated)
    assert unknown.returncode == 1
    assert "other.mp4" in unknown.stderr


def test_a_hundred_finished_files_are_skipped_in_two_seconds_without_a_model(annotated, talk, tmp_path):
    shutil.copy(annotated / "moodreel.db", tmp_path)
    folder = tmp_path / "clips"
    folder.mkdir()
    for k in range(100):
        os.link(talk, folder / f"{k}.mp4") if os.stat(talk).st_dev == os.stat(folder).st_dev else shutil.copy2(
            talk, folder / f"{k}.mp4"
        )
    with sqlite3.connect(tmp_path / "moodreel.db") as db:  # make all of them copies of the finished one
        ((version, size),) = db.execute(f"SELECT version, size_bytes FROM videos WHERE uri = '{talk}'").fetchall()
        for path in folder.iterdir():
            db.execute(
                """INSERT INTO videos (uri, version, size_bytes, created_at, updated_at)
                   VALUES (?, ?, ?, '2026-01-01', '2026-01-01')""",
                (str(path), version, size),
            )
        db.execute(
            f"""INSERT INTO annotations (video_id, version, pipeline_id, status, attempts, duration_seconds,
                                         created_at, completed_at)
                SELECT v.id, v.version, a.pipeline_id, 'done', 1, a.duration_seconds, '2026-01-01', '2026-01-01'
                FROM videos v, annotations a JOIN videos t ON t.id = a.video_id AND t.uri = '{talk}'
                WHERE v.uri LIKE '{folder}%'"""
        )
    seconds = []
    for _ in range(3):
        began = cpu_seconds()
        ran = moodreel("annotate", folder, "--json", cwd=tmp_path)
        seconds.append(cpu_seconds() - began)
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)["skipped"] == 100
    assert min(seconds) < 2, seconds
    code = "import sys; from scheduler.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules, 'a model was loaded'"
    subprocess.run([sys.executable, "-c", code, "annotate", str(folder)], cwd=tmp_path, check=True, capture_output=True)


@on_both
def test_sound_alone_and_pictures_alone(on, brief, tmp_path):
    copy_streams(brief, tmp_path / "voice.m4a", "audio")
    copy_streams(brief, tmp_path / "face.mp4", "video")
    ran = moodreel("annotate", "voice.m4a", "face.mp4", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    query = """SELECT audio_state, video_state, COUNT(*) FROM windows JOIN annotations a ON a.id = annotation_id
               JOIN videos v ON v.id = a.video_id WHERE uri LIKE '%/{}' GROUP BY 1, 2"""
    assert rows(tmp_path / "moodreel.db", query.format("voice.m4a")) == [("ok", "absent", 4)]
    assert rows(tmp_path / "moodreel.db", query.format("face.mp4")) == [("absent", "ok", 4)]


@on_both
def test_a_corrupt_stretch_keeps_the_good_windows(on, talk, media, tmp_path):
    """Nineteen seconds whose pictures between about 7 and 12 s are overwritten."""
    clip = tmp_path / "corrupt.mp4"
    shutil.copy(media / "WolfgangLanger_Pexels.mp4", clip)
    content = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        packets = [p for p in container.demux(video=0) if p.pts is not None]
        bad = [p for p in packets if 7 <= float(p.pts * p.time_base) < 12]
    for packet in bad:
        content[packet.pos + 8 : packet.pos + packet.size] = bytes(packet.size - 8)
    clip.write_bytes(content)
    ran = moodreel("annotate", clip, "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["videos"][0]["warning"]["code"] == "corrupt_stretch"
    states = dict(rows(tmp_path / "moodreel.db", "SELECT window_index, video_state FROM windows"))
    assert [states[k] for k in range(5)] == ["ok"] * 5
    assert [states[k] for k in (8, 9, 10)] == ["unreadable"] * 3
    assert "ok" in [states[k] for k in range(13, 19)]
    assert rows(tmp_path / "moodreel.db", "SELECT code, severity FROM failures") == [("corrupt_stretch", "warning")]


BAD = {
    "empty.mp4": "empty_file",
    "text.mp4": "not_media",
    "random.mp4": "not_media",
    "playlist.mp4": "not_media",
    "headless.mp4": "truncated",
    "image.mp4": "image_not_video",
}


@on_both
def test_bad_files_fail_one_by_one_and_the_rest_goes_on(on, talk, brief, tmp_path):
    folder = tmp_path / "mixed"
    (tmp_path / "nothing").mkdir()
    folder.mkdir()
    shutil.copy(brief, folder / "good.mp4")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("Dear diary,\n" * 99)
    (folder / "random.mp4").write_bytes(os.urandom(99_999))
    (folder / "playlist.mp4").write_text(f"#EXTM3U\n#EXTINF:9,\n{talk}\n#EXT-X-ENDLIST\n")
    (folder / "headless.mp4").write_bytes(talk.read_bytes()[:60_000])
    with av.open(str(folder / "image.mp4"), "w", format="image2") as image:
        stream = image.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        image.mux(stream.encode(av.VideoFrame(64, 48, "rgb24")))
    ran = moodreel("annotate", "mixed", "missing.mp4", "nothing", "--json", cwd=tmp_path)
    assert ran.returncode == 1
    told = json.loads(ran.stdout)
    assert (told["done"], told["failed"]) == (1, len(BAD) + 2)
    assert dict(rows(tmp_path / "moodreel.db", "SELECT video, code FROM failures")) == {
        str(folder / name): code for name, code in BAD.items()
    }
    for name in (*BAD, "missing.mp4", "nothing"):
        (sentence,) = [line for line in ran.stderr.splitlines() if name in line]
        assert sentence.partition(":")[0] in {*BAD.values(), "path_missing", "no_videos"}
    assert "Traceback" not in ran.stderr


def test_a_file_without_permission_is_named(talk, tmp_path):
    shutil.copy(talk, tmp_path / "closed.mp4")
    (tmp_path / "closed.mp4").chmod(0)
    command = [str(MOODREEL), "annotate", "closed.mp4"]
    if os.geteuid() == 0:  # root reads everything, unless it gives that up
        command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 1
    assert ran.stderr.startswith("not_readable: ")
    assert "closed.mp4: Permission denied" in ran.stderr
    assert rows(tmp_path / "moodreel.db", "SELECT code FROM failures") == [("not_readable",)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--window", "0.4"], "0.5 to 30"),
        (["--window", "31"], "0.5 to 30"),
        (["--window", "nan"], "nan"),
        (["--hop", "3"], "hop"),
        (["--hop", "0"], "hop"),
        (["--fusion", "magic"], "log-linear"),
        (["--device", "abacus"], "abacus"),
        (["--frobnicate"], "frobnicate"),
    ],
)
def test_unknown_values_are_wrong_usage(arguments, says, talk, tmp_path):
    ran = moodreel("annotate", talk, *arguments, cwd=tmp_path)
    assert ran.returncode == 2
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "moodreel.db").exists()


def test_databases_that_cannot_be_used(talk, tmp_path, annotated):
    newer = tmp_path / "newer.db"
    shutil.copy(annotated / "moodreel.db", newer)
    with sqlite3.connect(newer) as db:
        db.execute("UPDATE alembic_version SET version_num = 'from_the_future'")
    (tmp_path / "text.db").write_text("not a database, but long enough to have a header" * 50)
    for url, code in (
        (newer, "database_newer"),
        (tmp_path / "text.db", "database_error"),
        (tmp_path / "no" / "folder.db", "database_unreachable"),
        ("postgresql://nobody:secret@127.0.0.1:9/none", "database_unreachable"),
    ):
        ran = moodreel("annotate", talk, "--db", url, cwd=tmp_path)
        assert ran.returncode == 1
        assert code in ran.stderr
        assert "Traceback" not in ran.stderr
        assert "secret" not in ran.stderr


def test_a_locked_database_is_said_to_be_locked(brief, tmp_path, annotated):
    shutil.copy(annotated / "moodreel.db", tmp_path)
    shutil.copy(brief, tmp_path / "new.mp4")
    with sqlite3.connect(tmp_path / "moodreel.db", isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        ran = moodreel("annotate", "new.mp4", cwd=tmp_path)
        holder.execute("ROLLBACK")
    assert ran.returncode == 1
    assert "database_locked" in ran.stderr
    assert "Traceback" not in ran.stderr


def long_clip(clip: Path, target: Path, times: int) -> Path:
    """A clip again and again, by stream copy."""
    with av.open(str(target), "w") as made:
        outputs: dict[str, object] = {}
        shift = 0.0
        for _ in range(times):
            with av.open(str(clip)) as given:
                for packet in given.demux([s for s in given.streams if s.type in ("audio", "video")]):
                    if packet.dts is None:
                        continue
                    if packet.stream.type not in outputs:
                        for stream in given.streams:
                            outputs[stream.type] = made.add_stream_from_template(stream)
                    ticks = round(shift / packet.time_base)
                    packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                    packet.stream = outputs[packet.stream.type]
                    made.mux(packet)
                shift += given.duration / av.time_base
    return target


@on_both
def test_ctrl_c_leaves_a_database_that_the_next_run_carries_on_from(on, talk, media, tmp_path):
    """Ten windows a second, so that some are stored before the interruption: the rest of them is done afterwards."""
    face = copy_streams(talk, tmp_path / "face.mp4", "video")
    long_clip(face, tmp_path / "long.mp4", 6)
    shutil.copy(media / "single_face.mp4", tmp_path / "short.mp4")
    how = ("--hop", "0.1")
    first = moodreel("annotate", "short.mp4", *how, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    running = subprocess.Popen(
        [MOODREEL, "annotate", "short.mp4", "long.mp4", *how], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while not rows(tmp_path / "moodreel.db", "SELECT 1 FROM spans WHERE status = 'running' AND windows_done > 0"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "Traceback" not in stderr
    assert "carries on" in stderr
    db = tmp_path / "moodreel.db"
    assert rows(db, "SELECT status, lease_owner FROM spans ORDER BY annotation_id") == [
        ("done", None),
        ("pending", None),
    ]
    ((kept,),) = rows(db, "SELECT COUNT(*) FROM windows WHERE annotation_id = 2")
    assert kept >= 120
    assert rows(db, "SELECT DISTINCT video FROM timeline") == [(str(tmp_path / "short.mp4"),)]
    second = moodreel("annotate", "short.mp4", "long.mp4", *how, "--json", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    told = json.loads(second.stdout)
    assert (told["done"], told["skipped"]) == (1, 1)
    ((seconds,),) = rows(db, "SELECT duration_seconds FROM annotations WHERE id = 2")
    n_windows = WindowPlan(2000, 100).count(seconds)
    assert n_windows > 500
    stored = rows(db, "SELECT window_index FROM windows WHERE annotation_id = 2 ORDER BY 1")
    assert stored == [(k,) for k in range(n_windows)]


def test_after_kill_nine_the_next_run_takes_over_at_once(talk, tmp_path):
    long_clip(talk, tmp_path / "long.mp4", 4)
    running = subprocess.Popen([MOODREEL, "annotate", "long.mp4"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    db = tmp_path / "moodreel.db"
    while not (db.exists() and rows(db, "SELECT 1 FROM sqlite_master WHERE name = 'spans'")) or not rows(
        db, "SELECT 1 FROM spans WHERE status = 'running'"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running.kill()
    running.wait()
    ran = moodreel("annotate", "long.mp4", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["done"] == 1
    assert rows(db, "SELECT attempts FROM spans") == [(2,)]


@on_both
def test_a_changed_file_is_annotated_anew(on, brief, media, tmp_path):
    clip = tmp_path / "clip.mp4"
    shutil.copy(brief, clip)
    assert moodreel("annotate", clip, cwd=tmp_path).returncode == 0
    shutil.copy(media / "face_noface.mov", clip)
    assert json.loads(moodreel("annotate", clip, "--json", cwd=tmp_path).stdout)["done"] == 1
    ((end,),) = rows(tmp_path / "moodreel.db", "SELECT MAX(end_seconds) FROM timeline")
    assert end == pytest.approx(6.4, abs=0.1)
    assert rows(tmp_path / "moodreel.db", "SELECT COUNT(*) FROM annotations") == [(2,)]


@on_both
def test_another_window_or_rule_is_another_pipeline_beside_the_first(on, brief, tmp_path):
    assert moodreel("annotate", brief, cwd=tmp_path).returncode == 0
    ran = moodreel("annotate", brief, "--window", "4", "--hop", "2", "--fusion", "average", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    db = tmp_path / "moodreel.db"
    assert rows(db, "SELECT COUNT(DISTINCT digest) FROM pipelines") == [(2,)]
    assert rows(db, "SELECT COUNT(DISTINCT window_index) FROM window_scores") == [(2,)]
    assert rows(db, "SELECT COUNT(*) FROM windows") == [(6,)]


def test_a_terminal_sees_bars_and_colours_and_a_pipe_sees_neither(brief, tmp_path):
    piped = moodreel("annotate", brief, "--db", "piped.db", cwd=tmp_path)
    assert "\x1b" not in piped.stdout + piped.stderr
    assert "all videos" not in piped.stderr
    leader, follower = pty.openpty()
    running = subprocess.Popen(
        [MOODREEL, "annotate", brief, "--db", "seen.db"],
        cwd=tmp_path,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65_536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    assert running.wait(timeout=240) == 0
    assert b"all videos" in seen
    assert b"brief.mp4" in seen
    assert b"\x1b[" in seen


@on_both
def test_hostile_names_do_not_drive_the_terminal(on, brief, tmp_path):
    name = "evil\x1b[2J\n[red]x'; DROP TABLE videos;--.mp4"
    shutil.copy(brief, tmp_path / name)
    (tmp_path / os.fsdecode(b"latin-\xe9.mp4")).write_bytes(brief.read_bytes())
    (tmp_path / "bad\x1b]0;pwned\x07.mp4").touch()
    ran = moodreel("annotate", ".", cwd=tmp_path)
    assert "\x1b" not in ran.stdout + ran.stderr
    assert "\x07" not in ran.stdout + ran.stderr
    found = {uri for (uri,) in rows(tmp_path / "moodreel.db", "SELECT uri FROM videos")}
    assert str(tmp_path / name) in found
    assert any(uri.startswith("file://") and uri.endswith("latin-%E9.mp4") for uri in found)
    assert rows(tmp_path / "moodreel.db", "SELECT COUNT(DISTINCT video) FROM timeline") == [(2,)]


def test_help_is_quick(tmp_path):
    seconds = []
    for _ in range(5):
        began = cpu_seconds()
        ran = moodreel("--help", cwd=tmp_path)
        seconds.append(cpu_seconds() - began)
    assert ran.returncode == 0
    assert "SELECT * FROM timeline" in ran.stdout
    assert min(seconds) < 0.3, seconds


def test_the_command_line_is_read_before_anything_heavy_is_imported():
    heavy = ("sqlalchemy", "rich", "numpy", "torch", "boto3", "celery", "redis")
    program = f"import sys, scheduler.cli; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_the_doctor_finds_this_machine_well_and_a_broken_one_not(tmp_path):
    well = moodreel("doctor", "--json", cwd=tmp_path)
    assert well.returncode == 0, well.stdout
    assert {f["check"] for f in json.loads(well.stdout)} >= {"torch", "device", "weights", "decoding", "database"}
    (tmp_path / "moodreel.db").write_text("x" * 5000)
    ill = moodreel("doctor", "--json", cwd=tmp_path)
    assert ill.returncode == 1
    assert [f["check"] for f in json.loads(ill.stdout) if not f["fine"]] == ["database"]


def test_postgresql_holds_the_same_rows(talk, annotated, postgresql_url, tmp_path):
    assert moodreel("annotate", talk, "--db", postgresql_url, cwd=tmp_path).returncode == 0
    assert moodreel("annotate", talk, "--db", postgresql_url, "--fusion", "average", cwd=tmp_path).returncode == 0
    assert moodreel("annotate", talk, "--db", postgresql_url, cwd=tmp_path).returncode == 0
    query = f"SELECT * FROM window_scores WHERE video = '{talk}' ORDER BY window_index, modality, emotion"
    engine = sa.create_engine(postgresql_url)
    with engine.connect() as connection:
        there = [tuple(row) for row in connection.exec_driver_sql(query)]
    engine.dispose()
    here = rows(annotated / "moodreel.db", query)
    assert [row[:-1] for row in there] == [row[:-1] for row in here]
    for one, other in zip(there, here, strict=True):
        assert (one[-1] is None) == (other[-1] is None)
        assert one[-1] is None or abs(one[-1] - other[-1]) < 1e-3
    told = json.loads(moodreel("status", "--json", "--db", postgresql_url, cwd=tmp_path).stdout)
    assert told["annotations"] == {"done": 2}


def test_fusing_anew_needs_no_media(talk, media, annotated, tmp_path):
    """With the files out of reach, every timeline still changes at once, and goes back as fast."""
    shutil.copy(annotated / "moodreel.db", tmp_path)
    db = tmp_path / "moodreel.db"
    before = rows(db, "SELECT * FROM timeline")
    n_windows = rows(db, "SELECT COUNT(*) FROM windows")
    ran = moodreel("fuse", "--all", "--fusion", "average", "--switch-cost", "0", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["done"] == 3
    assert rows(db, "SELECT COUNT(*) FROM windows") == n_windows
    rules = "SELECT DISTINCT p.name FROM videos v JOIN annotations a ON a.id = v.current_annotation_id "
    assert rows(db, rules + "JOIN pipelines p ON p.id = a.pipeline_id") == [("compact 2s/1s average",)]
    assert moodreel("fuse", talk, "--fusion", "log-linear", "--switch-cost", "1", cwd=tmp_path).returncode == 0
    assert moodreel("fuse", "--all", "--fusion", "log-linear", "--switch-cost", "1", cwd=tmp_path).returncode == 0
    assert rows(db, "SELECT * FROM timeline") == before
    for arguments in (["nowhere.mp4"], []):
        ran = moodreel("fuse", *arguments, cwd=tmp_path)
        assert ran.returncode == (1 if arguments else 2)
        assert "Traceback" not in ran.stderr
    wrong = moodreel("fuse", talk, "--audio-weight", "7", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "audio_weight" in wrong.stderr


def test_a_temperature_changes_how_sure_the_voice_is(annotated, talk, tmp_path):
    shutil.copy(annotated / "moodreel.db", tmp_path)
    mean = f"SELECT AVG(confidence) FROM timeline WHERE video = '{talk}'"
    (before,) = rows(tmp_path / "moodreel.db", mean)
    doubt = ("--audio-temperature", "4", "--video-temperature", "4")
    assert moodreel("fuse", talk, *doubt, cwd=tmp_path).returncode == 0
    assert rows(tmp_path / "moodreel.db", mean) < [before]
    wrong = moodreel("fuse", talk, "--audio-temperature", "0", cwd=tmp_path)
    assert (wrong.returncode, "audio_temperature" in wrong.stderr) == (2, True)


def test_the_adaptation_is_switched_off_and_on_again(annotated, talk, tmp_path):
    shutil.copy(annotated / "moodreel.db", tmp_path)
    db = tmp_path / "moodreel.db"
    config = (
        "SELECT p.config FROM videos v JOIN annotations a ON a.id = v.current_annotation_id "
        f"JOIN pipelines p ON p.id = a.pipeline_id WHERE v.uri = '{talk}'"
    )
    voice = f"SELECT * FROM window_scores WHERE video = '{talk}' AND modality = 'audio'"
    before, ((pipeline,),) = rows(db, voice), rows(db, config)
    assert json.loads(pipeline)["adaptation"]
    for option, adapted in (("--no-adapt", False), ("--adapt", True)):
        assert moodreel("fuse", talk, option, cwd=tmp_path).returncode == 0
        ((changed,),) = rows(db, config)
        assert bool(json.loads(changed)["adaptation"]) == adapted
        assert rows(db, voice) == before
    assert changed == pipeline
    ran = moodreel("annotate", talk, "--no-adapt", "--json", cwd=tmp_path)
    assert (ran.returncode, rows(db, "SELECT COUNT(*) FROM pipelines")) == (0, [(2,)])


@on_both
def test_migrate_makes_the_tables_and_may_be_run_again(on, tmp_path):
    for _ in range(2):
        ran = moodreel("migrate", cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert f"has schema {REVISIONS[-1]}" in ran.stdout
    assert rows(tmp_path / "moodreel.db", "SELECT * FROM timeline") == []


def test_no_password_is_printed(brief, postgresql_url, tmp_path):
    url = sa.make_url(postgresql_url).set(password="S3CRET")
    for secret in (url, url.set(password=None).update_query_dict({"password": "S3CRET"})):
        text = secret.render_as_string(hide_password=False)
        assert "S3CRET" in text
        for arguments in (["annotate", brief], ["status"], ["timeline", brief], ["doctor"], ["doctor", "--json"]):
            ran = moodreel(*arguments, "--db", text, cwd=tmp_path)
            assert ran.returncode == 0, ran.stderr
            assert "S3CRET" not in ran.stdout + ran.stderr
        gone = moodreel("status", "--db", text.replace("test_", "none_"), cwd=tmp_path)
        assert gone.returncode == 1
        assert "S3CRET" not in gone.stdout + gone.stderr


def test_pipes_long_names_and_closed_folders_are_said_and_the_rest_goes_on(brief, tmp_path):
    folder = tmp_path / "archive"
    (folder / "closed").mkdir(parents=True)
    shutil.copy(brief, folder / "good.mp4")
    shutil.copy(brief, folder / "closed" / "unseen.mp4")
    os.mkfifo(folder / "pipe.mp4")
    (folder / os.fsdecode(b"\xff.mp4")).touch()
    (folder / "closed").chmod(0)
    command = [str(MOODREEL), "annotate", "archive", "a" * 300, "archive/closed/unseen.mp4", "--db", "a[b].db"]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    (folder / "closed").chmod(0o700)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    codes = sorted(line.partition(":")[0] for line in ran.stderr.splitlines())
    assert codes == ["empty_file", *["not_readable"] * 4]
    assert "1 done, 5 failed in a[b].db" in ran.stdout
    assert rows(tmp_path / "a[b].db", "SELECT code FROM failures") == [("empty_file",)]
    stray = moodreel("timeline", os.fsdecode(b"\xff.mp4"), "--db", "a[b].db", cwd=tmp_path)
    assert stray.returncode == 1
    assert "Traceback" not in stray.stderr


def test_a_terminal_keeps_complaints_apart_from_the_bars(brief, tmp_path):
    for k in range(3):
        (tmp_path / f"text{k}.mp4").write_text("no media" * 99)
    seen = on_a_terminal("annotate", "text0.mp4", brief, "text1.mp4", "text2.mp4", cwd=tmp_path)
    for k in range(3):
        (line,) = [line for line in seen.splitlines() if f"text{k}.mp4 cannot" in line]
        assert line.startswith("not_media: ")


def on_a_terminal(*arguments: object, cwd: Path) -> str:
    """What a terminal is told to show, a line for each time that it begins or clears one, other sequences left out."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "300"}
    command = [str(MOODREEL), *map(str, arguments)]
    running = subprocess.Popen(command, cwd=cwd, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65_536)
        except OSError:
            break
        seen += part
    running.wait(timeout=240)
    os.close(leader)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", re.sub(r"\x1b\[2K|\r", "\n", seen.decode()))


def test_two_runs_at_once_share_the_work_and_double_nothing(talk, media, tmp_path):
    names = ("obama_speech.mp4", "face_noface.mov", "WolfgangLanger_Pexels.mp4", "single_face.mp4", "park.mp4")
    command = [str(MOODREEL), "annotate", *(str(media / name) for name in names)]
    running = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in "ab"]
    for process in running:
        _, stderr = process.communicate(timeout=240)
        assert b"Traceback" not in stderr
        assert process.returncode in (0, 1)  # 1: the other one was still at it
    assert moodreel(*command[1:], cwd=tmp_path).returncode == 0
    db = tmp_path / "moodreel.db"
    assert rows(db, "SELECT COUNT(*) FROM annotations WHERE status = 'done'") == [(len(names),)]
    assert rows(db, "SELECT SUM(epoch), COUNT(*) FROM spans") == [(len(names), len(names))]


def test_a_second_ctrl_c_exits_at_once_and_the_next_run_carries_on(talk, tmp_path):
    long_clip(talk, tmp_path / "long.mp4", 5)
    running = subprocess.Popen(
        [MOODREEL, "annotate", "long.mp4"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "2"},  # threads of a model under way as the process goes
        stderr=subprocess.PIPE,
        text=True,
    )
    db, deadline = tmp_path / "moodreel.db", time.monotonic() + 240
    while not (db.exists() and rows(db, "SELECT 1 FROM sqlite_master WHERE name = 'timeline'")) or not rows(
        db, "SELECT 1 FROM spans WHERE status = 'running'"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "Traceback" not in stderr
    assert "terminate" not in stderr
    assert moodreel("annotate", "long.mp4", cwd=tmp_path).returncode == 0


@on_both
def test_fuse_goes_on_after_a_video_that_it_cannot_fuse(on, brief, tmp_path):
    assert moodreel("annotate", brief, cwd=tmp_path).returncode == 0
    assert moodreel("fuse", brief, "nowhere.mp4", "--fusion", "average", "--json", cwd=tmp_path).returncode == 1
    told = json.loads(moodreel("fuse", brief, "nowhere.mp4", "--fusion", "rules", "--json", cwd=tmp_path).stdout)
    assert (told["done"], told["failed"]) == (1, 1)


@on_both
def test_a_warning_is_told_again_when_windows_are_fused_anew(on, media, tmp_path):
    clip = tmp_path / "cut.mp4"
    content = (media / "WolfgangLanger_Pexels.mp4").read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")  # the index comes first, so half of the file can be read
    clip.write_bytes(content[: len(content) // 2])
    for rule in ("log-linear", "average"):
        ran = moodreel("annotate", clip, "--fusion", rule, "--json", cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        (video,) = json.loads(ran.stdout)["videos"]
        assert video["warning"]["code"] == "truncated"
        assert "truncated" in ran.stderr
