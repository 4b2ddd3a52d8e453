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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cfnlint.api import lint  # type: ignore[import-untyped]
from cfnlint.config import ManualArgs  # type: ignore[import-untyped]

from handlers.core import names
from local.cloud.waiting import until
from settings import SettingsError

if TYPE_CHECKING:
    from tests.synthesized import Synthesized

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "greeter" / "stack.py"
PROGRAMS = EXAMPLE.parent / "programs"
SERVICES = {"greeter", "greeting"}

SETTINGS: dict[str, Any] = {
    "ecs": {"cluster": "my_cluster"},
    "secrets": {"prefix": "consul"},
    "consul": {"http_address": "http://consul.internal:8500", "retry_join": ["consul.internal"]},
    "network": {
        "vpc_id": "vpc-0123456789abcdef0",
        "subnet_ids": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
    },
    "images": {"mesh_init": "registry.example.com/mesh-init:1"},
}
CA = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:consul-ca-Zz9999"
SECURE: dict[str, Any] = SETTINGS | {
    "ecs": {"cluster": "arn:aws:ecs:eu-west-1:123456789012:cluster/my_cluster"},
    "consul": {
        "http_address": "https://consul.internal:8501",
        "retry_join": ["provider=aws tag_key=consul tag_value=server"],
        "ca_secret_arn": CA,
    },
}


@pytest.fixture(scope="session", autouse=True)
def node_of_this_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield


def synthesize_example(settings: dict[str, Any], directory: Path, name: str) -> Synthesized:
    """Synthesize the app with an example, as `-c example=…` does; return the example's stack."""
    import aws_cdk as cdk  # noqa: PLC0415 - starts a Node process, of the PATH above

    from app import add_stack  # noqa: PLC0415
    from examples import add_example  # noqa: PLC0415
    from settings import load_settings  # noqa: PLC0415
    from tests.synthesized import Synthesized, context  # noqa: PLC0415

    (directory / "mesh.yaml").write_text(yaml.safe_dump(settings))
    app = cdk.App(outdir=str(directory / "cdk.out"), context=context())
    controller = add_stack(app, load_settings(directory / "mesh.yaml"))
    add_example(app, name, controller=controller)
    (artifact,) = (each for each in app.synth().stacks if each.stack_name != controller.stack_name)
    return Synthesized(
        app=app,
        name=artifact.stack_name,
        template=artifact.template,
        messages=[f"{message.id}: {message.entry.data}" for message in artifact.messages],
    )


@pytest.fixture(scope="module", params=[SETTINGS, SECURE], ids=["plain", "secure"])
def greeter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Synthesized:
    return synthesize_example(request.param, tmp_path_factory.mktemp("example"), "greeter")


def resources(stack: Synthesized, kind: str) -> list[dict[str, Any]]:
    return [
        resource for resource in stack.template["Resources"].values() if resource["Type"] == kind
    ]


# --------------------------------------------------------------------------------------------------
# The stack
# --------------------------------------------------------------------------------------------------


def test_the_example_synthesizes_without_a_warning(greeter: Synthesized) -> None:
    assert greeter.name == "Greeter-my-cluster"
    assert greeter.messages == []


def test_cfn_lint_finds_nothing_in_the_example(greeter: Synthesized) -> None:
    config = ManualArgs(
        regions=["eu-west-1"],
        include_checks=["I"],
        ignore_checks=["W3005"],  # CDK writes dependencies that a reference implies anyway
    )

    found = lint(json.dumps(greeter.template), config=config)

    assert [f"{match.rule.id} {match.message} at {match.path}" for match in found] == []


def test_both_services_give_their_tasks_the_tags_of_a_mesh_task(greeter: Synthesized) -> None:
    definitions = resources(greeter, "AWS::ECS::TaskDefinition")
    services = resources(greeter, "AWS::ECS::Service")

    tags = [
        {tag["Key"]: tag["Value"] for tag in each["Properties"]["Tags"]} for each in definitions
    ]
    assert {each[names.SERVICE_NAME_TAG] for each in tags} == SERVICES
    assert {each[names.MESH_TAG] for each in tags} == {"true"}
    assert [each["Properties"]["PropagateTags"] for each in services] == ["TASK_DEFINITION"] * 2


