"""Who may call whom, as a part of a deployment: in the controller's stack, and in others."""

from __future__ import annotations

import json
import re
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_ecs as ecs
from constructs import Construct

from infrastructure.acl_controller import AclController
from infrastructure.mesh import Mesh, MeshError
from tests.conftest import SynthesizeOnce
from tests.infrastructure.dependencies import needed_by
from tests.infrastructure.mesh_apps import Surroundings, new_app, plain_servers
from tests.infrastructure.test_provisioning import (
    CLUSTER,
    IRELAND,
    Template,
    controller_of,
    only,
    resources,
    synthesized,
)

pytestmark = pytest.mark.usefixtures("synthesize_once")  # the right Node.js on the PATH
NAME_RULE = (
    "Allowed: lower-case letters, digits, '-' and '_', at most 256 characters, the first and the "
    "last one a letter or a digit."
)


class Servers(Construct):
    """Servers that the same app makes."""

    http_address = "http://consul.internal:8500"
    retry_join = ("consul.internal",)
    datacenter = "dc1"
    ca_secret = gossip_key_secret = managed = None

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id)
        cdk.CfnResource(self, "Server", type="AWS::SNS::Topic")


@pytest.fixture(scope="module")
def templates() -> dict[str, Template]:
    """A controller's stack, and one of services that may call each other."""

    def build(app: App) -> None:
        controller = controller_of(Stack(app, "Mesh", env=IRELAND))
        other = Stack(app, "Shop", env=IRELAND)
        controller.allow(other, "a-to-b", source="a", destination="b")
        controller.allow(Stack.of(controller), "all-to-b", source="*", destination="b")

    return synthesized(build)


def mark(run: Template) -> str:
    return str(json.loads(run["Properties"]["Input"])["wanted_by"])


def test_an_intention_is_written_by_the_deployment_and_removed_by_its_deletion(
    templates: dict[str, Template],
) -> None:
    _, run = only(templates["Mesh"], "Custom::WorkflowRun", named="alltob")
    start, _ = only(templates["Mesh"], "AWS::Lambda::Function", named="StartDeploymentRun")
    machine, _ = only(
        templates["Mesh"], "AWS::StepFunctions::StateMachine", named="ServiceIntention"
    )
    properties = run["Properties"]

    assert properties == {
        "ServiceToken": {"Fn::GetAtt": [start, "Arn"]},
        "ServiceTimeout": "3300",
        "StateMachineArn": {"Ref": machine},
        "Input": properties["Input"],
        "OnDelete": properties["OnDelete"],
        "DefinitionDigest": properties["DefinitionDigest"],
        # ClusterBootstrap has run, and has waited until everything is known.
        "SettleSeconds": "0",
    }
    assert json.loads(properties["Input"]) == {
        "intention": {"source": "*", "destination": "b", "action": "allow"},
        "wanted_by": mark(run),
    }
    assert json.loads(properties["OnDelete"]) == {
        "intention": {"source": "*", "destination": "b"},
        "remove": True,
        "wanted_by": mark(run),
    }
    assert re.fullmatch(r"[0-9a-f]{12}", mark(run))


def test_each_construct_has_a_mark_of_its_own(templates: dict[str, Template]) -> None:
    _, here = only(templates["Mesh"], "Custom::WorkflowRun", named="alltob")
    _, there = only(templates["Shop"], "Custom::WorkflowRun", named="atob")

    assert mark(here) != mark(there)


def test_it_waits_for_all_of_the_controller_which_outlasts_it(
    templates: dict[str, Template],
) -> None:
    logical_id, _ = only(templates["Mesh"], "Custom::WorkflowRun", named="alltob")
    needed = needed_by(templates["Mesh"], logical_id)

    for kind in ("Custom::WorkflowRun", "AWS::StepFunctions::StateMachine", "AWS::IAM::Policy",
                 "AWS::SecretsManager::Secret", "AWS::Lambda::Function"):  # fmt: skip
        assert set(resources(templates["Mesh"], kind)) - {logical_id} <= needed, kind


