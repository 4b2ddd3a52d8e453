"""What is in ECS and in Secrets Manager: putting it there, and looking at it afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from moto.ecs.models import ecs_backends
from moto.secretsmanager.models import secretsmanager_backends

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
                token = value.get("token") if isinstance(value, dict) else value
                # Shorter texts could be anywhere by chance.
                if isinstance(token, str) and len(token) > len("a short text"):
                    yield token

    def _value(self, name: str, version_id: str) -> str:
        answer = self.client.get_secret_value(SecretId=name, VersionId=version_id)
        return str(answer.get("SecretString", answer.get("SecretBinary")))


class EcsState:
    """An ECS cluster whose tasks are in the state that a test wants them in."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._region: str = client.meta.region_name

    def run_task(
        self,
        *,
        family: str = "web",
        tags: Mapping[str, str] | None = None,
        arn: str | None = None,
        cluster: str = "mesh",
        desired_status: str = "RUNNING",
    ) -> str:
        """Start a task, under the ARN that an event gives it; return its ARN."""
        self.client.create_cluster(clusterName=cluster)
        self.client.register_task_definition(
            family=family,
            containerDefinitions=[{"name": "app", "image": "app:1", "memory": 128}],
        )
        task_arn: str = self.client.run_task(
            cluster=cluster,
            taskDefinition=family,
            launchType="FARGATE",
            tags=[{"key": key, "value": value} for key, value in (tags or {}).items()],
        )["tasks"][0]["taskArn"]
        tasks = ecs_backends[ACCOUNT][self._region].tasks[cluster]
        task = tasks.pop(task_arn)
        if arn is not None:
            task.id = arn.rpartition("/")[2]
        task.desired_status = desired_status
        tasks[task.task_arn] = task
        return str(task.task_arn)


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
