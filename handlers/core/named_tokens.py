"""Tokens as states pass them: whose they are, and their accessor IDs. Never their secret IDs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.core.errors import InvalidStepInput
from handlers.core.step_input import take
from handlers.core.subjects import Subject
from handlers.core.token_secret import is_token_id


def to_state(subject: Subject, accessor_id: str) -> dict[str, Any]:
    """Return a token for a workflow's state."""
    return {"subject": subject.to_state(), "accessor_id": accessor_id}


def take_tokens(state: Mapping[str, Any]) -> list[tuple[Subject, str]]:
    """Read the state's `tokens`, a list of what `to_state` returned.

    Raises:
        InvalidStepInput: if it is something else.

    """
    tokens = []
    for item in take(state, "tokens", list):
        accessor_id = take(item, "accessor_id", str)
        if not is_token_id(accessor_id):
            message = 'The input of the step needs "accessor_id"s that are UUIDs.'
            raise InvalidStepInput(message)
        tokens.append((Subject.from_state(item.get("subject")), accessor_id))
    return tokens
