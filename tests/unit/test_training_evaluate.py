"""The evaluation: what is kept of media, how windows are cut, and a whole run on made-up corpora."""

import json
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.audio import AudioEmotionModel, WhisperForEmotion
from models.taxonomy import EMOTIONS
from models.training import adaptation, audio, evaluate, recordings, report, voice_recipe
from models.training.cache import Cache
from models.training.corpora import CREMA_D_EMOTIONS, JAVANESE_EMOTIONS, Clip, clips_in, javanese_clip, ravdess_clip
from models.training.evaluate import Corpus, Evaluation, fused
from models.training.face import FOLDER_LABELS
from models.training.face_recipe import Faces, FrameStatistics
from models.training.head import HeadOptions
from models.training.movement import mirrored, movement, pose
from models.training.protocols import CREMA_D, JAVANESE, RAVDESS
from models.training.recordings import (
    AS_RECORDED,
    Recording,
    Recordings,
    band_limited,
    face_windows,
    noisy,
    unpacked,
    voice_windows,
)
from models.training.seen import of_ravdess
from models.training.voice_recipe import PRODUCT_VIEW, FrozenEncoder
from models.training.whisper import emotion_config
from models.voice import VoiceDetector
from tests.accuracy_json import assert_shape
from tests.unit.test_training_audio import one_thread, write_tone

__all__ = ["one_thread"]

FACE = np.array([(20, 20), (40, 20), (30, 30), (22, 42), (38, 42)], np.float32)  # pixels
QUICK = HeadOptions(hidden=8, members=1, epochs=4, batch=32, peak_learning_rate=0.02)


def recording_of(clip: Clip, seconds: float = 2.0, *, pictures: bool = False) -> Recording:
    """Speech whose pitch, and a face whose brightness, tell the emotion; a little different for each speaker."""
    emotion, actor = EMOTIONS.index(clip.emotion), int(clip.speaker.split("/")[1])
    times = np.arange(round(16_000 * seconds)) / 16_000
    samples = 0.3 * np.sin(2 * np.pi * (300 + 400 * emotion + actor % 10) * times).astype(np.float32)
    points = round(5 * seconds) if pictures else 0
    random = np.random.default_rng(actor)
    crops = random.integers(0, 60, (points, 48, 48)).astype(np.uint8)
    crops[:, 6 * emotion : 6 * emotion + 6] += 150
    return Recording(
        seconds, samples, np.ones(-(-len(samples) // 512), np.float32), np.arange(points) / 5, np.arange(points), crops
    )


@pytest.fixture
def tiny_encoder(tmp_path):
    """A folder with an untrained encoder a thousandth of the real one's size."""
    torch.manual_seed(0)
    dims = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 8, "n_audio_layer": 2, "n_audio_head": 2}
    model = WhisperForEmotion(emotion_config(dims, QUICK.hidden))
    folder = tmp_path / "encoder"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(asdict(model.config)))
    return folder


def test_a_data_set_is_taken_as_a_folder_or_unpacked_once(tmp_path):
    folder = tmp_path / "data" / "ravdess-audio"
    folder.mkdir(parents=True)
    (folder / "a.opus").write_text("x")
    assert unpacked(tmp_path / "data", "ravdess-audio", tmp_path) == folder
    shutil.make_archive(str(folder), "tar", tmp_path / "data", "ravdess-audio")
    shutil.rmtree(folder)
    made = unpacked(tmp_path / "data", "ravdess-audio", tmp_path)
    assert [path.name for path in made.iterdir()] == ["a.opus"]
    folder.with_suffix(".tar").write_bytes(b"")  # not looked at again
    assert unpacked(tmp_path / "data", "ravdess-audio", tmp_path) == made
    with pytest.raises(FileNotFoundError, match="javanese-video"):
        unpacked(tmp_path / "data", "javanese-video", tmp_path)


