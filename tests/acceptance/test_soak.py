"""A short soak: half a minute of good, broken and hostile files through two workers."""

import os

from tests.database import missing
from tests.servers import ServerMissing
from tests.soak.measure import Held
from tests.soak.run import run


def test_half_a_minute_of_all_kinds_of_files(media, short_folder):
    try:
        outcome = run(0.5, 3, short_folder, lambda _: None, warm_up=0.5)
    except ServerMissing as reason:
        missing(str(reason))
        raise
    memory = [wrong for wrong in outcome.wrong if wrong.startswith("memory_mb")]  # half a minute settles no allocator
    assert outcome.wrong == memory, str(outcome)
    assert outcome.ended.total() == outcome.given.total() > 12
    assert outcome.given.keys() == {"good", "broken", "hostile"}
    assert outcome.ended["done"] > 0


def test_what_grows_is_told():
    before = Held(500.0, 200.0, 50, 4, 0, 4, 20, (1, 2))
    assert not before.leaks_until(Held(540.0, 300.0, 55, 3, 1, 5, 21, (2, 1)))
    for grown, name in [
        (Held(700.0, 200.0, 50, 4, 0, 4, 20, (1, 2)), "memory_mb"),
        (Held(500.0, 900.0, 50, 4, 0, 4, 20, (1, 2)), "children_mb"),
        (Held(500.0, 200.0, 90, 4, 0, 4, 20, (1, 2)), "descriptors"),
        (Held(500.0, 200.0, 50, 9, 0, 4, 20, (1, 2)), "children"),
        (Held(500.0, 200.0, 50, 4, 5, 4, 20, (1, 2)), "dead"),
        (Held(500.0, 200.0, 50, 4, 0, 9, 20, (1, 2)), "segments"),
        (Held(500.0, 200.0, 50, 4, 0, 4, 40, (1, 2)), "threads"),
        (Held(500.0, 200.0, 50, 4, 0, 4, 20, (1, 3)), "processes"),
    ]:
        (told,) = before.leaks_until(grown)
        assert told.startswith(name)


def test_this_process_is_measured():
    """Of one worker that is this process's parent's child: nothing is below it."""

    class Self:
        def children(self, module):
            return [os.getpid()] if module == "worker.serve" else []

    found = Held.by([Self()])
    assert found.memory_mb > 10
    assert found.descriptors >= 3
    assert (found.children, found.dead, found.processes) == (0, 0, (os.getpid(),))
