"""What is in ECS and in Secrets Manager: putting it there, and looking at it afterwards."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from moto.core.responses import ActionResult
from moto.ecs.models import ecs_backends
from moto.ecs.responses import EC2ContainerServiceResponse
from moto.moto_api import state_manager
from moto.secretsmanager.models import secretsmanager_backends

from local.cloud.patching import replaced

ACCOUNT = "123456789012"
REGION = "us-east-1"
CLUSTER_ARN = f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/mesh"
PREFIX = "acme"


@dataclass(frozen=True)
class Version:
    """One version of a secret, as a test compares it."""

    stages: tuple[str, ...]
    value: str


class SecretsState:
    """Secrets Manager, as a person or HashiCorp's modules would use it."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def create(self, name: str, value: str | None = None, *, binary: bytes | None = None) -> str:
        """Create a secret, without a value if none is given; return its ARN."""
        value_of_secret: dict[str, Any] = {"SecretString": value} if value is not None else {}
        if binary is not None:
            value_of_secret = {"SecretBinary": binary}
        return str(self.client.create_secret(Name=name, **value_of_secret)["ARN"])

    def put(self, name: str, value: str) -> str:
        """Write a value that is current at once; return the version's ID."""
        return str(self.client.put_secret_value(SecretId=name, SecretString=value)["VersionId"])

    def arn(self, name: str) -> str:
        return str(self.client.describe_secret(SecretId=name)["ARN"])

    def current(self, name: str) -> str:
        """Return what a task pulls."""
        return str(self.client.get_secret_value(SecretId=name)["SecretString"])

    def current_id(self, name: str) -> str:
        return str(self.client.get_secret_value(SecretId=name)["VersionId"])

    def versions(self, name: str) -> dict[str, Version]:
        """Return every version that has a stage, by its ID."""
        stages = self.client.describe_secret(SecretId=name).get("VersionIdsToStages", {})
        return {
            version_id: Version(tuple(sorted(stages[version_id])), self._value(name, version_id))
            for version_id in stages
        }

    def stages(self, name: str) -> dict[str, str]:
        """Return the value of each stage."""
        versions = self.versions(name).values()
        return {stage: version.value for version in versions for stage in version.stages}

    def description(self, name: str) -> dict[str, Any]:
        """Return the description and the tags."""
        described = self.client.describe_secret(SecretId=name)
        tags = {tag["Key"]: tag["Value"] for tag in described.get("Tags", [])}
        return {"description": described.get("Description"), "tags": tags}

    def names(self) -> list[str]:
        return sorted(secret["Name"] for secret in self.client.list_secrets()["SecretList"])

    def credentials(self) -> Iterator[str]:
        """Everything in all secrets that must not get out of them."""
        # Past the API, which does not show what is deleted or has lost its stage.
        backend = secretsmanager_backends[ACCOUNT][self.client.meta.region_name]
        for secret in backend.secrets.values():
            for version in secret.versions.values():
                text = version.get("secret_string") or ""
                try:
                    value = json.loads(text)
                except ValueError:
                    value = text
                if isinstance(value, dict) and "private_key" in value:
                    # In JSON the whole of it would look different: any line gives it away.
                    yield from str(value["private_key"]).splitlines()[1:-2]
                token = value.get("token") if isinstance(value, dict) else value
                # Shorter texts could be anywhere by chance.
                if isinstance(token, str) and len(token) > len("a short text"):
                    yield token

    def _value(self, name: str, version_id: str) -> str:
        answer = self.client.get_secret_value(SecretId=name, VersionId=version_id)
        return str(answer.get("SecretString", answer.get("SecretBinary")))


