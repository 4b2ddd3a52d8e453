"""The demonstration: tasks start as ECS would start them, and their tokens are proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from handlers.core import names
from local.deployment import Deployment
from local.progress import Progress
from local.proof import Proof, prove_token
from local.tasks import Execution, LocalTasks

_MESH = {names.MESH_TAG: "true"}
_OTHER_SERVICE = "somebody-elses-service"


@dataclass(frozen=True)
class DemoTask:
    """A task that the demonstration starts, and what should come of it."""

    family: str
    tags: Mapping[str, str]
    service: str | None
    """The service whose token it should find; None if it should get none."""
    error: str | None = None
    """The error that its workflow should end with."""


STOREFRONT = DemoTask(
    "storefront-v2", {**_MESH, names.SERVICE_NAME_TAG: "storefront"}, service="storefront"
)
PAYMENTS = DemoTask("payments", _MESH, service="payments")
REPORT = DemoTask("nightly-report", {}, service=None)
LEGACY = DemoTask("Legacy_API", _MESH, service=None, error="InvalidServiceName")


# The calls that one execution may make, warm, by AWS service or Consul.
BUDGETS: Mapping[str, Mapping[str, int]] = {
    "new_service": {"ecs": 1, "secretsmanager": 5, "consul": 2},
    "known_service": {"ecs": 1, "secretsmanager": 2, "consul": 1},
    "not_mesh": {"ecs": 1},
}


@dataclass(frozen=True)
class TaskResult:
    """What came of one task."""

    task: DemoTask
    task_arn: str
    started: datetime
    """When it was asked for."""
    executions: Sequence[Execution]
    """All that its events have started, earliest first."""
    expected_secret: str | None
    """The secret that its task definition would refer to; None if it should get none."""
    proof: Proof | None

    @property
    def task_id(self) -> str:
        """The last part of the task's ARN."""
        return self.task_arn.rpartition("/")[2]

    @property
    def mesh(self) -> bool:
        """Whether the task is tagged as a mesh task."""
        return self.task.tags.get(names.MESH_TAG) == "true"

    @property
    def execution(self) -> Execution:
        """The one that decided: the first that went well, else the last."""
        succeeded = [each for each in self.executions if each.status == "SUCCEEDED"]
        return min(succeeded, key=lambda each: each.stopped, default=self.executions[-1])

    @property
    def service_name(self) -> str | None:
        """The service that the workflow took the task for."""
        name: str | None = _provisioned(self.execution).get("service_name")
        return name

    @property
    def secret_name(self) -> str | None:
        """The secret that the workflow made sure of."""
        name: str | None = _provisioned(self.execution).get("secret", {}).get("id")
        return name

    @property
    def seconds(self) -> float | None:
        """From RunTask until the workflow had made sure that the token is usable."""
        return (self.execution.stopped - self.started).total_seconds() if self.proof else None

    def problems(self) -> list[str]:
        """Return what is not as the task's tags demand, for a person to read."""
        expected = ("FAILED", self.task.error) if self.task.error else ("SUCCEEDED", None)
        found = [
            f"the workflow {execution.arn} ended {ended}, not {expected}"
            for execution in self.executions
            if (ended := (execution.status, execution.error)) != expected
        ]
        if self.service_name != self.task.service:
            found.append(f"its service is {self.service_name}, not {self.task.service}")
        if self.secret_name != self.expected_secret:
            found.append(f"its secret is {self.secret_name}, not {self.expected_secret}")
        if self.task.service is not None:
            if self.proof is None:
                found.append("there is no token to prove")
            else:
                if not self.proof.own_service_allowed:
                    found.append("its token may not register its service")
                if not self.proof.other_service_refused:
                    found.append("its token may register another service")
        return [f"{self.task.family}: {problem}." for problem in found]


