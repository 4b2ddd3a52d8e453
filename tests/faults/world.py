"""What there is besides the controller: tasks that come and go, and people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from handlers.core import names
from local.consul.acl import Token
from tests.faults.consul_server import AclTables, SimulatedConsul
from tests.faults.ecs import Cluster, EcsService, EcsStore, EcsTask
from tests.faults.sandbox import current_sandbox
from tests.faults.secrets_manager import Secret, SecretsStore
from tests.faults.stage import Script, Stage
from tests.faults.step_functions import StepFunctions
from tests.faults.template import Template

_PULLS_AFTER = 4.0
_RUNS_AFTER = 6.0
_DRAINS_FOR = 30.0
_SCHEDULER_WAITS = (10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
_DEPLOYMENT_LOOKS = 60


@dataclass(frozen=True)
class Pulled:
    """What a task has got from a secret."""

    accessor_id: str
    secret_id: str = field(repr=False)


@dataclass(frozen=True)
class Saved:
    """A world at a moment in which nothing happens."""

    now: datetime
    secrets: Mapping[str, Secret]
    cluster: Cluster
    tables: AclTables
    known: Mapping[str, str]
    pulled: Mapping[str, tuple[Pulled, ...]]
    foreign: tuple[frozenset[Any], ...]
    tasks: int


class World:
    """The surroundings of the controller.

    Attributes:
        pulled: what each task has pulled, by its ARN.
        tampered: accessor IDs of tokens that a person has deleted, or has taken out of a secret in
            a way that replaces them: tasks that hold those are not protected.
        violations: which rules were broken while things happened.

    """

    def __init__(
        self,
        template: Template,
        stage: Stage,
        secrets: SecretsStore,
        ecs: EcsStore,
        *,
        consul: SimulatedConsul,
        step_functions: StepFunctions,
    ) -> None:
        self.template = template
        self.stage = stage
        self.secrets = secrets
        self.ecs = ecs
        self.consul = consul
        self.step_functions = step_functions
        self.pulled: dict[str, tuple[Pulled, ...]] = {}
        self.tampered: set[str] = set()
        self.violations: list[str] = []
        self.foreign: tuple[frozenset[Any], ...] = ()
        self._tasks = 0
        self._deleted_after_look: dict[str, datetime] = {}
        """As of when the tasks were seen by whoever deleted a token, by its secret ID."""
        consul.on_deleted = self._token_deleted
        ecs.on_redeploy = self._redeploy

    # --- names ----------------------------------------------------------------------------------

    def secret_name(self, service: str) -> str:
        """Return the name of a service's secret."""
        return names.service_secret_name(self.template.secret_prefix, service)

    @property
    def client_secret_name(self) -> str:
        """The name of the secret of all consul-client containers."""
        return names.client_secret_name(self.template.secret_prefix)

    @property
    def live_tasks(self) -> list[EcsTask]:
        """All tasks that have not stopped."""
        return [task for task in self.ecs.cluster.tasks.values() if task.is_live]

    def services_with_tasks(self) -> set[str]:
        """Return the services of the mesh that have a live task."""
        return {task.tags[names.SERVICE_NAME_TAG] for task in self.live_tasks}

    def ids_in(self, secret_name: str) -> Pulled | None:
        """Return what a task pulls; None if there are no IDs, or nothing that can be read."""
        try:
            value = json.loads(self.secrets.current(secret_name) or "")
            return Pulled(value["accessor_id"], value["token"])
        except (ValueError, KeyError, TypeError):
            return None

    # --- keeping and putting back ---------------------------------------------------------------

    def save(self) -> Saved:
        """Return what there is; nothing may be going on."""
        return Saved(
            now=self.stage.clock.now(),
            secrets=self.secrets.secrets,
            cluster=self.ecs.cluster,
            tables=self.consul.tables,
            known=dict(self.consul.known),
            pulled=dict(self.pulled),
            foreign=self.foreign,
            tasks=self._tasks,
        )

    def restore(self, saved: Saved) -> None:
        """Have what there was."""
        self.stage.clock.reach(saved.now)
        self.secrets.secrets = dict(saved.secrets)
        self.ecs.cluster = saved.cluster
        self.consul.tables = saved.tables
        self.consul.known = dict(saved.known)
        self.pulled = dict(saved.pulled)
        self.foreign = saved.foreign
        self._tasks = saved.tasks

    # --- tasks ----------------------------------------------------------------------------------

    def start_task(self, service: str, *, ecs_service: str | None = None) -> EcsTask:
        """Start a task: ECS tells of it, and it pulls its secrets and runs some seconds later."""
        self._tasks += 1
        task = EcsTask(
            arn=f"{self.ecs.cluster_arn.replace(':cluster/', ':task/')}/{self._tasks:032x}",
            family=service,
            created_at=self.stage.clock.now(),
            tags={names.MESH_TAG: "true", names.SERVICE_NAME_TAG: service},
            ecs_service=ecs_service,
        )
        self.ecs.put_task(task)
        self._announce(task)
        name = f"task-{self._tasks}"
        self.stage.enter_script(name, self._life(task.arn), after=_PULLS_AFTER)
        return task

    def stop_task(self, arn: str) -> Script:
        """Stop a task: it drains, and is gone half a minute later."""
        self._change(arn, desired_status="STOPPED")
        yield _DRAINS_FOR
        self._change(arn, last_status="STOPPED")

    def create_service(self, service: str, *, tasks: int, controller: str = "ECS") -> None:
        """Create an ECS service of the same name, with its tasks."""
        now = self.stage.clock.now()
        self.ecs.put_service(
            EcsService(service, now, now, desired_count=tasks, controller=controller)
        )
        for _ in range(tasks):
            self.start_task(service, ecs_service=service)

    def delete_service(self, service: str, *, drains_for: float = _DRAINS_FOR) -> Script:
        """Scale an ECS service to nothing; its tasks drain."""
        found = self.ecs.cluster.services[service]
        self.ecs.put_service(replace(found, desired_count=0))
        tasks = [task.arn for task in self.ecs.cluster.tasks_of(service)]
        for arn in tasks:
            self._change(arn, desired_status="STOPPED")
        yield drains_for
        for arn in tasks:
            self._change(arn, last_status="STOPPED")

    def _announce(self, task: EcsTask) -> None:
        detail = {
            "clusterArn": self.ecs.cluster_arn,
            "taskArn": task.arn,
            "lastStatus": "PROVISIONING",
            "desiredStatus": "RUNNING",
            "version": 1,
        }
        time = self.stage.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {"id": task.arn[-8:], "time": time, "detail": detail}
        self.step_functions.start(self.template.machines["TaskProvisioning"], event)

    def _life(self, arn: str) -> Script:
        task = self.ecs.cluster.tasks[arn]
        if task.desired_status == "RUNNING":
            if self._pull(task):
                yield _RUNS_AFTER
                if self.ecs.cluster.tasks[arn].is_live:
                    self._change(arn, last_status="RUNNING")
                return
            # ResourceInitializationError; the service's scheduler tries again.
            self._change(arn, desired_status="STOPPED", last_status="STOPPED")
            if task.ecs_service is not None:
                failed = sum(
                    other.ecs_service == task.ecs_service and not other.is_live
                    for other in self.ecs.cluster.tasks.values()
                )
                if failed <= len(_SCHEDULER_WAITS):
                    yield _SCHEDULER_WAITS[failed - 1]
                    self._fill(task.ecs_service)

    def _fill(self, ecs_service: str) -> None:
        service = self.ecs.cluster.services[ecs_service]
        running = [
            task
            for task in self.ecs.cluster.tasks_of(ecs_service)
            if task.desired_status == "RUNNING" and task.created_at >= service.deployed_at
        ]
        if len(running) < service.desired_count:
            self.start_task(service.name, ecs_service=ecs_service)

    def _pull(self, task: EcsTask) -> bool:
        """Let a task pull its secrets; whether both hold IDs."""
        pulled = []
        for secret_name in (
            self.secret_name(task.tags[names.SERVICE_NAME_TAG]),
            self.client_secret_name,
        ):
            ids = self.ids_in(secret_name)
            if ids is None:
                return False
            pulled.append(ids)
        for ids in pulled:
            look = self._deleted_after_look.get(ids.secret_id)
            # Nobody could see it coming: it is put back, or its own event does so.
            unseen = look is not None and task.created_at > look
            if not self._exists(ids) and not unseen and ids.accessor_id not in self.tampered:
                self.violations.append(
                    f"invariant 3: the task {task.arn[-4:]} pulls the token {ids.accessor_id}, "
                    "which Consul does not have"
                )
        self.pulled[task.arn] = tuple(pulled)
        return True

    def _exists(self, ids: Pulled) -> bool:
        token = self.consul.token(ids.accessor_id)
        return token is not None and token.secret_id == ids.secret_id

    def _change(self, arn: str, **changes: Any) -> None:
        task = self.ecs.cluster.tasks[arn]
        if task.is_live:
            self.ecs.put_task(replace(task, **changes))

    # --- deployments ----------------------------------------------------------------------------

    def _redeploy(self, ecs_service: str) -> None:
        found = self.ecs.cluster.services[ecs_service]
        now = self.stage.clock.now()
        self.ecs.put_service(replace(found, deployed_at=now, rollout_state="IN_PROGRESS"))
        self.stage.enter_script(f"deployment-{ecs_service}", self._deployment(ecs_service, now))

    def _deployment(self, ecs_service: str, began: datetime) -> Script:
        """Replace the tasks one by one: a new one runs before an old one is stopped."""
        for _ in range(_DEPLOYMENT_LOOKS):
            service = self.ecs.cluster.services[ecs_service]
            if service.deployed_at != began:
                return  # another deployment has taken over
            tasks = self.ecs.cluster.tasks_of(ecs_service)
            wanted = [task for task in tasks if task.desired_status == "RUNNING"]
            new = [task for task in wanted if task.created_at >= began]
            old = [task for task in wanted if task.created_at < began]
            running = [task for task in new if task.last_status == "RUNNING"]
            if not old and len(running) >= service.desired_count:
                self.ecs.put_service(replace(service, rollout_state="COMPLETED"))
                return
            if old and len(old) + len(running) > service.desired_count:
                self.stage.enter_script("stop", self.stop_task(old[0].arn))
            elif len(new) < service.desired_count and len(running) == len(new):
                self.start_task(ecs_service, ecs_service=ecs_service)
            yield 10.0

    # --- what happens to tokens -----------------------------------------------------------------

    def _token_deleted(self, token: Token) -> None:
        """Invariant 3, at the moment at which an execution deletes a token."""
        sandbox = current_sandbox()
        look = sandbox.look
        if look is not None:
            self._deleted_after_look[token.secret_id] = look
        if token.accessor_id in self.tampered:
            return
        for task in self.live_tasks:
            holds = any(ids.secret_id == token.secret_id for ids in self.pulled.get(task.arn, ()))
            if holds and (look is None or task.created_at <= look):
                execution = sandbox.execution.rpartition(":execution:")[2]
                self.violations.append(
                    f"invariant 3: {execution} deletes the token {token.accessor_id}, which the "
                    f"task {task.arn[-4:]} holds"
                )

    # --- people ---------------------------------------------------------------------------------

    def edit_secret(self, secret_name: str, value: str) -> None:
        """Write a value into a secret, as a person would in the console."""
        secret = self.secrets.secrets[secret_name]
        self.secrets.write_by_hand(secret, value)
        changed = self.ids_in(secret_name)
        if changed is None:
            return
        # Until the controller has made it, there is no token of these IDs; one of the same accessor
        # ID gives way to it.
        self.tampered.add(changed.accessor_id)

    def change_token(self, accessor_id: str, **changes: Any) -> None:
        """Change what is written of a token, as a person would."""
        token = self.consul.token(accessor_id)
        assert token is not None
        self.consul.plant(replace(token, **changes))

    def delete_token(self, accessor_id: str) -> None:
        """Delete a token, as a person would."""
        self.tampered.add(accessor_id)
        self.consul.delete(accessor_id)
