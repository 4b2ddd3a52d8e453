"""What surrounds the state machines: roles, logs, secrets, deployments, outputs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.infrastructure.conftest import Case
from tests.infrastructure.expected import Expected
from tests.infrastructure.policies import permissions
from tests.infrastructure.test_functions import STEPS
from tests.synthesized import Deployed
from tests.workflows.asl import states

MACHINES = {
    "TaskProvisioning": {
        *("CheckTags", "StoreSecret", "CreatePolicy", "CreateToken", "PublishSecret")
    },
    "ClusterBootstrap": {
        *("CheckConsul", "BootstrapAcls", "CreateBootstrapPolicies", "CreateControllerToken"),
        *("StoreSecret", "CreateToken", "PublishSecret"),
    },
    "Reconciliation": {"FindDrift", "RetireTokens", "DeleteUnused", "ReportReconciliation"},
    "TokenRotation": {
        *("PlanRotation", "StoreSecret", "CreateToken", "ProveToken", "PublishSecret"),
        *("AbandonRotation", "RetireTokens", "CheckRedeployments", "RedeployService"),
        *("DeleteUnused", "ReportRotation"),
    },
    "ServiceIntention": {"WriteIntention"},
    "DeploymentRun": {"AnswerCloudFormation"},
}

# The state machines that each one runs, and waits for.
RUNS = {
    "DeploymentRun": {"ClusterBootstrap", "TaskProvisioning", "ServiceIntention"},
    "Reconciliation": {"TaskProvisioning"},
}

START_THEMSELVES = {"Reconciliation", "TokenRotation"}
# TokenRotation waits for executions of its own.
WAIT_FOR_OTHERS = {*RUNS, "TokenRotation"}

# How a state machine is allowed to write logs (Step Functions developer guide, "Logging using
# CloudWatch Logs": CloudWatch has no resource types for these).
LOG_DELIVERY = {
    *("logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery"),
    *("logs:DeleteLogDelivery", "logs:ListLogDeliveries", "logs:PutResourcePolicy"),
    *("logs:DescribeResourcePolicies", "logs:DescribeLogGroups"),
}


def allowed(machine: str, expected: Expected) -> dict[str, set[str]]:
    """Return what a state machine's role should allow: actions by resource."""
    found: dict[str, set[str]] = {"*": LOG_DELIVERY}
    for function in MACHINES[machine]:
        arn = expected.function(function)
        found[arn] = {"lambda:InvokeFunction"}
        found[f"{arn}:*"] = {"lambda:InvokeFunction"}  # its versions
    for other in RUNS.get(machine, ()):
        found |= running(other, expected)
    if machine in WAIT_FOR_OTHERS:
        found |= hearing_of_ends(expected)
    return found


def running(machine: str, expected: Expected) -> dict[str, set[str]]:
    """Return what starting a state machine takes, and asking for its end, and stopping it."""
    return {
        expected.machine(machine): {"states:StartExecution"},
        expected.executions(machine): {"states:DescribeExecution", "states:StopExecution"},
    }


def hearing_of_ends(expected: Expected) -> dict[str, set[str]]:
    """Return what it takes to be told of the ends of executions.

    Step Functions does that by a rule of its own (developer guide, "IAM policies for nested
    workflows").
    """
    rule = expected.rule("StepFunctionsGetEventsForStepFunctionsExecutionRule")
    return {rule: {"events:PutTargets", "events:PutRule", "events:DescribeRule"}}


def test_each_state_machine_may_do_this_and_no_more(case: Case) -> None:
    deployed, expected = case
    policies = deployed.of_type("AWS::IAM::Policy")

    assert {name: permissions(policies[name]) for name in MACHINES} == {
        name: allowed(name, expected) for name in MACHINES
    }


def test_a_state_machine_that_starts_itself_may_by_a_policy_of_its_own(case: Case) -> None:
    """Its role's own policy cannot name it: the state machine waits for that one."""
    deployed, expected = case
    policies = {
        name: policy
        for name, policy in deployed.of_type("AWS::IAM::Policy").items()
        if name.endswith("/StartsItself")
    }

    assert {name: permissions(policy) for name, policy in policies.items()} == {
        # It goes on in a new execution, and does not wait for that.
        "Reconciliation/StartsItself": {
            expected.machine("Reconciliation"): {"states:StartExecution"}
        },
        # It runs one for each service.
        "TokenRotation/StartsItself": running("TokenRotation", expected),
    }
    assert [policy["Roles"] for policy in policies.values()] == [
        ["Reconciliation"],
        ["TokenRotation"],
    ]


