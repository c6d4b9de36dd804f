"""The queue as the scheduler sees it: it sends hints to workers, and says how many of them nobody has taken yet."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from db.errors import BrokerUnreachable
from db.rows import FINISH, DueJob


class Queue:
    """Messages to workers, through Redis. A broker that does not answer is noticed within seconds.

    Args:
        broker_url: of a Redis server.

    Raises:
        BadOption: the URL names no Redis server.
    """

    def __init__(self, broker_url: str) -> None:
        from worker.broker import BACKFILL, FRESH, QUEUE, URGENT, USUAL, make_app

        self._app = make_app(broker_url)
        self._name = QUEUE
        self._urgent, self._by_sign = URGENT, {1: FRESH, 0: USUAL, -1: BACKFILL}
        self._where = _without_password(broker_url)

    def send(self, due: Sequence[DueJob]) -> None:
        """Send one message for each job, in this order.

        Raises:
            BrokerUnreachable: the broker does not answer or refuses; how many were sent is not known.
        """
        with self._errors():
            for item in due:
                self._app.send_task(
                    item.job.kind,
                    args=[item.job.id],
                    queue=self._name,
                    priority=self._priority(item),
                    ignore_result=True,
                    retry=False,
                )

    def depth(self) -> int:
        """How many messages wait in Redis.

        Raises:
            BrokerUnreachable: the broker does not answer or refuses.
        """
        with self._errors(), self._app.pool.acquire(block=True) as connection:
            declared = connection.default_channel.queue_declare(self._name)
            return int(declared.message_count)

    def close(self) -> None:
        self._app.close()

    def _priority(self, item: DueJob) -> int:
        """Which of Redis's lists a message goes to; the lowest is emptied first.

        What finishes a video goes first, since all its work is done. So does what was sent before and not taken: a job
        of low priority whose turn has come is overtaken in Redis, but not forever.
        """
        if item.job.kind == FINISH or item.resent:
            return self._urgent
        return self._by_sign[(item.priority > 0) - (item.priority < 0)]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OperationalError, OSError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise BrokerUnreachable(f"The broker {self._where} does not take messages: {reason}") from error


def _without_password(url: str) -> str:
    """A broker's URL as messages name it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
