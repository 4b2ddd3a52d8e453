"""Make sure that a secret holds a value that only has to be random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.clients import secret_values
from handlers.clients.secrets_manager import SecretsManager
from handlers.core.errors import InvalidStepInput
from handlers.core.server_secrets import KINDS
from handlers.core.step import step
from handlers.core.step_input import take


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Leave a valid value alone; choose one where there is none.

    Input: `{"secret": {"id": name or ARN}, "kind": "gossip key" or "management token"}`.

    Result: `{"arn": …, "version_id": …, "chosen": bool}`: the version that is current now, and
    whether it became so by this call.

    Remote calls, if there is a value: 1, to Secrets Manager.

    Raises:
        InvalidSecret: if the secret holds something else; nothing is overwritten.

    """
    secret_id = take(state, "secret.id", str)
    kind = KINDS.get(take(state, "kind", str))
    if kind is None:
        message = f'The input of the step needs "kind", one of {", ".join(sorted(KINDS))}.'
        raise InvalidStepInput(message)
    found = secret_values.make_sure(
        SecretsManager(),
        secret_id,
        read=lambda version: kind.read(version.value, where=f"The secret {version.arn}"),
        new_value=lambda _: kind.choose(),
    )
    return {
        "arn": found.version.arn,
        "version_id": found.version.version_id,
        "chosen": found.is_new,
    }
