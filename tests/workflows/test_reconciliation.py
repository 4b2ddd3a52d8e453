"""Reconciliation, run: what is looked at and put right, in which order, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from moto.stepfunctions.exceptions import InvalidName
from moto.stepfunctions.parser.models import StepFunctionsParserBackend

from handlers.core import findings
from handlers.core.subjects import Subject
from tests.faults.asl import LARGEST_STATE
from tests.faults.test_asl import World
from tests.synthesized import API_RULES, WEB_RULES, Deployed
from tests.workflows.engine import Engine, Failed, running
from tests.workflows.test_task_provisioning import IN_THE_MESH, STORED

RULES = {"web": WEB_RULES, "api": API_RULES}
API, CLIENT, WEB = {"service": "api"}, {"token": "client"}, {"service": "web"}


def token(subject: Mapping[str, str], number: int) -> dict[str, Any]:
    """Return a token as states pass it."""
    return {"subject": dict(subject), "accessor_id": f"{number}1111111-0000-4000-8000-000000000000"}


NOTHING: dict[str, Any] = {
    "found": 0,
    "left": 0,
    "provision": [],
    "retire": [],
    "suspects": [],
    "reasons": [],
    "next": {},
}
MISSING = {**NOTHING, "found": 3, "provision": [CLIENT, API, WEB]}
SUPERSEDED = {**NOTHING, "found": 1, "retire": [token(WEB, 1), token(WEB, 2)]}
UNUSED = {**NOTHING, "found": 1, "suspects": [token(API, 3)]}
ALL_OF_IT = {
    "found": 3,
    "left": 1,
    "provision": [WEB],
    "retire": [token(WEB, 1)],
    "suspects": [token(API, 3)],
    "reasons": [{"subject": CLIENT, "reason": "Its secret is in its recovery window."}],
    "next": {},
}
CAME_UP = {**NOTHING, "found": 1, "provision": [API]}

RETIRED = {"since": "2026-01-05T20:11:01Z", "retired": 1, "left": 0}
DELETED = {"deleted": 1, "kept": 0}
REPORT = {"found": 1, "repaired": 0, "retired": 0, "deleted": 1, "put_back": 0, "left": 0}

FROM_THE_GRACE_PERIOD_ON = [
    "Wait the grace period",
    "Delete what is still unused",
    "Wait until ECS shows new tasks",
    "Look once more",
    "Put back",
]


@pytest.fixture(scope="module")
def running_engine(everything: Deployed) -> Iterator[Engine]:
    with running(everything, "Reconciliation", "TaskProvisioning") as engine:
        yield engine


@pytest.fixture
def engine(running_engine: Engine) -> Engine:
    """The workflow, and functions that find nothing wrong, or put it right."""
    running_engine.forget()
    running_engine.script(
        FindDrift=NOTHING,
        RetireTokens=RETIRED,
        DeleteUnused=DELETED,
        ReportReconciliation=REPORT,
        CheckTags=IN_THE_MESH,
        StoreSecret=STORED,
        CreateToken={"change": "created"},
        PublishSecret={"published": True},
    )
    return running_engine


def test_mostly_nothing_is_wrong_and_that_is_reported(engine: Engine) -> None:
    ended = engine.run("Reconciliation", {})

    assert (ended.status, ended.states) == (
        "SUCCEEDED",
        ["Find drift", "Is anything wrong?", "Report", "Is there more?", "Reconciled"],
    )
    assert ended.output == {"drift": NOTHING, "report": REPORT}
    assert engine.called == ["FindDrift", "ReportReconciliation"]


def test_what_lacks_a_token_is_provisioned_each_by_an_execution_of_its_own(engine: Engine) -> None:
    engine.script(FindDrift=MISSING)

    ended = engine.run("Reconciliation", {})

    assert ended.status == "SUCCEEDED"
    assert ended.states == [
        *("Find drift", "Is anything wrong?", "Provision services"),
        *_iterations(ended.states, "Provision services", 3),
        *("Is any token superseded?", "Is any token unused?"),
        *("Report", "Is there more?", "Reconciled"),
    ]
    events = [payload["event"] for payload in engine.payloads("CheckTags")]
    assert sorted(events, key=str) == sorted([CLIENT, API, WEB], key=str)
    assert engine.called.count("PublishSecret") == 3
    assert ended.output is not None
    assert ended.output["provisioned"] == [
        {**subject, "run": {"status": "SUCCEEDED"}} for subject in (CLIENT, API, WEB)
    ]


def _iterations(states: list[str], name: str, times: int) -> list[str]:
    """Return the states of a Map's iterations, which run at the same time, as they came."""
    first = states.index(name) + 1
    inner = states[first : first + 2 * times]
    assert sorted(inner) == sorted([f"{name} one by one", f"{name} next"] * times)
    return inner


