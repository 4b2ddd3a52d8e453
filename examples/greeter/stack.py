"""The stack of the example: a Consul, a mesh, and two services in it.

`cdk deploy -c example=greeter` deploys it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aws_cdk import CfnOutput, Duration, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from constructs import Construct

from infrastructure.acl_controller import AclController
from infrastructure.consul_dev_server import ConsulDevServer
from infrastructure.container_image import container_image
from infrastructure.controller_outputs import add_outputs
from infrastructure.mesh import Mesh
from infrastructure.mesh_task import MeshTask, Upstream

PYTHON_IMAGE = "public.ecr.aws/docker/library/python:3.13-alpine"
_PROGRAMS = Path(__file__).resolve().parent / "programs"


class GreeterStack(Stack):
    """Two services: `greeter` asks `greeting` for its words, each through its own proxy.

    Everything that they need is in the stack: a VPC, an ECS cluster, a Consul server for
    development, and the controller. In Consul nobody may call anybody, but for the one that is
    allowed here. The log of `greeter` has the words.

    Args:
        scope: the app.
        construct_id: the stack's name.
        mesh_init_image: the image of mesh-init and health-sync. Default: built when the app is
            deployed, for which Docker is needed.
        **kwargs: further properties of the stack.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        mesh_init_image: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, **kwargs)
        vpc = ec2.Vpc(
            self,
            "Vpc",
            max_azs=2,
            nat_gateways=1,
            # Nothing uses the default security group. To empty it takes a function of CDK's own.
            restrict_default_security_group=False,
        )
        mesh_init = (
            container_image(self, "MeshInitImage", mesh_init_image) if mesh_init_image else None
        )

        # [README
        cluster = ecs.Cluster(self, "Cluster", vpc=vpc)
        servers = ConsulDevServer(self, "Consul", cluster=cluster, vpc=vpc)
        controller = AclController(
            self, "AclController", cluster=cluster, secret_prefix="greeter", servers=servers
        )
        mesh = Mesh(self, "Mesh", controller=controller, vpc=vpc, mesh_init_image=mesh_init)

        greeting = MeshTask(
            self,
            "Greeting",
            mesh=mesh,
            service_name="greeting",
            port=9090,
            containers={
                "greeting": python("greeting.py", PORT="9090", health_check=asking(9090)),
            },
        )
        greeting.service("Service", cluster=cluster)

        greeter = MeshTask(
            self,
            "Greeter",
            mesh=mesh,
            service_name="greeter",
            port=8080,
            upstreams=[Upstream("greeting", local_port=1234)],
            containers={
                "greeter": python("greeter.py", PORT="8080", UPSTREAM="http://localhost:1234"),
            },
        )
        greeter.service("Service", cluster=cluster)

        mesh.allow(source="greeter", destination="greeting")
        # README]

        add_outputs(self, controller)
        CfnOutput(self, "ClusterName", value=cluster.cluster_name)
        CfnOutput(self, "ConsulHttpAddress", value=servers.http_address)
        CfnOutput(self, "TasksSecurityGroupId", value=mesh.security_groups[0].security_group_id)


def python(
    program: str, *, health_check: ecs.HealthCheck | None = None, **environment: str
) -> ecs.ContainerDefinitionOptions:
    """Return a container that runs one of the programs next to this file."""
    return ecs.ContainerDefinitionOptions(
        image=ecs.ContainerImage.from_registry(PYTHON_IMAGE),
        command=["python", "-c", (_PROGRAMS / program).read_text()],
        environment=environment,
        health_check=health_check,
    )


def asking(port: int) -> ecs.HealthCheck:
    """Return a health check that asks the program for an answer."""
    return ecs.HealthCheck(
        command=["CMD", "wget", "-q", "-O", "/dev/null", f"http://127.0.0.1:{port}"],
        interval=Duration.seconds(5),
    )
