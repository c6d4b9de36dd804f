"""What a worker makes of messages that no scheduler of ours sent: nothing, and it goes on."""

import base64
import json
import os
import pickle
import time
import uuid
from pathlib import Path

from tests import archive
from tests.running_fleet import WORKER, Fleet, wait_until

KEY = "moodreel"  # the list of the most urgent messages


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def message(task: str, body: bytes, content_type: str = "application/json", encoding: str = "utf-8") -> bytes:
    """As Celery puts it into Redis."""
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": encoding,
            "content-type": content_type,
            "headers": {"lang": "py", "task": task, "id": str(uuid.uuid4()), "argsrepr": "()", "kwargsrepr": "{}"},
            "properties": {
                "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": "moodreel"},
                "delivery_mode": 2,
                "delivery_tag": str(uuid.uuid4()),
                "priority": 0,
            },
        }
    ).encode()


def arguments(*values: object) -> bytes:
    return json.dumps([list(values), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode()


def test_messages_of_others_do_nothing_and_the_worker_goes_on(short_folder, tmp_path, media):
    videos = tmp_path / "videos"
    videos.mkdir()
    archive.make(videos, 1, (3.0, 3.0))
    bomb = tmp_path / "bombed"
    pickled = pickle.dumps([[Bomb(bomb)], {}, {}])
    hostile = [
        message("plan", pickled, "application/x-python-serialize", "binary"),
        message("plan", pickled),
        message("os.system", arguments(f"mkdir {bomb}")),
        message("celery.backend_cleanup", arguments()),
        message("celery.chord_unlock", arguments("x", "y")),
        message("plan", arguments("1; DROP TABLE videos")),
        message("plan", arguments({"a": [1]}, "b", "c")),
        message("annotate_span", arguments("../../etc/passwd")),
        message("finish", arguments(-(2**70))),
        message("annotate_span", arguments("9/" + "9" * 5000)),
        message("plan", b"\xff\xfe{"),
        b"garbage",
        b"{}",
        b"[1]",
        b"\xff\x00",
    ]
    with Fleet(short_folder) as fleet:
        fleet.run("pipelines", "add", "cut", "--span", 3)
        busy = fleet.service("worker", "work", "--device", "cpu", "--slots", 1, "--log-format", "text").start()
        wait_until(lambda: " ready." in busy.said(), 60)
        children = busy.children(WORKER)
        with fleet.redis.client() as client:
            for raw in hostile:
                client.lpush(KEY, raw)
            wait_until(lambda: client.llen(KEY) == 0, 60)
        fleet.run("submit", videos, "--pipeline", "cut")
        fleet.service("scheduler", "watch", "--pipeline", "cut").start()
        time.sleep(0.5)
        fleet.finish(timeout_seconds=90)
        assert busy.children(WORKER) == children, busy.said()
        assert fleet.rows("SELECT status FROM annotations") == [("done",)]
    assert not bomb.exists()
