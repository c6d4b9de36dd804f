"""Writes docs/cli.md, docs/failures.md, docs/sql.md and the README's tree from the code.

python docs/generate.py          writes them; a test checks that they are up to date
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from db import comments
from db.errors import FAILURES
from db.questions import QUESTIONS
from db.tables import metadata
from db.views import VIEW_COLUMNS
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


def sql() -> str:
    """Views, saved questions, and tables with their columns, keys and indexes."""
    parts = [
        "# The database",
        "",
        "Made by `python docs/generate.py` from `db/`. Ask the views: they show the current result of each video, and",
        "stay when tables change. On PostgreSQL each table, view and column has its meaning as a comment (`\\d+` in",
        "psql); SQLite keeps none. Times are UTC, lengths seconds, probabilities and shares 0 to 1. `moodreel query`",
        "asks read-only.",
        "",
        "## Views",
        "",
    ]
    for name, columns in VIEW_COLUMNS.items():
        meaning, means = comments.VIEWS[name]
        parts += [f"### {name}", "", _sentence(meaning), "", "| column | |", "|---|---|"]
        parts += [*(f"| `{column}` | {means[column]} |" for column in columns), ""]
    how = "`moodreel query NAME --value KEY=VALUE`; `--show` prints the SQL for your database."
    parts += ["## Saved questions", "", how, ""]
    for question in QUESTIONS.values():
        given = question.values.items()
        values = ", ".join(f"`{key}`" if default is None else f"`{key}={default}`" for key, default in given)
        parts += [f"### {question.name}", "", question.title + (f" Values: {values}." if values else ""), ""]
        parts += ["```sql", textwrap.dedent(question.text("postgresql")), "```", ""]
    parts += ["## Tables", ""]
    for table in metadata.sorted_tables:
        parts += [f"### {table.name}", "", _sentence(table.comment), ""]
        parts += ["| column | type | | |", "|---|---|---|---|", *map(_column, table.columns), ""]
        found = {index.name: ", ".join(column.name for column in index.columns) for index in table.indexes}
        indexes = ", ".join(f"`{name}` ({columns})" for name, columns in sorted(found.items()))
        parts += [f"Indexes beside the key: {indexes}." if indexes else "No index beside the key.", ""]
    return "\n".join(parts)


def _sentence(meaning: str) -> str:
    return f"{meaning[0].upper()}{meaning[1:]}."


def _column(column: sa.Column) -> str:
    notes = ["key"] * column.primary_key + ["NULL"] * column.nullable
    notes += [f"refers to {key.column.table.name}.{key.column.name}" for key in column.foreign_keys]
    kind = column.type.compile(dialect=postgresql.dialect())
    return f"| `{column.name}` | {kind} | {', '.join(notes)} | {column.comment} |"


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


PAGES = {"cli.md": command_line, "failures.md": failures, "sql.md": sql, "../README.md": readme}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).write_text(make())
