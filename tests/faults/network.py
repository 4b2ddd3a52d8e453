"""The way of every remote call: the scheduling point, and what goes wrong on the way.

The three fakes have their calls carried through here. They know what a call does, how an old answer
looks and how a failure shows; when and whether all that happens is decided here, once for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from tests.faults.consul_server import STATES
from tests.faults.history import View
from tests.faults.kinds import BY_NAME, FAULTS, LATE_SECONDS, Caller, Effect, Fault, RemoteCall
from tests.faults.sandbox import Killed, Sandbox, current_sandbox, entered
from tests.faults.schedule import AGAIN, DELAYS, FIRST, STOP, Decider
from tests.faults.stage import Script, SimulationError, Stage
from tests.faults.troubles import Troubles

T = TypeVar("T")

_CALL_SECONDS = 0.05
_MOST_POINTS = 5000
_VIEWS = {view.value: view for view in View}


class Network(Protocol):
    """How the fakes have their calls carried."""

    def carry(self, call: RemoteCall, serve: Callable[[View], T], fail: Callable[[Fault], T]) -> T:
        """Have a call carried out.

        Args:
            call: what is called.
            serve: carries it out; gets the view as of which a read answers.
            fail: what the caller sees of a fault: an error, or an answer that tells of one.

        """


class Direct:
    """A network without faults."""

    def carry(self, call: RemoteCall, serve: Callable[[View], T], fail: Callable[[Fault], T]) -> T:
        """Carry it out."""
        del call, fail
        return serve(View.NOW)


class Executions(Protocol):
    """What a deviation can do to an execution."""

    def start_again(self, execution_arn: str) -> None:
        """Start another one with the same input: the event comes again."""

    def stop(self, execution_arn: str) -> None:
        """StopExecution: no further state is entered. What a function is at goes on."""

    def can_start_again(self, execution_arn: str) -> bool:
        """Whether the event has not come again yet."""


class FaultyNetwork:
    """A network on which a schedule decides.

    Attributes:
        points: the scheduling points so far.
        ordered: how many faults the schedule has ordered so far.
        injected: how often which fault hit which call of which step.
        reached: the first point of each call of each step.

    """

    def __init__(self, stage: Stage, decider: Decider | None) -> None:
        self.points = 0
        self.ordered = 0
        self.injected: Counter[tuple[str, str, str]] = Counter()
        self.reached: dict[tuple[str, str], int] = {}
        self.turns: Counter[str] = Counter()
        self.decider = decider
        """None: nothing happens out of the ordinary any more."""
        self.executions: Executions | None = None
        self._stage = stage
        self.troubles = Troubles(stage.clock)

    def carry(self, call: RemoteCall, serve: Callable[[View], T], fail: Callable[[Fault], T]) -> T:
        """Carry a call out, as the schedule says."""
        sandbox = current_sandbox()
        fault = self._decided(call, sandbox)
        if fault is None or fault.lasts:
            fault = self._trouble(call, sandbox, begins=fault)
        return self._carried(call, fault, serve, fail)

    # --- deciding -------------------------------------------------------------------------------

    def _decided(self, call: RemoteCall, sandbox: Sandbox) -> Fault | None:
        while True:
            self._check_alive(sandbox)
            deviation = self._deviation(call, sandbox)
            if deviation is None:
                return None
            fault = BY_NAME.get(deviation)
            if fault is not None:
                self.ordered += 1
                self._count(sandbox, call, fault)
                return fault
            self.turns[deviation.partition("=")[0]] += 1
            self._take_turns(deviation, sandbox)

    def _deviation(self, call: RemoteCall, sandbox: Sandbox) -> str | None:
        self.points += 1
        if self.points > _MOST_POINTS:
            raise SimulationError(f"The run does not end: more than {_MOST_POINTS} calls.")
        self.reached.setdefault((sandbox.function.step, str(call)), self.points)
        if self.decider is None:
            return None
        return self.decider.decide(
            self.points, lambda: self._options(call, sandbox), writes=not call.reads
        )

    def _options(self, call: RemoteCall, sandbox: Sandbox) -> list[str]:
        options = [fault.name for fault in FAULTS if fault.concerns(call)]
        left = (sandbox.deadline - self._stage.clock.now()).total_seconds()
        options += [FIRST + other.name for other in self._stage.others(within=left)]
        options += [delay for delay in DELAYS if float(delay.partition("=")[2]) < left]
        if self.executions is not None:
            options.append(STOP)
            if self.executions.can_start_again(sandbox.execution):
                options.append(AGAIN)
        return options

    def _take_turns(self, deviation: str, sandbox: Sandbox) -> None:
        what, _, argument = deviation.partition("=")
        if deviation.startswith(FIRST):
            others = [a for a in self._stage.others(within=1e9) if a.name == argument]
            self._stage.let_go_first(others[0])
        elif what == "delay":
            self._stage.sleep(float(argument))
        elif self.executions is not None and what == AGAIN:
            self.executions.start_again(sandbox.execution)
        elif self.executions is not None and what == STOP:
            self.executions.stop(sandbox.execution)

    def _count(self, sandbox: Sandbox, call: RemoteCall, fault: Fault) -> None:
        self.injected[sandbox.function.step, str(call), fault.name] += 1

    def _trouble(self, call: RemoteCall, sandbox: Sandbox, *, begins: Fault | None) -> Fault | None:
        """Return what goes wrong because of a service's trouble, which may begin with this call."""
        if begins is not None:
            self.troubles.begin(call.service, begins)
        trouble = self.troubles.of(call.service)
        if trouble is None or not trouble.concerns(call):
            return None
        if trouble is not begins:
            self._count(sandbox, call, trouble)
        # What Consul's server says by itself in some troubles, it knows best.
        return None if call.service == "consul" and trouble.name in STATES else trouble

    # --- carrying out ---------------------------------------------------------------------------

    def _carried(
        self,
        call: RemoteCall,
        fault: Fault | None,
        serve: Callable[[View], T],
        fail: Callable[[Fault], T],
    ) -> T:
        sandbox = current_sandbox()
        if fault is None:
            answer = serve(View.NOW)
            self._stage.clock.pass_seconds(_CALL_SECONDS)
            return answer
        if fault.effect is Effect.DONE or fault.effect is Effect.TWICE:
            _regardless(lambda: serve(View.NOW))
        if fault.effect is Effect.LATER:
            script = _later(lambda: serve(View.NOW), replace(sandbox))
            self._stage.enter_script("late", script, after=call.patience + LATE_SECONDS)
        self._stage.clock.pass_seconds(_CALL_SECONDS)
        match fault.caller:
            case Caller.DEAD:
                sandbox.dead = True
                raise Killed
            case Caller.CONTENT:
                return serve(_VIEWS.get(fault.name, View.NOW))
            case Caller.LEFT_WAITING:
                self._stage.sleep(call.patience)
                self._check_alive(sandbox)
        return fail(fault)

    def _check_alive(self, sandbox: Sandbox) -> None:
        if self._stage.clock.now() >= sandbox.deadline:
            sandbox.dead = True
        if sandbox.dead:
            raise Killed


def _regardless(serve: Callable[[], Any]) -> None:
    """Have something done; whether it was refused, nobody hears."""
    with suppress(Exception):
        serve()


def _later(serve: Callable[[], Any], sandbox: Sandbox) -> Script:
    """Have something done on behalf of an invocation that has long gone on."""
    with entered(sandbox):
        _regardless(serve)
    yield 0.0
