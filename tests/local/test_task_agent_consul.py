"""The stand-in for `consul` says no where a real one does, and writes what Envoy takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from infrastructure.consul_client import ConsulClient
from local.consul import EmbeddedConsul
from local.task.images import consul_image, envoy_executable
from local.task.stand_in.config import ConfigError, read_config
from tests.local import mesh_service
from tests.local.mesh_service import MANAGEMENT, SERVICE

GOOD = {
    "data_dir": "/consul/data",
    "retry_join": ["consul.internal"],
    "bind_addr": "10.0.0.1",
}
ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "local" / "task" / "stand_in" / "envoy-bootstrap-1.10.1.json"
PROXY = {
    "ID": "web-1-sidecar-proxy",
    "Name": "web-sidecar-proxy",
    "Kind": "connect-proxy",
    "Port": 20000,
    "Address": "10.0.0.1",
    "Proxy": {
        "DestinationServiceName": SERVICE,
        "DestinationServiceID": "web-1",
        "LocalServicePort": 8080,
        "Upstreams": [
            {"DestinationName": SERVICE, "LocalBindPort": 1234},
            {"DestinationName": "nobody", "LocalBindPort": 1235},
        ],
    },
}


# The agent's configuration ------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
def test_an_agent_takes_the_configuration_of_a_mesh_task(tls: bool) -> None:  # noqa: FBT001
    client = ConsulClient(
        datacenter="dc1",
        retry_join=["a"],
        acls=True,
        tls=tls,
        gossip=True,
        verify_server_hostname=tls,
    )
    config = client.config | {
        "advertise_addr": "10.0.0.1",
        "bind_addr": "10.0.0.1",
        "encrypt": "A" * 43 + "=",
    }
    config["acl"] = config["acl"] | {"tokens": {"agent": "token"}}
    assert read_config(json.dumps(config)) == config


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"grpc_port": 8502}, "invalid config key grpc_port"),
        ({"tls": {"defaults": {}}}, "invalid config key tls"),
        ({"ports": {"grpc_tls": 8503}}, "invalid config key ports.grpc_tls"),
        ({"acl": {"token": {"agent": "SECRET"}}}, "invalid config key acl.token"),
        ({"acl": {"tokens": ["SECRET"]}}, "acl.tokens is not an object"),
        ({"retry_join": "consul.internal"}, "retry_join is not a list of strings"),
        ({"retry_join": []}, "retry_join is empty"),
        ({"leave_on_terminate": "true"}, "leave_on_terminate is not of type bool"),
        ({"bind_addr": ""}, "bind_addr is not an IP address"),
        ({"data_dir": ""}, "data_dir cannot be empty"),
        ({"datacenter": "DC 1"}, "datacenter must be"),
        ({"advertise_reconnect_timeout": "15 minutes"}, "invalid duration"),
        ({"acl": {"default_policy": "refuse"}}, "acl.default_policy"),
        ({"acl": {"down_policy": "refuse"}}, "acl.down_policy"),
        ({"verify_outgoing": True}, "ca_file is empty"),
    ],
)
def test_an_agent_refuses_a_configuration_and_says_why_without_values(
    changed: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=why) as refused:
        read_config(json.dumps(GOOD | changed))
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", '{"a": '])
def test_an_agent_refuses_what_is_no_configuration(text: str) -> None:
    with pytest.raises(ConfigError, match="failed to parse"):
        read_config(text)


# consul connect envoy -----------------------------------------------------------------------------


@pytest.fixture
def consul() -> Iterator[EmbeddedConsul]:
    """A server, with the service's proxy registered."""
    with EmbeddedConsul(initial_management=MANAGEMENT) as server:
        requests.put(
            f"{server.address}/v1/agent/service/register",
            json=PROXY,
            headers={"X-Consul-Token": MANAGEMENT},
            timeout=10,
        ).raise_for_status()
        yield server


@pytest.fixture
def program(tmp_path: Path, consul: EmbeddedConsul) -> Path:
    """The stand-in, as it is on the PATH of the consul image."""
    image = consul_image(tmp_path / "image", server=consul.address)
    assert image.programs is not None
    return image.programs / "consul"


def connect_envoy(
    program: Path, address: str, token: str, *flags: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, "connect", "envoy", "-bootstrap", *flags],
        env={"CONSUL_HTTP_ADDR": address, "CONSUL_HTTP_TOKEN": token},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


