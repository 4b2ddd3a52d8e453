"""How many of several services got new tokens, and which ones did not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.core import environment, metrics
from handlers.core.paging import Room
from handlers.core.step import step
from handlers.core.step_input import take

_ROOM = Room(most=20, most_bytes=4000)


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Count the nested executions, and publish the counts.

    Input: `{"rotations": [{"service": name, "run": {…}}, …]}`, without `run` where it failed.

    Result: `{"rotated": n, "left": n, "services": [name, …]}`, the first of those that are left.
    """
    rotations = take(state, "rotations", list)
    left = [take(item, "service", str) for item in rotations if not _has_run(item)]
    counts = {"rotated": len(rotations) - len(left), "left": len(left)}
    metrics.publish(
        cluster=environment.required(environment.CLUSTER_ARN).rpartition("/")[2],
        values={"TokensRotated": counts["rotated"], "RotationsFailed": counts["left"]},
    )
    return {**counts, "services": _ROOM.take(left)[0]}


def _has_run(item: Any) -> bool:
    return isinstance(item, dict) and "run" in item
