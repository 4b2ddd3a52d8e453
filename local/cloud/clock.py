"""The time in a local cloud, which may go faster than ours."""

from __future__ import annotations

import datetime
import time


class CloudClock:
    """What everything in one cloud goes by.

    A cloud whose ``speed`` is 60 lives through a minute while we wait for a second: its Wait
    states, retries and scheduled rules come 60 times as soon, and whatever it writes the time to
    (tasks, secrets, executions, events) shows that so much time has gone by. Work does not go
    faster, so time-outs of work are left as they are.

    One that goes faster is counted by the monotonic clock, as our waiting is: where the machine's
    clock is set back by a second, the time in the cloud would go back by a minute.
    """

    def __init__(self, speed: float = 1.0) -> None:
        if speed < 1:
            raise ValueError(f"A cloud's clock can go faster, not slower, than ours: {speed:g}.")
        self.speed = speed
        self.started = time.time()
        """When it was started, in seconds since the epoch; one that goes faster shows our time only
        then."""
        self.origin = time.monotonic()
        """The same moment by the monotonic clock, which all processes of a machine share."""

    def time(self) -> float:
        """Return the seconds since the epoch."""
        if self.speed == 1:
            return time.time()
        return self.started + (time.monotonic() - self.origin) * self.speed

    def now(self) -> datetime.datetime:
        """Return the time, in UTC."""
        return datetime.datetime.fromtimestamp(self.time(), datetime.UTC)

    def text(self) -> str:
        """Return the time as AWS's workflows and events write it."""
        return as_text(self.now())

    def wait(self, seconds: float) -> float:
        """Return how many of our seconds so many seconds of the cloud's take."""
        return seconds / self.speed


def as_text(moment: datetime.datetime) -> str:
    """Write a moment as ``2026-01-05T20:10:01.123Z``; one without an offset is in UTC.

    >>> as_text(datetime.datetime(2026, 1, 5, 20, 10, 1))
    '2026-01-05T20:10:01.000Z'
    """
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='milliseconds')}Z"
