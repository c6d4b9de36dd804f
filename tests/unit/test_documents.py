"""Nothing that a user can see or set goes undocumented, and nothing documented is not there."""

import importlib.util
import json
import re
import subprocess
import textwrap
import tomllib
from pathlib import Path

import click
import pytest
import sqlalchemy as sa
import yaml

from db import comments
from db.errors import FAILURES
from db.roles import ROLES
from db.store import Store
from db.tables import metadata
from db.views import VIEW_COLUMNS
from models.fusion import RULES
from scheduler.cli import cli
from worker.limits import Limits
from worker.sandbox import LAYERS

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def blocks(language: str) -> list[str]:
    """The blocks of docs/operations.md in a language, those within lists too."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", OPERATIONS, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


QUERIES = [block for block in blocks("sql") if block.startswith("SELECT")]


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["cli.md", "failures.md", "sql.md", "../README.md"])
def test_generated_pages_are_up_to_date(page):
    assert (ROOT / "docs" / page).read_text() == generator().PAGES[page](), "run: python docs/generate.py"


def test_every_command_option_and_rule_is_documented():
    page = (ROOT / "docs" / "cli.md").read_text()
    for name, command in cli.commands.items():
        assert f"moodreel {name}" in page
        assert f"**{name}**" in README
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, f"{name} {parameter.name} has no help"
            assert all(option in page for option in parameter.opts if option.startswith("-"))
    assert all(rule in page for rule in RULES)


def test_every_failure_says_what_it_means_and_what_to_do():
    for failure in FAILURES.values():
        assert failure.meaning.endswith(".")
        assert len(failure.what_to_do) > 5


def test_every_environment_variable_is_documented():
    pattern = re.compile(r"MOODREEL_[A-Z0-9_]+")
    used = {
        name
        for folder in ("db", "models", "worker", "scheduler")
        for path in (ROOT / folder).rglob("*.py")
        for name in pattern.findall(path.read_text())
    }
    assert used <= set(pattern.findall(README)), "document them in the README"


def test_every_make_target_is_in_its_help():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split()) - {"help", "install"}
    assert all(f"make {target} " in text for target in targets)


def test_the_tree_in_the_readme_says_something_of_every_module():
    lines = re.findall(r"^((?:db|models|worker|scheduler)/\S+\.py) +(.*)$", README, re.MULTILINE)
    assert len(lines) > 40
    assert all(len(said) > 15 for _, said in lines)


def test_the_layer_rule_names_every_module_of_models():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    modules = {f"models.{path.stem}" for path in (ROOT / "models").glob("*.py") if path.stem != "__init__"}
    assert set(contracts[1]["source_modules"]) == modules == set(contracts[2]["source_modules"])
    assert set(contracts[0]["layers"][3].split(" : ")) == modules


def test_no_path_of_one_machine_and_no_large_file():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    sizes = {path: (ROOT / path).stat().st_size for path in tracked if (ROOT / path).exists()}
    assert sum(sizes.values()) < 60_000_000
    assert all(size < 25_000_000 for size in sizes.values())


def test_every_alarm_says_what_to_do_when_it_rings():
    groups = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]
    alarms = [rule["alert"] for group in groups for rule in group["rules"]]
    table = OPERATIONS.partition("## When an alarm rings")[2]
    rows = dict(re.findall(r"^\| (\w+) \| .+? \| (.+?) \|$", table, re.MULTILINE))
    assert list(rows)[1:] == alarms  # but for the head, in the same order
    assert all(len(what_to_do) > 40 for what_to_do in list(rows.values())[1:])


def test_the_policies_are_json_and_allow_no_more_than_is_needed():
    policies = [json.loads(block) for block in blocks("json")]
    statements = [s for policy in policies for s in policy.get("Statement", [policy] if "Effect" in policy else [])]
    allowed = {tuple([s["Action"]] if isinstance(s["Action"], str) else s["Action"]) for s in statements}
    assert len(policies) == 5
    assert allowed == {
        *(("s3:ListBucket",), ("s3:GetObject",), ("kms:Decrypt",), ("sqs:SendMessage",), ("sqs:*",)),
        ("sqs:ReceiveMessage", "sqs:DeleteMessage"),
    }
    assert [s["Effect"] for s in statements if s["Action"] == "sqs:*"] == ["Deny"]


def test_there_are_queries_for_operators():
    assert len(QUERIES) >= 5


@pytest.mark.parametrize("query", QUERIES)
def test_the_queries_for_operators_run(query, store, migrated_url):
    with sa.create_engine(migrated_url).connect() as connection:
        rows = connection.exec_driver_sql(query).fetchall()
    assert not [row for row in rows if any(row)]  # there is nothing, or nothing to do


def test_the_roles_of_postgresql_are_documented():
    assert all(f"`{role}`" in OPERATIONS for role in ROLES)
    assert all(f"{role.upper()}_PASSWORD" in README for role in ROLES)


def test_the_query_for_autoscaling_is_one_number(postgresql_url):
    *_, scaled = yaml.safe_load_all(blocks("yaml")[0])
    (trigger,) = scaled["spec"]["triggers"]
    with Store(postgresql_url) as store, store.reading() as connection:
        assert connection.exec_driver_sql(trigger["metadata"]["query"]).fetchall() == [(0,)]


def test_the_limits_on_files_are_those_of_the_code():
    page = (ROOT / "docs" / "hardening.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (?:`(--[\w-]+)`)? ?\| `(\w+)` \|$", page, re.MULTILINE)
    assert {name: float(default) for name, default, _, _ in rows} == vars(Limits())
    options = (ROOT / "docs" / "cli.md").read_text()
    assert all(option in options for _, _, option, _ in rows if option)
    assert {code for *_, code in rows} < FAILURES.keys()
    assert {f"`{layer}`" for layer in LAYERS} <= set(re.findall(r"^\| (`\w+`) \|", page, re.MULTILINE))


def test_the_tests_that_the_threat_model_names_are_there():
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 15
    for file, name in named:
        assert not name or f"def {name}(" in (ROOT / file).read_text()
        assert (ROOT / file).is_file()
    threats = [line for line in page.partition("| threat |")[2].splitlines()[2:] if line.startswith("| ")]
    assert all("`tests/" in line for line in threats)


def test_every_table_view_and_column_has_a_meaning():
    assert all(table.comment for table in metadata.tables.values())
    assert [str(c) for table in metadata.tables.values() for c in table.columns if not c.comment] == []
    assert {name: (*columns,) for name, (_, columns) in comments.VIEWS.items()} == VIEW_COLUMNS


def test_meanings_are_in_the_database_itself(postgresql_url):
    query = """
        SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'v') AND c.relname <> 'alembic_version'
          AND c.relnamespace = 'public'::regnamespace
          AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)"""
    with Store(postgresql_url) as store, store.reading() as connection:
        assert connection.exec_driver_sql(query).fetchall() == []
