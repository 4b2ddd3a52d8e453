"""Undo a rotation that has failed before tasks could pull its token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.clients.consul import ConsulClient
from handlers.clients.consul_connection import consul
from handlers.clients.secrets_manager import (
    PREVIOUS,
    SecretsManager,
    SecretVersion,
    StoredVersion,
    derived_version_id,
    kept_version_id,
)
from handlers.core.deployment import Deployment
from handlers.core.errors import AwsUnavailable, InvalidSecret, InvalidStepInput
from handlers.core.step import step
from handlers.core.subjects import Subject, owned_subject
from handlers.core.token_secret import TokenIds

_ABANDONED = "abandoned"


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Delete the new token, once nobody can publish it any more; tasks keep the old one.

    Input: `{"subject": …, "secret": {"arn": …, "version_id": …, "replaces_version_id": …}}`, the
    latter as `store_secret` returned it.

    Result: `{"switched": bool}`. True: tasks pull the new token already, so it stays. It stays too
    where it might have been pulled in between (a third one took the secret, or somebody took the
    rotation back), and Reconciliation removes it.
    """
    subject = Subject.from_state(state.get("subject"))
    stored = StoredVersion.from_state(state)
    deployment = Deployment.from_environment()
    secrets, client = SecretsManager(), consul()
    pending = secrets.version(stored.arn, stored.version_id)
    if pending.version_id != derived_version_id(pending.arn, stored.replaces_version_id):
        # Such as the version that tasks pull, whose token must not be deleted.
        message = f"The version {stored.version_id} of {stored.arn} was stored by no rotation."
        raise InvalidStepInput(message)
    current = _current(secrets, stored.arn)
    if current.value == pending.value and current.version_id != pending.version_id:
        message = f"The version {stored.version_id} of {stored.arn} holds what tasks pull."
        raise InvalidSecret(message)
    if current.version_id == stored.replaces_version_id and PREVIOUS not in pending.stages:
        abandoned_id = version_id_after_abandoning(current)
        if secrets.keep(current, version_id=abandoned_id):
            delete_never_pulled(pending, subject, deployment, client)
            return {"switched": False}
        current = _current(secrets, stored.arn)
    elif current.version_id == kept_version_id(stored.arn, stored.replaces_version_id, _ABANDONED):
        # An attempt before this one came so far.
        delete_never_pulled(pending, subject, deployment, client)
    return {"switched": current.version_id == stored.version_id}


def version_id_after_abandoning(current: SecretVersion) -> str:
    """Return the ID under which a value stays when what was to replace it was never pulled."""
    return kept_version_id(current.arn, current.version_id, _ABANDONED)


def version_id_after_taking_back(current: SecretVersion) -> str:
    """Return the same for a value that somebody has put back after a rotation."""
    return kept_version_id(current.arn, current.version_id, "taken-back")


def delete_never_pulled(
    pending: SecretVersion, subject: Subject, deployment: Deployment, client: ConsulClient
) -> None:
    """Delete the token of a version that was never current, and never can be."""
    ids = TokenIds.require(pending.value, where=f"The secret {pending.arn}")
    token = client.read_token(ids.accessor_id)
    if token is None or owned_subject(token, deployment.cluster_arn) != subject:
        return
    # Another secret ID under this accessor ID: it was not made for this version.
    if token.get("SecretID") == ids.secret_id:
        client.delete_token(ids.accessor_id)


def _current(secrets: SecretsManager, arn: str) -> SecretVersion:
    current = secrets.current(arn)
    if current is None:
        message = f"The secret {arn} shows no value."
        raise AwsUnavailable(message)
    return current
