"""All 240 talking-face videos annotate, and fusing helps on people whom no shipped model has met."""

import json

import pytest

from models.presets import COMPACT
from models.training.accuracy import annotate, clips, measure


@pytest.fixture(scope="module")
def figures(data, tmp_path_factory):
    paths = clips(data)
    assert len(paths) == 240
    found = dict(annotate(paths, f"sqlite:///{tmp_path_factory.mktemp('accuracy')}/accuracy.db"))
    assert len(found) == 240  # `annotate` ends the run where one fails
    return measure(found)


def test_fused_beats_each_side_and_35_percent(figures):
    print(json.dumps(figures, indent=2))
    fused = figures[COMPACT.fusion.rule]["wa"]
    assert fused > max(figures["audio"]["wa"], figures["video"]["wa"])
    assert fused > 0.35
    assert figures[COMPACT.fusion.rule]["answered"] == 1


def test_no_rule_is_better_than_the_default_by_more_than_chance(figures):
    rules = {name: scores["wa"] for name, scores in figures.items() if name not in ("audio", "video")}
    chance = 0.032  # the standard error of 240 clips of which half are right
    assert rules[COMPACT.fusion.rule] > max(rules.values()) - chance
