"""The interpreter of the fault experiments: what it does, and that moto's engine does the same."""

from __future__ import annotations

import json
import random
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from tests.faults.asl import (
    LARGEST_STATE,
    Ended,
    InvalidDefinition,
    Stopped,
    TaskFailed,
    load,
    run,
)
from tests.synthesized import Deployed
from tests.workflows.engine import Answer, Engine, Failed, running
from tests.workflows.test_task_provisioning import (
    EVENT,
    NOT_IN_THE_MESH,
    PUBLIC,
    STORED,
    WITH_POLICY,
)

FUNCTION = "arn:aws:lambda:eu-west-1:123456789012:function:"
MACHINE = "arn:aws:states:eu-west-1:123456789012:stateMachine:"
EXECUTION = "arn:aws:states:eu-west-1:123456789012:execution:"
START = "arn:aws:states:::states:startExecution"
NOW = datetime(2026, 1, 5, 20, 10, 1, 250_000, tzinfo=UTC)

State = Mapping[str, Any]


@dataclass
class World:
    """Services with scripted answers, in which time passes when somebody waits."""

    answers: Mapping[str, Answer | Sequence[Answer]] = field(default_factory=dict)
    machines: Mapping[str, State] = field(default_factory=dict)
    time: datetime = NOW
    calls: list[tuple[str, Any]] = field(default_factory=list)
    started: list[tuple[str, str | None, Any, bool]] = field(default_factory=list)
    sleeps: list[float] = field(default_factory=list)
    concurrencies: list[int] = field(default_factory=list)
    seconds_of_a_call: float = 0.0
    _left: dict[str, deque[Answer]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    def run(self, definition: State, execution_input: Any = None, arn: str = "") -> Ended:
        arn = arn or f"{EXECUTION}Machine:run-1"
        machine = arn.replace(":execution:", ":stateMachine:").rpartition(":")[0]
        return run(
            definition,
            {} if execution_input is None else execution_input,
            execution_arn=arn,
            state_machine_arn=machine,
            services=self,
        )

    def invoke(self, function_arn: str, payload: Any) -> Any:
        function = function_arn.rpartition(":function:")[2]
        self.calls.append((function, payload))
        self.time += timedelta(seconds=self.seconds_of_a_call)
        if function not in self._left:
            given = self.answers[function]
            self._left[function] = deque(given if isinstance(given, Sequence) else [given])
        answers = self._left[function]
        answer = answers.popleft() if len(answers) > 1 else answers[0]
        if callable(answer):
            answer = answer(payload)
        if isinstance(answer, Failed):
            raise TaskFailed(answer.error, answer.cause)
        return answer

    def start_execution(
        self, state_machine_arn: str, name: str | None, execution_input: Any, *, wait: bool
    ) -> dict[str, Any]:
        self.started.append((state_machine_arn, name, execution_input, wait))
        name = name or f"nested-{next(self._numbers)}"
        arn = state_machine_arn.replace(":stateMachine:", ":execution:") + f":{name}"
        if not wait:
            return {"ExecutionArn": arn, "StartDate": "now"}
        ended = self.run(self.machines[state_machine_arn], execution_input, arn)
        known = {"ExecutionArn": arn, "Status": ended.status}
        if ended.status != "SUCCEEDED":
            known |= {"Error": ended.error or "", "Cause": ended.cause or ""}
            raise TaskFailed("States.TaskFailed", json.dumps(known))
        return {**known, "Output": ended.output}

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += timedelta(seconds=seconds)

    def now(self) -> datetime:
        return self.time

    def jitter(self, longest: float) -> float:
        return longest

    def parallel(self, items: Sequence[Callable[[], Any]], concurrency: int) -> list[Any]:
        self.concurrencies.append(concurrency)
        return [item() for item in items]

    @property
    def called(self) -> list[str]:
        return [function for function, _ in self.calls]


def machine(start: str = "First", /, **states: State) -> dict[str, Any]:
    """Return a definition; the names of states are those of the arguments."""
    return {"StartAt": start, "States": states}


def task(function: str = "F", **more: Any) -> dict[str, Any]:
    """Return a state that invokes a function; the last one, unless there is a `Next`."""
    end = {} if "Next" in more else {"End": True}
    return {"Type": "Task", "Resource": f"{FUNCTION}{function}", **end, **more}


def passing(**more: Any) -> dict[str, Any]:
    """Return a Pass state, the last one."""
    return {"Type": "Pass", "End": True, **more}


def start(*, wait: bool = True, **more: Any) -> dict[str, Any]:
    """Return a state that starts the state machine `Other`."""
    return {
        "Type": "Task",
        "Resource": f"{START}.sync:2" if wait else START,
        "Parameters": {"StateMachineArn": f"{MACHINE}Other", "Input.$": "$"},
        "End": True,
        **more,
    }


def mapping(*, states: State | None = None, **more: Any) -> dict[str, Any]:
    """Return a Map whose iterations invoke a function, unless it has other states."""
    inner = states or machine("Each", Each=task())
    processor = {"ProcessorConfig": {"Mode": "INLINE"}, **inner}
    return {"Type": "Map", "MaxConcurrency": 1, "ItemProcessor": processor, "End": True, **more}


def choosing(rule: State, **more: Any) -> dict[str, Any]:
    """Return a definition that ends at `Yes` if a rule matches, else at `No`."""
    return machine(
        First={"Type": "Choice", "Choices": [{**rule, "Next": "Yes"}], "Default": "No", **more},
        Yes={"Type": "Succeed"},
        No={"Type": "Succeed"},
    )


ENDS = {
    "Gave_up": {"Type": "Fail", "ErrorPath": "$.failure.Error", "CausePath": "$.failure.Cause"},
    "Failed": {"Type": "Fail", "Error": "E", "CausePath": "States.JsonToString($.failure)"},
    "Done": {"Type": "Succeed"},
}


def catch(following: str, *errors: str, **more: Any) -> dict[str, Any]:
    return {"ErrorEquals": list(errors), "Next": following, "ResultPath": "$.failure", **more}


def retry(*errors: str, **more: Any) -> dict[str, Any]:
    return {"ErrorEquals": list(errors), **more}


# --------------------------------------------------------------------------------------------------
# What it does. The differential tests below say most about the data; these are about the rest.
# --------------------------------------------------------------------------------------------------


def test_a_retry_waits_longer_each_time_up_to_its_limit_and_chance_chooses_how_long() -> None:
    policy = retry(
        "E",
        IntervalSeconds=2,
        BackoffRate=2,
        MaxDelaySeconds=10,
        MaxAttempts=5,
        JitterStrategy="FULL",
    )
    longest: list[float] = []

    class Lucky(World):
        def jitter(self, longest_wait: float) -> float:
            longest.append(longest_wait)
            return longest_wait / 4

    world = Lucky({"F": Failed("E")})

    ended = world.run(machine(First=task(Retry=[policy])))

    assert (ended.status, ended.error) == ("FAILED", "E")
    assert longest == [2, 4, 8, 10, 10]
    assert world.sleeps == [0.5, 1, 2, 2.5, 2.5]
    assert world.called == ["F"] * 6


def test_without_jitter_a_retry_waits_as_long_as_it_says() -> None:
    world = World({"F": Failed("E")})

    world.run(machine(First=task(Retry=[retry("E")])))

    assert world.sleeps == [1, 2, 4]


def test_the_attempts_of_a_state_begin_anew_when_it_is_entered_again() -> None:
    world = World({"F": [Failed("E"), {"again": True}, Failed("E"), {"again": False}]})
    again = {"Variable": "$.again", "BooleanEquals": True, "Next": "First"}

    ended = world.run(
        machine(
            First=task(Retry=[retry("E", MaxAttempts=1)], Next="Again"),
            Again={"Type": "Choice", "Choices": [again], "Default": "Done"},
            Done={"Type": "Succeed"},
        )
    )

    assert ended.states == ["First", "Again", "First", "Again", "Done"]
    assert world.sleeps == [1, 1]


def test_an_execution_that_takes_too_long_times_out_where_it_is() -> None:
    world = World()
    definition = machine(
        First={"Type": "Wait", "Seconds": 40, "Next": "Second"},
        Second={"Type": "Wait", "Seconds": 40, "End": True},
    )

    ended = world.run({**definition, "TimeoutSeconds": 60})

    assert (ended.status, ended.output, ended.error) == ("TIMED_OUT", None, "States.Timeout")
    assert ended.states == ["First", "Second"]
    assert world.time == NOW + timedelta(seconds=60)


def test_the_time_limit_holds_in_iterations_and_while_waiting_for_a_retry() -> None:
    world = World({"F": Failed("E")})
    endless = task(Retry=[retry("E", MaxAttempts=99, IntervalSeconds=50, BackoffRate=1.0)])
    caught = mapping(
        states=machine("Each", Each=endless),
        Catch=[{"ErrorEquals": ["States.ALL"], "Next": "Done"}],
    )

    ended = world.run(
        {**machine(First=caught, Done={"Type": "Succeed"}), "TimeoutSeconds": 130}, [1, 2]
    )

    assert ended.status == "TIMED_OUT"
    assert ended.states == ["First", "Each"]
    assert world.sleeps == [50, 50, 30]


def test_a_call_that_ends_after_the_execution_s_limit_does_not_count() -> None:
    answers: list[Answer] = [{}, Failed("E")]
    for answer in answers:
        world = World({"F": answer}, seconds_of_a_call=70)

        ended = world.run({**machine(First=task(), Done={"Type": "Succeed"}), "TimeoutSeconds": 60})

        assert ended.status == "TIMED_OUT"


def test_a_call_that_takes_longer_than_its_state_may_is_a_time_out() -> None:
    answers: list[Answer] = [{}, Failed("E")]
    for answer in answers:
        world = World({"F": answer}, seconds_of_a_call=70)
        state = task(TimeoutSeconds=60, Catch=[catch("Failed", "States.Timeout")])

        ended = world.run(machine(First=state, Failed=ENDS["Failed"]))

        assert json.loads(ended.cause or "") == {"Error": "States.Timeout", "Cause": ""}


def test_the_limit_of_a_state_may_be_a_part_of_its_input() -> None:
    world = World({"F": {}}, seconds_of_a_call=70)
    definition = machine(First=task(TimeoutSecondsPath="$.limit"))

    assert world.run(definition, {"limit": 60}).error == "States.Timeout"
    assert world.run(definition, {"limit": 80}).status == "SUCCEEDED"


def test_an_execution_that_is_stopped_is_aborted() -> None:
    class Stopping(World):
        def sleep(self, seconds: float) -> None:  # noqa: ARG002 - as `Services` has it
            raise Stopped("ByHand", "Enough.")

    definition = machine(
        First=mapping(states=machine("Each", Each={"Type": "Wait", "Seconds": 9, "End": True}))
    )

    ended = Stopping().run(definition, [1, 2])

    assert ended == Ended("ABORTED", None, "ByHand", "Enough.", ["First", "Each"])


def test_other_exceptions_of_services_come_through() -> None:
    class Broken(World):
        def invoke(self, function_arn: str, payload: Any) -> Any:  # noqa: ARG002 - as above
            raise LookupError(function_arn)

    state = task(Retry=[retry("States.ALL")], Catch=[catch("Done", "States.ALL")])

    with pytest.raises(LookupError, match="function:F"):
        Broken().run(machine(First=state, Done={"Type": "Succeed"}))


def test_iterations_end_at_their_next_state_when_one_has_failed() -> None:
    class Interleaving(World):
        """Runs the first iteration while the second one waits for its function."""

        def parallel(self, items: Sequence[Callable[[], Any]], concurrency: int) -> list[Any]:
            self.first = items[0]
            self.concurrencies.append(concurrency)
            return [None, items[1]()]

        def invoke(self, function_arn: str, payload: Any) -> Any:
            if payload == 2:
                self.first()
            return super().invoke(function_arn, payload)

    world = Interleaving({"F": [Failed("E"), {}]})
    inner = machine("Each", Each=task(Next="After"), After={"Type": "Succeed"})

    ended = world.run(machine(First=mapping(states=inner)), [1, 2])

    assert (ended.status, ended.error) == ("FAILED", "E")
    assert world.calls == [("F", 1), ("F", 2)]
    assert ended.states == ["First", "Each", "Each"]


@pytest.mark.parametrize(("given", "expected"), [(3, 3), (0, 40), (None, 40), (100, 40)])
def test_an_inline_map_runs_forty_iterations_at_a_time_at_most(
    given: int | None, expected: int
) -> None:
    world = World({"F": {}})
    state = {key: value for key, value in mapping().items() if key != "MaxConcurrency"}
    limit = {} if given is None else {"MaxConcurrency": given}

    world.run(machine(First={**state, **limit}), [1])

    assert world.concurrencies == [expected]


def test_functions_get_and_give_copies() -> None:
    class Careless(World):
        def invoke(self, function_arn: str, payload: Any) -> Any:
            payload["list"].append("mine")
            return super().invoke(function_arn, payload)

    given = {"list": [1], "constant": {"list": []}}
    answer: dict[str, Any] = {"list": []}
    world = Careless({"F": answer})
    constant = task(Parameters={"list": [2]}, ResultPath="$.second")
    definition = machine(First=task(ResultPath="$.first", Next="Second"), Second=constant)

    first, second = (world.run(definition, given) for _ in range(2))

    assert first.output == second.output == {**given, "first": answer, "second": answer}
    assert given == {"list": [1], "constant": {"list": []}}
    first.output["first"]["list"].append("mine")
    assert answer == {"list": []}


def test_the_context_is_that_of_the_execution() -> None:
    shown = {
        "execution.$": "$$.Execution",
        "id.$": "$$.Execution.Id",
        "name.$": "$$.Execution.Name",
        "given.$": "$$.Execution.Input.list[1]",
        "began.$": "$$.Execution.StartTime",
        "entered.$": "$$.State.EnteredTime",
        "state.$": "$$.State.Name",
        "machine.$": "$$.StateMachine.Id",
        "machine_name.$": "$$.StateMachine.Name",
    }
    del shown["execution.$"]
    definition = machine(
        First={"Type": "Wait", "Seconds": 2, "Next": "Second"}, Second=passing(Parameters=shown)
    )

    assert World().run(definition, {"list": [1, 2]}).output == {
        "id": f"{EXECUTION}Machine:run-1",
        "name": "run-1",
        "given": 2,
        "began": "2026-01-05T20:10:01.250Z",
        "entered": "2026-01-05T20:10:03.250Z",
        "state": "Second",
        "machine": f"{MACHINE}Machine",
        "machine_name": "Machine",
    }


def test_a_state_knows_how_often_it_was_retried() -> None:
    world = World({"F": [Failed("E"), Failed("E"), {}]})
    state = task(Parameters={"retries.$": "$$.State.RetryCount"}, Retry=[retry("States.ALL")])

    world.run(machine(First=state))

    assert [payload["retries"] for _, payload in world.calls] == [0, 1, 2]


def test_uuids_are_new_each_time_and_the_same_in_a_repetition() -> None:
    definition = machine(First=passing(Parameters={"a.$": "States.UUID()", "b.$": "States.UUID()"}))

    first, again = (World().run(definition).output for _ in range(2))
    other = World().run(definition, arn=f"{EXECUTION}Machine:other").output

    assert first == again
    assert len({*first.values(), *other.values()}) == 4


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [
        ({"Seconds": 90}, 90),
        ({"SecondsPath": "$.seconds"}, 7),
        ({"Timestamp": "2026-01-05T20:11:01Z"}, 59.75),
        ({"TimestampPath": "$.until"}, 60),
        ({"TimestampPath": "$.zone"}, 60),
        ({"TimestampPath": "$.past"}, 0),
    ],
)
def test_a_wait_takes_as_long_as_it_says(wait: State, seconds: float) -> None:
    world = World()
    given = {
        "seconds": 7,
        "until": "2026-01-05T20:11:01.250Z",
        "zone": "2026-01-05T21:11:01.25+01:00",
        "past": "2025-01-01T00:00:00Z",
    }

    ended = world.run(machine(First={"Type": "Wait", "End": True, **wait}), given)

    assert (ended.output, world.sleeps) == (given, [seconds])


