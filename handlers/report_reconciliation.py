"""What Reconciliation has found and done, in numbers: for the console, and as metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.core import environment, metrics
from handlers.core.step import step
from handlers.core.step_input import take, take_objects


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Count what the states of an execution have returned, and publish it.

    Input: `{"run": {…}}`, with `drift`, as `find_drift` returned it, and as far as the execution
    got there `provisioned`, `retired`, `deletion`, `look`, and `put_back`.

    Result: `{"found": …, "repaired": …, "retired": …, "deleted": …, "put_back": …, "left": …}`, all
    of them numbers: of tokens that were retired or deleted, else of services and shared tokens.
    What could not be repaired, and what only an operator can put right, is left.
    """
    run = take(state, "run", dict)
    repaired, not_repaired = _outcomes(run, "provisioned")
    put_back, not_put_back = _outcomes(run, "put_back")
    counts = {
        "found": take(run, "drift.found", int),
        "repaired": repaired,
        "retired": _count(run, "retired", "retired"),
        "deleted": _count(run, "deletion", "deleted"),
        "put_back": put_back,
        "left": take(run, "drift.left", int) + not_repaired + not_put_back,
    }
    metrics.publish(
        cluster=environment.required(environment.CLUSTER_ARN).rpartition("/")[2],
        values={metrics.NAMES[key]: count for key, count in counts.items()},
    )
    return counts


def _outcomes(run: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Return how many nested executions succeeded, and how many did not."""
    items = take_objects(run, name) if name in run else ()
    done = sum("run" in item for item in items)
    return done, len(items) - done


def _count(run: Mapping[str, Any], name: str, key: str) -> int:
    return take(run, f"{name}.{key}", int) if name in run else 0
