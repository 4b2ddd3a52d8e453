"""The states that all workflows are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from handlers.core.errors import (
    ConsulTokenRejected,
    InvalidEvent,
    InvalidServiceName,
    Permanent,
    SecretNameCollision,
    UnsupportedTenancy,
    error_names,
)
from handlers.core.step import EXECUTION_KEY
from workflows.retries import (
    A_WHILE,
    PASSING_ERRORS,
    UNTIL_TOKEN_IS_KNOWN,
    Patience,
    without_reserved,
)

INPUT_IS_WRONG = [
    error.__name__
    for error in (InvalidEvent, InvalidServiceName, SecretNameCollision, UnsupportedTenancy)
]
"""What is wrong with a task, or with what a person started an execution with."""

_FAILURE = "$.failure"
_USUAL_TIMEOUT = Duration.seconds(60)


class Failures:
    """The ends of a workflow that went wrong: one Fail state for each kind of failure.

    Each ends the execution with the error and the cause of the state that failed. Not so the last
    kind: an execution may not end with an error whose name Step Functions reserves (`States.…`),
    and a time-out brings no cause, so there the whole failure is told as the cause.
    """

    def __init__(self, scope: Construct) -> None:
        self._scope = scope
        self._gave_up = self.kind(
            "Gave up waiting", "Consul, AWS or Lambda did not recover within the budget of retries."
        )
        self._operator = self.kind(
            "Needs an operator", "Waiting does not help. The cause says what is wrong and where."
        )
        self.unexpected = sfn.Fail(
            scope,
            "Failed unexpectedly",
            comment="A time-out, a missing permission, or a fault of ours.",
            error="UnexpectedFailure",
            cause_path=whole_failure(),
        )

    def catch_all(self, state: sfn.TaskStateBase) -> None:
        """Send everything that a state does not survive to the right end."""
        self.catch(state, without_reserved(PASSING_ERRORS), self._gave_up)
        self.catch(state, error_names(Permanent), self._operator)
        self.catch(state, [sfn.Errors.ALL], self.unexpected)

    def catch_wrong_input(self, state: sfn.TaskStateBase) -> None:
        """Send what is wrong with an execution's input to an end of its own; before `catch_all`."""
        end = self.kind(
            "The input is wrong", "The cause says what this workflow can be started with."
        )
        self.catch(state, INPUT_IS_WRONG, end)

    def kind(self, name: str, comment: str) -> sfn.Fail:
        """Return one more end; use it with `catch` before `catch_all`."""
        return sfn.Fail(
            self._scope,
            name,
            comment=comment,
            error_path=f"{_FAILURE}.Error",
            cause_path=f"{_FAILURE}.Cause",
        )

    def catch(self, state: sfn.TaskStateBase, errors: list[str], end: sfn.Fail) -> None:
        """Send some errors of a state to an end of their own."""
        state.add_catch(end, errors=errors, result_path=_FAILURE)


def whole_failure() -> str:
    """Return the expression for what a Catch put into the state, as text."""
    return sfn.JsonPath.json_to_string(sfn.JsonPath.object_at(_FAILURE))


def step(
    scope: Construct,
    name: str,
    *,
    function: lambda_.IFunction,
    payload: Mapping[str, Any],
    result_path: str,
    comment: str,
    patience: Patience = A_WHILE,
    timeout: Duration = _USUAL_TIMEOUT,
    result_selector: Mapping[str, Any] | None = None,
) -> tasks.LambdaInvoke:
    """Return the state that runs a handler.

    Args:
        scope: the workflow.
        name: the state's name: a short sentence, as the console shows it.
        function: the handler.
        payload: what the handler gets, besides the ARN of the execution.
        result_path: where its result goes.
        comment: what the state is for; the retries' budget is appended.
        patience: for how long passing errors are waited out.
        timeout: of one attempt; longer than the function's own, whose end says more.
        result_selector: what of its result is kept; all of it by default.

    """
    budget = patience.budget_minutes(timeout)
    state = tasks.LambdaInvoke(
        scope,
        name,
        lambda_function=function,
        payload=sfn.TaskInput.from_object(
            {EXECUTION_KEY: sfn.JsonPath.execution_id, **payload},
        ),
        payload_response_only=True,
        result_path=result_path,
        result_selector=result_selector,
        comment=f"{comment} Retries passing errors for up to {budget} minutes.",
        task_timeout=sfn.Timeout.duration(timeout),
        retry_on_service_exceptions=False,  # PASSING_ERRORS has them
    )
    patience.apply(state, PASSING_ERRORS)
    # For good only if it stays so: after a bootstrap, or a rotation, our own token is a new one.
    UNTIL_TOKEN_IS_KNOWN.apply(state, [ConsulTokenRejected.__name__])
    return state
