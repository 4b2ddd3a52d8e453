"""Replays one schedule, and shows every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tests.faults.history import View
from tests.faults.kinds import Fault, RemoteCall
from tests.faults.network import FaultyNetwork
from tests.faults.run import Runner
from tests.faults.sandbox import current_sandbox
from tests.faults.schedule import Schedule
from tests.faults.simulation import Simulation

T = TypeVar("T")


class _Shown:
    """A network that shows what it carries."""

    def __init__(self, network: FaultyNetwork, simulation: Simulation, schedule: Schedule) -> None:
        self._network = network
        self._simulation = simulation
        self._deviations = dict(schedule.deviations)

    def carry(self, call: RemoteCall, serve: Callable[[View], T], fail: Callable[[Fault], T]) -> T:
        point = self._network.points + 1
        what = self._deviations.get(point, "") if self._network.decider is not None else ""
        step = current_sandbox().function.step
        outcome = ""
        try:
            answer = self._network.carry(call, serve, fail)
            outcome = str(getattr(answer, "status", "done"))
        except BaseException as error:
            outcome = type(error).__name__
            raise
        else:
            return answer
        finally:
            # Others that act during the call are shown before it.
            time = self._simulation.clock.now().strftime("%d %H:%M:%S")
            who = self._simulation.stage.current.name
            told = f"{call}: {outcome}" + (f"  <- {what}" if what else "")
            print(f"{point:>4} {time} {who:<20} {step:<20} {told}")  # noqa: T201


def replayed(schedule: Schedule, runner: Runner) -> tuple[str, ...]:
    """Run a schedule, print what happens, and return which rules were broken."""

    def watch(simulation: Simulation) -> None:
        simulation.watched_by(lambda network: _Shown(network, simulation, schedule))

    outcome = runner.run(schedule, watch=watch)
    for violation in outcome.violations:
        print(violation)  # noqa: T201 - a command line prints
    if not outcome.violations:
        print("No rule was broken.")  # noqa: T201 - a command line prints
    return outcome.violations
