"""TokenRotation, run: which steps, in which order, and where it ends at each point of failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from moto.stepfunctions.exceptions import InvalidName
from moto.stepfunctions.parser.models import StepFunctionsParserBackend

from handlers import plan_rotation
from handlers.core.subjects import Subject
from tests.faults.asl import LARGEST_STATE
from tests.faults.test_asl import World
from tests.synthesized import API_RULES, WEB_RULES, Deployed
from tests.workflows.engine import Answer, Engine, Failed, running
from tests.workflows.test_task_provisioning import SECRET, STORED, TOKEN

RULES = {"web": WEB_RULES, "api": API_RULES}
API, CLIENT, CONTROLLER, WEB = (
    *({"service": "api"}, {"token": "client"}),
    *({"token": "controller"}, {"service": "web"}),
)
OLD = {"subject": WEB, "accessor_id": "44444444-0000-4000-8000-000000000000"}
PLAN = {"one": True, "subject": WEB, "secret": SECRET, "token": TOKEN, "has_tasks": True}
NEW = {**STORED, "previous": [OLD]}
SINCE = "2026-01-05T20:11:01Z"

REDEPLOY = {
    "redeploy": [{"ecs_service": "web-a"}, {"ecs_service": "web-b"}],
    "waiting": 0,
    "kept": 0,
    "done": False,
    "expired": False,
}
WAITING = {**REDEPLOY, "redeploy": [], "waiting": 2}
DONE = {**WAITING, "waiting": 0, "done": True}

UP_TO_THE_SWITCH = [
    *("Plan rotation", "Is it one token?", "Store new IDs", "Create token", "Prove token"),
    *("Is it proven?", "Publish secret", "Do tasks pull the new token?"),
]
RETIRED = [
    *("Was there a token before?", "Retire the old token"),
    *("Wait until nobody reads the old secret", "Do tasks hold it?"),
]
A_LOOK = ["Check redeployments", "Have all old tasks gone?"]
DELETED = ["Delete the old token", "Was it deleted?", "Rotated"]

BEFORE_THE_SWITCH = ["PlanRotation", "StoreSecret", "CreateToken", "ProveToken", "PublishSecret"]


def plan(payload: dict[str, Any]) -> dict[str, Any]:
    """Plan for whatever the input names; all services are two."""
    event = payload["event"]
    if "services" in event:
        return {"one": False, "services": [API, WEB], "next": {}}
    return {**PLAN, "subject": event, "has_tasks": event != CONTROLLER}


def prepare(engine: Engine) -> Engine:
    """Let functions rotate the token of a service whose tasks are gone at once."""
    engine.forget()
    engine.script(
        PlanRotation=plan,
        StoreSecret=NEW,
        CreateToken={"change": "created"},
        ProveToken={"proven": True},
        PublishSecret={"published": True},
        AbandonRotation={"switched": False},
        RetireTokens={"since": SINCE, "retired": 1, "left": 0},
        CheckRedeployments=DONE,
        RedeployService={"redeployed": True},
        DeleteUnused={"deleted": 1, "kept": 0},
        ReportRotation={"rotated": 2, "left": 0, "services": []},
    )
    return engine


@pytest.fixture(scope="module")
def running_engine(minimal: Deployed) -> Iterator[Engine]:
    with running(minimal, "TokenRotation") as engine:
        yield engine


@pytest.fixture
def engine(running_engine: Engine) -> Engine:
    """The workflow without settings, and functions that rotate a token."""
    return prepare(running_engine)


@pytest.fixture
def with_settings(everything: Deployed) -> Iterator[Engine]:
    """The workflow with all settings."""
    with running(everything, "TokenRotation") as engine:
        yield prepare(engine)


# --- one token ------------------------------------------------------------------------------------


def test_a_new_token_is_made_and_proven_before_tasks_pull_it_and_the_old_one_goes_last(
    engine: Engine,
) -> None:
    engine.script(CheckRedeployments=[REDEPLOY, WAITING, DONE])

    ended = engine.run("TokenRotation", WEB)

    assert (ended.status, ended.states) == (
        "SUCCEEDED",
        [
            *(*UP_TO_THE_SWITCH, *RETIRED),
            *(*A_LOOK, "Redeploy services", *["Redeploy the service"] * 2),
            *("Wait for the deployments", *A_LOOK),
            *("Wait for the deployments", *A_LOOK),
            *DELETED,
        ],
    )
    assert engine.called == [
        *(*BEFORE_THE_SWITCH, "RetireTokens"),
        *("CheckRedeployments", *["RedeployService"] * 2),
        *("CheckRedeployments", "CheckRedeployments", "DeleteUnused"),
    ]
    assert engine.pauses[1:] == [30, 30]


def test_every_step_gets_what_it_reads_and_no_more(engine: Engine) -> None:
    engine.script(CheckRedeployments=[{**REDEPLOY, "redeploy": [{"ecs_service": "web-a"}]}, DONE])

    ended = engine.run("TokenRotation", WEB)

    check = {
        "subject": WEB,
        "since": SINCE,
        "keep_ecs_services": [],
        "limit_minutes": 60,
    }
    expected: list[tuple[str, dict[str, Any]]] = [
        ("PlanRotation", {"event": WEB, "service_rules": {}}),
        ("StoreSecret", {"secret": SECRET, "renew": WEB}),
        ("CreateToken", {"secret": NEW, "token": TOKEN}),
        ("ProveToken", {"secret": NEW}),
        ("PublishSecret", {"secret": NEW}),
        ("RetireTokens", {"tokens": [OLD], "superseded": True}),
        ("CheckRedeployments", check),
        ("RedeployService", {"ecs_service": "web-a", "since": SINCE}),
        ("CheckRedeployments", check),
        ("DeleteUnused", {"tokens": [OLD]}),
    ]
    assert [(call.function, call.payload) for call in engine.calls] == [
        (function, {"execution": ended.arn, **payload}) for function, payload in expected
    ]


def test_the_settings_say_what_is_redeployed_and_for_how_long(with_settings: Engine) -> None:
    with_settings.run("TokenRotation", WEB)

    check = with_settings.payload("CheckRedeployments")
    assert (check["limit_minutes"], check["keep_ecs_services"]) == (
        45,
        ["legacy-web", "Legacy_API"],
    )
    assert with_settings.payload("PlanRotation")["service_rules"] == RULES


def test_the_output_has_what_each_step_returned(engine: Engine) -> None:
    ended = engine.run("TokenRotation", WEB)

    assert ended.output == {
        **WEB,
        "plan": PLAN,
        "secret": NEW,
        "token": {"change": "created"},
        "proof": {"proven": True},
        "publication": {"published": True},
        "retired": {"since": SINCE, "retired": 1, "left": 0},
        "check": DONE,
        "deletion": {"deleted": 1, "kept": 0},
    }


def test_nobody_looks_at_tasks_before_the_old_secret_can_not_be_read_any_more(
    engine: Engine,
) -> None:
    since = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=10)
    text = since.isoformat().replace("+00:00", "Z")
    engine.script(RetireTokens={"since": text, "retired": 1, "left": 0})

    engine.run("TokenRotation", WEB)

    (wait,) = engine.pauses
    assert 500 < wait <= 600
    assert engine.payload("CheckRedeployments")["since"] == text


def test_the_token_of_all_clients_is_rotated_in_the_same_way(engine: Engine) -> None:
    ended = engine.run("TokenRotation", CLIENT)

    assert ended.states == [*UP_TO_THE_SWITCH, *RETIRED, *A_LOOK, *DELETED]
    assert engine.payload("StoreSecret")["renew"] == CLIENT
    assert engine.payload("CheckRedeployments")["subject"] == CLIENT


def test_no_task_holds_the_controllers_token_so_none_is_replaced(engine: Engine) -> None:
    ended = engine.run("TokenRotation", CONTROLLER)

    assert ended.states == [*UP_TO_THE_SWITCH, *RETIRED, *DELETED]
    assert engine.called == [*BEFORE_THE_SWITCH, "RetireTokens", "DeleteUnused"]


def test_without_a_token_before_there_is_nothing_to_replace(engine: Engine) -> None:
    engine.script(StoreSecret={**NEW, "previous": []})

    ended = engine.run("TokenRotation", WEB)

    assert (ended.status, ended.states) == (
        "SUCCEEDED",
        [*UP_TO_THE_SWITCH, "Was there a token before?", "First token"],
    )
    assert engine.called == BEFORE_THE_SWITCH


def test_if_somebody_else_has_changed_the_secret_nothing_is_rotated(engine: Engine) -> None:
    engine.script(PublishSecret={"published": False})

    ended = engine.run("TokenRotation", WEB)

    assert (ended.status, ended.states) == ("SUCCEEDED", [*UP_TO_THE_SWITCH, "Superseded"])
    assert engine.called == BEFORE_THE_SWITCH


def test_a_new_token_that_is_superseded_before_it_could_be_proven_is_not_published(
    engine: Engine,
) -> None:
    engine.script(ProveToken={"proven": False})

    ended = engine.run("TokenRotation", WEB)

    assert (ended.status, ended.states[-2:]) == ("SUCCEEDED", ["Is it proven?", "Superseded"])
    assert engine.called[-1] == "ProveToken"


def test_a_token_that_tasks_still_hold_is_kept(engine: Engine) -> None:
    engine.script(CheckRedeployments={**DONE, "kept": 1}, DeleteUnused={"deleted": 0, "kept": 1})

    ended = engine.run("TokenRotation", WEB)

    assert (ended.status, ended.states[-2:]) == ("SUCCEEDED", ["Was it deleted?", "Old token kept"])


@pytest.mark.parametrize("last", [WAITING, REDEPLOY])
def test_a_redeployment_has_a_time_limit_and_then_both_tokens_are_kept(
    engine: Engine, last: dict[str, Any]
) -> None:
    check = {**last, "expired": True}
    engine.script(CheckRedeployments=[REDEPLOY, check])

    ended = engine.run("TokenRotation", WEB)

    assert (ended.status, ended.error) == ("FAILED", "RedeploymentTimeout")
    assert ended.states[-2:] == ["Have all old tasks gone?", "Redeployment takes too long"]
    assert json.loads(ended.cause or "") == check
    assert "DeleteUnused" not in engine.called


def test_a_redeployment_that_is_complete_in_the_end_is_not_too_late(engine: Engine) -> None:
    engine.script(CheckRedeployments={**DONE, "expired": True})

    ended = engine.run("TokenRotation", WEB)

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "Rotated")


# --- where it ends when a step fails --------------------------------------------------------------

ANY_ERROR = pytest.mark.parametrize(("error", "tries"), [("AwsThrottled", 21), ("KeyError", 1)])


@pytest.mark.parametrize(
    "error", ["InvalidEvent", "InvalidServiceName", "SecretNameCollision", "UnsupportedTenancy"]
)
def test_what_can_not_be_an_input_is_said_so_at_once(engine: Engine, error: str) -> None:
    failure = Failed(error, "Start the workflow with something else.")
    engine.script(PlanRotation=failure)

    ended = engine.run("TokenRotation", {"service": "Web"})

    assert (ended.status, ended.states) == ("FAILED", ["Plan rotation", "The input is wrong"])
    assert (ended.error, ended.cause) == (error, failure.cause)
    assert engine.waits == []


@pytest.mark.parametrize(
    ("function", "state"), [("PlanRotation", "Plan rotation"), ("StoreSecret", "Store new IDs")]
)
@pytest.mark.parametrize(
    ("error", "end"),
    [
        ("ConsulUnavailable", "Gave up waiting"),
        ("AwsAccessDenied", "Needs an operator"),
        ("KeyError", "Failed unexpectedly"),
    ],
)
def test_before_there_is_a_new_token_nothing_has_to_be_undone(
    engine: Engine, function: str, state: str, error: str, end: str
) -> None:
    failure = Failed(error, f"{state} did not work.")
    engine.script(**{function: failure})

    ended = engine.run("TokenRotation", WEB)

    assert (ended.status, ended.states[-2:]) == ("FAILED", [state, end])
    if error == "KeyError":
        assert ended.error == "UnexpectedFailure"
        assert json.loads(ended.cause or "") == {"Error": error, "Cause": failure.cause}
    else:
        assert (ended.error, ended.cause) == (error, failure.cause)
    assert engine.called[-1] == function


NEW_TOKEN_STEPS = pytest.mark.parametrize(
    ("function", "state"),
    [
        ("CreateToken", "Create token"),
        ("ProveToken", "Prove token"),
        ("PublishSecret", "Publish secret"),
    ],
)


@NEW_TOKEN_STEPS
@ANY_ERROR
def test_a_failure_before_the_switch_removes_the_new_token_and_tasks_keep_the_old_one(
    engine: Engine, function: str, state: str, error: str, tries: int
) -> None:
    failure = Failed(error, f"{state} did not work.")
    engine.script(**{function: failure})

    ended = engine.run("TokenRotation", WEB)

    assert (ended.status, ended.error) == ("FAILED", "RotationFailed")
    assert ended.states[-4:] == [
        *(state, "Abandon rotation", "Was it published after all?", "Not rotated")
    ]
    assert json.loads(ended.cause or "") == {"Error": error, "Cause": failure.cause}
    assert engine.called.count(function) == tries
    assert engine.payload("AbandonRotation") == {
        "execution": ended.arn,
        "subject": WEB,
        "secret": NEW,
    }
    assert engine.called[-1] == "AbandonRotation"


@NEW_TOKEN_STEPS
def test_if_it_was_published_nevertheless_the_old_token_is_replaced_as_always(
    engine: Engine, function: str, state: str
) -> None:
    engine.script(**{function: Failed("ForeignObject")}, AbandonRotation={"switched": True})

    ended = engine.run("TokenRotation", WEB)

    assert ended.status == "SUCCEEDED"
    after = [*RETIRED, *A_LOOK, *DELETED]
    assert ended.states[ended.states.index(state) + 1 :] == [
        *("Abandon rotation", "Was it published after all?", *after)
    ]
    assert engine.payload("DeleteUnused")["tokens"] == [OLD]


def test_a_first_token_that_was_published_nevertheless_replaces_none(engine: Engine) -> None:
    engine.script(
        StoreSecret={**NEW, "previous": []},
        PublishSecret=Failed("AwsAccessDenied"),
        AbandonRotation={"switched": True},
    )

    ended = engine.run("TokenRotation", WEB)

    assert (ended.status, ended.states[-3:]) == (
        "SUCCEEDED",
        ["Was it published after all?", "Was there a token before?", "First token"],
    )
    assert engine.called[-1] == "AbandonRotation"


@ANY_ERROR
def test_if_it_can_not_be_undone_the_execution_says_so_and_why_it_failed_before(
    engine: Engine, error: str, tries: int
) -> None:
    first = Failed("ForeignObject", "The accessor ID is another one's.")
    failure = Failed(error, "The secret can not be read.")
    engine.script(CreateToken=first, AbandonRotation=failure)

    ended = engine.run("TokenRotation", WEB)

    assert (ended.status, ended.error) == ("FAILED", "RotationNotUndone")
    assert ended.states[-3:] == ["Create token", "Abandon rotation", "The new token may remain"]
    assert json.loads(ended.cause or "") == {
        "Error": first.error,
        "Cause": first.cause,
        "undoing": {"Error": error, "Cause": failure.cause},
    }
    assert engine.called.count("AbandonRotation") == tries


@pytest.mark.parametrize(
    ("function", "state", "attempts"),
    [
        ("RetireTokens", "Retire the old token", 21),
        ("CheckRedeployments", "Check redeployments", 9),
        ("RedeployService", "Redeploy the service", 21),
        ("DeleteUnused", "Delete the old token", 9),
    ],
)
@pytest.mark.parametrize("error", ["AwsThrottled", "AwsAccessDenied", "KeyError"])
def test_a_failure_after_the_switch_keeps_both_tokens_alive(
    engine: Engine, function: str, state: str, attempts: int, error: str
) -> None:
    failure = Failed(error, f"{state} did not work.")
    one = {**REDEPLOY, "redeploy": [{"ecs_service": "web-a"}]}
    engine.script(CheckRedeployments=[one, DONE])
    engine.script(**{function: failure})

    ended = engine.run("TokenRotation", WEB)

    assert (ended.status, ended.error) == ("FAILED", "RotationIncomplete")
    assert ended.states[-2:] == [state, "Both tokens are alive"]
    assert json.loads(ended.cause or "") == {"Error": error, "Cause": failure.cause}
    assert engine.called.count(function) == (attempts if error == "AwsThrottled" else 1)
    assert engine.called[-1] == function
    assert "AbandonRotation" not in engine.called


def test_a_look_that_fails_later_keeps_both_tokens_alive_too(engine: Engine) -> None:
    engine.script(CheckRedeployments=[REDEPLOY, WAITING, Failed("AwsAccessDenied")])

    ended = engine.run("TokenRotation", WEB)

    assert (ended.states[-1], ended.error) == ("Both tokens are alive", "RotationIncomplete")
    assert "DeleteUnused" not in engine.called


def test_a_step_that_fails_for_a_while_is_tried_until_it_works(engine: Engine) -> None:
    engine.script(
        CreateToken=[Failed("ConsulUnavailable"), {"change": "created"}],
        ProveToken=[Failed("TokenNotVisibleYet"), Failed("TokenNotVisibleYet"), {"proven": True}],
        RetireTokens=[Failed("AwsUnavailable"), {"since": SINCE, "retired": 1, "left": 0}],
    )

    ended = engine.run("TokenRotation", WEB)

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "Rotated")
    assert engine.waits == [1, 1, 2, 1]
    tried = engine.payloads("ProveToken")
    assert tried == [tried[0]] * 3


# --- all services ---------------------------------------------------------------------------------

ALL = {"services": "all"}


def test_all_services_are_rotated_one_by_one_each_by_an_execution_of_its_own(
    engine: Engine,
) -> None:
    ended = engine.run("TokenRotation", ALL)

    assert (ended.status, ended.states) == (
        "SUCCEEDED",
        [
            *("Plan rotation", "Is it one token?", "Rotate services"),
            *["Rotate the service", "Next service"] * 2,
            *("Report", "Are there more services?", "Was every service rotated?"),
            "Services rotated",
        ],
    )
    rotation = [*BEFORE_THE_SWITCH, "RetireTokens", "CheckRedeployments", "DeleteUnused"]
    assert engine.called == ["PlanRotation", *rotation, *rotation, "ReportRotation"]
    assert [payload["event"] for payload in engine.payloads("PlanRotation")] == [ALL, API, WEB]
    rotations = [{**subject, "run": {"status": "SUCCEEDED"}} for subject in (API, WEB)]
    assert engine.payload("ReportRotation") == {"execution": ended.arn, "rotations": rotations}
    assert ended.output == {
        **ALL,
        "plan": {"one": False, "services": [API, WEB], "next": {}},
        "rotations": rotations,
        "report": {"rotated": 2, "left": 0, "services": []},
    }


def test_one_that_fails_does_not_stop_the_others_but_the_execution_fails_in_the_end(
    engine: Engine,
) -> None:
    report = {"rotated": 1, "left": 1, "services": ["api"]}
    engine.script(
        StoreSecret=lambda payload: Failed("InvalidSecret") if payload["renew"] == API else NEW,
        ReportRotation=report,
    )

    ended = engine.run("TokenRotation", ALL)

    assert (ended.status, ended.error) == ("FAILED", "ServicesNotRotated")
    assert ended.states[-2:] == ["Was every service rotated?", "Some services were not rotated"]
    assert json.loads(ended.cause or "") == report
    assert engine.payload("ReportRotation")["rotations"] == [
        API,
        {**WEB, "run": {"status": "SUCCEEDED"}},
    ]


def test_a_pause_follows_each_service_whether_it_was_rotated_or_not(
    with_settings: Engine,
) -> None:
    with_settings.script(
        StoreSecret=lambda payload: Failed("InvalidSecret") if payload["renew"] == API else NEW,
        ReportRotation={"rotated": 1, "left": 1, "services": ["api"]},
    )

    ended = with_settings.run("TokenRotation", ALL)

    assert sorted(ended.states[3:9]) == sorted(["Rotate the service", "Pause", "Next service"] * 2)
    # And the wait for the old secret of the other.
    assert sorted(with_settings.pauses)[1:] == [120, 120]


@pytest.mark.parametrize(
    ("left", "status", "end"),
    [(0, "SUCCEEDED", "Services rotated"), (1, "FAILED", "Some services were not rotated")],
)
def test_more_services_than_a_state_can_hold_are_left_to_a_new_execution(
    engine: Engine, left: int, status: str, end: str
) -> None:
    following = {"services": "all", "after": "api"}

    def in_parts(payload: dict[str, Any]) -> dict[str, Any]:
        if payload["event"] == ALL:
            return {"one": False, "services": [API], "next": following}
        if payload["event"] == following:
            return {"one": False, "services": [WEB], "next": {}}
        return plan(payload)

    reports: list[Answer] = [{"rotated": 1 - left, "left": left, "services": []}]
    engine.script(PlanRotation=in_parts, ReportRotation=reports)

    ended = engine.run("TokenRotation", ALL)

    assert (ended.status, ended.states[-4:]) == (
        status,
        [
            *("Are there more services?", "Continue in a new execution"),
            *("Was every service rotated?", end),
        ],
    )
    plans = engine.payloads("PlanRotation")
    assert [payload["event"] for payload in plans] == [ALL, API, following, WEB]
    assert engine.execution(plans[2]["execution"]).status == status


def test_if_it_can_not_go_on_the_execution_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    start: Any = StepFunctionsParserBackend.start_execution

    def refuse(self: Any, arn: str, name: str, execution_input: str, *more: Any) -> Any:
        if "after" in execution_input:
            raise InvalidName("Not now.")
        return start(self, arn, name, execution_input, *more)

    monkeypatch.setattr(StepFunctionsParserBackend, "start_execution", refuse)
    page = {"one": False, "services": [], "next": {"services": "all", "after": "api"}}
    engine.script(PlanRotation=page)

    ended = engine.run("TokenRotation", ALL)

    assert (ended.status, ended.error) == ("FAILED", "UnexpectedFailure")
    assert ended.states[-2:] == ["Continue in a new execution", "Failed unexpectedly"]
    assert "Not now." in json.loads(ended.cause or "")["Cause"]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        ("AwsUnavailable", "Gave up waiting"),
        ("InvalidConfiguration", "Needs an operator"),
        ("KeyError", "Failed unexpectedly"),
    ],
)
def test_a_report_that_fails_is_an_end_like_any_other(engine: Engine, error: str, end: str) -> None:
    engine.script(ReportRotation=Failed(error))

    ended = engine.run("TokenRotation", ALL)

    assert (ended.status, ended.states[-2:]) == ("FAILED", ["Report", end])


# --- how much fits --------------------------------------------------------------------------------


class EverythingIsDone(World):
    """Nested executions succeed, and nobody looks at them."""

    def start_execution(
        self,
        state_machine_arn: str,
        name: str | None,  # noqa: ARG002 - as `Services` has it
        execution_input: Any,  # noqa: ARG002 - as `Services` has it
        *,
        wait: bool,  # noqa: ARG002 - as `Services` has it
    ) -> dict[str, Any]:
        return {"ExecutionArn": f"{state_machine_arn}:any", "Status": "SUCCEEDED", "Output": {}}


@pytest.mark.parametrize("length", [1, 20, 64, 256])
def test_the_most_services_that_a_plan_may_have_fit_into_every_state(
    everything: Deployed, length: int
) -> None:
    service = Subject(service="a" * length).to_state()
    services, _ = plan_rotation._ROOM.take([service] * 10_000)
    page = {"one": False, "services": services, "next": {"services": "all", **service}}
    world = EverythingIsDone(
        # An execution that fails at the very end holds the failure, too.
        {"PlanRotation": page, "ReportRotation": Failed("KeyError", "x" * 10_000)}
    )

    ended = world.run(everything.definition("TokenRotation"), ALL)

    assert (ended.status, ended.error) == ("FAILED", "UnexpectedFailure")
    _, report = world.calls[-1]
    assert len(report["rotations"]) == len(services)
    assert len(json.dumps(report, separators=(",", ":"))) < LARGEST_STATE
