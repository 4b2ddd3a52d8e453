"""Runs state machines of the Amazon States Language as plain function calls.

The engine of moto (tests/workflows/engine.py) starts threads for each state and waits in real time.
This one is for tens of thousands of executions: it has no thread, no clock and no chance of its
own. Whatever takes time or goes out into the world is a call of `Services`.

It knows the part of the language that workflows here use (JSONPath, Standard). All else is refused
when a definition is loaded: nothing is ignored but comments. test_asl.py holds it against moto's
engine. Where the specification (https://states-language.net/spec.html) and AWS's developer guide
(https://docs.aws.amazon.com/step-functions/latest/dg/) differ, it follows the guide.
"""

from __future__ import annotations

import functools
import json
import operator
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, Protocol, TypeAlias

LARGEST_STATE = 256 * 1024
"""How many bytes of UTF-8 the input and the output of a state may have."""

_INLINE_CONCURRENCY = 40
"""How many iterations of an inline Map run at a time, at most."""

_DATA_LIMIT = "States.DataLimitExceeded"
_RUNTIME = "States.Runtime"
_TIMEOUT = "States.Timeout"


@dataclass(frozen=True)
class Ended:
    """How an execution ended."""

    status: str
    """SUCCEEDED, FAILED, TIMED_OUT or ABORTED."""
    output: Any
    error: str | None
    cause: str | None
    states: list[str]
    """The states that it went through, those of iterations too, in the order of their entry."""


class TaskFailed(Exception):  # noqa: N818 - nothing is wrong with the test
    """A state fails: what its Retry and its Catch see.

    Args:
        error: the name of the error.
        cause: what there is to say about it.

    """

    def __init__(self, error: str, cause: str = "") -> None:
        super().__init__(error, cause)
        self.error = error
        self.cause = cause


class Stopped(Exception):  # noqa: N818 - as above
    """Somebody stops the execution, as StopExecution does. Every service may raise it."""

    def __init__(self, error: str | None = None, cause: str | None = None) -> None:
        super().__init__(error, cause)
        self.error = error
        self.cause = cause


class InvalidDefinition(Exception):  # noqa: N818 - as above
    """A definition is wrong, or has something that is not known here."""


class Services(Protocol):
    """What is around an execution.

    Any exception but `TaskFailed` and `Stopped` goes through to whoever runs the execution.
    """

    def invoke(self, function_arn: str, payload: Any) -> Any:
        """Invoke a function and return its answer.

        Raises:
            TaskFailed: if it fails.

        """
        ...

    def start_execution(
        self, state_machine_arn: str, name: str | None, execution_input: Any, *, wait: bool
    ) -> dict[str, Any]:
        """Start an execution, and return `ExecutionArn`, `Status`, `Output` and so on.

        Args:
            state_machine_arn: which state machine.
            name: of the execution; None: any.
            execution_input: a JSON value.
            wait: until it has ended, as `.sync:2` does.

        Raises:
            TaskFailed: if it cannot be started; `States.TaskFailed` with what is known of it, in
                JSON, as the cause, if it was waited for and did not succeed.

        """
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass: in a Wait, or before a retry."""
        ...

    def now(self) -> datetime:
        """Return the time, with its zone."""
        ...

    def jitter(self, longest: float) -> float:
        """Return how long to wait before a retry: something between 0 and the longest."""
        ...

    def parallel(self, items: Sequence[Callable[[], Any]], concurrency: int) -> list[Any]:
        """Call all of them, so many at a time, and return their results in the same order.

        They raise nothing that ends an execution: where one iteration of a Map has failed, the
        others return as soon as they get to their next state.
        """
        ...


def run(
    definition: Mapping[str, Any],
    execution_input: Any,
    *,
    execution_arn: str,
    state_machine_arn: str,
    services: Services,
) -> Ended:
    """Run an execution to its end.

    A call of a service that takes longer than a time limit allows is over when it returns; then
    the limit counts, not its result.

    Args:
        definition: the state machine's, as a JSON value that nobody changes from now on.
        execution_input: a JSON value.
        execution_arn: the execution's.
        state_machine_arn: the state machine's.
        services: what is around it.

    Raises:
        InvalidDefinition: if there is something in the definition that is not known here.

    """
    machine = load(definition)
    text = _encode(execution_input)
    began = services.now()
    execution = _Execution(
        arn=execution_arn,
        state_machine_arn=state_machine_arn,
        given=json.loads(text),
        began=began,
        deadline=None if machine.timeout is None else began + machine.timeout,
        services=services,
    )
    frame = _Frame(execution, execution.given, _bytes(text))
    states = execution.states
    try:
        frame.set(frame.data, frame.size)
        _walk(machine.sequence, frame)
    except TaskFailed as failed:
        return Ended("FAILED", None, failed.error or None, failed.cause or None, states)
    except _TimedOut:
        return Ended("TIMED_OUT", None, _TIMEOUT, None, states)
    except Stopped as stopped:
        return Ended("ABORTED", None, stopped.error, stopped.cause, states)
    return Ended("SUCCEEDED", json.loads(_encode(frame.data)), None, None, states)


def load(definition: Mapping[str, Any]) -> Machine:
    """Return a definition, ready to run. The same one is compiled once.

    Raises:
        InvalidDefinition: if there is something in it that is not known here.

    """
    known = _machines.get(id(definition))
    if known is None:
        # The definition is kept, so that no other one gets its ID.
        known = _machines[id(definition)] = (definition, _machine(definition))
    return known[1]


# --- an execution ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """A state machine, ready to run."""

    sequence: _Sequence
    timeout: timedelta | None


_machines: dict[int, tuple[Mapping[str, Any], Machine]] = {}


@dataclass(frozen=True)
class _Sequence:
    """States that lead to each other: those of a state machine, or of a Map's iterations."""

    start: str
    steps: Mapping[str, _Step]


