"""TokenRotation in the deployed app: new tokens, and never a moment without a valid one.

One deployment, by the real CDK command line, serves all tests here. Its cloud lives through a
minute in a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from handlers.core import names
from local.cloud.waiting import until
from tests.local.token_life import Ended, TokenLife, Watch, token_life

# An ECS service that another tool deploys, as the settings say.
KEPT = "storefront"
# A service whose only task nobody but us has started.
ALONE = "batch"
# Another one, which comes after a rotation.
LATE = "batch-of-tomorrow"


@pytest.fixture(scope="module")
def life() -> Iterator[TokenLife]:
    """The app with `payments`, two tasks of which run, and two services that it may not redeploy.

    Nothing is started on schedule.
    """
    with token_life(
        reconciliation={"every_minutes": None, "grace_minutes": 5},
        # A busy machine takes its time, and a minute is only a second.
        rotation={"keep_ecs_services": [KEPT], "stable_within_minutes": 600},
    ) as life:
        life.tasks.scale("payments", 2)
        life.tasks.scale(KEPT, 1)
        life.run_alone(ALONE)
        for service in ("payments", KEPT):
            life.tasks.wait_until_running(service)
        yield life


def arns(tasks: list[dict[str, Any]]) -> set[str]:
    return {task["taskArn"] for task in tasks}


def wanted(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [task for task in tasks if task["desiredStatus"] == "RUNNING"]


def assert_replaced(
    life: TokenLife, service: str, before: list[dict[str, Any]], execution: Ended
) -> None:
    """Check that an ECS service has as many tasks as before, all new, and the old ones are gone.

    New ones may drain, too: where an answer of ECS is lost, a service is deployed twice.
    """
    after = life.live_tasks_of(service)
    assert not arns(after) & arns(before)
    assert min(task["createdAt"] for task in after) > execution.entered("Publish secret")
    assert len(wanted(after)) == len(wanted(before))


def test_the_rotation_of_a_service_replaces_its_tasks_and_then_deletes_the_old_token(
    life: TokenLife,
) -> None:
    tasks, old = life.live_tasks_of("payments"), life.secret("payments")

    with Watch(life, "payments") as watch:
        execution = life.rotate(service="payments")

    new = life.secret("payments")
    assert (execution.status, execution.names[-1]) == ("SUCCEEDED", "Rotated")
    assert new["accessor_id"] != old["accessor_id"]
    assert new["token"] != old["token"]
    assert (life.is_valid(new), life.is_valid(old)) == (True, False)
    (token,) = life.tokens_of("payments")
    assert token["AccessorID"] == new["accessor_id"]
    assert token["Description"] == names.service_token_description(
        "payments", life.deployment.cluster_arn
    )
    assert_replaced(life, "payments", tasks, execution)
    assert watch.violations == []
    assert watch.seen >= {old["accessor_id"], new["accessor_id"]}


def test_the_rotation_of_a_service_leaves_the_other_services_alone(life: TokenLife) -> None:
    tasks = {name: arns(life.live_tasks_of(name)) for name in ("payments", KEPT)}
    secrets = {name: life.secret(name) for name in (KEPT, ALONE)}

    life.rotate(service="payments")

    assert arns(life.live_tasks_of(KEPT)) == tasks[KEPT]
    assert {name: life.secret(name) for name in (KEPT, ALONE)} == secrets


def test_two_rotations_of_a_service_at_the_same_time_leave_it_with_one_token(
    life: TokenLife,
) -> None:
    old = life.secret("payments")

    with Watch(life, "payments") as watch:
        started = [life.start_rotation(service="payments") for _ in range(2)]
        ends = [life.end_of(execution) for execution in started]

    new = life.secret("payments")
    assert {execution.status for execution in ends} == {"SUCCEEDED"}
    assert new["accessor_id"] != old["accessor_id"]
    assert [token["AccessorID"] for token in life.tokens_of("payments")] == [new["accessor_id"]]
    assert watch.violations == []


def test_the_rotation_of_the_client_token_replaces_all_mesh_tasks_that_may_be_replaced(
    life: TokenLife,
) -> None:
    tasks = {name: life.live_tasks_of(name) for name in ("payments", KEPT)}
    old = life.shared_secret("Client")

    with Watch(life) as watch:
        execution = life.rotate(token="client")

    new = life.shared_secret("Client")
    assert (execution.status, execution.names[-1]) == ("SUCCEEDED", "Old token kept")
    assert new["accessor_id"] != old["accessor_id"]
    assert (life.is_valid(new), life.is_valid(old)) == (True, True)
    assert_replaced(life, "payments", tasks["payments"], execution)
    assert arns(life.live_tasks_of(KEPT)) == arns(tasks[KEPT])
    assert watch.violations == []
    assert watch.seen >= {old["accessor_id"], new["accessor_id"]}


def test_the_rotation_of_the_controllers_token_replaces_no_task_and_its_steps_go_on(
    life: TokenLife,
) -> None:
    tasks = life.wanted_tasks()
    old = life.shared_secret("Controller")

    execution = life.rotate(token="controller")

    new = life.shared_secret("Controller")
    assert (execution.status, execution.names[-1]) == ("SUCCEEDED", "Rotated")
    assert (life.is_valid(new), life.is_valid(old)) == (True, False)
    assert len(life.shared_tokens(names.CONTROLLER_TOKEN_DESCRIPTION)) == 1
    assert life.wanted_tasks() == tasks
    life.run_alone(LATE)
    assert life.is_valid(life.secret(LATE))


def test_all_services_get_new_tokens_and_those_whose_tasks_are_kept_keep_the_old_one_as_well(
    life: TokenLife,
) -> None:
    life.run_alone(LATE)
    services = ("payments", KEPT, ALONE, LATE)
    tasks = {name: life.live_tasks_of(name) for name in ("payments", KEPT)}
    old = {name: life.secret(name) for name in services}

    with Watch(life, *services) as watch:
        execution = life.rotate(services="all")

    new = {name: life.secret(name) for name in services}
    assert (execution.status, execution.names[-1]) == ("SUCCEEDED", "Services rotated")
    assert execution.output["report"]["rotated"] == len(services)
    assert life.ends_of_rotations() == dict.fromkeys(services, "Old token kept") | {
        "payments": "Rotated"
    }
    assert [name for name in services if new[name]["accessor_id"] == old[name]["accessor_id"]] == []
    assert [name for name in services if not life.is_valid(new[name])] == []
    assert {name for name in services if life.is_valid(old[name])} == {*services} - {"payments"}
    assert not arns(life.live_tasks_of("payments")) & arns(tasks["payments"])
    assert arns(life.live_tasks_of(KEPT)) == arns(tasks[KEPT])
    assert watch.violations == []


def test_a_kept_token_is_deleted_by_reconciliation_when_its_tasks_are_gone(
    life: TokenLife,
) -> None:
    life.rotate(service=KEPT)
    tokens = life.tokens_of(KEPT)
    assert len(tokens) > 1
    before = life.live_tasks_of(KEPT)
    # As the other tool does it.
    life.ecs.update_service(cluster=life.deployment.cluster, service=KEPT, forceNewDeployment=True)
    life.tasks.wait_until_running(KEPT)
    for task in before:
        life.tasks.wait_until_stopped(task["taskArn"])

    with Watch(life, KEPT, "payments") as watch:
        execution = life.reconcile(service=KEPT)

    assert execution.output["report"]["deleted"] == len(tokens) - 1
    (token,) = life.tokens_of(KEPT)
    assert token["AccessorID"] == life.secret(KEPT)["accessor_id"]
    assert watch.violations == []


def test_the_watch_sees_tasks_whose_token_is_gone_and_that_new_ones_would_get_it(
    life: TokenLife,
) -> None:
    ids = life.secret(KEPT)
    with Watch(life, KEPT) as watch:
        life.consul.delete(f"/v1/acl/token/{ids['accessor_id']}")
        until(lambda: len(watch.violations) >= 2, what="the watch sees it")
    assert {violation.partition(" ")[0] for violation in watch.violations} == {
        "new",
        *(task["taskArn"] for task in life.live_tasks_of(KEPT)),
    }
    life.reconcile(service=KEPT)
    assert life.is_valid(ids)


@pytest.mark.parametrize("event", [{"service": "Not_Valid"}, {"token": "anonymous"}, {}])
def test_a_wrong_input_changes_nothing(life: TokenLife, event: dict[str, str]) -> None:
    before = life.consul.get("/v1/acl/tokens")

    execution = life.rotate(**event)

    assert (execution.status, execution.names[-1]) == ("FAILED", "The input is wrong")
    assert life.consul.get("/v1/acl/tokens") == before


def test_no_secret_is_anywhere_but_in_its_store(life: TokenLife) -> None:
    assert life.leaks() == {}
