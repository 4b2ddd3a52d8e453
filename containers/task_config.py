"""What a task registers with Consul: the document in CONSUL_ECS_CONFIG_JSON.

The format is that of HashiCorp's consul-ecs 0.3 and 0.4 (`config/schema.json` there), so its image
and ours read the same task definition. The infrastructure writes the document with
`TaskConfig.to_json`, the programs in the task read it with `TaskConfig.from_json`, and both sides
get the same checks: an error that Consul would report when the task starts is one at synthesis.

A check here is one that Consul itself makes when a service is registered (`agent/structs` of Consul
1.10), unless its comment gives another reason.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

from containers.errors import Permanent
from containers.layout import AGENT_PORTS, DEFAULT_PUBLIC_LISTENER_PORT

_T = TypeVar("_T")

MESH_GATEWAY_MODES: Final = ("none", "local", "remote")
DESTINATION_TYPES: Final = ("service", "prepared_query")
CHECK_STATUSES: Final = ("passing", "warning", "critical")
EXPOSE_PROTOCOLS: Final = ("http", "http2")

SERVICE_NAME_RULE: Final = (
    "lower-case letters, digits, '-' and '_', at most 256 characters, "
    "the first and the last one a letter or a digit"
)
# The rule for service identities, which the tokens of services carry.
_SERVICE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9_-]{0,254}[a-z0-9])?")
_DURATION: Final = re.compile(r"((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+")
_META_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_RESERVED_META_PREFIX: Final = "consul-"
_LONGEST_META_VALUE: Final = 512
_MOST_META: Final = 64
_LARGEST_PORT: Final = 65535
_LARGEST_WEIGHT: Final = 65535
_EXCERPT: Final = 40

_LOOPBACK: Final = "127.0.0.1"
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - nothing is bound here
# An agent's: servers' RPC, gossip in the datacenter and beyond, HTTP, HTTPS, gRPC, gRPC with TLS
# and DNS.

TASK_ID_META: Final = "task-id"
TASK_ARN_META: Final = "task-arn"
SOURCE_META: Final = "source"
SOURCE: Final = "consul-ecs"
_OWN_META: Final = (TASK_ID_META, TASK_ARN_META, SOURCE_META)


class TaskConfigError(Permanent):
    """The document is not what it has to be; the message gives the place in it and what to do."""


# --- IDs and names -------------------------------------------------------------------------------


def service_id(service: str, task_id: str) -> str:
    """Return the ID under which a task's instance of a service is registered."""
    return f"{service}-{task_id}"


def proxy_id(service_id: str) -> str:
    """Return the ID of the sidecar proxy of the service instance with an ID."""
    return f"{service_id}-sidecar-proxy"


def proxy_name(service: str) -> str:
    """Return the name of the service that all sidecar proxies of a service make up."""
    return f"{service}-sidecar-proxy"


def synced_check_id(service_id: str, container: str) -> str:
    """Return the ID of the check that has the health of a container, as ECS sees it."""
    return f"{service_id}-{container}-consul-ecs"


def is_valid_service_name(name: str) -> bool:
    """Whether Consul takes the name for a service identity; see `SERVICE_NAME_RULE`."""
    return _SERVICE_NAME.fullmatch(name) is not None


# --- The document --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Check:
    """A health check that Consul itself makes, of exactly one kind.

    The kinds are `http`, `tcp`, `grpc` and `h2ping` (an address to probe), `ttl` (somebody reports
    in time), `alias_service` with or without `alias_node` (another service's health), and `args`
    (a script, run in the consul-client container, whose agent must allow that). Durations are Go's:
    "10s", "1m30s".
    """

    name: str | None = None
    check_id: str | None = None
    http: str | None = None
    method: str | None = None
    header: Mapping[str, Sequence[str]] = field(default_factory=dict)
    body: str | None = None
    tcp: str | None = None
    grpc: str | None = None
    grpc_use_tls: bool = False
    h2ping: str | None = None
    h2ping_use_tls: bool | None = None
    """Consul's default for an absent value is true."""
    args: Sequence[str] = ()
    ttl: str | None = None
    interval: str | None = None
    timeout: str | None = None
    alias_node: str | None = None
    alias_service: str | None = None
    tls_server_name: str | None = None
    tls_skip_verify: bool = False
    success_before_passing: int = 0
    failures_before_critical: int = 0
    status: str | None = None
    notes: str | None = None


