"""Time that passes only when nobody has anything to do, or when a call takes some."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

BEGINNING = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


class VirtualClock:
    """The clock of one simulated world. It never goes back."""

    def __init__(self, start: datetime = BEGINNING) -> None:
        self._now = start

    def now(self) -> datetime:
        """Return the time, in UTC."""
        return self._now

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)

    def reach(self, moment: datetime) -> None:
        """Let time pass up to a moment, if it is not over yet."""
        self._now = max(self._now, moment)
