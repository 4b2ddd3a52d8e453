"""All tasks of a cluster that may hold a token, and the services that replace them."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from handlers.clients.ecs import Ecs, Service, Task
from handlers.core import remote_calls
from handlers.core.errors import (
    AwsAccessDenied,
    AwsRequestRefused,
    AwsThrottled,
    StepError,
    TaskNotVisibleYet,
)
from tests.unit.aws_state import CLUSTER_ARN, EcsState, answering
from tests.unit.mesh_state import Clock
from tests.unit.steps import Steps


@pytest.fixture(autouse=True)
def _start_counting() -> None:
    remote_calls.start_counting()


def live() -> list[Task]:
    return list(Ecs().live_tasks(CLUSTER_ARN))


def arns() -> set[str]:
    return {task.arn for task in live()}


# --- tasks ---------------------------------------------------------------------------------------


def test_a_task_tells_when_it_was_made_and_which_service_it_belongs_to(
    ecs: EcsState, clock: Clock
) -> None:
    made = clock.ago(hours=1)
    task_arn = ecs.run_task(
        family="web", tags={"a": "b"}, created_at=made, group="service:web-service"
    )
    assert live() == [
        Task(
            arn=task_arn,
            family="web",
            desired_status="RUNNING",
            tags={"a": "b"},
            created_at=made,
            ecs_service="web-service",
        )
    ]


@pytest.mark.parametrize(
    ("group", "service"),
    [
        (None, None),
        ("family:web", None),
        ("my-group", None),
        ("myservice:web", None),
        ("service:web", "web"),
        ("service:service:web", "service:web"),
    ],
)
def test_a_task_that_was_started_alone_belongs_to_no_service(
    ecs: EcsState, group: str | None, service: str | None
) -> None:
    ecs.run_task(group=group)
    (task,) = live()
    assert task.ecs_service == service


@pytest.mark.parametrize(
    ("desired", "last", "is_live"),
    [
        ("RUNNING", "PROVISIONING", True),
        ("RUNNING", "PENDING", True),
        ("RUNNING", "ACTIVATING", True),
        ("RUNNING", "RUNNING", True),
        ("STOPPED", "RUNNING", True),
        ("STOPPED", "DEACTIVATING", True),
        ("STOPPED", "STOPPING", True),
        ("STOPPED", "DEPROVISIONING", True),
        ("STOPPED", "STOPPED", False),
        ("RUNNING", "STOPPED", False),
    ],
)
def test_a_task_is_live_until_it_has_stopped_whatever_is_wanted_of_it(
    ecs: EcsState, desired: str, last: str, *, is_live: bool
) -> None:
    task_arn = ecs.run_task(desired_status=desired, last_status=last)
    assert arns() == ({task_arn} if is_live else set())


def test_an_empty_cluster_has_no_tasks_and_none_is_described(ecs: EcsState) -> None:
    ecs.create_cluster()
    remote_calls.start_counting()
    assert live() == []
    assert remote_calls.counted() == {"ecs:ListTasks": 2}


def test_tasks_of_another_cluster_do_not_count(ecs: EcsState) -> None:
    ecs.create_cluster()
    ecs.run_task(cluster="mesh-2")
    assert live() == []


@pytest.mark.parametrize(
    ("running", "draining", "calls"),
    [
        (1, 0, {"ecs:ListTasks": 2, "ecs:DescribeTasks": 1}),
        (1, 1, {"ecs:ListTasks": 2, "ecs:DescribeTasks": 2}),
        (100, 100, {"ecs:ListTasks": 2, "ecs:DescribeTasks": 2}),
        (201, 101, {"ecs:ListTasks": 5, "ecs:DescribeTasks": 5}),
    ],
)
def test_all_pages_of_both_lists_are_read_a_hundred_tasks_a_call(
    ecs: EcsState, running: int, draining: int, calls: dict[str, int]
) -> None:
    expected = ecs.run_tasks(running)
    if draining:
        expected |= ecs.run_tasks(draining, desired_status="STOPPED", last_status="DEACTIVATING")
    assert len(expected) == running + draining
    remote_calls.start_counting()
    assert arns() == expected
    assert remote_calls.counted() == calls


def test_a_page_is_read_when_the_one_before_has_been_used(ecs: EcsState) -> None:
    ecs.run_tasks(150)
    remote_calls.start_counting()
    next(Ecs().live_tasks(CLUSTER_ARN))
    assert remote_calls.counted() == {"ecs:ListTasks": 1, "ecs:DescribeTasks": 1}


def test_a_task_that_begins_to_drain_between_the_two_lists_does_not_escape(ecs: EcsState) -> None:
    task_arn = ecs.run_task()
    ecs.run_task()
    tasks = Ecs().live_tasks(CLUSTER_ARN)
    seen = [next(tasks)]
    ecs.drain(task_arn)
    seen += list(tasks)
    assert [task.arn for task in seen].count(task_arn) == 2


def test_a_running_task_that_ecs_lists_and_does_not_describe_yet_is_waited_for(
    steps: Steps,
) -> None:
    answers = {"RUNNING": ["new"], "STOPPED": []}
    client = SimpleNamespace(
        list_tasks=lambda **request: {"taskArns": answers[request["desiredStatus"]]},
        describe_tasks=lambda **_: {"tasks": [], "failures": [{"arn": "new", "reason": "MISSING"}]},
    )
    error = steps.failure(lambda: list(Ecs(client).live_tasks(CLUSTER_ARN)), TaskNotVisibleYet)
    assert str(error) == f"ECS lists tasks of {CLUSTER_ARN} that it does not describe yet."


def test_a_stopped_task_that_ecs_has_forgotten_is_not_waited_for() -> None:
    answers = {"RUNNING": [], "STOPPED": ["old"]}
    client = SimpleNamespace(
        list_tasks=lambda **request: {"taskArns": answers[request["desiredStatus"]]},
        describe_tasks=lambda **_: {"tasks": [], "failures": [{"arn": "old", "reason": "MISSING"}]},
    )
    assert list(Ecs(client).live_tasks(CLUSTER_ARN)) == []


def test_an_empty_page_may_be_followed_by_another() -> None:
    pages: list[dict[str, Any]] = [
        {"taskArns": [], "nextToken": "1"},
        {"taskArns": ["a"], "nextToken": None},
        {"taskArns": []},
    ]
    definition = "arn:aws:ecs:us-east-1:123456789012:task-definition/web:7"
    shown: dict[str, Any] = {"taskArn": "a", "taskDefinitionArn": definition, "tags": []}
    shown["desiredStatus"] = "RUNNING"
    requests: list[dict[str, Any]] = []

    def list_tasks(**request: Any) -> dict[str, Any]:
        requests.append(request)
        return pages.pop(0)

    client = SimpleNamespace(
        list_tasks=list_tasks,
        describe_tasks=lambda **_: {"tasks": [{**shown, "lastStatus": "RUNNING"}]},
    )
    assert [task.arn for task in Ecs(client).live_tasks(CLUSTER_ARN)] == ["a"]
    assert [request.get("nextToken") for request in requests] == [None, "1", None]


@pytest.mark.parametrize("operation", ["ListTasks", "DescribeTasks"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ThrottlingException", AwsThrottled),
        ("AccessDeniedException", AwsAccessDenied),
        ("ClusterNotFoundException", AwsRequestRefused),
    ],
)
def test_a_look_that_fails_is_no_look_without_tasks(
    ecs: EcsState, steps: Steps, operation: str, code: str, kind: type[StepError]
) -> None:
    ecs.run_task()
    with answering(ecs.client, operation, status=400, code=code):
        error = steps.failure(live, kind)
    assert f"tasks of the cluster {CLUSTER_ARN}" in str(error)


def test_a_task_may_hold_what_was_current_before_it_was_made(clock: Clock) -> None:
    def may_hold(**made: Any) -> bool:
        return Task("arn", "web", "RUNNING", {}, **made).may_hold_what_was_current_before(
            clock.moment
        )

    assert may_hold(created_at=clock.ago(seconds=1))
    assert not may_hold(created_at=clock.moment)
    assert may_hold(created_at=None)  # while ECS does not say


# --- services ------------------------------------------------------------------------------------


def services(*names: str) -> list[Service]:
    return list(Ecs().services(CLUSTER_ARN, names))


def test_a_service_tells_when_it_was_deployed_last_and_how_far_that_is(
    ecs: EcsState, clock: Clock
) -> None:
    deployed_at = clock.ago(hours=1)
    ecs.create_service("web", deployed_at=deployed_at)
    assert services("web") == [
        Service(name="web", deployed_at=deployed_at, is_stable=True, is_redeployable=True)
    ]


@pytest.mark.parametrize(
    ("state", "is_stable"),
    [
        pytest.param({"counts": (0, 0, 0)}, True, id="scaled to nothing"),
        pytest.param({"rollout": None}, True, id="without a rollout, as for daemons of old"),
        pytest.param({"rollout": "IN_PROGRESS"}, False, id="in progress"),
        pytest.param({"rollout": "FAILED"}, False, id="failed"),
        pytest.param({"earlier_deployments": 1}, False, id="an earlier deployment has tasks"),
        pytest.param({"counts": (2, 1, 0)}, False, id="a task too few"),
        pytest.param({"counts": (2, 1, 1)}, False, id="a task that starts"),
        pytest.param({"counts": (1, 1, 1)}, False, id="a task that starts to replace another"),
        pytest.param({"counts": (1, 2, 0)}, False, id="a task too many"),
    ],
)
def test_a_service_is_stable_when_its_deployment_is_complete(
    ecs: EcsState, clock: Clock, state: dict[str, Any], *, is_stable: bool
) -> None:
    ecs.create_service("web", deployed_at=clock.moment, **state)
    (service,) = services("web")
    assert service.is_stable is is_stable


def test_of_several_deployments_the_primary_one_is_the_latest(clock: Clock) -> None:
    def deployment(status: str, **ago: int) -> dict[str, Any]:
        return {"status": status, "createdAt": clock.ago(**ago), "rolloutState": "COMPLETED"}

    described = {
        "serviceName": "web",
        "status": "ACTIVE",
        "createdAt": clock.ago(days=9),
        "deployments": [deployment("ACTIVE", days=1), deployment("PRIMARY", minutes=5)],
        "runningCount": 1,
        "desiredCount": 1,
        "pendingCount": 0,
    }
    client = SimpleNamespace(describe_services=lambda **_: {"services": [described]})
    (service,) = Ecs(client).services(CLUSTER_ARN, ["web"])
    assert service.deployed_at == clock.ago(minutes=5)
    assert service.is_redeployable


@pytest.mark.parametrize(
    ("state", "is_redeployable"),
    [
        ({}, True),
        ({"controller": "CODE_DEPLOY"}, False),
        ({"controller": "EXTERNAL"}, False),
        ({"status": "DRAINING"}, False),
    ],
    ids=str,
)
def test_only_what_ecs_itself_deploys_can_be_redeployed(
    ecs: EcsState, clock: Clock, state: dict[str, Any], *, is_redeployable: bool
) -> None:
    ecs.create_service("web", deployed_at=clock.moment, **state)
    (service,) = services("web")
    assert service.is_redeployable is is_redeployable
    assert service.deployed_at == clock.moment


def test_services_that_are_gone_are_left_out(ecs: EcsState, clock: Clock) -> None:
    ecs.create_service("web", deployed_at=clock.moment)
    ecs.create_service("old", deployed_at=clock.moment, status="INACTIVE")
    assert [service.name for service in services("web", "old", "never")] == ["web"]


@pytest.mark.parametrize(("count", "calls"), [(0, 0), (1, 1), (10, 1), (11, 2), (25, 3)])
def test_services_are_described_ten_a_call(
    ecs: EcsState, clock: Clock, count: int, calls: int
) -> None:
    ecs.create_cluster()
    names = [f"web-{number}" for number in range(count)]
    for name in names:
        ecs.create_service(name, deployed_at=clock.moment)
    remote_calls.start_counting()
    assert [service.name for service in services(*names)] == names
    assert remote_calls.counted() == ({"ecs:DescribeServices": calls} if calls else {})


def test_a_redeployment_is_a_new_deployment_of_the_same_definition(
    ecs: EcsState, clock: Clock
) -> None:
    ecs.create_service("web", deployed_at=clock.ago(days=1))
    before = ecs.client.describe_services(cluster="mesh", services=["web"])["services"][0]
    assert Ecs().redeploy(CLUSTER_ARN, "web") is True
    after = ecs.client.describe_services(cluster="mesh", services=["web"])["services"][0]
    assert ecs.deployed_at("web") > clock.ago(minutes=5) - timedelta(hours=1)
    assert after["taskDefinition"] == before["taskDefinition"]
    assert after["desiredCount"] == before["desiredCount"]


def test_a_service_that_is_gone_is_not_redeployed(ecs: EcsState) -> None:
    ecs.create_cluster()
    assert Ecs().redeploy(CLUSTER_ARN, "web") is False


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ServiceNotActiveException", None),
        ("ThrottlingException", AwsThrottled),
        ("AccessDeniedException", AwsAccessDenied),
        ("InvalidParameterException", AwsRequestRefused),
        ("ClusterNotFoundException", AwsRequestRefused),
    ],
)
def test_a_redeployment_that_ecs_refuses_is_one_of_our_errors_unless_the_service_goes(
    ecs: EcsState, steps: Steps, code: str, kind: type[StepError] | None
) -> None:
    with answering(ecs.client, "UpdateService", status=400, code=code):
        if kind is None:
            assert Ecs().redeploy(CLUSTER_ARN, "web") is False
            return
        error = steps.failure(lambda: Ecs().redeploy(CLUSTER_ARN, "web"), kind)
    assert str(error).startswith(f"Redeploying the service web of {CLUSTER_ARN}")
