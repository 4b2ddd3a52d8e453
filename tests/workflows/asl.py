"""Reading a definition in the Amazon States Language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

State = Mapping[str, Any]


def states(definition: State, kind: str | None = None) -> dict[str, State]:
    """Return all states by name, or those of one type."""
    found = definition["States"]
    return {name: state for name, state in found.items() if kind in (None, state["Type"])}


def graph(definition: State) -> str:
    """Draw the ways through a workflow in which nothing fails: one line for each arrow.

    States come in the order in which one gets to them, each where it is reached first.
    """
    lines = [f"start -> {definition['StartAt']}"]
    waiting, seen = [definition["StartAt"]], set()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        state = definition["States"][name]
        for condition, following in _arrows(state):
            lines.append(f"{name} {condition}-> {following}")
            waiting.append(following)
        if state["Type"] in {"Succeed", "Fail"}:
            lines.append(f"{name} -> {state['Type'].lower()}s")
        assert "End" not in state, f"{name} ends the workflow without saying how"
    return "\n".join(lines)


def _arrows(state: State) -> Iterator[tuple[str, str]]:
    for choice in state.get("Choices", []):
        rule = {key: value for key, value in choice.items() if key not in {"Variable", "Next"}}
        ((operator, value),) = rule.items()
        yield f"[{choice['Variable']} {operator} {str(value).lower()}] ", choice["Next"]
    if "Default" in state:
        yield "[else] ", state["Default"]
    if "Next" in state:
        yield "", state["Next"]
