"""What a step is given: by ECS, CloudFormation, people, and the state before."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core.errors import InvalidStepInput
from tests.bad_input.mutations import ANY_JSON, Edit, Path, edited, edits, odd
from tests.bad_input.profile import examples
from tests.bad_input.steps import SCENARIOS, Scenario, all_steps, likely_mistakes
from tests.bad_input.world import SIGNATURE, check, world


@cache
def _mistakes() -> st.SearchStrategy[list[Edit]]:
    return edits(odd(*likely_mistakes()))


def test_every_step_is_given_bad_input() -> None:
    assert sorted({scenario.step for scenario in SCENARIOS}) == all_steps()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_step_takes_its_valid_input(scenario: Scenario) -> None:
    scene, state = scenario.begin()

    outcome = scene.run(scenario.step, state)

    assert outcome.error is None
    check(outcome)


@pytest.mark.parametrize("step", all_steps())
@examples(40)
@given(event=ANY_JSON)
def test_any_json_gives_a_documented_error_or_a_result(step: str, event: Any) -> None:
    scene = world()
    scene.reset()

    outcome = scene.run(step, event)

    check(outcome)
    if not isinstance(event, dict):
        assert type(outcome.error) is InvalidStepInput
        assert outcome.calls == ()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
@examples(50)
@given(data=st.data())
def test_an_input_that_is_almost_right_loses_nothing(
    scenario: Scenario, data: st.DataObject
) -> None:
    scene, state = scenario.begin()
    state = edited(state, data.draw(_mistakes()), may=_keeps_the_secret_where_it_is)

    check(scene.run(scenario.step, state))


def _keeps_the_secret_where_it_is(path: Path, old: Any, new: Any) -> bool:
    del path, old
    return SIGNATURE not in str(new)