def test_each_service_waits_for_its_token(greeter: Synthesized) -> None:
    runs = {
        logical_id
        for logical_id, resource in greeter.template["Resources"].items()
        if resource["Type"] == "Custom::WorkflowRun"
    }

    waits_for = [runs & set(each["DependsOn"]) for each in resources(greeter, "AWS::ECS::Service")]

    assert [len(each) for each in waits_for] == [1, 1]
    assert set.union(*waits_for) == runs


def test_the_health_of_the_server_is_synchronized_and_the_client_reaches_it_through_its_proxy(
    greeter: Synthesized,
) -> None:
    by_family = {
        each["Properties"]["Family"]: {
            container["Name"]: container for container in each["Properties"]["ContainerDefinitions"]
        }
        for each in resources(greeter, "AWS::ECS::TaskDefinition")
    }
    mesh = {"consul-client", "consul-ecs-mesh-init", "sidecar-proxy"}

    assert set(by_family["greeting"]) == mesh | {"greeting", "consul-ecs-health-sync"}
    assert set(by_family["greeter"]) == mesh | {"greeter"}
    (upstream,) = (
        variable["Value"]
        for variable in by_family["greeter"]["greeter"]["Environment"]
        if variable["Name"] == "UPSTREAM"
    )
    (config,) = (
        variable["Value"]
        for variable in by_family["greeter"]["consul-ecs-mesh-init"]["Environment"]
    )
    (known,) = yaml.safe_load(config)["proxy"]["upstreams"]
    assert known["destinationName"] == "greeting"
    assert upstream == f"http://localhost:{known['localBindPort']}"


def test_tasks_run_in_the_subnets_of_the_settings(greeter: Synthesized) -> None:
    for service in resources(greeter, "AWS::ECS::Service"):
        network = service["Properties"]["NetworkConfiguration"]["AwsvpcConfiguration"]
        assert network["Subnets"] == SETTINGS["network"]["subnet_ids"]


# --------------------------------------------------------------------------------------------------
# Mistakes
# --------------------------------------------------------------------------------------------------


def refused(settings: dict[str, Any], directory: Path, name: str = "greeter") -> str:
    from examples import ExampleError  # noqa: PLC0415 - starts a Node process

    with pytest.raises((ExampleError, SettingsError)) as refusal:
        synthesize_example(settings, directory, name)
    return str(refusal.value)


def test_an_unknown_example_is_refused_with_the_names_that_there_are(tmp_path: Path) -> None:
    assert (
        refused(SETTINGS, tmp_path, "greter") == 'There is no example "greter". There is: greeter.'
    )


def test_an_unknown_example_ends_the_command_with_a_message_and_no_traceback(
    tmp_path: Path,
) -> None:
    from tests.synthesized import context  # noqa: PLC0415 - starts a Node process

    (tmp_path / "mesh.yaml").write_text(yaml.safe_dump(SETTINGS))
    given = context() | {"settings": str(tmp_path / "mesh.yaml"), "example": "greter"}

    ran = subprocess.run(
        [sys.executable, str(ROOT / "app.py")],
        env={
            **os.environ,
            "CDK_OUTDIR": str(tmp_path / "cdk.out"),
            "CDK_CONTEXT_JSON": json.dumps(given),
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1
    assert ran.stderr == 'There is no example "greter". There is: greeter.\n'


def test_settings_without_a_network_are_refused_with_advice(tmp_path: Path) -> None:
    settings = {key: value for key, value in SETTINGS.items() if key != "network"}

    assert "network.vpc_id and network.subnet_ids" in refused(settings, tmp_path)


def test_settings_that_do_not_say_what_tasks_join_are_refused_with_advice(tmp_path: Path) -> None:
    settings = SETTINGS | {"consul": {"http_address": "http://consul.internal:8500"}}

    assert refused(settings, tmp_path).startswith("consul.retry_join:")


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
