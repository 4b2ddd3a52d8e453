"""ECS in the local cloud: the life of a task, told in events, and services that keep tasks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from local.cloud import LocalCloud
from local.cloud.waiting import until

STARTING = ["PROVISIONING", "PENDING", "ACTIVATING", "RUNNING"]
STOPPING = ["RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(workdir=tmp_path_factory.mktemp("cloud"), task_stage_seconds=0.01) as cloud:
        ecs = cloud.client("ecs")
        ecs.create_cluster(clusterName="c")
        ecs.register_task_definition(
            family="web",
            requiresCompatibilities=["FARGATE"],
            cpu="256",
            memory="512",
            containerDefinitions=[{"name": "app", "image": "a"}, {"name": "proxy", "image": "p"}],
            tags=[{"key": "from", "value": "definition"}, {"key": "both", "value": "definition"}],
        )
        yield cloud


@pytest.fixture
def events(cloud: LocalCloud, request: pytest.FixtureRequest) -> Events:
    return Events(cloud, request.node.name.split("[")[0][:60])


class Events:
    """What a queue behind a rule for task events has received; newest last."""

    def __init__(self, cloud: LocalCloud, name: str) -> None:
        self._sqs = cloud.client("sqs")
        self._url = self._sqs.create_queue(QueueName=name)["QueueUrl"]
        arn = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
        pattern = {"source": ["aws.ecs"], "detail-type": ["ECS Task State Change"]}
        cloud.client("events").put_rule(Name=name, EventPattern=json.dumps(pattern))
        cloud.client("events").put_targets(
            Rule=name, Targets=[{"Id": "queue", "Arn": arn["Attributes"]["QueueArn"]}]
        )
        self._received: list[dict[str, Any]] = []

    def of(self, task: str, count: int) -> list[dict[str, Any]]:
        """Wait for so many events of a task; in the order of their versions."""

        def enough() -> list[dict[str, Any]]:
            answer = self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10)
            messages = answer.get("Messages", [])
            self._received += [json.loads(message["Body"]) for message in messages]
            found = [event for event in self._received if event["detail"]["taskArn"] == task]
            return found if len(found) >= count else []

        found = until(enough, what=f"{count} events of {task}")
        return sorted(found, key=lambda event: event["detail"]["version"])


def run_task(cloud: LocalCloud, **more: Any) -> str:
    answer = cloud.client("ecs").run_task(
        cluster="c",
        taskDefinition="web",
        launchType="FARGATE",
        networkConfiguration=network(cloud),
        **more,
    )
    arn: str = answer["tasks"][0]["taskArn"]
    return arn


def network(cloud: LocalCloud) -> dict[str, Any]:
    subnet = cloud.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    return {"awsvpcConfiguration": {"subnets": [subnet]}}


def described(cloud: LocalCloud, task: str, **more: Any) -> dict[str, Any]:
    answer = cloud.client("ecs").describe_tasks(cluster="c", tasks=[task], **more)
    found: dict[str, Any] = answer["tasks"][0]
    return found


def reach(cloud: LocalCloud, task: str, status: str) -> None:
    until(lambda: described(cloud, task)["lastStatus"] == status, what=f"{task} is {status}")


def test_a_task_goes_through_its_stages_and_each_is_told(cloud: LocalCloud, events: Events) -> None:
    task = run_task(cloud)
    told = events.of(task, 4)
    assert [event["detail"]["lastStatus"] for event in told] == STARTING
    assert [event["detail"]["version"] for event in told] == [1, 2, 3, 4]
    assert {event["detail"]["desiredStatus"] for event in told} == {"RUNNING"}
    cloud.client("ecs").stop_task(cluster="c", task=task, reason="enough")
    told = events.of(task, 9)[4:]
    assert [event["detail"]["lastStatus"] for event in told] == STOPPING
    assert {event["detail"]["desiredStatus"] for event in told} == {"STOPPED"}
    assert told[-1]["detail"]["stoppedReason"] == "enough"
    assert told[-1]["detail"]["stopCode"] == "UserInitiated"


def test_an_event_says_what_one_of_awss_says_and_no_tags(cloud: LocalCloud, events: Events) -> None:
    task = run_task(cloud, tags=[{"key": "k", "value": "v"}], startedBy="me")
    event = events.of(task, 4)[-1]
    detail = event["detail"]
    assert event["resources"] == [task]
    assert event["time"].endswith("Z")
    assert detail["clusterArn"].endswith(":cluster/c")
    assert detail["taskDefinitionArn"].endswith(":task-definition/web:1")
    expected = {
        "group": "family:web",
        "launchType": "FARGATE",
        "connectivity": "CONNECTED",
        "availabilityZone": "us-east-1a",
        "startedBy": "me",
        "cpu": "256",
    }
    assert {name: detail[name] for name in expected} == expected
    assert [container["name"] for container in detail["containers"]] == ["app", "proxy"]
    assert {container["lastStatus"] for container in detail["containers"]} == {"RUNNING"}
    assert "tags" not in detail


def test_a_stopped_task_stays_describable(cloud: LocalCloud) -> None:
    task = run_task(cloud)
    reach(cloud, task, "RUNNING")
    cloud.client("ecs").stop_task(cluster="c", task=task)
    assert described(cloud, task)["desiredStatus"] == "STOPPED"
    reach(cloud, task, "STOPPED")
    found = described(cloud, task)
    assert (found["stopCode"], "stoppedAt" in found) == ("UserInitiated", True)


def test_a_task_stopped_while_it_starts_never_runs(cloud: LocalCloud, events: Events) -> None:
    task = run_task(cloud)
    cloud.client("ecs").stop_task(cluster="c", task=task)
    reach(cloud, task, "STOPPED")
    told = events.of(task, described(cloud, task)["version"])
    wanted = [event for event in told if event["detail"]["desiredStatus"] == "STOPPED"]
    assert [event["detail"]["lastStatus"] for event in wanted][1:] == STOPPING[1:]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {}),
        ({"tags": [{"key": "k", "value": "v"}]}, {"k": "v"}),
        ({"propagateTags": "TASK_DEFINITION"}, {"from": "definition", "both": "definition"}),
        (
            {"propagateTags": "TASK_DEFINITION", "tags": [{"key": "both", "value": "request"}]},
            {"from": "definition", "both": "request"},
        ),
    ],
)
def test_a_task_has_the_tags_it_was_given_to_whoever_asks_for_them(
    cloud: LocalCloud, arguments: dict[str, Any], expected: dict[str, str]
) -> None:
    task = run_task(cloud, **arguments)
    tags = described(cloud, task, include=["TAGS"])["tags"]
    assert {tag["key"]: tag["value"] for tag in tags} == expected
    assert "tags" not in described(cloud, task)


def test_listing_tasks_shows_those_that_are_to_run_unless_asked_otherwise(
    cloud: LocalCloud,
) -> None:
    ecs = cloud.client("ecs")
    task = run_task(cloud, startedBy="lister")
    assert ecs.list_tasks(cluster="c", startedBy="lister")["taskArns"] == [task]
    ecs.stop_task(cluster="c", task=task)
    assert ecs.list_tasks(cluster="c", startedBy="lister")["taskArns"] == []
    stopped = ecs.list_tasks(cluster="c", startedBy="lister", desiredStatus="STOPPED")
    assert stopped["taskArns"] == [task]


@pytest.fixture
def service(cloud: LocalCloud) -> Iterator[str]:
    ecs = cloud.client("ecs")
    ecs.create_service(
        cluster="c",
        serviceName="s",
        taskDefinition="web",
        desiredCount=2,
        launchType="FARGATE",
        networkConfiguration=network(cloud),
        propagateTags="SERVICE",
        tags=[{"key": "of", "value": "service"}],
    )
    yield "s"
    ecs.delete_service(cluster="c", service="s", force=True)
    until(lambda: not tasks_of(cloud, "s"), what="the service has no tasks")


def tasks_of(cloud: LocalCloud, service: str) -> list[str]:
    arns: list[str] = cloud.client("ecs").list_tasks(cluster="c", serviceName=service)["taskArns"]
    return arns


def stable(cloud: LocalCloud, service: str) -> bool:
    found = cloud.client("ecs").describe_services(cluster="c", services=[service])["services"][0]
    return len(found["deployments"]) == 1 and found["runningCount"] == found["desiredCount"]


def test_a_service_starts_its_tasks_with_its_tags(cloud: LocalCloud, service: str) -> None:
    until(lambda: stable(cloud, service), what="the service is stable")
    tasks = tasks_of(cloud, service)
    assert len(tasks) == 2
    found = described(cloud, tasks[0], include=["TAGS"])
    assert found["tags"] == [{"key": "of", "value": "service"}]
    assert found["group"] == "service:s"


def test_a_service_replaces_a_task_that_stops(cloud: LocalCloud, service: str) -> None:
    until(lambda: stable(cloud, service), what="the service is stable")
    gone = tasks_of(cloud, service)[0]
    cloud.client("ecs").stop_task(cluster="c", task=gone)
    until(lambda: len(set(tasks_of(cloud, service)) - {gone}) == 2, what="the task is replaced")


def test_a_new_deployment_starts_new_tasks_before_it_stops_the_old_ones(
    cloud: LocalCloud, service: str
) -> None:
    until(lambda: stable(cloud, service), what="the service is stable")
    old = set(tasks_of(cloud, service))
    cloud.client("ecs").update_service(cluster="c", service=service, forceNewDeployment=True)
    until(
        lambda: stable(cloud, service) and not old & set(tasks_of(cloud, service)),
        what="the new deployment is stable",
    )
    new = tasks_of(cloud, service)
    assert len(new) == 2
    running_since = max(described(cloud, task)["startedAt"] for task in new)
    assert all(described(cloud, task)["stoppingAt"] >= running_since for task in old)


def test_a_service_is_scaled(cloud: LocalCloud, service: str) -> None:
    for count in (3, 1, 0):
        cloud.client("ecs").update_service(cluster="c", service=service, desiredCount=count)
        until(lambda: stable(cloud, service), what=f"the service runs {count}")
        assert len(tasks_of(cloud, service)) == count


# What ECS says when a container's secret cannot be had.
CANNOT_PULL = (
    "ResourceInitializationError: unable to pull secrets or registry auth: execution resource "
    "retrieval failed: unable to retrieve secret from asm: "
)


def secret_of(cloud: LocalCloud, name: str, value: str | None = None) -> str:
    given = {} if value is None else {"SecretString": value}
    arn: str = cloud.client("secretsmanager").create_secret(Name=name, **given)["ARN"]
    return arn


def needing(cloud: LocalCloud, value_from: str) -> str:
    """Register a task whose container has one secret."""
    secrets = [{"name": "TOKEN", "valueFrom": value_from}]
    answer = cloud.client("ecs").register_task_definition(
        family="needing",
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        cpu="256",
        memory="512",
        containerDefinitions=[{"name": "app", "image": "a", "secrets": secrets}],
    )
    arn: str = answer["taskDefinition"]["taskDefinitionArn"]
    return arn


def started_with(cloud: LocalCloud, definition: str) -> str:
    answer = cloud.client("ecs").run_task(
        cluster="c",
        taskDefinition=definition,
        launchType="FARGATE",
        networkConfiguration=network(cloud),
    )
    arn: str = answer["tasks"][0]["taskArn"]
    return arn


TOKEN = '{"accessor_id": "a", "token": "t"}'


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        pytest.param("whole", "plain text", "", id="a whole secret"),
        pytest.param("key", TOKEN, ":token::", id="a key of it"),
        pytest.param("label", TOKEN, ":token:AWSCURRENT:", id="a key of a labelled version"),
    ],
)
def test_a_task_whose_secret_is_there_runs(
    cloud: LocalCloud, name: str, value: str, key: str
) -> None:
    task = started_with(cloud, needing(cloud, secret_of(cloud, f"there-{name}", value) + key))
    reach(cloud, task, "RUNNING")


@pytest.mark.parametrize(
    ("value", "key", "why"),
    [
        pytest.param(
            None,
            ":token::",
            "service call has been retried 1 time(s): failed to fetch secret {arn} from secrets "
            "manager: ResourceNotFoundException: Secrets Manager can't find the specified secret "
            "value for staging label: AWSCURRENT",
            id="no value",
        ),
        pytest.param(
            '{"accessor_id": "a"}',
            ":token::",
            "retrieved secret from Secrets Manager did not contain json key token",
            id="without the key",
        ),
        pytest.param(
            "not JSON",
            ":token::",
            "retrieved secret from Secrets Manager did not contain json key token",
            id="no JSON",
        ),
        pytest.param(
            TOKEN,
            ":token:AWSPENDING:",
            "service call has been retried 1 time(s): failed to fetch secret {arn} from secrets "
            "manager: ResourceNotFoundException: Secrets Manager can't find the specified secret "
            "value for staging label: AWSPENDING",
            id="no such version",
        ),
    ],
)
def test_a_task_whose_secret_is_not_there_fails_to_start_and_says_why(
    cloud: LocalCloud, events: Events, value: str | None, key: str, why: str
) -> None:
    arn = secret_of(cloud, f"absent-{uuid.uuid4().hex[:8]}", value)
    task = started_with(cloud, needing(cloud, arn + key))
    reach(cloud, task, "STOPPED")
    found = described(cloud, task)
    told = [event["detail"]["lastStatus"] for event in events.of(task, found["version"])]
    assert found["stopCode"] == "TaskFailedToStart"
    assert found["stoppedReason"] == CANNOT_PULL + why.format(arn=arn)
    assert "startedAt" not in found
    assert "exitCode" not in found["containers"][0]
    assert told == ["PROVISIONING", "PENDING", "PENDING", "DEPROVISIONING", "STOPPED"]


def test_a_task_whose_secret_does_not_exist_fails_to_start(cloud: LocalCloud) -> None:
    arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:nowhere-AbCdEf"
    task = started_with(cloud, needing(cloud, f"{arn}:token::"))
    reach(cloud, task, "STOPPED")
    assert described(cloud, task)["stoppedReason"].endswith(
        "ResourceNotFoundException: Secrets Manager can't find the specified secret."
    )


def test_a_service_tries_again_until_the_secret_is_there(cloud: LocalCloud) -> None:
    ecs = cloud.client("ecs")
    arn = secret_of(cloud, "comes-later")
    ecs.create_service(
        cluster="c",
        serviceName="patient",
        taskDefinition=needing(cloud, f"{arn}:token::"),
        desiredCount=1,
        launchType="FARGATE",
        networkConfiguration=network(cloud),
    )

    def failed() -> int:
        found = ecs.describe_services(cluster="c", services=["patient"])["services"][0]
        return int(found["deployments"][0]["failedTasks"])

    until(lambda: failed() > 1, what="two tasks have failed to start")
    assert not stable(cloud, "patient")
    cloud.client("secretsmanager").put_secret_value(SecretId=arn, SecretString=TOKEN)
    until(lambda: stable(cloud, "patient"), what="the service runs its task")

    (task,) = tasks_of(cloud, "patient")
    assert described(cloud, task)["lastStatus"] == "RUNNING"
    ecs.delete_service(cluster="c", service="patient", force=True)


def test_a_service_says_when_it_was_created(cloud: LocalCloud, service: str) -> None:
    found = cloud.client("ecs").describe_services(cluster="c", services=[service])["services"][0]
    started = [described(cloud, task)["createdAt"] for task in tasks_of(cloud, service)]
    assert found["createdAt"] <= min(started)
