"""The task definition that a mesh task renders, whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.infrastructure import mesh_apps
from tests.infrastructure.mesh_apps import CA_SECRET_ARN, GOSSIP_SECRET_ARN, KEY_ARN, SUBNET
from tests.synthesized import IRELAND, Deployed

CLIENT_TOKEN = IRELAND.arn("secretsmanager", "secret:consul-consul-client-token-AbCdEf")
MESH_INIT_SUCCEEDED = {"ContainerName": "consul-ecs-mesh-init", "Condition": "SUCCESS"}
PROXY_HEALTHY = {"ContainerName": "sidecar-proxy", "Condition": "HEALTHY"}
CLIENT_STARTED = {"ContainerName": "consul-client", "Condition": "START"}

READ_ADDRESS = (
    'address="$(curl --fail --silent --show-error --max-time 5 --retry 5 '
    '"$ECS_CONTAINER_METADATA_URI_V4" | '
    "jq --exit-status --raw-output '.Networks[0].IPv4Addresses[0]')\""
)
OPEN_SCRIPT = f"""\
umask 077
cp "$(command -v consul)" /bin/consul-inject/.consul
chmod 0755 /bin/consul-inject/.consul
mv /bin/consul-inject/.consul /bin/consul-inject/consul
{READ_ADDRESS}
mkdir -p /consul/config /consul/data
printf '%s' "$CONSUL_CLIENT_CONFIG" | jq --arg address "$address" \
'.advertise_addr = $address | .bind_addr = $address' > /consul/config/client.json
chown -R consul:consul /consul
exec su-exec consul:consul consul agent -config-file=/consul/config/client.json"""
SECURE_SCRIPT = f"""\
umask 077
cp "$(command -v consul)" /bin/consul-inject/.consul
chmod 0755 /bin/consul-inject/.consul
mv /bin/consul-inject/.consul /bin/consul-inject/consul
{READ_ADDRESS}
mkdir -p /consul/config /consul/data
printf '%s\\n' "$CONSUL_CACERT_PEM" > /consul/config/ca.pem
printf '%s' "$CONSUL_CLIENT_CONFIG" | jq --arg address "$address" \
'.advertise_addr = $address | .bind_addr = $address | .auto_encrypt.ip_san = [$address] | \
.acl.tokens.agent = $ENV.AGENT_TOKEN | .encrypt = $ENV.CONSUL_GOSSIP_ENCRYPTION_KEY' \
> /consul/config/client.json
chown -R consul:consul /consul
unset AGENT_TOKEN CONSUL_GOSSIP_ENCRYPTION_KEY CONSUL_CACERT_PEM
exec su-exec consul:consul consul agent -config-file=/consul/config/client.json"""

OPEN_CONFIG = {
    "datacenter": "dc1",
    "data_dir": "/consul/data",
    "retry_join": ["consul.internal"],
    "client_addr": "127.0.0.1",
    "ports": {"grpc": 8502},
    "leave_on_terminate": True,
    "advertise_reconnect_timeout": "15m",
    "disable_update_check": True,
}
SECURE_CONFIG = OPEN_CONFIG | {
    "retry_join": ["10.0.0.1", "provider=aws tag_key=consul tag_value=server"],
    "acl": {"enabled": True, "default_policy": "deny", "down_policy": "async-cache"},
    "ca_file": "/consul/config/ca.pem",
    "verify_outgoing": True,
    "verify_server_hostname": True,
    "auto_encrypt": {"tls": True},
}


@pytest.fixture(scope="session")
def open_mesh(synthesize_mesh: mesh_apps.SynthesizeMesh) -> Deployed:
    """Tasks without ACLs, TLS and encrypted gossip."""
    return synthesize_mesh(mesh_apps.make_open)


@pytest.fixture(scope="session")
def secure_mesh(synthesize_mesh: mesh_apps.SynthesizeMesh) -> Deployed:
    """Tasks with all of these."""
    return synthesize_mesh(mesh_apps.make_secure)


# --------------------------------------------------------------------------------------------------
# What is expected of the mesh's own containers
# --------------------------------------------------------------------------------------------------


def logs_to(group: str, service: str) -> dict[str, Any]:
    options = {
        "awslogs-group": group,
        "awslogs-stream-prefix": service,
        "awslogs-region": "eu-west-1",
    }
    return {"LogConfiguration": {"LogDriver": "awslogs", "Options": options}}


def mount(volume: str, path: str, *, read_only: bool) -> dict[str, Any]:
    return {"SourceVolume": volume, "ContainerPath": path, "ReadOnly": read_only}


def own_container(name: str, image: str, *, essential: bool = True) -> dict[str, Any]:
    return {
        "Name": name,
        "Image": image,
        "Essential": essential,
        "ReadonlyRootFilesystem": True,
    }


def consul_client(*, secure: bool) -> dict[str, Any]:
    config = SECURE_CONFIG if secure else OPEN_CONFIG
    secrets = [
        {"Name": "AGENT_TOKEN", "ValueFrom": f"{CLIENT_TOKEN}:token::"},
        {"Name": "CONSUL_GOSSIP_ENCRYPTION_KEY", "ValueFrom": GOSSIP_SECRET_ARN},
        {"Name": "CONSUL_CACERT_PEM", "ValueFrom": CA_SECRET_ARN},
    ]
    return {
        **own_container("consul-client", "public.ecr.aws/hashicorp/consul:1.21.5"),
        "EntryPoint": ["/bin/sh", "-ec"],
        "Command": [SECURE_SCRIPT if secure else OPEN_SCRIPT],
        "Environment": [{"Name": "CONSUL_CLIENT_CONFIG", "Value": config}],
        "MountPoints": [
            mount("consul_data", "/consul", read_only=False),
            mount("consul_binary", "/bin/consul-inject", read_only=False),
        ],
        **({"Secrets": secrets} if secure else {}),
    }


def program(
    name: str, command: str, config: dict[str, Any], user: str, token: str | None
) -> dict[str, Any]:
    secrets = [{"Name": "CONSUL_HTTP_TOKEN", "ValueFrom": f"{token}:token::"}]
    return {
        **own_container(name, "registry/mesh-init"),
        "Command": [command],
        "User": user,
        "Environment": [{"Name": "CONSUL_ECS_CONFIG_JSON", "Value": config}],
        **({"Secrets": secrets} if token else {}),
    }


def mesh_init(config: dict[str, Any], *, token: str | None = None) -> dict[str, Any]:
    return program("consul-ecs-mesh-init", "mesh-init", config, "5995:5995", token) | {
        "Essential": False,
        "MountPoints": [
            mount("consul_binary", "/bin/consul-inject", read_only=True),
            mount("consul_envoy", "/consul/envoy", read_only=False),
        ],
    }


def health_sync(config: dict[str, Any], *, token: str | None = None) -> dict[str, Any]:
    return program("consul-ecs-health-sync", "health-sync", config, "5996:5996", token) | {
        "DependsOn": [MESH_INIT_SUCCEEDED, CLIENT_STARTED],
    }


def sidecar_proxy(*, port: int = 20000, arguments: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        **own_container("sidecar-proxy", "docker.io/envoyproxy/envoy:v1.34.10"),
        "EntryPoint": ["envoy"],
        "Command": [
            "--config-path",
            "/consul/envoy/envoy-bootstrap.json",
            "--disable-hot-restart",
            *list(arguments),
        ],
        "User": "5995:5995",
        "DependsOn": [MESH_INIT_SUCCEEDED, CLIENT_STARTED],
        "HealthCheck": {
            "Command": ["CMD", "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"],
            "Interval": 5,
            "Timeout": 5,
            "Retries": 10,
        },
        "Ulimits": [{"Name": "nofile", "SoftLimit": 1048576, "HardLimit": 1048576}],
        "MountPoints": [mount("consul_envoy", "/consul/envoy", read_only=False)],
    }


def app(name: str = "app", **more: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "Image": "registry/app",
        "Essential": True,
        "DependsOn": [MESH_INIT_SUCCEEDED, PROXY_HEALTHY],
        **more,
    }


def task_config(name: str, port: int, **more: Any) -> dict[str, Any]:
    return {"bootstrapDir": "/consul/envoy", "service": {"name": name, "port": port}, **more}


def definition(deployed: Deployed, name: str) -> dict[str, Any]:
    """Return a task definition's properties, with the JSON in its variables parsed."""
    properties = deployed.of_type("AWS::ECS::TaskDefinition")[f"{name}/TaskDefinition"]
    for container in properties["ContainerDefinitions"]:
        for variable in container.get("Environment", []):
            if isinstance(variable["Value"], str):
                variable["Value"] = json.loads(variable["Value"])
    return properties


