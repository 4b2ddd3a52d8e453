"""A task for every test that asks for one."""

from __future__ import annotations

import logging
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.task import FakeTask, FakeTime


@pytest.fixture
def task() -> Iterator[FakeTask]:
    with FakeTask() as running:
        yield running


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def volume() -> Iterator[Path]:
    """A directory for the volume that mesh-init and the proxy share.

    Its path is short, for there is a socket in it; pytest's have the user's name in them, and what
    `--basetemp` says.
    """
    with tempfile.TemporaryDirectory(prefix="mesh-") as directory:
        yield Path(directory)


@pytest.fixture
def own_process() -> Iterator[None]:
    """Take back what a program does to the process that it runs in: it expects one of its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # Out of reach of a program that sets up its log anew.
    root.handlers[:] = []
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    wakeup = signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(wakeup)
    for number, handler in signals.items():
        signal.signal(number, handler)
    root.handlers[:] = handlers
    root.setLevel(level)
