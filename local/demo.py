"""The demonstration: tasks start as ECS would start them, and their tokens are proven."""

from __future__ import annotations

import enum
import shlex
import sys
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
# Makes the stack with the tasks that are deployed, too.
DEMO_SYNTH_OPTIONS = ("--app", f"{shlex.quote(sys.executable)} -m local.demo_app")


class TokenFrom(enum.Enum):
    """What made the token that a task has found."""

    DEPLOYMENT = "deployment"
    """The deployment, before there was an ECS service."""
    EVENT = "event"
    """The workflow that the task's own event has started."""
    EARLIER = "earlier task"
    """An earlier task of the service."""


@dataclass(frozen=True)
class DemoTask:
    """A task that the demonstration starts, and what should come of it."""

    family: str
    tags: Mapping[str, str]
    service: str | None
    """The service whose token it should find; None if it should get none."""
    error: str | None = None
    """The error that its workflow should end with."""
    token_from: TokenFrom | None = None
    """What should have made its token."""


STOREFRONT = DemoTask(
    "storefront-v2",
    {**_MESH, names.SERVICE_NAME_TAG: "storefront"},
    service="storefront",
    token_from=TokenFrom.EVENT,
)
STOREFRONT_AGAIN = replace(STOREFRONT, token_from=TokenFrom.EARLIER)
PAYMENTS = DemoTask(
    "payments",
    {**_MESH, names.SERVICE_NAME_TAG: "payments"},
    service="payments",
    token_from=TokenFrom.DEPLOYMENT,
)
# As made by somebody else's modules: no secret is there, and the family names the service.
INVENTORY = DemoTask("inventory", _MESH, service="inventory", token_from=TokenFrom.EVENT)
REPORT = DemoTask("nightly-report", {}, service=None)
LEGACY = DemoTask("Legacy_API", _MESH, service=None, error="InvalidServiceName")