def test_clips_are_read_by_the_worker_once(tmp_path, monkeypatch):
    for actor in ("01", "02"):
        write_tone(tmp_path / f"03-01-03-01-01-01-{actor}.wav", 440.0)
    clips = clips_in(tmp_path, ravdess_clip)
    whole = Recordings(clips, Cache(tmp_path / "cache"))
    whole.read("tones")
    monkeypatch.setattr(recordings, "read_all", lambda clips: pytest.fail("read twice"))
    (chunk,) = Recordings(clips, Cache(tmp_path / "cache")).chunks
    for recording in chunk.load():
        assert recording.duration_seconds == pytest.approx(1.6)
        assert len(recording.samples) == 25_600
        assert np.abs(np.fft.rfft(recording.samples)).argmax() / 1.6 == pytest.approx(440, abs=1)
        assert recording.speech.shape == (50,)
        assert len(recording.crops) == len(recording.shown_seconds) == 0


def test_landmarks_are_those_of_the_crops_and_read_once(tmp_path, media, monkeypatch):
    clip = Clip(tmp_path / "01-01-02_01.mp4", "sad", "javanese/01")
    with av.open(str(media / "WolfgangLanger_Pexels.mp4")) as given, av.open(str(clip.path), "w") as out:
        stream = out.add_stream("mpeg4", rate=5, width=640, height=360, bit_rate=4_000_000)
        for number, frame in enumerate(given.decode(video=0)):
            if number % 15 == 7:
                picture = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24", width=640, height=360))
                out.mux(stream.encode(picture))
            if number == 60:
                break
        out.mux(stream.encode())
    (chunk,) = Recordings([clip], Cache(tmp_path / "cache")).chunks
    (recording,), (landmarks,) = chunk.load(), chunk.landmarks()
    assert landmarks.dtype == np.float32
    assert landmarks.shape == (len(recording.crops), 5, 2)
    assert 3 <= len(landmarks) <= 5
    left_eye, right_eye, nose, mouth_left, mouth_right = landmarks.mean(axis=0)
    assert left_eye[0] < nose[0] < right_eye[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(mouth_left[1], mouth_right[1])
    monkeypatch.setattr(recordings, "read_landmarks", lambda clips: pytest.fail("read twice"))
    assert (chunk.landmarks()[0] == landmarks).all()


def test_chunks_do_not_mix_corpora_and_do_not_depend_on_company(tmp_path):
    clips = []
    for name in ("03-01-03-01-01-01-01", "03-01-03-01-01-01-02"):
        (tmp_path / f"{name}.wav").touch()
        clips.append(ravdess_clip(tmp_path / f"{name}.wav"))
    (tmp_path / "01-01-02_01.mp4").touch()
    video = javanese_clip(tmp_path / "01-01-02_01.mp4")
    cache = Cache(tmp_path / "cache")
    first, second = Recordings([*clips, video], cache).chunks
    assert (first.numbers, second.numbers) == (range(2), range(2, 3))
    assert second.digest == Recordings([video], cache).chunks[0].digest != first.digest


def test_a_damaged_file_of_the_cache_is_made_again(tmp_path):
    cache = Cache(tmp_path)
    assert cache.arrays("x", 1, lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
    assert cache.arrays("x", 1, lambda: pytest.fail("made twice"))["a"].tolist() == [0, 1, 2]
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert cache.arrays("x", 1, lambda: {"a": np.arange(2)})["a"].tolist() == [0, 1]


def test_windows_are_those_of_the_product():
    recording = recording_of(Clip(Path("x"), "happy", "ravdess/01"), 3.5, pictures=True)
    silent = replace(recording, speech=np.concatenate([np.zeros(75), np.ones(35)]).astype(np.float32))
    assert [(w.index, w.length_samples) for w in voice_windows(recording)] == [(0, 32_000), (1, 32_000), (2, 24_000)]
    assert [w.index for w in voice_windows(silent)] == [1, 2]  # speech from 2.4 s on
    assert face_windows(recording) == {0: [*range(10)], 1: [*range(5, 15)], 2: [*range(10, 18)]}
    hidden = replace(recording, crop_of=np.array([-1] * 9 + [*range(9)]))
    assert face_windows(hidden) == {1: [*range(6)], 2: [*range(1, 9)]}


def test_a_take_changes_the_sound_that_the_voice_detector_hears():
    recording = recording_of(Clip(Path("x"), "happy", "ravdess/01"))
    detector = VoiceDetector()
    assert AS_RECORDED.of([recording], detector)[0] is recording
    (loud,), (low,) = (take.of([recording], detector) for take in (noisy(0), band_limited(500)))
    assert np.std(loud.samples - recording.samples) == pytest.approx(np.std(recording.samples), rel=0.1)
    assert np.std(low.samples) < 0.05 * np.std(recording.samples)
    assert loud.speech.shape == recording.speech.shape
    assert loud.speech.max() < 0.5  # noise is no speech
    assert (noisy(0).of([recording], detector)[0].samples == loud.samples).all()


def test_given_frames_fall_into_their_windows(tmp_path):
    path = tmp_path / "given.npz"
    frames = np.concatenate([np.arange(30, 60), np.arange(30, 90)])
    np.savez(
        path,
        clip=np.repeat(["01-01-03-01-01-01-01", "01-01-03-01-01-01-02"], [30, 60]),
        frame=frames.astype(np.int16),
        probabilities=np.tile(np.linspace(0.1, 1, 90)[:, None], 7).astype(np.float16),
    )
    clips = [ravdess_clip(tmp_path / f"03-01-03-01-01-01-0{k}.wav") for k in (1, 2)]
    for clip in clips:
        clip.path.touch()
    whole = Recordings(clips, Cache(tmp_path / "cache"))
    made = [recording_of(clip, 3.0) for clip in clips]
    whole.cache.arrays("recordings", whole.chunks[0].key, lambda: recordings._pack(made))
    first, second = of_ravdess(path, whole, [0, 1])
    assert {k: len(rows) for k, rows in first.windows.items()} == {0: 30, 1: 30}
    assert {k: len(rows) for k, rows in second.windows.items()} == {0: 30, 1: 60, 2: 30}
    assert second.windows[1][0, 0] == pytest.approx(np.log(np.linspace(0.1, 1, 90)[30]), abs=1e-2)


def faces_of(frames: np.ndarray, **also: np.ndarray) -> list[Faces]:
    """Twelve clips of each speaker, of three windows; the middle one shows too few faces."""
    windows = [{0: f[:3], 2: f[3:]} for f in frames]
    others = [{name: {0: a[k][:3], 2: a[k][3:]} for name, a in also.items()} for k in range(len(frames))]
    return [Faces(3, w, f"x/{k // 12}", **other) for k, (w, other) in enumerate(zip(windows, others, strict=True))]


def right(rows: list[np.ndarray], emotions: np.ndarray) -> float:
    """Share of the first windows that are right."""
    return float(np.mean([np.nanargmax(clip[0]) == truth for clip, truth in zip(rows, emotions, strict=True)]))


EMOTIONS_SHOWN = np.tile([0, 2, 3], 40)


def test_the_face_recipe_learns_and_is_calibrated_on_held_out_speakers():
    random = np.random.default_rng(0)
    centres = np.eye(8)[EMOTIONS_SHOWN] @ random.standard_normal((8, 5))
    faces = faces_of((centres[:, None] + random.standard_normal((120, 6, 5))).astype(np.float32))
    model = FrameStatistics(trees=20).train(faces[:96], EMOTIONS_SHOWN[:96])
    rows = model.judge(faces[96:])
    assert all(np.isnan(clip[1]).all() for clip in rows)
    assert all(np.isnan(clip[:, [1, 4, 5, 6, 7]]).all() for clip in rows)
    assert right(rows, EMOTIONS_SHOWN[96:]) > 0.6
    assert 0.5 < model.accuracy <= 1
    np.testing.assert_allclose([np.nansum(clip[2]) for clip in rows], 1, rtol=1e-5)


def test_the_face_recipe_judges_clips_without_faces():
    faces = faces_of(np.random.default_rng(0).standard_normal((120, 6, 5)).astype(np.float32))
    blind = Faces(2, {}, "x/3")
    model = FrameStatistics([0.01], trees=5).train([*faces, blind], np.append(EMOTIONS_SHOWN, 2))
    assert [clip.shape for clip in model.judge([blind, faces[0]])] == [(2, 8), (3, 8)]
    assert np.isnan(model.judge([blind])[0]).all()


@pytest.mark.parametrize("told_by", ["frames", "landmarks", "judged"])
def test_the_face_recipe_uses_all_that_is_known_of_a_window(told_by):
    random = np.random.default_rng(0)
    known = {
        "frames": random.standard_normal((120, 6, 7)),
        "landmarks": FACE + random.standard_normal((120, 6, 5, 2)) * 0.1,
        "judged": np.full((120, 6, 8), 1 / 8),
    }
    match told_by:
        case "frames":
            known["frames"][..., 0] += 3.0 * EMOTIONS_SHOWN[:, None]
        case "landmarks":  # the head shakes the more
            known["landmarks"] += (random.standard_normal((120, 6)) * EMOTIONS_SHOWN[:, None])[..., None, None]
        case "judged":
            known["judged"] += np.eye(8)[EMOTIONS_SHOWN][:, None]
    faces = faces_of(known["frames"].astype(np.float32), landmarks=known["landmarks"].astype(np.float32))
    windows = [{0: rows[0], 2: rows[0]} for rows in known["judged"].astype(np.float32)]
    faces = [replace(clip, judged=rows) for clip, rows in zip(faces, windows, strict=True)]
    model = FrameStatistics([0.01], trees=30).train(faces[:96], EMOTIONS_SHOWN[:96])
    assert right(model.judge(faces[96:]), EMOTIONS_SHOWN[96:]) > 0.7


def test_a_clip_and_its_mirror_image_are_judged_alike():
    random = np.random.default_rng(0)
    landmarks = (FACE + random.standard_normal((120, 6, 5, 2))).astype(np.float32)
    frames = random.standard_normal((120, 6, 7)).astype(np.float32)
    model = FrameStatistics([0.01], trees=20).train(faces_of(frames, landmarks=landmarks), EMOTIONS_SHOWN)
    other = np.stack([mirrored(clip) for clip in landmarks])
    pairs = zip(*(model.judge(faces_of(frames, landmarks=points)[:5]) for points in (landmarks, other)), strict=True)
    for one, two in pairs:
        np.testing.assert_allclose(one, two, rtol=1e-4)


def test_a_pose_by_hand():
    tilt = np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]], np.float32)
    faces = np.stack([FACE, FACE @ tilt.T, FACE * 2, FACE]).astype(np.float32)
    faces[3] += (4, 0)
    faces[3, 2, 0] += 5  # the nose
    roll, side, height, width, low, shift, x, _, size = pose(faces).T
    assert roll == pytest.approx([0, 0.2, 0, 0], abs=1e-6)
    assert side == pytest.approx([0, 0, 0, 0.25], abs=1e-5)
    assert height == pytest.approx([10 / 22] * 4, abs=1e-5)
    assert width == pytest.approx([0.8] * 4, abs=1e-5)
    assert low == pytest.approx([1.1] * 4, abs=1e-5)
    assert shift == pytest.approx([0] * 4, abs=1e-5)
    assert size - size[0] == pytest.approx([0, 0, np.log(2), 0], abs=1e-5)
    assert x[3] - x[0] == pytest.approx(4 / 22, abs=1e-5)  # of the usual size


