"""Does a stored token allow what it should, and nothing else?"""

from __future__ import annotations

import json
from dataclasses import dataclass

from local.consul_api import ConsulApi
from local.deployment import Deployment


@dataclass(frozen=True)
class Proof:
    """What Consul let a stored token do."""

    accessor_id: str
    own_service_allowed: bool
    other_service_refused: bool


def prove_token(
    deployment: Deployment, *, secret_name: str, service: str, other_service: str, task_id: str
) -> Proof:
    """Register services with the token that a task would pull, and remove them again.

    Args:
        deployment: what runs on this machine.
        secret_name: where the task's definition points to.
        service: the token's own service.
        other_service: one that it must not be able to register.
        task_id: makes the IDs of the services unique.

    """
    secret = json.loads(
        deployment.cloud.client("secretsmanager").get_secret_value(SecretId=secret_name)[
            "SecretString"
        ]
    )
    consul = ConsulApi(deployment.consul, secret["token"])
    own = _register(consul, service, f"{service}-{task_id}")
    other = _register(consul, other_service, f"{other_service}-{task_id}-intruder")
    return Proof(
        accessor_id=secret["accessor_id"],
        own_service_allowed=all(own),
        other_service_refused=not any(other),
    )


def _register(consul: ConsulApi, service: str, service_id: str) -> list[bool]:
    """Register a service, then its sidecar proxy, as mesh-init does; whether each was allowed."""
    proxy_id = f"{service_id}-sidecar-proxy"
    allowed = [
        consul.put("/v1/agent/service/register", {"ID": service_id, "Name": service, "Port": 9090}),
        consul.put(
            "/v1/agent/service/register",
            {
                "ID": proxy_id,
                "Name": f"{service}-sidecar-proxy",
                "Kind": "connect-proxy",
                "Port": 20000,
                "Proxy": {"DestinationServiceName": service, "DestinationServiceID": service_id},
            },
        ),
    ]
    for registered, each in zip(allowed, (service_id, proxy_id), strict=True):
        if registered:
            consul.put(f"/v1/agent/service/deregister/{each}")
    return allowed
