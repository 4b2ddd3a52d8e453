"""Rules with a schedule in the local cloud fire as EventBridge's do."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from local.cloud import LocalCloud, schedules
from local.cloud.waiting import until
from tests.local.meanwhile import meanwhile

# A minute is a tenth of a second.
SPEED = 600.0
EVERY_MINUTE = "rate(1 minute)"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(workdir=tmp_path_factory.mktemp("cloud"), speed=SPEED) as cloud:
        yield cloud


class Queue:
    """What a rule's target has received; oldest first."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._sqs = cloud.client("sqs")
        self._url = self._sqs.create_queue(QueueName=f"q{uuid.uuid4()}")["QueueUrl"]
        answer = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
        self.arn: str = answer["Attributes"]["QueueArn"]
        self._received: list[Any] = []

    def all(self) -> list[Any]:
        # Not until the queue is empty: on a busy machine events may come faster than they are read.
        name = "ApproximateNumberOfMessages"
        answer = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=[name])
        wanted = len(self._received) + int(answer["Attributes"][name])
        while len(self._received) < wanted:
            answer = self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10)
            messages = answer.get("Messages", [])
            if not messages:
                break
            self._received += [json.loads(message["Body"]) for message in messages]
            handles = [message["ReceiptHandle"] for message in messages]
            self._sqs.delete_message_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": handle}
                    for number, handle in enumerate(handles)
                ],
            )
        return self._received

    def wait_for(self, count: int) -> list[Any]:
        return until(
            lambda: found if len(found := self.all()) >= count else None, what=f"{count} events"
        )


@pytest.fixture
def queue(cloud: LocalCloud) -> Queue:
    return Queue(cloud)


class ScheduledRule:
    """A rule, its targets, and how it is changed."""

    def __init__(self, cloud: LocalCloud, expression: str = EVERY_MINUTE, **more: Any) -> None:
        self.name = f"r{uuid.uuid4()}"
        self.events = cloud.client("events")
        self.events.put_rule(Name=self.name, ScheduleExpression=expression, **more)

    def target(self, queue: Queue, **more: Any) -> None:
        self.events.put_targets(Rule=self.name, Targets=[{"Id": "only", "Arn": queue.arn, **more}])

    def delete(self) -> None:
        self.events.remove_targets(Rule=self.name, Ids=["only"])
        self.events.delete_rule(Name=self.name)


@pytest.fixture
def rule(cloud: LocalCloud) -> Iterator[ScheduledRule]:
    rule = ScheduledRule(cloud)
    yield rule
    rule.delete()


def some_time(cloud: LocalCloud) -> None:
    """Let a rule that nothing is wrong with fire three times."""
    rule, queue = ScheduledRule(cloud), Queue(cloud)
    rule.target(queue)
    queue.wait_for(3)
    rule.delete()


def fired_after(moment: datetime, queue: Queue) -> list[str]:
    """Return the times of the events that a rule has sent to a queue after a moment."""
    times: list[str] = [event["time"] for event in queue.all()]
    return [time for time in times if datetime.fromisoformat(time) > moment]


def test_a_rule_fires_at_its_rate_beginning_one_interval_after_its_creation(
    cloud: LocalCloud, queue: Queue
) -> None:
    before = cloud.clock.now()
    rule = ScheduledRule(cloud)
    rule.target(queue)
    times = sorted(datetime.fromisoformat(event["time"]) for event in queue.wait_for(3))
    rule.delete()
    # The times of events are cut to whole seconds.
    early = [
        time
        for number, time in enumerate(times, 1)
        if time < before + timedelta(minutes=number, seconds=-1)
    ]
    assert early == []
    assert len(times) <= (cloud.clock.now() - before) / timedelta(minutes=1)


def test_the_event_says_what_one_of_awss_says(
    cloud: LocalCloud, queue: Queue, rule: ScheduledRule
) -> None:
    rule.target(queue)
    event = queue.wait_for(1)[0]
    arn = cloud.client("events").describe_rule(Name=rule.name)["Arn"]
    assert str(uuid.UUID(event["id"])) == event.pop("id")
    assert event.pop("time").endswith("Z")
    assert event == {
        "version": "0",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": cloud.account,
        "region": cloud.region,
        "resources": [arn],
        "detail": {},
    }


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"Input": '{"services": "all"}'}, {"services": "all"}),
        (
            {
                "InputTransformer": {
                    "InputPathsMap": {"source": "$.source"},
                    "InputTemplate": '{"from": <source>}',
                }
            },
            {"from": "aws.events"},
        ),
    ],
)
def test_a_target_gets_the_input_that_it_asks_for(
    queue: Queue, rule: ScheduledRule, how: dict[str, Any], expected: dict[str, str]
) -> None:
    rule.target(queue, **how)
    assert queue.wait_for(1)[0] == expected


