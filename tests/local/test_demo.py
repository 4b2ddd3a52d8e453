"""The demonstration notices whatever is not as the tasks' tags demand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.demo import (
    LEGACY,
    PAYMENTS,
    REPORT,
    STOREFRONT,
    STOREFRONT_AGAIN,
    DemoResult,
    DemoTask,
    TaskResult,
    TokenFrom,
)
from local.proof import Proof
from local.tasks import Execution

STARTED = datetime(2026, 1, 1, tzinfo=UTC)
PROOF = Proof("accessor-1", own_service_allowed=True, other_service_refused=True)
WITH_TOKEN = {
    "task": {"mesh": True, "service_name": "storefront", "secret": {"id": "consul-storefront"}}
}
CALLS = {"not_mesh": {"ecs:DescribeTasks": 1}}


def execution(number: int, output: dict[str, Any], error: str | None = None) -> Execution:
    return Execution(
        arn=f"execution-{number}",
        task_arn="task/1",
        service=None,
        status="FAILED" if error else "SUCCEEDED",
        error=error,
        started=STARTED,
        stopped=STARTED + timedelta(seconds=number),
        output=output,
    )


def result(
    task: DemoTask, *executions: Execution, secret: str | None = None, proof: Proof | None = None
) -> TaskResult:
    return TaskResult(
        task=task,
        task_arn="task/1",
        started=STARTED,
        executions=executions,
        expected_secret=secret,
        proof=proof,
        last_status="RUNNING",
        token_from=task.token_from,
    )


def storefront(output: dict[str, Any] = WITH_TOKEN, task: DemoTask = STOREFRONT) -> TaskResult:
    executions = execution(1, output), execution(2, output)
    return result(task, *executions, secret="consul-storefront", proof=PROOF)


def payments() -> TaskResult:
    task = {"service_name": "payments", "secret": {"id": "consul-payments"}}
    executions = execution(1, provisioned(**task)), execution(2, provisioned(**task))
    found = result(PAYMENTS, *executions, secret="consul-payments", proof=PROOF)
    return replace(found, token_before_service=True)


def provisioned(**changed: Any) -> dict[str, Any]:
    return {"task": WITH_TOKEN["task"] | changed}


def not_mesh() -> TaskResult:
    output = {"task": {"mesh": False}}
    return result(REPORT, execution(1, output), execution(2, output))


def legacy() -> TaskResult:
    executions = (execution(number, {}, "InvalidServiceName") for number in (1, 2))
    return result(LEGACY, *executions)


def test_a_right_outcome_has_no_problems() -> None:
    again = storefront(task=STOREFRONT_AGAIN)
    outcome = DemoResult([storefront(), again, payments(), not_mesh(), legacy()], CALLS)

    assert outcome.problems() == []


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        pytest.param(
            storefront(provisioned(service_name="storefront-v2")),
            "storefront-v2: its service is storefront-v2, not storefront.",
            id="another service",
        ),
        pytest.param(
            storefront(provisioned(secret={"id": "consul-other"})),
            "storefront-v2: its secret is consul-other, not consul-storefront.",
            id="another secret",
        ),
        pytest.param(
            replace(
                storefront(),
                executions=(execution(1, WITH_TOKEN), execution(2, {}, "ForeignObject")),
            ),
            "storefront-v2: the workflow execution-2 ended ('FAILED', 'ForeignObject'), "
            "not ('SUCCEEDED', None).",
            id="one of two executions failed",
        ),
        pytest.param(
            replace(
                legacy(),
                executions=(
                    execution(1, {}, "InvalidServiceName"),
                    execution(2, {}, "ConsulUnavailable"),
                ),
            ),
            "Legacy_API: the workflow execution-2 ended ('FAILED', 'ConsulUnavailable'), "
            "not ('FAILED', 'InvalidServiceName').",
            id="another error",
        ),
        pytest.param(
            replace(storefront(), proof=replace(PROOF, own_service_allowed=False)),
            "storefront-v2: its token may not register its service.",
            id="own service refused",
        ),
        pytest.param(
            replace(storefront(), proof=replace(PROOF, other_service_refused=False)),
            "storefront-v2: its token may register another service.",
            id="other service allowed",
        ),
        pytest.param(
            replace(storefront(), proof=None),
            "storefront-v2: there is no token to prove.",
            id="no token",
        ),
        pytest.param(
            replace(
                not_mesh(),
                executions=(execution(1, {"task": {"secret": {"id": "consul-nightly-report"}}}),),
            ),
            "nightly-report: its secret is consul-nightly-report, not None.",
            id="a secret where none should be",
        ),
        pytest.param(
            replace(storefront(), last_status="STOPPED"),
            "storefront-v2: it is STOPPED, not RUNNING.",
            id="not running",
        ),
        pytest.param(
            replace(payments(), token_from=TokenFrom.EVENT),
            "payments: its token is from the event, not the deployment.",
            id="the token came with the task",
        ),
        pytest.param(
            replace(payments(), token_before_service=False),
            "payments: its token was not there before its ECS service was created.",
            id="the service was created before the token",
        ),
        pytest.param(
            replace(payments(), attempts=2),
            "payments: it was RUNNING at attempt 2, not at the first.",
            id="the first task found no token",
        ),
    ],
)
def test_a_wrong_outcome_of_a_task_is_named(wrong: TaskResult, problem: str) -> None:
    assert DemoResult([wrong], CALLS).problems() == [problem]


def test_a_service_may_try_again_while_its_event_makes_the_token() -> None:
    assert DemoResult([replace(storefront(), attempts=2)], CALLS).problems() == []


def test_two_tokens_of_one_service_are_named() -> None:
    other = replace(storefront(), proof=replace(PROOF, accessor_id="accessor-2"))

    assert DemoResult([storefront(), other], CALLS).problems() == [
        "storefront: its tasks have different tokens, accessor-1, accessor-2."
    ]


def test_calls_over_budget_are_named() -> None:
    calls = {"known_service": {"consul:GET /v1/acl/token/:accessor_id": 2, "ecs:DescribeTasks": 1}}

    assert DemoResult([], calls).problems() == [
        "known_service: 2 calls of consul, and the budget is 1."
    ]


def test_calls_that_were_not_counted_are_named() -> None:
    assert DemoResult([], {"new_service": {}}).problems() == ["new_service: no calls were counted."]
