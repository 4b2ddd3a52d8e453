"""Runs a stack's state machines in moto, with scripted answers in the place of Lambda functions."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeAlias

import boto3
from moto import mock_aws
from moto.awslambda_simple.models import LambdaSimpleBackend
from moto.core.config import DefaultConfig
from moto.stepfunctions.parser.asl.component.common.retry import (
    jitter_strategy_decl,
    retrier_decl,
)
from moto.stepfunctions.parser.asl.component.state.wait.wait_function.wait_function import (
    WaitFunction,
)
from moto.stepfunctions.parser.asl.eval.environment import Environment
from moto.stepfunctions.parser.utils import TMP_THREADS

from local.cloud.patching import replaced
from local.cloud.step_functions import corrected_step_functions
from tests.synthesized import Deployed

_LONGEST_TEST = 20
_NUMBERS = count()


@dataclass(frozen=True)
class Failed:
    """A function raises; `error` is the name of the exception's class."""

    error: str
    message: str = "It went wrong."

    @property
    def cause(self) -> str:
        """What Lambda answers, and Step Functions passes on as the cause."""
        answer = {"errorMessage": self.message, "errorType": self.error, "stackTrace": []}
        return json.dumps(answer, separators=(",", ":"))


Answer: TypeAlias = dict[str, Any] | Failed | Callable[[dict[str, Any]], dict[str, Any] | Failed]
"""What a function answers, or a function from its payload to that."""


@dataclass(frozen=True)
class Call:
    """One invocation of a function."""

    function: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class Execution:
    """How an execution ended."""

    arn: str
    status: str
    output: dict[str, Any] | None
    error: str | None
    cause: str | None
    states: list[str]
    """The states that it went through."""


@dataclass
class Engine:
    """The state machines of one stack, ready to run."""

    deployed: Deployed
    client: Any
    calls: list[Call] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """The longest that each wait before a retry may be. None is slept."""
    pauses: list[float] = field(default_factory=list)
    """How long each Wait state is to take. Neither is slept."""
    _answers: dict[str, deque[Answer]] = field(default_factory=dict)

    def script(self, **answers: Answer | Sequence[Answer]) -> None:
        """Say what functions answer: one thing always, or a list of things, the last one always."""
        for function, given in answers.items():
            self._answers[function] = deque(given if isinstance(given, Sequence) else [given])

    def forget(self) -> None:
        """Forget what was called and scripted."""
        self.calls.clear()
        self.waits.clear()
        self.pauses.clear()
        self._answers.clear()

    def run(
        self, machine: str, execution_input: Mapping[str, Any], name: str | None = None
    ) -> Execution:
        """Run an execution to its end, and to the ends of those that it starts."""
        arn = self.client.start_execution(
            stateMachineArn=self.deployed.place.arn("states", f"stateMachine:{machine}"),
            name=name or f"run-{next(_NUMBERS)}",
            input=json.dumps(execution_input),
        )["executionArn"]
        # moto never forgets a thread; and each may start others.
        while TMP_THREADS:
            TMP_THREADS.pop(0).join(_LONGEST_TEST)
        return self.execution(arn)

    def execution(self, arn: str) -> Execution:
        """Look at an execution."""
        found = self.client.describe_execution(executionArn=arn)
        history = self.client.get_execution_history(executionArn=arn)["events"]
        return Execution(
            arn=arn,
            status=found["status"],
            output=json.loads(found["output"]) if "output" in found else None,
            error=found.get("error"),
            cause=found.get("cause"),
            states=[
                event["stateEnteredEventDetails"]["name"]
                for event in history
                if "stateEnteredEventDetails" in event
            ],
        )

    @property
    def called(self) -> list[str]:
        """The functions in the order in which they were called."""
        return [call.function for call in self.calls]

    def payload(self, function: str) -> dict[str, Any]:
        """Return what a function got; it must have been called exactly once."""
        (payload,) = self.payloads(function)
        return payload

    def payloads(self, function: str) -> list[dict[str, Any]]:
        """Return what a function got, each time that it was called."""
        return [call.payload for call in self.calls if call.function == function]

    def invoke(
        self,
        function_name: str,
        _qualifier: str | None,
        body: Any,
        _headers: Any,
        response_headers: dict[str, str],
    ) -> bytes:
        """Stand in for moto's invocation of a function."""
        # The whole ARN: that of another function of the same name would not be answered.
        function = function_name.removeprefix(self.deployed.place.arn("lambda", "function:"))
        payload = json.loads(body)
        self.calls.append(Call(function, payload))
        answers = self._answers[function]
        answer = answers.popleft() if len(answers) > 1 else answers[0]
        if callable(answer):
            answer = answer(payload)
        if isinstance(answer, Failed):
            response_headers["X-Amz-Function-Error"] = "Unhandled"
            return answer.cause.encode()
        return json.dumps(answer).encode()

    # The engine draws a wait between 0 and its limit, and sleeps; here it draws the limit, and
    # does not sleep.

    def uniform(self, least: float, most: float) -> float:
        """Stand in for `random.uniform`."""
        assert least == 0, "full jitter starts at 0"
        return most

    def sleep(self, seconds: float) -> None:
        """Stand in for `time.sleep`."""
        self.waits.append(seconds)

    def pause(self, env: Environment, wait_seconds: float) -> None:  # noqa: ARG002 - as moto has it
        """Stand in for what a Wait state does."""
        self.pauses.append(wait_seconds)


@contextmanager
def running(deployed: Deployed, *machines: str) -> Iterator[Engine]:
    """Yield an engine with some state machines of the stack.

    It takes a moment for each machine, so tests of a module share one, and `forget` in between.
    """
    config: DefaultConfig = {
        "stepfunctions": {"execute_state_machine": True},
        "lambda": {"use_docker": False},
    }
    with ExitStack() as patches:
        patches.enter_context(mock_aws(config=config))
        patches.enter_context(corrected_step_functions())
        engine = Engine(deployed, boto3.client("stepfunctions", region_name=deployed.place.region))
        patches.enter_context(replaced(retrier_decl, "time", engine))
        patches.enter_context(replaced(jitter_strategy_decl, "random", engine))
        patches.enter_context(replaced(WaitFunction, "_wait_interval", engine.pause))
        patches.enter_context(replaced(LambdaSimpleBackend, "invoke", engine.invoke))
        properties = deployed.of_type("AWS::StepFunctions::StateMachine")
        for machine in machines:
            engine.client.create_state_machine(
                name=machine,
                definition=properties[machine]["DefinitionString"],
                roleArn=properties[machine]["RoleArn"],
            )
        yield engine
