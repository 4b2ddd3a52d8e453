"""ServerSnapshot and SnapshotRestore, run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.snapshot_stack import INTENTIONS
from tests.synthesized import Deployed
from tests.workflows.asl import State
from tests.workflows.engine import Answer, Engine, Failed, running

SAVED = {"key": "consul/mesh/20260105T201001Z-16.snap", "bytes": 4096, "index": 16}
RESTORED = {
    "key": SAVED["key"],
    "index": 16,
    "bootstrapped": True,
    "forgotten": ["consul-server-1"],
}


@pytest.fixture
def deployed(snapshots_stack: Deployed) -> Deployed:
    return snapshots_stack


@pytest.fixture(params=["ServerSnapshot", "SnapshotRestore"])
def definition(deployed: Deployed, request: pytest.FixtureRequest) -> State:
    return deployed.definition(request.param)


def test_a_restore_waits_longer_for_clusterbootstrap_than_that_takes(
    deployed: Deployed, minimal: Deployed
) -> None:
    run = deployed.definition("SnapshotRestore")["States"]["Run ClusterBootstrap"]

    assert run["TimeoutSeconds"] > minimal.definition("ClusterBootstrap")["TimeoutSeconds"]


def test_an_execution_has_time_for_all_retries(definition: State) -> None:
    longest = 0
    for state in definition["States"].values():
        if state["Type"] == "Task":
            retries = state.get("Retry", [{"MaxAttempts": 0, "MaxDelaySeconds": 0}])[0]
            attempts = retries["MaxAttempts"] + 1
            longest += attempts * state["TimeoutSeconds"]
            longest += retries["MaxAttempts"] * retries["MaxDelaySeconds"]

    assert longest < definition["TimeoutSeconds"]


# --- run -----------------------------------------------------------------------------------------

MACHINES = (
    *("ServerSnapshot", "SnapshotRestore"),
    *("ClusterBootstrap", "Reconciliation", "ServiceIntention"),
)


@pytest.fixture(scope="module")
def running_engine(snapshots_stack: Deployed) -> Iterator[Engine]:
    with running(snapshots_stack, *MACHINES) as engine:
        yield engine


@pytest.fixture
def engine(running_engine: Engine) -> Engine:
    """The workflows, and functions with which all is well."""
    running_engine.forget()
    running_engine.script(
        SaveSnapshot=SAVED,
        RestoreSnapshot=RESTORED,
        ClusterBootstrapEnd={},
        ReconciliationEnd={},
        ServiceIntentionEnd={},
    )
    return running_engine


def test_the_output_says_what_was_stored(engine: Engine) -> None:
    ended = engine.run("ServerSnapshot", {})

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "Snapshot taken")
    assert ended.output == {"snapshot": SAVED}
    assert engine.payload("SaveSnapshot") == {"execution": ended.arn}


@pytest.mark.parametrize("event", [{}, {"snapshot": SAVED["key"]}])
def test_after_a_restore_clusterbootstrap_runs_and_then_reconciliation_of_everything(
    engine: Engine, event: dict[str, Any]
) -> None:
    ended = engine.run("SnapshotRestore", event)

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "Snapshot restored")
    assert engine.called[:2] == ["RestoreSnapshot", "ClusterBootstrapEnd"]
    assert engine.called.count("ReconciliationEnd") == 1
    assert engine.payload("RestoreSnapshot") == {"execution": ended.arn, "event": event}
    # Reconciliation takes {} for everything; another input is another one, or is refused.
    assert engine.payload("ClusterBootstrapEnd") == engine.payload("ReconciliationEnd") == {}
    assert ended.output is not None
    started = ended.output["reconciliation"]["execution"]
    assert ended.output == {
        **event,
        "restored": RESTORED,
        "run": {"status": "SUCCEEDED"},
        "reconciliation": {"execution": started},
        "intentions": ended.output["intentions"],
    }
    assert engine.execution(started).status == "SUCCEEDED"


def test_a_restore_allows_the_calls_again_that_deployments_want(engine: Engine) -> None:
    ended = engine.run("SnapshotRestore", {})

    assert ended.output is not None
    started = [each["execution"] for each in ended.output["intentions"]]
    assert [engine.execution(execution).status for execution in started] == ["SUCCEEDED"] * 2
    assert sorted(engine.payloads("ServiceIntentionEnd"), key=str) == sorted(INTENTIONS, key=str)


def test_calls_that_cannot_be_allowed_again_are_told_of_by_their_own_executions(
    engine: Engine,
) -> None:
    engine.script(ServiceIntentionEnd=Failed("ForeignObject", "Somebody else's intention."))

    ended = engine.run("SnapshotRestore", {})

    assert ended.status == "SUCCEEDED"
    assert ended.output is not None
    for each in ended.output["intentions"]:
        assert engine.execution(each["execution"]).status == "FAILED"


@pytest.mark.parametrize(
    ("machine", "function"),
    [("ServerSnapshot", "SaveSnapshot"), ("SnapshotRestore", "RestoreSnapshot")],
)
def test_a_server_that_restarts_is_waited_for(engine: Engine, machine: str, function: str) -> None:
    answer: dict[str, Any] = {"SaveSnapshot": SAVED, "RestoreSnapshot": RESTORED}[function]
    answers: list[Answer] = [Failed("ConsulUnavailable"), Failed("Sandbox.Timedout"), answer]
    engine.script(**{function: answers})

    assert engine.run(machine, {}).status == "SUCCEEDED"
    assert engine.waits == [1, 2]


def test_three_minutes_are_waited_and_no_longer(engine: Engine) -> None:
    engine.script(SaveSnapshot=Failed("ConsulUnavailable", "No cluster leader"))

    ended = engine.run("ServerSnapshot", {})

    assert (ended.status, ended.states[-1]) == ("FAILED", "Gave up waiting")
    assert engine.waits == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        ("InvalidEvent", "The input is wrong"),
        ("SnapshotNotFound", "Needs an operator"),
        ("InvalidSnapshot", "Needs an operator"),
        ("SnapshotOfAnotherConsul", "Needs an operator"),
        ("SnapshotTooLarge", "Needs an operator"),
        ("KeyError", "Failed unexpectedly"),
    ],
)
def test_a_restore_that_cannot_be_done_is_not_tried_again_and_nothing_follows(
    engine: Engine, error: str, end: str
) -> None:
    failure = Failed(error, "What to do.")
    engine.script(RestoreSnapshot=failure)

    ended = engine.run("SnapshotRestore", {})

    assert (ended.status, ended.states[-1]) == ("FAILED", end)
    assert engine.called == ["RestoreSnapshot"]
    assert failure.message in str(ended.cause)


def test_a_restored_consul_that_cannot_be_prepared_is_told_of(engine: Engine) -> None:
    engine.script(ClusterBootstrapEnd=Failed("ForeignObject", "Somebody else's policy."))

    ended = engine.run("SnapshotRestore", {})

    assert (ended.status, ended.states[-1]) == ("FAILED", "Restored but not finished")
    assert ended.error == "RestoreNotFinished"
    assert "Somebody else's policy." in str(ended.cause)
    assert engine.called == ["RestoreSnapshot", "ClusterBootstrapEnd"]


def test_a_reconciliation_that_fails_is_told_of_by_itself(engine: Engine) -> None:
    engine.script(ReconciliationEnd=Failed("ConsulUnavailable"))

    assert engine.run("SnapshotRestore", {}).status == "SUCCEEDED"