class EcsState:
    """An ECS cluster whose tasks and services are in the state that a test wants them in."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._region: str = client.meta.region_name
        self._made: set[tuple[str, str]] = set()

    def run_task(
        self,
        *,
        family: str = "web",
        tags: Mapping[str, str] | None = None,
        arn: str | None = None,
        cluster: str = "mesh",
        desired_status: str = "RUNNING",
        last_status: str = "RUNNING",
        created_at: datetime | None = None,
        group: str | None = None,
    ) -> str:
        """Start a task, under the ARN that an event gives it; return its ARN.

        ECS says when it was made only if it is told here.
        """
        self.create_cluster(cluster)
        self._define(family)
        task_arn: str = self.client.run_task(
            cluster=cluster,
            taskDefinition=family,
            launchType="FARGATE",
            tags=[{"key": key, "value": value} for key, value in (tags or {}).items()],
            **({"group": group} if group is not None else {}),
        )["tasks"][0]["taskArn"]
        tasks = self._tasks(cluster)
        task = tasks.pop(task_arn)
        if arn is not None:
            task.id = arn.rpartition("/")[2]
        task.desired_status = desired_status
        task.last_status = last_status
        if created_at is not None:
            vars(task)["created_at"] = created_at  # moto's tasks have none
        tasks[task.task_arn] = task
        return str(task.task_arn)

    def run_tasks(self, count: int, **state: Any) -> set[str]:
        """Start many tasks that are all alike; return their ARNs."""
        first = self.run_task(**state)
        tasks = self._tasks("mesh")
        for _ in range(count - 1):
            task = copy.copy(tasks[first])
            task.id = uuid.uuid4().hex
            tasks[task.task_arn] = task
        return {first} | set(list(tasks)[1 - count :] if count > 1 else ())

    def drain(self, task_arn: str) -> None:
        """Let a task be wanted to stop, while it runs on."""
        task = self._tasks("mesh")[task_arn]
        task.desired_status, task.last_status = "STOPPED", "DEACTIVATING"

    def stop(self, task_arn: str) -> None:
        """Stop a task, which ECS remembers for a while."""
        task = self._tasks("mesh")[task_arn]
        task.desired_status = task.last_status = "STOPPED"

    def create_cluster(self, name: str = "mesh") -> None:
        if ("cluster", name) not in self._made:
            self._made.add(("cluster", name))
            self.client.create_cluster(clusterName=name)

    def create_service(
        self, name: str, *, deployed_at: datetime, controller: str = "ECS", **state: Any
    ) -> None:
        """Create a service in some state, as `show_service` takes it. Starts no task."""
        self.create_cluster()
        self._define("web")
        self.client.create_service(
            cluster="mesh",
            serviceName=name,
            taskDefinition="web",
            desiredCount=1,
            deploymentController={"type": controller},
        )
        self.show_service(name, deployed_at=deployed_at, **state)

    def show_service(
        self,
        name: str,
        *,
        deployed_at: datetime,
        rollout: str | None = "COMPLETED",
        counts: tuple[int, int, int] = (1, 1, 0),
        earlier_deployments: int = 0,
        status: str = "ACTIVE",
    ) -> None:
        """Put a service into a state: when its latest deployment began, and how far it is.

        `counts` are the tasks that are desired, running and pending.
        """
        service = self._services()[f"mesh:{name}"]
        service.desired_count, service.running_count, service.pending_count = counts
        service.status = status
        vars(service)["created_at"] = deployed_at  # moto's services have none
        # Other controllers than ECS itself have none.
        for deployment in service.deployments:
            deployment["createdAt"] = deployed_at
            deployment.pop("rolloutState", None)
            if rollout is not None:
                deployment["rolloutState"] = rollout
        service.deployments += [
            {**service.deployments[0], "id": f"ecs-svc/{number}", "status": "ACTIVE"}
            for number in range(earlier_deployments)
        ]

    def deployed_at(self, name: str) -> datetime:
        """Return when a service's latest deployment began."""
        answer = self.client.describe_services(cluster="mesh", services=[name])
        deployed_at: datetime = answer["services"][0]["deployments"][0]["createdAt"]
        return deployed_at

    def _define(self, family: str) -> None:
        if ("family", family) not in self._made:
            self._made.add(("family", family))
            self.client.register_task_definition(
                family=family,
                containerDefinitions=[{"name": "app", "image": "app:1", "memory": 128}],
            )

    def _tasks(self, cluster: str) -> dict[str, Any]:
        tasks: dict[str, Any] = ecs_backends[ACCOUNT][self._region].tasks[cluster]
        return tasks

    def _services(self) -> dict[str, Any]:
        services: dict[str, Any] = ecs_backends[ACCOUNT][self._region].services
        return services


@contextmanager
def corrected_ecs() -> Iterator[None]:
    """Let moto list tasks as ECS does, and leave them in the state that a test has put them in.

    ECS lists 100 at a time, of exactly one cluster, and those that are wanted to run if nobody asks
    for others. moto lets a task stop when it has been looked at.
    """

    def list_tasks(response: EC2ContainerServiceResponse) -> ActionResult:
        backend = response.ecs_backend
        cluster = backend._get_cluster(response._get_param("cluster", "default"))
        desired = response._get_param("desiredStatus") or "RUNNING"
        arns = [
            task.task_arn
            for task in backend.tasks.get(cluster.name, {}).values()
            if task.desired_status == desired
        ]
        first = int(response._get_param("nextToken") or 0)
        end = first + response._get_int_param("maxResults", 100)
        more = {"nextToken": str(end)} if end < len(arns) else {}
        return ActionResult({"taskArns": arns[first:end], **more})

    never = {"progression": "manual", "times": 10**9}
    state_manager.set_transition("ecs::task", never)
    with replaced(EC2ContainerServiceResponse, "list_tasks", list_tasks):
        yield
    state_manager.unset_transition("ecs::task")


@contextmanager
def answering(
    client: Any, operation: str, *, status: int, code: str, message: str = "As ordered."
) -> Iterator[None]:
    """Let AWS refuse an operation with an error; nothing is sent, and nothing is tried again."""

    class _Response:
        status_code = status

    def refuse(**_: Any) -> tuple[type[_Response], dict[str, Any]]:
        metadata = {"HTTPStatusCode": status}
        return _Response, {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": metadata,
        }

    event = f"before-call.{client.meta.service_model.service_id.hyphenize()}.{operation}"
    client.meta.events.register(event, refuse)
    try:
        yield
    finally:
        client.meta.events.unregister(event, refuse)
