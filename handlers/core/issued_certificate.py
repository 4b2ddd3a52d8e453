"""What the steps that issue certificates have in common."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from handlers.core import clock, environment, metrics
from handlers.core.errors import InvalidStepInput
from handlers.core.step_input import take

BACKDATED: Final = timedelta(minutes=5)
"""How long before it is issued a certificate begins, for clocks that are behind."""
_LONGEST_DAYS: Final = 36_500


def take_lifetime(value: Any, path: str) -> timedelta:
    """Return the lifetime, in days, at a dotted path of a step's input.

    Raises:
        InvalidStepInput: if it is none.

    """
    days = take(value, path, int)
    if not 1 <= days <= _LONGEST_DAYS:
        message = f'The input of the step needs "{path}", from 1 to {_LONGEST_DAYS} days.'
        raise InvalidStepInput(message)
    return timedelta(days=days)


def report(
    *, arn: str, version_id: str, not_after: datetime, now: datetime, issued: bool
) -> dict[str, Any]:
    """Publish how long the certificate lasts that is in use now; return the step's result.

    All certificates of a cluster are one metric: its minimum is the one that ends first.
    """
    metrics.publish(
        cluster=environment.required(environment.CLUSTER_ARN).rpartition("/")[2],
        values={metrics.CERTIFICATE_DAYS_LEFT: (not_after - now).days},
    )
    return {
        "arn": arn,
        "version_id": version_id,
        "expires": clock.to_text(not_after),
        "issued": issued,
    }
