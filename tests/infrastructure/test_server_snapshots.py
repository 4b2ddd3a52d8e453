"""The construct of snapshots: who may do what with the bucket, its key and the tokens."""

from __future__ import annotations

from typing import Any

import pytest

from tests.infrastructure.handler_code import actions_of, variables_of
from tests.infrastructure.policies import permissions
from tests.infrastructure.test_functions import NETWORK_INTERFACES
from tests.snapshot_stack import (
    BUCKET,
    CA_SECRET_ARN,
    CLUSTER_ARN,
    CONTROLLER_SECRET_ARN,
    KEY_ARN,
    MANAGEMENT_SECRET_ARN,
    SECURITY_GROUP,
    SUBNET,
)
from tests.synthesized import IRELAND, Deployed

STEPS = {"SaveSnapshot": "save_snapshot", "RestoreSnapshot": "restore_snapshot"}
OBJECTS = f"arn:aws:s3:::{BUCKET}/consul/mesh/*"
READ = "secretsmanager:GetSecretValue"
LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}


def allowed(deployed: Deployed, name: str) -> dict[str, set[str]]:
    """Return what a function may do besides what Lambda needs."""
    found = permissions(deployed.of_type("AWS::IAM::Policy")[name])
    return {
        resource: rest
        for resource, actions in found.items()
        if (rest := actions - LOGS - NETWORK_INTERFACES)
    }


def test_who_takes_snapshots_may_write_them_and_nothing_else(snapshots_stack: Deployed) -> None:
    assert allowed(snapshots_stack, "SaveSnapshot") == {
        CA_SECRET_ARN: {READ},
        CONTROLLER_SECRET_ARN: {READ},
        f"{KEY_ARN} via secretsmanager.eu-west-1.amazonaws.com*": {"kms:Decrypt"},
        OBJECTS: {"s3:PutObject"},
        # The second one is for the bucket's own key, not for objects: those it may not get.
        f"{KEY_ARN} via s3.eu-west-1.amazonaws.com*": {"kms:GenerateDataKey", "kms:Decrypt"},
    }


def test_who_restores_them_may_read_them_and_nothing_else(snapshots_stack: Deployed) -> None:
    assert allowed(snapshots_stack, "RestoreSnapshot") == {
        CA_SECRET_ARN: {READ},
        MANAGEMENT_SECRET_ARN: {READ},
        f"{KEY_ARN} via secretsmanager.eu-west-1.amazonaws.com*": {"kms:Decrypt"},
        OBJECTS: {"s3:GetObject"},
        f"arn:aws:s3:::{BUCKET} under consul/mesh/*": {"s3:ListBucket"},
        f"{KEY_ARN} via s3.eu-west-1.amazonaws.com*": {"kms:Decrypt"},
    }


@pytest.mark.parametrize("name", STEPS)
def test_a_function_may_make_the_calls_of_its_step_and_no_others(
    snapshots_stack: Deployed, name: str
) -> None:
    actions = {action for each in allowed(snapshots_stack, name).values() for action in each}

    assert {action for action in actions if not action.startswith("kms:")} == actions_of(
        STEPS[name]
    )


@pytest.mark.parametrize(
    ("name", "secret"),
    [("SaveSnapshot", CONTROLLER_SECRET_ARN), ("RestoreSnapshot", MANAGEMENT_SECRET_ARN)],
)
def test_a_function_has_room_time_and_what_its_step_reads(
    snapshots_stack: Deployed, name: str, secret: str
) -> None:
    function = snapshots_stack.of_type("AWS::Lambda::Function")[name]

    variables: dict[str, Any] = {
        "CLUSTER_ARN": CLUSTER_ARN,
        "CONSUL_HTTP_ADDR": "https://server.consul.internal:8501",
        "CONSUL_DATACENTER": "dc1",
        "CONSUL_CA_SECRET_ARN": CA_SECRET_ARN,
        "CONSUL_TOKEN_SECRET_ARN": secret,
        "SNAPSHOT_BUCKET": BUCKET,
        "SNAPSHOT_PREFIX": "consul/mesh",
    }
    assert function["Environment"] == {"Variables": variables}
    assert variables_of(STEPS[name]) <= set(variables)
    assert function["Handler"] == f"handlers.{STEPS[name]}.handler"
    assert (function["EphemeralStorage"], function["Timeout"]) == ({"Size": 2048}, 900)
    assert function["VpcConfig"] == {
        "SubnetIds": [SUBNET],
        "SecurityGroupIds": [SECURITY_GROUP],
    }


def test_a_restore_may_run_clusterbootstrap_and_start_what_makes_the_rest_sure(
    snapshots_stack: Deployed,
) -> None:
    found = permissions(snapshots_stack.of_type("AWS::IAM::Policy")["SnapshotRestore"])

    about_executions = {
        resource: actions
        for resource, actions in found.items()
        if resource.startswith(IRELAND.arn("states", "")[:-1])
    }
    assert about_executions == {
        IRELAND.arn("states", "stateMachine:ClusterBootstrap"): {"states:StartExecution"},
        IRELAND.arn("states", "stateMachine:Reconciliation"): {"states:StartExecution"},
        IRELAND.arn("states", "stateMachine:ServiceIntention"): {"states:StartExecution"},
        IRELAND.arn("states", "execution:ClusterBootstrap:*"): {
            "states:DescribeExecution",
            "states:StopExecution",
        },
    }


def test_nothing_of_it_says_anything_at_synthesis(snapshots_stack: Deployed) -> None:
    assert snapshots_stack.synthesized.messages == []