@dataclass(frozen=True)
class DemoResult:
    """What came of the demonstration."""

    tasks: Sequence[TaskResult]
    remote_calls: Mapping[str, Mapping[str, int]]
    """By situation; each call as `secretsmanager:GetSecretValue` or `consul:GET /v1/…`."""

    def problems(self) -> list[str]:
        """Return what is not as it should be, for a person to read."""
        return [
            *(problem for task in self.tasks for problem in task.problems()),
            *self._unshared_tokens(),
            *(
                problem
                for situation, calls in self.remote_calls.items()
                for problem in _over_budget(situation, calls)
            ),
        ]

    def _unshared_tokens(self) -> list[str]:
        """Name the services whose tasks have found more than one token."""
        accessor_ids: dict[str, set[str]] = {}
        for task in self.tasks:
            if task.task.service is not None and task.proof is not None:
                accessor_ids.setdefault(task.task.service, set()).add(task.proof.accessor_id)
        return [
            f"{service}: its tasks have different tokens, {', '.join(sorted(found))}."
            for service, found in accessor_ids.items()
            if len(found) > 1
        ]


def run_demo(deployment: Deployment, progress: Progress) -> DemoResult:
    """Start the tasks, wait for their workflows, prove their tokens.

    The first three start one after another, so that the calls of each situation can be counted.
    """
    tasks = LocalTasks(deployment)
    results: list[TaskResult] = []
    for task in (STOREFRONT, PAYMENTS, REPORT, LEGACY):
        tasks.register(task.family)
    for text, batch in (
        ("Start the first task of a service", [STOREFRONT]),
        ("Start a second one", [STOREFRONT]),
        ("Start a task that is not in the mesh", [REPORT]),
        ("Start a service without a name tag, and one with an invalid name", [PAYMENTS, LEGACY]),
    ):
        with progress.stage(text):
            results += _run(deployment, tasks, batch)
    new, known, not_mesh = (_remote_calls(deployment, result.execution) for result in results[:3])
    return DemoResult(
        tasks=results,
        remote_calls={"new_service": new, "known_service": known, "not_mesh": not_mesh},
    )


def _run(deployment: Deployment, tasks: LocalTasks, batch: list[DemoTask]) -> list[TaskResult]:
    started = {}
    for task in batch:
        moment = datetime.now(UTC)
        started[tasks.run(task.family, task.tags)] = (task, moment)
    executions = tasks.wait_for_workflows(list(started))
    return [
        _result(deployment, task, arn, moment, executions[arn])
        for arn, (task, moment) in started.items()
    ]


def _result(
    deployment: Deployment,
    task: DemoTask,
    task_arn: str,
    started: datetime,
    executions: list[Execution],
) -> TaskResult:
    result = TaskResult(
        task=task,
        task_arn=task_arn,
        started=started,
        executions=executions,
        expected_secret=task.service
        and names.service_secret_name(deployment.secret_prefix, task.service),
        proof=None,
    )
    if task.service is None or result.secret_name is None:
        return result
    proof = prove_token(
        deployment,
        secret_name=result.secret_name,
        service=task.service,
        other_service=_OTHER_SERVICE,
        task_id=result.task_id,
    )
    return replace(result, proof=proof)


def _provisioned(execution: Execution) -> Mapping[str, Any]:
    """Return what the workflow found out about its task; empty if it failed before."""
    found: Mapping[str, Any] = execution.output.get("task", {})
    return found


def _remote_calls(deployment: Deployment, execution: Execution) -> dict[str, int]:
    """Add up what the steps of an execution logged."""
    calls: Counter[str] = Counter()
    for line in deployment.cloud.lambda_logs():
        record = line["record"]
        if record.get("execution") == execution.arn:
            calls.update(record.get("remote_calls", {}))
    return dict(sorted(calls.items()))


def _over_budget(situation: str, calls: Mapping[str, int]) -> list[str]:
    by_service: Counter[str] = Counter()
    for call, count in calls.items():
        by_service[call.partition(":")[0]] += count
    budget = BUDGETS[situation]
    return [
        f"{situation}: {count} calls of {service}, and the budget is {budget.get(service, 0)}."
        for service, count in by_service.items()
        if count > budget.get(service, 0)
    ] + ([] if calls else [f"{situation}: no calls were counted."])
