"""Step Functions in the local cloud run workflows as AWS does."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import (
    state_task_service_callback,
)
from moto.stepfunctions.parser.asl.eval.states import States

from local.cloud.clock import CloudClock
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


@pytest.mark.parametrize("field", ["Parameters", "ResultSelector"])
@pytest.mark.parametrize("value", ["arn:aws:states:us-east-1:1:stateMachine:m", "", 3, None])
def test_a_definition_in_which_a_path_is_none_is_refused(
    workflows: Any, field: str, value: object
) -> None:
    task = {**nested("arn", ""), field: {"StateMachineArn": "arn", "Input": {"deep.$": value}}}
    with pytest.raises(ClientError, match=r"'deep\.\$' must be a valid JSONPath") as caught:
        machine(workflows, list_of(task))
    assert caught.value.response["Error"]["Code"] == "InvalidDefinition"


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


def test_a_nested_workflow_is_waited_for_and_its_output_parsed(
    workflows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(state_task_service_callback, "time", SimpleNamespace(sleep=sleep))
    child = machine(workflows, {**PASS, "Result": {"answer": 42}})
    result = run(workflows, machine(workflows, nested(child, ".sync:2")))
    assert json.loads(result["output"])["child"]["Output"] == {"answer": 42}
    # AWS is told at once that it has ended; moto would look twice a second.
    assert max(slept, default=0) < 0.1


def test_an_execution_has_its_output_when_it_has_succeeded(
    workflows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = machine(workflows, {**PASS, "Result": {"answer": 42}})
    get_input = States.get_input
    found: list[tuple[str, bool]] = []

    def get_input_and_look(self: States, query: str | None = None) -> Any:
        value = get_input(self, query)
        for execution in workflows.list_executions(stateMachineArn=arn)["executions"]:
            seen = workflows.describe_execution(executionArn=execution["executionArn"])
            found.append((seen["status"], "output" in seen))
        return value

    monkeypatch.setattr(States, "get_input", get_input_and_look)
    assert json.loads(run(workflows, arn)["output"]) == {"answer": 42}
    assert set(found) == {("RUNNING", False)}


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


def history(workflows: Any, execution: str) -> list[str]:
    events = workflows.get_execution_history(executionArn=execution)["events"]
    return [event["type"] for event in events]


# Waits.


@pytest.fixture
def hasty() -> Iterator[Any]:
    """Workflows whose clock goes so fast that an hour takes 0.36 seconds."""
    clock = CloudClock(speed=10_000)
    with mock_aws(), corrected_step_functions(clock):
        client: Any = boto3.client("stepfunctions", region_name="us-east-1")
        client.clock = clock
        yield client


@pytest.mark.parametrize("path", [False, True])
def test_a_wait_takes_its_seconds_of_the_clouds_time(
    hasty: Any,
    path: bool,  # noqa: FBT001 - a parameter of a test
) -> None:
    how = {"SecondsPath": "$.seconds"} if path else {"Seconds": 3600}
    result = run(hasty, machine(hasty, {"Type": "Wait", **how, "End": True}), seconds=3600)
    assert result["stopDate"] - result["startDate"] >= timedelta(hours=1)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Honolulu"])
def test_a_wait_for_a_moment_ends_then_and_not_before(
    hasty: Any, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    arn = machine(hasty, {"Type": "Wait", "TimestampPath": "$.until", "End": True})
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        moment = hasty.clock.now() + timedelta(hours=1)
        result = run(hasty, arn, until=f"{moment:%Y-%m-%dT%H:%M:%S}.999Z")
    finally:
        monkeypatch.undo()
        time.tzset()
    late = result["stopDate"] - moment.replace(microsecond=999_000)
    assert timedelta() <= late < timedelta(hours=9)


@pytest.mark.parametrize(
    ("moment", "status"),
    [
        ("2016-08-18T17:33:00Z", "SUCCEEDED"),
        ("2016-08-18T17:33:00.123Z", "SUCCEEDED"),
        ("2016-08-18T17:33:00+02:00", "SUCCEEDED"),
        ("2016-08-18T17:33:00", "FAILED"),
        ("2016-08-18 17:33:00Z", "FAILED"),
        ("2016-13-18T17:33:00Z", "FAILED"),
        (1471541580, "FAILED"),
    ],
)
def test_a_wait_takes_the_timestamps_that_aws_takes(
    workflows: Any, moment: object, status: str
) -> None:
    arn = machine(workflows, {"Type": "Wait", "TimestampPath": "$.until", "End": True})
    assert run(workflows, arn, until=moment)["status"] == status


def test_a_retry_goes_by_the_clouds_time(hasty: Any) -> None:
    retry = {"ErrorEquals": ["States.ALL"], "IntervalSeconds": 3600, "MaxAttempts": 1}
    task = {**sdk("secretsmanager:describeSecret", SecretId="absent"), "Retry": [retry]}
    result = run(hasty, machine(hasty, task))
    assert result["status"] == "FAILED"
    assert result["stopDate"] - result["startDate"] >= timedelta(hours=1)


def test_the_time_in_a_state_is_that_of_the_cloud_as_aws_writes_it(hasty: Any) -> None:
    run(hasty, machine(hasty, {"Type": "Wait", "Seconds": 3600, "End": True}))
    before = hasty.clock.now()
    times = {"started.$": "$$.Execution.StartTime", "entered.$": "$$.State.EnteredTime"}
    result = run(hasty, machine(hasty, {**PASS, "Parameters": times}))
    for text in json.loads(result["output"]).values():
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
        assert before - timedelta(seconds=1) < datetime.fromisoformat(text) < hasty.clock.now()


# Stopping.

FOREVER = {"Type": "Wait", "Seconds": 10**6, "End": True}


def list_of(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A state that does another one for each item of its input."""
    processor = {"StartAt": "Item", "States": {"Item": state}}
    return {
        "Type": "Map",
        "ItemsPath": "$.items",
        "ItemProcessor": processor,
        "End": True,
        **more,
    }


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(FOREVER, id="a wait"),
        pytest.param(
            {"Type": "Wait", "TimestampPath": "$.until", "End": True}, id="a wait for a moment"
        ),
        pytest.param(list_of(FOREVER, MaxConcurrency=1), id="a wait in a list"),
    ],
)
def test_a_stopped_execution_does_not_wait_any_more(workflows: Any, state: dict[str, Any]) -> None:
    arn = machine(workflows, state)
    given = json.dumps({"items": [1, 2], "until": "9999-01-01T00:00:00Z"})
    execution = workflows.start_execution(stateMachineArn=arn, input=given)["executionArn"]
    until(lambda: "WaitStateEntered" in history(workflows, execution), what="it waits")
    workflows.stop_execution(executionArn=execution)
    assert finished(workflows, execution)["status"] == "ABORTED"
    assert history(workflows, execution)[-1] == "ExecutionAborted"


