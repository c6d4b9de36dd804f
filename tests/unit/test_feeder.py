"""The feeder against real databases and a queue in memory: what it sends, when it sends again, what it survives."""

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from db.errors import BrokerUnreachable, DatabaseLocked, DatabaseNewer
from db.identity import Source
from db.rows import PLAN, DueJob, Job, StepClaim, Worker
from db.store import Store
from scheduler.feeder import MIN_MESSAGES, Feeder
from scheduler.metrics import Metrics
from tests.database import planned
from tests.fleet import change

LOST = 0.3


class FakeQueue:
    """Messages in memory, and a broker that can refuse."""

    def __init__(self) -> None:
        self.messages: list[DueJob] = []
        self.takes: float = float("inf")  # how many more messages it will take
        self.down = False

    def send(self, due: Sequence[DueJob]) -> None:
        for item in due:
            if self.down or self.takes < 1:
                raise BrokerUnreachable("no")
            self.takes -= 1
            self.messages.append(item)

    def depth(self) -> int:
        if self.down:
            raise BrokerUnreachable("no")
        return len(self.messages)

    @property
    def ids(self) -> list[int]:
        return [item.job.annotation_id for item in self.messages]


@pytest.fixture
def queue() -> FakeQueue:
    return FakeQueue()


@pytest.fixture
def feeder(store: Store, queue: FakeQueue) -> Feeder:
    return Feeder(store, queue, lost_seconds=LOST)


def submit(store: Store, n: int, prefix: str = "/v", priority: int = 0) -> None:
    pipeline_id = store.register_pipeline("d", "w", "compact", {})
    sources = [Source(f"{prefix}/{number}.mp4", "1", 1000, 0.0) for number in range(n)]
    assert store.submit(pipeline_id, sources, priority).new == n


def work(store: Store, slots: int) -> None:
    """Let a worker show itself."""
    store.beat(Worker(name="w", kind="worker", host="h", pid=1, version="1", slots=slots))


def take(store: Store, queue: FakeQueue, n: int) -> list[StepClaim]:
    """Do with the next messages as a worker does: take and claim."""
    claims = [store.claim_step(queue.messages.pop(0).job, "w", 60.0, 5) for _ in range(n)]
    assert all(claims)
    return claims


def test_it_sends_what_is_due_in_its_order_and_once(store, queue, feeder):
    submit(store, 3)
    submit(store, 2, "/urgent", priority=5)
    assert feeder.tick() == 5
    assert [item.priority for item in queue.messages] == [5, 5, 0, 0, 0]
    assert {item.job.kind for item in queue.messages} == {PLAN}
    assert feeder.tick() == 5
    assert len(queue.messages) == 5


def test_redis_holds_no_more_than_the_workers_soon_need(store, queue, feeder):
    submit(store, 60)
    feeder.tick()
    assert len(queue.messages) == MIN_MESSAGES
    work(store, slots=20)
    feeder.tick()
    assert len(queue.messages) == 40
    take(store, queue, 7)
    feeder.tick()
    assert len(queue.messages) == 40
    assert store.outstanding() == 40


def test_messages_that_belong_to_nothing_take_room_too(store, queue, feeder):
    submit(store, 40)
    queue.messages = [DueJob(Job(PLAN, 10_000 + n), 0, False) for n in range(MIN_MESSAGES)]
    feeder.tick()
    assert len(queue.messages) == MIN_MESSAGES
    queue.messages.clear()
    feeder.tick()
    assert len(queue.messages) == MIN_MESSAGES


def test_lost_messages_are_sent_again_though_redis_was_full_but_not_at_once(store, queue, feeder):
    submit(store, 40)
    feeder.tick()
    before = queue.ids
    queue.messages.clear()
    feeder.tick()
    assert queue.messages == []
    time.sleep(LOST + 0.1)
    feeder.tick()
    assert queue.ids == before
    assert all(item.resent for item in queue.messages)
    time.sleep(LOST + 0.1)
    feeder.tick()
    assert queue.ids == before


