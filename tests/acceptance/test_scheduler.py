"""The scheduler's commands as a user runs them, where none of a worker's packages can be imported."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from db.identity import Source
from db.rows import Worker
from db.store import Store
from scheduler.cli import WORKER_PACKAGES
from tests.database import annotated
from tests.receiver import SECRET, receiving

ROOT = Path(__file__).parent.parent.parent
HIDE = f"import sys; sys.modules.update(dict.fromkeys({sorted(WORKER_PACKAGES)!r})); "
PROGRAM = HIDE + "from scheduler.cli import main; main()"
NOBODY_FEEDS = "No scheduler is running: nothing will be handed out until `moodreel watch` runs.\n"


class Bed:
    """A folder, a database with one registered pipeline, and the command."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.environment = {**os.environ, "MOODREEL_DB": url, "PYTHONPATH": str(ROOT), "COLUMNS": "110"}
        with Store(url) as store:
            self.pipeline_id = store.register_pipeline("d" * 64, "w", "compact 2s/1s log-linear", CONFIG)
            store.name_pipeline("archive", self.pipeline_id, {})

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @contextmanager
    def running(self, *arguments: object) -> Iterator["Service"]:
        service = Service(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *map(str, arguments)],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=(self.folder / "log").open("w"),
                text=True,
            ),
            self.folder / "log",
        )
        try:
            yield service
        finally:
            service.process.kill()
            service.process.wait()

    def video(self, name: str, text: str = "video") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def store(self) -> Store:
        return Store(self.url)


CONFIG = {
    "preset": "compact",
    "plan": {"window_ms": 2000, "hop_ms": 1000, "span_ms": 600_000},
    "fusion": {"rule": "log-linear"},
}


