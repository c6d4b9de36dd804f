"""Windows, cells, smoothing and segments against arithmetic done another way."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.taxonomy import EMOTIONS
from worker.timeline import Smoothing, cell_edges, cells, segments, smooth
from worker.windows import Span, WindowPlan

plans = st.integers(500, 4000).flatmap(
    lambda window: st.integers(max(1, window // 9), window).map(lambda hop: WindowPlan(window, hop))
)
durations_ms = st.integers(1, 30_000)


def one_hot(*names: str | None) -> np.ndarray:
    rows = np.full((len(names), len(EMOTIONS)), np.nan)
    for row, name in zip(rows, names, strict=True):
        if name is not None:
            row[:] = 0.02
            row[EMOTIONS.index(name)] = 0.86
    return rows


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0.3, [(0.0, 0.3)]),  # shorter than half a window, but all there is
        (2.0, [(0.0, 2.0), (1.0, 2.0)]),  # the tail is exactly half a window
        (3.7, [(0.0, 2.0), (1.0, 3.0), (2.0, 3.7)]),  # [3, 3.7) is shorter than half a window
        (0.0, []),
    ],
)
def test_windows_of_two_seconds_every_second(duration, expected):
    plan = WindowPlan(2000, 1000)
    windows = [plan.window(k, duration) for k in range(plan.count(duration))]
    assert [(w.start_seconds, w.end_seconds) for w in windows] == expected


@given(plans, durations_ms)
def test_the_count_is_that_of_the_definition(plan, duration_ms):
    kept = 0
    for k in itertools.count():
        tail = duration_ms - k * plan.hop_ms
        if tail <= 0 or (k > 0 and 2 * tail < plan.window_ms):
            break
        kept += 1
    assert plan.count(duration_ms / 1000) == kept


@given(plans, st.integers(1, 30_000_000))
def test_spans_tile_all_windows(plan, duration_ms):
    spans = plan.spans(duration_ms / 1000, seekable=True)
    assert spans[0].first_window == 0
    assert spans[-1].end_window is None
    assert all(a.end_window == b.first_window for a, b in itertools.pairwise(spans))
    assert spans[-1].first_window < plan.count(duration_ms / 1000)
    assert plan.spans(duration_ms / 1000, seekable=False) == [Span(0, None)] == plan.spans(None, seekable=True)


def test_ten_minutes_are_four_spans():
    assert [s.first_window for s in WindowPlan(2000, 1000).spans(600.0, seekable=True)] == [0, 150, 300, 450]


@pytest.mark.parametrize(("window_ms", "hop_ms"), [(499, 100), (30_001, 100), (2000, 0), (2000, 2001), (2000, -1)])
def test_impossible_windows_are_refused(window_ms, hop_ms):
    with pytest.raises(ValueError, match="seconds"):
        WindowPlan(window_ms, hop_ms)


@given(plans, durations_ms)
def test_a_cell_is_the_mean_of_the_windows_that_cover_it(plan, duration_ms):
    duration = duration_ms / 1000
    n = plan.count(duration)
    fused = np.random.default_rng(duration_ms).dirichlet(np.ones(8), n)
    edges = cell_edges(n, plan, duration)
    bounds = [plan.window(k, duration) for k in range(n)]
    assert edges[-1] == bounds[-1].end_seconds
    for j, row in enumerate(cells(fused, edges, plan)):
        covering = [
            fused[w.index]
            for w in bounds
            if w.start_seconds <= edges[j] + 1e-6 and w.end_seconds >= edges[j + 1] - 1e-6
        ]
        np.testing.assert_allclose(row, np.mean(covering, axis=0), atol=1e-9)


@given(plans, durations_ms, st.integers(0, 2**32 - 1))
def test_segments_are_ordered_and_cover_exactly_what_was_annotated(plan, duration_ms, seed):
    duration = duration_ms / 1000
    rng = np.random.default_rng(seed)
    fused = rng.dirichlet(np.ones(8) * 0.3, plan.count(duration))
    fused[rng.random(len(fused)) < 0.3] = np.nan
    found = segments(fused, plan, duration, Smoothing(0.5))
    assert found[0].start_seconds == 0
    assert found[-1].end_seconds == plan.window(len(fused) - 1, duration).end_seconds
    for a, b in itertools.pairwise(found):
        assert a.start_seconds < a.end_seconds == b.start_seconds
        assert a.label != b.label
    for s in found:
        assert (s.label is None) == (s.confidence is None) == (s.valence is None)
        assert s.confidence is None or 0 < s.confidence <= 1 + 1e-9


def test_smoothing_finds_the_best_path_of_all():
    rng = np.random.default_rng(5)
    rows = rng.dirichlet(np.ones(3), 6)
    padded = np.full((6, 8), np.nan)
    padded[:, :3] = rows
    lengths = np.full(6, 1.0)

    def value(path: tuple[int, ...]) -> float:
        return sum(np.log(rows[i, p]) for i, p in enumerate(path)) - 0.7 * sum(
            a != b for a, b in itertools.pairwise(path)
        )

    best = max(itertools.product(range(3), repeat=6), key=value)
    assert tuple(smooth(padded, lengths, Smoothing(0.7))) == best


def test_a_blip_is_smoothed_away_and_a_silence_is_not():
    plan = WindowPlan(1000, 1000)
    blip = one_hot("sad", "sad", "sad", "sad")
    blip[2] = 0.1
    blip[2, EMOTIONS.index("happy")] = 0.18
    blip[2, EMOTIONS.index("sad")] = 0.12
    assert [s.label for s in segments(blip, plan, 4.0, Smoothing(1.0))] == [EMOTIONS.index("sad")]
    assert len(segments(blip, plan, 4.0, Smoothing(0.0))) == 3
    silence = one_hot("sad", None, "sad")
    assert [s.label for s in segments(silence, plan, 3.0, Smoothing(99.0))] == [3, None, 3]
