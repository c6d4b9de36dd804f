"""Faults of the fleet, each by itself, at the moment where it would do most harm; the rows are those of a quiet run."""

import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests import archive
from tests.chaos.compare import compare
from tests.faults.proxy import Proxy
from tests.running_fleet import WORKER, Fleet, Service, moodreel, wait_until

N_VIDEOS = 3
ONCE, TWICE = (1, 2), (2, 3)  # attempts and epoch of a span that was claimed so often; planning was the first epoch


@pytest.fixture(scope="module")
def videos(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short videos, and one that takes a worker of these tests half a second for each picture that it looks at."""
    folder = tmp_path_factory.mktemp("videos")
    archive.make(folder, N_VIDEOS - 1, (3.0, 9.0))
    archive.write(folder / "slow.mp4", archive.talk(3.0), archive.SLOW)
    return folder


@pytest.fixture(scope="module")
def quiet(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The database of a quiet run on one machine."""
    db = str(tmp_path_factory.mktemp("quiet") / "quiet.db")
    subprocess.run(moodreel("annotate", videos, "--db", db, "--device", "cpu"), check=True, capture_output=True)
    return db


@pytest.fixture
def asked(fleet: Fleet, videos: Path) -> Fleet:
    """A fleet that has been asked for the videos, and has neither scheduler nor worker."""
    fleet.run("pipelines", "add", "cut", "--span", 3)
    fleet.run("submit", videos, "--pipeline", "cut")
    return fleet


def scheduler(fleet: Fleet, name: str = "scheduler", **environment: str) -> Service:
    return fleet.service(name, "watch", "--pipeline", "cut", **environment).start()


def worker(fleet: Fleet, name: str = "worker", slots: int = 2, lease: int = 60) -> Service:
    how = ("--device", "cpu", "--slots", slots, "--lease", lease, "--grace", 5)
    return fleet.service(name, "work", *how).start()


def assert_as_in_peace(fleet: Fleet, quiet: str) -> None:
    result = compare(quiet, fleet.db_url)
    assert result.differences == 0, str(result)
    assert result.videos == N_VIDEOS


def claims(fleet: Fleet) -> set[tuple[int, int]]:
    """How often spans were claimed: attempts and epochs."""
    return set(fleet.rows("SELECT attempts, epoch FROM spans"))


def is_sent(fleet: Fleet) -> bool:
    return fleet.rows("SELECT COUNT(*) FROM annotations WHERE sent_at IS NOT NULL") == [(N_VIDEOS,)]


def slow_one(fleet: Fleet, state: str) -> list[tuple]:
    return fleet.rows(
        "SELECT s.span_index FROM spans s JOIN annotations a ON a.id = s.annotation_id"
        f" JOIN videos v ON v.id = a.video_id WHERE v.uri LIKE '%%slow.mp4' AND s.status = '{state}'"
    )


def test_messages_that_were_taken_and_never_acted_on_are_sent_again(asked, quiet):
    """As after a kill -9 between BRPOP and the bookkeeping, and for all messages at once."""
    scheduler(asked)
    taken = [asked.redis.take() for _ in range(N_VIDEOS)]
    assert [message.task for message in taken] == ["plan"] * N_VIDEOS
    worker(asked)
    asked.finish(timeout_seconds=90)
    assert_as_in_peace(asked, quiet)
    assert claims(asked) == {ONCE}


def test_a_worker_that_is_killed_between_taking_a_message_and_claiming_its_row_costs_nothing(asked, quiet):
    """The rows are locked, so that its claims wait; then it is killed, and what it asked for is undone."""
    scheduler(asked)
    wait_until(lambda: is_sent(asked), 20)
    engine = sa.create_engine(asked.db_url)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT id FROM annotations FOR UPDATE")
        victim = worker(asked)
        waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE annot%%'"
        wait_until(lambda: asked.rows(waiting)[0][0] >= 2, 60)
        (child,) = victim.children(WORKER)
        os.kill(child, signal.SIGKILL)
        time.sleep(0.5)
        connection.rollback()
    engine.dispose()
    asked.finish(timeout_seconds=90)
    assert_as_in_peace(asked, quiet)
    assert claims(asked) == {ONCE}
    assert asked.rows("SELECT DISTINCT attempts FROM annotations") == [(1,)]


def test_a_job_longer_than_the_visibility_timeout_is_done_once(short_folder, videos, quiet):
    """Messages are usually acknowledged before the work; where they are not, Redis hands one out again meanwhile."""
    with Fleet(short_folder, {"MOODREEL_TEST_ACKS_LATE": "1"}) as fleet:
        fleet.run("pipelines", "add", "cut", "--span", 3)
        fleet.run("submit", videos, "--pipeline", "cut")
        scheduler(fleet)
        busy = worker(fleet)
        wait_until(lambda: bool(slow_one(fleet, "running")), 60)
        fleet.finish(timeout_seconds=90)
        given = Counter(re.findall("was given (annotate_span .*)", busy.said()))
        assert max(given.values()) > 1
        assert_as_in_peace(fleet, quiet)
        assert claims(fleet) == {ONCE}


def test_a_message_that_comes_again_while_its_job_is_done_is_done_once(asked, quiet):
    """Doubled messages, for jobs that wait, are under way, or are done."""
    scheduler(asked)
    seen = []
    worker(asked)
    while asked.unfinished():
        message = asked.redis.take(timeout_seconds=1.5)
        if message is not None:
            seen.append(message)
            asked.redis.put(message)
        for again in seen[-3:]:
            asked.redis.put(again.copy())
    assert {message.task for message in seen} >= {"annotate_span"}
    assert_as_in_peace(asked, quiet)
    assert claims(asked) == {ONCE}


def test_a_scheduler_that_dies_between_the_row_and_the_message(asked, quiet):
    """It has marked all rows as sent, and dies with the messages in its hands."""
    dying = scheduler(asked, "dying", MOODREEL_TEST_DIES_SENDING="1")
    wait_until(lambda: not dying.is_running, 30)
    assert is_sent(asked)
    assert asked.redis.take(timeout_seconds=0.5) is None
    worker(asked)
    scheduler(asked)
    asked.finish(timeout_seconds=90)
    assert_as_in_peace(asked, quiet)
    assert claims(asked) == {ONCE}


def test_a_worker_that_wakes_up_after_its_lease_writes_nothing(asked, quiet):
    scheduler(asked)
    stale = worker(asked, "stale", slots=1, lease=3)
    wait_until(lambda: bool(slow_one(asked, "running")), 60)
    (child,) = stale.children(WORKER)
    os.kill(child, signal.SIGSTOP)
    try:
        other = worker(asked, "other")
        asked.finish(timeout_seconds=90)
        rows = asked.rows("SELECT * FROM windows ORDER BY annotation_id, window_index")
        ended = asked.rows("SELECT * FROM spans ORDER BY annotation_id, span_index")
    finally:
        os.kill(child, signal.SIGCONT)
    wait_until(lambda: "somebody else has it by now" in stale.said(), 60)
    assert "somebody else has it by now" not in other.said()
    assert stale.children(WORKER) == [child]
    assert asked.rows("SELECT * FROM windows ORDER BY annotation_id, window_index") == rows
    assert asked.rows("SELECT * FROM spans ORDER BY annotation_id, span_index") == ended
    assert claims(asked) == {ONCE, TWICE}
    assert_as_in_peace(asked, quiet)


def test_redis_that_is_out_of_memory_costs_no_worker(asked, quiet):
    """It lets messages be taken and refuses to write; a worker that writes down what it takes would be at its end."""
    scheduler(asked)
    wait_until(lambda: is_sent(asked), 20)
    busy = worker(asked)
    wait_until(lambda: " ready." in busy.said(), 60)
    children = busy.children(WORKER)
    asked.redis.refuse_writes(True)
    wait_until(lambda: asked.rows("SELECT COUNT(*) FROM annotations WHERE status = 'pending'") == [(0,)], 60)
    time.sleep(3.0)
    assert busy.children(WORKER) == children
    asked.redis.refuse_writes(False)
    asked.finish(timeout_seconds=90)
    assert busy.children(WORKER) == children
    assert_as_in_peace(asked, quiet)


def test_redis_that_restarts_empty_while_jobs_are_done_costs_nothing(asked, quiet):
    scheduler(asked)
    busy = worker(asked, slots=1)
    wait_until(lambda: asked.rows("SELECT COUNT(*) FROM annotations WHERE status <> 'pending'") > [(0,)], 60)
    children = busy.children(WORKER)
    asked.redis.kill()
    asked.redis.start()
    with asked.redis.client() as client:
        client.flushall()
    asked.finish(timeout_seconds=90)
    assert busy.children(WORKER) == children
    assert_as_in_peace(asked, quiet)
    assert claims(asked) == {ONCE}


def test_a_network_that_swallows_what_is_sent_to_redis_costs_nothing(short_folder, videos, quiet):
    """Connections stay open, and nothing comes through in either direction; later it does again."""
    with Fleet(short_folder) as fleet, Proxy(fleet.redis.url) as proxy:
        fleet.run("pipelines", "add", "cut", "--span", 3)
        fleet.run("submit", videos, "--pipeline", "cut")
        through = {"MOODREEL_BROKER": proxy.url}
        fleet.service("scheduler", "watch", "--pipeline", "cut", **through).start()
        busy = fleet.service("worker", "work", "--device", "cpu", "--slots", 1, "--grace", 5, **through).start()
        wait_until(lambda: fleet.rows("SELECT COUNT(*) FROM annotations WHERE status <> 'pending'") > [(0,)], 60)
        children = busy.children(WORKER)
        proxy.swallow(True)
        time.sleep(8.0)
        assert proxy.swallowed_bytes > 0
        proxy.swallow(False)
        fleet.finish(timeout_seconds=120)
        assert busy.children(WORKER) == children
        assert_as_in_peace(fleet, quiet)
        assert claims(fleet) == {ONCE}


def test_what_is_not_done_within_the_grace_after_sigterm_is_given_back_uncounted(asked, quiet):
    scheduler(asked)
    ending = asked.service("ending", "work", "--device", "cpu", "--slots", 1, "--lease", 600, "--grace", 0.2).start()
    wait_until(lambda: bool(slow_one(asked, "running")), 60)
    assert ending.end() == 0
    assert slow_one(asked, "running") == []
    worker(asked)
    asked.finish(timeout_seconds=90)
    assert_as_in_peace(asked, quiet)
    assert set(asked.rows("SELECT DISTINCT attempts FROM spans")) == {(1,)}
