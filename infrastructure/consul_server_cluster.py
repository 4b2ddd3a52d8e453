"""Consul servers for production: three or five, on EC2, over the availability zones of a VPC."""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import jsii
from aws_cdk import Annotations, ArnFormat, Duration, Names, RemovalPolicy, Size, Stack, Tags, Token
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3_assets as s3_assets
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_servicediscovery as servicediscovery
from constructs import Construct

import settings
from infrastructure.consul_servers import (
    DEFAULT_NAMESPACE,
    DNS_LABEL,
    NAMESPACE_RULE,
    ManagedServers,
    SnapshotStore,
    is_namespace,
)
from infrastructure.handler_function import Network
from infrastructure.handler_functions import allow
from infrastructure.mesh import CONSUL_IMAGE, MeshError
from infrastructure.secret_keys import DECRYPT, key_statements
from infrastructure.server_config import HTTPS_PORT, RPC_PORT, SERF_PORT, ServerConfig
from infrastructure.server_secrets import ServerSecrets

CONSUL_VERSION = CONSUL_IMAGE.rpartition(":")[2]
"""The servers' own; that of the consul-client containers, which must not be newer."""

SERVER_TAG = "consul-server"
"""A tag of each machine and volume: which server it is, or belongs to."""
CLUSTER_TAG = "consul-servers"
"""A tag of all machines and volumes of a cluster, by which the servers find each other."""

_SIZES = (3, 5)
# Of gp3 (EBS user guide, "General Purpose SSD volumes").
_LEAST_IOPS, _MOST_IOPS_A_GIB = 3000, 500
_LEAST_SNAPSHOT_MIB, _MOST_SNAPSHOT_MIB = 512, 5 * 1024
# The configuration has the `tls` stanza and `ports.grpc_tls`.
_OLDEST = (1, 14)
_VERSION = re.compile(r"(\d+)\.(\d+)\.\d+")
_FILES = Path(__file__).resolve().parent / "server_files"
_ON_THE_MACHINE = "/opt/consul-server"
# From the shutdown of the old machine to the health of the new one. The scripts' own limits, one
# after the other, are below it.
_REPLACED_WITHIN_MINUTES = 40
_SHORTEST_LIFETIME_DAYS = 14


@dataclass(frozen=True, kw_only=True)
class Snapshots:
    """How snapshots of the servers' state are taken.

    Args:
        every: how often; None: only when somebody starts it.
        keep: how long each is kept.
        largest: a larger one can be neither taken nor restored; from 512 MiB to 5 GiB.

    """

    every: Duration | None = field(default_factory=lambda: Duration.hours(1))
    keep: Duration = field(default_factory=lambda: Duration.days(30))
    largest: Size = field(default_factory=lambda: Size.gibibytes(2))


