"""Reading IAM policies."""

from __future__ import annotations

from collections import defaultdict
from typing import Any


def permissions(policy: dict[str, Any]) -> dict[str, set[str]]:
    """Return what a policy allows: actions by resource, however its statements are cut.

    A statement that does anything but allow actions on resources is an error.
    """
    document = policy["PolicyDocument"]
    assert document["Version"] == "2012-10-17"
    found: dict[str, set[str]] = defaultdict(set)
    for statement in document["Statement"]:
        assert set(statement) == {"Effect", "Action", "Resource"}, statement
        assert statement["Effect"] == "Allow"
        for resource in as_list(statement["Resource"]):
            found[resource] |= set(as_list(statement["Action"]))
    return dict(found)


def as_list(value: str | list[str]) -> list[str]:
    """Return the list that a single value stands for."""
    return [value] if isinstance(value, str) else value
