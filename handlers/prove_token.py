"""Does Consul know a token that tasks are about to pull?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.clients.consul_connection import unauthenticated_consul
from handlers.clients.secrets_manager import SecretsManager, StoredVersion
from handlers.core.errors import TokenNotVisibleYet
from handlers.core.step import step
from handlers.core.token_secret import TokenIds


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Authenticate with the token of a secret's version.

    Input: `{"secret": {"arn": …, "version_id": …, "replaces_version_id": …}}`, as `store_secret`
    returned it.

    Result: `{"proven": bool}`. False: the version was superseded meanwhile, so its token does not
    matter any more, and may be gone. It must not be published.

    Raises:
        TokenNotVisibleYet: if Consul does not know the token.

    """
    stored = StoredVersion.from_state(state)
    version = SecretsManager().stored(stored)
    if version is None:
        return {"proven": False}
    ids = TokenIds.require(version.value, where=f"The secret {stored.arn}")
    if not unauthenticated_consul().knows_token(ids.secret_id):
        message = (
            f"Consul does not know the new token {ids.accessor_id} of the secret {stored.arn}. A "
            "server that is behind learns of it soon; if not, somebody has deleted it."
        )
        raise TokenNotVisibleYet(message)
    return {"proven": True}