class Service:
    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.process, self._log = process, log

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def said(self, message: str) -> list[dict]:
        return [line for line in self.lines if message in line["message"]]

    def ended(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


@pytest.fixture
def bed(tmp_path: Path, migrated_url: str) -> Bed:
    folder = tmp_path / "bed"
    folder.mkdir()
    return Bed(folder, migrated_url)


@pytest.fixture
def bed_on_sqlite(tmp_path: Path) -> Bed:
    folder = tmp_path / "bed"
    folder.mkdir()
    return Bed(folder, f"sqlite:///{tmp_path / 'bed.db'}")


def wait_for(condition, seconds: float = 20.0):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
    return found


def statuses(bed: Bed) -> dict[str, int]:
    with bed.store() as store:
        return store.status().annotations


# --- watch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watch_finds_feeds_and_ends_in_good_order(bed, redis_server, number):
    bed.video("in/a.mp4")
    bed.video("in/.hidden/b.mp4")
    bed.environment["MOODREEL_BROKER"] = redis_server.url
    with bed.running("watch", "in", "--every", 0.2, "--settle", 0.3) as service:
        first = redis_server.take(20)
        assert (first.task, first.key) == ("plan", "moodreel:3")
        changed = bed.video("in/a.mp4", "another")
        redis_server.take(20)
        with bed.store() as store:
            assert store.video(str(changed)).size_bytes == 7
            (seen,) = store.workers()
            assert (seen.kind, seen.state) == ("scheduler", "feeding")
        assert bed.run("health").returncode == 0
        assert service.ended(number) == 0
    assert [line["video"] for line in service.said("submitted")] == [str(changed)] * 2
    assert {"time", "level", "logger", "message"} <= service.lines[0].keys()
    secret = redis_server.url.partition("@")[0].rpartition(":")[2]
    assert secret not in (bed.folder / "log").read_text()
    ran = bed.run("health")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"No worker or scheduler of {socket.gethostname()} has shown itself in the last minute.\n"


def test_a_half_written_file_is_submitted_when_it_is_whole(bed_on_sqlite, redis_server):
    bed = bed_on_sqlite
    video = bed.video("in/a.mp4", "")
    with bed.running("watch", "in", "--broker", redis_server.url, "--every", 0.2, "--settle", 0.6):
        for _ in range(12):
            with video.open("a") as file:
                file.write("part")
            time.sleep(0.15)
            assert statuses(bed) == {}
        wait_for(lambda: statuses(bed) == {"pending": 1})
        with bed.store() as store:
            assert store.video(str(video)).size_bytes == 48


def test_an_unmounted_folder_is_no_deletion_and_no_end(bed_on_sqlite, redis_server):
    bed = bed_on_sqlite
    bed.video("in/a.mp4")
    with bed.running("watch", "in", "--broker", redis_server.url, "--every", 0.1, "--settle", 0) as service:
        wait_for(lambda: statuses(bed) == {"pending": 1})
        (bed.folder / "in").rename(bed.folder / "away")
        wait_for(lambda: service.said("path_missing"))
        time.sleep(0.5)
        (bed.folder / "away").rename(bed.folder / "in")
        bed.video("in/b.mp4")
        wait_for(lambda: statuses(bed) == {"pending": 2})
        assert len(service.said("path_missing")) == 1
        assert service.ended() == 0


def test_watch_outlives_its_broker(bed_on_sqlite, redis_server):
    bed = bed_on_sqlite
    redis_server.kill()
    bed.video("in/a.mp4")
    with bed.running("watch", "in", "--broker", redis_server.url, "--every", 0.1, "--settle", 0) as service:
        wait_for(lambda: statuses(bed) == {"pending": 1})
        wait_for(lambda: service.said("does not take messages"))
        redis_server.start()
        assert redis_server.take(20).task == "plan"
        redis_server.flush()  # and what was taken is never claimed
        assert redis_server.take(20).task == "plan"
        assert service.ended() == 0


def test_watch_serves_metrics(bed_on_sqlite, redis_server):
    bed = bed_on_sqlite
    bed.video("in/a.mp4")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        taken = bed.run("watch", "--broker", redis_server.url, "--metrics-port", port)
        assert taken.returncode == 2
        assert f"no metrics can be served at 127.0.0.1:{port}" in taken.stderr
    options = ("--broker", redis_server.url, "--every", 0.1, "--settle", 0, "--metrics-port", port)
    with bed.running("watch", "in", *options):

        def page() -> str:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    return answer.read().decode()
            except OSError:
                return ""

        wait_for(lambda: 'moodreel_messages_sent_total{kind="plan"} 1.0' in page())
        found = {re.split(r"[ {]", line)[0] for line in page().splitlines() if not line.startswith("#")}
    assert found == {
        "moodreel_queue_seconds",
        "moodreel_queue_jobs",
        "moodreel_messages_sent_total",
        "moodreel_messages_resent_total",
        "moodreel_workers",
        "moodreel_annotations",
        "moodreel_broker_up",
        "moodreel_hook_posts_total",
        "moodreel_bucket_messages_total",
        "moodreel_hook_events",
        "moodreel_hook_wait_seconds",
    }


def test_watch_posts_to_hooks_though_the_broker_is_away(bed, redis_server):
    redis_server.kill()
    bed.environment["HOOK_SECRET"] = SECRET
    with receiving() as receiver, bed.store() as store:
        assert bed.run("hooks", "add", receiver.url, "--insecure-http", "--secret-env", "HOOK_SECRET").returncode == 0
        with bed.running("watch", "--broker", redis_server.url) as service:
            annotated(store, uri="/v/a.mp4")
            wait_for(lambda: receiver.posts)
            receiver.answers = [503]
            annotated(store, uri="/v/b.mp4")
            wait_for(lambda: service.said("it answered 503"))
            wait_for(lambda: store.hooks()[0].failures == 1)
            assert service.ended() == 0
        assert [body["data"]["video"] for body in receiver.bodies] == ["/v/a.mp4", "/v/b.mp4"]
    assert SECRET not in (bed.folder / "log").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["in", "--pipeline", "other"], 1, "There is no pipeline 'other'"),
        (["--broker", "amqp://x:geheim@y"], 2, "The broker's URL names no Redis server"),
        (["--every", "0"], 2, "--every"),
        (["--metrics-port", "99999"], 2, "--metrics-port"),
        (["--db", "nowhere/x.db"], 1, "there is no folder nowhere"),
    ],
)
def test_watch_says_at_the_start_what_cannot_work(bed_on_sqlite, arguments, code, said):
    ran = bed_on_sqlite.run("watch", *arguments)
    assert ran.returncode == code
    assert said in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr
    assert "geheim" not in ran.stderr


