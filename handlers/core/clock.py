"""The clock of the steps: everything that a step decides by the time, it decides by this."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time, in UTC."""
    return datetime.now(UTC)


def to_text(moment: datetime) -> str:
    """Return a moment as Step Functions takes timestamps: `2026-01-05T20:10:01Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_text(text: str) -> datetime:
    """Read a moment with its offset from UTC.

    Raises:
        ValueError: if it is none, or has no offset.

    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        message = "there is no offset from UTC"
        raise ValueError(message)
    return moment
