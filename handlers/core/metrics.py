"""Metrics in CloudWatch, by way of the log: no call, no permission, nothing to wait for.

CloudWatch makes metrics of log records in its embedded metric format, a JSON object with a member
`_aws` (CloudWatch user guide, "Specification: Embedded metric format"). With a function's log
format set to JSON, Lambda renders the `extra` fields of a record at the top, where it looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from handlers.core import clock
from handlers.core.step import logger

NAMESPACE: Final = "ConsulOnEcs"
DIMENSION: Final = "Cluster"
NAMES: Final = {
    "found": "TokensFoundWrong",
    "repaired": "TokensRepaired",
    "retired": "TokensRetired",
    "deleted": "TokensDeleted",
    "put_back": "TokensPutBack",
    "left": "TokensLeft",
}
"""What `report_reconciliation` counts, and what the metric is called."""
CERTIFICATE_DAYS_LEFT: Final = "CertificateDaysLeft"
"""Of each certificate of Consul servers that this project issues; the minimum is what matters."""

SNAPSHOT_BYTES: Final = "SnapshotBytes"
"""The size of each snapshot that was stored."""


def publish(*, cluster: str, values: Mapping[str, int]) -> None:
    """Publish counts, each under its name, for a cluster."""
    logger.info(
        "Metrics",
        extra={
            "_aws": {
                "Timestamp": int(clock.now().timestamp() * 1000),
                "CloudWatchMetrics": [
                    {
                        "Namespace": NAMESPACE,
                        "Dimensions": [[DIMENSION]],
                        "Metrics": [{"Name": name, "Unit": "Count"} for name in values],
                    }
                ],
            },
            DIMENSION: cluster,
            **values,
        },
    )
