"""Explores schedules: each single deviation, random ones, and those that were never met."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain, count, islice

from tests.faults.kinds import FAULTS, RemoteCall
from tests.faults.run import Outcome, Runner
from tests.faults.schedule import Explore, Gamble, Schedule
from tests.faults.simulation import simulating
from tests.faults.template import Template

_CHUNK = 100
_MOST_FAILURES = 20
_MOST_SHRUNK = 10
_MOST_ROUNDS = 20


@dataclass(frozen=True)
class Failure:
    """A schedule in which a rule was broken."""

    schedule: Schedule
    violations: tuple[str, ...]


@dataclass
class Tally:
    """What many runs have shown together."""

    schedules: int = 0
    injected: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    turns: Counter[str] = field(default_factory=Counter)
    reached: dict[tuple[str, str], tuple[Schedule, int]] = field(default_factory=dict)
    """For each call of each step a schedule that gets there, and the point."""
    failures: list[Failure] = field(default_factory=list)

    def add_run(self, schedule: Schedule, outcome: Outcome) -> None:
        """Take in one run."""
        self.schedules += 1
        self.injected += outcome.injected
        self.turns += outcome.turns
        for call, point in outcome.reached.items():
            self._add_witness(call, schedule, point)
        if outcome.violations:
            self.failures.append(Failure(schedule, outcome.violations))

    def add(self, other: Tally) -> None:
        """Take in what other runs have shown."""
        self.schedules += other.schedules
        self.injected += other.injected
        self.turns += other.turns
        self.failures += other.failures
        for call, (schedule, point) in other.reached.items():
            self._add_witness(call, schedule, point)

    def _add_witness(self, call: tuple[str, str], schedule: Schedule, point: int) -> None:
        known = self.reached.get(call)
        if known is None or _length(schedule, point) < _length(*known):
            self.reached[call] = (schedule, point)


def _length(schedule: Schedule, point: int) -> tuple[int, int, str]:
    return len(schedule.deviations), point, str(schedule)


@dataclass(frozen=True)
class Work:
    """A few schedules: given ones, or random ones of a scenario."""

    schedules: tuple[Schedule, ...] = ()
    scenario: str = ""
    seeds: tuple[str, ...] = ()
    about: int = 0
    """How many points a run of the scenario has, about."""


# --- in one process -------------------------------------------------------------------------------


def do(work: Work, runner: Runner) -> Tally:
    """Run some schedules, within `simulating`."""
    tally = Tally()
    for schedule in work.schedules:
        tally.add_run(schedule, runner.run(schedule))
    for seed in work.seeds:
        gamble = Gamble(seed, about=work.about)
        outcome = runner.run(Schedule(work.scenario), gamble)
        tally.add_run(Schedule(work.scenario, tuple(gamble.deviations)), outcome)
    return tally


def singles(scenario: str, runner: Runner) -> tuple[list[Schedule], int]:
    """Return the ordinary schedule, those with one deviation, and how many points there are."""
    ordinary = Schedule(scenario)
    explore = Explore(ordinary)
    points = runner.run(ordinary, explore).points
    found = [
        ordinary.with_deviation(point, option)
        for point, options in explore.options.items()
        for option in options
    ]
    return [ordinary, *found], points


def shrunk(failure: Failure, runner: Runner) -> Failure:
    """Return the shortest schedule, of those with fewer deviations, that breaks the same rule."""
    rules = {violation.partition(":")[0] for violation in failure.violations}
    for shorter in failure.schedule.shorter():
        violations = runner.run(shorter).violations
        if rules & {violation.partition(":")[0] for violation in violations}:
            return shrunk(Failure(shorter, violations), runner)
    return failure


def shortest_of(tally: Tally, runner: Runner) -> Failure | None:
    """Return the shortest schedule that breaks a rule, within `simulating`; None: there is none."""
    known = sorted(tally.failures, key=_size)[:_MOST_SHRUNK]
    return min((shrunk(failure, runner) for failure in known), key=_size, default=None)


def _size(failure: Failure) -> tuple[int, str]:
    return len(failure.schedule.deviations), str(failure.schedule)


def missing_cells(tally: Tally) -> list[tuple[str, RemoteCall, str]]:
    """Return which faults have not hit which calls that they could hit."""
    return [
        (step, call, fault.name)
        for step, call in sorted(((step, parsed(text)) for step, text in tally.reached), key=str)
        for fault in FAULTS
        if fault.concerns(call) and not tally.injected[step, str(call), fault.name]
    ]


def parsed(text: str) -> RemoteCall:
    """Return the call of which `str` returns this."""
    service, _, operation = text.partition(":")
    reads = operation.startswith(("GET ", "Get", "BatchGet", "Describe", "List"))
    return RemoteCall(service, operation, reads=reads)  # type: ignore[arg-type]


def counterexample(
    scenarios: Sequence[str], runner: Runner, *, seed: str, most: int
) -> tuple[Failure, int] | None:
    """Return the first failure, shrunk, and after how many schedules it came; None: there is none.

    Within `simulating`: single deviations come first, then random ones.
    """
    found = [(schedule, None) for name in scenarios for schedule in singles(name, runner)[0]]
    about = {name: singles(name, runner)[1] for name in scenarios}
    candidates: Iterator[tuple[Schedule, Gamble | None]] = chain(
        found,
        (
            (Schedule(name), Gamble(f"{seed}/{name}/{number}", about=about[name]))
            for number in count()
            for name in scenarios
        ),
    )
    for number, (schedule, gamble) in enumerate(islice(candidates, most), start=1):
        violations = runner.run(schedule, gamble).violations
        if violations:
            deviations = tuple(gamble.deviations) if gamble else schedule.deviations
            failure = Failure(Schedule(schedule.scenario, deviations), violations)
            return shrunk(failure, runner), number
    return None


# --- in several processes -------------------------------------------------------------------------

_runner: list[Runner] = []
_process = ExitStack()
"""Holds what is installed for as long as the process lives."""


def _start(template: Template) -> None:
    _process.enter_context(simulating())
    _runner.append(Runner(template))
    gc.freeze()  # what is here now stays: no need to look at it again and again


def _do(work: Work) -> Tally:
    return do(work, _runner[0])


class Explorer:
    """Explores with several processes.

    Args:
        template: what is deployed.
        processes: how many.
        progress: told after each part what there is so far.

    """

    def __init__(
        self, template: Template, processes: int, progress: Callable[[Tally], None]
    ) -> None:
        self._template = template
        self._processes = processes
        self._progress = progress

    def explore(
        self,
        scenarios: Sequence[str],
        *,
        seed: str,
        schedules: int = 0,
        seconds: float = 0.0,
    ) -> Tally:
        """Explore until so many schedules were run, or for so long; all single deviations anyway.

        Stops early when many schedules fail.
        """
        until = time.monotonic() + seconds
        tally = Tally()
        ordinary: list[Schedule] = []
        about: dict[str, int] = {}
        with simulating():
            runner = Runner(self._template)
            for scenario in scenarios:
                found, about[scenario] = singles(scenario, runner)
                ordinary += found
        with self._pool() as do_all:
            do_all(tally, (Work(schedules=tuple(some)) for some in _chunks(ordinary)))
            gambles = _gambles(about, seed)
            for _ in range(_MOST_ROUNDS):
                aimed = _aimed(tally)
                if tally.failures or not aimed:
                    break
                # What gets to a call may be hit by the fault before it: random runs find others.
                do_all(tally, (Work(schedules=tuple(some)) for some in _chunks(aimed)))
                do_all(tally, islice(gambles, self._processes))
            while len(tally.failures) < _MOST_FAILURES and (
                tally.schedules < schedules or time.monotonic() < until
            ):
                do_all(tally, islice(gambles, 4 * self._processes))
        return tally

    @contextmanager
    def _pool(self) -> Iterator[Callable[[Tally, Iterable[Work]], None]]:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            self._processes, mp_context=context, initializer=_start, initargs=(self._template,)
        ) as pool:

            def do_all(tally: Tally, works: Iterable[Work]) -> None:
                pending = [pool.submit(_do, work) for work in works]
                for done in as_completed(pending):
                    tally.add(done.result())
                    self._progress(tally)

            yield do_all


def _chunks(schedules: Sequence[Schedule]) -> Iterator[Sequence[Schedule]]:
    for start in range(0, len(schedules), _CHUNK):
        yield schedules[start : start + _CHUNK]


def _gambles(about: dict[str, int], seed: str) -> Iterator[Work]:
    number = 0
    while True:
        for scenario, points in about.items():
            seeds = tuple(f"{seed}/{scenario}/{number + n}" for n in range(_CHUNK))
            yield Work(scenario=scenario, seeds=seeds, about=points)
        number += _CHUNK


def _aimed(tally: Tally) -> list[Schedule]:
    """Return schedules that let the missing faults hit: what gets to the call, and the fault."""
    aimed = []
    for step, call, fault in missing_cells(tally):
        schedule, point = tally.reached[step, str(call)]
        aimed.append(schedule.with_deviation(point, fault))
    return aimed
