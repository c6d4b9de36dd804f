"""Who it is that asks, for the audit."""

import getpass
import os
import socket


def actor() -> str:
    """What MOODREEL_ACTOR says, else the user and the machine."""
    return os.environ.get("MOODREEL_ACTOR") or f"{_user()}@{socket.gethostname()}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # as in a container whose user has no name
        return f"uid {os.getuid()}"
