"""Which tokens are rotated, and what each of them has to be."""

from __future__ import annotations

from typing import Any

import pytest

from handlers import plan_rotation
from handlers.core.errors import (
    ConsulUnavailable,
    InvalidEvent,
    InvalidServiceName,
    InvalidStepInput,
    SecretNameCollision,
)
from local.consul import Fault
from tests.unit.aws_state import CLUSTER_ARN
from tests.unit.mesh_state import (
    CLIENT,
    CLIENT_DESCRIPTION,
    CLIENT_POLICY,
    CLIENT_SECRET,
    CONTROLLER,
    CONTROLLER_DESCRIPTION,
    CONTROLLER_POLICY,
    CONTROLLER_SECRET,
    MeshState,
    described,
)
from tests.unit.steps import Steps

WEB = {"service": "web"}
LIST = "consul:GET /v1/acl/tokens"


def plan(steps: Steps, event: Any, rules: dict[str, str] | None = None) -> dict[str, Any]:
    return steps.run(plan_rotation, {"event": event, "service_rules": rules or {}})


# --- one token -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "policies"), [({}, []), ({"web": "x"}, ["acme-web-service"])], ids=["", "with rules"]
)
def test_a_service_gets_what_provisioning_would_give_it(
    mesh: MeshState, steps: Steps, rules: dict[str, str], policies: list[str]
) -> None:
    del mesh
    assert plan(steps, WEB, rules) == {
        "one": True,
        "subject": WEB,
        "secret": {
            "id": "acme-web",
            "description": "Consul token of the service web",
            "tags": {
                "consul.hashicorp.com/cluster": CLUSTER_ARN,
                "consul.hashicorp.com/service-name": "web",
            },
        },
        "token": {
            "description": described("web"),
            "service_identities": ["web"],
            "policies": policies,
        },
        "has_tasks": True,
    }
    assert steps.remote_calls == {}


@pytest.mark.parametrize(
    ("event", "secret", "token", "has_tasks"),
    [
        pytest.param(
            CLIENT,
            CLIENT_SECRET,
            {"description": CLIENT_DESCRIPTION, "policies": [CLIENT_POLICY["Name"]]},
            True,
            id="client",
        ),
        pytest.param(
            CONTROLLER,
            CONTROLLER_SECRET,
            {"description": CONTROLLER_DESCRIPTION, "policies": [CONTROLLER_POLICY["Name"]]},
            False,
            id="controller",
        ),
    ],
)
def test_a_shared_token_is_in_the_secret_that_the_deployment_made(
    mesh: MeshState,
    steps: Steps,
    *,
    event: dict[str, str],
    secret: str,
    token: dict[str, Any],
    has_tasks: bool,
) -> None:
    assert plan(steps, event) == {
        "one": True,
        "subject": event,
        "secret": {"id": mesh.secrets.arn(secret)},
        "token": {**token, "service_identities": []},
        "has_tasks": has_tasks,
    }
    assert steps.remote_calls == {}


@pytest.mark.parametrize("name", ["consul-client-token", "consul-controller-token"])
def test_a_service_cannot_stand_for_a_secret_of_the_controllers(
    mesh: MeshState, steps: Steps, name: str
) -> None:
    del mesh
    state = {"event": {"service": name}, "service_rules": {}}
    error = steps.fail(plan_rotation, state, SecretNameCollision)
    assert str(error) == (
        f"The secret acme-{name} is the controller's own. To rotate what is in it, start with "
        '{"token": "client"} or {"token": "controller"}.'
    )


# --- all services --------------------------------------------------------------------------------


def test_all_services_are_those_that_have_a_token_of_ours(mesh: MeshState, steps: Steps) -> None:
    mesh.add_service("web")
    mesh.add_service("api", tasks=0)
    mesh.service_token("old")
    mesh.service_token("web")  # a second one
    mesh.secrets.create("acme-no-token", "{}")
    mesh.token(f"{described('foreign')}-2")
    mesh.token("Token for foreign service")
    assert plan(steps, {"services": "all"}) == {
        "one": False,
        "services": [{"service": "api"}, {"service": "old"}, {"service": "web"}],
        "next": {},
    }
    # A cold process reads its own token.
    assert steps.remote_calls == {LIST: 1, "secretsmanager:GetSecretValue": 1}


def test_without_services_there_is_nothing_to_rotate(mesh: MeshState, steps: Steps) -> None:
    del mesh
    assert plan(steps, {"services": "all"}) == {"one": False, "services": [], "next": {}}


@pytest.mark.parametrize(
    ("after", "services"),
    [("", ["api", "web", "web-2"]), ("api", ["web", "web-2"]), ("b", ["web", "web-2"]),
     ("web", ["web-2"]), ("web-2", []), ("zzz", [])],
)  # fmt: skip
def test_a_part_goes_on_after_the_part_before(
    mesh: MeshState, steps: Steps, after: str, services: list[str]
) -> None:
    for name in ("web-2", "web", "api"):
        mesh.service_token(name)
    result = plan(steps, {"services": "all", "after": after})
    assert result["services"] == [{"service": name} for name in services]


@pytest.mark.parametrize("length", [0, 256])
def test_the_parts_together_are_all_services(
    embedded_mesh: MeshState, steps: Steps, length: int
) -> None:
    count = 101
    expected = [f"{number:03}".ljust(length, "x") for number in range(count)]
    for name in expected:
        embedded_mesh.service_token(name)
    event: dict[str, Any] = {"services": "all"}
    parts: list[list[str]] = []
    while event:
        result = plan(steps, event)
        parts.append([item["service"] for item in result["services"]])
        event = result["next"]
        assert event in ({}, {"services": "all", "after": parts[-1][-1]})
    assert [name for part in parts for name in part] == expected
    assert [len(part) for part in parts] == [100, 1]


# --- what is refused -----------------------------------------------------------------------------

HOW = (
    'Start the workflow with {"service": "…"}, {"services": "all"}, {"token": "client"} or '
    '{"token": "controller"}.'
)


@pytest.mark.parametrize(
    ("event", "kind", "message"),
    [
        ({}, InvalidEvent, HOW),
        ({"services": "web"}, InvalidEvent, HOW),
        ({"services": ["web"]}, InvalidEvent, HOW),
        ({"services": "all", "after": None}, InvalidEvent, HOW),
        ({"after": "web"}, InvalidEvent, HOW),
        ({"detail": {"taskArn": "x"}}, InvalidEvent, HOW),
        ({"services": "all", "service": "web"}, InvalidEvent,
         'The input has both "service" and "services". Give one of them.'),
        ({"token": "all"}, InvalidEvent,
         """token must be "client" or "controller"; it is 'all'."""),
        ({"service": "Web"}, InvalidServiceName, None),
        (None, InvalidStepInput, 'The input of the step needs "event", an object.'),
    ],
    ids=str,
)  # fmt: skip
def test_an_input_that_names_nothing_that_there_can_be_is_refused_before_anything_is_asked(
    mesh: MeshState, steps: Steps, event: Any, kind: Any, message: str | None
) -> None:
    del mesh
    error = steps.fail(plan_rotation, {"event": event, "service_rules": {}}, kind)
    assert message is None or str(error) == message
    assert steps.remote_calls == {}


def test_a_consul_that_does_not_answer_is_not_one_without_services(
    embedded_mesh: MeshState, steps: Steps
) -> None:
    embedded_mesh.consul.embedded.on_request = lambda *_: Fault.answer(500, "No cluster leader")
    state = {"event": {"services": "all"}, "service_rules": {}}
    steps.fail(plan_rotation, state, ConsulUnavailable)
