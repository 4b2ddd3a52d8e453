"""Doing things later, in one thread that waits for the next of them."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_LOG = logging.getLogger(__name__)


class Scheduler:
    """Runs functions at their time, one after the other. They must not take long."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to run what is due."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Run ``function`` in so many seconds; what is due at the same time runs in order."""
        with self._changed:
            entry = (time.monotonic() + seconds, next(self._order), function)
            heapq.heappush(self._waiting, entry)
            self._changed.notify()

    def stop(self) -> None:
        """Run nothing any more, and wait for what is running."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (function := self._next()) is not None:
            try:
                function()
            except Exception:  # noqa: BLE001 - the others must run all the same
                _LOG.exception("%s: a scheduled function failed", self._name)

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._stopped:
                if not self._waiting:
                    self._changed.wait()
                    continue
                left = self._waiting[0][0] - time.monotonic()
                if left <= 0:
                    return heapq.heappop(self._waiting)[2]
                self._changed.wait(left)
        return None
