"""No secret of a fleet is told: not in what it prints, logs, stores or sends, nor on a command line."""

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from tests import archive
from tests.running_fleet import WORKER, Fleet, moodreel, wait_until
from tests.servers import ObjectStore

DATABASE, KEY, HOOK = "C4naryDatabase", "C4naryKey", "whsec_QzRuYXJ5SG9va0M0bmFyeUhvb2tDNG5hcnk="


# What is asked, and the exit status.
EXPECTED = [
    *(("pipelines", "0"), ("hooks", "0"), ("submit", "0"), ("status", "0"), ("quarantine", "0"), ("doctor", "0")),
    *(("status", "1"), ("status", "1"), ("submit", "0"), ("annotate", "1")),
]


@pytest.fixture
def store(tmp_path):
    with ObjectStore(tmp_path) as server:
        server.client("s3").create_bucket(Bucket="archive")
        yield server


def command_lines() -> str:
    """Of all processes of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


def contents(fleet: Fleet) -> str:
    """All rows of the database, but for the column that holds hooks' secrets, and all that is in Redis."""
    tables = [name for (name,) in fleet.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    said = [str(fleet.rows(f"SELECT to_jsonb(t) - 'secret' FROM {table} t")) for table in tables]
    with fleet.redis.client() as client:
        said += [repr(client.dump(key)) for key in client.keys("*")]
    return "\n".join(said)


def test_no_secret_of_a_fleet_is_told(short_folder, store, tmp_path, media):
    videos = tmp_path / "videos"
    videos.mkdir()
    archive.make(videos, 2, (3.0, 3.0))
    (videos / "text.mp4").write_text("Dear diary\n" * 50)
    store.client("s3").put_object(Bucket="archive", Key="a.mp4", Body=b"no video")
    environment = store.environment | {"AWS_SECRET_ACCESS_KEY": KEY}
    with Fleet(short_folder, environment) as fleet:
        secrets = [DATABASE, KEY, HOOK, urlsplit(fleet.redis.url).password]
        database = sa.make_url(fleet.db_url).set(password=DATABASE).render_as_string(hide_password=False)
        given = ("--db", database, "--broker", fleet.redis.url)
        told: list[str] = []

        def run(*arguments: object, **changes: str) -> None:
            ran = subprocess.run(
                moodreel(*arguments), env=fleet.environment | {"HOOK": HOOK} | changes, capture_output=True, text=True
            )
            told.append(f"{arguments[0]}: {ran.returncode}\n{ran.stdout}{ran.stderr}")

        run("pipelines", "add", "cut", "--span", 3, "--db", database)
        run("hooks", "add", "http://127.0.0.1:9/", "--secret-env", "HOOK", "--insecure-http", "--db", database)
        run("submit", videos, "s3://archive/", "--pipeline", "cut", "--db", database)
        services = [
            fleet.service("scheduler", "watch", "--pipeline", "cut", "--log-format", "text", *given).start(),
            fleet.service("worker", "work", "--device", "cpu", "--lease", 3, *given).start(),
        ]
        wait_until(lambda: bool(services[1].children(WORKER)), 60)
        wait_until(lambda: fleet.rows("SELECT COUNT(*) FROM annotations WHERE status <> 'pending'") > [(0,)], 60)
        told.append(command_lines())
        fleet.redis.kill()
        fleet.postgres.restart(1.0)
        fleet.redis.start()
        fleet.finish(timeout_seconds=90)
        for command in ("status", "quarantine", "doctor"):
            run(command, "--json", "--db", database)
        for broken in (database.replace("/fleet", "/none"), database.replace("host=%2F", "host=%2Fnowhere%2F")):
            run("status", "--db", broken)
        run("submit", videos, "--pipeline", "cut", "--db", database, MOODREEL_BROKER="redis://:C4naryKey@127.0.0.1:9/0")
        run("annotate", "s3://archive/a.mp4", "--db", database, AWS_ENDPOINT_URL=f"http://u:{KEY}@127.0.0.1:9")
        told += [service.said() for service in services]
        told.append(contents(fleet))
        text = "\n".join(told)
        assert re.findall(r"^(\w+): (\d+)$", text, re.MULTILINE) == EXPECTED
        assert fleet.rows("SELECT COUNT(*) FROM annotations WHERE status = 'failed'") == [(2,)]
    for secret in secrets:
        assert not re.search(re.escape(secret), text), text[max(0, text.find(secret) - 200) :][:400]
