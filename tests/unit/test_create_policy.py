"""A policy of ours is created or corrected; a foreign one is refused, a shared one is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from handlers import create_policy
from handlers.core import names
from handlers.core.errors import (
    ConsulObjectExists,
    ConsulPermissionDenied,
    ConsulRequestInvalid,
    ConsulUnavailable,
    ForeignObject,
    InvalidStepInput,
)
from local.consul import Fault
from tests.unit.aws_state import CLUSTER_ARN, SecretsState
from tests.unit.consul_state import ACL_READ_RULES, ConsulState
from tests.unit.steps import Steps, at_the_same_time

NAME = "acme-web-service"
DESCRIPTION = f"Policy for web service\nconsul.hashicorp.com/cluster: {CLUSTER_ARN}"
RULES = 'key_prefix "web/" {\n  policy = "read"\n}\n'
STATE = {"policy": {"name": NAME, "description": DESCRIPTION, "rules": RULES}}
WANTED = {"Name": NAME, "Description": DESCRIPTION, "Rules": RULES}

READ = "consul:GET /v1/acl/policy/name/:name"
CREATE = "consul:PUT /v1/acl/policy"
UPDATE = "consul:PUT /v1/acl/policy/:policy_id"
READ_TOKEN = "consul:GET /v1/acl/token/:accessor_id"
UPDATE_TOKEN = "consul:PUT /v1/acl/token/:accessor_id"
SECRET = "secretsmanager:GetSecretValue"


def changed(change: str, name: str = NAME) -> dict[str, str]:
    return {"name": name, "change": change}


def test_an_absent_policy_is_created(consul: ConsulState, steps: Steps) -> None:
    assert steps.run(create_policy, STATE) == changed("created")
    assert consul.policy(NAME) == WANTED
    assert steps.remote_calls == {READ: 1, CREATE: 1, SECRET: 1}


def test_a_policy_that_is_right_is_not_written_again(consul: ConsulState, steps: Steps) -> None:
    consul.create_policy(**WANTED)
    assert steps.run(create_policy, STATE) == changed("none")
    assert consul.policy(NAME) == WANTED
    assert steps.remote_calls == {READ: 1, SECRET: 1}


@pytest.mark.parametrize(
    "drift",
    [
        pytest.param({"Rules": ""}, id="no rules"),
        pytest.param({"Rules": RULES.replace("read", "write")}, id="other rules"),
        pytest.param({"Description": f"edited\n{DESCRIPTION}"}, id="another description"),
    ],
)
def test_a_policy_that_drifted_is_updated(
    consul: ConsulState, steps: Steps, drift: dict[str, str]
) -> None:
    consul.create_policy(**WANTED | drift)
    assert steps.run(create_policy, STATE) == changed("updated")
    assert consul.policy(NAME) == WANTED
    assert steps.remote_calls == {READ: 1, UPDATE: 1, SECRET: 1}


def test_datacenters_that_somebody_chose_are_kept(consul: ConsulState, steps: Steps) -> None:
    consul.create_policy(**WANTED, Datacenters=["dc1"])
    assert steps.run(create_policy, STATE) == changed("none")
    consul.call("DELETE", f"/v1/acl/policy/{policy_id(consul)}")
    consul.create_policy(**WANTED | {"Rules": ""}, Datacenters=["dc1"])
    assert steps.run(create_policy, STATE) == changed("updated")
    assert consul.policy(NAME) == WANTED | {"Datacenters": ["dc1"]}


def policy_id(consul: ConsulState) -> str:
    return str(consul.call("GET", f"/v1/acl/policy/name/{NAME}")["ID"])


@pytest.mark.parametrize(
    "description",
    [
        pytest.param("", id="no description"),
        pytest.param("made by hand", id="no line"),
        pytest.param(f"{DESCRIPTION}-2", id="a cluster whose name begins with ours"),
        pytest.param(DESCRIPTION[:-1], id="a cluster with whose name ours begins"),
        pytest.param(f"not {DESCRIPTION.splitlines()[1]}", id="our line inside of another"),
    ],
)
@pytest.mark.parametrize("rules", [RULES, ""], ids=["same rules", "other rules"])
def test_a_foreign_policy_is_refused_and_not_touched(
    consul: ConsulState, steps: Steps, description: str, rules: str
) -> None:
    consul.create_policy(Name=NAME, Description=description, Rules=rules)
    before = consul.policy(NAME)
    error = steps.fail(create_policy, STATE, ForeignObject)
    assert str(error) == (
        f'The policy "{NAME}" exists in Consul and is not ours: its description has no line '
        f'"consul.hashicorp.com/cluster: {CLUSTER_ARN}". Rename or delete it; or, if another '
        "cluster's controller made it, give each cluster a secrets.prefix of its own."
    )
    assert consul.policy(NAME) == before
    assert steps.remote_calls == {READ: 1, SECRET: 1}


def test_a_policy_whose_name_differs_in_case_is_looked_at_as_consul_does(
    consul: ConsulState, steps: Steps
) -> None:
    consul.create_policy(Name=NAME.upper(), Description="made by hand", Rules="")
    steps.fail(create_policy, STATE, ForeignObject)


# --- the client policy: HashiCorp's controller may have made it ----------------------------------

CLIENT = {
    "name": names.client_policy_name("acme"),
    "description": names.with_cluster_line(names.CLIENT_POLICY_DESCRIPTION, CLUSTER_ARN),
    "rules": names.CLIENT_POLICY_RULES,
    "adopt": names.CLIENT_POLICY_DESCRIPTION,
}
CLIENT_POLICY = {
    "Name": CLIENT["name"],
    "Description": CLIENT["description"],
    "Rules": CLIENT["rules"],
}


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param('node_prefix "" { policy = "write" } service_prefix "" { policy = "read" }',
                     id="as it made it"),
        pytest.param("", id="edited"),
    ],
)  # fmt: skip
def test_the_client_policy_of_hashicorps_controller_is_adopted(
    consul: ConsulState, steps: Steps, rules: str
) -> None:
    consul.create_policy(
        Name=CLIENT["name"], Description="Consul Client Token Policy for ECS", Rules=rules
    )
    assert steps.run(create_policy, {"policy": CLIENT}) == changed("updated", CLIENT["name"])
    assert consul.policy(CLIENT["name"]) == CLIENT_POLICY
    assert steps.run(create_policy, {"policy": CLIENT}) == changed("none", CLIENT["name"])


def test_only_exactly_that_description_is_adopted(consul: ConsulState, steps: Steps) -> None:
    consul.create_policy(
        Name=CLIENT["name"], Description="Consul Client Token Policy for ECS, edited", Rules=""
    )
    steps.fail(create_policy, {"policy": CLIENT}, ForeignObject)


def test_the_client_policy_of_another_cluster_is_not_adopted(
    consul: ConsulState, steps: Steps
) -> None:
    consul.create_policy(
        Name=CLIENT["name"],
        Description=names.with_cluster_line(names.CLIENT_POLICY_DESCRIPTION, f"{CLUSTER_ARN}-2"),
        Rules="",
    )
    steps.fail(create_policy, {"policy": CLIENT}, ForeignObject)


@pytest.mark.parametrize("rules", [names.CLIENT_POLICY_RULES, names.CONTROLLER_POLICY_RULES])
def test_consul_takes_the_controllers_rules(consul: ConsulState, steps: Steps, rules: str) -> None:
    steps.run(create_policy, {"policy": STATE["policy"] | {"rules": rules}})
    assert consul.policy(NAME) == WANTED | {"Rules": rules}


# --- the anonymous policy: one for the whole datacenter ------------------------------------------

ANONYMOUS = {
    "name": names.ANONYMOUS_POLICY_NAME,
    "description": names.ANONYMOUS_POLICY_DESCRIPTION,
    "rules": names.ANONYMOUS_POLICY_RULES,
    "shared": True,
    "attach_to": names.ANONYMOUS_TOKEN_ACCESSOR_ID,
}
ANONYMOUS_TOKEN = {
    "AccessorID": "00000000-0000-0000-0000-000000000002",
    "SecretID": "anonymous",
    "Description": "Anonymous Token",
    "Policies": [],
    "ServiceIdentities": [],
}


def anonymous_token(consul: ConsulState) -> dict[str, Any]:
    token = consul.token(names.ANONYMOUS_TOKEN_ACCESSOR_ID)
    assert token is not None
    return token


def test_the_anonymous_policy_is_created_and_attached(embedded: ConsulState, steps: Steps) -> None:
    result = steps.run(create_policy, {"policy": ANONYMOUS})
    assert result == changed("created", "anonymous-token-policy")
    assert embedded.policy("anonymous-token-policy") == {
        "Name": "anonymous-token-policy",
        "Description": "Anonymous token Policy",
        "Rules": names.ANONYMOUS_POLICY_RULES,
    }
    assert anonymous_token(embedded) == ANONYMOUS_TOKEN | {"Policies": ["anonymous-token-policy"]}
    assert steps.remote_calls == {READ: 1, CREATE: 1, READ_TOKEN: 1, UPDATE_TOKEN: 1, SECRET: 1}


def test_attaching_twice_writes_once(embedded: ConsulState, steps: Steps) -> None:
    steps.run(create_policy, {"policy": ANONYMOUS})
    before = embedded.modify_index(names.ANONYMOUS_TOKEN_ACCESSOR_ID)
    assert steps.run(create_policy, {"policy": ANONYMOUS}) == changed(
        "none", "anonymous-token-policy"
    )
    assert embedded.modify_index(names.ANONYMOUS_TOKEN_ACCESSOR_ID) == before
    assert steps.remote_calls == {READ: 1, READ_TOKEN: 1}


def test_what_another_product_made_is_shared_as_it_is(embedded: ConsulState, steps: Steps) -> None:
    theirs = {
        "Name": "anonymous-token-policy",
        "Description": "by Helm",
        "Rules": "# theirs",
    }
    embedded.create_policy(**theirs)
    steps.run(create_policy, {"policy": ANONYMOUS})
    assert embedded.policy("anonymous-token-policy") == theirs
    assert anonymous_token(embedded)["Policies"] == ["anonymous-token-policy"]


def test_attaching_keeps_all_else_of_the_token(embedded: ConsulState, steps: Steps) -> None:
    embedded.create_policy(Name="mine", Rules="")
    embedded.call(
        "PUT",
        f"/v1/acl/token/{names.ANONYMOUS_TOKEN_ACCESSOR_ID}",
        {
            "Description": "edited",
            "Policies": [{"Name": "mine"}],
            "ServiceIdentities": [{"ServiceName": "web", "Datacenters": ["dc1"]}],
            "NodeIdentities": [{"NodeName": "n", "Datacenter": "dc1"}],
        },
    )
    before = anonymous_token(embedded)
    assert before["Policies"] == ["mine"]
    steps.run(create_policy, {"policy": ANONYMOUS})
    assert anonymous_token(embedded) == before | {"Policies": ["anonymous-token-policy", "mine"]}


def test_attaching_keeps_roles_and_what_consul_does_not_let_change(
    embedded: ConsulState, steps: Steps
) -> None:
    # The embedded server has no roles, so it would refuse them: look at what is sent to it.
    embedded.create_policy(**WANTED)
    token = embedded.create_token(Description="theirs", Local=True)
    roles = [{"ID": "5b1cf3c0-4a2b-4f1e-9d3c-7e6f5a4b3c2d", "Name": "r"}]
    with_role = json.dumps(
        embedded.call("GET", f"/v1/acl/token/{token['AccessorID']}") | {"Roles": roles}
    )
    embedded.embedded.on_request = lambda method, path: (
        Fault.answer(200, with_role) if method == "GET" and "/token/" in path else None
    )
    error = steps.fail(
        create_policy,
        {"policy": STATE["policy"] | {"attach_to": token["AccessorID"]}},
        ConsulRequestInvalid,
    )
    assert f'No such ACL role with ID "{roles[0]["ID"]}"' in str(error)


def test_a_token_to_attach_to_that_is_not_there_is_named(consul: ConsulState, steps: Steps) -> None:
    accessor_id = "3c0f5b1c-4a2b-4f1e-9d3c-7e6f5a4b3c2d"
    state = {"policy": STATE["policy"] | {"attach_to": accessor_id}}
    error = steps.fail(create_policy, state, ForeignObject)
    assert str(error) == f"Consul has no token {accessor_id} to attach the policy {NAME} to."
    assert consul.policy(NAME) == WANTED


# --- several at once, and failures ---------------------------------------------------------------


def test_of_many_that_create_at_once_all_end_well(consul: ConsulState) -> None:
    results = at_the_same_time([lambda: create_policy.handler(STATE, None)] * 4)
    assert changed("created") in results
    assert all(result in (changed("created"), changed("none")) for result in results)
    assert consul.policy(NAME) == WANTED


def between_read_and_write(consul: ConsulState, act: Callable[[], object]) -> None:
    def on_request(method: str, _path: str) -> None:
        if method == "PUT":
            consul.embedded.on_request = None
            act()

    consul.embedded.on_request = on_request


@pytest.mark.parametrize(
    ("rules", "change"), [pytest.param(RULES, "none"), pytest.param("", "updated")]
)
def test_a_policy_that_somebody_creates_meanwhile_is_compared_like_any_other(
    embedded: ConsulState, steps: Steps, rules: str, change: str
) -> None:
    between_read_and_write(embedded, lambda: embedded.create_policy(**WANTED | {"Rules": rules}))
    assert steps.run(create_policy, STATE) == changed(change)
    assert embedded.policy(NAME) == WANTED


def test_a_foreign_policy_that_somebody_creates_meanwhile_is_refused(
    embedded: ConsulState, steps: Steps
) -> None:
    foreign = {"Name": NAME, "Description": "made by hand", "Rules": ""}
    between_read_and_write(embedded, lambda: embedded.create_policy(**foreign))
    steps.fail(create_policy, STATE, ForeignObject)
    assert embedded.policy(NAME) == {"Name": NAME, "Description": "made by hand"}


def test_a_name_that_is_taken_by_what_cannot_be_read_is_said(
    embedded: ConsulState, steps: Steps
) -> None:
    taken = f'Invalid Policy: A Policy with Name "{NAME}" already exists'
    embedded.embedded.on_request = lambda method, _: (
        Fault.answer(500, taken) if method == "PUT" else None
    )
    error = steps.fail(create_policy, STATE, ConsulObjectExists)
    assert taken in str(error)


@pytest.mark.parametrize("drop", [Fault.drop_before, Fault.drop_after])
@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("before", ["absent", "drifted"])
def test_a_connection_that_is_dropped_once_does_no_harm(
    embedded: ConsulState, steps: Steps, before: str, method: str, drop: Callable[[], Fault]
) -> None:
    if before == "drifted":
        embedded.create_policy(**WANTED | {"Rules": ""})
    faults = [drop()]
    embedded.embedded.on_request = lambda found, _: (
        faults.pop() if faults and found == method else None
    )
    steps.run(create_policy, STATE)
    assert embedded.policy(NAME) == WANTED


@pytest.mark.parametrize("situation", ["no_leader", "starting"])
def test_a_server_that_is_not_ready_is_unavailable(
    embedded: ConsulState, steps: Steps, situation: Any
) -> None:
    embedded.embedded.state = situation
    steps.fail(create_policy, STATE, ConsulUnavailable)


def test_an_own_token_that_may_only_read_acls_is_denied(
    consul: ConsulState, secrets: SecretsState, steps: Steps
) -> None:
    consul.create_policy(Name="acme-reader", Rules=ACL_READ_RULES)
    reader = consul.create_token(Policies=[{"Name": "acme-reader"}])
    secrets.put("acme-consul-controller-token", reader["SecretID"])
    steps.fail(create_policy, STATE, ConsulPermissionDenied)
    assert consul.policy(NAME) is None


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("rules", 'key_prefix "web/" {', "Failed to parse ACL rules"),
        ("name", "acme web", "Invalid Policy: invalid Name."),
    ],
)
def test_what_consul_finds_wrong_is_passed_on(
    consul: ConsulState, steps: Steps, field: str, value: str, complaint: str
) -> None:
    before = consul.policy_names()
    error = steps.fail(
        create_policy, {"policy": STATE["policy"] | {field: value}}, ConsulRequestInvalid
    )
    assert complaint in str(error)
    assert consul.policy_names() == before


@pytest.mark.parametrize("missing", ["name", "description", "rules"])
def test_an_input_without_one_of_its_parts_is_the_workflows_fault(
    consul: ConsulState, steps: Steps, missing: str
) -> None:
    del consul
    policy = {key: value for key, value in STATE["policy"].items() if key != missing}
    error = steps.fail(create_policy, {"policy": policy}, InvalidStepInput)
    assert str(error) == f'The input of the step needs "policy.{missing}", a string.'
    assert steps.remote_calls == {}
