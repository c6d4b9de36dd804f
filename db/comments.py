"""What each table, view and column means, for docs/sql.md and, on PostgreSQL, in the database itself.

Columns that are made for one purpose say what it is where they are made, in `db.tables`; here is what is left.
"""

from db.words import EMOTIONS

TABLES = {
    "videos": "one row for each video that is known, at its latest version",
    "pipelines": "what makes the numbers: models, windows, fusion, smoothing",
    "pipeline_names": "names that people gave to pipelines",
    "annotations": "one version of a video under one pipeline, and how far it is",
    "spans": "stretches of a video that are annotated, claimed and retried each by itself",
    "windows": "what voice and face say in each window of an annotation",
    "fused_windows": "what both say together in each window",
    "segments": "the timeline of an annotation: stretches of one emotion, without gaps",
    "source_limits": "how many jobs may read from a place at once",
    "workers": "workers and schedulers that showed themselves",
    "hash_key": "the key of the hashes of names",
    "forgotten_names": "videos that are kept out, by hashes of their names",
    "forgotten_prefixes": "folders and prefixes that are kept out",
    "retention_rules": "how long results are kept",
    "audit": "who asked for what",
    "audit_outcomes": "what became of it",
    "hooks": "where events are posted",
    "hook_deliveries": "events that wait for a hook, or were posted to it",
    "alert_rules": "what alerts are raised for",
    "raised_alerts": "stretches for which an alert was raised",
}
_ID, _MADE = "the row's number", "when the row was made"
_ANNOTATION, _ORDER = "of this annotation", "in the order of time, from 0"
COLUMNS = {
    "videos": {
        "id": _ID,
        "size_bytes": "size of the file or object",
        "video_codec": "codec of the pictures",
        "audio_codec": "codec of the sound",
        "created_at": "when it was first seen",
        "updated_at": "when the row was last changed",
    },
    "pipelines": {"id": _ID, "created_at": _MADE},
    "pipeline_names": {"pipeline_id": "the pipeline that is called so", "created_at": _MADE},
    "annotations": {
        "id": _ID,
        "video_id": "of this video",
        "pipeline_id": "by this pipeline",
        "status": "pending, planned, running, done or failed",
        "error_message": "the same in a sentence",
        "warning_message": "the same in a sentence",
        "created_at": "when it was asked for",
    },
    "spans": {
        "annotation_id": _ANNOTATION,
        "span_index": _ORDER,
        "first_window": "index of its first window",
        "status": "pending, running, done or failed",
        "warning_message": "the same in a sentence",
        "error_message": "the same in a sentence",
    },
    "windows": {
        "annotation_id": _ANNOTATION,
        "window_index": _ORDER,
        "audio_state": "ok, absent, no_speech or unreadable",
        "video_state": "ok, absent, no_face or unreadable",
    },
    "fused_windows": {"annotation_id": _ANNOTATION, "window_index": "of the window with this index"},
    "segments": {"annotation_id": _ANNOTATION, "segment_index": _ORDER},
    "workers": {"kind": "worker or scheduler", "host": "where it runs", "pid": "number of its process there"},
    "forgotten_names": {"created_at": "since when"},
    "forgotten_prefixes": {"created_at": "since when"},
    "audit": {"id": _ID},
    "audit_outcomes": {"audit_id": "of this request"},
    "hooks": {"id": _ID, "created_at": _MADE, "disabled_why": "why, in a sentence"},
    "hook_deliveries": {
        "id": _ID,
        "hook_id": "to this hook",
        "annotation_id": "about this annotation",
        "status": "pending, done or dead",
    },
    "alert_rules": {"id": _ID, "created_at": _MADE},
    "raised_alerts": {
        "annotation_id": "in this annotation",
        "rule_id": "by this rule",
        "raised_at": "when it was raised",
    },
}

