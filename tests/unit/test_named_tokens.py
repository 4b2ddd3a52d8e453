"""Tokens as states pass them: whose they are and their accessor IDs, and no secret IDs."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.core.errors import InvalidStepInput
from handlers.core.named_tokens import take_tokens, to_state
from handlers.core.subjects import CLIENT, Subject

WEB = Subject(service="web")
ONE = "b1a7f5d2-3c4e-4f60-8a9b-0c1d2e3f4a5b"
A_SUBJECT = 'a subject: {"service": a valid name}, {"token": "client"} or {"token": "controller"}.'
TWO = "0F9E8D7C-6B5A-4948-8736-251403F2E1D0"


def test_tokens_go_through_a_state_unchanged() -> None:
    tokens = [(WEB, ONE), (CLIENT, TWO), (WEB, ONE)]
    state = {"tokens": [to_state(*token) for token in tokens]}
    assert state == {
        "tokens": [
            {"subject": {"service": "web"}, "accessor_id": ONE},
            {"subject": {"token": "client"}, "accessor_id": TWO},
            {"subject": {"service": "web"}, "accessor_id": ONE},
        ]
    }
    assert take_tokens(state) == tokens


def test_there_may_be_none() -> None:
    assert take_tokens({"tokens": []}) == []


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, '"tokens", a list.'),
        ({"tokens": None}, '"tokens", a list.'),
        ({"tokens": {"subject": {"service": "web"}, "accessor_id": ONE}}, '"tokens", a list.'),
        ({"tokens": ["web"]}, '"accessor_id", a string.'),
        ({"tokens": [{"subject": {"service": "web"}}]}, '"accessor_id", a string.'),
        ({"tokens": [{"subject": {"service": "web"}, "accessor_id": "hunter2"}]},
         '"accessor_id"s that are UUIDs.'),
        ({"tokens": [{"subject": {"service": "web"}, "accessor_id": f"{ONE}/../self"}]},
         '"accessor_id"s that are UUIDs.'),
        ({"tokens": [{"accessor_id": ONE}]}, A_SUBJECT),
        ({"tokens": [{"subject": "web", "accessor_id": ONE}]}, A_SUBJECT),
    ],
)  # fmt: skip
def test_anything_else_is_the_workflows_fault_and_not_repeated(state: Any, message: str) -> None:
    with pytest.raises(InvalidStepInput) as caught:
        take_tokens(state)
    assert str(caught.value) == f"The input of the step needs {message}"