@jsii.implements(ec2.IConnectable)
class ConsulServerCluster(Construct):
    """Consul servers for production, which the ACL controller of the same app looks after.

    You get: for each server an auto-scaling group of one machine, in one availability zone, and a
    data volume that its next machine takes over; TLS, encrypted gossip and ACLs that deny by
    default, with keys and tokens that the controller's workflows write; a DNS name in Cloud Map;
    a bucket for snapshots. A deployment that changes the machines replaces one after the other, and
    goes on when the new one is healthy. Machines are reached with Session Manager; there is no SSH.

    The machines need the internet, or endpoints in the VPC: S3, Secrets Manager, EC2, Cloud Map,
    CloudFormation, SSM; and HashiCorp's releases, unless the image has this Consul already.

    Args:
        scope: the construct that it belongs to; in the stack of its `AclController`.
        construct_id: its ID there.
        vpc: where the servers are.
        servers: how many: 3 go on without one of them, 5 without two. Default: 3.
        datacenter: their datacenter. Default: `dc1`.
        vpc_subnets: one in each availability zone; others of the same zone are not used. The
            order matters: a server stays in its zone, with its volume. Default: private ones.
        instance_type: with NVMe (Nitro). Default: `m7g.large`, 2 vCPUs and 8 GiB, HashiCorp's size
            for a beginning.
        machine_image: like Amazon Linux 2023. Default: that one, as new as it is at the
            deployment.
        consul_version: 1.14 or newer. Default: that of the consul-client containers.
        volume_gib: the size of each data volume, gp3. Default: 100.
        volume_iops: of each. Default: 3000, which gp3 has without extra charge.
        namespace_name: of a private DNS namespace, which is made: the servers are
            `server.<namespace>`. Default: `consul.internal`.
        encryption_key: encrypts secrets, data volumes and snapshots. Default: one is made.
        snapshots: of the servers' state. Default: every hour, each kept for 30 days.
        certificate_lifetime: of the servers' certificates; half of it is left when there are new
            ones. Default: 90 days.
        removal_policy: what becomes of the data volumes when their stack goes: RETAIN, SNAPSHOT or
            DESTROY. The encryption key and the management token go with DESTROY only; the bucket
            is always kept. Default: RETAIN.

    Attributes:
        http_address: their HTTP API, `https://server.<namespace>:8501`.
        retry_join: what the consul-client containers join: the DNS name.
        datacenter: their datacenter.
        ca_secret: the PEM of the CA that signs their certificates.
        gossip_key_secret: the key of the gossip encryption.
        managed: how the ACL controller looks after them.
        groups: the auto-scaling groups, one for each server, in order.
        volumes: the data volumes, in the same order.

    Raises:
        MeshError: if it cannot work; names everything that is wrong, and what to give.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        vpc: ec2.IVpc,
        servers: int = 3,
        datacenter: str = "dc1",
        vpc_subnets: ec2.SubnetSelection | None = None,
        instance_type: ec2.InstanceType | None = None,
        machine_image: ec2.IMachineImage | None = None,
        consul_version: str = CONSUL_VERSION,
        volume_gib: int = 100,
        volume_iops: int = 3000,
        namespace_name: str = DEFAULT_NAMESPACE,
        encryption_key: kms.IKey | None = None,
        snapshots: Snapshots | None = None,
        certificate_lifetime: Duration | None = None,
        removal_policy: RemovalPolicy = RemovalPolicy.RETAIN,
    ) -> None:
        super().__init__(scope, construct_id)
        certificate_lifetime = certificate_lifetime or Duration.days(90)
        snapshots = snapshots or Snapshots()
        if problems := [
            *_size_problems(servers, volume_gib, volume_iops),
            *_name_problems(datacenter, namespace_name),
            *_version_problems(consul_version),
            *_lifetime_problems(certificate_lifetime),
            *_snapshot_problems(snapshots),
        ]:
            raise MeshError(self, problems)
        self._vpc = vpc
        self._datacenter = datacenter
        self._removal_policy = removal_policy
        self._consul_version = consul_version
        self._volume_size = Size.gibibytes(volume_gib)
        self._volume_iops = volume_iops
        self._instance_type = instance_type or ec2.InstanceType("m7g.large")
        self._machine_image = machine_image or ec2.MachineImage.latest_amazon_linux2023(
            cpu_type=_cpu_type(self._instance_type)
        )
        subnets = _select_subnets(vpc, vpc_subnets)
        names = [f"consul-server-{number}" for number in range(1, servers + 1)]
        self._host = f"{DNS_LABEL}.{namespace_name}"

        self._secrets = ServerSecrets(
            self,
            "Secrets",
            datacenter=datacenter,
            server_names=names,
            dns_names=[self._host],
            encryption_key=encryption_key,
            certificate_lifetime=certificate_lifetime,
            removal_policy=_without_snapshot(removal_policy),
        )
        self._namespace = servicediscovery.PrivateDnsNamespace(
            self, "Namespace", name=namespace_name, vpc=vpc
        )
        # There is no health check: DNS does not forget a server that is away for a moment, and who
        # asks it goes on to the next address.
        self._dns = self._namespace.create_service(
            "Dns",
            name=DNS_LABEL,
            dns_record_type=servicediscovery.DnsRecordType.A,
            dns_ttl=Duration.seconds(15),
            routing_policy=servicediscovery.RoutingPolicy.MULTIVALUE,
        )
        self._cluster_tag = _cluster_tag(self)
        self._security_group = self._own_security_group()
        handlers = self._handlers_security_group()
        self._connections = ec2.Connections(security_groups=[self._security_group])

        configurations = {
            name: ServerConfig(
                node_name=name,
                datacenter=datacenter,
                bootstrap_expect=servers,
                # Without a region it is the machine's.
                retry_join=[f"provider=aws tag_key={CLUSTER_TAG} tag_value={self._cluster_tag}"],
            )
            for name in names
        }
        files = self._files(configurations)
        machines = Construct(self, "Servers")
        self.groups: list[autoscaling.AutoScalingGroup] = []
        self.volumes: list[ec2.Volume] = []
        for name, subnet in zip(names, self._spread(subnets, servers), strict=True):
            self._server(machines, name, subnet, files)
        for before, after in pairwise(self.groups):
            # So CloudFormation replaces one server at a time.
            after.node.add_dependency(before)

        self._managed = ManagedServers(
            secrets=self._secrets,
            network=Network(
                vpc=vpc,
                subnets=ec2.SubnetSelection(subnets=subnets),
                security_groups=[handlers],
            ),
            security_group=self._security_group,
            starts_after_secrets=machines,
            snapshots=self._snapshot_store(snapshots),
        )

    @property
    def http_address(self) -> str:
        """Their HTTP API."""
        return f"https://{self._host}:{HTTPS_PORT}"

    @property
    def retry_join(self) -> Sequence[str]:
        """What the consul-client containers join."""
        return (self._host,)

    @property
    def datacenter(self) -> str:
        """The servers' datacenter."""
        return self._datacenter

    @property
    def ca_secret(self) -> secretsmanager.ISecret:
        """The PEM of their private CA."""
        return self._secrets.ca_secret

    @property
    def gossip_key_secret(self) -> secretsmanager.ISecret:
        """The key of their gossip."""
        return self._secrets.gossip_key_secret

    @property
    def managed(self) -> ManagedServers:
        """How they are looked after."""
        return self._managed

    @property
    def connections(self) -> ec2.Connections:
        """The network connections of the servers.

        For somebody else who has to reach their API, say::

            cluster.connections.allow_from(bastion, ec2.Port.tcp(8501))
        """
        return self._connections

    # --- what all servers share ------------------------------------------------------------------

    def _own_security_group(self) -> ec2.SecurityGroup:
        group = ec2.SecurityGroup(
            self, "SecurityGroup", vpc=self._vpc, description="Consul on ECS: the servers"
        )
        for port, what in (
            (ec2.Port.tcp(RPC_PORT), "RPC"),
            (ec2.Port.tcp(SERF_PORT), "Gossip"),
            (ec2.Port.udp(SERF_PORT), "Gossip"),
        ):
            group.add_ingress_rule(group, port, what)
        return group

    def _handlers_security_group(self) -> ec2.SecurityGroup:
        group = ec2.SecurityGroup(
            self,
            "HandlersSecurityGroup",
            vpc=self._vpc,
            description="Consul on ECS: the handlers that talk to the servers",
        )
        self._security_group.add_ingress_rule(group, ec2.Port.tcp(HTTPS_PORT), "HTTP API")
        return group

    def _files(self, configurations: Mapping[str, ServerConfig]) -> s3_assets.Asset:
        """Return the scripts, the units and each server's configuration, as one file in S3."""
        with tempfile.TemporaryDirectory() as directory:
            for path in sorted(_FILES.iterdir()):
                shutil.copy(path, directory)
            for name, config in configurations.items():
                (Path(directory) / f"{name}.json").write_text(config.text)
            # CDK copies it while the construct is made.
            return s3_assets.Asset(self, "Files", path=directory)

    def _spread(self, subnets: Sequence[ec2.ISubnet], servers: int) -> Iterator[ec2.ISubnet]:
        """Return a subnet for each server, in as many zones as there are."""
        of_zone: dict[str, ec2.ISubnet] = {}
        for subnet in subnets:
            of_zone.setdefault(subnet.availability_zone, subnet)
        spread = [list(of_zone.values())[index % len(of_zone)] for index in range(servers)]
        in_one_zone = max(Counter(subnet.availability_zone for subnet in spread).values())
        if in_one_zone > (servers - 1) // 2:
            Annotations.of(self).add_warning_v2(
                "consul-on-ecs:zones",
                f"{servers} servers in {len(of_zone)} availability zone(s): without one of the "
                f"zones {in_one_zone} are away, and the others cannot go on. Give subnets in three "
                "zones.",
            )
        return iter(spread)

    def _snapshot_store(self, snapshots: Snapshots) -> SnapshotStore:
        key = self._secrets.encryption_key
        bucket = s3.Bucket(
            self,
            "Snapshots",
            encryption=s3.BucketEncryption.KMS,
            encryption_key=key,
            bucket_key_enabled=True,
            enforce_ssl=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            lifecycle_rules=[
                s3.LifecycleRule(
                    expiration=snapshots.keep,
                    abort_incomplete_multipart_upload_after=Duration.days(1),
                )
            ],
            # The servers can be made anew from what is in it.
            removal_policy=RemovalPolicy.RETAIN,
        )
        return SnapshotStore(
            bucket=bucket,
            every=snapshots.every,
            encryption_key=key,
            largest=snapshots.largest,
        )

    # --- one server ------------------------------------------------------------------------------

    def _server(
        self, machines: Construct, name: str, subnet: ec2.ISubnet, files: s3_assets.Asset
    ) -> None:
        scope = Construct(machines, name)
        key = self._secrets.encryption_key
        volume = ec2.Volume(
            scope,
            "Data",
            availability_zone=subnet.availability_zone,
            size=self._volume_size,
            volume_type=ec2.EbsDeviceVolumeType.GP3,
            iops=self._volume_iops,
            encrypted=True,
            encryption_key=key,
            removal_policy=self._removal_policy,
        )
        role = iam.Role(
            scope,
            "Role",
            assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
            description=f"Consul on ECS: the server {name}",
            managed_policies=[
                iam.ManagedPolicy.from_aws_managed_policy_name("AmazonSSMManagedInstanceCore")
            ],
        )
        # After the image's own, which may be one object for all servers. (CDK would begin with it
        # itself, but only in an app with the flag for that.)
        user_data = ec2.UserData.custom(self._machine_image.get_image(scope).user_data.render())
        launch_template = ec2.LaunchTemplate(
            scope,
            "LaunchTemplate",
            machine_image=self._machine_image,
            user_data=user_data,
            instance_type=self._instance_type,
            role=role,
            security_group=self._security_group,
            # A container on the machine could not reach the metadata, and so the role.
            require_imdsv2=True,
            http_put_response_hop_limit=1,
            http_endpoint=True,
            instance_metadata_tags=False,
            block_devices=[
                ec2.BlockDevice(
                    device_name="/dev/xvda",
                    # With the account's own key: auto scaling may use no other one without a grant.
                    volume=ec2.BlockDeviceVolume.ebs(
                        20, encrypted=True, volume_type=ec2.EbsDeviceVolumeType.GP3
                    ),
                )
            ],
        )
        group = autoscaling.AutoScalingGroup(
            scope,
            "Group",
            vpc=self._vpc,
            vpc_subnets=ec2.SubnetSelection(subnets=[subnet]),
            launch_template=launch_template,
            min_capacity=1,
            max_capacity=1,
            # The first machines can only be healthy together: creation waits for none of them.
            update_policy=autoscaling.UpdatePolicy.rolling_update(
                min_instances_in_service=0,
                max_batch_size=1,
                min_success_percentage=100,
                pause_time=Duration.minutes(_REPLACED_WITHIN_MINUTES),
                wait_on_resource_signals=True,
            ),
        )
        secrets = {
            "GOSSIP_KEY_SECRET": self._secrets.gossip_key_secret.secret_arn,
            "CA_SECRET": self._secrets.ca_secret.secret_arn,
            "CERTIFICATE_SECRET": self._secrets.certificate_secrets[name].secret_arn,
            "AGENT_TOKEN_SECRET": self._secrets.agent_token_secret.secret_arn,
        }
        stack = Stack.of(self)
        user_data.add_commands(
            # A volume that becomes larger is a new machine, which makes its file system larger.
            f"# The data volume has {self._volume_size.to_gibibytes()} GiB.",
            *_start(
                files,
                {
                    "AWS_DEFAULT_REGION": stack.region,
                    "NODE_NAME": name,
                    "CONSUL_VERSION": self._consul_version,
                    "VOLUME_ID": volume.volume_id,
                    "DNS_SERVICE_ID": self._dns.service_id,
                    "STACK_ID": stack.stack_id,
                    "GROUP_LOGICAL_ID": stack.get_logical_id(
                        cast("autoscaling.CfnAutoScalingGroup", group.node.default_child)
                    ),
                    **secrets,
                },
            ),
        )
        for statement in self._statements(name, volume, files, list(secrets.values())):
            role.add_to_policy(statement)
        # A machine finds what it may do when it starts, and its way to AWS; and still has both when
        # it ends, to take its address out of Cloud Map, which deletes no service that has one.
        group.node.add_dependency(role, subnet.internet_connectivity_established)
        for tagged in (volume, launch_template, group):
            Tags.of(tagged).add(SERVER_TAG, name)
            Tags.of(tagged).add(CLUSTER_TAG, self._cluster_tag)
            Tags.of(tagged).add("Name", f"{self._cluster_tag}/{name}")
        self.groups.append(group)
        self.volumes.append(volume)

    def _statements(
        self, name: str, volume: ec2.Volume, files: s3_assets.Asset, secret_arns: Sequence[str]
    ) -> list[iam.PolicyStatement]:
        """Return what the machine of a server may do."""
        stack = Stack.of(self)
        key = self._secrets.encryption_key
        return [
            allow(["s3:GetObject"], files.bucket.arn_for_objects(files.s3_object_key)),
            allow(["secretsmanager:GetSecretValue"], *secret_arns),
            *key_statements(self, DECRYPT, [key]),
            # Neither can be limited. The first one also for Consul's cloud auto-join.
            allow(["ec2:DescribeInstances", "ec2:DescribeVolumes"], "*"),
            allow(
                ["ec2:AttachVolume"],
                stack.format_arn(service="ec2", resource="volume", resource_name=volume.volume_id),
            ),
            allow(
                ["ec2:AttachVolume"],
                stack.format_arn(service="ec2", resource="instance", resource_name="*"),
                StringEquals={
                    f"ec2:ResourceTag/{SERVER_TAG}": name,
                    f"ec2:ResourceTag/{CLUSTER_TAG}": self._cluster_tag,
                },
            ),
            # What EC2 needs to attach a volume that a key encrypts (EC2 user guide, "Requirements
            # for Amazon EBS encryption"; CDK's own `grant_attach_volume` has the same conditions).
            allow(
                ["kms:CreateGrant"],
                key.key_arn,
                Bool={"kms:GrantIsForAWSResource": "true"},
                StringEquals={"kms:GrantConstraintType": "EncryptionContextSubset"},
                # As in `key_statements`: AWS does not say how it ends in other partitions.
                StringLike={"kms:ViaService": f"ec2.{stack.region}.amazonaws.com*"},
            ),
            allow(
                [
                    "servicediscovery:DeregisterInstance",
                    "servicediscovery:GetInstance",
                    "servicediscovery:RegisterInstance",
                ],
                self._dns.service_arn,
            ),
            # Operations have no ARN to limit this to.
            allow(["servicediscovery:GetOperation"], "*"),
            # Cloud Map writes the record with the permissions of who registers.
            allow(
                ["route53:ChangeResourceRecordSets", "route53:GetHostedZone"],
                stack.format_arn(
                    service="route53",
                    region="",
                    account="",
                    resource="hostedzone",
                    resource_name=self._namespace.namespace_hosted_zone_id,
                    arn_format=ArnFormat.SLASH_RESOURCE_NAME,
                ),
            ),
            allow(["cloudformation:SignalResource"], stack.stack_id),
        ]


