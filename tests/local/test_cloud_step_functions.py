"""Step Functions in the local cloud run workflows as AWS does."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from local.cloud.step_functions import corrected_step_functions
from local.cloud.waiting import until

ROLE = "arn:aws:iam::123456789012:role/r"
PASS = {"Type": "Pass", "End": True}


@pytest.fixture
def workflows() -> Iterator[Any]:
    with mock_aws(), corrected_step_functions():
        yield boto3.client("stepfunctions", region_name="us-east-1")


def machine(workflows: Any, state: dict[str, Any], **states: dict[str, Any]) -> str:
    definition = {"StartAt": "First", "States": {"First": state, **states}}
    arn: str = workflows.create_state_machine(
        name=f"m{uuid.uuid4()}", definition=json.dumps(definition), roleArn=ROLE
    )["stateMachineArn"]
    return arn


def finished(workflows: Any, execution: str) -> dict[str, Any]:
    def description() -> dict[str, Any] | None:
        found: dict[str, Any] = workflows.describe_execution(executionArn=execution)
        return None if found["status"] == "RUNNING" else found

    return until(description, what=f"{execution} has finished")


def run(workflows: Any, arn: str, **input_: Any) -> dict[str, Any]:
    started = workflows.start_execution(stateMachineArn=arn, input=json.dumps(input_))
    return finished(workflows, started["executionArn"])


def test_an_execution_without_a_name_gets_one_of_its_own(workflows: Any) -> None:
    arn = machine(workflows, PASS)
    names = [run(workflows, arn)["name"] for _ in range(2)]
    assert len(set(names)) == 2
    assert all(uuid.UUID(name) for name in names)


@pytest.mark.parametrize("name", ["with space", "with/slash", "with:colon", "x" * 81])
def test_a_name_that_aws_refuses_is_refused(workflows: Any, name: str) -> None:
    arn = machine(workflows, PASS)
    with pytest.raises(ClientError) as caught:
        workflows.start_execution(stateMachineArn=arn, name=name)
    assert caught.value.response["Error"]["Code"] == "InvalidName"


def test_of_starters_racing_for_one_name_exactly_one_starts(workflows: Any) -> None:
    arn = machine(workflows, PASS)

    def start(number: int) -> str:
        try:
            workflows.start_execution(stateMachineArn=arn, name="n", input=f'{{"n": {number}}}')
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "started"

    with ThreadPoolExecutor(8) as pool:
        results = sorted(pool.map(start, range(8)))
    assert results == ["ExecutionAlreadyExists"] * 7 + ["started"]


def nested(child: str, pattern: str) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": f"arn:aws:states:::states:startExecution{pattern}",
        "Parameters": {"StateMachineArn": child, "Input": {"id.$": "$$.Execution.Id"}},
        "ResultPath": "$.child",
        "End": True,
    }


def test_a_nested_workflow_is_waited_for_and_its_output_parsed(workflows: Any) -> None:
    child = machine(workflows, {**PASS, "Result": {"answer": 42}})
    begun = time.monotonic()
    result = run(workflows, machine(workflows, nested(child, ".sync:2")))
    assert json.loads(result["output"])["child"]["Output"] == {"answer": 42}
    assert time.monotonic() - begun < 2


def test_a_nested_workflow_can_be_left_alone(workflows: Any) -> None:
    child = machine(workflows, PASS)
    result = run(workflows, machine(workflows, nested(child, "")))
    assert json.loads(result["output"])["child"]["ExecutionArn"].startswith("arn:aws:states:")
    listed = workflows.list_executions(stateMachineArn=child)["executions"]
    assert len(listed) == 1


def test_a_nested_workflow_that_fails_can_be_caught_with_its_error(workflows: Any) -> None:
    child = machine(workflows, {"Type": "Fail", "Error": "ConsulAclDisabled", "Cause": "why"})
    task = {
        **nested(child, ".sync:2"),
        "Catch": [{"ErrorEquals": ["States.TaskFailed"], "Next": "Caught"}],
    }
    read = {"Type": "Pass", "Parameters": {"c.$": "States.StringToJson($.Cause)"}, "End": True}
    result = run(workflows, machine(workflows, task, Caught=read))
    cause = json.loads(result["output"])["c"]
    assert (cause["Status"], cause["Error"]) == ("FAILED", "ConsulAclDisabled")


def sdk(action: str, **parameters: Any) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": f"arn:aws:states:::aws-sdk:{action}",
        "Parameters": parameters,
        "End": True,
    }


def test_a_service_integration_answers_in_pascal_case(workflows: Any) -> None:
    boto3.client("ecs", region_name="us-east-1").create_cluster(clusterName="c")
    result = run(workflows, machine(workflows, sdk("ecs:listClusters")))
    assert len(json.loads(result["output"])["ClusterArns"]) == 1


def test_a_timestamp_in_a_result_is_text(workflows: Any) -> None:
    boto3.client("secretsmanager", region_name="us-east-1").create_secret(
        Name="s", SecretString="x"
    )
    result = run(workflows, machine(workflows, sdk("secretsmanager:describeSecret", SecretId="s")))
    assert json.loads(result["output"])["CreatedDate"].endswith("Z")


def test_an_error_of_a_service_is_named_as_on_aws(workflows: Any) -> None:
    task = sdk("secretsmanager:describeSecret", SecretId="absent")
    result = run(workflows, machine(workflows, task))
    assert result["error"] == "SecretsManager.ResourceNotFoundException"


def test_a_stopped_execution_does_not_wait_for_its_next_attempt(workflows: Any) -> None:
    task = {
        **sdk("secretsmanager:describeSecret", SecretId="absent"),
        "Retry": [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 300}],
    }
    arn = machine(workflows, task)
    execution = workflows.start_execution(stateMachineArn=arn)["executionArn"]

    def failed_once() -> bool:
        history = workflows.get_execution_history(executionArn=execution)["events"]
        return any(event["type"] == "TaskFailed" for event in history)

    until(failed_once, what="the first attempt has failed")
    workflows.stop_execution(executionArn=execution)
    assert finished(workflows, execution)["status"] == "ABORTED"


def test_moto_is_as_before_afterwards() -> None:
    with mock_aws():
        workflows = boto3.client("stepfunctions", region_name="us-east-1")
        arn = machine(workflows, PASS)
        execution = workflows.start_execution(stateMachineArn=arn)["executionArn"]
        assert workflows.describe_execution(executionArn=execution)["status"] == "RUNNING"
