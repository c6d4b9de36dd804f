"""Lets whoever runs the tests look into /proc/PID of decoding children that have this folder in their path.

Python imports a module of this name when it starts. Otherwise only root may, since the children are not dumpable.
"""

import sys

if "worker.decoder" in sys.orig_argv:
    from worker import sandbox

    _prctl = sandbox._prctl
    sandbox._prctl = lambda option, value: None if option == sandbox._PR_SET_DUMPABLE else _prctl(option, value)
