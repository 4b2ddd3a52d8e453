"""Consul's HTTP API: which endpoint does what, in which order it checks things.

:class:`Api` turns a :class:`~local.consul.exchange.Call` into an
:class:`~local.consul.exchange.Answer`. It knows no sockets. :data:`ROUTES` at the end lists every
endpoint there is.

The order of the checks is Consul's, because it decides which refusal a client sees: the query
string, the method, whether there are ACLs at all, the body, the state of the server, the caller's
permission, and only then the object.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPMethod
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

from local.consul import bodies, rendering
from local.consul.acl import AclState
from local.consul.catalog import NODE_ADDRESS, NODE_NAME, Catalog, Service
from local.consul.errors import (
    Absent,
    AclDisabled,
    AclNotFound,
    BadRequest,
    Invalid,
    PermissionDenied,
    Refusal,
)
from local.consul.exchange import Answer, Call, QueryMeta, has_bad_escape
from local.consul.intentions import Intentions
from local.consul.raft import RaftLog, Table
from local.consul.rules import ALLOW_ALL, Access, Authorizer
from local.consul.snapshot import SavedState, pack, unpack

AclMode: TypeAlias = Literal["deny", "allow", "disabled"]
Flavour: TypeAlias = Literal["1.10", "current"]
State: TypeAlias = Literal["ready", "no_leader", "starting"]

UNROUTED = "(unknown path)"
"""The template of a path that has no route; such a path might hold anything, even a secret."""

# Where the servers talk to each other; nothing listens there here.
_RAFT_PORT = 8300

# The service that every server is, in the catalog.
_CONSUL = "consul"

# Endpoints that a real Consul has and this one has not: better to say so than to say 404.
_NOT_EMBEDDED = re.compile(
    r"/v1/("
    r"acl/(auth-method|binding-rule|role|login|logout|rules/|create|update|destroy|info|clone|list)"
    r"|agent/|catalog/|config|connect/|coordinate/|discovery-chain/|event/|health/|internal/|kv/"
    r"|operator/|query|session/|txn"
    r").*"
)

_Handler: TypeAlias = Callable[["Api", Call], Any]


@dataclass(frozen=True)
class Route:
    """One endpoint: its path, the name it is recorded under, and a handler for each method."""

    path: re.Pattern[str]
    template: str
    handlers: Mapping[str, _Handler]


class Api:
    """One Consul server's API over its state. Thread-safe: requests take effect one at a time."""

    def __init__(
        self,
        *,
        datacenter: str,
        acl: AclMode,
        initial_management: str | None,
        version: str,
        flavour: Flavour,
        clock: Callable[[], datetime],
    ) -> None:
        self.state: State = "ready"
        self._datacenter = datacenter
        self._mode = acl
        self._version = version
        self._flavour = flavour
        self._lock = threading.Lock()
        self._raft = RaftLog()
        self._acl = AclState(
            raft=self._raft,
            datacenter=datacenter,
            default="allow" if acl == "disabled" else acl,
            initial_management=initial_management,
            clock=clock,
        )
        self._catalog = Catalog(self._raft, self._authorizer_of)
        self._intentions = Intentions(self._raft)

    # Answering ----------------------------------------------------------------------------------

    def answer(self, call: Call) -> Answer:
        """Answer a request."""
        if has_bad_escape(call.path):
            return Answer.text(400, "400 Bad Request")
        call.path = unquote(call.path)
        route, args, allowed = _find_route(call)
        if route is None:
            return _unrouted(call.path)
        call.args = args
        with self._lock:
            answer = self._answer_route(call, route, allowed)
        default_policy = "deny" if self._mode == "deny" else "allow"
        headers = {"X-Consul-Default-Acl-Policy": default_policy, **answer.headers}
        if call.meta:
            headers |= call.meta.headers()
        return replace(answer, headers=headers)

    def template(self, call: Call) -> str:
        """The template of a request's path, which names no object and no secret."""
        route, _, _ = _find_route(call)
        return route.template if route else UNROUTED

    def _answer_route(self, call: Call, route: Route, allowed: str) -> Answer:
        try:
            call.parse_query()
            if call.method == HTTPMethod.OPTIONS:
                return Answer(200, headers={"Allow": allowed})
            handler = route.handlers.get(call.method)
            if handler is None:
                text = f"method {call.method} not allowed"
                return Answer.text(405, text, {"Allow": allowed})
            result = handler(self, call)
        except Refusal as refusal:
            return Answer.text(refusal.status, refusal.text)
        return result if isinstance(result, Answer) else Answer.json(result, call)

    # What every endpoint of a kind shares -------------------------------------------------------

    def _query(self, call: Call) -> QueryMeta:
        """Begin a read: from here on its answer, good or bad, carries the read's metadata."""
        consistency = call.check_query_options()
        call.refuse_namespace()
        call.meta = QueryMeta()
        self._check_datacenter(call)
        if call.path.startswith(("/v1/catalog/", "/v1/health/")):
            call.meta.consistency = consistency
        return call.meta

    def _check_datacenter(self, call: Call) -> None:
        if call.first("dc") not in {"", self._datacenter}:
            raise Invalid("No path to datacenter")

    def _check_leader(self) -> None:
        # A real server looks for a leader for about 7 seconds before it says this.
        if self.state != "ready":
            raise Invalid("No cluster leader")

    def _acl_enabled(self) -> None:
        if self._mode == "disabled":
            raise AclDisabled

    def _acl_ready(self) -> None:
        if self.state != "ready":
            raise Invalid("The ACL system is currently in legacy mode.")

    def _require_acl(self, call: Call, access: Access) -> Authorizer:
        self._acl_ready()
        authorizer = self._acl.authorizer(call.token)
        if not authorizer.allows(access, "acl"):
            raise PermissionDenied
        return authorizer

    def _authorizer_of(self, secret: str) -> Authorizer:
        return ALLOW_ALL if self._mode == "disabled" else self._acl.authorizer(secret)

    def _agent_authorizer(self, call: Call) -> Authorizer:
        if self.state != "ready" and self._mode != "disabled":
            # Even for a valid management token: the agent cannot resolve any token yet.
            raise AclNotFound
        return self._authorizer_of(call.token)

    def _last(self, table: Table) -> int:
        return self._raft.last(table)

    @property
    def _raft_address(self) -> str:
        return f"{NODE_ADDRESS}:{_RAFT_PORT}"

    # Status -------------------------------------------------------------------------------------

    def status_leader(self, call: Call) -> str:
        """Where the leader is; empty without one."""
        self._check_datacenter(call)
        return self._raft_address if self.state == "ready" else ""

    def status_peers(self, call: Call) -> list[str]:
        """Where the servers are; none without a leader."""
        self._check_datacenter(call)
        return [self._raft_address] if self.state == "ready" else []

    # Operator -----------------------------------------------------------------------------------

    def raft_configuration(self, call: Call) -> dict[str, Any]:
        """The servers of Raft: this one. Other than with most reads, there is no metadata."""
        call.check_query_options()
        self._check_datacenter(call)
        self._check_leader()
        if not self._authorizer_of(call.token).allows("read", "operator"):
            raise PermissionDenied
        server = {
            "ID": self._catalog.node_id,
            "Node": NODE_NAME,
            "Address": self._raft_address,
            "Leader": True,
            "ProtocolVersion": "3",
            "Voter": True,
        }
        return {"Servers": [server], "Index": 1}

    # ACL: bootstrap -----------------------------------------------------------------------------

    def bootstrap(self, call: Call) -> dict[str, Any]:
        """Make the first management token; a second time is refused."""
        self._acl_enabled()
        # Consul 1.10 does not read the body: choosing one's own secret came later.
        secret = bodies.bootstrap_secret(call.body) if self._flavour == "current" else None
        self._acl_ready()
        token = self._acl.bootstrap(secret)
        return {"ID": token.secret_id, **rendering.token(self._acl, token)}

    def replication(self, call: Call) -> dict[str, Any]:
        """The state of replication from another datacenter, of which there is none."""
        self._acl_enabled()
        self._check_datacenter(call)
        self._check_leader()
        never = "0001-01-01T00:00:00Z"
        return {
            "Enabled": False,
            "Running": False,
            "SourceDatacenter": "",
            "ReplicationType": "",
            "ReplicatedIndex": 0,
            "ReplicatedRoleIndex": 0,
            "ReplicatedTokenIndex": 0,
            "LastSuccess": never,
            "LastError": never,
        }

    # ACL: tokens --------------------------------------------------------------------------------

    def token_list(self, call: Call) -> list[dict[str, Any]]:
        """All tokens, with their secrets if the caller may write ACLs."""
        self._acl_enabled()
        meta = self._query(call)
        authorizer = self._require_acl(call, "read")
        meta.reached(self._last("tokens"))
        if call.first("role") or call.first("authmethod"):
            return []  # there are no roles or auth methods here
        tokens = self._acl.tokens(
            policy_id=call.first("policy"),
            # Consul 1.10 has no such filter and, as with every parameter it lacks, ignores it.
            service_name=call.first("servicename") if self._flavour == "current" else "",
        )
        visible = authorizer.allows("write", "acl")
        return [rendering.token(self._acl, t, secret_visible=visible) for t in tokens]

    def token_self(self, call: Call) -> dict[str, Any]:
        """The caller's own token; needs no permission."""
        self._acl_enabled()
        meta = self._query(call)
        self._acl_ready()
        token = self._acl.token_by_secret(call.token)
        # Other than elsewhere, an unknown token of the caller is data that was not found.
        meta.reached(self._last("tokens"))
        if token is None:
            raise self._not_found("Supplied token does not exist")
        return rendering.token(self._acl, token)

    def token_read(self, call: Call) -> dict[str, Any]:
        """One token, by accessor ID."""
        self._acl_enabled()
        (accessor_id,) = call.args
        if not accessor_id:
            raise BadRequest("Bad request: Missing token ID")
        meta = self._query(call)
        authorizer = self._require_acl(call, "read")
        token = self._acl.token_by_accessor(accessor_id)
        meta.reached(self._last("tokens"))
        if token is None:
            raise self._not_found("Requested token not found: ACL not found")
        visible = authorizer.allows("write", "acl")
        return rendering.token(self._acl, token, secret_visible=visible)

    def token_create(self, call: Call) -> dict[str, Any]:
        """Create a token."""
        self._acl_enabled()
        call.refuse_namespace()
        request = bodies.token_request(call.body)
        self._require_acl(call, "write")
        return rendering.token(self._acl, self._acl.create_token(request))

    def token_update(self, call: Call) -> dict[str, Any]:
        """Replace a token; without an ID in the path, create one."""
        self._acl_enabled()
        call.refuse_namespace()
        request = bodies.token_request(call.body)
        (accessor_id,) = call.args
        if request.accessor_id not in {"", accessor_id}:
            raise BadRequest("Bad request: Token Accessor ID in URL and payload do not match")
        self._require_acl(call, "write")
        if not accessor_id:
            token = self._acl.create_token(request)
        else:
            token = self._acl.update_token(replace(request, accessor_id=accessor_id))
        return rendering.token(self._acl, token)

    def token_clone(self, call: Call) -> dict[str, Any]:
        """Create a token like another one."""
        self._acl_enabled()
        call.refuse_namespace()
        request = bodies.token_request(call.body)
        self._require_acl(call, "write")
        (accessor_id,) = call.args
        clone = self._acl.clone_token(accessor_id, request.description)
        return rendering.token(self._acl, clone)

    def token_delete(self, call: Call) -> bool:
        """Delete a token; on Consul 1.10 one that is absent counts as deleted."""
        self._acl_enabled()
        (accessor_id,) = call.args
        if not accessor_id:
            raise BadRequest("Bad request: Missing token ID")
        call.refuse_namespace()
        self._require_acl_to_delete(call, "token")
        deleted = self._acl.delete_token(accessor_id, caller_secret=call.token)
        return self._deleted("token", deleted=deleted)

    # ACL: policies ------------------------------------------------------------------------------

    def policy_list(self, call: Call) -> list[dict[str, Any]]:
        """All policies, without their rules."""
        self._acl_enabled()
        meta = self._query(call)
        self._require_acl(call, "read")
        meta.reached(self._last("policies"))
        return [rendering.policy_stub(policy) for policy in self._acl.policies()]

    def policy_read(self, call: Call) -> dict[str, Any]:
        """One policy, by ID."""
        self._acl_enabled()
        (policy_id,) = call.args
        if not policy_id:
            raise BadRequest("Bad request: Missing policy ID")
        return self._read_policy(call, lambda: self._acl.policy_by_id(policy_id))

    def policy_read_by_name(self, call: Call) -> dict[str, Any]:
        """One policy, by name."""
        self._acl_enabled()
        (name,) = call.args
        if not name:
            raise BadRequest("Bad request: Missing policy Name")
        return self._read_policy(call, lambda: self._acl.policy_by_name(name))

    def _read_policy(self, call: Call, find: Callable[[], Any]) -> dict[str, Any]:
        meta = self._query(call)
        self._require_acl(call, "read")
        policy = find()
        meta.reached(self._last("policies"))
        if policy is None:
            raise self._not_found("Requested policy not found: ACL not found")
        return rendering.policy(policy)

    def policy_create(self, call: Call) -> dict[str, Any]:
        """Create a policy."""
        self._acl_enabled()
        call.refuse_namespace()
        request = bodies.policy_request(call.body)
        if request.id:
            raise BadRequest("Bad request: Cannot specify the ID when creating a new policy")
        self._require_acl(call, "write")
        return rendering.policy(self._acl.set_policy(request))

    def policy_update(self, call: Call) -> dict[str, Any]:
        """Replace a policy."""
        self._acl_enabled()
        call.refuse_namespace()
        request = bodies.policy_request(call.body)
        (policy_id,) = call.args
        if request.id not in {"", policy_id}:
            raise BadRequest("Bad request: Policy ID in URL and payload do not match")
        self._require_acl(call, "write")
        return rendering.policy(self._acl.set_policy(replace(request, id=policy_id)))

    def policy_delete(self, call: Call) -> bool:
        """Delete a policy; on Consul 1.10 one that is absent counts as deleted."""
        self._acl_enabled()
        (policy_id,) = call.args
        if not policy_id:
            raise BadRequest("Bad request: Missing policy ID")
        call.refuse_namespace()
        self._require_acl_to_delete(call, "policy")
        return self._deleted("policy", deleted=self._acl.delete_policy(policy_id))

    # ACL: what differs between versions ---------------------------------------------------------

    def _not_found(self, current: str) -> Refusal:
        """An absent object: 403 on Consul 1.10, as for a caller who is unknown; 404 since."""
        return Absent(current) if self._flavour == "current" else AclNotFound()

    def _deleted(self, kind: str, *, deleted: bool) -> bool:
        if self._flavour == "current" and not deleted:
            raise Absent(f"Cannot find {kind} to delete")
        return True

    def _require_acl_to_delete(self, call: Call, kind: str) -> None:
        try:
            self._require_acl(call, "write")
        except AclNotFound:
            # A newer Consul takes every "ACL not found" for an absent object, even if it is the
            # caller's own token that was not found.
            self._deleted(kind, deleted=False)
            raise

    # Agent --------------------------------------------------------------------------------------

    def agent_self(self, call: Call) -> dict[str, Any]:
        """The server's configuration; of the debug part only what concerns ACLs."""
        if not self._agent_authorizer(call).allows("read", "agent", NODE_NAME):
            raise PermissionDenied
        return {
            "Config": {
                "Datacenter": self._datacenter,
                "PrimaryDatacenter": self._datacenter,
                "NodeName": NODE_NAME,
                "NodeID": self._catalog.node_id,
                "Revision": "",
                "Server": True,
                "Version": self._version,
            },
            "DebugConfig": {
                "ACLDatacenter": self._datacenter,
                "ACLDefaultPolicy": "deny" if self._mode == "deny" else "allow",
                "ACLDisabledTTL": "2m0s",
                "ACLDownPolicy": "extend-cache",
                "ACLEnableKeyListPolicy": False,
                "ACLMasterToken": "hidden",
                "ACLPolicyTTL": "30s",
                "ACLRoleTTL": "0s",
                "ACLTokenReplication": False,
                "ACLTokenTTL": "30s",
                "ACLsEnabled": self._mode != "disabled",
            },
        }

    def agent_services(self, call: Call) -> dict[str, Any]:
        """The agent's services that the caller may read, by ID."""
        services = self._catalog.agent_services(self._agent_authorizer(call))
        return {s.id: rendering.agent_service(s, self._datacenter) for s in services}

    def agent_service(self, call: Call) -> dict[str, Any]:
        """One service of the agent."""
        (service_id,) = call.args
        service = self._catalog.agent_service(service_id, self._agent_authorizer(call))
        return rendering.agent_service(service, self._datacenter)

    def service_register(self, call: Call) -> Answer:
        """Register a service."""
        call.refuse_namespace()
        registration = bodies.registration(call.body)
        self._catalog.register(
            registration,
            secret=call.token,
            authorizer=self._agent_authorizer(call),
            replace_checks=call.first("replace-existing-checks") in {"true", "1"},
        )
        return Answer()

    def service_deregister(self, call: Call) -> Answer:
        """Deregister a service."""
        call.refuse_namespace()
        (service_id,) = call.args
        self._catalog.deregister(service_id, self._agent_authorizer(call))
        return Answer()

    def check_update(self, call: Call) -> Answer:
        """Report on a check, with output."""
        (check_id,) = call.args
        status, output = bodies.check_update(call.body)
        return self._set_check(call, check_id, status, output)

    def check_report(self, call: Call) -> Answer:
        """Report on a check: ``pass``, ``warn`` or ``fail``."""
        verb, check_id = call.args
        status = {"pass": "passing", "warn": "warning", "fail": "critical"}[verb]
        return self._set_check(call, check_id, status, call.first("note"))

    def _set_check(self, call: Call, check_id: str, status: str, output: str) -> Answer:
        self._catalog.update_check(check_id, status, output, self._agent_authorizer(call))
        return Answer()

    # Intentions ---------------------------------------------------------------------------------

    def intention_read(self, call: Call) -> dict[str, Any]:
        """The intention of exactly two names, to who may read it on either end."""
        authorizer, source, destination = self._about_intention(call)
        intention = self._intentions.get(source, destination)
        if intention is None:
            raise Absent("Intention not found")
        if not any(authorizer.allows_intention("read", name) for name in (source, destination)):
            raise PermissionDenied
        return rendering.intention(intention)

    def intention_write(self, call: Call) -> bool:
        """Create an intention, or replace it."""
        authorizer, source, destination = self._about_intention(call)
        intention = bodies.intention(call.body, source, destination)
        if not authorizer.allows_intention("write", destination):
            raise PermissionDenied
        self._intentions.put(intention)
        return True

    def intention_delete(self, call: Call) -> bool:
        """Delete an intention; one that is absent counts as deleted."""
        authorizer, source, destination = self._about_intention(call)
        if not authorizer.allows_intention("write", destination):
            raise PermissionDenied
        self._intentions.delete(source, destination)
        return True

    def intention_check(self, call: Call) -> dict[str, bool]:
        """Whether a service may call another one; who may read the called one may know."""
        authorizer, source, destination = self._about_intention(call)
        if not authorizer.allows("read", "service", destination):
            raise PermissionDenied
        default = authorizer.default == "allow"
        return {"Allowed": self._intentions.allows(source, destination, default=default)}

    def intention_match(self, call: Call) -> dict[str, list[dict[str, Any]]]:
        """The intentions about the callers of services, the one that decides first."""
        meta = self._query(call)
        if call.first("by") != "destination":
            raise Invalid("'by' parameter must be one of 'source' or 'destination'")
        names = call.query.get("name", [])
        if not names:
            raise Invalid("required query parameter 'name' not set")
        self._check_leader()
        authorizer = self._authorizer_of(call.token)
        if not all(authorizer.allows_intention("read", name) for name in names):
            raise PermissionDenied
        meta.reached(self._last("intentions"))
        return {
            name: [rendering.intention(each) for each in self._intentions.called(name)]
            for name in names
        }

    def _about_intention(self, call: Call) -> tuple[Authorizer, str, str]:
        """What a request's query names. Its answer has no metadata, even if it is a read."""
        call.refuse_namespace()
        names = []
        for name in ("source", "destination"):
            if len(call.query.get(name, [])) != 1 or not call.first(name):
                raise Invalid(f"required query parameter '{name}' not set")
            names.append(call.first(name))
        self._check_datacenter(call)
        self._check_leader()
        source, destination = names
        return self._authorizer_of(call.token), source, destination

    # Snapshots ----------------------------------------------------------------------------------

    def snapshot_save(self, call: Call) -> Answer:
        """Everything that the servers know."""
        self._may_snapshot(call)
        call.meta = QueryMeta()
        call.meta.reached(self._raft.index)
        state = SavedState(
            index=self._raft.index,
            acls=self._acl.save(),
            catalog=self._catalog.save(),
            intentions=tuple(self._intentions.stored.values()),
        )
        return Answer(200, pack(state), {"Content-Type": "application/x-gzip"})

    def snapshot_restore(self, call: Call) -> Answer:
        """Replace everything that the servers know by what a snapshot has."""
        self._may_snapshot(call)
        if "stale" in call.query:
            raise Invalid("stale not allowed for restore")
        state = unpack(call.body)
        self._acl.restore(state.acls)
        self._intentions.stored = {
            (each.source, each.destination): each for each in state.intentions
        }
        self._raft.restore(state.index)
        self._catalog.restore(state.catalog)
        return Answer()

    def _may_snapshot(self, call: Call) -> None:
        """Check the caller's permission. There is one for both, for to read all ACLs is enough."""
        self._check_datacenter(call)
        self._check_leader()
        if self._mode != "disabled" and not self._acl.authorizer(call.token).allows("write", "acl"):
            raise PermissionDenied

    # Catalog and health -------------------------------------------------------------------------

    def catalog_datacenters(self, _: Call) -> list[str]:
        """The datacenters; anyone may know."""
        return [self._datacenter]

    def catalog_nodes(self, call: Call) -> list[dict[str, Any]]:
        """The nodes that the caller may read."""
        authorizer = self._catalog_query(call)
        names = self._catalog.servers
        return [self._node(name) for name in names if authorizer.allows("read", "node", name)]

    def catalog_services(self, call: Call) -> dict[str, list[str]]:
        """The names of the services that the caller may read, with all their tags."""
        authorizer = self._catalog_query(call)
        names: dict[str, list[str]] = {}
        for service in self._all_services(authorizer):
            tags = names.setdefault(service.name, [])
            tags += [tag for tag in service.tags if tag not in tags]
        return dict(sorted(names.items()))

    def catalog_service(self, call: Call) -> list[dict[str, Any]]:
        """The instances of a service, if the caller may read them."""
        authorizer = self._catalog_query(call)
        (name,) = call.args
        servers = self._catalog.servers
        return [
            rendering.catalog_service(service, node, self._datacenter, synced=self._node_synced)
            for service in self._all_services(authorizer)
            if service.name == name
            # Every server has Consul's own service; all others are on this one's node.
            for node in servers.items()
            if name == _CONSUL or node[0] == NODE_NAME
        ]

    def catalog_deregister(self, call: Call) -> Answer | bool:
        """Remove a node from the catalog."""
        fields = bodies.deregistration(call.body)
        if fields.keys() & {"ServiceID", "CheckID"}:
            return _not_embedded()
        self._check_leader()
        if not fields.get("Node"):
            raise Invalid("Must provide node")
        if fields.get("Datacenter", self._datacenter) != self._datacenter:
            raise Invalid("No path to datacenter")
        self._catalog.deregister_node(fields["Node"], self._authorizer_of(call.token))
        return True

    def health_service(self, call: Call) -> list[dict[str, Any]]:
        """The instances of a service with their checks, all or (``?passing``) the healthy."""
        self._check_leader()  # before the read begins: without a leader there is no metadata
        authorizer = self._catalog_query(call)
        (name,) = call.args
        passing_only = "passing" in call.query and call.first("passing") not in {"false", "0"}
        found = []
        for service in self._all_services(authorizer):
            if service.name != name:
                continue
            checks = self._catalog.checks(authorizer, service.id)
            if passing_only and any(check.status != "passing" for check in checks):
                continue
            found.append(
                {
                    "Node": self._node(),
                    "Service": rendering.health_service(service),
                    "Checks": [
                        rendering.serf_health(self._catalog.node_index),
                        *(rendering.check(check, service.tags) for check in checks),
                    ],
                }
            )
        return found

    def health_node(self, call: Call) -> list[dict[str, Any]]:
        """The checks of a node that the caller may read."""
        self._check_leader()
        authorizer = self._catalog_query(call)
        (node_name,) = call.args
        if node_name != NODE_NAME or not authorizer.allows("read", "node", NODE_NAME):
            return []
        tags = {service.id: service.tags for service in self._catalog.services(authorizer)}
        return [
            rendering.serf_health(self._catalog.node_index),
            *(
                rendering.check(check, tags.get(check.service_id, []))
                for check in self._catalog.checks(authorizer)
            ),
        ]

    def _catalog_query(self, call: Call) -> Authorizer:
        meta = self._query(call)
        self._check_leader()
        authorizer = self._authorizer_of(call.token)
        meta.reached(self._last("catalog"))
        return authorizer

    @property
    def _node_synced(self) -> bool:
        # An agent without a token of its own cannot publish what its node has, so under default
        # deny the catalog knows no more of the node than that it is there.
        return self._mode != "deny"

    def _node(self, name: str = NODE_NAME) -> dict[str, Any]:
        return rendering.node(
            name,
            self._catalog.servers[name],
            self._datacenter,
            self._catalog.node_index,
            synced=self._node_synced,
        )

    def _all_services(self, authorizer: Authorizer) -> list[Service]:
        """The catalog's services and Consul's own, as far as the caller may read them."""
        services = self._catalog.services(authorizer)
        own = authorizer.allows("read", "node", NODE_NAME) and authorizer.allows(
            "read", "service", _CONSUL
        )
        return [self._consul_service(), *services] if own else services

    def _consul_service(self) -> Service:
        return Service(
            id=_CONSUL,
            name=_CONSUL,
            port=_RAFT_PORT,
            meta={
                "non_voter": "false",
                "raft_version": "3",
                "read_replica": "false",
                "serf_protocol_current": "2",
                "serf_protocol_max": "5",
                "serf_protocol_min": "1",
                "version": self._version,
            },
            create_index=self._catalog.node_index,
            modify_index=self._catalog.node_index,
        )


