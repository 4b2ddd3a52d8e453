"""The experiments can fail: with any one of the rules switched off, they find out."""

from __future__ import annotations

import pytest

from tests.faults.explore import counterexample
from tests.faults.mutations import MUTATIONS, Mutation
from tests.faults.run import Runner
from tests.faults.schedule import Schedule
from tests.faults.template import Template

_MOST_SCHEDULES = 1500
_ENOUGH_SCHEDULES = 400
"""More than any of the rules needs to be missed."""


@pytest.mark.usefixtures("_simulating")
@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_a_rule_that_is_switched_off_is_missed(mutation: Mutation, template: Template) -> None:
    with mutation.applied(template) as mutated:
        runner = Runner(mutated)
        found: object = (
            runner.run(Schedule.parse(mutation.shown_by)).violations
            if mutation.shown_by
            else counterexample(mutation.scenarios, runner, seed="1", most=_MOST_SCHEDULES)
        )
    assert found, f"nobody notices that {mutation.rule}"


def test_with_all_rules_the_same_schedules_find_nothing(runner: Runner) -> None:
    scenarios = sorted({name for one in MUTATIONS.values() for name in one.scenarios})
    assert counterexample(scenarios, runner, seed="1", most=_ENOUGH_SCHEDULES) is None
    for mutation in MUTATIONS.values():
        if mutation.shown_by:
            assert runner.run(Schedule.parse(mutation.shown_by)).violations == ()
