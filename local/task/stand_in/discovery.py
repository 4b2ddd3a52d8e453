"""Where a proxy asks its agent for what can change: where its upstreams are, and who may come in.

A real agent sends all of a proxy's configuration by gRPC, and proxies know each other by
certificates. This one sends these by REST, which Envoy asks for again and again, and knows a caller
by its task's address: upstream connections come from that. So what is shown is that an intention
decides, and takes effect while tasks run; not that a certificate proves who calls. Whoever calls
from 127.0.0.1 is no task but somebody at this machine, and is let in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

REFRESH_SECONDS = 0.5
"""How often Envoy asks."""

_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
_FILTERS = "type.googleapis.com/envoy.extensions.filters.network"
_SOMEBODY_HERE = "127.0.0.1"
_ANY = "*"

Get = Callable[[str], tuple[Any, Mapping[str, str]]]
"""Reads something from the server: its JSON, and the headers of the answer."""

_Find = Callable[[Mapping[str, Any], Get, str], Iterator[dict[str, Any]]]


def answer(path: str, request: bytes, get: Get, host: str) -> bytes:
    """Answer a proxy that asks for something.

    Parameters
    ----------
    path
        One of `PATHS`.
    request
        Envoy's DiscoveryRequest.
    get
        Reads from the server.
    host
        The task's address.
    """
    type_url, find = PATHS[path]
    proxy_id = json.loads(request)["node"]["id"]
    proxy, _ = get(f"/v1/agent/service/{quote(proxy_id, safe='')}")
    found = [{"@type": type_url, **each} for each in find(proxy, get, host)]
    version = hashlib.sha256(json.dumps(found).encode()).hexdigest()
    response = {"version_info": version, "type_url": type_url, "resources": found}
    return json.dumps(response).encode()


# Of upstreams ---------------------------------------------------------------------------------


def upstream_name(upstream: Mapping[str, Any]) -> str:
    """Return the name of the cluster of a proxy's upstream."""
    return f"upstream_{upstream['DestinationName']}_{upstream['LocalBindPort']}"


def cluster(name: str, targets: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Return what Envoy calls a cluster: the addresses of something."""
    endpoints = [{"endpoint": {"address": address(host, port)}} for host, port in targets]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": endpoints}] if endpoints else [],
        },
    }


def address(host: str, port: int) -> dict[str, Any]:
    """Return an address as Envoy has it."""
    return {"socket_address": {"address": host, "port_value": port}}


def _upstreams(proxy: Mapping[str, Any], get: Get, host: str) -> Iterator[dict[str, Any]]:
    # By this the called one knows who calls.
    own = {"upstream_bind_config": {"source_address": {"address": host, "port_value": 0}}}
    for upstream in proxy["Proxy"].get("Upstreams") or []:
        targets = [
            (one["ServiceAddress"] or one["Address"], one["ServicePort"])
            for one in _proxies(upstream["DestinationName"], get)
        ]
        yield cluster(upstream_name(upstream), targets) | own


def _proxies(service: str, get: Get) -> list[dict[str, Any]]:
    found, _ = get(f"/v1/catalog/service/{quote(service, safe='')}-sidecar-proxy")
    return sorted(found, key=lambda one: str(one["ServiceID"]))


# Of callers -----------------------------------------------------------------------------------


def _way_in(proxy: Mapping[str, Any], get: Get, host: str) -> Iterator[dict[str, Any]]:
    if not proxy["Proxy"].get("LocalServicePort"):
        return
    policy = {
        "permissions": [{"any": True}],
        "principals": _principals(proxy["Proxy"]["DestinationServiceName"], get),
    }
    rules = {"policies": {"consul-intentions": policy}}
    filters: list[tuple[str, str, dict[str, Any]]] = [
        ("rbac", "rbac.v3.RBAC", {"stat_prefix": "connect_authz", "rules": rules}),
        (
            "tcp_proxy",
            "tcp_proxy.v3.TcpProxy",
            {"stat_prefix": "public_listener", "cluster": "local_app"},
        ),
    ]
    chain = [
        {
            "name": f"envoy.filters.network.{name}",
            "typed_config": {"@type": f"{_FILTERS}.{kind}", **config},
        }
        for name, kind, config in filters
    ]
    yield {
        "name": f"public_listener:{host}:{proxy['Port']}",
        "address": address(host, proxy["Port"]),
        "filter_chains": [{"filters": chain}],
    }


def _principals(service: str, get: Get) -> list[dict[str, Any]]:
    """Return who may come in, as Envoy's RBAC has it."""
    path = f"/v1/connect/intentions/match?by=destination&name={quote(service, safe='')}"
    matches, headers = get(path)
    others = headers.get("X-Consul-Default-Acl-Policy", "allow")
    says: dict[str, str] = {}
    # The first that is about a caller decides; one about all is about everybody who is left.
    for each in matches[service]:
        if each["SourceName"] == _ANY:
            others = each["Action"]
            break
        says.setdefault(each["SourceName"], each["Action"])
    others_may = others == "allow"
    excepted = [name for name, action in says.items() if (action == "allow") != others_may]
    addresses = _addresses(excepted, get)
    if not others_may:
        return _from([_SOMEBODY_HERE, *addresses])
    if not addresses:
        return [{"any": True}]
    return [{"not_id": {"or_ids": {"ids": _from(addresses)}}}]


def _addresses(services: Iterable[str], get: Get) -> list[str]:
    return sorted(
        {
            one["ServiceAddress"] or one["Address"]
            for service in services
            for one in _proxies(service, get)
        }
    )


def _from(addresses: Sequence[str]) -> list[dict[str, Any]]:
    return [{"direct_remote_ip": {"address_prefix": one, "prefix_len": 32}} for one in addresses]


PATHS: Mapping[str, tuple[str, _Find]] = {
    "/v3/discovery:clusters": (_CLUSTER, _upstreams),
    "/v3/discovery:listeners": (_LISTENER, _way_in),
}
"""What Envoy asks, by POST: the type of what it gets, and what finds that."""
