"""What may happen to a fleet, and how it is put right again."""

import heapq
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count, cycle, islice
from typing import Any, ClassVar

import redis

from tests.chaos.sources import Bucket
from tests.faulty_store import EXPIRED, SLOW_DOWN
from tests.running_fleet import DECODER, WORKER, Fleet, Service
from tests.servers import Message

SLOW_BYTES_PER_SECOND = 100_000.0

Mend = Callable[[], object]


class NotNow(Exception):  # noqa: N818 - it says all
    """Raised when there is nothing to strike at the moment."""


class Chaos:
    """Strikes a running fleet. Nothing is struck again before it has been put right.

    Args:
        fleet: with its servers.
        workers, scheduler: that run with it.
        seed: of all that is drawn.
        lease_seconds: of the workers.

    Attributes:
        kinds: of what can happen.
        struck: how often what has happened.
    """

    kinds: ClassVar[Mapping[str, Callable[[Any], None]]]

    def __init__(
        self, fleet: Fleet, workers: Sequence[Service], scheduler: Service, seed: int, lease_seconds: float
    ) -> None:
        self._fleet, self._workers, self._scheduler, self._lease_seconds = fleet, workers, scheduler, lease_seconds
        self._random = random.Random(seed)
        self._order = count()
        self._to_mend: list[tuple[float, int, object, Mend]] = []
        self.struck: Counter[str] = Counter()

    def strike(self, kind: str) -> bool:
        """Let one of `kinds` happen; whether there was anything to strike."""
        try:
            self.kinds[kind](self)
        except (NotNow, ProcessLookupError, redis.RedisError):
            return False
        self.struck[kind] += 1
        return True

    def mend(self) -> None:
        """Put right whatever has been wrong for long enough."""
        while self._to_mend and self._to_mend[0][0] <= time.monotonic():
            _, _, what, mend = heapq.heappop(self._to_mend)
            try:
                mend()
            except redis.RedisError:  # a delayed message, while Redis is away
                self._mend_later(what, mend, 0.5)

    def mend_all(self) -> None:
        """Put everything right, and wait until it is."""
        while self._to_mend:
            self.mend()
            time.sleep(0.05)

    def _mend_later(self, what: object, mend: Mend, seconds: float) -> None:
        heapq.heappush(self._to_mend, (time.monotonic() + seconds, next(self._order), what, mend))

    def _require_whole(self, what: object) -> None:
        if any(broken is what for _, _, broken, _ in self._to_mend):
            raise NotNow

    def _between(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def _one(self, pids: Sequence[int]) -> int:
        if not pids:
            raise NotNow
        return self._random.choice(sorted(pids))

    def _worker(self) -> Service:
        worker = self._random.choice(self._workers)
        self._require_whole(worker)
        return worker

    def kill_worker(self) -> None:
        """The process with the models dies; its supervisor sees to the rest."""
        os.kill(self._one(self._worker().children(WORKER)), signal.SIGKILL)

    def kill_supervisor(self) -> None:
        """The supervisor dies, and the process with the models finds itself alone; a new one is started."""
        worker = self._worker()
        worker.kill()
        self._mend_later(worker, worker.start, self._between(0.2, 3.0))

    def lose_machine(self) -> None:
        """All of a worker dies at once."""
        worker = self._worker()
        below = [*worker.children(WORKER), *worker.children(DECODER)]
        worker.kill()
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._mend_later(worker, worker.start, self._between(0.2, 3.0))

    def kill_decoder(self) -> None:
        """A decoding child dies."""
        os.kill(self._one(self._worker().children(DECODER)), signal.SIGKILL)

    def stop_worker(self) -> None:
        """The process with the models stands still for longer than its leases last, and goes on."""
        worker = self._worker()
        pid = self._one(worker.children(WORKER))
        os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        self._mend_later(worker, go_on, self._lease_seconds + self._between(1.0, self._lease_seconds))

    def kill_scheduler(self) -> None:
        """The scheduler dies; a new one is started."""
        self._require_whole(self._scheduler)
        self._scheduler.kill()
        self._mend_later(self._scheduler, self._scheduler.start, self._between(0.2, 3.0))

    def kill_redis(self) -> None:
        """Redis dies, and comes back with what its file holds."""
        server = self._redis()
        server.kill()
        self._mend_later(server, server.start, self._between(0.0, 3.0))

    def flush_redis(self) -> None:
        """Redis forgets everything."""
        self._redis().flush()

    def fill_redis(self) -> None:
        """Redis is out of memory and refuses to write."""
        server = self._redis()
        server.refuse_writes(True)
        self._mend_later(server, lambda: server.refuse_writes(False), self._between(1.0, 4.0))

    def pause_redis(self) -> None:
        """Redis keeps its connections and answers nothing."""
        server = self._redis()
        server.pause()
        self._mend_later(server, server.resume, self._between(1.0, 6.0))

    def restart_postgres(self) -> None:
        """PostgreSQL breaks off and starts again."""
        self._fleet.postgres.restart(self._between(0.0, 1.0))

    def lose_message(self) -> None:
        """A message is taken, and whoever took it is gone."""
        self._message()

    def delay_message(self) -> None:
        """A message comes seconds late, when it was sent again already, or its job done."""
        message = self._message()
        self._mend_later(message, lambda: self._fleet.redis.put(message), self._between(2.0, 12.0))

    def double_message(self) -> None:
        """A message comes twice, once at once and once later."""
        message = self._message()
        self._fleet.redis.put(message)
        again = message.copy()
        self._mend_later(again, lambda: self._fleet.redis.put(again), self._between(0.0, 6.0))

    def _redis(self):
        self._require_whole(self._fleet.redis)
        return self._fleet.redis

    def _message(self) -> Message:
        message = self._redis().take(timeout_seconds=1.5)
        if message is None:
            raise NotNow
        return message


Chaos.kinds = {
    "worker killed": Chaos.kill_worker,
    "supervisor killed": Chaos.kill_supervisor,
    "machine lost": Chaos.lose_machine,
    "decoder killed": Chaos.kill_decoder,
    "worker stopped past its lease": Chaos.stop_worker,
    "scheduler killed": Chaos.kill_scheduler,
    "Redis killed": Chaos.kill_redis,
    "Redis flushed": Chaos.flush_redis,
    "Redis out of memory": Chaos.fill_redis,
    "Redis silent": Chaos.pause_redis,
    "PostgreSQL restarted": Chaos.restart_postgres,
    "message lost": Chaos.lose_message,
    "message delayed": Chaos.delay_message,
    "message doubled": Chaos.double_message,
}


class BucketChaos(Chaos):
    """Strikes a fleet that annotates a bucket, and what leads from the bucket to the fleet.

    Args:
        fleet, workers, scheduler, seed, lease_seconds: as for `Chaos`.
        bucket: which the fleet watches.
    """

    def __init__(
        self,
        fleet: Fleet,
        workers: Sequence[Service],
        scheduler: Service,
        seed: int,
        lease_seconds: float,
        bucket: Bucket,
    ) -> None:
        super().__init__(fleet, workers, scheduler, seed, lease_seconds)
        self._bucket, self._proxy = bucket, bucket.proxy

    def refuse(self) -> None:
        """The store asks for fewer requests, and serves none."""
        self._refuse(SLOW_DOWN)

    def expire(self) -> None:
        """The store does not accept the credentials any more."""
        self._refuse(EXPIRED)

    def break_off(self) -> None:
        """Bodies break off halfway."""
        self._proxy.n_broken = self._random.randint(3, 10)

    def slow_down(self) -> None:
        """Bodies come slowly."""
        if self._proxy.bytes_per_second is not None:
            raise NotNow
        self._proxy.bytes_per_second = SLOW_BYTES_PER_SECOND
        self._mend_later(self._bucket, lambda: setattr(self._proxy, "bytes_per_second", None), self._between(2.0, 8.0))

    def replace_object(self) -> None:
        """An object is replaced, while it is annotated if there is one."""
        there = self._bucket.replaceable()
        running = "SELECT uri FROM videos v JOIN annotations a ON a.video_id = v.id WHERE a.status = 'running'"
        at_work = {uri for (uri,) in self._fleet.rows(running)}
        chosen = [uri for uri in there if uri in at_work]
        if not chosen and not self._bucket.is_filling and not self._fleet.unfinished():
            chosen = there
        if not chosen:
            raise NotNow
        self._bucket.replace(self._random.choice(chosen))

    def lose_event(self) -> None:
        """An event does not come; a listing finds what it was about."""
        self._bucket.take_event()

    def delay_event(self) -> None:
        """An event comes after later ones."""
        body = self._bucket.take_event()
        self._mend_later(body, lambda: self._bucket.send_event(body), self._between(2.0, 12.0))

    def double_event(self) -> None:
        """An event comes twice, once at once and once later."""
        body = self._bucket.take_event()
        self._bucket.send_event(body)
        self._mend_later(body, lambda: self._bucket.send_event(body), self._between(0.0, 6.0))

    def _refuse(self, answer: tuple[int, str, str]) -> None:
        self._require_whole(self._proxy)
        self._proxy.refuses = answer
        self._mend_later(self._proxy, lambda: setattr(self._proxy, "refuses", None), self._between(1.0, 5.0))


BucketChaos.kinds = {
    **Chaos.kinds,
    "store refused": BucketChaos.refuse,
    "credentials expired": BucketChaos.expire,
    "bodies broken off": BucketChaos.break_off,
    "bodies slow": BucketChaos.slow_down,
    "object replaced": BucketChaos.replace_object,
    "event lost": BucketChaos.lose_event,
    "event delayed": BucketChaos.delay_event,
    "event doubled": BucketChaos.double_event,
}


def schedule(faults: int, seed: int, kinds: Iterable[str]) -> list[tuple[float, str]]:
    """When what is to happen: shares of the work that is done by then, ascending, each kind as often as the others."""
    drawn = random.Random(seed)
    chosen = list(islice(cycle(kinds), faults))
    drawn.shuffle(chosen)
    return list(zip(sorted(drawn.uniform(0.02, 0.9) for _ in chosen), chosen, strict=True))
