"""A fleet with a real Redis and a real PostgreSQL gives the rows that one machine gives with SQLite."""

import json

from tests import archive
from tests.chaos.compare import compare
from tests.chaos.faults import Chaos
from tests.chaos.run import run
from tests.database import missing
from tests.servers import ServerMissing

N_VIDEOS = 200


def test_two_workers_and_a_scheduler_do_what_one_machine_does(media, fleet):
    videos, quiet = fleet.folder / "archive", fleet.folder / "quiet.db"
    archive.make(videos, N_VIDEOS, (1.5, 2.5))
    planted = archive.plant(videos)
    fleet.run("annotate", videos, "--db", quiet, "--device", "cpu", status=1)  # the planted files fail

    fleet.run("pipelines", "add", "usual")
    watching = ("--pipeline", "usual", "--settle", 0, "--every", 1)
    scheduler = fleet.service("scheduler", "watch", videos, *watching).start()
    how = ("--device", "cpu", "--slots", 2, "--max-attempts", 2)
    workers = [fleet.service(f"worker-{number}", "work", *how).start() for number in range(2)]
    fleet.await_videos(N_VIDEOS + len(planted) + 1, timeout_seconds=60)
    fleet.finish(timeout_seconds=300)

    status = json.loads(fleet.run("status", "--json"))
    assert status["annotations"] == {"done": N_VIDEOS + 1, "failed": len(planted)}
    by_worker = fleet.rows("SELECT spans_done FROM workers WHERE kind = 'worker'")
    assert len(by_worker) == 2
    assert [service.end() for service in (*workers, scheduler)] == [0, 0, 0]

    result = compare(str(quiet), fleet.db_url, planted)
    assert result.differences == 0, str(result)
    assert result.videos == N_VIDEOS + len(planted) + 1
    assert result.rows >= 3 * N_VIDEOS
    assert sorted(result.failures) == sorted(planted)
    with fleet.redis.client() as client:
        assert client.llen("moodreel") == 0


def test_whatever_fails_the_rows_are_those_of_a_quiet_run(media, short_folder):
    """The short chaos run: everything that can happen happens once."""
    try:
        outcome = run(spans=40, faults=len(Chaos.kinds), seed=4, folder=short_folder, say=print, max_attempts=4)
    except ServerMissing as reason:
        missing(str(reason))
        raise
    assert outcome.passed, str(outcome)
    assert outcome.struck == dict.fromkeys(Chaos.kinds, 1)
    assert outcome.spans >= 40
    assert outcome.comparison.rows > 3 * 40
