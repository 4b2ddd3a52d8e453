"""ClusterBootstrap, run: which function does what, with whose token, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from handlers.core import names
from tests.synthesized import Deployed
from tests.workflows.engine import Engine, Failed, running

CLUSTER = "arn:aws:ecs:eu-west-1:123456789012:cluster/my-cluster"
CLUSTER_LINE = f"\nconsul.hashicorp.com/cluster: {CLUSTER}"
SECRETS = "arn:aws:secretsmanager:eu-west-1:123456789012:secret"
CONTROLLER_SECRET = f"{SECRETS}:consul-consul-controller-token-AbCdEf"
CLIENT_SECRET = f"{SECRETS}:consul-consul-client-token-AbCdEf"


def stored(arn: str, *, public: bool) -> dict[str, Any]:
    """Return what the step that stores a secret returns."""
    return {
        "arn": arn,
        "version_id": "11111111-0000-4000-8000-000000000000",
        "replaces_version_id": "22222222-0000-4000-8000-000000000000",
        "accessor_id": "33333333-0000-4000-8000-000000000000",
        "public": public,
    }


NEW = [stored(CONTROLLER_SECRET, public=False), stored(CLIENT_SECRET, public=False)]
KNOWN = [stored(CONTROLLER_SECRET, public=True), stored(CLIENT_SECRET, public=True)]

# The functions whose token is the management token.
MANAGEMENT = {"BootstrapAcls", "CreateBootstrapPolicies", "CreateControllerToken"}


def prepare(engine: Engine) -> Engine:
    """Let functions find a new Consul."""
    engine.forget()
    engine.script(
        CheckConsul={"leader": "10.0.0.1:8300"},
        BootstrapAcls={"bootstrapped": True},
        CreateBootstrapPolicies={"name": "…", "change": "created"},
        StoreSecret=list(NEW),
        CreateControllerToken={"change": "created"},
        CreateToken={"change": "created"},
        PublishSecret={"published": True},
    )
    return engine


@pytest.fixture(scope="module")
def running_engine(minimal: Deployed) -> Iterator[Engine]:
    with running(minimal, "ClusterBootstrap") as engine:
        yield engine


@pytest.fixture
def engine(running_engine: Engine) -> Engine:
    """The workflow, and functions that find a new Consul."""
    return prepare(running_engine)


def test_a_new_cluster_is_bootstrapped_in_this_order(engine: Engine) -> None:
    ended = engine.run("ClusterBootstrap", {})

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "Cluster ready")
    assert engine.called == [
        "CheckConsul",
        "BootstrapAcls",
        *["CreateBootstrapPolicies"] * 3,
        *("StoreSecret", "CreateControllerToken", "PublishSecret"),
        *("StoreSecret", "CreateToken", "PublishSecret"),
    ]


def test_the_controllers_token_is_made_with_the_management_token_the_clients_with_the_controllers(
    engine: Engine, minimal: Deployed
) -> None:
    engine.run("ClusterBootstrap", {})

    functions = minimal.of_type("AWS::Lambda::Function")
    used = [
        (function, variables["CONSUL_TOKEN_SECRET_ARN"].removeprefix(f"{SECRETS}:"))
        for function in dict.fromkeys(engine.called)
        if "CONSUL_TOKEN_SECRET_ARN"
        in (variables := functions[function].get("Environment", {}).get("Variables", {}))
    ]
    assert used == [
        ("BootstrapAcls", "BootstrapTokenSecret-0123456789ab-AbCdEf"),
        ("CreateBootstrapPolicies", "BootstrapTokenSecret-0123456789ab-AbCdEf"),
        ("CreateControllerToken", "BootstrapTokenSecret-0123456789ab-AbCdEf"),
        ("CreateToken", "consul-consul-controller-token-AbCdEf"),
    ]


def test_nothing_but_the_bootstrap_uses_the_management_token(minimal: Deployed) -> None:
    bootstrap_secret = minimal.outputs["BootstrapTokenSecretArn"]["Value"]
    functions = minimal.of_type("AWS::Lambda::Function")

    users = {
        name
        for name, function in functions.items()
        if bootstrap_secret in function.get("Environment", {}).get("Variables", {}).values()
    }
    assert users == MANAGEMENT
    for workflow in ("TaskProvisioning", "DeploymentRun"):
        states = minimal.definition(workflow)["States"].values()
        called = {state.get("Resource", "").rpartition(":")[2] for state in states}
        assert not called & MANAGEMENT, workflow


def test_the_policies_are_marked_as_ours_and_the_anonymous_one_is_shared(engine: Engine) -> None:
    ended = engine.run("ClusterBootstrap", {})

    policies = [call for call in engine.calls if call.function == "CreateBootstrapPolicies"]
    assert [call.payload for call in policies] == [
        {
            "execution": ended.arn,
            "policy": {
                "name": "consul-consul-controller-policy",
                "description": f"Consul Controller Token Policy for ECS{CLUSTER_LINE}",
                "rules": (
                    'acl = "write"\n'
                    'service_prefix "" {\n  policy = "read"\n  intentions = "write"\n}\n'
                ),
            },
        },
        {
            "execution": ended.arn,
            "policy": {
                "name": "consul-consul-client-policy",
                "description": f"Consul Client Token Policy for ECS{CLUSTER_LINE}",
                "rules": names.CLIENT_POLICY_RULES,
                "adopt": "Consul Client Token Policy for ECS",
            },
        },
        {
            "execution": ended.arn,
            "policy": {
                "name": "anonymous-token-policy",
                "description": "Anonymous token Policy",
                "rules": names.ANONYMOUS_POLICY_RULES,
                "shared": True,
                "attach_to": "00000000-0000-0000-0000-000000000002",
            },
        },
    ]


def test_every_step_gets_what_it_reads_and_no_more(engine: Engine) -> None:
    ended = engine.run("ClusterBootstrap", {})

    others = [call for call in engine.calls if call.function != "CreateBootstrapPolicies"]
    execution = {"execution": ended.arn}
    assert [(call.function, call.payload) for call in others] == [
        ("CheckConsul", execution),
        ("BootstrapAcls", execution),
        # The deployment has made these secrets: an absent one is not created anew.
        ("StoreSecret", {**execution, "secret": {"id": CONTROLLER_SECRET}}),
        (
            "CreateControllerToken",
            {
                **execution,
                "secret": NEW[0],
                "token": {
                    "description": f"ECS Consul controller Token{CLUSTER_LINE}",
                    "service_identities": [],
                    "policies": ["consul-consul-controller-policy"],
                },
            },
        ),
        ("PublishSecret", {**execution, "secret": NEW[0]}),
        ("StoreSecret", {**execution, "secret": {"id": CLIENT_SECRET}}),
        (
            "CreateToken",
            {
                **execution,
                "secret": NEW[1],
                "token": {
                    "description": f"ECS Consul client Token{CLUSTER_LINE}",
                    "service_identities": [],
                    "policies": ["consul-consul-client-policy"],
                },
            },
        ),
        ("PublishSecret", {**execution, "secret": NEW[1]}),
    ]


def test_the_output_says_what_each_step_did_and_holds_no_more(engine: Engine) -> None:
    ended = engine.run("ClusterBootstrap", {})

    policy, token = {"name": "…", "change": "created"}, {"change": "created"}
    publication = {"published": True}
    assert ended.output == {
        "consul": {"leader": "10.0.0.1:8300"},
        "management": {"bootstrapped": True},
        "controller_policy": policy,
        "client_policy": policy,
        "anonymous_policy": policy,
        "controller": {"secret": NEW[0], "token": token, "publication": publication},
        "client": {"secret": NEW[1], "token": token, "publication": publication},
    }


def test_a_known_cluster_is_checked_and_nothing_is_published(engine: Engine) -> None:
    engine.script(
        BootstrapAcls={"bootstrapped": False},
        StoreSecret=list(KNOWN),
        CreateToken={"change": "none"},
    )

    ended = engine.run("ClusterBootstrap", {})

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "Cluster ready")
    assert "PublishSecret" not in engine.called


@pytest.mark.parametrize(
    ("answers", "published"),
    [([NEW[0], KNOWN[1]], CONTROLLER_SECRET), ([KNOWN[0], NEW[1]], CLIENT_SECRET)],
)
def test_after_a_crash_only_what_is_not_public_yet_is_published(
    engine: Engine, answers: list[dict[str, Any]], published: str
) -> None:
    engine.script(StoreSecret=answers)

    ended = engine.run("ClusterBootstrap", {})

    assert ended.states[-1] == "Cluster ready"
    assert engine.payload("PublishSecret")["secret"]["arn"] == published


def test_without_an_anonymous_policy_two_policies_are_made(everything: Deployed) -> None:
    with running(everything, "ClusterBootstrap") as engine:
        ended = prepare(engine).run("ClusterBootstrap", {})

        made = [
            call.payload["policy"]["name"]
            for call in engine.calls
            if call.function == "CreateBootstrapPolicies"
        ]
    assert ended.status == "SUCCEEDED"
    assert made == ["prod-consul-consul-controller-policy", "prod-consul-consul-client-policy"]


def test_a_bootstrap_by_another_execution_is_waited_for(engine: Engine) -> None:
    engine.script(
        BootstrapAcls=[
            Failed("ConsulAlreadyBootstrapped"),
            Failed("ConsulAlreadyBootstrapped"),
            {"bootstrapped": False},
        ]
    )

    ended = engine.run("ClusterBootstrap", {})

    assert ended.status == "SUCCEEDED"
    assert engine.called.count("BootstrapAcls") == 3
    assert engine.waits == [5, 10]


def test_a_bootstrap_by_nobody_knows_whom_needs_an_operator(engine: Engine) -> None:
    failure = Failed("ConsulAlreadyBootstrapped", "Fill the secret, or reset Consul.")
    engine.script(BootstrapAcls=failure)

    ended = engine.run("ClusterBootstrap", {})

    assert (ended.status, ended.states[-1]) == ("FAILED", "Needs an operator")
    assert (ended.error, ended.cause) == (failure.error, failure.cause)
    assert engine.called == ["CheckConsul", *["BootstrapAcls"] * 4]
    assert engine.waits == [5, 10, 20]


def test_the_two_kinds_of_waiting_for_a_bootstrap_do_not_shorten_each_other(
    engine: Engine,
) -> None:
    engine.script(
        BootstrapAcls=[
            Failed("ConsulUnavailable"),
            Failed("ConsulAlreadyBootstrapped"),
            Failed("ConsulUnavailable"),
            Failed("ConsulAlreadyBootstrapped"),
            {"bootstrapped": True},
        ]
    )

    assert engine.run("ClusterBootstrap", {}).status == "SUCCEEDED"
    assert engine.waits == [1, 5, 2, 10]


def test_new_consul_servers_have_eighteen_minutes_to_elect_a_leader(engine: Engine) -> None:
    failure = Failed("ConsulUnavailable", 'The Consul datacenter "dc1" has no leader yet.')
    engine.script(CheckConsul=failure)

    ended = engine.run("ClusterBootstrap", {})

    assert (ended.states[-1], ended.error) == ("Gave up waiting", "ConsulUnavailable")
    assert ended.cause == failure.cause
    assert engine.waits == [2, 4, 8] + [15] * 72
    assert round(sum(engine.waits) / 60) == 18


@pytest.mark.parametrize(
    ("function", "before"),
    [
        ("CheckConsul", 0),
        ("BootstrapAcls", 1),
        ("CreateBootstrapPolicies", 2),
        ("StoreSecret", 5),
        ("CreateControllerToken", 6),
        ("PublishSecret", 7),
        ("CreateToken", 9),
    ],
)
def test_a_permanent_error_stops_it_wherever_it_happens(
    engine: Engine, function: str, before: int
) -> None:
    failure = Failed("ConsulAclDisabled", "Start the servers with ACLs.")
    engine.script(**{function: failure})

    ended = engine.run("ClusterBootstrap", {})

    assert (ended.status, ended.states[-1]) == ("FAILED", "Needs an operator")
    assert (ended.error, ended.cause) == (failure.error, failure.cause)
    assert engine.called[before:] == [function]
