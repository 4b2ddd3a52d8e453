"""Tasks and services of the local ECS cluster, and the executions that they start."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from local.cloud.waiting import until
from local.deployment import Deployed

# EventBridge lets two of a Fargate task's events through: PROVISIONING and PENDING.
_EXECUTIONS_PER_TASK = 2
_DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Execution:
    """One ended execution of TaskProvisioning.

    A task's event has started it, or a deployment, for a service: one of the two is None.
    """

    arn: str
    task_arn: str | None
    service: str | None
    status: str
    error: str | None
    started: datetime
    stopped: datetime
    output: Mapping[str, Any]

    @property
    def made_token(self) -> bool:
        """Whether it has made or changed the token, and not only found it in order."""
        return bool(self.output.get("token", {}).get("change", "none") != "none")


class LocalTasks:
    """Runs tasks on Fargate, as the local cloud has it.

    Args:
        deployment: what runs on this machine.

    """

    def __init__(self, deployment: Deployed) -> None:
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
            found: dict[str, list[Execution]] = {}
            for execution in self._ended_executions():
                if execution.task_arn is not None:
                    found.setdefault(execution.task_arn, []).append(execution)
            if any(len(found.get(arn, [])) < at_least for arn in task_arns):
                return None
            return {arn: found[arn] for arn in task_arns}

        return until(
            ended,
            within=_DEADLINE_SECONDS,
            what=f"the workflows of the tasks {', '.join(task_arns)} to end",
        )

    def deployment_runs(self, service: str) -> list[Execution]:
        """Return the ended workflows that deployments have started for a service."""
        return [each for each in self._ended_executions() if each.service == service]

    def service(self, name: str) -> dict[str, Any]:
        """Return an ECS service, as DescribeServices has it."""
        answer = self._ecs.describe_services(cluster=self._deployment.cluster, services=[name])
        service: dict[str, Any] = answer["services"][0]
        return service

    def of_service(self, name: str) -> list[dict[str, Any]]:
        """Return the tasks of an ECS service, those that have stopped included, oldest first."""
        cluster = self._deployment.cluster
        arns = [
            arn
            for status in ("RUNNING", "STOPPED")
            for arn in self._ecs.list_tasks(
                cluster=cluster, serviceName=name, desiredStatus=status
            )["taskArns"]
        ]
        if not arns:
            return []
        tasks: list[dict[str, Any]] = self._ecs.describe_tasks(cluster=cluster, tasks=arns)["tasks"]
        return sorted(tasks, key=lambda task: task["createdAt"])

    def scale(self, service: str, count: int) -> None:
        """Give an ECS service so many tasks."""
        self._ecs.update_service(
            cluster=self._deployment.cluster, service=service, desiredCount=count
        )

    def wait_until_running(self, service: str) -> None:
        """Wait until all tasks that an ECS service should have are RUNNING.

        Raises:
            TimeoutError: if they are not after a minute.

        """

        def running() -> bool:
            found = self.service(service)
            return bool(found["runningCount"] == found["desiredCount"])

        until(running, within=_DEADLINE_SECONDS, what=f"the tasks of {service} to be RUNNING")

    def last_status(self, task_arn: str) -> str:
        """Return the status of a task."""
        described = self._ecs.describe_tasks(cluster=self._deployment.cluster, tasks=[task_arn])
        return str(described["tasks"][0]["lastStatus"])

    def wait_until_started(self, task_arn: str) -> None:
        """Wait until ECS says that a task is RUNNING.

        Raises:
            TimeoutError: if it does not after a minute.

        """
        self._wait_until(task_arn, "RUNNING")

    def wait_until_stopped(self, task_arn: str) -> None:
        """Wait until ECS says that a task is STOPPED.

        Raises:
            TimeoutError: if it does not after a minute.

        """
        self._wait_until(task_arn, "STOPPED")

    def _wait_until(self, task_arn: str, status: str) -> None:
        until(
            lambda: self.last_status(task_arn) == status,
            within=_DEADLINE_SECONDS,
            what=f"the task {task_arn} to be {status}",
        )

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

    def _ended_executions(self) -> list[Execution]:
        for summary in self._summaries():
            arn = summary["executionArn"]
            if summary["status"] == "RUNNING" or arn in self._ended:
                continue
            described = self._sfn.describe_execution(executionArn=arn)
            started_for = json.loads(described["input"])
            self._ended[arn] = Execution(
                arn=arn,
                task_arn=started_for.get("detail", {}).get("taskArn"),
                service=started_for.get("service"),
                status=described["status"],
                error=described.get("error"),
                started=described["startDate"],
                stopped=described["stopDate"],
                output=json.loads(described.get("output") or "{}"),
            )
        return sorted(self._ended.values(), key=lambda execution: execution.started)

    def _summaries(self) -> Iterator[dict[str, Any]]:
        pages = self._sfn.get_paginator("list_executions").paginate(
            stateMachineArn=self._deployment.outputs["TaskProvisioningArn"]
        )
        for page in pages:
            yield from page["executions"]
