"""The development server: what is made, what its container really does, and what is refused."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import cdk_nag
import pytest
from aws_cdk import Annotations, Aws, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from aws_cdk import aws_servicediscovery as servicediscovery
from cfnlint.api import lint  # type: ignore[import-untyped]
from cfnlint.config import ManualArgs  # type: ignore[import-untyped]

from infrastructure.consul_dev_server import ConsulDevServer, UiLoadBalancer
from infrastructure.mesh import CONSUL_IMAGE, Architecture, MeshError
from infrastructure.server_config import ServerConfig
from tests.infrastructure.mesh_apps import SynthesizeMesh, image, new_app
from tests.infrastructure.test_controller_docs import section
from tests.readable_template import ReadableTemplate
from tests.synthesized import IRELAND, Deployed

CERTIFICATE = IRELAND.arn("acm", "certificate/11111111-2222-3333-4444-555555555555")
NAMESPACE = IRELAND.arn("servicediscovery", "namespace/ns-0123456789abcdef")


def new_vpc(stack: Stack, construct_id: str = "Vpc") -> ec2.Vpc:
    return ec2.Vpc(
        stack, construct_id, max_azs=2, nat_gateways=1, restrict_default_security_group=False
    )


def private_namespace(stack: Stack) -> servicediscovery.INamespace:
    return servicediscovery.PrivateDnsNamespace.from_private_dns_namespace_attributes(
        stack,
        "Existing",
        namespace_arn=NAMESPACE,
        namespace_id="ns-0123456789abcdef",
        namespace_name="mesh.example",
    )


def make_servers(stack: Stack) -> None:
    """Make a server with nothing said, one with everything, and one with a public address."""
    vpc = new_vpc(stack)
    cluster = ecs.Cluster(stack, "Cluster", vpc=vpc)
    ConsulDevServer(stack, "Plain", cluster=cluster, vpc=vpc)
    ConsulDevServer(
        stack,
        "Everything",
        # Which knows of no VPC.
        cluster=ecs.Cluster.from_cluster_arn(
            stack, "Known", IRELAND.arn("ecs", "cluster/my-cluster")
        ),
        vpc=vpc,
        vpc_subnets=ec2.SubnetSelection(one_per_az=True),
        datacenter="eu-1",
        namespace=private_namespace(stack),
        image=image("registry/consul:1.20.0"),
        cpu=512,
        memory_mib=1024,
        architecture=Architecture.ARM64,
        launch_type=ecs.LaunchType.EC2,
        load_balancer=UiLoadBalancer(
            allow_from=[ec2.Peer.ipv4("203.0.113.0/24"), ec2.Peer.ipv4("198.51.100.7/32")],
            certificate=elbv2.ListenerCertificate.from_arn(CERTIFICATE),
            internet_facing=True,
        ),
    )
    ConsulDevServer(
        stack,
        "Public",
        cluster=cluster,
        vpc=vpc,
        namespace="public.internal",
        assign_public_ip=True,
        load_balancer=UiLoadBalancer(
            allow_from=[ec2.SecurityGroup(stack, "Vpn", vpc=vpc, description="The VPN")]
        ),
    )


@pytest.fixture(scope="module")
def servers(synthesize_mesh: SynthesizeMesh) -> Deployed:
    return synthesize_mesh(make_servers)


@pytest.fixture(scope="module")
def template(servers: Deployed) -> ReadableTemplate:
    return ReadableTemplate(servers.synthesized.template)


def container(template: ReadableTemplate, name: str = "Plain") -> dict[str, Any]:
    """Return the container of a server, with what is a list of pairs as a mapping."""
    found: dict[str, Any]
    (found,) = template.properties(f"{name}/TaskDefinition")["ContainerDefinitions"]
    return found | {
        "Environment": {each["Name"]: each["Value"] for each in found["Environment"]},
        "Secrets": {each["Name"]: each["ValueFrom"] for each in found["Secrets"]},
    }


# --------------------------------------------------------------------------------------------------
# The template
# --------------------------------------------------------------------------------------------------


def test_synthesizing_says_nothing(servers: Deployed) -> None:
    assert servers.synthesized.messages == []


def test_cfn_lint_finds_nothing(servers: Deployed) -> None:
    config = ManualArgs(
        regions=["eu-west-1"],
        include_checks=["I"],
        ignore_checks=["W3005"],  # CDK writes dependencies that a reference implies anyway
    )

    found = lint(json.dumps(servers.synthesized.template), config=config)

    assert [f"{match.rule.id} {match.message} at {match.path}" for match in found] == []


NAG_REASONS = {
    "AwsSolutions-ECS2": "The configuration, and no secret.",
    "AwsSolutions-ELB2": "Who asks the UI of a server for development, nobody has to look up.",
    "AwsSolutions-SMG4": "The controller's workflows write these; no rotation function could.",
}


def test_cdk_nag_finds_nothing_without_a_reason(servers: Deployed) -> None:
    report = cdk_nag.AwsSolutionsChecks(servers.synthesized.app).validate_scope(
        servers.synthesized.app
    )
    assert report.violations is not None

    found = {
        violation.rule_name.partition("[")[0]
        for violation in report.violations
        for resource in violation.violating_resources
        # The VPC and the ECS cluster are somebody else's.
        if resource.construct_path
        and not resource.construct_path.startswith(("Mesh/Vpc/", "Mesh/Cluster/"))
    }

    assert found == set(NAG_REASONS)


def test_the_service_has_never_more_than_one_task(template: ReadableTemplate) -> None:
    assert template.resources["Plain/Service/Service"] == {
        "Type": "AWS::ECS::Service",
        "Properties": {
            "Cluster": "Cluster",
            "DeploymentConfiguration": {
                "DeploymentCircuitBreaker": {"Enable": True, "Rollback": True},
                "MaximumPercent": 100,
                "MinimumHealthyPercent": 0,
            },
            "DesiredCount": 1,
            "EnableECSManagedTags": False,
            "LaunchType": "FARGATE",
            "LoadBalancers": [],
            "NetworkConfiguration": {
                "AwsvpcConfiguration": {
                    "AssignPublicIp": "DISABLED",
                    "SecurityGroups": ["Plain/SecurityGroup.GroupId"],
                    "Subnets": ["Vpc/PrivateSubnet1/Subnet", "Vpc/PrivateSubnet2/Subnet"],
                }
            },
            "ServiceRegistries": [{"RegistryArn": "Plain/Service/CloudmapService.Arn"}],
            "TaskDefinition": "Plain/TaskDefinition",
        },
        # What its first task needs: the rights to read its secrets, and a way to the images.
        "DependsOn": [
            "Plain/TaskDefinition/ExecutionRole",
            "Plain/TaskDefinition/ExecutionRole/DefaultPolicy",
            "Plain/TaskDefinition/TaskRole",
            "Vpc/PrivateSubnet1/DefaultRoute",
            "Vpc/PrivateSubnet1/RouteTableAssociation",
            "Vpc/PrivateSubnet2/DefaultRoute",
            "Vpc/PrivateSubnet2/RouteTableAssociation",
        ],
    }


def test_it_is_found_by_its_name_in_a_namespace_of_its_own(template: ReadableTemplate) -> None:
    namespace = template.properties("Plain/Namespace")
    record = template.properties("Plain/Service/CloudmapService")

    assert (namespace["Name"], namespace["Vpc"]) == ("consul.internal", "Vpc")
    assert record == {
        "DnsConfig": {
            "DnsRecords": [{"TTL": 10, "Type": "A"}],
            "NamespaceId": "Plain/Namespace.Id",
            "RoutingPolicy": "MULTIVALUE",
        },
        "HealthCheckCustomConfig": {"FailureThreshold": 1},
        "Name": "server",
        "NamespaceId": "Plain/Namespace.Id",
    }


def test_the_container_has_its_secrets_from_secrets_manager(template: ReadableTemplate) -> None:
    found = container(template)

    assert found["Secrets"] == {
        "CONSUL_GOSSIP_ENCRYPTION_KEY": "Plain/Secrets/GossipKey",
        "CONSUL_CACERT_PEM": "Plain/Secrets/Ca",
        "CONSUL_INITIAL_MANAGEMENT_TOKEN": "Plain/Secrets/ManagementToken",
        "CONSUL_SERVER_CERTIFICATE_PEM": ("Plain/Secrets/Certificate-consul-server:certificate::"),
        "CONSUL_SERVER_PRIVATE_KEY_PEM": ("Plain/Secrets/Certificate-consul-server:private_key::"),
    }


def test_the_container_is_like_this_besides(template: ReadableTemplate) -> None:
    found = container(template)
    for tested_elsewhere in ("Command", "Environment", "HealthCheck", "Secrets"):
        del found[tested_elsewhere]

    assert found == {
        "EntryPoint": ["/bin/sh", "-ec"],
        "Essential": True,
        "Image": CONSUL_IMAGE,
        "LogConfiguration": {
            "LogDriver": "awslogs",
            "Options": {
                "awslogs-group": "Plain/Logs",
                "awslogs-region": "AWS::Region",
                "awslogs-stream-prefix": "consul-server",
            },
        },
        "MountPoints": [
            {"ContainerPath": "/consul", "ReadOnly": False, "SourceVolume": "consul_data"}
        ],
        "Name": "consul-server",
        "PortMappings": [
            {"ContainerPort": 8300, "Protocol": "tcp"},
            {"ContainerPort": 8301, "Protocol": "tcp"},
            {"ContainerPort": 8301, "Protocol": "udp"},
            {"ContainerPort": 8501, "Protocol": "tcp"},
        ],
        "ReadonlyRootFilesystem": True,
    }


def test_the_role_that_starts_the_task_reads_its_secrets_and_nothing_else(
    template: ReadableTemplate,
) -> None:
    policy = template.properties("Plain/TaskDefinition/ExecutionRole/DefaultPolicy")

    assert policy["PolicyDocument"]["Statement"] == [
        {
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Effect": "Allow",
            "Resource": "Plain/Logs.Arn",
        },
        {
            "Action": ["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"],
            "Effect": "Allow",
            "Resource": [
                "Plain/Secrets/Ca",
                "Plain/Secrets/Certificate-consul-server",
                "Plain/Secrets/GossipKey",
                "Plain/Secrets/ManagementToken",
            ],
        },
        {
            "Action": "kms:Decrypt",
            "Condition": {
                "StringLike": {"kms:ViaService": "secretsmanager.AWS::Region.amazonaws.com*"}
            },
            "Effect": "Allow",
            "Resource": "Plain/Secrets/EncryptionKey.Arn",
        },
    ]
    policies = template.of_type("AWS::IAM::Policy", "Plain/")
    assert list(policies) == ["Plain/TaskDefinition/ExecutionRole/DefaultPolicy"]


def test_nothing_stays_when_the_stack_goes(template: ReadableTemplate) -> None:
    kept = [
        name
        for name, resource in template.resources.items()
        if resource.get("DeletionPolicy", "Delete") != "Delete"
    ]

    assert kept == []


def ingress(template: ReadableTemplate, group: str) -> set[tuple[Any, ...]]:
    """Return what a security group lets in: protocol, ports and source."""
    rules = template.properties(group).get("SecurityGroupIngress", [])
    rules += [
        rule
        for rule in template.of_type("AWS::EC2::SecurityGroupIngress").values()
        if rule["GroupId"] == f"{group}.GroupId"
    ]
    return {
        (
            rule["IpProtocol"],
            rule["FromPort"],
            rule["ToPort"],
            rule.get("CidrIp") or rule["SourceSecurityGroupId"],
        )
        for rule in rules
    }


def test_only_the_handlers_and_the_load_balancer_are_let_in_to_the_api(
    template: ReadableTemplate,
) -> None:
    plain = ("tcp", 8501, 8501, "Plain/HandlersSecurityGroup.GroupId")
    assert ingress(template, "Plain/SecurityGroup") == {plain}
    assert ingress(template, "Plain/HandlersSecurityGroup") == set()
    assert ingress(template, "Everything/SecurityGroup") == {
        ("tcp", 8501, 8501, "Everything/HandlersSecurityGroup.GroupId"),
        ("tcp", 8501, 8501, "Everything/Ui/SecurityGroup.GroupId"),
    }


def test_a_server_with_everything_set_is_like_this(template: ReadableTemplate) -> None:
    task = template.properties("Everything/TaskDefinition")
    service = template.properties("Everything/Service/Service")
    found = container(template, "Everything")

    assert (task["RequiresCompatibilities"], task["Cpu"], task["Memory"]) == (
        ["EC2"],
        "512",
        "1024",
    )
    assert task["NetworkMode"] == "awsvpc"
    assert task["RuntimePlatform"] == {
        "CpuArchitecture": "ARM64",
        "OperatingSystemFamily": "LINUX",
    }
    assert found["MemoryReservation"] == 1024
    assert found["Image"] == "registry/consul:1.20.0"
    assert json.loads(found["Environment"]["CONSUL_SERVER_CONFIG"])["datacenter"] == "eu-1"
    assert service["LaunchType"] == "EC2"
    assert service["Cluster"] == "my-cluster"
    assert service["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"
    record = template.properties("Everything/Service/CloudmapService")
    assert record["NamespaceId"] == "ns-0123456789abcdef"
    assert set(template.of_type("AWS::ServiceDiscovery::PrivateDnsNamespace")) == {
        "Plain/Namespace",
        "Public/Namespace",
    }


def test_a_server_with_a_public_address_is_in_the_public_subnets(
    template: ReadableTemplate,
) -> None:
    service = template.resources["Public/Service/Service"]

    network = service["Properties"]["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert network["AssignPublicIp"] == "ENABLED"
    assert network["Subnets"] == ["Vpc/PublicSubnet1/Subnet", "Vpc/PublicSubnet2/Subnet"]
    assert "Vpc/PublicSubnet1/DefaultRoute" in service["DependsOn"]


def test_rules_are_described_in_characters_that_ec2_takes(template: ReadableTemplate) -> None:
    rules = [
        *template.of_type("AWS::EC2::SecurityGroupIngress").values(),
        *(
            rule
            for group in template.of_type("AWS::EC2::SecurityGroup").values()
            for rule in group.get("SecurityGroupIngress", [])
        ),
    ]
    said = {rule["Description"] for rule in rules if "AWS::" not in rule["Description"]}

    assert said
    # EC2 API reference, IpRange: without an apostrophe, and a rule has no "&" either.
    assert [
        text for text in said if not re.fullmatch(r"[\w .:/()#,@\[\]+=;{}!$*-]{,255}", text)
    ] == []


# --------------------------------------------------------------------------------------------------
# The load balancer
# --------------------------------------------------------------------------------------------------


def test_there_is_no_load_balancer_unless_one_is_asked_for(template: ReadableTemplate) -> None:
    assert set(template.of_type("AWS::ElasticLoadBalancingV2::LoadBalancer")) == {
        "Everything/Ui",
        "Public/Ui",
    }


@pytest.mark.parametrize(
    ("name", "placed", "listener", "allowed"),
    [
        (
            "Everything",
            ("internet-facing", ["Vpc/PublicSubnet1/Subnet", "Vpc/PublicSubnet2/Subnet"]),
            {"Port": 443, "Protocol": "HTTPS", "Certificates": [{"CertificateArn": CERTIFICATE}]},
            {
                ("tcp", 443, 443, "203.0.113.0/24"),
                ("tcp", 443, 443, "198.51.100.7/32"),
            },
        ),
        (
            "Public",
            ("internal", ["Vpc/PrivateSubnet1/Subnet", "Vpc/PrivateSubnet2/Subnet"]),
            {"Port": 80, "Protocol": "HTTP"},
            {("tcp", 80, 80, "Vpn.GroupId")},
        ),
    ],
)
def test_the_load_balancer_lets_in_whom_it_is_told_to(
    template: ReadableTemplate,
    name: str,
    placed: tuple[str, list[str]],
    listener: Mapping[str, Any],
    allowed: set[tuple[Any, ...]],
) -> None:
    balancer = template.properties(f"{name}/Ui")
    listens = template.properties(f"{name}/Ui/Listener")

    assert (balancer["Scheme"], balancer["Subnets"]) == placed
    assert {key: listens[key] for key in listener} == listener
    assert ("Certificates" in listens) == ("Certificates" in listener)
    assert ingress(template, f"{name}/Ui/SecurityGroup") == allowed


def test_the_load_balancer_speaks_tls_to_the_server(template: ReadableTemplate) -> None:
    group = template.properties("Everything/Ui/Listener/ServerGroup")
    service = template.properties("Everything/Service/Service")

    assert (group["Port"], group["Protocol"], group["TargetType"]) == (8501, "HTTPS", "ip")
    assert (group["HealthCheckProtocol"], group["HealthCheckPath"]) == (
        "HTTPS",
        "/v1/status/leader",
    )
    assert service["LoadBalancers"] == [
        {
            "ContainerName": "consul-server",
            "ContainerPort": 8501,
            "TargetGroupArn": "Everything/Ui/Listener/ServerGroup",
        }
    ]


# --------------------------------------------------------------------------------------------------
# What the script does
# --------------------------------------------------------------------------------------------------

SECRETS = {
    "CONSUL_GOSSIP_ENCRYPTION_KEY": "the-gossip-key",
    "CONSUL_CACERT_PEM": "-----BEGIN CERTIFICATE-----\nthe CA's\n-----END CERTIFICATE-----",
    "CONSUL_INITIAL_MANAGEMENT_TOKEN": "the-management-token",
    "CONSUL_SERVER_CERTIFICATE_PEM": "-----BEGIN CERTIFICATE-----\nits own\n%s \\n",
    "CONSUL_SERVER_PRIVATE_KEY_PEM": "-----BEGIN EC PRIVATE KEY-----\nits key",
}
JQ = shutil.which("jq")
needs_jq = pytest.mark.skipif(JQ is None, reason="jq is not on PATH; the consul image has it")


class Ran:
    """The script of the container, run with stand-ins for what is only in the image.

    These are all programs that it finds, and each writes down how it was called.
    """

    def __init__(self, container: Mapping[str, Any], directory: Path) -> None:
        self._programs = directory / "bin"
        self._calls = directory / "calls"
        self._environment = directory / "environment"
        self.consul = directory / "consul"
        self._programs.mkdir(parents=True)
        self.consul.mkdir()
        self._stand_in("mkdir", 'exec /bin/mkdir "$@"')
        self._stand_in("jq", f'exec {JQ} "$@"')
        self._stand_in("curl", """echo '{"Networks": [{"IPv4Addresses": ["10.0.0.7"]}]}'""")
        self._stand_in("chown", "exit 0")
        self._stand_in("su-exec", 'shift\nexec "$@"')
        self._stand_in("consul", f"exec /usr/bin/env > {self._environment}")
        (script,) = container["Command"]
        subprocess.run(
            [*container["EntryPoint"], script.replace("/consul", str(self.consul))],
            env={
                "PATH": str(self._programs),
                "ECS_CONTAINER_METADATA_URI_V4": "http://169.254.170.2/v4/task",
                **container["Environment"],
                **{name: SECRETS[name] for name in container["Secrets"]},
            },
            check=True,
            capture_output=True,
        )

    @property
    def calls(self) -> list[str]:
        """How the programs were called."""
        text = self._calls.read_text().replace(str(self.consul), "/consul")
        return text.replace(f"{self._programs}/", "").splitlines()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the server."""
        text = self._environment.read_text()
        return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))

    def file(self, path: PurePosixPath) -> Path:
        """Return what is a file in the container."""
        return self.consul / path.relative_to("/consul")

    def _stand_in(self, name: str, does: str) -> None:
        program = self._programs / name
        program.write_text(f'#!/bin/sh\necho "$0 $*" >> {self._calls}\n{does}\n')
        program.chmod(0o755)


