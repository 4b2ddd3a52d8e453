"""Let tasks pull the IDs of a token that now exists in Consul."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.clients.secrets_manager import SecretsManager
from handlers.core.step import step
from handlers.core.step_input import take


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Make the stored version AWSCURRENT, unless another one has replaced its predecessor.

    Input: `{"secret": {"arn": …, "version_id": …, "replaces_version_id": …}}`, as `store_secret`
    returned it.

    Result: `{"published": bool}`. False: somebody else published another version meanwhile, which
    is fine, and nothing was changed.
    """
    published = SecretsManager().publish(
        take(state, "secret.arn", str),
        take(state, "secret.version_id", str),
        replaces_version_id=take(state, "secret.replaces_version_id", str),
    )
    return {"published": published}
