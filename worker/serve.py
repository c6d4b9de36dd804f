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
from typing import Any

from db.errors import DatabaseError, MoodreelError
from worker import logs
from worker.broker import QUEUE, make_app
from worker.supervise import ALIVE, EXIT_REFUSED, STALLED, WorkOptions

_log = logging.getLogger(__name__)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="worker.serve")
    parser.add_argument("--progress", type=int, required=True)
    parser.add_argument("--number", type=int, required=True)
    arguments = parser.parse_args()
    options = WorkOptions(**json.load(sys.stdin))
    logs.set_up(options.log_format)
    pulse = _Pulse(arguments.progress)
    pulse.start()  # before what takes long: loading models counts as progress
    try:
        sys.exit(_serve(options, arguments.number, pulse))
    except MoodreelError as error:
        _log.error("%s %s [%s]", error, error.hint, error.code)
        sys.exit(1 if isinstance(error, DatabaseError) else EXIT_REFUSED)


class _Pulse(threading.Thread):
    """Tells the supervisor each second that this process gets on; ends it in good order if the supervisor is gone."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(name="pulse", daemon=True)
        self._descriptor = descriptor
        self.worker: Any = None

    def run(self) -> None:
        while True:
            try:
                os.write(self._descriptor, STALLED if self.worker is not None and self.worker.is_stalled else ALIVE)
            except BrokenPipeError:
                _log.error("the supervising process is gone")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(1.0)


def _serve(options: WorkOptions, number: int, pulse: _Pulse) -> int:
    from celery import signals

    from db.store import Store
    from worker.fleet import FleetOptions, FleetWorker
    from worker.tasks import register

    if options.metrics_port:
        from prometheus_client import start_http_server

        start_http_server(options.metrics_port + number, options.metrics_host)
    assert options.slots is not None
    fleet = FleetOptions(
        options.device,
        options.slots,
        tuple(options.pipelines),
        options.lease_seconds,
        options.stall_seconds,
        options.max_attempts,
    )
    app = make_app(options.broker_url)
    signals.setup_logging.connect(lambda **_: None, weak=False)  # or Celery would set up its own
    for repeated in ("celery.worker.strategy", "celery.app.trace"):  # each job says itself what became of it
        logging.getLogger(repeated).setLevel(logging.WARNING)
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
        consumer.start()
        return int(consumer.exitcode or 0)


if __name__ == "__main__":
    main()
