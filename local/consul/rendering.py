"""The JSON that Consul writes: field order, which fields are left out when empty, Go's escapes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from local.consul.acl import AclState, Policy, Token
from local.consul.catalog import NODE_ADDRESS, NODE_NAME, SERF_HEALTH, Check, Service
from local.consul.intentions import Intention

# What a caller sees of a SecretID who may read tokens but not write them.
HIDDEN_SECRET = "<hidden>"

# Go escapes these in strings, so that its JSON is safe inside of HTML.
_GO_ESCAPES = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


def to_json(value: Any, *, pretty: bool) -> bytes:
    """Write a value as Go would, on one line or (``?pretty``) on many."""
    if pretty:
        text = json.dumps(value, ensure_ascii=False, indent=4) + "\n"
    else:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_GO_ESCAPES).encode()


def _without_empty(*names: str, **fields: Any) -> dict[str, Any]:
    """An object, without those of the named fields that are empty (Go's ``omitempty``)."""
    return {key: value for key, value in fields.items() if value or key not in names}


def timestamp(moment: datetime) -> str:
    """Write a time as Go does: RFC 3339 in UTC, with no more digits than there are."""
    text = moment.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return f"{text}Z"


def token(acl: AclState, stored: Token, *, secret_visible: bool = True) -> dict[str, Any]:
    """A token, as in answers about one token and in lists."""
    return _without_empty(
        "Policies",
        "ServiceIdentities",
        "NodeIdentities",
        "ExpirationTime",
        AccessorID=stored.accessor_id,
        SecretID=stored.secret_id if secret_visible else HIDDEN_SECRET,
        Description=stored.description,
        Policies=[{"ID": p.id, "Name": p.name} for p in acl.policy_links(stored)],
        ServiceIdentities=[
            _without_empty("Datacenters", ServiceName=s.service_name, Datacenters=s.datacenters)
            for s in stored.service_identities
        ],
        NodeIdentities=[
            {"NodeName": n.node_name, "Datacenter": n.datacenter} for n in stored.node_identities
        ],
        Local=stored.local,
        ExpirationTime=stored.expiration_time and timestamp(stored.expiration_time),
        CreateTime=timestamp(stored.create_time),
        Hash=stored.hash,
        CreateIndex=stored.create_index,
        ModifyIndex=stored.modify_index,
    )


def policy(stored: Policy) -> dict[str, Any]:
    """A policy, as in answers about one policy."""
    return _without_empty(
        "Datacenters",
        ID=stored.id,
        Name=stored.name,
        Description=stored.description,
        Rules=stored.rules,
        Datacenters=stored.datacenters,
        Hash=stored.hash,
        CreateIndex=stored.create_index,
        ModifyIndex=stored.modify_index,
    )


def intention(stored: Intention) -> dict[str, Any]:
    """An intention, by its names; those of Consul before 1.9 have more fields."""
    return _without_empty(
        "Description",
        SourceNS="default",
        SourceName=stored.source,
        DestinationNS="default",
        DestinationName=stored.destination,
        SourceType="consul",
        Action=stored.action,
        Description=stored.description,
        Precedence=stored.precedence,
        CreateIndex=stored.create_index,
        ModifyIndex=stored.modify_index,
    )


def policy_stub(stored: Policy) -> dict[str, Any]:
    """A policy as in lists: without its rules."""
    return {
        "ID": stored.id,
        "Name": stored.name,
        "Description": stored.description,
        "Datacenters": stored.datacenters or None,
        "Hash": stored.hash,
        "CreateIndex": stored.create_index,
        "ModifyIndex": stored.modify_index,
    }


def _proxy(proxy: Mapping[str, Any]) -> dict[str, Any]:
    order = (
        "DestinationServiceName",
        "DestinationServiceID",
        "LocalServiceAddress",
        "LocalServicePort",
        "LocalServiceSocketPath",
        "Mode",
        "Config",
        "Upstreams",
    )
    fields = {key: proxy[key] for key in order if proxy.get(key)}
    return fields | {"MeshGateway": proxy.get("MeshGateway", {}), "Expose": proxy.get("Expose", {})}


def _catalog_proxy(proxy: Mapping[str, Any]) -> dict[str, Any]:
    # The catalog writes an empty mode, the agent leaves it out.
    fields = _proxy(proxy)
    after = {key: fields.pop(key) for key in ("Config", "Upstreams") if key in fields}
    rest = {key: fields.pop(key) for key in ("MeshGateway", "Expose")}
    return fields | {"Mode": proxy.get("Mode", "")} | after | rest


def agent_service(service: Service, datacenter: str) -> dict[str, Any]:
    """A service as its agent shows it."""
    return _without_empty(
        "Kind",
        "TaggedAddresses",
        "Proxy",
        Kind=service.kind,
        ID=service.id,
        Service=service.name,
        Tags=service.tags,
        Meta=service.meta,
        Port=service.port,
        Address=service.address,
        SocketPath=service.socket_path,
        TaggedAddresses=service.tagged_addresses,
        Weights=service.weights,
        EnableTagOverride=service.enable_tag_override,
        Proxy=_proxy(service.proxy) if service.kind else None,
        Datacenter=datacenter,
    )


def _node_extras(*, synced: bool) -> tuple[Mapping[str, str] | None, Mapping[str, str] | None]:
    """Tagged addresses and metadata of the node, which only a synced agent has published."""
    if not synced:
        return None, None
    kinds = ("lan", "lan_ipv4", "wan", "wan_ipv4")
    return dict.fromkeys(kinds, NODE_ADDRESS), {"consul-network-segment": ""}


def node(name: str, node_id: str, datacenter: str, index: int, *, synced: bool) -> dict[str, Any]:
    """A server's node, as in the catalog and in answers about health."""
    addresses, meta = _node_extras(synced=synced)
    return {
        "ID": node_id,
        "Node": name,
        "Address": NODE_ADDRESS,
        "Datacenter": datacenter,
        "TaggedAddresses": addresses,
        "Meta": meta,
        "CreateIndex": index,
        "ModifyIndex": index,
    }


def catalog_service(
    service: Service, node: tuple[str, str], datacenter: str, *, synced: bool
) -> dict[str, Any]:
    """An instance of a service, as ``/v1/catalog/service`` shows it."""
    node_name, node_id = node
    addresses, meta = _node_extras(synced=synced)
    return _without_empty(
        "ServiceTaggedAddresses",
        ID=node_id,
        Node=node_name,
        Address=NODE_ADDRESS,
        Datacenter=datacenter,
        TaggedAddresses=addresses,
        NodeMeta=meta,
        ServiceKind=service.kind,
        ServiceID=service.id,
        ServiceName=service.name,
        ServiceTags=service.tags,
        ServiceAddress=service.address,
        ServiceTaggedAddresses=service.tagged_addresses,
        ServiceWeights=service.weights,
        ServiceMeta=service.meta,
        ServicePort=service.port,
        ServiceSocketPath=service.socket_path,
        ServiceEnableTagOverride=service.enable_tag_override,
        ServiceProxy=_catalog_proxy(service.proxy),
        ServiceConnect={"Native": True} if service.connect_native else {},
        CreateIndex=service.create_index,
        ModifyIndex=service.modify_index,
    )


def health_service(service: Service) -> dict[str, Any]:
    """An instance of a service, as ``/v1/health/service`` shows it."""
    return _without_empty(
        "Kind",
        "TaggedAddresses",
        "SocketPath",
        Kind=service.kind,
        ID=service.id,
        Service=service.name,
        Tags=service.tags,
        Address=service.address,
        TaggedAddresses=service.tagged_addresses,
        Meta=service.meta or None,
        Port=service.port,
        SocketPath=service.socket_path,
        Weights=service.weights,
        EnableTagOverride=service.enable_tag_override,
        Proxy=_catalog_proxy(service.proxy),
        Connect={"Native": True} if service.connect_native else {},
        CreateIndex=service.create_index,
        ModifyIndex=service.modify_index,
    )


def check(stored: Check, service_tags: Sequence[str] = ()) -> dict[str, Any]:
    """A health check, as the catalog shows it."""
    return {
        "Node": NODE_NAME,
        "CheckID": stored.id,
        "Name": stored.name,
        "Status": stored.status,
        "Notes": stored.notes,
        "Output": stored.output,
        "ServiceID": stored.service_id,
        "ServiceName": stored.service_name,
        "ServiceTags": service_tags,
        "Type": stored.type,
        "ExposedPort": 0,
        "Definition": {},
        "CreateIndex": stored.create_index,
        "ModifyIndex": stored.modify_index,
    }


def serf_health(index: int) -> dict[str, Any]:
    """The check that every node has: its agent can be reached."""
    return check(
        Check(
            id=SERF_HEALTH,
            name="Serf Health Status",
            service_id="",
            service_name="",
            type="",
            status="passing",
            output="Agent alive and reachable",
            create_index=index,
            modify_index=index,
        )
    )
