"""The Lambda functions, and what each one may do."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from tests.infrastructure.conftest import Case
from tests.infrastructure.expected import Expected
from tests.infrastructure.policies import permissions
from tests.synthesized import ROOT, Deployed

STEPS = {
    "CheckTags": "check_tags",
    "StoreSecret": "store_secret",
    "CreatePolicy": "create_policy",
    "CreateToken": "create_token",
    "PublishSecret": "publish_secret",
    "CheckConsul": "check_consul",
    "BootstrapAcls": "bootstrap_acls",
    "CreateBootstrapPolicies": "create_policy",
    "CreateControllerToken": "create_token",
    "FindDrift": "find_drift",
    "RetireTokens": "retire_tokens",
    "DeleteUnused": "delete_unused",
    "ReportReconciliation": "report_reconciliation",
    "PlanRotation": "plan_rotation",
    "ProveToken": "prove_token",
    "AbandonRotation": "abandon_rotation",
    "CheckRedeployments": "check_redeployments",
    "RedeployService": "redeploy_service",
    "ReportRotation": "report_rotation",
    "WriteIntention": "write_intention",
    "StartDeploymentRun": "start_deployment_run",
    "AnswerCloudFormation": "answer_cloudformation",
}

# Those of servers that the same app makes; tests/infrastructure/test_server_care.py is about them.
SERVER_STEPS = {
    "ChooseSecret": "choose_secret",
    "IssueCaCertificate": "issue_ca_certificate",
    "IssueServerCertificate": "issue_server_certificate",
    "SaveSnapshot": "save_snapshot",
    "RestoreSnapshot": "restore_snapshot",
}

# Those that authenticate with a token to Consul, by whose token it is.
WITH_BOOTSTRAP_TOKEN = {"BootstrapAcls", "CreateBootstrapPolicies", "CreateControllerToken"}
WITH_CONTROLLER_TOKEN = {
    *("CreatePolicy", "CreateToken", "WriteIntention"),
    *("FindDrift", "RetireTokens", "DeleteUnused", "PlanRotation", "AbandonRotation"),
}
# And those that need none of their own.
TALKS_TO_CONSUL = {"CheckConsul", "ProveToken"} | WITH_BOOTSTRAP_TOKEN | WITH_CONTROLLER_TOKEN

# Those that go from services and shared tokens to secrets, or from tasks to services.
KNOWS_SUBJECTS = {
    *("CheckTags", "FindDrift", "RetireTokens", "DeleteUnused", "PlanRotation"),
    *("AbandonRotation", "CheckRedeployments"),
}

# In seconds. A bootstrap may take Consul a minute, and nobody else hears of the token.
TIMEOUTS = {"BootstrapAcls": 120, "CheckConsul": 15}
# These look at all tokens, or at all tasks.
TIMEOUTS |= dict.fromkeys(("FindDrift", "DeleteUnused", "PlanRotation", "CheckRedeployments"), 600)
USUAL_TIMEOUT = 45

FUNCTIONS = "AWS::Lambda::Function"


def environment(name: str, expected: Expected) -> dict[str, str]:
    """Return the variables that a function should have."""
    variables: dict[str, str] = {}
    if name in TALKS_TO_CONSUL:
        variables |= {
            "CLUSTER_ARN": expected.cluster,
            "CONSUL_HTTP_ADDR": expected.address,
            "CONSUL_DATACENTER": expected.datacenter,
        }
        if expected.ca_secret:
            variables["CONSUL_CA_SECRET_ARN"] = expected.ca_secret
    if name in WITH_BOOTSTRAP_TOKEN:
        variables["CONSUL_TOKEN_SECRET_ARN"] = expected.bootstrap_secret
    if name in WITH_CONTROLLER_TOKEN:
        variables["CONSUL_TOKEN_SECRET_ARN"] = expected.controller_secret
    if name in KNOWS_SUBJECTS:
        variables |= variables_of_subjects(expected)
    if name in {"RedeployService", "ReportReconciliation", "ReportRotation"}:
        variables["CLUSTER_ARN"] = expected.cluster
    if name == "StoreSecret":
        variables["SECRET_TAGS"] = json.dumps(expected.tags)
        if expected.key:
            variables["SECRET_KMS_KEY_ARN"] = expected.key
    if name == "StartDeploymentRun":
        variables = {
            "DEPLOYMENT_RUN_ARN": expected.machine("DeploymentRun"),
            "DEPLOYMENT_SETTLE_SECONDS": "20",
        }
    return variables


def variables_of_subjects(expected: Expected) -> dict[str, str]:
    """Return the variables by which a step finds the secrets of services and of shared tokens."""
    reserved = [
        f"{expected.prefix}-consul-controller-token",
        f"{expected.prefix}-consul-client-token",
    ]
    if expected.ca_secret:
        reserved += [expected.bootstrap_secret_name, "consul-ca"]
    return {
        "CLUSTER_ARN": expected.cluster,
        "SECRET_PREFIX": expected.prefix,
        "RESERVED_SECRET_NAMES": ",".join(reserved),
        "CLIENT_TOKEN_SECRET_ARN": expected.client_secret,
        "CONTROLLER_TOKEN_SECRET_ARN": expected.controller_secret,
    }


def test_each_function_is_configured_like_this_and_no_more(case: Case) -> None:
    deployed, expected = case
    functions = deployed.of_type(FUNCTIONS)
    code = functions["CheckTags"]["Code"]

    assert functions == {
        name: {
            "Description": f"Consul on ECS: the step {step}",
            "Runtime": "python3.13",
            "Architectures": ["arm64"],
            "Handler": f"handlers.{step}.handler",
            "Code": code,
            "Role": expected.role(name),
            "MemorySize": 512,
            "Timeout": TIMEOUTS.get(name, USUAL_TIMEOUT),
            "LoggingConfig": {"LogFormat": "JSON", "LogGroup": name},
            **(
                {"Environment": {"Variables": variables}}
                if (variables := environment(name, expected))
                else {}
            ),
            **(
                {
                    "VpcConfig": {
                        "SubnetIds": list(expected.subnets),
                        "SecurityGroupIds": list(expected.security_groups),
                    }
                }
                if expected.subnets and name in TALKS_TO_CONSUL
                else {}
            ),
            **expected.tag_list,
        }
        for name, step in STEPS.items()
    }
    assert code == {
        "S3Bucket": f"cdk-hnb659fds-assets-{expected.place.account}-{expected.place.region}",
        "S3Key": code["S3Key"],
    }
    digest, _, kind = code["S3Key"].partition(".")
    assert (len(digest), kind) == (64, "zip")


@pytest.mark.parametrize("step", sorted(set(STEPS.values())))
def test_every_step_is_a_module_with_a_handler(step: str) -> None:
    assert "def handler(" in (ROOT / "handlers" / f"{step}.py").read_text()


def test_every_handler_is_a_step_of_a_function(served: Deployed) -> None:
    modules = {path.stem for path in (ROOT / "handlers").glob("[!_]*.py")}
    handlers = {name: function["Handler"] for name, function in served.of_type(FUNCTIONS).items()}

    assert handlers == {
        name: f"handlers.{step}.handler" for name, step in (STEPS | SERVER_STEPS).items()
    }
    assert modules == set((STEPS | SERVER_STEPS).values())


def test_a_function_is_there_only_once_its_role_may_do_what_it_needs(deployed: Deployed) -> None:
    for (kind, name), resource in deployed.resources.items():
        if kind in {"AWS::Lambda::Function", "AWS::StepFunctions::StateMachine"}:
            assert ("AWS::IAM::Policy", name) in resource["DependsOn"], (kind, name)


def test_without_security_groups_in_the_settings_one_is_made_for_all(vpc_only: Deployed) -> None:
    assert vpc_only.of_type("AWS::EC2::SecurityGroup") == {
        "HandlersSecurityGroup": {
            "GroupDescription": "Consul on ECS: the handlers that talk to Consul",
            "SecurityGroupEgress": [
                {
                    "CidrIp": "0.0.0.0/0",
                    "Description": "Allow all outbound traffic by default",
                    "IpProtocol": "-1",
                }
            ],
            "VpcId": "vpc-0123456789abcdef0",
        }
    }
    in_vpc = {
        name: function["VpcConfig"]
        for name, function in vpc_only.of_type("AWS::Lambda::Function").items()
        if "VpcConfig" in function
    }
    assert in_vpc == {
        name: {
            "SubnetIds": ["subnet-0123456789abcdef0"],
            "SecurityGroupIds": ["sg-of-HandlersSecurityGroup"],
        }
        for name in TALKS_TO_CONSUL
    }
    # Whoever runs Consul has to let it in.
    assert vpc_only.outputs["HandlersSecurityGroupId"] == {"Value": "sg-of-HandlersSecurityGroup"}


# --------------------------------------------------------------------------------------------------
# Roles
# --------------------------------------------------------------------------------------------------

READ = "secretsmanager:GetSecretValue"
READ_MANY = "secretsmanager:BatchGetSecretValue"
DESCRIBE = "secretsmanager:DescribeSecret"
PUT = "secretsmanager:PutSecretValue"
PUBLISH = "secretsmanager:UpdateSecretVersionStage"
CREATE = {"secretsmanager:CreateSecret", "secretsmanager:TagResource"}

DECRYPT = "kms:Decrypt"
ENCRYPT = "kms:GenerateDataKey"
# What the secrets made here are used for; in `EVERYTHING` the bootstrap secret is somebody else's.
KEY_USES = {
    "StoreSecret": {DECRYPT, ENCRYPT},
    "CreateToken": {DECRYPT},
    "CreatePolicy": {DECRYPT},
    "CreateControllerToken": {DECRYPT},
    "FindDrift": {DECRYPT},
    "RetireTokens": {DECRYPT, ENCRYPT},
    "DeleteUnused": {DECRYPT},
    "PlanRotation": {DECRYPT},
    "ProveToken": {DECRYPT},
    "AbandonRotation": {DECRYPT, ENCRYPT},
    "WriteIntention": {DECRYPT},
}

LIST_TASKS = "ecs:ListTasks"
DESCRIBE_TASKS = "ecs:DescribeTasks"
DESCRIBE_SERVICES = "ecs:DescribeServices"

NETWORK_INTERFACES = {
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
}


def allowed(name: str, expected: Expected) -> dict[str, set[str]]:
    """Return what a function's role should allow: actions by resource."""
    look_at_tasks = {
        # It has no resources of its own; a condition names the cluster.
        f"* in {expected.cluster}": {LIST_TASKS},
        expected.tasks: {DESCRIBE_TASKS},
    }
    # Each secret of a batch has to be readable as well.
    look = {"*": {READ_MANY}, expected.token_secrets: {READ}, **look_at_tasks}
    rewrite = {expected.token_secrets: {READ, DESCRIBE, PUT, PUBLISH}}
    own: dict[str, dict[str, set[str]]] = {
        "CheckTags": {expected.tasks: {DESCRIBE_TASKS}},
        "StoreSecret": {expected.token_secrets: {READ, DESCRIBE, PUT, *CREATE}},
        "PublishSecret": {expected.token_secrets: {DESCRIBE, PUBLISH}},
        "CreatePolicy": {},
        "CreateToken": {expected.token_secrets: {READ}},
        "CheckConsul": {},
        "BootstrapAcls": {expected.bootstrap_secret: {DESCRIBE, PUT, PUBLISH}},
        "CreateBootstrapPolicies": {},
        "CreateControllerToken": {expected.controller_secret: {READ}},
        "FindDrift": look,
        "RetireTokens": rewrite,
        "DeleteUnused": look,
        "ReportReconciliation": {},
        "PlanRotation": {},
        "ProveToken": {expected.token_secrets: {READ}},
        "AbandonRotation": rewrite,
        "CheckRedeployments": {**look_at_tasks, expected.services: {DESCRIBE_SERVICES}},
        "RedeployService": {expected.services: {DESCRIBE_SERVICES, "ecs:UpdateService"}},
        "ReportRotation": {},
        "WriteIntention": {},
        "StartDeploymentRun": {
            expected.machine("DeploymentRun"): {"states:StartExecution"},
            expected.place.arn("cloudformation", "stack/this"): {"cloudformation:DescribeStacks"},
        },
        "AnswerCloudFormation": {},
    }
    found: dict[str, set[str]] = defaultdict(set, own[name])
    found[expected.log_group(name)] = {"logs:CreateLogStream", "logs:PutLogEvents"}
    if name in WITH_BOOTSTRAP_TOKEN:
        found[expected.bootstrap_secret] = {READ} | found[expected.bootstrap_secret]
    if name in WITH_CONTROLLER_TOKEN:
        found[expected.controller_secret] = {READ}
    if expected.key and name in KEY_USES:
        via = f"secretsmanager.{expected.place.region}.amazonaws.com*"
        found[f"{expected.key} via {via}"] = KEY_USES[name]
    if expected.ca_secret and name in TALKS_TO_CONSUL:
        found[expected.ca_secret] = {READ}
    if expected.subnets and name in TALKS_TO_CONSUL:
        found["*"] = NETWORK_INTERFACES | found["*"]
    return dict(found)


def test_each_function_may_do_this_and_no_more(case: Case) -> None:
    deployed, expected = case
    policies = deployed.of_type("AWS::IAM::Policy")

    assert {name: permissions(policies[name]) for name in STEPS} == {
        name: allowed(name, expected) for name in STEPS
    }


def test_each_function_has_a_role_of_its_own_that_only_lambda_may_assume(case: Case) -> None:
    deployed, expected = case
    roles: dict[str, Any] = deployed.of_type("AWS::IAM::Role")

    assert {name: roles[name] for name in STEPS} == {
        name: {
            "AssumeRolePolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Action": "sts:AssumeRole",
                        "Principal": {"Service": "lambda.amazonaws.com"},
                    }
                ],
            },
            "Description": f"Consul on ECS: the step {step}",
            **expected.tag_list,
        }
        for name, step in STEPS.items()
    }