@pytest.fixture(scope="module")
def ran(template: ReadableTemplate, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(container(template), tmp_path_factory.mktemp("ran"))


CONFIG = ServerConfig(
    node_name="consul-server",
    datacenter="dc1",
    bootstrap_expect=1,
    config_dir=PurePosixPath("/consul/config"),
    data_dir=PurePosixPath("/consul/data"),
)


def test_shellcheck_finds_nothing_in_the_script(template: ReadableTemplate) -> None:
    (script,) = container(template)["Command"]
    checked = subprocess.run(
        [Path(sys.executable).parent / "shellcheck", "--shell=sh", "--severity=style", "-"],
        input="set -e\n" + script,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (checked.returncode, checked.stdout) == (0, "")


@needs_jq
def test_the_script_writes_the_configuration_of_a_server(ran: Ran) -> None:
    assert json.loads(ran.file(CONFIG.file).read_text()) == CONFIG.config
    machine = json.loads(ran.file(CONFIG.machine_file).read_text())
    assert machine == {"bind_addr": "10.0.0.7", "advertise_addr": "10.0.0.7"}


@needs_jq
def test_the_script_puts_the_secrets_into_files(ran: Ran) -> None:
    assert json.loads(ran.file(CONFIG.secrets_file).read_text()) == {
        "encrypt": "the-gossip-key",
        "acl": {
            "tokens": {
                "initial_management": "the-management-token",
                "agent": "the-management-token",
            }
        },
    }
    for file, name in (
        (CONFIG.ca_file, "CONSUL_CACERT_PEM"),
        (CONFIG.certificate_file, "CONSUL_SERVER_CERTIFICATE_PEM"),
        (CONFIG.key_file, "CONSUL_SERVER_PRIVATE_KEY_PEM"),
    ):
        assert ran.file(file).read_text() == f"{SECRETS[name]}\n"


@needs_jq
def test_the_script_writes_nothing_else_and_nobody_else_can_read_it(ran: Ran) -> None:
    found = {
        str(path.relative_to(ran.consul)): f"{path.stat().st_mode & 0o777:o}"
        for path in ran.consul.rglob("*")
    }

    assert found == {
        "config": "700",
        "config/machine.json": "600",
        "config/secrets.json": "600",
        "config/server.json": "600",
        "config/tls": "700",
        "config/tls/ca.pem": "600",
        "config/tls/server.pem": "600",
        "config/tls/server-key.pem": "600",
        "data": "700",
        "snapshots": "700",
    }


@needs_jq
def test_the_server_takes_over_as_its_own_user_and_what_it_needs_is_its_own(ran: Ran) -> None:
    assert ran.calls[-3:] == [
        "chown -R consul:consul /consul",
        "su-exec consul:consul consul agent -config-dir=/consul/config",
        "consul agent -config-dir=/consul/config",
    ]


@needs_jq
def test_no_secret_is_on_a_command_line_or_in_the_environment_of_the_server(ran: Ran) -> None:
    assert set(ran.environment) & set(SECRETS) == set()
    for secret in SECRETS.values():
        for line in secret.splitlines():
            assert line not in "\n".join(ran.calls)
            assert line not in "\n".join(ran.environment.values())


@needs_jq
def test_a_snapshot_is_written_where_the_server_may_write(
    template: ReadableTemplate, ran: Ran
) -> None:
    directory = container(template)["Environment"]["TMPDIR"]

    assert ran.environment["TMPDIR"] == directory
    assert ran.file(PurePosixPath(directory)).is_dir()


@needs_jq
@pytest.mark.parametrize(
    ("answers", "healthy"),
    [
        ("""echo '"10.0.0.7:8300"'""", True),
        ("""echo '""'""", False),
        ("exit 7", False),
    ],
    ids=["a leader", "no leader", "nobody answers"],
)
def test_the_server_is_healthy_when_it_knows_a_leader(
    template: ReadableTemplate, tmp_path: Path, answers: str, *, healthy: bool
) -> None:
    check = container(template)["HealthCheck"]
    (tmp_path / "curl").write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/asked\n{answers}\n')
    (tmp_path / "curl").chmod(0o755)
    kind, command = check["Command"]

    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={"PATH": f"{tmp_path}:{Path(str(JQ)).parent}"},
        capture_output=True,
        check=False,
    )

    assert kind == "CMD-SHELL"
    assert (done.returncode == 0) is healthy
    asked = (tmp_path / "asked").read_text()
    assert asked.split()[-1] == "http://127.0.0.1:8500/v1/status/leader"


# --------------------------------------------------------------------------------------------------
# What it offers
# --------------------------------------------------------------------------------------------------


def made(**changes: Any) -> ConsulDevServer:
    """Make a server in a stack of its own; arguments may be functions of that."""
    stack = Stack(new_app(), "Dev")
    vpc = new_vpc(stack)
    given: dict[str, Any] = {
        "vpc": vpc,
        "cluster": lambda stack: ecs.Cluster(stack, "Cluster", vpc=vpc),
        **changes,
    }
    arguments = {key: value(stack) if callable(value) else value for key, value in given.items()}
    return ConsulDevServer(stack, "Consul", **arguments)


def test_everybody_finds_the_server_by_its_name_in_dns() -> None:
    server = made(namespace="dev.example", datacenter="eu-1")

    assert server.http_address == "https://server.dev.example:8501"
    assert server.retry_join == ("server.dev.example",)
    assert server.datacenter == "eu-1"


def test_the_controller_knows_how_to_look_after_it() -> None:
    server = made()
    managed = server.managed

    assert managed is not None
    secrets = managed.secrets
    assert (server.ca_secret, server.gossip_key_secret) == (
        secrets.ca_secret,
        secrets.gossip_key_secret,
    )
    assert (secrets.datacenter, secrets.dns_names) == ("dc1", ("server.consul.internal",))
    assert list(secrets.certificate_secrets) == ["consul-server"]
    assert secrets.certificate_lifetime.to_days() == 365
    assert secrets.chooses_management_token
    assert managed.security_group is server.security_group
    assert managed.starts_after_secrets is managed.loses_its_state is server.service
    assert managed.snapshots is None


@pytest.mark.parametrize("is_public", [False, True])
def test_the_handlers_are_in_private_subnets(*, is_public: bool) -> None:
    server = made(assign_public_ip=is_public)

    assert server.managed is not None
    network = server.managed.network
    found = network.vpc.select_subnets(subnet_type=network.subnets.subnet_type)
    assert [subnet.node.path for subnet in found.subnets] == [
        "Dev/Vpc/PrivateSubnet1",
        "Dev/Vpc/PrivateSubnet2",
    ]


def test_the_subnets_that_are_given_are_the_handlers_too() -> None:
    given = ec2.SubnetSelection(one_per_az=True)
    server = made(vpc_subnets=given)

    assert server.managed is not None
    assert server.managed.network.subnets is given


def test_everything_that_it_offers_is_explained() -> None:
    server = made()
    offered = {name for name in vars(server) if not name.startswith("_")}

    assert set(section(ConsulDevServer, "Attributes")) == offered


@pytest.mark.parametrize("kind", [ConsulDevServer, UiLoadBalancer])
def test_every_argument_is_explained(kind: type) -> None:
    # A class of CDK hides the signature behind one of its own.
    arguments = list(inspect.signature(vars(kind)["__init__"]).parameters)

    assert section(kind, "Args") == arguments[1:]


# --------------------------------------------------------------------------------------------------
# Mistakes
# --------------------------------------------------------------------------------------------------

ANYBODY = [ec2.Peer.any_ipv4()]


def only_public(stack: Stack) -> ec2.Vpc:
    return ec2.Vpc(
        stack,
        "OnlyPublic",
        nat_gateways=0,
        subnet_configuration=[
            ec2.SubnetConfiguration(name="Public", subnet_type=ec2.SubnetType.PUBLIC)
        ],
        restrict_default_security_group=False,
    )


def cluster_of(make_vpc: Callable[[Stack], ec2.IVpc]) -> dict[str, Any]:
    """Return arguments: a VPC, and a cluster in it."""

    def vpc(stack: Stack) -> ec2.IVpc:
        found = stack.node.try_find_child("OnlyPublic")
        return found if isinstance(found, ec2.Vpc) else make_vpc(stack)

    return {"vpc": vpc, "cluster": lambda stack: ecs.Cluster(stack, "Cluster", vpc=vpc(stack))}


def http_namespace(stack: Stack) -> servicediscovery.INamespace:
    return servicediscovery.HttpNamespace.from_http_namespace_attributes(
        stack,
        "Http",
        namespace_arn=NAMESPACE,
        namespace_id="ns-0123456789abcdef",
        namespace_name="mesh",
    )


NO_PRIVATE_SUBNET = (
    "The VPC has no private subnet for the handlers of the ACL controller, which have no public "
    "address, and reach AWS only through a NAT gateway or VPC endpoints. Give the VPC private "
    "subnets."
)
PUBLIC_SUBNETS = (
    "The subnets are public, where neither the server nor the handlers of the ACL controller reach "
    "AWS without a public address. Give private ones as vpc_subnets; or assign_public_ip=True, and "
    "the handlers run in the VPC's private subnets."
)
NOBODY = (
    "load_balancer: nobody may reach the UI. Give a list of who may: "
    'allow_from=[ec2.Peer.ipv4("10.0.0.0/8")].'
)
UNENCRYPTED = (
    "load_balancer: ACL tokens would go over the internet unencrypted. Give a certificate, or "
    "leave internet_facing out."
)
DATACENTER = (
    "datacenter must be the name of Consul's datacenter: lower-case letters, digits, '-' and '_'. "
    "It is the text 'DC1': Consul knows it as 'dc1'."
)
NOT_A_NAME = (
    "namespace must be the DNS name of a private namespace, such as consul.internal. It is "
)


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"datacenter": "DC1"}, [DATACENTER]),
        ({"namespace": "consul internal"}, [f'{NOT_A_NAME}"consul internal".']),
        ({"namespace": "https://consul"}, [f'{NOT_A_NAME}"https://consul".']),
        ({"namespace": ""}, [f'{NOT_A_NAME}"".']),
        ({"namespace": "consul.internal."}, [f'{NOT_A_NAME}"consul.internal.".']),
        (
            {"datacenter": Aws.STACK_NAME, "namespace": Aws.STACK_NAME},
            [
                "datacenter has to be known at synthesis. Give the text itself.",
                "namespace has to be known at synthesis. Give the text itself, or the namespace.",
            ],
        ),
        (
            {"namespace": http_namespace},
            [
                (
                    "namespace must be a private DNS namespace, or the name of one to make: in any "
                    "other the server has no address. It is HTTP."
                )
            ],
        ),
        (
            {"vpc": lambda stack: new_vpc(stack, "Other")},
            [
                (
                    "The ECS cluster runs its tasks in Dev/Vpc, but the vpc is Dev/Other. Give "
                    "both the same."
                )
            ],
        ),
        (
            {"launch_type": ecs.LaunchType.EXTERNAL},
            ["launch_type has to be FARGATE or EC2. It is EXTERNAL."],
        ),
        (
            {"launch_type": ecs.LaunchType.EC2, "assign_public_ip": True},
            [
                (
                    "On EC2 a task with a network interface of its own has no public address. "
                    "Leave assign_public_ip out, and give private subnets."
                )
            ],
        ),
        (
            {"vpc_subnets": ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC)},
            [PUBLIC_SUBNETS],
        ),
        (cluster_of(only_public), [PUBLIC_SUBNETS]),
        (cluster_of(only_public) | {"assign_public_ip": True}, [NO_PRIVATE_SUBNET]),
        ({"load_balancer": UiLoadBalancer(allow_from=[])}, [NOBODY]),
        ({"load_balancer": UiLoadBalancer(allow_from=ANYBODY[0])}, [NOBODY]),  # type: ignore[arg-type]
        ({"load_balancer": UiLoadBalancer(allow_from="10.0.0.0/8")}, [NOBODY]),  # type: ignore[arg-type]
        (
            {"load_balancer": UiLoadBalancer(allow_from=ANYBODY, internet_facing=True)},
            [UNENCRYPTED],
        ),
        (
            {
                "datacenter": "DC1",
                "load_balancer": UiLoadBalancer(allow_from=[], internet_facing=True),
            },
            [DATACENTER, NOBODY, UNENCRYPTED],
        ),
    ],
)
def test_what_cannot_work_is_refused_with_advice(
    changes: dict[str, Any], problems: list[str]
) -> None:
    with pytest.raises(MeshError) as refusal:
        made(**changes)

    assert str(refusal.value).splitlines() == [f"Dev/Consul: {problem}" for problem in problems]


def test_a_cluster_that_is_only_known_by_its_arn_runs_it_in_the_vpc(
    template: ReadableTemplate,
) -> None:
    service = template.properties("Everything/Service/Service")

    network = service["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert network["Subnets"] == ["Vpc/PrivateSubnet1/Subnet", "Vpc/PrivateSubnet2/Subnet"]


def test_subnets_of_an_imported_vpc_are_taken_as_they_are() -> None:
    def imported(stack: Stack) -> ec2.IVpc:
        vpc = ec2.Vpc.from_vpc_attributes(
            stack,
            "Imported",
            vpc_id="vpc-0123456789abcdef0",
            availability_zones=["eu-west-1a"],
            private_subnet_ids=["subnet-0123456789abcdef0"],
        )
        Annotations.of(vpc).acknowledge_warning(
            "@aws-cdk/aws-ec2:noSubnetRouteTableId", "Tasks need no route table's ID."
        )
        return vpc

    server = made(
        vpc=imported,
        cluster=lambda stack: ecs.Cluster.from_cluster_arn(
            stack, "Known", IRELAND.arn("ecs", "cluster/my-cluster")
        ),
    )

    assert server.managed is not None
    assert server.managed.network.vpc.vpc_id == "vpc-0123456789abcdef0"
