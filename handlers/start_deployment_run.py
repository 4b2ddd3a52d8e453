"""CloudFormation wants a workflow to run as part of a deployment: start it.

The handler of the custom resource `Custom::WorkflowRun`. It does not wait: the workflow
DeploymentRun runs the wanted one, and `answer_cloudformation` reports how that ended.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from botocore.exceptions import ClientError

from handlers.clients import aws
from handlers.clients.cloudformation import CustomResourceRequest
from handlers.core import environment
from handlers.core.errors import InvalidStepInput, StepError
from handlers.core.step import logger, step
from handlers.core.step_input import take


@step
def handler(event: Mapping[str, Any]) -> dict[str, Any]:
    """Take CloudFormation's request for the custom resource.

    Properties: `StateMachineArn`; `Input`, JSON text; `OnDelete`, optional, the same: what the
    workflow is run with when the resource is deleted; `SettleSeconds`, optional: how long the run
    waits until what was just deployed is known everywhere, if less than usual; and any others,
    whose change makes the workflow run again. Without `OnDelete` there is nothing to undo on
    Delete; a run that is at work goes on.

    Another `OnDelete` is another resource: CloudFormation deletes the previous one, with the
    properties that it had, when the update has succeeded; and the new one if it has not.
    """
    request = CustomResourceRequest.from_event(event)
    on_delete = _on_delete(event)
    if request.is_delete and on_delete is None:
        request.answer(failure=None)
        return {"started": False}
    if not request.is_delete and isinstance(on_delete, str):
        digest = hashlib.sha256(on_delete.encode()).hexdigest()[:16]
        request = replace(request, physical_resource_id=f"{request.logical_resource_id}-{digest}")
    try:
        if event.get("RequestType") == "Update" and _is_rolled_back(request):
            # What it goes back to has run before; failing once more would only wedge the stack.
            request.answer(failure=None)
            return {"started": False}
        _start(request, take(event, "ResourceProperties", dict))
    # Whatever it is: CloudFormation would wait for an answer until its time-out. It is not raised,
    # for Lambda would deliver the request again, and start a run that nobody waits for.
    except Exception as error:  # noqa: BLE001
        foreseen = isinstance(error, StepError)
        logger.warning(
            "The run was not started",
            extra={"error": type(error).__name__},
            exc_info=None if foreseen else error,
        )
        told = str(error) if foreseen else "a bug; the function's log has the traceback."
        request.answer(failure=f"{type(error).__name__}: {told}")
        return {"started": False}
    return {"started": True}


def _on_delete(event: Mapping[str, Any]) -> object:
    properties = event.get("ResourceProperties")
    return properties.get("OnDelete") if isinstance(properties, dict) else None


def _is_rolled_back(request: CustomResourceRequest) -> bool:
    """Whether CloudFormation undoes an update of the stack that failed."""
    with aws.translated_errors(f"Describing the stack {request.stack_id}"):
        answer = aws.client("cloudformation").describe_stacks(StackName=request.stack_id)
        return any("ROLLBACK" in stack["StackStatus"] for stack in answer["Stacks"])


def _settle_seconds(properties: Mapping[str, Any]) -> int:
    usual = int(environment.required(environment.SETTLE_SECONDS))
    if "SettleSeconds" not in properties:
        return usual
    wanted = take(properties, "SettleSeconds", str)  # CloudFormation passes numbers as text
    if not re.fullmatch(r"[0-9]{1,4}", wanted):
        message = f'The property SettleSeconds must be a number of seconds; it is "{wanted:.20}".'
        raise InvalidStepInput(message)
    return min(int(wanted), usual)


def _start(request: CustomResourceRequest, properties: Mapping[str, Any]) -> None:
    state = {
        "request": request.to_state(),
        "state_machine_arn": take(properties, "StateMachineArn", str),
        "input": json.loads(take(properties, "OnDelete" if request.is_delete else "Input", str)),
        # What was made has been known everywhere for long when it goes.
        "settle_seconds": 0 if request.is_delete else _settle_seconds(properties),
    }
    with aws.translated_errors("Starting the workflow DeploymentRun"):
        try:
            aws.client("stepfunctions").start_execution(
                stateMachineArn=environment.required(environment.DEPLOYMENT_RUN_ARN),
                # The request's ID, so that a request that is delivered again starts nothing new.
                name=request.request_id,
                input=json.dumps(state),
            )
        except ClientError as error:
            if aws.error_code(error) != "ExecutionAlreadyExists":
                raise
