"""The views that people query. They show each video's current annotation, and the whole picture, not single people;
`queued_seconds` shows what is before the fleet.

Views hold no data, so they are no part of the migrations: `session.migrate` drops them, migrates, and creates them anew
from here. A change to a view needs a new revision all the same, an empty one, for old databases to notice.
"""

import sqlalchemy as sa

from db import comments
from db.words import EMOTIONS

# Column names as the README documents them.
VIEW_COLUMNS: dict[str, tuple[str, ...]] = {
    "timeline": ("video", "start_seconds", "end_seconds", "emotion", "confidence", "valence", "arousal"),
    "window_scores": (
        *("video", "window_index", "start_seconds", "end_seconds"),
        *("modality", "state", "emotion", "probability"),
    ),
    "video_summary": (
        *("video", "duration_seconds", "segments", "dominant_emotion", "mean_valence", "mean_arousal"),
        *(f"{name}_share" for name in EMOTIONS),
        "none_share",
    ),
    "failures": ("video", "code", "message", "severity", "attempts", "failed_at"),
    "archive": (
        *("video_id", "video", "version", "size_bytes", "first_seen_at", "recorded_at", "recorded_at_source"),
        *("container", "duration_seconds", "width", "height", "video_codec", "audio_codec", "has_audio", "has_video"),
        *("gone_at", "annotated_at", "pipeline"),
    ),
    "annotation_changes": (
        *("video", "version", "before_pipeline_id", "after_pipeline_id", "before_completed_at", "after_completed_at"),
        *("before_emotion", "after_emotion", "is_changed", "seconds", "share"),
    ),
    "alerts": ("video", "rule", "measure", "start_seconds", "end_seconds", "peak", "raised_at"),
    "queued_seconds": ("seconds", "to_plan", "to_annotate", "to_finish"),
}


def create_views(connection: sa.Connection) -> None:
    """Create all views; none of them may exist."""
    for name, select in _selects().items():
        connection.exec_driver_sql(f"CREATE VIEW {name} ({', '.join(VIEW_COLUMNS[name])}) AS {select}")
        if connection.dialect.name == "postgresql":  # SQLite keeps no comments
            meaning, columns = comments.VIEWS[name]
            _comment(connection, f"VIEW {name}", meaning)
            for column, means in columns.items():
                _comment(connection, f"COLUMN {name}.{column}", means)


def _comment(connection: sa.Connection, what: str, text: str) -> None:
    quoted = text.replace("'", "''")
    connection.exec_driver_sql(f"COMMENT ON {what} IS '{quoted}'")


def drop_views(connection: sa.Connection) -> None:
    """Drop those views that exist."""
    for name in VIEW_COLUMNS:
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")


def _selects() -> dict[str, str]:
    return {
        "timeline": _TIMELINE,
        "window_scores": _window_scores(),
        "video_summary": _video_summary(),
        "failures": _FAILURES,
        "archive": _ARCHIVE,
        "annotation_changes": _CHANGES,
        "alerts": _ALERTS,
        "queued_seconds": _queued_seconds(),
    }


_TIMELINE = """
    SELECT videos.uri, segments.start_seconds, segments.end_seconds,
           segments.emotion, segments.confidence, segments.valence, segments.arousal
    FROM videos JOIN segments ON segments.annotation_id = videos.current_annotation_id"""

# A failure is history once a later annotation of the same version is done.
_FAILURES = """
    SELECT videos.uri, failed.error_code, failed.error_message, 'failed', failed.attempts, failed.completed_at
    FROM videos
    JOIN annotations failed ON failed.video_id = videos.id AND failed.version = videos.version
    LEFT JOIN annotations latest ON latest.id = videos.current_annotation_id
    WHERE failed.status = 'failed' AND (latest.id IS NULL OR latest.completed_at < failed.completed_at)
    UNION ALL
    SELECT videos.uri, latest.warning_code, latest.warning_message, 'warning', latest.attempts, latest.completed_at
    FROM videos JOIN annotations latest ON latest.id = videos.current_annotation_id
    WHERE latest.warning_code IS NOT NULL"""

