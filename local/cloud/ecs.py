"""ECS: the life of a task, told in events, and services that keep their tasks running.

In moto a task is running from the start, stops at once, and nobody hears of it; a service is a
number. Here a task goes through the stages of
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-lifecycle-explanation.html, a
"Task State Change" event tells of each, and a service starts, replaces and stops its tasks, in
deployments of which it shows each one that still has some. A service that is registered with Cloud
Map registers its tasks there. Whose containers are to run for real, a ``TaskRunner`` runs.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import itertools
import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

from moto.core.responses import ActionResult
from moto.ec2.exceptions import InvalidNetworkInterfaceIdError
from moto.ec2.models import ec2_backends
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ecs.exceptions import ECSException, InvalidParameterException
from moto.ecs.models import (
    EC2ContainerServiceBackend,
    Service,
    Task,
    TaskDefinition,
    ecs_backends,
)
from moto.ecs.responses import EC2ContainerServiceResponse
from moto.secretsmanager.exceptions import SecretsManagerClientError
from moto.secretsmanager.models import secretsmanager_backends

from local.cloud import service_discovery
from local.cloud.clock import CloudClock, as_text
from local.cloud.cloudformation_types import ClientFactory
from local.cloud.patching import replaced
from local.cloud.scheduling import Scheduler

_LOG = logging.getLogger(__name__)

# With a network interface of its own a task has one to be made and removed.
_STARTING = {
    True: ["PROVISIONING", "PENDING", "ACTIVATING", "RUNNING"],
    False: ["PENDING", "RUNNING"],
}
_STOPPING = {
    True: ["DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"],
    False: ["STOPPING", "STOPPED"],
}
# A task that could not be started has nothing to shut down but its network interface.
_FAILING = {True: ["DEPROVISIONING", "STOPPED"], False: ["STOPPED"]}
_FAILED_TO_START = "TaskFailedToStart"
_MOST_STAGES_OF_DELAY = 30
_MOST_TASKS = 100  # that DescribeTasks takes, and a page of ListTasks has
_STARTED_BY_SERVICE = "ecs-svc/"
_NOT_STARTING = {"DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"}

_Shown = TypeVar("_Shown", Task, Service)


class TaskRunner(Protocol):
    """Runs the containers of some tasks for real."""

    def runs(self, definition: Mapping[str, Any]) -> bool:
        """Whether it runs tasks of this definition, as DescribeTaskDefinition returns it."""

    def start(
        self,
        definition: Mapping[str, Any],
        *,
        task_arn: str,
        cluster_arn: str,
        ended: Callable[[str, str], None],
    ) -> str:
        """Start the containers of a task, and return its address.

        ``ended`` is told why, and with which code of ECS, when they have ended by themselves.
        """

    def stop(self, task_arn: str) -> None:
        """Ask the containers of a task to end, if there are any."""

    def is_running(self, task_arn: str) -> bool:
        """Whether a task still has containers."""


class TaskLifecycle:
    """Moves the tasks of one cloud through their stages. Use ``with lifecycle.connected():``.

    ``publish`` puts an event on the default event bus; ``stage_seconds`` is how long a task stays
    in each stage, whatever the speed of the ``clock``. ``runner`` runs what it can; all other
    tasks have no containers.
    """

    def __init__(
        self,
        *,
        client: ClientFactory,
        publish: Callable[..., None],
        stage_seconds: float,
        clock: CloudClock,
        runner: TaskRunner | None,
    ) -> None:
        self._client = client
        self._publish = publish
        self._runner = runner
        self._stage_seconds = stage_seconds
        self._clock = clock
        self._numbers = itertools.count(1)
        self._scheduler = Scheduler("ecs-tasks")
        self._lock = threading.RLock()
        # What is shown of a task is all of one stage. Nobody waits for anything with this one.
        self._stage_lock = threading.RLock()
        self._request = threading.local()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Let moto's ECS live within the context."""
        with ExitStack() as patches:
            for owner, name, value in (
                # Missing in a VPC without DNS host names, and moto's tasks read it all the same.
                (NetworkInterface, "private_dns_name", ""),
                # moto's own state machine of a task only knows how to stop one.
                (Task, "last_status", property(_last_status, _set_last_status)),
                (Task, "status", property(_last_status, _set_last_status)),
                (
                    EC2ContainerServiceBackend,
                    "_calculate_task_resource_requirements",
                    staticmethod(_resource_requirements),
                ),
                (EC2ContainerServiceBackend, "stop_task", self._stop_task()),
                (EC2ContainerServiceBackend, "describe_tasks", self._describe_tasks()),
                (EC2ContainerServiceBackend, "list_tasks", self._list_tasks()),
                (EC2ContainerServiceResponse, "list_tasks", _list_a_page),
                (
                    EC2ContainerServiceResponse,
                    "describe_tasks",
                    _telling_what_is_missing(EC2ContainerServiceResponse.describe_tasks),
                ),
            ):
                patches.enter_context(replaced(owner, name, value))
            self._wrap_task_starters(patches)
            self._wrap_services(patches)
            self._scheduler.start()
            patches.callback(self._scheduler.stop)
            yield

    # Starting tasks.

    def _wrap_task_starters(self, patches: ExitStack) -> None:
        lifecycle = self

        def run_task(backend: EC2ContainerServiceBackend, *args: Any, **kwargs: Any) -> list[Task]:
            arguments = _bound(_RUN_TASK_PARAMETERS, args, kwargs)
            network = copy.deepcopy(arguments.get("networking_configuration"))
            if network:
                # Optional on AWS, where the VPC's default group stands in.
                network["awsvpcConfiguration"].setdefault("securityGroups", [])
                arguments["networking_configuration"] = network
            propagate = lifecycle._take_request("propagateTags")
            arguments["tags"] = lifecycle._tags_for(backend, arguments, propagate)
            with lifecycle._lock:
                tasks = original_run(backend, **arguments)
                for task in tasks:
                    lifecycle._begin(backend, task)
                return [_as_it_is(task) for task in tasks]

        def start_task(
            backend: EC2ContainerServiceBackend, *args: Any, **kwargs: Any
        ) -> list[Task]:
            with lifecycle._lock:
                tasks = original_start(backend, *args, **kwargs)
                for task in tasks:
                    task.tags = task.tags or []
                    lifecycle._begin(backend, task)
                return [_as_it_is(task) for task in tasks]

        def respond_run_task(response: EC2ContainerServiceResponse) -> Any:
            # moto reads every parameter of the request but this one.
            lifecycle._request.propagateTags = response._get_param("propagateTags")
            return original_respond(response)

        original_run = patches.enter_context(
            replaced(EC2ContainerServiceBackend, "run_task", run_task)
        )
        original_start = patches.enter_context(
            replaced(EC2ContainerServiceBackend, "start_task", start_task)
        )
        original_respond = patches.enter_context(
            replaced(EC2ContainerServiceResponse, "run_task", respond_run_task)
        )

    def _take_request(self, name: str) -> Any:
        value = getattr(self._request, name, None)
        setattr(self._request, name, None)
        return value

    @staticmethod
    def _tags_for(
        backend: EC2ContainerServiceBackend, arguments: dict[str, Any], propagate: str | None
    ) -> list[dict[str, str]]:
        """Merge what is propagated with the tags of the request, which win."""
        tags: dict[str, dict[str, str]] = {}
        if propagate == "TASK_DEFINITION":
            definition = backend.describe_task_definition(arguments["task_definition_str"])
            tags = {tag["key"]: tag for tag in definition.tags}
        tags |= {tag["key"]: tag for tag in arguments.get("tags") or []}
        return list(tags.values())

    def _begin(self, backend: EC2ContainerServiceBackend, task: Task) -> None:
        definition: TaskDefinition = backend.describe_task_definition(task.task_definition_arn)
        own_interface = definition.network_mode == "awsvpc"
        now = self._clock.now()
        state = task.__dict__
        stages = _STARTING[own_interface]
        with self._stage_lock:
            state.update(
                has_own_interface=own_interface,
                number=next(self._numbers),
                pulled={},
                version=0,
                created_at=now,
                cpu=str(definition.cpu or "0"),
                memory=str(definition.memory or "0"),
                availability_zone=f"{task.region_name}a",
                enable_execute_command=False,
                containers=_containers(task, definition),
            )
            if task.launch_type == "FARGATE":
                state["platform_version"] = task.platform_version or "1.4.0"
                state["platform_family"] = "Linux"
            self._enter(backend, task, stages[0])
        self._later(lambda: self._go_on(backend, task, stages, 1, "RUNNING"))

    # Stages.

    def _later(self, function: Callable[[], None]) -> None:
        self._scheduler.after(self._stage_seconds, function)

    def _go_on(
        self,
        backend: EC2ContainerServiceBackend,
        task: Task,
        stages: list[str],
        index: int,
        desired: str,
    ) -> None:
        """Enter ``stages[index]`` unless the task is wanted otherwise by now, and so on."""
        with self._lock:
            if task.desired_status != desired:
                return
            pulls = desired == "RUNNING" and task.last_status == "PENDING"
            if pulls and (problem := _pull_secrets(backend, task)):
                self._fail(backend, task, problem)
                return
            if pulls:
                self._run(backend, task)
            elif task.last_status == "STOPPING" and self._is_running(task):
                self._later(lambda: self._go_on(backend, task, stages, index, desired))
                return
            self._enter(backend, task, stages[index])
        if index + 1 < len(stages):
            self._later(lambda: self._go_on(backend, task, stages, index + 1, desired))
        elif (task.started_by or "").startswith(_STARTED_BY_SERVICE):
            name, cluster = task.group.removeprefix("service:"), task.cluster_name
            self._scheduler.after(
                self._delay(backend, task),
                lambda: self._reconcile(backend, name, cluster),
            )

    # Containers that run for real.

    def _run(self, backend: EC2ContainerServiceBackend, task: Task) -> None:
        if self._runner is None:
            return
        described = self._client("ecs").describe_task_definition(
            taskDefinition=task.task_definition_arn
        )["taskDefinition"]
        if not self._runner.runs(described):
            return
        address = self._runner.start(
            described,
            task_arn=task.task_arn,
            cluster_arn=task.cluster_arn,
            ended=lambda reason, code: self._stop(backend, task, reason, code),
        )
        # It is where the task is found, for everybody.
        with self._stage_lock:
            _set_address(task, address)

    def _is_running(self, task: Task) -> bool:
        return self._runner is not None and self._runner.is_running(task.task_arn)

    def _delay(self, backend: EC2ContainerServiceBackend, task: Task) -> float:
        """Return how long a service waits before it reacts to a task's last stage.

        Longer each time that a task could not be started; ECS goes up to minutes.
        https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-throttle-logic.html
        """
        service = _service_of(backend, task)
        if task.__dict__.get("stop_code") != _FAILED_TO_START or not service:
            return 0
        deployments: list[dict[str, Any]] = service.deployments
        failed = sum(int(each["failedTasks"]) for each in deployments)
        return self._stage_seconds * min((1 << max(failed - 1, 0)) - 1, _MOST_STAGES_OF_DELAY)

    def _fail(self, backend: EC2ContainerServiceBackend, task: Task, reason: str) -> None:
        """Stop a task that could not be started. A service tries again when it has stopped."""
        self._tell_end(task, reason, _FAILED_TO_START)
        service = _service_of(backend, task)
        deployments: list[dict[str, Any]] = service.deployments if service else []
        for deployment in deployments:
            if deployment["id"] == task.started_by:
                deployment["failedTasks"] += 1
        stages = _FAILING[task.__dict__["has_own_interface"]]
        self._later(lambda: self._go_on(backend, task, stages, 0, "STOPPED"))

    def _tell_end(self, task: Task, reason: str, code: str) -> None:
        state = task.__dict__
        with self._stage_lock:
            task.desired_status = "STOPPED"
            task.stopped_reason = reason
            state["stop_code"] = code
            state["stopping_at"] = self._clock.now()
            state["version"] += 1
        self._tell(task)

    def _enter(self, backend: EC2ContainerServiceBackend, task: Task, status: str) -> None:
        with self._stage_lock:
            self._change(task, status)
        if status == "ACTIVATING":
            _register(backend, task)
        elif status in _NOT_STARTING:
            _deregister(task)
        if status == "STOPPING" and self._runner is not None:
            self._runner.stop(task.task_arn)
        if status == "STOPPED":
            _release_interfaces(backend, task)
        self._tell(task)

    def _change(self, task: Task, status: str) -> None:
        now = self._clock.now()
        state = task.__dict__
        task.last_status = status
        state["version"] += 1
        state["updated_at"] = now
        if status == "RUNNING":
            state.setdefault("pull_started_at", now)
            state.setdefault("pull_stopped_at", now)
            state.setdefault("started_at", now)
            state.setdefault("connectivity", "CONNECTED")
            state.setdefault("connectivity_at", now)
        elif status == "STOPPED":
            state["execution_stopped_at"] = state["stopped_at"] = now
        for container in state["containers"]:
            container["lastStatus"] = _container_status(status)
            if status == "STOPPED" and "started_at" in state:
                container["exitCode"] = 0
        for attachment in task.attachments:
            attachment["status"] = _attachment_status(status)

    def _tell(self, task: Task) -> None:
        self._publish(
            source="aws.ecs",
            detail_type="ECS Task State Change",
            resources=[task.task_arn],
            detail=task_detail(task),
        )

    # Stopping and looking at tasks.

    def _stop_task(self) -> Callable[..., Task]:
        lifecycle = self

        def stop_task(
            backend: EC2ContainerServiceBackend, cluster_str: str, task_str: str, reason: str | None
        ) -> Task:
            cluster = backend._get_cluster(cluster_str)
            task_id = task_str.rsplit("/", maxsplit=1)[-1]
            for task in _begun_tasks(backend, cluster.name):
                if task.id == task_id:
                    with lifecycle._lock:
                        lifecycle._stop(
                            backend, task, reason or "Task stopped by user", "UserInitiated"
                        )
                        return _as_it_is(task)
            raise InvalidParameterException("The referenced task was not found.")

        return stop_task

    def _stop(
        self, backend: EC2ContainerServiceBackend, task: Task, reason: str, code: str
    ) -> None:
        with self._lock:
            if task.desired_status == "STOPPED":
                return
            self._tell_end(task, reason, code)
        stages = _STOPPING[task.__dict__["has_own_interface"]]
        self._later(lambda: self._go_on(backend, task, stages, 0, "STOPPED"))

    def _describe_tasks(self) -> Callable[..., list[Task]]:
        lifecycle = self

        def describe_tasks(
            backend: EC2ContainerServiceBackend, cluster_str: str, tasks: list[str]
        ) -> list[Task]:
            cluster = backend._get_cluster(cluster_str)
            if not tasks:
                raise InvalidParameterException("Tasks cannot be empty.")
            if len(tasks) > _MOST_TASKS:
                raise InvalidParameterException(f"Tasks may have at most {_MOST_TASKS} items.")
            wanted = {task.split("/")[-1] for task in tasks}
            with lifecycle._stage_lock:
                known = _begun_tasks(backend, cluster.name)
                return [_as_it_is(task) for task in known if task.id in wanted]

        return describe_tasks

    @staticmethod
    def _list_tasks() -> Callable[..., list[Task]]:
        def list_tasks(  # noqa: PLR0917 - moto's signature
            backend: EC2ContainerServiceBackend,
            cluster_str: str | None = None,
            container_instance: str | None = None,
            family: str | None = None,
            started_by: str | None = None,
            service_name: str | None = None,
            desiredStatus: str | None = None,  # noqa: N803 - moto's name
        ) -> list[Task]:
            cluster = backend._get_cluster(cluster_str or "default")
            desired = desiredStatus or "RUNNING"
            tests: list[Callable[[Task], bool]] = [lambda task: task.desired_status == desired]
            if family:
                tests.append(lambda task: _family(task) == family)
            if started_by:
                tests.append(lambda task: task.started_by == started_by)
            if service_name:
                group = "service:" + service_name.split("/")[-1]
                tests.append(lambda task: task.group == group)
            if container_instance:
                tests.append(lambda task: container_instance in (task.container_instance_arn or ""))
            known = _begun_tasks(backend, cluster.name)
            return [task for task in known if all(test(task) for test in tests)]

        return list_tasks

    # Services.

    def _wrap_services(self, patches: ExitStack) -> None:
        lifecycle = self

        def create_service(
            backend: EC2ContainerServiceBackend, *args: Any, **kwargs: Any
        ) -> Service:
            network = copy.deepcopy(kwargs.get("network_configuration"))
            if network:
                network["awsvpcConfiguration"].setdefault("securityGroups", [])
                kwargs["network_configuration"] = network
            # What waits in the scheduler may be of a service that had the name before.
            with lifecycle._lock:
                service: Service = original_create(backend, *args, **kwargs)
                now = lifecycle._clock.now()
                service.__dict__["created_at"] = now
                for deployment in service.deployments:
                    deployment.update(createdAt=now, updatedAt=now)
                service.__dict__["deployment"] = _deployment_id(service)
                lifecycle._reconcile(backend, service.name, service.cluster_name)
                return _as_it_is(service)

        def delete_service(
            backend: EC2ContainerServiceBackend, *args: Any, **kwargs: Any
        ) -> Service:
            with lifecycle._lock:
                service: Service = original_delete(backend, *args, **kwargs)
                service.desired_count = 0
                service.status = "DRAINING"
                lifecycle._reconcile(backend, service.name, service.cluster_name)
                return _as_it_is(service)

        def describe_services(
            backend: EC2ContainerServiceBackend, *args: Any, **kwargs: Any
        ) -> tuple[list[Service], list[dict[str, str]]]:
            with lifecycle._lock:
                services, failures = original_describe(backend, *args, **kwargs)
                for service in services:
                    lifecycle._count(backend, service)
                return [_as_it_is(service) for service in services], failures

        original_create = patches.enter_context(
            replaced(EC2ContainerServiceBackend, "create_service", create_service)
        )
        patches.enter_context(
            replaced(
                EC2ContainerServiceBackend,
                "update_service",
                self._update_service(EC2ContainerServiceBackend.update_service),
            )
        )
        original_delete = patches.enter_context(
            replaced(EC2ContainerServiceBackend, "delete_service", delete_service)
        )
        original_describe = patches.enter_context(
            replaced(EC2ContainerServiceBackend, "describe_services", describe_services)
        )

    def _update_service(self, update: Callable[..., Service]) -> Callable[..., Service]:
        lifecycle = self

        def update_service(
            backend: EC2ContainerServiceBackend, service_properties: dict[str, Any]
        ) -> Service:
            properties = dict(service_properties)
            cluster = properties.get("cluster", "default")
            before = backend._get_service(cluster, properties["service"].split("/")[-1])
            if before.status != "ACTIVE":
                raise _ServiceNotActiveError
            force = bool(properties.pop("force_new_deployment", False))
            kind = before.deployment_controller["type"]
            if force and kind == "CODE_DEPLOY":
                raise InvalidParameterException(
                    "Cannot force a new deployment on services with a CODE_DEPLOY deployment "
                    "controller. Use AWS CodeDeploy to trigger a new deployment."
                )
            definition = before.task_definition
            if name := properties.get("task_definition"):
                properties["task_definition"] = backend.describe_task_definition(name).arn
            with lifecycle._lock:
                service: Service = update(backend, properties)
                if force or service.task_definition != definition:
                    lifecycle._deploy(service)
                lifecycle._reconcile(backend, service.name, service.cluster_name)
                return _as_it_is(service)

        return update_service

    def _deploy(self, service: Service) -> None:
        """Make a new primary deployment of a service."""
        now = self._clock.now()
        id_ = service.__dict__["deployment"] = _new_deployment_id()
        # Other controllers than ECS itself have none.
        if service.deployments:
            replaced_one = {**service.deployments[0], "status": "ACTIVE"}
            new = {**replaced_one, "id": id_, "status": "PRIMARY", "failedTasks": 0}
            new |= {"createdAt": now, "updatedAt": now, "rolloutState": "IN_PROGRESS"}
            service.deployments = [new, replaced_one, *service.deployments[1:]]

    def _reconcile(
        self, backend: EC2ContainerServiceBackend, service_name: str, cluster_name: str
    ) -> None:
        """Start, replace and stop a service's tasks so that it has what it should have.

        The tasks of an earlier deployment are stopped when those of the present one are running.
        """
        with self._lock:
            service = backend.services.get(f"{cluster_name}:{service_name}")
            if service is None:
                return
            deployment = service.__dict__["deployment"]
            tasks = _wanted_tasks(backend, service)
            present = [task for task in tasks if task.started_by == deployment]
            earlier = [task for task in tasks if task.started_by != deployment]
            reason = f"Scaling activity initiated by (deployment {deployment})"
            for task in present[service.desired_count :]:
                self._stop(backend, task, reason, "ServiceSchedulerInitiated")
            present = present[: service.desired_count]
            missing = service.desired_count - len(present)
            if missing > 0 and service.task_definition:
                present += self._start_for(backend, service, deployment, missing)
            running = [task for task in present if task.last_status == "RUNNING"]
            if len(running) >= service.desired_count:
                for task in earlier:
                    self._stop(backend, task, reason, "ServiceSchedulerInitiated")
            self._count(backend, service)

    def _count(self, backend: EC2ContainerServiceBackend, service: Service) -> None:
        """Show in the service, and in each of its deployments, what it has by now."""
        with self._lock:
            tasks = _wanted_tasks(backend, service)
            if service.status == "DRAINING" and not _live_tasks(backend, service):
                service.status = "INACTIVE"
            running = sum(task.last_status == "RUNNING" for task in tasks)
            service.running_count = running
            service.pending_count = len(tasks) - running
            if not service.deployments:
                return
            primary, *others = (_counted(one, tasks) for one in service.deployments)
            outgoing = [{**one, "status": "ACTIVE"} for one in others if one["desiredCount"]]
            steady = primary["runningCount"] >= service.desired_count and not outgoing
            # A deployment that has come to an end stays complete, whatever becomes of its tasks.
            done = steady or primary["rolloutState"] == "COMPLETED"
            primary |= {
                "desiredCount": service.desired_count,
                "taskDefinition": service.task_definition,
                "rolloutState": "COMPLETED" if done else "IN_PROGRESS",
                "rolloutStateReason": f"ECS deployment {primary['id']} "
                + ("completed." if done else "in progress."),
            }
            if primary != service.deployments[0]:
                primary["updatedAt"] = self._clock.now()
            service.deployments = [primary, *outgoing]

    def pulled_secrets(self, task_arn: str) -> dict[str, str]:
        """Return the versions of secrets that a task has pulled, by the secret's ARN."""
        for _, _, each in ecs_backends.iter_backends():
            backend: Any = each
            for tasks in backend.tasks.values():
                if task_arn in tasks:
                    return dict(tasks[task_arn].__dict__["pulled"])
        raise KeyError(task_arn)

    def _start_for(
        self, backend: EC2ContainerServiceBackend, service: Service, deployment: str, count: int
    ) -> list[Task]:
        definition = str(service.task_definition)
        if service.propagate_tags == "SERVICE":
            tags = service.tags
        elif service.propagate_tags == "TASK_DEFINITION":
            tags = backend.describe_task_definition(definition).tags
        else:
            tags = []
        try:
            return backend.run_task(
                cluster_str=service.cluster_name,
                task_definition_str=definition,
                count=count,
                overrides=None,
                started_by=deployment,
                tags=list(tags),
                launch_type=service.launch_type,
                networking_configuration=service.network_configuration or None,
                group=f"service:{service.name}",
            )
        except Exception as error:  # noqa: BLE001 - moto raises bare ones; a service goes on
            _LOG.warning("Service %s could not start a task: %s", service.name, error)
            return []


