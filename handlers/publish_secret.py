"""Let tasks pull the IDs of a token that now exists in Consul."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.clients.secrets_manager import SecretsManager, StoredVersion
from handlers.core.step import step


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Make the stored version AWSCURRENT, unless another one has replaced its predecessor.

    Input: `{"secret": {"arn": …, "version_id": …, "replaces_version_id": …}}`, as `store_secret`
    returned it.

    Result: `{"published": bool}`. False: somebody else published another version meanwhile, which
    is fine, and nothing was changed.
    """
    stored = StoredVersion.from_state(state)
    published = SecretsManager().publish(
        stored.arn, stored.version_id, replaces_version_id=stored.replaces_version_id
    )
    return {"published": published}