class _TimedOut(Exception):  # noqa: N818 - as above
    """The execution has reached its time limit."""


class _Halted(Exception):  # noqa: N818 - as above
    """Another iteration of the same Map has failed."""


@dataclass
class _Execution:
    arn: str
    state_machine_arn: str
    given: Any
    began: datetime
    deadline: datetime | None
    services: Services
    states: list[str] = field(default_factory=list)
    uuids: int = 0

    def new_uuid(self) -> str:
        self.uuids += 1
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.arn}#{self.uuids}"))


@dataclass
class _Iterations:
    """Those of one run of a Map, as far as they have to know of each other."""

    around: _Iterations | None
    failure: Exception | None = None


class _Frame:
    """Where a sequence of states is: the execution itself, or an iteration of a Map."""

    __slots__ = ("data", "entered", "execution", "item", "iterations", "retries", "size", "state")

    def __init__(
        self,
        execution: _Execution,
        data: Any,
        size: int,
        iterations: _Iterations | None = None,
        item: tuple[int, Any] | None = None,
    ) -> None:
        self.execution = execution
        self.data = data
        """What the next state gets. It is replaced, and never changed in place."""
        self.size = size
        """How many bytes that has, at most."""
        self.iterations = iterations
        self.item = item
        self.state = ""
        self.entered = execution.began
        self.retries = 0

    def enter(self, state: str) -> None:
        self.entered = self.check()
        self.state = state
        self.execution.states.append(state)

    def check(self) -> datetime:
        """Return the time, if the execution still goes on."""
        iterations = self.iterations
        while iterations is not None:
            if iterations.failure is not None:
                raise _Halted
            iterations = iterations.around
        now = self.execution.services.now()
        deadline = self.execution.deadline
        if deadline is not None and now >= deadline:
            raise _TimedOut
        return now

    def sleep(self, seconds: float) -> None:
        left = seconds
        if self.execution.deadline is not None:
            left = (self.execution.deadline - self.check()).total_seconds()
        self.execution.services.sleep(min(left, seconds))
        self.check()

    def set(self, data: Any, size: int) -> None:
        """Set what the next state gets.

        Args:
            data: it.
            size: how many bytes it has, or more.

        """
        if size > LARGEST_STATE:
            size = _bytes(_encode(data))
            self.limit(size)
        self.data = data
        self.size = size

    def limit(self, size: int) -> None:
        """Fail the state if something is too big."""
        if size > LARGEST_STATE:
            raise TaskFailed(
                _DATA_LIMIT,
                f"The state/task '{self.state}' returned a result with a size exceeding the "
                "maximum number of bytes service limit.",
            )

    def cannot(self, problem: str) -> NoReturn:
        """Fail the execution: the state does not fit its data."""
        raise TaskFailed(
            _RUNTIME, f"An error occurred while executing the state '{self.state}'. {problem}"
        )


_Step: TypeAlias = Callable[[_Frame], str | None]
"""Runs a state; returns the name of the next one, or None if this was the last."""

_Value: TypeAlias = Callable[[_Frame, Any], Any]
"""Evaluates an expression, a template or a condition; `$` stands for the second argument."""

_Put: TypeAlias = Callable[[_Frame, Any, int], tuple[Any, int]]
"""Puts a result of that size to its place in the data; returns all of it, and its size at most."""

_Work: TypeAlias = Callable[[_Frame, Any], tuple[Any, int]]
"""What a Task or a Map is there for: from its input to its result, and its size at most."""


def _walk(sequence: _Sequence, frame: _Frame) -> None:
    state: str | None = sequence.start
    while state is not None:
        frame.enter(state)
        state = sequence.steps[state](frame)
    frame.check()


