"""What holds for whole templates: what is in them, what must not be, and what linters say."""

from __future__ import annotations

import fnmatch
import json
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import cdk_nag
import pytest
from cfnlint.api import lint  # type: ignore[import-untyped]
from cfnlint.config import ManualArgs  # type: ignore[import-untyped]

from settings import _MAX_RULES_BYTES
from tests.infrastructure.dependencies import needs
from tests.infrastructure.policies import as_list
from tests.infrastructure.test_functions import (
    LIST_TASKS,
    NETWORK_INTERFACES,
    READ_MANY,
    STEPS,
    TALKS_TO_CONSUL,
)
from tests.infrastructure.test_workflow_resources import (
    LOG_DELIVERY,
    MACHINES,
    START_THEMSELVES,
)
from tests.synthesized import EVERYTHING, Deployed, Place, synthesize

# Each kind is asserted whole elsewhere in this folder; definitions, in tests/workflows. Without
# settings a task's event and a schedule start something.
ASSERTED = {
    "AWS::Events::Rule": 2,
    "AWS::IAM::Policy": len(STEPS) + len(MACHINES) + len(START_THEMSELVES) + 2,
    "AWS::IAM::Role": len(STEPS) + len(MACHINES) + 2,
    "AWS::Lambda::Function": len(STEPS),
    "AWS::Logs::LogGroup": len(STEPS) + len(MACHINES),
    "AWS::SQS::Queue": 1,
    "AWS::SQS::QueuePolicy": 1,
    "AWS::SecretsManager::Secret": 3,
    "AWS::StepFunctions::StateMachine": len(MACHINES),
    "Custom::WorkflowRun": 1,
}
# With all settings the bootstrap secret is somebody else's, and rotations have schedules.
ASSERTED_WITH_EVERYTHING = {
    **ASSERTED,
    "AWS::SecretsManager::Secret": 2,
    "AWS::Events::Rule": ASSERTED["AWS::Events::Rule"] + 3,
    "AWS::IAM::Policy": ASSERTED["AWS::IAM::Policy"] + 1,
    "AWS::IAM::Role": ASSERTED["AWS::IAM::Role"] + 1,
}


def kinds(deployed: Deployed) -> Counter[str]:
    return Counter(kind for kind, _ in deployed.resources)


def test_there_is_nothing_that_no_test_looks_at(
    minimal: Deployed, everything: Deployed, vpc_only: Deployed
) -> None:
    assert kinds(minimal) == ASSERTED
    assert kinds(everything) == ASSERTED_WITH_EVERYTHING
    assert kinds(vpc_only) == {**ASSERTED, "AWS::EC2::SecurityGroup": 1}


def test_the_stack_is_named_after_the_cluster(minimal: Deployed, everything: Deployed) -> None:
    assert minimal.synthesized.name == "ConsulOnEcs-my-cluster"
    assert everything.synthesized.name == "ConsulOnEcs-prod-1"


def test_synthesizing_says_nothing_that_its_user_has_to_wonder_about(deployed: Deployed) -> None:
    assert deployed.synthesized.messages == []


def test_everything_that_can_have_tags_has_the_configured_ones(everything: Deployed) -> None:
    expected = {"team": "platform", "cost-center": "42"}
    untagged = {
        kind
        for (kind, _), resource in everything.resources.items()
        if not expected.items()
        <= {tag["Key"]: tag["Value"] for tag in resource["Properties"].get("Tags", [])}.items()
    }

    # These have no tags in CloudFormation.
    assert untagged == {"AWS::IAM::Policy", "AWS::SQS::QueuePolicy", "Custom::WorkflowRun"}


# --------------------------------------------------------------------------------------------------
# What must not be in a template
# --------------------------------------------------------------------------------------------------


def strings(value: Any) -> list[str]:
    """Return all texts in a JSON document, keys included."""
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in strings(part)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def test_no_arn_is_bound_to_the_partition_aws(deployed: Deployed) -> None:
    assert [text for text in strings(deployed.synthesized.template) if "arn:aws:" in text] == []


@pytest.mark.parametrize(
    "place",
    [
        Place("aws", "eu-west-1", "123456789012"),
        Place("aws-cn", "cn-north-1", "123456789012"),
        Place("aws-us-gov", "us-gov-east-1", "123456789012"),
    ],
)
def test_one_template_can_be_deployed_to_any_partition(minimal: Deployed, place: Place) -> None:
    there = Deployed(minimal.synthesized, place)
    arns = re.findall(r"arn:(?:[\w-]*):\w+:[\w-]*:", json.dumps(strings([*resources(there)])))

    assert len(arns) > 100
    assert {arn.split(":")[1] for arn in arns} == {place.partition}
    # IAM and service integrations are of no region.
    assert {arn.split(":")[3] for arn in arns} == {place.region, ""}