_RUN_TASK_PARAMETERS = (
    "cluster_str",
    "task_definition_str",
    "count",
    "overrides",
    "started_by",
    "tags",
    "launch_type",
    "networking_configuration",
    "group",
    "platform_version",
    "capacity_provider_strategy",
)


def _resource_requirements(task_definition: TaskDefinition) -> dict[str, Any]:
    # moto's own insists on a memory for each container, which is optional with one for the task.
    # Only tasks on container instances need this at all.
    definitions: list[dict[str, Any]] = task_definition.container_definitions
    ports = [
        mapping["hostPort"]
        for definition in definitions
        for mapping in definition.get("portMappings", [])
        if task_definition.network_mode != "awsvpc" and "hostPort" in mapping
    ]
    return {
        "CPU": sum(int(definition.get("cpu") or 0) for definition in definitions),
        "MEMORY": sum(
            int(definition.get("memory") or definition.get("memoryReservation") or 0)
            for definition in definitions
        ),
        "PORTS": ports,
        "PORTS_UDP": [],
    }


def _bound(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _last_status(self: Task) -> str:
    return str(self.__dict__.get("_status", "PROVISIONING"))


def _set_last_status(self: Task, value: str) -> None:
    self.__dict__["_status"] = value


def _release_interfaces(backend: EC2ContainerServiceBackend, task: Task) -> None:
    """Delete a stopped task's network interfaces, which moto never does: a VPC needs that to go."""
    ec2 = ec2_backends[backend.account_id][backend.region_name]
    attachments: list[dict[str, Any]] = task.attachments
    for attachment in attachments:
        for detail in attachment["details"]:
            if detail["name"] == "networkInterfaceId":
                with contextlib.suppress(InvalidNetworkInterfaceIdError):
                    ec2.delete_network_interface(detail["value"])


def _set_address(task: Task, address: str) -> None:
    """Put another address in the place of the one that moto has made up."""
    attachments: list[dict[str, Any]] = task.attachments
    for attachment in attachments:
        for detail in attachment["details"]:
            if detail["name"] == "privateIPv4Address":
                detail["value"] = address
    for container in task.__dict__["containers"]:
        for interface in container["networkInterfaces"]:
            interface["privateIpv4Address"] = address


def _register(backend: EC2ContainerServiceBackend, task: Task) -> None:
    """Register a task with Cloud Map, if its service says so.

    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-discovery.html
    """
    service = _service_of(backend, task)
    registries: list[dict[str, Any]] = service.service_registries if service else []
    address = task.__dict__["containers"][0]["networkInterfaces"][0]["privateIpv4Address"]
    attributes = {
        "AVAILABILITY_ZONE": task.__dict__["availability_zone"],
        "AWS_INSTANCE_IPV4": address,
        "ECS_CLUSTER_NAME": task.cluster_name,
        "ECS_SERVICE_NAME": task.group.removeprefix("service:"),
        "ECS_TASK_DEFINITION_FAMILY": _family(task),
        "REGION": task.region_name,
    }
    for registry in registries:
        service_discovery.register(registry["registryArn"], task.id, attributes)
    task.__dict__["registries"] = [registry["registryArn"] for registry in registries]


def _deregister(task: Task) -> None:
    for registry_arn in task.__dict__.pop("registries", []):
        service_discovery.deregister(registry_arn, task.id)


# What a container's definition says of a secret: its ARN, and perhaps one key of the JSON in it, a
# label and a version, none of which has to be given.
# https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_Secret.html
_ARN_PARTS = 7
_CANNOT_PULL = (
    "ResourceInitializationError: unable to pull secrets or registry auth: execution resource "
    "retrieval failed: unable to retrieve secret from asm: "
)


def _pull_secrets(backend: EC2ContainerServiceBackend, task: Task) -> str | None:
    """Get the secrets of a task's containers; return why they cannot be had, as ECS words it.

    The values are looked at and kept nowhere; which versions they are is kept.
    """
    definition: TaskDefinition = backend.describe_task_definition(task.task_definition_arn)
    containers: list[dict[str, Any]] = definition.container_definitions
    for container in containers:
        for secret in container.get("secrets") or []:
            if ":secretsmanager:" in secret["valueFrom"]:
                try:
                    arn, version = _secret_version(backend.account_id, secret["valueFrom"])
                except ValueError as problem:
                    return f"{_CANNOT_PULL}{problem}"
                task.__dict__["pulled"][arn] = version
    return None


def _secret_version(account_id: str, value_from: str) -> tuple[str, str]:
    """Return the ARN and the version ID of what a container gets.

    Raises
    ------
    ValueError
        It cannot be had; the message says why.
    """
    parts = value_from.split(":")
    arn, (key, stage, version, *_) = ":".join(parts[:_ARN_PARTS]), [*parts[_ARN_PARTS:], "", "", ""]
    secrets = secretsmanager_backends[account_id][parts[3]]
    try:
        value = secrets.get_secret_value(arn, version, stage or "AWSCURRENT")
    except SecretsManagerClientError as error:
        raise ValueError(
            f"service call has been retried 1 time(s): failed to fetch secret {arn} from secrets "
            f"manager: {error.error_type}: {error.message}"
        ) from None
    if key:
        try:
            found = key in json.loads(value.get("SecretString") or "")
        except (TypeError, ValueError):
            found = False
        if not found:
            raise ValueError(
                f"retrieved secret from Secrets Manager did not contain json key {key}"
            )
    return str(value["ARN"]), str(value["VersionId"])


def _service_of(backend: EC2ContainerServiceBackend, task: Task) -> Service | None:
    """Return the service that has started a task, unless it is gone, or none has."""
    name = task.group.removeprefix("service:")
    service: Service | None = backend.services.get(f"{task.cluster_name}:{name}")
    return service


def _family(task: Task) -> str:
    return str(task.task_definition_arn.split("/")[-1].split(":")[0])


def _begun_tasks(backend: EC2ContainerServiceBackend, cluster_name: str) -> list[Task]:
    """Return the tasks of a cluster, without those that moto has and whose life has not begun.

    Those have nothing of what we add, and of the rest not all is right: moto's clock is not ours.
    """
    known = list(backend.tasks.get(cluster_name, {}).values())
    return [task for task in known if "number" in task.__dict__]


def _as_it_is(found: _Shown) -> _Shown:
    """Return a task or a service as an answer has to show it: as it is now, all of it.

    moto writes the answer later, when what it shows may be in the midst of its next stage.
    """
    # Not `copy.copy`: moto keeps what is made by a class.
    shown: _Shown = object.__new__(type(found))
    shown.__dict__.update(found.__dict__)
    for name in ("attachments", "containers", "deployments"):
        if name in shown.__dict__:
            shown.__dict__[name] = copy.deepcopy(shown.__dict__[name])
    return shown


def _live_tasks(backend: EC2ContainerServiceBackend, service: Service) -> list[Task]:
    """Return the tasks of a service that have not stopped yet."""
    group = f"service:{service.name}"
    tasks = _begun_tasks(backend, service.cluster_name)
    return [task for task in tasks if task.group == group and task.last_status != "STOPPED"]


def _wanted_tasks(backend: EC2ContainerServiceBackend, service: Service) -> list[Task]:
    """Return the tasks of a service that are not to stop."""
    return [task for task in _live_tasks(backend, service) if task.desired_status == "RUNNING"]


def _deployment_id(service: Service) -> str:
    return str(service.deployments[0]["id"]) if service.deployments else _new_deployment_id()


def _new_deployment_id() -> str:
    return f"{_STARTED_BY_SERVICE}{uuid.uuid4().int % 10**19:019}"


def _counted(deployment: dict[str, Any], tasks: list[Task]) -> dict[str, Any]:
    """Return a deployment with the numbers of those tasks that are its own."""
    own = [task for task in tasks if task.started_by == deployment["id"]]
    running = sum(task.last_status == "RUNNING" for task in own)
    return {
        **deployment,
        "desiredCount": len(own),
        "runningCount": running,
        "pendingCount": len(own) - running,
    }


class _ServiceNotActiveError(ECSException):
    """A service that is being deleted, or has been, is to be changed."""

    def __init__(self) -> None:
        super().__init__("ServiceNotActiveException", "Service was not ACTIVE.")


def _telling_what_is_missing(
    describe: Callable[[EC2ContainerServiceResponse], ActionResult],
) -> Callable[[EC2ContainerServiceResponse], ActionResult]:
    def describe_tasks(response: EC2ContainerServiceResponse) -> ActionResult:
        answer: Any = describe(response).result
        known = {task.task_arn.rpartition("/")[2]: task.task_arn for task in answer["tasks"]}
        failures = [
            {"arn": asked, "reason": "MISSING"}
            for asked in response._get_param("tasks", [])
            if asked not in known and asked not in known.values()
        ]
        return ActionResult({**answer, "failures": failures})

    return describe_tasks


def _list_a_page(response: EC2ContainerServiceResponse) -> ActionResult:
    """Answer ListTasks. moto reads neither what it says of pages nor the launch type."""
    found = response.ecs_backend.list_tasks(
        response._get_param("cluster", "default"),
        response._get_param("containerInstance"),
        response._get_param("family"),
        response._get_param("startedBy"),
        response._get_param("serviceName"),
        response._get_param("desiredStatus"),
    )
    size = response._get_int_param("maxResults", _MOST_TASKS)
    if not 1 <= size <= _MOST_TASKS:
        raise InvalidParameterException(f"maxResults must be between 1 and {_MOST_TASKS}.")
    launch_type = response._get_param("launchType")
    # A task keeps its number when others leave the list, so that no page skips one.
    last = int(response._get_param("nextToken") or 0)
    tasks = [
        task
        for task in found
        if task.__dict__["number"] > last and launch_type in (None, task.launch_type)
    ]
    page = tasks[:size]
    answer: dict[str, Any] = {"taskArns": [task.task_arn for task in page]}
    if len(tasks) > size:
        answer["nextToken"] = str(page[-1].__dict__["number"])
    return ActionResult(answer)


def _containers(task: Task, definition: TaskDefinition) -> list[dict[str, Any]]:
    attachments: list[dict[str, Any]] = task.attachments
    base = task.task_arn.replace(":task/", ":container/")
    address = [
        {"attachmentId": attachment["id"], "privateIpv4Address": detail["value"]}
        for attachment in attachments
        for detail in attachment["details"]
        if detail["name"] == "privateIPv4Address"
    ]
    return [
        {
            "containerArn": f"{base}/{uuid.uuid4()}",
            "taskArn": task.task_arn,
            "name": container["name"],
            "image": container.get("image", ""),
            "lastStatus": "PENDING",
            "networkInterfaces": address,
            "cpu": str(container.get("cpu", 0)),
        }
        for container in definition.container_definitions
    ]


def _container_status(task_status: str) -> str:
    if task_status in {"PROVISIONING", "PENDING", "ACTIVATING"}:
        return "PENDING"
    return "RUNNING" if task_status in {"RUNNING", "DEACTIVATING", "STOPPING"} else "STOPPED"


def _attachment_status(task_status: str) -> str:
    if task_status == "PROVISIONING":
        return "PRECREATED"
    return "DELETED" if task_status == "STOPPED" else "ATTACHED"


def task_detail(task: Task) -> dict[str, Any]:
    """Build the detail of a task's event, as AWS writes it: without tags.

    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs_task_events.html
    """
    state = task.__dict__
    detail: dict[str, Any] = {
        "attachments": copy.deepcopy(task.attachments),
        "availabilityZone": state["availability_zone"],
        "clusterArn": task.cluster_arn,
        "containers": copy.deepcopy(state["containers"]),
        "cpu": state["cpu"],
        "desiredStatus": task.desired_status,
        "enableExecuteCommand": False,
        "group": task.group,
        "launchType": task.launch_type or ("EC2" if task.container_instance_arn else "FARGATE"),
        "lastStatus": task.last_status,
        "memory": state["memory"],
        "overrides": task.overrides or {"containerOverrides": []},
        "taskArn": task.task_arn,
        "taskDefinitionArn": task.task_definition_arn,
        "version": state["version"],
    }
    optional = {
        "connectivity": "connectivity",
        "containerInstanceArn": "container_instance_arn",
        "platformVersion": "platform_version",
        "startedBy": "started_by",
        "stopCode": "stop_code",
        "stoppedReason": "stopped_reason",
        "connectivityAt": "connectivity_at",
        "createdAt": "created_at",
        "executionStoppedAt": "execution_stopped_at",
        "pullStartedAt": "pull_started_at",
        "pullStoppedAt": "pull_stopped_at",
        "startedAt": "started_at",
        "stoppedAt": "stopped_at",
        "stoppingAt": "stopping_at",
        "updatedAt": "updated_at",
    }
    for name, attribute in optional.items():
        if value := state.get(attribute):
            detail[name] = as_text(value) if isinstance(value, datetime.datetime) else value
    return detail


__all__ = ["TaskLifecycle", "TaskRunner", "task_detail"]
