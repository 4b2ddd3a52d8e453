"""Counting the remote calls of one step.

A Lambda process serves one invocation at a time, so one counter a process is exact. Keys read
`secretsmanager:GetSecretValue` or `consul:GET /v1/acl/token/:accessor_id`.
"""

from __future__ import annotations

from collections import Counter

_calls: Counter[str] = Counter()


def count(call: str) -> None:
    """Count one call, at the moment at which it is sent."""
    _calls[call] += 1


def start_counting() -> None:
    """Forget the calls of the step before."""
    _calls.clear()


def counted() -> dict[str, int]:
    """Return the calls since `start_counting`, sorted by name."""
    return dict(sorted(_calls.items()))
