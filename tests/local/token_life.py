"""What the end-to-end tests of the life of a token share."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import requests
from rich.console import Console

from handlers.core import names
from local.cloud.waiting import until
from local.consul_api import ConsulApi
from local.demo import DEMO_SYNTH_OPTIONS
from local.deployment import Deployment, deployed_app
from local.progress import Progress
from local.tasks import LocalTasks
from tests.local.leaks import capture_events, every_secret, every_text

MESH = {names.MESH_TAG: "true"}
# A minute takes a second, so that nobody waits for a grace period, or for the margin after which
# ECS is sure to pull what was published.
_SPEED = 60.0
_DEADLINE_SECONDS = 240.0
_FORBIDDEN = requests.codes.forbidden


@dataclass(frozen=True)
class Ended:
    """An execution that has ended, in the cloud's time."""

    arn: str
    status: str
    output: Mapping[str, Any]
    error: str | None
    states: tuple[tuple[str, datetime], ...]
    """The states that it went through, and when it entered each."""

    @property
    def names(self) -> list[str]:
        """The names of its states."""
        return [name for name, _ in self.states]

    def entered(self, state: str) -> datetime:
        """Return when it entered a state for the first time."""
        return dict(reversed(self.states))[state]


class TokenLife:
    """A deployed app, its tasks, and its Consul."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.cloud = deployment.cloud
        self.tasks = LocalTasks(deployment)
        self.ecs = deployment.cloud.client("ecs")
        self._secrets = deployment.cloud.client("secretsmanager")
        self._workflows = deployment.cloud.client("stepfunctions")
        self._bootstrap_secret = deployment.outputs["BootstrapTokenSecretArn"]
        self.consul = ConsulApi(deployment.consul, self._value(self._bootstrap_secret))

    # Workflows.

    def start_reconciliation(self, **event: str) -> str:
        """Start Reconciliation; returns the execution's ARN."""
        return self._start(self.deployment.outputs["ReconciliationArn"], event)

    def start_rotation(self, **event: str) -> str:
        """Start TokenRotation; returns the execution's ARN."""
        return self._start(self.deployment.outputs["TokenRotationArn"], event)

    def reconcile(self, **event: str) -> Ended:
        """Run Reconciliation to its end."""
        return self.end_of(self.start_reconciliation(**event))

    def rotate(self, **event: str) -> Ended:
        """Run TokenRotation to its end."""
        return self.end_of(self.start_rotation(**event))

    def ends_of_rotations(self) -> dict[str, str]:
        """Return how the last rotation of each service has ended: the name of its last state."""
        return {
            event["service"]: self.end_of(execution["executionArn"]).names[-1]
            # The last one first, so that it is what stays.
            for execution in reversed(self.executions(self.deployment.outputs["TokenRotationArn"]))
            if "service" in (event := json.loads(execution["input"]))
        }

    def end_of(self, execution_arn: str) -> Ended:
        """Wait for the end of an execution."""

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = self._workflows.describe_execution(executionArn=execution_arn)
            return None if found["status"] == "RUNNING" else found

        found = until(ended, within=_DEADLINE_SECONDS, what=f"the end of {execution_arn}")
        return Ended(
            arn=execution_arn,
            status=found["status"],
            output=json.loads(found.get("output") or "{}"),
            error=found.get("error"),
            states=tuple(self._states(execution_arn)),
        )

    def wait_until_in(self, execution_arn: str, state: str) -> None:
        """Wait until an execution is, or has been, in a state."""
        until(
            lambda: state in dict(self._states(execution_arn)),
            within=_DEADLINE_SECONDS,
            what=f"{execution_arn} has entered {state!r}",
        )

    def executions(self, state_machine_arn: str) -> list[dict[str, Any]]:
        """Return the executions of a state machine, each with its input."""
        summaries = self._workflows.list_executions(stateMachineArn=state_machine_arn)
        return [
            self._workflows.describe_execution(executionArn=summary["executionArn"])
            for summary in summaries["executions"]
        ]

    def _start(self, state_machine_arn: str, event: Mapping[str, str]) -> str:
        answer = self._workflows.start_execution(
            stateMachineArn=state_machine_arn, input=json.dumps(event)
        )
        return str(answer["executionArn"])

    def _states(self, execution_arn: str) -> Iterator[tuple[str, datetime]]:
        pages = self._workflows.get_paginator("get_execution_history").paginate(
            executionArn=execution_arn
        )
        for page in pages:
            for event in page["events"]:
                if "stateEnteredEventDetails" in event:
                    yield event["stateEnteredEventDetails"]["name"], event["timestamp"]

    # Tasks.

    def run_alone(self, family: str) -> str:
        """Run a mesh task that no ECS service has started, until its token is there."""
        self.tasks.register(family)
        task = self.tasks.run(family, MESH)
        self.tasks.wait_for_workflows([task])
        self.tasks.wait_until_started(task)
        return task

    def stop(self, task_arn: str) -> None:
        """Stop a task, and wait until it has."""
        self.ecs.stop_task(cluster=self.deployment.cluster, task=task_arn)
        self.tasks.wait_until_stopped(task_arn)

    def live_tasks(self) -> list[str]:
        """Return the tasks that have not stopped yet, those that drain included."""
        arns = [*self.wanted_tasks(), *self._tasks("STOPPED")]
        if not arns:
            return []
        tasks = self.ecs.describe_tasks(cluster=self.deployment.cluster, tasks=arns)["tasks"]
        return [task["taskArn"] for task in tasks if task["lastStatus"] != "STOPPED"]

    def wanted_tasks(self) -> list[str]:
        """Return the tasks that are to run, without those that drain."""
        return self._tasks("RUNNING")

    def _tasks(self, desired_status: str) -> list[str]:
        pages = self.ecs.get_paginator("list_tasks").paginate(
            cluster=self.deployment.cluster, desiredStatus=desired_status
        )
        return [arn for page in pages for arn in page["taskArns"]]

    def live_tasks_of(self, service: str) -> list[dict[str, Any]]:
        """Return the tasks of an ECS service that have not stopped yet."""
        return [task for task in self.tasks.of_service(service) if task["lastStatus"] != "STOPPED"]

    # Secrets and tokens.

    def secret(self, service: str) -> dict[str, str]:
        """Return what is in the secret of a service."""
        name = names.service_secret_name(self.deployment.secret_prefix, service)
        value: dict[str, str] = json.loads(self._value(name))
        return value

    def shared_secret(self, which: str) -> dict[str, str]:
        """Return what is in the secret of the Client's or the Controller's token."""
        value = self._value(self.deployment.outputs[f"{which}TokenSecretArn"])
        ids: dict[str, str] = json.loads(value)
        return ids

    def pulled(self, task_arn: str) -> Iterator[dict[str, str]]:
        """Yield the IDs of the tokens that a task has in its containers."""
        for secret_arn, version_id in self.cloud.pulled_secrets(task_arn).items():
            value = self._value(secret_arn, VersionId=version_id)
            if "accessor_id" in value:
                yield json.loads(value)

    def tokens_of(self, service: str) -> list[dict[str, Any]]:
        """Return the tokens in Consul that are for a service, those with a mark included."""
        description = names.service_token_description(service, self.deployment.cluster_arn)
        return self._tokens(description)

    def shared_tokens(self, description: str) -> list[dict[str, Any]]:
        """Return the tokens in Consul with one of the shared ones' descriptions."""
        return self._tokens(names.with_cluster_line(description, self.deployment.cluster_arn))

    def is_valid(self, ids: Mapping[str, str]) -> bool:
        """Ask Consul whether it knows a token."""
        try:
            found = ConsulApi(self.deployment.consul, ids["token"]).get("/v1/acl/token/self")
        except requests.HTTPError as error:
            if error.response.status_code != _FORBIDDEN:
                raise
            return False
        return bool(found["AccessorID"] == ids["accessor_id"])

    def _tokens(self, description: str) -> list[dict[str, Any]]:
        return [
            token
            for token in self.consul.get("/v1/acl/tokens")
            if token["Description"].startswith(description)
        ]

    def _value(self, secret_id: str, **version: str) -> str:
        answer = self._secrets.get_secret_value(SecretId=secret_id, **version)
        return str(answer["SecretString"])

    def leaks(self) -> dict[str, list[str]]:
        """Return where secrets are found that should be nowhere but in their stores."""
        tokens = every_secret(self.deployment, self.consul)
        found = {
            place: [secret for secret, token in tokens.items() if token in text]
            for place, text in every_text(self.deployment).items()
        }
        return {place: secrets for place, secrets in found.items() if secrets}


