"""How the programs pause, and how they learn that ECS stops the task."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType
from typing import Protocol


class Stopped(BaseException):
    """ECS stops the task. Not an `Exception`, so that nothing takes it for a failure of its own."""


class Stop(Protocol):
    """Whether the program shall end, and a pause that ends with it."""

    @property
    def requested(self) -> bool:
        """Whether the program has been asked to end."""

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the program is asked to end."""


class StopSignal:
    """SIGTERM and SIGINT. Python runs as process 1, which ignores signals it has no handler for.

    The Python side of a handler runs between two instructions of the program, so a signal that
    comes just before a wait would be noticed after it. That is what the pipe is for: the C side
    writes to it at once, and `pause` waits for it.

    Args:
        interrupts: whether the handler raises `Stopped`, wherever the program is, or only takes
            note, for a program that must finish what it is doing.

    """

    def __init__(self, *, interrupts: bool) -> None:
        self._interrupts = interrupts
        self._requested = False
        self._read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._requested = True
        if self._interrupts:
            raise Stopped

    @property
    def requested(self) -> bool:
        """Whether the program has been asked to end."""
        return self._requested

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the program is asked to end."""
        if not self._requested:
            select.select([self._read_end], [], [], seconds)
