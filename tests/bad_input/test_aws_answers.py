"""What ECS, Secrets Manager and the other services of AWS answer, and what tasks have for tags."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core import names
from tests.bad_input.answers import (
    AWS_FAILURES,
    AWS_GARBAGE,
    AWS_REFUSALS,
    UNREADABLE,
    not_done,
    scenarios_that_call,
    tampered,
)
from tests.bad_input.mutations import ODD_TEXTS
from tests.bad_input.profile import examples
from tests.bad_input.steps import SCENARIOS, Scenario
from tests.bad_input.world import PREFIX, World, check, task_arn

SERVICES: Final = ("ecs", "secretsmanager", "stepfunctions", "cloudformation", "s3", "kms")
CASES: Final = [
    pytest.param(service, scenario, id=f"{service}, {scenario}")
    for service in SERVICES
    for scenario in scenarios_that_call(service)
]

REFUSALS: Final = AWS_REFUSALS | AWS_FAILURES

TAG_TEXTS: Final = (
    st.sampled_from([text for text in ODD_TEXTS if "\ud800" not in text and "\udfff" not in text])
    | st.sampled_from(
        ["true", "True", "false", "web", "api", "new", "default", "consul-client-token"]
    )
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
TAG_KEYS: Final = (
    st.sampled_from(
        [
            names.MESH_TAG,
            names.SERVICE_NAME_TAG,
            names.PARTITION_TAG,
            names.NAMESPACE_TAG,
            names.CLUSTER_TAG,
            names.MESH_TAG.upper(),
            f" {names.MESH_TAG}",
        ]
    )
    | TAG_TEXTS
)
TAGS: Final = st.builds(
    lambda tags, mesh: {**tags, names.MESH_TAG: "true"} if mesh else tags,
    st.dictionaries(TAG_KEYS, TAG_TEXTS, max_size=4),
    st.booleans(),
)
FAMILIES: Final = st.sampled_from(
    ["web", "Web", "new_family", "-", "_x", "a" * 255, "A-1_b", "consul-client-token", "0"]
)


@pytest.mark.parametrize(("service", "scenario"), CASES)
@examples(20)
@given(data=st.data())
def test_a_member_that_is_missing_or_of_another_type_loses_nothing(
    service: str, scenario: Scenario, data: st.DataObject
) -> None:
    scene, state = scenario.begin()
    tampering = data.draw(tampered(scenario, service, UNREADABLE))

    check(scene.run(scenario.step, state, tampering))


@pytest.mark.parametrize(("service", "scenario"), CASES)
@examples(20)
@given(data=st.data())
def test_an_answer_that_is_not_one_of_the_service_loses_nothing(
    service: str, scenario: Scenario, data: st.DataObject
) -> None:
    scene, state = scenario.begin()
    tampering = data.draw(not_done(scenario, service, AWS_GARBAGE))

    check(scene.run(scenario.step, state, tampering))


@pytest.mark.parametrize(("service", "scenario"), CASES)
@examples(20)
@given(data=st.data())
def test_a_refusal_of_any_kind_loses_nothing(
    service: str, scenario: Scenario, data: st.DataObject
) -> None:
    scene, state = scenario.begin()
    tampering = data.draw(not_done(scenario, service, REFUSALS))

    check(scene.run(scenario.step, state, tampering))


# --- tags ----------------------------------------------------------------------------------------


def _scenario(step: str, name: str) -> tuple[World, dict[str, Any]]:
    return next(one for one in SCENARIOS if (one.step, one.name) == (step, name)).begin()


@examples(200)
@given(tags=TAGS, family=FAMILIES)
def test_a_task_with_any_tags_gets_the_secret_of_a_valid_name_or_none(
    tags: dict[str, str], family: str
) -> None:
    scene, state = _scenario("check_tags", "an event of ECS")
    scene.set_tags(task_arn("web-1"), tags, family)

    outcome = scene.run("check_tags", state)

    check(outcome)
    if outcome.result is not None and outcome.result["mesh"]:
        service = outcome.result["service_name"]
        assert service in {tags.get(names.SERVICE_NAME_TAG), family}
        assert tags[names.MESH_TAG] == "true"
        assert names.is_valid_service_name(service)
        assert outcome.result["secret"]["id"] == f"{PREFIX}-{service}"
        assert outcome.result["secret"]["id"] not in {
            names.client_secret_name(PREFIX),
            names.controller_secret_name(PREFIX),
        }


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("find_drift", "everything"),
        ("delete_unused", "suspects of all kinds"),
        ("check_redeployments", "the client's"),
    ],
)
@examples(60)
@given(tags=TAGS, family=FAMILIES)
def test_a_task_with_any_tags_does_no_harm_to_others(
    step: str, name: str, tags: dict[str, str], family: str
) -> None:
    scene, state = _scenario(step, name)
    scene.set_tags(task_arn("cron"), tags, family)

    outcome = scene.run(step, state)

    assert outcome.error is None
    check(outcome)


@pytest.mark.parametrize("count", [50, 5000])
def test_many_tags_are_read(count: int) -> None:
    scene, state = _scenario("check_tags", "an event of ECS")
    tags = {f"key-{number}": "value" * 50 for number in range(count)}
    scene.set_tags(task_arn("web-1"), {**tags, names.MESH_TAG: "true"}, "web")

    outcome = scene.run("check_tags", state)

    assert outcome.result is not None
    assert outcome.result["service_name"] == "web"
    check(outcome)


@pytest.mark.parametrize("page", [1, 7, 100])
def test_tasks_on_many_pages_keep_their_tokens(page: int) -> None:
    scene, state = _scenario("delete_unused", "suspects of all kinds")
    scene.add_tasks({names.MESH_TAG: "true", names.SERVICE_NAME_TAG: "batch"}, 120, page=page)

    outcome = scene.run("delete_unused", state)

    assert outcome.result == {"deleted": 0, "kept": 5}
    check(outcome)