def resources(deployed: Deployed) -> list[Any]:
    return [resource["Properties"] for resource in deployed.resources.values()]


def test_a_cluster_given_by_its_arn_fixes_where_the_stack_goes(everything: Deployed) -> None:
    stack = everything.synthesized.app.node.find_child("ConsulOnEcs-prod-1")

    assert (stack.region, stack.account) == ("us-gov-west-1", "123456789012")  # type: ignore[attr-defined]
    arns = {
        text.split(":")[1]
        for text in strings(everything.synthesized.template)
        if text.startswith("arn:")
    }
    assert arns == {"aws-us-gov"}


# Where a policy has to say "any", and why.
WILDCARDS = {
    "arn:*:secretsmanager:*:secret:*consul-*": "the secrets of services that nobody knows yet",
    "arn:*:ecs:*:task/*/*": "the tasks of one cluster, whose IDs nobody knows yet",
    "arn:*:ecs:*:service/*/*": "the ECS services of one cluster; which ones, tasks say",
    "arn:*:logs:*:log-group:*:*": "the streams of one log group, named by Lambda",
    "arn:*:lambda:*:function:*:*": "the versions of one function; CDK's LambdaInvoke adds them",
    "arn:*:states:*:execution:ClusterBootstrap:*": "the executions of one state machine",
    "arn:*:states:*:execution:ServiceIntention:*": "the executions of one state machine",
    "arn:*:states:*:execution:TaskProvisioning:*": "the executions of one state machine",
    "arn:*:states:*:execution:TokenRotation:*": "the executions of one state machine",
}
ANY_RESOURCE = [
    (LOG_DELIVERY, set(MACHINES), "log delivery has no resource types"),
    (NETWORK_INTERFACES, TALKS_TO_CONSUL, "what Lambda needs in a VPC has hardly any"),
    (
        {READ_MANY},
        {"FindDrift", "DeleteUnused"},
        "a batch has no resource types; of each secret in it one has to be allowed to read it",
    ),
    (
        {LIST_TASKS},
        {"FindDrift", "DeleteUnused", "CheckRedeployments"},
        "tasks are listed by cluster, and that is a condition",
    ),
]


def test_no_policy_says_any_but_where_there_is_a_reason(deployed: Deployed) -> None:
    for name, policy in deployed.of_type("AWS::IAM::Policy").items():
        for statement in policy["PolicyDocument"]["Statement"]:
            actions = set(as_list(statement["Action"]))
            assert not any("*" in action for action in actions), name
            for resource in as_list(statement["Resource"]):
                if resource == "*":
                    # CDK makes one statement of those of a function that differ in actions only.
                    known = [actions for actions, users, _ in ANY_RESOURCE if name in users]
                    assert actions <= set().union(*known), name
                    assert "Condition" in statement or LIST_TASKS not in actions, name
                elif "*" in resource:
                    assert any(fnmatch.fnmatch(resource, known) for known in WILDCARDS), resource


# --------------------------------------------------------------------------------------------------
# What CloudFormation needs to deploy it
# --------------------------------------------------------------------------------------------------


def test_nothing_waits_for_itself(deployed: Deployed) -> None:
    TopologicalSorter(needs(deployed.synthesized.template)).prepare()  # or there is a CycleError


@pytest.mark.parametrize("how", ["Ref", "Fn::GetAtt", "Fn::Sub", "DependsOn"])
def test_a_circle_would_be_noticed(how: str) -> None:
    there: dict[str, Any] = {
        "Ref": {"Properties": {"A": [{"Ref": "A"}]}},
        "Fn::GetAtt": {"Properties": {"A": {"Fn::GetAtt": ["A", "Arn"]}}},
        "Fn::Sub": {"Properties": {"A": {"Fn::Sub": "arn:${AWS::Partition}:${A.Name}"}}},
        "DependsOn": {"DependsOn": "A"},
    }
    template = {"Resources": {"A": {"DependsOn": ["B"]}, "B": there[how]}}

    with pytest.raises(CycleError):
        TopologicalSorter(needs(template)).prepare()