# --- JSON -----------------------------------------------------------------------------------------

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


# --- paths and expressions ------------------------------------------------------------------------

_MISSING: Any = object()

_PATH = re.compile(r"\$\$?((?:\.[A-Za-z_][\w-]*|\['[^']+'\]|\[\d+\])*)")
_SEGMENT = re.compile(r"\.([\w-]+)|\['([^']+)'\]|\[(\d+)\]")

_CONTEXT: Mapping[tuple[str | int, ...], Callable[[_Frame], Any]] = {
    ("Execution", "Id"): lambda frame: frame.execution.arn,
    ("Execution", "Input"): lambda frame: frame.execution.given,
    ("Execution", "Name"): lambda frame: frame.execution.arn.rpartition(":")[2],
    ("Execution", "StartTime"): lambda frame: _timestamp(frame.execution.began),
    ("Map", "Item", "Index"): lambda frame: _MISSING if frame.item is None else frame.item[0],
    ("Map", "Item", "Value"): lambda frame: _MISSING if frame.item is None else frame.item[1],
    ("State", "EnteredTime"): lambda frame: _timestamp(frame.entered),
    ("State", "Name"): lambda frame: frame.state,
    ("State", "RetryCount"): lambda frame: frame.retries,
    ("StateMachine", "Id"): lambda frame: frame.execution.state_machine_arn,
    ("StateMachine", "Name"): lambda frame: frame.execution.state_machine_arn.rpartition(":")[2],
}