PROXY_ID = ("-proxy-id", "web-1-sidecar-proxy")


def test_it_prints_the_recorded_configuration_with_the_proxy_its_token_and_listeners(
    consul: EmbeddedConsul, program: Path
) -> None:
    token = mesh_service.service_token(consul.address, MANAGEMENT)
    done = connect_envoy(program, consul.address, token, *PROXY_ID, "-grpc-addr=10.0.0.1:8502")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    listeners = printed["static_resources"].pop("listeners")
    clusters = {each["name"]: each for each in printed["static_resources"]["clusters"]}
    asked_for = [printed["dynamic_resources"].pop(kind) for kind in ("lds_config", "cds_config")]
    printed["static_resources"]["clusters"] = [clusters["local_agent"]]
    expected = json.loads(RECORDED.read_text())
    expected["node"]["id"] = "web-1-sidecar-proxy"
    agent = expected["static_resources"]["clusters"][0]["loadAssignment"]["endpoints"][0]
    agent["lbEndpoints"][0]["endpoint"]["address"]["socket_address"] = {
        "address": "10.0.0.1",
        "port_value": 8502,
    }
    dynamic = expected["dynamic_resources"]
    metadata = dynamic["ads_config"]["grpc_services"]["initial_metadata"][0]
    assert metadata["key"] == "x-consul-token"
    metadata["value"] = token
    # What can change it asks the agent for.
    for kind in asked_for:
        source = kind["api_config_source"]
        assert (source["api_type"], source["cluster_names"]) == ("REST", ["local_agent_http"])
    del dynamic["lds_config"], dynamic["cds_config"]
    (http,) = clusters["local_agent_http"]["load_assignment"]["endpoints"]
    address = http["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert f"http://{address['address']}:{address['port_value']}" == consul.address
    assert printed == expected
    assert [each["address"]["socket_address"]["port_value"] for each in listeners] == [1234, 1235]
    local = clusters["local_app"]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert local[0]["endpoint"]["address"]["socket_address"]["port_value"] == 8080
    assert set(clusters) == {"local_agent", "local_agent_http", "local_app"}


@pytest.mark.skipif(envoy_executable() is None, reason="there is no Envoy for this machine")
def test_envoy_accepts_what_it_prints(
    consul: EmbeddedConsul, program: Path, tmp_path: Path
) -> None:
    token = mesh_service.service_token(consul.address, MANAGEMENT)
    config = tmp_path / "envoy.json"
    config.write_text(connect_envoy(program, consul.address, token, *PROXY_ID).stdout)
    done = subprocess.run(
        [str(envoy_executable()), "--mode", "validate", "--config-path", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_it_fails_as_a_real_one_when_the_token_or_the_proxy_is_wrong(
    consul: EmbeddedConsul, program: Path
) -> None:
    what = "failed fetch proxy config from local agent: Unexpected response code: "
    wrong = "e3e4f0d1-0000-4000-8000-00000000dead"
    cases = [
        (wrong, PROXY_ID, f"{what}403 (ACL not found)"),
        (MANAGEMENT, ("-proxy-id", "nobody"), f"{what}404 (unknown service ID: nobody)"),
        (MANAGEMENT, ("-proxy", "web"), "flag provided but not defined: -proxy"),
        (MANAGEMENT, ("-proxy-id",), "flag needs an argument: -proxy-id"),
        (MANAGEMENT, (), "needs -bootstrap and -proxy-id"),
    ]
    for token, flags, why in cases:
        done = connect_envoy(program, consul.address, token, *flags)
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr
        assert wrong not in done.stderr


def test_it_fails_as_a_real_one_when_there_is_no_agent(
    consul: EmbeddedConsul, program: Path
) -> None:
    consul.stop()
    done = connect_envoy(program, consul.address, MANAGEMENT, *PROXY_ID)
    assert done.returncode == 1
    assert "connection refused" in done.stderr


def test_what_the_stand_in_lacks_it_says(program: Path) -> None:
    done = subprocess.run(
        [program, "members"], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 127
    assert "has only agent" in done.stderr


def test_the_stand_in_loads_nothing_heavy_because_a_task_waits_for_it() -> None:
    code = (
        "import sys, local.task.stand_in.agent, local.task.stand_in.bootstrap;"
        "print({'boto3', 'botocore', 'requests', 'moto', 'aws_cdk'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
