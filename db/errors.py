"""Every error that moodreel raises on purpose, and the one list that says what each of them means.

Each class carries a code, and the code is what `failures` shows. Whether trying again can help is decided in
`FAILURES` below and nowhere else.

* MoodreelError
  · InputError
    + PathMissing
    + NoVideos
    + NotReadable
      - AccessDenied
    + EmptyFile
    + NotMedia
    + ImageNotVideo
    + NoStreams
    + Truncated
    + Undecodable
      - CodecRefused
    + LimitExceeded
      - PictureTooLarge
      - RecordingTooLong
      - TooManyStreams
      - MetadataTooLarge
    + CorruptStretch
    + ChangedWhileReading
    + ObjectArchived
  · DecoderError
    + DecoderCrashed
    + DecoderTimeout
    + OutOfMemory
  · EquipmentError
    + NotInstalled
    + WeightsMissing
    + DeviceUnavailable
    + PipelineMismatch
    + SourceUnreachable
      - BucketMissing
      - SourceSlowDown
      - CredentialsRejected
  · DatabaseError
    + DatabaseLocked
    + DatabaseNewer
    + DatabaseUnreachable
      - DatabaseFull
  · BadOption
  · Untrainable
  · PipelineUnknown
  · BrokerUnreachable
  · HookRefused
  · HookFailed
  · HookUnknown
  · RuleUnknown
  · QueryRefused
  · QueryFailed
  · QuestionUnknown
  · Cancelled
  · Expired
  · Forgotten
  · WorkerDied
  · Interrupted
  · LeaseLost
  · Internal

`MoodreelError`, `InputError`, `LimitExceeded`, `DecoderError` and `EquipmentError` are for catching; they are not
raised themselves.
"""

# ruff: noqa: N818 - "EmptyFile" and "LeaseLost" say all; the suffix would only make them longer

from dataclasses import dataclass
from typing import ClassVar

from db.redaction import redacted


@dataclass(frozen=True)
class FailureCode:
    """One line of the documented list of failures."""

    code: str
    permanent: bool  # True: the same input fails the same way again, so it is never retried unasked
    meaning: str  # a sentence for somebody who has never seen the code
    what_to_do: str


_PERMANENT, _TRANSIENT = True, False

