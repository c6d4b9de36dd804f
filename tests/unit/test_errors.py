"""The list of failures and the tree of errors say the same."""

import inspect
import pickle
import re

import pytest

from db import errors
from db.errors import FAILURES, MoodreelError

GROUPS = {"MoodreelError", "InputError", "LimitExceeded", "DecoderError", "EquipmentError"}
CLASSES = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, MoodreelError) and name not in GROUPS
}
PERMANENT = {
    *("path_missing", "no_videos", "empty_file", "not_media", "image_not_video", "no_streams", "truncated"),
    *("undecodable", "corrupt_stretch", "database_newer", "bad_option"),
    *("cancelled", "pipeline_unknown", "untrainable", "hook_refused", "hook_unknown", "rule_unknown"),
    *("expired", "forgotten", "object_archived", "query_refused", "query_failed", "question_unknown"),
    *("codec_refused", "picture_too_large", "recording_too_long", "too_many_streams", "metadata_too_large"),
}


def test_each_code_has_one_class_and_each_class_one_code():
    assert sorted(kind.code for kind in CLASSES.values()) == sorted(FAILURES)


def test_class_is_named_after_its_code():
    assert {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in CLASSES} == set(FAILURES)


def test_docstring_draws_the_whole_tree():
    assert set(re.findall(r"[*·+-] (\w+)", errors.__doc__)) == set(CLASSES) | GROUPS


@pytest.mark.parametrize("code", FAILURES)
def test_whether_to_retry_is_decided_as_agreed(code):
    kind = next(kind for kind in CLASSES.values() if kind.code == code)
    assert (kind.permanent, FAILURES[code].permanent) == (code in PERMANENT, code in PERMANENT)


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_each_code_is_explained_in_sentences(failure):
    for sentence in (failure.meaning, failure.what_to_do):
        assert sentence.endswith(".")
        assert sentence[0].isupper() or sentence.startswith("moodreel")


def test_an_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(errors.EmptyFile("a.mp4 is empty.", hint="Copy it again.")))
    assert (type(error), str(error), error.hint) == (errors.EmptyFile, "a.mp4 is empty.", "Copy it again.")