def _start(files: s3_assets.Asset, machine: Mapping[str, str]) -> list[str]:
    """Return the user data: whose place the machine takes, and what makes it that server."""
    archive = f"{_ON_THE_MACHINE}/files.zip"
    return [
        "set -euo pipefail",
        f"mkdir -p {_ON_THE_MACHINE}",
        f"cat > {_ON_THE_MACHINE}/server.env <<'END'",
        *(f"{name}='{value}'" for name, value in machine.items()),
        "END",
        f"export AWS_DEFAULT_REGION='{machine['AWS_DEFAULT_REGION']}'",
        "# The role of a machine may take a moment to be there.",
        "for attempt in {1..30}; do",
        f"    aws s3 cp --only-show-errors '{files.s3_object_url}' {archive} && break",
        "    ((attempt < 30)) || exit 1",
        "    sleep 5",
        "done",
        f"python3 -m zipfile --extract {archive} {_ON_THE_MACHINE}",
        f"exec bash {_ON_THE_MACHINE}/boot.sh",
    ]


def _cluster_tag(construct: Construct) -> str:
    """Return what no other cluster of the account and region is tagged with."""
    stack = Stack.of(construct)
    while stack.nested_stack_parent is not None:
        stack = stack.nested_stack_parent
    return f"{stack.stack_name}-{Names.unique_resource_name(construct, separator='-')}"


