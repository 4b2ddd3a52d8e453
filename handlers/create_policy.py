"""Make sure that a policy exists in Consul with the rules that it should have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.clients.consul import ConsulClient, Json
from handlers.clients.consul_connection import consul
from handlers.core import consul_tokens, environment, names
from handlers.core.errors import ConsulObjectExists, ForeignObject, InvalidStepInput
from handlers.core.step import step
from handlers.core.step_input import take
from handlers.core.token_secret import is_token_id


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Create a policy, or bring one of ours in line; leave everything foreign alone.

    Input::

        {"policy": {"name": …, "description": …, "rules": HCL,
                    "adopt": description,        # optional: also ours if it says exactly this
                    "shared": true,              # optional: if it exists, it is right as it is
                    "attach_to": accessor ID}}   # optional: a token that is to carry it

    Result: `{"name": …, "change": "created" | "updated" | "none"}`.

    Raises:
        ForeignObject: if a policy of this name exists and does not carry our cluster's line.

    """
    name = take(state, "policy.name", str)
    policy = {
        "Name": name,
        "Description": take(state, "policy.description", str),
        "Rules": take(state, "policy.rules", str),
    }
    attach_to = _optional(state, "attach_to")
    if attach_to is not None and not is_token_id(attach_to):
        message = 'The input of the step needs "policy.attach_to", the accessor ID of a token.'
        raise InvalidStepInput(message)
    adopt = _optional(state, "adopt") or None
    client = consul()
    existing = client.read_policy(name)
    if existing is None:
        try:
            client.create_policy(policy)
        except ConsulObjectExists:
            # Another execution was faster. What it made is compared like any other.
            existing = client.read_policy(name)
            if existing is None:
                raise
    change = "created"
    if existing is not None:
        shared = state["policy"].get("shared") is True
        change = "none" if shared else _bring_in_line(client, existing, policy, adopt)
    if attach_to is not None:
        _attach(client, name, attach_to)
    return {"name": name, "change": change}


def _optional(state: Mapping[str, Any], name: str) -> str | None:
    return take(state, f"policy.{name}", str) if name in state["policy"] else None


def _bring_in_line(client: ConsulClient, existing: Json, wanted: Json, adopt: str | None) -> str:
    description = existing.get("Description") or ""
    own_cluster_arn = environment.required(environment.CLUSTER_ARN)
    if names.owning_cluster(description) != own_cluster_arn and description != adopt:
        message = (
            f'The policy "{wanted["Name"]}" exists in Consul and is not ours: its description has '
            f'no line "{names.cluster_line(own_cluster_arn)}". Rename or delete it; or, if another '
            "cluster's controller made it, give each cluster a secrets.prefix of its own."
        )
        raise ForeignObject(message)
    if all(existing.get(key) == value for key, value in wanted.items()):
        return "none"
    # Datacenters is no setting of ours; leaving it out would drop what somebody chose.
    kept = {"Datacenters": existing["Datacenters"]} if existing.get("Datacenters") else {}
    client.update_policy(existing["ID"], wanted | kept)
    return "updated"


def _attach(client: ConsulClient, policy_name: str, accessor_id: str) -> None:
    """Add a policy to a token that is not ours, and change nothing else of it."""
    token = client.read_token(accessor_id)
    if token is None:
        message = f"Consul has no token {accessor_id} to attach the policy {policy_name} to."
        raise ForeignObject(message)
    links = token.get("Policies") or []
    if any(link.get("Name") == policy_name for link in links):
        return
    kept = consul_tokens.settings(token)
    client.update_token(accessor_id, kept | {"Policies": [*links, {"Name": policy_name}]})