def test_one_that_can_not_be_provisioned_does_not_stop_the_others(engine: Engine) -> None:
    def check(payload: dict[str, Any]) -> dict[str, Any] | Failed:
        return Failed("SecretNameCollision") if payload["event"] == API else IN_THE_MESH

    engine.script(FindDrift=MISSING, CheckTags=check)

    ended = engine.run("Reconciliation", {})

    assert ended.status == "SUCCEEDED"
    assert ended.output is not None
    assert ended.output["provisioned"] == [
        {**CLIENT, "run": {"status": "SUCCEEDED"}},
        API,
        {**WEB, "run": {"status": "SUCCEEDED"}},
    ]
    assert engine.payload("ReportReconciliation")["run"]["provisioned"][1] == API


def test_superseded_tokens_are_marked_and_nobody_waits_for_that(engine: Engine) -> None:
    engine.script(FindDrift=SUPERSEDED)

    ended = engine.run("Reconciliation", {})

    assert ended.status == "SUCCEEDED"
    assert engine.called == ["FindDrift", "RetireTokens", "ReportReconciliation"]
    assert ended.output == {
        "drift": SUPERSEDED,
        "provisioned": [],
        "retired": RETIRED,
        "report": REPORT,
    }
    assert engine.pauses == []


def test_an_unused_token_is_looked_at_twice_before_it_goes_and_once_after(engine: Engine) -> None:
    engine.script(FindDrift=[UNUSED, NOTHING])

    ended = engine.run("Reconciliation", {})

    assert ended.status == "SUCCEEDED"
    assert ended.states == [
        *("Find drift", "Is anything wrong?", "Provision services"),
        *("Is any token superseded?", "Is any token unused?"),
        *FROM_THE_GRACE_PERIOD_ON,
        *("Report", "Is there more?", "Reconciled"),
    ]
    assert engine.called == ["FindDrift", "DeleteUnused", "FindDrift", "ReportReconciliation"]
    assert engine.pauses == [30 * 60, 30]
    assert ended.output == {
        "drift": UNUSED,
        "provisioned": [],
        "deletion": DELETED,
        "look": {"provision": []},
        "put_back": [],
        "report": REPORT,
    }


def test_what_came_up_while_its_token_was_deleted_gets_it_back(engine: Engine) -> None:
    engine.script(FindDrift=[UNUSED, CAME_UP])

    ended = engine.run("Reconciliation", {})

    assert (ended.status, ended.states[-5:]) == (
        "SUCCEEDED",
        [
            *("Put back one by one", "Put back next"),
            *("Report", "Is there more?", "Reconciled"),
        ],
    )
    assert engine.payload("CheckTags")["event"] == API
    assert ended.output is not None
    assert ended.output["look"] == {"provision": [API]}
    assert ended.output["put_back"] == [{**API, "run": {"status": "SUCCEEDED"}}]


def test_one_that_can_not_be_put_back_is_left_and_told(engine: Engine) -> None:
    engine.script(FindDrift=[UNUSED, CAME_UP], CheckTags=Failed("InvalidServiceName"))

    ended = engine.run("Reconciliation", {})

    assert ended.status == "SUCCEEDED"
    assert engine.payload("ReportReconciliation")["run"]["put_back"] == [API]


def test_repairs_come_first_then_marks_then_deletions(engine: Engine) -> None:
    engine.script(FindDrift=[ALL_OF_IT, CAME_UP])

    ended = engine.run("Reconciliation", {})

    provisioning = ["CheckTags", "StoreSecret", "CreateToken", "PublishSecret"]
    assert ended.status == "SUCCEEDED"
    assert engine.called == [
        *("FindDrift", *provisioning, "RetireTokens", "DeleteUnused"),
        *("FindDrift", *provisioning, "ReportReconciliation"),
    ]


