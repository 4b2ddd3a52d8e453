"""Reading IAM policies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

# Conditions that statements may have, and how `permissions` tells of each.
_CONDITIONS = {
    ("StringLike", "kms:ViaService"): "via",
    ("ArnEquals", "ecs:cluster"): "in",
    ("StringLike", "s3:prefix"): "under",
    ("StringEquals", "kms:SigningAlgorithm"): "by",
}


def permissions(policy: dict[str, Any]) -> dict[str, set[str]]:
    """Return what a policy allows: actions by resource, however its statements are cut.

    A key in KMS that a statement allows to be used through a service only is `<ARN> via <service>`;
    what is allowed in one ECS cluster only is `<resource> in <ARN of the cluster>`; a bucket of
    which only some keys may be listed is `<ARN> under <keys>`; a key that may sign in one way is
    `<ARN> by <algorithm>`. A statement that does anything else
    but allow actions on resources is an error.
    """
    document = policy["PolicyDocument"]
    assert document["Version"] == "2012-10-17"
    found: dict[str, set[str]] = defaultdict(set)
    for statement in document["Statement"]:
        assert set(statement) - {"Condition"} == {"Effect", "Action", "Resource"}, statement
        assert statement["Effect"] == "Allow"
        condition = _condition(statement.get("Condition", {}))
        for resource in as_list(statement["Resource"]):
            found[resource + condition] |= set(as_list(statement["Action"]))
    return dict(found)


def _condition(condition: Mapping[str, Mapping[str, str]]) -> str:
    """Return how to tell of a statement's condition."""
    return "".join(
        f" {_CONDITIONS[operator, key]} {value}"
        for operator, keys in condition.items()
        for key, value in keys.items()
    )


def as_list(value: str | list[str]) -> list[str]:
    """Return the list that a single value stands for."""
    return [value] if isinstance(value, str) else value