@pytest.mark.parametrize("path", ["$.missing", "$.text", "$.negative", "$.float"])
@pytest.mark.parametrize("kind", ["SecondsPath", "TimestampPath"])
def test_a_wait_for_nonsense_fails_the_execution(kind: str, path: str) -> None:
    given = {"text": "2026-13-05T20:11:01Z", "negative": -1, "float": 1.5}

    ended = World().run(machine(First={"Type": "Wait", "End": True, kind: path}), given)

    assert (ended.status, ended.error) == ("FAILED", "States.Runtime")


@pytest.mark.parametrize(
    "function",
    ["States.StringToJson($.text)", "States.Format('{}', 1, 2)", "States.ArrayLength(1)"],
)
def test_a_function_that_can_not_do_it_fails_with_a_name_of_its_own(function: str) -> None:
    state = task(Parameters={"a.$": function}, Catch=[catch("Failed", "States.ALL")])

    ended = World().run(machine(First=state, Failed=ENDS["Failed"]), {"text": "{"})

    assert json.loads(ended.cause or "")["Error"] == "States.IntrinsicFailure"


def test_a_result_can_not_go_where_something_else_than_an_object_is() -> None:
    ended = World({"F": {}}).run(machine(First=task(ResultPath="$.a.b")), {"a": "text"})

    assert (ended.status, ended.error) == ("FAILED", "States.ResultPathMatchFailure")


