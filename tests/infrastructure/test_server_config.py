"""The configuration of a Consul server: every key that it has, and that Consul takes it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from infrastructure.server_config import ServerConfig

JOIN = "provider=aws tag_key=consul-servers tag_value=prod"
OF_A_CLUSTER = ServerConfig(
    node_name="consul-server-2", datacenter="eu-1", bootstrap_expect=3, retry_join=[JOIN]
)
FOR_DEVELOPMENT = ServerConfig(
    node_name="consul-server",
    datacenter="dc1",
    bootstrap_expect=1,
    config_dir=PurePosixPath("/consul/config"),
    data_dir=PurePosixPath("/consul/data"),
)

SAME_FOR_ALL: dict[str, Any] = {
    "server": True,
    "addresses": {"http": "127.0.0.1", "https": "0.0.0.0", "dns": "127.0.0.1"},  # noqa: S104
    "ports": {
        "server": 8300,
        "serf_lan": 8301,
        "http": 8500,
        "https": 8501,
        "dns": 8600,
        "grpc": -1,
        "grpc_tls": -1,
        "serf_wan": -1,
    },
    "acl": {
        "enabled": True,
        "default_policy": "deny",
        "down_policy": "extend-cache",
        "enable_token_persistence": False,
    },
    "disable_keyring_file": True,
    "auto_encrypt": {"allow_tls": True},
    "connect": {"enabled": True},
    "ui_config": {"enabled": True},
    "performance": {"raft_multiplier": 1},
    "leave_on_terminate": False,
    "skip_leave_on_interrupt": True,
    "disable_update_check": True,
    "log_level": "INFO",
}


def test_a_server_of_a_cluster_is_told_all_of_this_and_nothing_else() -> None:
    assert OF_A_CLUSTER.config == {
        **SAME_FOR_ALL,
        "node_name": "consul-server-2",
        "datacenter": "eu-1",
        "data_dir": "/opt/consul/data",
        "bootstrap_expect": 3,
        "retry_join": [JOIN],
        "tls": {
            "defaults": {
                "ca_file": "/etc/consul.d/tls/ca.pem",
                "cert_file": "/etc/consul.d/tls/server.pem",
                "key_file": "/etc/consul.d/tls/server-key.pem",
                "verify_outgoing": True,
            },
            "internal_rpc": {"verify_incoming": True, "verify_server_hostname": True},
            "https": {"verify_incoming": False},
        },
        "autopilot": {
            "min_quorum": 3,
            "cleanup_dead_servers": True,
            "last_contact_threshold": "200ms",
            "server_stabilization_time": "10s",
        },
    }


def test_the_server_for_development_is_alone_and_has_its_own_paths() -> None:
    assert FOR_DEVELOPMENT.config == {
        **SAME_FOR_ALL,
        "node_name": "consul-server",
        "datacenter": "dc1",
        "data_dir": "/consul/data",
        "bootstrap_expect": 1,
        "tls": {
            "defaults": {
                "ca_file": "/consul/config/tls/ca.pem",
                "cert_file": "/consul/config/tls/server.pem",
                "key_file": "/consul/config/tls/server-key.pem",
                "verify_outgoing": True,
            },
            "internal_rpc": {"verify_incoming": True, "verify_server_hostname": True},
            "https": {"verify_incoming": False},
        },
        "autopilot": {
            "min_quorum": 1,
            "cleanup_dead_servers": True,
            "last_contact_threshold": "200ms",
            "server_stabilization_time": "10s",
        },
    }


def test_the_file_is_the_configuration_as_json() -> None:
    assert json.loads(OF_A_CLUSTER.text) == OF_A_CLUSTER.config
    assert OF_A_CLUSTER.text.endswith("}\n")


def test_what_the_machine_writes_is_next_to_it_and_keys_are_where_consul_looks_for_no_json() -> (
    None
):
    named = {
        "file": OF_A_CLUSTER.file,
        "secrets_file": OF_A_CLUSTER.secrets_file,
        "machine_file": OF_A_CLUSTER.machine_file,
    }

    assert {name: str(path) for name, path in named.items()} == {
        "file": "/etc/consul.d/server.json",
        "secrets_file": "/etc/consul.d/secrets.json",
        "machine_file": "/etc/consul.d/machine.json",
    }


CONSUL = shutil.which("consul")


@pytest.mark.skipif(CONSUL is None, reason="there is no consul on the PATH: not validated by one")
@pytest.mark.parametrize(
    ("made", "tokens"),
    [
        (OF_A_CLUSTER, {"agent": "11111111-1111-4111-8111-111111111111"}),
        (FOR_DEVELOPMENT, {"initial_management": "11111111-1111-4111-8111-111111111111"}),
    ],
    ids=["cluster", "development"],
)
def test_consul_itself_takes_it_with_the_files_that_the_machine_adds(
    made: ServerConfig, tokens: dict[str, str], tmp_path: Path
) -> None:
    assert CONSUL is not None
    files = {
        made.file.name: made.config,
        made.secrets_file.name: {
            "encrypt": base64.b64encode(bytes(32)).decode(),
            "acl": {"tokens": tokens},
        },
        made.machine_file.name: {"bind_addr": "127.0.0.1"},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))

    validated = subprocess.run(
        [CONSUL, "validate", str(tmp_path)], capture_output=True, text=True, check=False
    )

    assert validated.returncode == 0, validated.stdout + validated.stderr
