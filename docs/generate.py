"""Writes docs/cli.md from the commands' own help, docs/failures.md from the list of failures, and the README's tree.

python docs/generate.py          writes them; a test checks that they are up to date
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click

from db.errors import FAILURES
from scheduler.cli import cli

DOCS = Path(__file__).parent


def command_line() -> str:
    """Every command's help, as it is printed 100 columns wide."""
    parts = ["# The command line", "", "Made by `python docs/generate.py` from the commands' own help.", ""]
    for name, command in _commands("moodreel", cli):
        settings = cli.context_settings | {"max_content_width": 100, "terminal_width": 100}
        context = click.Context(command, info_name=name, **settings)
        parts += [f"## `{context.info_name}`", "", "```", command.get_help(context), "```", ""]
    return "\n".join(parts)


def _commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command, and all those below it."""
    yield name, command
    for below in sorted(getattr(command, "commands", {})):
        yield from _commands(f"{name} {below}", command.commands[below])


def failures() -> str:
    """The list of failure codes."""
    parts = [
        "# What can go wrong",
        "",
        "Made by `python docs/generate.py` from `db/errors.py`. The codes stand in the view `failures`, in what the",
        "commands print and in `--json`. *Permanent*: the same input fails the same way again.",
        "",
        "| code | | what it means | what to do |",
        "|---|---|---|---|",
    ]
    for failure in FAILURES.values():
        lasting = "permanent" if failure.permanent else "transient"
        parts.append(f"| `{failure.code}` | {lasting} | {failure.meaning} | {failure.what_to_do} |")
    return "\n".join([*parts, ""])


FOLDERS = ("db", "models", "models/training", "worker", "scheduler")
BLOCK = re.compile(r"(?<=<!-- tree -->\n).*?(?=<!-- end of tree -->)", re.DOTALL)


def readme() -> str:
    """The README with its tree anew: one line a module, the first of its docstring."""
    lines = ["```"]
    for folder in FOLDERS:
        modules = sorted(path for path in (DOCS.parent / folder).glob("*.py") if path.stem != "__init__")
        lines += [f"{folder + '/' + path.name:<30} {_first_sentence(path)}" for path in modules]
    text = (DOCS.parent / "README.md").read_text()
    return BLOCK.sub(lambda _: "\n".join([*lines, "```", ""]), text)


def _first_sentence(path: Path) -> str:
    paragraph = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=\.) ", paragraph)[0]


PAGES = {"cli.md": command_line, "failures.md": failures, "../README.md": readme}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).write_text(make())
