"""Celery's pool of threads, which tells the consumer at once when it has room again.

With prefetching off, the consumer asks the broker for a message only while a thread is free, and it looks whether one
is when its event loop turns: once a second, unless something wakes it. Here a finished task does.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery.concurrency.thread import ApplyResult, TaskPool


class WakingPool(TaskPool):  # type: ignore[misc]
    """A thread pool whose finished tasks wake the event loop."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)

    def register_with_event_loop(self, hub: Any) -> None:
        """Let the loop turn when a task is over."""
        hub.add_reader(self._woken, self._drain)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **options: Any,
    ) -> ApplyResult:
        """Run a task in a thread."""

        def finished(*results: Any) -> None:
            try:
                if callback is not None:
                    callback(*results)  # after this the task no longer counts
            finally:
                self._wake_up()

        return super().on_apply(target, args, kwargs, finished, accept_callback, **options)

    def _wake_up(self) -> None:
        with suppress(BlockingIOError):  # it has been woken often enough
            os.write(self._wake, b".")

    def _drain(self) -> None:
        os.read(self._woken, 4096)
