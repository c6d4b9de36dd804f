"""Other people's names for emotions, and what becomes of their probabilities."""

import json

import numpy as np
import pytest

from models.errors import LabelError
from models.labels import ALIASES, map_labels, read_label_map
from models.taxonomy import EMOTIONS


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("angry disgust fearful happy neutral sad", "angry disgust fearful happy neutral sad"),  # CREMA-D
        ("ANG DIS FEA HAP NEU SAD", "angry disgust fearful happy neutral sad"),
        ("neu hap ang sad", "neutral happy angry sad"),  # IEMOCAP
        ("anger disgust fear joy neutral sadness surprise", "angry disgust fearful happy neutral sad surprised"),
        ("Angry Disgust Fear Happy Sad Surprise Neutral", "angry disgust fearful happy sad surprised neutral"),
    ],
)
def test_names_that_are_seen_on_the_hub(theirs, ours):
    assert map_labels(theirs.split()).targets == tuple(ours.split())


def test_spaces_and_underscores_do_not_matter():
    assert map_labels([" Pleasant_Surprise ", "no-emotion"]).targets == ("surprised", "neutral")


def test_no_alias_stands_for_two_emotions_or_hides_a_name():
    names = [name for emotion in EMOTIONS for name in (emotion, *ALIASES[emotion])]
    assert len(set(names)) == len(names)


def test_outputs_of_one_emotion_are_summed_and_what_is_left_out_is_shared():
    mapping = map_labels(["joy", "happy", "sad", "contempt"], {"contempt": None})
    assert mapping.labels == ("happy", "sad")
    (row, nothing) = mapping.widen([[0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1]])
    np.testing.assert_allclose(row[[EMOTIONS.index("happy"), EMOTIONS.index("sad")]], [0.5, 0.5])
    assert np.isnan(row).sum() == 6
    assert np.nansum(nothing) == pytest.approx(1)


def test_unknown_labels_are_printed_with_the_way_out():
    with pytest.raises(LabelError) as caught:
        map_labels(["happy", "LABEL_1", "contempt"], of="some/model")
    said = str(caught.value)
    assert all(part in said for part in ("some/model", "LABEL_1, contempt", "of happy", '"LABEL_1"', "--label-map"))
    with pytest.raises(LabelError, match="fewer than two"):
        map_labels(["happy", "joy"])


def test_mapping_files(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"LABEL_0": "sad", "LABEL_1": None}))
    assert read_label_map(path, "audio") == {"LABEL_0": "sad", "LABEL_1": None}
    path.write_text(json.dumps({"audio": {"LABEL_0": "sad"}}))
    assert read_label_map(path, "audio") == {"LABEL_0": "sad"}
    assert read_label_map(path, "video") == {}
    for wrong in ("[]", '{"a": "melancholy"}', '{"a": 3}', "{", '{"audio": [], "video": []}'):
        path.write_text(wrong)
        with pytest.raises(LabelError, match=r"labels\.json"):
            read_label_map(path, "audio")
    with pytest.raises(LabelError, match="cannot be read"):
        read_label_map(tmp_path / "none.json", "audio")
