"""Which tasks still hold a token that has been replaced, and who replaces those tasks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handlers import check_redeployments
from handlers.core.errors import AwsThrottled, InvalidStepInput, TaskNotVisibleYet
from handlers.core.paging import Room
from tests.unit.aws_state import EcsState, answering
from tests.unit.mesh_state import CLIENT, CONTROLLER, MESH_TAG, SERVICE_NAME_TAG, Clock, text_of
from tests.unit.steps import Steps

WEB = {"service": "web"}
LIMIT = 60


class Redeployments:
    """A cluster some time after the token of `web` was replaced, a quarter of an hour ago."""

    def __init__(self, ecs: EcsState, clock: Clock, steps: Steps) -> None:
        ecs.create_cluster()
        self.ecs = ecs
        self.clock = clock
        self.steps = steps
        self.since = clock.ago(minutes=15)
        self.before, self.after = clock.ago(minutes=16), clock.ago(minutes=14)

    def old_task(self, ecs_service: str | None = "web", service: str = "web", **state: Any) -> str:
        return self._task(ecs_service, service, self.before, **state)

    def new_task(self, ecs_service: str | None = "web", service: str = "web", **state: Any) -> str:
        return self._task(ecs_service, service, self.after, **state)

    def _task(self, ecs_service: str | None, service: str, created_at: Any, **state: Any) -> str:
        group = f"service:{ecs_service}" if ecs_service is not None else "family:web"
        tags = {MESH_TAG: "true", SERVICE_NAME_TAG: service}
        return self.ecs.run_task(tags=tags, created_at=created_at, group=group, **state)

    def old_service(self, name: str = "web", **state: Any) -> None:
        self.ecs.create_service(name, deployed_at=self.before, **state)

    def new_service(self, name: str = "web", **state: Any) -> None:
        self.ecs.create_service(name, deployed_at=self.after, **state)

    def check(self, subject: dict[str, str] | None = None, keep: tuple[str, ...] = ()) -> Any:
        return self.steps.run(
            check_redeployments,
            {
                "subject": subject or WEB,
                "since": text_of(self.since),
                "keep_ecs_services": list(keep),
                "limit_minutes": LIMIT,
            },
        )


@pytest.fixture
def cluster(ecs: EcsState, clock: Clock, steps: Steps) -> Redeployments:
    return Redeployments(ecs, clock, steps)


def result(*redeploy: str, waiting: int = 0, kept: int = 0, expired: bool = False) -> Any:
    return {
        "redeploy": [{"ecs_service": name} for name in redeploy],
        "waiting": waiting,
        "kept": kept,
        "done": not redeploy and not waiting,
        "expired": expired,
    }


# --- one ECS service -----------------------------------------------------------------------------


def test_a_service_with_an_old_task_is_redeployed(cluster: Redeployments) -> None:
    cluster.old_service()
    cluster.old_task()
    cluster.new_task()
    assert cluster.check() == result("web")
    assert cluster.steps.remote_calls == {
        "ecs:ListTasks": 2,
        "ecs:DescribeTasks": 1,
        "ecs:DescribeServices": 1,
    }


def test_a_service_is_redeployed_for_a_draining_task_too(cluster: Redeployments) -> None:
    # It holds the old token until it has stopped; whether another one comes, nobody knows yet.
    cluster.old_service()
    cluster.old_task(desired_status="STOPPED", last_status="DEACTIVATING")
    assert cluster.check() == result("web")


def test_tasks_of_unknown_age_may_hold_the_old_token(cluster: Redeployments) -> None:
    cluster.old_service()
    cluster.ecs.run_task(tags={MESH_TAG: "true"}, group="service:web")
    assert cluster.check() == result("web")


def test_a_task_made_at_the_very_moment_holds_the_new_token(
    cluster: Redeployments, clock: Clock
) -> None:
    cluster.before = clock.ago(minutes=15)
    cluster.old_service()
    cluster.old_task()
    assert cluster.check() == result()


def test_a_service_whose_tasks_are_all_new_needs_no_deployment(cluster: Redeployments) -> None:
    cluster.old_service()
    cluster.new_task()
    assert cluster.check() == result()


def test_nothing_is_to_do_without_tasks(cluster: Redeployments) -> None:
    cluster.old_service()
    cluster.ecs.stop(cluster.old_task())
    assert cluster.check() == result()
    assert "ecs:DescribeServices" not in cluster.steps.remote_calls


# --- a deployment that is on its way -------------------------------------------------------------


def test_a_new_deployment_is_waited_for_while_it_has_old_tasks(cluster: Redeployments) -> None:
    cluster.new_service()
    cluster.old_task()
    cluster.new_task()
    assert cluster.check() == result(waiting=1)


@pytest.mark.parametrize(
    "state",
    [
        pytest.param({"rollout": "IN_PROGRESS"}, id="in progress"),
        pytest.param({"rollout": "FAILED"}, id="failed"),
        pytest.param({"counts": (2, 1, 1)}, id="a task that starts"),
        pytest.param({"counts": (2, 1, 0)}, id="a task too few"),
        pytest.param({"earlier_deployments": 1}, id="an earlier deployment"),
    ],
)
def test_a_new_deployment_is_waited_for_until_it_is_stable(
    cluster: Redeployments, state: dict[str, Any]
) -> None:
    cluster.new_service(**state)
    cluster.new_task()
    assert cluster.check() == result(waiting=1)


def test_a_new_deployment_that_is_complete_is_all_that_was_wanted(cluster: Redeployments) -> None:
    cluster.new_service()
    cluster.new_task()
    assert cluster.check() == result()


def test_a_service_that_was_deployed_at_the_very_moment_is_not_deployed_again(
    cluster: Redeployments,
) -> None:
    cluster.ecs.create_service("web", deployed_at=cluster.since)
    cluster.old_task()
    assert cluster.check() == result(waiting=1)


def test_an_old_deployment_that_is_not_stable_is_none_of_ours_without_old_tasks(
    cluster: Redeployments,
) -> None:
    cluster.old_service(rollout="IN_PROGRESS", counts=(2, 1, 1))
    cluster.new_task()
    assert cluster.check() == result()


# --- whom nobody here replaces -------------------------------------------------------------------


def test_a_service_to_keep_is_counted_and_not_even_looked_at(cluster: Redeployments) -> None:
    cluster.old_service("web")
    cluster.old_task("web")
    cluster.old_task("web")
    assert cluster.check(keep=("web", "other")) == result(kept=2)
    assert "ecs:DescribeServices" not in cluster.steps.remote_calls


@pytest.mark.parametrize("controller", ["CODE_DEPLOY", "EXTERNAL"])
@pytest.mark.parametrize("deployed", ["old", "new"])
def test_a_service_that_something_else_deploys_is_kept(
    cluster: Redeployments, controller: str, deployed: str
) -> None:
    make = cluster.old_service if deployed == "old" else cluster.new_service
    make(controller=controller)
    cluster.old_task()
    assert cluster.check() == result(kept=1)


@pytest.mark.parametrize("status", ["DRAINING", "INACTIVE"])
def test_a_service_that_is_deleted_is_kept_until_its_tasks_have_gone(
    cluster: Redeployments, status: str
) -> None:
    cluster.old_service(status=status)
    cluster.old_task(desired_status="STOPPED", last_status="DEACTIVATING")
    assert cluster.check() == result(kept=1)


def test_a_service_that_ecs_does_not_know_any_more_is_kept(cluster: Redeployments) -> None:
    cluster.old_task("gone")
    assert cluster.check() == result(kept=1)


def test_a_task_that_was_started_alone_is_kept(cluster: Redeployments) -> None:
    cluster.old_task(None)
    cluster.new_task(None)
    assert cluster.check() == result(kept=1)
    assert "ecs:DescribeServices" not in cluster.steps.remote_calls


def test_what_is_kept_does_not_keep_the_others_from_being_redeployed(
    cluster: Redeployments,
) -> None:
    cluster.old_service("web")
    cluster.old_service("kept")
    cluster.new_service("on-its-way")
    cluster.new_service("done")
    cluster.old_service("theirs", controller="EXTERNAL")
    for name in ("web", "kept", "on-its-way", "theirs", None, None):
        cluster.old_task(name)
    cluster.new_task("done")
    assert cluster.check(keep=("kept",)) == result("web", waiting=1, kept=4)


# --- whose tasks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "redeploy"),
    [
        (WEB, ["web", "web-blue"]),
        ({"service": "api"}, ["api"]),
        ({"service": "we"}, []),
        (CLIENT, ["api", "web", "web-blue"]),
        (CONTROLLER, []),
    ],
    ids=str,
)
def test_only_ecs_services_whose_tasks_use_the_token_are_redeployed(
    cluster: Redeployments, subject: dict[str, str], redeploy: list[str]
) -> None:
    # Several ECS services may run one service of the mesh; some run none.
    for name, service in (("web", "web"), ("web-blue", "web"), ("api", "api")):
        cluster.old_service(name)
        cluster.old_task(name, service=service)
    cluster.old_service("batch")
    cluster.ecs.run_task(created_at=cluster.before, group="service:batch")
    assert cluster.check(subject) == result(*redeploy)


# --- many ----------------------------------------------------------------------------------------


def test_many_services_are_looked_at_ten_a_call(cluster: Redeployments) -> None:
    expected = [f"web-{number:02}" for number in range(12)]
    for name in reversed(expected):
        cluster.old_service(name)
        cluster.old_task(name)
    assert cluster.check() == result(*expected)
    assert cluster.steps.remote_calls == {
        "ecs:ListTasks": 2,
        "ecs:DescribeTasks": 1,
        "ecs:DescribeServices": 2,
    }


def test_services_that_do_not_fit_into_a_state_come_later(
    cluster: Redeployments, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        cluster.old_service(name)
        cluster.old_task(name)
    monkeypatch.setattr(check_redeployments, "_ROOM", Room(2, 1000))
    assert cluster.check() == {**result("a", "b"), "done": False}


def test_the_longest_names_of_services_fit_into_a_state() -> None:
    longest = [{"ecs_service": "x" * 255}] * 1000
    some, _ = check_redeployments._ROOM.take(longest)
    assert len(some) == 200
    assert len(json.dumps(some)) < 64 * 1024


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("minutes", "expired"), [(0, False), (45, False), (46, True)])
def test_the_limit_counts_from_the_moment_of_the_switch(
    cluster: Redeployments, clock: Clock, *, minutes: int, expired: bool
) -> None:
    cluster.old_service()
    cluster.old_task()
    clock.let_pass(minutes=minutes)  # it is a quarter of an hour already
    assert cluster.check() == result("web", expired=expired)


# --- what may fail -------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["ListTasks", "DescribeTasks", "DescribeServices"])
def test_a_look_that_fails_is_no_look_without_old_tasks(
    cluster: Redeployments, operation: str
) -> None:
    cluster.old_service()
    cluster.old_task()
    state = {
        "subject": WEB,
        "since": text_of(cluster.since),
        "keep_ecs_services": [],
        "limit_minutes": LIMIT,
    }
    with answering(cluster.ecs.client, operation, status=400, code="ThrottlingException"):
        cluster.steps.fail(check_redeployments, state, AwsThrottled)
    assert cluster.check() == result("web")


def test_a_task_that_ecs_does_not_describe_yet_is_waited_for(
    cluster: Redeployments, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.old_task()
    monkeypatch.setattr(
        cluster.ecs.client, "describe_tasks", lambda **_: {"tasks": []}, raising=False
    )
    state = {
        "subject": WEB,
        "since": text_of(cluster.since),
        "keep_ecs_services": [],
        "limit_minutes": LIMIT,
    }
    cluster.steps.fail(check_redeployments, state, TaskNotVisibleYet)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subject": None}, "a subject: "),
        ({"since": None}, '"since", a string.'),
        ({"since": "yesterday"}, '"since", a time such as 2026-01-05T20:10:01Z.'),
        ({"since": "2026-01-05T20:10:01"}, '"since", a time such as 2026-01-05T20:10:01Z.'),
        ({"keep_ecs_services": None}, '"keep_ecs_services", a list.'),
        ({"keep_ecs_services": [7]}, '"keep_ecs_services", a list of strings.'),
        ({"limit_minutes": "60"}, '"limit_minutes", a number.'),
    ],
    ids=str,
)
def test_a_state_that_is_not_as_documented_is_the_workflows_fault(
    cluster: Redeployments, change: dict[str, Any], message: str
) -> None:
    state = {
        "subject": WEB,
        "since": text_of(cluster.since),
        "keep_ecs_services": [],
        "limit_minutes": LIMIT,
    }
    error = cluster.steps.fail(check_redeployments, state | change, InvalidStepInput)
    assert str(error).startswith(f"The input of the step needs {message}")
    assert cluster.steps.remote_calls == {}
