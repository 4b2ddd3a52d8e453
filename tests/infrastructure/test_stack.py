"""What the stack of a settings file offers to the constructs of a mesh."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App
from aws_cdk import aws_ecs as ecs
from aws_cdk.assertions import Template

from app import add_stack
from infrastructure.stack import ConsulOnEcsStack, Images
from settings import SettingsError, load_settings
from tests.synthesized import API_RULES, EVERYTHING, MINIMAL, SECRETS, WEB_RULES, context


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


def test_without_an_address_to_join_there_are_no_servers_for_tasks(tmp_path: Path) -> None:
    stack = stack_of(MINIMAL, tmp_path)

    with pytest.raises(SettingsError, match=re.escape("consul.retry_join: the list is empty")):
        _ = stack.servers


def test_the_vpc_is_that_of_the_settings(tmp_path: Path) -> None:
    assert stack_of(MINIMAL, tmp_path).vpc is None

    stack = stack_of(EVERYTHING, tmp_path)

    assert stack.vpc is not None
    assert stack.network is not None
    assert (stack.vpc.vpc_id, stack.network.vpc) == ("vpc-0123456789abcdef0", stack.vpc)


def test_the_controller_says_what_a_mesh_needs_to_know_of_it(tmp_path: Path) -> None:
    controller = stack_of(EVERYTHING, tmp_path).controller

    assert controller.cluster.cluster_name == "prod_1"
    assert (controller.secret_prefix, controller.consul_datacenter) == ("prod-consul", "eu-1")
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


def of_type(resources: dict[str, Any], kind: str, start: str) -> list[Any]:
    return [
        resource
        for logical_id, resource in resources.items()
        if resource["Type"] == kind and logical_id.startswith(start)
    ]
