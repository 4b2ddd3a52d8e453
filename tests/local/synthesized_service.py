"""A service of the mesh, synthesized, and its task definition as ECS describes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk import Annotations
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs

from infrastructure.acl_controller import AclController
from infrastructure.external_consul import ExternalConsul
from infrastructure.mesh import Mesh
from infrastructure.mesh_task import MeshTask, Upstream
from tests.local.mesh_service import (
    APP,
    APP_IMAGE,
    GREETING,
    MESH_INIT_IMAGE,
    PORT,
    SECRET_PREFIX,
    SERVICE,
    UPSTREAM_PORT,
)
from tests.synthesized import IRELAND, Deployed, Synthesized, context

# On SIGTERM it says so and ends; `sys.exit` in a signal handler would wait for the server.
_PROGRAM = f"""\
import http.server, os, signal, sys
def stop(*_):
    print("stopping", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = {GREETING.encode()!r}
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("%s", {PORT}), Handler).serve_forever()
"""


def synthesize_service(
    directory: Path, *, retry_join: Sequence[str] = ("consul.internal",), listen: str = "127.0.0.1"
) -> dict[str, Any]:
    """Synthesize an app with one mesh task, which calls itself as an upstream.

    Its task definition is returned as DescribeTaskDefinition would.

    Args:
        directory: gets the files.
        retry_join: where its agent looks for servers.
        listen: the address that its application listens on.

    """
    app = cdk.App(outdir=str(directory / "cdk.out"), context=context())
    stack = cdk.Stack(app, "Mesh")
    vpc = ec2.Vpc.from_vpc_attributes(
        stack,
        "Vpc",
        vpc_id="vpc-0123456789abcdef0",
        availability_zones=["eu-west-1a"],
        private_subnet_ids=["subnet-0123456789abcdef0"],
    )
    Annotations.of(vpc).acknowledge_warning(
        "@aws-cdk/aws-ec2:noSubnetRouteTableId", "Tasks need no route table's ID."
    )
    cluster = ecs.Cluster.from_cluster_attributes(stack, "Cluster", cluster_name="local", vpc=vpc)
    controller = AclController(
        stack,
        "AclController",
        cluster=cluster,
        secret_prefix=SECRET_PREFIX,
        servers=ExternalConsul(http_address="http://consul.internal:8500"),
    )
    mesh = Mesh(
        stack,
        "Mesh",
        servers=ExternalConsul(
            http_address="http://consul.internal:8500", retry_join=list(retry_join)
        ),
        controller=controller,
        vpc=vpc,
        tls=False,
        mesh_init_image=ecs.ContainerImage.from_registry(MESH_INIT_IMAGE),
    )
    MeshTask(
        stack,
        "Web",
        mesh=mesh,
        service_name=SERVICE,
        port=PORT,
        upstreams=[Upstream(SERVICE, UPSTREAM_PORT)],
        containers={
            APP: ecs.ContainerDefinitionOptions(
                image=ecs.ContainerImage.from_registry(APP_IMAGE),
                command=["python3", "-c", _PROGRAM % listen],
                health_check=ecs.HealthCheck(
                    command=["CMD-SHELL", f"curl --fail --silent http://localhost:{PORT}/"],
                    interval=cdk.Duration.seconds(5),
                ),
            )
        },
    )
    artifact = app.synth().get_stack_by_name(stack.stack_name)
    messages = [f"{message.id}: {message.entry.data}" for message in artifact.messages]
    deployed = Deployed(Synthesized(app, stack.stack_name, artifact.template, messages), IRELAND)
    (properties,) = deployed.of_type("AWS::ECS::TaskDefinition").values()
    found: dict[str, Any] = _lower(properties)
    return {**found, "revision": 1}


# Their keys are names that somebody has chosen, not properties of CloudFormation.
_MAPS = {"Options", "DockerLabels", "Labels", "DriverOpts"}


def _lower(value: Any) -> Any:
    """CloudFormation has its properties in PascalCase, the API of ECS in camelCase."""
    if isinstance(value, list):
        return [_lower(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key[0].lower() + key[1:]: item if key in _MAPS else _lower(item)
        for key, item in value.items()
    }
