"""Alert rules: what they tell of a timeline, and that it is stored and told once."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from db.rows import AlertRule, NewHook, RaisedAlert
from models.taxonomy import EMOTIONS
from tests.database import annotated, fused_row, requested, segment, window_row
from tests.fleet import change, rows
from tests.receiver import SECRET
from worker.alerts import raised
from worker.windows import WindowPlan

PLAN = WindowPlan(window_ms=1000, hop_ms=1000, span_ms=600_000)  # so that a cell is a window
FEAR = EMOTIONS.index("fearful")
CALM = EMOTIONS.index("calm")


def rule(measure="fearful", level=0.6, **options):
    return AlertRule(**{"name": "r", "measure": measure, "level": level, "min_seconds": 2.0, "id": 1} | options)


def fused(*fear, rest=CALM):
    """Windows of which the probability of fear is known; None: nobody is seen or heard."""
    made = np.zeros((len(fear), len(EMOTIONS)))
    for row, value in zip(made, fear, strict=True):
        row[FEAR], row[rest] = (np.nan, np.nan) if value is None else (value, 1 - value)
        if value is None:
            row[:] = np.nan
    return made


def stretches(windows, *rules, plan=PLAN, seconds=None):
    found = raised(windows, plan, float(len(windows)) if seconds is None else seconds, rules or (rule(),))
    return [(alert.start_seconds, alert.end_seconds, round(alert.peak, 6)) for alert in found]


@pytest.mark.parametrize(
    ("fear", "found"),
    [
        ((0.7, 0.7, 0.1), [(0, 2, 0.7)]),
        ((0.6, 0.6), [(0, 2, 0.6)]),  # the level itself will do
        ((0.9, 0.1, 0.9), []),  # too short, twice
        ((0.1, 0.7, 0.9, 0.8, 0.1, 0.6, 0.6), [(1, 4, 0.9), (5, 7, 0.6)]),
        ((0.7, None, 0.7), []),  # nobody there: a break
        ((None, 0.7, 0.8, None), [(1, 3, 0.8)]),
        ((None, None, None), []),
        ((0.1,), []),
        ((), []),
    ],
)
def test_stretches_at_a_level_for_long_enough(fear, found):
    assert stretches(fused(*fear)) == found


def test_the_end_of_the_video_ends_a_stretch_where_it_is():
    assert stretches(fused(0.1, 0.7, 0.7), seconds=2.6) == []
    assert stretches(fused(0.7, 0.7, 0.7), seconds=2.6) == [(0, 2.6, 0.7)]


def test_overlapping_windows_count_as_the_mean_of_those_that_cover_a_hop():
    plan = WindowPlan(window_ms=2000, hop_ms=1000, span_ms=600_000)
    # Cells: 0.2, mean(0.2, 1) = 0.6, mean(1, 0.4) = 0.7, 0.4
    assert stretches(fused(0.2, 1.0, 0.4), plan=plan, seconds=4.0) == [(1, 3, 0.7)]


def test_a_label_that_no_model_knows_is_never_at_a_level():
    windows = fused(0.7, 0.7, 0.7)
    windows[:, EMOTIONS.index("disgust")] = np.nan
    assert stretches(windows, rule("disgust", 0.1), rule("fearful")) == [(0, 3, 0.7)]


@pytest.mark.parametrize(
    ("measure", "level", "below", "found"),
    [
        ("valence", -0.5, True, [(1, 3, -0.6)]),  # fear has valence -0.6 and arousal 0.7, calm 0.4 and -0.6
        ("valence", 0.3, False, [(0, 1, 0.4), (3, 4, 0.4)]),
        ("arousal", 0.6, False, [(1, 3, 0.7)]),
        ("fearful", 0.1, True, [(0, 1, 0), (3, 4, 0)]),
    ],
)
def test_valence_and_arousal_and_levels_from_above(measure, level, below, found):
    windows = np.vstack([fused(0.0, 1.0, 1.0, 0.0), fused(None)])
    assert stretches(windows, rule(measure, level, below=below, min_seconds=1.0)) == found


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.none() | st.integers(0, 10).map(lambda n: n / 10), min_size=1, max_size=30),
    st.integers(1, 10).map(lambda n: n / 10),
    st.integers(0, 5),
)
def test_they_are_those_that_one_finds_going_cell_by_cell(fear, level, min_seconds):
    expected, since = [], None
    for second, value in enumerate([*fear, None]):
        is_met = value is not None and value >= level - 1e-12
        if is_met and since is None:
            since = second
        elif not is_met and since is not None:
            if second - since >= min_seconds:
                expected.append((since, second, max(fear[since:second])))
            since = None
    assert stretches(fused(*fear), rule(level=level - 1e-12, min_seconds=float(min_seconds))) == expected


# --- rules in the database


def test_rules_hold_for_their_videos_and_pipelines(store):
    annotation_id = requested(store, uri="/a/x.mp4")
    other = store.register_pipeline("d2", "w2", "other", {})
    mine = store.register_pipeline("d1", "windows", "compact", {})
    store.name_pipeline("archive", mine, {})
    store.name_pipeline("other", other, {})
    for made in (
        rule(name="all"),
        rule(name="below", source_prefix="/a/"),
        rule(name="elsewhere", source_prefix="/b/"),
        rule(name="mine", pipeline="archive"),
        rule(name="another's", pipeline="other"),
    ):
        assert store.add_rule(made)
    assert not store.add_rule(rule(name="all"))
    assert [found.name for found in store.rules_for(annotation_id)] == ["all", "below", "mine"]
    assert [found.name for found in store.rules()] == ["all", "another's", "below", "elsewhere", "mine"]
    store.name_pipeline("archive", other, {})  # the name means another pipeline now
    assert [found.name for found in store.rules_for(annotation_id)] == ["all", "below"]
    assert store.remove_rule("all")
    assert not store.remove_rule("all")


def add(store, **options):
    store.add_rule(rule(**options))
    (found,) = (one for one in store.rules() if one.name == options.get("name", "r"))
    return found.id


def alert(rule_id, start=0.0, end=2.0, peak=0.7):
    return RaisedAlert(rule_id=rule_id, start_seconds=start, end_seconds=end, peak=peak)


def test_alerts_are_stored_with_the_timeline_and_told_once_for_each_rule(store):
    store.add_hook(NewHook(url="http://127.0.0.1:9/", secret=SECRET, events=("alert",), insecure_http=True))
    one, two = add(store, name="one"), add(store, name="two", measure="valence", level=-0.2, below=True)
    alerts = [alert(one), alert(one, 2.5, 3.0, 0.9), alert(two, peak=-0.5)]
    annotation_id = annotated(store, alerts=alerts)
    shown = [(a.video, a.rule, a.measure, a.start_seconds, a.end_seconds, a.peak) for a in store.alerts()]
    assert shown == [
        ("a.mp4", "one", "fearful", 0.0, 2.0, 0.7),
        ("a.mp4", "one", "fearful", 2.5, 3.0, 0.9),
        ("a.mp4", "two", "valence", 0.0, 2.0, -0.5),
    ]
    assert store.alerts(rule="two")[0].raised_at.tzinfo is not None
    assert store.alerts(uri="b.mp4") == []
    first, second = (json.loads(one.body) for one in store.deliveries()[::-1])
    assert first["type"] == second["type"] == "alert.raised"
    assert (first["data"]["rule"], first["data"]["count"]) == ("one", 2)
    assert first["data"]["stretches"][1] == {"start_seconds": 2.5, "end_seconds": 3.0, "peak": 0.9}
    assert (second["data"]["video"], second["data"]["level"], second["data"]["below"]) == ("a.mp4", -0.2, True)
    facts = {"duration_seconds": 3.0, "provenance": {}}
    store.finish(annotation_id, [fused_row(0), fused_row(1)], [segment(0.0, 3.0)], **facts, alerts=alerts)
    assert len(store.deliveries()) == 2
    assert len(store.alerts()) == 3


def test_the_view_shows_what_the_current_annotation_raised_and_the_table_all(store):
    rule_id = add(store)
    annotated(store, alerts=[alert(rule_id)])
    annotated(store, digest="d2", alerts=[alert(rule_id, 1.0, 3.0)])
    assert [a.start_seconds for a in store.alerts()] == [1.0]
    assert rows(store, "SELECT COUNT(*) FROM raised_alerts") == [(2,)]
    store.finished("d1", {"a.mp4": "1"})  # the first one becomes current again
    assert [a.start_seconds for a in store.alerts()] == [0.0]


def test_a_rule_that_is_removed_meanwhile_raises_nothing_and_breaks_nothing(store):
    gone, stays = add(store, name="gone"), add(store, name="stays")
    store.remove_rule("gone")
    annotated(store, alerts=[alert(gone), alert(stays)])
    assert [a.rule for a in store.alerts()] == ["stays"]
    store.remove_rule("stays")
    assert rows(store, "SELECT COUNT(*) FROM raised_alerts") == [(0,)]


@pytest.mark.parametrize("change_of", ["level = 2", "measure = 'bored'", "min_seconds = -1"])
def test_impossible_rules_are_impossible(store, change_of):
    add(store)
    with pytest.raises(Exception, match="refused"):
        change(store, f"UPDATE alert_rules SET {change_of}")


def test_without_rules_finishing_costs_one_query_more(store, monkeypatch):
    from models.calibration import Calibration
    from models.fusion import Fusion
    from worker import finish as finishing
    from worker.timeline import Smoothing

    def windows_again(annotation_id):
        how = finishing.Finishing(WindowPlan(), None, Calibration(), Fusion(), Smoothing())
        seen = []

        def note(*arguments):
            seen.append(arguments[2])

        sa.event.listen(store.engine, "before_cursor_execute", note)
        finishing.finish(store, annotation_id, how, 3.0)
        sa.event.remove(store.engine, "before_cursor_execute", note)
        return seen

    annotation_id = annotated(store, rows=[window_row(0), window_row(1), window_row(2)])
    monkeypatch.setattr(finishing, "raised", lambda *_: pytest.fail("there is nothing to look for"))
    seen = windows_again(annotation_id)
    assert [sql for sql in seen if "alert" in sql] == [sql for sql in seen if "FROM alert_rules" in sql]
    assert len([sql for sql in seen if "alert" in sql]) == 1
    monkeypatch.undo()
    add(store, measure="happy", level=0.5)
    windows_again(annotation_id)
    (found,) = store.alerts()
    assert (found.start_seconds, found.end_seconds, found.peak) == (0.0, 3.0, 1.0)


def test_the_query_of_the_documentation_finds_what_was_annotated_before_there_was_a_rule(store):
    page = (Path(__file__).parent.parent.parent / "docs" / "hooks.md").read_text()
    (query,) = re.findall(r"```sql\n(WITH hits .*?)```", page, re.DOTALL)
    emotions = ["fearful", "fearful", "calm", None, *["fearful"] * 10, "calm"]
    windows = [window_row(n) for n in range(len(emotions))]
    annotated(store, rows=windows, fused=[fused_row(n, name) for n, name in enumerate(emotions)])
    assert rows(store, query) == [("a.mp4", 4.0, 15.0, 1.0)]
