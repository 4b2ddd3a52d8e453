"""Apps with mesh tasks, synthesized once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk import Annotations
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager

from containers.task_config import Check, Weights
from infrastructure.acl_controller import AclController
from infrastructure.external_consul import ExternalConsul
from infrastructure.mesh import Architecture, Mesh
from infrastructure.mesh_task import MeshTask, Upstream
from tests.synthesized import IRELAND, Deployed, Synthesized, context

SynthesizeMesh = Callable[[Callable[[cdk.Stack], None]], Deployed]

KEY_ARN = IRELAND.arn("kms", "key/11111111-2222-3333-4444-555555555555")
CA_SECRET_ARN = IRELAND.arn("secretsmanager", "secret:consul-ca-Zz9999")
GOSSIP_SECRET_ARN = IRELAND.arn("secretsmanager", "secret:gossip-Gg1111")
SUBNET = "subnet-0123456789abcdef0"


def new_app(directory: Path | None = None) -> cdk.App:
    """Return an app as the CDK command line runs it."""
    outdir = None if directory is None else str(directory / "cdk.out")
    return cdk.App(outdir=outdir, context=context())


class Surroundings:
    """What a stack with mesh tasks has besides them."""

    def __init__(
        self, stack: cdk.Stack, *, acls: bool, own_key: kms.IKey | None = None, **mesh: Any
    ) -> None:
        self.stack = stack
        self.vpc = ec2.Vpc.from_vpc_attributes(
            stack,
            "Vpc",
            vpc_id="vpc-0123456789abcdef0",
            availability_zones=["eu-west-1a"],
            private_subnet_ids=[SUBNET],
        )
        Annotations.of(self.vpc).acknowledge_warning(
            "@aws-cdk/aws-ec2:noSubnetRouteTableId", "Tasks need no route table's ID."
        )
        self.cluster = ecs.Cluster.from_cluster_attributes(
            stack,
            "Cluster",
            cluster_name="my-cluster",
            vpc=self.vpc,
            has_ec2_capacity=True,
        )
        self.controller: AclController | None = None
        if acls:
            self.controller = AclController(
                stack,
                "AclController",
                cluster=self.cluster,
                secret_prefix="consul",
                servers=ExternalConsul(http_address="http://consul.internal:8500"),
                encryption_key=own_key,
            )
        self.mesh = Mesh(
            stack,
            "Mesh",
            vpc=self.vpc,
            controller=self.controller,
            acls=acls,
            **{"mesh_init_image": image("registry/mesh-init"), **mesh},
        )

    def task(self, construct_id: str, **arguments: Any) -> MeshTask:
        """Make a mesh task of one container, if nothing else is said."""
        return MeshTask(
            self.stack,
            construct_id,
            **{"mesh": self.mesh, "containers": {"app": container()}, **arguments},
        )


def image(name: str) -> ecs.ContainerImage:
    return ecs.ContainerImage.from_registry(name)


def container(**options: Any) -> ecs.ContainerDefinitionOptions:
    return ecs.ContainerDefinitionOptions(image=image("registry/app"), **options)


def secret(stack: cdk.Stack, construct_id: str, arn: str) -> secretsmanager.ISecret:
    return secretsmanager.Secret.from_secret_complete_arn(stack, construct_id, arn)


def plain_servers() -> ExternalConsul:
    return ExternalConsul(
        http_address="http://consul.internal:8500", retry_join=["consul.internal"]
    )


def secure_servers(stack: cdk.Stack) -> ExternalConsul:
    return ExternalConsul(
        http_address="https://consul.internal:8501",
        retry_join=["10.0.0.1", "provider=aws tag_key=consul tag_value=server"],
        datacenter="dc1",
        ca_secret=secret(stack, "CaSecret", CA_SECRET_ARN),
        gossip_key_secret=secret(stack, "GossipSecret", GOSSIP_SECRET_ARN),
    )


def make_open(stack: cdk.Stack) -> None:
    """Make tasks without ACLs, TLS and encrypted gossip."""
    around = Surroundings(stack, acls=False, tls=False, servers=plain_servers())
    minimal = around.task("Minimal", service_name="web", port=8080)
    minimal.service("Service", cluster=around.cluster)
    around.task("Outbound", family="cron", outbound_only=True)
    ec2_memory = container(memory_reservation_mib=64)
    launched: dict[str, dict[str, Any]] = {
        "Ec2": {"compatibility": ecs.Compatibility.EC2},
        "Ec2Arm": {
            "compatibility": ecs.Compatibility.EC2,
            "architecture": Architecture.ARM64,
        },
        "Both": {"compatibility": ecs.Compatibility.EC2_AND_FARGATE},
    }
    for construct_id, arguments in launched.items():
        task = around.task(
            construct_id,
            service_name=construct_id.lower(),
            port=8080,
            containers={"app": ec2_memory},
            **arguments,
        )
        if construct_id == "Ec2":
            task.service("Service", cluster=around.cluster, desired_count=3)
    around.task("Arm", service_name="arm", port=8080, architecture=Architecture.ARM64)


def make_secure(stack: cdk.Stack) -> None:
    """Make tasks with ACLs, TLS, encrypted gossip, a key, and a task with everything set."""
    around = Surroundings(
        stack,
        acls=True,
        own_key=kms.Key.from_key_arn(stack, "Key", KEY_ARN),
        servers=secure_servers(stack),
    )
    task = around.task("Minimal", service_name="web", port=8080)
    task.service("Service", cluster=around.cluster)
    extra = ec2.SecurityGroup.from_security_group_id(
        stack, "Extra", "sg-0123456789abcdef9", mutable=False
    )
    everything = around.task(
        "Everything",
        service_name="shop",
        family="shop-v2",
        port=9090,
        containers={
            "shop": container(
                health_check=ecs.HealthCheck(command=["CMD-SHELL", "curl -f localhost:9090"]),
                logging=ecs.LogDrivers.aws_logs(
                    stream_prefix="own",
                    log_group=logs.LogGroup.from_log_group_name(stack, "OwnLogs", "/own/logs"),
                ),
            ),
            "metrics": container(
                essential=False, health_check=ecs.HealthCheck(command=["CMD", "true"])
            ),
        },
        upstreams=[
            Upstream("payments", 1234),
            Upstream(
                "stock",
                1235,
                datacenter="dc2",
                local_address="127.0.0.2",
                config={"connect_timeout_ms": 5000},
                mesh_gateway="local",
            ),
            Upstream("nearest-search", 1236, prepared_query=True),
        ],
        service_tags=["v2", "blue"],
        service_meta={"team": "shop"},
        weights=Weights(passing=10, warning=1),
        enable_tag_override=True,
        proxy_config={"local_connect_timeout_ms": 2000},
        mesh_gateway="remote",
        expose={"paths": [{"path": "/health", "localPathPort": 9090, "listenerPort": 21500}]},
        public_listener_port=21000,
        cpu=1024,
        memory_mib=2048,
        architecture=Architecture.ARM64,
        volumes=[ecs.Volume(name="uploads")],
        log_driver=ecs.LogDrivers.splunk(
            secret_token=ecs.Secret.from_secrets_manager(
                secret(stack, "Splunk", IRELAND.arn("secretsmanager", "secret:splunk-Ss2222"))
            ),
            url="https://splunk.internal:8088",
        ),
        task_role=iam.Role(
            stack, "ShopRole", assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com")
        ),
        task_policies=[iam.ManagedPolicy.from_aws_managed_policy_name("AmazonS3ReadOnlyAccess")],
        execution_policies=[
            iam.ManagedPolicy.from_aws_managed_policy_name("AmazonEC2ContainerRegistryReadOnly")
        ],
        envoy_arguments=["--log-level", "debug"],
    )
    everything.service(
        "Service",
        cluster=around.cluster,
        desired_count=2,
        security_groups=[extra],
        circuit_breaker=ecs.DeploymentCircuitBreaker(rollback=False),
    )
    second = around.task(
        "SecondFamily",
        service_name="shop",
        family="shop-canary",
        port=9090,
        checks=[Check(name="ready", http="http://127.0.0.1:9090/ready", interval="10s")],
        containers={"shop": container(health_check=ecs.HealthCheck(command=["CMD", "true"]))},
        token_secret=everything.token_secret,
        provision_on_deploy=False,
    )
    second.service("Service", cluster=around.cluster)


def make_partial(stack: cdk.Stack) -> None:
    """Make a mesh with ACLs alone, one with TLS alone, and one with encrypted gossip alone."""
    servers = secure_servers(stack)
    around = Surroundings(stack, acls=True, tls=False, servers=plain_servers())
    around.task("Acls", service_name="acls", port=8080)
    for construct_id, tls, used in (
        ("Tls", True, replace(servers, gossip_key_secret=None)),
        ("Gossip", False, replace(servers, ca_secret=None)),
    ):
        mesh = Mesh(
            stack,
            f"{construct_id}Mesh",
            servers=used,
            vpc=around.vpc,
            acls=False,
            tls=tls,
            mesh_init_image=image("registry/mesh-init"),
        )
        around.task(construct_id, mesh=mesh, service_name=construct_id.lower(), port=8080)


def synthesize_stack(make: Callable[[cdk.Stack], None], directory: Path) -> Deployed:
    """Synthesize an app of one stack, called "Mesh"."""
    app = new_app(directory)
    stack = cdk.Stack(app, "Mesh")
    make(stack)
    artifact = app.synth().get_stack_by_name(stack.stack_name)
    return Deployed(
        Synthesized(
            app=app,
            name=stack.stack_name,
            template=artifact.template,
            messages=[f"{message.id}: {message.entry.data}" for message in artifact.messages],
        ),
        IRELAND,
    )