def _cpu_type(instance_type: ec2.InstanceType) -> ec2.AmazonLinuxCpuType:
    if instance_type.architecture == ec2.InstanceArchitecture.ARM_64:
        return ec2.AmazonLinuxCpuType.ARM_64
    return ec2.AmazonLinuxCpuType.X86_64


def _select_subnets(vpc: ec2.IVpc, selection: ec2.SubnetSelection | None) -> list[ec2.ISubnet]:
    arguments: dict[str, Any] = {} if selection is None else dict(selection._values)  # noqa: SLF001
    return list(vpc.select_subnets(**arguments).subnets)


def _without_snapshot(policy: RemovalPolicy) -> RemovalPolicy:
    return RemovalPolicy.DESTROY if policy == RemovalPolicy.DESTROY else RemovalPolicy.RETAIN


# --- what is wrong with arguments -----------------------------------------------------------------


def _size_problems(servers: int, volume_gib: int, volume_iops: int) -> Iterator[str]:
    if servers not in _SIZES:
        yield (
            f"servers is {servers}. Give 3, which go on without one of them, or 5, which go on "
            "without two."
        )
    if volume_iops < _LEAST_IOPS:
        yield f"volume_iops is {volume_iops}. Give {_LEAST_IOPS}, which gp3 always has, or more."
    elif volume_gib * _MOST_IOPS_A_GIB < volume_iops:
        yield (
            f"volume_gib is {volume_gib}. Give a data volume's size in GiB; for {volume_iops} IOPS "
            f"at least {math.ceil(volume_iops / _MOST_IOPS_A_GIB)}."
        )


