"""The demonstration: tasks start as ECS would start them, and their tokens are proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

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
    execution: Execution
    """The one that decided: the first that went well, else the last."""
    proof: Proof | None
    secret_name: str | None
    seconds: float | None
    """From RunTask until the workflow had made sure that the token is usable."""

    @property
    def task_id(self) -> str:
        """The last part of the task's ARN."""
        return self.task_arn.rpartition("/")[2]

    @property
    def mesh(self) -> bool:
        """Whether the task is tagged as a mesh task."""
        return self.task.tags.get(names.MESH_TAG) == "true"

    def problems(self) -> list[str]:
        """Return what is not as it should be."""
        expected = ("FAILED", self.task.error) if self.task.error else ("SUCCEEDED", None)
        found = (self.execution.status, self.execution.error)
        problems = []
        if found != expected:
            problems.append(f"{self.task.family}: the workflow ended {found}, not {expected}.")
        if self.task.service is not None:
            if self.proof is None:
                problems.append(f"{self.task.family}: there is no token to prove.")
            elif not self.proof.own_service_allowed:
                problems.append(f"{self.task.family}: its token may not register its service.")
            elif not self.proof.other_service_refused:
                problems.append(f"{self.task.family}: its token may register another service.")
        elif self.secret_name is not None:
            problems.append(f"{self.task.family}: there is a secret, and there should be none.")
        return problems


@dataclass(frozen=True)
class DemoResult:
    """What came of the demonstration."""

    tasks: list[TaskResult]
    remote_calls: dict[str, dict[str, int]]
    """By situation; each call as `secretsmanager:GetSecretValue` or `consul:GET /v1/…`."""

    def problems(self) -> list[str]:
        """Return what is not as it should be, for a person to read."""
        return [problem for task in self.tasks for problem in task.problems()] + [
            problem
            for situation, calls in self.remote_calls.items()
            for problem in _over_budget(situation, calls)
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
    succeeded = [execution for execution in executions if execution.status == "SUCCEEDED"]
    decisive = min(succeeded, key=lambda execution: execution.stopped, default=executions[-1])
    provisioned = decisive.output.get("task", {})
    secret_name = provisioned.get("secret", {}).get("id")
    proof = None
    if secret_name is not None:
        proof = prove_token(
            deployment,
            secret_name=secret_name,
            service=provisioned["service_name"],
            other_service=_OTHER_SERVICE,
            task_id=task_arn.rpartition("/")[2],
        )
    return TaskResult(
        task=task,
        task_arn=task_arn,
        execution=decisive,
        proof=proof,
        secret_name=secret_name,
        seconds=(decisive.stopped - started).total_seconds() if proof else None,
    )


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
