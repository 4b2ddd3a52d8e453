"""Tell CloudFormation how the workflow ended that a deployment ran."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from handlers.clients.cloudformation import CustomResourceRequest
from handlers.core.step import step
from handlers.core.step_input import take


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Answer SUCCESS, or FAILED with a reason that a person can act on.

    Input: `{"request": …, "failure": {"Error": …, "Cause": …}}`; the failure is absent after a
    success, else what Step Functions reports of a nested execution.
    """
    failure = state.get("failure")
    request = CustomResourceRequest.from_state(take(state, "request", dict))
    request.answer(failure=_reason(failure) if isinstance(failure, Mapping) else None)
    return {}


def _reason(failure: Mapping[str, Any]) -> str:
    """Dig out the innermost message: a step's error, in an execution's, in the state's."""
    execution = _json_object(failure.get("Cause"))
    error = execution.get("Error") or execution.get("Status") or failure.get("Error")
    cause = execution.get("Cause") or failure.get("Cause") or "no cause given"
    message = _json_object(cause).get("errorMessage") or cause
    where = execution.get("ExecutionArn")
    return f"{error}: {message}" + (f" Look at the execution {where}." if where else "")


def _json_object(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
