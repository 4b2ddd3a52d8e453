"""Telling a person what is being done, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Progress:
    """Shows the current stage while it runs, and keeps a line of each that has ended.

    Args:
        console: where to; without a terminal there, only the ended stages are shown.

    """

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, text: str) -> Iterator[None]:
        """Show a stage while the block runs."""
        started = time.monotonic()
        with self._console.status(f"{text} …"):
            yield
        seconds = time.monotonic() - started
        self._console.print(f"[green]✓[/green] {text} [dim]{seconds:.1f} s[/dim]")
