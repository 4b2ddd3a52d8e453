"""The app, synthesized as the CDK command line would, and its template as CloudFormation reads it.

Synthesizing starts a Node process, so a test session does it once for each of a few settings files
(fixtures in tests/conftest.py). Templates are hard to read: references, joins and hashed logical
IDs everywhere. `Deployed` evaluates them for one place, and gives resources short names, so that a
test can say `arn:aws:lambda:eu-west-1:123456789012:function:CheckTags`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs

from app import add_stack
from infrastructure.acl_controller import AclController
from infrastructure.consul_server_cluster import ConsulServerCluster
from settings import load_settings

ROOT = Path(__file__).parents[1]

WEB_RULES = 'key_prefix "web/" {\n  policy = "write"\n}\n'
API_RULES = '{ "key_prefix": { "api/": { "policy": "read" } } }\n'

SECRETS = "arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret"
KEY = "arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"

MINIMAL = """\
ecs:
  cluster: my-cluster
secrets:
  prefix: consul
consul:
  http_address: http://consul.internal:8500
"""

EVERYTHING = f"""\
ecs:
  cluster: arn:aws-us-gov:ecs:us-gov-west-1:123456789012:cluster/prod_1
secrets:
  prefix: prod-consul
  kms_key_arn: {KEY}
consul:
  http_address: https://consul.example.com:8501
  datacenter: eu-1
  retry_join: ["provider=aws tag_key=consul tag_value=server", "10.0.0.1:8301"]
  bootstrap_token_secret_arn: {SECRETS}:ops/consul-root-AbC123
  ca_secret_arn: {SECRETS}:consul-ca-Zz9999
  gossip_key_secret_arn: {SECRETS}:consul-gossip-Qq1111
  anonymous_policy: false
network:
  vpc_id: vpc-0123456789abcdef0
  subnet_ids: [subnet-0123456789abcdef0, subnet-0123456789abcdef1]
  security_group_ids: [sg-0123456789abcdef0, sg-0123456789abcdef1]
services:
  web:
    rules: web.hcl
  api:
    rules: api.json
images:
  consul: hashicorp/consul:1.15.4
  envoy: 123456789012.dkr.ecr.us-gov-west-1.amazonaws.com/mesh/envoy:v1.26.2
  mesh_init: registry.example.com:5000/mesh-init@sha256:{"ab" * 32}
reconciliation:
  every_minutes: 10
  grace_minutes: 30
rotation:
  services_every_days: 30
  client_token_every_days: 90
  controller_token_every_days: 1
  concurrency: 3
  pause_minutes: 2
  stable_within_minutes: 45
  keep_ecs_services: [legacy-web, Legacy_API]
log_retention_days: 365
tags:
  team: platform
  cost-center: "42"
"""

VPC_ONLY = """\
ecs:
  cluster: my-cluster
secrets:
  prefix: consul
consul:
  http_address: http://consul.internal:8500
network:
  vpc_id: vpc-0123456789abcdef0
  subnet_ids: [subnet-0123456789abcdef0]
