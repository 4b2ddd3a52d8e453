"""ECS in a few dictionaries: the calls that the handlers make.

Tasks and services live in `world.py`; here is what they are, and how they are shown.
"""

# ruff: noqa: N803 - the names of arguments are boto3's

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NoReturn

from tests.faults import aws_failures
from tests.faults.history import History, View
from tests.faults.kinds import STALE_SECONDS, Fault, RemoteCall
from tests.faults.network import Network
from tests.faults.sandbox import running_sandbox
from tests.faults.virtual_time import VirtualClock

_TASKS_A_CALL = 100
_SERVICES_A_CALL = 10


@dataclass(frozen=True)
class EcsTask:
    """A task at one moment."""

    arn: str
    family: str
    created_at: datetime
    tags: Mapping[str, str]
    ecs_service: str | None = None
    desired_status: str = "RUNNING"
    last_status: str = "PROVISIONING"

    @property
    def is_live(self) -> bool:
        """Whether it has not stopped yet."""
        return self.last_status != "STOPPED"


@dataclass(frozen=True)
class EcsService:
    """A service at one moment."""

    name: str
    created_at: datetime
    deployed_at: datetime
    desired_count: int
    rollout_state: str = "COMPLETED"
    controller: str = "ECS"
    status: str = "ACTIVE"


@dataclass(frozen=True)
class Cluster:
    """All tasks and services at one moment."""

    tasks: Mapping[str, EcsTask] = field(default_factory=dict)
    services: Mapping[str, EcsService] = field(default_factory=dict)

    def tasks_of(self, service: str) -> list[EcsTask]:
        """Return the live tasks of an ECS service."""
        return [
            task for task in self.tasks.values() if task.is_live and task.ecs_service == service
        ]


class EcsStore:
    """What is in ECS, now and a moment ago, and what it has told.

    Attributes:
        page: how many tasks ListTasks shows at a time.
        on_redeploy: called with the name of each service that is deployed anew.

    """

    def __init__(self, clock: VirtualClock, cluster_arn: str) -> None:
        self.clock = clock
        self.cluster_arn = cluster_arn
        self.cluster = Cluster()
        self.page = _TASKS_A_CALL
        self.on_redeploy: Callable[[str], None] = lambda _: None
        self._history: History[Cluster] = History()

    def as_of(self, view: View) -> Cluster:
        """Return the cluster as a reader sees it."""
        return self._history.seen(view, self.cluster, now=self.clock.now())

    def put_task(self, task: EcsTask) -> None:
        """Keep a new state of a task."""
        tasks = {**self.cluster.tasks, task.arn: task}
        self._replace(Cluster(tasks, self.cluster.services))

    def put_service(self, service: EcsService) -> None:
        """Keep a new state of a service."""
        services = {**self.cluster.services, service.name: service}
        self._replace(Cluster(self.cluster.tasks, services))

    def looks_at_tasks(self, view: View) -> None:
        """Note as of when an invocation lists tasks."""
        sandbox = running_sandbox()
        if sandbox is not None:
            sandbox.look = self._moment(view)

    def sees_tasks(self, view: View) -> None:
        """Note as of when an invocation sees what it has listed."""
        sandbox = running_sandbox()
        if sandbox is not None and sandbox.look is not None:
            sandbox.look = min(sandbox.look, self._moment(view))

    def _moment(self, view: View) -> datetime:
        behind = timedelta(seconds=0 if view is View.NOW else STALE_SECONDS)
        return self.clock.now() - behind

    def _replace(self, cluster: Cluster) -> None:
        self._history.remember(self.cluster, until=self.clock.now())
        self.cluster = cluster


