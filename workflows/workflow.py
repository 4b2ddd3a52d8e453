"""What all state machines have in common."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct


def state_machine(
    scope: Construct,
    *,
    start: sfn.IChainable,
    comment: str,
    timeout: Duration,
    log_group: logs.ILogGroup,
) -> sfn.StateMachine:
    """Make the Standard state machine of a workflow; its logs leave inputs and outputs out."""
    return sfn.StateMachine(
        scope,
        "StateMachine",
        definition_body=sfn.DefinitionBody.from_chainable(start),
        comment=comment,
        timeout=timeout,
        logs=sfn.LogOptions(
            destination=log_group, level=sfn.LogLevel.ALL, include_execution_data=False
        ),
    )
