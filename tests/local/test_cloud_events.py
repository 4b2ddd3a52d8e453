"""EventBridge in the local cloud delivers events to state machines and queues as AWS does."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from local.cloud import LocalCloud
from local.cloud.waiting import until

ROLE = "arn:aws:iam::123456789012:role/r"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(workdir=tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture
def source() -> str:
    """A source of events that only this test's rule listens to."""
    return f"test.{uuid.uuid4()}"


@pytest.fixture
def machine(cloud: LocalCloud) -> str:
    definition = {"StartAt": "Pass", "States": {"Pass": {"Type": "Pass", "End": True}}}
    arn: str = cloud.client("stepfunctions").create_state_machine(
        name=f"m{uuid.uuid4()}", definition=json.dumps(definition), roleArn=ROLE
    )["stateMachineArn"]
    return arn


def queue(cloud: LocalCloud) -> tuple[str, str]:
    sqs = cloud.client("sqs")
    url = sqs.create_queue(QueueName=f"q{uuid.uuid4()}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return url, arn["Attributes"]["QueueArn"]


def rule(cloud: LocalCloud, pattern: dict[str, Any], target: dict[str, Any], **more: Any) -> str:
    name = f"r{uuid.uuid4()}"
    events = cloud.client("events")
    events.put_rule(Name=name, EventPattern=json.dumps(pattern), **more)
    events.put_targets(Rule=name, Targets=[{"Id": "target", **target}])
    return name


def put(cloud: LocalCloud, source: str, **detail: Any) -> None:
    entry = {"Source": source, "DetailType": "Test", "Detail": json.dumps(detail)}
    assert cloud.client("events").put_events(Entries=[entry])["FailedEntryCount"] == 0


def inputs(cloud: LocalCloud, machine: str) -> list[Any]:
    workflows = cloud.client("stepfunctions")
    executions = workflows.list_executions(stateMachineArn=machine)["executions"]
    return [
        json.loads(workflows.describe_execution(executionArn=found["executionArn"])["input"])
        for found in executions
    ]


def only_input(cloud: LocalCloud, machine: str) -> Any:
    return until(lambda: inputs(cloud, machine), what="the workflow has started")[0]


def dead_letter(cloud: LocalCloud, url: str) -> tuple[Any, dict[str, str]]:
    def received() -> Any:
        answer = cloud.client("sqs").receive_message(QueueUrl=url, MessageAttributeNames=["All"])
        return answer.get("Messages")

    message = until(received, what="a dead letter")[0]
    attributes = message["MessageAttributes"]
    values = {name: attribute["StringValue"] for name, attribute in attributes.items()}
    return json.loads(message["Body"]), values


def test_an_event_starts_a_state_machine_with_the_event_as_input(
    cloud: LocalCloud, source: str, machine: str
) -> None:
    rule(cloud, {"source": [source]}, {"Arn": machine})
    put(cloud, source, a=1)
    event = only_input(cloud, machine)
    assert set(event) == {
        *("version", "id", "detail-type", "source", "account"),
        *("time", "region", "resources", "detail"),
    }
    assert (event["source"], event["detail"], event["version"]) == (source, {"a": 1}, "0")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"Input": '{"constant": true}'}, {"constant": True}),
        ({"InputPath": "$.detail"}, {"task": {"arn": "a:b"}, "list": [{"n": 1}], "text": 'a "b"'}),
        (
            {
                "InputTransformer": {
                    "InputPathsMap": {
                        "arn": "$.detail.task.arn",
                        "n": "$.detail.list[0].n",
                        "text": "$.detail.text",
                        "absent": "$.detail.absent",
                    },
                    "InputTemplate": '{"arn":<arn>,"n":<n>,"in":"x <text> y","none":<absent>}',
                }
            },
            {"arn": "a:b", "n": 1, "in": 'x a "b" y', "none": ""},
        ),
    ],
)
def test_a_target_gets_the_input_that_it_asks_for(
    cloud: LocalCloud, source: str, machine: str, how: dict[str, Any], expected: Any
) -> None:
    rule(cloud, {"source": [source]}, {"Arn": machine, **how})
    put(cloud, source, task={"arn": "a:b"}, list=[{"n": 1}], text='a "b"')
    assert only_input(cloud, machine) == expected


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ({"status": ["RUNNING", "PENDING"]}, True),
        ({"status": ["STOPPED"]}, False),
        ({"status": [{"anything-but": ["STOPPED"]}]}, True),
        ({"status": [{"anything-but": ["RUNNING"]}]}, False),
        ({"status": [{"prefix": "RUN"}], "nested": {"deep": [{"exists": True}]}}, True),
        ({"nested": {"absent": [{"exists": False}]}}, True),
        ({"absent": {"deeper": [{"exists": False}]}}, True),
        ({"containers": {"name": ["proxy"]}}, True),
        ({"containers": {"name": ["other"]}}, False),
        ({"$or": [{"status": ["STOPPED"]}, {"version": [{"numeric": [">", 2]}]}]}, True),
    ],
)
def test_a_pattern_decides(
    cloud: LocalCloud,
    source: str,
    machine: str,
    pattern: dict[str, Any],
    matches: bool,  # noqa: FBT001 - moto's signature
) -> None:
    rule(cloud, {"source": [source], "detail": pattern}, {"Arn": machine})
    # This one matches always, and so tells when all has been delivered.
    url, arn = queue(cloud)
    rule(cloud, {"source": [source]}, {"Arn": arn})
    containers = [{"name": "app"}, {"name": "proxy"}]
    put(cloud, source, status="RUNNING", version=3, nested={"deep": 1}, containers=containers)
    sqs = cloud.client("sqs")
    until(lambda: sqs.receive_message(QueueUrl=url).get("Messages"), what="the event")
    if matches:
        only_input(cloud, machine)
    assert len(inputs(cloud, machine)) == matches


