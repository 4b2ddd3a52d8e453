"""The log indexes that Consul reports with every object and every read."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Table: TypeAlias = Literal["policies", "tokens", "catalog", "intentions"]


class RaftLog:
    """Counts writes, and remembers the last one of each table."""

    # A server's own start-up (configuration, autopilot, CA) takes the first entries of its log.
    _FIRST_WRITE = 4

    def __init__(self) -> None:
        self._index = self._FIRST_WRITE - 1
        self._last: dict[Table, int] = {}

    @property
    def index(self) -> int:
        """The index of the last write."""
        return self._index

    def restore(self, index: int) -> None:
        """Go on behind a snapshot's index, or behind our own if that is higher."""
        self._index = max(self._index, index) + 1
        self._last = dict.fromkeys(get_args(Table), self._index)

    def append(self, table: Table) -> int:
        """Count a write to a table; returns its index."""
        self._index += 1
        self._last[table] = self._index
        return self._index

    def last(self, table: Table) -> int:
        """The index of the last write to a table; 1 if there was none."""
        return self._last.get(table, 1)
