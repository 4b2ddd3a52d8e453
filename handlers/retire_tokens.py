"""Mark tokens that are superseded, so that they can go when the last task that holds them has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from handlers.abandon_rotation import (
    delete_never_pulled,
    version_id_after_abandoning,
    version_id_after_taking_back,
)
from handlers.clients.consul import ConsulClient
from handlers.clients.consul_connection import consul
from handlers.clients.secrets_manager import (
    PREVIOUS,
    SecretsManager,
    SecretVersion,
)
from handlers.core import clock, consul_tokens, names
from handlers.core.deployment import Deployment
from handlers.core.errors import AwsUnavailable, InvalidSecret
from handlers.core.named_tokens import take_tokens
from handlers.core.step import step
from handlers.core.subjects import Subject, owned_subject
from handlers.core.token_secret import TokenIds

_MARGIN = timedelta(seconds=60)
"""For reads of Secrets Manager that are behind, and clocks that differ."""
_LONGEST_ROTATION = timedelta(hours=3)
"""A rotation that has not published its IDs after that is dead: its states before that retry for
less (workflows/token_rotation.py)."""

_Outcome: TypeAlias = Literal["retired", "current", "left"]


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Write into each token's description since when no new task can have pulled it.

    A token that a rotation has made and not published is left alone at first. When the rotation
    must have died, its IDs are made impossible to publish, and the token is deleted; or, if they
    were current once, and somebody took the rotation back, marked like any other.

    Input: `{"tokens": [{"subject": …, "accessor_id": …}, …], "superseded": bool}`. With
    `superseded` the caller knows that tasks pull another token, and a secret that still shows one
    of these is read again later.

    Result: `{"since": time, "retired": n, "left": n}`: tasks that are made from that time on hold
    none of the tokens that are retired now.

    Raises:
        AwsUnavailable: if the secret still shows a token that is superseded.

    """
    tokens = take_tokens(state)
    retirement = _Retirement(Deployment.from_environment(), SecretsManager(), consul())
    outcomes = [retirement.retire(*token) for token in tokens]
    if state.get("superseded") is True and "current" in outcomes:
        message = (
            "The secret still shows the token that was just replaced. If somebody made that one "
            "current again, both tokens are kept."
        )
        raise AwsUnavailable(message)
    retired = outcomes.count("retired")
    return {
        "since": clock.to_text(clock.now() + _MARGIN),
        "retired": retired,
        "left": len(outcomes) - retired,
    }


@dataclass(frozen=True)
class _Retirement:
    deployment: Deployment
    secrets: SecretsManager
    client: ConsulClient

    def retire(self, subject: Subject, accessor_id: str) -> _Outcome:
        current = self.secrets.current(self.deployment.secret_id(subject))
        if _holds(current, accessor_id):
            return "current"
        pending = self.secrets.pending(current) if current is not None else None
        if current is None or pending is None or not _holds(pending, accessor_id):
            return self._mark(subject, accessor_id)
        if _ids(current) is None or not _is_dead(pending):
            return "left"  # somebody is making it
        if PREVIOUS in pending.stages:
            # Tasks pulled it, until somebody took the rotation back.
            kept = self.secrets.keep(current, version_id=version_id_after_taking_back(current))
            return self._mark(subject, accessor_id) if kept else "current"
        if not self.secrets.keep(current, version_id=version_id_after_abandoning(current)):
            return "current"
        delete_never_pulled(pending, subject, self.deployment, self.client)
        return "retired"

    def _mark(self, subject: Subject, accessor_id: str) -> _Outcome:
        token = self.client.read_token(accessor_id)
        if token is None:
            return "retired"
        if owned_subject(token, self.deployment.cluster_arn) != subject:
            return "left"
        since = clock.now() + _MARGIN
        marked = {"Description": names.with_not_pulled_since(token["Description"], since)}
        self.client.update_token(accessor_id, consul_tokens.settings(token) | marked)
        return "retired"


def _holds(version: SecretVersion | None, accessor_id: str) -> bool:
    ids = _ids(version)
    return ids is not None and ids.are_of(accessor_id)


def _is_dead(pending: SecretVersion) -> bool:
    written = pending.created_at
    return written is not None and clock.now() - written > _LONGEST_ROTATION


def _ids(version: SecretVersion | None) -> TokenIds | None:
    if version is None:
        return None
    try:
        return TokenIds.parse(version.value, where=f"The secret {version.arn}")
    except InvalidSecret:
        return None  # no task can hold a token from it
