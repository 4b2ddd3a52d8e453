"""Who goes on, and when: actors of whom exactly one acts at any time.

An execution is an actor with a thread of its own, because the code that it runs, handlers and all,
knows nothing of taking turns. People, tasks and requests that arrive late are scripts: generators
that act, and say for how many seconds they wait then. The baton is handed over only where a thread
waits or meets a scheduling point, so a run depends on nothing but what was decided there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

from tests.faults.virtual_time import VirtualClock

Script: TypeAlias = Iterator[float]


class CutShort(BaseException):
    """The simulation is over: what still waits is unwound. Nobody may take it for an error."""


class SimulationError(Exception):
    """The harness is wrong, or what it runs never ends."""


@dataclass(eq=False)
class Actor:
    """Somebody who takes turns. It is ready, asleep until a moment, or waits for others."""

    name: str
    script: Script | None = None
    """None: it has a thread."""
    since: int = 0
    """Who has been ready for longest goes first."""
    wakes_at: datetime | None = None
    awaits: frozenset[Actor] = frozenset()
    ended: bool = False
    turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.turn.acquire()


class Stage:
    """All actors of one run."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self._actors: list[Actor] = []
        self._current: Actor | None = None
        self._turns = 0
        self._ended = threading.Lock()
        self._broken: BaseException | None = None
        self._threads: list[threading.Thread] = []

    # --- who there is ---------------------------------------------------------------------------

    @property
    def current(self) -> Actor:
        """The actor whose turn it is."""
        assert self._current is not None
        return self._current

    def enter_script(self, name: str, script: Script, *, after: float = 0.0) -> Actor:
        """Let a script take part from some seconds on."""
        actor = self._enter(Actor(self._unique(name), script))
        if after:
            self._fall_asleep(actor, after)
        return actor

    def enter_thread(self, name: str, function: Callable[[], None]) -> Actor:
        """Let a function take part, in a thread of its own."""
        actor = self._enter(Actor(self._unique(name)))

        def run() -> None:
            actor.turn.acquire()
            try:
                self._check()
                function()
            except CutShort:
                return
            except BaseException as error:  # noqa: BLE001 - it goes to whoever runs the simulation
                self._break(error)
                return
            self._end(actor)
            self._pass_on()

        thread = threading.Thread(target=run, name=actor.name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return actor

    def others(self, within: float) -> list[Actor]:
        """Return who could go first instead of the current one: who is ready, or wakes soon."""
        latest = self.clock.now() + timedelta(seconds=within)
        return [
            actor
            for actor in self._actors
            if actor is not self._current
            and not actor.awaits
            and (actor.wakes_at is None or actor.wakes_at <= latest)
        ]

    # --- taking turns ---------------------------------------------------------------------------

    def run(self) -> None:
        """Let everybody act until all have ended.

        Raises:
            SimulationError, or what a script or a thread has raised.

        """
        self._ended.acquire(blocking=False)
        self._pass_on()
        self._ended.acquire()
        if self._broken is not None:
            for actor in self._actors:
                if actor.script is None and not actor.ended:
                    actor.turn.release()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self._broken is not None:
            raise self._broken

    def let_go_first(self, other: Actor) -> None:
        """Let another actor act; the current one follows as soon as that one waits."""
        me = self.current
        if other.wakes_at is not None:
            self.clock.reach(other.wakes_at)
            other.wakes_at = None
        first = min((actor.since for actor in self._actors), default=0)
        other.since, me.since = first - 2, first - 1
        self._wait(me)

    def sleep(self, seconds: float) -> None:
        """Let the current thread wait."""
        self._fall_asleep(self.current, seconds)
        self._wait(self.current)

    def wait_for(self, actors: frozenset[Actor]) -> None:
        """Let the current thread wait until others have ended."""
        me = self.current
        me.awaits = frozenset(actor for actor in actors if not actor.ended)
        if me.awaits:
            self._wait(me)

    # --- inside ---------------------------------------------------------------------------------

    def _enter(self, actor: Actor) -> Actor:
        self._actors.append(actor)
        self._queue(actor)
        return actor

    def _unique(self, name: str) -> str:
        taken = sum(1 for actor in self._actors if actor.name.partition("#")[0] == name)
        return f"{name}#{taken + 1}" if taken else name

    def _queue(self, actor: Actor) -> None:
        self._turns += 1
        actor.since = self._turns

    def _fall_asleep(self, actor: Actor, seconds: float) -> None:
        actor.wakes_at = self.clock.now() + timedelta(seconds=seconds)

    def _wait(self, me: Actor) -> None:
        try:
            following = self._next()
        except BaseException as error:  # noqa: BLE001 - it goes to whoever runs the simulation
            self._break(error)
            raise CutShort from None
        if following is not me:
            assert following is not None
            self._current = following
            following.turn.release()
            me.turn.acquire()
        self._current = me
        self._check()

    def _pass_on(self) -> None:
        """Hand the baton over for good."""
        try:
            following = self._next()
        except BaseException as error:  # noqa: BLE001 - see above
            self._break(error)
            return
        if following is None:
            self._ended.release()
            return
        self._current = following
        following.turn.release()

    def _next(self) -> Actor | None:
        """Let scripts act until a thread's turn comes; return its actor."""
        while True:
            actor = self._first()
            if actor is None or actor.script is None:
                return actor
            self._current = actor
            try:
                seconds = next(actor.script)
            except StopIteration:
                self._end(actor)
            else:
                self._queue(actor)
                self._fall_asleep(actor, seconds)

    def _first(self) -> Actor | None:
        """Return who has been ready for longest; if nobody is, time passes until somebody is."""
        now = self.clock.now()
        first: Actor | None = None
        sleeper: Actor | None = None
        for actor in self._actors:
            if actor.awaits:
                continue
            if actor.wakes_at is not None:
                if actor.wakes_at > now:
                    if sleeper is None or actor.wakes_at < (sleeper.wakes_at or now):
                        sleeper = actor
                    continue
                actor.wakes_at = None
                self._queue(actor)
            if first is None or actor.since < first.since:
                first = actor
        if first is not None:
            return first
        if sleeper is None:
            if self._actors:
                waiting = ", ".join(actor.name for actor in self._actors)
                raise SimulationError(f"Everybody waits for everybody: {waiting}.")
            return None
        assert sleeper.wakes_at is not None
        self.clock.reach(sleeper.wakes_at)
        return self._first()

    def _end(self, actor: Actor) -> None:
        actor.ended = True
        self._actors.remove(actor)
        for other in self._actors:
            if actor in other.awaits:
                other.awaits -= {actor}
                if not other.awaits:
                    self._queue(other)

    def _break(self, error: BaseException) -> None:
        if self._broken is None:
            self._broken = error
            self._ended.release()

    def _check(self) -> None:
        if self._broken is not None:
            raise CutShort
