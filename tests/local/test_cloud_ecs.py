"""ECS in the local cloud: the life of a task, told in events, and services that keep tasks."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from moto.ecs.models import ecs_backends

from local.cloud import LocalCloud
from local.cloud import ecs as local_ecs
from local.cloud.ecs import TaskLifecycle
from local.cloud.patching import replaced
from local.cloud.waiting import until
from tests.local.ecs_stages import standing_still
from tests.local.meanwhile import meanwhile

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
            for message in answer.get("Messages", []):
                self._received.append(json.loads(message["Body"]))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
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


def test_a_task_that_ecs_does_not_know_is_told_beside_the_others(cloud: LocalCloud) -> None:
    task = run_task(cloud)
    absent = task.replace("/c/", "/c/0")
    asked = [task.rpartition("/")[2], absent]
    answer = cloud.client("ecs").describe_tasks(cluster="c", tasks=asked)
    assert [found["taskArn"] for found in answer["tasks"]] == [task]
    assert answer["failures"] == [{"arn": absent, "reason": "MISSING"}]


def test_a_task_is_shown_once_its_life_has_begun(cloud: LocalCloud) -> None:
    made, seen = threading.Event(), threading.Event()
    begin = TaskLifecycle._begin

    def begin_when_seen(self: TaskLifecycle, backend: Any, task: Any) -> None:
        made.set()
        assert seen.wait(10)
        begin(self, backend, task)

    ecs = cloud.client("ecs")
    with replaced(TaskLifecycle, "_begin", begin_when_seen), ThreadPoolExecutor(1) as pool:
        started = pool.submit(run_task, cloud)
        assert made.wait(10)
        try:
            known = set(ecs_backends[cloud.account][cloud.region].tasks["c"])
            listed = set(ecs.list_tasks(cluster="c")["taskArns"])
            others = sorted(known - listed)
            described = ecs.describe_tasks(cluster="c", tasks=others[-100:])["tasks"]
        finally:
            seen.set()
        task = started.result()

    assert task in known
    assert task not in listed
    assert task not in {each["taskArn"] for each in described}
    assert task in ecs.list_tasks(cluster="c")["taskArns"]


def test_what_is_shown_of_a_task_stays_as_it_was_when_somebody_asked(cloud: LocalCloud) -> None:
    backend = ecs_backends[cloud.account][cloud.region]
    with standing_still(cloud):
        task = run_task(cloud)
        (shown,) = backend.describe_tasks("c", [task])
    reach(cloud, task, "RUNNING")
    assert shown.last_status == "PROVISIONING"
    assert {each["lastStatus"] for each in shown.__dict__["containers"]} == {"PENDING"}
    assert {each["lastStatus"] for each in described(cloud, task)["containers"]} == {"RUNNING"}


def test_a_task_is_not_shown_in_the_midst_of_a_stage(cloud: LocalCloud) -> None:
    task = run_task(cloud)
    reach(cloud, task, "RUNNING")
    seen: list[dict[str, Any]] = []

    def look() -> None:
        seen.append(described(cloud, task))

    with meanwhile(local_ecs, "_container_status", look, when=lambda status: status == "STOPPED"):
        cloud.client("ecs").stop_task(cluster="c", task=task)
        reach(cloud, task, "STOPPED")
    codes = [container.get("exitCode") for container in seen[0]["containers"]]
    assert codes == ([0, 0] if seen[0]["lastStatus"] == "STOPPED" else [None, None])
    statuses = {container["lastStatus"] for container in seen[0]["containers"]}
    assert statuses == {local_ecs._container_status(seen[0]["lastStatus"])}


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


def create_service(
    cloud: LocalCloud, name: str, *, definition: str = "web", count: int = 1, **more: Any
) -> None:
    cloud.client("ecs").create_service(
        cluster="c",
        serviceName=name,
        taskDefinition=definition,
        desiredCount=count,
        launchType="FARGATE",
        networkConfiguration=network(cloud),
        **more,
    )


def delete_service(cloud: LocalCloud, name: str) -> None:
    cloud.client("ecs").delete_service(cluster="c", service=name, force=True)
    until(lambda: not tasks_of(cloud, name), what="the service has no tasks")


@pytest.fixture
def service(cloud: LocalCloud) -> Iterator[str]:
    tags = [{"key": "of", "value": "service"}]
    create_service(cloud, "s", count=2, propagateTags="SERVICE", tags=tags)
    yield "s"
    delete_service(cloud, "s")


def tasks_of(cloud: LocalCloud, service: str) -> list[str]:
    arns: list[str] = cloud.client("ecs").list_tasks(cluster="c", serviceName=service)["taskArns"]
    return arns


def service_of(cloud: LocalCloud, service: str) -> dict[str, Any]:
    answer = cloud.client("ecs").describe_services(cluster="c", services=[service])
    found: dict[str, Any] = answer["services"][0]
    return found


def stable(cloud: LocalCloud, service: str) -> bool:
    found = service_of(cloud, service)
    return len(found["deployments"]) == 1 and found["runningCount"] == found["desiredCount"]


def test_a_service_starts_its_tasks_with_its_tags(cloud: LocalCloud, service: str) -> None:
    until(lambda: stable(cloud, service), what="the service is stable")
    tasks = tasks_of(cloud, service)
    assert len(tasks) == 2
    found = described(cloud, tasks[0], include=["TAGS"])
    assert found["tags"] == [{"key": "of", "value": "service"}]
    assert found["group"] == "service:s"


@pytest.mark.parametrize(
    ("propagate", "expected"),
    [
        ({"propagateTags": "TASK_DEFINITION"}, {"from": "definition", "both": "definition"}),
        ({"propagateTags": "NONE"}, {}),
        ({}, {}),
    ],
)
def test_a_task_of_a_service_has_the_tags_that_the_service_propagates(
    cloud: LocalCloud, propagate: dict[str, Any], expected: dict[str, str]
) -> None:
    create_service(cloud, "tagged", tags=[{"key": "of", "value": "service"}], **propagate)
    (task,) = tasks_of(cloud, "tagged")
    tags = described(cloud, task, include=["TAGS"])["tags"]
    assert {tag["key"]: tag["value"] for tag in tags} == expected
    delete_service(cloud, "tagged")


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
    arn = secret_of(cloud, "comes-later")
    create_service(cloud, "patient", definition=needing(cloud, f"{arn}:token::"))

    def failed() -> int:
        return int(service_of(cloud, "patient")["deployments"][0]["failedTasks"])

    until(lambda: failed() > 1, what="two tasks have failed to start")
    assert not stable(cloud, "patient")
    cloud.client("secretsmanager").put_secret_value(SecretId=arn, SecretString=TOKEN)
    until(lambda: stable(cloud, "patient"), what="the service runs its task")

    (task,) = tasks_of(cloud, "patient")
    assert described(cloud, task)["lastStatus"] == "RUNNING"
    delete_service(cloud, "patient")


def test_a_task_of_an_earlier_service_does_not_disturb_a_new_one_of_that_name(
    cloud: LocalCloud,
) -> None:
    lifecycle = cloud._tasks
    assert lifecycle is not None
    backend = ecs_backends[cloud.account][cloud.region]
    with meanwhile(
        local_ecs, "_deployment_id", lambda: lifecycle._reconcile(backend, "again", "c")
    ):
        create_service(cloud, "again", count=2)
    assert len(tasks_of(cloud, "again")) == 2
    delete_service(cloud, "again")


def test_a_service_says_when_it_was_created(cloud: LocalCloud, service: str) -> None:
    found = service_of(cloud, service)
    started = [described(cloud, task)["createdAt"] for task in tasks_of(cloud, service)]
    assert found["createdAt"] <= min(started)


# Lists of tasks, page by page.


def test_tasks_are_listed_page_by_page(cloud: LocalCloud) -> None:
    ecs = cloud.client("ecs")
    started = [run_task(cloud, startedBy="pages") for _ in range(5)]
    pages: list[list[str]] = []
    more: dict[str, str] = {}
    while True:
        answer = ecs.list_tasks(cluster="c", startedBy="pages", maxResults=2, **more)
        pages.append(answer["taskArns"])
        if "nextToken" not in answer:
            break
        more = {"nextToken": answer["nextToken"]}
        # One that leaves the list meanwhile takes no other one with it.
        ecs.stop_task(cluster="c", task=pages[0][0])
    assert pages == [started[0:2], started[2:4], started[4:]]


def test_a_page_has_a_hundred_tasks_unless_asked_for_fewer(cloud: LocalCloud) -> None:
    ecs = cloud.client("ecs")
    ecs.create_cluster(clusterName="large")
    for _ in range(11):
        ecs.run_task(
            cluster="large",
            taskDefinition="web",
            count=10,
            launchType="FARGATE",
            networkConfiguration=network(cloud),
        )
    first = ecs.list_tasks(cluster="large")
    rest = ecs.list_tasks(cluster="large", nextToken=first["nextToken"])
    assert (len(first["taskArns"]), len(rest["taskArns"])) == (100, 10)
    assert "nextToken" not in rest
    for number in (0, 101):
        with pytest.raises(ecs.exceptions.InvalidParameterException):
            ecs.list_tasks(cluster="large", maxResults=number)


def test_a_task_that_drains_is_listed_with_the_stopped_ones_and_stays_there(
    cloud: LocalCloud,
) -> None:
    ecs = cloud.client("ecs")
    task = run_task(cloud, startedBy="draining")
    reach(cloud, task, "RUNNING")

    def listed(status: str) -> list[str]:
        answer = ecs.list_tasks(cluster="c", startedBy="draining", desiredStatus=status)
        arns: list[str] = answer["taskArns"]
        return arns

    with standing_still(cloud):
        ecs.stop_task(cluster="c", task=task)
        assert described(cloud, task)["lastStatus"] == "RUNNING"
        assert [listed(status) for status in ("RUNNING", "PENDING", "STOPPED")] == [[], [], [task]]
    reach(cloud, task, "STOPPED")
    assert listed("STOPPED") == [task]


# Deployments of services.

DEPLOYMENT = ("status", "rolloutState", "desiredCount", "pendingCount", "runningCount")


def deployments(cloud: LocalCloud, service: str) -> list[tuple[Any, ...]]:
    found = service_of(cloud, service)["deployments"]
    return [tuple(deployment[field] for field in DEPLOYMENT) for deployment in found]


def test_a_service_shows_its_deployment_until_that_is_complete_and_then(
    cloud: LocalCloud,
) -> None:
    with standing_still(cloud):
        create_service(cloud, "shown", count=2)
        found = service_of(cloud, "shown")
        assert found["status"] == "ACTIVE"
        assert found["deploymentController"] == {"type": "ECS"}
        assert (found["runningCount"], found["pendingCount"]) == (0, 2)
        assert found["deployments"][0]["createdAt"] == found["createdAt"]
        assert deployments(cloud, "shown") == [("PRIMARY", "IN_PROGRESS", 2, 2, 0)]
    until(lambda: stable(cloud, "shown"), what="the service is stable")
    assert deployments(cloud, "shown") == [("PRIMARY", "COMPLETED", 2, 0, 2)]
    delete_service(cloud, "shown")


def test_the_tasks_of_a_service_say_which_deployment_has_started_them(
    cloud: LocalCloud, service: str
) -> None:
    until(lambda: stable(cloud, service), what="the service is stable")
    id_ = service_of(cloud, service)["deployments"][0]["id"]
    assert id_.startswith("ecs-svc/")
    assert {described(cloud, task)["startedBy"] for task in tasks_of(cloud, service)} == {id_}


def test_a_forced_deployment_is_the_primary_one_and_the_one_before_stays_until_it_is_replaced(
    cloud: LocalCloud, service: str
) -> None:
    until(lambda: stable(cloud, service), what="the service is stable")
    (before,) = service_of(cloud, service)["deployments"]
    # ECS tells milliseconds.
    moment = datetime.fromisoformat(cloud.clock.text())
    with standing_still(cloud):
        answer = cloud.client("ecs").update_service(
            cluster="c", service=service, forceNewDeployment=True
        )
        assert deployments(cloud, service) == [
            ("PRIMARY", "IN_PROGRESS", 2, 2, 0),
            ("ACTIVE", "COMPLETED", 2, 0, 2),
        ]
        primary, active = answer["service"]["deployments"]
        assert primary["createdAt"] >= moment >= before["createdAt"]
        assert primary["id"] != before["id"]
        same = ("id", "createdAt", "taskDefinition")
        assert [active[field] for field in same] == [before[field] for field in same]
        assert not stable(cloud, service)
    until(lambda: stable(cloud, service), what="the new deployment is complete")
    (after,) = service_of(cloud, service)["deployments"]
    assert (after["id"], after["createdAt"]) == (primary["id"], primary["createdAt"])
    assert deployments(cloud, service) == [("PRIMARY", "COMPLETED", 2, 0, 2)]


def test_a_deployment_can_overtake_another_one(cloud: LocalCloud, service: str) -> None:
    until(lambda: stable(cloud, service), what="the service is stable")
    with standing_still(cloud):
        for _ in range(2):
            cloud.client("ecs").update_service(
                cluster="c", service=service, forceNewDeployment=True
            )
        statuses = [one["status"] for one in service_of(cloud, service)["deployments"]]
        assert statuses == ["PRIMARY", "ACTIVE", "ACTIVE"]
    until(lambda: stable(cloud, service), what="the last deployment is complete")
    (last,) = service_of(cloud, service)["deployments"]
    started_by = {described(cloud, task)["startedBy"] for task in tasks_of(cloud, service)}
    assert started_by == {last["id"]}


def test_a_task_that_stops_leaves_the_deployment_complete(cloud: LocalCloud, service: str) -> None:
    until(lambda: stable(cloud, service), what="the service is stable")
    with standing_still(cloud):
        cloud.client("ecs").stop_task(cluster="c", task=tasks_of(cloud, service)[0])
        assert deployments(cloud, service) == [("PRIMARY", "COMPLETED", 2, 0, 1)]
        found = service_of(cloud, service)
        assert (found["runningCount"], found["pendingCount"]) == (1, 0)


def test_a_new_task_pulls_the_version_that_is_current_by_then(cloud: LocalCloud) -> None:
    secrets = cloud.client("secretsmanager")
    arn = secret_of(cloud, "rotated", TOKEN)
    create_service(cloud, "rotated", definition=needing(cloud, f"{arn}:token::"))
    until(lambda: stable(cloud, "rotated"), what="the service is stable")
    (old,) = tasks_of(cloud, "rotated")
    before = secrets.get_secret_value(SecretId=arn)["VersionId"]
    after = secrets.put_secret_value(SecretId=arn, SecretString=TOKEN)["VersionId"]

    cloud.client("ecs").update_service(cluster="c", service="rotated", forceNewDeployment=True)
    until(
        lambda: stable(cloud, "rotated") and old not in tasks_of(cloud, "rotated"),
        what="the task is replaced",
    )

    (new,) = tasks_of(cloud, "rotated")
    assert cloud.pulled_secrets(old) == {arn: before}
    assert cloud.pulled_secrets(new) == {arn: after}
    delete_service(cloud, "rotated")


def test_a_deleted_service_drains_and_is_inactive_afterwards(cloud: LocalCloud) -> None:
    ecs = cloud.client("ecs")
    create_service(cloud, "deleted")
    until(lambda: stable(cloud, "deleted"), what="the service is stable")
    with standing_still(cloud):
        delete_service(cloud, "deleted")
        assert service_of(cloud, "deleted")["status"] == "DRAINING"
    until(
        lambda: service_of(cloud, "deleted")["status"] == "INACTIVE", what="its tasks are stopped"
    )
    with pytest.raises(ecs.exceptions.ServiceNotActiveException):
        ecs.update_service(cluster="c", service="deleted", forceNewDeployment=True)
    with pytest.raises(ecs.exceptions.ServiceNotFoundException):
        ecs.update_service(cluster="c", service="never-was", forceNewDeployment=True)


def test_what_codedeploy_deploys_can_not_be_deployed_by_force(cloud: LocalCloud) -> None:
    ecs = cloud.client("ecs")
    create_service(cloud, "blue-green", deploymentController={"type": "CODE_DEPLOY"})
    found = service_of(cloud, "blue-green")
    assert found["deploymentController"] == {"type": "CODE_DEPLOY"}
    assert found["deployments"] == []
    with pytest.raises(ecs.exceptions.InvalidParameterException, match="CODE_DEPLOY"):
        ecs.update_service(cluster="c", service="blue-green", forceNewDeployment=True)
    delete_service(cloud, "blue-green")
