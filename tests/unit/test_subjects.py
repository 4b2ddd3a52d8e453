"""Whose token it is: as states say it, and as its description in Consul does."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.core.errors import InvalidStepInput
from handlers.core.subjects import CLIENT, CONTROLLER, Subject, owned_subject
from tests.unit.aws_state import CLUSTER_ARN
from tests.unit.mesh_state import CLIENT_DESCRIPTION, CLUSTER_LINE, CONTROLLER_DESCRIPTION

WEB = Subject(service="web")


@pytest.mark.parametrize(
    ("subject", "state", "text"),
    [
        (WEB, {"service": "web"}, "the service web"),
        (CLIENT, {"token": "client"}, "the client token"),
        (CONTROLLER, {"token": "controller"}, "the controller token"),
    ],
)
def test_a_subject_goes_through_a_state_unchanged(
    subject: Subject, state: dict[str, str], text: str
) -> None:
    assert subject.to_state() == state
    assert Subject.from_state(state) == subject
    assert str(subject) == text


def test_a_subject_may_have_more_beside_it() -> None:
    assert Subject.from_state({"service": "web", "run": {"status": "SUCCEEDED"}}) == WEB


@pytest.mark.parametrize(
    "value",
    [
        *(None, 7, "web", [], ["service", "web"], {}, {"service": None}, {"service": 7}),
        *({"service": ""}, {"service": "Web"}, {"service": "a" * 257}, {"service": "hunter 2"}),
        *({"token": None}, {"token": "hunter2"}, {"token": ""}, {"token": ["client"]}),
    ],
    ids=repr,
)
def test_what_is_no_subject_is_the_workflows_fault_and_not_repeated(value: Any) -> None:
    with pytest.raises(InvalidStepInput) as caught:
        Subject.from_state(value)
    assert str(caught.value) == (
        'The input of the step needs a subject: {"service": a valid name}, {"token": "client"} or '
        '{"token": "controller"}.'
    )


def test_the_shared_tokens_come_before_all_services() -> None:
    services = [Subject(service=name) for name in ("0", "a", "a-1", "a_1", "b")]
    assert sorted([*reversed(services), CONTROLLER, CLIENT]) == [CLIENT, CONTROLLER, *services]


# --- ownership -----------------------------------------------------------------------------------

OTHER = "consul.hashicorp.com/cluster: arn:aws:ecs:us-east-1:123456789012:cluster/other"


@pytest.mark.parametrize(
    ("description", "subject"),
    [
        pytest.param(f"Token for web service\n{CLUSTER_LINE}", WEB, id="a service's"),
        pytest.param(CLIENT_DESCRIPTION, CLIENT, id="the clients'"),
        pytest.param(CONTROLLER_DESCRIPTION, CONTROLLER, id="the controller's"),
        pytest.param(f"Token for web service\n{CLUSTER_LINE}\nnot-pulled-since: never", WEB,
                     id="a line more"),
        pytest.param(f"Token for web service\r\n{CLUSTER_LINE}\r\n", WEB, id="edited on Windows"),
        pytest.param(f"{CLIENT_DESCRIPTION}\nconsul-on-ecs/not-pulled-since: 2026-01-05T20:10:01Z",
                     CLIENT, id="marked"),
        pytest.param(f"Token for {'a' * 256} service\n{CLUSTER_LINE}", Subject(service="a" * 256),
                     id="the longest name"),
        pytest.param(f"Token for client service\n{CLUSTER_LINE}", Subject(service="client"),
                     id="a service called client"),
        pytest.param("Token for web service", None, id="no line"),
        pytest.param("ECS Consul client Token", None, id="as HashiCorp's controller writes it"),
        pytest.param("", None, id="empty"),
        pytest.param(CLUSTER_LINE, None, id="the line alone"),
        pytest.param(f"made by hand\n{CLUSTER_LINE}", None, id="another text"),
        pytest.param(f"ECS Consul client Token 2\n{CLUSTER_LINE}", None, id="a longer text"),
        pytest.param(f"ECS Consul Client Token\n{CLUSTER_LINE}", None, id="in other capitals"),
        pytest.param(f"A Token for web service\n{CLUSTER_LINE}", None, id="a text before it"),
        pytest.param(f"Token for Web service\n{CLUSTER_LINE}", None, id="no valid name"),
        pytest.param(f"Token for {'a' * 257} service\n{CLUSTER_LINE}", None, id="too long a name"),
        pytest.param(f"Token for two words service\n{CLUSTER_LINE}", None, id="two words"),
        pytest.param(f"Token for web service\n{CLUSTER_LINE}-2", None,
                     id="a cluster whose name begins with ours"),
        pytest.param(f"Token for web service\n{CLUSTER_LINE[:-1]}", None,
                     id="a cluster with whose name ours begins"),
        pytest.param(f"Token for web service\n{OTHER}", None, id="another cluster"),
        pytest.param(f"Token for web service\n{OTHER}\n{CLUSTER_LINE}", None,
                     id="another cluster, then ours"),
        pytest.param(f"Token for web service\nsee {CLUSTER_LINE}", None, id="inside of a line"),
        pytest.param(f"Token for web service {CLUSTER_LINE}", None, id="in one line"),
        pytest.param("Token for web service\nconsul.hashicorp.com/cluster: mesh", None,
                     id="our cluster's short name"),
        pytest.param(None, None, id="none"),
        pytest.param(7, None, id="no text"),
    ],
)  # fmt: skip
def test_a_token_is_ours_if_a_whole_line_says_so_and_the_first_one_says_whose(
    description: Any, subject: Subject | None
) -> None:
    assert owned_subject({"Description": description}, CLUSTER_ARN) == subject


def test_a_token_without_a_description_is_not_ours() -> None:
    assert owned_subject({}, CLUSTER_ARN) is None
