"""Is Consul ready to be asked for tokens?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.clients.consul_connection import unauthenticated_consul
from handlers.core import environment
from handlers.core.errors import ConsulUnavailable
from handlers.core.step import step


@step
def handler(_state: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"leader": address}` if there is a leader and the ACL system answers.

    Raises:
        ConsulUnavailable: while there is no leader or the ACL system still starts. A fresh server
            takes 5 to 8 seconds; waiting for it is the workflow's job.
        ConsulAclDisabled, ConsulWrongDatacenter: if the servers are set up otherwise.

    """
    consul = unauthenticated_consul()
    datacenter = environment.required(environment.CONSUL_DATACENTER)
    leader = consul.leader(datacenter)
    if not leader:
        message = f'The Consul datacenter "{datacenter}" has no leader yet.'
        raise ConsulUnavailable(message)
    consul.check_acl_system()
    return {"leader": leader}
