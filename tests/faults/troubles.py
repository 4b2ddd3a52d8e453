"""Services that are in trouble for a while."""

from __future__ import annotations

from datetime import datetime, timedelta

from tests.faults.kinds import Fault, Service
from tests.faults.virtual_time import VirtualClock


class Troubles:
    """Which service is in which trouble now."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._troubles: dict[Service, tuple[Fault, datetime]] = {}

    def begin(self, service: Service, fault: Fault) -> None:
        """Let a service be in trouble for as long as the fault lasts."""
        ends = self._clock.now() + timedelta(seconds=fault.lasts)
        self._troubles[service] = (fault, ends)

    def of(self, service: Service) -> Fault | None:
        """Return the trouble that a service is in."""
        fault, ends = self._troubles.get(service, (None, None))
        return fault if ends is not None and self._clock.now() < ends else None

    def end(self) -> None:
        """Let all services be well again."""
        self._troubles.clear()
