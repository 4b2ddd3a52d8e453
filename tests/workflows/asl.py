"""Reading a definition in the Amazon States Language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

State = Mapping[str, Any]


def states(definition: State, kind: str | None = None) -> dict[str, State]:
    """Return all states by name, or those of one type; those of iterations, too."""
    found: dict[str, State] = {}
    for name, state in definition["States"].items():
        if kind in {None, state["Type"]}:
            found[name] = state
        if "ItemProcessor" in state:
            inner = states(state["ItemProcessor"], kind)
            # Step Functions wants names that are unique in the whole state machine.
            assert not found.keys() & inner.keys()
            found |= inner
    return found


def catches(definition: State) -> dict[str, list[State]]:
    """Return what catches the errors of each Task: its own, or else those of the Map around it."""
    found: dict[str, list[State]] = {}
    for name, state in definition["States"].items():
        if state["Type"] == "Task":
            found[name] = state.get("Catch", [])
        if "ItemProcessor" in state:
            inner = catches(state["ItemProcessor"])
            found |= {task: own or state.get("Catch", []) for task, own in inner.items()}
    return found


def reachable(definition: State) -> set[str]:
    """Return the states that an execution may get to, with or without a failure."""
    waiting, seen = [definition["StartAt"]], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        state = definition["States"][name]
        waiting += [following for _, following in _arrows(state)]
        waiting += [catch["Next"] for catch in state.get("Catch", [])]
        if "ItemProcessor" in state:
            seen |= reachable(state["ItemProcessor"])
    return seen


def graph(definition: State) -> str:
    """Draw the ways through a workflow in which nothing fails: one line for each arrow.

    States come in the order in which one gets to them, each where it is reached first; those of a
    Map's iterations come after the Map.
    """
    return "\n".join([f"start -> {definition['StartAt']}", *_lines(definition, inside=False)])


def _lines(sequence: State, *, inside: bool) -> Iterator[str]:
    waiting, seen = [sequence["StartAt"]], set()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        state = sequence["States"][name]
        if "ItemProcessor" in state:
            processor = state["ItemProcessor"]
            yield f"{name} [each {state['ItemsPath']}] -> {processor['StartAt']}"
            yield from _lines(processor, inside=True)
        for condition, following in _arrows(state):
            yield f"{name} {condition}-> {following}"
            waiting.append(following)
        if state["Type"] in {"Succeed", "Fail"}:
            yield f"{name} -> {'is done' if inside else state['Type'].lower() + 's'}"
        if "End" in state:
            assert inside, f"{name} ends the workflow without saying how"
            yield f"{name} -> is done"


def _arrows(state: State) -> Iterator[tuple[str, str]]:
    for choice in state.get("Choices", []):
        rule = {key: value for key, value in choice.items() if key != "Next"}
        yield f"[{_condition(rule)}] ", choice["Next"]
    if "Default" in state:
        yield "[else] ", state["Default"]
    if "Next" in state:
        yield "", state["Next"]


def _condition(rule: State) -> str:
    for combination in ("And", "Or"):
        if combination in rule:
            return f" {combination.lower()} ".join(map(_condition, rule[combination]))
    ((operator, value),) = ((key, rule[key]) for key in rule if key != "Variable")
    return f"{rule['Variable']} {operator} {str(value).lower()}"
