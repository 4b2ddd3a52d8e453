"""Reconciliation in the deployed app: what no event tells, and what went wrong, is put right.

One deployment, by the real CDK command line, serves all tests here. Its cloud lives through a
minute in a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import yaml
from rich.console import Console

from handlers.core import names
from local.cloud.waiting import until
from local.progress import Progress
from tests.local.ecs_stages import standing_still
from tests.local.token_life import MESH, Ended, TokenLife, token_life

GRACE = timedelta(minutes=5)
NOTHING = {"found": 0, "repaired": 0, "retired": 0, "deleted": 0, "put_back": 0, "left": 0}


@pytest.fixture(scope="module")
def life() -> Iterator[TokenLife]:
    """The app with `payments`, one task of which runs. Nothing is started on schedule."""
    minutes = int(GRACE / timedelta(minutes=1))
    with token_life(reconciliation={"every_minutes": None, "grace_minutes": minutes}) as life:
        life.tasks.wait_until_running("payments")
        yield life


def report(execution: Ended) -> dict[str, int]:
    assert execution.status == "SUCCEEDED", execution
    counts: dict[str, int] = execution.output["report"]
    return counts


def test_nothing_is_done_where_nothing_is_wrong(life: TokenLife) -> None:
    before = life.consul.get("/v1/acl/tokens"), life.consul.get("/v1/acl/policies")

    execution = life.reconcile()

    assert report(execution) == NOTHING
    assert (life.consul.get("/v1/acl/tokens"), life.consul.get("/v1/acl/policies")) == before


@pytest.mark.parametrize("event", [{}, {"service": "payments"}])
def test_a_token_that_was_deleted_by_hand_comes_back_with_the_same_ids(
    life: TokenLife, event: dict[str, str]
) -> None:
    before = life.secret("payments")
    life.consul.delete(f"/v1/acl/token/{before['accessor_id']}")
    assert not life.is_valid(before)

    execution = life.reconcile(**event)

    assert report(execution) == NOTHING | {"found": 1, "repaired": 1}
    assert life.secret("payments") == before
    assert life.is_valid(before)


def test_a_token_that_was_changed_by_hand_is_brought_in_line(life: TokenLife) -> None:
    (before,) = life.tokens_of("payments")
    changed = {"Description": before["Description"], "ServiceIdentities": []}
    assert life.consul.put(f"/v1/acl/token/{before['AccessorID']}", changed)

    execution = life.reconcile()

    assert report(execution) == NOTHING | {"found": 1, "repaired": 1}
    (after,) = life.tokens_of("payments")
    assert after["ServiceIdentities"] == [{"ServiceName": "payments"}]


def test_the_client_token_comes_back_as_well(life: TokenLife) -> None:
    ids = life.shared_secret("Client")
    life.consul.delete(f"/v1/acl/token/{ids['accessor_id']}")

    execution = life.reconcile(token="client")

    assert report(execution) == NOTHING | {"found": 1, "repaired": 1}
    assert life.is_valid(ids)


def test_a_service_whose_last_task_has_stopped_loses_its_token_after_the_grace_period(
    life: TokenLife,
) -> None:
    task = life.run_alone("brief")
    ids = life.secret("brief")
    life.stop(task)

    execution = life.reconcile()

    assert report(execution) == NOTHING | {"found": 1, "deleted": 1}
    assert life.tokens_of("brief") == []
    assert not life.is_valid(ids)
    waited = execution.entered("Delete what is still unused") - execution.entered(
        "Wait the grace period"
    )
    assert waited >= GRACE
    # With its IDs in it: whatever comes next finds them.
    assert life.secret("brief") == ids


def test_a_service_that_starts_again_gets_its_token_again_with_the_same_ids(
    life: TokenLife,
) -> None:
    before = life.secret("brief")

    task = life.run_alone("brief")

    assert life.secret("brief") == before
    assert life.is_valid(before)
    life.stop(task)


def test_a_task_that_drains_keeps_its_services_token(life: TokenLife) -> None:
    task = life.run_alone("slow-to-stop")
    ids = life.secret("slow-to-stop")
    with standing_still(life.cloud):
        life.ecs.stop_task(cluster=life.deployment.cluster, task=task)

        execution = life.reconcile(service="slow-to-stop")

        assert report(execution) == NOTHING
        assert life.is_valid(ids)
    life.tasks.wait_until_stopped(task)


def test_a_service_that_comes_back_within_the_grace_period_keeps_its_token(
    life: TokenLife,
) -> None:
    ids = life.secret("slow-to-stop")
    execution = life.start_reconciliation(service="slow-to-stop")
    life.wait_until_in(execution, "Wait the grace period")

    task = life.tasks.run("slow-to-stop", MESH)
    ended = life.end_of(execution)

    assert report(ended) == NOTHING | {"found": 1}
    assert ended.output["deletion"] == {"deleted": 0, "kept": 1}
    assert life.is_valid(ids)
    life.tasks.wait_for_workflows([task])
    life.stop(task)


def test_tokens_of_others_are_left_alone(life: TokenLife) -> None:
    described = {
        "another cluster's": names.service_token_description(
            "brief", life.deployment.cluster_arn.replace("cluster/", "cluster/not-")
        ),
        "nobody's": "Token for brief service",
    }
    foreign = {}
    for whose, description in described.items():
        assert life.consul.put("/v1/acl/token", {"Description": description})
        foreign[whose] = next(
            token["AccessorID"]
            for token in life.consul.get("/v1/acl/tokens")
            if token["Description"] == description
        )
    try:
        report(life.reconcile())
        known = {token["AccessorID"] for token in life.consul.get("/v1/acl/tokens")}
    finally:
        # The Consul may be somebody's.
        for accessor_id in foreign.values():
            life.consul.delete(f"/v1/acl/token/{accessor_id}")
    assert known >= set(foreign.values())


def test_no_secret_is_anywhere_but_in_its_store(life: TokenLife) -> None:
    assert life.leaks() == {}


def test_it_is_started_on_schedule_if_the_settings_say_so(life: TokenLife) -> None:
    arn = life.deployment.outputs["ReconciliationArn"]
    before = len(life.executions(arn))
    settings = yaml.safe_load(life.deployment.settings_file.read_text())
    settings["reconciliation"]["every_minutes"] = 1
    life.deployment.settings_file.write_text(yaml.safe_dump(settings))
    ids = life.secret("payments")
    life.consul.delete(f"/v1/acl/token/{ids['accessor_id']}")

    life.deployment.deploy(Progress(Console(quiet=True)))

    until(lambda: life.is_valid(ids), within=60, what="the token is back")

    def ended() -> list[dict[str, Any]]:
        executions = life.executions(arn)
        started = executions[: len(executions) - before]
        return [each for each in started if each["status"] != "RUNNING"]

    first = until(ended, within=60, what="an execution has ended")[-1]
    assert (first["status"], first["input"]) == ("SUCCEEDED", "{}")