_VIDEO = "the video's URI: a path, or s3://BUCKET/KEY"
_START, _END = "start, seconds from the video's start", "end, seconds from the video's start"
_FACTS = {
    "video_id": "number of the video",
    "video": _VIDEO,
    "version": "latest version seen: size and time, or ETag",
    "size_bytes": "size of the file or object",
    "first_seen_at": "when it was first seen",
    "recorded_at": "when it was recorded",
    "recorded_at_source": "where that is from: container, object or file",
    "container": "container format",
    "duration_seconds": "length, seconds",
    "width": "pixels, as displayed",
    "height": "pixels, as displayed",
    "video_codec": "codec of the pictures",
    "audio_codec": "codec of the sound",
    "has_audio": "whether it has sound",
    "has_video": "whether it has pictures",
    "gone_at": "when it was found to be gone; NULL: it is there",
    "annotated_at": "when its current result was complete; NULL: it has none",
    "pipeline": "digest of that result's pipeline",
}
VIEWS: dict[str, tuple[str, dict[str, str]]] = {
    "timeline": (
        "the current timeline of each video, one row a segment",
        {
            "video": _VIDEO,
            "start_seconds": _START,
            "end_seconds": _END,
            "emotion": "NULL: nothing was seen or heard",
            "confidence": "mean probability of the emotion, 0 to 1",
            "valence": "-1 unpleasant to 1 pleasant",
            "arousal": "-1 calm to 1 excited",
        },
    ),
    "window_scores": (
        "every probability of the current results: a row for each window, modality and emotion",
        {
            "video": _VIDEO,
            "window_index": _ORDER,
            "start_seconds": _START,
            "end_seconds": _END,
            "modality": "audio, video or fused",
            "state": "ok, or why there is nothing",
            "emotion": "one of the eight",
            "probability": "0 to 1; NULL: nothing was judged, or the model does not know the emotion",
        },
    ),
    "video_summary": (
        "one row a video: what is felt in it, by share of the time",
        {
            "video": _VIDEO,
            "duration_seconds": "true length, seconds",
            "segments": "number of segments",
            "dominant_emotion": "the one with the most time",
            "mean_valence": "over the time with an emotion, -1 to 1",
            "mean_arousal": "over the time with an emotion, -1 to 1",
            **{f"{name}_share": f"share of the time that is {name}, 0 to 1" for name in EMOTIONS},
            "none_share": "share of the time without an emotion, 0 to 1",
        },
    ),
    "failures": (
        "what failed, and what is wrong with results that are there",
        {
            "video": _VIDEO,
            "code": "see docs/failures.md, or moodreel explain",
            "message": "the same in a sentence",
            "severity": "failed, or warning: there is a result",
            "attempts": "how often it was begun",
            "failed_at": "when it failed, or was done",
        },
    ),
    "archive": ("what is known of each video, annotated or not", _FACTS),
    "annotation_changes": (
        "for each two results of one version of a video, which time changed from which emotion to which",
        {
            "video": _VIDEO,
            "version": "of the video",
            "before_pipeline_id": "pipeline of the earlier result",
            "after_pipeline_id": "pipeline of the later one",
            "before_completed_at": "when the earlier one was complete",
            "after_completed_at": "when the later one was",
            "before_emotion": "NULL: none",
            "after_emotion": "NULL: none",
            "is_changed": "whether the two differ",
            "seconds": "for how long in all",
            "share": "of the video's length, 0 to 1",
        },
    ),
    "alerts": (
        "alerts that were raised for current results",
        {
            "video": _VIDEO,
            "rule": "name of the rule",
            "measure": "an emotion, valence or arousal",
            "start_seconds": _START,
            "end_seconds": _END,
            "peak": "highest value, or lowest where the rule is below",
            "raised_at": "when it was raised",
        },
    ),
    "queued_seconds": (
        "how much video is not annotated yet, for whatever adds and removes workers",
        {
            "seconds": "in all, seconds of video",
            "to_plan": "not begun, estimated",
            "to_annotate": "planned and not done",
            "to_finish": "videos of which only the end is left, a second each",
        },
    ),
}