def test_watch_follows_a_bucket_by_its_events(object_store, bed_on_sqlite, redis_server):
    bed = bed_on_sqlite
    bed.environment["MOODREEL_BROKER"] = redis_server.url
    s3, sqs = object_store.client("s3"), object_store.client("sqs")
    s3.create_bucket(Bucket="archive")
    s3.put_object(Bucket="archive", Key="in/before.mp4", Body=b"video")
    queue = sqs.create_queue(QueueName="events")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    told = {"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
    s3.put_bucket_notification_configuration(
        Bucket="archive", NotificationConfiguration={"QueueConfigurations": [told]}
    )
    with bed.running("watch", "s3://archive/in/", "--events", queue) as service:
        wait_for(lambda: statuses(bed) == {"pending": 1})  # which the listing found
        s3.put_object(Bucket="archive", Key="in/a + b.mp4", Body=b"another")
        wait_for(lambda: statuses(bed) == {"pending": 2})  # long before the next listing
        s3.delete_object(Bucket="archive", Key="in/a + b.mp4")
        wait_for(lambda: "2 videos (1 gone" in bed.run("status").stdout)
        assert service.ended() == 0
        assert [line["video"] for line in service.said("submitted")] == [
            "s3://archive/in/before.mp4",
            "s3://archive/in/a + b.mp4",
        ]
        assert [line["video"] for line in service.said("gone")] == ["s3://archive/in/a + b.mp4"]


def test_events_without_a_bucket_are_refused(bed_on_sqlite):
    ran = bed_on_sqlite.run("watch", "in", "--events", "https://sqs.example/1/events")
    assert ran.returncode == 2
    assert "--events tells of buckets, and none is to be watched" in ran.stderr


# --- submit -----------------------------------------------------------------------------------------------------------


def test_submit_needs_only_the_database_and_counts_what_became_of_it(bed):
    bed.video("in/a.mp4")
    bed.video("in/b.mkv")
    bed.environment["MOODREEL_BROKER"] = "redis://nowhere.invalid:1/0"
    first = bed.run("submit", "in", "--priority", 3)
    assert (first.returncode, first.stderr) == (0, NOBODY_FEEDS)
    assert first.stdout == "2 new, 0 in the queue already, 0 tried again, 0 done already\n"
    with bed.store() as store:
        store.beat(Worker(name="s", kind="scheduler", host="h", pid=1, version="1"))
        assert [job.priority for job in store.take_due(10, 60.0)] == [3, 3]
    bed.video("c.mp4")
    again = bed.run("submit", "in/a.mp4", "c.mp4", "nothing.mp4", "--json")
    assert again.returncode == 1
    told = json.loads(again.stdout)
    assert (told["new"], told["waiting"], told["done"], told["again"]) == (1, 1, 0, 0)
    assert told["errors"] == [{"code": "path_missing", "message": "nothing.mp4: no such file or folder"}]
    assert again.stderr == "path_missing: nothing.mp4: no such file or folder\n"


def test_submit_asks_which_pipeline(bed_on_sqlite):
    bed = bed_on_sqlite
    bed.video("a.mp4")
    with bed.store() as store:
        store.name_pipeline("fine", store.register_pipeline("e" * 64, "w2", "compact", CONFIG), {})
    ran = bed.run("submit", "a.mp4")
    assert ran.returncode == 1
    assert "archive, fine" in ran.stderr
    assert statuses(bed) == {}
    assert bed.run("submit", "a.mp4", "--pipeline", "fine").returncode == 0
    assert bed.run("submit", "a.mp4", "--db", "none.db").returncode == 1
    assert not (bed.folder / "none.db").exists()


def test_submit_waits_and_tells_what_failed(bed_on_sqlite):
    bed = bed_on_sqlite
    videos = [bed.video("in/a.mp4"), bed.video("in/b.mp4")]
    with bed.running("submit", "in", "--wait") as service:
        wait_for(lambda: statuses(bed) == {"pending": 2})
        with bed.store() as store:
            store.cancel([str(videos[0])])
            source = Source.of(videos[1], videos[1].stat())
            annotated(store, source.uri, source.version, digest="d" * 64)
        assert service.process.wait(20) == 1
        assert service.process.stdout.read().splitlines()[-1] == "1 done, 1 failed"
    assert f"cancelled: {videos[0]}: cancelled on request" in (bed.folder / "log").read_text()


def test_submit_takes_what_is_wanted_of_a_bucket(object_store, bed_on_sqlite):
    s3 = object_store.client("s3")
    s3.create_bucket(Bucket="archive")
    for key, size in (("in/a.mp4", 10), ("in/b.mp4", 2000), ("in/c.webm", 2000), ("in/d.txt", 2000)):
        s3.put_object(Bucket="archive", Key=key, Body=b"x" * size)
    ran = bed_on_sqlite.run(
        "submit", "s3://archive/in/", "--min-size", "1K", "--suffix", "mp4", "--newer-than", "1d", "s3://missing/"
    )
    assert ran.returncode == 1
    assert ran.stdout == "1 new, 0 in the queue already, 0 tried again, 0 done already\n"
    assert ran.stderr.startswith("bucket_missing: s3://missing: there is no such bucket\n")
    with bed_on_sqlite.store() as store:
        assert store.video("s3://archive/in/b.mp4") is not None


# --- operating --------------------------------------------------------------------------------------------------------


def test_cancel_and_retry_by_path_folder_code_and_all(bed_on_sqlite):
    bed = bed_on_sqlite
    for name in ("in/a.mp4", "in/deep/b.mp4", "into/c.mp4"):
        bed.video(name)
    bed.run("submit", "in", "into")
    assert bed.run("cancel", "in/a.mp4").stdout == "1 cancelled; workers let go of them with their next heartbeat\n"
    assert bed.run("cancel", "in").stdout.startswith("1 cancelled")
    assert statuses(bed) == {"failed": 2, "pending": 1}
    assert bed.run("retry", "--all").stdout == "nothing of that has failed\n"
    back = bed.run("retry", "in/deep", "--code", "cancelled")
    assert back.stdout.startswith("1 put back into the queue")
    assert back.stderr == NOBODY_FEEDS
    assert statuses(bed) == {"failed": 1, "pending": 2}
    assert bed.run("cancel", "--all").stdout.startswith("2 cancelled")
    assert bed.run("cancel", "--all").stdout == "nothing of that is in the queue\n"
    assert bed.run("retry", "--code", "cancelled").stdout.startswith("3 put back")


@pytest.mark.parametrize(
    "arguments",
    [
        ["retry"],
        ["cancel"],
        ["retry", "a.mp4", "--all"],
        ["cancel", "a.mp4", "--all"],
        ["retry", "--code", "no_such"],
        ["limit", "--remove"],
        ["limit", "in", "2", "--remove"],
        ["limit", "in", "--remove"],
        ["limit", "in", "-1"],
    ],
)
def test_what_could_mean_too_much_is_asked_back(bed_on_sqlite, arguments):
    ran = bed_on_sqlite.run(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Traceback" not in ran.stderr


def test_limits_are_set_shown_and_removed(bed_on_sqlite):
    bed = bed_on_sqlite
    for number in range(4):
        bed.video(f"in/{number}.mp4")
    bed.video("into/c.mp4")
    bed.run("submit", "in", "into")
    assert bed.run("limit").stdout == "no limits\n"
    bed.run("limit", "in", 2)
    bed.run("limit", "s3://bucket/", 0)
    assert json.loads(bed.run("limit", "--json").stdout) == {f"{bed.folder}/in/": 2, "s3://bucket/": 0}
    assert json.loads(bed.run("limit", "in/", "--json").stdout) == {f"{bed.folder}/in/": 2}
    with bed.store() as store:
        assert len(store.take_due(10, 60.0)) == 3
    assert "s3://bucket/" in bed.run("limit").stdout
    assert f"{bed.folder}/in/" not in bed.run("limit", "in", "--remove").stdout
    with bed.store() as store:
        assert len(store.take_due(10, 60.0)) == 2


def test_pipelines_are_listed(bed_on_sqlite):
    bed = bed_on_sqlite
    with bed.store() as store:
        annotated(store, digest="d" * 64)
    shown = bed.run("pipelines", "list").stdout.splitlines()[1].split()
    assert " ".join(shown) == f"archive {'d' * 12} compact 2 s 1 s 600 s log-linear 1"
    (told,) = json.loads(bed.run("pipelines", "list", "--json").stdout)
    assert (told["pipeline"], told["digest"], told["done"]) == ("archive", "d" * 64, 1)


def test_health_knows_this_host_only(bed_on_sqlite):
    bed = bed_on_sqlite
    with bed.store() as store:
        store.beat(Worker(name="w", kind="worker", host="elsewhere", pid=1, version="1"))
        assert bed.run("health").returncode == 1
        store.beat(Worker(name="v", kind="worker", host=socket.gethostname(), pid=1, version="1"))
    assert bed.run("health").returncode == 0
    assert bed.run("health", "--db", "none.db").returncode == 1


# --- status -----------------------------------------------------------------------------------------------------------


def with_a_fleet(bed: Bed) -> None:
    bed.video("a.mp4")
    bed.run("submit", "a.mp4")
    with bed.store() as store:
        store.beat(
            Worker(
                name="w",
                kind="worker",
                host="gpu\n1",
                pid=12345,
                version="1",
                device="cuda:0",
                slots=4,
                running=3,
                spans_done=17,
                seconds_done=7200.0,
                state="refuses: [bold]x",
            )
        )


def test_status_shows_the_fleet_where_there_is_one(bed):
    alone = bed.run("status").stdout
    assert "queue" not in alone
    with_a_fleet(bed)
    shown = bed.run("status").stdout
    assert "queue: 1 videos, of unknown length, 0 jobs running" in shown
    assert "time left: unknown" in shown
    assert "no scheduler has shown itself" in shown
    (row,) = [line for line in shown.splitlines() if "12345" in line]
    for word in (r"gpu\n1", "cuda:0", "refuses", "3", "4", "17", "2.0 h"):
        assert word in row
    assert "refuses: [bold]x" in shown.splitlines()[-1]
    fleet = json.loads(bed.run("status", "--json").stdout)["fleet"]
    assert fleet["queue_videos"] == 1
    assert fleet["jobs"]["plan"] == 1
    assert [worker["host"] for worker in fleet["workers"]] == ["gpu\n1"]


def test_live_status_is_drawn_anew_on_a_terminal_until_interrupted(bed_on_sqlite):
    bed = bed_on_sqlite
    with_a_fleet(bed)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "status", "--live"],
        cwd=bed.folder,
        env={**bed.environment, "TERM": "xterm", "LINES": "40"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    until = time.monotonic() + 15
    while seen.count(b"queue: 1 videos") < 2 and time.monotonic() < until:
        seen += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    os.close(ours)
    assert seen.count(b"queue: 1 videos") >= 2
    assert b"Traceback" not in seen


def test_live_status_in_a_pipe_is_lines(bed_on_sqlite):
    bed = bed_on_sqlite
    with_a_fleet(bed)
    with bed.running("status", "--live") as service:
        assert service.process.stdout.readline().startswith(
            "queue: 1 videos, of unknown length, 0 jobs running; speed: 0 videos/h"
        )
        assert service.ended(signal.SIGINT) == 130
