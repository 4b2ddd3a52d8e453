"""`make faults`: explores schedules for some minutes, and says what it has found."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.faults import report
from tests.faults.explore import Explorer, Tally, shortest_of
from tests.faults.replay import replayed
from tests.faults.run import Runner
from tests.faults.scenarios import SCENARIOS
from tests.faults.schedule import Schedule
from tests.faults.simulation import simulating
from tests.faults.template import synthesized_template

_TEN_MINUTES = 600.0
_BETWEEN_SIGNS = 5.0


def main() -> int:
    """Explore, or replay one schedule; return whether a rule was broken."""
    options = _options()
    print("Synthesizing the app …", flush=True)  # noqa: T201 - a command line prints
    template = synthesized_template()
    if options.replay is not None:
        with simulating():
            violations = replayed(options.replay, Runner(template))
        return bool(violations)
    began = time.monotonic()
    progress = _Progress(began)
    tally = Explorer(template, options.processes, progress.show).explore(
        options.scenario or list(SCENARIOS), seed=options.seed, seconds=options.seconds
    )
    seconds = time.monotonic() - began
    with simulating():
        shortest = shortest_of(tally, Runner(template))
    for line in report.lines(tally, seconds=seconds, shortest=shortest):
        print(line)  # noqa: T201 - a command line prints
    return shortest is not None


class _Progress:
    """A sign of life every few seconds."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._shown = began

    def show(self, tally: Tally) -> None:
        now = time.monotonic()
        if now - self._shown >= _BETWEEN_SIGNS:
            self._shown = now
            line = report.summary(tally, seconds=now - self._began)
            failures = f"; {len(tally.failures)} break a rule" if tally.failures else ""
            print(line + failures, flush=True)  # noqa: T201 - a command line prints


def _schedule(text: str) -> Schedule:
    try:
        schedule = Schedule.parse(text)
    except ValueError as problem:
        message = f"{problem}; a failure prints a schedule as it has to be given"
        raise argparse.ArgumentTypeError(message) from None
    if schedule.scenario not in SCENARIOS:
        message = f"there is no scenario {schedule.scenario!r}; there are {', '.join(SCENARIOS)}"
        raise argparse.ArgumentTypeError(message)
    return schedule


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=_TEN_MINUTES, help="how long (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", default="1", help="of the random schedules (default: %(default)s)"
    )
    parser.add_argument(
        "--scenario",
        action="append",
        choices=SCENARIOS,
        help="only this one; may be given several times",
    )
    parser.add_argument(
        "--replay", type=_schedule, metavar="SCHEDULE", help="run one, and show what happens"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
