"""Cutting what there is much of into pieces that one call takes, or one state holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield all items, so many at a time.

    >>> list(batches("abc", 2))
    [['a', 'b'], ['c']]
    """
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def that_fit(items: Sequence[Any], *, most: int, most_bytes: int) -> list[Any]:
    """Return the first items: so many at most, and not more than so many bytes of JSON.

    >>> that_fit(["abc", "de", "f"], most=3, most_bytes=12)
    ['abc', 'de']
    """
    fitting: list[Any] = []
    for item in items[:most]:
        most_bytes -= len(json.dumps(item)) + 1  # and the comma
        if most_bytes < 0:
            break
        fitting.append(item)
    return fitting
