"""Waiting for a condition that nothing announces."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T | None], *, within: float = 60.0, what: str, every: float = 0.02
) -> T:
    """Ask ``condition`` again and again until it holds, and return what it gave.

    Parameters
    ----------
    condition
        Holds when it returns something true.
    within
        Seconds to wait at most: how long a busy machine may take, and no measure of anything.
    what
        What is waited for, for the message.
    every
        Seconds between two questions.

    Raises
    ------
    TimeoutError
        It did not hold in time; the message says what, and what the last answer was.
    """
    deadline = time.monotonic() + within
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Not within {within:g} s: {what} (last answer: {answer!r})")
        time.sleep(every)
    return answer
