"""The documents about failures name every error and every end that the code has, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from handlers.core import errors
from settings import ReconciliationSettings, RotationSettings
from tests.workflows.asl import State

if TYPE_CHECKING:
    from tests.synthesized import Deployed

DOCS = Path(__file__).parents[1] / "docs"
FAILURE_MODES = (DOCS / "failure-modes.md").read_text(encoding="utf-8")
OPERATIONS = (DOCS / "operations.md").read_text(encoding="utf-8")
HOW_IT_WORKS = (DOCS / "how-it-works.md").read_text(encoding="utf-8")

ERRORS = [
    kind.__name__
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, errors.StepError)
    and kind not in {errors.StepError, errors.Retryable, errors.Permanent}
]
WORKFLOWS = "AWS::StepFunctions::StateMachine"


@pytest.fixture(scope="module")
def definitions(served: Deployed) -> dict[str, State]:
    """All workflows that there are, by name."""
    return {name: served.definition(name) for name in served.of_type(WORKFLOWS)}


def section(document: str, title: str) -> str:
    _, found, rest = document.partition(f"\n## {title}\n")
    assert found, f"there is no section {title}"
    return rest.partition("\n## ")[0]


def all_states(definition: State) -> Iterator[tuple[str, State]]:
    """Yield every state by its name, also those inside of a Map."""
    for name, state in definition["States"].items():
        yield name, state
        if "ItemProcessor" in state:
            yield from all_states(state["ItemProcessor"])


def ends(definition: State) -> set[tuple[str, str]]:
    """Return the states with which a workflow, or an iteration in it, ends, and how."""
    kinds = {"Succeed": "succeeds", "Fail": "fails"}
    return {
        (name, kinds[state["Type"]])
        for name, state in all_states(definition)
        if state["Type"] in kinds
    }


@pytest.mark.parametrize(
    ("document", "text"), [("failure-modes.md", FAILURE_MODES), ("operations.md", OPERATIONS)]
)
def test_every_error_is_explained(document: str, text: str) -> None:
    assert [name for name in ERRORS if f"`{name}`" not in text] == [], document


def test_what_looks_like_an_error_is_one() -> None:
    named = set(re.findall(r"`((?:Consul|Aws|Secret|Invalid|Task|Token)[A-Z]\w+)`", FAILURE_MODES))

    assert named - set(ERRORS) == set()


def test_every_end_of_every_workflow_is_in_the_table_of_ends(
    definitions: dict[str, State],
) -> None:
    rows = re.findall(
        r"^\| (\w+) \| \*(.+?)\* \| (succeeds|fails) \|",
        section(FAILURE_MODES, "How executions end"),
        re.MULTILINE,
    )

    expected = {
        (workflow, *end) for workflow, definition in definitions.items() for end in ends(definition)
    }
    assert set(rows) == expected
    assert len(rows) == len(expected), "an end is in the table twice"


def test_every_end_is_in_the_operators_guide(definitions: dict[str, State]) -> None:
    names = {name for definition in definitions.values() for name, _ in ends(definition)}

    assert [name for name in sorted(names) if name not in OPERATIONS] == []


@pytest.mark.parametrize("workflow", ["Reconciliation", "TokenRotation"])
def test_the_drawings_have_the_real_names_of_the_states(minimal: Deployed, workflow: str) -> None:
    drawn = HOW_IT_WORKS.replace("<br>", " ")

    names = [name for name, _ in all_states(minimal.definition(workflow))]
    assert [name for name in names if name not in drawn] == []


def test_every_function_is_in_the_table_of_who_can_read_what(served: Deployed) -> None:
    table = section(OPERATIONS, "Who can read what")
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    named = {name.strip() for row in rows for name in row.split(",")}
    functions = {name.rpartition("/")[2] for name in served.of_type("AWS::Lambda::Function")}

    assert functions - named == set()


def test_the_settings_are_named() -> None:
    settings = [
        *(f"reconciliation.{key}" for key in ReconciliationSettings.model_fields),
        "rotation.stable_within_minutes",
        "rotation.keep_ecs_services",
    ]
    assert "keep_ecs_services" in RotationSettings.model_fields
    assert [name for name in settings if f"`{name}`" not in FAILURE_MODES] == []
