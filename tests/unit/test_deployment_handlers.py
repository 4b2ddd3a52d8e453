"""CloudFormation asks for a run of a workflow, and hears how it ended, exactly once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest

from handlers import answer_cloudformation, start_deployment_run
from handlers.clients import aws
from handlers.clients.cloudformation import CustomResourceRequest
from handlers.core import environment
from handlers.core.errors import AwsUnavailable, InvalidStepInput
from tests.unit.aws_state import ACCOUNT, REGION, answering
from tests.unit.loopback import Answer, LoopbackServer
from tests.unit.steps import Steps

Log = Callable[[], list[logging.LogRecord]]
SIGNATURE = "6f1d9c0e8b7a5f43"
WORKFLOW = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:ClusterBootstrap"
EXECUTION = f"arn:aws:states:{REGION}:{ACCOUNT}:execution:ClusterBootstrap:d1b1"
IDENTITY = {
    "StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/acme/guid",
    "RequestId": "0d1a4c8e-7f52-4b36-9e0d-5c6b7a8f9012",
    "LogicalResourceId": "BootstrapOnDeploy",
}
ANSWERED = {**IDENTITY, "PhysicalResourceId": "BootstrapOnDeploy"}


@pytest.fixture
def s3() -> Iterator[LoopbackServer]:
    """Where the pre-signed URL leads."""
    with LoopbackServer(lambda _: Answer()) as server:
        yield server


def url(s3: LoopbackServer) -> str:
    return f"{s3.address}/cloudformation-custom-resource/answer?X-Amz-Signature={SIGNATURE}"


def request(s3: LoopbackServer, kind: str = "Create", **changes: Any) -> dict[str, Any]:
    """CloudFormation's request, as its user guide documents it."""
    return {
        "RequestType": kind,
        "ServiceToken": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:start",
        "ResponseURL": url(s3),
        "ResourceType": "Custom::WorkflowRun",
        "ResourceProperties": {
            "ServiceToken": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:start",
            "StateMachineArn": WORKFLOW,
            "Input": '{"a": 1}',
            "CodeDigest": "asset.0123",
        },
        **IDENTITY,
        **changes,
    }


def answers(s3: LoopbackServer) -> list[dict[str, Any]]:
    return [json.loads(received.body) for received in s3.requests]


def assert_the_url_stayed_inside(steps: Steps, log: Log) -> None:
    everything = [*steps.outputs, *(repr(vars(record)) for record in log())]
    assert [text for text in everything if SIGNATURE in text] == []


# --- starting ------------------------------------------------------------------------------------


