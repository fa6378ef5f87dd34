"""Functions that take seconds and touch no scene, in a thread, one after the other, while the window stays usable."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

YIELD_S = 0.02  # that a poll waits for the thread: Slicer's event loop keeps Python's lock, so this is when it runs


class Background:
    """`add` work, then call `poll()` from a timer until `busy` is False; results are handed on by `poll()` alone."""

    def __init__(self):
        self._waiting: deque[tuple[Callable, Callable, Callable]] = deque()
        self._thread: threading.Thread | None = None
        self._outcome: list = []

    @property
    def busy(self) -> bool:
        return self._thread is not None or bool(self._waiting)

    def add(self, work: Callable[[], object], done: Callable[[object], None],
            failed: Callable[[Exception], None]) -> None:
        """done(what `work()` returned) or failed(its exception)"""
        self._waiting.append((work, done, failed))

    def clear(self) -> None:
        """Nobody wants the results any more; what is running ends by itself."""
        self._waiting.clear()
        self._thread = None
        self._outcome = []

    def poll(self) -> None:
        """Lets the thread run for a moment, hands on what it has finished, and starts the next."""
        if self._thread is not None:
            self._thread.join(YIELD_S)
            if self._thread.is_alive():
                return
            self._thread = None
            (work, done, failed), outcome = self._waiting.popleft(), self._outcome[0]
            if isinstance(outcome, Exception):
                failed(outcome)
            else:
                done(outcome)
        if self._thread is None and self._waiting:
            work, outcome = self._waiting[0][0], []
            self._outcome = outcome

            def run() -> None:
                try:
                    outcome.append(work())
                except Exception as error:
                    outcome.append(error)

            self._thread = threading.Thread(target=run, daemon=True)
            self._thread.start()