def _timestamp(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@functools.cache
def _segments(path: str) -> tuple[str | int, ...]:
    if not _PATH.fullmatch(path):
        raise InvalidDefinition(f"{path} is not a path of a kind that is known here")
    return tuple(
        int(index) if index else name or quoted
        for name, quoted, index in _SEGMENT.findall(path.lstrip("$"))
    )


@functools.cache
def _lookup(path: str) -> _Value:
    """Compile a path to a function that returns `_MISSING` if nothing is there."""
    segments = _segments(path)
    if not path.startswith("$$"):
        return lambda _, data: _follow(segments, data)
    for known, read in _CONTEXT.items():
        if segments[: len(known)] == known:
            rest = segments[len(known) :]
            return lambda frame, _: _follow(rest, read(frame))
    raise InvalidDefinition(f"{path} is not a part of the context that is known here")


def _follow(segments: tuple[str | int, ...], data: Any) -> Any:
    for segment in segments:
        if isinstance(segment, str):
            if not isinstance(data, dict) or segment not in data:
                return _MISSING
        elif not isinstance(data, list) or segment >= len(data):
            return _MISSING
        data = data[segment]
    return data


@functools.cache
def _path(path: str, field_name: str) -> _Value:
    """Compile a path that has to lead somewhere."""
    lookup = _lookup(path)

    def evaluate(frame: _Frame, data: Any) -> Any:
        found = lookup(frame, data)
        if found is _MISSING:
            frame.cannot(
                f"The JSONPath '{path}' specified for the field '{field_name}' could not be found "
                f"in the input '{_encode(data)}'"
            )
        return found

    return evaluate


@functools.cache
def _expression(text: str, field_name: str) -> _Value:
    """Compile what may be a path or an intrinsic function."""
    if text.startswith("$"):
        return _path(text, field_name)
    tokens = _tokens(text)
    value = _argument(tokens, next(tokens), field_name)
    if next(tokens, None) is not None:
        raise InvalidDefinition(f"{text}: there is something after its end")
    return value


def _format(template: str, *values: Any) -> str:
    pieces = template.split("{}")
    if len(pieces) != len(values) + 1:
        raise ValueError(f"'{template}' has no place for {len(values)} values")
    texts = [value if isinstance(value, str) else _encode(value) for value in values]
    return "".join(piece + text for piece, text in zip(pieces, [*texts, ""], strict=True))


_INTRINSICS: Mapping[str, tuple[int | None, Callable[..., Any]]] = {
    "States.Array": (None, lambda *values: list(values)),
    "States.ArrayLength": (1, len),
    "States.Format": (None, _format),
    "States.JsonToString": (1, _encode),
    "States.StringToJson": (1, json.loads),
}
"""The functions, each with how many arguments it takes."""

_TOKEN = re.compile(
    r"\s*(?:(?P<function>States\.\w+)\(|(?P<path>\$[\w$.\-\[\]]*)|'(?P<text>(?:[^'\\]|\\.)*)'"
    r"|(?P<literal>-?\d+(?:\.\d+)?|true|false|null)|(?P<mark>[,)]))"
)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            raise InvalidDefinition(f"{text}: not known here from {text[position:]!r} on")
        kind = str(found.lastgroup)
        yield kind, found[kind]
        position = found.end()


def _argument(tokens: Iterator[tuple[str, str]], token: tuple[str, str], field_name: str) -> _Value:
    match token:
        case "function", name:
            return _call(name, _arguments(tokens, field_name), field_name)
        case "path", path:
            return _path(path, field_name)
        case "text", raw:
            return _constant(re.sub(r"\\(.)", r"\1", raw))
        case "literal", raw:
            return _constant(json.loads(raw))
    raise InvalidDefinition(f"{field_name}: {token[1]!r} is at the wrong place")


def _arguments(tokens: Iterator[tuple[str, str]], field_name: str) -> list[_Value]:
    values: list[_Value] = []
    for token in tokens:
        if token == ("mark", ")"):
            return values
        first = token
        if values:
            if token != ("mark", ","):
                raise InvalidDefinition(f"{field_name}: a comma is missing before {token[1]!r}")
            first = next(tokens, ("mark", "the end"))
        values.append(_argument(tokens, first, field_name))
    raise InvalidDefinition(f"{field_name}: a function is not closed")


def _call(name: str, arguments: list[_Value], field_name: str) -> _Value:
    if name == "States.UUID" and not arguments:
        return lambda frame, _: frame.execution.new_uuid()
    count, function = _INTRINSICS.get(name, (None, None))
    if function is None or count not in {None, len(arguments)}:
        raise InvalidDefinition(f"{field_name}: {name} with {len(arguments)} is not known here")

    def evaluate(frame: _Frame, data: Any) -> Any:
        values = [argument(frame, data) for argument in arguments]
        try:
            return function(*values)
        except (TypeError, ValueError) as error:
            raise TaskFailed("States.IntrinsicFailure", f"{name}: {error}") from error

    return evaluate


def _constant(value: Any) -> _Value:
    return lambda _frame, _data: value


def _template(template: Any) -> _Value | None:
    """Compile a payload template; None: there is nothing to evaluate in it."""
    if isinstance(template, list):
        return _list_template(template)
    if not isinstance(template, dict):
        return None
    dynamic: list[tuple[str, _Value]] = []
    plain = True
    for key, value in template.items():
        if key.endswith(".$"):
            plain = False
            dynamic.append((key[:-2], _expression(value, key)))
        else:
            inner = _template(value)
            plain = plain and inner is None
            dynamic.append((key, inner or _constant(value)))
    if plain:
        return None
    return lambda frame, data: {key: value(frame, data) for key, value in dynamic}


def _list_template(template: list[Any]) -> _Value | None:
    items = [_template(item) for item in template]
    if not any(items):
        return None
    values = [item or _constant(value) for item, value in zip(items, template, strict=True)]
    return lambda frame, data: [value(frame, data) for value in values]


# --- reading a definition -------------------------------------------------------------------------

_ABSENT: Any = object()


class _Fields:
    """The fields of an object in a definition. Whoever knows one takes it; none may be left."""

    def __init__(self, owner: str, given: Any) -> None:
        if not isinstance(given, dict):
            raise InvalidDefinition(f"{owner} is not an object: {given!r}")
        self.owner = owner
        self._left = {key: value for key, value in given.items() if key != "Comment"}

    def take(self, name: str, default: Any = None) -> Any:
        """Return a field's value; the default, if it is not there."""
        return self._left.pop(name, default)

    def need(self, name: str) -> Any:
        """Return a field's value."""
        if name not in self._left:
            raise InvalidDefinition(f"{self.owner} has no {name}")
        return self._left.pop(name)

    def look_at(self, name: str) -> Any:
        """Return a field's value, and leave it."""
        return self._left.get(name, {})

    def expression(self, name: str) -> _Value | None:
        """Return what a field gives as it stands; or, called …Path, as a path or a function."""
        if f"{name}Path" in self._left:
            return _expression(self.need(f"{name}Path"), f"{name}Path")
        return _constant(self.need(name)) if name in self._left else None

    def path(self, name: str) -> _Value | None:
        """Return what a path selects; None: it selects everything. `null` selects nothing: {}."""
        path = self.take(name, "$")
        if path is None:
            return _constant({})
        return None if path == "$" else _path(path, name)

    def template(self, name: str) -> _Value | None:
        """Return a payload template; None: there is none."""
        template = self.take(name, _ABSENT)
        if template is _ABSENT:
            return None
        return _template(template) or _constant(template)

    def put(self) -> _Put:
        """Return where the result goes."""
        return _put(self.take("ResultPath", "$"))

    def following(self) -> str | None:
        """Return the name of the next state; None: there is none."""
        if self.take("End", default=False) is True:
            return None
        following: str = self.need("Next")
        return following

    def rest(self) -> tuple[str, Any]:
        """Return the only field that is left, its name and its value."""
        if len(self._left) != 1:
            raise InvalidDefinition(f"{self.owner}: not one comparison: {sorted(self._left)}")
        return self._left.popitem()

    def nothing_is_left(self) -> None:
        """Refuse fields that nobody knows."""
        if self._left:
            raise InvalidDefinition(f"{self.owner}: not known here: {', '.join(self._left)}")


def _machine(definition: Mapping[str, Any]) -> Machine:
    fields = _Fields("The state machine", definition)
    seconds = fields.take("TimeoutSeconds")
    if fields.take("Version", "1.0") != "1.0":
        raise InvalidDefinition("This is not of version 1.0")
    return Machine(_sequence(fields), None if seconds is None else timedelta(seconds=seconds))


def _sequence(fields: _Fields) -> _Sequence:
    start = fields.need("StartAt")
    states = fields.need("States")
    fields.nothing_is_left()
    steps: dict[str, _Step] = {}
    following: set[str] = {start}
    for name, given in states.items():
        state = _Fields(name, given)
        kind = state.need("Type")
        if kind not in _KINDS:
            raise InvalidDefinition(f"{name}: states of type {kind} are not known here")
        steps[name] = _KINDS[kind](state)
        state.nothing_is_left()
        following |= set(_following(given))
    if following - set(states):
        raise InvalidDefinition(f"There are no states {sorted(following - set(states))}")
    return _Sequence(start, steps)


def _following(state: Mapping[str, Any]) -> Iterator[str]:
    for way in (state, *state.get("Choices", []), *state.get("Catch", [])):
        yield from (way[key] for key in ("Next", "Default") if key in way)


def _put(path: str | None) -> _Put:
    if path is None:
        return lambda frame, _result, _size: (frame.data, frame.size)
    segments = _segments(path)
    if path.startswith("$$") or any(isinstance(segment, int) for segment in segments):
        raise InvalidDefinition(f"ResultPath {path} is not of a kind that is known here")
    if not segments:
        return lambda _frame, result, size: (result, size)
    # Quotes, colons, commas and braces of what may have to be made for it.
    overhead = _bytes(path) + 6 * len(segments)

    def put(frame: _Frame, result: Any, size: int) -> tuple[Any, int]:
        # The data may be in use elsewhere, so only the objects on the way are new ones.
        whole: dict[Any, Any] = {"": frame.data}
        place, key = whole, ""
        for segment in segments:
            inner = place.get(key, {})
            if not isinstance(inner, dict):
                raise TaskFailed(
                    "States.ResultPathMatchFailure",
                    f"Unable to apply ReferencePath {path} to input {_encode(frame.data)}",
                )
            place[key] = place = dict(inner)
            key = str(segment)
        place[key] = result
        return whole[""], frame.size + size + overhead

    return put


# --- states ---------------------------------------------------------------------------------------


class _Flow:
    """What becomes of the data on the way through a state."""

    def __init__(self, fields: _Fields) -> None:
        self._input = fields.path("InputPath")
        self._parameters = fields.template("Parameters")
        self._selector = fields.template("ResultSelector")
        self._put = fields.put()
        self._output = fields.path("OutputPath")

    def begin(self, frame: _Frame) -> Any:
        """Return the state's own input."""
        data = frame.data if self._input is None else self._input(frame, frame.data)
        return data if self._parameters is None else self._parameters(frame, data)

    def end(self, frame: _Frame, result: Any, size: int) -> None:
        """Set what the next state gets."""
        if self._selector is not None:
            result = self._selector(frame, result)
            size = _bytes(_encode(result))
        data, size = self._put(frame, result, size)
        if self._output is not None:
            data = self._output(frame, data)
            size = _bytes(_encode(data))
        frame.set(data, size)


def _catching(fields: _Fields, work: _Work) -> _Step:
    """Return a state that may retry and catch."""
    flow = _Flow(fields)
    retriers = [_Retrier.read(fields.owner, given) for given in fields.take("Retry", [])]
    catchers = [_Catcher.read(fields.owner, given) for given in fields.take("Catch", [])]
    for those in (retriers, catchers):
        if any("States.ALL" in one.errors for one in those[:-1]):
            raise InvalidDefinition(f"{fields.owner}: nothing can come after States.ALL")
    following = fields.following()

    def step(frame: _Frame) -> str | None:
        attempts = [0] * len(retriers)
        frame.retries = 0
        while True:
            try:
                flow.end(frame, *work(frame, flow.begin(frame)))
            except TaskFailed as failed:
                # The first retrier that the error concerns decides, and no other.
                number = _first(retriers, failed.error)
                if number is None or attempts[number] == retriers[number].attempts:
                    return _caught(frame, catchers, failed)
                frame.sleep(retriers[number].wait(attempts[number], frame.execution.services))
                attempts[number] += 1
                frame.retries += 1
            else:
                return following

    return step


def _first(retriers: Sequence[_Retrier], error: str) -> int | None:
    matching = (i for i, retrier in enumerate(retriers) if _concerns(retrier.errors, error))
    return next(matching, None)


def _concerns(errors: frozenset[str], error: str) -> bool:
    """Whether a retrier or a catcher of these errors is there for that one.

    From "Error names" in the developer guide: States.Runtime always fails the execution. The two
    wildcards leave some out.
    """
    if error == _RUNTIME:
        return False
    return (
        error in errors
        or ("States.ALL" in errors and error != _DATA_LIMIT)
        or ("States.TaskFailed" in errors and error not in {_DATA_LIMIT, _TIMEOUT})
    )


def _errors(fields: _Fields) -> frozenset[str]:
    errors = fields.need("ErrorEquals")
    if not errors or (len(errors) > 1 and "States.ALL" in errors):
        raise InvalidDefinition(f"{fields.owner}: {errors} can not be ErrorEquals")
    return frozenset(errors)


@dataclass(frozen=True)
class _Retrier:
    errors: frozenset[str]
    attempts: int
    interval: int
    longest: float
    rate: float
    jitter: bool

    @classmethod
    def read(cls, owner: str, given: Any) -> _Retrier:
        fields = _Fields(f"{owner}, Retry", given)
        strategy = fields.take("JitterStrategy", "NONE")
        retrier = cls(
            errors=_errors(fields),
            attempts=fields.take("MaxAttempts", 3),
            interval=fields.take("IntervalSeconds", 1),
            longest=fields.take("MaxDelaySeconds", float("inf")),
            rate=fields.take("BackoffRate", 2.0),
            jitter=strategy == "FULL",
        )
        fields.nothing_is_left()
        if strategy not in {"FULL", "NONE"}:
            raise InvalidDefinition(f"{owner}: JitterStrategy {strategy} is not known here")
        return retrier

    def wait(self, attempts: int, services: Services) -> float:
        """Return how long to wait after so many retries."""
        longest = min(self.interval * self.rate**attempts, self.longest)
        return services.jitter(longest) if self.jitter else longest


@dataclass(frozen=True)
class _Catcher:
    errors: frozenset[str]
    put: _Put
    following: str

    @classmethod
    def read(cls, owner: str, given: Any) -> _Catcher:
        fields = _Fields(f"{owner}, Catch", given)
        catcher = cls(errors=_errors(fields), put=fields.put(), following=fields.need("Next"))
        fields.nothing_is_left()
        return catcher


def _caught(frame: _Frame, catchers: Sequence[_Catcher], failed: TaskFailed) -> str:
    for catcher in catchers:
        if _concerns(catcher.errors, failed.error):
            failure = {"Error": failed.error, "Cause": failed.cause}
            frame.set(*catcher.put(frame, failure, _bytes(_encode(failure))))
            return catcher.following
    raise failed


_EXECUTION = re.compile(r"arn:[\w-]+:states:::states:startExecution(\.sync:2)?")
_FUNCTION = re.compile(r"arn:[\w-]+:lambda:[\w-]+:\d+:function:[\w:$-]+")


def _task(fields: _Fields) -> _Step:
    resource: str = fields.need("Resource")
    call: Callable[[_Frame, Any], Any]
    if _FUNCTION.fullmatch(resource):

        def call(frame: _Frame, payload: Any) -> Any:
            return frame.execution.services.invoke(resource, payload)

    elif integration := _EXECUTION.fullmatch(resource):
        call = _start_execution(fields, wait=integration[1] is not None)
    else:
        raise InvalidDefinition(f"{fields.owner}: the resource {resource} is not known here")
    limit = fields.expression("TimeoutSeconds") or _constant(None)

    def work(frame: _Frame, payload: Any) -> tuple[Any, int]:
        text = _encode(payload)
        frame.limit(_bytes(text))
        seconds = limit(frame, frame.data)
        # Whoever gets it may do with it what he likes.
        payload = json.loads(text)
        began = frame.check()
        try:
            text = _encode(call(frame, payload))
        except TaskFailed:
            _in_time(frame, began, seconds)
            raise
        _in_time(frame, began, seconds)
        size = _bytes(text)
        frame.limit(size)
        return json.loads(text), size

    return _catching(fields, work)


def _in_time(frame: _Frame, began: datetime, seconds: float | None) -> None:
    took = frame.check() - began
    if seconds is not None and took.total_seconds() > seconds:
        raise TaskFailed(_TIMEOUT) from None


def _start_execution(fields: _Fields, *, wait: bool) -> Callable[[_Frame, Any], Any]:
    named = {key.removesuffix(".$") for key in fields.look_at("Parameters")}
    if not {"StateMachineArn"} <= named <= {"Input", "Name", "StateMachineArn"}:
        raise InvalidDefinition(f"{fields.owner}: parameters {sorted(named)} are not known here")

    def call(frame: _Frame, given: Any) -> Any:
        execution_input = given.get("Input", {})
        if isinstance(execution_input, str):
            execution_input = json.loads(execution_input)
        return frame.execution.services.start_execution(
            given["StateMachineArn"], given.get("Name"), execution_input, wait=wait
        )

    return call


def _map(fields: _Fields) -> _Step:
    items_path = fields.path("ItemsPath")
    selector = fields.template("ItemSelector")
    concurrency = min(fields.take("MaxConcurrency", 0) or _INLINE_CONCURRENCY, _INLINE_CONCURRENCY)
    processor = _Fields(f"{fields.owner}, ItemProcessor", fields.need("ItemProcessor"))
    if processor.take("ProcessorConfig", {"Mode": "INLINE"}) != {"Mode": "INLINE"}:
        raise InvalidDefinition(f"{fields.owner}: only inline Maps are known here")
    sequence = _sequence(processor)
    if fields.take("Parameters", _ABSENT) is not _ABSENT:
        raise InvalidDefinition(f"{fields.owner}: write ItemSelector instead of Parameters")

    def iterate(
        frame: _Frame, iterations: _Iterations, data: Any, item: tuple[int, Any]
    ) -> tuple[Any, int]:
        inner = _Frame(frame.execution, data, frame.size, iterations, item)
        inner.state = frame.state
        try:
            given = item[1] if selector is None else selector(inner, data)
            inner.set(given, _bytes(_encode(given)))
            _walk(sequence, inner)
        except _Halted:
            pass
        except (TaskFailed, Stopped, _TimedOut) as failure:
            iterations.failure = iterations.failure or failure
        return inner.data, inner.size

    def work(frame: _Frame, data: Any) -> tuple[Any, int]:
        items = data if items_path is None else items_path(frame, data)
        if not isinstance(items, list):
            frame.cannot(f"The items of a Map must be an array, not {_encode(items)}")
        iterations = _Iterations(frame.iterations)
        ended = frame.execution.services.parallel(
            [
                functools.partial(iterate, frame, iterations, data, item)
                for item in enumerate(items)
            ],
            concurrency,
        )
        if iterations.failure is not None:
            raise iterations.failure
        return [result for result, _ in ended], 2 + sum(size + 1 for _, size in ended)

    return _catching(fields, work)


def _pass(fields: _Fields) -> _Step:
    result = fields.take("Result", _ABSENT)
    flow = _Flow(fields)
    following = fields.following()

    def step(frame: _Frame) -> str | None:
        value = flow.begin(frame) if result is _ABSENT else result
        flow.end(frame, value, _bytes(_encode(value)))
        return following

    return step


def _passing(fields: _Fields, work: Callable[[_Frame, Any], str | None]) -> _Step:
    """Return a state whose output is its input; `work` gets it, and returns the next state."""
    select = fields.path("InputPath")
    output = fields.path("OutputPath")

    def step(frame: _Frame) -> str | None:
        data = frame.data if select is None else select(frame, frame.data)
        following = work(frame, data)
        if output is not None:
            data = output(frame, data)
        if data is not frame.data:
            frame.set(data, _bytes(_encode(data)))
        return following

    return step


def _succeed(fields: _Fields) -> _Step:
    return _passing(fields, lambda _frame, _data: None)


def _fail(fields: _Fields) -> _Step:
    texts = [fields.expression(name) or _constant("") for name in ("Error", "Cause")]

    def step(frame: _Frame) -> str | None:
        error, cause = (text(frame, frame.data) for text in texts)
        if not isinstance(error, str) or not isinstance(cause, str):
            frame.cannot(f"An error and its cause must be strings, not {_encode([error, cause])}")
        if error.startswith("States."):
            frame.cannot(f"An execution can not end with {error}: that name is reserved")
        raise TaskFailed(error, cause)

    return step


def _wait(fields: _Fields) -> _Step:
    seconds, moment = fields.expression("Seconds"), fields.expression("Timestamp")
    if (seconds is None) == (moment is None):
        raise InvalidDefinition(f"{fields.owner}: for how long, or until when?")
    following = fields.following()

    def work(frame: _Frame, data: Any) -> str | None:
        frame.sleep(_seconds(frame, seconds(frame, data)) if seconds else until(frame, data))
        return following

    def until(frame: _Frame, data: Any) -> float:
        given = moment(frame, data) if moment else None
        reached = _moment(given)
        if reached is None:
            frame.cannot(f"{_encode(given)} is not a timestamp to wait for")
        return max(0.0, (reached - frame.check()).total_seconds())

    return _passing(fields, work)


def _seconds(frame: _Frame, given: Any) -> float:
    if not isinstance(given, int) or given < 0:
        frame.cannot(f"{_encode(given)} is not a number of seconds to wait")
    return given


# --- choices --------------------------------------------------------------------------------------


def _choice(fields: _Fields) -> _Step:
    rules = []
    for given in fields.need("Choices"):
        rule = _Fields(f"{fields.owner}, Choices", given)
        rules.append((rule.need("Next"), _condition(rule)))
    default = fields.take("Default")

    def work(frame: _Frame, data: Any) -> str | None:
        for following, condition in rules:
            if condition(frame, data):
                return str(following)
        if default is None:
            raise TaskFailed("States.NoChoiceMatched", f"No rule of '{frame.state}' matches")
        return str(default)

    return _passing(fields, work)


def _condition(rule: _Fields) -> _Value:
    """Compile a comparison, or what combines several."""
    if (parts := rule.take("And")) is not None:
        condition = _combined(all, rule, parts)
    elif (parts := rule.take("Or")) is not None:
        condition = _combined(any, rule, parts)
    elif (part := rule.take("Not")) is not None:
        condition = _combined(lambda results: not any(results), rule, [part])
    else:
        condition = _comparison(rule)
    rule.nothing_is_left()
    return condition


def _combined(how: Callable[[Iterator[bool]], bool], rule: _Fields, given: Sequence[Any]) -> _Value:
    parts = [_condition(_Fields(rule.owner, part)) for part in given]
    return lambda frame, data: how(part(frame, data) for part in parts)


_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def _moment(value: Any) -> datetime | None:
    if not isinstance(value, str) or not _TIMESTAMP.fullmatch(value):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


_COMPARABLE: Mapping[str, Callable[[Any], Any]] = {
    "Boolean": lambda value: value if isinstance(value, bool) else None,
    "Numeric": _number,
    "String": lambda value: value if isinstance(value, str) else None,
    "Timestamp": _moment,
}
"""What the kinds of comparisons compare; None: the value is of another type."""

_RELATIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "Equals": operator.eq,
    "GreaterThan": operator.gt,
    "GreaterThanEquals": operator.ge,
    "LessThan": operator.lt,
    "LessThanEquals": operator.le,
}


