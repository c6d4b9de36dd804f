"""Questions that people really ask, by name: SQL that both databases understand, with values that can be given.

`[[x]]` stands for x rounded down to a whole number, which the two write differently.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from db.errors import QuestionUnknown
from db.words import EMOTIONS

Value = str | float | int


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        name: by which it is asked.
        title: what it asks, in a sentence.
        sql: one SELECT, with `:name` for values.
        values: those that it takes, with what stands for them if they are not given; None: it must be.
    """

    name: str
    title: str
    sql: str
    values: Mapping[str, Value | None] = field(default_factory=dict)

    def text(self, dialect: str) -> str:
        """Its SQL for `sqlite` or `postgresql`."""
        floor = r"CAST(\1 AS INTEGER)" if dialect == "sqlite" else r"CAST(FLOOR(\1) AS INTEGER)"
        return re.sub(r"\[\[(.+?)\]\]", floor, self.sql).strip()

    def given(self, values: Mapping[str, str]) -> dict[str, Value]:
        """All values it takes, numbers as such.

        Raises:
            QuestionUnknown: one is missing, is no number where one is wanted, or is not the question's.
        """
        if strange := values.keys() - self.values.keys():
            known = ", ".join(self.values) or "none"
            raise QuestionUnknown(f"The question {self.name} takes no value {sorted(strange)[0]}; it takes: {known}.")
        found: dict[str, Value] = {}
        for name, default in self.values.items():
            said = values.get(name, default)
            if said is None:
                raise QuestionUnknown(f"The question {self.name} wants a value: --value {name}=...")
            try:
                found[name] = type(default)(said) if isinstance(default, int | float) else said
            except ValueError:
                raise QuestionUnknown(f"The value {name} of the question {self.name} is a number.") from None
        return found


# The windows of current annotations, with what was fused of them.
_WINDOWS = """
    videos v
    JOIN annotations a ON a.id = v.current_annotation_id
    JOIN windows w ON w.annotation_id = COALESCE(a.source_annotation_id, a.id)"""
_FUSED = f"""{_WINDOWS}
    JOIN fused_windows f ON f.annotation_id = a.id AND f.window_index = w.window_index"""
_AGREEMENT = " + ".join(f"COALESCE(w.audio_{name} * w.video_{name}, 0)" for name in EMOTIONS)
_SECONDS = "(t.end_seconds - t.start_seconds)"
_DISTANCE = " + ".join(
    f"(other.{name}_share - this.{name}_share) * (other.{name}_share - this.{name}_share)" for name in EMOTIONS
)