def test_an_execution_can_be_stopped_as_soon_as_it_has_been_started(workflows: Any) -> None:
    arn = machine(workflows, FOREVER)
    for _ in range(10):
        execution = workflows.start_execution(stateMachineArn=arn)["executionArn"]
        workflows.stop_execution(executionArn=execution)
        assert finished(workflows, execution)["status"] == "ABORTED"


def only_execution(workflows: Any, arn: str) -> str:
    def started() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = workflows.list_executions(stateMachineArn=arn)["executions"]
        return found

    (execution,) = until(started, what=f"{arn} is started")
    return str(execution["executionArn"])


def test_a_stopped_execution_stops_the_one_that_it_waits_for(workflows: Any) -> None:
    child = machine(workflows, FOREVER)
    arn = machine(workflows, nested(child, ".sync:2"))
    execution = workflows.start_execution(stateMachineArn=arn)["executionArn"]
    started = only_execution(workflows, child)
    workflows.stop_execution(executionArn=execution)
    assert finished(workflows, execution)["status"] == "ABORTED"
    assert finished(workflows, started)["status"] == "ABORTED"


def test_a_state_whose_time_is_over_stops_the_execution_that_it_waits_for(workflows: Any) -> None:
    child = machine(workflows, FOREVER)
    task = {**nested(child, ".sync:2"), "TimeoutSeconds": 1}
    result = run(workflows, machine(workflows, task))
    assert (result["status"], result["error"]) == ("FAILED", "States.Timeout")
    assert finished(workflows, only_execution(workflows, child))["status"] == "ABORTED"


