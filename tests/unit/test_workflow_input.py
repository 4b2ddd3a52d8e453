"""Whose token an input names: one subject, said in one way, or none."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.core.errors import InvalidEvent, InvalidServiceName, StepError
from handlers.core.subjects import CLIENT, CONTROLLER, Subject
from handlers.core.workflow_input import named_subject


@pytest.mark.parametrize(
    ("event", "subject"),
    [
        pytest.param({"service": "web"}, Subject(service="web"), id="a service"),
        pytest.param({"service": "a" * 256}, Subject(service="a" * 256), id="the longest name"),
        pytest.param({"token": "client"}, CLIENT, id="client"),
        pytest.param({"token": "controller"}, CONTROLLER, id="controller"),
        pytest.param({"service": "client"}, Subject(service="client"),
                     id="a service called client"),
        pytest.param({"service": "web", "time": "now"}, Subject(service="web"),
                     id="and something else"),
        pytest.param({}, None, id="empty"),
        pytest.param({"services": "all"}, None, id="all services"),
        pytest.param({"services": "all", "after": "web"}, None, id="the rest of all services"),
        pytest.param({"after": "web"}, None, id="the rest of everything"),
        pytest.param({"detail": {"taskArn": "x"}}, None, id="an event of a task"),
        pytest.param({"Service": "web", "tokens": "client"}, None, id="other keys"),
    ],
)  # fmt: skip
def test_an_input_names_one_subject_or_none(event: dict[str, Any], subject: Subject | None) -> None:
    assert named_subject(event) == subject


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"service": "web", "token": "client"},
         'The input has both "service" and "token". Give one of them.'),
        ({"services": "all", "service": "web"},
         'The input has both "service" and "services". Give one of them.'),
        ({"detail": None, "service": "web"},
         'The input has both "service" and "detail". Give one of them.'),
        ({"after": "", "token": "client"},
         'The input has both "token" and "after". Give one of them.'),
        ({"services": "all", "token": "client"},
         'The input has both "token" and "services". Give one of them.'),
        ({"service": None}, "service must be the name of a service, a text; it is None."),
        ({"service": ["web"]}, "service must be the name of a service, a text; it is ['web']."),
        ({"token": "Client"}, """token must be "client" or "controller"; it is 'Client'."""),
        ({"token": None}, 'token must be "client" or "controller"; it is None.'),
        ({"token": ["client"]},
         """token must be "client" or "controller"; it is ['client']."""),
    ],
)  # fmt: skip
def test_an_input_that_names_something_else_is_refused_with_what_is_wrong(
    event: dict[str, Any], message: str
) -> None:
    assert str(refused(event, InvalidEvent)) == message


@pytest.mark.parametrize("name", ["", "Web", "my.web", "-web", "web\n", "a" * 257])
def test_a_service_needs_a_name_that_consul_takes(name: str) -> None:
    assert str(refused({"service": name}, InvalidServiceName)) == (
        f"service is {name!r}, which is no valid service name. Allowed: "
        "lower-case letters, digits, '-' and '_', at most 256 characters, the first and the last "
        "one a letter or a digit."
    )


@pytest.mark.parametrize("event", [{"service": [7] * 5000}, {"token": "x" * 5000}])
def test_an_endless_value_is_quoted_in_part_only(event: dict[str, Any]) -> None:
    assert len(str(refused(event, InvalidEvent))) < 300


def test_an_endless_name_is_quoted_in_part_only() -> None:
    assert len(str(refused({"service": "x" * 5000}, InvalidServiceName))) < 600


def refused(event: dict[str, Any], kind: type[StepError]) -> StepError:
    with pytest.raises(kind) as caught:
        named_subject(event)
    assert type(caught.value) is kind
    return caught.value
