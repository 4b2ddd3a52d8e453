"""The clock of a local cloud: everything in it goes by the same one, however fast that is."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.cloud import LocalCloud
from local.cloud.clock import CloudClock, as_text
from local.cloud.waiting import until

# An hour is a third of a second.
SPEED = 10_000.0
HANDLER = """
from own import clock

def handler(event, context):
    return {"now": clock.now().isoformat(), "left": context.get_remaining_time_in_millis()}
"""
CLOCK = """
from datetime import UTC, datetime

def now():
    return datetime.now(UTC)
"""


def test_a_clock_shows_our_time_unless_it_goes_faster() -> None:
    clock = CloudClock()
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=1)
    assert clock.wait(30) == 30


def test_a_fast_clock_is_ahead_by_what_has_gone_by_so_often() -> None:
    clock = CloudClock(speed=60)
    begun = time.monotonic()
    time.sleep(0.05)
    shown = clock.time() - clock.started
    assert shown >= 60 * 0.05
    assert shown <= 60 * (time.monotonic() - begun + 1)
    assert clock.wait(30) == 0.5


def test_a_fast_clock_goes_on_when_the_machines_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = CloudClock(speed=60)
    before = clock.time()
    an_hour_ago = time.time() - 3600
    monkeypatch.setattr(time, "time", lambda: an_hour_ago)
    assert clock.time() > before


def test_a_clock_that_is_not_faster_follows_the_machines_when_that_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = CloudClock()
    tomorrow = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    assert clock.time() == tomorrow


@pytest.mark.parametrize("speed", [0, 0.5, -1])
def test_a_clock_can_not_go_slower_than_ours(speed: float) -> None:
    with pytest.raises(ValueError, match="not slower"):
        CloudClock(speed)


def test_times_are_written_as_aws_writes_them() -> None:
    moment = datetime.fromisoformat("2026-01-05T22:10:01.123456+02:00")
    assert as_text(moment) == "2026-01-05T20:10:01.123Z"
    assert as_text(moment.replace(tzinfo=None)) == "2026-01-05T22:10:01.123Z"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(
        workdir=tmp_path_factory.mktemp("cloud"), speed=SPEED, function_clock="own.clock:now"
    ) as cloud:
        yield cloud


def in_the_cloud(moment: datetime, cloud: LocalCloud, since: datetime) -> bool:
    """Tell whether a moment is between another one and now; some are cut to whole seconds."""
    return since - timedelta(seconds=1) <= moment <= cloud.clock.now()


def function(cloud: LocalCloud, name: str, **modules: str) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for module, text in modules.items():
            target.writestr(module.replace("__", "/") + ".py", text)
    role = cloud.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument="{}")
    cloud.client("lambda").create_function(
        FunctionName=name,
        Runtime="python3.13",
        Role=role["Role"]["Arn"],
        Handler="step.handler",
        Timeout=30,
        Code={"ZipFile": archive.getvalue()},
    )


def invoke(cloud: LocalCloud, name: str) -> Any:
    answer = cloud.client("lambda").invoke(FunctionName=name, Payload="{}")
    return json.loads(answer["Payload"].read())


def test_functions_ask_the_clouds_clock_and_have_their_own_time_to_work(cloud: LocalCloud) -> None:
    function(cloud, "asks", step=HANDLER, own__clock=CLOCK)
    invoke(cloud, "asks")
    since = cloud.clock.now()
    assert since - datetime.now(UTC) > timedelta(minutes=1)
    for _ in range(2):
        answer = invoke(cloud, "asks")
        assert in_the_cloud(datetime.fromisoformat(answer["now"]), cloud, since)
        assert 20_000 < answer["left"] <= 30_000


def test_functions_that_ask_no_clock_run_all_the_same(cloud: LocalCloud) -> None:
    function(cloud, "does-not-ask", step="def handler(event, context):\n    return 42\n")
    assert invoke(cloud, "does-not-ask") == 42


def test_tasks_services_and_their_events_have_the_clouds_time(cloud: LocalCloud) -> None:
    ecs, sqs, events = cloud.client("ecs"), cloud.client("sqs"), cloud.client("events")
    url = sqs.create_queue(QueueName="tasks")["QueueUrl"]
    queue = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    pattern = {"source": ["aws.ecs"], "detail": {"lastStatus": ["RUNNING"]}}
    events.put_rule(Name="tasks", EventPattern=json.dumps(pattern))
    events.put_targets(
        Rule="tasks", Targets=[{"Id": "queue", "Arn": queue["Attributes"]["QueueArn"]}]
    )
    ecs.create_cluster(clusterName="c")
    ecs.register_task_definition(
        family="web",
        requiresCompatibilities=["FARGATE"],
        cpu="256",
        memory="512",
        containerDefinitions=[{"name": "app", "image": "a"}],
    )
    subnet = cloud.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    since = cloud.clock.now()
    service = ecs.create_service(
        cluster="c",
        serviceName="s",
        taskDefinition="web",
        desiredCount=1,
        launchType="FARGATE",
        networkConfiguration={"awsvpcConfiguration": {"subnets": [subnet]}},
    )["service"]

    message = until(
        lambda: sqs.receive_message(QueueUrl=url).get("Messages"), what="the task's event"
    )[0]

    event = json.loads(message["Body"])
    (task,) = ecs.describe_tasks(cluster="c", tasks=event["resources"])["tasks"]
    moments = [
        service["createdAt"],
        service["deployments"][0]["createdAt"],
        task["createdAt"],
        task["startedAt"],
        datetime.fromisoformat(event["detail"]["startedAt"]),
        datetime.fromisoformat(event["time"]),
    ]
    assert [moment for moment in moments if not in_the_cloud(moment, cloud, since)] == []


def test_executions_have_the_clouds_time(cloud: LocalCloud) -> None:
    workflows = cloud.client("stepfunctions")
    wait = {"Type": "Wait", "Seconds": 3600, "End": True}
    machine = workflows.create_state_machine(
        name="waits",
        definition=json.dumps({"StartAt": "Wait", "States": {"Wait": wait}}),
        roleArn="arn:aws:iam::123456789012:role/r",
    )["stateMachineArn"]
    since = cloud.clock.now()
    arn = workflows.start_execution(stateMachineArn=machine)["executionArn"]

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = workflows.describe_execution(executionArn=arn)
        return None if found["status"] == "RUNNING" else found

    execution = until(ended, what="the execution has ended")
    history = workflows.get_execution_history(executionArn=arn)["events"]

    assert execution["stopDate"] - execution["startDate"] >= timedelta(hours=1)
    moments = [execution["startDate"], execution["stopDate"]]
    moments += [event["timestamp"] for event in history]
    assert [moment for moment in moments if not in_the_cloud(moment, cloud, since)] == []
