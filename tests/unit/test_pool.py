"""The pool of threads wakes the consumer's event loop."""

import time

from kombu.asynchronous import Hub

from worker.pool import WakingPool


def test_a_finished_task_wakes_the_loop_after_it_is_off_the_books():
    pool, hub, order = WakingPool(1), Hub(), []
    pool.start()
    hub.on_tick.add(lambda: order.append("turn"))
    hub.call_later(30, lambda: None)  # without a timer the loop would not wait
    pool.register_with_event_loop(hub)
    pool.apply_async(lambda: time.sleep(0.2), callback=lambda *_: order.append("finished"))
    began = time.monotonic()
    while "finished" not in order[:-1]:
        hub.run_once()
        assert time.monotonic() - began < 5
    assert order.index("finished") < len(order) - 1
    assert 0.15 < time.monotonic() - began < 3
    pool.stop()


def test_many_tasks_do_not_fill_the_pipe():
    pool = WakingPool(1)
    pool.start()
    for _ in range(100_000):
        pool._wake_up()
    pool.stop()
