"""Consul for runs without a cluster: an embedded server, or a real one where there is one."""

from local.consul.api import State
from local.consul.choice import ConsulServer, consul_for_local_run
from local.consul.server import EmbeddedConsul, Fault, RecordedRequest

__all__ = [
    "ConsulServer",
    "EmbeddedConsul",
    "Fault",
    "RecordedRequest",
    "State",
    "consul_for_local_run",
]
