"""An ECS service replaces its tasks once, however often it is asked to."""

from __future__ import annotations

from typing import Any

import pytest

from handlers import redeploy_service
from handlers.core.errors import AwsAccessDenied, AwsThrottled, InvalidStepInput, StepError
from tests.unit.aws_state import EcsState, answering
from tests.unit.mesh_state import Clock, text_of
from tests.unit.steps import Steps

DESCRIBE, UPDATE = {"ecs:DescribeServices": 1}, {"ecs:UpdateService": 1}


def redeploy(steps: Steps, clock: Clock, **ago: float) -> Any:
    since = text_of(clock.ago(**ago))
    return steps.run(redeploy_service, {"ecs_service": "web", "since": since})


def test_a_service_is_deployed_again_as_it_is(ecs: EcsState, steps: Steps, clock: Clock) -> None:
    ecs.create_service("web", deployed_at=clock.ago(days=1), counts=(3, 3, 0))
    before = ecs.client.describe_services(cluster="mesh", services=["web"])["services"][0]
    assert redeploy(steps, clock, minutes=1) == {"redeployed": True}
    assert steps.remote_calls == DESCRIBE | UPDATE
    after = ecs.client.describe_services(cluster="mesh", services=["web"])["services"][0]
    assert ecs.deployed_at("web") > clock.ago(minutes=1)
    for same in ("taskDefinition", "desiredCount", "deploymentController"):
        assert after[same] == before[same]


def test_it_is_asked_for_exactly_that(
    ecs: EcsState, steps: Steps, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ecs.create_service("web", deployed_at=clock.ago(days=1))
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        ecs.client, "update_service", lambda **request: asked.append(request), raising=False
    )
    redeploy(steps, clock, minutes=1)
    (request,) = asked
    assert request["cluster"].endswith(":cluster/mesh")
    del request["cluster"]
    assert request == {"service": "web", "forceNewDeployment": True}


@pytest.mark.parametrize("seconds", [0, 30])
def test_a_service_that_was_deployed_since_is_left_alone(
    ecs: EcsState, steps: Steps, clock: Clock, seconds: int
) -> None:
    deployed_at = clock.ago(seconds=60 - seconds)
    ecs.create_service("web", deployed_at=deployed_at, rollout="IN_PROGRESS")
    assert redeploy(steps, clock, seconds=60) == {"redeployed": False}
    assert steps.remote_calls == DESCRIBE
    assert ecs.deployed_at("web") == deployed_at


def test_asked_twice_it_is_deployed_once(ecs: EcsState, steps: Steps, clock: Clock) -> None:
    ecs.create_service("web", deployed_at=clock.ago(days=1))
    assert redeploy(steps, clock, minutes=1) == {"redeployed": True}
    deployed_at = ecs.deployed_at("web")
    assert redeploy(steps, clock, minutes=1) == {"redeployed": False}
    assert ecs.deployed_at("web") == deployed_at


def test_a_service_that_is_gone_needs_no_deployment(
    ecs: EcsState, steps: Steps, clock: Clock
) -> None:
    ecs.create_cluster()
    assert redeploy(steps, clock, minutes=1) == {"redeployed": False}
    assert steps.remote_calls == DESCRIBE


@pytest.mark.parametrize("code", ["ServiceNotFoundException", "ServiceNotActiveException"])
def test_a_service_that_goes_meanwhile_needs_no_deployment(
    ecs: EcsState, steps: Steps, clock: Clock, code: str
) -> None:
    ecs.create_service("web", deployed_at=clock.ago(days=1))
    with answering(ecs.client, "UpdateService", status=400, code=code):
        assert redeploy(steps, clock, minutes=1) == {"redeployed": False}


@pytest.mark.parametrize("operation", ["DescribeServices", "UpdateService"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [("ThrottlingException", AwsThrottled), ("AccessDeniedException", AwsAccessDenied)],
)
def test_what_ecs_refuses_is_one_of_our_errors(
    ecs: EcsState,
    steps: Steps,
    clock: Clock,
    *,
    operation: str,
    code: str,
    kind: type[StepError],
) -> None:
    ecs.create_service("web", deployed_at=clock.ago(days=1))
    state = {"ecs_service": "web", "since": text_of(clock.moment)}
    with answering(ecs.client, operation, status=400, code=code):
        steps.fail(redeploy_service, state, kind)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"since": "2026-01-05T20:10:01Z"}, '"ecs_service", a string.'),
        ({"ecs_service": ["web"], "since": "2026-01-05T20:10:01Z"}, '"ecs_service", a string.'),
        ({"ecs_service": "web"}, '"since", a string.'),
        ({"ecs_service": "web", "since": "now"}, '"since", a time such as 2026-01-05T20:10:01Z.'),
    ],
    ids=str,
)
def test_a_state_that_is_not_as_documented_is_the_workflows_fault(
    steps: Steps, state: Any, message: str
) -> None:
    error = steps.fail(redeploy_service, state, InvalidStepInput)
    assert str(error) == f"The input of the step needs {message}"
    assert steps.remote_calls == {}
