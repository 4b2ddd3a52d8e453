"""Tens of thousands of schedules, and no rule is broken in any.

`make faults` explores for longer. What a failure names is a schedule: replay it with
`make faults ARGS='--replay "…"'`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.faults import report
from tests.faults.calls import CALLS
from tests.faults.explore import Explorer, Tally, missing_cells, shortest_of
from tests.faults.kinds import FAULTS
from tests.faults.run import Runner
from tests.faults.scenarios import SCENARIOS
from tests.faults.template import Template

# Minutes, if the machine has other things to do.
pytestmark = pytest.mark.timeout(1200)

SCHEDULES = 20_000
PROCESSES = 2


@pytest.fixture(scope="module")
def explored(template: Template) -> tuple[Tally, float]:
    """What the schedules have shown, and how many seconds they took."""
    began = time.monotonic()
    explorer = Explorer(template, PROCESSES, lambda _: None)
    tally = explorer.explore(list(SCENARIOS), seed="1", schedules=SCHEDULES)
    return tally, time.monotonic() - began


def test_no_schedule_breaks_a_rule(explored: tuple[Tally, float], runner: Runner) -> None:
    tally, _ = explored
    shortest = shortest_of(tally, runner)
    assert shortest is None, "\n".join(report.verdict(tally, shortest))
    assert tally.schedules >= SCHEDULES


def test_every_call_of_every_step_was_made(explored: tuple[Tally, float]) -> None:
    tally, _ = explored
    made: dict[str, set[str]] = {}
    for step, call in tally.reached:
        made.setdefault(step, set()).add(call)
    assert made == {step: set(calls) for step, calls in CALLS.items()}


def test_every_fault_has_hit_every_call_that_it_can_hit(explored: tuple[Tally, float]) -> None:
    tally, _ = explored
    assert missing_cells(tally) == []
    assert {fault for _, _, fault in tally.injected} == {fault.name for fault in FAULTS}


def test_every_way_to_take_turns_was_tried(explored: tuple[Tally, float]) -> None:
    tally, _ = explored
    assert {turn for turn, times in tally.turns.items() if times} == {
        "again",
        "delay",
        "first",
        "stop",
    }


def test_the_report_has_a_row_for_each_call(
    explored: tuple[Tally, float], tell: Callable[[str], None]
) -> None:
    tally, seconds = explored
    lines = list(report.lines(tally, seconds=seconds, shortest=None))
    tell(lines[0])
    tell(f"{lines[-1]} The whole report: make faults")
    for step, call in tally.reached:
        assert any(line.startswith(f"{step}  {call} ") for line in lines)
