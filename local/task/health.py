"""Health checks, as Docker does them.

The first probe is one interval after the start. One success makes a container healthy, a number of
failures in a row makes it unhealthy; failures in its start period do not count.
https://docs.docker.com/reference/dockerfile/#healthcheck
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Literal, TypeAlias

from local.task.definition import HealthCheck

HealthStatus: TypeAlias = Literal["UNKNOWN", "HEALTHY", "UNHEALTHY"]


@dataclass(frozen=True)
class Health:
    """A container's health, as the metadata endpoint tells it."""

    status: HealthStatus
    since: datetime
    output: str = ""
    exit_code: int | None = None

    @classmethod
    def new(
        cls, status: HealthStatus = "UNKNOWN", output: str = "", code: int | None = None
    ) -> Health:
        """Make one as of now."""
        return cls(status, datetime.now(UTC), output, code)


Probe: TypeAlias = Callable[[float], tuple[int, str]]
"""Runs the check's command, for so many seconds at most; returns its exit code and output."""


def watch(
    check: HealthCheck,
    probe: Probe,
    *,
    ended: threading.Event,
    report: Callable[[Health], None],
) -> None:
    """Probe until the container has ended, and report each change of the status.

    Parameters
    ----------
    check
        What to probe, and how often.
    probe
        Makes one probe.
    ended
        Set when the container is gone.
    report
        Called with the new health.
    """
    started = monotonic()
    status: HealthStatus = "UNKNOWN"
    failures = 0
    while not ended.wait(check.interval):
        code, output = probe(check.timeout)
        if code == 0:
            failures = 0
            now: HealthStatus = "HEALTHY"
        elif status == "UNKNOWN" and monotonic() - started < check.start_period:
            continue
        else:
            failures += 1
            now = "UNHEALTHY" if failures >= check.retries else status
        if now != status and not ended.is_set():
            status = now
            report(Health.new(status, output, code))
