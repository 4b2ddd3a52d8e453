"""What a function's environment says, and what each token has to be."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.core import consul_tokens, environment
from handlers.core.deployment import Deployment, client_token, controller_token
from handlers.core.errors import InvalidConfiguration, InvalidStepInput
from handlers.core.subjects import CLIENT, CONTROLLER, Subject
from tests.unit.aws_state import CLUSTER_ARN
from tests.unit.mesh_state import (
    CLIENT_DESCRIPTION,
    CLIENT_POLICY,
    CLUSTER_LINE,
    CONTROLLER_DESCRIPTION,
    CONTROLLER_POLICY,
)

WEB = Subject(service="web")
CLIENT_ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:theirs/client-a1b2c3"
CONTROLLER_ARN = (
    "arn:aws:secretsmanager:us-east-1:123456789012:secret:acme-consul-controller-token-d4e5f6"
)


@pytest.fixture
def deployment(monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setenv(environment.CLIENT_TOKEN_SECRET_ARN, CLIENT_ARN)
    monkeypatch.setenv(environment.CONTROLLER_TOKEN_SECRET_ARN, CONTROLLER_ARN)
    return Deployment.from_environment()


def test_a_deployment_is_what_the_variables_say(deployment: Deployment) -> None:
    assert deployment == Deployment(
        cluster_arn=CLUSTER_ARN,
        secret_prefix="acme",
        reserved_secret_names=frozenset(
            {"acme-consul-client-token", "acme-consul-controller-token"}
        ),
        client_secret_arn=CLIENT_ARN,
        controller_secret_arn=CONTROLLER_ARN,
    )


@pytest.mark.parametrize("name", [environment.CLUSTER_ARN, environment.SECRET_PREFIX])
def test_a_function_without_a_variable_that_it_needs_says_which(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(InvalidConfiguration, match=f"variable {name} of the function is not set"):
        Deployment.from_environment()


def test_a_shared_secret_that_the_function_does_not_know_is_missed_only_when_it_is_needed() -> None:
    deployment = Deployment.from_environment()
    assert deployment.secret_id(WEB) == "acme-web"
    for subject, name in (
        (CLIENT, environment.CLIENT_TOKEN_SECRET_ARN),
        (CONTROLLER, environment.CONTROLLER_TOKEN_SECRET_ARN),
    ):
        with pytest.raises(InvalidConfiguration, match=name):
            deployment.secret_id(subject)


def test_each_subject_has_a_secret(deployment: Deployment) -> None:
    assert deployment.secret_id(WEB) == "acme-web"
    assert deployment.secret_id(Subject(service="client")) == "acme-client"
    assert deployment.secret_id(CLIENT) == CLIENT_ARN
    assert deployment.secret_id(CONTROLLER) == CONTROLLER_ARN


@pytest.mark.parametrize(
    ("service", "reserved"),
    [
        ("consul-client-token", True),
        ("consul-controller-token", True),
        ("consul-client-token-2", False),
        ("web", False),
    ],
)
def test_a_secret_of_the_controllers_is_reserved(
    deployment: Deployment, service: str, *, reserved: bool
) -> None:
    assert deployment.is_reserved(service) is reserved


SECRET = {
    "id": "acme-web",
    "description": "Consul token of the service web",
    "tags": {
        "consul.hashicorp.com/cluster": CLUSTER_ARN,
        "consul.hashicorp.com/service-name": "web",
    },
}
TOKEN: dict[str, Any] = {
    "description": f"Token for web service\n{CLUSTER_LINE}",
    "service_identities": ["web"],
    "policies": [],
}


def test_a_service_has_a_secret_and_an_identity(deployment: Deployment) -> None:
    for rules in ({}, {"web-2": "x", "we": "y"}):
        assert deployment.wanted(WEB, rules) == {"secret": SECRET, "token": TOKEN}


def test_a_service_with_extra_rules_has_a_policy_of_its_own(deployment: Deployment) -> None:
    assert deployment.wanted(WEB, {"web": 'key "a" {}'}) == {
        "secret": SECRET,
        "token": {**TOKEN, "policies": ["acme-web-service"]},
        "policy": {
            "name": "acme-web-service",
            "description": f"Policy for web service\n{CLUSTER_LINE}",
            "rules": 'key "a" {}',
        },
    }


def test_rules_that_are_no_text_are_the_workflows_fault(deployment: Deployment) -> None:
    with pytest.raises(InvalidStepInput, match='needs "web", a string'):
        deployment.wanted(WEB, {"web": ["hunter2"]})


def test_the_clients_have_a_policy_that_hashicorps_controller_may_have_made(
    deployment: Deployment,
) -> None:
    assert deployment.wanted(CLIENT, {"client": "x"}) == {
        "secret": {"id": CLIENT_ARN},
        "token": {
            "description": CLIENT_DESCRIPTION,
            "service_identities": [],
            "policies": [CLIENT_POLICY["Name"]],
        },
        "policy": {
            "name": CLIENT_POLICY["Name"],
            "description": CLIENT_POLICY["Description"],
            "rules": CLIENT_POLICY["Rules"],
            "adopt": "Consul Client Token Policy for ECS",
        },
    }
    wanted = deployment.wanted(CLIENT, {})
    del wanted["secret"]
    assert client_token("acme", CLUSTER_ARN) == wanted


def test_the_controller_may_write_acls_and_nothing_else(deployment: Deployment) -> None:
    assert deployment.wanted(CONTROLLER, {}) == {
        "secret": {"id": CONTROLLER_ARN},
        "token": {
            "description": CONTROLLER_DESCRIPTION,
            "service_identities": [],
            "policies": [CONTROLLER_POLICY["Name"]],
        },
        "policy": {
            "name": CONTROLLER_POLICY["Name"],
            "description": CONTROLLER_POLICY["Description"],
            "rules": CONTROLLER_POLICY["Rules"],
        },
    }
    wanted = deployment.wanted(CONTROLLER, {})
    del wanted["secret"]
    assert controller_token("acme", CLUSTER_ARN) == wanted


# --- as Consul has it ----------------------------------------------------------------------------

WANTED = {"Description": "d", "Policies": [{"Name": "p"}], "ServiceIdentities": []}


def test_a_wanted_token_is_what_consul_takes() -> None:
    state = {"token": {"description": "d", "policies": ["p"], "service_identities": ["web"]}}
    assert consul_tokens.wanted_token(state) == {
        "Description": "d",
        "Policies": [{"Name": "p"}],
        "ServiceIdentities": [{"ServiceName": "web"}],
    }


@pytest.mark.parametrize(
    ("shown", "same"),
    [
        pytest.param(WANTED, True, id="the same"),
        pytest.param({**WANTED, "ServiceIdentities": None, "Roles": None, "CreateIndex": 7}, True,
                     id="as Consul shows what is empty"),
        pytest.param({**WANTED, "Policies": [{"ID": "1", "Name": "p"}]}, True, id="with IDs"),
        pytest.param({**WANTED, "Local": True, "ExpirationTime": "2030-01-01T00:00:00Z"}, True,
                     id="what can only be chosen at the start"),
        pytest.param({**WANTED, "Description": "e"}, False, id="another description"),
        pytest.param({**WANTED, "Policies": None}, False, id="no policy"),
        pytest.param({**WANTED, "Policies": [{"Name": "p"}, {"Name": "q"}]}, False,
                     id="a policy more"),
        pytest.param({**WANTED, "ServiceIdentities": [{"ServiceName": "web"}]}, False,
                     id="an identity more"),
        pytest.param({**WANTED, "NodeIdentities": [{"NodeName": "n"}]}, False,
                     id="a node identity"),
        pytest.param({**WANTED, "TemplatedPolicies": [{"TemplateName": "t"}]}, False,
                     id="a templated policy"),
        pytest.param({**WANTED, "Roles": [{"Name": "admin"}]}, False, id="a role"),
    ],
)  # fmt: skip
def test_what_a_token_may_do_is_compared_and_nothing_else(
    shown: dict[str, Any], *, same: bool
) -> None:
    assert (consul_tokens.content(shown) == consul_tokens.content(WANTED)) is same


def test_an_update_that_repeats_the_settings_leaves_a_token_as_it_is() -> None:
    settings: dict[str, Any] = {
        "Description": "d",
        "Policies": [{"ID": "1", "Name": "p"}],
        "Roles": [{"ID": "2", "Name": "r"}],
        "ServiceIdentities": [{"ServiceName": "web", "Datacenters": ["dc1"]}],
        "NodeIdentities": [{"NodeName": "n", "Datacenter": "dc1"}],
        "TemplatedPolicies": [{"TemplateName": "t"}],
        "Local": True,
        "ExpirationTime": "2030-01-01T00:00:00Z",
    }
    told = {"AccessorID": "a", "SecretID": "hunter2", "Hash": "x", "CreateIndex": 1}
    assert consul_tokens.settings(settings | told) == settings
    assert consul_tokens.settings(told | {"Roles": None, "Local": False}) == {}
