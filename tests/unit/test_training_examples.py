"""What is trained on: clips by the names of a corpus or by a manifest, and whole speakers held out."""

from pathlib import Path

import pytest

from db.errors import PathMissing, Untrainable
from models.training.corpora import Clip
from models.training.examples import PARTS, Split, in_folder, in_manifest, split_speakers
from models.training.protocols import SharedSpeakers

SHARES = {"validation_share": 0.2, "test_share": 0.2, "seed": 1}


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def manifest(folder: Path, text: str) -> Path:
    (folder / "clips.csv").write_text(text)
    return folder / "clips.csv"


def clips(speakers: str, emotions: tuple[str, ...] = ("happy", "sad")) -> list[Clip]:
    return [Clip(Path(f"{name}-{emotion}"), emotion, name) for name in speakers for emotion in emotions]


RAVDESS_FILES = (
    "Actor_01/01-01-03-01-01-01-01.mp4",  # picture and sound
    "Actor_01/02-01-03-01-01-01-01.mp4",  # the same, picture alone
    "Actor_01/03-01-03-01-01-01-01.wav",  # the same, sound alone
    "Actor_24/02-01-08-01-01-01-24.mp4",
    "Actor_02/01-01-05-02-02-02-02.mp4",
    "Actor_01/03-02-03-01-01-01-01.wav",  # song
    "._03-01-03-01-01-01-01.wav",
)
CREMA_D_FILES = (
    "VideoFlash/1001_DFA_ANG_XX.flv",
    "AudioWAV/1001_DFA_ANG_XX.wav",
    "AudioMP3/1001_DFA_ANG_XX.mp3",
    "AudioWAV/1076_MTI_SAD_XX.wav",  # silent
    "VideoFlash/1002_IEO_SAD_HI.flv",
)


@pytest.mark.parametrize(
    ("files", "side", "expected"),
    [
        (RAVDESS_FILES, "audio", [RAVDESS_FILES[2], RAVDESS_FILES[4]]),
        (RAVDESS_FILES, "video", [RAVDESS_FILES[0], RAVDESS_FILES[4], RAVDESS_FILES[3]]),
        (CREMA_D_FILES, "audio", [CREMA_D_FILES[1], CREMA_D_FILES[4]]),
        (CREMA_D_FILES, "video", [CREMA_D_FILES[0], CREMA_D_FILES[4]]),
    ],
)
def test_each_performance_of_a_corpus_is_taken_once_from_its_best_file(tmp_path, files, side, expected):
    found = in_folder(touch(tmp_path, *files), side)
    assert [str(clip.path.relative_to(tmp_path)) for clip in found.clips] == expected


def test_names_tell_emotion_speaker_and_terms(tmp_path):
    found = in_folder(touch(tmp_path, *RAVDESS_FILES, "holiday.mp4"), "video")
    assert [(clip.emotion, clip.speaker) for clip in found.clips] == [
        ("happy", "01"),
        ("angry", "02"),
        ("surprised", "24"),
    ]
    assert found.emotions == ("happy", "angry", "surprised")
    assert found.licence == "cc-by-nc-sa-4.0"
    assert found.left_out == ("1 files with names of another kind, like holiday.mp4",)


def test_a_folder_without_clips_is_refused_with_what_was_looked_for(tmp_path):
    touch(tmp_path, *RAVDESS_FILES)
    with pytest.raises(Untrainable, match=r"named as crema-d names its clips.*--manifest"):
        in_folder(tmp_path, "audio", "crema-d")
    with pytest.raises(PathMissing, match="nowhere"):
        in_folder(tmp_path / "nowhere", "audio")
    touch(tmp_path / "sound", "03-01-03-01-01-01-01.wav")
    with pytest.raises(Untrainable, match="no clip for video"):
        in_folder(tmp_path / "sound", "video")


def test_a_manifest_names_clips_stretches_labels_and_speakers(tmp_path):
    text = "\ufeffpath, start, end, label, speaker\na.mp4,,,Anger,ann\nsub/b.mp4,1.5,4,hap,bob\nc.wav,2,,sad,ann\n"
    assert in_manifest(manifest(tmp_path, text)).clips == (
        Clip(tmp_path / "a.mp4", "angry", "ann"),
        Clip(tmp_path / "sub/b.mp4", "happy", "bob", 1.5, 4.0),
        Clip(tmp_path / "c.wav", "sad", "ann", 2.0, None),
    )


