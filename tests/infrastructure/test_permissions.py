"""Roles and variables of the functions, compared with the code that they run.

What the code can do is read from it (tests/infrastructure/handler_code.py), so that a new call
without its permission is noticed here, and a permission whose last call has gone.
"""

from __future__ import annotations

import pytest

from tests.infrastructure.expected import EVERYTHING
from tests.infrastructure.handler_code import actions_of, actions_of_all_code, variables_of
from tests.infrastructure.policies import permissions
from tests.infrastructure.test_functions import (
    DECRYPT,
    ENCRYPT,
    NETWORK_INTERFACES,
    PUT,
    READ,
    SERVER_STEPS,
    STEPS,
    TALKS_TO_CONSUL,
)
from tests.synthesized import Deployed

# What Lambda itself needs: logs, and network interfaces.
LAMBDAS_OWN = {"logs:CreateLogStream", "logs:PutLogEvents"} | NETWORK_INTERFACES
# Which say of each function that talks to Consul where it belongs.
GIVEN_ANYWAY = {"CLUSTER_ARN", "CONSUL_DATACENTER"}


def allowed_actions(deployed: Deployed, name: str) -> set[str]:
    """Return what a function may do, on whatever."""
    found = permissions(deployed.of_type("AWS::IAM::Policy")[name])
    return {action for actions in found.values() for action in actions}


@pytest.mark.parametrize("name", STEPS)
def test_a_function_may_make_the_calls_of_its_step_and_no_others(
    everything: Deployed, name: str
) -> None:
    allowed = allowed_actions(everything, name) - LAMBDAS_OWN - {DECRYPT, ENCRYPT}

    assert allowed == actions_of(STEPS[name])


@pytest.mark.parametrize("name", STEPS)
def test_a_function_may_use_the_key_as_its_calls_do(everything: Deployed, name: str) -> None:
    """Reading a secret decrypts it; writing one needs both (user guide, "Secret encryption")."""
    actions = actions_of(STEPS[name])
    own = everything.of_type("AWS::IAM::Policy")[name]
    # Secrets of ours: those that somebody else has made have a key of their own.
    foreign = {EVERYTHING.bootstrap_secret, EVERYTHING.ca_secret}
    reads_ours = any(
        READ in allowed for secret, allowed in permissions(own).items() if secret not in foreign
    )

    wanted = {DECRYPT} if reads_ours else set()
    if PUT in actions and name != "BootstrapAcls":  # which writes the one of somebody else
        wanted |= {DECRYPT, ENCRYPT}
    assert allowed_actions(everything, name) & {DECRYPT, ENCRYPT} == wanted


@pytest.mark.parametrize("name", STEPS)
def test_a_function_has_the_variables_that_its_step_reads(everything: Deployed, name: str) -> None:
    function = everything.of_type("AWS::Lambda::Function")[name]
    given = set(function.get("Environment", {}).get("Variables", {}))
    read = variables_of(STEPS[name])

    assert read - given == set()
    assert given - read <= (GIVEN_ANYWAY if name in TALKS_TO_CONSUL else set())


def test_there_is_no_call_that_no_step_makes() -> None:
    steps = {*STEPS.values(), *SERVER_STEPS.values()}

    assert {action for step in steps for action in actions_of(step)} == (
        actions_of_all_code() | {READ, "secretsmanager:TagResource"}
    )


def test_reading_the_code_sees_what_a_step_calls_and_nothing_else() -> None:
    assert actions_of("redeploy_service") == {"ecs:DescribeServices", "ecs:UpdateService"}
    assert actions_of("report_rotation") == set()
    assert actions_of("start_deployment_run") == {
        "states:StartExecution",
        "cloudformation:DescribeStacks",
    }
    assert variables_of("prove_token") == {"CONSUL_HTTP_ADDR", "CONSUL_CA_SECRET_ARN"}
