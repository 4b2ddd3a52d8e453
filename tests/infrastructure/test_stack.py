"""What becomes of the settings in the stack, and what that offers to the constructs of a mesh."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from aws_cdk import App, Duration, Environment, Stack
from aws_cdk import aws_ecs as ecs
from aws_cdk.assertions import Template

from app import add_stack
from infrastructure.acl_controller import AclController, ReconciliationOptions, RotationSchedule
from infrastructure.external_consul import ExternalConsul
from infrastructure.stack import ConsulOnEcsStack, Images
from settings import ReconciliationSettings, RotationSettings, load_settings
from tests.synthesized import (
    API_RULES,
    EVERYTHING,
    MINIMAL,
    SECRETS,
    WEB_RULES,
    Deployed,
    context,
)
from tests.workflows.asl import states
from workflows.token_rotation import RotationOptions


def stack_of(settings: str, folder: Path) -> ConsulOnEcsStack:
    (folder / "mesh.yaml").write_text(settings)
    (folder / "web.hcl").write_text(WEB_RULES)
    (folder / "api.json").write_text(API_RULES)
    return add_stack(App(context=context()), load_settings(folder / "mesh.yaml"))


def test_servers_are_those_of_the_settings(tmp_path: Path) -> None:
    servers = stack_of(EVERYTHING, tmp_path).servers

    assert servers.http_address == "https://consul.example.com:8501"
    assert servers.datacenter == "eu-1"
    assert servers.retry_join == ("provider=aws tag_key=consul tag_value=server", "10.0.0.1:8301")
    assert servers.ca_secret is not None
    assert servers.ca_secret.secret_arn == f"{SECRETS}:consul-ca-Zz9999"
    assert servers.gossip_key_secret is not None
    assert servers.gossip_key_secret.secret_arn == f"{SECRETS}:consul-gossip-Qq1111"


def test_the_vpc_is_that_of_the_settings(tmp_path: Path) -> None:
    assert stack_of(MINIMAL, tmp_path).vpc is None

    stack = stack_of(EVERYTHING, tmp_path)

    assert stack.vpc is not None
    assert stack.network is not None
    assert (stack.vpc.vpc_id, stack.network.vpc) == ("vpc-0123456789abcdef0", stack.vpc)


def test_the_controller_says_what_a_mesh_needs_to_know_of_it(tmp_path: Path) -> None:
    controller = stack_of(EVERYTHING, tmp_path).controller

    assert controller.cluster.cluster_name == "prod_1"
    assert (controller.secret_prefix, controller.servers.datacenter) == ("prod-consul", "eu-1")
    assert controller.encryption_key is not None
    assert controller.client_token_secret.encryption_key is not None
    assert stack_of(MINIMAL, tmp_path).controller.encryption_key is None


def test_without_images_in_the_settings_the_constructs_choose(tmp_path: Path) -> None:
    assert stack_of(MINIMAL, tmp_path).images == Images()


def test_images_are_pulled_from_where_they_are(tmp_path: Path) -> None:
    stack = stack_of(EVERYTHING, tmp_path)
    images = stack.images
    task = ecs.FargateTaskDefinition(stack, "Task", cpu=256, memory_limit_mib=512)
    for name in ("consul", "envoy", "mesh_init"):
        task.add_container(name, image=getattr(images, name))

    template = Template.from_stack(stack).to_json()["Resources"]

    (definition,) = of_type(template, "AWS::ECS::TaskDefinition", "Task")
    assert [item["Image"] for item in definition["Properties"]["ContainerDefinitions"]] == [
        "hashicorp/consul:1.15.4",
        {
            "Fn::Join": [
                "",
                [
                    "123456789012.dkr.ecr.us-gov-west-1.",
                    {"Ref": "AWS::URLSuffix"},
                    "/mesh/envoy:v1.26.2",
                ],
            ]
        },
        f"registry.example.com:5000/mesh-init@sha256:{'ab' * 32}",
    ]
    # Only from the repository in ECR that one of them is in.
    (policy,) = of_type(template, "AWS::IAM::Policy", "Task")
    pulls = policy["Properties"]["PolicyDocument"]["Statement"][0]
    repository = "arn:aws-us-gov:ecr:us-gov-west-1:123456789012:repository/mesh/envoy"
    assert pulls["Resource"] == repository
    assert set(pulls["Action"]) == {
        "ecr:BatchCheckLayerAvailability",
        "ecr:GetDownloadUrlForLayer",
        "ecr:BatchGetImage",
    }


# --------------------------------------------------------------------------------------------------
# The life of tokens
# --------------------------------------------------------------------------------------------------


def patience_of(deployed: Deployed) -> dict[str, Any]:
    """Return what the definitions have of the settings on reconciliation and rotation."""
    reconciliation = states(deployed.definition("Reconciliation"))
    rotation = states(deployed.definition("TokenRotation"))
    check = rotation["Check redeployments"]["Parameters"]
    return {
        "grace": reconciliation["Wait the grace period"]["Seconds"],
        "concurrency": rotation["Rotate services"]["MaxConcurrency"],
        "pause": rotation.get("Pause", {}).get("Seconds"),
        "limit": check["limit_minutes"],
        "keep": check["keep_ecs_services"],
    }


def test_the_settings_say_how_patiently_tokens_are_looked_after(everything: Deployed) -> None:
    assert patience_of(everything) == {
        "grace": 30 * 60,
        "concurrency": 3,
        "pause": 2 * 60,
        "limit": 45,
        "keep": ["legacy-web", "Legacy_API"],
    }


def test_without_settings_services_are_rotated_one_by_one_within_an_hour_each(
    minimal: Deployed,
) -> None:
    assert patience_of(minimal) == {
        "grace": 15 * 60,
        "concurrency": 1,
        "pause": None,
        "limit": 60,
        "keep": [],
    }


def test_whoever_judges_a_token_knows_the_rules_of_the_services(everything: Deployed) -> None:
    rules = {"web": WEB_RULES, "api": API_RULES}
    judges = {
        "TaskProvisioning": {"Check tags"},
        "Reconciliation": {"Find drift", "Look once more"},
        "TokenRotation": {"Plan rotation"},
    }

    for workflow, names in judges.items():
        tasks = states(everything.definition(workflow), "Task")
        given = {name: task["Parameters"].get("service_rules") for name, task in tasks.items()}
        assert {name: found for name, found in given.items() if found is not None} == (
            dict.fromkeys(names, rules)
        ), workflow


def test_a_construct_without_options_is_as_patient_as_a_stack_without_settings() -> None:
    reconciliation, rotation = ReconciliationOptions(), RotationOptions()
    settings, wanted = ReconciliationSettings(), RotationSettings()

    assert reconciliation.every is not None
    assert reconciliation.every.to_minutes() == settings.every_minutes
    assert reconciliation.grace_period.to_minutes() == settings.grace_minutes
    assert rotation.concurrency == wanted.concurrency
    assert (rotation.pause, wanted.pause_minutes) == (None, 0)
    assert rotation.limit.to_minutes() == wanted.stable_within_minutes
    assert rotation.keep_ecs_services == wanted.keep_ecs_services
    assert RotationSchedule() == RotationSchedule(
        services=None, client_token=None, controller_token=None
    )


def test_a_construct_may_say_what_no_setting_can() -> None:
    app = App(context=context())
    stack = Stack(app, "Mesh", env=Environment(account="123456789012", region="eu-west-1"))
    AclController(
        stack,
        "Controller",
        cluster=ecs.Cluster.from_cluster_arn(
            stack, "Cluster", "arn:aws:ecs:eu-west-1:123456789012:cluster/mesh"
        ),
        secret_prefix="acme",
        servers=ExternalConsul(http_address="http://consul.internal:8500"),
        reconciliation=ReconciliationOptions(every=None, grace_period=Duration.seconds(90)),
        rotation=RotationOptions(
            concurrency=2,
            pause=Duration.seconds(5),
            stable_within=Duration.hours(24),
            keep_ecs_services=["legacy"],
        ),
        rotation_schedule=RotationSchedule(client_token=Duration.hours(12)),
    )

    template = Template.from_stack(stack)

    assert {
        re.sub(r"^Controller|[0-9A-F]{8}$", "", name): rule["Properties"]["ScheduleExpression"]
        for name, rule in template.find_resources("AWS::Events::Rule").items()
        if "ScheduleExpression" in rule["Properties"]
    } == {"ClientTokenRotation": "rate(12 hours)"}
    definitions = [
        json.dumps(machine["Properties"]["DefinitionString"])
        for machine in template.find_resources("AWS::StepFunctions::StateMachine").values()
    ]
    (reconciliation,) = [text for text in definitions if "Wait the grace period" in text]
    assert seconds_of("Wait the grace period", reconciliation) == 90
    (rotation,) = [text for text in definitions if "Rotate services" in text]
    assert seconds_of("Pause", rotation) == 5
    # Not so often that a history of 25,000 events could not hold the looks of a day.
    assert 30 <= seconds_of("Wait for the deployments", rotation) == 86


def seconds_of(wait: str, definition: str) -> int:
    """Return how long a Wait state takes, from the text of a definition in a template."""
    plain = definition.replace("\\", "")
    found = re.search(rf'"{wait}":{{"Type":"Wait".*?"Seconds":(\d+)', plain)
    assert found is not None
    return int(found[1])


def of_type(resources: dict[str, Any], kind: str, start: str) -> list[Any]:
    return [
        resource
        for logical_id, resource in resources.items()
        if resource["Type"] == kind and logical_id.startswith(start)
    ]
