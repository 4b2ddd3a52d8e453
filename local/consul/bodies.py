"""What request bodies look like, and how they become requests to the state."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from local.consul.acl import NodeIdentity, PolicyRequest, ServiceIdentity, TokenRequest
from local.consul.catalog import Check, Registration, Service
from local.consul.decoding import (
    ANYTHING,
    BOOL,
    INT,
    STRING,
    STRINGS,
    UINT64,
    DecodeError,
    ListOf,
    MapOf,
    Schema,
    Struct,
    decode,
    parse_duration,
)
from local.consul.errors import BadRequest
from local.consul.intentions import Intention

_LINK = {"ID": STRING, "Name": STRING}
_TOKEN = Struct(
    # Go's name of the type that a token is decoded through: clients see it in error texts.
    "struct { ExpirationTTL interface {}; Hash string; *structs.Alias }",
    {
        "AccessorID": STRING,
        "SecretID": STRING,
        "Description": STRING,
        "Policies": ListOf(Struct("structs.ACLTokenPolicyLink", _LINK)),
        "Roles": ListOf(Struct("structs.ACLTokenRoleLink", _LINK)),
        "ServiceIdentities": ListOf(
            Struct("structs.ACLServiceIdentity", {"ServiceName": STRING, "Datacenters": STRINGS})
        ),
        "NodeIdentities": ListOf(
            Struct("structs.ACLNodeIdentity", {"NodeName": STRING, "Datacenter": STRING})
        ),
        "Local": BOOL,
        "AuthMethod": STRING,
        "ExpirationTime": STRING,
        "ExpirationTTL": ANYTHING,
        "CreateTime": STRING,
        "Hash": STRING,
        "CreateIndex": UINT64,
        "ModifyIndex": UINT64,
    },
)
_POLICY = Struct(
    "struct { Hash string; *structs.Alias }",
    {
        "ID": STRING,
        "Name": STRING,
        "Description": STRING,
        "Rules": STRING,
        "Datacenters": STRINGS,
        "Hash": STRING,
        "CreateIndex": UINT64,
        "ModifyIndex": UINT64,
    },
)
_INTENTION = Struct(
    "structs.Intention",
    {
        "ID": STRING,
        "Description": STRING,
        "SourceNS": STRING,
        "SourceName": STRING,
        "DestinationNS": STRING,
        "DestinationName": STRING,
        "SourceType": STRING,
        "Action": STRING,
        "Permissions": ANYTHING,
        "Meta": MapOf(STRING),
        "Precedence": INT,
        "CreatedAt": STRING,
        "UpdatedAt": STRING,
        "CreateIndex": UINT64,
        "ModifyIndex": UINT64,
    },
)
_BOOTSTRAP = Struct("api.BootstrapRequest", {"BootstrapSecret": STRING})
_CHECK = Struct(
    "structs.CheckType",
    {
        "CheckID": STRING,
        "ID": STRING,
        "Name": STRING,
        "Status": STRING,
        "Notes": STRING,
        "ScriptArgs": STRINGS,
        "Args": STRINGS,
        "HTTP": STRING,
        "H2PING": STRING,
        "Header": MapOf(STRINGS),
        "Method": STRING,
        "Body": STRING,
        "TCP": STRING,
        "Interval": ANYTHING,
        "AliasNode": STRING,
        "AliasService": STRING,
        "DockerContainerID": STRING,
        "Shell": STRING,
        "GRPC": STRING,
        "GRPCUseTLS": BOOL,
        "TLSServerName": STRING,
        "TLSSkipVerify": BOOL,
        "Timeout": ANYTHING,
        "TTL": ANYTHING,
        "SuccessBeforePassing": INT,
        "FailuresBeforeCritical": INT,
        "DeregisterCriticalServiceAfter": ANYTHING,
        "OutputMaxSize": INT,
    },
)
_PROXY = Struct(
    "structs.ConnectProxyConfig",
    {
        "DestinationServiceName": STRING,
        "DestinationServiceID": STRING,
        "LocalServiceAddress": STRING,
        "LocalServicePort": INT,
        "LocalServiceSocketPath": STRING,
        "Mode": STRING,
        "Config": ANYTHING,
        "Upstreams": ANYTHING,
        "MeshGateway": ANYTHING,
        "Expose": ANYTHING,
        "TransparentProxy": ANYTHING,
    },
)
_SERVICE_FIELDS: dict[str, Schema] = {
    "Kind": STRING,
    "ID": STRING,
    "Name": STRING,
    "Tags": STRINGS,
    "Address": STRING,
    "TaggedAddresses": ANYTHING,
    "Meta": MapOf(STRING),
    "Port": INT,
    "SocketPath": STRING,
    "Check": _CHECK,
    "Checks": ListOf(_CHECK),
    "Weights": Struct("structs.Weights", {"Passing": INT, "Warning": INT}),
    "Token": STRING,
    "EnableTagOverride": BOOL,
    "Proxy": _PROXY,
}
_SERVICE = Struct(
    "structs.ServiceDefinition",
    _SERVICE_FIELDS
    | {
        "Connect": Struct(
            "structs.ServiceConnect",
            {
                "Native": BOOL,
                "SidecarService": Struct("structs.ServiceDefinition", _SERVICE_FIELDS),
            },
        )
    },
)
_DEREGISTRATION = Struct(
    "structs.DeregisterRequest",
    {
        "Datacenter": STRING,
        "Node": STRING,
        "Address": STRING,
        "ServiceID": STRING,
        "CheckID": STRING,
    },
)
_CHECK_UPDATE = Struct("structs.CheckUpdate", {"Status": STRING, "Output": STRING})


def _decoded(body: bytes, schema: Struct, prefix: str) -> dict[str, Any]:
    try:
        return decode(body, schema)
    except DecodeError as error:
        text = f"{prefix}: {error}"
        # Consul points users of a Consul Enterprise field to what they are missing.
        if text.endswith('json: unknown field "Namespace"') and prefix.startswith("Bad request"):
            text += " - Namespaces are a Consul Enterprise feature"
        raise BadRequest(text) from None


def token_request(body: bytes) -> TokenRequest:
    """Decode the body of a token's creation, update or clone.

    Raises
    ------
    BadRequest
        In Go's words.
    """
    prefix = "Bad request: Token decoding failed"
    fields = _decoded(body, _TOKEN, prefix)
    try:
        ttl = parse_duration(fields["ExpirationTTL"]) if "ExpirationTTL" in fields else None
    except DecodeError as error:
        raise BadRequest(f"{prefix}: {error}") from None
    return TokenRequest(
        accessor_id=fields.get("AccessorID", ""),
        secret_id=fields.get("SecretID", ""),
        description=fields.get("Description", ""),
        policies=fields.get("Policies", []),
        roles=fields.get("Roles", []),
        service_identities=[
            ServiceIdentity(i.get("ServiceName", ""), tuple(i.get("Datacenters", ())))
            for i in fields.get("ServiceIdentities", [])
        ],
        node_identities=[
            NodeIdentity(i.get("NodeName", ""), i.get("Datacenter", ""))
            for i in fields.get("NodeIdentities", [])
        ],
        local=fields.get("Local", False),
        expiration_time=_time(fields.get("ExpirationTime"), prefix),
        expiration_ttl=ttl,
    )


def _time(text: str | None, prefix: str) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise BadRequest(
            f'{prefix}: parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse'
        ) from None


def policy_request(body: bytes) -> PolicyRequest:
    """Decode the body of a policy's creation or update.

    Raises
    ------
    BadRequest
        In Go's words.
    """
    fields = _decoded(body, _POLICY, "Bad request: Policy decoding failed")
    return PolicyRequest(
        id=fields.get("ID", ""),
        name=fields.get("Name", ""),
        description=fields.get("Description", ""),
        rules=fields.get("Rules", ""),
        datacenters=fields.get("Datacenters", ()),
    )


def intention(body: bytes, source: str, destination: str) -> Intention:
    """Read the body of a request about the intention of two names."""
    fields = _decoded(body, _INTENTION, "Request decode failed: ")
    return Intention(
        source=source,
        destination=destination,
        action=fields.get("Action", ""),
        description=fields.get("Description", ""),
    )


def bootstrap_secret(body: bytes) -> str | None:
    """The secret that a newer Consul takes for the first management token, if one is given."""
    if not body:
        return None
    fields = _decoded(body, _BOOTSTRAP, "Request decoding failed")
    return fields.get("BootstrapSecret") or None


def deregistration(body: bytes) -> dict[str, Any]:
    """Decode the request to remove something from the catalog.

    Raises
    ------
    BadRequest
        In Go's words.
    """
    return _decoded(body, _DEREGISTRATION, "Request decode failed")


def registration(body: bytes) -> Registration:
    """Decode the registration of a service, with its checks and sidecar.

    Raises
    ------
    BadRequest
        In Go's words, or without a name.
    """
    fields = _decoded(body, _SERVICE, "Request decode failed")
    if not fields.get("Name"):
        raise BadRequest("Missing service name")
    service = _service(fields)
    sidecar = fields.get("Connect", {}).get("SidecarService")
    return Registration(
        service,
        _checks(service, fields),
        None if sidecar is None else _sidecar(service, sidecar),
    )


def _service(fields: Mapping[str, Any]) -> Service:
    return Service(
        id=fields.get("ID") or fields["Name"],
        name=fields["Name"],
        kind=fields.get("Kind", ""),
        tags=fields.get("Tags", []),
        meta=fields.get("Meta", {}),
        port=fields.get("Port", 0),
        address=fields.get("Address", ""),
        tagged_addresses=fields.get("TaggedAddresses", {}),
        socket_path=fields.get("SocketPath", ""),
        weights={"Passing": 1, "Warning": 1} | fields.get("Weights", {}),
        enable_tag_override=fields.get("EnableTagOverride", False),
        proxy=fields.get("Proxy", {}),
        connect_native=fields.get("Connect", {}).get("Native", False),
    )


def _sidecar(service: Service, fields: Mapping[str, Any]) -> Registration:
    """A sidecar that is registered inside of its service gets defaults for what it leaves out."""
    proxy = {
        "DestinationServiceName": service.name,
        "DestinationServiceID": service.id,
        "LocalServiceAddress": "127.0.0.1",
        "LocalServicePort": service.port,
    }
    filled: dict[str, Any] = {
        "ID": f"{service.id}-sidecar-proxy",
        "Name": f"{service.name}-sidecar-proxy",
        "Kind": "connect-proxy",
        **fields,
        "Proxy": proxy | fields.get("Proxy", {}),
    }
    sidecar = _service(filled)
    checks = _checks(sidecar, filled) or [
        Check(
            id=f"service:{sidecar.id}:1",
            name="Connect Sidecar Listening",
            service_id=sidecar.id,
            service_name=sidecar.name,
            type="tcp",
        ),
        Check(
            id=f"service:{sidecar.id}:2",
            name=f"Connect Sidecar Aliasing {service.id}",
            service_id=sidecar.id,
            service_name=sidecar.name,
            type="alias",
            alias_service=service.id,
        ),
    ]
    return Registration(sidecar, checks)


# The field that makes a check what it is, and the type that the catalog shows.
_CHECK_TYPES = (
    ("AliasService", "alias"),
    ("AliasNode", "alias"),
    ("TTL", "ttl"),
    ("HTTP", "http"),
    ("H2PING", "h2ping"),
    ("TCP", "tcp"),
    ("GRPC", "grpc"),
    ("DockerContainerID", "docker"),
    ("Args", "script"),
    ("ScriptArgs", "script"),
)


def _checks(service: Service, fields: Mapping[str, Any]) -> list[Check]:
    given = [fields["Check"]] if fields.get("Check") else []
    given += fields.get("Checks", [])
    return [
        Check(
            id=check.get("CheckID")
            or check.get("ID")
            or f"service:{service.id}" + (f":{number}" if len(given) > 1 else ""),
            name=check.get("Name") or f"Service '{service.name}' check",
            service_id=service.id,
            service_name=service.name,
            type=next((type_ for key, type_ in _CHECK_TYPES if check.get(key)), ""),
            status=check.get("Status") or "critical",
            notes=check.get("Notes", ""),
            alias_service=check.get("AliasService", ""),
        )
        for number, check in enumerate(given, start=1)
    ]


def check_update(body: bytes) -> tuple[str, str]:
    """Decode a client's report on a check: status and output.

    Raises
    ------
    BadRequest
        In Go's words, or with a status that there is not.
    """
    fields = _decoded(body, _CHECK_UPDATE, "Request decode failed")
    status = fields.get("Status", "")
    if status not in {"passing", "warning", "critical"}:
        raise BadRequest(f"Invalid check status: '{status}'")
    return status, fields.get("Output", "")