"""


def context() -> dict[str, Any]:
    """Return what the CDK command line passes to the app: the context in cdk.json, and its own."""
    configured: dict[str, Any] = json.loads((ROOT / "cdk.json").read_text())["context"]
    return {**configured, "aws:cdk:enable-path-metadata": True}


@dataclass(frozen=True)
class Place:
    """Where a template is deployed."""

    partition: str
    region: str
    account: str

    def arn(self, service: str, resource: str, *, region: bool = True) -> str:
        where = self.region if region else ""
        return f"arn:{self.partition}:{service}:{where}:{self.account}:{resource}"


IRELAND = Place("aws", "eu-west-1", "123456789012")
GOVERNMENT = Place("aws-us-gov", "us-gov-west-1", "123456789012")


@dataclass(frozen=True)
class Synthesized:
    """A stack that has been synthesized."""

    app: cdk.App
    name: str
    template: dict[str, Any]
    messages: list[str]
    """Warnings and errors that the command line would print."""


def synthesize(settings_text: str, directory: Path) -> Synthesized:
    """Synthesize the app with these settings; the directory gets the files."""
    (directory / "mesh.yaml").write_text(settings_text)
    (directory / "web.hcl").write_text(WEB_RULES)
    (directory / "api.json").write_text(API_RULES)
    app = cdk.App(outdir=str(directory / "cdk.out"), context=context())
    stack = add_stack(app, load_settings(directory / "mesh.yaml"))
    artifact = app.synth().get_stack_by_name(stack.stack_name)
    return Synthesized(
        app=app,
        name=stack.stack_name,
        template=artifact.template,
        messages=[f"{message.id}: {message.entry.data}" for message in artifact.messages],
    )


SERVED_CLUSTER = IRELAND.arn("ecs", "cluster/served")


def synthesize_with_servers(directory: Path) -> Synthesized:
    """Synthesize a stack with Consul servers of its own and a controller that looks after them."""
    app = cdk.App(outdir=str(directory / "cdk.out"), context=context())
    stack = cdk.Stack(app, "Served")
    zones = ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
    vpc = ec2.Vpc.from_vpc_attributes(
        stack,
        "Vpc",
        vpc_id="vpc-0123456789abcdef0",
        availability_zones=zones,
        private_subnet_ids=[f"subnet-0123456789abcdef{number}" for number in range(len(zones))],
        private_subnet_route_table_ids=["rtb-0123456789abcdef0"] * len(zones),
    )
    controller = AclController(
        stack,
        "AclController",
        cluster=ecs.Cluster.from_cluster_arn(stack, "Cluster", SERVED_CLUSTER),
        secret_prefix="served",
        servers=ConsulServerCluster(stack, "Consul", vpc=vpc),
    )
    controller.allow(stack, "Allow", source="greeter", destination="greeting")
    artifact = app.synth().get_stack_by_name("Served")
    return Synthesized(
        app=app,
        name="Served",
        template=artifact.template,
        messages=[f"{message.id}: {message.entry.data}" for message in artifact.messages],
    )


# What CDK calls parts of constructs, and constructs of ours that only group others.
_UNNAMED = {"AclController", "Default", "DefaultPolicy", "Function", "Logs", "Policy"}
_UNNAMED |= {"Resource", "Role", "ServerCare", "ServerSnapshots", "StateMachine", "WorkflowRuns"}

_SECRET_SUFFIX = "-AbCdEf"  # what Secrets Manager appends


@dataclass(frozen=True)
class Deployed:
    """A template with every reference and intrinsic function evaluated.

    Resources are named by their place in the tree of constructs, without the parts that say
    nothing: the function in `ConsulOnEcs-my-cluster/AclController/CheckTags/Function/Resource` is
    `CheckTags`, and so are its role, its policy and its log group.
    """

    synthesized: Synthesized
    place: Place

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the evaluated properties of all resources of a type, by name."""
        return {
            self._key(logical_id)[1]: self.evaluate(resource.get("Properties", {}))
            for logical_id, resource in self.synthesized.template["Resources"].items()
            if resource["Type"] == kind
        }

    @cached_property
    def resources(self) -> dict[tuple[str, str], dict[str, Any]]:
        """All resources by type and name, evaluated; `DependsOn` is a list of (type, name)."""
        raw = self.synthesized.template["Resources"]
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for logical_id, resource in raw.items():
            evaluated = {
                key: self.evaluate(value)
                for key, value in resource.items()
                if key not in {"DependsOn", "Metadata"}
            }
            depends_on = resource.get("DependsOn", [])
            evaluated["DependsOn"] = sorted(
                self._key(other)
                for other in ([depends_on] if isinstance(depends_on, str) else depends_on)
            )
            key = self._key(logical_id)
            assert key not in found, f"two resources are called {key}"
            found[key] = evaluated
        return found

    @property
    def outputs(self) -> dict[str, Any]:
        outputs = self.synthesized.template["Outputs"]
        return {key: self.evaluate(output) for key, output in outputs.items()}

    def definition(self, name: str) -> dict[str, Any]:
        """Return the definition of a state machine."""
        text = self.of_type("AWS::StepFunctions::StateMachine")[name]["DefinitionString"]
        definition: dict[str, Any] = json.loads(text)
        return definition

    def with_definitions_resolved(self) -> dict[str, Any]:
        """Return the template as it is, with definitions that linters can read."""
        template = copy.deepcopy(self.synthesized.template)
        for resource in template["Resources"].values():
            if resource["Type"] == "AWS::StepFunctions::StateMachine":
                properties = resource["Properties"]
                properties["DefinitionString"] = self.evaluate(properties["DefinitionString"])
        return template

    def evaluate(self, value: Any) -> Any:
        """Evaluate intrinsic functions as CloudFormation does, or raise if one is not known."""
        if isinstance(value, list):
            return [self.evaluate(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, argument),) = value.items()
            if function == "Ref" or function.startswith("Fn::"):
                return self._call(function, argument)
        return {key: self.evaluate(item) for key, item in value.items()}

    def _call(self, function: str, argument: Any) -> Any:
        match function, argument:
            case "Ref", str(logical_id):
                return self._reference(logical_id)
            case "Fn::GetAtt", [str(logical_id), str(attribute)]:
                return self._attribute(logical_id, attribute)
            case "Fn::Join", [str(separator), parts]:
                return separator.join(self.evaluate(parts))
            case "Fn::Split", [str(separator), text]:
                return self.evaluate(text).split(separator)
            case "Fn::Select", [index, parts]:
                return self.evaluate(parts)[int(index)]
            case "Fn::Sub", str(text):
                for pseudo in ("Partition", "Region", "AccountId"):
                    text = text.replace(f"${{AWS::{pseudo}}}", self._reference(f"AWS::{pseudo}"))
                assert "${" not in text, text
                return text
        raise NotImplementedError(f"{function}: {argument}")

    def _reference(self, logical_id: str) -> str:
        pseudo = {
            "AWS::Partition": self.place.partition,
            "AWS::Region": self.place.region,
            "AWS::AccountId": self.place.account,
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::StackId": self.place.arn("cloudformation", "stack/this"),
        }
        if logical_id in pseudo:
            return pseudo[logical_id]
        kind, name = self._key(logical_id)
        match kind:
            case "AWS::StepFunctions::StateMachine" | "AWS::SecretsManager::Secret":
                return self._arn(logical_id)
            case "AWS::SQS::Queue":
                region, account = self.place.region, self.place.account
                return f"https://sqs.{region}.amazonaws.com/{account}/{name}"
            case "AWS::ECS::TaskDefinition":
                properties = self.synthesized.template["Resources"][logical_id]["Properties"]
                return self.place.arn("ecs", f"task-definition/{properties['Family']}:1")
            case "AWS::IAM::Role" | "AWS::S3::Bucket" | "AWS::EC2::Volume":
                return _physical(name)
            case "AWS::Logs::LogGroup":
                properties = self.synthesized.template["Resources"][logical_id]["Properties"]
                return str(properties.get("LogGroupName", name))
        raise NotImplementedError(f"Ref to a {kind}")

    def _attribute(self, logical_id: str, attribute: str) -> str:
        kind, name = self._key(logical_id)
        match kind, attribute:
            case _, "Arn":
                return self._arn(logical_id)
            case "AWS::ServiceDiscovery::PrivateDnsNamespace", "HostedZoneId":
                return f"zone-of-{name}"
            case "AWS::EC2::SecurityGroup", "GroupId":
                return f"sg-of-{name}"
            case "AWS::StepFunctions::StateMachine", "Name":
                return name
        raise NotImplementedError(f"{attribute} of a {kind}")

    def _arn(self, logical_id: str) -> str:
        kind, name = self._key(logical_id)
        if kind == "AWS::S3::Bucket":
            return f"arn:{self.place.partition}:s3:::{_physical(name)}"
        if kind == "AWS::IAM::Role":
            return self.place.arn("iam", f"role/{_physical(name)}", region=False)
        properties = self.synthesized.template["Resources"][logical_id]["Properties"]
        services = {
            "AWS::KMS::Key": ("kms", f"key/{name}"),
            "AWS::Events::Rule": ("events", f"rule/{name}"),
            "AWS::Lambda::Function": ("lambda", f"function:{name}"),
            "AWS::Logs::LogGroup": ("logs", f"log-group:{properties.get('LogGroupName', name)}:*"),
            "AWS::SQS::Queue": ("sqs", name),
            "AWS::ServiceDiscovery::Service": ("servicediscovery", f"service/{name}"),
            "AWS::SecretsManager::Secret": (
                "secretsmanager",
                # CloudFormation appends something to names of its own making.
                f"secret:{properties.get('Name', f'{name}-0123456789ab')}{_SECRET_SUFFIX}",
            ),
            "AWS::StepFunctions::StateMachine": ("states", f"stateMachine:{name}"),
        }
        service, resource = services[kind]
        return self.place.arn(service, resource)

    def _key(self, logical_id: str) -> tuple[str, str]:
        resource: Mapping[str, Any] = self.synthesized.template["Resources"][logical_id]
        _stack, *path = resource["Metadata"]["aws:cdk:path"].split("/")
        return resource["Type"], "/".join(part for part in path if part not in _UNNAMED)


def _physical(name: str) -> str:
    return name.replace("/", "-")
