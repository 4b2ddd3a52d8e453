"""States that start executions, of other workflows or of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import ArnFormat, Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

_OWN_ARN = "$$.StateMachine.Id"


def run(
    scope: Construct,
    name: str,
    *,
    state_machine_arn: str = _OWN_ARN,
    execution_input: str | Mapping[str, Any] = "$",
    execution_name: str = "States.UUID()",
    comment: str,
    timeout: Duration,
    tell_execution: bool = False,
) -> sfn.CustomState:
    """Return the state that runs an execution and waits for its end; it fails if that fails.

    The result, at `$.run`, is `{"status": "SUCCEEDED"}`, with the ARN as `execution` if asked for.

    Args:
        scope: the workflow.
        name: the state's name.
        state_machine_arn: the ARN, or a path to it; the workflow's own by default.
        execution_input: the input, or a path to it.
        execution_name: a path to the execution's name, or an intrinsic function.
        comment: what it is for, and why it is not retried.
        timeout: after which the execution is stopped, and the state fails.
        tell_execution: whether the result has the ARN. A state that runs hundreds has no room.

    """
    selected = {"status.$": "$.Status"}
    if tell_execution:
        selected["execution.$"] = "$.ExecutionArn"
    # A state of its own making: CDK's task wants to know the state machine at synthesis.
    return sfn.CustomState(
        scope,
        name,
        state_json={
            "Type": "Task",
            "Comment": comment,
            "Resource": _resource(scope, "startExecution.sync:2"),
            "Parameters": {
                **_state_machine(state_machine_arn),
                **_input(execution_input),
                "Name.$": execution_name,
            },
            "ResultSelector": selected,
            "ResultPath": "$.run",
            "TimeoutSeconds": timeout.to_seconds(),
        },
    )


def start(
    scope: Construct,
    name: str,
    *,
    state_machine_arn: str,
    execution_input: str | Mapping[str, Any],
    result_path: str,
    comment: str,
) -> sfn.CustomState:
    """Return the state that starts an execution, and does not wait for it.

    Its result is `{"execution": its ARN}`.

    Args:
        scope: the workflow.
        name: the state's name.
        state_machine_arn: the ARN, or a path to it.
        execution_input: the input, or a path to it.
        result_path: where the result goes.
        comment: what it is for, and why it is not retried.

    """
    return sfn.CustomState(
        scope,
        name,
        state_json={
            "Type": "Task",
            "Comment": comment,
            "Resource": _resource(scope, "startExecution"),
            "Parameters": {
                **_state_machine(state_machine_arn),
                **_input(execution_input),
                "Name.$": "States.UUID()",
            },
            "ResultSelector": {"execution.$": "$.ExecutionArn"},
            "ResultPath": result_path,
            "TimeoutSeconds": 60,
        },
    )


def continue_in_a_new_execution(
    scope: Construct, name: str, *, execution_input: str, comment: str
) -> sfn.CustomState:
    """Return the state that starts an execution of the workflow's own, and does not wait for it.

    The history of one execution may have 25,000 events, so what takes longer needs several.
    """
    return start(
        scope,
        name,
        state_machine_arn=_OWN_ARN,
        execution_input=execution_input,
        result_path="$.continued",
        comment=comment,
    )


def allow_running(state_machine: sfn.StateMachine, workflows: Sequence[sfn.IStateMachine]) -> None:
    """Let a state machine run others, and wait for their ends."""
    for workflow in workflows:
        workflow.grant_start_execution(state_machine)
        workflow.grant_execution(state_machine, "states:DescribeExecution", "states:StopExecution")
    state_machine.add_to_role_policy(_hearing_of_ends(state_machine))


def allow_running_itself(state_machine: sfn.StateMachine, *, waiting: bool) -> None:
    """Let a state machine start executions of its own, and wait for their ends if it is to."""
    arn = state_machine.state_machine_arn
    execution = Stack.of(state_machine).format_arn(
        service="states",
        resource="execution",
        resource_name=f"{state_machine.state_machine_name}:*",
        arn_format=ArnFormat.COLON_RESOURCE_NAME,
    )
    statements = [iam.PolicyStatement(actions=["states:StartExecution"], resources=[arn])]
    if waiting:
        statements.append(
            iam.PolicyStatement(
                actions=["states:DescribeExecution", "states:StopExecution"], resources=[execution]
            )
        )
        # In the role's policy: Step Functions makes no state machine whose role lacks it.
        state_machine.add_to_role_policy(_hearing_of_ends(state_machine))
    # A policy of its own: the state machine waits for its role's, which cannot wait for it.
    iam.Policy(state_machine, "StartsItself", statements=statements, roles=[state_machine.role])


def _hearing_of_ends(scope: Construct) -> iam.PolicyStatement:
    # How Step Functions learns that a nested execution has ended (developer guide, "IAM policies
    # for nested workflows").
    return iam.PolicyStatement(
        actions=["events:PutTargets", "events:PutRule", "events:DescribeRule"],
        resources=[
            Stack.of(scope).format_arn(
                service="events",
                resource="rule",
                resource_name="StepFunctionsGetEventsForStepFunctionsExecutionRule",
            )
        ],
    )


def _state_machine(arn_or_path: str) -> Mapping[str, Any]:
    is_path = arn_or_path.startswith(("$.", "$$."))  # CDK's tokens begin with "${"
    return {"StateMachineArn.$" if is_path else "StateMachineArn": arn_or_path}


def _input(value_or_path: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(value_or_path, str):
        return {"Input.$": value_or_path}
    return {"Input": dict(value_or_path)}


def _resource(scope: Construct, action: str) -> str:
    return f"arn:{Stack.of(scope).partition}:states:::states:{action}"
