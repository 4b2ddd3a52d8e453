"""The examples: they synthesize, they run, and the README shows what they are made of."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cfnlint.api import lint  # type: ignore[import-untyped]
from cfnlint.config import ManualArgs  # type: ignore[import-untyped]

from handlers.core import names
from local.cloud.waiting import until
from tests.readable_template import ReadableTemplate

if TYPE_CHECKING:
    from aws_cdk.cx_api import CloudAssembly

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "greeter" / "stack.py"
PROGRAMS = EXAMPLE.parent / "programs"
SERVICES = {"greeter", "greeting"}
MESH_INIT = "registry.example.com/mesh-init:1"
OUTPUTS = {
    *("ClusterBootstrapArn", "TaskProvisioningArn", "ReconciliationArn", "TokenRotationArn"),
    *("ServiceIntentionArn", "DeadLetterQueueUrl"),
    *("BootstrapTokenSecretArn", "BootstrapTokenSecretName"),
    *("ControllerTokenSecretArn", "ControllerTokenSecretName"),
    *("ClientTokenSecretArn", "ClientTokenSecretName"),
    "CertificateRenewalArn",
    *("ClusterName", "ConsulHttpAddress"),
}


def run_app(directory: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """Run app.py as the CDK command line does: with the context in cdk.json, and what is given."""
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    return subprocess.run(
        [sys.executable, str(ROOT / "app.py")],
        cwd=directory,
        env={
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # jsii unpacks itself there once; without, it does so each time.
            "HOME": os.environ.get("HOME", str(directory)),
            "CDK_OUTDIR": str(directory / "cdk.out"),
            "CDK_CONTEXT_JSON": json.dumps(
                {**context, "aws:cdk:enable-path-metadata": True, **given}
            ),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@dataclass(frozen=True)
class Example:
    """An example that has been synthesized."""

    assembly: CloudAssembly

    @property
    def stacks(self) -> list[str]:
        """The names of the stacks."""
        return [stack.stack_name for stack in self.assembly.stacks]

    @property
    def messages(self) -> list[str]:
        """Warnings and errors that the command line would print."""
        return [
            f"{message.id}: {message.entry.data}"
            for stack in self.assembly.stacks
            for message in stack.messages
        ]

    @property
    def template(self) -> dict[str, Any]:
        """The template of the only stack."""
        (stack,) = self.assembly.stacks
        template: dict[str, Any] = stack.template
        return template


def synthesize(directory: Path, **given: str) -> Example:
    ran = run_app(directory, **given)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    with pytest.MonkeyPatch.context() as patch:
        # CDK starts the `node` of the PATH, and the environment of this Python has one.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        from aws_cdk.cx_api import CloudAssembly  # noqa: PLC0415 - starts a Node process

        return Example(CloudAssembly(str(directory / "cdk.out")))


@pytest.fixture(scope="module")
def greeter(tmp_path_factory: pytest.TempPathFactory) -> Example:
    directory = tmp_path_factory.mktemp("greeter")
    return synthesize(directory, example="greeter", mesh_init_image=MESH_INIT)


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return synthesize(tmp_path_factory.mktemp("production"), example="production")


@pytest.fixture(params=["greeter", "production"])
def example(request: pytest.FixtureRequest) -> Example:
    found: Example = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def stack(greeter: Example) -> ReadableTemplate:
    """The stack of the example greeter."""
    return ReadableTemplate(greeter.template)


@pytest.fixture(scope="module")
def production_stack(production: Example) -> ReadableTemplate:
    return ReadableTemplate(production.template)


# --------------------------------------------------------------------------------------------------
# Both
# --------------------------------------------------------------------------------------------------


def test_an_example_is_one_stack_of_its_own(greeter: Example, production: Example) -> None:
    assert greeter.stacks == ["ConsulGreeter"]
    assert production.stacks == ["ConsulProduction"]


def test_an_example_synthesizes_without_a_warning(example: Example) -> None:
    assert example.messages == []


def test_cfn_lint_finds_nothing_in_an_example(example: Example) -> None:
    config = ManualArgs(
        regions=["eu-west-1"],
        include_checks=["I"],
        ignore_checks=["W3005"],  # CDK writes dependencies that a reference implies anyway
    )

    found = lint(json.dumps(example.template), config=config)

    assert [f"{match.rule.id} {match.message} at {match.path}" for match in found] == []


def test_an_example_has_no_function_but_the_steps(example: Example) -> None:
    functions = ReadableTemplate(example.template).of_type("AWS::Lambda::Function")

    assert functions
    assert {each["Handler"].partition(".")[0] for each in functions.values()} == {"handlers"}


def test_names_are_not_those_of_a_controller_that_the_settings_describe(example: Example) -> None:
    prefix = yaml.safe_load((ROOT / "mesh.yaml").read_text())["secrets"]["prefix"]
    stack = ReadableTemplate(example.template)
    given = [
        *(each.get("Name", "") for each in stack.of_type("AWS::SecretsManager::Secret").values()),
        *(each.get("LogGroupName", "") for each in stack.of_type("AWS::Logs::LogGroup").values()),
    ]

    found = {name.rpartition("/")[2] for name in given if name}

    assert found
    assert not [name for name in found if name.startswith(f"{prefix}-")]


# --------------------------------------------------------------------------------------------------
# The example greeter
# --------------------------------------------------------------------------------------------------


def test_the_outputs_are_those_of_any_controller_and_where_things_are(
    stack: ReadableTemplate,
) -> None:
    assert set(stack.outputs) == OUTPUTS | {"TasksSecurityGroupId"}
    assert stack.outputs["ConsulHttpAddress"] == "https://server.consul.internal:8501"
    assert stack.outputs["BootstrapTokenSecretArn"] == "Consul/Secrets/ManagementToken"
    assert stack.outputs["ClientTokenSecretName"] == "greeter-consul-client-token"


def test_the_vpc_has_two_zones_and_one_nat_gateway(stack: ReadableTemplate) -> None:
    assert set(stack.of_type("AWS::EC2::Subnet")) == {
        f"Vpc/{kind}Subnet{zone}/Subnet" for kind in ("Public", "Private") for zone in (1, 2)
    }
    assert len(stack.of_type("AWS::EC2::NatGateway")) == 1


def test_images_are_public_but_for_the_one_that_is_given(stack: ReadableTemplate) -> None:
    images = {
        container["Image"]
        for definition in stack.of_type("AWS::ECS::TaskDefinition").values()
        for container in definition["ContainerDefinitions"]
    }

    assert {image.rpartition(":")[0] for image in images} == {
        "public.ecr.aws/hashicorp/consul",
        "docker.io/envoyproxy/envoy",
        "public.ecr.aws/docker/library/python",
        MESH_INIT.rpartition(":")[0],
    }


def test_security_groups_open_consuls_ports_to_those_who_need_them(
    stack: ReadableTemplate,
) -> None:
    found: dict[str, set[tuple[Any, ...]]] = {
        f"{name}.GroupId": set() for name in stack.of_type("AWS::EC2::SecurityGroup")
    }
    for name, group in stack.of_type("AWS::EC2::SecurityGroup").items():
        assert "SecurityGroupIngress" not in group, name
    for rule in stack.of_type("AWS::EC2::SecurityGroupIngress").values():
        assert rule["FromPort"] == rule["ToPort"]
        found[rule["GroupId"]].add(
            (rule["IpProtocol"], rule["FromPort"], rule["SourceSecurityGroupId"])
        )

    server, tasks = "Consul/SecurityGroup.GroupId", "Mesh/Tasks.GroupId"
    handlers = "Consul/HandlersSecurityGroup.GroupId"
    assert found == {
        server: {
            ("tcp", 8501, handlers),
            ("tcp", 8300, tasks),
            ("tcp", 8301, tasks),
            ("udp", 8301, tasks),
        },
        tasks: {
            ("tcp", 20000, tasks),
            ("tcp", 8301, tasks),
            ("udp", 8301, tasks),
            ("tcp", 8301, server),
            ("udp", 8301, server),
        },
        handlers: set(),
    }


def containers(stack: ReadableTemplate, name: str) -> dict[str, dict[str, Any]]:
    """Return the containers of a task definition by their names."""
    definition = stack.properties(f"{name}/TaskDefinition")
    return {each["Name"]: each for each in definition["ContainerDefinitions"]}


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {each["Name"]: each["Value"] for each in container["Environment"]}


def test_nobody_may_call_anybody_in_consul(stack: ReadableTemplate) -> None:
    server = variables(containers(stack, "Consul")["consul-server"])
    client = variables(containers(stack, "Greeter")["consul-client"])

    for config in (server["CONSUL_SERVER_CONFIG"], client["CONSUL_CLIENT_CONFIG"]):
        acl = json.loads(config)["acl"]
        assert (acl["enabled"], acl["default_policy"]) == (True, "deny")


def runs(stack: ReadableTemplate) -> dict[str, Any]:
    """Return what the deployment runs: the inputs of workflows, by the name of the run."""
    found = stack.of_type("Custom::WorkflowRun")
    return {name: json.loads(each["Input"]) for name, each in found.items()}


def test_one_service_may_call_the_other(stack: ReadableTemplate) -> None:
    intentions = [given["intention"] for given in runs(stack).values() if "intention" in given]

    assert intentions == [{"source": "greeter", "destination": "greeting", "action": "allow"}]


def test_what_removes_the_intention_is_there_until_it_is_removed(stack: ReadableTemplate) -> None:
    (intention,) = (name for name, given in runs(stack).items() if "intention" in given)
    (let_in,) = stack.of_type("AWS::EC2::SecurityGroupIngress", "Consul/SecurityGroup/")

    assert stack.before(intention) >= {
        "Consul/Service/Service",
        "Consul/Namespace",
        let_in,
        *("Vpc/PrivateSubnet1/DefaultRoute", "Vpc/PrivateSubnet2/DefaultRoute"),
        "AclController/WriteIntention/Role/DefaultPolicy",
        "AclController/ControllerTokenSecret",
    }


def test_the_server_starts_when_its_secrets_have_values(stack: ReadableTemplate) -> None:
    server = stack.resources["Consul/Service/Service"]

    assert "AclController/ServerSecretsOnDeploy" in server["DependsOn"]
    # That waits for Consul, which would never come.
    assert "AclController/BootstrapOnDeploy" not in stack.before("Consul/Service/Service")


def test_a_server_that_has_forgotten_everything_is_prepared_again(stack: ReadableTemplate) -> None:
    rule = stack.properties("AclController/ServerStarts")

    assert rule["EventPattern"]["detail"] == {
        "clusterArn": ["Cluster.Arn"],
        "group": ["service:Consul/Service/Service.Name"],
        "desiredStatus": ["RUNNING"],
        "lastStatus": ["RUNNING"],
    }
    (target,) = rule["Targets"]
    assert target["Arn"] == "AclController/ClusterBootstrap/StateMachine"


def test_such_a_server_is_told_again_who_may_call_whom(stack: ReadableTemplate) -> None:
    (again,) = (name for name in stack.of_type("AWS::Events::Rule") if "/AllowAgain" in name)
    (wanted,) = (given for given in runs(stack).values() if "intention" in given)
    rule = stack.properties(again)

    assert rule["EventPattern"] == stack.properties("AclController/ServerStarts")["EventPattern"]
    (target,) = rule["Targets"]
    assert target["Arn"] == "AclController/ServiceIntention/StateMachine"
    assert json.loads(target["Input"]) == wanted
    assert wanted["intention"] == {
        "source": "greeter",
        "destination": "greeting",
        "action": "allow",
    }


def test_the_handlers_that_talk_to_consul_are_next_to_the_server(stack: ReadableTemplate) -> None:
    check = stack.properties("AclController/CheckConsul/Function")

    assert check["VpcConfig"] == {
        "SecurityGroupIds": ["Consul/HandlersSecurityGroup.GroupId"],
        "SubnetIds": ["Vpc/PrivateSubnet1/Subnet", "Vpc/PrivateSubnet2/Subnet"],
    }
    given = check["Environment"]["Variables"]
    assert given["CONSUL_HTTP_ADDR"] == "https://server.consul.internal:8501"


def test_nothing_stays_when_the_stack_is_deleted(stack: ReadableTemplate) -> None:
    assert kept(stack) == set()


def kept(stack: ReadableTemplate) -> set[str]:
    """Return what outlasts the stack."""
    return {
        name
        for name, resource in stack.resources.items()
        if resource.get("DeletionPolicy", "Delete") != "Delete"
    }


def test_both_services_give_their_tasks_the_tags_of_a_mesh_task(stack: ReadableTemplate) -> None:
    for name in ("Greeter", "Greeting"):
        definition = stack.properties(f"{name}/TaskDefinition")
        service = stack.properties(f"{name}/Service/Service")

        tags = {tag["Key"]: tag["Value"] for tag in definition["Tags"]}
        assert tags[names.SERVICE_NAME_TAG] == name.lower()
        assert tags[names.MESH_TAG] == "true"
        assert service["PropagateTags"] == "TASK_DEFINITION"


def test_each_service_waits_for_its_token(stack: ReadableTemplate) -> None:
    for name in ("Greeter", "Greeting"):
        token = f"{name}/Token"

        assert runs(stack)[token] == {"service": name.lower()}
        assert token in stack.resources[f"{name}/Service/Service"]["DependsOn"]


def test_the_health_of_the_server_is_synchronized_and_the_client_reaches_it_through_its_proxy(
    stack: ReadableTemplate,
) -> None:
    greeting, greeter = containers(stack, "Greeting"), containers(stack, "Greeter")
    mesh = {"consul-client", "consul-ecs-mesh-init", "sidecar-proxy"}

    assert set(greeting) == mesh | {"greeting", "consul-ecs-health-sync"}
    assert set(greeter) == mesh | {"greeter"}
    config = variables(greeter["consul-ecs-mesh-init"])["CONSUL_ECS_CONFIG_JSON"]
    (known,) = json.loads(config)["proxy"]["upstreams"]
    assert known["destinationName"] == "greeting"
    upstream = variables(greeter["greeter"])["UPSTREAM"]
    assert upstream == f"http://localhost:{known['localBindPort']}"


# --------------------------------------------------------------------------------------------------
# The example production
# --------------------------------------------------------------------------------------------------


def test_the_servers_are_spread_over_three_zones(production_stack: ReadableTemplate) -> None:
    subnets = production_stack.of_type("AWS::EC2::Subnet")
    groups = production_stack.of_type("AWS::AutoScaling::AutoScalingGroup")

    zones = {name: subnet["AvailabilityZone"]["Fn::Select"][0] for name, subnet in subnets.items()}
    assert zones == {
        f"Vpc/{kind}Subnet{zone}/Subnet": zone - 1
        for kind in ("Public", "Private")
        for zone in (1, 2, 3)
    }
    assert sorted(group["VPCZoneIdentifier"] for group in groups.values()) == [
        [f"Vpc/PrivateSubnet{zone}/Subnet"] for zone in (1, 2, 3)
    ]
    assert len(production_stack.of_type("AWS::EC2::NatGateway")) == 3


def test_the_controller_looks_after_the_servers(production_stack: ReadableTemplate) -> None:
    outputs = production_stack.outputs

    assert set(outputs) == OUTPUTS | {
        *("ServerSnapshotArn", "SnapshotRestoreArn", "SnapshotBucketName"),
    }
    assert outputs["BootstrapTokenSecretArn"] == "Consul/Secrets/ManagementToken"
    check = production_stack.properties("AclController/CheckConsul/Function")
    assert check["Environment"]["Variables"]["CONSUL_HTTP_ADDR"] == outputs["ConsulHttpAddress"]


def test_what_must_not_be_lost_stays_when_the_stack_is_deleted(
    production_stack: ReadableTemplate,
) -> None:
    kinds = [production_stack.resources[name]["Type"] for name in kept(production_stack)]

    assert sorted(kinds) == [
        *["AWS::EC2::Volume"] * 3,
        "AWS::KMS::Key",
        "AWS::S3::Bucket",
        "AWS::SecretsManager::Secret",
    ]


# --------------------------------------------------------------------------------------------------
# Mistakes
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"example": "greter"},
            'There is no example "greter". There are: greeter, production.',
        ),
        (
            {"example": "greeter", "settings": "mesh.yaml"},
            (
                "An example has no settings: give either example or settings. (With make: EXAMPLE "
                "or SETTINGS.)"
            ),
        ),
        (
            {"example": "greeter", "mesh_init_image": "https://registry/mesh-init"},
            (
                "mesh_init_image must be [<registry>/]<repository>[:<tag>][@sha256:<digest>]. It "
                "is the text 'https://registry/mesh-init': leave out the scheme."
            ),
        ),
        (
            {"example": "production", "mesh_init_image": MESH_INIT},
            (
                "The example production has no mesh tasks, so leave mesh_init_image out. Give it "
                "to the Mesh that you add."
            ),
        ),
        (
            {"mesh_init_image": MESH_INIT},
            "mesh_init_image is for examples. In the settings this is images.mesh_init.",
        ),
    ],
)
def test_a_mistake_ends_the_command_with_advice_and_no_traceback(
    tmp_path: Path, given: dict[str, str], message: str
) -> None:
    ran = run_app(tmp_path, **given)

    assert (ran.returncode, ran.stderr) == (1, f"{message}\n")
    assert not list(tmp_path.glob("cdk.out/*.template.json"))


# --------------------------------------------------------------------------------------------------
# The README
# --------------------------------------------------------------------------------------------------


def test_the_readme_shows_the_essential_part_as_it_is() -> None:
    marked = re.search(
        r"^ *# \[README\n(.*?)^ *# README\]$", EXAMPLE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert marked
    part = textwrap.dedent(marked[1]).strip()

    assert f"```python\n{part}\n```" in (ROOT / "README.md").read_text()


# --------------------------------------------------------------------------------------------------
# The programs
# --------------------------------------------------------------------------------------------------


def free_ports() -> tuple[int, int]:
    """Find two ports. Both are held until both are known, or they could be the same one."""
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@contextmanager
def running(program: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program as its container does: the text is an argument of Python."""
    process = subprocess.Popen(
        [sys.executable, "-c", (PROGRAMS / program).read_text()],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a line for each request
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answer(port: int) -> tuple[int, str] | None:
    """Ask a program; None if it does not listen yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except urllib.error.URLError:
        return None


def test_the_greeting_of_the_one_program_gets_through_to_the_other() -> None:
    server, client = free_ports()
    with ExitStack() as programs:
        greeter = programs.enter_context(
            running("greeter.py", PORT=str(client), UPSTREAM=f"http://127.0.0.1:{server}")
        )
        without = until(lambda: answer(client), what="greeter listens")
        programs.enter_context(running("greeting.py", PORT=str(server)))
        until(lambda: answer(server), what="greeting listens")

        assert without[0] == 502
        assert without[1].startswith("There is no greeting: ")
        assert answer(client) == (200, "The greeting is: Hello from the mesh\n")
        assert greeter.stdout is not None
        assert greeter.stdout.readline().startswith("There is no greeting: ")
