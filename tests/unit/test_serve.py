"""What a worker process tells its supervisor."""

import os
import time
from types import SimpleNamespace

import pytest

from worker import serve
from worker.serve import _Pulse
from worker.supervise import ALIVE, STALLED


@pytest.fixture
def pulse():
    heard, descriptor = os.pipe()
    pulse = _Pulse(descriptor, 1.0)
    pulse.heard = heard
    return pulse


def last(pulse):
    time.sleep(1.5)
    return os.read(pulse.heard, 100)[-1:]


def test_a_process_that_hangs_while_it_starts_says_so(pulse, monkeypatch):
    pulse.start()
    assert last(pulse) == ALIVE
    pulse._ready_by = 0.0
    assert last(pulse) == STALLED


def test_a_process_that_stalls_first_gives_back_what_gets_on(pulse):
    given = []
    pulse.worker = SimpleNamespace(is_stalled=False, give_back_all=lambda: given.append(1))
    pulse.start()
    assert last(pulse) == ALIVE
    pulse.worker.is_stalled = True
    assert last(pulse) == STALLED
    pulse.worker.is_stalled = False  # it has nothing left to do, and is replaced all the same
    assert last(pulse) == STALLED
    assert given == [1]


def test_giving_back_does_not_keep_it_from_saying_so(pulse, monkeypatch):
    monkeypatch.setattr(serve, "GIVE_BACK_SECONDS", 0.2)
    pulse.worker = SimpleNamespace(is_stalled=True, give_back_all=lambda: time.sleep(60))
    pulse.start()
    assert last(pulse) == STALLED