def test_an_execution_can_not_fail_with_something_else_than_texts() -> None:
    ended = World().run(machine(First={"Type": "Fail", "ErrorPath": "$.a"}), {"a": {"b": 1}})

    assert (ended.status, ended.error) == ("FAILED", "States.Runtime")


def test_starting_an_execution_passes_on_what_is_in_the_parameters() -> None:
    world = World()
    parameters = {"StateMachineArn": f"{MACHINE}Other", "Name": "n", "Input": {"a.$": "$.b"}}

    ended = world.run(machine(First=start(wait=False, Parameters=parameters)), {"b": 1})

    assert world.started == [(f"{MACHINE}Other", "n", {"a": 1}, False)]
    assert ended.output == {"ExecutionArn": f"{EXECUTION}Other:n", "StartDate": "now"}


def test_the_input_of_an_execution_may_be_left_out_or_be_a_text() -> None:
    world = World()
    for more in ({}, {"Input.$": "States.JsonToString($)"}):
        parameters = {"StateMachineArn": f"{MACHINE}Other", **more}
        world.run(machine(First=start(wait=False, Parameters=parameters)), {"b": 1})

    assert [given for _, _, given, _ in world.started] == [{}, {"b": 1}]


# --------------------------------------------------------------------------------------------------
# How much fits
# --------------------------------------------------------------------------------------------------


def text_of(size: int, around: Any) -> str:
    """Return a text that makes a JSON value of this size, in which it takes the place of ""."""
    return "x" * (size - len(json.dumps(around, separators=(",", ":"))))


SURVIVING: dict[str, Any] = {"Catch": [catch("Done", "States.ALL")], "Retry": [retry("States.ALL")]}