def test_what_step_functions_checks_before_it_makes_a_state_machine_is_there_before(
    case: Case,
) -> None:
    """It makes none that waits for others if its role may not make the rule that tells of ends."""
    deployed, expected = case
    policies = deployed.of_type("AWS::IAM::Policy")
    machines = {
        name: resource
        for (kind, name), resource in deployed.resources.items()
        if kind == "AWS::StepFunctions::StateMachine"
    }
    may_hear_before = {
        name
        for name, resource in machines.items()
        for kind, other in resource["DependsOn"]
        if kind == "AWS::IAM::Policy"
        for actions_by_resource in [permissions(policies[other])]
        if all(item in actions_by_resource.items() for item in hearing_of_ends(expected).items())
    }

    waiting = {
        name
        for name, resource in machines.items()
        if ":states:startExecution.sync" in resource["Properties"]["DefinitionString"]
    }
    assert waiting == WAIT_FOR_OTHERS
    assert may_hear_before == waiting


def test_a_state_machine_runs_those_that_it_may_run(minimal: Deployed) -> None:
    for machine in MACHINES:
        parameters = [
            task["Parameters"]
            for task in states(minimal.definition(machine), "Task").values()
            if ":states:startExecution" in task["Resource"]
        ]
        started = {text for each in parameters for key, text in each.items() if "Machine" in key}
        named = {arn.rpartition(":")[2] for arn in started if arn.startswith("arn:")}
        paths = started - {arn for arn in started if arn.startswith("arn:")}

        if machine == "DeploymentRun":
            # Which of them, the deployment says.
            assert (named, paths) == (set(), {"$.state_machine_arn"})
            continue
        assert named == RUNS.get(machine, set()), machine
        assert paths == ({"$$.StateMachine.Id"} if machine in START_THEMSELVES else set()), machine


def test_each_state_machine_calls_the_functions_that_its_role_names(deployed: Deployed) -> None:
    for machine, functions in MACHINES.items():
        text = json.dumps(deployed.definition(machine))
        assert set(re.findall(r":function:(\w+)", text)) == functions


def test_a_state_machine_is_configured_like_this_and_logs_no_inputs_or_outputs(case: Case) -> None:
    deployed, expected = case
    machines = deployed.of_type("AWS::StepFunctions::StateMachine")

    assert machines == {
        name: {
            "DefinitionString": machines[name]["DefinitionString"],
            "RoleArn": expected.role(name),
            "LoggingConfiguration": {
                "Level": "ALL",
                "IncludeExecutionData": False,
                "Destinations": [
                    {
                        "CloudWatchLogsLogGroup": {
                            "LogGroupArn": expected.log_group(
                                f"/aws/vendedlogs/states/{expected.prefix}-{name}Logs"
                            )
                        }
                    }
                ],
            },
            **expected.tag_list,
        }
        for name in MACHINES
    }


def test_only_state_machines_of_this_account_may_assume_their_roles(case: Case) -> None:
    deployed, expected = case
    roles = deployed.of_type("AWS::IAM::Role")

    for name in MACHINES:
        assert roles[name] == {
            "AssumeRolePolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Action": "sts:AssumeRole",
                        "Principal": {"Service": "states.amazonaws.com"},
                        "Condition": {
                            "StringEquals": {"aws:SourceAccount": expected.place.account},
                            "ArnLike": {"aws:SourceArn": expected.machine("*")},
                        },
                    }
                ],
            },
            **expected.tag_list,
        }


# --------------------------------------------------------------------------------------------------
# Secrets, logs, deployments, outputs
# --------------------------------------------------------------------------------------------------


def secret(name: str | None, description: str, policy: str, expected: Expected) -> dict[str, Any]:
    """Return the resource of a secret, which has no value: only workflows write one."""
    tags = {"consul.hashicorp.com/cluster": expected.cluster, **expected.tags}
    return {
        "Type": "AWS::SecretsManager::Secret",
        "Properties": {
            **({"Name": name} if name else {}),
            "Description": description,
            **({"KmsKeyId": expected.key} if expected.key else {}),
            "Tags": [{"Key": key, "Value": value} for key, value in sorted(tags.items())],
        },
        "DeletionPolicy": policy,
        "UpdateReplacePolicy": policy,
        "DependsOn": [],
    }


