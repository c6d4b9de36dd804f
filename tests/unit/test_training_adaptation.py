"""Training the adaptation: simulated videos, the loss, and what comes out on made-up speakers."""

import json

import numpy as np
import pytest
import torch

from models.adaptation import Adaptation, levels, without_own_mean
from models.presets import COMPACT_AUDIO, Checkpoint
from models.training.adaptation import Batch, Example, Options, centre_of, measure, train, write
from models.training.metrics import clip_row, predicted
from models.training.protocols import CREMA_D, JAVANESE, RAVDESS, Protocol
from models.training.simulated import Judged, accuracies, dominated, methods, over, uneven, videos_of


def corpus(protocol: Protocol, per_fold: int = 2, leaning: float = 1.5, seed: int = 0) -> Judged:
    """Speakers whose voices lean each to emotions of its own; six clips of each emotion, of one to three windows."""
    random = np.random.default_rng(seed)
    rows, truth, speakers = [], [], []
    for name in (name for fold in protocol.folds for name in sorted(fold)[:per_fold]):
        bias = leaning * random.standard_normal(8)
        for emotion in np.flatnonzero(protocol.known):
            for _ in range(6):
                logits = 2.5 * np.eye(8)[emotion] + bias + 0.7 * random.standard_normal((random.integers(1, 4), 8))
                powers = np.exp(logits)
                rows.append((powers / powers.sum(axis=1, keepdims=True)).astype(np.float32))
                truth.append(emotion)
                speakers.append(name)
    return Judged.of(rows, np.array(truth), speakers, protocol.known)


def test_clips_of_which_nothing_was_said_are_left_out():
    nothing, one = np.full((2, 8), np.nan, np.float32), np.full((1, 8), 0.125, np.float32)
    judged = Judged.of(
        [nothing, np.vstack([nothing, one]), one], np.array([0, 1, 2]), ["x/1", "x/1", "x/2"], RAVDESS.known
    )
    assert [len(clip) for clip in judged.rows] == [1, 1]
    assert (judged.truth.tolist(), judged.speakers.tolist()) == ([1, 2], ["x/1", "x/2"])
    assert judged.of_speakers(["x/2"]).truth.tolist() == [2]
    assert judged.of_speakers(["x/2"], among=False).truth.tolist() == [1]


@pytest.mark.parametrize(
    ("emotion", "share", "n_clips", "counts"),
    [
        (None, 0.0, 12, [4, 4, 4]),
        (1, 1.0, 5, [0, 5, 0]),
        (1, 1.0, 50, [0, 8, 0]),  # there are no more
        (1, 0.7, 10, [1.5, 7, 1.5]),  # the other three go to one or the other
        (1, 0.5, 40, [4, 8, 4]),  # fewer, the share is kept
        (1, 0.3, 1, [1, 1, 1]),
    ],
)
def test_an_emotion_takes_its_share(emotion, share, n_clips, counts):
    pool = {label: np.arange(8) + 8 * label for label in range(3)}
    clips = dominated(np.random.default_rng(0), pool, emotion, share, n_clips)
    assert len(np.unique(clips)) == len(clips)
    np.testing.assert_allclose(np.bincount(clips // 8, minlength=3), counts, atol=0.5)


def test_uneven_shares_take_no_clip_twice():
    pool = {label: np.arange(8) + 8 * label for label in range(3)}
    clips = uneven(np.random.default_rng(0), pool, 20)
    assert len(np.unique(clips)) == len(clips) <= 20


def test_the_loss_is_that_of_the_clips_as_they_come_out():
    judged = corpus(CREMA_D, per_fold=1)
    clips = np.arange(0, 30, 5)
    known, centre = judged.known, centre_of([judged])
    rows = [over(judged.rows[k], known) for k in clips]
    windows = np.concatenate(rows)
    shift = np.where(known, levels(windows, known).mean(axis=0) - centre, 0.0)
    logs = np.stack([np.log(np.where(known, clip, 1.0)).mean(axis=0) for clip in rows])
    loss = Batch([Example(np.zeros(13), shift, logs, judged.truth[clips], known)]).loss(torch.tensor([0.4]))
    adapted = without_own_mean(windows, known, centre, 0.4)
    ends = np.cumsum([len(clip) for clip in rows])
    parts = np.split(adapted, ends[:-1])
    right = [clip_row(part, known)[k] for part, k in zip(parts, judged.truth[clips], strict=True)]
    assert float(loss) == pytest.approx(-np.mean(np.log(right)), rel=1e-4)


def test_accuracies_are_those_of_the_clips_as_they_come_out():
    judged = corpus(CREMA_D, per_fold=1)
    clips = np.arange(0, 60, 2)
    known = judged.known
    rows = [over(judged.rows[k], known) for k in clips]
    found = accuracies(judged, {"x": [(clips, -1)]}, [0.0] * 8, lambda rows, labels: 1.0)
    adapted = without_own_mean(np.concatenate(rows), known, [0.0] * 8, 1.0)
    parts = np.split(adapted, np.cumsum([len(clip) for clip in rows])[:-1])
    labels = predicted(np.stack([clip_row(part, known) for part in parts]))
    assert found == {"x": pytest.approx(np.mean(labels == judged.truth[clips]))}


def test_what_is_trained_gains_where_emotions_are_balanced_and_leaves_the_others():
    seen, unseen = corpus(RAVDESS, seed=1), corpus(CREMA_D, seed=2)
    made = train([seen], Options(videos=1200, epochs=8))
    assert Adaptation(**json.loads(json.dumps(made.config))) == made
    videos = videos_of(unseen)
    found = {name: accuracies(unseen, videos, made.centre, method) for name, method in methods(made).items()}
    gains = {kind: found["adaptation"][kind] - found["none"][kind] for kind in videos}
    assert gains["balanced, all clips"] > 0.1
    assert gains["70 %"] > -0.03
    assert gains["100 %"] > -0.01
    assert found["own mean"]["100 %"] < found["none"]["100 %"] - 0.3


def test_every_kind_of_video_is_measured_on_every_fold(monkeypatch):
    monkeypatch.setattr("models.training.adaptation.train", lambda corpora: COMPACT_AUDIO.adaptation)
    english = {"ravdess": corpus(RAVDESS), "crema-d": corpus(CREMA_D)}
    found = measure(english, corpus(JAVANESE))
    assert list(found) == ["ravdess", "crema-d", "javanese"]
    for kinds in found.values():
        assert {"balanced", "70 %", "100 %", "two speakers, 70 %", "4 clips, balanced"} <= set(kinds)
        for by in kinds.values():
            assert by["none"]["gain"] == by["none"]["spread"] == 0
            assert by["adaptation"]["wa"] == pytest.approx(by["none"]["wa"] + by["adaptation"]["gain"])


def test_it_is_written_for_the_weights_beside_it(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(COMPACT_AUDIO.folder / name)
    write(COMPACT_AUDIO.adaptation, tmp_path)
    assert Checkpoint(tmp_path).adaptation == COMPACT_AUDIO.adaptation
    assert (tmp_path / "adaptation.json").read_text() == (COMPACT_AUDIO.folder / "adaptation.json").read_text()
