"""Step Functions: executions of the real workflows, each an actor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.faults import asl
from tests.faults.lambda_functions import Lambda
from tests.faults.stage import Actor, Stage

_JITTER = 0.5
"""Of "full jitter" the middle: the order in which things happen is what schedules decide."""


@dataclass(eq=False)
class Execution:
    """One execution of a workflow."""

    arn: str
    machine_arn: str
    given: Any
    actor: Actor | None = None
    ended: asl.Ended | None = None
    stopped: bool = False
    came_again: bool = False
    children: list[Execution] = field(default_factory=list)

    @property
    def workflow(self) -> str:
        """The name of its workflow."""
        return self.machine_arn.rpartition(":")[2]


class StepFunctions:
    """All executions of one run."""

    def __init__(
        self,
        definitions: Mapping[str, Mapping[str, Any]],
        stage: Stage,
        functions: Lambda,
        publish: Callable[[str], None],
    ) -> None:
        self._definitions = definitions
        self._stage = stage
        self._lambda = functions
        self._publish = publish
        self.executions: dict[str, Execution] = {}

    def start(self, machine_arn: str, given: Any, *, name: str | None = None) -> Execution:
        """Start an execution.

        Raises:
            asl.TaskFailed: if there is one of this name.

        """
        number = len(self.executions) + 1
        arn = f"{machine_arn.replace(':stateMachine:', ':execution:')}:{name or f'run-{number}'}"
        if arn in self.executions:
            raise asl.TaskFailed("StepFunctions.ExecutionAlreadyExistsException", arn)
        self._publish(json.dumps(given))
        execution = Execution(arn, machine_arn, given)
        self.executions[arn] = execution

        def run() -> None:
            ended = asl.run(
                self._definitions[machine_arn],
                given,
                execution_arn=arn,
                state_machine_arn=machine_arn,
                services=_Services(self, execution),
            )
            execution.ended = ended
            self._publish(json.dumps([ended.output, ended.error, ended.cause]))

        execution.actor = self._stage.enter_thread(f"{execution.workflow}-{number}", run)
        return execution

    # --- what a deviation can do ----------------------------------------------------------------

    def can_start_again(self, execution_arn: str) -> bool:
        """Whether the event of an execution has come only once."""
        return not self.executions[execution_arn].came_again

    def start_again(self, execution_arn: str) -> None:
        """Start an execution of the same input: the event comes again."""
        first = self.executions[execution_arn]
        first.came_again = True
        self.start(first.machine_arn, first.given).came_again = True

    def stop(self, execution_arn: str) -> None:
        """Stop an execution, and those that it waits for."""
        execution = self.executions[execution_arn]
        execution.stopped = True
        for child in execution.children:
            self.stop(child.arn)


class _Services:
    """What is around one execution (tests.faults.asl.Services)."""

    def __init__(self, step_functions: StepFunctions, execution: Execution) -> None:
        self._all = step_functions
        self._execution = execution
        self._stage = step_functions._stage

    def invoke(self, function_arn: str, payload: Any) -> Any:
        self._go_on()
        try:
            result = self._all._lambda.invoke(
                function_arn, payload, execution_arn=self._execution.arn
            )
        except asl.TaskFailed:
            self._go_on()
            raise
        self._go_on()
        return result

    def start_execution(
        self, state_machine_arn: str, name: str | None, execution_input: Any, *, wait: bool
    ) -> dict[str, Any]:
        self._go_on()
        started = self._all.start(state_machine_arn, execution_input, name=name)
        if not wait:
            return {"ExecutionArn": started.arn}
        self._execution.children.append(started)
        assert started.actor is not None
        self._stage.wait_for(frozenset({started.actor}))
        self._go_on()
        assert started.ended is not None
        told: dict[str, Any] = {
            "ExecutionArn": started.arn,
            "StateMachineArn": started.machine_arn,
            "Name": started.arn.rpartition(":")[2],
            "Status": started.ended.status,
        }
        if started.ended.status != "SUCCEEDED":
            told |= {"Error": started.ended.error, "Cause": started.ended.cause}
            raise asl.TaskFailed("States.TaskFailed", json.dumps(told))
        return {**told, "Output": started.ended.output}

    def sleep(self, seconds: float) -> None:
        self._go_on()
        self._stage.sleep(seconds)
        self._go_on()

    def now(self) -> datetime:
        return self._stage.clock.now()

    def jitter(self, longest: float) -> float:
        return longest * _JITTER

    def parallel(self, items: Sequence[Callable[[], Any]], concurrency: int) -> list[Any]:
        if len(items) <= 1 or concurrency == 1:
            return [item() for item in items]
        results: list[Any] = [None] * len(items)
        waiting = list(enumerate(items))[::-1]
        failures: list[Exception] = []

        def work() -> None:
            while waiting and not failures:
                place, item = waiting.pop()
                try:
                    results[place] = item()
                except Exception as error:  # noqa: BLE001 - goes to the one that waits
                    failures.append(error)

        workers = min(len(items), concurrency or len(items))
        name = self._stage.current.name
        actors = [self._stage.enter_thread(f"{name}/{n + 1}", work) for n in range(workers)]
        self._stage.wait_for(frozenset(actors))
        if failures:
            raise failures[0]
        return results

    def _go_on(self) -> None:
        if self._execution.stopped:
            raise asl.Stopped
