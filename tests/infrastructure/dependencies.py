"""In which order CloudFormation makes the resources of a template."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.infrastructure.policies import as_list


def needs(template: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return, by logical ID, which resources of a template CloudFormation makes before each one."""
    made = template["Resources"].keys()
    return {
        logical_id: (set(_named(resource)) | set(as_list(resource.get("DependsOn", [])))) & made
        for logical_id, resource in template["Resources"].items()
    }


def _named(value: Any) -> Iterator[str]:
    """Yield what the intrinsic functions in a part of a template refer to."""
    match value:
        case {"Ref": str(logical_id)} | {"Fn::GetAtt": [str(logical_id), _]}:
            yield logical_id
        case {"Fn::Sub": str(text)} | {"Fn::Sub": [str(text), _]}:
            yield from re.findall(r"\$\{(\w+)", text)
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _named(part)


def needed_by(template: Mapping[str, Any], logical_id: str) -> set[str]:
    """Return everything that CloudFormation makes before a resource."""
    graph = needs(template)
    found: set[str] = set()
    waiting = [logical_id]
    while waiting:
        more = graph[waiting.pop()] - found
        found |= more
        waiting += more
    return found