@pytest.mark.parametrize(("excess", "status"), [(0, "SUCCEEDED"), (1, "FAILED")])
@pytest.mark.parametrize("where", ["input", "payload", "answer", "sum", "items", "umlauts"])
def test_no_state_may_have_more_than_256_kib(where: str, excess: int, status: str) -> None:
    size = LARGEST_STATE + excess
    definition, given, answer = machine(First=task(**SURVIVING), Done=ENDS["Done"]), {}, {}
    match where:
        case "input":
            given = {"a": text_of(size, {"a": ""})}
        case "payload":
            given = {"a": text_of(size - 100, {"a": ""})}
            definition["States"]["First"]["Parameters"] = {
                "a.$": "$.a",
                "b": text_of(100, {"b": ""}) + "x",
            }
        case "answer":
            answer = {"a": text_of(size, {"a": ""})}
        case "umlauts":
            answer = {"a": "ü" + text_of(size - 2, {"a": ""})}
        case "sum":
            given, answer = {"a": "x" * 100_000}, {}
            answer = {"b": text_of(size, {**given, "inner": {"to": {"b": ""}}})}
            definition["States"]["First"]["ResultPath"] = "$.inner.to"
        case "items":
            given = [1, 2]  # type: ignore[assignment]
            half = {"a": text_of(LARGEST_STATE // 2, {"a": ""})}
            answer = [half, {"a": text_of(size - 3, [half, {"a": ""}]) + "xxx"}]  # type: ignore[assignment]
            definition["States"]["First"] = mapping(**SURVIVING)

    ended = World({"F": answer}).run(definition, given)

    assert ended.status == status
    if excess:
        assert ended.error == "States.DataLimitExceeded"


def test_what_is_replaced_does_not_count() -> None:
    world = World({"F": {"a": "x" * 100_000}})
    states: dict[str, State] = {
        f"S{number}": task(ResultPath="$.same", Next=f"S{number + 1}") for number in range(9)
    }

    ended = world.run(machine("S0", **states, S9={"Type": "Succeed"}))

    assert ended.status == "SUCCEEDED"


def test_who_names_the_limit_may_catch_it() -> None:
    world = World({"F": {"a": "x" * LARGEST_STATE}})
    state = task(Catch=[catch("Gave_up", "States.DataLimitExceeded")])

    ended = world.run(machine(First=state, Gave_up={"Type": "Succeed"}))

    assert ended.output["failure"]["Error"] == "States.DataLimitExceeded"


# --------------------------------------------------------------------------------------------------
# What is refused when a definition is loaded
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "definition",
    [
        {"StartAt": "First"},
        {"States": {}},
        {**machine(First=passing()), "QueryLanguage": "JSONPath"},
        {**machine(First=passing()), "Version": "2.0"},
        machine("Other", First=passing()),
        machine(First=passing(End=False)),
        machine(First=passing(Assign={"a": 1})),
        machine(First={"Type": "Parallel", "Branches": [], "End": True}),
        machine(First={"Type": "Pass", "Next": "Nowhere"}),
        machine(First={"Type": "Succeed", "End": True}),
        machine(First={"Type": "Wait", "End": True}),
        machine(First={"Type": "Wait", "Seconds": 1, "Timestamp": "x", "End": True}),
        machine(First=task(HeartbeatSeconds=3)),
        machine(First=task(Credentials={})),
        machine(First=task(Resource="arn:aws:states:::lambda:invoke")),
        machine(First=task(Catch=[catch("Nowhere", "E")])),
        machine(First=task(Catch=[catch("First", "States.ALL"), catch("First", "E")])),
        machine(First=task(Catch=[catch("First", "States.ALL", "E")])),
        machine(First=task(Catch=[catch("First")])),
        machine(First=task(Retry=[retry("E", JitterStrategy="HALF")])),
        machine(First=task(Retry=[retry("E", Jitter="FULL")])),
        machine(First=task(ResultPath="$$.Execution")),
        machine(First=task(ResultPath="$.list[0]")),
        machine(First=task(Parameters={"a.$": "$.list[*]"})),
        machine(First=task(Parameters={"a.$": "$..b"})),
        machine(First=task(Parameters={"a.$": "$variable"})),
        machine(First=task(Parameters={"a.$": "$$.Task.Token"})),
        machine(First=task(Parameters={"a.$": "text"})),
        machine(First=task(Parameters={"a.$": "States.Hash($.a, 'MD5')"})),
        machine(First=task(Parameters={"a.$": "States.JsonToString($.a, 1)"})),
        machine(First=task(Parameters={"a.$": "States.JsonToString($.a"})),
        machine(First=task(Parameters={"a.$": "States.Array($.a,)"})),
        machine(First=task(Parameters={"a.$": "States.Array($.a $.b)"})),
        machine(First=task(Parameters={"a.$": "States.Array($.a), 1"})),
        machine(First=start(Parameters={"Input": {}})),
        machine(First=start(Parameters={"StateMachineArn": "a", "TraceHeader": "b"})),
        machine(First=mapping(ToleratedFailureCount=1)),
        machine(First=mapping(Parameters={})),
        machine(
            First=mapping(
                states={**machine(First=passing()), "ProcessorConfig": {"Mode": "DISTRIBUTED"}}
            )
        ),
        machine(
            First=mapping(states=machine(First={"Type": "Pass", "Next": "Outside"})),
            Outside=passing(),
        ),
        choosing({"Variable": "$.a"}),
        choosing({"Variable": "$.a", "BooleanGreaterThan": True}),
        choosing({"Variable": "$.a", "NumericEquals": 1, "IsPresent": True}),
        choosing({"Variable": "$.a", "IsObject": True}),
        choosing({"Condition": "{% $a %}"}),
        choosing({"And": [{"Variable": "$.a", "IsPresent": True, "Next": "Yes"}]}),
        machine(First={"Type": "Choice", "Choices": "no list", "End": True}),
    ],
)
def test_what_is_wrong_or_not_known_is_refused(definition: State) -> None:
    with pytest.raises(InvalidDefinition):
        load(definition)


def test_a_refusal_names_the_place() -> None:
    with pytest.raises(InvalidDefinition, match=r"First, Retry: not known here: Jitter"):
        load(machine(First=task(Retry=[retry("E", Jitter="FULL")])))


def test_every_workflow_of_ours_can_be_loaded(deployed: Deployed) -> None:
    for name in deployed.of_type("AWS::StepFunctions::StateMachine"):
        load(deployed.definition(name))


# --------------------------------------------------------------------------------------------------
# moto's engine does the same
# --------------------------------------------------------------------------------------------------

OURS = ("ClusterBootstrap", "DeploymentRun", "Reconciliation", "TaskProvisioning", "TokenRotation")


@dataclass
class Both:
    """moto's engine, and the means to run the same thing in both."""

    engine: Engine
    made: int = 0

    def make(self, definition: State) -> str:
        """Make a state machine in moto; return its name."""
        self.made += 1
        self.engine.client.create_state_machine(
            name=f"Made{self.made}",
            definition=json.dumps(definition),
            roleArn="arn:aws:iam::123456789012:role/any",
        )
        return f"Made{self.made}"

    def run(
        self,
        name: str,
        given: Any,
        answers: Mapping[str, Answer | Sequence[Answer]],
        machines: Mapping[str, State],
    ) -> tuple[Any, Any]:
        """Run a state machine in both; return what has to be the same."""
        self.engine.forget()
        self.engine.script(**answers)
        theirs = self.engine.run(name, given)
        world = World(answers, {f"{MACHINE}{other}": machines[other] for other in machines})
        ours = world.run(machines[name], given, theirs.arn)
        their_calls = [(call.function, call.payload) for call in self.engine.calls]
        return (
            _comparable((ours, world.calls, world.sleeps)),
            _comparable((theirs, their_calls, self.engine.waits + self.engine.pauses)),
        )


def _comparable(of_one: tuple[Any, list[tuple[str, Any]], list[float]]) -> dict[str, Any]:
    ended, calls, waits = of_one
    # moto's text has the names of its classes, and the numbers of events.
    cause = ended.cause if ended.error != "States.Runtime" else "…"
    return {
        "status": ended.status,
        "output": _known(ended.output),
        "error": ended.error,
        "cause": _known(cause),
        "states": ended.states,
        "calls": _known([list(call) for call in calls]),
        # The engine notes those of Wait states and those before retries apart.
        "waits": sorted(seconds for seconds in waits if seconds > 0),
    }


def _known(value: Any) -> Any:
    """Unpack JSON in texts, and leave out of executions what no two have in common."""
    if isinstance(value, str) and ":execution:" in value:
        value = re.sub(r":[0-9a-f-]{36}\b", ":any", value)
    if isinstance(value, str) and value.startswith("{"):
        return _known(json.loads(value))
    if isinstance(value, list):
        return [_known(item) for item in value]
    if not isinstance(value, dict):
        return value
    keys = set(value)
    if "ExecutionArn" in keys:
        keys &= {"ExecutionArn", "Status", "Error", "Cause", "Output"}
    return {key: _known(value[key]) for key in sorted(keys)}


@pytest.fixture(scope="module")
def both(minimal: Deployed) -> Iterator[Both]:
    with running(minimal, *OURS) as engine:
        yield Both(engine)


@pytest.fixture(scope="module")
def definitions(minimal: Deployed) -> dict[str, State]:
    return {name: minimal.definition(name) for name in OURS}


def test_a_word_about_the_differential_tests(both: Both) -> None:
    """They would notice a difference."""
    definition = machine(First=passing(Result=1))
    name = both.make(definition)

    ours, theirs = both.run(name, {}, {}, {name: machine(First=passing(Result=2))})

    assert ours != theirs


SHAPES = {"list": [1, {"a": "b"}], "object": {"inner": {"text": "t", "none": None}}, "number": 1.5}
IN_A_MAP = {"index.$": "$$.Map.Item.Index", "value.$": "$$.Map.Item.Value", "all.$": "$.number"}
RECOVERED = [Failed("A"), Failed("B"), Failed("A"), {"recovered": True}]

MADE: dict[str, tuple[State, Any, dict[str, Any]]] = {
    "pass": (machine(First=passing()), SHAPES, {}),
    "result": (machine(First=passing(Result={"a.$": "$.b"}, ResultPath="$.new")), SHAPES, {}),
    "discarded result": (machine(First=passing(Result=1, ResultPath=None)), SHAPES, {}),
    "new place": (machine(First=passing(Result=1, ResultPath="$.a.b.c")), SHAPES, {}),
    "old place": (machine(First=passing(Result=1, ResultPath="$.object.inner.text")), SHAPES, {}),
    "quoted place": (machine(First=passing(Result=1, ResultPath="$['object']['x y']")), SHAPES, {}),
    "input path": (machine(First=passing(InputPath="$.object.inner")), SHAPES, {}),
    "no input": (machine(First=passing(InputPath=None)), SHAPES, {}),
    "output path": (machine(First=passing(OutputPath="$.list[1]")), SHAPES, {}),
    "no output": (machine(First=passing(OutputPath=None)), SHAPES, {}),
    "both paths": (
        machine(First=passing(InputPath="$.object", ResultPath="$.x", OutputPath="$.x.inner")),
        SHAPES,
        {},
    ),
    "parameters": (
        machine(
            First=passing(
                InputPath="$.object",
                Parameters={
                    "whole.$": "$",
                    "one.$": "$.inner.text",
                    "constant": {"list": [1, {"two": 2}], "text": "$.inner"},
                    "nested": {"deep.$": "$.inner.none", "list": [{"in_list.$": "$.inner"}, 1]},
                },
                ResultPath="$.made",
            )
        ),
        SHAPES,
        {},
    ),
    "context": (
        machine(
            First=passing(
                Parameters={
                    "id.$": "$$.Execution.Id",
                    "name.$": "$$.Execution.Name",
                    "input.$": "$$.Execution.Input.object",
                    "state.$": "$$.State.Name",
                    "machine.$": "$$.StateMachine.Id",
                    "machine_name.$": "$$.StateMachine.Name",
                }
            )
        ),
        SHAPES,
        {},
    ),
    "functions": (
        machine(
            First=passing(
                Parameters={
                    "text.$": "States.JsonToString($.object)",
                    "number.$": "States.JsonToString($.number)",
                    "parsed.$": "States.StringToJson('{\"a\": [1, null]}')",
                    "length.$": "States.ArrayLength($.list)",
                    "array.$": "States.Array($.number, 'it is', 2, true, $$.State.Name)",
                    "nested.$": "States.ArrayLength(States.Array(1, States.Array()))",
                    "format.$": "States.Format('{} and {}: {}', $.number, $.object.inner.text, 7)",
                }
            )
        ),
        SHAPES,
        {},
    ),
    "missing parameter": (machine(First=passing(Parameters={"a.$": "$.missing"})), SHAPES, {}),
    "missing input": (machine(First=passing(InputPath="$.missing")), SHAPES, {}),
    "missing output": (machine(First=passing(OutputPath="$.list[7]")), SHAPES, {}),
    "task": (machine(First=task()), SHAPES, {"F": {"a": 1}}),
    "task with everything": (
        machine(
            First=task(
                InputPath="$.object",
                Parameters={"text.$": "$.inner.text", "name.$": "$$.State.Name"},
                ResultSelector={"a.$": "$.a", "all": {"of_it.$": "$"}, "constant": 1},
                ResultPath="$.object.result",
                OutputPath="$.object",
                TimeoutSeconds=60,
                Comment="All of it.",
            )
        ),
        SHAPES,
        {"F": {"a": [1]}},
    ),
    "constant selector": (machine(First=task(ResultSelector={"a": 1})), SHAPES, {"F": {}}),
    "discarded answer": (machine(First=task(ResultPath=None)), SHAPES, {"F": {"a": [1]}}),
    "uncaught": (machine(First=task()), SHAPES, {"F": Failed("E", "Because.")}),
    "caught": (
        machine(First=task(Catch=[catch("Gave_up", "A", "E")]), Gave_up=ENDS["Gave_up"]),
        SHAPES,
        {"F": Failed("E", "Because.")},
    ),
    "caught as any": (
        machine(First=task(Catch=[catch("Failed", "States.ALL")]), Failed=ENDS["Failed"]),
        SHAPES,
        {"F": Failed("E", "Because.")},
    ),
    "caught as a failed task": (
        machine(First=task(Catch=[catch("Failed", "States.TaskFailed")]), Failed=ENDS["Failed"]),
        SHAPES,
        {"F": Failed("E", "Because.")},
    ),
    "caught by the first": (
        machine(
            First=task(Catch=[catch("Done", "A"), catch("Gave_up", "E"), catch("Done", "E")]),
            **{name: ENDS[name] for name in ("Done", "Gave_up")},
        ),
        SHAPES,
        {"F": Failed("E")},
    ),
    "caught by none": (
        machine(First=task(Catch=[catch("Done", "A")]), Done=ENDS["Done"]),
        SHAPES,
        {"F": Failed("E")},
    ),
    "caught and discarded": (
        machine(
            First=task(Catch=[catch("Done", "E", ResultPath=None)], OutputPath="$.a"),
            Done=ENDS["Done"],
        ),
        SHAPES,
        {"F": Failed("E")},
    ),
    "caught, and nothing else": (
        machine(
            First=task(Catch=[{"ErrorEquals": ["E"], "Next": "Done"}], InputPath="$.object"),
            Done=ENDS["Done"],
        ),
        SHAPES,
        {"F": Failed("E")},
    ),
    "caught beside the whole input": (
        machine(First=task(Catch=[catch("Done", "E")], InputPath="$.object"), Done=ENDS["Done"]),
        SHAPES,
        {"F": Failed("E")},
    ),
    "retried": (machine(First=task(Retry=[retry("A", "B", MaxAttempts=4)])), {}, {"F": RECOVERED}),
    "retried for each error": (
        machine(
            First=task(
                Retry=[
                    retry("A", MaxAttempts=2, IntervalSeconds=3, BackoffRate=1.5),
                    retry("B", MaxAttempts=1, JitterStrategy="FULL", IntervalSeconds=7),
                ]
            )
        ),
        {},
        {"F": RECOVERED},
    ),
    "retried too seldom": (
        machine(
            First=task(
                Retry=[retry("A", MaxAttempts=1), retry("States.ALL", MaxAttempts=9)],
                Catch=[catch("Gave_up", "States.ALL")],
            ),
            Gave_up=ENDS["Gave_up"],
        ),
        {},
        {"F": RECOVERED},
    ),
    "not retried": (
        machine(First=task(Retry=[retry("A", MaxAttempts=0), retry("A")])),
        {},
        {"F": RECOVERED},
    ),
    "retried with a limit": (
        machine(
            First=task(
                Retry=[retry("States.TaskFailed", MaxAttempts=6, MaxDelaySeconds=5, BackoffRate=3)]
            )
        ),
        {},
        {"F": Failed("A")},
    ),
    "retried in a second visit": (
        machine(
            First=task(Retry=[retry("A", MaxAttempts=1)], ResultPath="$.f", Next="Again"),
            Again={
                "Type": "Choice",
                "Choices": [{"Variable": "$.f.again", "BooleanEquals": True, "Next": "First"}],
                "Default": "Done",
            },
            Done=ENDS["Done"],
        ),
        {},
        {"F": [Failed("A"), {"again": True}, Failed("A"), {"again": False}]},
    ),
    "fail": (machine(First={"Type": "Fail", "Error": "E", "Cause": "C"}), {}, {}),
    "fail without a word": (machine(First={"Type": "Fail"}), {}, {}),
    "fail with paths": (
        machine(First={"Type": "Fail", "ErrorPath": "$.a", "CausePath": "$$.State.Name"}),
        {"a": "E"},
        {},
    ),
    "fail with a function": (
        machine(First={"Type": "Fail", "Error": "E", "CausePath": "States.JsonToString($.object)"}),
        SHAPES,
        {},
    ),
    "fail with a path to nothing": (machine(First={"Type": "Fail", "ErrorPath": "$.a"}), {}, {}),
    "fail with a reserved name": (
        machine(First={"Type": "Fail", "ErrorPath": "$.a", "Cause": "C"}),
        {"a": "States.Timeout"},
        {},
    ),
    "succeed": (
        machine(First={"Type": "Succeed", "InputPath": "$.object", "OutputPath": "$.inner"}),
        SHAPES,
        {},
    ),
    "wait": (
        machine(
            First={"Type": "Wait", "Seconds": 0, "InputPath": "$.object", "Next": "Done"},
            Done=ENDS["Done"],
        ),
        SHAPES,
        {},
    ),
    "wait for something else": (
        machine(First={"Type": "Wait", "SecondsPath": "$.list", "End": True}),
        SHAPES,
        {},
    ),
    "wait until the past": (
        machine(First={"Type": "Wait", "Timestamp": "2026-01-05T20:10:01Z", "End": True}),
        SHAPES,
        {},
    ),
    "wait until nonsense": (
        machine(First={"Type": "Wait", "TimestampPath": "$.object.inner.text", "End": True}),
        SHAPES,
        {},
    ),
    "choice with paths": (
        choosing({"Variable": "$.text", "IsPresent": True}, InputPath="$.object.inner"),
        SHAPES,
        {},
    ),
    "choice of the second": (
        machine(
            First={
                "Type": "Choice",
                "Choices": [
                    {"Variable": "$.number", "NumericGreaterThan": 2, "Next": "Done"},
                    {"Variable": "$.number", "NumericGreaterThan": 1, "Next": "Gave_up"},
                    {"Variable": "$.number", "NumericGreaterThan": 0, "Next": "Done"},
                ],
            },
            Done=ENDS["Done"],
            Gave_up={"Type": "Succeed"},
        ),
        SHAPES,
        {},
    ),
    "map": (machine(First=mapping()), ["a", 1, {}], {"F": [{"n": 1}, {"n": 2}, {"n": 3}]}),
    "map of nothing": (machine(First=mapping(ItemsPath="$.none")), {"none": []}, {}),
    "map with everything": (
        machine(
            First=mapping(
                InputPath="$.given",
                ItemsPath="$.list",
                ItemSelector={**IN_A_MAP, "constant": 1},
                ResultSelector={"results.$": "$", "second.$": "$[1]"},
                ResultPath="$.given.results",
                OutputPath="$.given",
            )
        ),
        {"given": SHAPES},
        {"F": [{"n": 1}, {"n": 2}]},
    ),
    "map to nowhere": (
        machine(First=mapping(ItemsPath="$.list", ResultPath=None)),
        SHAPES,
        {"F": {}},
    ),
    "map with several ends": (
        machine(
            First=mapping(
                states=machine(
                    "Each",
                    Each={
                        "Type": "Choice",
                        "Choices": [{"Variable": "$", "IsString": True, "Next": "Text"}],
                        "Default": "Other",
                    },
                    Text={"Type": "Succeed"},
                    Other=passing(Result="other"),
                )
            )
        ),
        ["a", 1, "b"],
        {},
    ),
    "map with a failure": (
        machine(First=mapping()),
        [1, 2, 3],
        {"F": [{}, Failed("E", "Because."), {}]},
    ),
    "map that catches outside": (
        machine(
            First=mapping(ItemsPath="$.list", Catch=[catch("Gave_up", "E")]),
            Gave_up=ENDS["Gave_up"],
        ),
        SHAPES,
        {"F": [{}, Failed("E", "Because.")]},
    ),
    "map that catches inside": (
        machine(
            First=mapping(
                states=machine(
                    "Each", Each=task(Catch=[catch("Done", "States.ALL")]), Done=ENDS["Done"]
                )
            )
        ),
        [{}, {"a": 1}],
        {"F": [Failed("E", "Because."), {}]},
    ),
    "map whose iterations retry": (
        machine(
            First=mapping(states=machine("Each", Each=task(Retry=[retry("A", MaxAttempts=1)])))
        ),
        [1, 2],
        {"F": [Failed("A"), {}, Failed("A"), {}]},
    ),
    "map that retries": (
        machine(First=mapping(Retry=[retry("E", MaxAttempts=2)])),
        [1, 2],
        {"F": [{"n": 1}, Failed("E"), {"n": 3}, {"n": 4}]},
    ),
    "map whose iterations fail": (
        machine(
            First=mapping(
                states=machine("Each", Each={"Type": "Fail", "Error": "E", "CausePath": "$.a"}),
                Catch=[catch("Failed", "States.ALL", ResultPath="$")],
            ),
            Failed={"Type": "Fail", "Error": "E", "CausePath": "States.JsonToString($)"},
        ),
        [{"a": "Because."}],
        {},
    ),
    "map in a map": (
        machine(
            First=mapping(
                states=machine("Inner", Inner=mapping(ItemSelector={"v.$": "$$.Map.Item.Value"}))
            )
        ),
        [[1, 2], [], [3]],
        {"F": [{"n": 1}, {"n": 2}, {"n": 3}]},
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_of_a_made_state_machine(both: Both, name: str) -> None:
    definition, given, answers = MADE[name]
    made = both.make(definition)

    ours, theirs = both.run(made, given, answers, {made: definition})

    assert ours == theirs


VALUES: list[Any] = [
    *(True, False, None, [], {}, "", 0, 1, 2, 2.5, -1),
    *("a", "b", "web-1", "web-12", "web", "1"),
    *("2026-01-05T20:10:00Z", "2026-01-05T20:10:01Z", "2026-01-05T20:10:02Z"),
]
RELATIONS = ("Equals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals")
ABOVE_1 = {"Variable": "$.v", "NumericGreaterThan": 1}
BELOW_2 = {"Variable": "$.v", "NumericLessThan": 2}
TEXT = {"Variable": "$.v", "IsString": True}
KINDS = ("Boolean", "Null", "Numeric", "String", "Timestamp")

RULES: dict[str, list[State]] = {
    "boolean": [{"BooleanEquals": True}, {"BooleanEquals": False}, {"BooleanEqualsPath": "$.bool"}],
    "numeric": [{f"Numeric{relation}": 2} for relation in RELATIONS],
    "numeric path": [{f"Numeric{relation}Path": "$.number"} for relation in RELATIONS],
    "string": [{f"String{relation}": "b"} for relation in RELATIONS],
    "string path": [{f"String{relation}Path": "$.text"} for relation in RELATIONS],
    "timestamp": [{f"Timestamp{relation}": "2026-01-05T20:10:01Z"} for relation in RELATIONS],
    "timestamp path": [{f"Timestamp{relation}Path": "$.moment"} for relation in RELATIONS],
    "pattern": [{"StringMatches": "web-*"}, {"StringMatches": "*b*"}, {"StringMatches": "*"}],
    "type": [{f"Is{kind}": wanted} for kind in KINDS for wanted in (True, False)],
    "presence": [{"IsPresent": True}, {"IsPresent": False}],
    "several": [
        {"And": [ABOVE_1, {"Not": BELOW_2}]},
        {"Or": [ABOVE_1, BELOW_2, TEXT]},
        {"Not": {"Or": [TEXT, {"And": [ABOVE_1, BELOW_2]}]}},
    ],
}


@pytest.mark.parametrize("kind", RULES)
def test_of_choices(both: Both, kind: str) -> None:
    others = {"number": 2, "text": "b", "moment": "2026-01-05T20:10:01Z", "bool": True}
    given = [{"v": value, **others} for value in VALUES]
    if kind == "presence":
        given.append(others)
    states: dict[str, Any] = {"Done": ENDS["Done"]}
    following = "Done"
    for number, comparison in enumerate(RULES[kind]):
        rule = comparison if kind == "several" else {"Variable": "$.v", **comparison}
        name = f"{kind} {number}"
        yes, no = f"{name}: yes", f"{name}: no"
        states[name] = {"Type": "Choice", "Choices": [{**rule, "Next": yes}], "Default": no}
        states[yes] = states[no] = {"Type": "Pass", "Next": following}
        following = name
    definition = machine(First=mapping(states={"StartAt": following, "States": states}))
    made = both.make(definition)

    ours, theirs = both.run(made, given, {}, {made: definition})

    assert set(states) < set(ours["states"]), "each rule holds and does not hold for something"
    assert ours == theirs


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("answer", [{"a": 1}, Failed("E", "Because.")])
def test_of_nested_executions(both: Both, answer: Answer, wait: bool) -> None:  # noqa: FBT001
    child = machine(First=task())
    other = both.make(child)
    select = {"execution.$": "$.ExecutionArn", **({"output.$": "$.Output"} if wait else {})}
    parent = machine(
        First=start(
            wait=wait,
            Parameters={
                "StateMachineArn": f"{MACHINE}{other}",
                "Input": {"given.$": "$.given"},
                "Name.$": "$$.Execution.Name",
            },
            ResultSelector=select,
            ResultPath="$.run",
            Catch=[catch("Failed", "States.TaskFailed")],
        ),
        Failed=ENDS["Failed"],
    )
    made = both.make(parent)

    ours, theirs = both.run(made, {"given": [1]}, {"F": answer}, {made: parent, other: child})

    # Whoever does not wait does not run it here.
    for one in (ours, theirs):
        assert one["calls"] == ([["F", {"given": [1]}]] if wait or one is theirs else [])
        del one["calls"]
    assert ours == theirs


# --- the workflows --------------------------------------------------------------------------------

ERRORS = (
    *("ConsulUnavailable", "ClusterNotBootstrapped", "AwsThrottled", "Lambda.Unknown"),
    *("ForeignObject", "InvalidEvent", "ConsulAlreadyBootstrapped", "KeyError"),
)
PROVISIONING: dict[str, list[Answer]] = {
    "CheckTags": [
        NOT_IN_THE_MESH,
        WITH_POLICY,
        {key: value for key, value in WITH_POLICY.items() if key != "policy"},
    ],
    "StoreSecret": [STORED, PUBLIC],
    "CreatePolicy": [{"name": "prod-web", "change": "none"}],
    "CreateToken": [{"change": "created"}, {"change": "superseded"}],
    "PublishSecret": [{"published": True}, {"published": False}],
}
BOOTSTRAP: dict[str, list[Answer]] = {
    "CheckConsul": [{"leader": "10.0.0.1:8300"}],
    "BootstrapAcls": [{"bootstrapped": True}, {"bootstrapped": False}],
    "CreateBootstrapPolicies": [{"name": "…", "change": "created"}],
    "StoreSecret": [STORED, PUBLIC],
    "CreateControllerToken": [{"change": "created"}],
    "CreateToken": [{"change": "none"}],
    "PublishSecret": [{"published": True}],
    "AnswerCloudFormation": [{}],
}


PROVISION, SUSPECT = {"service": "web"}, {"subject": {"service": "api"}, "accessor_id": "1"}
DRIFT = {"found": 0, "left": 0, "provision": [], "retire": [], "suspects": [], "next": {}}
RECONCILIATION: dict[str, list[Answer]] = {
    **PROVISIONING,
    "FindDrift": [
        DRIFT,
        {**DRIFT, "found": 1, "provision": [PROVISION]},
        {**DRIFT, "found": 1, "retire": [SUSPECT]},
        {**DRIFT, "found": 2, "provision": [PROVISION], "suspects": [SUSPECT]},
    ],
    "RetireTokens": [{"since": "2026-01-01T00:00:00Z", "retired": 1, "left": 0}],
    "DeleteUnused": [{"deleted": 1, "kept": 0}, {"deleted": 0, "kept": 1}],
    "ReportReconciliation": [{"found": 1}],
}
CHECK = {"redeploy": [], "waiting": 0, "kept": 0, "done": True, "expired": False}


def plan(payload: dict[str, Any]) -> dict[str, Any]:
    if "services" in payload["event"]:
        services = [{"service": "api"}, {"service": "web"}]
        return {"one": False, "services": services, "next": {}}
    return {
        "one": True,
        "subject": payload["event"],
        "secret": {"id": "any"},
        "token": {},
        "has_tasks": payload["event"] != {"token": "controller"},
    }


ROTATION: dict[str, list[Answer]] = {
    "PlanRotation": [plan],
    "StoreSecret": [{**STORED, "previous": [SUSPECT]}, {**STORED, "previous": []}],
    "CreateToken": [{"change": "created"}],
    "ProveToken": [{"proven": True}, {"proven": True}, {"proven": False}],
    "PublishSecret": [{"published": True}, {"published": True}, {"published": False}],
    "AbandonRotation": [{"switched": False}, {"switched": True}],
    "RetireTokens": [{"since": "2026-01-01T00:00:00Z", "retired": 1, "left": 0}],
    "CheckRedeployments": [
        CHECK,
        {**CHECK, "redeploy": [{"ecs_service": "web-a"}], "done": False},
        {**CHECK, "waiting": 1, "done": False},
        {**CHECK, "waiting": 1, "done": False, "expired": True},
    ],
    "RedeployService": [{"redeployed": True}],
    "DeleteUnused": [{"deleted": 1, "kept": 0}, {"deleted": 0, "kept": 1}],
    "ReportRotation": [{"rotated": 1, "left": 1}, {"rotated": 2, "left": 0}],
}


def by_chance(answers: Mapping[str, list[Answer]], seed: int) -> dict[str, list[Answer]]:
    """Return some answers for each function, and some failures before or instead of them."""
    chance = random.Random(seed)  # noqa: S311 - chooses tests
    scripted: dict[str, list[Answer]] = {}
    for function, possible in answers.items():
        failures = [Failed(chance.choice(ERRORS)) for _ in range(chance.choice((0, 0, 0, 1, 2, 4)))]
        ends = [chance.choice(possible) for _ in range(2)]
        scripted[function] = [*failures, *(ends if chance.random() < 0.8 else [])] or ends
    return scripted


@pytest.mark.parametrize("seed", range(15))
def test_of_task_provisioning(both: Both, definitions: dict[str, State], seed: int) -> None:
    answers = by_chance(PROVISIONING, seed)

    ours, theirs = both.run("TaskProvisioning", EVENT, answers, definitions)

    assert ours == theirs


@pytest.mark.parametrize("seed", range(6))
def test_of_cluster_bootstrap_run_by_a_deployment(
    both: Both, definitions: dict[str, State], seed: int
) -> None:
    given = {
        "request": {"id": "r-1"},
        "state_machine_arn": f"{MACHINE}ClusterBootstrap",
        "input": {"why": "deployment"},
        "settle_seconds": 0,
    }

    ours, theirs = both.run("DeploymentRun", given, by_chance(BOOTSTRAP, seed), definitions)

    assert ours == theirs


@pytest.mark.parametrize("seed", range(12))
def test_of_reconciliation(both: Both, definitions: dict[str, State], seed: int) -> None:
    ours, theirs = both.run("Reconciliation", {}, by_chance(RECONCILIATION, seed), definitions)

    assert ours == theirs


@pytest.mark.parametrize("seed", range(18))
def test_of_token_rotation(both: Both, definitions: dict[str, State], seed: int) -> None:
    given = ({"service": "web"}, {"token": "controller"}, {"services": "all"})[seed % 3]
    answers = by_chance(ROTATION, seed)
    answers["CheckRedeployments"].append(CHECK)

    ours, theirs = both.run("TokenRotation", given, answers, definitions)

    assert ours == theirs


# --- where moto is wrong --------------------------------------------------------------------------

BIG = "x" * LARGEST_STATE

MOTO_IS_WRONG: dict[str, tuple[str, State, Any, dict[str, Any], dict[str, Any]]] = {
    "a choice about what is missing": (
        "the execution fails (developer guide, 'Choice workflow state'); moto: no match",
        choosing({"Variable": "$.missing", "StringEquals": "a"}),
        {},
        {},
        {"status": "FAILED", "error": "States.Runtime", "states": ["First"]},
    ),
    "no choice": (
        "the error has a name of its own; moto: States.Runtime",
        machine(
            First={
                "Type": "Choice",
                "Choices": [{"Variable": "$.a", "IsPresent": True, "Next": "Done"}],
            },
            Done=ENDS["Done"],
        ),
        {},
        {},
        {"status": "FAILED", "error": "States.NoChoiceMatched"},
    ),
    "States.ALL and States.Runtime": (
        "'will always cause the execution to fail' (Error names); moto: caught",
        machine(First=task(Parameters={"a.$": "$.missing"}, **SURVIVING), Done=ENDS["Done"]),
        {},
        {"F": {}},
        {"status": "FAILED", "error": "States.Runtime", "waits": []},
    ),
    "States.ALL and States.DataLimitExceeded": (
        "'can't be caught by States.ALL' (Error names); moto: caught",
        machine(First=task(**SURVIVING), Done=ENDS["Done"]),
        {},
        {"F": {"a": BIG}},
        {"status": "FAILED", "error": "States.DataLimitExceeded", "waits": []},
    ),
    "the largest state": (
        "262,144 bytes are allowed (Service quotas); moto: one less",
        machine(First=passing()),
        {"a": text_of(LARGEST_STATE, {"a": ""})},
        {},
        {"status": "SUCCEEDED"},
    ),
    "a payload": (
        "the quota is for the input of a task, too; moto: only for what a state gives",
        machine(First=task(Parameters={"a.$": "$", "b.$": "$"})),
        {"a": "x" * 200_000},
        {"F": {}},
        {"status": "FAILED", "error": "States.DataLimitExceeded"},
    ),
    "a path through an item of a list": (
        "a path to one place gives what is there (developer guide, 'Paths'); moto: a list of it",
        machine(First=passing(OutputPath="$.list[1].a")),
        SHAPES,
        {},
        {"status": "SUCCEEDED", "output": "b"},
    ),
    "a quote in a text": (
        "a backslash before it takes its meaning (developer guide, 'Intrinsics'); moto: its end",
        machine(First=passing(Parameters={"a.$": "States.Array('it\\'s')"})),
        {},
        {},
        {"output": {"a": ["it's"]}},
    ),
    "null as an argument": (
        "it may be one (states-language.net, 'Intrinsic functions'); moto: the end of them",
        machine(First=passing(Parameters={"a.$": "States.Array(1, null, 2)"})),
        {},
        {},
        {"output": {"a": [1, None, 2]}},
    ),
    "a selector of what is missing": (
        "as any other path to nothing; moto: an error that is called Exception",
        machine(First=task(ResultSelector={"a.$": "$.b"})),
        {},
        {"F": {}},
        {"status": "FAILED", "error": "States.Runtime"},
    ),
    "a Map of something else than a list": (
        "as any other value of the wrong type; moto: an error that only JSONata has",
        machine(First=mapping(ItemsPath="$.object")),
        SHAPES,
        {},
        {"status": "FAILED", "error": "States.Runtime"},
    ),
    "the item of a Map in its states": (
        "the context object is there in all of them; moto: not in what it runs in a thread",
        machine(
            First=mapping(
                states=machine("Each", Each=task(Parameters={"v.$": "$$.Map.Item.Value"}))
            )
        ),
        [1],
        {"F": {}},
        {"status": "SUCCEEDED", "calls": [["F", {"v": 1}]]},
    ),
}


@pytest.mark.parametrize("name", MOTO_IS_WRONG)
def test_where_moto_is_wrong(both: Both, name: str) -> None:
    _reason, definition, given, answers, expected = MOTO_IS_WRONG[name]
    made = both.make(definition)

    ours, theirs = both.run(made, given, answers, {made: definition})

    assert {key: ours[key] for key in expected} == expected
    assert ours != theirs, "moto does it right now: move this to the others"