def test_what_a_scheduler_marked_before_it_died_is_sent_by_the_next(store, queue, feeder):
    submit(store, 3)
    assert len(store.take_due(10, 300.0)) == 3
    feeder.tick()
    assert queue.messages == []
    time.sleep(LOST + 0.1)
    feeder.tick()
    assert queue.ids == [1, 2, 3]


def test_the_spans_of_a_video_that_failed_hold_no_place(store, queue, feeder):
    submit(store, 1)
    feeder.tick()
    (step,) = take(store, queue, 1)
    store.plan(step.annotation_id, planned(*range(30)), step)
    feeder.tick()
    assert len(queue.messages) == MIN_MESSAGES
    claim = store.claim_span(queue.messages.pop(0).job, "w", 60.0, 5)
    store.fail_job(claim, "not_media", "no", permanent=True, max_attempts=5, delay_seconds=0.0)
    while queue.messages:  # workers find nothing to do
        assert store.claim_span(queue.messages.pop(0).job, "w", 60.0, 5) is None
    submit(store, 20, "/others")
    for _ in range(3):
        feeder.tick()
        time.sleep(LOST)
    assert len(queue.messages) == MIN_MESSAGES


def test_one_lost_among_many_is_found(store, queue, feeder):
    submit(store, 40)
    feeder.tick()
    del queue.messages[-1]
    lost = set(range(1, MIN_MESSAGES + 1)) - set(queue.ids)
    done: set[int] = set()
    for _ in range(200):  # workers go on meanwhile, one job after another; a second message finds its job claimed
        while queue.messages:
            job = queue.messages.pop(0).job
            if store.claim_step(job, "w", 60.0, 5):
                done.add(job.annotation_id)
                break
        if lost <= done:
            break
        feeder.tick()
        time.sleep(0.02)
    assert lost <= done


def test_jobs_that_wait_long_for_a_slot_are_not_lost(store, queue, feeder):
    submit(store, 4)
    for _ in range(3):
        feeder.tick()
        time.sleep(LOST)
    assert len(queue.messages) == 4


def test_a_moment_between_taking_and_claiming_is_no_loss(store, queue, feeder):
    submit(store, 4)
    feeder.tick()
    for _ in range(8):  # longer than LOST in all, but each time the numbers meet in between
        taken = queue.messages.pop(0)
        feeder.tick()
        queue.messages.append(taken)
        feeder.tick()
        time.sleep(LOST / 4)
    assert len(queue.messages) == 4


def test_what_nobody_acted_on_for_long_is_sent_again_whatever_redis_holds(store, queue):
    feeder = Feeder(store, queue, resend_seconds=0.2)
    submit(store, 2)
    feeder.tick()
    time.sleep(0.3)
    feeder.tick()
    assert [item.resent for item in queue.messages] == [False, False, True, True]


def test_a_broker_that_is_down_leaves_nothing_marked(store, queue, feeder):
    submit(store, 5)
    queue.takes = 2
    with pytest.raises(BrokerUnreachable):
        feeder.tick()
    assert (len(queue.messages), store.outstanding()) == (2, 2)
    queue.down = True
    with pytest.raises(BrokerUnreachable):
        feeder.tick()
    assert store.outstanding() == 2
    queue.takes, queue.down = float("inf"), False
    feeder.tick()
    assert sorted(queue.ids) == [1, 2, 3, 4, 5]
    assert not any(item.resent for item in queue.messages)


def test_two_feeders_at_once_send_each_job_once(migrated_url, store, queue):
    submit(store, 200)
    work(store, slots=200)
    with Store(migrated_url) as other:
        feeders = [Feeder(each, queue, lost_seconds=60.0) for each in (store, other)]
        stop = threading.Event()
        threads = [threading.Thread(target=feeder.run, args=(stop,)) for feeder in feeders]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(queue.messages) >= 200)
        time.sleep(0.6)
        stop.set()
        for thread in threads:
            thread.join(10)
    assert sorted(queue.ids) == list(range(1, 201))


