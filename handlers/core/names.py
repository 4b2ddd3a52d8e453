"""Names that others rely on: tags, secrets, descriptions, policies.

Task tags, secret names, the secrets' JSON and token descriptions are those of HashiCorp's
consul-ecs 0.2 to 0.4 (`subcommand/acl-controller` and `controller/` there), so that a task
definition made for its controller works with this one unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from handlers.core import clock

MESH_TAG: Final = "consul.hashicorp.com/mesh"
SERVICE_NAME_TAG: Final = "consul.hashicorp.com/service-name"
CLUSTER_TAG: Final = "consul.hashicorp.com/cluster"
PARTITION_TAG: Final = "consul.hashicorp.com/partition"
NAMESPACE_TAG: Final = "consul.hashicorp.com/namespace"

SERVICE_NAME_RULE: Final = (
    "lower-case letters, digits, '-' and '_', at most 256 characters, "
    "the first and the last one a letter or a digit"
)
# Consul's `isValidServiceIdentityName`; a real 1.10.1 refuses 257 characters.
_SERVICE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9_-]{0,254}[a-z0-9])?")
_NOT_PULLED_SINCE: Final = "consul-on-ecs/not-pulled-since"
_WANTED_BY: Final = "consul-on-ecs/wanted-by"
_SERVICE_TOKEN_DESCRIPTION: Final = re.compile(r"Token for (\S+) service")

ANY_SERVICE: Final = "*"
"""What an intention names in the place of one service."""

ANONYMOUS_TOKEN_ACCESSOR_ID: Final = "00000000-0000-0000-0000-000000000002"
# Shared with consul-k8s and later versions of consul-ecs, which look for exactly these texts.
ANONYMOUS_POLICY_NAME: Final = "anonymous-token-policy"
ANONYMOUS_POLICY_DESCRIPTION: Final = "Anonymous token Policy"


def is_valid_service_name(name: str) -> bool:
    """Whether Consul takes the name for a service identity; see `SERVICE_NAME_RULE`."""
    return _SERVICE_NAME.fullmatch(name) is not None


def is_valid_in_intention(name: str) -> bool:
    """Whether an intention may name it: a service, or all of them."""
    return name == ANY_SERVICE or is_valid_service_name(name)


def cluster_line(cluster_arn: str) -> str:
    """Return the line by which a description says whose object it describes."""
    return f"{CLUSTER_TAG}: {cluster_arn}"


def with_cluster_line(text: str, cluster_arn: str) -> str:
    """Return a description of two lines: the text, and the mark of the cluster."""
    return f"{text}\n{cluster_line(cluster_arn)}"


def owning_cluster(description: str) -> str | None:
    """Return the ARN of the cluster that a description names, or None.

    Whole lines are compared, never parts of them: `…/prod` must not match `…/prod-2`.
    """
    for line in description.splitlines():
        key, separator, value = line.partition(": ")
        if separator and key == CLUSTER_TAG:
            return value
    return None


def with_not_pulled_since(description: str, moment: datetime) -> str:
    """Return a description with the mark of a token that no new task can get hold of any more.

    Tasks that were made at that moment or later do not have the token. The mark is one more line,
    and takes the place of an earlier one.
    """
    kept = [line for line in description.splitlines() if not line.startswith(_NOT_PULLED_SINCE)]
    return "\n".join([*kept, f"{_NOT_PULLED_SINCE}: {clock.to_text(moment)}"])


def not_pulled_since(description: str) -> datetime | None:
    """Return the moment that a description is marked with, or None if it has no valid mark."""
    for line in description.splitlines():
        key, separator, value = line.partition(": ")
        if separator and key == _NOT_PULLED_SINCE:
            try:
                return clock.from_text(value)
            except ValueError:
                return None
    return None


def intention_description(cluster_arn: str, wanted: Iterable[str]) -> str:
    """Return the description, and with it the ownership mark, of an intention of ours.

    Args:
        cluster_arn: the cluster.
        wanted: what in the deployments wants it. Consul takes 512 characters: five of them fit,
            however long the name of the cluster is.

    """
    lines = [with_cluster_line("From a deployment of Consul on ECS", cluster_arn)]
    if texts := sorted(set(wanted)):
        lines.append(f"{_WANTED_BY}: {' '.join(texts)}")
    return "\n".join(lines)


def wanted_by(description: str) -> frozenset[str]:
    """Return what in the deployments wants an intention, as its description says."""
    for line in description.splitlines():
        key, separator, value = line.partition(": ")
        if separator and key == _WANTED_BY:
            return frozenset(value.split())
    return frozenset()


def service_token_description(service_name: str, cluster_arn: str) -> str:
    """Return the description of a service's token, as HashiCorp's controller writes it."""
    return with_cluster_line(f"Token for {service_name} service", cluster_arn)


def described_service(description: str) -> str | None:
    """Return the service that a token's description names, or None if it names none."""
    match = _SERVICE_TOKEN_DESCRIPTION.match(description)
    return match.group(1) if match else None


