"""Plants what tests cannot bring about from outside, in processes that have this folder in PYTHONPATH.

Python imports a module of this name when it starts. A decoding child dies of one kind of picture, as of a decoder's
bug, and takes very long for another. Where the environment says so, a worker acknowledges messages only after the work,
so that Redis hands them out anew after its visibility timeout, here of a second; and a scheduler dies when it is about
to send its first message. In any other process this changes nothing.
"""

import os
import signal
import sys
import time
from typing import Any

DEADLY, SLOW = (72, 128), (72, 136)  # height and width in pixels, as tests/archive.py plants them
SLOW_SECONDS = 0.5  # for each picture looked at

if "worker.decoder" in sys.orig_argv:
    from worker import decoder_faces

    _look = decoder_faces.FaceWatcher.look

    def _look_or_die(watcher: Any, picture: Any, *arguments: Any, **options: Any) -> Any:
        if picture.shape[:2] == DEADLY:
            os.kill(os.getpid(), signal.SIGSEGV)
        if picture.shape[:2] == SLOW:
            time.sleep(SLOW_SECONDS)
        return _look(watcher, picture, *arguments, **options)

    decoder_faces.FaceWatcher.look = _look_or_die

if "worker.serve" in sys.orig_argv and "MOODREEL_TEST_ACKS_LATE" in os.environ:
    from worker import broker, fleet

    _make_app, _run = broker.make_app, fleet.FleetWorker.run

    def _make_late_app(*arguments: Any) -> Any:
        app = _make_app(*arguments)
        options = {"ack_emulation": True, "visibility_timeout": 1, "unacked_restore_interval": 1}
        options |= {"unacked_restore_throttle": 1}  # look for what is to be handed out anew each time
        app.conf.update(task_acks_late=True, broker_transport_options=app.conf.broker_transport_options | options)
        return app

    def _run_and_say(worker: Any, kind: str, job_id: str) -> None:
        print(f"was given {kind} {job_id}", file=sys.stderr, flush=True)
        _run(worker, kind, job_id)

    broker.make_app, fleet.FleetWorker.run = _make_late_app, _run_and_say

if "watch" in sys.orig_argv and "MOODREEL_TEST_DIES_SENDING" in os.environ:
    from scheduler.queue import Queue

    Queue.send = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
