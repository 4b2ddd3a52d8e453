"""What an exploration has shown, as text."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterator

from tests.faults.explore import Failure, Tally, parsed
from tests.faults.kinds import FAULTS

_IMPOSSIBLE = "·"
_LETTERS = dict(zip((fault.name for fault in FAULTS), string.ascii_lowercase, strict=False))
_TURNS = {
    "first": "somebody else acts first",
    "delay": "the call comes later, past all that others do meanwhile",
    "again": "the event comes again",
    "stop": "the execution is stopped",
}


def lines(tally: Tally, *, seconds: float, shortest: Failure | None) -> Iterator[str]:
    """Yield the whole report, a line at a time."""
    yield summary(tally, seconds=seconds)
    yield ""
    yield "Faults:"
    of_kind = _of_kind(tally)
    for fault in FAULTS:
        count = of_kind[fault.name]
        yield f"  {_LETTERS[fault.name]} {fault.name:<13}{count:>9}  {fault.meaning}"
    yield "Turns:"
    for name, meaning in _TURNS.items():
        yield f"    {name:<13}{tally.turns[name]:>9}  {meaning}"
    yield ""
    yield from matrix(tally)
    yield ""
    yield from verdict(tally, shortest)


def summary(tally: Tally, *, seconds: float) -> str:
    """Return what was done, in a line."""
    rate = tally.schedules / seconds if seconds else 0
    faults = tally.injected.total() + tally.turns.total()
    return (
        f"{tally.schedules} schedules explored in {seconds:.0f} s ({rate:.0f} a second), "
        f"{faults} faults injected, {len(tally.reached)} calls of steps covered"
    )


def matrix(tally: Tally) -> Iterator[str]:
    """Yield how often each fault has hit each call of each step."""
    yield "How often each fault has hit each call of each step. A dot is where it cannot: a read is"
    yield "not done twice or late, and a write not answered with an old state; a service is"
    yield "throttled by AWS only, and has no leader in Consul only. Steps that are not here make no"
    yield "call, or touch no token (tests/faults/calls.py)."
    width = max((len(f"{step}  {call}") for step, call in tally.reached), default=0)
    yield _row("", list(_LETTERS.values()), width)
    for step, call in sorted(tally.reached):
        cells = []
        for fault in FAULTS:
            possible = fault.concerns(parsed(call))
            count = tally.injected[step, call, fault.name]
            cells.append(str(count) if possible else _IMPOSSIBLE)
        yield _row(f"{step}  {call}", cells, width)


def verdict(tally: Tally, shortest: Failure | None) -> Iterator[str]:
    """Yield whether a rule was broken, and how to look at it."""
    if shortest is None:
        yield "No rule was broken."
        return
    yield f"{len(tally.failures)} schedules broke a rule. The shortest:"
    yield f"  {shortest.schedule}"
    yield from (f"    {violation}" for violation in shortest.violations)
    yield f"""To look at it: make faults ARGS='--replay "{shortest.schedule}"'"""


def _row(title: str, cells: list[str], width: int) -> str:
    return f"{title:<{width}} " + "".join(f"{cell:>6}" for cell in cells)


def _of_kind(tally: Tally) -> Counter[str]:
    counts: Counter[str] = Counter()
    for (_, _, fault), count in tally.injected.items():
        counts[fault] += count
    return counts