def test_an_execution_that_was_not_waited_for_goes_on(workflows: Any) -> None:
    child = machine(workflows, FOREVER)
    run(workflows, machine(workflows, nested(child, "")))
    execution = only_execution(workflows, child)
    assert workflows.describe_execution(executionArn=execution)["status"] == "RUNNING"


# Lists, and executions that start others of their own.


@pytest.mark.parametrize("concurrency", [0, 1, 2, 10])
def test_a_failure_that_is_caught_inside_a_list_does_not_end_it(
    workflows: Any, concurrency: int
) -> None:
    fail = {"Type": "Fail", "Error": "Wrong", "Cause": "why"}
    good = {"Variable": "$.service", "StringEquals": "bad", "Next": "Wrong"}
    choice = {"Type": "Choice", "Choices": [good], "Default": "Right"}
    child = machine(workflows, choice, Wrong=fail, Right={"Type": "Succeed"})
    task = {
        "Type": "Task",
        "Resource": "arn:aws:states:::states:startExecution.sync:2",
        "Parameters": {
            "StateMachineArn": child,
            "Name.$": "States.UUID()",
            "Input": {"service.$": "$.service"},
        },
        "ResultSelector": {"status.$": "$.Status"},
        "ResultPath": "$.run",
        "Next": "Done",
        "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.failure", "Next": "Done"}],
    }
    states = {"Run": task, "Done": {"Type": "Succeed"}}
    each = list_of(
        {},
        ItemProcessor={"StartAt": "Run", "States": states},
        MaxConcurrency=concurrency,
        ResultPath="$.results",
    )
    arn = machine(workflows, each)
    names = ["a", "bad", "c"]

    result = run(workflows, arn, items=[{"service": name} for name in names])

    results = json.loads(result["output"])["results"]
    assert [one["service"] for one in results] == names
    assert [one.get("run") for one in results] == [
        {"status": "SUCCEEDED"},
        None,
        {"status": "SUCCEEDED"},
    ]
    assert [one.get("failure", {}).get("Error") for one in results] == [
        None,
        "States.TaskFailed",
        None,
    ]


def test_a_list_without_items_is_over_at_once(workflows: Any) -> None:
    result = run(workflows, machine(workflows, list_of(FOREVER, MaxConcurrency=1)), items=[])
    assert json.loads(result["output"]) == []


def test_no_more_items_of_a_list_are_done_at_a_time_than_it_says(hasty: Any) -> None:
    each = list_of({"Type": "Wait", "Seconds": 600, "End": True}, MaxConcurrency=2)
    execution = run(hasty, machine(hasty, each), items=list(range(6)))["executionArn"]
    running = most = 0
    for kind in history(hasty, execution):
        running += (kind == "MapIterationStarted") - (kind == "MapIterationSucceeded")
        most = max(most, running)
    assert most == 2


def test_a_workflow_can_go_on_in_a_new_execution_of_itself(workflows: Any) -> None:
    more = {"Variable": "$.left", "NumericGreaterThan": 0, "Next": "Go on"}
    again = {
        "Type": "Task",
        "Resource": "arn:aws:states:::states:startExecution",
        "Parameters": {
            "StateMachineArn.$": "$$.StateMachine.Id",
            "Name.$": "States.UUID()",
            "Input": {"left.$": "States.MathAdd($.left, -1)"},
        },
        "End": True,
    }
    choice = {"Type": "Choice", "Choices": [more], "Default": "Done"}
    states: dict[str, dict[str, Any]] = {"Go on": again, "Done": {"Type": "Succeed"}}
    arn = machine(workflows, choice, **states)

    run(workflows, arn, left=2)

    def ended() -> list[str]:
        found = workflows.list_executions(stateMachineArn=arn)["executions"]
        ends = [one["status"] for one in found if one["status"] != "RUNNING"]
        return ends if len(ends) == 3 else []

    assert until(ended, what="three executions have ended") == ["SUCCEEDED"] * 3


def test_moto_is_as_before_afterwards() -> None:
    with mock_aws():
        workflows = boto3.client("stepfunctions", region_name="us-east-1")
        arn = machine(workflows, PASS)
        execution = workflows.start_execution(stateMachineArn=arn)["executionArn"]
        assert workflows.describe_execution(executionArn=execution)["status"] == "RUNNING"
