"""The CDK app of the demonstration: the user's app, and a stack with two mesh tasks.

`python -m local.demo_app` synthesizes it, as `app.py` does the user's app.
"""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_ecs as ecs

from app import ROOT, add_stack
from infrastructure.mesh import Mesh
from infrastructure.mesh_task import MeshTask
from infrastructure.stack import ConsulOnEcsStack
from settings import load_settings

STACK = "Demo"

_IMAGE = "public.ecr.aws/docker/library/busybox"


class DemoStack(cdk.Stack):
    """A service whose token comes with the first task, and one whose token comes before.

    Args:
        scope: the app.
        construct_id: the stack's name.
        controller: the stack that the settings describe.

    """

    def __init__(self, scope: cdk.App, construct_id: str, *, controller: ConsulOnEcsStack) -> None:
        super().__init__(scope, construct_id)
        network = controller.network
        if network is None:
            raise ValueError("The settings of the local run name the VPC that its tasks run in.")
        servers = controller.servers
        mesh = Mesh(
            self,
            "Mesh",
            servers=servers,
            controller=controller.controller,
            vpc=network.vpc,
            tls=servers.ca_secret is not None,
            mesh_init_image=controller.images.mesh_init,
        )
        cluster = ecs.Cluster.from_cluster_attributes(
            self,
            "Cluster",
            cluster_name=controller.controller.cluster.cluster_name,
            vpc=network.vpc,
        )
        storefront = MeshTask(
            self,
            "Storefront",
            mesh=mesh,
            family="storefront-v2",
            service_name="storefront",
            port=8080,
            containers={"storefront": _container()},
            # Its token is made when ECS says that its first task starts.
            provision_on_deploy=False,
        )
        payments = MeshTask(
            self,
            "Payments",
            mesh=mesh,
            service_name="payments",
            port=8080,
            containers={"payments": _container()},
        )
        for task, count in ((storefront, 0), (payments, 1)):
            task.service(
                "Service",
                cluster=cluster,
                service_name=task.service_name,
                desired_count=count,
                vpc_subnets=network.subnets,
            )


def _container() -> ecs.ContainerDefinitionOptions:
    return ecs.ContainerDefinitionOptions(image=ecs.ContainerImage.from_registry(_IMAGE))


def main() -> None:
    """Synthesize the app into the directory that the CDK command line asks for."""
    app = cdk.App()
    stack = add_stack(app, load_settings(ROOT / app.node.get_context("settings")))
    DemoStack(app, STACK, controller=stack)
    app.synth()


if __name__ == "__main__":
    main()
