"""Cutting what there is much of into pieces that one call takes, or one state holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield all items, so many at a time.

    >>> list(batches("abc", 2))
    [['a', 'b'], ['c']]
    """
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


@dataclass(frozen=True)
class Room:
    """How much of a list a state can hold: so many items, and not more than so many bytes of JSON.

    >>> Room(most=3, most_bytes=12).take(["abc", "de", "f"])
    (['abc', 'de'], Room(most=1, most_bytes=1))
    """

    most: int
    most_bytes: int

    def take(self, items: Sequence[Any]) -> tuple[list[Any], Room]:
        """Return the first items that fit, and the room that is left."""
        most, most_bytes = self.most, self.most_bytes
        fitting: list[Any] = []
        for item in items:
            size = len(json.dumps(item)) + 1  # and the comma
            if most < 1 or size > most_bytes:
                break
            fitting.append(item)
            most, most_bytes = most - 1, most_bytes - size
        return fitting, Room(most, most_bytes)