def test_a_state_machine_is_started(cloud: LocalCloud, rule: ScheduledRule) -> None:
    workflows = cloud.client("stepfunctions")
    definition = {"StartAt": "Pass", "States": {"Pass": {"Type": "Pass", "End": True}}}
    machine = workflows.create_state_machine(
        name="scheduled",
        definition=json.dumps(definition),
        roleArn="arn:aws:iam::123456789012:role/r",
    )["stateMachineArn"]
    target = {"Id": "only", "Arn": machine, "Input": '{"token": "client"}'}
    cloud.client("events").put_targets(Rule=rule.name, Targets=[target])

    executions = until(
        lambda: workflows.list_executions(stateMachineArn=machine)["executions"],
        what="the workflow has started",
    )

    started = workflows.describe_execution(executionArn=executions[-1]["executionArn"])
    assert json.loads(started["input"]) == {"token": "client"}


def test_a_disabled_rule_waits_until_it_is_enabled(
    cloud: LocalCloud, queue: Queue, rule: ScheduledRule
) -> None:
    cloud.client("events").disable_rule(Name=rule.name)
    rule.target(queue)
    some_time(cloud)
    assert queue.all() == []
    cloud.client("events").enable_rule(Name=rule.name)
    queue.wait_for(1)


def test_a_rule_that_is_disabled_while_it_fires_does_not_fire_at_later_targets(
    cloud: LocalCloud, queue: Queue, rule: ScheduledRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    fires = threading.Event()

    def disable() -> None:
        fires.set()
        cloud.client("events").disable_rule(Name=rule.name)
        rule.target(queue)

    # The event that is to be sent gets its ID in the midst of that.
    ids = SimpleNamespace(uuid4=uuid.uuid4)
    monkeypatch.setattr(schedules, "uuid", ids)
    with meanwhile(ids, "uuid4", disable):
        assert fires.wait(60)
    some_time(cloud)
    assert queue.all() == []


def test_a_rule_that_is_created_disabled_does_not_fire(cloud: LocalCloud, queue: Queue) -> None:
    rule = ScheduledRule(cloud, State="DISABLED")
    rule.target(queue)
    some_time(cloud)
    assert queue.all() == []
    rule.delete()


def test_a_deleted_rule_fires_no_more(cloud: LocalCloud, queue: Queue) -> None:
    rule = ScheduledRule(cloud)
    rule.target(queue)
    queue.wait_for(1)
    rule.delete()
    deleted = cloud.clock.now()
    some_time(cloud)
    # What was on its way may have arrived since.
    assert fired_after(deleted, queue) == []


def test_a_rule_fires_at_the_targets_that_it_has_by_then(
    cloud: LocalCloud, queue: Queue, rule: ScheduledRule
) -> None:
    rule.target(queue)
    queue.wait_for(1)
    other = Queue(cloud)
    rule.target(other)
    changed = cloud.clock.now()
    other.wait_for(4)
    # What was on its way may have arrived since.
    assert fired_after(changed, queue) == []


def test_putting_a_rule_again_as_it_is_does_not_delay_it(
    cloud: LocalCloud, queue: Queue, rule: ScheduledRule
) -> None:
    rule.target(queue)

    def put_again() -> list[Any]:
        cloud.client("events").put_rule(Name=rule.name, ScheduleExpression=EVERY_MINUTE)
        return queue.all()

    until(put_again, what="it fires although it is put more often than once a minute")


def test_a_new_rate_takes_the_place_of_the_old_one(
    cloud: LocalCloud, queue: Queue, rule: ScheduledRule
) -> None:
    cloud.client("events").put_rule(Name=rule.name, ScheduleExpression="rate(30 days)")
    rule.target(queue)
    some_time(cloud)
    assert queue.all() == []
    cloud.client("events").put_rule(Name=rule.name, ScheduleExpression=EVERY_MINUTE)
    queue.wait_for(1)


@pytest.mark.parametrize(
    "expression", ["rate(1 minutes)", "rate(5 minute)", "rate(0 minutes)", "rate(5 weeks)", "5"]
)
def test_an_expression_that_aws_refuses_is_refused(cloud: LocalCloud, expression: str) -> None:
    events = cloud.client("events")
    with pytest.raises(events.exceptions.ClientError, match="ScheduleExpression is not valid"):
        events.put_rule(Name="refused", ScheduleExpression=expression)


@pytest.mark.parametrize(
    "expression", ["rate(5 minutes)", "rate(1 hour)", "rate(12 hours)", "rate(1 day)"]
)
def test_an_expression_that_aws_takes_is_taken(cloud: LocalCloud, expression: str) -> None:
    events = cloud.client("events")
    events.put_rule(Name="taken", ScheduleExpression=expression)
    assert events.describe_rule(Name="taken")["ScheduleExpression"] == expression
    events.delete_rule(Name="taken")


def test_a_cron_expression_never_fires_and_the_log_says_so(
    cloud: LocalCloud, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "local.cloud.schedules"):
        ScheduledRule(cloud, "cron(0 10 * * ? *)")
    assert "never fires here" in caplog.text
    assert "cron(0 10 * * ? *)" in caplog.text
