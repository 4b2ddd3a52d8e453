"""``consul connect envoy -bootstrap``: asks the agent for the proxy, and prints what Envoy reads.

The configuration is one that a real Consul 1.10.1 has printed, with the proxy's name, the agent's
address and the token put in. It differs in what a real agent would send by gRPC: where the proxy
listens for its upstreams is in the file, as plain TCP without mTLS; the rest Envoy asks the agent
for, by REST (see discovery.py).
"""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from local.task.stand_in import discovery
from local.task.stand_in.flags import FlagError, parse_flags

_RECORDED = Path(__file__).with_name("envoy-bootstrap-1.10.1.json")
_TEXTS = frozenset({"proxy-id", "grpc-addr", "http-addr", "admin-bind", "envoy-version"})
_TIMEOUT_SECONDS = 10.0
_OK = 200
_DEFAULT_HTTP = "127.0.0.1:8500"
_DEFAULT_GRPC = "127.0.0.1:8502"
_AGENT_HTTP = "local_agent_http"


class BootstrapError(Exception):
    """The command cannot do its work; the message is in a real one's words."""


def run_connect_envoy(flags: Sequence[str], environment: Mapping[str, str]) -> int:
    """Print the configuration, and return the exit status."""
    try:
        given = parse_flags(flags, texts=_TEXTS, bools=frozenset({"bootstrap"}))
        print(json.dumps(_bootstrap(given, environment), indent=2))
    except (FlagError, BootstrapError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _bootstrap(given: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, Any]:
    if "bootstrap" not in given or "proxy-id" not in given:
        raise BootstrapError("The stand-in needs -bootstrap and -proxy-id.")
    address = given.get("http-addr") or environment.get("CONSUL_HTTP_ADDR") or _DEFAULT_HTTP
    grpc = given.get("grpc-addr") or environment.get("CONSUL_GRPC_ADDR") or _DEFAULT_GRPC
    agent = _Agent(address, environment.get("CONSUL_HTTP_TOKEN", ""))
    proxy_id = given["proxy-id"]
    proxy = agent.get(f"/v1/agent/service/{quote(proxy_id, safe='')}")
    if proxy.get("Kind") != "connect-proxy":
        raise BootstrapError("service is not a Connect proxy")
    service = proxy["Proxy"]["DestinationServiceName"]
    config: dict[str, Any] = json.loads(_RECORDED.read_text(encoding="utf-8"))
    admin, _, admin_port = given.get("admin-bind", f"{agent.host}:19000").rpartition(":")
    config["admin"]["address"] = discovery.address(admin, int(admin_port))
    config["node"] |= {"id": proxy_id, "cluster": service}
    for tag in config["stats_config"]["stats_tags"]:
        if tag["tag_name"] in {"local_cluster", "consul.source.service"}:
            tag["fixed_value"] = service
    dynamic = config["dynamic_resources"]
    services = dynamic["ads_config"]["grpc_services"]
    services["initial_metadata"] = [{"key": "x-consul-token", "value": agent.token}]
    for resource in ("lds_config", "cds_config"):
        dynamic[resource] = {
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": "REST",
                "transport_api_version": "V3",
                "cluster_names": [_AGENT_HTTP],
                "refresh_delay": f"{discovery.REFRESH_SECONDS}s",
            },
        }
    host, _, port = grpc.removeprefix("http://").rpartition(":")
    (local_agent,) = config["static_resources"]["clusters"]
    endpoint = local_agent["loadAssignment"]["endpoints"][0]["lbEndpoints"][0]["endpoint"]
    endpoint["address"] = discovery.address(host, int(port))
    _add_static(config["static_resources"], proxy, agent)
    return config


def _add_static(resources: dict[str, Any], proxy: Mapping[str, Any], agent: _Agent) -> None:
    """Add what does not change: the agent, the application, and where upstreams are asked for."""
    details = proxy["Proxy"]
    listeners: list[dict[str, Any]] = []
    resources["listeners"] = listeners
    resources["clusters"].append(discovery.cluster(_AGENT_HTTP, [(agent.host, agent.port)]))
    if details.get("LocalServicePort"):
        local = agent.here(details.get("LocalServiceAddress") or "127.0.0.1")
        resources["clusters"].append(
            discovery.cluster("local_app", [(local, details["LocalServicePort"])])
        )
    for upstream in details.get("Upstreams") or []:
        name = discovery.upstream_name(upstream)
        where = agent.here(upstream.get("LocalBindAddress") or "127.0.0.1")
        listeners.append(_listener(name, where, upstream["LocalBindPort"]))


def _listener(name: str, host: str, port: int) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    tcp_proxy = {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {"@type": kind, "stat_prefix": name, "cluster": name},
    }
    return {
        "name": f"{name}:{host}:{port}",
        "address": discovery.address(host, port),
        "filter_chains": [{"filters": [tcp_proxy]}],
    }


class _Agent:
    """The agent's HTTP API, as Consul's own client for it speaks of it."""

    def __init__(self, address: str, token: str) -> None:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        self.host = parts.hostname or "127.0.0.1"
        self.token = token
        self.port = parts.port or 8500

    def here(self, address: str) -> str:
        """Return where the task is, if an address means the task itself."""
        return self.host if address in {"127.0.0.1", "localhost"} else address

    def get(self, path: str) -> Any:
        """Read something.

        Raises
        ------
        BootstrapError
            There is no answer, or another one than 200.
        """
        what = "failed fetch proxy config from local agent"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("GET", path, headers={"X-Consul-Token": self.token})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise BootstrapError(f'{what}: Get "{path}": {str(reason).lower()}') from None
        finally:
            connection.close()
        if answer.status != _OK:
            text = body.decode(errors="replace")
            raise BootstrapError(f"{what}: Unexpected response code: {answer.status} ({text})")
        return json.loads(body)