@pytest.fixture
def deployment_run(_aws: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The state machine that runs a workflow for CloudFormation; its ARN."""
    role = boto3.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")
    arn: str = aws.client("stepfunctions").create_state_machine(
        name="DeploymentRun",
        definition='{"StartAt": "End", "States": {"End": {"Type": "Succeed"}}}',
        roleArn=role["Role"]["Arn"],
    )["stateMachineArn"]
    monkeypatch.setenv(environment.DEPLOYMENT_RUN_ARN, arn)
    monkeypatch.setenv(environment.SETTLE_SECONDS, "20")
    stack_is(monkeypatch, "UPDATE_IN_PROGRESS")
    return arn


def stack_is(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    def describe_stacks(*, StackName: str) -> dict[str, Any]:  # noqa: N803 - boto3's
        assert StackName == IDENTITY["StackId"]
        return {"Stacks": [{"StackStatus": status}]}

    monkeypatch.setattr(aws.client("cloudformation"), "describe_stacks", describe_stacks)


def inputs_of_executions(arn: str) -> dict[str, Any]:
    client = aws.client("stepfunctions")
    found = client.list_executions(stateMachineArn=arn)["executions"]
    return {
        item["name"]: json.loads(
            client.describe_execution(executionArn=item["executionArn"])["input"]
        )
        for item in found
    }


@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_a_create_or_update_starts_the_run_and_leaves_the_answer_to_it(
    deployment_run: str, s3: LoopbackServer, steps: Steps, log: Log, kind: str
) -> None:
    assert steps.run(start_deployment_run, request(s3, kind)) == {"started": True}
    assert steps.remote_calls == {"stepfunctions:StartExecution": 1}
    assert inputs_of_executions(deployment_run) == {
        IDENTITY["RequestId"]: {
            "request": {
                "response_url": url(s3),
                "stack_id": IDENTITY["StackId"],
                "request_id": IDENTITY["RequestId"],
                "logical_resource_id": "BootstrapOnDeploy",
                "physical_resource_id": "BootstrapOnDeploy",
                "request_type": kind,
            },
            "state_machine_arn": WORKFLOW,
            "input": {"a": 1},
            "settle_seconds": 20,
        }
    }
    assert s3.requests == []
    assert_the_url_stayed_inside(steps, log)


@pytest.mark.parametrize(
    ("usual", "wanted", "waits"),
    [
        pytest.param("20", "0", 0, id="what it waits for is known already"),
        pytest.param("20", "5", 5, id="less than usual"),
        pytest.param("20", "60", 20, id="never more than usual"),
        pytest.param("0", "20", 0, id="on a laptop never"),
    ],
)
def test_a_run_may_settle_for_less_time_than_usual(  # noqa: PLR0917 - a table
    deployment_run: str,
    s3: LoopbackServer,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    usual: str,
    wanted: str,
    waits: int,
) -> None:
    monkeypatch.setenv(environment.SETTLE_SECONDS, usual)
    event = request(s3)
    event["ResourceProperties"]["SettleSeconds"] = wanted
    assert steps.run(start_deployment_run, event) == {"started": True}
    (state,) = inputs_of_executions(deployment_run).values()
    assert state["settle_seconds"] == waits


@pytest.mark.parametrize("wanted", ["", "-1", "1.5", "soon", "99999"])
def test_a_time_to_settle_that_is_none_fails_the_deployment(
    deployment_run: str, s3: LoopbackServer, steps: Steps, wanted: str
) -> None:
    event = request(s3)
    event["ResourceProperties"]["SettleSeconds"] = wanted
    assert steps.run(start_deployment_run, event) == {"started": False}
    (answer,) = answers(s3)
    assert answer["Reason"] == (
        "InvalidStepInput: The property SettleSeconds must be a number of seconds; "
        f'it is "{wanted}".'
    )
    assert inputs_of_executions(deployment_run) == {}


@pytest.mark.parametrize(
    "status", ["UPDATE_ROLLBACK_IN_PROGRESS", "UPDATE_ROLLBACK_FAILED", "ROLLBACK_IN_PROGRESS"]
)
def test_an_update_that_undoes_a_failed_one_runs_nothing(
    deployment_run: str,
    s3: LoopbackServer,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
) -> None:
    stack_is(monkeypatch, status)
    assert steps.run(start_deployment_run, request(s3, "Update")) == {"started": False}
    assert answers(s3) == [{"Status": "SUCCESS", "Reason": "", **ANSWERED}]
    assert inputs_of_executions(deployment_run) == {}


def test_a_request_that_is_delivered_again_starts_nothing_new(
    deployment_run: str, s3: LoopbackServer, steps: Steps
) -> None:
    for _ in range(2):
        assert steps.run(start_deployment_run, request(s3)) == {"started": True}
    assert len(inputs_of_executions(deployment_run)) == 1
    client = aws.client("stepfunctions")
    with answering(client, "StartExecution", status=400, code="ExecutionAlreadyExists"):
        assert steps.run(start_deployment_run, request(s3)) == {"started": True}
    assert s3.requests == []


def test_a_delete_is_answered_at_once(
    deployment_run: str, s3: LoopbackServer, steps: Steps, log: Log
) -> None:
    physical_id = "the-one-from-create"
    event = request(s3, "Delete", PhysicalResourceId=physical_id)
    assert steps.run(start_deployment_run, event) == {"started": False}
    assert answers(s3) == [
        {"Status": "SUCCESS", "Reason": "", **ANSWERED, "PhysicalResourceId": physical_id}
    ]
    assert inputs_of_executions(deployment_run) == {}
    assert_the_url_stayed_inside(steps, log)


def test_a_physical_id_is_kept_over_updates(
    deployment_run: str, s3: LoopbackServer, steps: Steps
) -> None:
    # A new one would make CloudFormation delete the old resource.
    steps.run(start_deployment_run, request(s3, "Update", PhysicalResourceId="first"))
    (state,) = inputs_of_executions(deployment_run).values()
    assert state["request"]["physical_resource_id"] == "first"


# --- what a deletion undoes ----------------------------------------------------------------------

UNDO = '{"a": 1, "remove": true}'
UNDO_ID = "BootstrapOnDeploy-c35e48f4d5fe64be"


def undoable(s3: LoopbackServer, kind: str, undo: str = UNDO, **changes: Any) -> dict[str, Any]:
    """CloudFormation's request about a run that has something to undo."""
    event = request(s3, kind, **changes)
    event["ResourceProperties"]["OnDelete"] = undo
    return event


def test_a_deletion_runs_the_workflow_with_the_input_for_it_and_waits_for_nothing_else(
    deployment_run: str, s3: LoopbackServer, steps: Steps, log: Log
) -> None:
    event = undoable(s3, "Delete", PhysicalResourceId="the-one-from-create")

    assert steps.run(start_deployment_run, event) == {"started": True}

    (state,) = inputs_of_executions(deployment_run).values()
    assert state["state_machine_arn"] == WORKFLOW
    assert state["input"] == {"a": 1, "remove": True}
    assert state["settle_seconds"] == 0
    assert state["request"]["physical_resource_id"] == "the-one-from-create"
    assert state["request"]["request_type"] == "Delete"
    assert s3.requests == []
    assert_the_url_stayed_inside(steps, log)


@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_what_is_to_be_undone_names_the_resource(
    deployment_run: str, s3: LoopbackServer, steps: Steps, kind: str
) -> None:
    # So that CloudFormation deletes the previous resource, with the properties that it had.
    event = undoable(s3, kind, **({"PhysicalResourceId": "previous"} if kind == "Update" else {}))

    steps.run(start_deployment_run, event)

    (state,) = inputs_of_executions(deployment_run).values()
    assert state["input"] == {"a": 1}
    assert state["request"]["physical_resource_id"] == UNDO_ID


def test_another_input_with_the_same_to_be_undone_is_the_same_resource(
    deployment_run: str, s3: LoopbackServer, steps: Steps
) -> None:
    for number, given in enumerate(('{"a": 1}', '{"a": 2}')):
        event = undoable(s3, "Update", PhysicalResourceId=UNDO_ID, RequestId=f"r-{number}")
        event["ResourceProperties"]["Input"] = given
        steps.run(start_deployment_run, event)

    states = inputs_of_executions(deployment_run).values()
    assert {state["request"]["physical_resource_id"] for state in states} == {UNDO_ID}


def test_an_update_that_is_undone_goes_back_to_the_resource_that_was(
    deployment_run: str, s3: LoopbackServer, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The failed update had made another one: CloudFormation deletes that, and keeps this.
    stack_is(monkeypatch, "UPDATE_ROLLBACK_IN_PROGRESS")

    event = undoable(s3, "Update", PhysicalResourceId="of the failed update")

    assert steps.run(start_deployment_run, event) == {"started": False}
    assert answers(s3) == [
        {"Status": "SUCCESS", "Reason": "", **ANSWERED, "PhysicalResourceId": UNDO_ID}
    ]
    assert inputs_of_executions(deployment_run) == {}


@pytest.mark.parametrize("status", ["UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS",
                                    "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
                                    "ROLLBACK_IN_PROGRESS", "DELETE_IN_PROGRESS"])  # fmt: skip
def test_whatever_the_stack_is_at_a_deletion_undoes(
    deployment_run: str,
    s3: LoopbackServer,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
) -> None:
    stack_is(monkeypatch, status)
    event = undoable(s3, "Delete", PhysicalResourceId=UNDO_ID)

    assert steps.run(start_deployment_run, event) == {"started": True}

    assert len(inputs_of_executions(deployment_run)) == 1


HOW_TO_GO_ON = (
    " Put that right and delete the stack again. Or give up what the workflow was to remove, once "
    "the stack is DELETE_FAILED: aws cloudformation delete-stack --stack-name "
    f"{IDENTITY['StackId']} --retain-resources BootstrapOnDeploy"
)


def test_a_deletion_whose_run_cannot_be_started_says_how_to_go_on(
    deployment_run: str, s3: LoopbackServer, steps: Steps
) -> None:
    del deployment_run
    event = undoable(s3, "Delete", PhysicalResourceId=UNDO_ID)

    with answering(
        aws.client("stepfunctions"), "StartExecution", status=400, code="AccessDeniedException"
    ):
        assert steps.run(start_deployment_run, event) == {"started": False}

    (answer,) = answers(s3)
    assert answer["Status"] == "FAILED"
    assert answer["PhysicalResourceId"] == UNDO_ID
    assert answer["Reason"] == (
        f"AwsAccessDenied: Starting the workflow DeploymentRun: As ordered.{HOW_TO_GO_ON}"
    )


@pytest.mark.parametrize("undo", [7, None, ["x"]])
def test_what_is_to_be_undone_has_to_be_a_text(
    deployment_run: str, s3: LoopbackServer, steps: Steps, undo: Any
) -> None:
    event = undoable(s3, "Delete", undo, PhysicalResourceId="p")

    assert steps.run(start_deployment_run, event) == {"started": False}

    (answer,) = answers(s3)
    assert answer["Status"] == ("SUCCESS" if undo is None else "FAILED")
    assert inputs_of_executions(deployment_run) == {}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("AccessDeniedException",
         "AwsAccessDenied: Starting the workflow DeploymentRun: As ordered."),
        ("StateMachineDoesNotExist",
         ("AwsRequestRefused: Starting the workflow DeploymentRun: As ordered. "
          "(StateMachineDoesNotExist)")),
        ("ThrottlingException",
         "AwsThrottled: Starting the workflow DeploymentRun: throttled (ThrottlingException)."),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_started_fails_the_deployment_at_once(  # noqa: PLR0917
    deployment_run: str, s3: LoopbackServer, steps: Steps, log: Log, code: str, reason: str
) -> None:
    del deployment_run
    client = aws.client("stepfunctions")
    with answering(client, "StartExecution", status=400, code=code):
        # It is not raised: Lambda would deliver the request again, and nobody waits for that run.
        assert steps.run(start_deployment_run, request(s3)) == {"started": False}
    assert answers(s3) == [{"Status": "FAILED", "Reason": reason, **ANSWERED}]
    assert log()[0].getMessage() == "The run was not started"
    assert vars(log()[0])["error"] == reason.partition(":")[0]
    assert_the_url_stayed_inside(steps, log)


@pytest.mark.parametrize("missing", ["StateMachineArn", "Input"])
def test_a_resource_without_its_properties_fails_the_deployment(
    deployment_run: str, s3: LoopbackServer, steps: Steps, missing: str
) -> None:
    event = request(s3)
    del event["ResourceProperties"][missing]
    assert steps.run(start_deployment_run, event) == {"started": False}
    (answer,) = answers(s3)
    assert answer["Status"] == "FAILED"
    assert answer["Reason"] == (
        f'InvalidStepInput: The input of the step needs "{missing}", a string.'
    )
    assert inputs_of_executions(deployment_run) == {}


def test_a_fault_that_nobody_foresaw_fails_the_deployment_too(
    deployment_run: str, s3: LoopbackServer, steps: Steps, log: Log
) -> None:
    event = request(s3)
    event["ResourceProperties"]["Input"] = "{"
    assert steps.run(start_deployment_run, event) == {"started": False}
    (answer,) = answers(s3)
    assert (answer["Status"], answer["Reason"]) == (
        "FAILED",
        "JSONDecodeError: a bug; the function's log has the traceback.",
    )
    assert log()[0].exc_info is not None
    assert_the_url_stayed_inside(steps, log)
    assert inputs_of_executions(deployment_run) == {}


@pytest.mark.parametrize("missing", ["ResponseURL", "StackId", "RequestId", "LogicalResourceId"])
def test_a_request_that_cannot_be_answered_is_refused(
    s3: LoopbackServer, steps: Steps, missing: str
) -> None:
    event = request(s3)
    del event[missing]
    error = steps.fail(start_deployment_run, event, InvalidStepInput)
    assert str(error) == f'The input of the step needs "{missing}", a string.'
    assert s3.requests == []


# --- answering -----------------------------------------------------------------------------------


def state_of(s3: LoopbackServer) -> dict[str, Any]:
    return {"request": CustomResourceRequest.from_event(request(s3)).to_state()}


def test_a_success_is_answered_as_cloudformation_wants_it(
    s3: LoopbackServer, steps: Steps, log: Log
) -> None:
    assert steps.run(answer_cloudformation, state_of(s3)) == {}
    (received,) = s3.requests
    assert received.method == "PUT"
    assert f"{s3.address}{received.path}" == url(s3)
    # The URL is signed for an empty content type.
    assert received.headers["Content-Type"] == ""
    assert json.loads(received.body) == {"Status": "SUCCESS", "Reason": "", **ANSWERED}
    assert_the_url_stayed_inside(steps, log)


def failed_execution(**fields: Any) -> str:
    """What Step Functions gives as the cause when a nested execution has failed."""
    return json.dumps(
        {"ExecutionArn": EXECUTION, "StateMachineArn": WORKFLOW, "Status": "FAILED"} | fields
    )


LOOK = f" Look at the execution {EXECUTION}."


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        pytest.param(
            {"Error": "States.TaskFailed",
             "Cause": failed_execution(Error="ConsulAclDisabled", Cause="Enable acl.")},
            f"ConsulAclDisabled: Enable acl.{LOOK}", id="a workflow that ends in a Fail state"),
        pytest.param(
            {"Error": "States.TaskFailed",
             "Cause": failed_execution(
                 Error="ConsulUnavailable",
                 Cause=json.dumps({"errorType": "ConsulUnavailable", "errorMessage": "No leader.",
                                   "stackTrace": ["line"], "requestId": "r"}))},
            f"ConsulUnavailable: No leader.{LOOK}", id="a step that raised"),
        pytest.param(
            {"Error": "States.TaskFailed", "Cause": failed_execution(Status="TIMED_OUT")},
            f"TIMED_OUT: {failed_execution(Status='TIMED_OUT')}{LOOK}",
            id="a workflow that ran out of time"),
        pytest.param(
            {"Error": "States.TaskFailed", "Cause": failed_execution(Status="ABORTED")},
            f"ABORTED: {failed_execution(Status='ABORTED')}{LOOK}", id="stopped by hand"),
        pytest.param({"Error": "States.Timeout"}, "States.Timeout: no cause given",
                     id="a time-out of the state"),
        pytest.param({"Error": "StepFunctions.ExecutionLimitExceeded", "Cause": "Too many."},
                     "StepFunctions.ExecutionLimitExceeded: Too many.", id="no execution at all"),
        pytest.param({"Error": "E", "Cause": "[1]"}, "E: [1]", id="a cause that is a JSON list"),
        pytest.param({}, "None: no cause given", id="nothing known"),
    ],
)  # fmt: skip
def test_a_failure_is_answered_with_its_innermost_reason(
    s3: LoopbackServer, steps: Steps, log: Log, failure: dict[str, Any], reason: str
) -> None:
    steps.run(answer_cloudformation, state_of(s3) | {"failure": failure})
    assert answers(s3) == [{"Status": "FAILED", "Reason": reason, **ANSWERED}]
    assert_the_url_stayed_inside(steps, log)


