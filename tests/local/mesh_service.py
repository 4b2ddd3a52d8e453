"""A service of the mesh, synthesized, and what its task needs to be run on this machine."""

from __future__ import annotations

import copy
import json
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import requests
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs

from infrastructure.acl_controller import AclController
from infrastructure.external_consul import ExternalConsul
from infrastructure.mesh import Mesh
from infrastructure.mesh_task import MeshTask, Upstream
from local.task.images import (
    Image,
    consul_image,
    envoy_image,
    mesh_init_image,
    missing_programs,
    python_image,
)
from tests.synthesized import IRELAND, Deployed, Synthesized, context

SERVICE = "web"
APP = "app"
PORT = 8080
UPSTREAM_PORT = 1234
GREETING = "hello from the app"
SECRET_PREFIX = "consul"
CLIENT_SECRET = f"{SECRET_PREFIX}-consul-client-token"
SERVICE_SECRET = f"{SECRET_PREFIX}-{SERVICE}"
MANAGEMENT = "e3e4f0d1-0000-4000-8000-00000000aaaa"
_TIMEOUT_SECONDS = 10

APP_IMAGE, MESH_INIT_IMAGE = "registry/app", "registry/mesh-init"
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
) -> Deployed:
    """Synthesize an app with one mesh task, which calls itself as an upstream.

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
    cluster = ecs.Cluster.from_cluster_attributes(stack, "Cluster", cluster_name="local", vpc=vpc)
    controller = AclController(
        stack,
        "AclController",
        cluster=cluster,
        secret_prefix=SECRET_PREFIX,
        consul_http_address="http://consul.internal:8500",
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
    return Deployed(Synthesized(app, stack.stack_name, artifact.template, messages), IRELAND)


def described(deployed: Deployed) -> dict[str, Any]:
    """Return the task definition as DescribeTaskDefinition would."""
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


def quicker(definition: Mapping[str, Any], seconds: float = 0.2) -> dict[str, Any]:
    """Return a definition whose health checks come at another interval."""
    changed = copy.deepcopy(dict(definition))
    for container in changed["containerDefinitions"]:
        if container.get("healthCheck"):
            container["healthCheck"]["interval"] = seconds
    return changed


def by_name(definition: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the containers of a definition by their names."""
    return {each["name"]: each for each in definition["containerDefinitions"]}


def images(
    definition: Mapping[str, Any],
    directory: Path,
    *,
    server: str,
    consul: Path | None = None,
    preparation: str = "",
) -> dict[str, Image]:
    """Make an image for each name that a definition has.

    Args:
        definition: the task definition.
        directory: gets the programs.
        server: the HTTP address of the server.
        consul: a real `consul`; by default there is the stand-in.
        preparation: Python code to run before mesh-init and health-sync.

    """
    names = {name: each["image"] for name, each in by_name(definition).items()}
    return {
        names["consul-client"]: consul_image(
            directory / "consul", server=server, executable=consul
        ),
        names["sidecar-proxy"]: envoy_image(directory / "envoy"),
        MESH_INIT_IMAGE: mesh_init_image(directory / "mesh-init", preparation=preparation),
        APP_IMAGE: python_image(directory / "app"),
    }


def without_suffix(resolve: Callable[[str], str]) -> Callable[[str], str]:
    """Return a function that takes the ARNs of a template, whose suffix nobody has given."""

    def resolved(value_from: str) -> str:
        *parts, name, key, stage, version = value_from.split(":")
        return resolve(":".join([*parts, name.removesuffix("-AbCdEf"), key, stage, version]))

    return resolved


def token(address: str, management: str, **fields: Any) -> str:
    """Make a token in a Consul server and return its secret."""
    return str(_put(address, management, "/v1/acl/token", fields)["SecretID"])


def client_token(address: str, management: str) -> str:
    """Make the token of consul-client, with the policy that the ACL controller gives it."""
    rules = 'node_prefix "" { policy = "write" } service_prefix "" { policy = "read" }'
    name = f"{SECRET_PREFIX}-consul-client-policy"
    _put(address, management, "/v1/acl/policy", {"Name": name, "Rules": rules})
    return token(address, management, Policies=[{"Name": name}])


def service_token(address: str, management: str) -> str:
    """Make the token of the service."""
    return token(address, management, ServiceIdentities=[{"ServiceName": SERVICE}])


def _put(address: str, management: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    answer = requests.put(
        address + path,
        json=body,
        headers={"X-Consul-Token": management},
        timeout=_TIMEOUT_SECONDS,
    )
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def secret_value(secret: str) -> str:
    """Return what the ACL controller stores for a token."""
    return json.dumps({"accessor_id": str(uuid.uuid4()), "token": secret})


def why_not_here() -> str | None:
    """Return why mesh tasks cannot be run on this machine; none if they can."""
    if lacking := missing_programs():
        return f"a mesh task's containers need {', '.join(lacking)}"
    return None


def real_consul() -> Path | None:
    """Return the `consul` that is on the PATH."""
    found = shutil.which("consul")
    return Path(found) if found else None
