"""The stack of the example: servers over three availability zones, and the controller.

`cdk deploy -c example=production` deploys it.
"""

from __future__ import annotations

from typing import Any

from aws_cdk import CfnOutput, Fn, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from constructs import Construct

from infrastructure.acl_controller import AclController
from infrastructure.consul_server_cluster import ConsulServerCluster
from infrastructure.controller_outputs import add_outputs

_ZONES = 3


class ProductionStack(Stack):
    """A VPC over three availability zones, Consul servers in each, and an ECS cluster for the mesh.

    Give a `Mesh` and `MeshTask`s its `controller`, `cluster` and `vpc`. What must not be lost stays
    when the stack is deleted: the servers' volumes, their snapshots, the management token, and the
    key that these are encrypted with.

    Args:
        scope: the app.
        construct_id: the stack's name.
        **kwargs: further properties of the stack.

    Attributes:
        vpc: the VPC.
        cluster: the ECS cluster.
        controller: gives the tasks their ACL tokens, and looks after the servers.

    """

    def __init__(self, scope: Construct, construct_id: str, **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        self.vpc = vpc = ec2.Vpc(
            self,
            "Vpc",
            # The first three of the region, whichever that is. Left to itself, CDK takes two.
            availability_zones=[Fn.select(zone, Fn.get_azs()) for zone in range(_ZONES)],
            # One in each zone, so that the loss of a zone takes nothing from the others.
            nat_gateways=_ZONES,
            # Nothing uses the default security group. To empty it takes a function of CDK's own.
            restrict_default_security_group=False,
        )
        self.cluster = cluster = ecs.Cluster(self, "Cluster", vpc=vpc)
        servers = ConsulServerCluster(self, "Consul", vpc=vpc)
        self.controller = AclController(
            self, "AclController", cluster=cluster, secret_prefix="production", servers=servers
        )

        add_outputs(self, self.controller)
        CfnOutput(self, "ClusterName", value=cluster.cluster_name)
        CfnOutput(self, "ConsulHttpAddress", value=servers.http_address)