def test_it_waits_for_servers_of_the_same_app_which_outlast_it() -> None:
    def build(app: App) -> None:
        stack = Stack(app, "Mesh", env=IRELAND)
        controller = AclController(
            stack,
            "Controller",
            cluster=ecs.Cluster.from_cluster_arn(stack, "Cluster", CLUSTER),
            secret_prefix="acme",
            servers=Servers(stack, "Servers"),
        )
        controller.allow(stack, "a-to-b", source="a", destination="b")

    template = synthesized(build)["Mesh"]
    run, _ = only(template, "Custom::WorkflowRun", named="atob")
    servers, _ = only(template, "AWS::SNS::Topic")

    assert servers in needed_by(template, run)


def test_the_function_that_starts_runs_may_look_at_both_stacks(
    templates: dict[str, Template],
) -> None:
    text = json.dumps(templates["Mesh"])

    assert ":stack/Shop/*" in text


@pytest.fixture
def stack(synthesize_once: SynthesizeOnce) -> Stack:
    del synthesize_once
    return Stack(new_app(), "Shop")


@pytest.fixture
def mesh(stack: Stack) -> Mesh:
    return Surroundings(stack, acls=True, tls=False, servers=plain_servers()).mesh


def test_a_mesh_lets_services_call_each_other(mesh: Mesh, stack: Stack) -> None:
    mesh.allow(source="greeter", destination="greeting")
    mesh.allow(source="*", destination="greeting")
    mesh.allow(source="greeter", destination="*")
    mesh.allow(source="greeting", destination="greeter")

    template = dict(cdk.assertions.Template.from_stack(stack).to_json())
    given = [
        json.loads(run["Properties"]["Input"])["intention"]
        for run in resources(template, "Custom::WorkflowRun").values()
        if "OnDelete" in run["Properties"]
    ]
    assert given == [
        {"source": source, "destination": destination, "action": "allow"}
        for source, destination in (
            ("greeter", "greeting"),
            ("*", "greeting"),
            ("greeter", "*"),
            ("greeting", "greeter"),
        )
    ]


def test_the_same_twice_is_an_error_that_names_both(mesh: Mesh, stack: Stack) -> None:
    mesh.allow(source="a", destination="b")

    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is below
        controller(mesh).allow(stack, "Again", source="a", destination="b")

    assert str(error.value) == (
        'Shop/Again: Shop/Mesh/Allow a to call b lets "a" call "b" already. '
        "Leave one of the two out."
    )


def controller(mesh: Mesh) -> AclController:
    return mesh.controller


@pytest.mark.parametrize("name", ["Greeter", "", "**", "a*", "-a", "a" * 257])
@pytest.mark.parametrize("which", ["source", "destination"])
def test_a_name_that_no_service_can_have_is_an_error(mesh: Mesh, name: str, which: str) -> None:
    pair: dict[str, Any] = {"source": "a", "destination": "b", which: name}

    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is below
        mesh.allow(**pair)

    assert str(error.value) == (
        f"Shop/Mesh/Allow {pair['source']} to call {pair['destination']}: "
        f'{which} "{name}" is neither a valid service name in Consul nor "*". {NAME_RULE}'
    )


def test_a_name_that_only_the_deployment_knows_is_an_error(mesh: Mesh, stack: Stack) -> None:
    name = cdk.CfnParameter(stack, "Name").value_as_string

    with pytest.raises(ValueError, match="destination has to be known at synthesis"):
        controller(mesh).allow(stack, "Later", source="a", destination=name)


def test_without_acls_there_is_nothing_to_allow(stack: Stack) -> None:
    around = Surroundings(stack, acls=False, tls=False, servers=plain_servers())

    with pytest.raises(MeshError) as error:
        around.mesh.allow(source="a", destination="b")

    assert str(error.value) == (
        'Shop/Mesh: "a" may call "b" anyway, as ACLs are off. Leave allow(…) out.'
    )
