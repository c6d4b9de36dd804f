"""The command `moodreel query`: a question in SQL, or a saved one by its name."""

import csv
import difflib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from db.asking import Answer, asked
from db.errors import BadOption, QuestionUnknown
from db.identity import printable
from db.questions import QUESTIONS, Question
from db.session import open_engine
from scheduler.show import open_existing

SHOWN_CHARACTERS = 120  # of a cell, in a terminal
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how cells begin that a spreadsheet would compute


@dataclass(frozen=True)
class QueryOptions:
    """What is asked for.

    Attributes:
        db_url: of the database.
        sql: a SELECT, or a saved question's name.
        values: `name=value` each, of the saved question.
        limit: at most so many rows.
        timeout_seconds: for all of it.
        output: `table`, `csv` or `json`.
        explain: show how the database would answer instead.
    """

    db_url: str
    sql: str
    values: Sequence[str]
    limit: int
    timeout_seconds: float
    output: str
    explain: bool


def run(options: QueryOptions) -> None:
    """Ask, and print what was found.

    Raises:
        QuestionUnknown: there is no such saved question, or it lacks a value.
        QueryRefused, QueryFailed: see `db.asking.asked`.
    """
    with open_existing(options.db_url):
        pass  # a database that is not there, or is old, is said to be so before the question is
    dialect = open_engine(options.db_url).dialect.name
    question = _question(options.sql)
    given = question.given(_values(options.values))
    sql = question.text(dialect).rstrip().rstrip(";")
    with asked(options.db_url, sql, given, options.timeout_seconds, explain=options.explain) as answer:
        rows = islice(answer.rows, options.limit)
        n_rows = _PRINTERS[options.output](answer, rows)
        more = next(answer.rows, None) is not None
    if more:
        print(f"There are more rows than these {n_rows}; --limit asks for more.", file=sys.stderr)


def show_list(as_json: bool) -> None:
    """Print the saved questions."""
    if as_json:
        print(json.dumps([{"name": q.name, "title": q.title, "values": dict(q.values)} for q in QUESTIONS.values()]))
        return
    table = Table("question", "what it asks", "values", box=None, pad_edge=False)
    for question in QUESTIONS.values():
        values = ", ".join(
            name if default is None else f"{name}={default}" for name, default in question.values.items()
        )
        table.add_row(question.name, Text(question.title), Text(values))
    Console().print(table)


def show_sql(db_url: str, name: str) -> None:
    """Print a saved question's SQL, as this database takes it."""
    print(_saved(name).text(open_engine(db_url).dialect.name))


def _question(sql: str) -> Question:
    """What is asked: one word is the name of a saved question."""
    return Question("", "", sql) if any(c.isspace() or c in "(;" for c in sql.strip()) else _saved(sql.strip())


def _saved(name: str) -> Question:
    if name not in QUESTIONS:
        like = difflib.get_close_matches(name, QUESTIONS, n=1)
        hint = f"Did you mean {like[0]}?" if like else "`moodreel query --list` shows all."
        raise QuestionUnknown(f"There is no saved question {printable(name)}.", hint=hint)
    return QUESTIONS[name]


def _values(given: Sequence[str]) -> dict[str, str]:
    """Values by name.

    Raises:
        BadOption: one has no name.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadOption(f"--value {printable(text)}: a name, = and a value are wanted")
        found[name] = value
    return found


def _table(answer: Answer, rows: Iterator[tuple[Any, ...]]) -> int:
    table, n_rows = Table(box=None, pad_edge=False), 0
    for name in answer.columns:
        table.add_column(Text(printable(name)))
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
        n_rows += 1
    Console().print(table if n_rows else "no rows")
    return n_rows


def _cell(value: Any) -> Text:
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, float | Decimal):
        number = float(value)
        return Text(f"{number:.4g}" if abs(number) < 1000 else f"{number:.1f}", justify="right")
    if isinstance(value, int):
        return Text(str(value), justify="right")
    said = printable(_plain(value))
    return Text(said if len(said) <= SHOWN_CHARACTERS else f"{said[:SHOWN_CHARACTERS]}...")


def _csv(answer: Answer, rows: Iterator[tuple[Any, ...]]) -> int:
    out, n_rows = csv.writer(sys.stdout, lineterminator="\n"), 0
    out.writerow([harmless(name) for name in answer.columns])
    for row in rows:
        out.writerow([harmless(_plain(value)) if value is not None else "" for value in row])
        n_rows += 1
    return n_rows


def harmless(value: Any) -> Any:
    """A cell that no spreadsheet computes: text that begins like a formula gets an apostrophe. Numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _json(answer: Answer, rows: Iterator[tuple[Any, ...]]) -> int:
    """One array, an object a row; written as the rows come."""
    n_rows = 0
    sys.stdout.write("[")
    for row in rows:
        found = {name: _plain(value) for name, value in zip(answer.columns, row, strict=True)}
        sys.stdout.write(("," if n_rows else "") + "\n" + json.dumps(found, ensure_ascii=False))
        n_rows += 1
    sys.stdout.write("\n]\n" if n_rows else "]\n")
    return n_rows


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


_PRINTERS = {"table": _table, "csv": _csv, "json": _json}
