"""What the code of a step can do: found by reading it, along everything that it may call.

Of the classes that call AWS those methods count that are called on something which is plainly of
that class: a variable, an argument or a field. Of any other class that is named, all methods count.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handlers.core import environment

_ROOT = Path(__file__).parents[2]
_IAM_PREFIXES = {"stepfunctions": "states"}
# Where the name of an operation is not that of the action which allows it.
_IAM_ACTIONS = {"s3:ListObjectsV2": "s3:ListBucket"}


@dataclass(frozen=True)
class Place:
    """A function, a method or a class of the handlers."""

    module: str
    name: str
    """`function`, `Class` or `Class.method`."""


@dataclass(frozen=True)
class Found:
    """What some code can do by itself, and where it goes on."""

    actions: frozenset[str]
    variables: frozenset[str]
    places: frozenset[Place]


def actions_of(step: str) -> set[str]:
    """Return the actions in IAM of all calls of AWS that a step can make."""
    found = {action for each in _reached(step) for action in each.actions}
    if "secretsmanager:BatchGetSecretValue" in found:
        # Each secret of a batch has to be readable (API reference, "Required permissions").
        found.add("secretsmanager:GetSecretValue")
    if "secretsmanager:CreateSecret" in found:
        found.add("secretsmanager:TagResource")  # ours have tags
    return found


def actions_of_all_code() -> set[str]:
    """Return the actions of all calls of AWS anywhere in the handlers, called or not."""
    files = sorted((_ROOT / "handlers").rglob("*.py"))
    modules = [_module(".".join(file.relative_to(_ROOT).with_suffix("").parts)) for file in files]
    return {
        action
        for module in modules
        for name in module.code
        for action in module.look_at(name).actions
    }


def variables_of(step: str) -> set[str]:
    """Return the names of all environment variables that a step may read."""
    return {variable for each in _reached(step) for variable in each.variables}


def _reached(step: str) -> Iterator[Found]:
    waiting, seen = [Place(f"handlers.{step}", "handler")], set[Place]()
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        found = _module(place.module).look_at(place.name)
        yield found
        waiting += found.places


@functools.cache
def _module(name: str) -> _Module:
    file = _ROOT.joinpath(*name.split(".")).with_suffix(".py")
    return _Module(name, ast.parse(file.read_text(encoding="utf-8")))


class _Module:
    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name = name
        self.code: dict[str, ast.AST] = {}
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.code[node.name] = node
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef):
                        self.code[f"{node.name}.{method.name}"] = method
        self.imported = {
            alias.asname or alias.name: (str(node.module), alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("handlers")
            for alias in node.names
        }
        self._instances = dict(self._instances_in(tree))

    def look_at(self, name: str) -> Found:
        """Return what a function, a method or a class does."""
        node = self.code.get(name)
        class_name = name.partition(".")[0] if "." in name else None
        actions, variables, places = set[str](), set[str](), set[Place]()
        for inner in ast.walk(node) if node is not None else ():
            if isinstance(inner, ast.Name):
                places |= set(self._named(inner.id))
            if isinstance(inner, ast.Attribute):
                actions |= set(self._action(inner, class_name))
                variables |= set(self._variable(inner))
                places |= set(self._attribute(inner, class_name))
        return Found(frozenset(actions), frozenset(variables), frozenset(places))

    def client_service(self, class_name: str) -> str | None:
        """Return the AWS service that a class calls, or None if it calls none."""
        node = self.code.get(class_name)
        for inner in ast.walk(node) if isinstance(node, ast.ClassDef) else ():
            if (service := _made_client(inner)) is not None:
                return service
        return None

    def _resolve(self, name: str) -> Place | None:
        """Return the function or class of ours that a name means in this module."""
        if name in self.code:
            return Place(self.name, name)
        if name in self.imported:
            module, original = self.imported[name]
            if not _is_module(f"{module}.{original}"):
                return Place(module, original)
        return None

    def _named(self, name: str) -> Iterator[Place]:
        place = self._resolve(name)
        # Of a class that calls AWS only those methods count that are called.
        if place is not None and _module(place.module).client_service(place.name) is None:
            yield place

    def _instances_in(self, tree: ast.Module) -> Iterator[tuple[str, str]]:
        """Yield the names of variables and fields, each with the name of its class."""
        for node in ast.walk(tree):
            if isinstance(node, ast.arg | ast.AnnAssign) and isinstance(node.annotation, ast.Name):
                target = node.arg if isinstance(node, ast.arg) else _last(node.target)
                yield target, node.annotation.id
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
                assert isinstance(node.value, ast.Tuple | ast.Name | ast.Call | ast.Attribute)
                if isinstance(node.value, ast.Tuple):
                    pairs = zip(node.targets[0].elts, node.value.elts, strict=True)
                    yield from ((_last(name), _last(value)) for name, value in pairs)
            elif isinstance(node, ast.Assign):
                yield _last(node.targets[0]), _last(node.value)

    def _class_of(self, value: ast.expr, class_name: str | None) -> Place | None:
        """Return the class of ours of what an expression gives, as far as that is plain to see."""
        if isinstance(value, ast.Name) and value.id == "self" and class_name is not None:
            return Place(self.name, class_name)
        name = _last(value)
        return self._resolve(self._instances.get(name, name))

    def _attribute(self, node: ast.Attribute, class_name: str | None) -> Iterator[Place]:
        if isinstance(node.value, ast.Name) and node.value.id in self.imported:
            module = ".".join(self.imported[node.value.id])
            if _is_module(module) and node.attr in _module(module).code:
                yield Place(module, node.attr)
        owner = self._class_of(node.value, class_name)
        if owner is not None and f"{owner.name}.{node.attr}" in _module(owner.module).code:
            yield Place(owner.module, f"{owner.name}.{node.attr}")

    def _action(self, node: ast.Attribute, class_name: str | None) -> Iterator[str]:
        service = _made_client(node.value)
        if _last(node.value) == "_client" and class_name is not None:
            service = self.client_service(class_name)
        if service is not None:
            operation = "".join(part.title() for part in node.attr.split("_"))
            action = f"{_IAM_PREFIXES.get(service, service)}:{operation}"
            yield _IAM_ACTIONS.get(action, action)

    def _variable(self, node: ast.Attribute) -> Iterator[str]:
        module = self.imported.get(_last(node.value), ())
        value = getattr(environment, node.attr, None)
        if ".".join(module) == environment.__name__ and isinstance(value, str):
            yield value


def _is_module(name: str) -> bool:
    path = _ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _made_client(node: ast.AST) -> str | None:
    """Return the service that `aws.client(…)` is called for, or None if it is something else."""
    if isinstance(node, ast.Call) and _last(node.func) == "client" and node.args:
        service = node.args[0]
        assert isinstance(service, ast.Constant)
        return str(service.value)
    return None


def _last(node: ast.AST) -> str:
    """Return the last name of `a`, `b.a` or `b.a(…)`; nothing for anything else."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=func):
            return _last(func)
    return ""
