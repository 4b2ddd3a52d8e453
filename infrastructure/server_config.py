"""The configuration of a Consul server: of each one of a cluster, and of the development server.

The keys are those of Consul from 1.14 on (agent/config/config.go): the `tls` stanza is of 1.12,
`ports.grpc_tls` of 1.14. What is secret is not in it, and what only the machine knows is not: both
are in files of their own, which the machine writes and Consul merges.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

RPC_PORT = 8300
SERF_PORT = 8301
HTTPS_PORT = 8501
_HTTP_PORT = 8500
_DNS_PORT = 8600
_OFF = -1
_LOOPBACK = "127.0.0.1"

_CONFIG_DIR = PurePosixPath("/etc/consul.d")
_DATA_DIR = PurePosixPath("/opt/consul/data")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """What a server is told.

    Attributes:
        node_name: its name among the nodes.
        datacenter: its datacenter.
        bootstrap_expect: how many servers there are: so many have to have met before they elect
            their first leader.
        retry_join: where it finds the others: addresses, or go-discover's "provider=…" texts.
        config_dir: the directory of its configuration: Consul reads every `.json` file in it, and
            nothing below it.
        data_dir: where it keeps its state.

    """

    node_name: str
    datacenter: str
    bootstrap_expect: int
    retry_join: Sequence[str] = ()
    config_dir: PurePosixPath = _CONFIG_DIR
    data_dir: PurePosixPath = _DATA_DIR

    @property
    def file(self) -> PurePosixPath:
        """Where this configuration belongs."""
        return self.config_dir / "server.json"

    @property
    def secrets_file(self) -> PurePosixPath:
        """The file with what is secret: `encrypt` and `acl.tokens`."""
        return self.config_dir / "secrets.json"

    @property
    def machine_file(self) -> PurePosixPath:
        """The file with what only the machine knows: `bind_addr`."""
        return self.config_dir / "machine.json"

    @property
    def ca_file(self) -> PurePosixPath:
        """The PEM of the CA's certificate."""
        return self.config_dir / "tls" / "ca.pem"

    @property
    def certificate_file(self) -> PurePosixPath:
        """The PEM of the server's certificate."""
        return self.config_dir / "tls" / "server.pem"

    @property
    def key_file(self) -> PurePosixPath:
        """The PEM of the certificate's private key."""
        return self.config_dir / "tls" / "server-key.pem"

    @property
    def text(self) -> str:
        """The configuration as the file has it."""
        return json.dumps(self.config, indent=2) + "\n"

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, without what is secret and what only the machine knows."""
        config: dict[str, Any] = {
            "server": True,
            "node_name": self.node_name,
            "datacenter": self.datacenter,
            "data_dir": str(self.data_dir),
            "bootstrap_expect": self.bootstrap_expect,
            # Everybody speaks to the API with TLS; without, only who is on the machine does.
            "addresses": {"http": _LOOPBACK, "https": "0.0.0.0", "dns": _LOOPBACK},  # noqa: S104
            "ports": {
                "server": RPC_PORT,
                "serf_lan": SERF_PORT,
                "http": _HTTP_PORT,
                "https": HTTPS_PORT,
                "dns": _DNS_PORT,
                # Proxies ask the agent of their task, and there is one datacenter.
                "grpc": _OFF,
                "grpc_tls": _OFF,
                "serf_wan": _OFF,
            },
            "acl": {
                "enabled": True,
                "default_policy": "deny",
                "down_policy": "extend-cache",
                # The server's own token comes from its secret, so no copy goes into its data.
                "enable_token_persistence": False,
            },
            # So does the key of the gossip encryption.
            "disable_keyring_file": True,
            "tls": {
                "defaults": {
                    "ca_file": str(self.ca_file),
                    "cert_file": str(self.certificate_file),
                    "key_file": str(self.key_file),
                    "verify_outgoing": True,
                },
                "internal_rpc": {"verify_incoming": True, "verify_server_hostname": True},
                # Who calls the API shows a token, and has no certificate.
                "https": {"verify_incoming": False},
            },
            # Gives the agents of tasks their certificates.
            "auto_encrypt": {"allow_tls": True},
            "connect": {"enabled": True},
            "ui_config": {"enabled": True},
            # Only a new cluster takes these from here. Consul's own defaults, but for the first: a
            # server that is replaced keeps its place, unless another one has come instead.
            "autopilot": {
                "min_quorum": self.bootstrap_expect,
                "cleanup_dead_servers": True,
                "last_contact_threshold": "200ms",
                "server_stabilization_time": "10s",
            },
            # Consul's default is for small machines; this is what it recommends in production.
            "performance": {"raft_multiplier": 1},
            # A server that is stopped comes back, with its data: it does not leave.
            "leave_on_terminate": False,
            "skip_leave_on_interrupt": True,
            "disable_update_check": True,
            "log_level": "INFO",
        }
        if self.retry_join:
            config["retry_join"] = list(self.retry_join)
        return config
