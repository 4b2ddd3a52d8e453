"""Make sure that a secret holds the two IDs of a token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from handlers.clients.secrets_manager import SecretsManager, SecretVersion
from handlers.core import environment, named_tokens
from handlers.core.errors import InvalidConfiguration
from handlers.core.step import step
from handlers.core.step_input import take
from handlers.core.subjects import Subject
from handlers.core.token_secret import TokenIds


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Leave valid IDs alone; write new ones, as the pending version, where there are none.

    Input: `{"secret": {"id": name or ARN, "description": …, "tags": {…}}, "renew": subject}`. With
    a description and tags the secret is created if it is absent; without, it has to exist. With
    `renew` new IDs are written although there are valid ones; those stay what tasks pull.

    Result::

        {"arn": …, "version_id": …,      # the version that holds the IDs
         "replaces_version_id": …,       # the version that was current when it was written
         "accessor_id": …,
         "public": bool,                 # whether it is the one that tasks pull
         "previous": [{"subject": …, "accessor_id": …}]}   # with `renew`: what tasks pull, or []

    Raises:
        InvalidSecret: if the secret holds something else; nothing is overwritten.
        SecretMarkedForDeletion: if the secret is in its recovery window.

    """
    secret_id = take(state, "secret.id", str)
    secrets = SecretsManager()
    current = secrets.current(secret_id)
    if current is None:
        current = _create(secrets, secret_id, state)
    where = f"The secret {secret_id}"
    renewed = Subject.from_state(state["renew"]) if "renew" in state else None
    previous = TokenIds.parse(current.value, where=where)
    if previous is not None and renewed is None:
        return _result(current, previous, replaces=current)
    # Stored before the token is made, so that a crash in between is finished by whoever comes next.
    pending = secrets.write_ahead(current, lambda: TokenIds.new().to_secret_string())
    ids = TokenIds.require(pending.value, where=f"{where}, pending version {pending.version_id}")
    result = _result(pending, ids, replaces=current)
    if renewed is not None:
        old = [named_tokens.to_state(renewed, previous.accessor_id)] if previous else []
        result["previous"] = old
    return result


def _create(secrets: SecretsManager, secret_id: str, state: Mapping[str, Any]) -> SecretVersion:
    if "description" not in state["secret"]:
        return secrets.initialize(secret_id)
    return secrets.create_empty(
        secret_id,
        description=take(state, "secret.description", str),
        tags=_configured_tags() | take(state, "secret.tags", dict),
        kms_key_id=environment.optional(environment.SECRET_KMS_KEY_ARN),
    )


def _result(version: SecretVersion, ids: TokenIds, *, replaces: SecretVersion) -> dict[str, Any]:
    return {
        "arn": version.arn,
        "version_id": version.version_id,
        "replaces_version_id": replaces.version_id,
        "accessor_id": ids.accessor_id,
        "public": version.version_id == replaces.version_id,
    }


def _configured_tags() -> dict[str, str]:
    value = environment.optional(environment.SECRET_TAGS) or "{}"
    try:
        tags: dict[str, str] = json.loads(value)
    except ValueError:
        message = f"The environment variable {environment.SECRET_TAGS} is not JSON."
        raise InvalidConfiguration(message) from None
    return tags
