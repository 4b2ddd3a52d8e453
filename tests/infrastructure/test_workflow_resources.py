"""What surrounds the state machines: roles, the rule that starts one, queue, logs, deployments."""

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

MACHINES = {
    "TaskProvisioning": {
        *("CheckTags", "StoreSecret", "CreatePolicy", "CreateToken", "PublishSecret")
    },
    "ClusterBootstrap": {
        *("CheckConsul", "BootstrapAcls", "CreateBootstrapPolicies", "CreateControllerToken"),
        *("StoreSecret", "CreateToken", "PublishSecret"),
    },
    "DeploymentRun": {"AnswerCloudFormation"},
}

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
    if machine == "DeploymentRun":
        for workflow in ("ClusterBootstrap", "TaskProvisioning"):
            found[expected.machine(workflow)] = {"states:StartExecution"}
            found[expected.place.arn("states", f"execution:{workflow}:*")] = {
                "states:DescribeExecution",
                "states:StopExecution",
            }
        rule = "rule/StepFunctionsGetEventsForStepFunctionsExecutionRule"
        found[expected.place.arn("events", rule)] = {
            *("events:PutTargets", "events:PutRule", "events:DescribeRule")
        }
    return found


def test_each_state_machine_may_do_this_and_no_more(case: Case) -> None:
    deployed, expected = case
    policies = deployed.of_type("AWS::IAM::Policy")

    assert {name: permissions(policies[name]) for name in MACHINES} == {
        name: allowed(name, expected) for name in MACHINES
    }


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
            "RoleArn": expected.place.arn("iam", f"role/{name}", region=False),
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
# What starts TaskProvisioning
# --------------------------------------------------------------------------------------------------


def test_a_task_that_starts_in_the_cluster_starts_the_workflow(case: Case) -> None:
    deployed, expected = case

    assert deployed.of_type("AWS::Events::Rule") == {
        "TaskStarts": {
            "Description": f"A task starts: make sure of its Consul token ({expected.prefix})",
            "State": "ENABLED",
            "EventPattern": {
                "source": ["aws.ecs"],
                "detail-type": ["ECS Task State Change"],
                "detail": {
                    "clusterArn": [expected.cluster],
                    "desiredStatus": ["RUNNING"],
                    "lastStatus": ["PROVISIONING", "PENDING"],
                },
            },
            "Targets": [
                {
                    "Id": "Target0",
                    "Arn": expected.machine("TaskProvisioning"),
                    "RoleArn": expected.place.arn(
                        "iam", "role/TaskProvisioning-EventsRole", region=False
                    ),
                    # Only these of an event: it may carry the environment of a task.
                    "InputTransformer": {
                        "InputPathsMap": {
                            "id": "$.id",
                            "time": "$.time",
                            "detail-clusterArn": "$.detail.clusterArn",
                            "detail-taskArn": "$.detail.taskArn",
                            "detail-lastStatus": "$.detail.lastStatus",
                            "detail-desiredStatus": "$.detail.desiredStatus",
                            "detail-version": "$.detail.version",
                        },
                        "InputTemplate": (
                            '{"id":<id>,"time":<time>,"detail":{'
                            '"clusterArn":<detail-clusterArn>,'
                            '"taskArn":<detail-taskArn>,'
                            '"lastStatus":<detail-lastStatus>,'
                            '"desiredStatus":<detail-desiredStatus>,'
                            '"version":<detail-version>}}'
                        ),
                    },
                    "RetryPolicy": {
                        "MaximumEventAgeInSeconds": 24 * 60 * 60,
                        "MaximumRetryAttempts": 185,
                    },
                    "DeadLetterConfig": {"Arn": expected.place.arn("sqs", "DeadLetters")},
                }
            ],
            **expected.tag_list,
        }
    }


def test_eventbridge_may_start_this_workflow_and_do_nothing_else(case: Case) -> None:
    deployed, expected = case
    role = "TaskProvisioning/EventsRole"

    assert permissions(deployed.of_type("AWS::IAM::Policy")[role]) == {
        expected.machine("TaskProvisioning"): {"states:StartExecution"}
    }
    assert deployed.of_type("AWS::IAM::Role")[role] == {
        "AssumeRolePolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": "sts:AssumeRole",
                    "Principal": {"Service": "events.amazonaws.com"},
                }
            ],
        },
        **expected.tag_list,
    }


def test_events_that_start_nothing_are_kept_for_two_weeks_encrypted(case: Case) -> None:
    deployed, expected = case
    queue = expected.place.arn("sqs", "DeadLetters")

    assert deployed.of_type("AWS::SQS::Queue") == {
        "DeadLetters": {
            "MessageRetentionPeriod": 14 * 24 * 60 * 60,
            "SqsManagedSseEnabled": True,
            **expected.tag_list,
        }
    }
    (policy,) = deployed.of_type("AWS::SQS::QueuePolicy").values()
    statements = policy["PolicyDocument"]["Statement"]
    assert policy == {
        "Queues": [expected.queue_url],
        "PolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Deny",
                    "Action": "sqs:*",
                    "Principal": {"AWS": "*"},
                    "Resource": queue,
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                },
                {
                    "Sid": statements[1]["Sid"],
                    "Effect": "Allow",
                    "Action": "sqs:SendMessage",
                    "Principal": {"Service": "events.amazonaws.com"},
                    "Resource": queue,
                    "Condition": {
                        "ArnEquals": {
                            "aws:SourceArn": expected.place.arn("events", "rule/TaskStarts")
                        }
                    },
                },
            ],
        },
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
        "DeadLetterQueueUrl": {"Value": expected.queue_url},
        "BootstrapTokenSecretArn": {"Value": expected.bootstrap_secret},
        "BootstrapTokenSecretName": {"Value": expected.bootstrap_secret_name},
        "ControllerTokenSecretArn": {"Value": expected.controller_secret},
        "ControllerTokenSecretName": {"Value": f"{expected.prefix}-consul-controller-token"},
        "ClientTokenSecretArn": {"Value": expected.client_secret},
        "ClientTokenSecretName": {"Value": f"{expected.prefix}-consul-client-token"},
    }
