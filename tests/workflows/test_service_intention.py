"""ServiceIntention, run: one step, with all that the execution was started with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.synthesized import Deployed
from tests.workflows.engine import Engine, Failed, running

INPUT: dict[str, Any] = {
    "intention": {"source": "greeter", "destination": "greeting", "action": "allow"},
    "wanted_by": "0a1b2c3d4e5f",
}


@pytest.fixture(scope="module")
def running_engine(minimal: Deployed) -> Iterator[Engine]:
    with running(minimal, "ServiceIntention") as engine:
        yield engine


@pytest.fixture
def engine(running_engine: Engine) -> Engine:
    running_engine.forget()
    running_engine.script(WriteIntention={"change": "created"})
    return running_engine


@pytest.mark.parametrize("more", [{}, {"remove": True}], ids=["to write", "to remove"])
def test_the_step_gets_the_whole_input_and_the_output_says_what_it_did(
    engine: Engine, more: dict[str, Any]
) -> None:
    given = INPUT | more

    ended = engine.run("ServiceIntention", given)

    assert engine.payload("WriteIntention") == {"execution": ended.arn, "event": given}
    assert (ended.status, ended.states) == ("SUCCEEDED", ["Write the intention", "Consul has it"])
    assert ended.output == given | {"result": {"change": "created"}}


@pytest.mark.parametrize(
    ("error", "end"),
    [
        ("InvalidEvent", "The input is wrong"),
        ("InvalidServiceName", "The input is wrong"),
        ("ForeignObject", "Needs an operator"),
        ("ConsulPermissionDenied", "Needs an operator"),
        ("KeyError", "Failed unexpectedly"),
    ],
)
def test_a_failure_that_does_not_pass_ends_where_it_belongs(
    engine: Engine, error: str, end: str
) -> None:
    failure = Failed(error)
    engine.script(WriteIntention=failure)

    ended = engine.run("ServiceIntention", INPUT)

    assert (ended.status, ended.states) == ("FAILED", ["Write the intention", end])
    assert engine.called == ["WriteIntention"]
    if end != "Failed unexpectedly":
        assert (ended.error, ended.cause) == (error, failure.cause)


@pytest.mark.parametrize("error", ["ConsulUnavailable", "ClusterNotBootstrapped"])
def test_a_failure_that_passes_is_waited_out(engine: Engine, error: str) -> None:
    engine.script(WriteIntention=[Failed(error), Failed(error), {"change": "created"}])

    ended = engine.run("ServiceIntention", INPUT)

    assert (ended.status, engine.waits) == ("SUCCEEDED", [1, 2])
