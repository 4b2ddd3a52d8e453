"""Reading IAM policies."""

from __future__ import annotations

from collections import defaultdict
from typing import Any


def permissions(policy: dict[str, Any]) -> dict[str, set[str]]:
    """Return what a policy allows: actions by resource, however its statements are cut.

    A key in KMS that a statement allows to be used through a service only is `<ARN> via <service>`.
    A statement that does anything else but allow actions on resources is an error.
    """
    document = policy["PolicyDocument"]
    assert document["Version"] == "2012-10-17"
    found: dict[str, set[str]] = defaultdict(set)
    for statement in document["Statement"]:
        assert set(statement) - {"Condition"} == {"Effect", "Action", "Resource"}, statement
        assert statement["Effect"] == "Allow"
        via = ""
        if "Condition" in statement:
            assert list(statement["Condition"]) == ["StringLike"], statement
            ((key, service),) = statement["Condition"]["StringLike"].items()
            assert key == "kms:ViaService", statement
            via = f" via {service}"
        for resource in as_list(statement["Resource"]):
            found[resource + via] |= set(as_list(statement["Action"]))
    return dict(found)


def as_list(value: str | list[str]) -> list[str]:
    """Return the list that a single value stands for."""
    return [value] if isinstance(value, str) else value
