"""Comments on all tables, and on those columns that had none; on PostgreSQL, since SQLite keeps none.

Revision ID: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TABLES = {
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
_COLUMNS = {
    "videos": {
        "id": "the row's number",
        "size_bytes": "size of the file or object",
        "video_codec": "codec of the pictures",
        "audio_codec": "codec of the sound",
        "created_at": "when it was first seen",
        "updated_at": "when the row was last changed",
    },
    "pipelines": {"id": "the row's number", "created_at": "when the row was made"},
    "pipeline_names": {"pipeline_id": "the pipeline that is called so", "created_at": "when the row was made"},
    "annotations": {
        "id": "the row's number",
        "video_id": "of this video",
        "pipeline_id": "by this pipeline",
        "status": "pending, planned, running, done or failed",
        "error_message": "the same in a sentence",
        "warning_message": "the same in a sentence",
        "created_at": "when it was asked for",
    },
    "spans": {
        "annotation_id": "of this annotation",
        "span_index": "in the order of time, from 0",
        "first_window": "index of its first window",
        "status": "pending, running, done or failed",
        "warning_message": "the same in a sentence",
        "error_message": "the same in a sentence",
    },
    "windows": {
        "annotation_id": "of this annotation",
        "window_index": "in the order of time, from 0",
        "audio_state": "ok, absent, no_speech or unreadable",
        "video_state": "ok, absent, no_face or unreadable",
    },
    "fused_windows": {"annotation_id": "of this annotation", "window_index": "of the window with this index"},
    "segments": {"annotation_id": "of this annotation", "segment_index": "in the order of time, from 0"},
    "workers": {"kind": "worker or scheduler", "host": "where it runs", "pid": "number of its process there"},
    "forgotten_names": {"created_at": "since when"},
    "forgotten_prefixes": {"created_at": "since when"},
    "audit": {"id": "the row's number"},
    "audit_outcomes": {"audit_id": "of this request"},
    "hooks": {"id": "the row's number", "created_at": "when the row was made", "disabled_why": "why, in a sentence"},
    "hook_deliveries": {
        "id": "the row's number",
        "hook_id": "to this hook",
        "annotation_id": "about this annotation",
        "status": "pending, done or dead",
    },
    "alert_rules": {"id": "the row's number", "created_at": "when the row was made"},
    "raised_alerts": {
        "annotation_id": "in this annotation",
        "rule_id": "by this rule",
        "raised_at": "when it was raised",
    },
}


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table, meaning in _TABLES.items():
        _comment(f"TABLE {table}", meaning)
        for column, means in _COLUMNS.get(table, {}).items():
            _comment(f"COLUMN {table}.{column}", means)


def _comment(what: str, text: str) -> None:
    quoted = text.replace("'", "''")
    op.execute(f"COMMENT ON {what} IS '{quoted}'")


def downgrade() -> None:
    """Nothing: they do no harm."""
