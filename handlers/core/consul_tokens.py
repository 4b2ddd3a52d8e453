"""Tokens as Consul renders and takes them, compared with what they have to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.core.step_input import take, take_strings
from handlers.core.token_secret import TokenIds, is_token_id

HIDDEN = "<hidden>"
"""What Consul shows of a secret ID to a caller who may read ACLs only."""

ONLY_READABLE = "The controller's token may read ACL tokens but not write them. Give it acl:write."

TOKEN_SETTINGS = (
    "Description",
    "Policies",
    "Roles",
    "ServiceIdentities",
    "NodeIdentities",
    "TemplatedPolicies",
    "Local",
    "ExpirationTime",
)
"""The fields of a token that its writer decides; an update has to repeat what is to stay."""


def wanted_token(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state's `token` as Consul takes it, without its IDs.

    Raises:
        InvalidStepInput: if it does not have that form.

    """
    return {
        "Description": take(state, "token.description", str),
        "Policies": [{"Name": name} for name in take_strings(state, "token.policies")],
        "ServiceIdentities": [
            {"ServiceName": name} for name in take_strings(state, "token.service_identities")
        ],
    }


def with_ids(token: dict[str, Any], ids: TokenIds) -> dict[str, Any]:
    """Return a token with the IDs that it is to have."""
    return {"AccessorID": ids.accessor_id, "SecretID": ids.secret_id, **token}


def content(token: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what of a token is ours to decide, in comparable form."""
    return (
        token.get("Description"),
        {link.get("Name") for link in token.get("Policies") or []},
        {
            (identity.get("ServiceName"), tuple(identity.get("Datacenters") or []))
            for identity in token.get("ServiceIdentities") or []
        },
        bool(token.get("NodeIdentities")),
        bool(token.get("TemplatedPolicies")),
        bool(token.get("Roles")),
    )


def is_token(value: Any) -> bool:
    """Whether a value is a token as Consul renders it, as far as anybody here looks at it."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("AccessorID"), str)
        and isinstance(value.get("SecretID", ""), str)  # not in each list of each version
        and isinstance(value.get("Description"), str)
        and _are_objects(value.get("Policies"), "Name")
        and _are_objects(value.get("ServiceIdentities"), "ServiceName")
        and all(
            _are_texts(identity.get("Datacenters"))
            for identity in value.get("ServiceIdentities") or []
        )
    )


def is_policy(value: Any) -> bool:
    """Whether a value is a policy as Consul renders it."""
    keys = ("ID", "Name", "Description", "Rules")
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key), str) for key in keys)
        and is_token_id(value["ID"])  # it becomes a part of a path
    )


def is_intention(value: Any) -> bool:
    """Whether a value is an intention as Consul renders it, which leaves out what is empty."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key), str) for key in ("SourceName", "DestinationName"))
        and all(isinstance(value.get(key, ""), str) for key in ("Action", "Description"))
    )


def settings(token: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that an update has to repeat for a token to stay as it is."""
    return {key: token[key] for key in TOKEN_SETTINGS if token.get(key)}


def _are_objects(value: Any, key: str) -> bool:
    return value is None or (
        isinstance(value, list)
        and all(isinstance(item, dict) and isinstance(item.get(key), str) for item in value)
    )


def _are_texts(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(item, str) for item in value)
    )
