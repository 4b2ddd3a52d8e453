"""Make sure that there is a management token, and that its secret holds it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from handlers.clients import aws
from handlers.clients.consul import ConsulClient
from handlers.clients.consul_connection import unauthenticated_consul
from handlers.clients.secrets_manager import SecretsManager, SecretVersion
from handlers.core import environment, names
from handlers.core.errors import ConsulAlreadyBootstrapped, ConsulTokenRejected
from handlers.core.step import step
from handlers.core.token_secret import parse_acl_token


@step
def handler(_state: Mapping[str, Any]) -> dict[str, Any]:
    """Take the token in the bootstrap secret; if there is none, bootstrap the ACL system.

    The token is chosen and stored before Consul is asked to take it, so that a crash in between
    loses nothing. Older servers choose one themselves, which is stored at once.

    Result: `{"bootstrapped": bool}`: whether this call, or one that died, made the token.

    Raises:
        ConsulAlreadyBootstrapped: if Consul has a management token and the secret has none.
        ConsulTokenRejected: if Consul does not know the one in the secret.

    """
    secret_arn = environment.required(environment.CONSUL_TOKEN_SECRET_ARN)
    secrets, consul = SecretsManager(), unauthenticated_consul()
    current = secrets.current(secret_arn) or secrets.initialize(secret_arn)
    token = _token(current)
    if token is not None:
        if not consul.knows_token(token):
            message = (
                f"Consul does not know the token in the secret {secret_arn}. Put a management "
                "token of this Consul there; or, if Consul is new, put {} there to have it "
                "bootstrapped."
            )
            raise ConsulTokenRejected(message)
        return {"bootstrapped": False}
    return _bootstrap(secrets, consul, current)


def _bootstrap(
    secrets: SecretsManager, consul: ConsulClient, current: SecretVersion
) -> dict[str, Any]:
    pending = secrets.write_ahead(current, lambda: str(uuid.uuid4()))
    try:
        token = consul.bootstrap(pending.value)
    except ConsulAlreadyBootstrapped as error:
        if consul.knows_token(pending.value):  # by a run of ours that died before it published
            token = pending.value
        elif _somebody_stored_it(secrets, consul, current.arn):
            return {"bootstrapped": False}
        else:
            message = (
                f"{error} If somebody still has a management token, put it into the secret "
                f"{current.arn} instead, which is empty. An earlier deployment's secret may still "
                f"have it: it has the tag {names.CLUSTER_TAG}."
            )
            raise ConsulAlreadyBootstrapped(message) from None
    if token == pending.value:
        secrets.publish(pending.arn, pending.version_id, replaces_version_id=current.version_id)
    else:
        # An old server chose the token itself, and this process has the only copy of it.
        SecretsManager(aws.client("secretsmanager", attempts=8)).put_current(current.arn, token)
    return {"bootstrapped": True}


def _somebody_stored_it(secrets: SecretsManager, consul: ConsulClient, secret_arn: str) -> bool:
    """Whether the secret has a valid token by now, from another execution or from a person."""
    current = secrets.current(secret_arn)
    token = _token(current) if current is not None else None
    return token is not None and consul.knows_token(token)


def _token(version: SecretVersion) -> str | None:
    return parse_acl_token(version.value, where=f"The secret {version.arn}")
