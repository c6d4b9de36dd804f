"""Where the videos of a chaos run lie, and how the fleet comes to know of them: a folder, or a bucket that fills."""

import random
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tests import archive
from tests.faulty_store import FaultyStore
from tests.running_fleet import Fleet, wait_until
from tests.servers import ObjectStore

BUCKET = "archive"
AHEAD = 8  # videos that have arrived and are not annotated, for as long as there are more to come
LISTED_EVERY_SECONDS = 15.0  # for events that are lost
HIDDEN_SECONDS = 10  # for which the queue keeps from others what a scheduler took that may have been killed
SETTLED_SECONDS = 120.0
PRIORITIES = (0, 5, -1)  # of folders, in turn; the files beside them go first, since retries take their time


class Source(Protocol):
    """Where the videos lie."""

    def give(self, fleet: Fleet, pipeline: str) -> tuple[object, ...]:
        """Let the fleet have them; what `moodreel watch` is to be given."""
        ...

    def step(self, fleet: Fleet) -> None:
        """Let happen what happens by itself; called again and again."""
        ...

    def is_over(self, fleet: Fleet) -> bool:
        """Whether all videos have been annotated, or have failed."""
        ...

    def settle(self, fleet: Fleet) -> None:
        """Wait for whatever the fleet might still do about them.

        Raises:
            TimeoutError: it does not come to rest.
        """
        ...


class Folder:
    """A folder that is submitted.

    Args:
        videos: the folder.
    """

    def __init__(self, videos: Path) -> None:
        self._videos = videos

    def give(self, fleet: Fleet, pipeline: str) -> tuple[object, ...]:
        for number, some in enumerate(sorted(self._videos.iterdir())):
            priority = 9 if some.is_file() else PRIORITIES[number % len(PRIORITIES)]
            fleet.run("submit", some, "--pipeline", pipeline, "--priority", priority)
        return ()

    def step(self, fleet: Fleet) -> None:
        pass

    def is_over(self, fleet: Fleet) -> bool:
        return not fleet.unfinished()

    def settle(self, fleet: Fleet) -> None:
        pass


class Bucket:
    """A bucket in which the files of a folder arrive one after another, some of them in an earlier version at first.

    What the bucket tells of its objects lies in a queue of its own until it is forwarded to the queue that the fleet
    listens to, out of order.

    Args:
        server: that holds the bucket.
        proxy: through which the fleet reads it.
        videos: the folder.
        earlier: other contents of some of the files, by their names.
        seed: of the order.
    """

    def __init__(
        self, server: ObjectStore, proxy: FaultyStore, videos: Path, earlier: Mapping[str, Path], seed: int
    ) -> None:
        self.proxy = proxy
        self._s3, self._sqs = server.client("s3"), server.client("sqs")
        self._files = {path.relative_to(videos).as_posix(): path for path in sorted(videos.rglob("*.m*"))}
        self._earlier, self._random = dict(earlier), random.Random(seed)
        self._coming = deque(sorted(self._files, key=lambda key: ("/" in key, key)))
        self._versions: dict[str, str] = {}  # of what has arrived, by URI
        self._told = server.bucket_with_events(BUCKET)
        hidden = {"VisibilityTimeout": str(HIDDEN_SECONDS)}
        self._heard = str(self._sqs.create_queue(QueueName="heard", Attributes=hidden)["QueueUrl"])

    def give(self, fleet: Fleet, pipeline: str) -> tuple[object, ...]:
        return f"s3://{BUCKET}/", "--events", self._heard, "--reconcile-every", LISTED_EVERY_SECONDS

    def step(self, fleet: Fleet) -> None:
        ended = "SELECT COUNT(DISTINCT video_id) FROM annotations WHERE status IN ('done', 'failed')"
        if self._coming and len(self._versions) - fleet.rows(ended)[0][0] < AHEAD:
            key = self._coming.popleft()
            self._put(key, self._earlier.get(key, self._files[key]))
        self.forward()

    def is_over(self, fleet: Fleet) -> bool:
        if self._coming or self._earlier or fleet.unfinished():  # objects to come, or to be replaced
            return False
        return dict(fleet.rows("SELECT uri, version FROM videos")) == self._versions

    def settle(self, fleet: Fleet) -> None:
        wait_until(lambda: self._is_quiet() and self.is_over(fleet), SETTLED_SECONDS)

    def replaceable(self) -> list[str]:
        """URIs of the objects that are there in an earlier version."""
        return [uri for key in self._earlier if (uri := _uri(key)) in self._versions]

    @property
    def is_filling(self) -> bool:
        """Whether there are objects to come."""
        return bool(self._coming)

    def replace(self, uri: str) -> None:
        """Put an object in its last version in place of the earlier one."""
        key = uri.removeprefix(_uri(""))
        del self._earlier[key]
        self._put(key, self._files[key])

    def take_event(self) -> str:
        """What the bucket told last and was not forwarded; it is made to tell of an object that it has, if need be."""
        while not (messages := self._take(1)):
            key = self._random.choice(sorted(self._versions)).removeprefix(_uri(""))
            self._put(key, self._earlier.get(key, self._files[key]))
        return messages[0]

    def send_event(self, body: str) -> None:
        """Let the fleet know."""
        self._sqs.send_message(QueueUrl=self._heard, MessageBody=body)

    def forward(self) -> None:
        """Let the fleet know of what the bucket has told by now, in any order."""
        messages = self._take(10)
        self._random.shuffle(messages)
        for body in messages:
            self.send_event(body)

    def _take(self, count: int) -> list[str]:
        answer = self._sqs.receive_message(QueueUrl=self._told, MaxNumberOfMessages=count, WaitTimeSeconds=0)
        messages = answer.get("Messages", [])
        for message in messages:
            self._sqs.delete_message(QueueUrl=self._told, ReceiptHandle=message["ReceiptHandle"])
        return [message["Body"] for message in messages]

    def _is_quiet(self) -> bool:
        self.forward()
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        said = self._sqs.get_queue_attributes(QueueUrl=self._heard, AttributeNames=names)["Attributes"]
        return not any(int(said[name]) for name in names)

    def _put(self, key: str, file: Path) -> None:
        answer: Any = self._s3.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())
        self._versions[_uri(key)] = answer["ETag"].strip('"')


def earlier_versions(
    folder: Path, videos: Path, paths: list[Path], count: int, seconds: tuple[float, float], seed: int
) -> dict[str, Path]:
    """Other videos under the names of some of an archive's; by their names in it.

    Args:
        folder: for them.
        videos, paths: the archive and what lies in it.
        count: of how many; fewer where there are not so many.
        seconds, seed: as for `archive.make`.
    """
    chosen = random.Random(seed).sample(paths, min(count, len(paths)))
    made = {}
    for path in chosen:
        key = path.relative_to(videos).as_posix()
        made[key] = folder / key
        made[key].parent.mkdir(parents=True, exist_ok=True)
        archive.write(made[key], archive.draw(np.random.default_rng([seed, paths.index(path), 1]), seconds))
    return made


def _uri(key: str) -> str:
    return f"s3://{BUCKET}/{key}"
