"""The document that a task definition carries: written, read, and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.task_config import (
    Check,
    ProxyConfig,
    ServiceConfig,
    TaskConfig,
    TaskConfigError,
    UpstreamConfig,
    Weights,
    is_valid_service_name,
    proxy_id,
    proxy_name,
    service_id,
    synced_check_id,
)

# What HashiCorp's 0.4 reads, every key of it, but for those of Consul Enterprise.
EVERYTHING: dict[str, Any] = {
    "bootstrapDir": "/consul/envoy",
    "service": {
        "name": "front_end-1",
        "tags": ["v1", "blue"],
        "port": 8080,
        "enableTagOverride": True,
        "meta": {"env": "test"},
        "weights": {"passing": 6, "warning": 0},
        "checks": [
            {
                "checkId": "http",
                "name": "HTTP",
                "interval": "30s",
                "timeout": "1m30s",
                "http": "http://localhost:8080/health",
                "header": {"Accept": ["text/plain", "*/*"]},
                "method": "POST",
                "body": "{}",
                "status": "passing",
                "notes": "of the front end",
                "tlsServerName": "front",
                "tlsSkipVerify": True,
                "successBeforePassing": 3,
                "failuresBeforeCritical": 4,
            },
            {"args": ["/bin/true", "-x"], "interval": "1m"},
            {"interval": "15s", "tcp": "localhost:8080"},
            {"interval": "1.5s", "grpc": "localhost:8080", "grpcUseTls": True},
            {"interval": "500ms", "h2ping": "localhost:2222", "h2pingUseTls": False},
            {"ttl": "10m"},
            {"aliasNode": "node-1", "aliasService": "backend"},
        ],
    },
    "proxy": {
        "config": {"protocol": "http", "nested": {"null": None}},
        "publicListenerPort": 20001,
        "upstreams": [
            {
                "destinationType": "prepared_query",
                "destinationName": "Nearest Backend",
                "datacenter": "dc2",
                "localBindAddress": "127.0.0.2",
                "localBindPort": 1234,
                "config": {"connect_timeout_ms": 1000},
                "meshGateway": {"mode": "remote"},
            },
            {"destinationName": "backend", "localBindPort": 1234},
        ],
        "meshGateway": {"mode": "local"},
        "expose": {
            "checks": True,
            "paths": [
                {
                    "listenerPort": 20002,
                    "path": "/things",
                    "localPathPort": 8080,
                    "protocol": "http2",
                }
            ],
        },
    },
}
MINIMAL: dict[str, Any] = {"bootstrapDir": "/consul/envoy", "service": {"name": "web", "port": 0}}

EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound here


def changed(path: str, value: Any) -> str:
    """Return the minimal document with a value put at a path; numbers are places in lists."""
    document = json.loads(json.dumps(MINIMAL))
    *parents, last = path.split(".")
    place = document
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return json.dumps(document)


@pytest.mark.parametrize("document", [MINIMAL, EVERYTHING])
def test_a_document_is_read_and_written_without_loss(document: dict[str, Any]) -> None:
    assert json.loads(TaskConfig.from_json(json.dumps(document)).to_json()) == document


def test_what_is_default_is_not_written() -> None:
    config = TaskConfig(bootstrap_dir="/consul/envoy", service=ServiceConfig(name="web", port=0))

    assert config.to_json() == (
        '{"bootstrapDir":"/consul/envoy","service":{"name":"web","port":0}}'
    )


def test_null_means_absent_as_it_does_to_hashicorp() -> None:
    document = {
        **MINIMAL,
        "healthSyncContainers": None,
        "proxy": None,
        "service": {**MINIMAL["service"], "tags": None, "checks": None, "weights": None},
    }
    assert TaskConfig.from_json(json.dumps(document)) == TaskConfig.from_json(json.dumps(MINIMAL))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("bootstrapDirectory", "/x", "bootstrapDirectory is not a key that exists"),
        ("bootstrapDirectory", "/x", " here. Did you mean bootstrapDir?"),
        ("service.checkz", [], "service.checkz is not a key that exists here."),
        ("service.checkz", [], "Did you mean checks?"),
        ("service.enable_tag_override", True, "Did you mean enableTagOverride?"),
        ("proxy.zzz", 1, "Leave it out, or use one of: config, "),
        ("service", None, "service is missing"),
        ("service", [], "service must be an object, not a list"),
        ("bootstrapDir", "", "bootstrapDir is missing"),
        ("bootstrapDir", "envoy", "bootstrapDir must be an absolute path"),
        ("service.name", None, "service.name is missing"),
        ("service.name", "Web", "service.name must be a Consul service name (lower-case"),
        ("service.name", "-web", "service.name must be a Consul service name"),
        ("service.name", "w" * 257, 'not "' + "w" * 39 + "…."),
        ("service.name", 7, "service.name must be a string, not a number"),
        ("service.enableTagOverride", "yes", 'must be true or false, not "yes"'),
        ("service.port", None, "service.port is missing"),
        ("service.port", "8080", 'service.port must be an integer, not "8080"'),
        ("service.port", True, "service.port must be an integer, not true"),
        ("service.port", 65536, "service.port must be an integer from 0 to 65535, not 65536"),
        ("service.port", -1, "service.port must be an integer from 0 to 65535"),
        ("service.port", 20000, "service.port is 20000, where the proxy listens"),
        ("service.tags", "v1", "service.tags must be a list of strings"),
        ("service.tags", ["a", "a"], 'service.tags has "a" more than once'),
        ("service.meta", {"a b": "c"}, "service.meta.a b must have a key of"),
        ("service.meta", {"consul-x": "c"}, "service.meta.consul-x begins with consul-"),
        ("service.meta", {"a": 1}, "service.meta.a must be a string, not a number"),
        ("service.meta", {"a": "x" * 513}, "service.meta.a must be at most 512 bytes"),
        ("service.meta", {f"k{n}": "" for n in range(62)}, "at most 61 entries"),
        ("service.weights", {"passing": 1}, "service.weights.warning is missing"),
        ("service.weights", {"passing": 0, "warning": 1}, "service.weights.passing must be"),
        ("service.namespace", "team", "service.namespace is a feature of Consul Enterprise"),
        ("service.partition", "team", "service.partition is a feature of Consul Enterprise"),
        ("service.checks", {}, "service.checks must be a list, not an object"),
        ("service.checks", [{}], "service.checks[0] must have exactly one of http, tcp"),
        ("service.checks", [{"ttl": "1s"}, {"ttl": "1s", "tcp": "x:1"}],
         "service.checks[1] must have exactly one of"),
        ("service.checks", [{"tcp": "x:1"}], "service.checks[0].interval is missing"),
        ("service.checks", [{"ttl": "1s", "interval": "1s"}], "interval has no meaning with ttl"),
        ("service.checks", [{"ttl": "10"}], "service.checks[0].ttl must be a duration such"),
        ("service.checks", [{"ttl": "0s"}], "service.checks[0].ttl must be a duration"),
        ("service.checks", [{"ttl": "1s", "status": "up"}],
         'service.checks[0].status must be one of passing, warning, critical, not "up"'),
        ("service.checks", [{"ttl": "1s", "header": {"A": "b"}}],
         "service.checks[0].header.A must be a list of strings"),
        ("service.checks", [{"ttl": "1s", "deregisterCriticalServiceAfter": "1m"}],
         "service.checks[0].deregisterCriticalServiceAfter is not a key"),
        ("proxy.publicListenerPort", 0, "proxy.publicListenerPort must be an integer from 1"),
        ("proxy.config", [], "proxy.config must be an object, not a list"),
        ("proxy.meshGateway", {"mode": "far"}, "proxy.meshGateway.mode must be one of none, "),
        ("proxy.expose", {"paths": [{"path": "x"}]}, "proxy.expose.paths[0].path must begin"),
        ("proxy.expose", {"path": []}, "proxy.expose.path is not a key"),
        ("proxy.upstreams", [{"localBindPort": 1}], "proxy.upstreams[0].destinationName is miss"),
        ("proxy.upstreams", [{"destinationName": "a"}], "proxy.upstreams[0].localBindPort is mis"),
        ("proxy.upstreams", [{"destinationName": "a", "localBindPort": 0}], "from 1 to 65535"),
        ("proxy.upstreams", [{"destinationName": "A", "localBindPort": 1}],
         "proxy.upstreams[0].destinationName must be a Consul service name"),
        ("proxy.upstreams", [{"destinationName": "a", "localBindPort": 1,
                              "destinationType": "svc"}], "one of service, prepared_query"),
        ("proxy.upstreams", [{"destinationName": "a", "localBindPort": 1,
                              "destinationNamespace": "b"}], "Consul Enterprise"),
        ("proxy.upstreams", [{"destinationName": "a", "localBindPort": 7}] * 2,
         "proxy.upstreams[1].localBindPort is 7, where proxy.upstreams[0] listens"),
        ("proxy.upstreams", [{"destinationName": "a", "localBindPort": 20000}],
         "where the proxy's public listener listens"),
        ("proxy.upstreams", [{"destinationName": "a", "localBindPort": 7,
                              "localBindAddress": "localhost"}],
         'proxy.upstreams[0].localBindAddress must be an IP address such as "127.0.0.1", not "loc'),
        ("proxy.upstreams", [{"destinationName": "a", "localBindPort": 7,
                              "localBindAddress": "fe80::1%eth0"}], "must be an IP address"),
        ("proxy.config", {"bind_port": 21000}, "proxy.config.bind_port moves the proxy's public"),
        ("proxy.config", {"Bind_Port": "21000"}, "Leave it out, and set proxy.publicListenerPort"),
        ("proxy.config", {"bind_address": "127.0.0.1"}, None),
        ("proxy.config", {"bind_address": "127.0.0.2"}, "proxy.config.bind_address takes the pr"),
        ("proxy.config", {"bind_address": "10.0.0.1"}, "Leave it out: it listens on 0.0.0.0, and"),
        ("proxy.config", {"bind_address": "::"}, "proxy.config.bind_address takes"),
        ("proxy.config", {"BIND_ADDRESS": [EVERYWHERE]}, "proxy.config.BIND_ADDRESS takes"),
        ("proxy.config", {"bind_address": EVERYWHERE, "bind_port": 0}, None),
        ("proxy.config", {"bind_address": "", "bind_port": None}, None),
        ("healthSyncContainers", ["web", "web"], "healthSyncContainers has"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_place(
    path: str, value: Any, message: str | None
) -> None:
    if message is None:
        TaskConfig.from_json(changed(path, value))
        return
    with pytest.raises(TaskConfigError) as caught:
        TaskConfig.from_json(changed(path, value))

    assert message in str(caught.value)


def test_a_proxy_that_others_call_is_not_on_the_loopback_interface_alone() -> None:
    document = json.loads(changed("proxy.config", {"bind_address": "127.0.0.1"}))
    document["service"]["port"] = 8080

    with pytest.raises(TaskConfigError, match=r"proxy\.config\.bind_address"):
        TaskConfig.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("upstreams", "exposed", "place", "message"),
    [
        ([], [20000], "expose.paths[0].listenerPort", "is 20000, where the proxy's public list"),
        ([], [8080], "expose.paths[0].listenerPort", "is 8080, where the service listens. Choose"),
        ([], [9, 10, 9], "expose.paths[2].listenerPort", "is 9, where proxy.expose.paths[0] lis"),
        (["127.0.0.1"], [7], "expose.paths[0].listenerPort", "is 7, where proxy.upstreams[0] lis"),
        (["127.0.0.2"], [7], "expose.paths[0].listenerPort", "is 7, where proxy.upstreams[0] lis"),
        *(([], [port], "expose.paths[0].listenerPort", f"is {port}, where the Consul agent listens")
          for port in (8300, 8301, 8302, 8500, 8501, 8502, 8503, 8600)),
        (["127.0.0.1", EVERYWHERE], [], "upstreams[1].localBindPort", "is 7, where proxy.upstream"),
        (["::", "127.0.0.1"], [], "upstreams[1].localBindPort", "is 7, where proxy.upstreams[0]"),
        (["::1", "0:0::1"], [], "upstreams[1].localBindPort", "is 7, where proxy.upstreams[0]"),
        (["127.0.0.1", "127.0.0.2", "::1"], [8, 9], "", ""),
    ],
)  # fmt: skip
def test_no_two_listeners_of_a_task_have_the_same_port(
    upstreams: list[str], exposed: list[int], place: str, message: str
) -> None:
    document: dict[str, Any] = json.loads(json.dumps(MINIMAL))
    document["service"]["port"] = 8080
    document["proxy"] = {
        "upstreams": [
            {"destinationName": "a", "localBindPort": 7, "localBindAddress": address}
            for address in upstreams
        ],
        "expose": {
            "paths": [
                {"path": f"/{port}", "listenerPort": port, "localPathPort": 8080}
                for port in exposed
            ]
        },
    }
    if not message:
        TaskConfig.from_json(json.dumps(document))
        return
    with pytest.raises(TaskConfigError) as caught:
        TaskConfig.from_json(json.dumps(document))

    assert f"proxy.{place} {message}" in str(caught.value)


def test_the_default_namespace_and_partition_may_be_named() -> None:
    TaskConfig.from_json(changed("service.namespace", "default"))
    TaskConfig.from_json(changed("service.partition", ""))


def test_either_ecs_or_consul_checks_the_health() -> None:
    document = {
        **MINIMAL,
        "healthSyncContainers": ["web"],
        "service": {**MINIMAL["service"], "checks": [{"ttl": "1s"}]},
    }
    with pytest.raises(TaskConfigError, match=r"cannot be combined with service\.checks"):
        TaskConfig.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"a":1,"a":2}', '{"a":NaN}', "[" * 9999])
def test_what_is_not_an_object_in_json_is_refused(text: str) -> None:
    with pytest.raises(TaskConfigError):
        TaskConfig.from_json(text)


def test_a_message_shows_too_little_of_a_value_to_publish_it() -> None:
    secret = "s" * 30 + "the-rest-of-it"

    with pytest.raises(TaskConfigError) as caught:
        TaskConfig.from_json(changed("service.name", secret.upper()))

    assert "THE-REST-OF-IT" not in str(caught.value)


@pytest.mark.parametrize("value", [{"a": {1, 2}}, {"a": float("inf")}])
def test_what_json_cannot_express_is_refused_when_it_is_written(value: Any) -> None:
    config = TaskConfig(
        bootstrap_dir="/x",
        service=ServiceConfig(name="web", port=1),
        proxy=ProxyConfig(config=value),
    )
    with pytest.raises(TaskConfigError, match="JSON cannot express"):
        config.to_json()


def test_what_could_not_be_read_is_not_written() -> None:
    config = TaskConfig(bootstrap_dir="/x", service=ServiceConfig(name="Web", port=1))

    with pytest.raises(TaskConfigError, match=r"service\.name"):
        config.to_json()


TEXT = st.text(min_size=1, max_size=20)
NAME = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,20}[a-z0-9])?", fullmatch=True)
DURATION = st.from_regex(r"[1-9][0-9]{0,3}(ns|us|ms|s|m|h)", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OPAQUE = st.dictionaries(TEXT, JSON, max_size=3)
MODE = st.none() | st.sampled_from(["none", "local", "remote"])
CHECK = st.builds(
    Check,
    name=st.none() | TEXT,
    http=TEXT,
    interval=DURATION,
    timeout=st.none() | DURATION,
    header=st.dictionaries(TEXT, st.lists(TEXT).map(tuple), max_size=2),
    tls_skip_verify=st.booleans(),
    success_before_passing=st.integers(0, 9),
    status=st.none() | st.sampled_from(["passing", "warning", "critical"]),
) | st.builds(Check, h2ping=TEXT, h2ping_use_tls=st.none() | st.booleans(), interval=DURATION)
SERVICE = st.builds(
    ServiceConfig,
    name=NAME,
    port=st.integers(0, 9999),
    tags=st.lists(TEXT, unique=True, max_size=3).map(tuple),
    meta=st.dictionaries(st.from_regex(r"[A-Z_0-9]{1,9}", fullmatch=True), TEXT, max_size=3),
    enable_tag_override=st.booleans(),
    weights=st.none() | st.builds(Weights, passing=st.integers(1, 9), warning=st.integers(0, 9)),
    checks=st.lists(CHECK, max_size=2).map(tuple),
)
UPSTREAMS = st.lists(
    st.builds(
        UpstreamConfig,
        destination_name=NAME,
        local_bind_port=st.integers(10000, 19999),
        destination_type=st.sampled_from(["service", "prepared_query"]),
        datacenter=st.none() | TEXT,
        local_bind_address=st.none() | st.just("127.0.0.9"),
        config=OPAQUE,
        mesh_gateway=MODE,
    ),
    unique_by=lambda upstream: upstream.local_bind_port,
    max_size=3,
).map(tuple)
CONFIG = st.builds(
    TaskConfig,
    bootstrap_dir=st.just("/consul/envoy"),
    service=SERVICE,
    proxy=st.builds(
        ProxyConfig,
        public_listener_port=st.integers(20000, 65535),
        config=OPAQUE,
        upstreams=UPSTREAMS,
        mesh_gateway=MODE,
        expose=st.none() | st.just({"checks": True}),
    ),
)


@given(CONFIG)
def test_reading_takes_back_what_writing_has_done(config: TaskConfig) -> None:
    text = config.to_json()

    assert TaskConfig.from_json(text) == config
    assert TaskConfig.from_json(text).to_json() == text
    assert text.isascii()


@given(JSON)
def test_reading_raises_no_other_error_whatever_it_is_given(document: Any) -> None:
    with pytest.raises(TaskConfigError):
        TaskConfig.from_json(json.dumps({"bootstrapDir": "/x", "service": document}))


def test_ids_and_names_are_those_of_hashicorp() -> None:
    assert service_id("web", "abc") == "web-abc"
    assert proxy_id("web-abc") == "web-abc-sidecar-proxy"
    assert proxy_name("web") == "web-sidecar-proxy"
    assert synced_check_id("web-abc", "app") == "web-abc-app-consul-ecs"


@pytest.mark.parametrize(
    ("name", "valid"),
    [("a", True), ("a-b_c9", True), ("", False), ("a-", False), ("A", False), ("a.b", False),
     ("a" * 256, True), ("a" * 257, False), ("a\n", False)],
)  # fmt: skip
def test_a_service_name_is_one_that_consul_takes(name: str, *, valid: bool) -> None:
    assert is_valid_service_name(name) is valid
