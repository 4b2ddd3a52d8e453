"""What there was a moment ago: the answers of services that are eventually consistent."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from typing import Generic, TypeVar

from tests.faults.kinds import STALE_SECONDS

T = TypeVar("T")


class View(Enum):
    """As of when a service answers."""

    NOW = "now"
    BEFORE_THE_LAST_WRITE = "stale"
    A_MOMENT_AGO = "staler"


class History(Generic[T]):
    """The states of the last few seconds. States must not change once they are here."""

    def __init__(self) -> None:
        self._replaced: list[tuple[datetime, T]] = []

    def remember(self, state: T, *, until: datetime) -> None:
        """Keep a state that is replaced at this moment."""
        oldest = until - timedelta(seconds=STALE_SECONDS)
        self._replaced = [one for one in self._replaced if one[0] > oldest]
        self._replaced.append((until, state))

    def seen(self, view: View, current: T, *, now: datetime) -> T:
        """Return the state that a reader sees."""
        if view is View.NOW:
            return current
        oldest = now - timedelta(seconds=STALE_SECONDS)
        young = [state for until, state in self._replaced if until > oldest]
        if not young:
            return current
        return young[-1] if view is View.BEFORE_THE_LAST_WRITE else young[0]