def test_a_due_finish_goes_before_all_else(store, queue, feeder):
    submit(store, 1, "/old", priority=-3)
    feeder.tick()
    (step,) = take(store, queue, 1)
    store.plan(step.annotation_id, planned(0), step)
    feeder.tick()
    claim = store.claim_span(queue.messages.pop(0).job, "w", 60.0, 5)
    submit(store, 3, "/new", priority=9)
    store.complete_span(claim, 1.0)
    feeder.tick()
    assert [item.job.kind for item in queue.messages] == ["finish", PLAN, PLAN, PLAN]


def test_metrics_count_what_was_sent(store, queue):
    metrics = Metrics()
    feeder = Feeder(store, queue, metrics, lost_seconds=LOST)
    submit(store, 3)
    feeder.tick()
    queue.messages.clear()
    feeder.tick()
    time.sleep(LOST + 0.1)
    feeder.tick()
    value = metrics.registry.get_sample_value
    assert value("moodreel_messages_sent_total", {"kind": "plan"}) == 6
    assert value("moodreel_messages_resent_total") == 3
    assert value("moodreel_broker_up") == 1
    work(store, slots=2)
    metrics.refresh(store)
    assert value("moodreel_workers") == 1
    assert value("moodreel_annotations", {"status": "pending"}) == 3
    assert value("moodreel_annotations", {"status": "done"}) == 0
    assert value("moodreel_queue_jobs", {"kind": "plan"}) == 3
    assert value("moodreel_queue_seconds") == 3  # however short they are
    change(store, "UPDATE videos SET duration_seconds = 20.5")
    metrics.refresh(store)
    assert value("moodreel_queue_seconds") == store.queued_seconds() == 3 * 20.5


# --- as a service ---------------------------------------------------------------------------------------------------


def wait_for(condition, seconds: float = 15.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def running(feeder: Feeder) -> Iterator[tuple[threading.Thread, threading.Event]]:
    stop = threading.Event()
    thread = threading.Thread(target=feeder.run, args=(stop,))
    yield thread, stop
    stop.set()
    thread.join(15)
    assert not thread.is_alive()


def test_it_shows_itself_says_what_ails_it_and_leaves(store, queue, feeder, running):
    thread, stop = running
    thread.start()
    wait_for(store.workers)
    (seen,) = store.workers()
    assert (seen.kind, seen.name, seen.state, seen.slots) == ("scheduler", feeder.name, "feeding", 0)
    queue.down = True
    wait_for(lambda: store.workers()[0].state == "broker_unreachable")
    queue.down = False
    submit(store, 1)
    wait_for(lambda: store.workers()[0].state == "feeding" and queue.messages)
    stop.set()
    thread.join(5)
    assert store.workers() == []


def test_it_survives_the_database(store, queue, feeder, running, monkeypatch):
    thread, _ = running
    broken = threading.Event()
    broken.set()
    sound = Store.outstanding

    def outstanding(self: Store) -> int:
        if broken.is_set():
            raise DatabaseLocked("no")
        return sound(self)

    monkeypatch.setattr(Store, "outstanding", outstanding)
    submit(store, 1)
    thread.start()
    time.sleep(1.0)
    assert thread.is_alive()
    assert queue.messages == []
    broken.clear()
    wait_for(lambda: queue.messages)


def test_a_newer_database_ends_it(store, queue, feeder, monkeypatch):
    def newer(self: Store) -> int:
        raise DatabaseNewer("no")

    monkeypatch.setattr(Store, "outstanding", newer)
    with pytest.raises(DatabaseNewer):
        feeder.run(threading.Event())
    assert store.workers() == []
