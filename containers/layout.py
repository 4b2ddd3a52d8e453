"""Where things are in a task: paths, user IDs, ports and variables.

The task definition and the programs that run in it must agree on these, so both take them from
here; a test holds the Dockerfile to them.
"""

from __future__ import annotations

from typing import Final

# Users. Numbers, because no image has these users in its /etc/passwd. They are those of HashiCorp's
# later versions, which keep its proxy and its health-sync apart in the same way.
ENVOY_UID: Final = 5995
"""mesh-init and the sidecar proxy: what the one writes (0400), only the other can read."""
HEALTH_SYNC_UID: Final = 5996
"""health-sync, which has no business with Envoy's configuration."""

# Directories that containers share.
BOOTSTRAP_DIR: Final = "/consul/envoy"
"""A volume of mesh-init and the sidecar proxy alone: what is in it tells the service's token."""
BOOTSTRAP_FILE: Final = "envoy-bootstrap.json"
"""Written by mesh-init, read by the proxy."""
ADMIN_SOCKET: Final = "admin.sock"
"""Where Envoy is administered; Envoy makes it."""
CONSUL_INJECT_DIR: Final = "/bin/consul-inject"
"""A volume of consul-client (puts the `consul` binary there) and mesh-init (runs it)."""
CONSUL_BINARY: Final = "consul"

# Environment variables of both programs.
CONFIG_VARIABLE: Final = "CONSUL_ECS_CONFIG_JSON"
"""What to register; see `containers.task_config`."""
TOKEN_VARIABLE: Final = "CONSUL_HTTP_TOKEN"
"""The service's token, if Consul has ACLs."""
HTTP_ADDRESS_VARIABLE: Final = "CONSUL_HTTP_ADDR"
GRPC_ADDRESS_VARIABLE: Final = "CONSUL_GRPC_ADDR"
METADATA_VARIABLE: Final = "ECS_CONTAINER_METADATA_URI_V4"
"""Set by ECS in every container."""

# The agent, on the loopback interface that all containers of a task share.
DEFAULT_HTTP_ADDRESS: Final = "http://127.0.0.1:8500"
DEFAULT_GRPC_ADDRESS: Final = "127.0.0.1:8502"
DEFAULT_PUBLIC_LISTENER_PORT: Final = 20000
"""Where Envoy takes connections from other tasks."""

# The commands of the image.
MESH_INIT: Final = "mesh-init"
HEALTH_SYNC: Final = "health-sync"
