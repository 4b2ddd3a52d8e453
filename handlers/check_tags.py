"""Is this a mesh task, and if so, which token does it need? Or: which one does a service need?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from handlers.clients.ecs import Ecs, Task
from handlers.core import clock, mesh_tasks, names
from handlers.core.deployment import Deployment
from handlers.core.errors import (
    InvalidEvent,
    InvalidServiceName,
    SecretNameCollision,
    TaskNotVisibleYet,
    UnsupportedTenancy,
)
from handlers.core.step import step
from handlers.core.step_input import take
from handlers.core.subjects import Subject
from handlers.core.workflow_input import named_subject

_VISIBLE_WITHIN = timedelta(minutes=1)
_TASK_ARN = re.compile(r"arn:[\w-]+:ecs:[\w-]+:\d{12}:task/[\w/-]+")
_CLUSTER_ARN = re.compile(r"arn:[\w-]+:ecs:[\w-]+:\d{12}:cluster/[\w-]+")


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Read the live task, or take a service by its name, and derive all that the next steps need.

    Input: `{"event": …, "service_rules": {service name: HCL}}`. The event is a whole ECS "Task
    State Change" event; or `{"detail": {"clusterArn": …, "taskArn": …}}`; or `{"service": name}`,
    for a deployment that makes sure of a token before there is any task; or `{"token": "client"}`,
    which all consul-client containers share, to repair it.

    Result, if the task is not in the mesh: `{"mesh": false, "task_arn": …, "reason": …}`; else,
    without `task_arn` if the input names whose token it is, and without `service_name` for one that
    is no service's::

        {"mesh": true, "task_arn": …, "service_name": …,
         "secret": {"id": name, "description": …, "tags": {…}},
         "token": {"description": …, "service_identities": [service], "policies": [name, …]},
         "policy": {"name": …, "description": …, "rules": HCL}}    # only with extra rules

    Raises:
        InvalidEvent, InvalidServiceName, SecretNameCollision, UnsupportedTenancy.
        TaskNotVisibleYet: DescribeTasks is eventually consistent, and events are fast.

    """
    event = state.get("event")
    deployment = Deployment.from_environment()
    rules = take(state, "service_rules", dict)
    named = named_subject(event) if isinstance(event, Mapping) else None
    if named is not None:
        return _needs_of(named, "input", deployment, rules)
    cluster_arn, task_arn = _parse_event(event)
    if cluster_arn != deployment.cluster_arn:
        reason = f"The task belongs to the cluster {cluster_arn}, not to {deployment.cluster_arn}."
        return _not_in_the_mesh(task_arn, reason)
    # The event may be old, and carries no tags: decide on the live task.
    task = Ecs().describe_task(cluster_arn=cluster_arn, task_arn=task_arn)
    if task is None:
        if _is_fresh(state["event"]):
            message = f"ECS has just told of the task {task_arn}, but does not show it yet."
            raise TaskNotVisibleYet(message)
        return _not_in_the_mesh(task_arn, "The task no longer exists.")
    reason_to_skip = _reason_to_skip(task)
    if reason_to_skip is not None:
        return _not_in_the_mesh(task_arn, reason_to_skip)
    _check_tenancy(task)
    subject = Subject(service=_service_name(task))
    found = _needs_of(subject, f"task {task.arn}", deployment, rules)
    return {**found, "task_arn": task.arn}


def _parse_event(event: Any) -> tuple[str, str]:
    """Return the cluster's and the task's ARN."""
    detail = event.get("detail") if isinstance(event, Mapping) else None
    if not isinstance(detail, Mapping):
        message = (
            'The input has no object "detail" and no "service". Start the workflow with an ECS '
            'task event, with {"detail": {"clusterArn": "…", "taskArn": "…"}}, or with '
            '{"service": "…"}.'
        )
        raise InvalidEvent(message)
    return (
        _arn(detail, "clusterArn", _CLUSTER_ARN, "cluster"),
        _arn(detail, "taskArn", _TASK_ARN, "task"),
    )


def _is_fresh(event: Mapping[str, Any]) -> bool:
    """Whether an event is so young that ECS may not show its task yet."""
    try:
        age = clock.now() - clock.from_text(event["time"])
    except (KeyError, TypeError, ValueError):  # started by hand
        return False
    return age < _VISIBLE_WITHIN


def _arn(detail: Mapping[str, Any], key: str, pattern: re.Pattern[str], what: str) -> str:
    value = detail.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        found = "absent" if value is None else f"{value!r:.200}"
        message = f"detail.{key} must be the ARN of an ECS {what}; it is {found}."
        raise InvalidEvent(message)
    return value


def _not_in_the_mesh(task_arn: str, reason: str) -> dict[str, Any]:
    return {"mesh": False, "task_arn": task_arn, "reason": reason}


def _reason_to_skip(task: Task) -> str | None:
    reason = mesh_tasks.reason_not_in_the_mesh(task.tags)
    if reason is None and task.desired_status == "STOPPED":
        return "The task is stopping: it needs no new token."
    return reason


def _check_tenancy(task: Task) -> None:
    tag = mesh_tasks.unsupported_tenancy_tag(task.tags)
    if tag is not None:
        message = (
            f'The tag {tag} of the task {task.arn} is "{task.tags[tag]}". Partitions and '
            "namespaces are Consul Enterprise features, which are not supported here. "
            "Remove the tag."
        )
        raise UnsupportedTenancy(message)


def _needs_of(
    subject: Subject, who: str, deployment: Deployment, rules: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the secret, the token and the policy that somebody asks for."""
    if subject.service and deployment.is_reserved(subject.service):
        message = (
            f'The {who} asks for the service name "{subject.service}", but the secret '
            f"{deployment.secret_id(subject)} belongs to the controller. Choose another service "
            "name."
        )
        raise SecretNameCollision(message)
    service = {"service_name": subject.service} if subject.service else {}
    return {"mesh": True, **service, **deployment.wanted(subject, rules)}


def _service_name(task: Task) -> str:
    name, source = mesh_tasks.service_name(task.tags, task.family)
    if not names.is_valid_service_name(name):
        message = (
            f'The {source} of the task {task.arn} is "{name}", which is no valid service name. '
            f"Allowed: {names.SERVICE_NAME_RULE}. Correct the tag {names.SERVICE_NAME_TAG} and "
            "start the task again."
        )
        raise InvalidServiceName(message)
    return name
