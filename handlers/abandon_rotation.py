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
    derived_version_id,
    kept_version_id,
)
from handlers.core.deployment import Deployment
from handlers.core.errors import AwsUnavailable
from handlers.core.step import step
from handlers.core.step_input import take
from handlers.core.subjects import Subject, owned_subject
from handlers.core.token_secret import TokenIds


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Delete the new token, once nobody can publish it any more; tasks keep the old one.

    Input: `{"subject": …, "secret": {"arn": …, "version_id": …, "replaces_version_id": …}}`, the
    latter as `store_secret` returned it.

    Result: `{"switched": bool}`. True: tasks pull the new token already, so it stays. If a third
    one took the secret meanwhile, the token stays too, for it might have been pulled in between;
    Reconciliation removes it.
    """
    subject = Subject.from_state(take(state, "subject", dict))
    arn = take(state, "secret.arn", str)
    replaced_id = take(state, "secret.replaces_version_id", str)
    deployment = Deployment.from_environment()
    secrets, client = SecretsManager(), consul()
    pending = secrets.version(arn, take(state, "secret.version_id", str))
    current = secrets.current(arn)
    if current is None:
        message = f"The secret {arn} shows no value."
        raise AwsUnavailable(message)
    if current.version_id in {replaced_id, kept_version_id(arn, replaced_id)}:
        abandon(pending, current, subject, deployment, secrets=secrets, client=client)
        current = secrets.current(arn) or current
    return {"switched": current.version_id == pending.version_id}


def abandon(
    pending: SecretVersion,
    current: SecretVersion,
    subject: Subject,
    deployment: Deployment,
    *,
    secrets: SecretsManager,
    client: ConsulClient,
) -> bool:
    """Make a pending version impossible to publish, then delete its token, if no task can hold it.

    One that was current before, until somebody took the rotation back, has been pulled: its token
    stays, as one that is superseded.

    Args:
        pending: what was written to replace `current`.
        current: what tasks pull.
        subject: whose token it is.
        deployment: of the controller.
        secrets: where the versions are.
        client: where the token is.

    Returns whether that was done. False: another version, perhaps this one, became current.

    """
    publishable = pending.version_id == derived_version_id(current.arn, current.version_id)
    if publishable and not secrets.keep(current):
        return False
    if PREVIOUS in pending.stages:
        return True
    ids = TokenIds.require(pending.value, where=f"The secret {pending.arn}")
    token = client.read_token(ids.accessor_id)
    if token is not None and owned_subject(token, deployment.cluster_arn) == subject:
        client.delete_token(ids.accessor_id)
    return True
