"""A mesh as the workflows leave it: secrets, tokens and tasks agree, until a test changes one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from handlers.clients.consul_connection import consul as connected_consul
from handlers.core.token_secret import TokenIds
from tests.unit.aws_state import CLUSTER_ARN, EcsState, SecretsState
from tests.unit.consul_state import ConsulState

MESH_TAG = "consul.hashicorp.com/mesh"
SERVICE_NAME_TAG = "consul.hashicorp.com/service-name"
CLUSTER_LINE = f"consul.hashicorp.com/cluster: {CLUSTER_ARN}"
CLIENT_SECRET = "acme-consul-client-token"
CONTROLLER_SECRET = "acme-consul-controller-token"
CLIENT_DESCRIPTION = f"ECS Consul client Token\n{CLUSTER_LINE}"
CONTROLLER_DESCRIPTION = f"ECS Consul controller Token\n{CLUSTER_LINE}"
CLIENT_POLICY = {
    "Name": "acme-consul-client-policy",
    "Description": f"Consul Client Token Policy for ECS\n{CLUSTER_LINE}",
    "Rules": (
        'node_prefix "" {\n  policy = "write"\n}\nservice_prefix "" {\n  policy = "read"\n}\n'
    ),
}
CONTROLLER_POLICY = {
    "Name": "acme-consul-controller-policy",
    "Description": f"Consul Controller Token Policy for ECS\n{CLUSTER_LINE}",
    "Rules": ('acl = "write"\nservice_prefix "" {\n  policy = "read"\n  intentions = "write"\n}\n'),
}
CLIENT = {"token": "client"}
CONTROLLER = {"token": "controller"}


class Clock:
    """Stands still until time is let pass. It starts now, for moto's clock goes on."""

    def __init__(self) -> None:
        self.moment = datetime.now(UTC).replace(microsecond=0)

    def now(self) -> datetime:
        return self.moment

    def ago(self, **by: float) -> datetime:
        return self.moment - timedelta(**by)

    def let_pass(self, **by: float) -> None:
        self.moment += timedelta(**by)


class MeshState:
    """A cluster with its controller's and its clients' tokens; a test adds services and tasks."""

    def __init__(
        self, secrets: SecretsState, consul: ConsulState, ecs: EcsState, clock: Clock
    ) -> None:
        self.secrets = secrets
        self.consul = consul
        self.ecs = ecs
        self.clock = clock
        ecs.create_cluster()
        consul.create_policy(**CLIENT_POLICY)
        consul.create_policy(**CONTROLLER_POLICY)
        self.client = self.token(CLIENT_DESCRIPTION, policies=[CLIENT_POLICY["Name"]])
        self.controller = self.token(CONTROLLER_DESCRIPTION, policies=[CONTROLLER_POLICY["Name"]])
        secrets.create(CLIENT_SECRET, self.client.to_secret_string())
        secrets.put(CONTROLLER_SECRET, self.controller.to_secret_string())

    def token(
        self,
        description: str,
        *,
        services: Sequence[str] = (),
        policies: Sequence[str] = (),
        ids: TokenIds | None = None,
    ) -> TokenIds:
        """Make a token in Consul."""
        ids = ids or TokenIds.new()
        self.consul.create_token(
            AccessorID=ids.accessor_id,
            SecretID=ids.secret_id,
            Description=description,
            ServiceIdentities=[{"ServiceName": name} for name in services],
            Policies=[{"Name": name} for name in policies],
        )
        return ids

    def service_token(
        self,
        name: str = "web",
        *,
        not_pulled_since: datetime | None = None,
        ids: TokenIds | None = None,
    ) -> TokenIds:
        """Make a token of a service in Consul, which is in no secret."""
        return self.token(described(name, not_pulled_since), services=[name], ids=ids)

    def add_service(self, name: str = "web", *, tasks: int = 1) -> TokenIds:
        """Add a service with its token, its secret, and tasks that were made a day ago."""
        ids = self.service_token(name)
        self.secrets.create(f"acme-{name}", ids.to_secret_string())
        for _ in range(tasks):
            self.run_task(name)
        return ids

    def run_task(
        self,
        service: str = "web",
        *,
        created_at: datetime | None = None,
        ecs_service: str | None = None,
        tags: Mapping[str, str] | None = None,
        **state: Any,
    ) -> str:
        """Start a task of a service, a day ago if nothing else is said; return its ARN."""
        return self.ecs.run_task(
            tags={MESH_TAG: "true", SERVICE_NAME_TAG: service, **(tags or {})},
            created_at=created_at or self.clock.ago(days=1),
            group=f"service:{ecs_service}" if ecs_service is not None else None,
            **state,
        )

    def ids(self, secret_name: str = "acme-web") -> TokenIds:
        """Return what tasks pull."""
        value = json.loads(self.secrets.current(secret_name))
        return TokenIds(value["accessor_id"], value["token"])

    def pending_ids(self, secret_name: str = "acme-web") -> TokenIds:
        """Return what is written to be pulled later."""
        value = json.loads(self.secrets.stages(secret_name)["AWSPENDING"])
        return TokenIds(value["accessor_id"], value["token"])

    def written_at(self, secret_name: str, stage: str) -> datetime:
        """Return when the version with a stage was written."""
        answer = self.secrets.client.get_secret_value(SecretId=secret_name, VersionStage=stage)
        written_at: datetime = answer["CreatedDate"]
        return written_at

    @contextmanager
    def unreachable_consul(self) -> Iterator[None]:
        """Let the steps find nobody where Consul is."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connected_consul(), "_address", "http://127.0.0.1:9")
            yield

    def has(self, ids: TokenIds) -> bool:
        """Whether Consul knows a token, by both of its IDs."""
        found = self.consul.token(ids.accessor_id)
        return found is not None and found["SecretID"] == ids.secret_id

    def describe(self, ids: TokenIds) -> str:
        """Return a token's description."""
        found = self.consul.token(ids.accessor_id)
        assert found is not None
        return str(found["Description"])

    def delete_token(self, ids: TokenIds) -> None:
        """Delete a token, as a person would."""
        self.consul.call("DELETE", f"/v1/acl/token/{ids.accessor_id}")

    def describe_anew(self, ids: TokenIds, description: str) -> None:
        """Let a person change a token's description."""
        path = f"/v1/acl/token/{ids.accessor_id}"
        token = self.consul.call("GET", path)
        assert self.consul.call("PUT", path, token | {"Description": description}) is not None


def described(service: str, not_pulled_since: datetime | None = None) -> str:
    """Return the description of a service's token."""
    lines = [f"Token for {service} service", CLUSTER_LINE]
    if not_pulled_since is not None:
        lines.append(marked(not_pulled_since))
    return "\n".join(lines)


def marked(moment: datetime) -> str:
    """Return the line of a token that tasks which were made since cannot hold."""
    return f"consul-on-ecs/not-pulled-since: {text_of(moment)}"


def text_of(moment: datetime) -> str:
    """Return a moment as states have it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def named(subject: Mapping[str, str], ids: TokenIds) -> dict[str, Any]:
    """Return a token as states have it."""
    return {"subject": dict(subject), "accessor_id": ids.accessor_id}


def new_accessor_id() -> str:
    """Return an accessor ID that no token has."""
    return str(uuid.uuid4())
