"""The limits on files that the commands take are those that children are started with."""

import json

import pytest
from click.testing import CliRunner

import scheduler.annotate
import worker.supervise
from scheduler.cli import cli
from worker.limits import Limits

GIVEN = {
    "--max-pixels": "1000",
    "--max-hours": "1.5",
    "--max-streams": "3",
    "--max-metadata": "10K",
    "--decoder-memory": "1G",
    "--decoder-cpu": "60",
}
MEANT = Limits(
    max_pixels=1000,
    max_seconds=5400.0,
    max_streams=3,
    max_metadata_bytes=10_240,
    memory_bytes=1 << 30,
    cpu_seconds=60.0,
)


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (["annotate", "a.mp4"], (scheduler.annotate, "run")),
        (["work", "--stall", "33"], (worker.supervise, "supervise")),
    ],
)
@pytest.mark.parametrize(("given", "meant"), [({}, Limits()), (GIVEN, MEANT)])
def test_what_is_given_is_what_is_meant(monkeypatch, command, place, given, meant):
    taken = []
    monkeypatch.setattr(*place, lambda *arguments: taken.append(arguments[-1]) or 0)
    options = [part for pair in given.items() for part in pair]
    result = CliRunner().invoke(cli, [*command, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert taken[0].limits == meant
    if command[0] == "work":
        assert taken[0].stall_seconds == 33.0


@pytest.mark.parametrize("wrong", [["--max-pixels", "0"], ["--max-metadata", "much"], ["--max-hours", "0"]])
def test_what_makes_no_sense_is_refused(wrong):
    assert CliRunner().invoke(cli, ["annotate", "a.mp4", *wrong]).exit_code == 2


def test_limits_survive_the_way_to_a_worker_process():
    options = worker.supervise.WorkOptions("sqlite:///x", "redis://h/0", limits=MEANT)
    said = json.loads(json.dumps(worker.supervise.asdict(options)))
    assert Limits(**said["limits"]) == MEANT