# The calls that one execution may make, warm, by AWS service or Consul.
BUDGETS: Mapping[str, Mapping[str, int]] = {
    "new_service": {"ecs": 1, "secretsmanager": 5, "consul": 2},
    # Its stack has made the secret, which has no value yet.
    "new_service_with_a_secret": {"ecs": 1, "secretsmanager": 8, "consul": 2},
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
    last_status: str
    """Of the task, or of the one that its ECS service has started in its place."""
    attempts: int = 1
    """How many tasks the ECS service has started until one was RUNNING."""
    token_from: TokenFrom | None = None
    """What has made the token that it found."""
    token_before_service: bool = False
    """Whether the deployment had made sure of the token when the ECS service was created."""

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
        """From the task's start until its workflow had made sure that the token is usable.

        None if there is no token, or if it has been there before the task.
        """
        if self.proof is None or self.token_from is TokenFrom.DEPLOYMENT:
            return None
        return (self.execution.stopped - self.started).total_seconds()

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
            found += self._start_problems()
        return [f"{self.task.family}: {problem}." for problem in found]

    def _start_problems(self) -> list[str]:
        """Return what was not as it should be when the task looked for its token."""
        found = []
        if self.last_status != "RUNNING":
            found.append(f"it is {self.last_status}, not RUNNING")
        if self.token_from is not self.task.token_from:
            found.append(
                f"its token is from {_named(self.token_from)}, not {_named(self.task.token_from)}"
            )
        if self.task.token_from is TokenFrom.DEPLOYMENT:
            if not self.token_before_service:
                found.append("its token was not there before its ECS service was created")
            if self.attempts != 1:
                found.append(f"it was RUNNING at attempt {self.attempts}, not at the first")
        return found


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

    The two of one service start one after another: the second finds the token of the first.
    """
    tasks = LocalTasks(deployment)
    by_hand = (INVENTORY, REPORT, LEGACY)
    for task in by_hand:
        tasks.register(task.family)
    with progress.stage("Start a mesh task, one that is none, and one with an invalid name"):
        inventory, report, legacy = _run(deployment, tasks, by_hand)
    with progress.stage("Start the first task of a service made with MeshTask"):
        first = _scale(deployment, tasks, STOREFRONT, 1)
    with progress.stage("Start a second one"):
        second = _scale(deployment, tasks, STOREFRONT_AGAIN, 2)
    with progress.stage("Look at the service whose token came with its deployment"):
        payments = _deployed(deployment, tasks, PAYMENTS)
    situations = {
        "new_service": inventory,
        "new_service_with_a_secret": first,
        "known_service": second,
        "not_mesh": report,
    }
    others = []
    for each in (inventory, report, legacy):
        tasks.wait_until_started(each.task_arn)
        others.append(replace(each, last_status=tasks.last_status(each.task_arn)))
    return DemoResult(
        tasks=[first, second, payments, *others],
        remote_calls={
            situation: _remote_calls(deployment, result.execution)
            for situation, result in situations.items()
        },
    )


def _run(deployment: Deployment, tasks: LocalTasks, batch: Sequence[DemoTask]) -> list[TaskResult]:
    """Run tasks that are not made with MeshTask, as RunTask does."""
    started = {}
    for task in batch:
        moment = datetime.now(UTC)
        started[tasks.run(task.family, task.tags)] = (task, moment)
    executions = tasks.wait_for_workflows(list(started))
    return [
        _proven(
            deployment,
            TaskResult(
                task=task,
                task_arn=arn,
                started=moment,
                executions=executions[arn],
                expected_secret=_secret_name(deployment, task),
                proof=None,
                last_status=tasks.last_status(arn),
                token_from=_token_from(executions[arn], []) if task.service else None,
            ),
        )
        for arn, (task, moment) in started.items()
    ]


def _scale(deployment: Deployment, tasks: LocalTasks, task: DemoTask, count: int) -> TaskResult:
    """Let the ECS service of a task start one more."""
    service = str(task.service)
    known = {each["taskArn"] for each in tasks.of_service(service)}
    started = datetime.now(UTC)
    tasks.scale(service, count)
    tasks.wait_until_running(service)
    new = [each for each in tasks.of_service(service) if each["taskArn"] not in known]
    return _result(deployment, tasks, task, new, started)


def _deployed(deployment: Deployment, tasks: LocalTasks, task: DemoTask) -> TaskResult:
    """Look at the task that the deployment itself has started."""
    service = str(task.service)
    tasks.wait_until_running(service)
    found = tasks.of_service(service)
    return _result(deployment, tasks, task, found, found[0]["createdAt"])


def _result(
    deployment: Deployment,
    tasks: LocalTasks,
    task: DemoTask,
    attempts: list[dict[str, Any]],
    started: datetime,
) -> TaskResult:
    """Return what came of a task with a token; `attempts` are the tasks until one was RUNNING."""
    service = str(task.service)
    arn = attempts[0]["taskArn"]
    executions = tasks.wait_for_workflows([arn])[arn]
    runs = tasks.deployment_runs(service)
    created = tasks.service(service)["createdAt"]
    result = TaskResult(
        task=task,
        task_arn=arn,
        started=started,
        executions=executions,
        expected_secret=_secret_name(deployment, task),
        proof=None,
        last_status=attempts[-1]["lastStatus"],
        attempts=len(attempts),
        token_from=_token_from(executions, runs),
        token_before_service=any(
            run.status == "SUCCEEDED" and run.stopped <= created for run in runs
        ),
    )
    return _proven(deployment, result)


def _secret_name(deployment: Deployment, task: DemoTask) -> str | None:
    if task.service is None:
        return None
    return names.service_secret_name(deployment.secret_prefix, task.service)


def _proven(deployment: Deployment, result: TaskResult) -> TaskResult:
    """Add what Consul lets the token of a task do, if it has one."""
    service = result.task.service
    if service is None or result.secret_name is None:
        return result
    proof = prove_token(
        deployment,
        secret_name=result.secret_name,
        service=service,
        other_service=_OTHER_SERVICE,
        task_id=result.task_id,
    )
    return replace(result, proof=proof)


def _token_from(own: Sequence[Execution], runs: Sequence[Execution]) -> TokenFrom:
    if any(execution.made_token for execution in own):
        return TokenFrom.EVENT
    if any(run.made_token for run in runs):
        return TokenFrom.DEPLOYMENT
    return TokenFrom.EARLIER


def _named(token_from: TokenFrom | None) -> str:
    return "nothing" if token_from is None else f"the {token_from.value}"


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
