"""What the parts of a deployment know of the Consul servers, whoever runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aws_cdk import Duration, Size
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

import settings
from infrastructure.handler_function import Network
from infrastructure.server_config import HTTPS_PORT
from infrastructure.server_secrets import ServerSecrets

DNS_LABEL = "server"
"""Servers that the same app makes are reached at `server.<namespace>`."""
DEFAULT_NAMESPACE = "consul.internal"
"""The private DNS namespace that is made for them."""
NAMESPACE_RULE = f"the DNS name of a private namespace, such as {DEFAULT_NAMESPACE}"


def is_namespace(name: str) -> bool:
    """Whether servers in a private DNS namespace of that name have an address that others accept.

    What is empty or ends with a dot would be a part of one, but not what Cloud Map makes.
    """
    address = f"https://{DNS_LABEL}.{name}:{HTTPS_PORT}"
    return (
        name != ""
        and not name.endswith(".")
        and settings.problem_of(address, settings.HttpAddress) is None
    )


@dataclass(frozen=True, kw_only=True)
class SnapshotStore:
    """Where snapshots of the servers' state go, and how often one is taken.

    A snapshot holds every ACL token. Who may read the bucket and use the key, may be anybody.

    Args:
        bucket: keeps them, and deletes the old ones.
        prefix: begins the keys of the objects.
        every: how often; None: only when somebody starts it.
        encryption_key: encrypts the objects. Default: not a key of your own.
        largest: a larger snapshot can be neither taken nor restored; 5 GiB at most.

    """

    bucket: s3.IBucket
    prefix: str = "consul"
    every: Duration | None = field(default_factory=lambda: Duration.hours(1))
    encryption_key: kms.IKey | None = None
    largest: Size = field(default_factory=lambda: Size.gibibytes(2))


@dataclass(frozen=True, kw_only=True)
class ManagedServers:
    """What the ACL controller needs to look after servers that the same app makes.

    Args:
        secrets: what they start with; the controller's workflows give them their values.
        network: from where the handlers reach the servers' API.
        security_group: the servers'.
        starts_after_secrets: what must not start before the secrets have values.
        snapshots: where snapshots of their state go. Default: none are taken.
        loses_its_state: the ECS service each of whose tasks is a new, empty Consul. Default: what
            the servers know outlasts them.

    """

    secrets: ServerSecrets
    network: Network
    security_group: ec2.ISecurityGroup
    starts_after_secrets: Construct
    snapshots: SnapshotStore | None = None
    loses_its_state: ecs.BaseService | None = None


class ConsulServers(Protocol):
    """Consul servers: `ExternalConsul`, `ConsulDevServer` or `ConsulServerCluster`.

    Attributes:
        http_address: their HTTP API: scheme, host and port.
        retry_join: what the consul-client containers join.
        datacenter: the servers' datacenter.
        ca_secret: the PEM of the CA that signed their certificates, if it is a private one.
        gossip_key_secret: the key that gossip is encrypted with, as plain text (base64), if it is.
        managed: how they are looked after; None if somebody else does.

    """

    @property
    def http_address(self) -> str:
        """Their HTTP API."""
        ...

    @property
    def retry_join(self) -> Sequence[str]:
        """What the consul-client containers join."""
        ...

    @property
    def datacenter(self) -> str:
        """The servers' datacenter."""
        ...

    @property
    def ca_secret(self) -> secretsmanager.ISecret | None:
        """The PEM of their private CA."""
        ...

    @property
    def gossip_key_secret(self) -> secretsmanager.ISecret | None:
        """The key of their gossip."""
        ...

    @property
    def managed(self) -> ManagedServers | None:
        """How they are looked after."""
        ...
