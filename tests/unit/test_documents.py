"""Nothing that a user can see or set goes undocumented, and nothing documented is not there."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from db.errors import FAILURES
from models.fusion import RULES
from scheduler.cli import cli

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["cli.md", "failures.md", "../README.md"])
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
