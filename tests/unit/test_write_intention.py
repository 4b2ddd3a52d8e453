"""An intention of ours is written, shared and removed; a foreign one stays as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handlers import write_intention
from handlers.core import names
from handlers.core.deployment import controller_token
from handlers.core.errors import (
    ConsulPermissionDenied,
    ConsulRequestInvalid,
    ConsulTokenRejected,
    ConsulUnavailable,
    ForeignObject,
    InvalidEvent,
    InvalidServiceName,
    InvalidStepInput,
)
from local.consul import Fault
from tests.unit.aws_state import CLUSTER_ARN, PREFIX, SecretsState
from tests.unit.consul_state import ConsulState
from tests.unit.steps import Steps

GREETING = {"source": "greeter", "destination": "greeting"}
FIRST, SECOND = "0a1b2c3d4e5f", "f5e4d3c2b1a0"
LINES = f"From a deployment of Consul on ECS\nconsul.hashicorp.com/cluster: {CLUSTER_ARN}"

EXACT = "/v1/connect/intentions/exact"
READ, WRITE, DELETE = f"consul:GET {EXACT}", f"consul:PUT {EXACT}", f"consul:DELETE {EXACT}"
SECRET = "secretsmanager:GetSecretValue"


def wanted(action: str = "allow", by: str | None = None, **names_: str) -> dict[str, Any]:
    event = {"intention": {**GREETING, "action": action, **names_}}
    return {"event": event | ({"wanted_by": by} if by else {})}


def unwanted(by: str | None = None, **names_: str) -> dict[str, Any]:
    event = {"intention": {**GREETING, **names_}, "remove": True}
    return {"event": event | ({"wanted_by": by} if by else {})}


def described(*wanted_by: str) -> str:
    return "\n".join([LINES, *([f"consul-on-ecs/wanted-by: {' '.join(wanted_by)}"])])


def path(source: str = "greeter", destination: str = "greeting") -> str:
    return f"{EXACT}?source={source}&destination={destination}"


def in_consul(consul: ConsulState, **names_: str) -> dict[str, Any] | None:
    """Return what of an intention is not made up by Consul."""
    found = consul.call("GET", path(**names_))
    kept = ("SourceName", "DestinationName", "Action", "Description")
    return found and {key: found[key] for key in kept if key in found}


def intention(action: str = "allow", description: str = LINES, **names_: str) -> dict[str, Any]:
    of = {**GREETING, **names_}
    fields = {"SourceName": of["source"], "DestinationName": of["destination"], "Action": action}
    return fields | ({"Description": description} if description else {})


def plant(consul: ConsulState, action: str = "allow", description: str = LINES) -> None:
    assert consul.call("PUT", path(), {"Action": action, "Description": description}) is True


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["allow", "deny"])
@pytest.mark.parametrize(
    "of",
    [
        {},
        {"source": "*"},
        {"destination": "*"},
        {"source": "*", "destination": "*"},
    ],
    ids=["two services", "all callers", "all called", "all"],
)
def test_an_absent_intention_is_created(
    consul: ConsulState, steps: Steps, action: str, of: dict[str, str]
) -> None:
    assert steps.run(write_intention, wanted(action, **of)) == {"change": "created"}
    assert in_consul(consul, **of) == intention(action, **of)
    assert steps.remote_calls == {READ: 1, WRITE: 1, SECRET: 1}


def test_an_intention_that_is_right_is_not_written_again(consul: ConsulState, steps: Steps) -> None:
    steps.run(write_intention, wanted(by=FIRST))
    for again in (wanted(by=FIRST), wanted()):
        assert steps.run(write_intention, again) == {"change": "unchanged"}
        assert steps.remote_calls.get(WRITE, 0) == 0
    assert in_consul(consul) == intention(description=described(FIRST))


@pytest.mark.parametrize(
    ("action", "description"),
    [
        pytest.param("deny", described(FIRST), id="another action"),
        pytest.param("allow", LINES, id="nobody is said to want it"),
        pytest.param("deny", f"by hand\n{LINES}", id="another text"),
    ],
)
def test_an_intention_of_ours_that_differs_is_updated(
    consul: ConsulState, steps: Steps, action: str, description: str
) -> None:
    plant(consul, action, description)
    assert steps.run(write_intention, wanted(by=FIRST)) == {"change": "updated"}
    assert in_consul(consul) == intention(description=described(FIRST))
    assert steps.remote_calls == {READ: 1, WRITE: 1, SECRET: 1}


FOREIGN_DESCRIPTIONS = [
    pytest.param("", id="no description"),
    pytest.param("made by hand", id="no line"),
    pytest.param(f"{LINES}-2", id="a cluster whose name begins with ours"),
    pytest.param(LINES[:-1], id="a cluster with whose name ours begins"),
    pytest.param(f"not {LINES.splitlines()[1]}", id="our line inside of another"),
]


@pytest.mark.parametrize("description", FOREIGN_DESCRIPTIONS)
def test_a_foreign_intention_that_says_the_same_is_used_as_it_is(
    consul: ConsulState, steps: Steps, description: str
) -> None:
    plant(consul, "allow", description)
    assert steps.run(write_intention, wanted(by=FIRST)) == {"change": "unchanged"}
    assert in_consul(consul) == intention("allow", description)
    assert steps.remote_calls == {READ: 1, SECRET: 1}


@pytest.mark.parametrize("description", FOREIGN_DESCRIPTIONS)
def test_a_foreign_intention_that_says_the_opposite_is_refused_and_not_touched(
    consul: ConsulState, steps: Steps, description: str
) -> None:
    plant(consul, "deny", description)
    error = steps.fail(write_intention, wanted(by=FIRST), ForeignObject)
    assert str(error) == (
        'The intention of "greeter" to "greeting" exists in Consul and is not ours: it says '
        "deny, not allow, and its description has no line "
        f'"consul.hashicorp.com/cluster: {CLUSTER_ARN}". Delete it, or change what it says: '
        "consul intention delete 'greeter' 'greeting'."
    )
    assert in_consul(consul) == intention("deny", description)
    assert steps.remote_calls == {READ: 1, SECRET: 1}


def test_a_foreign_intention_whose_say_depends_on_the_request_is_refused(
    embedded: ConsulState, steps: Steps
) -> None:
    answer = json.dumps({"SourceName": "greeter", "DestinationName": "greeting", "Permissions": []})
    embedded.embedded.on_request = lambda *_: Fault(status=200, text=answer)
    error = steps.fail(write_intention, wanted(), ForeignObject)
    assert "it says that it depends on the request (it has permissions), not allow" in str(error)


# --- removing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("description", [LINES, described(FIRST), described(FIRST, SECOND)])
@pytest.mark.parametrize("action", ["allow", "deny"])
def test_an_intention_of_ours_is_removed(
    consul: ConsulState, steps: Steps, description: str, action: str
) -> None:
    plant(consul, action, description)
    assert steps.run(write_intention, unwanted()) == {"change": "removed"}
    assert in_consul(consul) is None
    assert steps.remote_calls == {READ: 1, DELETE: 1, SECRET: 1}


def test_an_intention_that_is_gone_is_fine(consul: ConsulState, steps: Steps) -> None:
    for again in (unwanted(), unwanted(by=FIRST)):
        assert steps.run(write_intention, again) == {"change": "absent"}
        assert steps.remote_calls.get(DELETE, 0) == 0
    assert in_consul(consul) is None


@pytest.mark.parametrize("description", FOREIGN_DESCRIPTIONS)
@pytest.mark.parametrize("action", ["allow", "deny"])
def test_a_foreign_intention_is_not_removed(
    consul: ConsulState, steps: Steps, description: str, action: str
) -> None:
    plant(consul, action, description)
    assert steps.run(write_intention, unwanted()) == {"change": "foreign kept"}
    assert in_consul(consul) == intention(action, description)
    assert steps.remote_calls == {READ: 1, SECRET: 1}


def test_an_intention_stays_until_the_last_that_wants_it_has_gone(
    consul: ConsulState, steps: Steps
) -> None:
    # What replaces a resource is made before that one is deleted.
    assert steps.run(write_intention, wanted(by=SECOND)) == {"change": "created"}
    assert steps.run(write_intention, wanted(by=FIRST)) == {"change": "updated"}
    assert in_consul(consul) == intention(description=described(FIRST, SECOND))

    for _ in range(2):  # a step may run twice
        assert steps.run(write_intention, unwanted(by=SECOND)) == {"change": "still wanted"}
        assert in_consul(consul) == intention(description=described(FIRST))
    assert steps.remote_calls.get(WRITE, 0) == 0

    assert steps.run(write_intention, unwanted(by=FIRST)) == {"change": "removed"}
    assert in_consul(consul) is None


def test_what_others_want_keeps_its_action(consul: ConsulState, steps: Steps) -> None:
    plant(consul, "deny", described(FIRST, SECOND))
    steps.run(write_intention, unwanted(by=FIRST))
    assert in_consul(consul) == intention("deny", described(SECOND))


def test_an_intention_does_not_touch_the_others_of_its_services(
    consul: ConsulState, steps: Steps
) -> None:
    pairs = [("greeter", "greeting"), ("greeter", "other"), ("other", "greeting")]
    for source, destination in pairs:
        steps.run(write_intention, wanted(source=source, destination=destination))
    steps.run(write_intention, unwanted())
    left = [in_consul(consul, source=source, destination=to) is not None for source, to in pairs]
    assert left == [False, True, True]


# --- names and marks -----------------------------------------------------------------------------


def test_five_deployments_can_want_what_belongs_to_a_cluster_of_the_longest_name(
    consul: ConsulState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = f"arn:aws-us-gov:ecs:us-gov-west-1:123456789012:cluster/{'c' * 255}"
    monkeypatch.setenv("CLUSTER_ARN", arn)
    marks = [f"{number}" * 12 for number in range(5)]
    for mark in marks:
        steps.run(write_intention, wanted(by=mark))
    found = consul.call("GET", path())
    assert names.wanted_by(found["Description"]) == frozenset(marks)
    assert names.owning_cluster(found["Description"]) == arn


NAME_RULE = (
    "Allowed: lower-case letters, digits, '-' and '_', at most 256 characters, the first and the "
    "last one a letter or a digit."
)


@pytest.mark.parametrize("name", ["Greeter", "", "**", "a*", "-a", "a" * 257, "ns/a", "a b"])
@pytest.mark.parametrize("key", ["source", "destination"])
@pytest.mark.parametrize("make", [wanted, unwanted], ids=["to write", "to remove"])
def test_a_name_that_no_service_can_have_is_refused(
    embedded: ConsulState, steps: Steps, name: str, key: str, make: Any
) -> None:
    error = steps.fail(write_intention, make(**{key: name}), InvalidServiceName)
    assert str(error) == (
        f'intention.{key} is {name!r:.300}, which is neither a valid service name nor "*". '
        f"{NAME_RULE}"
    )
    assert embedded.requests_of_steps() == []


PAIR: dict[str, Any] = {**GREETING, "action": "allow"}


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({}, 'The input needs "intention", an object with "source", "destination" and "action".'),
        ({"intention": "a"},
         'The input needs "intention", an object with "source", "destination" and "action".'),
        ({"intention": {"destination": "b", "action": "allow"}},
         "intention.source must be the name of a service, a text; it is None."),
        ({"intention": {"source": "a", "destination": 1, "action": "allow"}},
         "intention.destination must be the name of a service, a text; it is 1."),
        ({"intention": GREETING}, 'intention.action must be "allow" or "deny"; it is None.'),
        ({"intention": {**PAIR, "action": "Allow"}},
         "intention.action must be \"allow\" or \"deny\"; it is 'Allow'."),
        ({"intention": {**PAIR, "action": ["allow"]}},
         "intention.action must be \"allow\" or \"deny\"; it is ['allow']."),
        ({"intention": PAIR, "remove": "yes"}, "remove must be true or false; it is 'yes'."),
        ({"intention": PAIR, "wanted_by": "a b"},
         "wanted_by must be a text of up to 20 letters, digits and '-'; it is 'a b'."),
        ({"intention": PAIR, "wanted_by": ""},
         "wanted_by must be a text of up to 20 letters, digits and '-'; it is ''."),
        ({"intention": PAIR, "wanted_by": 7},
         "wanted_by must be a text of up to 20 letters, digits and '-'; it is 7."),
    ],
)  # fmt: skip
def test_an_input_that_is_none_is_refused(
    embedded: ConsulState, steps: Steps, event: dict[str, Any], message: str
) -> None:
    error = steps.fail(write_intention, {"event": event}, InvalidEvent)
    assert str(error) == message
    assert embedded.requests_of_steps() == []


def test_a_workflow_that_passes_no_input_is_a_fault_of_ours(steps: Steps) -> None:
    error = steps.fail(write_intention, {}, InvalidStepInput)
    assert str(error) == 'The input of the step needs "event", an object.'


# --- Consul --------------------------------------------------------------------------------------


def test_the_controllers_own_policy_is_enough_and_the_right_to_acls_is_not(
    consul: ConsulState, steps: Steps, secrets: SecretsState
) -> None:
    own = controller_token(PREFIX, CLUSTER_ARN)["policy"]
    for name, rules in (("own", own["rules"]), ("before", 'acl = "write"\n')):
        consul.create_policy(Name=name, Rules=rules)
    token = consul.create_token(Policies=[{"Name": "own"}])
    use(secrets, token)
    for of in ({}, {"destination": "*"}, {"source": "*", "destination": "*"}):
        assert steps.run(write_intention, wanted(**of)) == {"change": "created"}
        assert steps.run(write_intention, unwanted(**of)) == {"change": "removed"}

    before = consul.create_token(Policies=[{"Name": "before"}])
    consul.call("PUT", f"/v1/acl/token/{token['AccessorID']}", {"Policies": before["Policies"]})
    error = steps.fail(write_intention, wanted(), ConsulPermissionDenied)
    assert str(error).startswith(f'PUT {EXACT} of "greeter" to "greeting": Consul at http')
    assert str(error).endswith("The token needs intentions:write of the called service.")
    plant(consul)
    error = steps.fail(write_intention, unwanted(), ConsulPermissionDenied)
    assert str(error).startswith(f'GET {EXACT} of "greeter" to "greeting": Consul at http')
    assert str(error).endswith("The token needs intentions:read of one of the two services.")
    assert in_consul(consul) == intention()


def use(secrets: SecretsState, token: dict[str, Any]) -> None:
    value = json.dumps({"accessor_id": token["AccessorID"], "token": token["SecretID"]})
    secrets.put(names.controller_secret_name(PREFIX), value)


@pytest.mark.parametrize("state", [wanted(), unwanted()], ids=["to write", "to remove"])
def test_an_unknown_token_of_our_own_is_never_taken_for_an_absent_intention(
    consul: ConsulState, steps: Steps, secrets: SecretsState, state: dict[str, Any]
) -> None:
    # Consul tells of no leader with this endpoint, as it does with those of the ACL system.
    plant(consul)
    lost = consul.create_token()
    use(secrets, lost)
    consul.call("DELETE", f"/v1/acl/token/{lost['AccessorID']}")
    error = steps.fail(write_intention, state, ConsulTokenRejected)
    assert "does not know the token in" in str(error)
    assert in_consul(consul) == intention()


@pytest.mark.parametrize("state", [wanted(), unwanted()], ids=["to write", "to remove"])
@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (500, "No cluster leader", ConsulUnavailable),
        (500, "rpc error making call: Connect must be enabled in order to use this endpoint",
         ConsulRequestInvalid),
        (500, "Sources[0].Description exceeds maximum length 512", ConsulRequestInvalid),
        (400, "error 'index error: UUID must be 36 characters'", ConsulRequestInvalid),
        (200, "[]", ConsulUnavailable),
        (200, "not JSON", ConsulUnavailable),
        (200, '{"SourceName": "greeter", "DestinationName": "other", "Action": "allow"}',
         ConsulUnavailable),
        (200, '{"SourceName": "greeter", "DestinationName": "greeting", "Action": 7}',
         ConsulUnavailable),
    ],
)  # fmt: skip
def test_what_consul_answers_is_named(  # noqa: PLR0917 - a table
    embedded: ConsulState,
    steps: Steps,
    state: dict[str, Any],
    status: int,
    text: str,
    kind: type[Exception],
) -> None:
    embedded.embedded.on_request = lambda *_: Fault(status=status, text=text)
    error = steps.fail(write_intention, state, kind)
    assert str(error).startswith(f'GET {EXACT} of "greeter" to "greeting": ')


@pytest.mark.parametrize(
    ("method", "state"), [("PUT", wanted("deny")), ("DELETE", unwanted())], ids=["PUT", "DELETE"]
)
def test_a_write_that_fails_is_named_and_the_next_attempt_finds_what_it_did(
    embedded: ConsulState, steps: Steps, method: str, state: dict[str, Any]
) -> None:
    plant(embedded)
    embedded.embedded.on_request = lambda asked, _: Fault(drop="after") if asked == method else None
    error = steps.fail(write_intention, state, ConsulUnavailable)
    assert "no answer from Consul" in str(error)
    embedded.embedded.on_request = None
    change = {"PUT": "unchanged", "DELETE": "absent"}[method]
    assert steps.run(write_intention, state) == {"change": change}