def test_movement_tells_a_still_head_from_a_nod_and_a_turn():
    still = np.tile(FACE, (10, 1, 1))
    nod, turn = still.copy(), still.copy()
    nod[::2, 2, 1] += 3
    turn[5:, 2, 0] += 3
    found = {name: movement(points) for name, points in (("still", still), ("nod", nod), ("turn", turn))}
    spreads = {name: row[6:15].argmax() for name, row in found.items()}
    assert (spreads["nod"], spreads["turn"]) == (2, 1)
    assert found["still"][6:] == pytest.approx(np.log(1e-3), abs=1e-3)
    mean_change, largest = slice(15, 24), slice(24, 33)
    assert found["turn"][largest][1] > found["turn"][mean_change][1] + 1
    assert found["nod"][largest][2] == pytest.approx(found["nod"][mean_change][2], abs=1e-2)
    assert np.isfinite(movement(still[:1])).all()


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Corpora of one actor for each fold; their files are empty, what is read is made up."""
    data = tmp_path / "data"
    actors = {
        "ravdess-audio": RAVDESS,
        "crema-d-audio": CREMA_D,
        "javanese-audio": JAVANESE,
        "javanese-video": JAVANESE,
    }
    for folder, protocol in actors.items():
        (data / folder).mkdir(parents=True)
        for number, fold in enumerate(protocol.folds):
            for actor in [sorted(fold)[number % 2].split("/")[1]]:
                names = {
                    "ravdess": [f"03-01-{code:02d}-01-01-01-{actor}.opus" for code in range(1, 9)],
                    "crema-d": [f"{actor}_DFA_{code}_XX.opus" for code in CREMA_D_EMOTIONS],
                    "javanese": [f"{actor}-01-{code}_01.{folder[-5:].replace('audio', 'opus').replace('video', 'mp4')}"
                                 for code in JAVANESE_EMOTIONS],
                }[protocol.name]  # fmt: skip
                for name in names:
                    (data / folder / name).touch()
    read = [lambda clips: [recording_of(clip, pictures=clip.path.suffix == ".mp4") for clip in clips]]
    monkeypatch.setattr(recordings, "read_all", read[0])
    monkeypatch.setattr(recordings, "read_landmarks", lambda clips: [np.tile(FACE, (10, 1, 1)) for _ in clips])
    monkeypatch.setattr(voice_recipe, "HELD_OUT", 2)
    monkeypatch.setattr(recordings, "speech_of", lambda sound, detector: np.ones(-(-len(sound) // 512), np.float32))
    women = "".join(f"{actor},{'Female' if actor % 2 else 'Male'}\n" for actor in range(1001, 1092))
    (data / "crema-d-actors.csv").write_text(f"ActorID,Sex\n{women}")
    faces = [path.stem for path in sorted((data / "ravdess-audio").iterdir())]
    probabilities = np.full((len(faces), 60, 7), 0.05, np.float16)
    for row, name in zip(probabilities, faces, strict=True):
        row[:, min(int(name[6:8]) - 1, 6)] += 0.65
    np.savez(
        data / "ravdess-face-probabilities.npz",
        clip=np.repeat([f"01{name[2:]}" for name in faces], 60),
        frame=np.tile(np.arange(60), len(faces)),
        probabilities=probabilities.reshape(-1, 7),
    )
    for index, name in enumerate(FOLDER_LABELS):
        (data / "fer2013-images" / "test" / name).mkdir(parents=True)
        picture = np.full((48, 48), 30 * index, np.uint8)
        assert cv2.imwrite(str(data / "fer2013-images" / "test" / name / "PrivateTest_1.jpg"), picture)
    return data


def test_a_whole_run_is_written_down_and_resumed(tmp_path, monkeypatch, made_up, tiny_encoder):
    checked = []
    monkeypatch.setattr(evaluate, "SNRS_DB", (0.0,))
    few = partial(adaptation.train, options=adaptation.Options(videos=80, epochs=1))
    monkeypatch.setattr(adaptation, "train", few)
    refuse = evaluate.refuse_shared_speakers
    monkeypatch.setattr(evaluate, "refuse_shared_speakers", lambda *sides: checked.append(sides) or refuse(*sides))

    def run():
        recipe = FrozenEncoder(tiny_encoder, QUICK, [PRODUCT_VIEW])
        return Evaluation(made_up, Cache(tmp_path / "cache"), recipe, FrameStatistics([0.01], trees=10))

    found = run().run()
    # Voices as recorded, low-passed, two takes of each, and the Javanese sound clips.
    assert len(checked) == 5 * (3 + 1 + 3 * 2 + 1)
    assert all(len(train) and len(test) for train, test in checked)
    report.write(found, tmp_path / "docs")
    written = json.loads((tmp_path / "docs" / "accuracy.json").read_text())
    assert_shape(written)
    assert (tmp_path / "docs" / "accuracy.md").read_text() == report.page(written)
    assert written["ravdess"]["face"]["wa"] >= 0.7  # the frames tell seven of eight
    assert written["javanese"]["face"]["wa"] > 0.5  # the crops tell
    assert len(list((tmp_path / "docs" / "accuracy").glob("*.svg"))) == 11
    people = written["crema-d"]["audio"]["people"]
    assert sorted(people["actor"]) == ["1001", "1020", "1037", "1056", "1073"]
    men = [people["actor"][actor] for actor in ("1020", "1056")]
    assert people["sex"]["men"] == pytest.approx(np.mean(men), abs=1e-3)
    monkeypatch.setattr(recordings, "read_all", lambda clips: pytest.fail("read twice"))
    monkeypatch.setattr(recordings, "read_landmarks", lambda clips: pytest.fail("read twice"))
    monkeypatch.setattr(voice_recipe, "extract", lambda *_: pytest.fail("extracted twice"))
    monkeypatch.setattr(voice_recipe, "train_head", lambda *_: pytest.fail("trained twice"))
    resumed = run()
    assert resumed._corpora["ravdess"].figures(resumed._voice_of(resumed._corpora["ravdess"]).rows)[
        "wa"
    ] == pytest.approx(found["ravdess"]["audio"]["wa"], abs=1e-4)


def test_the_shipped_voice_is_made_by_the_recipe_of_the_folds(tmp_path, made_up):
    dims = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 8, "n_audio_layer": 2, "n_audio_head": 2}
    options = replace(QUICK, hidden=32, members=2, input_dropout=0.0, hidden_dropout=0.1, epochs=60)
    torch.manual_seed(0)
    whisper = WhisperForEmotion(emotion_config(dims, options.members * options.hidden)).eval()
    clips = clips_in(made_up / "ravdess-audio", ravdess_clip)
    recipe = FrozenEncoder(whisper, options, [PRODUCT_VIEW, replace(PRODUCT_VIEW, name="degraded", degraded=True)])
    audio.train(whisper, Recordings(clips, Cache(tmp_path / "cache")), recipe, tmp_path / "out")
    sound = np.stack([recording_of(clip).samples for clip in clips])
    rows = AudioEmotionModel.load(tmp_path / "out", window_seconds=2.0).predict(sound, np.full(len(clips), 32_000))
    assert np.mean([EMOTIONS[i] == clip.emotion for i, clip in zip(rows.argmax(axis=1), clips, strict=True)]) > 0.9


def test_fusing_goes_window_by_window():
    corpus = Corpus(JAVANESE, None, [0], np.array([2]), np.array([0]), np.array([True]))
    voice, face = np.full((2, 8), np.nan, np.float32), np.full((2, 8), np.nan, np.float32)
    voice[0, [2, 3]], face[:, [2, 3]] = [0.9, 0.1], [0.4, 0.6]
    (rows,) = fused([voice], [face], [evaluate.COMPACT.fusion])
    np.testing.assert_allclose(rows[0, 2], 0.36 / (0.36 + 0.06), rtol=1e-5)
    np.testing.assert_allclose(rows[1, [2, 3]], [0.4, 0.6], rtol=1e-5)
    assert corpus.labels([rows]).tolist() == [2]


def test_a_missed_target_is_said():
    assert report.against(0.753, 0.82) == "82.0 (missed by 6.7)"
    assert report.against(0.82, 0.82) == "82.0"
    assert report.against(0.5, None) == ""