@contextmanager
def token_life(**settings: Mapping[str, Any]) -> Iterator[TokenLife]:
    """Deploy the app and the demonstration's services, with some sections of the settings."""
    with deployed_app(
        Progress(Console(quiet=True)),
        speed=_SPEED,
        task_stage_seconds=0.3,
        settings=settings,
        synth_options=DEMO_SYNTH_OPTIONS,
    ) as deployment:
        capture_events(deployment)
        yield TokenLife(deployment)


class Watch:
    """Looks again and again whether Consul knows every token that somebody has or could get.

    That are those in the containers of tasks that have not stopped, and those that a new task
    would pull. A context manager; what it has found is there afterwards.
    """

    def __init__(self, life: TokenLife, *services: str) -> None:
        self._life = life
        self._services = services
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._problem: Exception | None = None
        self.violations: list[str] = []
        self.seen: set[str] = set()
        """The accessor IDs of the tokens that tasks had in their containers."""

    def __enter__(self) -> Self:
        # Once before anything happens, and once afterwards, however busy the machine is meanwhile.
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._problem is not None:
            raise self._problem
        if error is None:
            self._look()

    def _watch(self) -> None:
        try:
            while not self._over.wait(0.05):
                self._look()
        except Exception as problem:  # noqa: BLE001 - it is raised where the watch ends
            self._problem = problem

    def _look(self) -> None:
        for task in self._life.live_tasks():
            self._look_at_task(task)
        for service in self._services:
            self._look_at_secret(service)

    def _look_at_task(self, task: str) -> None:
        for ids in self._life.pulled(task):
            self.seen.add(ids["accessor_id"])
            # It may have stopped since it was listed, and its token deleted then.
            if not self._life.is_valid(ids) and task in self._life.live_tasks():
                self.violations.append(f"{task} holds {ids['accessor_id']}, which is unknown")

    def _look_at_secret(self, service: str) -> None:
        ids = self._life.secret(service)
        # It may have been replaced since it was read, and its token deleted then.
        if not self._life.is_valid(ids) and self._life.secret(service) == ids:
            self.violations.append(
                f"new tasks of {service} pull {ids['accessor_id']}, which is unknown"
            )
