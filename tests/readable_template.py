"""A template of CDK with names instead of hashed logical IDs, whatever is in it.

`tests.synthesized.Deployed` evaluates a template for one place, and knows a few types for that.
This one knows all types, and nothing of a place: what refers to a resource says so by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

# What CDK calls the one resource of a construct.
_UNNAMED = {"Resource", "Default"}


class ReadableTemplate:
    """The resources of a template, by their place in the tree of constructs.

    Args:
        template: as CDK synthesizes it, with metadata of paths.

    """

    def __init__(self, template: Mapping[str, Any]) -> None:
        self._resources: Mapping[str, Any] = template["Resources"]
        self._outputs: Mapping[str, Any] = template.get("Outputs", {})
        self._names = dict(self._paths())
        assert len(set(self._names.values())) == len(self._names), "two resources have one name"

    @property
    def outputs(self) -> dict[str, Any]:
        """The values of the outputs."""
        return {key: self.read(output["Value"]) for key, output in self._outputs.items()}

    @cached_property
    def resources(self) -> dict[str, dict[str, Any]]:
        """All resources, as they can be read; `DependsOn` is a list of names."""
        found = {}
        for logical_id, resource in self._resources.items():
            read = {
                key: self.read(value)
                for key, value in resource.items()
                if key not in {"DependsOn", "Metadata"}
            }
            depends_on = sorted(self._names[each] for each in _depends_on(resource))
            found[self._names[logical_id]] = read | {"DependsOn": depends_on}
        return found

    def of_type(self, kind: str, under: str = "") -> dict[str, Any]:
        """Return the properties of all resources of a type, below a construct."""
        return {
            name: resource["Properties"]
            for name, resource in self.resources.items()
            if resource["Type"] == kind and name.startswith(under)
        }

    def properties(self, name: str) -> dict[str, Any]:
        """Return the properties of a resource."""
        found: dict[str, Any] = self.resources[name]["Properties"]
        return found

    def before(self, name: str) -> set[str]:
        """Return what exists before a resource is created, and until it is deleted."""
        ids = {name: key for key, name in self._names.items()}
        found: set[str] = set()
        todo = {ids[name]}
        while todo:
            resource = self._resources[todo.pop()]
            needs = {*_depends_on(resource), *_references(resource.get("Properties", {}))}
            new = (needs & set(self._resources)) - found
            found |= new
            todo |= new
        return {self._names[key] for key in found}

    def read(self, value: Any) -> Any:
        """Return a part of the template with names in place of references."""
        match value:
            case list():
                return [self.read(item) for item in value]
            case dict() if len(value) == 1 and (
                text := self._read_call(*next(iter(value.items())))
            ):
                return text
            case dict():
                return {key: self.read(item) for key, item in value.items()}
        return value

    def _read_call(self, function: str, argument: Any) -> str | None:
        """Return a call as a text; None if it is no call, or one that has to stay."""
        match function, argument:
            case "Ref", str(key):
                return self._names.get(key, key)
            case "Fn::GetAtt", [str(key), str(attribute)]:
                return f"{self._names[key]}.{attribute}"
            case "Fn::Join", [str(separator), list(parts)]:
                read = [self.read(part) for part in parts]
                return separator.join(read) if all(isinstance(each, str) for each in read) else None
        return None

    def _paths(self) -> Iterator[tuple[str, str]]:
        for key, resource in self._resources.items():
            _stack, *path = resource["Metadata"]["aws:cdk:path"].split("/")
            if path[-1] in _UNNAMED:
                path.pop()
            yield key, "/".join(path)


def _depends_on(resource: Mapping[str, Any]) -> list[str]:
    depends_on = resource.get("DependsOn", [])
    return [depends_on] if isinstance(depends_on, str) else depends_on


def _references(value: Any) -> Iterator[str]:
    """Yield the logical IDs that a part of a template refers to."""
    match value:
        case list():
            for item in value:
                yield from _references(item)
        case dict():
            for key, item in value.items():
                match key, item:
                    case "Ref", str():
                        yield item
                    case "Fn::GetAtt", [str(logical_id), _]:
                        yield logical_id
                    case "Fn::Sub", str():
                        yield from re.findall(r"\$\{(\w+)[.}]", item)
                    case _:
                        yield from _references(item)
