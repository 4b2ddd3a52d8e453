"""The stack that the settings describe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aws_cdk import Annotations, CfnOutput, Duration, Stack, Tags
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infrastructure.acl_controller import (
    AclController,
    ReconciliationOptions,
    RotationSchedule,
)
from infrastructure.container_image import container_image
from infrastructure.controller_outputs import add_outputs
from infrastructure.external_consul import ExternalConsul
from infrastructure.handler_function import Network
from settings import NetworkSettings, Settings
from workflows.token_rotation import RotationOptions

_DAYS = logs.RetentionDays
_RETENTION = {
    1: _DAYS.ONE_DAY,
    3: _DAYS.THREE_DAYS,
    5: _DAYS.FIVE_DAYS,
    7: _DAYS.ONE_WEEK,
    14: _DAYS.TWO_WEEKS,
    30: _DAYS.ONE_MONTH,
    60: _DAYS.TWO_MONTHS,
    90: _DAYS.THREE_MONTHS,
    120: _DAYS.FOUR_MONTHS,
    150: _DAYS.FIVE_MONTHS,
    180: _DAYS.SIX_MONTHS,
    365: _DAYS.ONE_YEAR,
    400: _DAYS.THIRTEEN_MONTHS,
    545: _DAYS.EIGHTEEN_MONTHS,
    731: _DAYS.TWO_YEARS,
    1096: _DAYS.THREE_YEARS,
    1827: _DAYS.FIVE_YEARS,
    2192: _DAYS.SIX_YEARS,
    2557: _DAYS.SEVEN_YEARS,
    2922: _DAYS.EIGHT_YEARS,
    3288: _DAYS.NINE_YEARS,
    3653: _DAYS.TEN_YEARS,
}


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images of the containers that join a task to the mesh; None: the constructs' defaults."""

    consul: ecs.ContainerImage | None = None
    envoy: ecs.ContainerImage | None = None
    mesh_init: ecs.ContainerImage | None = None


class ConsulOnEcsStack(Stack):
    """The ACL controller of one ECS cluster, made from a settings file.

    Args:
        scope: the app.
        construct_id: the stack's name.
        settings: what `settings.load_settings` returned.
        **kwargs: further properties of the stack.

    Attributes:
        servers: the Consul servers.
        controller: the ACL controller.
        network: where its handlers run, and the mesh's tasks can; None if the settings name none.
        vpc: the VPC of that; nothing is known of it but its ID.
        images: the images that the settings name.

    """

    def __init__(
        self, scope: Construct, construct_id: str, *, settings: Settings, **kwargs: Any
    ) -> None:
        super().__init__(scope, construct_id, **kwargs)
        consul = settings.consul
        self.servers = ExternalConsul(
            http_address=consul.http_address,
            retry_join=consul.retry_join,
            datacenter=consul.datacenter,
            ca_secret=self._secret("ConsulCa", consul.ca_secret_arn),
            gossip_key_secret=self._secret("GossipKey", consul.gossip_key_secret_arn),
        )
        self.network = self._network(settings.network)
        self.vpc = self.network.vpc if self.network else None
        self.images = Images(
            consul=self._image("ConsulImage", settings.images.consul),
            envoy=self._image("EnvoyImage", settings.images.envoy),
            mesh_init=self._image("MeshInitImage", settings.images.mesh_init),
        )
        self.controller = AclController(
            self,
            "AclController",
            cluster=self._cluster(settings),
            secret_prefix=settings.secrets.prefix,
            servers=self.servers,
            bootstrap_token_secret=self._secret(
                "BootstrapToken", consul.bootstrap_token_secret_arn
            ),
            client_token_secret=self._secret("ClientToken", consul.client_token_secret_arn),
            anonymous_policy=consul.anonymous_policy,
            service_rules={name: service.rules for name, service in settings.services.items()},
            reconciliation=ReconciliationOptions(
                every=_minutes(settings.reconciliation.every_minutes),
                grace_period=Duration.minutes(settings.reconciliation.grace_minutes),
            ),
            rotation=RotationOptions(
                concurrency=settings.rotation.concurrency,
                pause=_minutes(settings.rotation.pause_minutes),
                stable_within=Duration.minutes(settings.rotation.stable_within_minutes),
                keep_ecs_services=settings.rotation.keep_ecs_services,
            ),
            rotation_schedule=RotationSchedule(
                services=_days(settings.rotation.services_every_days),
                client_token=_days(settings.rotation.client_token_every_days),
                controller_token=_days(settings.rotation.controller_token_every_days),
            ),
            network=self.network,
            log_retention=_RETENTION[settings.log_retention_days],
            secret_tags=settings.tags,
            encryption_key=self._key(settings.secrets.kms_key_arn),
        )
        for key, value in settings.tags.items():
            Tags.of(self).add(key, value)
        add_outputs(self, self.controller)

    def _key(self, arn: str | None) -> kms.IKey | None:
        return None if arn is None else kms.Key.from_key_arn(self, "SecretsKey", arn)

    def _image(self, construct_id: str, image: str | None) -> ecs.ContainerImage | None:
        return None if image is None else container_image(self, construct_id, image)

    def _cluster(self, settings: Settings) -> ecs.ICluster:
        arn = settings.ecs.cluster
        if not settings.ecs.is_arn:
            arn = self.format_arn(
                service="ecs", resource="cluster", resource_name=settings.ecs.cluster
            )
        return ecs.Cluster.from_cluster_arn(self, "Cluster", arn)

    def _secret(self, construct_id: str, arn: str | None) -> secretsmanager.ISecret | None:
        if arn is None:
            return None
        return secretsmanager.Secret.from_secret_complete_arn(self, construct_id, arn)

    def _network(self, network: NetworkSettings | None) -> Network | None:
        if network is None:
            return None
        # Only its ID is needed; nothing looks anything up while synthesizing.
        vpc = ec2.Vpc.from_vpc_attributes(
            self, "Vpc", vpc_id=network.vpc_id, availability_zones=["unused"]
        )
        return Network(
            vpc=vpc,
            subnets=ec2.SubnetSelection(
                subnets=[
                    self._subnet(f"Subnet{index}", subnet_id)
                    for index, subnet_id in enumerate(network.subnet_ids)
                ]
            ),
            security_groups=[
                ec2.SecurityGroup.from_security_group_id(
                    self, f"SecurityGroup{index}", group_id, mutable=False
                )
                for index, group_id in enumerate(network.security_group_ids or ())
            ]
            or [self._security_group(vpc)],
        )

    def _subnet(self, construct_id: str, subnet_id: str) -> ec2.ISubnet:
        subnet = ec2.Subnet.from_subnet_id(self, construct_id, subnet_id)
        Annotations.of(subnet).acknowledge_warning(
            "@aws-cdk/aws-ec2:noSubnetRouteTableId", "Functions need no route table's ID."
        )
        return subnet

    def _security_group(self, vpc: ec2.IVpc) -> ec2.SecurityGroup:
        """Make one group for all handlers in the VPC: the one that Consul's has to let in."""
        group = ec2.SecurityGroup(
            self,
            "HandlersSecurityGroup",
            vpc=vpc,
            description="Consul on ECS: the handlers that talk to Consul",
        )
        CfnOutput(self, "HandlersSecurityGroupId", value=group.security_group_id)
        return group


def _minutes(number: int | None) -> Duration | None:
    return Duration.minutes(number) if number else None


def _days(number: int | None) -> Duration | None:
    return Duration.days(number) if number else None