def test_speakers_can_be_told_by_the_path(tmp_path):
    path = manifest(tmp_path, "path,label\nx/ann/1.wav,sad\nx/bob/1.wav,happy\n")
    found = in_manifest(path, speaker_pattern="([^/]+)/[^/]+$")
    assert [clip.speaker for clip in found.clips] == ["ann", "bob"]


def test_labels_can_be_mapped_or_left_out(tmp_path):
    path = manifest(tmp_path, "path,label,speaker\na,joyful!,x\nb,bored,x\nc,sad,y\n")
    found = in_manifest(path, given={"joyful!": "happy", "bored": None})
    assert [(clip.path.name, clip.emotion) for clip in found.clips] == [("a", "happy"), ("c", "sad")]
    assert found.left_out == ("1 clips whose labels the label map leaves out",)


@pytest.mark.parametrize(
    ("text", "pattern", "says"),
    [
        ("path,label\na,sad\nb,happy\n", None, "no column speaker.*--speaker-pattern"),
        ("path,label,speaker\na,sad,x\nb,happy,\n", None, "line 3: no speaker"),
        ("path,label\na,sad\nb,happy\n", "(x)/", "line 2: --speaker-pattern '\\(x\\)/' finds no speaker in a"),
        ("path,label\na,sad\nb,happy\n", "(", "unterminated"),
        ("file,label,speaker\na,sad,x\n", None, "no column path; its first line is file, label, speaker"),
        ("path,label,speaker\na,sad,x\nb,sulky,x\n", None, "sulky.*--label-map"),
        ("path,label,speaker\na,sad,x\nb,,x\n", None, "line 3: no path, or no label"),
        ("path,label,speaker,start,end\na,sad,x,0,1\nb,happy,x,3,2\n", None, "line 3: a stretch must end after"),
        ("path,label,speaker,start\na,sad,x,one\nb,happy,x,3\n", None, "line 2: start and end are seconds"),
        ("path,label,speaker,start\na,sad,x,nan\nb,happy,x,3\n", None, "line 2: a stretch"),
        ("path,label,speaker\n", None, "names no clip"),
        ("", None, "no column path and no column label; its first line is nothing"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused_with_its_line(tmp_path, text, pattern, says):
    with pytest.raises(Untrainable, match=says):
        in_manifest(manifest(tmp_path, text), speaker_pattern=pattern)


def test_a_manifest_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(PathMissing, match="no such file"):
        in_manifest(tmp_path / "clips.csv")
    (tmp_path / "clips.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Untrainable, match="cannot be read"):
        in_manifest(tmp_path / "clips.csv")


def test_every_speaker_is_on_one_side_and_the_seed_decides_which():
    everybody = "abcdefghij"
    split = split_speakers(clips(everybody), **SHARES)
    assert sorted(split.train + split.validation + split.test) == list(everybody)
    assert (len(split.train), len(split.validation), len(split.test)) == (6, 2, 2)
    assert {split.parts[name] for name in everybody} == set(PARTS)
    assert split == split_speakers(clips(everybody[::-1]), **SHARES)
    assert split != split_speakers(clips(everybody), **SHARES | {"seed": 2})


def test_the_speakers_to_test_can_be_named():
    split = split_speakers(clips("abcdef"), **SHARES, test_speakers=("e", "b"))
    assert split.test == ("b", "e")
    with pytest.raises(Untrainable, match=r"nobody is called x; the speakers are a, b, c"):
        split_speakers(clips("abc"), **SHARES, test_speakers=("x",))


def test_a_split_that_cannot_be_learned_from_is_refused():
    with pytest.raises(Untrainable, match="2 speakers are too few"):
        split_speakers(clips("ab"), **SHARES)
    alone = [*clips("abcd", ("sad",)), Clip(Path("x"), "happy", "a")]
    with pytest.raises(Untrainable, match="none of the speakers for training shows happy"):
        split_speakers(alone, **SHARES, test_speakers=("a",))


def test_a_speaker_on_two_sides_is_refused():
    for sides in (("ab", "b", "c"), ("ab", "c", "b"), ("a", "bc", "c")):
        with pytest.raises(SharedSpeakers):
            Split(*map(tuple, sides))