def test_a_disabled_rule_does_not_fire_and_one_with_a_schedule_matches_nothing(
    cloud: LocalCloud, source: str, machine: str
) -> None:
    disabled = rule(cloud, {"source": [source]}, {"Arn": machine}, State="DISABLED")
    events = cloud.client("events")
    events.put_rule(Name="scheduled", ScheduleExpression="rate(5 minutes)")
    events.put_targets(Rule="scheduled", Targets=[{"Id": "target", "Arn": machine}])
    put(cloud, source, number=1)
    events.enable_rule(Name=disabled)
    put(cloud, source, number=2)
    assert only_input(cloud, machine)["detail"] == {"number": 2}
    assert len(inputs(cloud, machine)) == 1


def test_an_event_for_a_machine_that_is_gone_goes_to_the_dead_letter_queue_at_once(
    cloud: LocalCloud, source: str, machine: str
) -> None:
    url, arn = queue(cloud)
    target = {"Arn": machine, "DeadLetterConfig": {"Arn": arn}}
    name = rule(cloud, {"source": [source]}, target)
    cloud.client("stepfunctions").delete_state_machine(stateMachineArn=machine)
    put(cloud, source, a=1)
    event, attributes = dead_letter(cloud, url)
    assert event["detail"] == {"a": 1}
    assert attributes["RULE_ARN"].endswith(f":rule/{name}")
    assert attributes["TARGET_ARN"] == machine
    assert attributes["ERROR_CODE"] == "NO_RESOURCE"
    assert "Does Not Exist" in attributes["ERROR_MESSAGE"]
    assert attributes["RETRY_ATTEMPTS"] == "0"


def failing_starts(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch, failures: int) -> list[str]:
    """Let the next starts of an execution be throttled."""
    from moto.core.exceptions import AWSError  # noqa: PLC0415 - moto is slow to import
    from moto.stepfunctions.parser.models import StepFunctionsParserBackend  # noqa: PLC0415

    class ThrottlingError(AWSError):
        TYPE = "ThrottlingException"
        STATUS = 400

    original = StepFunctionsParserBackend.start_execution
    attempts: list[str] = []

    def start_execution(self: Any, *args: Any, **kwargs: Any) -> Any:
        attempts.append(args[1])
        if len(attempts) <= failures:
            raise ThrottlingError("Rate exceeded")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(StepFunctionsParserBackend, "start_execution", start_execution)
    return attempts


def test_a_failed_delivery_is_tried_again_under_another_name(
    cloud: LocalCloud, source: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = failing_starts(cloud, monkeypatch, failures=2)
    rule(cloud, {"source": [source]}, {"Arn": machine})
    put(cloud, source, a=1)
    assert only_input(cloud, machine)["detail"] == {"a": 1}
    assert len(attempts) == len(set(attempts)) == 3


def test_a_delivery_that_keeps_failing_ends_in_the_dead_letter_queue(
    cloud: LocalCloud, source: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = failing_starts(cloud, monkeypatch, failures=100)
    url, arn = queue(cloud)
    target = {
        "Arn": machine,
        "DeadLetterConfig": {"Arn": arn},
        "RetryPolicy": {"MaximumRetryAttempts": 2, "MaximumEventAgeInSeconds": 60},
    }
    rule(cloud, {"source": [source]}, target)
    put(cloud, source, a=1)
    _, attributes = dead_letter(cloud, url)
    assert attributes["ERROR_CODE"] == "THROTTLING"
    assert attributes["EXHAUSTED_RETRY_CONDITION"] == "MaximumRetryAttempts"
    assert attributes["RETRY_ATTEMPTS"] == "2"
    assert len(attempts) == 3
