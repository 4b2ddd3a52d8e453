"""What a task registers with its Consul agent: pure functions from configuration to JSON.

The names and IDs are those of HashiCorp's consul-ecs, so that dashboards and intentions keep
working. Two of its defects are left out: a sidecar that Consul deregisters after ten critical
minutes (nothing ever registers it again), and notes with a placeholder that nobody fills in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from containers.task_config import (
    SOURCE,
    SOURCE_META,
    TASK_ARN_META,
    TASK_ID_META,
    Check,
    ServiceConfig,
    TaskConfig,
    UpstreamConfig,
    proxy_id,
    proxy_name,
    service_id,
    synced_check_id,
)
from containers.task_metadata import Task

_LOOPBACK: Final = "127.0.0.1"
_PROXY_CHECK_INTERVAL: Final = "10s"
SYNCED_CHECK_NAME: Final = "consul ecs synced"
# Consul has no check that only ever changes when told to: a TTL of eleven years is one.
_SYNCED_CHECK_TTL: Final = "100000h"


def service_registration(config: TaskConfig, task: Task) -> dict[str, Any]:
    """Return the registration of the task's instance of the service.

    It has no address, which means that of the agent: the task's. With one of its own, the proxy
    would listen on that address only, and every check of it asks the loopback interface.
    """
    service = config.service
    instance = service_id(service.name, task.id)
    return {
        "ID": instance,
        "Name": service.name,
        "Port": service.port,
        **_shared(service, task),
        "Checks": [_check(check) for check in service.checks]
        + [_synced_check(instance, name) for name in config.health_sync_containers],
    }


def proxy_registration(config: TaskConfig, task: Task) -> dict[str, Any]:
    """Return the registration of the sidecar proxy of that instance."""
    service, proxy = config.service, config.proxy
    instance = service_id(service.name, task.id)
    # Without a port nobody can be sent to, there is no local service: the proxy only calls out.
    local = (
        {"LocalServiceAddress": _LOOPBACK, "LocalServicePort": service.port} if service.port else {}
    )
    return {
        "ID": proxy_id(instance),
        "Name": proxy_name(service.name),
        "Kind": "connect-proxy",
        "Port": proxy.public_listener_port,
        **_shared(service, task),
        "Proxy": {
            "DestinationServiceName": service.name,
            "DestinationServiceID": instance,
            **local,
            **_given(
                Config=dict(proxy.config),
                Upstreams=[_upstream(upstream) for upstream in proxy.upstreams],
                MeshGateway=_mesh_gateway(proxy.mesh_gateway),
                Expose=_expose(proxy.expose),
            ),
        },
        "Checks": [
            {
                "Name": "Proxy Public Listener",
                "TCP": f"{_LOOPBACK}:{proxy.public_listener_port}",
                "Interval": _PROXY_CHECK_INTERVAL,
            },
            {"Name": "Destination Alias", "AliasService": instance},
        ],
    }


def synced_checks(config: TaskConfig, task: Task) -> dict[str, str]:
    """Return the IDs of the checks that health-sync reports on, by container."""
    instance = service_id(config.service.name, task.id)
    return {name: synced_check_id(instance, name) for name in config.health_sync_containers}


def _shared(service: ServiceConfig, task: Task) -> dict[str, Any]:
    """What the service and its proxy have in common."""
    weights = service.weights
    return {
        "Tags": list(service.tags),
        # The user's entries come last, so they win.
        "Meta": {
            TASK_ID_META: task.id,
            TASK_ARN_META: task.arn,
            SOURCE_META: SOURCE,
            **service.meta,
        },
        **_given(
            EnableTagOverride=service.enable_tag_override,
            Weights={"Passing": weights.passing, "Warning": weights.warning} if weights else None,
        ),
    }


def _synced_check(instance: str, container: str) -> dict[str, Any]:
    return {
        "CheckID": synced_check_id(instance, container),
        "Name": SYNCED_CHECK_NAME,
        "TTL": _SYNCED_CHECK_TTL,
        "Notes": (
            f"The health of the container {container} as ECS sees it: passing if HEALTHY, "
            "otherwise critical. The container consul-ecs-health-sync keeps it up to date."
        ),
    }


def _check(check: Check) -> dict[str, Any]:
    fields = _given(
        CheckID=check.check_id,
        Name=check.name,
        Args=list(check.args),
        Interval=check.interval,
        Timeout=check.timeout,
        TTL=check.ttl,
        HTTP=check.http,
        Header={name: list(values) for name, values in check.header.items()},
        Method=check.method,
        Body=check.body,
        TCP=check.tcp,
        Status=check.status,
        Notes=check.notes,
        TLSServerName=check.tls_server_name,
        TLSSkipVerify=check.tls_skip_verify,
        GRPC=check.grpc,
        GRPCUseTLS=check.grpc_use_tls,
        H2PING=check.h2ping,
        AliasNode=check.alias_node,
        AliasService=check.alias_service,
        SuccessBeforePassing=check.success_before_passing,
        FailuresBeforeCritical=check.failures_before_critical,
    )
    if check.h2ping_use_tls is not None:
        fields["H2PingUseTLS"] = check.h2ping_use_tls
    return fields


def _upstream(upstream: UpstreamConfig) -> dict[str, Any]:
    return _given(
        DestinationType=upstream.destination_type,
        DestinationName=upstream.destination_name,
        Datacenter=upstream.datacenter,
        LocalBindAddress=upstream.local_bind_address,
        LocalBindPort=upstream.local_bind_port,
        Config=dict(upstream.config),
        MeshGateway=_mesh_gateway(upstream.mesh_gateway),
    )


def _mesh_gateway(mode: str | None) -> dict[str, str] | None:
    return {"Mode": mode} if mode else None


def _expose(expose: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not expose:
        return None
    return _given(
        Checks=expose.get("checks"),
        Paths=[
            _given(
                ListenerPort=path["listenerPort"],
                Path=path["path"],
                LocalPathPort=path["localPathPort"],
                Protocol=path.get("protocol"),
            )
            for path in expose.get("paths") or ()
        ],
    )


def _given(**values: Any) -> dict[str, Any]:
    """Leave out what says nothing."""
    return {key: value for key, value in values.items() if value}
