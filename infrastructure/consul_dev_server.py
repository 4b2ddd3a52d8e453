"""A Consul server for development: encrypted and closed as in production, and nothing is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

import jsii
from aws_cdk import Duration, RemovalPolicy, Token
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_servicediscovery as servicediscovery
from constructs import Construct

import settings
from containers import layout
from infrastructure.consul_client import CA_PEM, DATA_DIR, GOSSIP_KEY, SET_ADDRESS
from infrastructure.consul_servers import (
    DEFAULT_NAMESPACE,
    DNS_LABEL,
    NAMESPACE_RULE,
    ManagedServers,
    is_namespace,
)
from infrastructure.handler_function import Network
from infrastructure.mesh import CONSUL_IMAGE, Architecture, MeshError
from infrastructure.secret_keys import DECRYPT, key_statements, without_key
from infrastructure.server_config import HTTPS_PORT, RPC_PORT, SERF_PORT, ServerConfig
from infrastructure.server_secrets import ServerSecrets

CONTAINER = "consul-server"
NODE_NAME = "consul-server"

CONFIG = "CONSUL_SERVER_CONFIG"
CERTIFICATE_PEM = "CONSUL_SERVER_CERTIFICATE_PEM"
PRIVATE_KEY_PEM = "CONSUL_SERVER_PRIVATE_KEY_PEM"
MANAGEMENT_TOKEN = "CONSUL_INITIAL_MANAGEMENT_TOKEN"

_VOLUME = "consul_data"
_SNAPSHOTS_DIR = f"{DATA_DIR}/snapshots"
_CERTIFICATE_LIFETIME = Duration.days(365)
_HTTPS, _HTTP = 443, 80
# A query of the UI waits for news for up to 5 minutes and a sixteenth (Consul, "Blocking Queries").
_LONGEST_QUERY = Duration.minutes(6)
_HAS_LEADER = (
    f"curl --fail --silent --max-time 3 {layout.DEFAULT_HTTP_ADDRESS}/v1/status/leader"
    " | grep -q ':'"  # an address; without a leader the answer is an empty text
)


@dataclass(frozen=True, kw_only=True)
class UiLoadBalancer:
    """A load balancer in front of Consul's UI, and so in front of its whole HTTP API.

    Who uses the UI logs in to it with an ACL token, which it sends with each request. Without a
    certificate these go to the load balancer over plain HTTP: whoever can read the traffic between
    the browser and the load balancer has the token, and with the management token all of Consul.
    So leave the certificate out only where that way is encrypted otherwise, such as in a VPN.

    Args:
        allow_from: who may reach it, such as `ec2.Peer.ipv4("10.0.0.0/8")` or a security group;
            at least one.
        certificate: for the DNS name under which people reach it. Default: plain HTTP, see above.
        internet_facing: whether it has public addresses, for which it needs a certificate.
        vpc_subnets: where it is. Default: private subnets, or public ones if it is internet-facing.

    """

    allow_from: Sequence[ec2.IConnectable]
    certificate: elbv2.IListenerCertificate | None = None
    internet_facing: bool = False
    vpc_subnets: ec2.SubnetSelection | None = None


@jsii.implements(ec2.IConnectable)
class ConsulDevServer(Construct):
    """One Consul server as an ECS service, for development.

    You get: a server with TLS, encrypted gossip and ACLs that deny by default, which the other
    tasks and the ACL controller find by its name in a private DNS namespace of Cloud Map. Its keys,
    its certificate and its management token are made by the workflows of the controller that it
    is given to, in whose stack it has to be. A person finds the token in
    `managed.secrets.management_token_secret`.

    It keeps nothing: each new task of it is an empty Consul. The controller then makes its policies
    and tokens again, with the same IDs, and what `allow` has asked for. All else is gone; and tasks
    of the mesh that were running do not find the new server, so redeploy their services. A task of
    it takes its certificate when it starts, with half a year left at least: replace one that runs
    for longer. Nothing of it stays when its stack is deleted. `ConsulServerCluster` is for
    everything else.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        cluster: the ECS cluster that runs it.
        vpc: where it runs.
        vpc_subnets: where in the VPC; the controller's handlers run there, too. Default: the
            private subnets.
        datacenter: its datacenter.
        namespace: the name of the private DNS namespace that is made, or one that exists; the
            server is `server.<namespace>`.
        image: with `consul`, `curl`, `jq` and `su-exec`, as HashiCorp's has it. Default: the
            pinned version that the mesh's tasks have, too.
        cpu: of its task; 1024 are one vCPU.
        memory_mib: of its task.
        architecture: of the CPU.
        launch_type: FARGATE or EC2.
        assign_public_ip: whether its task has a public address, which it needs on Fargate to pull
            its image in a public subnet. The controller's handlers need private subnets
            nevertheless.
        load_balancer: for the UI. Default: there is none.

    Attributes:
        datacenter: its datacenter.
        http_address: its HTTP API.
        retry_join: what the consul-client containers join.
        ca_secret: the CA's certificate.
        gossip_key_secret: the key that gossip is encrypted with.
        managed: how the controller looks after it.
        namespace: the DNS namespace.
        service: the ECS service.
        security_group: of its task. It lets in the controller's handlers, the load balancer and,
            once there is a `Mesh`, its tasks.
        ui: the load balancer for the UI, if there is one.

    Raises:
        MeshError: if it cannot work; names everything that is wrong, and what to do.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        cluster: ecs.ICluster,
        vpc: ec2.IVpc,
        vpc_subnets: ec2.SubnetSelection | None = None,
        datacenter: str = "dc1",
        namespace: str | servicediscovery.INamespace = DEFAULT_NAMESPACE,
        image: ecs.ContainerImage | None = None,
        cpu: int = 256,
        memory_mib: int = 512,
        architecture: Architecture = Architecture.X86_64,
        launch_type: ecs.LaunchType = ecs.LaunchType.FARGATE,
        assign_public_ip: bool = False,
        load_balancer: UiLoadBalancer | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self._on_fargate = launch_type == ecs.LaunchType.FARGATE
        in_private = ec2.SubnetSelection()
        in_public = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC)
        server_in = vpc_subnets or (in_public if assign_public_ip else in_private)
        # Functions of Lambda reach nothing from a public subnet, whatever address the server has.
        handlers_in = in_private if assign_public_ip else server_in
        problems = [
            *_name_problems(datacenter, namespace),
            *_place_problems(cluster, vpc),
            *_launch_problems(launch_type, assign_public_ip=assign_public_ip),
            *_subnet_problems(vpc, handlers_in, is_public_intended=assign_public_ip),
            *(_ui_problems(load_balancer) if load_balancer else ()),
        ]
        if problems:
            raise MeshError(self, problems)

        self.datacenter = datacenter
        self.namespace: servicediscovery.INamespace = (
            servicediscovery.PrivateDnsNamespace(
                self,
                "Namespace",
                name=namespace,
                vpc=vpc,
                description=f"Consul server of {datacenter}, for development",
            )
            if isinstance(namespace, str)
            else namespace
        )
        host = f"{DNS_LABEL}.{self.namespace.namespace_name}"
        self.http_address = f"https://{host}:{HTTPS_PORT}"
        self.retry_join = (host,)
        secrets = ServerSecrets(
            self,
            "Secrets",
            datacenter=datacenter,
            server_names=[NODE_NAME],
            dns_names=[host],
            certificate_lifetime=_CERTIFICATE_LIFETIME,
            chooses_management_token=True,
            removal_policy=RemovalPolicy.DESTROY,
        )
        self.ca_secret: secretsmanager.ISecret | None = secrets.ca_secret
        self.gossip_key_secret: secretsmanager.ISecret | None = secrets.gossip_key_secret
        self.security_group = ec2.SecurityGroup(
            self, "SecurityGroup", vpc=vpc, description="Consul on ECS: the development server"
        )
        self._connections = ec2.Connections(
            security_groups=[self.security_group], default_port=ec2.Port.tcp(HTTPS_PORT)
        )
        handlers = ec2.SecurityGroup(
            self,
            "HandlersSecurityGroup",
            vpc=vpc,
            description="Consul on ECS: the handlers that talk to the development server",
        )
        self._connections.allow_default_port_from(handlers, "Handlers of the ACL controller")
        self._task_definition = self._make_task_definition(
            secrets,
            image=image or ecs.ContainerImage.from_registry(CONSUL_IMAGE),
            cpu=cpu,
            memory_mib=memory_mib,
            architecture=architecture,
        )
        self.service = self._make_service(
            _with_vpc(self, cluster, vpc), server_in, assign_public_ip=assign_public_ip
        )
        # Without the way to its image, and the right to read its secrets, its first tasks would
        # fail.
        self.service.node.add_dependency(
            _selected(vpc, server_in).internet_connectivity_established,
            self._task_definition.obtain_execution_role(),
        )
        self.ui = self._make_ui(load_balancer, vpc) if load_balancer else None
        self.managed: ManagedServers | None = ManagedServers(
            secrets=secrets,
            network=Network(vpc=vpc, subnets=handlers_in, security_groups=[handlers]),
            security_group=self.security_group,
            starts_after_secrets=self.service,
            loses_its_state=self.service,
        )

    @property
    def connections(self) -> ec2.Connections:
        """The server's network connections; its default port is that of the HTTP API."""
        return self._connections

    # --- the task ------------------------------------------------------------------------------

    def _make_task_definition(
        self,
        secrets: ServerSecrets,
        *,
        image: ecs.ContainerImage,
        cpu: int,
        memory_mib: int,
        architecture: Architecture,
    ) -> ecs.TaskDefinition:
        platform = ecs.RuntimePlatform(
            cpu_architecture=ecs.CpuArchitecture.of(architecture.value),
            operating_system_family=ecs.OperatingSystemFamily.LINUX,
        )
        definition = ecs.TaskDefinition(
            self,
            "TaskDefinition",
            compatibility=ecs.Compatibility.FARGATE if self._on_fargate else ecs.Compatibility.EC2,
            network_mode=ecs.NetworkMode.AWS_VPC,
            cpu=str(cpu),
            memory_mib=str(memory_mib),
            runtime_platform=platform if self._on_fargate else None,
            volumes=[ecs.Volume(name=_VOLUME)],
        )
        if not self._on_fargate and architecture is Architecture.ARM64:
            # CDK refuses it for EC2, where ECS takes it, and finds machines by it.
            resource = cast("ecs.CfnTaskDefinition", definition.node.default_child)
            resource.runtime_platform = ecs.CfnTaskDefinition.RuntimePlatformProperty(
                cpu_architecture=architecture.value, operating_system_family="LINUX"
            )
        self._add_container(
            definition, secrets, image=image, memory_mib=None if self._on_fargate else memory_mib
        )
        for statement in key_statements(self, DECRYPT, [secrets.encryption_key]):
            definition.add_to_execution_role_policy(statement)
        return definition

    def _add_container(
        self,
        definition: ecs.TaskDefinition,
        secrets: ServerSecrets,
        *,
        image: ecs.ContainerImage,
        memory_mib: int | None,
    ) -> None:
        config = ServerConfig(
            node_name=NODE_NAME,
            datacenter=self.datacenter,
            bootstrap_expect=1,
            config_dir=PurePosixPath(DATA_DIR, "config"),
            data_dir=PurePosixPath(DATA_DIR, "data"),
        )
        container = definition.add_container(
            CONTAINER,
            image=image,
            memory_reservation_mib=memory_mib,
            entry_point=["/bin/sh", "-ec"],
            command=[script(config)],
            # There a snapshot is written before it is sent.
            environment={CONFIG: config.text, "TMPDIR": _SNAPSHOTS_DIR},
            secrets=self._container_secrets(secrets),
            readonly_root_filesystem=True,
            health_check=ecs.HealthCheck(
                command=["CMD-SHELL", _HAS_LEADER],
                interval=Duration.seconds(5),
                timeout=Duration.seconds(5),
                retries=10,
                start_period=Duration.seconds(30),
            ),
            port_mappings=[
                ecs.PortMapping(container_port=port, protocol=protocol)
                for port, protocol in (
                    (RPC_PORT, ecs.Protocol.TCP),
                    (SERF_PORT, ecs.Protocol.TCP),
                    (SERF_PORT, ecs.Protocol.UDP),
                    (HTTPS_PORT, ecs.Protocol.TCP),
                )
            ],
            logging=ecs.LogDrivers.aws_logs(
                stream_prefix=CONTAINER,
                log_group=logs.LogGroup(
                    self,
                    "Logs",
                    retention=logs.RetentionDays.ONE_MONTH,
                    removal_policy=RemovalPolicy.DESTROY,
                ),
            ),
        )
        container.add_mount_points(
            ecs.MountPoint(source_volume=_VOLUME, container_path=DATA_DIR, read_only=False)
        )

    def _container_secrets(self, secrets: ServerSecrets) -> Mapping[str, ecs.Secret]:
        certificate = without_key(self, "Certificate", secrets.certificate_secrets[NODE_NAME])
        whole = {
            GOSSIP_KEY: without_key(self, "GossipKey", secrets.gossip_key_secret),
            CA_PEM: without_key(self, "Ca", secrets.ca_secret),
            MANAGEMENT_TOKEN: without_key(self, "ManagementToken", secrets.management_token_secret),
        }
        return {name: ecs.Secret.from_secrets_manager(each) for name, each in whole.items()} | {
            CERTIFICATE_PEM: ecs.Secret.from_secrets_manager(certificate, "certificate"),
            PRIVATE_KEY_PEM: ecs.Secret.from_secrets_manager(certificate, "private_key"),
        }

    # --- the service ---------------------------------------------------------------------------

    def _make_service(
        self,
        cluster: ecs.ICluster,
        subnets: ec2.SubnetSelection,
        *,
        assign_public_ip: bool,
    ) -> ecs.FargateService | ecs.Ec2Service:
        make = ecs.FargateService if self._on_fargate else ecs.Ec2Service
        options: dict[str, Any] = {"vpc_subnets": subnets}
        if self._on_fargate:
            options["assign_public_ip"] = assign_public_ip
        service: ecs.FargateService | ecs.Ec2Service = make(
            self,
            "Service",
            cluster=cluster,
            task_definition=self._task_definition,
            security_groups=[self.security_group],
            # Two at a time would be two Consuls under one name.
            desired_count=1,
            min_healthy_percent=0,
            max_healthy_percent=100,
            # A server that does not come up ends a deployment in minutes, not in hours.
            circuit_breaker=ecs.DeploymentCircuitBreaker(rollback=True),
            cloud_map_options=ecs.CloudMapOptions(
                name=DNS_LABEL,
                cloud_map_namespace=self.namespace,
                dns_record_type=servicediscovery.DnsRecordType.A,
                dns_ttl=Duration.seconds(10),
            ),
            **options,
        )
        return service

    # --- the load balancer ---------------------------------------------------------------------

    def _make_ui(self, ui: UiLoadBalancer, vpc: ec2.IVpc) -> elbv2.ApplicationLoadBalancer:
        balancer = elbv2.ApplicationLoadBalancer(
            self,
            "Ui",
            vpc=vpc,
            vpc_subnets=ui.vpc_subnets,
            internet_facing=ui.internet_facing,
            drop_invalid_header_fields=True,
            idle_timeout=_LONGEST_QUERY,
        )
        target = self.service.load_balancer_target(
            container_name=CONTAINER, container_port=HTTPS_PORT
        )
        listener = balancer.add_listener(
            "Listener",
            port=_HTTPS if ui.certificate else _HTTP,
            protocol=(
                elbv2.ApplicationProtocol.HTTPS
                if ui.certificate
                else elbv2.ApplicationProtocol.HTTP
            ),
            certificates=[ui.certificate] if ui.certificate else None,
            open=False,
        )
        listener.add_targets(
            "Server",
            port=HTTPS_PORT,
            # The server has a certificate of its own CA, which a load balancer does not look at.
            protocol=elbv2.ApplicationProtocol.HTTPS,
            targets=[target],
            deregistration_delay=Duration.seconds(10),
            health_check=elbv2.HealthCheck(
                path="/v1/status/leader",
                protocol=elbv2.Protocol.HTTPS,
                interval=Duration.seconds(10),
                healthy_threshold_count=2,
            ),
        )
        for peer in ui.allow_from:
            # EC2 takes no apostrophe in it.
            listener.connections.allow_default_port_from(peer, "UI of Consul")
        return balancer