# What is known of each video, annotated or not; a pipeline by its digest, as `moodreel pipelines list` shows it.
_ARCHIVE = """
    SELECT videos.id, videos.uri, videos.version, videos.size_bytes, videos.created_at, videos.recorded_at,
           videos.recorded_at_source, videos.container,
           COALESCE(annotations.duration_seconds, videos.duration_seconds), videos.width, videos.height,
           videos.video_codec, videos.audio_codec, videos.has_audio, videos.has_video,
           videos.gone_at, annotations.completed_at, pipelines.digest
    FROM videos
    LEFT JOIN annotations ON annotations.id = videos.current_annotation_id
    LEFT JOIN pipelines ON pipelines.id = annotations.pipeline_id"""

# Of each two complete annotations of a video's latest version, the earlier one before the later one.
_CHANGES = """
    SELECT uri, version, before_pipeline_id, after_pipeline_id, before_completed_at, after_completed_at,
           before_emotion, after_emotion,
           CASE WHEN before_emotion = after_emotion OR before_emotion IS NULL AND after_emotion IS NULL
                THEN FALSE ELSE TRUE END,
           SUM(overlap), SUM(overlap) / duration_seconds
    FROM (
        SELECT videos.uri, videos.version, old.id AS before_id, new.id AS after_id,
               old.pipeline_id AS before_pipeline_id, new.pipeline_id AS after_pipeline_id,
               old.completed_at AS before_completed_at, new.completed_at AS after_completed_at, new.duration_seconds,
               was.emotion AS before_emotion, becomes.emotion AS after_emotion,
               CASE WHEN was.end_seconds < becomes.end_seconds THEN was.end_seconds ELSE becomes.end_seconds END
               - CASE WHEN was.start_seconds > becomes.start_seconds THEN was.start_seconds
                      ELSE becomes.start_seconds END AS overlap
        FROM videos
        JOIN annotations old ON old.video_id = videos.id AND old.version = videos.version AND old.status = 'done'
        JOIN annotations new ON new.video_id = videos.id AND new.version = videos.version AND new.status = 'done'
                            AND (new.completed_at > old.completed_at
                                 OR new.completed_at = old.completed_at AND new.id > old.id)
        JOIN segments was ON was.annotation_id = old.id
        JOIN segments becomes ON becomes.annotation_id = new.id
                             AND becomes.start_seconds < was.end_seconds AND becomes.end_seconds > was.start_seconds
    ) pairs
    GROUP BY before_id, after_id, uri, version, before_pipeline_id, after_pipeline_id, before_completed_at,
             after_completed_at, duration_seconds, before_emotion, after_emotion"""


_ALERTS = """
    SELECT videos.uri, rules.name, rules.measure, raised.start_seconds, raised.end_seconds, raised.peak,
           raised.raised_at
    FROM videos
    JOIN raised_alerts raised ON raised.annotation_id = videos.current_annotation_id
    JOIN alert_rules rules ON rules.id = raised.rule_id"""


def _queued_seconds() -> str:
    """Seconds of video that are not annotated yet, those at work among them, for whatever adds and removes workers.

    What was not probed yet is estimated by its size and the median of what is known of others, or else as video of
    2 Mbit/s; of very many such videos, by the mean of some. Every video and every span counts as a
    second at least, and so does finishing a video, so that workers are there until the last of it is done. The
    conditions are in the words of the partial indexes; spans are looked up one annotation after another, since a join
    would tempt a planner to read them all.
    """
    asked = "annotations.queue_key IS NOT NULL"
    pending = f"{asked} AND annotations.status = 'pending'"
    begun = f"{asked} AND annotations.status IN ('planned', 'running')"
    guess = f"COALESCE(videos.duration_seconds, videos.size_bytes * COALESCE(rate.rate, {1 / _USUAL_BYTES_PER_SECOND}))"
    duration = "(SELECT videos.duration_seconds FROM videos WHERE videos.id = annotations.video_id)"
    left = f"COALESCE(spans.end_seconds, {duration}, spans.start_seconds) - spans.start_seconds"

    def at_least_1(seconds: str) -> str:
        return f"CASE WHEN {seconds} > 1 THEN {seconds} ELSE 1.0 END"

    return f"""
    SELECT to_plan.seconds + to_annotate.seconds + to_finish.n, to_plan.seconds, to_annotate.seconds, to_finish.n
    FROM
        (SELECT COALESCE(MAX(waiting.n) * AVG({at_least_1(guess)}), 0.0) AS seconds
         FROM (SELECT COUNT(*) AS n FROM annotations WHERE {pending}) waiting
         CROSS JOIN (
            SELECT (
                SELECT rate FROM ({_RATES}) known ORDER BY rate LIMIT 1 OFFSET (SELECT COUNT(*) / 2 FROM ({_RATES}) n)
            ) AS rate
         ) rate
         CROSS JOIN (
            SELECT video_id FROM annotations WHERE {pending} ORDER BY limited_by, queue_key LIMIT {_EXACTLY}
         ) next
         JOIN videos ON videos.id = next.video_id) to_plan,
        (SELECT COALESCE(SUM((
            SELECT SUM({at_least_1(left)}) FROM spans
            WHERE spans.annotation_id = annotations.id AND spans.status IN ('pending', 'running')
         )), 0.0) AS seconds
         FROM annotations WHERE {begun} AND annotations.spans_done_at IS NULL) to_annotate,
        (SELECT COUNT(*) AS n FROM annotations WHERE {begun} AND annotations.spans_done_at IS NOT NULL) to_finish"""


