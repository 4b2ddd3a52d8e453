"""TaskProvisioning, run: which steps, with which inputs, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.synthesized import API_RULES, WEB_RULES, Deployed
from tests.workflows.engine import Engine, Failed, running

EVENT = {
    "id": "8f07966c-b005-4a0f-9ee9-63d2c41448b3",
    "time": "2026-01-05T20:10:01Z",
    "detail": {
        "clusterArn": "arn:aws-us-gov:ecs:us-gov-west-1:123456789012:cluster/prod_1",
        "taskArn": "arn:aws-us-gov:ecs:us-gov-west-1:123456789012:task/prod_1/1dc5c17a",
        "lastStatus": "PROVISIONING",
        "desiredStatus": "RUNNING",
        "version": 1,
    },
}
NOT_IN_THE_MESH = {"mesh": False, "task_arn": "arn:task", "reason": "It has no tag."}
SECRET = {"id": "prod-consul-web", "description": "Token of web", "tags": {"a": "b"}}
TOKEN = {"description": "Token for web", "service_identities": ["web"], "policies": []}
POLICY = {"name": "prod-consul-web-service", "description": "Policy for web", "rules": WEB_RULES}
IN_THE_MESH = {
    "mesh": True,
    "task_arn": "arn:task",
    "service_name": "web",
    "secret": SECRET,
    "token": TOKEN,
}
WITH_POLICY = {**IN_THE_MESH, "policy": POLICY}
STORED = {
    "arn": "arn:secret",
    "version_id": "11111111-0000-4000-8000-000000000000",
    "replaces_version_id": "22222222-0000-4000-8000-000000000000",
    "accessor_id": "33333333-0000-4000-8000-000000000000",
    "public": False,
}
PUBLIC = {**STORED, "public": True}

ALL_BUT_POLICY = [
    "Check tags",
    "Is it a mesh task?",
    "Store secret",
    "Needs its own policy?",
    "Create token",
    "Is the secret public?",
    "Publish secret",
    "Token ready",
]


@pytest.fixture(scope="module")
def running_engine(everything: Deployed) -> Iterator[Engine]:
    with running(everything, "TaskProvisioning") as engine:
        yield engine


@pytest.fixture
def engine(running_engine: Engine) -> Engine:
    """The workflow, and functions that provision a new service without rules of its own."""
    running_engine.forget()
    running_engine.script(
        CheckTags=IN_THE_MESH,
        StoreSecret=STORED,
        CreatePolicy={"name": POLICY["name"], "change": "created"},
        CreateToken={"change": "created"},
        PublishSecret={"published": True},
    )
    return running_engine


def test_a_task_outside_the_mesh_costs_one_call_and_the_output_says_why(engine: Engine) -> None:
    engine.script(CheckTags=NOT_IN_THE_MESH)

    ended = engine.run("TaskProvisioning", EVENT)

    assert (ended.status, ended.states) == (
        "SUCCEEDED",
        ["Check tags", "Is it a mesh task?", "Not in the mesh"],
    )
    assert ended.output == {**EVENT, "task": NOT_IN_THE_MESH}
    assert engine.called == ["CheckTags"]


def test_a_new_service_gets_a_secret_then_a_token_then_a_public_secret(engine: Engine) -> None:
    ended = engine.run("TaskProvisioning", EVENT)

    assert (ended.status, ended.states) == ("SUCCEEDED", ALL_BUT_POLICY)
    assert engine.called == ["CheckTags", "StoreSecret", "CreateToken", "PublishSecret"]
    assert ended.output == {
        **EVENT,
        "task": IN_THE_MESH,
        "secret": STORED,
        "token": {"change": "created"},
        "publication": {"published": True},
    }


def test_a_known_service_is_checked_and_nothing_is_published(engine: Engine) -> None:
    engine.script(StoreSecret=PUBLIC, CreateToken={"change": "none"})

    ended = engine.run("TaskProvisioning", EVENT)

    assert ended.status == "SUCCEEDED"
    assert ended.states == [name for name in ALL_BUT_POLICY if name != "Publish secret"]
    assert engine.called == ["CheckTags", "StoreSecret", "CreateToken"]


def test_ids_that_others_have_superseded_meanwhile_are_not_published(engine: Engine) -> None:
    engine.script(CreateToken={"change": "superseded"})

    ended = engine.run("TaskProvisioning", EVENT)

    assert ended.status == "SUCCEEDED"
    assert ended.states == [name for name in ALL_BUT_POLICY if name != "Publish secret"]
    assert engine.called == ["CheckTags", "StoreSecret", "CreateToken"]


def test_a_service_with_rules_of_its_own_has_its_policy_before_its_token(engine: Engine) -> None:
    engine.script(CheckTags=WITH_POLICY)

    ended = engine.run("TaskProvisioning", EVENT)

    assert ended.status == "SUCCEEDED"
    assert engine.called == [
        *("CheckTags", "StoreSecret", "CreatePolicy", "CreateToken", "PublishSecret")
    ]


def test_every_step_gets_what_it_reads_and_no_more(engine: Engine) -> None:
    engine.script(CheckTags=WITH_POLICY)

    ended = engine.run("TaskProvisioning", EVENT)

    assert {call.function: call.payload for call in engine.calls} == {
        "CheckTags": {
            "execution": ended.arn,
            "event": EVENT,
            "service_rules": {"web": WEB_RULES, "api": API_RULES},
        },
        "StoreSecret": {"execution": ended.arn, "secret": SECRET},
        "CreatePolicy": {"execution": ended.arn, "policy": POLICY},
        "CreateToken": {"execution": ended.arn, "secret": STORED, "token": TOKEN},
        "PublishSecret": {"execution": ended.arn, "secret": STORED},
    }


def test_without_extra_rules_in_the_settings_the_check_gets_none(minimal: Deployed) -> None:
    with running(minimal, "TaskProvisioning") as engine:
        engine.script(CheckTags=NOT_IN_THE_MESH)
        engine.run("TaskProvisioning", EVENT)

        assert engine.payload("CheckTags")["service_rules"] == {}


def test_a_person_can_start_it_with_two_arns(engine: Engine) -> None:
    by_hand = {"detail": {key: EVENT["detail"][key] for key in ("clusterArn", "taskArn")}}  # type: ignore[index]

    assert engine.run("TaskProvisioning", by_hand).status == "SUCCEEDED"
    assert engine.payload("CheckTags")["event"] == by_hand


def test_a_deployment_starts_it_with_the_name_of_a_service(engine: Engine) -> None:
    named = {key: value for key, value in IN_THE_MESH.items() if key != "task_arn"}
    engine.script(CheckTags=named)

    ended = engine.run("TaskProvisioning", {"service": "web"})

    assert (ended.status, ended.states) == ("SUCCEEDED", ALL_BUT_POLICY)
    assert engine.payload("CheckTags") == {
        "execution": ended.arn,
        "event": {"service": "web"},
        "service_rules": {"web": WEB_RULES, "api": API_RULES},
    }
    assert ended.output == {
        "service": "web",
        "task": named,
        "secret": STORED,
        "token": {"change": "created"},
        "publication": {"published": True},
    }


@pytest.mark.parametrize(
    "error", ["InvalidEvent", "InvalidServiceName", "SecretNameCollision", "UnsupportedTenancy"]
)
def test_a_misconfigured_task_fails_at_once_and_the_execution_says_why(
    engine: Engine, error: str
) -> None:
    failure = Failed(error, 'The tag service-name of the task is "Web".')
    engine.script(CheckTags=failure)

    ended = engine.run("TaskProvisioning", EVENT)

    assert ended.status == "FAILED"
    assert ended.states == ["Check tags", "The task is misconfigured"]
    assert (ended.error, ended.cause) == (error, failure.cause)
    assert engine.waits == []


@pytest.mark.parametrize(
    ("function", "last"),
    [
        ("CheckTags", "Check tags"),
        ("StoreSecret", "Store secret"),
        ("CreatePolicy", "Create policy"),
        ("CreateToken", "Create token"),
        ("PublishSecret", "Publish secret"),
    ],
)
@pytest.mark.parametrize(
    ("error", "end", "tries"),
    [
        ("ConsulUnavailable", "Gave up waiting", 21),
        ("ConsulPermissionDenied", "Needs an operator", 1),
    ],
)
def test_wherever_it_fails_the_execution_says_why(  # noqa: PLR0917 - two tables
    engine: Engine, function: str, last: str, error: str, end: str, tries: int
) -> None:
    failure = Failed(error, f"{last} did not work.")
    engine.script(CheckTags=WITH_POLICY)
    engine.script(**{function: failure})

    ended = engine.run("TaskProvisioning", EVENT)

    assert (ended.status, ended.states[-2:]) == ("FAILED", [last, end])
    assert (ended.error, ended.cause) == (error, failure.cause)
    assert engine.called.count(function) == tries
    assert engine.called[-1] == function


def test_a_fault_of_ours_ends_the_execution_with_all_that_is_known_of_it(engine: Engine) -> None:
    failure = Failed("KeyError", "'version_id'")
    engine.script(CreateToken=failure)

    ended = engine.run("TaskProvisioning", EVENT)

    assert (ended.states[-1], ended.error) == ("Failed unexpectedly", "UnexpectedFailure")
    assert json.loads(ended.cause or "") == {"Error": failure.error, "Cause": failure.cause}


def test_a_step_that_fails_for_a_while_is_tried_until_it_works(engine: Engine) -> None:
    engine.script(
        CreateToken=[
            Failed("ConsulUnavailable"),
            Failed("ClusterNotBootstrapped"),
            Failed("Sandbox.Timedout"),
            Failed("Runtime.ExitError"),
            {"change": "created"},
        ]
    )

    ended = engine.run("TaskProvisioning", EVENT)

    assert (ended.status, ended.states) == ("SUCCEEDED", ALL_BUT_POLICY)
    assert engine.called == ["CheckTags", "StoreSecret", *["CreateToken"] * 5, "PublishSecret"]
    assert engine.waits == [1, 2, 4, 8]
    retried: list[dict[str, Any]] = [
        call.payload for call in engine.calls if call.function == "CreateToken"
    ]
    assert retried == [retried[0]] * 5


def test_waits_double_up_to_a_minute_and_end_after_a_quarter_of_an_hour(engine: Engine) -> None:
    engine.script(StoreSecret=Failed("AwsThrottled"))

    engine.run("TaskProvisioning", EVENT)

    assert engine.waits == [1, 2, 4, 8, 16, 32] + [60] * 14
    assert round(sum(engine.waits) / 60) == 15


def test_a_consul_server_may_not_know_our_own_token_yet_but_not_for_long(engine: Engine) -> None:
    engine.script(CreateToken=Failed("ConsulTokenRejected"))

    ended = engine.run("TaskProvisioning", EVENT)

    assert (ended.states[-1], ended.error) == ("Needs an operator", "ConsulTokenRejected")
    assert engine.waits == [5, 10, 20, 30, 30, 30]


def test_a_permanent_error_after_a_passing_one_ends_the_waiting(engine: Engine) -> None:
    engine.script(CreateToken=[Failed("ConsulUnavailable"), Failed("ForeignObject")])

    ended = engine.run("TaskProvisioning", EVENT)

    assert (ended.states[-1], ended.error) == ("Needs an operator", "ForeignObject")
    assert engine.waits == [1]


def test_one_task_may_be_provisioned_any_number_of_times(engine: Engine) -> None:
    first, second = (engine.run("TaskProvisioning", EVENT) for _ in range(2))

    assert first.output == second.output
    assert first.arn != second.arn
