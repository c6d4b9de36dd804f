"""Logs of services: lines on standard error, as JSON for machines or as text for people.

    logs.set_up("json")
    with logs.about(video=uri, span="17/3"):
        logging.getLogger(__name__).info("started")     # the line says which video and span

What is logged may hold names from outside: JSON escapes what could pass for a line of its own, and so does the text.
Of what libraries say of URLs, passwords are left out.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from pythonjsonlogger.json import JsonFormatter

from db.identity import printable
from db.redaction import redacted

FORMATS = ("json", "text")

_OWN = frozenset((*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "about", "asctime", "message"))

_context: ContextVar[dict[str, str | int]] = ContextVar("about", default={})  # noqa: B039 - it is never changed


@contextmanager
def about(**ids: str | int | None) -> Iterator[None]:
    """Let every line of this thread say what it is about: annotation, span, video, pipeline, worker."""
    token = _context.set({**_context.get(), **{name: value for name, value in ids.items() if value is not None}})
    try:
        yield
    finally:
        _context.reset(token)


def set_up(log_format: str, level: int = logging.INFO) -> None:
    """Let all loggers of this process, Celery's too, write to standard error in one of `FORMATS`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_context)
    handler.setFormatter(Json() if log_format == "json" else Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for noisy in ("alembic", "celery.app.trace", "celery.worker.strategy", "httpx", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _add_context(record: logging.LogRecord) -> bool:
    record.about = _context.get()
    return True


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class Json(JsonFormatter):
    """One JSON object a line: time (UTC), level, logger, message, and what it is about."""

    def __init__(self) -> None:
        super().__init__("%(message)s", reserved_attrs=_OWN - {"about"})

    def add_fields(
        self, log_data: dict[str, object], record: logging.LogRecord, message_dict: dict[str, object]
    ) -> None:
        log_data |= {"time": _time(record), "level": record.levelname, "logger": record.name}
        super().add_fields(log_data, record, message_dict)
        log_data.pop("about", None)
        log_data.update(record.__dict__.get("about", {}))

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class Text(logging.Formatter):
    """A line for people: time, level, message, what it is about; the traceback, if any, below it, indented."""

    def format(self, record: logging.LogRecord) -> str:
        extra = {name: value for name, value in record.__dict__.items() if name not in _OWN}
        facts = {**extra, **record.__dict__.get("about", {})}
        ids = "".join(f" {name}={value}" for name, value in facts.items())
        line = printable(f"{_time(record)} {record.levelname} {record.getMessage()}{ids}")
        trace = self.formatException(record.exc_info).splitlines() if record.exc_info else []
        return redacted("\n".join([line, *(f"    {printable(part)}" for part in trace)]))
