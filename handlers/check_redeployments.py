"""Which tasks still hold a token that has been replaced, and who is to replace those tasks?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from handlers.clients.ecs import Ecs
from handlers.clients.token_users import subjects_of
from handlers.core import clock
from handlers.core.deployment import Deployment
from handlers.core.paging import Room
from handlers.core.step import step
from handlers.core.step_input import take, take_strings, take_time
from handlers.core.subjects import Subject

# The ones that do not fit come when these have been redeployed.
_ROOM = Room(most=200, most_bytes=60_000)


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Look at all tasks that use a subject's token, and at their ECS services.

    Input: `{"subject": …, "since": time, "keep_ecs_services": [name, …], "limit_minutes": n}`.
    Tasks that were made before `since` may hold the old token. The services to keep are deployed
    by somebody else.

    Result::

        {"redeploy": [{"ecs_service": name}, …],    # to `redeploy_service`
         "waiting": n,      # services whose new deployment is not complete yet
         "kept": n,         # old tasks that nobody here replaces: no ECS service, or one to keep
         "done": bool,      # nothing to redeploy, and nothing to wait for
         "expired": bool}   # whether it has taken longer than `limit_minutes`
    """
    subject = Subject.from_state(state.get("subject"))
    since = take_time(state, "since")
    keep = set(take_strings(state, "keep_ecs_services"))
    limit_minutes = take(state, "limit_minutes", int)
    deployment = Deployment.from_environment()
    ecs = Ecs()
    old_tasks: Counter[str | None] = Counter()
    for task in ecs.live_tasks(deployment.cluster_arn):
        if subject in subjects_of(task, deployment):
            old_tasks[task.ecs_service] += task.may_hold_what_was_current_before(since)
    ours = sorted(name for name in old_tasks if name is not None and name not in keep)
    redeploy, waiting, replaced = [], 0, 0
    for service in ecs.services(deployment.cluster_arn, ours):
        if not service.is_redeployable:
            continue
        replaced += old_tasks[service.name]
        if service.deployed_at >= since:
            waiting += bool(old_tasks[service.name]) or not service.is_stable
        elif old_tasks[service.name]:
            redeploy.append({"ecs_service": service.name})
    return {
        "redeploy": _ROOM.take(redeploy)[0],
        "waiting": waiting,
        "kept": old_tasks.total() - replaced,
        "done": not redeploy and not waiting,
        "expired": (clock.now() - since).total_seconds() > 60 * limit_minutes,
    }
