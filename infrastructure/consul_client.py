"""The consul-client container: its configuration file, and the script that writes it.

The file has only keys that every Consul from 1.10 on knows. Three of them (`ca_file`,
`verify_outgoing`, `verify_server_hostname`) are marked as deprecated since 1.12, but their
replacement, the `tls` stanza, is an error before that (agent/config/deprecated.go in Consul).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from containers import layout

AGENT_TOKEN = "AGENT_TOKEN"
GOSSIP_KEY = "CONSUL_GOSSIP_ENCRYPTION_KEY"
CA_PEM = "CONSUL_CACERT_PEM"
CONFIG = "CONSUL_CLIENT_CONFIG"

DATA_DIR = "/consul"
_CONFIG_FILE = f"{DATA_DIR}/config/client.json"
_CA_FILE = f"{DATA_DIR}/config/ca.pem"
_GRPC_PORT = int(layout.DEFAULT_GRPC_ADDRESS.rpartition(":")[2])
# Under another name first: whoever finds the program finds all of it.
_COPY, _PROGRAM = (
    f"{layout.CONSUL_INJECT_DIR}/{name}" for name in (".consul", layout.CONSUL_BINARY)
)
_GET_METADATA = (
    f'curl --fail --silent --show-error --max-time 5 --retry 5 "${layout.METADATA_VARIABLE}"'
)
_ADDRESS = "'.Networks[0].IPv4Addresses[0]'"
SET_ADDRESS = f'address="$({_GET_METADATA} | jq --exit-status --raw-output {_ADDRESS})"'
"""The line of a script that sets `address`: the task's own."""


@dataclass(frozen=True, kw_only=True)
class ConsulClient:
    """What the agent of a task is told.

    Attributes:
        datacenter: the servers' datacenter.
        retry_join: where it finds them: addresses, or go-discover's "provider=…" texts.
        acls: whether it has a token of its own.
        tls: whether it talks TLS to the servers, and gets its certificate from them.
        gossip: whether gossip is encrypted.
        verify_server_hostname: whether only a certificate for `server.<datacenter>.consul` makes a
            server; else any certificate of the CA does.

    """

    datacenter: str
    retry_join: Sequence[str]
    acls: bool
    tls: bool
    gossip: bool
    verify_server_hostname: bool

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, without what is secret and what is only known in the task."""
        config: dict[str, Any] = {
            "datacenter": self.datacenter,
            "data_dir": f"{DATA_DIR}/data",
            "retry_join": list(self.retry_join),
            # Its APIs are for the containers of the task, gossip is for everybody.
            "client_addr": "127.0.0.1",
            "ports": {"grpc": _GRPC_PORT},
            "leave_on_terminate": True,
            # A task that is gone never comes back under its name: forget it after 15 minutes, not
            # after three days (HashiCorp's mesh-task does the same).
            "advertise_reconnect_timeout": "15m",
            "disable_update_check": True,
        }
        if self.acls:
            config["acl"] = {
                "enabled": True,
                "default_policy": "deny",
                # With its servers out of reach it goes on with what it knows, and asks behind.
                "down_policy": "async-cache",
            }
        if self.tls:
            config |= {
                "ca_file": _CA_FILE,
                "verify_outgoing": True,
                "verify_server_hostname": self.verify_server_hostname,
                "auto_encrypt": {"tls": True},
            }
        return config

    @property
    def script(self) -> str:
        """The shell script that starts it, as root in the consul image, and then as its user.

        Secrets go from the environment into the file and nowhere else: they are on no command
        line, and the agent no longer has them in its environment.
        """
        lines = [
            "umask 077",
            # For mesh-init, which runs `consul connect envoy`.
            f'cp "$(command -v consul)" {_COPY}',
            f"chmod 0755 {_COPY}",
            f"mv {_COPY} {_PROGRAM}",
            SET_ADDRESS,
            f"mkdir -p {DATA_DIR}/config {DATA_DIR}/data",
        ]
        if self.tls:
            lines.append(f"printf '%s\\n' \"${CA_PEM}\" > {_CA_FILE}")
        complete = f"jq --arg address \"$address\" '{self._additions()}'"
        lines += [
            f"printf '%s' \"${CONFIG}\" | {complete} > {_CONFIG_FILE}",
            f"chown -R consul:consul {DATA_DIR}",
        ]
        if secrets := self._secrets():
            lines.append(f"unset {' '.join(secrets)}")
        lines.append(f"exec su-exec consul:consul consul agent -config-file={_CONFIG_FILE}")
        return "\n".join(lines)

    def _additions(self) -> str:
        """Return the jq program that completes the configuration."""
        additions = [".advertise_addr = $address", ".bind_addr = $address"]
        if self.tls:
            additions.append(".auto_encrypt.ip_san = [$address]")
        if self.acls:
            additions.append(f".acl.tokens.agent = $ENV.{AGENT_TOKEN}")
        if self.gossip:
            additions.append(f".encrypt = $ENV.{GOSSIP_KEY}")
        return " | ".join(additions)

    def _secrets(self) -> list[str]:
        used = ((self.acls, AGENT_TOKEN), (self.gossip, GOSSIP_KEY), (self.tls, CA_PEM))
        return [name for is_used, name in used if is_used]