class EcsClient:
    """The calls of a boto3 client that handlers make."""

    def __init__(self, store: EcsStore, network: Network) -> None:
        self._store = store
        self._network = network

    def list_tasks(
        self,
        *,
        cluster: str,
        desiredStatus: str = "RUNNING",
        maxResults: int = _TASKS_A_CALL,
        nextToken: str | None = None,
    ) -> dict[str, Any]:
        """List the tasks that are to run, or those that are to stop."""
        most = min(maxResults, self._store.page)

        def serve(view: View) -> dict[str, Any]:
            self._check_cluster("ListTasks", cluster)
            if nextToken is None and desiredStatus == "RUNNING":
                self._store.looks_at_tasks(view)
            tasks = list(self._store.as_of(view).tasks.values())
            # Tasks keep their places, so one that changes moves no other one to a page before.
            wanted = [
                (place, task.arn)
                for place, task in enumerate(tasks)
                if task.desired_status == desiredStatus and place >= int(nextToken or 0)
            ]
            shown, more = wanted[:most], wanted[most:]
            answer: dict[str, Any] = {"taskArns": [arn for _, arn in shown]}
            if more:
                answer["nextToken"] = str(more[0][0])
            return answer

        return self._carry("ListTasks", serve)

    def describe_tasks(
        self, *, cluster: str, tasks: Sequence[str], include: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Describe some tasks."""

        def serve(view: View) -> dict[str, Any]:
            self._check_cluster("DescribeTasks", cluster)
            if not 1 <= len(tasks) <= _TASKS_A_CALL:
                message = "Tasks cannot be empty." if not tasks else "Too many tasks."
                raise aws_failures.refusal("DescribeTasks", "InvalidParameterException", message)
            self._store.sees_tasks(view)
            known = self._store.as_of(view).tasks
            found = [_task(known[arn], tags="TAGS" in include) for arn in tasks if arn in known]
            missing = [{"arn": arn, "reason": "MISSING"} for arn in tasks if arn not in known]
            return {"tasks": found, "failures": missing}

        return self._carry("DescribeTasks", serve)

    def describe_services(self, *, cluster: str, services: Sequence[str]) -> dict[str, Any]:
        """Describe some services."""

        def serve(view: View) -> dict[str, Any]:
            self._check_cluster("DescribeServices", cluster)
            if not 1 <= len(services) <= _SERVICES_A_CALL:
                raise aws_failures.refusal(
                    "DescribeServices", "InvalidParameterException", "Services cannot be empty."
                )
            seen = self._store.as_of(view)
            found = [_service(seen, seen.services[n]) for n in services if n in seen.services]
            missing = [{"arn": n, "reason": "MISSING"} for n in services if n not in seen.services]
            return {"services": found, "failures": missing}

        return self._carry("DescribeServices", serve)

    def update_service(
        self,
        *,
        cluster: str,
        service: str,
        forceNewDeployment: bool = False,
    ) -> dict[str, Any]:
        """Deploy a service anew."""

        def serve(_: View) -> dict[str, Any]:
            self._check_cluster("UpdateService", cluster)
            found = self._store.cluster.services.get(service)
            if found is None:
                raise aws_failures.refusal(
                    "UpdateService", "ServiceNotFoundException", "Service not found."
                )
            if found.status != "ACTIVE":
                raise aws_failures.refusal(
                    "UpdateService", "ServiceNotActiveException", "Service was not ACTIVE."
                )
            if forceNewDeployment:
                self._store.on_redeploy(service)
            return {"service": _service(self._store.cluster, self._store.cluster.services[service])}

        return self._carry("UpdateService", serve, reads=False)

    def _check_cluster(self, operation: str, cluster: str) -> None:
        if cluster not in {self._store.cluster_arn, self._store.cluster_arn.rpartition("/")[2]}:
            raise aws_failures.refusal(operation, "ClusterNotFoundException", "Cluster not found.")

    def _carry(
        self, operation: str, serve: Callable[[View], dict[str, Any]], *, reads: bool = True
    ) -> dict[str, Any]:
        def fails(fault: Fault) -> NoReturn:
            raise aws_failures.failure(fault, operation, server_error="ServerException")

        call = RemoteCall("ecs", operation, reads=reads, patience=aws_failures.SDK_PATIENCE)
        return self._network.carry(call, serve, fails)


def _task(task: EcsTask, *, tags: bool) -> dict[str, Any]:
    place = task.arn.rpartition(":task/")[0]
    shown = {
        "taskArn": task.arn,
        "taskDefinitionArn": f"{place}:task-definition/{task.family}:1",
        "createdAt": task.created_at,
        "desiredStatus": task.desired_status,
        "lastStatus": task.last_status,
        "group": f"service:{task.ecs_service}" if task.ecs_service else f"family:{task.family}",
        "tags": [],
    }
    if tags:
        shown["tags"] = [{"key": key, "value": value} for key, value in task.tags.items()]
    return shown


def _service(cluster: Cluster, service: EcsService) -> dict[str, Any]:
    tasks = [task for task in cluster.tasks_of(service.name) if task.desired_status == "RUNNING"]
    new = [task for task in tasks if task.created_at >= service.deployed_at]
    old = [task for task in tasks if task.created_at < service.deployed_at]

    def deployment(status: str, its: list[EcsTask], created_at: datetime) -> dict[str, Any]:
        running = sum(task.last_status == "RUNNING" for task in its)
        return {
            "status": status,
            "createdAt": created_at,
            "rolloutState": service.rollout_state if status == "PRIMARY" else "COMPLETED",
            "desiredCount": service.desired_count,
            "runningCount": running,
            "pendingCount": len(its) - running,
        }

    deployments = [deployment("PRIMARY", new, service.deployed_at)]
    if old:
        deployments.append(deployment("ACTIVE", old, service.created_at))
    running = sum(task.last_status == "RUNNING" for task in tasks)
    return {
        "serviceName": service.name,
        "status": service.status,
        "createdAt": service.created_at,
        "deploymentController": {"type": service.controller},
        "deployments": [] if service.controller == "EXTERNAL" else deployments,
        "desiredCount": service.desired_count,
        "runningCount": running,
        "pendingCount": len(tasks) - running,
    }
