"""Does Consul know a token that tasks are about to pull?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.clients.consul_connection import unauthenticated_consul
from handlers.clients.secrets_manager import SecretsManager
from handlers.core.errors import TokenNotVisibleYet
from handlers.core.step import step
from handlers.core.step_input import take
from handlers.core.token_secret import TokenIds


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Authenticate with the token of a secret's version.

    Input: `{"secret": {"arn": …, "version_id": …}}`.

    Result: `{"proven": bool}`. False: the version was replaced meanwhile, so its token does not
    matter any more, and may be gone.

    Raises:
        TokenNotVisibleYet: if Consul does not know the token.

    """
    arn = take(state, "secret.arn", str)
    version = SecretsManager().version(arn, take(state, "secret.version_id", str))
    if not version.is_in_use:
        return {"proven": False}
    ids = TokenIds.require(version.value, where=f"The secret {arn}")
    if not unauthenticated_consul().knows_token(ids.secret_id):
        message = (
            f"Consul does not know the new token {ids.accessor_id} of the secret {arn}. A server "
            "that is behind learns of it soon; if not, somebody has deleted it."
        )
        raise TokenNotVisibleYet(message)
    return {"proven": True}
