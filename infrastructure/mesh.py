"""The mesh that tasks belong to: its servers, its ACL controller, its images, its network."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import jsii
from aws_cdk import CustomResource
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from constructs import Construct

from containers import layout
from handlers.core import names
from infrastructure.acl_controller import AclController
from infrastructure.consul_client import ConsulClient
from infrastructure.consul_servers import ConsulServers
from infrastructure.server_config import RPC_PORT, SERF_PORT

CONSUL_IMAGE = "public.ecr.aws/hashicorp/consul:1.21.5"
# Consul 1.21 supports Envoy 1.31 to 1.34.
ENVOY_IMAGE = "docker.io/envoyproxy/envoy:v1.34.10"

# Where Consul puts Envoy's administration, and an image other than ours leaves it.
MESH_PORTS = layout.AGENT_PORTS | {19000}


@dataclass(frozen=True)
class _Port:
    protocol: str
    number: int
    what: str

    @property
    def id(self) -> str:
        """For the IDs of constructs."""
        return f"{self.what}{self.protocol.capitalize()}"


_RPC = _Port("tcp", RPC_PORT, "RPC")
_GOSSIP = (_Port("tcp", SERF_PORT, "Gossip"), _Port("udp", SERF_PORT, "Gossip"))


class Architecture(enum.Enum):
    """The CPU of a task; CDK's own `CpuArchitecture` cannot be compared in Python."""

    X86_64 = "X86_64"
    ARM64 = "ARM64"


_DOCKER_PLATFORMS = {
    Architecture.X86_64: ecr_assets.Platform.LINUX_AMD64,
    Architecture.ARM64: ecr_assets.Platform.LINUX_ARM64,
}
# Consul's cloud auto-join (go-discover) and what its help says that it asks AWS for.
_AWS_AUTO_JOIN = re.compile(r"(?:^|\s)provider=\"?aws\b")
_IN_ECS = re.compile(r"(?:^|\s)service=\"?ecs\b")
_EC2_ACTIONS = ("ec2:DescribeInstances",)
_ECS_ACTIONS = (
    "ecs:DescribeServices",
    "ecs:DescribeTasks",
    "ecs:ListClusters",
    "ecs:ListServices",
    "ecs:ListTasks",
)
_CONTAINERS = Path(__file__).resolve().parent.parent / "containers"


class MeshError(ValueError):
    """A mesh or a mesh task is described in a way that cannot work."""

    def __init__(self, scope: Construct, problems: Sequence[str]) -> None:
        """Name the construct, and everything that is wrong with it."""
        super().__init__("\n".join(f"{scope.node.path}: {problem}" for problem in problems))


