"""The experiments themselves: runs that can be replayed, actors that take turns, shrinking."""

from __future__ import annotations

import random
import sys

import pytest

from tests.faults import __main__ as command_line
from tests.faults.explore import Failure, Tally, counterexample, shrunk, singles
from tests.faults.run import Outcome, Runner
from tests.faults.scenarios import SCENARIOS
from tests.faults.schedule import Gamble, Schedule
from tests.faults.simulation import Simulation
from tests.faults.stage import Script, SimulationError, Stage
from tests.faults.virtual_time import BEGINNING, VirtualClock

# --- schedules ------------------------------------------------------------------------------------


def test_a_schedule_is_read_as_it_is_written() -> None:
    text = "starts 3:first=TaskProvisioning-2 7:done+killed 9:delay=30"
    schedule = Schedule.parse(text)
    assert str(schedule) == text
    assert schedule.scenario == "starts"
    assert schedule.deviations[1] == (7, "done+killed")


def test_something_else_is_no_schedule() -> None:
    with pytest.raises(ValueError, match="POINT:WHAT"):
        Schedule.parse("starts 3=killed")


@pytest.mark.parametrize(
    ("text", "said"),
    [("nonsense 3:killed", "there is no scenario 'nonsense'"), ("starts 3", "POINT:WHAT")],
)
def test_what_cannot_be_replayed_is_told_on_the_command_line(
    text: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["faults", "--replay", text])

    with pytest.raises(SystemExit):
        command_line.main()

    assert said in capsys.readouterr().err


def test_a_deviation_that_is_not_possible_is_not_made(runner: Runner) -> None:
    ordinary = runner.run(Schedule("starts"))
    for nonsense in ("3:unheard-of", "1:twice", "2:first=nobody", "999999:killed"):
        outcome = runner.run(Schedule.parse(f"starts {nonsense}"))
        assert (outcome.points, outcome.violations) == (ordinary.points, ())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_random_run_is_replayed_from_its_schedule(runner: Runner, scenario: str) -> None:
    gamble = Gamble(f"replay/{scenario}", about=30)
    first = _seen(runner, Schedule(scenario), gamble)
    schedule = Schedule(scenario, tuple(gamble.deviations))
    random.seed(1)  # what chance is left does not matter
    assert _seen(runner, Schedule.parse(str(schedule))) == first


def _seen(
    runner: Runner, schedule: Schedule, gamble: Gamble | None = None
) -> tuple[Outcome, list[str], list[str]]:
    """Return the outcome, everything that was published, and everything in Consul at the end."""
    simulations: list[Simulation] = []
    outcome = runner.run(schedule, gamble, watch=simulations.append)
    (simulation,) = simulations
    # How long a step took, the log tells by the wall clock.
    published = [text for text in simulation.published if "'seconds': " not in text]
    return outcome, published, sorted(map(str, simulation.consul.tokens))


def test_single_deviations_are_complete(runner: Runner) -> None:
    found, points = singles("starts", runner)
    assert len(found) == len(set(found))
    assert {point for schedule in found for point, _ in schedule.deviations} == set(
        range(1, points + 1)
    )


def test_a_failing_schedule_is_shrunk_to_what_matters() -> None:
    class OneCulprit(Runner):
        """Says that whatever has `7:killed` in it is wrong."""

        def __init__(self) -> None:
            """Need nothing."""

        def run(self, schedule: Schedule, *_: object, **__: object) -> Outcome:
            wrong = ("invariant 1: …",) if (7, "killed") in schedule.deviations else ()
            return Outcome(wrong, 9, Tally().injected, Tally().turns, {})

    long = Schedule.parse("starts 1:again 3:stop 7:killed 9:silence")
    found = shrunk(Failure(long, ("invariant 1: …",)), OneCulprit())
    assert str(found.schedule) == "starts 7:killed"


def test_nothing_is_found_where_nothing_is_wrong(runner: Runner) -> None:
    assert counterexample(["drain"], runner, seed="1", most=50) is None


# --- turns ----------------------------------------------------------------------------------------


def _stage() -> tuple[Stage, list[str]]:
    return Stage(VirtualClock()), []


def test_one_acts_at_a_time_and_goes_on_until_it_waits() -> None:
    stage, seen = _stage()

    def act(name: str) -> None:
        seen.append(f"{name} begins")
        stage.sleep(1)
        seen.append(f"{name} ends")

    for name in ("a", "b"):
        stage.enter_thread(name, lambda name=name: act(name))  # type: ignore[misc]
    stage.run()
    assert seen == ["a begins", "b begins", "a ends", "b ends"]


def test_somebody_can_be_let_go_first_although_he_sleeps() -> None:
    stage, seen = _stage()

    def script() -> Script:
        seen.append("script")
        yield 0.0

    def act() -> None:
        (other,) = stage.others(within=100)
        seen.append("before")
        stage.let_go_first(other)
        seen.append("after")

    stage.enter_script("late", script(), after=60)
    stage.enter_thread("thread", act)
    stage.run()
    assert seen == ["before", "script", "after"]
    assert (stage.clock.now() - BEGINNING).total_seconds() == 60


def test_those_who_wait_too_long_cannot_be_let_go_first() -> None:
    stage, seen = _stage()

    def script() -> Script:
        yield 0.0

    def act() -> None:
        seen.extend(other.name for other in stage.others(within=30))

    stage.enter_script("soon", script(), after=20)
    stage.enter_script("later", script(), after=40)
    stage.enter_thread("thread", act)
    stage.run()
    assert seen == ["soon"]


def test_what_goes_wrong_in_a_thread_ends_the_run() -> None:
    stage, seen = _stage()

    def wait() -> None:
        try:
            stage.sleep(10)
        finally:
            seen.append("unwound")

    def fail() -> None:
        raise RuntimeError("as ordered")

    stage.enter_thread("waits", wait)
    stage.enter_thread("fails", fail)
    with pytest.raises(RuntimeError, match="as ordered"):
        stage.run()
    assert seen == ["unwound"]


def test_what_goes_wrong_in_a_script_ends_the_run() -> None:
    stage, _ = _stage()

    def script() -> Script:
        yield 5.0
        raise RuntimeError("as ordered")

    stage.enter_script("fails", script())
    stage.enter_thread("waits", lambda: stage.sleep(10))
    with pytest.raises(RuntimeError, match="as ordered"):
        stage.run()


def test_those_who_wait_for_each_other_are_noticed() -> None:
    stage, _ = _stage()

    def wait() -> None:
        stage.wait_for(frozenset({stage.current}))

    stage.enter_thread("waits", wait)
    with pytest.raises(SimulationError, match="Everybody waits for everybody: waits"):
        stage.run()
