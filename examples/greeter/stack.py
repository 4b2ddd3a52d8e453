"""The example's stack: a mesh, and two services in it.

`cdk deploy --all -c example=greeter` deploys it next to the controller's stack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aws_cdk import CfnOutput, Duration, Stack
from aws_cdk import aws_ecs as ecs
from constructs import Construct

from infrastructure.acl_controller import AclController
from infrastructure.external_consul import ExternalConsul
from infrastructure.handler_function import Network
from infrastructure.mesh import Mesh
from infrastructure.mesh_task import MeshTask, Upstream
from infrastructure.stack import Images

PYTHON_IMAGE = "public.ecr.aws/docker/library/python:3.13-alpine"
_PROGRAMS = Path(__file__).resolve().parent / "programs"


class GreeterStack(Stack):
    """Two services: `greeter` asks `greeting` for its words, each through its own proxy.

    The Consul servers have to let in the security groups of `network`, which the tasks are in, too,
    and an intention has to allow it, as ACLs deny by default:
    `consul intention create -allow greeter greeting`. Then the log of `greeter` has the words.

    Args:
        scope: the app.
        construct_id: the stack's name.
        servers: the Consul servers.
        controller: gives the tasks their ACL tokens; its cluster is where they run.
        network: where they run: the VPC, subnets from which the servers, the AWS APIs and the
            images can be reached, and security groups that the servers let in.
        images: of the mesh's own containers. Default: the constructs' defaults.
        **kwargs: further properties of the stack.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        servers: ExternalConsul,
        controller: AclController,
        network: Network,
        images: Images | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, **kwargs)
        images = images or Images()
        vpc, subnets = network.vpc, network.subnets
        cluster = ecs.Cluster.from_cluster_attributes(
            self,
            "Cluster",
            cluster_name=controller.cluster.cluster_name,
            cluster_arn=controller.cluster.cluster_arn,
            vpc=vpc,
        )
        options: dict[str, Any] = {
            "security_groups": network.security_groups,
            "tls": servers.ca_secret is not None,
            "consul_image": images.consul,
            "envoy_image": images.envoy,
            "mesh_init_image": images.mesh_init,
        }

        # [README
        mesh = Mesh(self, "Mesh", servers=servers, controller=controller, vpc=vpc, **options)

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
        greeting.service("Service", cluster=cluster, vpc_subnets=subnets)

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
        greeter.service("Service", cluster=cluster, vpc_subnets=subnets)
        # README]

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
