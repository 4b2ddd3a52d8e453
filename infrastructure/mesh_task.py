"""Application tasks: a service that joins the mesh by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from aws_cdk import Duration, RemovalPolicy, Stack, Tags, Token
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from containers import layout
from containers.task_config import (
    Check,
    ProxyConfig,
    ServiceConfig,
    TaskConfig,
    TaskConfigError,
    UpstreamConfig,
    Weights,
)
from handlers.core import names
from infrastructure import consul_client
from infrastructure.mesh import MESH_PORTS, Architecture, Mesh, MeshError
from infrastructure.secret_keys import DECRYPT, key_statements, without_key
from infrastructure.tag_propagation import TagsReachTheTasks
from infrastructure.token_secret import token_secret as make_token_secret

_DATA, _BINARY, _ENVOY = "consul_data", "consul_binary", "consul_envoy"
_VOLUMES = frozenset({_DATA, _BINARY, _ENVOY})

_BOOTSTRAP_FILE = f"{layout.BOOTSTRAP_DIR}/{layout.BOOTSTRAP_FILE}"
_LOOPBACK = "127.0.0.1"
# Linux's most for a process (fs.nr_open); Envoy takes two for each connection that it passes on.
_OPEN_FILES = 1_048_576
# What HashiCorp's performance tests have seen at most (their page "Resource usage", in MB: 87, 55
# and 35), rounded up. Only where tasks share a machine: there ECS wants to know.
_RESERVED_MIB = {
    layout.CONSUL_CLIENT_CONTAINER: 128,
    layout.MESH_INIT_CONTAINER: 32,
    layout.SIDECAR_PROXY_CONTAINER: 96,
    layout.HEALTH_SYNC_CONTAINER: 48,
}

_FARGATE = frozenset({ecs.Compatibility.FARGATE, ecs.Compatibility.EC2_AND_FARGATE})
_EC2 = frozenset({ecs.Compatibility.EC2, ecs.Compatibility.EC2_AND_FARGATE})


@dataclass(frozen=True)
class Upstream:
    """A service that the task calls, through its proxy, on a port of its own.

    Attributes:
        service: the Consul service, or the prepared query.
        local_port: the application reaches it at `localhost:<local_port>`.
        datacenter: where it is. Default: in the task's own datacenter.
        local_address: what the proxy listens on for it. Default: 127.0.0.1.
        config: options of the proxy for this upstream, such as `{"connect_timeout_ms": 5000}`
            (Consul's documentation of Envoy, "Proxy upstream config options").
        mesh_gateway: `none`, `local` or `remote`. Default: as Consul has it configured.
        prepared_query: whether `service` names a prepared query.

    """

    service: str
    local_port: int
    datacenter: str | None = None
    local_address: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    mesh_gateway: str | None = None
    prepared_query: bool = False

    def _to_config(self) -> UpstreamConfig:
        return UpstreamConfig(
            destination_type="prepared_query" if self.prepared_query else "service",
            destination_name=self.service,
            datacenter=self.datacenter,
            local_bind_address=self.local_address,
            local_bind_port=self.local_port,
            config=self.config,
            mesh_gateway=self.mesh_gateway,
        )


class MeshTask(Construct):
    """A task definition whose service joins the Consul service mesh by itself.

    You get: next to your containers a Consul agent, an Envoy proxy, and a short-lived container
    that registers the service and configures the proxy; your containers start when the proxy
    accepts connections, and are stopped before it. The secret of the service's ACL token, whose
    value the ACL controller writes, and which the deployment itself waits for. A service made with
    `service` gives its tasks the tags by which the controller knows them.

    `docs/mesh-task.md` describes each argument.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        mesh: what all tasks of the mesh share.
        containers: the application's containers, by name.
        service_name: the Consul service. Default: the family.
        family: of the task definition. Default: the service's name.
        port: where the application listens; it should do so on 127.0.0.1. Required unless
            `outbound_only`.
        outbound_only: whether the service is never called, and has no port.
        upstreams: the services that it calls.
        checks: health checks that Consul makes. Default: the ECS health checks of the essential
            containers are what Consul is told.
        service_tags: tags of the service in Consul.
        service_meta: metadata of the service in Consul.
        weights: of its answers in DNS. Default: Consul's.
        enable_tag_override: whether others may change its tags in Consul.
        proxy_config: options of the proxy (Consul's documentation of Envoy).
        mesh_gateway: `none`, `local` or `remote`, for all upstreams.
        expose: paths that the proxy lets everybody call without mTLS, as Consul's
            `proxy.expose` has it.
        public_listener_port: where the proxy listens for the mesh.
        cpu: of the whole task; 1024 are one vCPU.
        memory_mib: of the whole task.
        architecture: of the CPU.
        compatibility: Fargate, EC2, or both.
        volumes: further ones, for the application's containers to mount.
        log_driver: of the containers that have none. Default: a log group of the task's own, kept
            for 30 days.
        task_role: what the application may do in AWS. Default: a role is made.
        execution_role: what ECS uses to start the task; it is granted to read the secrets.
            Default: a role is made.
        task_policies: managed policies for the task role.
        execution_policies: managed policies for the execution role.
        envoy_arguments: for Envoy's command line, such as `["--log-level", "debug"]`.
        token_secret: the secret of the service's token. Default: `<prefix>-<service>` is made;
            give it where another task definition of the same service has made it, or if it exists.
        provision_on_deploy: whether the deployment makes sure of the token before services are
            created. Default: with ACLs.

    Raises:
        MeshError: if it cannot work; names everything that is wrong, and what to do.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        mesh: Mesh,
        containers: Mapping[str, ecs.ContainerDefinitionOptions],
        service_name: str | None = None,
        family: str | None = None,
        port: int = 0,
        outbound_only: bool = False,
        upstreams: Sequence[Upstream] = (),
        checks: Sequence[Check] = (),
        service_tags: Sequence[str] = (),
        service_meta: Mapping[str, str] | None = None,
        weights: Weights | None = None,
        enable_tag_override: bool = False,
        proxy_config: Mapping[str, Any] | None = None,
        mesh_gateway: str | None = None,
        expose: Mapping[str, Any] | None = None,
        public_listener_port: int = layout.DEFAULT_PUBLIC_LISTENER_PORT,
        cpu: int = 256,
        memory_mib: int = 512,
        architecture: Architecture = Architecture.X86_64,
        compatibility: ecs.Compatibility = ecs.Compatibility.FARGATE,
        volumes: Sequence[ecs.Volume] = (),
        log_driver: ecs.LogDriver | None = None,
        task_role: iam.IRole | None = None,
        execution_role: iam.IRole | None = None,
        task_policies: Sequence[iam.IManagedPolicy] = (),
        execution_policies: Sequence[iam.IManagedPolicy] = (),
        envoy_arguments: Sequence[str] = (),
        token_secret: secretsmanager.ISecret | None = None,
        provision_on_deploy: bool = True,
    ) -> None:
        super().__init__(scope, construct_id)
        self.mesh = mesh
        self.service_name = service_name or family or ""
        self._architecture = architecture
        self._compatibility = compatibility
        self._public_listener_port = public_listener_port
        config = TaskConfig(
            bootstrap_dir=layout.BOOTSTRAP_DIR,
            service=ServiceConfig(
                name=self.service_name,
                port=port,
                tags=tuple(service_tags),
                meta=dict(service_meta or {}),
                enable_tag_override=enable_tag_override,
                weights=weights,
                checks=tuple(checks),
            ),
            proxy=ProxyConfig(
                public_listener_port=public_listener_port,
                config=dict(proxy_config or {}),
                upstreams=tuple(upstream._to_config() for upstream in upstreams),  # noqa: SLF001
                mesh_gateway=mesh_gateway,
                expose=expose,
            ),
            health_sync_containers=() if checks else tuple(_with_health(containers)),
        )
        problems = [
            *self._name_problems(),
            *self._port_problems(port, outbound_only=outbound_only, upstreams=upstreams),
            *self._container_problems(containers, volumes),
            *self._secret_problems(token_secret),
        ]
        if compatibility not in _FARGATE | _EC2:
            problems.append("compatibility has to be FARGATE, EC2 or EC2_AND_FARGATE.")
        if not problems:
            problems += _config_problems(config)
        if problems:
            raise MeshError(self, problems)

        self.task_definition = ecs.TaskDefinition(
            self,
            "TaskDefinition",
            family=family or self.service_name,
            compatibility=compatibility,
            network_mode=ecs.NetworkMode.AWS_VPC,
            cpu=str(cpu),
            memory_mib=str(memory_mib),
            runtime_platform=self._runtime_platform() if compatibility in _FARGATE else None,
            volumes=[*(ecs.Volume(name=name) for name in (_DATA, _BINARY, _ENVOY)), *volumes],
            task_role=task_role,
            execution_role=execution_role,
        )
        self._complete_definition()
        self._log_driver = log_driver or self._own_log_driver()
        self.token_secret: secretsmanager.ISecret | None = None
        if mesh.acls:
            self.token_secret = token_secret or self._own_token_secret()
        applications = [self._application(name, options) for name, options in containers.items()]
        consul, init = self._consul_client(), self._mesh_init(config)
        sidecar = self._sidecar_proxy(consul, init, envoy_arguments)
        if config.health_sync_containers:
            self._health_sync(consul, init, config)
        for application in applications:
            application.add_container_dependencies(
                _after(init, ecs.ContainerDependencyCondition.SUCCESS),
                _after(sidecar, ecs.ContainerDependencyCondition.HEALTHY),
            )
        self.task_role = self.task_definition.task_role
        self.execution_role = self.task_definition.obtain_execution_role()
        self._give_roles(task_policies, execution_policies)
        if public_listener_port != layout.DEFAULT_PUBLIC_LISTENER_PORT:
            mesh.let_in(public_listener_port)
        self._provisioned: Construct | None = None
        if self.token_secret is not None and provision_on_deploy:
            self._provisioned = mesh.controller.provision(
                self, "Token", service_name=self.service_name, token_secret=self.token_secret
            )
        self.node.add_validation(TagsReachTheTasks(self.task_definition))

    def container(self, name: str) -> ecs.ContainerDefinition:
        """Return a container: one of the application's, or of the mesh's own.

        Raises:
            MeshError: if there is none of that name.

        """
        found = self.task_definition.find_container(name)
        if found is None:
            raise MeshError(self, [f'The task has no container "{name}".'])
        return found

    def service(
        self,
        construct_id: str,
        *,
        cluster: ecs.ICluster,
        launch_type: ecs.LaunchType | None = None,
        **arguments: Any,
    ) -> ecs.FargateService | ecs.Ec2Service:
        """Make an ECS service that runs the task and gives it its tags.

        It is created after the deployment has made sure of the token, goes back to what ran before
        if a deployment fails, and its tasks can talk to the others of the mesh.

        Args:
            construct_id: its ID in this construct.
            cluster: the controller's ECS cluster.
            launch_type: FARGATE or EC2. Default: FARGATE if the task may run there.
            **arguments: any other of `ecs.FargateService` or `ecs.Ec2Service`; `security_groups`
                are added to those of the mesh.

        Raises:
            MeshError: if the task cannot run like that, or could not get its tags.

        """
        on_fargate = self._compatibility in _FARGATE
        launch_type = launch_type or (ecs.LaunchType.FARGATE if on_fargate else ecs.LaunchType.EC2)
        possible = {
            ecs.LaunchType.FARGATE: _FARGATE,
            ecs.LaunchType.EC2: _EC2,
        }.get(launch_type, frozenset())
        problems = [
            f'A mesh service sets "{name}" itself. Leave it out.'
            for name in ("propagate_tags", "task_definition")
            if name in arguments
        ]
        problems += self._cluster_problems(cluster)
        if self._compatibility not in possible:
            problems.append(
                f"The task cannot be launched on {launch_type.name}. Give MeshTask a compatibility "
                "that includes it."
            )
        if problems:
            raise MeshError(self, problems)
        make = ecs.FargateService if launch_type == ecs.LaunchType.FARGATE else ecs.Ec2Service
        defaults: dict[str, Any] = {"circuit_breaker": ecs.DeploymentCircuitBreaker(rollback=True)}
        if not arguments.get("daemon"):
            # CDK's own default stops half of the tasks before new ones are there. (A daemon's task
            # has to go before its successor can come.)
            defaults["min_healthy_percent"] = 100
        groups = [*self.mesh.security_groups, *arguments.pop("security_groups", ())]
        service: ecs.FargateService | ecs.Ec2Service = make(
            self,
            construct_id,
            cluster=cluster,
            task_definition=self.task_definition,
            propagate_tags=ecs.PropagatedTagSource.TASK_DEFINITION,
            security_groups=groups,
            **(defaults | arguments),
        )
        if self.mesh.acls:
            # Without provisioning the agent's token is still to be there, which the controller's
            # own deployment makes.
            service.node.add_dependency(self._provisioned or self.mesh.controller)
        return service

    def _cluster_problems(self, cluster: ecs.ICluster) -> Iterator[str]:
        if not self.mesh.acls:
            return
        ours, theirs = cluster.cluster_name, self.mesh.controller.cluster.cluster_name
        # What CloudFormation names cannot be compared here.
        if ours != theirs and not (Token.is_unresolved(ours) or Token.is_unresolved(theirs)):
            yield (
                f'The ECS cluster is "{ours}", but the controller makes tokens for "{theirs}". '
                "Run the service there, or make a controller for this cluster."
            )

    # --- what cannot work ----------------------------------------------------------------------

    def _name_problems(self) -> Iterator[str]:
        if not self.service_name:
            yield "Give the service_name, or the family of the task definition."
        elif not names.is_valid_service_name(self.service_name):
            advice = self.service_name.lower()
            suggestion = (
                f'Give service_name="{advice}".'
                if names.is_valid_service_name(advice)
                else "Give another service_name."
            )
            yield (
                f'"{self.service_name}" is no valid service name. Allowed: '
                f"{names.SERVICE_NAME_RULE}. {suggestion}"
            )

    def _port_problems(
        self, port: int, *, outbound_only: bool, upstreams: Sequence[Upstream]
    ) -> Iterator[str]:
        listener = self._public_listener_port
        if port == 0 and not outbound_only:
            yield (
                "There is no port. Give the port that the application listens on, or "
                "outbound_only=True if nobody calls it."
            )
        if port != 0 and outbound_only:
            yield f"The service is outbound_only, but has the port {port}. Leave one of them out."
        if listener in MESH_PORTS:
            yield _port_in_use("public_listener_port", listener)
        if port in MESH_PORTS | {listener}:
            yield _port_in_use("port", port)
        taken: dict[tuple[str, int], Upstream] = {}
        for upstream in upstreams:
            local = upstream.local_port
            if local in MESH_PORTS | {listener}:
                yield _port_in_use(f"local_port of the upstream {upstream.service}", local)
            if local == port and port != 0:
                yield (
                    f'The upstream "{upstream.service}" has the local_port {local}, where the '
                    "application itself listens. Give it another one."
                )
            address = (upstream.local_address or _LOOPBACK, local)
            other = taken.setdefault(address, upstream)
            if other is not upstream:
                yield (
                    f'The upstreams "{other.service}" and "{upstream.service}" have the same '
                    f"local_port {local}. Give each its own."
                )

    def _secret_problems(self, given: secretsmanager.ISecret | None) -> Iterator[str]:
        if given is None:
            return
        if not self.mesh.acls:
            yield "There is a token_secret, but the mesh has no ACLs. Leave it out."
            return
        wanted = names.service_secret_name(self.mesh.controller.secret_prefix, self.service_name)
        found = given.secret_name
        # A secret that is made in the app has a name only when it is deployed.
        if not Token.is_unresolved(found) and found != wanted:
            yield (
                f'The token_secret is "{found}", but TaskProvisioning writes the token of this '
                f'service to "{wanted}". Give that one, or leave it out to have it made.'
            )

    def _container_problems(
        self,
        containers: Mapping[str, ecs.ContainerDefinitionOptions],
        volumes: Sequence[ecs.Volume],
    ) -> Iterator[str]:
        if not containers:
            yield "There is no container of the application. Give containers={…}."
        for name, options in containers.items():
            if name in layout.MESH_CONTAINERS:
                yield f'The container name "{name}" is the mesh\'s own. Give it another name.'
            if options.container_name not in {None, name}:
                yield (
                    f'The container "{name}" has the container_name "{options.container_name}". '
                    "Leave that out: its key is its name."
                )
            for mapping in options.port_mappings or ():
                if mapping.container_port in MESH_PORTS | {self._public_listener_port}:
                    yield _port_in_use(f"port of the container {name}", mapping.container_port)
        if containers and not any(
            options.essential is not False for options in containers.values()
        ):
            yield "No container of the application is essential. One has to be."
        for volume in volumes:
            if volume.name in _VOLUMES:
                yield f'The volume name "{volume.name}" is the mesh\'s own. Give it another name.'

    # --- the task definition -------------------------------------------------------------------

    def _runtime_platform(self) -> ecs.RuntimePlatform:
        return ecs.RuntimePlatform(
            cpu_architecture=ecs.CpuArchitecture.of(self._architecture.value),
            operating_system_family=ecs.OperatingSystemFamily.LINUX,
        )

    def _complete_definition(self) -> None:
        """Add what CDK's construct does not take, or not here."""
        resource = cast("ecs.CfnTaskDefinition", self.task_definition.node.default_child)
        if self._compatibility not in _FARGATE and self._architecture is Architecture.ARM64:
            # CDK refuses it for EC2 alone, where ECS takes it, and finds machines by it.
            resource.runtime_platform = ecs.CfnTaskDefinition.RuntimePlatformProperty(
                cpu_architecture=self._architecture.value, operating_system_family="LINUX"
            )
        for key, value in (
            (names.MESH_TAG, "true"),
            (names.SERVICE_NAME_TAG, self.service_name),
        ):
            # Of the definition alone, not of the roles below it.
            Tags.of(self.task_definition).add(
                key, value, include_resource_types=["AWS::ECS::TaskDefinition"]
            )

    def _own_log_driver(self) -> ecs.LogDriver:
        group = logs.LogGroup(
            self,
            "Logs",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=RemovalPolicy.DESTROY,
        )
        return ecs.LogDrivers.aws_logs(stream_prefix=self.service_name, log_group=group)

    def _own_token_secret(self) -> secretsmanager.Secret:
        controller = self.mesh.controller
        self.mesh.claim_token_secret(self.service_name, self)
        return make_token_secret(
            self,
            "TokenSecret",
            name=names.service_secret_name(controller.secret_prefix, self.service_name),
            description=f"Consul token of the service {self.service_name}",
            cluster_arn=controller.cluster.cluster_arn,
            service_name=self.service_name,
            encryption_key=controller.encryption_key,
            removal_policy=RemovalPolicy.DESTROY,
        )

    def _give_roles(
        self,
        task_policies: Sequence[iam.IManagedPolicy],
        execution_policies: Sequence[iam.IManagedPolicy],
    ) -> None:
        """Add the given policies, and the use of keys to the role that reads the secrets."""
        for policy in task_policies:
            self.task_role.add_managed_policy(policy)
        for policy in execution_policies:
            self.execution_role.add_managed_policy(policy)
        servers = self.mesh.servers
        secrets = [self.token_secret, servers.gossip_key_secret, servers.ca_secret]
        if self.mesh.acls:
            secrets.append(self.mesh.controller.client_token_secret)
        keys = [secret.encryption_key for secret in secrets if secret is not None]
        for statement in key_statements(self, DECRYPT, keys):
            self.task_definition.add_to_execution_role_policy(statement)
        for statement in self.mesh.discovery_statements:
            self.task_definition.add_to_task_role_policy(statement)

    # --- the containers ------------------------------------------------------------------------

    def _application(
        self, name: str, options: ecs.ContainerDefinitionOptions
    ) -> ecs.ContainerDefinition:
        # The one way to take a jsii struct apart again that leaves out what was not given.
        given = {key: value for key, value in options._values.items() if value is not None}  # noqa: SLF001
        return self.task_definition.add_container(name, **({"logging": self._log_driver} | given))

    def _consul_client(self) -> ecs.ContainerDefinition:
        client, servers = self.mesh.consul_client, self.mesh.servers
        secrets = {}
        if client.acls:
            secrets[consul_client.AGENT_TOKEN] = self._secret(
                "ClientToken", self.mesh.controller.client_token_secret, "token"
            )
        if client.gossip and servers.gossip_key_secret is not None:
            secrets[consul_client.GOSSIP_KEY] = self._secret("GossipKey", servers.gossip_key_secret)
        if client.tls and servers.ca_secret is not None:
            secrets[consul_client.CA_PEM] = self._secret("Ca", servers.ca_secret)
        container = self._container(
            layout.CONSUL_CLIENT_CONTAINER,
            image=self.mesh.consul_image,
            entry_point=["/bin/sh", "-ec"],
            command=[client.script],
            environment={consul_client.CONFIG: Stack.of(self).to_json_string(client.config)},
            secrets=secrets,
        )
        _mount(container, _DATA, consul_client.DATA_DIR)
        _mount(container, _BINARY, layout.CONSUL_INJECT_DIR)
        return container

    def _mesh_init(self, config: TaskConfig) -> ecs.ContainerDefinition:
        container = self._program(
            layout.MESH_INIT_CONTAINER,
            layout.MESH_INIT,
            config,
            user=layout.ENVOY_UID,
            essential=False,
        )
        _mount(container, _BINARY, layout.CONSUL_INJECT_DIR, read_only=True)
        _mount(container, _ENVOY, layout.BOOTSTRAP_DIR)
        return container

    def _sidecar_proxy(
        self,
        consul: ecs.ContainerDefinition,
        init: ecs.ContainerDefinition,
        arguments: Sequence[str],
    ) -> ecs.ContainerDefinition:
        listener = f"/dev/tcp/{_LOOPBACK}/{self._public_listener_port}"
        container = self._container(
            layout.SIDECAR_PROXY_CONTAINER,
            image=self.mesh.envoy_image,
            entry_point=["envoy"],
            # Hot restart is for two Envoys on one machine, which would share memory and a socket.
            command=["--config-path", _BOOTSTRAP_FILE, "--disable-hot-restart", *arguments],
            # The only user that can read the file, which has the service's token in it.
            user=_user(layout.ENVOY_UID),
            ulimits=[
                ecs.Ulimit(
                    name=ecs.UlimitName.NOFILE, soft_limit=_OPEN_FILES, hard_limit=_OPEN_FILES
                )
            ],
            health_check=ecs.HealthCheck(
                # Whether the public listener is open.
                command=["CMD", "bash", "-c", f"exec 3<>{listener}"],
                # The application waits for the first one that succeeds.
                interval=Duration.seconds(5),
                timeout=Duration.seconds(5),
                retries=10,
            ),
        )
        # Not read-only: there is the socket of Envoy's administration, which only it can reach.
        _mount(container, _ENVOY, layout.BOOTSTRAP_DIR)
        container.add_container_dependencies(*_after_start(consul, init))
        return container

    def _health_sync(
        self,
        consul: ecs.ContainerDefinition,
        init: ecs.ContainerDefinition,
        config: TaskConfig,
    ) -> None:
        container = self._program(
            layout.HEALTH_SYNC_CONTAINER,
            layout.HEALTH_SYNC,
            config,
            user=layout.HEALTH_SYNC_UID,
            essential=True,
        )
        container.add_container_dependencies(*_after_start(consul, init))

    def _program(
        self, name: str, command: str, config: TaskConfig, *, user: int, essential: bool
    ) -> ecs.ContainerDefinition:
        """Add a container of one of our own programs."""
        secrets = {}
        if self.token_secret is not None:
            secrets[layout.TOKEN_VARIABLE] = self._secret(
                f"TokenFor{command}", self.token_secret, "token"
            )
        return self._container(
            name,
            image=self.mesh.mesh_init_image(self._architecture),
            command=[command],
            environment={layout.CONFIG_VARIABLE: config.to_json()},
            secrets=secrets,
            user=_user(user),
            essential=essential,
        )

    def _secret(
        self, construct_id: str, secret: secretsmanager.ISecret, field: str | None = None
    ) -> ecs.Secret:
        """Refer to a secret; the execution role is granted to read it."""
        return ecs.Secret.from_secrets_manager(without_key(self, construct_id, secret), field)

    def _container(
        self,
        name: str,
        *,
        secrets: Mapping[str, ecs.Secret] | None = None,
        essential: bool = True,
        **options: Any,
    ) -> ecs.ContainerDefinition:
        """Add a container of the mesh's.

        Essential, so that a task whose proxy or agent has died does not stay in the catalog.
        """
        if self._compatibility in _EC2:
            options["memory_reservation_mib"] = _RESERVED_MIB[name]
        return self.task_definition.add_container(
            name,
            essential=essential,
            readonly_root_filesystem=True,
            logging=self._log_driver,
            secrets=secrets or None,
            **options,
        )


def _with_health(containers: Mapping[str, ecs.ContainerDefinitionOptions]) -> Iterator[str]:
    """Yield the containers whose health Consul is to know."""
    for name, options in containers.items():
        if options.essential is not False and options.health_check is not None:
            yield name


def _config_problems(config: TaskConfig) -> Iterator[str]:
    """Yield what mesh-init would say of its configuration."""
    try:
        config.to_json()
    except TaskConfigError as error:
        yield str(error)


def _user(uid: int) -> str:
    """Return a container's user: with a group of its own, for without one it has root's."""
    return f"{uid}:{uid}"


def _port_in_use(what: str, port: float) -> str:
    return f"The {what} is {port}, which the mesh itself uses in the task. Give another one."


def _mount(
    container: ecs.ContainerDefinition, volume: str, path: str, *, read_only: bool = False
) -> None:
    container.add_mount_points(
        ecs.MountPoint(source_volume=volume, container_path=path, read_only=read_only)
    )


def _after(
    container: ecs.ContainerDefinition, condition: ecs.ContainerDependencyCondition
) -> ecs.ContainerDependency:
    return ecs.ContainerDependency(container=container, condition=condition)


def _after_start(
    consul: ecs.ContainerDefinition, init: ecs.ContainerDefinition
) -> list[ecs.ContainerDependency]:
    """What comes up when the service is registered, and goes down before the agent does."""
    return [
        _after(init, ecs.ContainerDependencyCondition.SUCCESS),
        _after(consul, ecs.ContainerDependencyCondition.START),
    ]