_ALL = (
    Question("angriest_minutes", "The angriest minutes of the archive: where anger is most probable on average.", f"""
        SELECT v.uri AS video, [[w.start_seconds / 60]] AS minute, AVG(f.fused_angry) AS angry, COUNT(*) AS windows
        FROM {_FUSED}
        WHERE f.fused_angry IS NOT NULL
        GROUP BY v.uri, [[w.start_seconds / 60]]
        ORDER BY angry DESC, video, minute LIMIT 10"""),
    Question("disagreements", "Where voice and face disagree: the windows that are least likely to mean the same.", f"""
        SELECT v.uri AS video, w.start_seconds, w.end_seconds, {_AGREEMENT} AS agreement
        FROM {_WINDOWS}
        WHERE w.audio_state = 'ok' AND w.video_state = 'ok'
        ORDER BY agreement, video, w.start_seconds LIMIT 50"""),
    Question("emotions_by_month", "Each emotion's share of the time, by the month of recording.", f"""
        SELECT month, emotion, seconds, seconds / SUM(seconds) OVER (PARTITION BY month) AS share
        FROM (
            SELECT SUBSTR(CAST(v.recorded_at AS TEXT), 1, 7) AS month, t.emotion, SUM({_SECONDS}) AS seconds
            FROM videos v JOIN segments t ON t.annotation_id = v.current_annotation_id
            WHERE t.emotion IS NOT NULL AND v.recorded_at IS NOT NULL
            GROUP BY SUBSTR(CAST(v.recorded_at AS TEXT), 1, 7), t.emotion
        ) totals
        ORDER BY month, seconds DESC, emotion"""),
    Question("first_smile", "When somebody is happy for the first time, in each video.", """
        SELECT video, MIN(start_seconds) AS first_seconds FROM timeline
        WHERE emotion = :emotion GROUP BY video ORDER BY first_seconds, video""", {"emotion": "happy"}),
    Question("around", "The emotions in the minute before and after a time in a video, with their seconds.", """
        SELECT side, emotion, SUM(overlap) AS seconds
        FROM (
            SELECT 'before' AS side, emotion,
                   CASE WHEN end_seconds < :at THEN end_seconds ELSE :at END
                   - CASE WHEN start_seconds > :at - :seconds THEN start_seconds ELSE :at - :seconds END AS overlap
            FROM timeline WHERE video = :video
            UNION ALL
            SELECT 'after', emotion,
                   CASE WHEN end_seconds < :at + :seconds THEN end_seconds ELSE :at + :seconds END
                   - CASE WHEN start_seconds > :at THEN start_seconds ELSE :at END
            FROM timeline WHERE video = :video
        ) sides
        WHERE overlap > 0 GROUP BY side, emotion ORDER BY side DESC, seconds DESC, emotion""",
        {"video": None, "at": 60.0, "seconds": 60.0}),
    Question("most_volatile", "The most volatile videos: changes of emotion in a minute.", """
        SELECT video, changes, changes * 60.0 / seconds AS changes_a_minute
        FROM (
            SELECT video, COUNT(*) - 1 AS changes, SUM(end_seconds - start_seconds) AS seconds
            FROM timeline WHERE emotion IS NOT NULL GROUP BY video
        ) counted
        WHERE seconds >= :at_least_seconds ORDER BY changes_a_minute DESC, video LIMIT 50""",
        {"at_least_seconds": 60.0}),
    Question("to_review", "Stretches for somebody to look at: an emotion is named, but with little confidence.", """
        SELECT video, start_seconds, end_seconds, emotion, confidence FROM timeline
        WHERE confidence < :below ORDER BY confidence, video, start_seconds LIMIT 100""", {"below": 0.4}),
    Question("changed_by_model", "What a new pipeline changed: from which emotion to which, in seconds.", """
        SELECT before_emotion, after_emotion, SUM(seconds) AS seconds, COUNT(DISTINCT video) AS videos
        FROM annotation_changes WHERE is_changed
        GROUP BY before_emotion, after_emotion ORDER BY seconds DESC, before_emotion, after_emotion"""),
    Question("coverage", "How much of each video shows an emotion at all, the least first.", """
        SELECT video, duration_seconds, 1 - none_share AS covered FROM video_summary
        WHERE none_share IS NOT NULL ORDER BY covered, video LIMIT 100"""),
    Question("longest", "The longest stretches of one emotion.", """
        SELECT video, start_seconds, end_seconds, end_seconds - start_seconds AS seconds, confidence FROM timeline
        WHERE emotion = :emotion ORDER BY seconds DESC, video, start_seconds LIMIT 20""", {"emotion": "sad"}),
    Question("happiest_moments", "The windows in which somebody is happiest, to cut clips from.", f"""
        SELECT v.uri AS video, w.start_seconds, w.end_seconds, f.fused_happy AS happy
        FROM {_FUSED}
        WHERE f.fused_happy IS NOT NULL ORDER BY happy DESC, video, w.start_seconds LIMIT 20"""),
    Question("most_of", "The videos that show most of an emotion, by its share of the time.", f"""
        SELECT video, seconds, seconds / total AS share
        FROM (
            SELECT v.uri AS video, SUM(CASE WHEN t.emotion = :emotion THEN {_SECONDS} ELSE 0 END) AS seconds,
                   SUM({_SECONDS}) AS total
            FROM videos v JOIN segments t ON t.annotation_id = v.current_annotation_id GROUP BY v.uri
        ) totals
        WHERE seconds > 0 ORDER BY share DESC, video LIMIT 50""", {"emotion": "angry"}),
    Question("transitions", "Which emotion follows which, how often.", """
        SELECT emotion, next_emotion, COUNT(*) AS times
        FROM (
            SELECT emotion, LEAD(emotion) OVER (PARTITION BY video ORDER BY start_seconds) AS next_emotion
            FROM timeline WHERE emotion IS NOT NULL
        ) pairs
        WHERE next_emotion IS NOT NULL AND next_emotion <> emotion
        GROUP BY emotion, next_emotion ORDER BY times DESC, emotion, next_emotion"""),
    Question("by_folder", "Mood by folder or prefix: hours, mean valence and arousal.", f"""
        SELECT RTRIM(v.uri, REPLACE(v.uri, '/', '')) AS folder, COUNT(DISTINCT v.id) AS videos,
               SUM({_SECONDS}) / 3600 AS hours,
               SUM(t.valence * {_SECONDS}) / SUM(CASE WHEN t.valence IS NOT NULL THEN {_SECONDS} END) AS valence,
               SUM(t.arousal * {_SECONDS}) / SUM(CASE WHEN t.arousal IS NOT NULL THEN {_SECONDS} END) AS arousal
        FROM videos v JOIN segments t ON t.annotation_id = v.current_annotation_id
        GROUP BY RTRIM(v.uri, REPLACE(v.uri, '/', '')) ORDER BY valence DESC, folder"""),
    Question("voices_without_faces", "Videos in which people are heard and not seen, by the windows.", f"""
        SELECT v.uri AS video, COUNT(*) AS windows FROM {_WINDOWS}
        WHERE w.audio_state = 'ok' AND w.video_state = 'no_face'
        GROUP BY v.uri ORDER BY windows DESC, video LIMIT 50"""),
    Question("faces_without_voices", "Videos in which people are seen and not heard, by the windows.", f"""
        SELECT v.uri AS video, COUNT(*) AS windows FROM {_WINDOWS}
        WHERE w.video_state = 'ok' AND w.audio_state = 'no_speech'
        GROUP BY v.uri ORDER BY windows DESC, video LIMIT 50"""),
    Question("crowds", "Windows with several faces at once.", f"""
        SELECT v.uri AS video, w.start_seconds, w.end_seconds, w.face_count AS faces FROM {_WINDOWS}
        WHERE w.face_count >= :faces ORDER BY faces DESC, video, w.start_seconds LIMIT 50""", {"faces": 3}),
    Question("alerts", "The latest alerts, with how high the measure rose.", """
        SELECT video, rule, measure, start_seconds, end_seconds, peak, raised_at FROM alerts
        ORDER BY raised_at DESC, video, start_seconds LIMIT 50"""),
    Question("failures_by_code", "What failed and why, by code, with an example.", """
        SELECT code, severity, COUNT(*) AS videos, MIN(video) AS example FROM failures
        GROUP BY code, severity ORDER BY videos DESC, code"""),
    Question("throughput", "Videos and hours of them that were annotated, by day.", """
        SELECT SUBSTR(CAST(completed_at AS TEXT), 1, 10) AS day, COUNT(*) AS videos,
               SUM(duration_seconds) / 3600 AS hours
        FROM annotations WHERE status = 'done' AND source_annotation_id IS NULL
        GROUP BY SUBSTR(CAST(completed_at AS TEXT), 1, 10) ORDER BY day DESC LIMIT 60"""),
    Question("waiting", "Videos that are known and not annotated, the longest known first.", """
        SELECT video, first_seen_at, size_bytes FROM archive
        WHERE annotated_at IS NULL AND gone_at IS NULL ORDER BY first_seen_at, video LIMIT 100"""),
    Question("valence_by_month", "How pleasant it is by the month of recording: mean valence and arousal.", f"""
        SELECT SUBSTR(CAST(v.recorded_at AS TEXT), 1, 7) AS month, COUNT(DISTINCT v.id) AS videos,
               SUM(t.valence * {_SECONDS}) / SUM({_SECONDS}) AS valence,
               SUM(t.arousal * {_SECONDS}) / SUM({_SECONDS}) AS arousal
        FROM videos v JOIN segments t ON t.annotation_id = v.current_annotation_id
        WHERE t.valence IS NOT NULL AND v.recorded_at IS NOT NULL
        GROUP BY SUBSTR(CAST(v.recorded_at AS TEXT), 1, 7) ORDER BY month"""),
    Question("like_this", "The videos whose mixture of emotions is most like one video's.", f"""
        SELECT other.video, other.dominant_emotion, {_DISTANCE} AS distance
        FROM video_summary this JOIN video_summary other ON other.video <> this.video
        WHERE this.video = :video AND other.none_share IS NOT NULL
        ORDER BY distance, other.video LIMIT 20""", {"video": None}),
    Question("other_pipelines", "Videos whose current result is not by the pipeline that was registered last.", """
        SELECT archive.video, archive.annotated_at, pipelines.name AS pipeline
        FROM archive JOIN pipelines ON pipelines.digest = archive.pipeline
        WHERE pipelines.id <> (SELECT MAX(id) FROM pipelines)
        ORDER BY archive.annotated_at, archive.video LIMIT 100"""),
)  # fmt: skip
QUESTIONS: dict[str, Question] = {question.name: question for question in _ALL}
