"""The reports count what was found and done, for the console and as metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from handlers import report_reconciliation, report_rotation
from handlers.core.errors import InvalidStepInput
from tests.unit.steps import Steps

Log = Callable[[], list[logging.LogRecord]]
SUCCEEDED = {"status": "SUCCEEDED"}


def metrics_of(log: Log) -> dict[str, Any]:
    """Return what was published, by name."""
    (record,) = [record for record in log() if record.getMessage() == "Metrics"]
    fields = vars(record)
    (directive,) = fields["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["Cluster"]]
    assert fields["Cluster"] == "mesh"
    return {metric["Name"]: fields[metric["Name"]] for metric in directive["Metrics"]}


# --- Reconciliation ------------------------------------------------------------------------------

DRIFT: dict[str, Any] = {
    "found": 0,
    "left": 0,
    "provision": [],
    "retire": [],
    "suspects": [],
    "reasons": [],
    "next": {},
}


def drift(**counts: int) -> dict[str, Any]:
    """What a look has found."""
    return DRIFT | counts


def outcomes(succeeded: int, failed: int) -> list[dict[str, Any]]:
    """What a Map returns of its nested executions."""
    items: list[dict[str, Any]] = [{"service": f"web-{n}"} for n in range(succeeded + failed)]
    return [{**item, "run": SUCCEEDED} for item in items[:succeeded]] + items[succeeded:]


@pytest.mark.parametrize(
    ("run", "counts"),
    [
        pytest.param({"drift": DRIFT}, {}, id="nothing"),
        pytest.param({"drift": drift(found=2, left=1), "provisioned": outcomes(1, 0)},
                     {"found": 2, "repaired": 1, "left": 1},
                     id="one is repaired, the other left to an operator"),
        pytest.param({"drift": drift(found=3), "provisioned": outcomes(1, 2)},
                     {"found": 3, "repaired": 1, "left": 2}, id="two cannot be repaired"),
        pytest.param({"drift": drift(found=1), "provisioned": [],
                      "retired": {"since": "2026-01-05T20:10:01Z", "retired": 2, "left": 1}},
                     {"found": 1, "retired": 2}, id="two tokens are superseded"),
        pytest.param({"drift": drift(found=5, left=1), "provisioned": outcomes(2, 1),
                      "retired": {"since": "2026-01-05T20:10:01Z", "retired": 4, "left": 0},
                      "deletion": {"deleted": 7, "kept": 3}, "look": {"provision": []},
                      "put_back": outcomes(1, 1)},
                     {"found": 5, "repaired": 2, "retired": 4, "deleted": 7, "put_back": 1,
                      "left": 3},
                     id="everything"),
    ],
)  # fmt: skip
def test_an_execution_of_reconciliation_is_counted_as_far_as_it_got(
    steps: Steps, log: Log, run: dict[str, Any], counts: dict[str, int]
) -> None:
    expected = (
        dict.fromkeys(["found", "repaired", "retired", "deleted", "put_back", "left"], 0) | counts
    )
    assert steps.run(report_reconciliation, {"run": {"execution": "arn", **run}}) == expected
    assert metrics_of(log) == {
        "TokensFoundWrong": expected["found"],
        "TokensRepaired": expected["repaired"],
        "TokensRetired": expected["retired"],
        "TokensDeleted": expected["deleted"],
        "TokensPutBack": expected["put_back"],
        "TokensLeft": expected["left"],
    }
    assert steps.remote_calls == {}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (None, '"run", an object.'),
        ({}, '"drift.found", a number.'),
        ({"drift": {"found": 1}}, '"drift.left", a number.'),
        ({"drift": DRIFT, "retired": {}}, '"retired.retired", a number.'),
        ({"drift": DRIFT, "deletion": {"deleted": "1"}}, '"deletion.deleted", a number.'),
    ],
    ids=str,
)
def test_a_run_that_is_not_as_documented_is_the_workflows_fault(
    steps: Steps, log: Log, run: Any, message: str
) -> None:
    error = steps.fail(report_reconciliation, {"run": run}, InvalidStepInput)
    assert str(error) == f"The input of the step needs {message}"
    assert [record for record in log() if record.getMessage() == "Metrics"] == []


# --- TokenRotation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rotations", "expected"),
    [
        pytest.param([], {"rotated": 0, "left": 0, "services": []}, id="none"),
        pytest.param(outcomes(3, 0), {"rotated": 3, "left": 0, "services": []}, id="all of them"),
        pytest.param(outcomes(1, 2), {"rotated": 1, "left": 2, "services": ["web-1", "web-2"]},
                     id="one of them"),
    ],
)  # fmt: skip
def test_the_rotations_of_all_services_are_counted_and_those_that_failed_are_named(
    steps: Steps, log: Log, rotations: list[dict[str, Any]], expected: dict[str, Any]
) -> None:
    assert steps.run(report_rotation, {"rotations": rotations}) == expected
    assert metrics_of(log) == {
        "TokensRotated": expected["rotated"],
        "RotationsFailed": expected["left"],
    }
    assert steps.remote_calls == {}


@pytest.mark.parametrize(("length", "most"), [(1, 20), (256, 15)])
def test_of_many_that_failed_the_first_ones_are_named(steps: Steps, length: int, most: int) -> None:
    services = [f"{number:03}".ljust(length, "x") for number in range(400)]
    result = steps.run(report_rotation, {"rotations": [{"service": name} for name in services]})
    assert result == {"rotated": 0, "left": 400, "services": services[:most]}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, '"rotations", a list.'),
        ({"rotations": [{"token": "client"}]}, '"service", a string.'),
        ({"rotations": ["web"]}, '"service", a string.'),
    ],
    ids=str,
)
def test_rotations_that_are_not_as_documented_are_the_workflows_fault(
    steps: Steps, state: Any, message: str
) -> None:
    error = steps.fail(report_rotation, state, InvalidStepInput)
    assert str(error) == f"The input of the step needs {message}"
