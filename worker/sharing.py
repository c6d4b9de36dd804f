"""Which thread works on which video, and who else does: spans are shared out, whatever video they are of.

A thread takes part in a video that is begun, if it has spans to spare, and begins the next one otherwise. So no more
videos are begun than there are threads, and the last one's spans keep all of them busy. Knows no database and no media.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from db.identity import Source
from db.rows import Span, SpanClaim
from worker.protocol import Probe


@dataclass(eq=False)
class Video:
    """A video under way.

    Attributes:
        source: as it was when it was begun.
        annotation_id: of its annotation, once that is known.
        probe: what it says about itself, once it is planned.
        error: what went wrong first; whoever still works on it stops.
        n_versions: how many of its versions were begun.
        spare: spans that none of the threads has begun.
        hands: threads that work on it.
        done_seconds: how much of each span has been read.
    """

    source: Source
    annotation_id: int | None = None
    probe: Probe | None = None
    error: Exception | None = None
    n_versions: int = 1
    spare: int = 0
    hands: int = 1
    done_seconds: dict[int, float] = field(default_factory=dict)

    def read(self, claim: SpanClaim, until_seconds: float | None) -> float:
        """A span has been read up to a time (None: to its end); how many seconds of the video have been read."""
        end_seconds = claim.end_seconds
        if end_seconds is None and self.probe is not None:
            end_seconds = self.probe.duration_seconds
        if until_seconds is None or (end_seconds is not None and until_seconds > end_seconds):
            until_seconds = end_seconds
        self.done_seconds[claim.span_index] = max(0.0, (until_seconds or 0.0) - claim.start_seconds)
        return sum(list(self.done_seconds.values()))


class Sharing:
    """Shares videos and their spans out to threads.

    Args:
        sources: the videos, taken one by one as threads get to them.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = iter(sources)
        self._begun: list[Video] = []
        self._changed = threading.Condition()
        self._is_over = False

    def next(self) -> Video | None:
        """A begun video, one of whose spans is now the caller's to claim, or one to begin; None if there is no more.

        Waits for as long as one that is under way may turn out to have spans to spare.
        """
        with self._changed:
            while not self._is_over:
                for video in self._begun:
                    if self._take_span(video):
                        video.hands += 1
                        return video
                if (source := next(self._sources, None)) is not None:
                    self._begun.append(Video(source))
                    return self._begun[-1]
                if not self._begun:
                    break
                self._changed.wait()
            return None

    def planned(self, video: Video, probe: Probe, spans: Iterable[Span]) -> None:
        """A video's spans are known; the first that is not done is for the caller to claim."""
        left = [span for span in spans if span.status != "done"]
        with self._changed:
            video.probe, video.spare = probe, len(left) - 1
            self._changed.notify_all()

    def another(self, video: Video) -> bool:
        """Whether there is one more span for the caller to claim."""
        with self._changed:
            return self._take_span(video)

    def _take_span(self, video: Video) -> bool:
        if video.spare <= 0 or video.error is not None:
            return False
        video.spare -= 1
        return True

    def leave(self, video: Video, error: Exception | None) -> bool:
        """The caller's work on a video is over, since nothing is left to claim or it went wrong.

        Returns:
            Whether nobody else is at it; then nobody will be.
        """
        with self._changed:
            video.spare = 0  # what was to spare, another process has
            video.error = video.error or error
            video.hands -= 1
            return video.hands == 0

    def anew(self, video: Video) -> Video:
        """The same video, to be begun once more by the caller, since it was replaced; nobody else is at it."""
        with self._changed:
            fresh = Video(video.source, n_versions=video.n_versions + 1)
            self._begun[self._begun.index(video)] = fresh
            return fresh

    def settled(self, video: Video) -> None:
        """A video has ended, well or not."""
        with self._changed:
            self._begun.remove(video)
            self._changed.notify_all()

    def stop(self) -> None:
        """Share out nothing more."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
