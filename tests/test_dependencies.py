"""Which part of the project imports which: dependencies point one way."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROJECT = {"app", "settings", "workflows", "handlers", "infrastructure", "containers", "examples"}
PROJECT |= {"local", "tests"}
CDK = {"aws_cdk", "constructs", "jsii"}

# What a part may import besides itself and the standard library.
MAY_IMPORT = {
    # A Lambda asset has no more, and boto3 comes with the Lambda runtime.
    "handlers": {"requests", "urllib3", "boto3", "botocore", "pyasn1", "pyasn1_modules"},
    # Names and errors of the handlers, never what needs a network.
    "workflows": CDK | {"handlers.core"},
    # What a task and its definition have to agree on.
    "infrastructure": CDK
    | {"handlers.core", "workflows", "settings", "containers.layout", "containers.task_config"},
    # An image has no more than Python.
    "containers": set(),
    "examples": CDK | {"infrastructure"},
    "settings.py": {"handlers.core", "hcl2", "lark", "pydantic", "pydantic_core", "yaml"},
    "app.py": CDK | {"infrastructure", "settings", "examples"},
}


def files(part: str) -> list[Path]:
    """Return the modules of a part."""
    return [ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Return the names of all modules that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            # `from handlers import core` imports handlers.core, if that is a module.
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def within(module: str, allowed: set[str]) -> bool:
    """Whether a module, or something in it, belongs to one of the allowed packages."""
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_no_more_than_it_may(part: str) -> None:
    allowed = MAY_IMPORT[part] | set(sys.stdlib_module_names) | {part.removesuffix(".py")}

    assert files(part)
    assert [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files(part)
        for module in imported(path)
        if not within(module, allowed)
    ] == []


def test_nothing_imports_what_runs_on_a_laptop_but_itself_and_tests() -> None:
    parts = [
        part
        for part in (*sorted(PROJECT), "app.py", "settings.py")
        if part not in {"local", "tests"}
    ]
    assert [
        str(path.relative_to(ROOT))
        for part in parts
        for path in files(part)
        if any(within(module, {"local", "tests"}) for module in imported(path))
    ] == []


def test_nothing_but_tests_imports_tests() -> None:
    assert [
        str(path.relative_to(ROOT))
        for path in files("local")
        if any(within(module, {"tests"}) for module in imported(path))
    ] == []


def test_the_core_of_the_handlers_needs_no_network() -> None:
    allowed = set(sys.stdlib_module_names) | {"handlers.core", "pyasn1", "pyasn1_modules"}

    assert [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sorted((ROOT / "handlers" / "core").glob("*.py"))
        for module in imported(path)
        if not within(module, allowed)
    ] == []
