"""What of the recording is not replayed, and why. There is no other place that leaves things out.

A test fails if an exchange is neither replayed nor listed here, or if an entry matches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.contract.recording import Exchange


@dataclass(frozen=True)
class LeftOut:
    """Exchanges that are not replayed: by a pattern of their names, or of their paths."""

    reason: str
    name: str = "*"
    path: str = ""

    def matches(self, exchange: Exchange) -> bool:
        """Tell whether this leaves out an exchange."""
        return fnmatchcase(exchange.name, self.name) and bool(re.match(self.path, exchange.path))


def reason_to_leave_out(exchange: Exchange, table: Iterable[LeftOut]) -> str | None:
    """Why a table leaves out an exchange; none if it does not."""
    return next((entry.reason for entry in table if entry.matches(exchange)), None)


_NOT_USED = "this project does not use the endpoint, so the embedded server does not have it"

EMBEDDED: tuple[LeftOut, ...] = (
    LeftOut("through a client agent, whose caches the embedded server has not", "client/*"),
    LeftOut("through a client agent from its start; the server's own is boot/*", "clientboot/*"),
    LeftOut(f"auth methods: {_NOT_USED}", path="/v1/acl/auth-method"),
    LeftOut(f"binding rules: {_NOT_USED}", path="/v1/acl/binding-rule"),
    LeftOut(f"login and logout: {_NOT_USED}", path="/v1/acl/log(in|out)$"),
    LeftOut("tokens from a login, which needs an auth method", "main/login/*self*"),
    LeftOut("tokens from a login, which needs an auth method", "main/login/list-by-authmethod"),
    LeftOut(f"roles: {_NOT_USED}", path="/v1/acl/role"),
    LeftOut("a token with a role", "main/token/create/role-by-*"),
    LeftOut("a token with a role", "main/role/delete/token-after"),
    LeftOut(
        f"the ACL system before Consul 1.4: {_NOT_USED}",
        path="/v1/acl/(create|update|destroy|info|clone|list)(/|$)",
    ),
    LeftOut("a token of the ACL system before Consul 1.4", "main/legacy/self"),
    LeftOut(f"translation of old rules: {_NOT_USED}", path="/v1/acl/rules/translate"),
    LeftOut(f"key-value store: {_NOT_USED}", path="/v1/kv/"),
    LeftOut(f"sessions: {_NOT_USED}", path="/v1/session/"),
    LeftOut(f"transactions: {_NOT_USED}", path="/v1/txn"),
    LeftOut(f"agent operations: {_NOT_USED}", path="/v1/agent/(members|host|metrics|leave|token/)"),
    LeftOut(f"the agent's view of health: {_NOT_USED}", path="/v1/agent/(checks|health/)"),
    LeftOut(f"certificates and intentions: {_NOT_USED}", path="/v1/(agent/)?connect/"),
    LeftOut(
        f"catalog without an agent, but for removing nodes: {_NOT_USED}",
        path="/v1/catalog/(register|node/)",
    ),
    LeftOut(
        f"removing one service from the catalog: {_NOT_USED}", "main/catalog/deregister/service-*"
    ),
    LeftOut(f"events: {_NOT_USED}", path="/v1/event"),
    LeftOut(f"authorization queries: {_NOT_USED}", path="/v1/internal/"),
    LeftOut("?filter= has a language of its own", "main/health/filter-bad"),
    LeftOut("?cached goes through a client's cache", "main/health/cached"),
    LeftOut(
        "headers are limited to 64 kB by Python's HTTP server, to 1 MB by Consul's",
        "main/http/long-token-header",
    ),
    LeftOut(
        "headers are limited to 64 kB by Python's HTTP server, to 1 MB by Consul's",
        "main/http/1.2MB-header",
    ),
    LeftOut("lists what was written through a client agent", "restart/token-list-mgmt/3"),
)
"""Against the embedded server."""

_MODE = "another mode than a bootstrapped server with default deny"
_CHANGES_BUILTIN = "changes a builtin object of a server that is somebody's"

REAL: tuple[LeftOut, ...] = (
    *(
        LeftOut(f"{segment}: {_MODE}", f"{segment}/*")
        for segment in (
            "boot",
            "restart",
            "client",
            "clientboot",
            "allow",
            "disabled",
            "noleader",
            "dev",
        )
    ),
    LeftOut("the server is bootstrapped already", "main/bootstrap/first"),
    LeftOut("tells of a server that is not bootstrapped yet", "main/pre-bootstrap/*"),
    *(
        LeftOut("the management token is the caller's, not the bootstrap token", name)
        for name in (
            "main/token/self/mgmt",
            "main/token/self/bearer*",
            "main/token/self/query-*",
            "main/token/self/pretty",
        )
    ),
    *(
        LeftOut("shows services of others, or where the agent has a token more of the node", name)
        for name in (
            "main/agent/services/*-token",
            "main/agent/services/mgmt",
            "main/dangling/still-in-*",
            "main/dangling/catalog-*",
            "main/catalog/service/svc-a",
            "main/health/service*",
            "main/health/node",
        )
    ),
    LeftOut(_CHANGES_BUILTIN, "main/token/update/anonymous-token"),
    LeftOut(_CHANGES_BUILTIN, "main/policy/update/global-management-*"),
    LeftOut("its expiration time lies in the past by now", "main/token/create/expiration-time"),
    LeftOut("takes more than a minute", "main/expiry/*"),
    LeftOut("would remove nodes that may be somebody's", "main/catalog/deregister/*"),
    *EMBEDDED[2:],
)
"""Against a real server: also whatever needs a pristine one."""
