"""Who works on what: spans before new videos, nobody for nothing, and everybody goes home."""

import threading
from itertools import count

import pytest

from db.identity import Source
from db.rows import Span, SpanClaim
from worker.protocol import Probe
from worker.sharing import Sharing, Video

PROBE = Probe(container="mov", duration_seconds=25.0)


def source(name):
    return Source(f"/{name}.mp4", "1", 1, 0.0)


def spans(*statuses):
    common = {"lease_owner": None, "epoch": 0, "attempts": 0, "windows_done": 0, "true_end_seconds": None}
    return [
        Span(
            span_index=k, first_window=k, last_window=None, start_seconds=0.0, end_seconds=None, status=status, **common
        )
        for k, status in enumerate(statuses)
    ]


def claim(index, start_seconds, end_seconds):
    return SpanClaim(
        annotation_id=1, span_index=index, first_window=0, last_window=None, start_seconds=start_seconds,
        end_seconds=end_seconds, owner="me", epoch=1, attempts=1, windows_done=0,
    )  # fmt: skip


def asking(sharing):
    """Somebody who asks for work in a thread of his own, and what he gets."""
    got = []
    thread = threading.Thread(target=lambda: got.append(sharing.next()), daemon=True)
    thread.start()
    return thread, got


def test_spans_to_spare_come_before_the_next_video():
    sharing = Sharing([source("a"), source("b")])
    video = sharing.next()
    assert video.source == source("a")
    sharing.planned(video, PROBE, spans("pending", "pending", "pending"))
    assert sharing.next() is video  # the second span; the first is the planner's
    assert sharing.another(video)
    assert not sharing.another(video)
    assert sharing.next().source == source("b")


def test_a_video_of_one_span_is_nobody_elses():
    sharing = Sharing([source("a")])
    video = sharing.next()
    sharing.planned(video, PROBE, spans("done", "running"))
    thread, got = asking(sharing)
    thread.join(0.2)
    assert thread.is_alive()
    assert sharing.leave(video, None)
    sharing.settled(video)
    thread.join(5)
    assert got == [None]


def test_who_waits_helps_as_soon_as_a_video_turns_out_to_be_long():
    sharing = Sharing([source("a")])
    video = sharing.next()
    thread, got = asking(sharing)
    sharing.planned(video, PROBE, spans("pending", "pending"))
    thread.join(5)
    assert got == [video]
    assert not sharing.leave(video, None)
    assert sharing.leave(video, None)


def test_nobody_joins_or_goes_on_with_a_video_that_failed_and_the_first_error_counts():
    sharing = Sharing([source("a"), source("b")])
    video = sharing.next()
    sharing.planned(video, PROBE, spans("pending", "pending", "pending", "pending"))
    assert sharing.next() is video
    first = ValueError("first")
    assert not sharing.leave(video, first)
    assert not sharing.another(video)
    assert sharing.next().source == source("b")
    assert sharing.leave(video, ValueError("second"))
    assert video.error is first


def test_nobody_joins_a_video_whose_spans_another_process_has():
    sharing = Sharing([source("a"), source("b")])
    video = sharing.next()
    sharing.planned(video, PROBE, spans("running", "running", "running"))
    assert sharing.leave(video, None)
    assert sharing.next().source == source("b")


def test_a_video_begun_anew_starts_from_nothing():
    sharing = Sharing([source("a")])
    video = sharing.next()
    sharing.planned(video, PROBE, spans("pending", "pending"))
    sharing.leave(video, ValueError("replaced"))
    fresh = sharing.anew(video)
    assert (fresh.source, fresh.n_versions, fresh.error, fresh.probe) == (source("a"), 2, None, None)
    sharing.leave(fresh, None)
    sharing.settled(fresh)
    assert sharing.next() is None


def test_sources_are_taken_one_by_one():
    taken = []
    sharing = Sharing(taken.append(n) or source(n) for n in count())
    for _ in range(3):
        video = sharing.next()
        sharing.leave(video, None)
        sharing.settled(video)
    assert taken == [0, 1, 2]


def test_after_a_stop_nothing_is_shared_out_and_nobody_waits():
    sharing = Sharing([source("a")])
    sharing.next()
    thread, got = asking(sharing)
    sharing.stop()
    thread.join(5)
    assert got == [None]


@pytest.mark.parametrize(("until_seconds", "expected"), [(3.0, 3.0), (10.5, 10.0), (None, 10.0)])
def test_what_has_been_read_counts_all_spans(until_seconds, expected):
    video = Video(source("a"), probe=PROBE)
    assert video.read(claim(0, 0.0, 10.0), until_seconds) == expected
    assert video.read(claim(2, 20.0, None), 22.0) == expected + 2.0
    assert video.read(claim(2, 20.0, None), None) == expected + 5.0
