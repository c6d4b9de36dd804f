"""One process of a worker: Celery's consumer with a pool of threads, in which a `FleetWorker` does the jobs.

    python -m worker.serve --progress FD --number N < options.json      started by `worker.supervise`

It writes a byte to FD each second, which says whether its jobs get on; `supervise` replaces a process whose jobs do
not, or that falls silent.
"""

import argparse
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from db.errors import FAILURES, DatabaseError, MoodreelError, NotInstalled
from worker import logs
from worker.broker import QUEUE, make_app
from worker.limits import Limits
from worker.supervise import ALIVE, EXIT_REFUSED, MARGIN_SECONDS, STALLED, WorkOptions

if TYPE_CHECKING:
    from worker.fleet import FleetWorker

START_SECONDS = 600.0  # in which a process must have loaded what it needs; models may come from a hub
GIVE_BACK_SECONDS = 5.0

_log = logging.getLogger(__name__)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="worker.serve")
    parser.add_argument("--progress", type=int, required=True)
    parser.add_argument("--number", type=int, required=True)
    arguments = parser.parse_args()
    said = json.load(sys.stdin)
    options = WorkOptions(**said | {"limits": Limits(**said["limits"])})
    logs.set_up(options.log_format)
    pulse = _Pulse(arguments.progress, options.grace_seconds)
    pulse.start()  # before what takes long: loading models counts as progress
    try:
        sys.exit(_serve(options, arguments.number, pulse))
    except MoodreelError as error:
        what_to_do = error.hint or FAILURES[error.code].what_to_do
        _log.critical("%s %s", error, what_to_do, extra={"code": error.code})
        sys.exit(1 if isinstance(error, DatabaseError) else EXIT_REFUSED)
    except ModuleNotFoundError as error:
        _log.critical("%s; pip install 'moodreel[worker]'", error, extra={"code": NotInstalled.code})
        sys.exit(EXIT_REFUSED)
    except Exception:  # noqa: BLE001 - it is logged as everything else is
        _log.critical("the worker went wrong", exc_info=True)
        sys.exit(1)


class _Pulse(threading.Thread):
    """Tells the supervisor each second how this process gets on; ends it in good order if the supervisor is gone."""

    def __init__(self, descriptor: int, grace_seconds: float) -> None:
        super().__init__(name="pulse", daemon=True)
        self._descriptor, self._grace_seconds = descriptor, grace_seconds
        self._ready_by = time.monotonic() + START_SECONDS
        self._gave_back = False
        self.worker: FleetWorker | None = None

    def run(self) -> None:
        while True:
            try:
                os.write(self._descriptor, STALLED if self._is_stalled() else ALIVE)
            except BrokenPipeError:
                _log.error("the supervising process is gone")
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(self._grace_seconds + MARGIN_SECONDS)
                os._exit(1)
            time.sleep(1.0)

    def _is_stalled(self) -> bool:
        """Whether this process is to be replaced; first it lets go of those of its jobs that do get on."""
        if self.worker is None:
            return time.monotonic() > self._ready_by
        if self.worker.is_stalled and not self._gave_back:
            self._gave_back = True
            giving = threading.Thread(target=self.worker.give_back_all, daemon=True)
            giving.start()
            giving.join(GIVE_BACK_SECONDS)
        return self._gave_back


def _serve(options: WorkOptions, number: int, pulse: _Pulse) -> int:
    from celery import signals

    from db.store import Store
    from worker.fleet import FleetOptions, FleetWorker
    from worker.tasks import register

    if options.metrics_port:
        from prometheus_client import start_http_server

        try:
            start_http_server(options.metrics_port + number, options.metrics_host)
        except (OSError, OverflowError) as error:
            _log.error("no metrics on %s:%d: %s", options.metrics_host, options.metrics_port + number, error)
    assert options.slots is not None
    fleet = FleetOptions(
        device=options.device,
        dtype=options.dtype,
        decoder=options.decoder,
        limits=options.limits,
        slots=options.slots,
        pipelines=tuple(options.pipelines),
        lease_seconds=options.lease_seconds,
        stall_seconds=options.stall_seconds,
        max_attempts=options.max_attempts,
    )
    app = make_app(options.broker_url)
    with Store(options.db_url) as store, FleetWorker(store, fleet) as worker:
        with logs.about(worker=worker.owner):
            worker.check()
        register(app, worker)
        pulse.worker = worker

        def shut_down(**_: Any) -> None:
            worker.drain()
            timer = threading.Timer(options.grace_seconds, worker.stop)
            timer.daemon = True
            timer.start()

        signals.worker_shutting_down.connect(shut_down, weak=False)
        consumer = app.Worker(
            pool="worker.pool:WakingPool",
            concurrency=fleet.slots,
            queues=[QUEUE],
            hostname=f"moodreel-{number}-{os.getpid()}@{socket.gethostname()}",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        worker.is_connected = lambda: _is_connected(consumer)
        consumer.start()
        return int(consumer.exitcode or 0)


def _is_connected(controller: Any) -> bool:
    """Whether Celery's worker has a connection to the broker; before its first one it has not even a consumer."""
    connection = getattr(getattr(controller, "consumer", None), "connection", None)
    return bool(connection and connection.connected)


if __name__ == "__main__":
    main()