def test_every_step_gets_what_it_reads_and_no_more(engine: Engine) -> None:
    engine.script(FindDrift=[ALL_OF_IT, NOTHING])

    ended = engine.run("Reconciliation", {})

    own = [call for call in engine.calls if call.payload["execution"] == ended.arn]
    assert ended.output is not None
    run = {key: value for key, value in ended.output.items() if key != "report"}
    assert [(call.function, call.payload) for call in own] == [
        ("FindDrift", {"execution": ended.arn, "event": {}, "service_rules": RULES}),
        ("RetireTokens", {"execution": ended.arn, "tokens": [token(WEB, 1)]}),
        ("DeleteUnused", {"execution": ended.arn, "tokens": [token(API, 3)]}),
        (
            "FindDrift",
            {
                "execution": ended.arn,
                "event": {"suspects": [token(API, 3)]},
                "service_rules": RULES,
            },
        ),
        ("ReportReconciliation", {"execution": ended.arn, "run": run}),
    ]


@pytest.mark.parametrize("given", [{"service": "web"}, {"token": "client"}, {"after": "web"}])
def test_a_person_can_start_it_for_a_part(engine: Engine, given: dict[str, str]) -> None:
    ended = engine.run("Reconciliation", given)

    assert ended.output == {**given, "drift": NOTHING, "report": REPORT}
    assert engine.payload("FindDrift")["event"] == given


def test_without_settings_the_grace_period_is_a_quarter_of_an_hour(minimal: Deployed) -> None:
    with running(minimal, "Reconciliation") as engine:
        engine.script(
            FindDrift=[UNUSED, NOTHING], DeleteUnused=DELETED, ReportReconciliation=REPORT
        )
        engine.run("Reconciliation", {})

        assert engine.pauses == [15 * 60, 30]
        assert [payload["service_rules"] for payload in engine.payloads("FindDrift")] == [{}, {}]


# --- more than a state can hold -------------------------------------------------------------------


def test_more_than_a_state_can_hold_is_left_to_a_new_execution(engine: Engine) -> None:
    engine.script(FindDrift=[{**SUPERSEDED, "next": {"after": "web"}}, NOTHING])

    ended = engine.run("Reconciliation", {})

    assert (ended.status, ended.states[-4:]) == (
        "SUCCEEDED",
        ["Report", "Is there more?", "Continue in a new execution", "Reconciled"],
    )
    first, second = engine.payloads("FindDrift")
    assert (first["event"], second["event"]) == ({}, {"after": "web"})
    assert ended.output is not None
    assert ended.output["continued"] == {"execution": second["execution"]}
    assert engine.execution(second["execution"]).output == {
        "after": "web",
        "drift": NOTHING,
        "report": REPORT,
    }


def test_if_it_can_not_go_on_the_execution_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    start: Any = StepFunctionsParserBackend.start_execution

    def refuse(self: Any, arn: str, name: str, execution_input: str, *more: Any) -> Any:
        if "after" in execution_input:
            raise InvalidName("Not now.")
        return start(self, arn, name, execution_input, *more)

    monkeypatch.setattr(StepFunctionsParserBackend, "start_execution", refuse)
    engine.script(FindDrift={**SUPERSEDED, "next": {"after": "web"}})

    ended = engine.run("Reconciliation", {})

    assert (ended.status, ended.error) == ("FAILED", "UnexpectedFailure")
    assert ended.states[-2:] == ["Continue in a new execution", "Failed unexpectedly"]
    assert "Not now." in json.loads(ended.cause or "")["Cause"]


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
def test_the_most_that_a_look_may_find_fits_into_every_state(
    everything: Deployed, length: int
) -> None:
    service = Subject(service="a" * length).to_state()
    entries: dict[str, Any] = {
        "provision": service,
        "retire": token(service, 1),
        "suspects": token(service, 2),
        "reasons": {"subject": service, "reason": "x" * findings._LONGEST_REASON},
    }
    full = {kind: room.take([entries[kind]] * 10_000)[0] for kind, room in findings._ROOM.items()}
    assert all(full.values())
    drift = {"found": 99_999, "left": 99_999, **full, "next": {"after": service["service"]}}
    world = EverythingIsDone(
        {
            "FindDrift": [drift, drift],
            "RetireTokens": RETIRED,
            "DeleteUnused": DELETED,
            # An execution that fails at the very end holds the failure, too.
            "ReportReconciliation": Failed("KeyError", "x" * 10_000),
        }
    )

    ended = world.run(everything.definition("Reconciliation"), {"after": service["service"]})

    assert (ended.status, ended.error) == ("FAILED", "UnexpectedFailure")
    _, report = world.calls[-1]
    assert len(json.dumps(report, separators=(",", ":"))) < LARGEST_STATE


