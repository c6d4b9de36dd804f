"""Plants what tests cannot bring about from outside, in processes that have this folder in PYTHONPATH.

Python imports a module of this name when it starts. A decoding child dies of one kind of picture, as of a decoder's
bug, and takes very long for another. Where the environment says so, a worker lets Redis hand out anew after a second
what it usually keeps for an hour, and a scheduler dies when it is about to send its first message. In any other process
this changes nothing.
"""

import os
import signal
import sys
import time
from typing import Any

DEADLY, SLOW = (72, 128), (72, 136)  # height and width in pixels, as tests/archive.py plants them
SLOW_SECONDS = 1.0  # for each picture looked at

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

if "worker.serve" in sys.orig_argv and "MOODREEL_TEST_VISIBILITY_SECONDS" in os.environ:
    from worker import broker

    broker.make_app.__defaults__ = (int(os.environ["MOODREEL_TEST_VISIBILITY_SECONDS"]),)

if "watch" in sys.orig_argv and "MOODREEL_TEST_DIES_SENDING" in os.environ:
    from scheduler.queue import Queue

    Queue.send = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
