"""Bring Consul in line with the secret of a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.clients.consul import ConsulClient, Json
from handlers.clients.consul_connection import consul
from handlers.clients.secrets_manager import SecretsManager, StoredVersion
from handlers.core import consul_tokens, environment, names
from handlers.core.errors import (
    ConsulObjectExists,
    ConsulPermissionDenied,
    ForeignObject,
    SecretNameCollision,
)
from handlers.core.step import step
from handlers.core.token_secret import TokenIds


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Make Consul's token what the secret and the description of the token say.

    Absent: created with the secret's IDs. Other policies, identities or description: updated. The
    same accessor ID with another secret ID: replaced. A token is ours if its description carries
    our cluster's line. One whose description names no cluster, or has only its short name, is ours
    if it is the very token in our secret.

    A version of the secret that another one has replaced meanwhile counts no more: its token may
    have been deleted for good. Then Consul is brought in line with what tasks pull now.

    Input::

        {"secret": {"arn": …, "version_id": …, "replaces_version_id": …},    # of `store_secret`
         "token": {"description": …, "service_identities": [name, …], "policies": [name, …]}}

    Result: `{"change": "created" | "updated" | "replaced" | "none" | "superseded"}`; the last one
    if the version is one that counts no more, and must not be published.

    Raises:
        ForeignObject: if the accessor ID belongs to a token that is not ours.
        SecretNameCollision: if it belongs to our token of another service.
        InvalidSecret: if the secret's version holds no pair of IDs.

    """
    stored = StoredVersion.from_state(state)
    token = consul_tokens.wanted_token(state)
    secrets, where = SecretsManager(), f"The secret {stored.arn}"
    version = secrets.stored(stored)
    if version is not None:
        ids = TokenIds.require(version.value, where=where)
        return {"change": _make(consul_tokens.with_ids(token, ids), secret_arn=stored.arn)}
    current = secrets.current(stored.arn)
    current_ids = TokenIds.parse(current.value, where=where) if current is not None else None
    if current_ids is not None:
        _make(consul_tokens.with_ids(token, current_ids), secret_arn=stored.arn)
    return {"change": "superseded"}


def _make(wanted: Json, *, secret_arn: str) -> str:
    client = consul()
    existing = client.read_token(wanted["AccessorID"])
    if existing is None:
        existing = _create(client, wanted, secret_arn=secret_arn)
        if existing is None:
            return "created"
    return _bring_in_line(client, existing, wanted, secret_arn=secret_arn)


def _create(client: ConsulClient, wanted: Json, *, secret_arn: str) -> Json | None:
    """Create the token, or return the one that another execution made a moment before."""
    try:
        client.create_token(wanted)
    except ConsulObjectExists:
        # Another execution was faster, or we were, and the answer was lost: then the token is
        # there now. Otherwise it is the secret ID that another token has.
        existing = client.read_token(wanted["AccessorID"])
        if existing is None:
            message = (
                f"The token in the secret {secret_arn} is in use in Consul under another accessor "
                "ID. Put {} into the secret to have new IDs made."
            )
            raise ForeignObject(message) from None
        return existing
    return None


def _bring_in_line(client: ConsulClient, existing: Json, wanted: Json, *, secret_arn: str) -> str:
    accessor_id = wanted["AccessorID"]
    if existing.get("SecretID") == consul_tokens.HIDDEN:
        raise ConsulPermissionDenied(consul_tokens.ONLY_READABLE)
    same_secret_id = existing.get("SecretID") == wanted["SecretID"]
    _check_owner(existing, wanted, same_secret_id=same_secret_id, secret_arn=secret_arn)
    if not same_secret_id:
        # Consul refuses to change a secret ID, so the token has to be made again. A crash in
        # between leaves an absent token, which the next execution creates.
        client.delete_token(accessor_id)
        made_meanwhile = _create(client, wanted, secret_arn=secret_arn)
        if made_meanwhile is not None:
            _bring_in_line(client, made_meanwhile, wanted, secret_arn=secret_arn)
        return "replaced"
    if consul_tokens.content(existing) == consul_tokens.content(wanted):
        return "none"
    # Consul refuses an update that changes these two. All else that is left out is dropped, such
    # as roles that somebody attached.
    kept = {key: existing[key] for key in ("Local", "ExpirationTime") if existing.get(key)}
    client.update_token(accessor_id, wanted | kept)
    return "updated"


def _check_owner(existing: Json, wanted: Json, *, same_secret_id: bool, secret_arn: str) -> None:
    description = existing.get("Description") or ""
    own_cluster_arn = environment.required(environment.CLUSTER_ARN)
    owner = names.owning_cluster(description)
    accessor_id = wanted["AccessorID"]
    # HashiCorp's controller writes a cluster's short name on EC2, which says less than an ARN.
    possible = {None, own_cluster_arn.rpartition("/")[2]} if same_secret_id else set()
    if owner not in {own_cluster_arn} | possible:
        whose = f"belongs to the cluster {owner}" if owner else "is not ours"
        message = (
            f"The accessor ID {accessor_id} in the secret {secret_arn} is that of a Consul token "
            f"that {whose}. Give each cluster a secrets.prefix of its own, or put {{}} into the "
            "secret to have new IDs made."
        )
        raise ForeignObject(message)
    service = names.described_service(wanted["Description"])
    other = names.described_service(description)
    if service is not None and other is not None and service != other:
        message = (
            f'The secret {secret_arn} is to hold the token of the service "{service}", but holds '
            f'that of "{other}". Two services must not share a secret: give one of them another '
            "name, or each controller a secrets.prefix of its own."
        )
        raise SecretNameCollision(message)