@dataclass(frozen=True, kw_only=True)
class Weights:
    """How much of the traffic an instance gets (DNS SRV), by the state of its checks."""

    passing: int
    warning: int


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """The application, as Consul shall know it. Port 0: it only calls others."""

    name: str
    port: int
    tags: Sequence[str] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    enable_tag_override: bool = False
    weights: Weights | None = None
    checks: Sequence[Check] = ()


@dataclass(frozen=True, kw_only=True)
class UpstreamConfig:
    """A service that the application reaches at a port of its own loopback interface."""

    destination_name: str
    local_bind_port: int
    destination_type: str = "service"
    datacenter: str | None = None
    local_bind_address: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    mesh_gateway: str | None = None


@dataclass(frozen=True, kw_only=True)
class ProxyConfig:
    """The sidecar proxy. `expose` is in the document's own form: checks, paths."""

    public_listener_port: int = DEFAULT_PUBLIC_LISTENER_PORT
    config: Mapping[str, Any] = field(default_factory=dict)
    upstreams: Sequence[UpstreamConfig] = ()
    mesh_gateway: str | None = None
    expose: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """The whole document.

    `health_sync_containers` are the containers whose health, as ECS sees it, decides on the
    service's; a service has these or checks of its own, not both.
    """

    bootstrap_dir: str
    service: ServiceConfig
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    health_sync_containers: Sequence[str] = ()

    def to_json(self) -> str:
        """Return the document: compact, keys in a fixed order, without what is default.

        Raises:
            TaskConfigError: if `from_json` would refuse it.

        """
        document = _without_defaults(
            bootstrapDir=self.bootstrap_dir,
            healthSyncContainers=list(self.health_sync_containers),
            service=_service_document(self.service),
            proxy=_proxy_document(self.proxy),
        )
        try:
            text = json.dumps(document, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TaskConfigError(
                "proxy.config, proxy.expose or an upstream's config holds what JSON cannot express "
                f"({error}). Use strings, numbers, booleans, lists and objects."
            ) from None
        type(self).from_json(text)
        return text

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the document.

        Raises:
            TaskConfigError: if it is not JSON, or if a key is unknown or missing, or a value is of
                the wrong type or one that Consul would refuse.

        """
        try:
            document = json.loads(
                text, object_pairs_hook=_unique_keys, parse_constant=_no_such_number
            )
        except (ValueError, RecursionError) as error:
            # json's own message gives the position, and nothing of the text.
            raise TaskConfigError(
                f"The task's configuration is not JSON ({error}). "
                "Let the MeshTask construct write it, or check its quoting."
            ) from None
        return cls._read(_Object(document, ""))

    @classmethod
    def _read(cls, document: _Object) -> Self:
        config = cls(
            bootstrap_dir=document.text("bootstrapDir"),
            service=document.object("service", _read_service),
            proxy=document.optional("proxy", _read_proxy) or ProxyConfig(),
            health_sync_containers=document.texts("healthSyncContainers", unique=True),
        )
        document.end()
        if not config.bootstrap_dir.startswith("/"):
            # A relative path would mean another directory in the proxy's container.
            raise document.error("bootstrapDir", "must be an absolute path", config.bootstrap_dir)
        if config.service.checks and config.health_sync_containers:
            raise document.error(
                "healthSyncContainers",
                "cannot be combined with service.checks: either ECS or Consul decides on the "
                "service's health. Leave out one of the two",
            )
        _check_public_listener(document, config)
        _check_ports(document, config)
        return config


# --- Writing -------------------------------------------------------------------------------------


def _without_defaults(**values: Any) -> dict[str, Any]:
    """Leave out what says nothing. A number is always said: port 0 has a meaning."""
    return {
        key: value
        for key, value in values.items()
        if not (value is None or value is False or value in ("", [], {}))
    }


def _service_document(service: ServiceConfig) -> dict[str, Any]:
    weights = service.weights
    return _without_defaults(
        name=service.name,
        tags=list(service.tags),
        port=service.port,
        enableTagOverride=service.enable_tag_override,
        meta=dict(service.meta),
        weights={"passing": weights.passing, "warning": weights.warning} if weights else None,
        checks=[_check_document(check) for check in service.checks],
    )


def _check_document(check: Check) -> dict[str, Any]:
    document = _without_defaults(
        checkId=check.check_id,
        name=check.name,
        args=list(check.args),
        interval=check.interval,
        timeout=check.timeout,
        ttl=check.ttl,
        http=check.http,
        header={name: list(values) for name, values in check.header.items()},
        method=check.method,
        body=check.body,
        tcp=check.tcp,
        status=check.status,
        notes=check.notes,
        tlsServerName=check.tls_server_name,
        tlsSkipVerify=check.tls_skip_verify,
        grpc=check.grpc,
        grpcUseTls=check.grpc_use_tls,
        h2ping=check.h2ping,
        aliasNode=check.alias_node,
        aliasService=check.alias_service,
        successBeforePassing=check.success_before_passing or None,
        failuresBeforeCritical=check.failures_before_critical or None,
    )
    if check.h2ping_use_tls is not None:
        document["h2pingUseTls"] = check.h2ping_use_tls
    return document


def _proxy_document(proxy: ProxyConfig) -> dict[str, Any]:
    port = proxy.public_listener_port
    return _without_defaults(
        config=dict(proxy.config),
        publicListenerPort=None if port == DEFAULT_PUBLIC_LISTENER_PORT else port,
        upstreams=[_upstream_document(upstream) for upstream in proxy.upstreams],
        meshGateway={"mode": proxy.mesh_gateway} if proxy.mesh_gateway else None,
        expose=dict(proxy.expose) if proxy.expose else None,
    )


def _upstream_document(upstream: UpstreamConfig) -> dict[str, Any]:
    kind = upstream.destination_type
    return _without_defaults(
        destinationType=None if kind == "service" else kind,
        destinationName=upstream.destination_name,
        datacenter=upstream.datacenter,
        localBindAddress=upstream.local_bind_address,
        localBindPort=upstream.local_bind_port,
        config=dict(upstream.config),
        meshGateway={"mode": upstream.mesh_gateway} if upstream.mesh_gateway else None,
    )


# --- Reading -------------------------------------------------------------------------------------


class _Object:
    """A JSON object that is read key by key; whatever is left in the end is unknown.

    Null means absent, as it does to HashiCorp's programs.
    """

    def __init__(self, value: Any, path: str) -> None:
        self._path = path
        if not isinstance(value, dict):
            place = path or "The task's configuration"
            raise TaskConfigError(f"{place} must be an object, not {_kind(value)}.")
        self._values = {key: item for key, item in value.items() if item is not None}
        self._given = list(value)
        self._known: set[str] = set()

    def at(self, key: str) -> str:
        """Return the path of a key."""
        return f"{self._path}.{key}" if self._path and key else self._path or key

    def error(self, key: str, problem: str, value: Any = None) -> TaskConfigError:
        """Return an error about a key."""
        but = "" if value is None else f", not {_excerpt(value)}"
        return TaskConfigError(f"{self.at(key)} {problem}{but}.")

    def take(self, key: str) -> Any:
        """Return a value, or None if it is absent."""
        self._known.add(key)
        return self._values.get(key)

    def text(self, key: str) -> str:
        """Return a string that must be there and not be empty."""
        value = self.optional_text(key)
        if value is None:
            raise self.error(key, "is missing. Set it to a string that is not empty")
        return value

    def optional_text(self, key: str, *, of: Sequence[str] = ()) -> str | None:
        """Return a string; the empty one means absent. `of` lists all that are allowed."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.error(key, f"must be a string, not {_kind(value)}")
        if value and of and value not in of:
            raise self.error(key, f"must be one of {', '.join(of)}", value)
        return value or None

    def texts(self, key: str, *, unique: bool = False) -> tuple[str, ...]:
        """Return a list of strings; an absent one is empty."""
        values = _strings(self.take(key), self.at(key))
        if unique and len(set(values)) != len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise self.error(key, f"has {_excerpt(twice)} more than once. Leave one of them out")
        return values

    def boolean(self, key: str) -> bool | None:
        """Return a boolean."""
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, "must be true or false", value)
        return value

    def integer(self, key: str, least: int, most: int | None = None) -> int | None:
        """Return an integer within bounds."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, "must be an integer", value)
        if value < least or (most is not None and value > most):
            bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
            raise self.error(key, f"must be an integer {bounds}", value)
        return value

    def required_integer(self, key: str, least: int, most: int) -> int:
        """Return an integer that must be there."""
        value = self.integer(key, least, most)
        if value is None:
            raise self.error(key, f"is missing. Set it to an integer from {least} to {most}")
        return value

    def duration(self, key: str) -> str | None:
        """Return a duration longer than nothing, as Go writes it."""
        value = self.optional_text(key)
        if value is not None and not (
            _DURATION.fullmatch(value) and any(digit in "123456789" for digit in value)
        ):
            raise self.error(key, 'must be a duration such as "10s" or "1m30s"', value)
        return value

    def opaque(self, key: str) -> dict[str, Any]:
        """Return an object whose content is not ours to know; an absent one is empty."""
        value = self.take(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, f"must be an object, not {_kind(value)}")
        return value or {}

    def object(self, key: str, read: Callable[[_Object], _T]) -> _T:
        """Return what is read from an object that must be there."""
        value = self.optional(key, read)
        if value is None:
            raise self.error(key, "is missing. Set it to an object")
        return value

    def optional(self, key: str, read: Callable[[_Object], _T]) -> _T | None:
        """Return what is read from an object, or None if it is absent."""
        value = self.take(key)
        return None if value is None else _whole(read, value, self.at(key))

    def objects(self, key: str, read: Callable[[_Object], _T]) -> tuple[_T, ...]:
        """Return what is read from a list of objects; an absent one is empty."""
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.error(key, f"must be a list, not {_kind(value)}")
        return tuple(
            _whole(read, item, f"{self.at(key)}[{number}]") for number, item in enumerate(value)
        )

    def enterprise(self, *keys: str) -> None:
        """Refuse Consul Enterprise's partitions and namespaces, but for the default ones.

        The default ones are all that there is without Enterprise, so naming them changes nothing.
        """
        for key in keys:
            if (self.optional_text(key) or "default") != "default":
                raise self.error(
                    key, "is a feature of Consul Enterprise that is not supported. Leave it out"
                )

    def end(self) -> None:
        """Raise an error if there is a key that nobody has asked for."""
        for key in self._given:
            if key not in self._known:
                raise TaskConfigError(
                    f"{self.at(_excerpt(key, quoted=False))} is not a key that exists here. "
                    f"{_advice(key, self._known)}"
                )


def _whole(read: Callable[[_Object], _T], value: Any, path: str) -> _T:
    object_ = _Object(value, path)
    result = read(object_)
    object_.end()
    return result


def _strings(value: Any, path: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TaskConfigError(f"{path} must be a list of strings.")
    return tuple(value)


def _read_service(document: _Object) -> ServiceConfig:
    document.enterprise("namespace", "partition")
    name = document.text("name")
    if not is_valid_service_name(name):
        raise document.error("name", f"must be a Consul service name ({SERVICE_NAME_RULE})", name)
    return ServiceConfig(
        name=name,
        port=document.required_integer("port", 0, _LARGEST_PORT),
        tags=document.texts("tags", unique=True),
        meta=_read_meta(document),
        enable_tag_override=document.boolean("enableTagOverride") or False,
        weights=document.optional("weights", _read_weights),
        checks=document.objects("checks", _read_check),
    )


def _read_meta(document: _Object) -> dict[str, str]:
    meta = document.opaque("meta")
    for key, value in meta.items():
        at = f"meta.{_excerpt(key, quoted=False)}"
        if not _META_KEY.fullmatch(key):
            raise document.error(
                at, "must have a key of at most 128 letters, digits, '-' and '_'; rename it"
            )
        if key.startswith(_RESERVED_META_PREFIX):
            raise document.error(
                at, "begins with consul-, which Consul keeps for itself; rename it"
            )
        if not isinstance(value, str):
            raise document.error(at, f"must be a string, not {_kind(value)}")
        if len(value.encode()) > _LONGEST_META_VALUE:
            raise document.error(at, f"must be at most {_LONGEST_META_VALUE} bytes long")
    most = _MOST_META - len(set(_OWN_META) - set(meta))
    if len(meta) > most:
        raise document.error(
            "meta",
            f"must have at most {most} entries: Consul takes {_MOST_META}, and "
            f"{', '.join(_OWN_META)} are added",
        )
    return meta


def _read_weights(document: _Object) -> Weights:
    return Weights(
        passing=document.required_integer("passing", 1, _LARGEST_WEIGHT),
        warning=document.required_integer("warning", 0, _LARGEST_WEIGHT),
    )


def _read_check(document: _Object) -> Check:
    check = Check(
        check_id=document.optional_text("checkId"),
        name=document.optional_text("name"),
        args=document.texts("args"),
        interval=document.duration("interval"),
        timeout=document.duration("timeout"),
        ttl=document.duration("ttl"),
        http=document.optional_text("http"),
        header=_read_header(document),
        method=document.optional_text("method"),
        body=document.optional_text("body"),
        tcp=document.optional_text("tcp"),
        status=document.optional_text("status", of=CHECK_STATUSES),
        notes=document.optional_text("notes"),
        tls_server_name=document.optional_text("tlsServerName"),
        tls_skip_verify=document.boolean("tlsSkipVerify") or False,
        grpc=document.optional_text("grpc"),
        grpc_use_tls=document.boolean("grpcUseTls") or False,
        h2ping=document.optional_text("h2ping"),
        h2ping_use_tls=document.boolean("h2pingUseTls"),
        alias_node=document.optional_text("aliasNode"),
        alias_service=document.optional_text("aliasService"),
        success_before_passing=document.integer("successBeforePassing", 0) or 0,
        failures_before_critical=document.integer("failuresBeforeCritical", 0) or 0,
    )
    kinds = {
        "http": check.http,
        "tcp": check.tcp,
        "grpc": check.grpc,
        "h2ping": check.h2ping,
        "ttl": check.ttl,
        "aliasService or aliasNode": check.alias_service or check.alias_node,
        "args": check.args,
    }
    given = [kind for kind, value in kinds.items() if value]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise document.error("", f"must have exactly one of {', '.join(kinds)}; it has {found}")
    probes = given[0] in {"http", "tcp", "grpc", "h2ping", "args"}
    if probes and check.interval is None:
        raise document.error("interval", f'is missing: say how often to probe {given[0]}, as "10s"')
    if not probes and check.interval is not None:
        raise document.error("interval", f"has no meaning with {given[0]}. Leave it out")
    return check


def _read_header(document: _Object) -> dict[str, tuple[str, ...]]:
    return {
        name: _strings(values, document.at(f"header.{_excerpt(name, quoted=False)}"))
        for name, values in document.opaque("header").items()
    }


def _read_proxy(document: _Object) -> ProxyConfig:
    port = document.integer("publicListenerPort", 1, _LARGEST_PORT)
    expose = document.opaque("expose")
    if expose:
        document.optional("expose", _check_expose)
    return ProxyConfig(
        public_listener_port=DEFAULT_PUBLIC_LISTENER_PORT if port is None else port,
        config=document.opaque("config"),
        upstreams=document.objects("upstreams", _read_upstream),
        mesh_gateway=document.optional("meshGateway", _read_mesh_gateway),
        expose=expose or None,
    )


def _check_expose(document: _Object) -> None:
    document.boolean("checks")
    document.objects("paths", _check_exposed_path)


def _check_exposed_path(document: _Object) -> None:
    path = document.text("path")
    if not path.startswith("/"):
        raise document.error("path", "must begin with a slash", path)
    document.required_integer("listenerPort", 1, _LARGEST_PORT)
    document.required_integer("localPathPort", 1, _LARGEST_PORT)
    document.optional_text("protocol", of=EXPOSE_PROTOCOLS)


def _read_mesh_gateway(document: _Object) -> str | None:
    return document.optional_text("mode", of=MESH_GATEWAY_MODES)


def _read_upstream(document: _Object) -> UpstreamConfig:
    document.enterprise("destinationNamespace", "destinationPartition")
    kind = document.optional_text("destinationType", of=DESTINATION_TYPES) or "service"
    name = document.text("destinationName")
    if kind == "service" and not is_valid_service_name(name):
        raise document.error(
            "destinationName", f"must be a Consul service name ({SERVICE_NAME_RULE})", name
        )
    return UpstreamConfig(
        destination_type=kind,
        destination_name=name,
        datacenter=document.optional_text("datacenter"),
        local_bind_address=_read_address(document, "localBindAddress"),
        local_bind_port=document.required_integer("localBindPort", 1, _LARGEST_PORT),
        config=document.opaque("config"),
        mesh_gateway=document.optional("meshGateway", _read_mesh_gateway),
    )


def _read_address(document: _Object, key: str) -> str | None:
    """Return an IP address. Consul would take a name too, but Envoy resolves none to listen on."""
    value = document.optional_text(key)
    try:
        # Without a zone, which not every Envoy understands.
        valid = value is None or "%" not in ipaddress.ip_address(value).compressed
    except ValueError:
        valid = False
    if not valid:
        raise document.error(key, f'must be an IP address such as "{_LOOPBACK}"', value)
    return value


def _proxy_option(config: TaskConfig, name: str) -> tuple[str, Any]:
    """Return an option of the proxy, and how it is spelled: Consul does not mind the case."""
    for key, value in config.proxy.config.items():
        if key.lower() == name and value:
            return key, value
    return name, None


def _check_public_listener(document: _Object, config: TaskConfig) -> None:
    """Refuse options that move the public listener from where it is registered and checked.

    Consul would tell other tasks one port and Envoy another one, and ask a port for its health on
    which nobody listens.
    """
    key, port = _proxy_option(config, "bind_port")
    if port is not None:
        raise document.error(
            f"proxy.config.{key}",
            "moves the proxy's public listener from where Consul checks it. Leave it out, and set "
            "proxy.publicListenerPort",
        )
    key, address = _proxy_option(config, "bind_address")
    # A proxy that nobody calls may stay on the loopback interface. The wildcard of IPv6 is refused:
    # Envoy takes no IPv4 with it.
    allowed = {_EVERYWHERE} if config.service.port else {_EVERYWHERE, _LOOPBACK}
    if address is not None and (not isinstance(address, str) or address not in allowed):
        raise document.error(
            f"proxy.config.{key}",
            f"takes the proxy's public listener from {_LOOPBACK}, where Consul checks it, or from "
            f"the task's address, where others call it. Leave it out: it listens on {_EVERYWHERE}, "
            "and proxy.publicListenerPort sets the port",
        )


@dataclass(frozen=True)
class _Listener:
    """Something in the task that wants a port: what messages call it, and the port's place."""

    name: str
    place: str
    address: str
    port: int

    def clashes(self, other: _Listener) -> bool:
        ours, theirs = ipaddress.ip_address(self.address), ipaddress.ip_address(other.address)
        same = ours == theirs or ours.is_unspecified or theirs.is_unspecified
        return same and self.port == other.port


