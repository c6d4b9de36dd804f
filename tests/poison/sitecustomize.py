"""Makes a decoding child die of one kind of picture, as a decoder's bug would, wherever this folder is in PYTHONPATH.

Python imports a module of this name when it starts. It changes nothing in any other process.
"""

import os
import signal
import sys
from typing import Any

if "worker.decoder" in sys.orig_argv:
    from worker import decoder_faces

    _POISON = (72, 128)  # height and width in pixels, as tests/archive.py plants them
    _look = decoder_faces.FaceWatcher.look

    def _look_or_die(watcher: Any, picture: Any, *arguments: Any, **options: Any) -> Any:
        if picture.shape[:2] == _POISON:
            os.kill(os.getpid(), signal.SIGSEGV)
        return _look(watcher, picture, *arguments, **options)

    decoder_faces.FaceWatcher.look = _look_or_die
