"""Tasks and services in ECS."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from handlers.clients import aws
from handlers.core.errors import InvalidEvent, TaskNotVisibleYet
from handlers.core.paging import batches

_FAMILY = re.compile(r":task-definition/([^:/]+):\d+$")
_SERVICE_GROUP = "service:"
# What becomes of a service that somebody deletes.
_GONE = frozenset({"ServiceNotFoundException", "ServiceNotActiveException"})
# What one call takes: DescribeTasks, DescribeServices (ECS API reference).
_TASKS_A_CALL = 100
_SERVICES_A_CALL = 10


@dataclass(frozen=True)
class Task:
    """What a step needs to know of a task."""

    arn: str
    family: str
    desired_status: str
    tags: dict[str, str]
    created_at: datetime | None = None
    """When it was made, which is before it pulls its secrets; None while ECS does not say."""
    ecs_service: str | None = None
    """The name of the ECS service that it belongs to; None for one that was started alone."""

    def may_hold_what_was_current_before(self, moment: datetime) -> bool:
        """Whether it may have pulled a secret before a moment."""
        return self.created_at is None or self.created_at < moment


@dataclass(frozen=True)
class Service:
    """What a step needs to know of an ECS service."""

    name: str
    deployed_at: datetime
    """When its latest deployment began."""
    is_stable: bool
    """Whether that deployment is complete, and as many tasks run as are wanted."""
    is_redeployable: bool
    """Whether it is active, and ECS itself deploys it (not CodeDeploy or something else)."""


class Ecs:
    """The calls that the steps make. `client` is a boto3 ECS client."""

    def __init__(self, client: Any | None = None) -> None:
        self._client = client if client is not None else aws.client("ecs")

    def describe_task(self, *, cluster_arn: str, task_arn: str) -> Task | None:
        """Return a task with its tags, or None if ECS does not know it (any more).

        A stopped task stays known for about an hour.

        Raises:
            InvalidEvent: if ECS finds the task's ARN malformed.

        """
        with aws.translated_errors(f"Describing the task {task_arn}"):
            try:
                answer = self._client.describe_tasks(
                    cluster=cluster_arn, tasks=[task_arn], include=["TAGS"]
                )
            except ClientError as error:
                if aws.error_code(error) == "ClusterNotFoundException":
                    return None
                if aws.error_code(error) != "InvalidParameterException":
                    raise
                message = f"ECS does not take {task_arn} for a task of the cluster {cluster_arn}."
                raise InvalidEvent(message) from error
            return next((_task(task) for task in aws.member(answer, "tasks", list)), None)

    def live_tasks(self, cluster_arn: str) -> Iterator[Task]:
        """Yield every task of a cluster that is not stopped yet, with its tags.

        Those that are draining are wanted to be stopped, and run on for a while; ListTasks shows
        them in another list. They are looked for last, so that no task escapes by beginning to
        drain meanwhile; one that does is yielded twice. Pages are read one at a time.

        Raises:
            TaskNotVisibleYet: DescribeTasks is eventually consistent, and lists may be ahead of it.

        """
        for desired_status in ("RUNNING", "STOPPED"):
            for page in self._task_pages(cluster_arn, desired_status):
                with aws.translated_errors(f"Describing tasks of the cluster {cluster_arn}"):
                    answer = self._client.describe_tasks(
                        cluster=cluster_arn, tasks=page, include=["TAGS"]
                    )
                    found = aws.member(answer, "tasks", list)
                    live = [_task(task) for task in found if task["lastStatus"] != "STOPPED"]
                if desired_status == "RUNNING" and len(found) < len(page):
                    # Not so of the others: ECS forgets stopped tasks, after about an hour.
                    message = f"ECS lists tasks of {cluster_arn} that it does not describe yet."
                    raise TaskNotVisibleYet(message)
                yield from live

    def _task_pages(self, cluster_arn: str, desired_status: str) -> Iterator[list[str]]:
        more: dict[str, str] = {}
        while True:
            with aws.translated_errors(f"Listing the tasks of the cluster {cluster_arn}"):
                answer = self._client.list_tasks(
                    cluster=cluster_arn,
                    desiredStatus=desired_status,
                    maxResults=_TASKS_A_CALL,
                    **more,
                )
                arns = aws.member(answer, "taskArns", list)
            if arns:  # DescribeTasks refuses an empty list
                yield arns
            if not answer.get("nextToken"):
                return
            more = {"nextToken": answer["nextToken"]}

    def services(self, cluster_arn: str, names: Sequence[str]) -> Iterator[Service]:
        """Yield the services of these names; not those that ECS does not know (any more)."""
        for some in batches(names, _SERVICES_A_CALL):
            with aws.translated_errors(f"Describing services of the cluster {cluster_arn}"):
                answer = self._client.describe_services(cluster=cluster_arn, services=some)
                found = [
                    _service(service)
                    for service in aws.member(answer, "services", list)
                    if service["status"] != "INACTIVE"
                ]
            yield from found

    def redeploy(self, cluster_arn: str, service_name: str) -> bool:
        """Replace all tasks of a service by new ones of the same definition.

        Returns whether a deployment was begun: not if the service is gone or about to go.
        """
        with aws.translated_errors(f"Redeploying the service {service_name} of {cluster_arn}"):
            try:
                self._client.update_service(
                    cluster=cluster_arn, service=service_name, forceNewDeployment=True
                )
            except ClientError as error:
                if aws.error_code(error) in _GONE:
                    return False
                raise
        return True


def _task(task: dict[str, Any]) -> Task:
    arn, definition_arn = aws.member(task, "taskArn", str), task["taskDefinitionArn"]
    family = _FAMILY.search(definition_arn)
    if family is None:
        message = f"The task {arn} has no family: {definition_arn!r}."
        raise InvalidEvent(message)
    group = task.get("group") or ""
    return Task(
        arn=arn,
        family=family.group(1),
        desired_status=aws.member(task, "desiredStatus", str),
        tags={tag["key"]: _tag_value(tag) for tag in _members(task, "tags")},
        created_at=_moment(task, "createdAt") if "createdAt" in task else None,
        ecs_service=(
            group.removeprefix(_SERVICE_GROUP) if group.startswith(_SERVICE_GROUP) else None
        ),
    )


def _members(answer: dict[str, Any], name: str) -> list[Any]:
    return aws.member(answer, name, list) if name in answer else []


def _tag_value(tag: dict[str, Any]) -> str:
    return aws.member(tag, "value", str) if "value" in tag else ""


def _moment(answer: dict[str, Any], name: str) -> datetime:
    moment = aws.member(answer, name, datetime)
    if moment.tzinfo is None:
        message = f"{name} has no offset from UTC"
        raise TypeError(message)
    return moment


def _service(service: dict[str, Any]) -> Service:
    # External controllers and CodeDeploy keep task sets instead of deployments.
    deployments = service.get("deployments") or []
    latest = next((one for one in deployments if one["status"] == "PRIMARY"), None)
    return Service(
        name=aws.member(service, "serviceName", str),
        deployed_at=_moment(latest or service, "createdAt"),
        is_stable=(
            len(deployments) <= 1
            # Absent for services without rolling updates by ECS.
            and (latest or {}).get("rolloutState", "COMPLETED") == "COMPLETED"
            and service["runningCount"] == service["desiredCount"]
            and not service["pendingCount"]
        ),
        is_redeployable=(
            service["status"] == "ACTIVE"
            and service.get("deploymentController", {}).get("type", "ECS") == "ECS"
        ),
    )
