"""Servers that the app makes itself: who fills their secrets, when, and with which permissions."""

from __future__ import annotations

import json

import pytest

from tests.infrastructure.dependencies import needed_by
from tests.infrastructure.handler_code import actions_of, variables_of
from tests.infrastructure.policies import permissions
from tests.infrastructure.test_functions import NETWORK_INTERFACES, SERVER_STEPS
from tests.synthesized import IRELAND, SERVED_CLUSTER, Deployed

STEPS = {
    name: SERVER_STEPS[name]
    for name in ("ChooseSecret", "IssueCaCertificate", "IssueServerCertificate")
}
SERVERS = [f"consul-server-{number}" for number in (1, 2, 3)]
CA_KEY = IRELAND.arn("kms", "key/Consul/Secrets/CaKey")
KEY = IRELAND.arn("kms", "key/Consul/Secrets/EncryptionKey")
THROUGH_SECRETS_MANAGER = f"{KEY} via secretsmanager.eu-west-1.amazonaws.com*"
READS_AND_WRITES = {
    "secretsmanager:DescribeSecret",
    "secretsmanager:GetSecretValue",
    "secretsmanager:PutSecretValue",
    "secretsmanager:UpdateSecretVersionStage",
}
USES_THE_KEY = {"kms:Decrypt", "kms:GenerateDataKey"}
LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}


def secret(name: str) -> str:
    return IRELAND.arn("secretsmanager", f"secret:Consul/Secrets/{name}-0123456789ab-AbCdEf")


def allowed(deployed: Deployed, name: str) -> dict[str, set[str]]:
    """Return what a function may do besides writing its logs."""
    found = permissions(deployed.of_type("AWS::IAM::Policy")[name])
    return {resource: rest for resource, actions in found.items() if (rest := actions - LOGS)}


# --------------------------------------------------------------------------------------------------
# Who may do what
# --------------------------------------------------------------------------------------------------


def test_the_gossip_key_is_all_that_is_chosen_ahead(served: Deployed) -> None:
    assert allowed(served, "ChooseSecret") == {
        secret("GossipKey"): READS_AND_WRITES,
        THROUGH_SECRETS_MANAGER: USES_THE_KEY,
    }


def test_who_issues_the_certificate_of_the_ca_may_sign_with_its_key(served: Deployed) -> None:
    assert allowed(served, "IssueCaCertificate") == {
        secret("Ca"): READS_AND_WRITES,
        f"{CA_KEY} by ECDSA_SHA_256": {"kms:Sign"},
        CA_KEY: {"kms:GetPublicKey"},
        THROUGH_SECRETS_MANAGER: USES_THE_KEY,
    }


def test_who_issues_those_of_servers_may_make_key_pairs_too_and_only_read_the_ca(
    served: Deployed,
) -> None:
    assert allowed(served, "IssueServerCertificate") == {
        secret("Ca"): {"secretsmanager:GetSecretValue"},
        **{secret(f"Certificate-{name}"): READS_AND_WRITES for name in SERVERS},
        f"{CA_KEY} by ECDSA_SHA_256": {"kms:Sign"},
        CA_KEY: {"kms:GetPublicKey"},
        KEY: {"kms:GenerateDataKeyPair"},
        THROUGH_SECRETS_MANAGER: USES_THE_KEY,
    }


@pytest.mark.parametrize("name", STEPS)
def test_a_function_may_make_the_calls_of_its_step_and_no_others(
    served: Deployed, name: str
) -> None:
    actions = {action for each in allowed(served, name).values() for action in each}

    assert actions - USES_THE_KEY == actions_of(STEPS[name])


@pytest.mark.parametrize("name", STEPS)
def test_a_function_has_the_variables_that_its_step_reads_and_needs_no_network(
    served: Deployed, name: str
) -> None:
    function = served.of_type("AWS::Lambda::Function")[name]

    assert function["Environment"]["Variables"] == {
        "CLUSTER_ARN": SERVED_CLUSTER,
        "CONSUL_DATACENTER": "dc1",
    }
    assert variables_of(STEPS[name]) <= {"CLUSTER_ARN", "CONSUL_DATACENTER"}
    assert function["Handler"] == f"handlers.{STEPS[name]}.handler"
    assert "VpcConfig" not in function


def test_nobody_else_may_use_the_key_of_the_ca(served: Deployed) -> None:
    policies = served.of_type("AWS::IAM::Policy")

    assert {name for name, policy in policies.items() if CA_KEY in json.dumps(policy)} == {
        "IssueCaCertificate",
        "IssueServerCertificate",
    }