def script(config: ServerConfig) -> str:
    """Return the shell script that starts the server, as root in the image, then as its user.

    Secrets go from the environment into files that only that user can read, and nowhere else: they
    are on no command line, and the server no longer has them in its environment.
    """
    # The server knows the management token anyway. A token of its own would have to be there
    # before the server that makes it.
    tokens = ", ".join(f"{use}: $ENV.{MANAGEMENT_TOKEN}" for use in ("initial_management", "agent"))
    secrets = f"{{encrypt: $ENV.{GOSSIP_KEY}, acl: {{tokens: {{{tokens}}}}}}}"
    machine = "{bind_addr: $address, advertise_addr: $address}"
    files = {
        config.ca_file: CA_PEM,
        config.certificate_file: CERTIFICATE_PEM,
        config.key_file: PRIVATE_KEY_PEM,
    }
    lines = [
        "umask 077",
        SET_ADDRESS,
        f"mkdir -p {config.ca_file.parent} {config.data_dir} {_SNAPSHOTS_DIR}",
        f"printf '%s' \"${CONFIG}\" > {config.file}",
        f"jq --null-input --arg address \"$address\" '{machine}' > {config.machine_file}",
        f"jq --null-input '{secrets}' > {config.secrets_file}",
        *(f"printf '%s\\n' \"${name}\" > {file}" for file, name in files.items()),
        f"chown -R consul:consul {DATA_DIR}",
        f"unset {' '.join([GOSSIP_KEY, MANAGEMENT_TOKEN, *files.values()])}",
        f"exec su-exec consul:consul consul agent -config-dir={config.config_dir}",
    ]
    return "\n".join(lines)