# fmt: off
_LIST = (
    ("path_missing", _PERMANENT,
     "There is no file or folder at this path.",
     "Check the spelling, and that the disk or share is mounted."),
    ("no_videos", _PERMANENT,
     "There is no video in the folder or below it, going by the files' names.",
     "Name the files themselves, or a folder that holds some."),
    ("not_readable", _TRANSIENT,
     "The file is there but could not be read: no permission, or the disk or share failed.",
     "Check its permissions and the disk, then annotate it again."),
    ("access_denied", _TRANSIENT,
     "The store knows who is asking, and does not allow it.",
     "Allow s3:ListBucket on the bucket and s3:GetObject on its objects."),
    ("empty_file", _PERMANENT,
     "The file is zero bytes long.",
     "Copy it again from where it came from."),
    ("not_media", _PERMANENT,
     "The file is not audio or video, whatever its name says; playlists, scripts and text count as such.",
     "Name the recording itself."),
    ("image_not_video", _PERMANENT,
     "The file is a still image, which has no timeline.",
     "Leave it out, or name the video that it was taken from."),
    ("no_streams", _PERMANENT,
     "The container opens but holds neither a picture nor a sound with any length.",
     "Export the recording again."),
    ("truncated", _PERMANENT,
     "The file ends before its index or its first frame: an upload or a recording was cut off.",
     "Copy the whole file again, or repair it, then annotate it."),
    ("undecodable", _PERMANENT,
     "The container is sound but not one frame or sample of it could be decoded.",
     "Convert it to H.264 and AAC with a tool that can play it."),
    ("codec_refused", _PERMANENT,
     "Its sound and pictures are coded as hardly any recording is, and decoders that few test are not run on any file.",
     "Convert it to H.264 and AAC with a tool that can play it."),
    ("picture_too_large", _PERMANENT,
     "The pictures have more pixels than is allowed, by the file's own account.",
     "If it is a recording, allow more with `--max-pixels`, and more memory, then annotate it again."),
    ("recording_too_long", _PERMANENT,
     "The recording is longer than is allowed, by its header or by its timestamps, which may be wrong.",
     "If it really is so long, allow it with `--max-hours`; else repair its timestamps. Then annotate it again."),
    ("too_many_streams", _PERMANENT,
     "The file holds more streams than is allowed.",
     "If it is a recording, allow more with `--max-streams`, then annotate it again."),
    ("metadata_too_large", _PERMANENT,
     "The file's titles, comments and the like are larger than is allowed.",
     "If it is a recording, allow more with `--max-metadata`, or strip them, then annotate it again."),
    ("corrupt_stretch", _PERMANENT,
     "A part of the recording could not be decoded: its windows are unreadable, the rest is annotated.",
     "Nothing, or annotate a good copy."),
    ("changed_while_reading", _TRANSIENT,
     "The file was written to while it was being read.",
     "Annotate it again once the recording or the copy is complete."),
    ("object_archived", _PERMANENT,
     "The object lies in a storage class that must be restored before anything can read it, such as S3 Glacier's.",
     "Restore it, or move it to another storage class, then annotate it again."),
    ("decoder_crashed", _TRANSIENT,
     "The decoder died on this file; it runs in a process of its own, so nothing else was lost.",
     "Annotate it again; if it dies again, convert the file with another tool."),
    ("decoder_timeout", _TRANSIENT,
     "The decoder stopped making progress on this file and was ended.",
     "Annotate it again; if it hangs again, convert the file with another tool."),
    ("out_of_memory", _TRANSIENT,
     "Decoding or recognising this file needed more memory than there was or than is allowed.",
     "Close other programs or use a larger machine, then annotate it again."),
    ("not_installed", _TRANSIENT,
     "The command needs packages that only a worker has, and this environment has those of the scheduler alone.",
     "Install them: pip install 'moodreel[worker]'."),
    ("weights_missing", _TRANSIENT,
     "The weights of a model are missing, or are not what their checksum says.",
     "Install moodreel again, or fetch the model that was named."),
    ("device_unavailable", _TRANSIENT,
     "The device that was asked for is not there or cannot be used.",
     "Use `--device cpu`, or see what `moodreel doctor` says about the device."),
    ("source_unreachable", _TRANSIENT,
     "The place where the videos lie is not to be seen from the machine that was to annotate them.",
     "Mount the archive at the same path on every worker."),
    ("bucket_missing", _TRANSIENT,
     "There is no bucket of this name at the endpoint that was asked.",
     "Check the spelling, and AWS_ENDPOINT_URL if the store is not AWS's."),
    ("source_slow_down", _TRANSIENT,
     "The store where the videos lie asks for fewer requests, and went on doing so when they came more slowly.",
     "Read it with fewer jobs at once: see `moodreel limit`."),
    ("credentials_rejected", _TRANSIENT,
     "There are no credentials for the store where the videos lie, or it does not accept them: wrong or expired.",
     "Renew them where this machine takes them from: the environment, the shared files or its role."),
    ("database_locked", _TRANSIENT,
     "Another program held the database for longer than moodreel waits.",
     "Close the other program or wait for it, then run the command again."),
    ("database_newer", _PERMANENT,
     "The database was written by a newer moodreel, whose tables this one does not know.",
     "Update moodreel, or name another database with `--db`."),
    ("database_unreachable", _TRANSIENT,
     "The database cannot be worked with now: no such folder, no answer, no permission, a damaged file, a bad disk.",
     "Read the message, and check the path or URL given with `--db`, and the database's server."),
    ("database_full", _TRANSIENT,
     "The disk that the database is on is full.",
     "Free space there, then run the command again; workers of the fleet carry on by themselves."),
    ("database_error", _TRANSIENT,
     "The database refused what was to be stored: a row that breaks a rule, or a file that is no database.",
     "Read the message, which says what the database said."),
    ("bad_option", _PERMANENT,
     "An option has a value that it cannot have.",
     "See `moodreel --help`."),
    ("untrainable", _PERMANENT,
     "What was given to train on cannot be trained on: no clips, labels that mean no emotion, too few speakers.",
     "See docs/training.md for what a folder or a manifest must hold."),
    ("cancelled", _PERMANENT,
     "It was cancelled before it was done.",
     "Put it back into the queue with `moodreel retry --code cancelled`."),
    ("expired", _PERMANENT,
     "It was annotated, and its results were erased since, because a rule of retention says how long they are kept.",
     "Nothing; or change the rule (`moodreel retention list`), then `moodreel retry --code expired`."),
    ("forgotten", _PERMANENT,
     "Somebody had moodreel forget this video: its rows were erased, and nothing is taken in under its name.",
     "Nothing; or, if it may be annotated again after all, `moodreel remember` its name."),
    ("worker_died", _TRANSIENT,
     "Every worker that took this on died or fell silent, and nobody could say of what.",
     "Look into the workers' logs for its id, then `moodreel retry` it."),
    ("pipeline_mismatch", _TRANSIENT,
     "The weights or settings on this machine are not those that the pipeline was registered with.",
     "Install the same moodreel and the same checkpoints here, or register the pipeline anew."),
    ("pipeline_unknown", _PERMANENT,
     "No pipeline has this name.",
     "See `moodreel pipelines list`; `moodreel pipelines add NAME` registers one."),
    ("broker_unreachable", _TRANSIENT,
     "The message broker (Redis) does not answer, or refuses.",
     "Check `--broker` and the server; nothing is lost, since the queue is in the database."),
    ("hook_refused", _PERMANENT,
     "A hook's host has an address to which nothing is posted.",
     "See `moodreel hooks add --help` for what is allowed."),
    ("hook_failed", _TRANSIENT,
     "What was posted to a hook did not arrive, or was not taken.",
     "See what its receiver says; `moodreel hooks test` tries again."),
    ("hook_unknown", _PERMANENT,
     "There is no hook of this number.",
     "See `moodreel hooks list`."),
    ("rule_unknown", _PERMANENT,
     "There is no alert rule of this name.",
     "See `moodreel alerts list`."),
    ("query_refused", _PERMANENT,
     "A question would change something, is more than one statement, or asks for what the role may not read.",
     "Ask one SELECT; who changes rows on purpose uses the database's own tools."),
    ("query_failed", _PERMANENT,
     "The database did not understand a question, or did not answer it in time.",
     "Read the message; docs/sql.md has the tables and views. Allow more time with `--timeout`."),
    ("question_unknown", _PERMANENT,
     "No saved question has this name, or one of its values is missing or wrong.",
     "See `moodreel query --list`."),
    ("interrupted", _TRANSIENT,
     "The run was stopped before this video was done; what is done is kept.",
     "Run the same command again, and it carries on."),
    ("lease_lost", _TRANSIENT,
     "Another worker took over this stretch of the video, because this one had not been heard of for too long.",
     "Nothing: the other worker's result counts."),
    ("internal", _TRANSIENT,
     "moodreel itself went wrong.",
     "Report the message together with what `moodreel doctor` prints."),
)
# fmt: on
FAILURES: dict[str, FailureCode] = {line[0]: FailureCode(*line) for line in _LIST}