def test_an_endless_reason_still_fits_into_an_answer(s3: LoopbackServer, steps: Steps) -> None:
    failure = {"Error": "E", "Cause": '"\\é' * 5000}
    steps.run(answer_cloudformation, state_of(s3) | {"failure": failure})
    (received,) = s3.requests
    assert len(received.body) <= 4096
    assert json.loads(received.body)["Status"] == "FAILED"


@pytest.mark.parametrize("length", [10, 5000])
def test_a_deletion_that_failed_is_answered_with_how_to_go_on(
    s3: LoopbackServer, steps: Steps, length: int
) -> None:
    deletion = CustomResourceRequest.from_event(request(s3, "Delete", PhysicalResourceId="p"))
    state = {"request": deletion.to_state(), "failure": {"Error": "E", "Cause": "é" * length}}

    steps.run(answer_cloudformation, state)

    (answer,) = answers(s3)
    assert answer["Status"] == "FAILED"
    assert answer["Reason"].startswith("E: ééé")
    assert answer["Reason"].endswith(HOW_TO_GO_ON)
    assert len(answer["Reason"]) <= 1000


def test_a_deletion_that_succeeded_needs_no_reason(s3: LoopbackServer, steps: Steps) -> None:
    deletion = CustomResourceRequest.from_event(request(s3, "Delete", PhysicalResourceId="p"))

    steps.run(answer_cloudformation, {"request": deletion.to_state()})

    assert answers(s3) == [
        {"Status": "SUCCESS", "Reason": "", **ANSWERED, "PhysicalResourceId": "p"}
    ]


