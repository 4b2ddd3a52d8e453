"""How long a task waits for its token: from RunTask to the end of the workflow, locally and warm.

`make bench` runs it.
"""

from __future__ import annotations

import statistics
from datetime import UTC, datetime

from rich.console import Console

from handlers.core import names
from local.deployment import Deployment, deployed_app
from local.progress import Progress
from local.tasks import LocalTasks

_TASKS = 20
_WARM_UP = 2
_MESH = {names.MESH_TAG: "true"}


def main() -> None:
    """Measure new and known services, one task after another, and print the percentiles."""
    console = Console()
    progress = Progress(console)
    with deployed_app(progress, task_stage_seconds=0.5) as deployment:
        families = [f"bench-{number}" for number in range(_WARM_UP + _TASKS)]
        with progress.stage(f"Start {_TASKS} tasks of new services"):
            new = _seconds(deployment, families)
        with progress.stage(f"Start {_TASKS} tasks of known services"):
            known = _seconds(deployment, families)
        console.print("\nRunTask to usable token, seconds:")
        for situation, seconds in (("new service", new), ("known service", known)):
            deciles = statistics.quantiles(seconds, n=20)
            console.print(
                f"  {situation:14} p50 {statistics.median(seconds):.2f}  p95 {deciles[-1]:.2f}"
            )
        console.print(f"Consul was {deployment.consul.kind} {deployment.consul.version}.")


def _seconds(deployment: Deployment, families: list[str]) -> list[float]:
    tasks = LocalTasks(deployment)
    measured = []
    for family in families:
        tasks.register(family)
        started = datetime.now(UTC)
        arn = tasks.run(family, _MESH)
        first, *_ = tasks.wait_for_workflows([arn])[arn]
        measured.append((first.stopped - started).total_seconds())
    return measured[_WARM_UP:]


if __name__ == "__main__":
    main()