class MoodreelError(Exception):
    """Root of all errors that moodreel raises on purpose.

    Args:
        message: one sentence for a person, naming the file or the database. Passwords in it are left out.
        hint: what to do next, where that is more than the code's `what_to_do`.
    """

    code: ClassVar[str] = "internal"
    permanent: ClassVar[bool] = FAILURES["internal"].permanent

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(redacted(message))
        self.hint = redacted(hint)

    def __init_subclass__(cls) -> None:
        cls.permanent = FAILURES[cls.code].permanent


class InputError(MoodreelError):
    """What was given to annotate cannot be annotated."""


class PathMissing(InputError):
    """Raised when a path that was named does not exist."""

    code = "path_missing"


class NoVideos(InputError):
    """Raised when a folder or pattern holds nothing to annotate."""

    code = "no_videos"


class NotReadable(InputError):
    """Raised when a file cannot be opened or read."""

    code = "not_readable"


class AccessDenied(NotReadable):
    """Raised when a store does not allow what is asked of it."""

    code = "access_denied"


class EmptyFile(InputError):
    """Raised when a file has no bytes."""

    code = "empty_file"


class NotMedia(InputError):
    """Raised when a file is neither audio nor video, or only points at other files."""

    code = "not_media"


class ImageNotVideo(InputError):
    """Raised when a file is a still image."""

    code = "image_not_video"


class NoStreams(InputError):
    """Raised when a container holds no picture and no sound of any length."""

    code = "no_streams"


class Truncated(InputError):
    """Raised when a file breaks off before anything can be read."""

    code = "truncated"


class Undecodable(InputError):
    """Raised when not one frame or sample can be decoded."""

    code = "undecodable"


class CodecRefused(Undecodable):
    """Raised when all that a file holds is for decoders that are not run."""

    code = "codec_refused"


class LimitExceeded(InputError):
    """A file asks for more than a limit of `worker.limits` allows."""


class PictureTooLarge(LimitExceeded):
    """Raised when a file's pictures have too many pixels."""

    code = "picture_too_large"


class RecordingTooLong(LimitExceeded):
    """Raised when a recording is too long."""

    code = "recording_too_long"


class TooManyStreams(LimitExceeded):
    """Raised when a file holds too many streams."""

    code = "too_many_streams"


class MetadataTooLarge(LimitExceeded):
    """Raised when a file's metadata is too large."""

    code = "metadata_too_large"


class CorruptStretch(InputError):
    """Recorded as a warning when a part of a recording cannot be decoded."""

    code = "corrupt_stretch"


class ChangedWhileReading(InputError):
    """Raised when a file's size or time changed between its start and its end."""

    code = "changed_while_reading"


