"""How messages travel: the Celery application that those who send hints and those who act on them share.

A message carries the id of one row and nothing else. It may be lost, doubled or late: the row decides. Knows no model,
no media and no row.
"""

import logging
import os
import re
import socket
import warnings
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from celery.exceptions import CPendingDeprecationWarning
from celery.signals import setup_logging
from kombu.transport import redis

from db.errors import BadOption

QUEUE = "moodreel"
URGENT, FRESH, USUAL, BACKFILL = PRIORITY_STEPS = (0, 3, 6, 9)  # Redis keeps a list for each; the lowest goes first
TIMEOUT_SECONDS = 3.0  # for one answer of the broker, and for a connection to it

_log = logging.getLogger(__name__)


class _Channel(redis.Channel):
    """Drops what is no message at all; with Kombu's own channel that ends the process that takes it."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            _log.warning("something that is no message was in the queue, and was dropped: %s", error)


redis.Transport.Channel = _Channel

# Celery lets these win over the broker that it is told.
_OVERRIDES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")


def make_app(broker_url: str) -> Celery:
    """The application, not connected yet.

    Args:
        broker_url: of a Redis server, like redis://:PASSWORD@HOST:6379/0.

    Raises:
        BadOption: the URL names no Redis server.
    """
    check_url(broker_url)
    # Celery thinks of ending running tasks when the broker goes away. The row decides, so they had better go on.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    for name in _OVERRIDES:
        os.environ.pop(name, None)
    app = Celery("moodreel", broker=_checking_certificates(broker_url))
    app.conf.update(
        task_default_queue=QUEUE,
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=False,
        task_publish_retry=False,
        task_send_sent_event=False,
        worker_disable_prefetch=True,  # a message waits in Redis, where any worker may take it
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=TIMEOUT_SECONDS,
        broker_transport_options=_transport(),
        enable_utc=True,
        timezone="UTC",
    )
    return app


def _checking_certificates(broker_url: str) -> str:
    """A URL that has a server's certificate checked, where it asks for TLS and does not say how; Kombu would not."""
    parts = urlsplit(broker_url)
    if parts.scheme != "rediss" or "ssl_cert_reqs" in parts.query:
        return broker_url
    return parts._replace(query="&".join(filter(None, (parts.query, "ssl_cert_reqs=required")))).geturl()


def _leave_logging_alone(**_: Any) -> None:
    """Answered, the signal keeps Celery from setting up logging; `worker.logs` does."""


setup_logging.connect(_leave_logging_alone, weak=False)


def _transport() -> dict[str, Any]:
    """Settings of the connection to Redis: priorities, and how it is noticed that nobody is there any more."""
    keepalive = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # seconds, seconds, times; Linux
    return {
        "priority_steps": list(PRIORITY_STEPS),
        "queue_order_strategy": "priority",
        "sep": ":",
        # A message that was taken is gone from Redis. To keep it there until it is acknowledged is of no use, since the
        # row decides, and Redis out of memory would refuse, which ends the worker that takes a message.
        "ack_emulation": False,
        "max_retries": 0,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_keepalive": True,
        "socket_keepalive_options": {
            getattr(socket, name): value for name, value in keepalive.items() if hasattr(socket, name)
        },
        "health_check_interval": 10,
    }


def check_url(broker_url: str) -> None:
    """See whether a URL can be a Redis server's.

    Raises:
        BadOption: it cannot.
    """
    try:
        parts = urlsplit(broker_url)
        by_network = parts.scheme in ("redis", "rediss") and (parts.port or 1) > 0
        known = parts.scheme == "redis+socket" or (by_network and re.fullmatch(r"/?[0-9]*", parts.path) is not None)
    except ValueError:
        known = False
    if not known:
        # The URL may hold a password, so it is not quoted.
        raise BadOption(
            "The broker's URL names no Redis server.",
            hint="Use redis://:PASSWORD@HOST:6379/0, or rediss:// with TLS; escape special characters in the password.",
        )
