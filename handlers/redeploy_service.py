"""Let an ECS service replace its tasks, so that they pull their secrets anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.clients.ecs import Ecs
from handlers.core import environment
from handlers.core.step import step
from handlers.core.step_input import take, take_time


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Begin a new deployment of the same task definition, unless there has been one since.

    Input: `{"ecs_service": name, "since": time}`.

    Result: `{"redeployed": bool}`. False: it was deployed since, or it is gone.
    """
    name = take(state, "ecs_service", str)
    since = take_time(state, "since")
    cluster_arn = environment.required(environment.CLUSTER_ARN)
    ecs = Ecs()
    for service in ecs.services(cluster_arn, [name]):
        if service.deployed_at < since:
            return {"redeployed": ecs.redeploy(cluster_arn, name)}
    return {"redeployed": False}