def test_the_most_rules_that_the_settings_allow_fit_into_a_template(tmp_path: Path) -> None:
    """They are in four states, as JSON in JSON: a quote in them becomes four characters."""
    entry = '"%05d":{"policy":"read"},'
    entries = [entry % number for number in range(_MAX_RULES_BYTES // len(entry % 0) - 2)]
    rules = '{"key_prefix":{' + "".join(entries).rstrip(",") + "}}"
    assert _MAX_RULES_BYTES - 100 < len(rules) <= _MAX_RULES_BYTES

    settings = EVERYTHING.replace("rules: api.json", "rules: most.json")
    settings = settings.replace("  web:\n    rules: web.hcl\n", "")
    (tmp_path / "most.json").write_text(rules)
    found = synthesize(settings, tmp_path)

    # CDK warns of a template that is nearly as large as CloudFormation takes, a megabyte.
    assert found.messages == []
    (file,) = (tmp_path / "cdk.out").glob("ConsulOnEcs-*.template.json")
    assert file.stat().st_size < 800_000


# --------------------------------------------------------------------------------------------------
# Secrets
# --------------------------------------------------------------------------------------------------

SECRET_LOOK = re.compile(
    r"""-----BEGIN
      | (?<![0-9a-z])(?<!:key/)[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?![0-9a-z])
      | ://[^/\s]*@
      | (?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}=
    """,
    re.IGNORECASE | re.VERBOSE,
)
ANONYMOUS_TOKEN = "00000000-0000-0000-0000-000000000002"  # an accessor ID that all Consuls share


def test_no_template_has_anything_that_looks_like_a_secret(deployed: Deployed) -> None:
    found = {
        match
        for text in strings([deployed.synthesized.template, *resources(deployed)])
        for match in SECRET_LOOK.findall(text)
    }

    assert found <= {ANONYMOUS_TOKEN}


def test_no_template_resolves_a_secret(deployed: Deployed) -> None:
    assert "{{resolve:" not in json.dumps(deployed.synthesized.template)


# --------------------------------------------------------------------------------------------------
# Linters
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("region", ["us-east-1", "us-gov-west-1"])
def test_cfn_lint_finds_nothing(deployed: Deployed, region: str) -> None:
    template = json.dumps(deployed.with_definitions_resolved())
    # Its schema of definitions takes ARNs of the partition aws only.
    template = template.replace("arn:aws-us-gov:", "arn:aws:")
    config = ManualArgs(
        regions=[region],
        include_checks=["I"],
        ignore_checks=["W3005"],  # CDK writes dependencies that a reference implies anyway
    )

    found = lint(template, config=config)

    assert [f"{match.rule.id} {match.message} at {match.path}" for match in found] == []


NAG_REASONS = {
    "AwsSolutions-L1": "Python 3.13 on purpose: it is what the handlers are written for",
    "AwsSolutions-SF2": "X-Ray costs per trace and shows no more than the execution's history: "
    "each step is one call.",
    "AwsSolutions-SMG4": "Only Consul can rotate these; a new token has to be made there first.",
    "AwsSolutions-SQS3": "It is a dead-letter queue: EventBridge's, which the rule does not see.",
    "AwsSolutions-IAM5": "Each wildcard has its reason in WILDCARDS or ANY_RESOURCE above.",
}


def test_cdk_nag_finds_nothing_without_a_reason(deployed: Deployed) -> None:
    app = deployed.synthesized.app
    report = cdk_nag.AwsSolutionsChecks(app).validate_scope(app)
    assert report.violations is not None

    found = {
        (violation.rule_name.partition("[")[0], resource.construct_path.split("/", 1)[1])
        for violation in report.violations
        for resource in violation.violating_resources
        if resource.construct_path
    }

    functions = {
        name: path.removesuffix("/Resource")
        for path in (
            resource["Metadata"]["aws:cdk:path"].split("/", 1)[1]
            for resource in deployed.synthesized.template["Resources"].values()
            if resource["Type"] == "AWS::Lambda::Function"
        )
        for name in [path.split("/")[-3]]
    }
    assert set(functions) == set(STEPS)
    assert {rule for rule, _ in found} == set(NAG_REASONS)
    of_rule = {rule: {path for known, path in found if known == rule} for rule in NAG_REASONS}
    assert of_rule["AwsSolutions-L1"] == {f"{path}/Resource" for path in functions.values()}
    assert {path.split("/")[-3] for path in of_rule["AwsSolutions-SF2"]} == set(MACHINES)
    assert of_rule["AwsSolutions-SQS3"] == {"AclController/DeadLetters/Resource"}
    assert of_rule["AwsSolutions-SMG4"] == {
        f"AclController/{name}/Resource" for name in deployed.of_type("AWS::SecretsManager::Secret")
    }
    assert {
        path
        for path in of_rule["AwsSolutions-IAM5"]
        if not path.endswith("/DefaultPolicy/Resource")
    } == {"AclController/TokenRotation/StateMachine/StartsItself/Resource"}
