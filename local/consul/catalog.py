"""Services, as one agent knows them and as the catalog of the datacenter knows them.

The embedded Consul is one server on one node. Its agent has services that clients register; the
agent writes them to the catalog at once (a real one within moments), with the token that came
with the registration. That matters when a service goes: where that token has been deleted
meanwhile, the agent forgets the service and the catalog keeps it.

All services are on that node. Of other servers, which only a snapshot can bring, the catalog has
the names and the IDs. As a real one, it lets no node register under a name that another one has.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from local.consul.errors import Absent, AclNotFound, Invalid, PermissionDenied
from local.consul.raft import RaftLog
from local.consul.rules import Authorizer

NODE_NAME = "srv1"
NODE_ADDRESS = "127.0.0.1"
SERF_HEALTH = "serfHealth"

# Where the agent starts to look for a port for a sidecar that gives none.
_FIRST_SIDECAR_PORT = 21000


@dataclass(frozen=True, kw_only=True)
class Service:
    """An instance of a service."""

    id: str
    name: str
    kind: str = ""
    tags: Sequence[str] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    address: str = ""
    tagged_addresses: Mapping[str, Any] = field(default_factory=dict)
    socket_path: str = ""
    weights: Mapping[str, int] = field(default_factory=lambda: {"Passing": 1, "Warning": 1})
    enable_tag_override: bool = False
    proxy: Mapping[str, Any] = field(default_factory=dict)
    connect_native: bool = False
    create_index: int = 0
    modify_index: int = 0

    @property
    def destination(self) -> str:
        """The service that a sidecar proxy stands for; empty if this is not one."""
        if self.kind != "connect-proxy":
            return ""
        return str(self.proxy.get("DestinationServiceName", ""))


@dataclass(frozen=True, kw_only=True)
class Check:
    """A health check of a service; nothing is ever probed here, only clients set a status."""

    id: str
    name: str
    service_id: str
    service_name: str
    type: str
    status: str = "critical"
    notes: str = ""
    output: str = ""
    alias_service: str = ""
    create_index: int = 0
    modify_index: int = 0


@dataclass(frozen=True)
class Registration:
    """A service with its checks and, if it has one, the registration of its sidecar."""

    service: Service
    checks: Sequence[Check] = ()
    sidecar: Registration | None = None


@dataclass(frozen=True, kw_only=True)
class SavedCatalog:
    """What a snapshot has of the catalog. What an agent knows is not a part of it."""

    services: tuple[Service, ...]
    checks: tuple[Check, ...]
    servers: Mapping[str, str]
    """The IDs of the servers' nodes, by their names."""


