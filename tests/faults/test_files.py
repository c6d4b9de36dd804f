"""Files that are encrypted, noise, or carry hostile texts inside, taken all the way by the real command."""

import json
import os
import random
import sqlite3
import subprocess
from pathlib import Path

import av
import pytest

from tests.clips import Pictures, Track, steady, write
from tests.running_fleet import moodreel

KEYS = {"encryption_key": "76a6c65c5ea762046bd749a2e632ccbb", "encryption_kid": "a7e61c373e219033c21091fa607bf3b8"}
TEXT = "\x1b]0;pwned\x07\x1b[2J\n'; DROP TABLE videos;--<script>alert(1)</script>" + "\u202e\u0000é漢\U0001f600" * 300


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write(tmp_path / "clip.mp4", Pictures(steady(3)), [Track(seconds=3.0)])


def copied(clip: Path, path: Path, options: dict[str, str], metadata: dict[str, str]) -> Path:
    """A clip's packets in a container made with other options, with texts at every place that has any."""
    with av.open(str(clip)) as source, av.open(str(path), "w", options=options) as out:
        streams = [out.add_stream_from_template(stream) for stream in source.streams]
        for one in (out, *streams):
            one.metadata.update(metadata)
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return path


def annotate(folder: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """What the command said, and the videos' codes, `done` for none."""
    command = moodreel("annotate", folder, "--json", "--device", "cpu", "--db", folder.parent / "m.db")
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    with sqlite3.connect(folder.parent / "m.db") as db:
        found = db.execute(
            "SELECT v.uri, COALESCE(a.error_code, a.status) FROM videos v JOIN annotations a ON a.video_id = v.id"
        )
        return ran, {Path(uri).name: code for uri, code in found}


def test_encrypted_and_random_files_fail_with_a_code_each_and_the_rest_goes_on(clip, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    copied(clip, folder / "encrypted.mp4", {"encryption_scheme": "cenc-aes-ctr", **KEYS}, {})
    for seed in range(3):
        (folder / f"random{seed}.mp4").write_bytes(random.Random(seed).randbytes(100_000))
    clip.rename(folder / "clip.mp4")
    ran, codes = annotate(folder)
    assert ran.returncode == 1
    assert codes == {
        "encrypted.mp4": "undecodable", "clip.mp4": "done",
        **{f"random{seed}.mp4": "not_media" for seed in range(3)},
    }  # fmt: skip
    assert json.loads(ran.stdout)["failed"] == 4


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_hostile_texts_in_a_file_go_nowhere(clip, tmp_path, suffix):
    folder = tmp_path / "videos"
    folder.mkdir()
    text = TEXT.replace("\0", "")
    texts = dict.fromkeys(("title", "artist", "comment", "encoder", "creation_time", "language", "handler_name"), text)
    options = {"movflags": "use_metadata_tags"} if suffix == "mp4" else {}
    path = copied(clip, folder / f"clip.{suffix}", options, texts | {text[:50]: text})
    assert text.encode()[:60] in path.read_bytes()
    ran, codes = annotate(folder)
    assert ran.returncode == 0, ran.stderr
    assert codes == {path.name: "done"}
    dump = "\n".join(sqlite3.connect(tmp_path / "m.db").iterdump())
    for said in (dump, ran.stdout, ran.stderr):
        assert "pwned" not in said
        assert "\x1b" not in said
