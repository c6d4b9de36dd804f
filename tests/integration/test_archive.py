"""The archive that the fleet's tests annotate: the same from the same seed, and no two videos alike."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest

from db import errors
from tests import archive
from worker.protocol import End, Picture, ReadRequest, Voice
from worker.reader import Reader


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.m*")}


def test_the_same_seed_gives_the_same_bytes_and_no_two_videos_are_alike(media, tmp_path):
    made = [tmp_path / name for name in ("one", "again", "other")]
    for folder, seed in zip(made, (1, 1, 2), strict=True):
        archive.make(folder, 12, (2.0, 3.0), seed)
    one, again, other = map(digests, made)
    assert one == again
    assert len(set(one.values()) | set(other.values())) == 24


def test_lengths_are_within_what_was_asked_for(media, tmp_path):
    lengths = []
    for path in archive.make(tmp_path / "made", 12, (2.0, 3.0)):
        with av.open(str(path)) as container:
            lengths.append(container.duration / av.time_base)
    assert min(lengths) > 1.9
    assert max(lengths) < 3.2
    assert max(lengths) - min(lengths) > 0.3


def test_a_face_is_seen_and_a_voice_is_heard(media, tmp_path):
    cut = archive.Cut(3.0, "obama_speech.mp4", 2.0, True, 0.8, "obama_speech.mp4", 4.0, 0.5)
    path = archive.write(tmp_path / "talk.mp4", cut)
    with Reader() as reader, path.open("rb") as file:
        events = list(reader.read(file.fileno(), path.name, ReadRequest()))
    assert {event.state for event in events if isinstance(event, Picture)} == {"face"}
    assert max(event.probabilities.max() for event in events if isinstance(event, Voice)) > 0.9
    assert isinstance(events[-1], End)


@pytest.mark.parametrize(("name", "code"), archive.PLANTED.items())
def test_what_is_planted_fails_as_it_should(media, tmp_path, monkeypatch, name, code):
    assert archive.plant(tmp_path) == archive.PLANTED
    hook = Path(__file__).parents[1] / "poison"
    monkeypatch.setattr(sys, "path", [str(hook), *sys.path])
    with Reader() as reader, (tmp_path / name).open("rb") as file, pytest.raises(errors.MoodreelError) as caught:
        list(reader.read(file.fileno(), name, ReadRequest()))
    assert caught.value.code == code


def test_what_makes_decoders_die_harms_nothing_else(media, tmp_path):
    """The module is there in every process that has its folder in PYTHONPATH."""
    hook = Path(__file__).parents[1] / "poison"
    script = "import sys, sitecustomize; assert 'worker.decoder_faces' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(hook), str(hook.parents[1])])}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    archive.plant(tmp_path)
    with Reader() as reader, (tmp_path / "planted-crash.mp4").open("rb") as file:
        assert isinstance(list(reader.read(file.fileno(), "crash", ReadRequest()))[-1], End)