def service_policy_name(secret_prefix: str, service_name: str) -> str:
    """Return the name of the policy that a service gets when the settings give it extra rules.

    The prefix is in it because two clusters may run a service of the same name in one datacenter.
    """
    return f"{secret_prefix}-{service_name}-service"


def service_policy_description(service_name: str, cluster_arn: str) -> str:
    """Return the description, and with it the ownership mark, of a service's own policy."""
    return with_cluster_line(f"Policy for {service_name} service", cluster_arn)


def service_secret_name(secret_prefix: str, service_name: str) -> str:
    """Return the name of the secret that holds a service's token."""
    return f"{secret_prefix}-{service_name}"


def client_secret_name(secret_prefix: str) -> str:
    """Return the name of the secret that holds the token of all consul-client containers."""
    return f"{secret_prefix}-consul-client-token"


def controller_secret_name(secret_prefix: str) -> str:
    """Return the name of the secret that holds the controller's own token."""
    return f"{secret_prefix}-consul-controller-token"


def client_policy_name(secret_prefix: str) -> str:
    """Return the name of the policy of the consul-client containers' token."""
    return f"{secret_prefix}-consul-client-policy"


def controller_policy_name(secret_prefix: str) -> str:
    """Return the name of the policy of the controller's own token."""
    return f"{secret_prefix}-consul-controller-policy"


def server_policy_name(secret_prefix: str) -> str:
    """Return the name of the policy of the token that the servers' own agents have."""
    return f"{secret_prefix}-consul-server-policy"


# The descriptions that HashiCorp's controller gives to what all consul-client containers share.
# It writes no cluster line; ours appends one.
CLIENT_TOKEN_DESCRIPTION: Final = "ECS Consul client Token"
CLIENT_POLICY_DESCRIPTION: Final = "Consul Client Token Policy for ECS"
CONTROLLER_TOKEN_DESCRIPTION: Final = "ECS Consul controller Token"
CONTROLLER_POLICY_DESCRIPTION: Final = "Consul Controller Token Policy for ECS"
SERVER_TOKEN_DESCRIPTION: Final = "Consul server agent Token"
SERVER_POLICY_DESCRIPTION: Final = "Consul Server Agent Token Policy"

CLIENT_POLICY_RULES: Final = """\
node_prefix "" {
  policy = "write"
}
service_prefix "" {
  policy = "read"
}
"""
# Who may write intentions of a service may read them; `policy` has to be there, too.
# A server's agent keeps its own node up to date, and asks how the servers are before another one is
# replaced ("operator": autopilot).
SERVER_POLICY_RULES: Final = """\
node_prefix "consul-server" {
  policy = "write"
}
node_prefix "" {
  policy = "read"
}
service_prefix "" {
  policy = "read"
}
operator = "read"
"""
CONTROLLER_POLICY_RULES: Final = """\
acl = "write"
service_prefix "" {
  policy = "read"
  intentions = "write"
}
"""
ANONYMOUS_POLICY_RULES: Final = """\
node_prefix "" {
  policy = "read"
}
service_prefix "" {
  policy = "read"
}
"""