def test_secrets_have_no_value_and_only_the_one_of_the_bootstrap_token_outlives_the_stack(
    case: Case,
) -> None:
    deployed, expected = case
    secrets = {
        name: resource
        for (kind, name), resource in deployed.resources.items()
        if kind == "AWS::SecretsManager::Secret"
    }

    wanted = {
        "ControllerTokenSecret": secret(
            f"{expected.prefix}-consul-controller-token",
            "Consul token of the ACL controller",
            "Delete",
            expected,
        ),
        "ClientTokenSecret": secret(
            f"{expected.prefix}-consul-client-token",
            "Consul token of the consul-client containers",
            "Delete",
            expected,
        ),
    }
    if expected.bootstrap_secret_name.startswith("BootstrapTokenSecret"):
        # Without a name of its own, for it outlives the stack and must not block the next one.
        wanted["BootstrapTokenSecret"] = secret(
            None,
            "Management token of Consul's ACL system",
            "Retain",
            expected,
        )
    assert secrets == wanted


def test_all_logs_are_kept_for_the_configured_time_and_go_with_the_stack(case: Case) -> None:
    deployed, expected = case
    groups = {
        name: resource
        for (kind, name), resource in deployed.resources.items()
        if kind == "AWS::Logs::LogGroup"
    }

    assert groups == {
        name: {
            "Type": "AWS::Logs::LogGroup",
            "Properties": {
                # CloudFormation makes up the names of the functions' groups.
                **(
                    {"LogGroupName": f"/aws/vendedlogs/states/{expected.prefix}-{name}"}
                    if name not in STEPS
                    else {}
                ),
                "RetentionInDays": expected.log_retention,
                **expected.tag_list,
            },
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Delete",
            "DependsOn": [],
        }
        for name in [*STEPS, *(f"{machine}Logs" for machine in MACHINES)]
    }


def test_a_deployment_runs_the_bootstrap_again_if_what_it_depends_on_has_changed(
    case: Case,
) -> None:
    deployed, expected = case
    (run,) = deployed.of_type("Custom::WorkflowRun").values()

    assert run == {
        "ServiceToken": expected.function("StartDeploymentRun"),
        "ServiceTimeout": "3300",
        "StateMachineArn": expected.machine("ClusterBootstrap"),
        "Input": "{}",
        "DefinitionDigest": run["DefinitionDigest"],
        "CodeDigest": run["CodeDigest"],
        "ConsulHttpAddress": expected.address,
        "ConsulDatacenter": expected.datacenter,
        "BootstrapTokenSecretArn": expected.bootstrap_secret,
        "ControllerTokenSecretArn": expected.controller_secret,
        "ClientTokenSecretArn": expected.client_secret,
        "AccessDigest": run["AccessDigest"],
        "ProvisioningDigest": run["ProvisioningDigest"],
    }
    assert re.fullmatch(r"[0-9a-f]{16}", run["DefinitionDigest"])
    assert re.fullmatch(r"lambda-[0-9a-f]{16}", run["CodeDigest"])


@pytest.mark.parametrize("digest", ["DefinitionDigest", "AccessDigest", "ProvisioningDigest"])
def test_another_definition_or_another_way_to_consul_has_another_digest(
    minimal: Deployed, everything: Deployed, vpc_only: Deployed, digest: str
) -> None:
    digests = {
        stack.of_type("Custom::WorkflowRun")["BootstrapOnDeploy"][digest]
        for stack in (minimal, everything, vpc_only)
    }

    assert len(digests) == (2 if digest == "DefinitionDigest" else 3)


def test_the_outputs_say_where_everything_is_and_hold_no_value(case: Case) -> None:
    deployed, expected = case

    assert deployed.outputs == {
        "ClusterBootstrapArn": {"Value": expected.machine("ClusterBootstrap")},
        "TaskProvisioningArn": {"Value": expected.machine("TaskProvisioning")},
        "ReconciliationArn": {"Value": expected.machine("Reconciliation")},
        "TokenRotationArn": {"Value": expected.machine("TokenRotation")},
        "ServiceIntentionArn": {"Value": expected.machine("ServiceIntention")},
        "DeadLetterQueueUrl": {"Value": expected.queue_url},
        "BootstrapTokenSecretArn": {"Value": expected.bootstrap_secret},
        "BootstrapTokenSecretName": {"Value": expected.bootstrap_secret_name},
        "ControllerTokenSecretArn": {"Value": expected.controller_secret},
        "ControllerTokenSecretName": {"Value": f"{expected.prefix}-consul-controller-token"},
        "ClientTokenSecretArn": {"Value": expected.client_secret},
        "ClientTokenSecretName": {"Value": f"{expected.prefix}-consul-client-token"},
    }
