"""What the stand-in for an agent tells a proxy: where its upstreams are, and whom to let in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from local.task.stand_in import discovery

HOST = "127.70.0.1"
ADDRESSES = {"a": ["127.70.0.2", "127.70.0.3"], "b": ["127.70.0.4"], "gone": []}
OUTSIDE = "127.0.0.1"
PROXY = {
    "Port": 20000,
    "Proxy": {"DestinationServiceName": "web", "LocalServicePort": 8080},
}


def answer(
    intentions: list[tuple[str, str]],
    default: str,
    proxy: dict[str, Any] | None = None,
    *,
    path: str = "/v3/discovery:listeners",
) -> dict[str, Any]:
    """Ask as a proxy does, with a server that knows these intentions."""

    def get(path: str) -> tuple[Any, Mapping[str, str]]:
        headers = {"X-Consul-Default-Acl-Policy": default}
        if path == "/v1/agent/service/web-1-sidecar-proxy":
            return proxy or PROXY, headers
        if path == "/v1/connect/intentions/match?by=destination&name=web":
            found = [{"SourceName": source, "Action": action} for source, action in intentions]
            return {"web": found}, headers
        name = path.removeprefix("/v1/catalog/service/").removesuffix("-sidecar-proxy")
        instances = [
            {"ServiceID": f"{name}-{one}", "ServiceAddress": one, "ServicePort": 20000}
            for one in ADDRESSES[name]
        ]
        return instances, headers

    request = json.dumps({"node": {"id": "web-1-sidecar-proxy"}}).encode()
    found: dict[str, Any] = json.loads(discovery.answer(path, request, get, HOST))
    return found


def rules(intentions: list[tuple[str, str]], default: str = "deny") -> dict[str, Any]:
    (listener,) = answer(intentions, default)["resources"]
    (chain,) = listener["filter_chains"]
    rbac, _ = chain["filters"]
    found: dict[str, Any] = rbac["typed_config"]["rules"]
    return found


def only(*addresses: str) -> list[dict[str, Any]]:
    return [
        {"direct_remote_ip": {"address_prefix": address, "prefix_len": 32}} for address in addresses
    ]


def all_but(*addresses: str) -> list[dict[str, Any]]:
    return [{"not_id": {"or_ids": {"ids": only(*addresses)}}}]


ANYBODY = [{"any": True}]
A, B = ADDRESSES["a"], ADDRESSES["b"]


@pytest.mark.parametrize(
    ("intentions", "default", "principals"),
    [
        ([], "deny", only(OUTSIDE)),
        ([], "allow", ANYBODY),
        ([("a", "allow")], "deny", only(OUTSIDE, *A)),
        ([("a", "allow"), ("b", "allow")], "deny", only(OUTSIDE, *A, *B)),
        ([("a", "allow"), ("b", "deny")], "deny", only(OUTSIDE, *A)),
        ([("a", "deny")], "allow", all_but(*A)),
        ([("gone", "allow")], "deny", only(OUTSIDE)),
        ([("gone", "deny")], "allow", ANYBODY),
        ([("*", "allow")], "deny", ANYBODY),
        ([("*", "deny")], "allow", only(OUTSIDE)),
        ([("a", "deny"), ("*", "allow")], "deny", all_but(*A)),
        ([("a", "allow"), ("*", "deny")], "allow", only(OUTSIDE, *A)),
        # What comes after one about all is about nobody; nor is a second one about the same.
        ([("*", "deny"), ("a", "allow")], "allow", only(OUTSIDE)),
        ([("a", "allow"), ("a", "deny")], "deny", only(OUTSIDE, *A)),
    ],
)
def test_who_may_come_in_is_what_the_intentions_say(
    intentions: list[tuple[str, str]], default: str, principals: list[dict[str, Any]]
) -> None:
    policy = {"permissions": [{"any": True}], "principals": principals}

    assert rules(intentions, default) == {"policies": {"consul-intentions": policy}}


def test_the_listener_is_that_of_the_proxy_and_has_a_new_version_only_if_it_changes() -> None:
    first, same = (answer([("a", "allow")], "deny") for _ in range(2))
    other = answer([("b", "allow")], "deny")

    (listener,) = first["resources"]
    assert listener["address"] == {"socket_address": {"address": HOST, "port_value": 20000}}
    assert listener["@type"] == first["type_url"]
    assert first == same
    assert first["version_info"] != other["version_info"]


def test_a_proxy_of_what_nobody_calls_has_no_way_in() -> None:
    proxy = {"Port": 20000, "Proxy": {"DestinationServiceName": "web"}}

    assert answer([], "deny", proxy)["resources"] == []


def test_the_upstreams_are_where_their_proxies_are_and_are_called_from_the_tasks_address() -> None:
    upstreams = [
        {"DestinationName": name, "LocalBindPort": port}
        for name, port in (("a", 1234), ("gone", 1235))
    ]
    proxy = {"Port": 20000, "Proxy": {"DestinationServiceName": "web", "Upstreams": upstreams}}

    found = answer([], "deny", proxy, path="/v3/discovery:clusters")["resources"]

    assert [each["name"] for each in found] == ["upstream_a_1234", "upstream_gone_1235"]
    own = {"source_address": {"address": HOST, "port_value": 0}}
    assert [each["upstream_bind_config"] for each in found] == [own, own]
    there, gone = (each["load_assignment"]["endpoints"] for each in found)
    assert gone == []
    (endpoints,) = there
    assert [
        each["endpoint"]["address"]["socket_address"] for each in endpoints["lb_endpoints"]
    ] == [{"address": one, "port_value": 20000} for one in A]