def test_the_private_key_of_a_server_is_read_by_its_machine_and_written_by_one_step(
    served: Deployed,
) -> None:
    policies = served.of_type("AWS::IAM::Policy")

    for name in SERVERS:
        users = {
            user
            for user, policy in policies.items()
            if secret(f"Certificate-{name}") in json.dumps(policy)
        }
        assert users == {f"Consul/Servers/{name}", "IssueServerCertificate"}


def test_the_servers_own_token_is_one_of_those_that_the_controller_makes(served: Deployed) -> None:
    for name in ("StoreSecret", "CreateToken", "PublishSecret"):
        assert secret("AgentToken") in permissions(served.of_type("AWS::IAM::Policy")[name])


def test_functions_that_talk_to_consul_are_next_to_the_servers_and_trust_their_ca(
    served: Deployed,
) -> None:
    function = served.of_type("AWS::Lambda::Function")["CheckConsul"]

    variables = function["Environment"]["Variables"]
    assert variables["CONSUL_HTTP_ADDR"] == "https://server.consul.internal:8501"
    assert variables["CONSUL_CA_SECRET_ARN"] == secret("Ca")
    assert function["VpcConfig"]["SecurityGroupIds"] == ["sg-of-Consul/HandlersSecurityGroup"]
    assert len(function["VpcConfig"]["SubnetIds"]) == 3
    assert {
        action
        for actions in permissions(served.of_type("AWS::IAM::Policy")["CheckConsul"]).values()
        for action in actions
    } >= NETWORK_INTERFACES


def test_the_management_token_is_in_the_servers_own_secret(served: Deployed) -> None:
    variables = served.of_type("AWS::Lambda::Function")["BootstrapAcls"]["Environment"]["Variables"]

    assert variables["CONSUL_TOKEN_SECRET_ARN"] == secret("ManagementToken")
    assert "BootstrapTokenSecret" not in served.of_type("AWS::SecretsManager::Secret")


# --------------------------------------------------------------------------------------------------
# When
# --------------------------------------------------------------------------------------------------


def test_the_machines_are_made_once_their_secrets_have_values(served: Deployed) -> None:
    template = served.synthesized.template
    run = _logical_id(served, "Custom::WorkflowRun", "ServerSecretsOnDeploy")

    groups = [
        logical_id
        for logical_id, resource in template["Resources"].items()
        if resource["Type"] == "AWS::AutoScaling::AutoScalingGroup"
    ]
    assert len(groups) == len(SERVERS)
    assert [run in needed_by(template, group) for group in groups] == [True] * len(groups)


def test_clusterbootstrap_waits_for_consul_when_there_are_machines(served: Deployed) -> None:
    template = served.synthesized.template
    run = _logical_id(served, "Custom::WorkflowRun", "BootstrapOnDeploy")
    groups = {
        logical_id
        for logical_id, resource in template["Resources"].items()
        if resource["Type"] == "AWS::AutoScaling::AutoScalingGroup"
    }

    assert groups <= needed_by(template, run)
    assert not any(run in needed_by(template, group) for group in groups)


@pytest.mark.parametrize(
    ("rule", "schedule", "workflow"),
    [
        ("CertificateRenewalSchedule", "rate(1 day)", "CertificateRenewal"),
        ("ServerSnapshotSchedule", "rate(1 hour)", "ServerSnapshot"),
    ],
)
def test_what_has_to_be_done_again_and_again_is_on_a_schedule(
    served: Deployed, rule: str, schedule: str, workflow: str
) -> None:
    properties = served.of_type("AWS::Events::Rule")[rule]

    (target,) = properties["Targets"]
    assert (properties["ScheduleExpression"], properties["State"]) == (schedule, "ENABLED")
    assert target["Arn"] == IRELAND.arn("states", f"stateMachine:{workflow}")
    assert target["Input"] == "{}"
    assert target["DeadLetterConfig"] == {"Arn": IRELAND.arn("sqs", "DeadLetters")}


def test_a_restore_allows_again_what_the_app_allows(served: Deployed) -> None:
    states = served.definition("SnapshotRestore")["States"]
    run = served.of_type("Custom::WorkflowRun")["Allow"]

    assert states["Take the calls that deployments allow"]["Result"] == [json.loads(run["Input"])]


def test_a_controller_of_somebody_elses_servers_has_none_of_this(minimal: Deployed) -> None:
    assert not set(STEPS) & set(minimal.of_type("AWS::Lambda::Function"))
    assert "AWS::KMS::Key" not in {
        resource["Type"] for resource in minimal.synthesized.template["Resources"].values()
    }


def _logical_id(deployed: Deployed, kind: str, name: str) -> str:
    found: str
    (found,) = (
        logical_id
        for logical_id, resource in deployed.synthesized.template["Resources"].items()
        if resource["Type"] == kind and resource["Metadata"]["aws:cdk:path"].split("/")[-2] == name
    )
    return found
