"""Tasks in ECS."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from handlers.clients import aws
from handlers.core.errors import InvalidEvent

_FAMILY = re.compile(r":task-definition/([^:/]+):\d+$")


@dataclass(frozen=True)
class Task:
    """What a step needs to know of a task."""

    arn: str
    family: str
    desired_status: str
    tags: dict[str, str]


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
        for task in answer["tasks"]:
            return _task(task)
        return None


def _task(task: dict[str, Any]) -> Task:
    definition_arn = task["taskDefinitionArn"]
    family = _FAMILY.search(definition_arn)
    if family is None:
        message = f"The task {task['taskArn']} has no family: {definition_arn!r}."
        raise InvalidEvent(message)
    return Task(
        arn=task["taskArn"],
        family=family.group(1),
        desired_status=task["desiredStatus"],
        tags={tag["key"]: tag.get("value", "") for tag in task.get("tags", [])},
    )