class ObjectArchived(InputError):
    """Raised when an object must be restored before it can be read."""

    code = "object_archived"


class DecoderError(MoodreelError):
    """The decoding process, not moodreel, went down."""


class DecoderCrashed(DecoderError):
    """Raised when the decoding process died."""

    code = "decoder_crashed"


class DecoderTimeout(DecoderError):
    """Raised when the decoding process made no progress for too long, or used too much CPU time for it."""

    code = "decoder_timeout"


class OutOfMemory(DecoderError):
    """Raised when decoding or recognising needs more memory than is allowed."""

    code = "out_of_memory"


class EquipmentError(MoodreelError):
    """Something that this machine needs for the work is missing."""


class NotInstalled(EquipmentError):
    """Raised when a command needs a package that only a worker's environment has."""

    code = "not_installed"


class WeightsMissing(EquipmentError):
    """Raised when a model's weights are missing or damaged."""

    code = "weights_missing"


class DeviceUnavailable(EquipmentError):
    """Raised when the device asked for cannot be used."""

    code = "device_unavailable"


class PipelineMismatch(EquipmentError):
    """Raised when a worker would compute another pipeline than the one that it was asked for."""

    code = "pipeline_mismatch"


class SourceUnreachable(EquipmentError):
    """Raised when a worker does not see the place where a video lies."""

    code = "source_unreachable"


class BucketMissing(SourceUnreachable):
    """Raised when there is no bucket of a name."""

    code = "bucket_missing"


class SourceSlowDown(SourceUnreachable):
    """Raised when a store goes on asking for fewer requests."""

    code = "source_slow_down"


class CredentialsRejected(SourceUnreachable):
    """Raised when there are no credentials for a store, or it does not accept them."""

    code = "credentials_rejected"


class DatabaseError(MoodreelError):
    """Raised when the database refuses what it is given: a row that breaks a rule, say; its subclasses say the rest."""

    code = "database_error"


class DatabaseLocked(DatabaseError):
    """Raised when somebody else held the database for longer than the timeout."""

    code = "database_locked"


class DatabaseNewer(DatabaseError):
    """Raised when the database has a schema that this moodreel does not know."""

    code = "database_newer"


class DatabaseUnreachable(DatabaseError):
    """Raised when the database cannot be worked with now, whatever is stored: no answer, no permission, a bad disk."""

    code = "database_unreachable"


class DatabaseFull(DatabaseUnreachable):
    """Raised when there is no space left for the database."""

    code = "database_full"


class BadOption(MoodreelError):
    """Raised when an option has a value that it cannot have."""

    code = "bad_option"


class Untrainable(MoodreelError):
    """Raised when a folder or a manifest does not hold what a model can be trained on."""

    code = "untrainable"


class PipelineUnknown(MoodreelError):
    """Raised when a pipeline is named that nobody has registered."""

    code = "pipeline_unknown"


class BrokerUnreachable(MoodreelError):
    """Raised when messages can be neither sent nor received."""

    code = "broker_unreachable"


class HookRefused(MoodreelError):
    """Raised when a hook's host has an address to which nothing may be posted."""

    code = "hook_refused"


class HookFailed(MoodreelError):
    """Raised when what was posted to a hook to try it did not arrive."""

    code = "hook_failed"


class HookUnknown(MoodreelError):
    """Raised when a hook is named that is not there."""

    code = "hook_unknown"


class RuleUnknown(MoodreelError):
    """Raised when an alert rule is named that is not there."""

    code = "rule_unknown"


class QueryRefused(MoodreelError):
    """Raised when a question is none, or would change something."""

    code = "query_refused"


class QueryFailed(MoodreelError):
    """Raised when a question is not understood, or not answered in time."""

    code = "query_failed"


class QuestionUnknown(MoodreelError):
    """Raised when there is no saved question of a name, or it lacks a value."""

    code = "question_unknown"


class Cancelled(MoodreelError):
    """Recorded when a video was cancelled."""

    code = "cancelled"


class Expired(MoodreelError):
    """Recorded when what was done was erased because of its age."""

    code = "expired"


class Forgotten(MoodreelError):
    """Raised when a video is not to be taken in, or its rows were erased while it was being worked on."""

    code = "forgotten"


class WorkerDied(MoodreelError):
    """Recorded when a job has cost as many workers as it may."""

    code = "worker_died"


class Interrupted(MoodreelError):
    """Raised when the user or the system asked for a stop."""

    code = "interrupted"


class LeaseLost(MoodreelError):
    """Raised when a span is written to under a lease that somebody else has taken over."""

    code = "lease_lost"


class Internal(MoodreelError):
    """Raised when moodreel's own rules are broken: a mistake in the program, not in the input."""

    code = "internal"