def _selected(vpc: ec2.IVpc, selection: ec2.SubnetSelection) -> ec2.SelectedSubnets:
    # The one way to take a jsii struct apart again that leaves out what was not given.
    return vpc.select_subnets(**selection._values)  # noqa: SLF001


def _with_vpc(scope: Construct, cluster: ecs.ICluster, vpc: ec2.IVpc) -> ecs.ICluster:
    """Return a cluster that knows its VPC; one that is imported by its ARN does not."""
    if isinstance(cluster, ecs.Cluster):
        return cluster
    return ecs.Cluster.from_cluster_attributes(
        scope,
        "Cluster",
        cluster_name=cluster.cluster_name,
        cluster_arn=cluster.cluster_arn,
        vpc=vpc,
    )


# --- what cannot work -----------------------------------------------------------------------------


def _name_problems(datacenter: str, namespace: str | servicediscovery.INamespace) -> Iterator[str]:
    if Token.is_unresolved(datacenter):
        yield "datacenter has to be known at synthesis. Give the text itself."
    elif (found := settings.problem_of(datacenter, settings.Datacenter)) is not None:
        yield f"datacenter must be {settings.DATACENTER_RULE}. It is {found}."
    if not isinstance(namespace, str):
        if namespace.type != servicediscovery.NamespaceType.DNS_PRIVATE:
            yield (
                "namespace must be a private DNS namespace, or the name of one to make: in any "
                f"other the server has no address. It is {namespace.type.name}."
            )
    elif Token.is_unresolved(namespace):
        yield "namespace has to be known at synthesis. Give the text itself, or the namespace."
    elif not is_namespace(namespace):
        yield f'namespace must be {NAMESPACE_RULE}. It is "{namespace}".'


