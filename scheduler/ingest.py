"""What buckets tell of their objects through a queue (SQS), at least once, in no order, and perhaps late.

A message only says which objects to look at. What it says happened to them is not believed: whoever acts on it asks the
store what is there now. So messages that come twice, too late or out of order need no sorting by their sequencers,
which order the events of one key only, and which neither the listing nor another queue has.
"""

import json
import logging
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol
from urllib.parse import unquote_plus

from db.errors import DatabaseNewer, EquipmentError, MoodreelError
from db.identity import ObjectName, printable
from scheduler.metrics import Metrics
from scheduler.objects import can_be_video

WAIT_SECONDS = 5  # for messages, of which the queue keeps none back that long; a stop must not take longer
MESSAGES_AT_ONCE = 10  # which is as many as SQS gives
MAX_BACKOFF_SECONDS = 60.0
_REMEMBERED = 1000  # messages that were complained of

_log = logging.getLogger(__name__)


def names_in(body: str) -> set[ObjectName]:
    """The objects that a message is about, whatever happened to them.

    A message is what S3 sends by itself (or a store that speaks as it does), through SNS, or through EventBridge; of
    several objects, or of none, as the one that S3 sends to see whether it may.

    Raises:
        ValueError: it is none of these.
    """
    try:
        return {name for name in _names(json.loads(body)) if can_be_video(name)}
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _names(said: Any) -> Iterator[ObjectName]:
    match said:
        case {"Type": "Notification", "Message": str(message)}:  # SNS
            yield from _names(json.loads(message))
        case {"Event": "s3:TestEvent"}:
            return
        case {"Records": [*records]}:
            for record in records:
                match record:
                    case {"s3": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}}}:
                        yield ObjectName(bucket, unquote_plus(key))
                    case _:
                        raise ValueError("a record that names no object")
        case {"source": "aws.s3", "detail": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}}}:
            yield ObjectName(bucket, key)  # EventBridge gives keys as they are
        case _:
            raise ValueError("not a notification of a bucket")


@dataclass(frozen=True)
class Message:
    """A message, for as long as the queue hides it from others.

    Attributes:
        receipt: what it is deleted by.
    """

    id: str
    receipt: str
    body: str


class EventQueue:
    """The queue that notifications come through.

    Args:
        url: of the queue.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def receive(self) -> list[Message]:
        """Messages, as soon as there are any; none if there were none for some seconds.

        Raises:
            MoodreelError: the queue is not there, or refuses, or is out of reach.
        """
        answer = self._ask("receive_message", MaxNumberOfMessages=MESSAGES_AT_ONCE, WaitTimeSeconds=WAIT_SECONDS)
        return [Message(said["MessageId"], said["ReceiptHandle"], said["Body"]) for said in answer.get("Messages", ())]

    def delete(self, messages: Sequence[Message]) -> None:
        """Let nobody get these again. One that the queue does not delete comes again, which does no harm.

        Raises:
            MoodreelError: as for `receive`.
        """
        entries = [{"Id": str(n), "ReceiptHandle": message.receipt} for n, message in enumerate(messages)]
        if entries:
            self._ask("delete_message_batch", Entries=entries)

    def _ask(self, what: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        from worker.objects import as_failure, client

        try:
            return getattr(client("sqs"), what)(QueueUrl=self.url, **arguments)
        except (BotoCoreError, ClientError) as error:
            raise as_failure(error, self.url) from error


class Buckets(Protocol):
    """Who acts on messages; see `scheduler.buckets.BucketWatcher`."""

    def is_watched(self, name: ObjectName) -> bool: ...
    def settle(self, names: Collection[ObjectName]) -> dict[ObjectName, MoodreelError]: ...


class Ingest:
    """Takes messages from the queue and lets the rows follow the objects that they name.

    A message is deleted when the rows of all its objects are stored, and not before. One that cannot be understood, or
    whose object may not be looked at, is left to the queue, whose redrive policy moves it aside after some tries.

    Args:
        queue: where messages come from.
        buckets: who stores the rows.
        metrics: what counts them.
    """

    def __init__(self, queue: EventQueue, buckets: Buckets, metrics: Metrics | None = None) -> None:
        self._queue, self._buckets, self._metrics = queue, buckets, metrics or Metrics()
        self._told: OrderedDict[str, None] = OrderedDict()

    def run(self, stop: Event) -> None:
        """Take messages until told to stop, whatever the queue, the store and the database do.

        Raises:
            DatabaseNewer: the database has tables that this moodreel does not know.
        """
        pause = 0.0
        while not stop.is_set():
            try:
                self.take()
                pause = 0.0
            except DatabaseNewer:
                raise
            except MoodreelError as error:
                pause = min(MAX_BACKOFF_SECONDS, max(1.0, 2 * pause))
                _log.warning("%s; tried again in %g s", error, pause, extra={"code": error.code})
            stop.wait(pause)

    def take(self) -> int:
        """Take what is there, act on it, and delete it; how many messages were deleted.

        Raises:
            EquipmentError: the queue or the store is out of reach; the messages come again.
            MoodreelError: the queue or the database refuses; the same.
        """
        messages, done = self._queue.receive(), list[Message]()
        try:
            named = {message: names for message in messages if (names := self._understood(message)) is not None}
            refused = self._buckets.settle(set().union(*named.values()))
            done = [message for message, names in named.items() if not names & refused.keys()]
            self._queue.delete(done)
        finally:
            self._metrics.took("done", len(done))
            self._metrics.took("left", len(messages) - len(done))
        for error in refused.values():
            if isinstance(error, EquipmentError):
                raise error
        for message, names in named.items():
            for name in names & refused.keys():
                self._tell_once(message.id, str(refused[name]))
        return len(done)

    def _understood(self, message: Message) -> set[ObjectName] | None:
        """The watched objects that a message is about; None: it cannot be understood."""
        try:
            names = names_in(message.body)
        except ValueError as error:
            self._tell_once(message.id, f"{error}: {printable(message.body[:200])}")
            return None
        for name in names:
            if not self._buckets.is_watched(name):
                self._tell_once(name.bucket, f"{printable(name.uri)} is not watched; it and its like are dropped")
        return {name for name in names if self._buckets.is_watched(name)}

    def _tell_once(self, what: str, sentence: str) -> None:
        if what not in self._told:
            _log.warning("a message of %s: %s", self._queue.url, sentence, extra={"id": what})
            self._told[what] = None
            if len(self._told) > _REMEMBERED:
                self._told.popitem(last=False)