def _proxy_listeners(config: TaskConfig) -> Iterable[_Listener]:
    """Return what the proxy listens on, but for its public listener."""
    for number, upstream in enumerate(config.proxy.upstreams):
        name = f"proxy.upstreams[{number}]"
        address = upstream.local_bind_address or _LOOPBACK
        yield _Listener(name, f"{name}.localBindPort", address, upstream.local_bind_port)
    # Consul puts exposed paths where it puts the public listener.
    address = _proxy_option(config, "bind_address")[1] or _EVERYWHERE
    for number, path in enumerate((config.proxy.expose or {}).get("paths") or ()):
        name = f"proxy.expose.paths[{number}]"
        yield _Listener(name, f"{name}.listenerPort", address, path["listenerPort"])


def _check_ports(document: _Object, config: TaskConfig) -> None:
    """Refuse ports that two listeners of the task would want.

    Consul sees it of two upstreams only, Envoy of its own listeners only, and later.
    """
    public = config.proxy.public_listener_port
    if config.service.port == public:
        raise document.error(
            "service.port", f"is {public}, where the proxy listens. Set proxy.publicListenerPort"
        )
    taken = [
        _Listener("the proxy's public listener", "", _EVERYWHERE, public),
        _Listener("the service", "", _LOOPBACK, config.service.port),
    ]
    for listener in _proxy_listeners(config):
        others = [other.name for other in taken if other.clashes(listener)]
        if "expose" in listener.place and listener.port in AGENT_PORTS:
            others.append("the Consul agent")
        if others:
            raise document.error(
                listener.place,
                f"is {listener.port}, where {others[0]} listens. Choose another port",
            )
        taken.append(listener)


# --- What messages say ---------------------------------------------------------------------------


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that an object has twice: the first value would be lost without a word."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {_excerpt(twice)} is there twice in one object")
    return dict(pairs)


def _no_such_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def _excerpt(value: Any, *, quoted: bool = True) -> str:
    """Return the beginning of a value: enough to find it, too little to publish it."""
    text = json.dumps(value, ensure_ascii=False) if quoted else str(value)
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _advice(key: str, known: Iterable[str]) -> str:
    # Imported where it is needed: a document without errors is the usual case.
    from difflib import get_close_matches  # noqa: PLC0415

    lower = {name.lower(): name for name in sorted(known)}
    close = get_close_matches(key.lower().replace("_", ""), lower, n=1)
    if close:
        return f"Did you mean {lower[close[0]]}?"
    return f"Leave it out, or use one of: {', '.join(lower.values())}."