def _place_problems(cluster: ecs.ICluster, vpc: ec2.IVpc) -> Iterator[str]:
    if isinstance(cluster, ecs.Cluster) and cluster.vpc.vpc_id != vpc.vpc_id:
        yield (
            f"The ECS cluster runs its tasks in {cluster.vpc.node.path}, but the vpc is "
            f"{vpc.node.path}. Give both the same."
        )


def _launch_problems(launch_type: ecs.LaunchType, *, assign_public_ip: bool) -> Iterator[str]:
    if launch_type not in {ecs.LaunchType.FARGATE, ecs.LaunchType.EC2}:
        yield f"launch_type has to be FARGATE or EC2. It is {launch_type.name}."
    elif assign_public_ip and launch_type == ecs.LaunchType.EC2:
        yield (
            "On EC2 a task with a network interface of its own has no public address. Leave "
            "assign_public_ip out, and give private subnets."
        )


def _subnet_problems(
    vpc: ec2.IVpc, handlers_in: ec2.SubnetSelection, *, is_public_intended: bool
) -> Iterator[str]:
    if not _selected(vpc, handlers_in).has_public:
        return
    if is_public_intended:
        yield (
            "The VPC has no private subnet for the handlers of the ACL controller, which have no "
            "public address, and reach AWS only through a NAT gateway or VPC endpoints. Give the "
            "VPC private subnets."
        )
    else:
        yield (
            "The subnets are public, where neither the server nor the handlers of the ACL "
            "controller reach AWS without a public address. Give private ones as vpc_subnets; or "
            "assign_public_ip=True, and the handlers run in the VPC's private subnets."
        )


def _ui_problems(ui: UiLoadBalancer) -> Iterator[str]:
    allowed: object = ui.allow_from
    if not isinstance(allowed, Sequence) or isinstance(allowed, str) or not allowed:
        yield (
            "load_balancer: nobody may reach the UI. Give a list of who may: "
            'allow_from=[ec2.Peer.ipv4("10.0.0.0/8")].'
        )
    if ui.internet_facing and ui.certificate is None:
        yield (
            "load_balancer: ACL tokens would go over the internet unencrypted. Give a certificate, "
            "or leave internet_facing out."
        )