@pytest.mark.parametrize("status", [403, 500, 503])
def test_an_answer_that_is_refused_is_worth_another_try(
    steps: Steps, log: Log, status: int
) -> None:
    with LoopbackServer(lambda _: Answer(status, b"<Error>expired</Error>")) as s3:
        error = steps.fail(answer_cloudformation, state_of(s3), AwsUnavailable)
    assert str(error) == "CloudFormation did not take the answer for BootstrapOnDeploy (HTTPError)."
    assert_the_url_stayed_inside(steps, log)


def test_an_answer_that_does_not_get_through_is_worth_another_try(steps: Steps, log: Log) -> None:
    with LoopbackServer(lambda _: Answer()) as gone:
        state = state_of(gone)
    error = steps.fail(answer_cloudformation, state, AwsUnavailable)
    assert str(error) == (
        "CloudFormation did not take the answer for BootstrapOnDeploy (ConnectionError)."
    )
    assert_the_url_stayed_inside(steps, log)


def test_the_url_is_not_shown_by_accident(s3: LoopbackServer) -> None:
    assert SIGNATURE not in repr(CustomResourceRequest.from_event(request(s3)))


def test_a_request_survives_the_workflow(s3: LoopbackServer) -> None:
    made = CustomResourceRequest.from_event(request(s3, PhysicalResourceId="p"))
    assert CustomResourceRequest.from_state(json.loads(json.dumps(made.to_state()))) == made
    # Of an execution that began before the type was told.
    earlier = made.to_state()
    del earlier["request_type"]
    assert CustomResourceRequest.from_state(earlier) == replace(made, request_type="")
    incomplete = made.to_state()
    del incomplete["stack_id"]
    with pytest.raises(InvalidStepInput, match='needs "stack_id", a string'):
        CustomResourceRequest.from_state(incomplete)