@jsii.implements(ec2.IConnectable)
class Mesh(Construct):
    """What all tasks of a mesh share; make one, and give it to each `MeshTask`.

    You get: a security group that lets the tasks talk to each other, through their proxies and by
    gossip, and nothing else in. Servers that the same app makes let it in; others have to
    (`mesh.connections`): RPC on 8300, gossip on 8301 (TCP and UDP); and it has to let in theirs.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        servers: the Consul servers. Default: the controller's.
        controller: gives the tasks their ACL tokens. Required with ACLs.
        vpc: where the tasks run, for the security group of the mesh. Without, none is made.
        security_groups: further ones for all tasks, such as one that the servers let in already.
            Without a VPC they are the only ones, and have to let each other in on port 20000, and
            on 8301 (TCP and UDP).
        acls: whether the ACL system of Consul is on. Default: it is.
        tls: whether agents talk TLS to the servers and get their certificates from them
            (`auto_encrypt`). Default: they do.
        verify_server_hostname: whether a server's certificate has to be for
            `server.<datacenter>.consul`, as `consul tls cert create -server` makes it. Without,
            whoever has any certificate of the CA can pass for a server. Default: it has to.
        consul_image: with `consul`, `curl`, `jq` and `su-exec`, as HashiCorp's has it. Default: a
            pinned version of that one; give one that is not newer than the servers.
        envoy_image: with `envoy` and `bash`, of a version that Consul supports. Default: a pinned
            version of the Envoy project's.
        mesh_init_image: made from `containers/Dockerfile`. Default: built when the app is
            deployed, for which Docker is needed.

    Raises:
        MeshError: if it cannot work.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        servers: ConsulServers | None = None,
        controller: AclController | None = None,
        vpc: ec2.IVpc | None = None,
        security_groups: Sequence[ec2.ISecurityGroup] | None = None,
        acls: bool = True,
        tls: bool = True,
        verify_server_hostname: bool = True,
        consul_image: ecs.ContainerImage | None = None,
        envoy_image: ecs.ContainerImage | None = None,
        mesh_init_image: ecs.ContainerImage | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self._controller = controller
        if servers is None:
            if controller is None:
                problem = (
                    "Neither servers nor a controller that knows them. Give "
                    "controller=AclController(…), or servers=ExternalConsul(…) without ACLs."
                )
                raise MeshError(self, [problem])
            servers = controller.servers
        self.servers = servers
        self.acls = acls
        self.consul_client = ConsulClient(
            datacenter=servers.datacenter,
            retry_join=servers.retry_join,
            acls=acls,
            tls=tls,
            gossip=servers.gossip_key_secret is not None,
            verify_server_hostname=verify_server_hostname,
        )
        if problems := list(self._problems(vpc, security_groups)):
            raise MeshError(self, problems)
        self.consul_image = consul_image or ecs.ContainerImage.from_registry(CONSUL_IMAGE)
        self.envoy_image = envoy_image or ecs.ContainerImage.from_registry(ENVOY_IMAGE)
        self._mesh_init_image = mesh_init_image
        self._own_group = self._security_group(vpc) if vpc else None
        own = [self._own_group] if self._own_group else []
        self.security_groups: list[ec2.ISecurityGroup] = [*own, *(security_groups or ())]
        if servers.managed is not None:
            self._join(servers.managed.security_group)
        self._token_secrets: dict[str, Construct] = {}
        self._connections = ec2.Connections(security_groups=self.security_groups)

    @property
    def connections(self) -> ec2.Connections:
        """The network connections of all tasks."""
        return self._connections

    @property
    def controller(self) -> AclController:
        """The ACL controller; there is one if ACLs are on."""
        return cast("AclController", self._controller)

    @property
    def discovery_statements(self) -> list[iam.PolicyStatement]:
        """What a task may do in AWS so that its agent finds the servers; usually nothing."""
        actions = {
            action
            for entry in self.servers.retry_join
            if _AWS_AUTO_JOIN.search(entry)
            for action in (_ECS_ACTIONS if _IN_ECS.search(entry) else _EC2_ACTIONS)
        }
        # None of them can be limited to resources that are known.
        return [iam.PolicyStatement(actions=sorted(actions), resources=["*"])] if actions else []

    def allow(self, *, source: str, destination: str) -> CustomResource:
        """Let a service call another one, through their proxies; the default is that none may.

        The deployment writes an intention into Consul, and removes it when this is taken out of the
        stack, or the stack is deleted.

        Args:
            source: the service that calls; `"*"` for all.
            destination: the service that is called; `"*"` for all.

        Raises:
            MeshError: if ACLs are off: then every service may call every other one.
            ValueError: if there cannot be such a service, or if this is allowed already.

        """
        if self._controller is None:
            problem = (
                f'"{source}" may call "{destination}" anyway, as ACLs are off. Leave allow(…) out.'
            )
            raise MeshError(self, [problem])
        construct_id = f"Allow {_spoken(source)} to call {_spoken(destination)}"
        return self._controller.allow(self, construct_id, source=source, destination=destination)

    def claim_token_secret(self, service_name: str, owner: Construct) -> None:
        """Remember who has made the secret of a service.

        Raises:
            MeshError: if another construct has.

        """
        if first := self._token_secrets.get(service_name):
            problem = (
                f'{first.node.path} has made the secret of the service "{service_name}" already. '
                "Give its token_secret to this one: token_secret=first.token_secret."
            )
            raise MeshError(owner, [problem])
        self._token_secrets[service_name] = owner

    def mesh_init_image(self, architecture: Architecture) -> ecs.ContainerImage:
        """Return the image of mesh-init and health-sync for tasks of an architecture."""
        if self._mesh_init_image is not None:
            return self._mesh_init_image
        return ecs.ContainerImage.from_asset(
            str(_CONTAINERS), platform=_DOCKER_PLATFORMS[architecture]
        )

    def let_in(self, port: int) -> None:
        """Let the proxies of the mesh reach each other on a port that is not the usual one."""
        if self._own_group is not None:
            self._own_group.add_ingress_rule(
                self._own_group, ec2.Port.tcp(port), "Proxies, on a port of their own"
            )

    def _problems(
        self, vpc: ec2.IVpc | None, groups: Sequence[ec2.ISecurityGroup] | None
    ) -> list[str]:
        problems = []
        if self.acls and self._controller is None:
            problems.append(
                "ACLs are on, but there is no controller to make the tokens. Give "
                "controller=AclController(…), or acls=False if Consul's ACL system is off."
            )
        if not self.acls and self._controller is not None:
            problems.append(
                "There is an ACL controller, but ACLs are off. Leave one of the two out."
            )
        if not self.servers.retry_join:
            problems.append(
                "There is nothing that tasks could join. Give the addresses of the Consul servers, "
                "or Consul's cloud auto-join: ExternalConsul(retry_join=[…]), or consul.retry_join "
                "in the settings."
            )
        if self.consul_client.tls and self.servers.ca_secret is None:
            problems.append(
                "TLS is on, but the CA of the servers is not known. Give "
                "ExternalConsul(ca_secret=…), the secret with its certificate (PEM), or tls=False "
                "if the servers do not talk TLS."
            )
        if vpc is None and not groups:
            problems.append(
                "Give the vpc that the tasks run in, for a security group that lets them talk to "
                "each other, or security_groups of your own."
            )
        if self._controller is not None:
            theirs = self._controller.servers.datacenter
            if theirs != self.servers.datacenter:
                problems.append(
                    f'The servers are in the datacenter "{self.servers.datacenter}", but the '
                    f'controller makes tokens in "{theirs}". Give both the same.'
                )
        return problems

    def _join(self, servers: ec2.ISecurityGroup) -> None:
        """Let the tasks' agents and the servers reach each other."""
        for index, tasks in enumerate(self.security_groups):
            for into, source, ports in (
                (servers, tasks, (_RPC, *_GOSSIP)),
                (tasks, servers, _GOSSIP),
            ):
                for port in ports:
                    # A resource of the mesh's stack, which may be another one than the servers'.
                    ec2.CfnSecurityGroupIngress(
                        self,
                        f"{'Servers' if into is servers else 'Tasks'}{index}{port.id}",
                        group_id=into.security_group_id,
                        source_security_group_id=source.security_group_id,
                        ip_protocol=port.protocol,
                        from_port=port.number,
                        to_port=port.number,
                        description=port.what,
                    )

    def _security_group(self, vpc: ec2.IVpc) -> ec2.SecurityGroup:
        group = ec2.SecurityGroup(
            self, "Tasks", vpc=vpc, description="Consul on ECS: the tasks of the mesh"
        )
        for port, what in (
            (ec2.Port.tcp(layout.DEFAULT_PUBLIC_LISTENER_PORT), "Proxies"),
            (ec2.Port.tcp(SERF_PORT), "Gossip"),
            (ec2.Port.udp(SERF_PORT), "Gossip"),
        ):
            group.add_ingress_rule(group, port, what)
        return group


def _spoken(service_name: str) -> str:
    """Return a name as a part of a construct's ID, which is to differ in letters and digits."""
    return "all services" if service_name == names.ANY_SERVICE else service_name
