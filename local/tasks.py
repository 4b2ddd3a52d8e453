"""Tasks of the local ECS cluster, and the executions that they start."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from local.cloud.waiting import until
from local.deployment import Deployment

# EventBridge lets two of a Fargate task's events through: PROVISIONING and PENDING.
_EXECUTIONS_PER_TASK = 2
_DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Execution:
    """One ended execution of TaskProvisioning."""

    arn: str
    task_arn: str
    status: str
    error: str | None
    started: datetime
    stopped: datetime
    output: Mapping[str, Any]


class LocalTasks:
    """Runs tasks on Fargate, as the local cloud has it.

    Args:
        deployment: what runs on this machine.

    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._ecs = deployment.cloud.client("ecs")
        self._sfn = deployment.cloud.client("stepfunctions")
        self._ended: dict[str, Execution] = {}

    def register(self, family: str) -> None:
        """Register a task definition with one container."""
        self._ecs.register_task_definition(
            family=family,
            requiresCompatibilities=["FARGATE"],
            networkMode="awsvpc",
            cpu="256",
            memory="512",
            containerDefinitions=[
                {"name": "app", "image": "public.ecr.aws/docker/library/busybox"}
            ],
        )

    def network(self) -> tuple[str, str]:
        """Return a subnet and a security group for tasks to run in."""
        ec2 = self._deployment.cloud.client("ec2")
        subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        return subnet, group

    def run(self, family: str, tags: Mapping[str, str]) -> str:
        """Start a task and return its ARN."""
        subnet, group = self.network()
        answer = self._ecs.run_task(
            cluster=self._deployment.cluster,
            taskDefinition=family,
            launchType="FARGATE",
            networkConfiguration={
                "awsvpcConfiguration": {"subnets": [subnet], "securityGroups": [group]}
            },
            tags=[{"key": key, "value": value} for key, value in tags.items()],
        )
        arn: str = answer["tasks"][0]["taskArn"]
        return arn

    def wait_for_workflows(
        self, task_arns: list[str], *, at_least: int = _EXECUTIONS_PER_TASK
    ) -> dict[str, list[Execution]]:
        """Wait until so many workflows of each task have ended; by task, earliest first.

        Raises:
            TimeoutError: if they have not after a minute.

        """

        def ended() -> dict[str, list[Execution]] | None:
            found = self._ended_executions()
            if any(len(found.get(arn, [])) < at_least for arn in task_arns):
                return None
            return {arn: found[arn] for arn in task_arns}

        return until(
            ended,
            within=_DEADLINE_SECONDS,
            what=f"the workflows of the tasks {', '.join(task_arns)} to end",
        )

    def wait_until_stopped(self, task_arn: str) -> None:
        """Wait until ECS says that a task is STOPPED.

        Raises:
            TimeoutError: if it does not after a minute.

        """

        def stopped() -> bool:
            described = self._ecs.describe_tasks(cluster=self._deployment.cluster, tasks=[task_arn])
            return bool(described["tasks"][0]["lastStatus"] == "STOPPED")

        until(stopped, within=_DEADLINE_SECONDS, what=f"the task {task_arn} to stop")

    def run_to_its_end(self, state_machine_arn: str, workflow_input: object) -> dict[str, Any]:
        """Start a workflow and return its ended execution, as DescribeExecution has it.

        Raises:
            TimeoutError: if it has not ended after a minute.

        """
        arn = self._sfn.start_execution(
            stateMachineArn=state_machine_arn, input=json.dumps(workflow_input)
        )["executionArn"]

        def ended() -> dict[str, Any] | None:
            described: dict[str, Any] = self._sfn.describe_execution(executionArn=arn)
            return described if described["status"] != "RUNNING" else None

        return until(ended, within=_DEADLINE_SECONDS, what=f"the execution {arn} to end")

    def _ended_executions(self) -> dict[str, list[Execution]]:
        for summary in self._summaries():
            arn = summary["executionArn"]
            if summary["status"] == "RUNNING" or arn in self._ended:
                continue
            described = self._sfn.describe_execution(executionArn=arn)
            self._ended[arn] = Execution(
                arn=arn,
                task_arn=json.loads(described["input"])["detail"]["taskArn"],
                status=described["status"],
                error=described.get("error"),
                started=described["startDate"],
                stopped=described["stopDate"],
                output=json.loads(described.get("output") or "{}"),
            )
        by_task: dict[str, list[Execution]] = {}
        for execution in sorted(self._ended.values(), key=lambda execution: execution.started):
            by_task.setdefault(execution.task_arn, []).append(execution)
        return by_task

    def _summaries(self) -> Iterator[dict[str, Any]]:
        pages = self._sfn.get_paginator("list_executions").paginate(
            stateMachineArn=self._deployment.outputs["TaskProvisioningArn"]
        )
        for page in pages:
            yield from page["executions"]
