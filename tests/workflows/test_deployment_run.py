"""DeploymentRun, run: CloudFormation hears how the workflow ended, whichever way it did."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.synthesized import Deployed
from tests.workflows.engine import Engine, Execution, Failed, running
from tests.workflows.test_cluster_bootstrap import prepare

REQUEST = {"response_url": "https://example.com/answer", "request_id": "r-1"}


@pytest.fixture(scope="module")
def running_engine(minimal: Deployed) -> Iterator[Engine]:
    with running(minimal, "ClusterBootstrap", "DeploymentRun") as engine:
        yield engine


@pytest.fixture
def engine(running_engine: Engine) -> Engine:
    """The workflow, a bootstrap that succeeds, and a CloudFormation that listens."""
    prepare(running_engine).script(AnswerCloudFormation={})
    return running_engine


SETTLE = "Wait until the deployment is known everywhere"


def run(engine: Engine) -> tuple[Execution, Execution]:
    """Run it as a deployment does; return it, and the execution that it started."""
    bootstrap = engine.deployed.place.arn("states", "stateMachine:ClusterBootstrap")
    state = {
        "request": REQUEST,
        "state_machine_arn": bootstrap,
        "input": {"why": "deployment"},
        "settle_seconds": 0,
    }
    ended = engine.run("DeploymentRun", state)
    # Both have the same name: that of CloudFormation's request.
    nested = ended.arn.replace(":DeploymentRun:", ":ClusterBootstrap:")
    return ended, engine.execution(nested)


def test_after_a_success_cloudformation_hears_so_and_goes_on(engine: Engine) -> None:
    ended, nested = run(engine)

    assert (ended.status, ended.states) == (
        "SUCCEEDED",
        [SETTLE, "Run the workflow", "Report success", "The deployment goes on"],
    )
    assert engine.payload("AnswerCloudFormation") == {"execution": ended.arn, "request": REQUEST}
    assert engine.called[-1] == "AnswerCloudFormation"
    assert nested.status == "SUCCEEDED"


def test_the_workflow_gets_the_input_that_the_deployment_has_for_it(engine: Engine) -> None:
    _, nested = run(engine)

    assert nested.output is not None
    assert nested.output["why"] == "deployment"


def test_its_result_is_short_and_the_outputs_of_the_workflow_stay_there(engine: Engine) -> None:
    ended, nested = run(engine)

    assert ended.output is not None
    assert ended.output["run"] == {"execution": nested.arn, "status": "SUCCEEDED"}


def test_after_a_failure_cloudformation_hears_why_and_the_run_fails_too(engine: Engine) -> None:
    failure = Failed("ConsulAclDisabled", "Start the servers with ACLs.")
    engine.script(CheckConsul=failure)

    ended, nested = run(engine)

    assert (ended.status, ended.states) == (
        "FAILED",
        [SETTLE, "Run the workflow", "Report failure", "The deployment fails"],
    )
    payload = engine.payload("AnswerCloudFormation")
    assert set(payload) == {"execution", "request", "failure"}
    assert (payload["execution"], payload["request"]) == (ended.arn, REQUEST)
    assert payload["failure"]["Error"] == "States.TaskFailed"
    told = json.loads(payload["failure"]["Cause"])
    assert (told["ExecutionArn"], told["Status"]) == (nested.arn, "FAILED")
    assert (told["Error"], told["Cause"]) == (failure.error, failure.cause)
    assert ended.error == "WorkflowFailed"
    assert json.loads(ended.cause or "") == payload["failure"]


def test_cloudformation_is_told_again_until_it_listens(engine: Engine) -> None:
    engine.script(AnswerCloudFormation=[Failed("AwsUnavailable"), Failed("Lambda.Unknown"), {}])

    ended, _ = run(engine)

    assert ended.status == "SUCCEEDED"
    assert engine.waits == [1, 2]


@pytest.mark.parametrize(
    ("bootstrap", "report"),
    [
        ({"leader": "10.0.0.1:8300"}, "Report success"),
        (Failed("ConsulAclDisabled"), "Report failure"),
    ],
)
def test_if_cloudformation_can_not_be_told_the_run_says_so(
    engine: Engine, bootstrap: dict[str, str] | Failed, report: str
) -> None:
    failure = Failed("AwsRequestRefused", "The URL has expired.")
    engine.script(CheckConsul=bootstrap, AnswerCloudFormation=failure)

    ended, _ = run(engine)

    assert ended.states == [SETTLE, "Run the workflow", report, "CloudFormation got no answer"]
    assert (ended.status, ended.error) == ("FAILED", "CloudFormationNotAnswered")
    assert json.loads(ended.cause or "") == {"Error": failure.error, "Cause": failure.cause}