def _snapshot_problems(snapshots: Snapshots) -> Iterator[str]:
    mebibytes = snapshots.largest.to_mebibytes()
    if not _LEAST_SNAPSHOT_MIB <= mebibytes <= _MOST_SNAPSHOT_MIB:
        yield (
            f"snapshots.largest is {mebibytes} MiB. Give from {_LEAST_SNAPSHOT_MIB} to "
            f"{_MOST_SNAPSHOT_MIB} MiB: a function's /tmp has no less, and S3 takes no more at "
            "once."
        )


def _name_problems(datacenter: str, namespace_name: str) -> Iterator[str]:
    for argument, value in (("datacenter", datacenter), ("namespace_name", namespace_name)):
        if Token.is_unresolved(value):
            yield f"{argument} has to be known at synthesis. Give the text itself."
            return
    if (problem := settings.problem_of(datacenter, settings.Datacenter)) is not None:
        yield f"datacenter must be {settings.DATACENTER_RULE}. It is {problem}."
    if not is_namespace(namespace_name):
        yield f'namespace_name must be {NAMESPACE_RULE}. It is "{namespace_name}".'


def _version_problems(version: str) -> Iterator[str]:
    found = _VERSION.fullmatch(version)
    if found is None:
        yield f'consul_version is "{version}". Give a release such as {CONSUL_VERSION}.'
    elif (int(found[1]), int(found[2])) < _OLDEST:
        yield f"consul_version is {version}. Give {_OLDEST[0]}.{_OLDEST[1]}.0 or a newer one."


def _lifetime_problems(lifetime: Duration) -> Iterator[str]:
    if lifetime.to_days(integral=False) < _SHORTEST_LIFETIME_DAYS:
        yield (
            f"certificate_lifetime is {lifetime.to_human_string()}. Give at least "
            f"{_SHORTEST_LIFETIME_DAYS} days, so that a renewal that fails is seen in time."
        )
