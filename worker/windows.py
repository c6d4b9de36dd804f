"""Windows, cells and spans: where they begin and end. Pure arithmetic in whole milliseconds.

Window k is [k*hop, min(k*hop + window, duration)); a tail shorter than half a window is dropped unless it is all there
is. Windows overlap, so the timeline is made of hop cells: cell k is [k*hop, min((k+1)*hop, annotated end)).
"""

from dataclasses import dataclass

# The unit of work, lease, retry and parallelism: short enough for a video of five minutes to keep two children busy. At
# each border about nine seconds are decoded twice (from a key frame before the warm-up, to the last window's end).
SPAN_MS = 150_000


@dataclass(frozen=True)
class Window:
    """One window, the unit of prediction."""

    index: int
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class WindowPlan:
    """How a video is cut.

    Attributes:
        window_ms: length of a window, 500 to 30,000 ms.
        hop_ms: from one window's start to the next one's, 1 ms to `window_ms`.
        span_ms: about how long the spans are that a video is cut into; they begin at multiples of the hop.

    Raises:
        ValueError: a length is out of range.
    """

    window_ms: int = 2000
    hop_ms: int = 1000
    span_ms: int = SPAN_MS

    def __post_init__(self) -> None:
        if not 500 <= self.window_ms <= 30_000:
            raise ValueError(f"the window must be 0.5 to 30 seconds long, got {self.window_ms / 1000:g}")
        if not 0 < self.hop_ms <= self.window_ms:
            raise ValueError(f"the hop must be above 0 and at most the window, got {self.hop_ms / 1000:g} seconds")
        if self.span_ms < self.window_ms:
            raise ValueError(f"a span must be at least a window long, got {self.span_ms / 1000:g} seconds")

    def count(self, duration_seconds: float) -> int:
        """How many windows a video of this length has: those with at least half a window in it, and at least one."""
        duration_ms = round(duration_seconds * 1000)
        if duration_ms <= 0:
            return 0
        half_ms = (self.window_ms + 1) // 2
        return max(1, (duration_ms - half_ms) // self.hop_ms + 1)

    def window(self, index: int, duration_seconds: float | None = None) -> Window:
        """Window number `index`, clipped to the video's end where that is known."""
        start_ms = index * self.hop_ms
        end_seconds = (start_ms + self.window_ms) / 1000
        if duration_seconds is not None:
            end_seconds = min(end_seconds, duration_seconds)
        return Window(index, start_ms / 1000, end_seconds)

    @property
    def windows_per_span(self) -> int:
        """Spans are cut at fixed multiples of the hop that belong to the pipeline, the same everywhere."""
        return self.span_ms // self.hop_ms

    def spans(self, duration_seconds: float | None, *, seekable: bool) -> list["Span"]:
        """Cut a video into spans.

        Args:
            duration_seconds: what the container promises; None if it says nothing.
            seekable: a container that cannot be sought is one span.
        """
        if duration_seconds is None or not seekable:
            return [Span(0, None)]
        step = self.windows_per_span
        firsts = range(0, max(1, self.count(duration_seconds)), step)
        return [Span(first, first + step if first + step < firsts.stop else None) for first in firsts]


@dataclass(frozen=True)
class Span:
    """A run of windows: [first_window, end_window); None: to the video's true end, which settles the duration."""

    first_window: int
    end_window: int | None