def expected_definition(
    name: str, service: str, containers: list[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    """Return what all task definitions have, and what one has besides."""
    role = IRELAND.arn("iam", f"role/{name}-TaskDefinition", region=False)
    return {
        "Family": service,
        "NetworkMode": "awsvpc",
        "RequiresCompatibilities": ["FARGATE"],
        "RuntimePlatform": {"CpuArchitecture": "X86_64", "OperatingSystemFamily": "LINUX"},
        "Cpu": "256",
        "Memory": "512",
        "ExecutionRoleArn": f"{role}-ExecutionRole",
        "TaskRoleArn": f"{role}-TaskRole",
        "Tags": [
            {"Key": "consul.hashicorp.com/mesh", "Value": "true"},
            {"Key": "consul.hashicorp.com/service-name", "Value": service},
        ],
        "Volumes": [{"Name": "consul_data"}, {"Name": "consul_binary"}, {"Name": "consul_envoy"}],
        "ContainerDefinitions": [
            {**logs_to(name, service), **container} for container in containers
        ],
        **more,
    }


# --------------------------------------------------------------------------------------------------
# Task definitions
# --------------------------------------------------------------------------------------------------


def test_a_minimal_service_has_an_agent_and_a_proxy_and_nothing_that_it_does_not_use(
    open_mesh: Deployed,
) -> None:
    assert definition(open_mesh, "Minimal") == expected_definition(
        "Minimal",
        "web",
        [
            app(),
            consul_client(secure=False),
            mesh_init(task_config("web", 8080)),
            sidecar_proxy(),
        ],
    )


def test_with_acls_tls_and_gossip_its_containers_get_their_secrets_by_reference(
    secure_mesh: Deployed,
) -> None:
    token = IRELAND.arn("secretsmanager", "secret:consul-web-AbCdEf")

    assert definition(secure_mesh, "Minimal") == expected_definition(
        "Minimal",
        "web",
        [
            app(),
            consul_client(secure=True),
            mesh_init(task_config("web", 8080), token=token),
            sidecar_proxy(),
        ],
    )


def test_everything_that_can_be_said_of_a_task_is_in_its_definition(secure_mesh: Deployed) -> None:
    token = IRELAND.arn("secretsmanager", "secret:consul-shop-AbCdEf")
    config = {
        "bootstrapDir": "/consul/envoy",
        "healthSyncContainers": ["shop"],
        "service": {
            "name": "shop",
            "port": 9090,
            "tags": ["v2", "blue"],
            "meta": {"team": "shop"},
            "enableTagOverride": True,
            "weights": {"passing": 10, "warning": 1},
        },
        "proxy": {
            "publicListenerPort": 21000,
            "config": {"local_connect_timeout_ms": 2000},
            "meshGateway": {"mode": "remote"},
            "expose": {
                "paths": [{"path": "/health", "localPathPort": 9090, "listenerPort": 21500}]
            },
            "upstreams": [
                {"destinationName": "payments", "localBindPort": 1234},
                {
                    "destinationName": "stock",
                    "datacenter": "dc2",
                    "localBindAddress": "127.0.0.2",
                    "localBindPort": 1235,
                    "config": {"connect_timeout_ms": 5000},
                    "meshGateway": {"mode": "local"},
                },
                {
                    "destinationType": "prepared_query",
                    "destinationName": "nearest-search",
                    "localBindPort": 1236,
                },
            ],
        },
    }
    splunk = {
        "LogConfiguration": {
            "LogDriver": "splunk",
            "Options": {"splunk-url": "https://splunk.internal:8088"},
            "SecretOptions": [
                {
                    "Name": "splunk-token",
                    "ValueFrom": IRELAND.arn("secretsmanager", "secret:splunk-Ss2222"),
                }
            ],
        }
    }
    shop = app(
        "shop",
        HealthCheck={
            "Command": ["CMD-SHELL", "curl -f localhost:9090"],
            "Interval": 30,
            "Retries": 3,
            "Timeout": 5,
        },
        LogConfiguration={
            "LogDriver": "awslogs",
            "Options": {
                "awslogs-group": "/own/logs",
                "awslogs-stream-prefix": "own",
                "awslogs-region": "eu-west-1",
            },
        },
    )
    metrics = app(
        "metrics",
        Essential=False,
        HealthCheck={"Command": ["CMD", "true"], "Interval": 30, "Retries": 3, "Timeout": 5},
    )

    assert definition(secure_mesh, "Everything") == expected_definition(
        "Everything",
        "shop",
        [
            {**splunk, **container}
            for container in (
                shop,
                metrics,
                consul_client(secure=True),
                mesh_init(config, token=token),
                sidecar_proxy(port=21000, arguments=("--log-level", "debug")),
                health_sync(config, token=token),
            )
        ],
        Family="shop-v2",
        Cpu="1024",
        Memory="2048",
        RuntimePlatform={"CpuArchitecture": "ARM64", "OperatingSystemFamily": "LINUX"},
        TaskRoleArn=IRELAND.arn("iam", "role/ShopRole", region=False),
        Volumes=[
            {"Name": "consul_data"},
            {"Name": "consul_binary"},
            {"Name": "consul_envoy"},
            {"Name": "uploads"},
        ],
    )


def test_a_service_that_nobody_calls_has_port_0_and_is_named_after_its_family(
    open_mesh: Deployed,
) -> None:
    assert definition(open_mesh, "Outbound") == expected_definition(
        "Outbound",
        "cron",
        [app(), consul_client(secure=False), mesh_init(task_config("cron", 0)), sidecar_proxy()],
    )


def test_an_arm_task_differs_in_its_platform_alone(open_mesh: Deployed) -> None:
    assert definition(open_mesh, "Arm") == expected_definition(
        "Arm",
        "arm",
        [
            app(),
            consul_client(secure=False),
            mesh_init(task_config("arm", 8080)),
            sidecar_proxy(),
        ],
        RuntimePlatform={"CpuArchitecture": "ARM64", "OperatingSystemFamily": "LINUX"},
    )


@pytest.mark.parametrize(
    ("name", "secrets", "sections", "completed"),
    [
        (
            "Acls",
            {"consul-client": ["AGENT_TOKEN"], "consul-ecs-mesh-init": ["CONSUL_HTTP_TOKEN"]},
            {"acl"},
            ".acl.tokens.agent = $ENV.AGENT_TOKEN",
        ),
        (
            "Tls",
            {"consul-client": ["CONSUL_CACERT_PEM"]},
            {"ca_file", "verify_outgoing", "verify_server_hostname", "auto_encrypt"},
            ".auto_encrypt.ip_san = [$address]",
        ),
        (
            "Gossip",
            {"consul-client": ["CONSUL_GOSSIP_ENCRYPTION_KEY"]},
            set(),
            ".encrypt = $ENV.CONSUL_GOSSIP_ENCRYPTION_KEY",
        ),
    ],
)
def test_acls_tls_and_gossip_can_each_be_had_alone(
    synthesize_mesh: mesh_apps.SynthesizeMesh,
    name: str,
    secrets: dict[str, list[str]],
    sections: set[str],
    completed: str,
) -> None:
    deployed = synthesize_mesh(mesh_apps.make_partial)
    containers = {
        container["Name"]: container
        for container in definition(deployed, name)["ContainerDefinitions"]
    }
    client = containers["consul-client"]

    assert {
        container: [secret["Name"] for secret in properties["Secrets"]]
        for container, properties in containers.items()
        if "Secrets" in properties
    } == secrets
    assert set(client["Environment"][0]["Value"]) == {*OPEN_CONFIG, *sections}
    (line,) = (line for line in client["Command"][0].splitlines() if "jq --arg" in line)
    assert line == (
        'printf \'%s\' "$CONSUL_CLIENT_CONFIG" | jq --arg address "$address" '
        f"'.advertise_addr = $address | .bind_addr = $address | {completed}' "
        "> /consul/config/client.json"
    )


RESERVED = (64, 128, 32, 96)


@pytest.mark.parametrize(
    ("name", "compatibilities", "platform"),
    [
        ("Ec2", ["EC2"], None),
        ("Ec2Arm", ["EC2"], {"CpuArchitecture": "ARM64", "OperatingSystemFamily": "LINUX"}),
        (
            "Both",
            ["EC2", "FARGATE"],
            {"CpuArchitecture": "X86_64", "OperatingSystemFamily": "LINUX"},
        ),
    ],
)
def test_on_ec2_containers_reserve_memory(
    open_mesh: Deployed,
    name: str,
    compatibilities: list[str],
    platform: dict[str, str] | None,
) -> None:
    service = name.lower()
    containers = [
        app(),
        consul_client(secure=False),
        mesh_init(task_config(service, 8080)),
        sidecar_proxy(),
    ]
    expected = expected_definition(
        name,
        service,
        [
            {**container, "MemoryReservation": mebibytes}
            for container, mebibytes in zip(containers, RESERVED, strict=True)
        ],
        RequiresCompatibilities=compatibilities,
        RuntimePlatform=platform,
    )
    if platform is None:
        del expected["RuntimePlatform"]

    assert definition(open_mesh, name) == expected


def test_a_service_with_checks_of_its_own_has_no_health_sync(secure_mesh: Deployed) -> None:
    containers = definition(secure_mesh, "SecondFamily")["ContainerDefinitions"]

    assert [container["Name"] for container in containers] == [
        "shop",
        "consul-client",
        "consul-ecs-mesh-init",
        "sidecar-proxy",
    ]
    (config,) = containers[2]["Environment"]
    assert config["Value"]["service"]["checks"] == [
        {"name": "ready", "http": "http://127.0.0.1:9090/ready", "interval": "10s"}
    ]


# --------------------------------------------------------------------------------------------------
# Secrets and who can read them
# --------------------------------------------------------------------------------------------------


def test_the_secret_of_the_token_is_named_by_the_service_and_has_no_value(
    secure_mesh: Deployed,
) -> None:
    secret = secure_mesh.resources["AWS::SecretsManager::Secret", "Everything/TokenSecret"]

    assert secret["Properties"] == {
        "Name": "consul-shop",
        "Description": "Consul token of the service shop",
        "KmsKeyId": KEY_ARN,
        "Tags": [
            {
                "Key": "consul.hashicorp.com/cluster",
                "Value": IRELAND.arn("ecs", "cluster/my-cluster"),
            },
            {"Key": "consul.hashicorp.com/service-name", "Value": "shop"},
        ],
    }
    # CloudFormation deletes a secret without a recovery window: its name is free at once.
    assert secret["DeletionPolicy"] == "Delete"


def test_two_families_of_a_service_share_its_secret(secure_mesh: Deployed) -> None:
    secrets = secure_mesh.of_type("AWS::SecretsManager::Secret")
    init = definition(secure_mesh, "SecondFamily")["ContainerDefinitions"][2]

    assert "SecondFamily/TokenSecret" not in secrets
    assert init["Secrets"] == [
        {
            "Name": "CONSUL_HTTP_TOKEN",
            "ValueFrom": IRELAND.arn("secretsmanager", "secret:consul-shop-AbCdEf") + ":token::",
        }
    ]


def test_the_execution_role_alone_may_read_what_the_task_refers_to(secure_mesh: Deployed) -> None:
    policies = secure_mesh.of_type("AWS::IAM::Policy")
    token = IRELAND.arn("secretsmanager", "secret:consul-web-AbCdEf")

    policy = policies["Minimal/TaskDefinition/ExecutionRole"]

    assert policy["PolicyDocument"]["Statement"] == [
        {
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": IRELAND.arn("logs", "log-group:Minimal:*"),
        },
        {
            "Effect": "Allow",
            "Action": ["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"],
            "Resource": [CA_SECRET_ARN, GOSSIP_SECRET_ARN, CLIENT_TOKEN, token],
        },
        {
            "Effect": "Allow",
            "Action": "kms:Decrypt",
            "Resource": KEY_ARN,
            "Condition": {
                "StringLike": {"kms:ViaService": "secretsmanager.eu-west-1.amazonaws.com*"}
            },
        },
    ]
    # The agent finds servers on EC2 by a tag, and nothing else is allowed to the task.
    assert policies["Minimal/TaskDefinition/TaskRole"]["PolicyDocument"]["Statement"] == [
        {"Effect": "Allow", "Action": "ec2:DescribeInstances", "Resource": "*"}
    ]
    readers = {name for name, other in policies.items() if token in json.dumps(other)}
    assert readers == {"Minimal/TaskDefinition/ExecutionRole"}


def test_given_policies_are_attached_to_the_roles(secure_mesh: Deployed) -> None:
    roles = secure_mesh.of_type("AWS::IAM::Role")

    assert roles["ShopRole"]["ManagedPolicyArns"] == [
        "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"
    ]
    assert roles["Everything/TaskDefinition/ExecutionRole"]["ManagedPolicyArns"] == [
        "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryReadOnly"
    ]


def test_a_task_whose_agent_joins_addresses_may_do_nothing_in_aws(open_mesh: Deployed) -> None:
    assert not {
        name for name in open_mesh.of_type("AWS::IAM::Policy") if name.endswith("/TaskRole")
    }


def test_no_application_container_mounts_a_volume_of_the_mesh(
    open_mesh: Deployed, secure_mesh: Deployed
) -> None:
    for deployed in (open_mesh, secure_mesh):
        for properties in deployed.of_type("AWS::ECS::TaskDefinition").values():
            for container in properties["ContainerDefinitions"]:
                if container["Name"] in {"app", "shop", "metrics"}:
                    assert "MountPoints" not in container
                    assert "Secrets" not in container


# --------------------------------------------------------------------------------------------------
# Services
# --------------------------------------------------------------------------------------------------


def expected_service(launch_type: str, family: str, **more: Any) -> dict[str, Any]:
    return {
        "Cluster": "my-cluster",
        "LaunchType": launch_type,
        "TaskDefinition": IRELAND.arn("ecs", f"task-definition/{family}:1"),
        "PropagateTags": "TASK_DEFINITION",
        "EnableECSManagedTags": False,
        "LoadBalancers": [],
        "DeploymentConfiguration": {
            "DeploymentCircuitBreaker": {"Enable": True, "Rollback": True},
            "MaximumPercent": 200,
            "MinimumHealthyPercent": 100,
        },
        "NetworkConfiguration": {
            "AwsvpcConfiguration": {
                "AssignPublicIp": "DISABLED",
                "SecurityGroups": ["sg-of-Mesh/Tasks"],
                "Subnets": [SUBNET],
            }
        },
        **more,
    }


def test_a_service_propagates_the_tags_and_is_in_the_security_group_of_the_mesh(
    open_mesh: Deployed,
) -> None:
    services = open_mesh.of_type("AWS::ECS::Service")

    assert services["Minimal/Service/Service"] == expected_service("FARGATE", "web")
    assert services["Ec2/Service/Service"] == expected_service(
        "EC2", "ec2", DesiredCount=3, SchedulingStrategy="REPLICA"
    )


def test_a_services_own_arguments_win_and_its_security_groups_are_added(
    secure_mesh: Deployed,
) -> None:
    service = secure_mesh.of_type("AWS::ECS::Service")["Everything/Service/Service"]

    expected = expected_service("FARGATE", "shop-v2", DesiredCount=2)
    network = expected["NetworkConfiguration"]["AwsvpcConfiguration"]
    network["SecurityGroups"].append("sg-0123456789abcdef9")
    expected["DeploymentConfiguration"]["DeploymentCircuitBreaker"]["Rollback"] = False
    assert service == expected


def test_the_deployment_provisions_the_token_before_it_creates_the_service(
    secure_mesh: Deployed,
) -> None:
    run = secure_mesh.resources["Custom::WorkflowRun", "Minimal/Token"]
    service = secure_mesh.resources["AWS::ECS::Service", "Minimal/Service/Service"]

    assert run["Properties"]["StateMachineArn"] == IRELAND.arn(
        "states", "stateMachine:TaskProvisioning"
    )
    assert json.loads(run["Properties"]["Input"]) == {"service": "web"}
    # The controller is whole by then, and ClusterBootstrap has run.
    assert ("Custom::WorkflowRun", "BootstrapOnDeploy") in run["DependsOn"]
    assert ("Custom::WorkflowRun", "Minimal/Token") in service["DependsOn"]


def test_a_service_whose_token_the_deployment_does_not_make_comes_after_the_controller(
    secure_mesh: Deployed,
) -> None:
    service = secure_mesh.resources["AWS::ECS::Service", "SecondFamily/Service/Service"]

    # ClusterBootstrap makes the token of its agent.
    assert ("Custom::WorkflowRun", "BootstrapOnDeploy") in service["DependsOn"]
    assert not {name for _, name in service["DependsOn"] if name.endswith("/Token")}


def test_a_task_that_shall_not_be_provisioned_by_the_deployment_is_not(
    secure_mesh: Deployed,
) -> None:
    runs = secure_mesh.of_type("Custom::WorkflowRun")

    assert set(runs) == {"BootstrapOnDeploy", "Minimal/Token", "Everything/Token"}


def test_tasks_let_each_other_in_through_their_proxies_and_by_gossip(
    secure_mesh: Deployed,
) -> None:
    rules = secure_mesh.of_type("AWS::EC2::SecurityGroupIngress").values()

    assert {rule["SourceSecurityGroupId"] for rule in rules} == {"sg-of-Mesh/Tasks"}
    assert {(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in rules} == {
        ("tcp", 20000, 20000),
        ("tcp", 21000, 21000),
        ("tcp", 8301, 8301),
        ("udp", 8301, 8301),
    }