def _find_route(call: Call) -> tuple[Route | None, tuple[str, ...], str]:
    """The route of a request, what its path names, and the methods that the path allows."""
    found: Route | None = None
    args: tuple[str, ...] = ()
    for route in ROUTES:
        match = route.path.fullmatch(call.path)
        if match:
            found, args = route, match.groups()
            if call.method in route.handlers:
                break
    allowed = ",".join(["OPTIONS", *found.handlers]) if found else ""
    return found, args, allowed


def _unrouted(path: str) -> Answer:
    if path == "/":
        return Answer.text(200, "Consul Agent")
    if _NOT_EMBEDDED.fullmatch(path):
        return _not_embedded()
    return Answer(404)


def _not_embedded() -> Answer:
    return Answer.text(501, "The embedded Consul does not have this endpoint.")


def _route(path: str, template: str = "", **handlers: _Handler) -> Route:
    return Route(re.compile(path), template or path, handlers)


# The first route that fits a path and has the method wins, so a longer path comes first.
ROUTES = (
    _route("/v1/status/leader", GET=Api.status_leader),
    _route("/v1/status/peers", GET=Api.status_peers),
    _route("/v1/acl/bootstrap", PUT=Api.bootstrap),
    _route("/v1/acl/replication", GET=Api.replication),
    _route("/v1/acl/tokens", GET=Api.token_list),
    _route("/v1/acl/token", PUT=Api.token_create),
    _route("/v1/acl/token/self", GET=Api.token_self),
    # Only a PUT is a clone; to every other method "/clone" is a part of the ID.
    _route("/v1/acl/token/(.*)/clone", "/v1/acl/token/:accessor_id/clone", PUT=Api.token_clone),
    _route(
        "/v1/acl/token/(?!self$)(.*)",
        "/v1/acl/token/:accessor_id",
        GET=Api.token_read,
        PUT=Api.token_update,
        DELETE=Api.token_delete,
    ),
    _route("/v1/acl/policies", GET=Api.policy_list),
    _route("/v1/acl/policy", PUT=Api.policy_create),
    _route("/v1/acl/policy/name/(.*)", "/v1/acl/policy/name/:name", GET=Api.policy_read_by_name),
    _route(
        "/v1/acl/policy/(?!name/)(.*)",
        "/v1/acl/policy/:id",
        GET=Api.policy_read,
        PUT=Api.policy_update,
        DELETE=Api.policy_delete,
    ),
    _route("/v1/agent/self", GET=Api.agent_self),
    _route("/v1/agent/services", GET=Api.agent_services),
    _route("/v1/agent/service/register", PUT=Api.service_register),
    _route(
        "/v1/agent/service/deregister/(.*)",
        "/v1/agent/service/deregister/:service_id",
        PUT=Api.service_deregister,
    ),
    _route(
        "/v1/agent/service/(?!register$|deregister/)(.*)",
        "/v1/agent/service/:service_id",
        GET=Api.agent_service,
    ),
    _route("/v1/agent/check/update/(.*)", "/v1/agent/check/update/:check_id", PUT=Api.check_update),
    _route(
        "/v1/agent/check/(pass|warn|fail)/(.*)",
        "/v1/agent/check/:report/:check_id",
        PUT=Api.check_report,
    ),
    _route(
        "/v1/connect/intentions/exact",
        GET=Api.intention_read,
        PUT=Api.intention_write,
        DELETE=Api.intention_delete,
    ),
    _route("/v1/connect/intentions/check", GET=Api.intention_check),
    _route("/v1/connect/intentions/match", GET=Api.intention_match),
    _route("/v1/snapshot", GET=Api.snapshot_save, PUT=Api.snapshot_restore),
    _route("/v1/operator/raft/configuration", GET=Api.raft_configuration),
    _route("/v1/catalog/deregister", PUT=Api.catalog_deregister),
    _route("/v1/catalog/datacenters", GET=Api.catalog_datacenters),
    _route("/v1/catalog/nodes", GET=Api.catalog_nodes),
    _route("/v1/catalog/services", GET=Api.catalog_services),
    _route("/v1/catalog/service/(.*)", "/v1/catalog/service/:name", GET=Api.catalog_service),
    _route("/v1/health/service/(.*)", "/v1/health/service/:name", GET=Api.health_service),
    _route("/v1/health/node/(.*)", "/v1/health/node/:name", GET=Api.health_node),
)
