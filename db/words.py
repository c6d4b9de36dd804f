"""The words that rows may hold. Imports nothing, since the command line asks for them before it does anything."""

EMOTIONS: tuple[str, ...] = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
AUDIO_STATES: tuple[str, ...] = ("ok", "absent", "no_speech", "unreadable")
VIDEO_STATES: tuple[str, ...] = ("ok", "absent", "no_face", "unreadable")
ANNOTATION_STATUSES: tuple[str, ...] = ("pending", "planned", "running", "done", "failed")
SPAN_STATUSES: tuple[str, ...] = ("pending", "running", "done", "failed")
RECORDED_AT_SOURCES: tuple[str, ...] = ("container", "object", "file")
WORKER_KINDS: tuple[str, ...] = ("worker", "scheduler")
HOOK_EVENTS: tuple[str, ...] = ("done", "failed", "alert")
DELIVERY_STATUSES: tuple[str, ...] = ("pending", "delivered", "dead")
MEASURES: tuple[str, ...] = (*EMOTIONS, "valence", "arousal")  # of which alert rules tell
RETENTION_CLOCKS: tuple[str, ...] = ("recorded", "annotated")
