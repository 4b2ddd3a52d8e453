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

# The containers that a mesh task has besides the application's; the names are HashiCorp's.
CONSUL_CLIENT_CONTAINER: Final = "consul-client"
MESH_INIT_CONTAINER: Final = "consul-ecs-mesh-init"
SIDECAR_PROXY_CONTAINER: Final = "sidecar-proxy"
HEALTH_SYNC_CONTAINER: Final = "consul-ecs-health-sync"
MESH_CONTAINERS: Final = (
    CONSUL_CLIENT_CONTAINER,
    MESH_INIT_CONTAINER,
    SIDECAR_PROXY_CONTAINER,
    HEALTH_SYNC_CONTAINER,
)

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
AGENT_PORTS: Final = frozenset({8300, 8301, 8302, 8500, 8501, 8502, 8503, 8600})
"""Server RPC, gossip, gossip between datacenters, HTTP, HTTPS, gRPC, gRPC with TLS, DNS."""
DEFAULT_PUBLIC_LISTENER_PORT: Final = 20000
"""Where Envoy takes connections from other tasks."""

# The commands of the image.
MESH_INIT: Final = "mesh-init"
HEALTH_SYNC: Final = "health-sync"