_USUAL_BYTES_PER_SECOND = 250_000.0  # 2 Mbit/s
_EXACTLY = 2000  # videos of which each is estimated for itself

# Seconds a byte of those videos that were ended last.
_RATES = """
    SELECT videos.duration_seconds / videos.size_bytes AS rate
    FROM (SELECT video_id FROM annotations WHERE completed_at IS NOT NULL ORDER BY completed_at DESC LIMIT 1000) ended
    JOIN videos ON videos.id = ended.video_id
    WHERE videos.duration_seconds > 0 AND videos.size_bytes > 0"""


def _window_scores() -> str:
    labels = " UNION ALL ".join(f"SELECT '{name}' AS emotion" for name in EMOTIONS)

    def branch(modality: str, state: str) -> str:
        cases = " ".join(f"WHEN '{name}' THEN {modality}_{name}" for name in EMOTIONS)
        return f"""
    SELECT videos.uri, windows.window_index, windows.start_seconds, windows.end_seconds,
           '{modality}', {state}, labels.emotion, CASE labels.emotion {cases} END
    FROM videos
    JOIN annotations ON annotations.id = videos.current_annotation_id
    JOIN windows ON windows.annotation_id = COALESCE(annotations.source_annotation_id, annotations.id)
    LEFT JOIN fused_windows ON fused_windows.annotation_id = annotations.id
                           AND fused_windows.window_index = windows.window_index
    CROSS JOIN ({labels}) labels"""

    fused_state = "CASE WHEN fused_windows.emotion IS NULL THEN 'none' ELSE 'ok' END"
    states = {"audio": "windows.audio_state", "video": "windows.video_state", "fused": fused_state}
    return " UNION ALL ".join(branch(modality, state) for modality, state in states.items())


def _video_summary() -> str:
    length = "(segments.end_seconds - segments.start_seconds)"
    seconds = ", ".join(
        f"SUM(CASE WHEN segments.emotion = '{name}' THEN {length} ELSE 0 END) AS {name}" for name in EMOTIONS
    )
    shares = ", ".join(f"{name} / annotated" for name in EMOTIONS)
    # Grouped by uri, so that a query for one video need not add up all the others.
    return f"""
    SELECT uri, duration_seconds, segments, {_dominant()}, valence / felt, arousal / felt, {shares}, unfelt / annotated
    FROM (
        SELECT videos.uri, annotations.duration_seconds,
               COUNT(segments.segment_index) AS segments, SUM({length}) AS annotated,
               SUM(CASE WHEN segments.emotion IS NOT NULL THEN {length} END) AS felt,
               SUM(segments.valence * {length}) AS valence, SUM(segments.arousal * {length}) AS arousal, {seconds},
               SUM(CASE WHEN segments.emotion IS NULL THEN {length} ELSE 0 END) AS unfelt
        FROM videos
        JOIN annotations ON annotations.id = videos.current_annotation_id
        LEFT JOIN segments ON segments.annotation_id = annotations.id
        GROUP BY videos.uri, annotations.duration_seconds
    ) totals"""


def _dominant() -> str:
    """The emotion with the most time, the earlier in the list where two tie, NULL where there is none."""

    def leads(name: str) -> str:
        others = " AND ".join(f"{name} >= {other}" for other in EMOTIONS if other != name)
        return f"WHEN felt IS NOT NULL AND {others} THEN '{name}'"

    return f"CASE {' '.join(leads(name) for name in EMOTIONS)} END"