class Catalog:
    """The services of the agent and of the catalog.

    Parameters
    ----------
    authorizer
        What the holder of a secret may do; asked again whenever the agent writes to the catalog.
    """

    def __init__(self, raft: RaftLog, authorizer: Callable[[str], Authorizer]) -> None:
        self._raft = raft
        self._authorizer = authorizer
        self.node_id = str(uuid.uuid4())
        self.node_index = raft.append("catalog")
        self.servers = {NODE_NAME: self.node_id}
        self._agent: dict[str, Service] = {}
        self._catalog: dict[str, Service] = {}
        self._checks: dict[str, Check] = {}
        self._secrets: dict[str, str] = {}

    # The agent ----------------------------------------------------------------------------------

    def register(
        self,
        registration: Registration,
        *,
        secret: str,
        authorizer: Authorizer,
        replace_checks: bool = False,
    ) -> None:
        """Register a service, and its sidecar, with the agent and so with the catalog.

        Raises
        ------
        PermissionDenied
            The caller may not write the service, the one that had the ID before, or the one that
            a proxy stands for.
        """
        parts = [registration]
        if registration.sidecar:
            parts.append(registration.sidecar)
        for part in parts:
            self._check_may_register(part.service, authorizer)
        for part in parts:
            self._put(part, secret, replace_checks=replace_checks)

    def _check_may_register(self, service: Service, authorizer: Authorizer) -> None:
        _check_may_write(service.name, authorizer)
        present = self._agent.get(service.id)
        if present and not authorizer.allows("write", "service", present.name):
            # Consul names the service that is registered, though the one it replaces is the bar.
            raise PermissionDenied(f"Missing service:write on {service.name}")
        if service.destination:
            _check_may_write(service.destination, authorizer)

    def _put(self, part: Registration, secret: str, *, replace_checks: bool) -> None:
        index = self._raft.append("catalog")
        present = self._agent.get(part.service.id)
        service = replace(
            part.service,
            port=part.service.port or (self._sidecar_port() if part.service.kind else 0),
            create_index=present.create_index if present else index,
            modify_index=index,
        )
        self._agent[service.id] = service
        self._secrets[service.id] = secret
        if replace_checks:
            self._drop_checks(service.id)
        for check in part.checks:
            self._checks[check.id] = replace(check, create_index=index, modify_index=index)
        self._catalog[service.id] = service

    def _sidecar_port(self) -> int:
        taken = {service.port for service in self._agent.values()}
        return next(p for p in range(_FIRST_SIDECAR_PORT, 65536) if p not in taken)

    def deregister(self, service_id: str, authorizer: Authorizer) -> None:
        """Remove a service from the agent and, if its own token still allows that, the catalog.

        Raises
        ------
        Invalid
            The agent has no such service.
        PermissionDenied
            The caller may not write it.
        """
        service = self._agent.get(service_id)
        if service is None:
            raise Invalid(f'Unknown service "{service_id}"')
        _check_may_write(service.name, authorizer)
        if self._own_token_may_write(service):
            self._raft.append("catalog")
            self._catalog.pop(service_id, None)
            self._drop_checks(service_id)
        del self._agent[service_id]
        del self._secrets[service_id]

    def _own_token_may_write(self, service: Service) -> bool:
        try:
            own = self._authorizer(self._secrets[service.id])
        except AclNotFound:
            return False
        return own.allows("write", "service", service.name)

    def _drop_checks(self, service_id: str) -> None:
        for check in [c for c in self._checks.values() if c.service_id == service_id]:
            del self._checks[check.id]

    def agent_services(self, authorizer: Authorizer) -> list[Service]:
        """The agent's services that a caller may read."""
        return _readable(self._agent, authorizer)

    def agent_service(self, service_id: str, authorizer: Authorizer) -> Service:
        """One service of the agent.

        Raises
        ------
        Absent
            The agent has no such service.
        PermissionDenied
            The caller may not read it.
        """
        service = self._agent.get(service_id)
        if service is None:
            raise Absent(f"unknown service ID: {service_id}")
        if not authorizer.allows("read", "service", service.name):
            raise PermissionDenied
        return service

    def update_check(self, check_id: str, status: str, output: str, authorizer: Authorizer) -> None:
        """Set the status of a check that a client reports (type ``ttl``).

        Raises
        ------
        Invalid
            There is no such check, or its status is not the client's to report.
        PermissionDenied
            The caller may not write the service.
        """
        check = self._checks.get(check_id)
        if check is None:
            raise Invalid(f'Unknown check "{check_id}"')
        _check_may_write(check.service_name, authorizer)
        if check.type != "ttl":
            raise Invalid(f'CheckID "{check_id}" does not have associated TTL')
        self._checks[check_id] = replace(
            check, status=status, output=output, modify_index=self._raft.append("catalog")
        )

    # Snapshots ----------------------------------------------------------------------------------

    def save(self) -> SavedCatalog:
        """Everything that is in the catalog."""
        return SavedCatalog(
            services=tuple(self._catalog.values()),
            checks=tuple(self._checks.values()),
            servers=dict(self.servers),
        )

    def restore(self, saved: SavedCatalog) -> None:
        """Replace the catalog by what was saved; then the agent writes its own services anew.

        The server itself cannot: where the snapshot has another one of its name, that one stays.
        """
        own = [check for check in self._checks.values() if check.service_id in self._agent]
        self.servers = {NODE_NAME: self.node_id, **saved.servers}
        self._catalog = {service.id: service for service in saved.services}
        self._checks = {check.id: check for check in (*saved.checks, *own)}
        for service in self._agent.values():
            if self._own_token_may_write(service):
                self._catalog[service.id] = service

    # The catalog --------------------------------------------------------------------------------

    def deregister_node(self, name: str, authorizer: Authorizer) -> None:
        """Remove a node with all that is on it; one that is absent counts as removed.

        The server itself, and what its agent has, is there again at once (with a real one, within
        a minute or so).

        Raises
        ------
        PermissionDenied
            The caller may not write the node.
        """
        if not authorizer.allows("write", "node", name):
            raise PermissionDenied
        self._raft.append("catalog")
        others = {other: node_id for other, node_id in self.servers.items() if other != name}
        if name == NODE_NAME:
            self.restore(SavedCatalog(services=(), checks=(), servers=others))
        else:
            self.servers = others

    def services(self, authorizer: Authorizer, name: str | None = None) -> list[Service]:
        """The catalog's services that a caller may read, all or those of one name."""
        if not authorizer.allows("read", "node", NODE_NAME):
            return []
        readable = _readable(self._catalog, authorizer)
        return [service for service in readable if name in {None, service.name}]

    def checks(self, authorizer: Authorizer, service_id: str | None = None) -> list[Check]:
        """The checks of services that a caller may read, all or those of one service."""
        return [
            self._aliased(check)
            for check in sorted(self._checks.values(), key=lambda check: check.id)
            if service_id in {None, check.service_id}
            and authorizer.allows("read", "service", check.service_name)
        ]

    def _aliased(self, check: Check) -> Check:
        """An alias check has the status of the service that it stands for."""
        if check.type != "alias":
            return check
        targets = [c for c in self._checks.values() if c.service_id == check.alias_service]
        failing = next((c for c in targets if c.status != "passing"), None)
        if failing:
            output = f'Aliased check "{failing.name}" failing: {failing.output}'
            return replace(check, status=failing.status, output=output)
        output = "All checks passing." if targets else "No checks found."
        return replace(check, status="passing", output=output)


def _check_may_write(service_name: str, authorizer: Authorizer) -> None:
    if not authorizer.allows("write", "service", service_name):
        raise PermissionDenied(f"Missing service:write on {service_name}")


def _readable(services: Mapping[str, Service], authorizer: Authorizer) -> list[Service]:
    return [
        service
        for _, service in sorted(services.items())
        if authorizer.allows("read", "service", service.name)
    ]