def _pattern(text: str) -> Callable[[Any], bool]:
    """Compile a pattern in which * stands for anything, unless there is a backslash before it."""
    pieces = re.split(r"(\\.|\*)", text)
    expression = re.compile(
        "".join(".*" if piece == "*" else re.escape(piece.removeprefix("\\")) for piece in pieces),
        re.DOTALL,
    )
    return lambda value: isinstance(value, str) and expression.fullmatch(value) is not None


_TESTS: Mapping[str, Callable[[Any], bool]] = {
    "IsBoolean": lambda value: isinstance(value, bool),
    "IsNull": lambda value: value is None,
    "IsNumeric": lambda value: _number(value) is not None,
    "IsPresent": lambda value: value is not _MISSING,
    "IsString": lambda value: isinstance(value, str),
    "IsTimestamp": lambda value: _moment(value) is not None,
}

_COMPARISON = re.compile(
    rf"({'|'.join(_COMPARABLE)})({'|'.join(_RELATIONS)})(Path)?|StringMatches|{'|'.join(_TESTS)}"
)


def _comparison(rule: _Fields) -> _Value:
    variable = rule.need("Variable")
    name, wanted = rule.rest()
    found = _COMPARISON.fullmatch(name)
    if found is None or (found[1] == "Boolean" and found[2] != "Equals"):
        raise InvalidDefinition(f"{rule.owner}: {name} is not known here")
    if name in _TESTS:
        test = _TESTS[name]
        read = _lookup(variable) if name == "IsPresent" else _path(variable, "Variable")
        return lambda frame, data: test(read(frame, data)) is wanted
    read = _path(variable, "Variable")
    if name == "StringMatches":
        pattern = _pattern(wanted)
        return lambda frame, data: pattern(read(frame, data))
    kind, relation, by_path = _COMPARABLE[found[1]], _RELATIONS[found[2]], found[3]
    other = _path(wanted, name) if by_path else _constant(wanted)

    def compare(frame: _Frame, data: Any) -> bool:
        left, right = kind(read(frame, data)), kind(other(frame, data))
        return left is not None and right is not None and relation(left, right)

    return compare


_KINDS: Mapping[str, Callable[[_Fields], _Step]] = {
    "Choice": _choice,
    "Fail": _fail,
    "Map": _map,
    "Pass": _pass,
    "Succeed": _succeed,
    "Task": _task,
    "Wait": _wait,
}
