"""As much of a look as one state can hold, and where another execution goes on."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from handlers.core.drift import Verdict
from handlers.core.findings import Findings
from handlers.core.subjects import CLIENT, CONTROLLER, Subject

WEB, API = Subject(service="web"), Subject(service="api")
QUARTER_MIB = 256 * 1024
LONGEST = 256


def ids(count: int) -> tuple[str, ...]:
    return tuple(str(uuid.UUID(int=number)) for number in range(count))


def service(number: int, *, length: int = 0) -> Subject:
    """The service of a number; their names are in the order of their numbers."""
    return Subject(service=f"{number:05}".ljust(length, "x"))


def collected(*found: tuple[Subject, Verdict]) -> dict[str, Any]:
    findings = Findings()
    for subject, verdict in found:
        findings.add(subject, verdict)
    return findings.to_state()


def named(subject: dict[str, str], *accessor_ids: str) -> list[dict[str, Any]]:
    return [{"subject": subject, "accessor_id": accessor_id} for accessor_id in accessor_ids]


NOTHING: dict[str, Any] = {
    "found": 0,
    "left": 0,
    "provision": [],
    "retire": [],
    "suspects": [],
    "reasons": [],
    "next": {},
}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert collected() == NOTHING
    assert collected((CLIENT, Verdict()), (WEB, Verdict())) == NOTHING


def test_what_is_wrong_is_collected_by_what_is_to_be_done() -> None:
    one, two, three = ids(3)
    assert collected(
        (CLIENT, Verdict(provision=True, retire=(one,))),
        (CONTROLLER, Verdict(suspects=(two,))),
        (API, Verdict(left="The secret acme-api is binary; a string is needed.")),
        (WEB, Verdict(provision=True, retire=(three,), suspects=(one, two))),
    ) == {
        "found": 4,
        "left": 1,
        "provision": [{"token": "client"}, {"service": "web"}],
        "retire": [*named({"token": "client"}, one), *named({"service": "web"}, three)],
        "suspects": [
            *named({"token": "controller"}, two),
            *named({"service": "web"}, one, two),
        ],
        "reasons": [
            {
                "subject": {"service": "api"},
                "reason": "The secret acme-api is binary; a string is needed.",
            }
        ],
        "next": {},
    }


# --- full ----------------------------------------------------------------------------------------


def fill(verdict: Verdict, *, length: int = 0) -> tuple[Findings, int]:
    """Add services with the same verdict until a state is full; return how many it holds."""
    findings = Findings()
    for number in range(10_000):
        findings.add(service(number, length=length), verdict)
        if findings.is_full:
            return findings, number
    raise AssertionError("it never gets full")


def fitting(subject: Subject) -> int:
    """Return how many suspects of a subject there is room for."""
    (entry,) = named(subject.to_state(), *ids(1))
    return 50_000 // (len(json.dumps(entry)) + 1)


SUSPECTS = fitting(service(0))


@pytest.mark.parametrize(
    ("verdict", "most"),
    [
        pytest.param(Verdict(provision=True), 400, id="provision"),
        pytest.param(Verdict(retire=ids(1)), 100, id="retire"),
        pytest.param(Verdict(suspects=ids(1)), SUSPECTS, id="suspects"),
        pytest.param(Verdict(provision=True, retire=ids(1), suspects=ids(1)), 100, id="all"),
    ],
)
def test_a_full_state_says_where_to_go_on(verdict: Verdict, most: int) -> None:
    findings, held = fill(verdict)
    assert held == most
    state = findings.to_state()
    assert state["found"] == most
    assert state["next"] == {"after": service(most - 1).service}


def test_a_full_state_takes_no_more_of_anything() -> None:
    findings, _ = fill(Verdict(retire=ids(1)))
    before = findings.to_state()
    for verdict in (Verdict(provision=True), Verdict(left="x"), Verdict(), Verdict(retire=ids(1))):
        findings.add(Subject(service="zzz"), verdict)
    assert findings.to_state() == before


def test_a_subject_that_does_not_fit_is_not_taken_in_part() -> None:
    findings = Findings()
    findings.add(API, Verdict(retire=ids(70)))
    findings.add(WEB, Verdict(provision=True, retire=ids(31), left="no"))
    state = findings.to_state()
    assert findings.is_full
    assert (state["found"], state["left"], state["provision"]) == (1, 0, [])
    assert len(state["retire"]) == 70
    assert state["next"] == {"after": "api"}


def test_the_executions_together_hold_everything_once() -> None:
    verdict = Verdict(provision=True, retire=ids(1), suspects=ids(2))
    todo = [service(number, length=40) for number in range(1000)]
    held: list[dict[str, str]] = []
    executions = 0
    while todo:
        findings = Findings()
        for subject in todo:
            findings.add(subject, verdict)
        state = findings.to_state()
        held += state["provision"]
        after = state["next"].get("after")
        todo = [subject for subject in todo if after is not None and subject.service > after]
        executions += 1
    assert held == [service(number, length=40).to_state() for number in range(1000)]
    assert executions > 4


@pytest.mark.parametrize("subject", [CLIENT, WEB], ids=str)
@pytest.mark.parametrize("kind", ["retire", "suspects"])
def test_of_a_first_subject_that_is_too_large_alone_as_much_is_taken_as_fits(
    subject: Subject, kind: str
) -> None:
    findings = Findings()
    many = ids(2000)
    verdict = Verdict(retire=many) if kind == "retire" else Verdict(suspects=many)
    findings.add(subject, verdict)
    state = findings.to_state()
    most = 100 if kind == "retire" else fitting(subject)
    assert state[kind] == named(subject.to_state(), *many[:most])
    # The rest is found again when these are gone: nothing to go on with.
    assert (state["found"], state["next"]) == (1, {})


def test_after_a_first_subject_that_is_too_large_others_may_still_fit() -> None:
    findings = Findings()
    findings.add(API, Verdict(suspects=ids(2000)))
    findings.add(WEB, Verdict(provision=True))
    findings.add(Subject(service="x"), Verdict(suspects=ids(1)))
    state = findings.to_state()
    assert state["provision"] == [{"service": "web"}]
    assert state["next"] == {"after": "web"}


# --- reasons -------------------------------------------------------------------------------------


def test_reasons_that_do_not_fit_are_counted_and_end_nothing() -> None:
    findings = Findings()
    for number in range(500):
        findings.add(service(number), Verdict(left="The secret is binary."))
    state = findings.to_state()
    assert (state["found"], state["left"], len(state["reasons"])) == (500, 500, 20)
    assert state["next"] == {}


def test_a_long_reason_is_cut() -> None:
    (reason,) = collected((WEB, Verdict(left="x" * 5000)))["reasons"]
    assert reason == {"subject": {"service": "web"}, "reason": "x" * 400}


# --- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verdict",
    [
        pytest.param(Verdict(provision=True), id="provision"),
        pytest.param(Verdict(retire=ids(3)), id="retire"),
        pytest.param(Verdict(suspects=ids(7)), id="suspects"),
        pytest.param(Verdict(left="é" * 5000), id="reasons"),
        pytest.param(
            Verdict(provision=True, retire=ids(2), suspects=ids(5), left="é" * 5000), id="all"
        ),
    ],
)
@pytest.mark.parametrize("length", [0, 63, LONGEST])
def test_whatever_is_found_fits_into_a_state_with_all_that_the_workflow_adds(
    verdict: Verdict, length: int
) -> None:
    findings = Findings()
    for number in range(2000):
        findings.add(service(number, length=length), verdict)
    state = findings.to_state()
    size = len(json.dumps(state))
    assert size < 120_000
    # The Maps name each subject once more, with how its execution ended: so do all of them.
    result = {"run": {"status": "SUCCEEDED"}}
    run = {
        "drift": state,
        "provisioned": [subject | result for subject in state["provision"]],
        "retired": {"since": "2026-01-05T20:10:01Z", "retired": 200, "left": 0},
        "deletion": {"deleted": 1000, "kept": 0},
        "look": {"provision": state["provision"]},
        "put_back": [subject | result for subject in state["provision"]],
    }
    assert len(json.dumps({"run": run, "execution": "x" * 500})) < QUARTER_MIB
