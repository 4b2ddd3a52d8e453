"""What is decided at the scheduling points of a run, as text that replays it.

A schedule is a scenario and what it does out of the ordinary: `12:done+killed` lets the process die
after the call of point 12, `15:first=person` lets the actor "person" act before that of point 15.
Points are counted from the beginning of a run. At all others the call is carried out, and whoever
acts goes on until he has to wait. Everything else in a run is fixed, so this replays it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

AGAIN = "again"
STOP = "stop"
DELAYS = ("delay=1", "delay=30")
FIRST = "first="

_IN_A_ROW = 0.4
_TURNS = 1 / 3

Options = Callable[[], list[str]]


@dataclass(frozen=True)
class Schedule:
    """A scenario, and what happens at some points of it."""

    scenario: str
    deviations: tuple[tuple[int, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote.

        Raises:
            ValueError: if it is something else.

        """
        scenario, _, rest = text.partition(" ")
        deviations = []
        for word in rest.split():
            point, separator, what = word.partition(":")
            if not separator:
                raise ValueError(f"{word!r} is not of the form POINT:WHAT")
            deviations.append((int(point), what))
        return cls(scenario, tuple(deviations))

    def __str__(self) -> str:
        words = [f"{point}:{what}" for point, what in self.deviations]
        return " ".join([self.scenario, *words])

    def with_deviation(self, point: int, what: str) -> Self:
        """Return the same with one more."""
        return type(self)(self.scenario, tuple(sorted((*self.deviations, (point, what)))))

    def shorter(self) -> Iterable[Self]:
        """Yield what is left if any one deviation is left out."""
        for left_out in range(len(self.deviations)):
            kept = self.deviations[:left_out] + self.deviations[left_out + 1 :]
            yield type(self)(self.scenario, kept)


class Decider(Protocol):
    """Decides at each scheduling point."""

    def decide(self, point: int, options: Options, *, writes: bool) -> str | None:
        """Return one of the options; None: the ordinary.

        Args:
            point: the number of the scheduling point.
            options: what is possible there.
            writes: whether the call changes something.

        """


class Follow:
    """Decides as a schedule says."""

    def __init__(self, schedule: Schedule) -> None:
        self._deviations: Mapping[int, str] = dict(schedule.deviations)

    def decide(self, point: int, options: Options, *, writes: bool) -> str | None:
        """Return what the schedule says, if it is possible."""
        del writes
        wanted = self._deviations.get(point)
        return wanted if wanted is not None and wanted in options() else None


class Explore(Follow):
    """Follows a schedule, and remembers what else could have been decided."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule)
        self.options: dict[int, list[str]] = {}

    def decide(self, point: int, options: Options, *, writes: bool) -> str | None:
        """Return what the schedule says."""
        self.options[point] = options()
        return super().decide(point, options, writes=writes)


class Gamble:
    """Decides by a seed, a few times a run; remembers what."""

    def __init__(self, seed: str, *, about: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - chooses tests
        self._left = self._random.choice((1, 2, 2, 3, 3, 4, 6))
        # Some runs deviate early, some all the way; some mostly where something is written, for
        # that is what others may see or miss.
        self._chance = self._left / max(1.0, about * self._random.choice((0.3, 1.0)))
        self._read_chance, self._write_chance = self._random.choice(((1.0, 1.0), (0.3, 3.0)))
        self._just_took_turns = False
        self.deviations: list[tuple[int, str]] = []

    def decide(self, point: int, options: Options, *, writes: bool) -> str | None:
        """Throw the dice."""
        # Races are made of several changes of turns in a row.
        chance = self._chance * (self._write_chance if writes else self._read_chance)
        if self._just_took_turns:
            chance = _IN_A_ROW
        among_turns = self._just_took_turns
        self._just_took_turns = False
        if not self._left or self._random.random() >= chance:
            return None
        possible = options()
        turns = [option for option in possible if option.startswith(FIRST)]
        # Of many faults and few ways to take turns, the latter find more.
        if turns and (among_turns or self._random.random() < _TURNS):
            possible = turns
        chosen = self._random.choice(possible)
        self._just_took_turns = chosen.startswith(FIRST)
        self._left -= 1
        self.deviations.append((point, chosen))
        return chosen