# --- what goes wrong ------------------------------------------------------------------------------

_STEPS: dict[str, tuple[str, list[Any]]] = {
    "Find drift": ("FindDrift", []),
    "Retire superseded tokens": ("RetireTokens", []),
    "Delete what is still unused": ("DeleteUnused", []),
    "Look once more": ("FindDrift", [ALL_OF_IT]),
    "Report": ("ReportReconciliation", []),
}


@pytest.mark.parametrize("state", _STEPS)
@pytest.mark.parametrize(
    ("error", "end"),
    [
        ("ConsulUnavailable", "Gave up waiting"),
        ("ConsulPermissionDenied", "Needs an operator"),
    ],
)
def test_wherever_it_fails_the_execution_says_why(
    engine: Engine, state: str, error: str, end: str
) -> None:
    failure = Failed(error, f"{state} did not work.")
    function, answers_before = _STEPS[state]
    engine.script(FindDrift=[ALL_OF_IT, NOTHING])
    engine.script(**{function: [*answers_before, failure]})

    ended = engine.run("Reconciliation", {})

    assert (ended.status, ended.states[-2:]) == ("FAILED", [state, end])
    assert (ended.error, ended.cause) == (error, failure.cause)
    assert engine.called[-1] == function


@pytest.mark.parametrize("state", _STEPS)
def test_a_fault_of_ours_ends_the_execution_with_all_that_is_known_of_it(
    engine: Engine, state: str
) -> None:
    failure = Failed("KeyError", "'drift'")
    function, answers_before = _STEPS[state]
    engine.script(FindDrift=[ALL_OF_IT, NOTHING])
    engine.script(**{function: [*answers_before, failure]})

    ended = engine.run("Reconciliation", {})

    assert ended.states[-2:] == [state, "Failed unexpectedly"]
    assert ended.error == "UnexpectedFailure"
    assert json.loads(ended.cause or "") == {"Error": failure.error, "Cause": failure.cause}


@pytest.mark.parametrize(
    "error", ["InvalidEvent", "InvalidServiceName", "SecretNameCollision", "UnsupportedTenancy"]
)
def test_what_can_not_be_an_input_is_said_so_at_once(engine: Engine, error: str) -> None:
    failure = Failed(error, 'service must be the name of a service, a text; it is "Web".')
    engine.script(FindDrift=failure)

    ended = engine.run("Reconciliation", {"service": "Web"})

    assert (ended.status, ended.states) == ("FAILED", ["Find drift", "The input is wrong"])
    assert (ended.error, ended.cause) == (error, failure.cause)
    assert engine.waits == []


def test_a_step_that_fails_for_a_while_is_tried_until_it_works(engine: Engine) -> None:
    engine.script(
        FindDrift=[Failed("ClusterNotBootstrapped"), Failed("Sandbox.Timedout"), UNUSED, NOTHING],
        DeleteUnused=[Failed("AwsThrottled"), Failed("ConsulUnavailable"), DELETED],
    )

    ended = engine.run("Reconciliation", {})

    assert ended.status == "SUCCEEDED"
    assert engine.waits == [1, 2, 1, 2]
    tried = engine.payloads("DeleteUnused")
    assert tried == [tried[0]] * 3


def test_any_number_of_executions_may_run(engine: Engine) -> None:
    engine.script(FindDrift=SUPERSEDED)

    first, second = (engine.run("Reconciliation", {}) for _ in range(2))

    assert first.output == second.output
    assert first.arn != second.arn
