"""What a worker counts, for Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)

spans = Counter("moodreel_spans", "Spans by how they ended.", ["outcome"])
video_seconds = Counter("moodreel_video_seconds", "Seconds of video annotated.")
span_seconds = Histogram("moodreel_span_seconds", "Seconds that a span took.", buckets=_SECONDS)
in_flight = Gauge("moodreel_jobs_in_flight", "Jobs under way.")
failures = Counter("moodreel_failures", "Attempts that failed, by the code of their failure.", ["code"])
leases_lost = Counter("moodreel_leases_lost", "Jobs that somebody else had taken meanwhile.")
batch_rows = Histogram(
    "moodreel_batch_rows", "Rows in the batches that a model judged.", ["model"], buckets=(1, 2, 4, 8, 16, 32, 64)
)
